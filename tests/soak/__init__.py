"""Tests that may run for as long as one likes: ``scripts/soak NAME --minutes N``; the suite runs them for seconds."""

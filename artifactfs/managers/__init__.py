"""The backends: `base` says what each offers, `registry` finds the one for a URL."""

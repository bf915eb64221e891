"""The drive: a FUSE daemon that shows a store as folders and publishes what is copied into them.

It stands on `artifactfs` and is never imported by it.
"""

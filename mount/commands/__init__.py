"""The commands of the drive, one module each; see `mount.cli`."""

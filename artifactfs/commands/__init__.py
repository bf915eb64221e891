"""The commands on a store, one module each; `artifactfs.cli` lists them.

These modules import click and nothing heavier at their top: ``--help`` answers at once, and what a command needs is
imported when it runs. Errors leave as those of `artifactfs.errors`; whoever runs the program prints them in one line.
Every command with ``--json`` documents the shape it prints in its help; fields are added, never changed.
"""

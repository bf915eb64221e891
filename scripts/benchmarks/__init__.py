"""Measures the drive beside other file systems; started by ``scripts/bench``.

`peers` mounts what is compared, `rows` says what is measured, `client` is the program that reads (a process of its
own), `report` prints. One run measures every peer of a row in turn before the next run begins, so that a slow minute of
the machine hits all of them.
"""

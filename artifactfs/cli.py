"""The commands on a store, for the program ``artifactfs`` (`mount.cli`) to take in."""

from __future__ import annotations

import click

from artifactfs.commands.alias import alias
from artifactfs.commands.annotate import annotate
from artifactfs.commands.cache import cache
from artifactfs.commands.cat import cat
from artifactfs.commands.catalog import catalog
from artifactfs.commands.completion import completion
from artifactfs.commands.copy import copy
from artifactfs.commands.delete import delete
from artifactfs.commands.diff import diff
from artifactfs.commands.gc import gc
from artifactfs.commands.get import get
from artifactfs.commands.log import log
from artifactfs.commands.ls import ls
from artifactfs.commands.put import put
from artifactfs.commands.verify import verify
from artifactfs.commands.warm import warm

COMMANDS: tuple[click.Command, ...] = (
    ls,
    log,
    put,
    get,
    cat,
    diff,
    copy,
    alias,
    annotate,
    delete,
    verify,
    gc,
    warm,
    cache,
    catalog,
    completion,
)

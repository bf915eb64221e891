"""Asking the store itself, past everything that this process remembers, for a version that a commit made or found.

Whoever commits deletes the files at hand on the strength of the answer. gc may have deleted objects of a commit between
its first listing and its record if more than gc's grace period passed, because the machine slept, say. So a commit that
took more than half of it is late, and does everything once more. Time is measured by a clock of this machine that goes
on while it sleeps; a virtual machine that was stopped from outside may not notice, and what it lost is noticed only
where the record or the manifest went.

Threading: functions on a store, safe from any thread.
"""

from __future__ import annotations

from typing import NamedTuple

from blake3 import blake3

from artifactfs import names
from artifactfs.errors import RECORD_FAULTS, FormatError, NotFound
from artifactfs.manifest import Manifest
from artifactfs.objects import layout
from artifactfs.objects.gc import grace_of
from artifactfs.objects.inventory import read_checked
from artifactfs.objects.layout import Record
from artifactfs.objects.patience import since_boot_s
from artifactfs.objects.store import ObjectStore

# Whoever is done sooner need not ask what gc's grace period is.
SWIFT_S = 60.0


def is_late(store: ObjectStore, began_s: float) -> bool:
    """Tell whether gc may be about to delete what a commit that began then has stored, or relies on."""
    passed_s = since_boot_s() - began_s
    return passed_s > SWIFT_S and passed_s > grace_of(store) / 2


class Seen(NamedTuple):
    """A version as its store shows it. `stays`: its record and manifest are there, or it was deleted since."""

    stays: bool
    tombstone: bytes | None


def read_back(store: ObjectStore, key: str, record: Record) -> Seen:
    """Read the record that should lie at that key, its manifest, and the tombstone that may bury it."""
    number = names.version_number(record.version)
    manifest = layout.object_key(record.manifest)

    def read(wanted: str) -> bytes | None:
        try:
            return store.get(wanted) if wanted == manifest else store.get_many([wanted])[0]
        except NotFound:
            return None

    tombstone_key = layout.tombstone_key(key.rpartition("/")[0], number)
    written, listed, tombstone = store.at_once(read, [key, manifest, tombstone_key])
    if written is None:
        return Seen(tombstone is not None, tombstone)
    try:
        is_ours = layout.decode_record(written, key, number) == record
    except FormatError:
        is_ours = False
    return Seen(is_ours and listed is not None and blake3(listed).hexdigest() == record.manifest, tombstone)


def stored_manifest(store: ObjectStore, name: str) -> Manifest | None:
    """A manifest as the store has it now; None where it is missing, damaged or not to be read."""
    try:
        return Manifest.decode(read_checked(store, name))
    except (NotFound, *RECORD_FAULTS):
        return None


def places(manifest: Manifest) -> list[tuple[str, int]]:
    """In which object, and where in it, each file lies."""
    objects = manifest.objects
    return [(objects[number], offset) for _, number, offset, _ in manifest.contents()]

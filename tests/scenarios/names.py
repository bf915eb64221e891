"""Scenarios of names: N1 to N6."""

from __future__ import annotations

import errno
import os
import stat

from tests.drives import Drive
from tests.mount.harness import eventually
from tests.scenarios import refused, scenario

RESERVED = ("v0", "v7", "v007", "latest", "staging", "pending", "pending.1", "pendingly")


@scenario()
def bad_collection_names(drive: Drive) -> None:
    """N1: a collection of other characters, or too long, is EINVAL and is not there afterwards."""
    for name in ("a b", "x" * 129, "x" * 200, "a.b", "ä", "a\nb", "a%20b", "+"):
        with refused(errno.EINVAL):
            drive.mkdir(name)
        assert name not in drive.listdir("")


@scenario()
def bad_artifact_names(drive: Drive) -> None:
    """N1: an artifact of other characters, or too long, is EINVAL and is not there afterwards."""
    collection = drive.make_artifact().split("/")[0]
    for name in ("a b", "x" * 129, "x" * 200, "a:b", "ä", "a\nb", "a%20b"):
        with refused(errno.EINVAL):
            drive.mkdir(f"{collection}/{name}")
        assert drive.listdir(collection) == ["a"]


@scenario()
def good_names(drive: Drive) -> None:
    """N1: every name that the rule allows can be made, and committed to."""
    collection = "Aa_0:-" + drive.make_artifact().split("/")[0]
    drive.mkdir(collection)
    for name in ("a" * 128, "A.b-c_1", ".hidden", "...", "-rf", "v", "v1x", "Latest", "0"):
        drive.mkdir(f"{collection}/{name}")
        drive.write(f"{collection}/{name}/staging/f", name.encode())
        assert drive.commit(f"{collection}/{name}").version == "v0"
        assert drive.read(f"{collection}/{name}/v0/f") == name.encode()


@scenario()
def reserved_names(drive: Drive) -> None:
    """N2: names that versions, latest, staging and pending trees have are EINVAL for collections and artifacts."""
    collection = drive.make_artifact().split("/")[0]
    for name in RESERVED:
        with refused(errno.EINVAL):
            drive.mkdir(name)
        with refused(errno.EINVAL):
            drive.mkdir(f"{collection}/{name}")
    assert drive.listdir(collection) == ["a"]


@scenario()
def looking_for_bad_names(drive: Drive) -> None:
    """N1, N2: a name that cannot be is not there (ENOENT), at every level: nothing but mkdir tells the rules."""
    label = drive.make_artifact()
    collection = label.split("/")[0]
    for name in ("a b", "x" * 200, "ä", "a%b", "a\nb", "v9", "pending.7", "latest", "+"):
        for path in (name, f"{name}/b", f"{collection}/{name}", f"{collection}/{name}/v0", f"{label}/{name}"):
            with refused(errno.ENOENT):
                drive.lstat(path)


@scenario()
def mkdir_in_artifact(drive: Drive) -> None:
    """N3: nothing is made in an artifact by mkdir."""
    label = drive.make_artifact()
    for name in ("v0", "latest", "anything", "pending.1"):
        with refused(errno.EPERM):
            drive.mkdir(f"{label}/{name}")
    with refused(errno.EEXIST):
        drive.mkdir(f"{label}/staging")
    assert drive.listdir(label) == ["staging"]


@scenario()
def new_places_are_local(drive: Drive) -> None:
    """N4: a new collection and artifact are here at once, in the store with the first commit, and can be removed."""
    label = drive.make_artifact()
    collection = label.split("/")[0]
    assert collection in drive.listdir("")
    assert drive.listdir(collection) == ["a"]
    assert drive.listdir(label) == ["staging"]
    assert stat.S_ISDIR(drive.lstat(label).mode)
    assert collection not in drive.manager.list_collection_names()
    with refused(errno.EEXIST):
        drive.mkdir(label)
    drive.write(f"{label}/staging/f", b"x")
    drive.commit(label)
    assert drive.manager.list_artifacts(collection) == ["a"]


@scenario()
def removing_local_places(drive: Drive) -> None:
    """N4: what is only here and empty can be removed and made again."""
    label = drive.make_artifact()
    collection = label.split("/")[0]
    with refused(errno.ENOTEMPTY):
        drive.rmdir(collection)
    drive.write(f"{label}/staging/f", b"x")
    with refused(errno.ENOTEMPTY):
        drive.rmdir(label)
    drive.unlink(f"{label}/staging/f")
    drive.rmdir(label)
    assert drive.listdir(collection) == []
    with refused(errno.ENOENT):
        drive.lstat(label)
    drive.rmdir(collection)
    with refused(errno.ENOENT):
        drive.lstat(collection)
    assert collection not in drive.listdir("")
    drive.mkdir(collection)
    drive.mkdir(label)
    drive.write(f"{label}/staging/f", b"again")
    assert drive.commit(label).version == "v0"


@scenario(local=True)
def foreign_names(drive: Drive) -> None:
    """N5: names that a store holds against the rules are shown percent-encoded, readable, without staging."""
    label = drive.make_artifact()
    collection = label.split("/")[0]
    drive.write(f"{label}/staging/f", b"found")
    drive.commit(label)
    assert drive.store_root is not None
    collections = drive.store_root / "collections"
    foreign = f"{collection} größe"
    os.mkdir(collections / foreign)
    os.rename(collections / collection / "a", collections / foreign / "an artifact")
    shown = f"{collection}%20gr%C3%B6%C3%9Fe"
    with drive.another() as fresh:
        eventually(lambda: drive.exists(shown))
        for each in (fresh, drive):
            assert each.listdir(shown) == ["an%20artifact"]
            assert sorted(each.listdir(f"{shown}/an%20artifact")) == ["latest", "v0"]
            assert each.read(f"{shown}/an%20artifact/latest/f") == b"found"
        assert shown in fresh.listdir("")
    with refused(errno.ENOENT):
        drive.lstat(f"{shown}/an%20artifact/staging")


@scenario()
def any_name_in_staging(drive: Drive) -> None:
    """N6: every name a local disk takes, up to 255 bytes, is taken and comes back in the version."""
    label = drive.make_artifact()
    names = [
        "x" * 255,
        "ä" * 127,
        os.fsdecode(b"not-utf8-\xff\xfe"),
        "two\nlines",
        "-rf",
        " ",
        "...",
        ".hidden",
        "v7",
        "latest",
        "staging",
        "pending.1",
        "a%20b",
        'quo"te',
        "back\\slash",
        "co,mma",
    ]
    for name in names:
        drive.write(f"{label}/staging/{name}", os.fsencode(name))
        drive.mkdir(f"{label}/staging/d-{name[:100]}")
    with refused(errno.ENAMETOOLONG):
        drive.write(f"{label}/staging/{'x' * 256}", b"")
    drive.commit(label)
    version = f"{label}/v0"
    assert sorted(drive.listdir(version)) == sorted({*names, *(f"d-{name[:100]}" for name in names)})
    for name in names:
        assert drive.read(f"{version}/{name}") == os.fsencode(name)

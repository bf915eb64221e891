"""The control surface: what is said is what is heard, and it fits an attribute."""

from __future__ import annotations

import msgspec
import pytest

from mount import attributes, control
from mount.control import ArtifactState, CommitRequest, CommitState, Finished, Pending, Staged, Status

PENDING = Pending("pending.1", "id", CommitState.RETRYING, 1.5, 3, 400, 20, 2, 'ein "Fehler"\n', 9.5)
STATE = ArtifactState("c", "a", Staged(1, 2, 3, 0.5), [PENDING], [Finished("id", "v0", True, 1, 2, 3, 0.1)])


def status(artifacts: list[ArtifactState]) -> Status:
    return Status(
        store="file:///s",
        mountpoint="/mnt",
        pid=1,
        driver="libfuse",
        program_version="0",
        read_only=False,
        started_at=1.0,
        commit_after_s=None,
        drain_timeout_s=60.0,
        refresh_s=2.0,
        log_file=None,
        staging_dir=None,
        reachable=True,
        artifacts=artifacts,
    )


@pytest.mark.parametrize(
    "message", [CommitRequest(), CommitRequest("id", "größer", ["a", "b"]), STATE, status([STATE])]
)
def test_round_trip(message: CommitRequest | ArtifactState | Status) -> None:
    """Every message survives the way through an attribute."""
    assert control.decode(control.encode(message), type(message)) == message


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"collection": 1}', b"\xff\xfe"])
def test_garbage(raw: bytes) -> None:
    """What is no message is a ValueError."""
    with pytest.raises(msgspec.DecodeError):
        control.decode(raw, ArtifactState)


def test_unknown_fields_are_ignored() -> None:
    """A newer program may say more."""
    assert control.decode(b'{"commit_id": "x", "later": 1}', CommitRequest) == CommitRequest("x")


@pytest.mark.parametrize("artifacts", [0, 1, 200, 5000])
def test_a_status_fits(artifacts: int) -> None:
    """However much is staged, the status fits into one attribute and says how much it leaves off."""
    whole = status([msgspec.structs.replace(STATE, artifact=f"a{number}") for number in range(artifacts)])
    raw = attributes._fitting(whole)
    assert len(raw) <= control.MAX_VALUE_BYTES
    found = control.decode(raw, Status)
    assert len(found.artifacts) + found.left_off == artifacts
    assert found.artifacts or not artifacts


@pytest.mark.parametrize("pending", [0, 1, 2, 3, 100, 5000])
def test_a_state_fits(pending: int) -> None:
    """However many trees wait, the oldest and the newest are told, and how many are between them."""
    trees = [msgspec.structs.replace(PENDING, name=f"pending.{number}") for number in range(pending)]
    found = attributes._shortened(msgspec.structs.replace(STATE, pending=trees))
    assert len(control.encode(found)) <= control.MAX_VALUE_BYTES
    assert len(found.pending) + found.left_off == pending
    assert found.pending[:1] == trees[:1]
    assert found.pending[-1:] == trees[-1:]


def test_names() -> None:
    """All attributes have the prefix, and differ."""
    names = [value for name, value in vars(control).items() if name.isupper() and isinstance(value, str)]
    assert all(name.startswith(control.PREFIX) for name in names)
    assert len(set(names)) == len(names)

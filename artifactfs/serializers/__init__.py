"""How a Python object becomes the one file of a version, and an object again: log_artifact and get_artifact.

======================  =============  ==========================================================================
serializer              file           what it takes
======================  =============  ==========================================================================
``json``                object.json    None, bool, int, float, str, lists and dicts of them, NumPy scalars, arrays
``messagepack``         object.msgpack the same, bytes, complex, keys that are numbers or bytes; keeps NumPy types
``numpy``               object.npy     one NumPy array
``pickle``              object.pickle  anything; only when asked for by name, on writing *and* on reading
======================  =============  ==========================================================================

``json`` and ``messagepack`` are byte for byte what squirrel's JsonSerializer and MessagepackSerializer write, so
either side reads the other's. Both give tuples back as lists and subclasses of the plain types as the plain type;
``json`` besides gives NumPy scalars back as numbers and number keys as strings. The same object gives the same bytes,
hence no new version; the order of a dict is part of it. ``pickle`` promises that only as far as Python does (not for
sets, for example).

A version records which serializer wrote it (:data:`SERIALIZER_KEY` in its metadata). Managers use
:func:`write_object`, :func:`object_file` and :func:`read_object`. The registry is safe from any thread; serializers
hold no state. `codecs` holds the built-in ones.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifactfs import names
from artifactfs.errors import AlreadyExists, ArtifactError, InvalidName, SerializationError
from artifactfs.serializers.codecs import (
    JSON_ARRAY_KEYS,
    PLAIN_SCALARS,
    is_numpy,
    json_decode,
    json_encode,
    messagepack_decode,
    messagepack_encode,
    numpy_decode,
    numpy_encode,
    pickle_decode,
    pickle_encode,
    type_name,
)

SERIALIZER_KEY = "serializer"
"""In a version's metadata: the name of the serializer that wrote it."""

_FILE_STEM = "object"


@dataclass(frozen=True)
class Serializer:
    """One way to turn an object into bytes and back.

    `encode` and `decode` may raise anything; :meth:`dumps` and :meth:`loads` make it a SerializationError. `suffix`
    is the end of the file name and differs for every serializer, so that a version's files tell which one wrote it.
    With `explicit` it is used only where the caller names it, never because a version's metadata does.
    """

    name: str
    suffix: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    media_type: str = "application/octet-stream"
    explicit: bool = False

    @property
    def file(self) -> str:
        """The file of a version that holds the object."""
        return _FILE_STEM + self.suffix

    def dumps(self, obj: Any) -> bytes:
        """The bytes of `obj`. Raises SerializationError, naming the type and what to do."""
        try:
            return self.encode(obj)
        except ArtifactError:
            raise
        except Exception as error:
            # An encoder runs code of the object and of whoever registered it.
            raise SerializationError(
                f"{self.name} cannot encode this {type_name(obj)}: {error}; choose another serializer, register one "
                "with register_serializer(), or save to files and log those"
            ) from error

    def loads(self, data: bytes) -> Any:
        """The object of `data`. Raises SerializationError, MissingDependency (NumPy)."""
        try:
            return self.decode(data)
        except ArtifactError:
            raise
        except Exception as error:
            # Damaged bytes make decoders fail in every way there is.
            raise SerializationError(
                f"{self.name} cannot decode these {len(data)} bytes: {type(error).__name__}: {error}"
            ) from error


# -- the registry ------------------------------------------------------------------------------------------------------

_registry: dict[str, Serializer] = {
    serializer.name: serializer
    for serializer in (
        Serializer("json", ".json", json_encode, json_decode, "application/json"),
        Serializer("messagepack", ".msgpack", messagepack_encode, messagepack_decode, "application/vnd.msgpack"),
        Serializer("numpy", ".npy", numpy_encode, numpy_decode),
        Serializer("pickle", ".pickle", pickle_encode, pickle_decode, explicit=True),
    )
}
_registry_lock = threading.Lock()


def register_serializer(serializer: Serializer, *, replace: bool = False) -> None:
    """Make a serializer known by its name, to be given as ``serializer=`` and found again in a version's metadata.

    Raises:
        InvalidName: the name or the suffix cannot be part of a file name.
        AlreadyExists: the name is taken and `replace` is not given, or another serializer has the suffix.
    """
    if not names.is_artifact(serializer.name) or not names.is_artifact(serializer.file) or not serializer.suffix:
        raise InvalidName(
            f"invalid serializer {serializer.name!r} with suffix {serializer.suffix!r}: as artifact names"
        )
    with _registry_lock:
        if serializer.name in _registry and not replace:
            raise AlreadyExists(
                f"there is a serializer {serializer.name!r} already; pass replace=True to take its place"
            )
        for other in _registry.values():
            if other.suffix == serializer.suffix and other.name != serializer.name:
                raise AlreadyExists(f"the suffix {serializer.suffix!r} is that of the serializer {other.name!r}")
        _registry[serializer.name] = serializer


def serializer_of(name: str) -> Serializer:
    """The serializer called `name`. Raises SerializationError."""
    with _registry_lock:
        found = _registry.get(name)
        known = sorted(_registry)
    if found is None:
        raise SerializationError(
            f"no serializer {name!r}; known are {', '.join(known)}: add one with register_serializer()"
        )
    return found


def choose(obj: Any) -> str:
    """The serializer for an object when none is named.

    ``numpy`` for an array, ``json`` where it gives the object back, ``messagepack`` for everything else: what holds
    bytes, complex numbers, NumPy values or keys that are no strings. Whether messagepack can take it shows when it
    encodes. ``pickle`` is never chosen.
    """
    if is_numpy(obj, "ndarray"):
        return "numpy"
    return "json" if _json_keeps(obj) else "messagepack"


def _json_keeps(obj: Any) -> bool:
    if is_numpy(obj, "generic"):
        return False
    if isinstance(obj, (list, tuple)):
        return set(map(type, obj)) <= PLAIN_SCALARS or all(map(_json_keeps, obj))
    if isinstance(obj, dict):
        return (
            not all(key in obj for key in JSON_ARRAY_KEYS)
            and all(isinstance(key, str) for key in obj)
            and all(map(_json_keeps, obj.values()))
        )
    return obj is None or isinstance(obj, (bool, int, float, str))


# -- what managers call ------------------------------------------------------------------------------------------------


def write_object(obj: Any, directory: Path, serializer: str | None = None) -> dict[str, Any]:
    """Write `obj` as the one file of a version to `directory`, which exists; returns the metadata to record.

    `serializer` is a name, None for :func:`choose`. With ``"pickle"`` whoever reads the version runs whatever code
    its writer put in.

    Raises:
        SerializationError: the object cannot be encoded, or there is no such serializer.
    """
    chosen = _guarded(obj, serializer)
    (directory / chosen.file).write_bytes(chosen.dumps(obj))
    return {SERIALIZER_KEY: chosen.name}


def _guarded(obj: Any, serializer: str | None) -> Serializer:
    if serializer is not None:
        return serializer_of(serializer)
    try:
        return serializer_of(choose(obj))
    except RecursionError as error:
        raise SerializationError(f"this {type_name(obj)} contains itself, or is nested too deeply") from error


def object_file(metadata: Mapping[str, Any], serializer: str | None = None) -> str:
    """The path, inside a version with this metadata, of the file to give to :func:`read_object`. Raises as that."""
    return _serializer_for(metadata, serializer).file


def read_object(data: bytes | os.PathLike[str], metadata: Mapping[str, Any], serializer: str | None = None) -> Any:
    """The object of a version: `data` is the content, or the local path, of its :func:`object_file`.

    What is pickled is read only with ``serializer="pickle"``. DANGER: unpickling runs code that the writer of the
    version chose, with all your rights. Ask for it only where you trust everyone who can write to the store.

    Raises:
        SerializationError: the version was not written by log_artifact, was written by another serializer than the
            one named, needs to have its serializer named, or its bytes are damaged.
        MissingDependency: the object needs NumPy.
    """
    chosen = _serializer_for(metadata, serializer)
    return chosen.loads(data if isinstance(data, bytes) else Path(data).read_bytes())


def _serializer_for(metadata: Mapping[str, Any], serializer: str | None) -> Serializer:
    recorded = metadata.get(SERIALIZER_KEY)
    if recorded is None:
        raise SerializationError("the version holds files, not an object logged with log_artifact: download it instead")
    if not isinstance(recorded, str):
        raise SerializationError(f"damaged metadata: {SERIALIZER_KEY} is {recorded!r}")
    if serializer is not None and serializer != recorded:
        raise SerializationError(f"the version was written by the serializer {recorded!r}, not {serializer!r}")
    chosen = serializer_of(recorded)
    if chosen.explicit and serializer is None:
        raise SerializationError(
            f"the version was written with {recorded!r}, and reading that can run code of whoever wrote it: pass "
            f"serializer={recorded!r} only if you trust everyone who can write to the store"
        )
    return chosen

"""The four built-in ways to turn an object into bytes and back.

Pure functions for the registry in the package, which turns every other error of theirs into a SerializationError.
NumPy is imported only when an object or stored bytes call for it. Safe from any thread.
"""

from __future__ import annotations

import importlib
import io
import json
import pickle
import sys
from typing import Any

import msgspec

from artifactfs.errors import MissingDependency, SerializationError

PLAIN_SCALARS = frozenset({type(None), bool, int, float, str})
JSON_ARRAY_KEYS = ("data", "type", "shape")
"""A JSON object with these keys is an array, as squirrel has it."""

_WIRE_SCALARS = PLAIN_SCALARS | {bytes}
# Fixed, because a newer Python's default would give other bytes for the same object.
_PICKLE_PROTOCOL = 5
_NPY_MAGIC = b"\x93NUMPY"


# -- NumPy, if there is any --------------------------------------------------------------------------------------------


def _numpy() -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError as error:
        raise MissingDependency("the stored object holds NumPy data: install numpy to read it") from error


def is_numpy(obj: Any, *kinds: str) -> bool:
    """Tell whether `obj` is of one of these NumPy classes; an object can only be if NumPy is loaded."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, tuple(getattr(numpy, kind) for kind in kinds))


def _check_array(array: Any) -> None:
    if array.dtype.hasobject:
        raise SerializationError(
            f"an array of {array.dtype} holds Python objects, which only serializer='pickle' can keep; "
            "convert it to a list or to a typed array"
        )
    if isinstance(array, _numpy().ma.MaskedArray):
        raise SerializationError("a masked array would lose its mask: store array.data and array.mask")


# -- json --------------------------------------------------------------------------------------------------------------


class _JsonEncoder(json.JSONEncoder):
    """The encoding of squirrel's SquirrelJsonEncoder (np.bool_, which that one refuses, as a plain bool)."""

    def default(self, o: Any) -> Any:
        if is_numpy(o, "bool_"):
            return bool(o)
        if is_numpy(o, "integer") and not is_numpy(o, "timedelta64"):
            return int(o)
        if is_numpy(o, "float16", "float32", "float64"):
            return float(o)
        if is_numpy(o, "ndarray"):
            _check_array(o)
            if o.dtype.kind == "V":
                raise SerializationError("JSON cannot keep a structured array: use serializer='numpy' or 'messagepack'")
            return {"data": o.tolist(), "type": o.dtype.str, "shape": o.shape}
        return super().default(o)


def json_encode(obj: Any) -> bytes:
    """squirrel's JSON. Raises SerializationError, TypeError, ValueError."""
    data = json.dumps(obj, cls=_JsonEncoder).encode()
    # Looking for the words first spares almost every object the walk.
    if all(b'"' + key.encode() + b'"' in data for key in JSON_ARRAY_KEYS):
        _refuse_array_lookalikes(obj)
    return data


def _refuse_array_lookalikes(obj: Any) -> None:
    if isinstance(obj, dict):
        if all(key in obj for key in JSON_ARRAY_KEYS):
            raise SerializationError(
                "JSON would give a dict with the keys data, type and shape back as an array: "
                "use serializer='messagepack'"
            )
        for value in obj.values():
            _refuse_array_lookalikes(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _refuse_array_lookalikes(value)


def _json_object(found: dict[str, Any]) -> Any:
    if not all(key in found for key in JSON_ARRAY_KEYS):
        return found
    numpy = _numpy()
    return numpy.array(found["data"], dtype=numpy.dtype(found["type"])).reshape(found["shape"])


def json_decode(data: bytes) -> Any:
    """The object of squirrel's JSON."""
    return json.loads(data, object_hook=_json_object)


# -- messagepack -------------------------------------------------------------------------------------------------------
#
# The bytes are those of msgpack.packb(obj, default=msgpack_numpy.encode), made with msgspec, which is needed anyway.
# msgpack_numpy itself, last released in 2022, unpickles what the data tells it to.


def messagepack_encode(obj: Any) -> bytes:
    """squirrel's messagepack. Raises SerializationError, OverflowError."""
    return msgspec.msgpack.encode(_to_wire(obj))


def _to_wire(obj: Any) -> Any:
    """`obj` in the types msgspec writes as msgpack would; msgspec alone would also take sets, dataclasses, dates …"""
    kind = type(obj)
    if kind in _WIRE_SCALARS:
        return obj
    if isinstance(obj, (list, tuple)):
        return list(obj) if set(map(type, obj)) <= _WIRE_SCALARS else [_to_wire(item) for item in obj]
    if isinstance(obj, dict):
        if b"nd" in obj or b"complex" in obj:
            raise SerializationError("messagepack uses the keys b'nd' and b'complex' for NumPy data: rename them")
        return {_wire_key(key): _to_wire(value) for key, value in obj.items()}
    if is_numpy(obj, "ndarray", "generic"):
        return _numpy_to_wire(obj)
    if isinstance(obj, complex):
        return {b"complex": True, b"data": repr(obj)}
    if isinstance(obj, (bytes, bytearray, memoryview)):
        return bytes(obj)
    for plain in (str, int, float):
        if isinstance(obj, plain):
            return plain(obj)
    raise SerializationError(
        f"messagepack has no form for {type_name(obj)}: convert it to plain values or NumPy arrays, register a "
        "serializer of your own, or save it to files and log those"
    )


def _wire_key(key: Any) -> Any:
    if is_numpy(key, "number", "bool_") or not isinstance(key, (str, bytes, int, float, type(None))):
        raise SerializationError(f"messagepack cannot use a {type_name(key)} as a key: use str, bytes, int or float")
    return _to_wire(key)


def _numpy_to_wire(obj: Any) -> Any:
    if is_numpy(obj, "ndarray"):
        _check_array(obj)
        structured = obj.dtype.kind == "V"
        return {
            b"nd": True,
            b"type": obj.dtype.descr if structured else obj.dtype.str,
            b"kind": b"V" if structured else b"",
            b"shape": obj.shape,
            b"data": obj.tobytes(),
        }
    # These are Python floats, strings and bytes as well, and msgpack writes them as such.
    for plain, kind in ((float, "float64"), (str, "str_"), (bytes, "bytes_")):
        if is_numpy(obj, kind):
            return plain(obj)
    if is_numpy(obj, "bool_", "number"):
        return {b"nd": False, b"type": obj.dtype.str, b"data": obj.tobytes()}
    raise SerializationError(f"messagepack has no form for the NumPy scalar {type_name(obj)}: put it into an array")


def messagepack_decode(data: bytes) -> Any:
    """The object of squirrel's messagepack."""
    return _from_wire(msgspec.msgpack.decode(data))


def _from_wire(value: Any) -> Any:
    if type(value) is list:
        return value if set(map(type, value)) <= _WIRE_SCALARS else [_from_wire(item) for item in value]
    if type(value) is dict:
        if b"data" in value and b"type" in value and b"nd" in value:
            return _numpy_from_wire(value)
        if b"data" in value and b"complex" in value:
            return complex(value[b"data"])
        return {key: _from_wire(item) for key, item in value.items()}
    if type(value) in _WIRE_SCALARS:
        return value
    raise SerializationError(f"the data holds a messagepack extension ({type_name(value)}), which nothing here reads")


def _numpy_from_wire(fields: dict[bytes, Any]) -> Any:
    numpy = _numpy()
    dtype = numpy.dtype(_dtype_from_wire(fields[b"type"]))
    if fields.get(b"kind") == b"O" or dtype.hasobject:
        raise SerializationError("the data holds an array of Python objects, which is pickle in disguise: refused")
    # A copy, because an array over immutable bytes would be read-only.
    if fields[b"nd"] is True:
        return numpy.ndarray(fields[b"shape"], dtype, fields[b"data"]).copy()
    return numpy.frombuffer(fields[b"data"], dtype)[0]


def _dtype_from_wire(wire: Any) -> Any:
    """The argument of np.dtype for a type string, or for the field list of a structured type."""
    if not isinstance(wire, list):
        return wire
    return [
        (tuple(name) if isinstance(name, list) else name, _dtype_from_wire(kind), *(tuple(shape) for shape in rest))
        for name, kind, *rest in wire
    ]


# -- numpy and pickle --------------------------------------------------------------------------------------------------


def numpy_encode(obj: Any) -> bytes:
    """A .npy file. Raises SerializationError."""
    if not is_numpy(obj, "ndarray"):
        raise SerializationError(f"numpy stores arrays, not {type_name(obj)}: use np.asarray(…) or serializer='json'")
    _check_array(obj)
    stream = io.BytesIO()
    npy = _numpy().lib.format
    try:
        npy.write_array(stream, obj, version=(1, 0), allow_pickle=False)
    except ValueError:
        # Field names that are long or beyond Latin-1. np.save would find the version too, but warn about it.
        npy.write_array(stream, obj, version=(3, 0), allow_pickle=False)
    return stream.getvalue()


def numpy_decode(data: bytes) -> Any:
    """The array of a .npy file; never unpickles."""
    if not data.startswith(_NPY_MAGIC):
        raise SerializationError("not a .npy file")
    return _numpy().load(io.BytesIO(data), allow_pickle=False)


def pickle_encode(obj: Any) -> bytes:
    """Pickle `obj`, in the same protocol whatever the Python."""
    return pickle.dumps(obj, protocol=_PICKLE_PROTOCOL)


def pickle_decode(data: bytes) -> Any:
    """Unpickle, which runs code that `data` chooses."""
    return pickle.loads(data)


def type_name(obj: Any) -> str:
    """The type of `obj` as messages name it."""
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"

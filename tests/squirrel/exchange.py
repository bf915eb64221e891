"""Values as JSON that loses nothing, so that two Pythons with different NumPys can compare what they hold.

Imported by the tests and by `worker`, which runs in squirrel-core's environment; needs NumPy only.
"""

from __future__ import annotations

import struct
from datetime import date, datetime

import numpy as np


def listed(value):
    return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def describe(value):
    """`value` in JSON types, with its exact type and bits."""
    if isinstance(value, np.ndarray):
        kind = listed(value.dtype.descr) if value.dtype.kind == "V" else value.dtype.str
        return {"array": [kind, list(value.shape), value.tobytes().hex()]}
    if isinstance(value, np.generic):
        return {"scalar": [value.dtype.str, value.tobytes().hex()]}
    if value is None or isinstance(value, bool):
        return {"value": value}
    if isinstance(value, int):
        return {"int": str(int(value))}
    if isinstance(value, float):
        return {"float": struct.pack("<d", value).hex()}
    if isinstance(value, complex):
        return {"complex": [describe(value.real), describe(value.imag)]}
    if isinstance(value, str):
        return {"value": str(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, (datetime, date)):
        return {"date": value.isoformat()}
    if isinstance(value, (list, tuple)):
        return {"list": [describe(item) for item in value]}
    return {"dict": [[describe(key), describe(item)] for key, item in value.items()]}


def build(description):
    """The inverse of `describe` (dates and structured arrays excepted)."""
    ((kind, body),) = description.items()
    if kind == "value":
        return body
    if kind == "int":
        return int(body)
    if kind == "float":
        return struct.unpack("<d", bytes.fromhex(body))[0]
    if kind == "complex":
        return complex(*map(build, body))
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "list":
        return [build(item) for item in body]
    if kind == "dict":
        return {build(key): build(item) for key, item in body}
    if kind == "scalar":
        return np.frombuffer(bytes.fromhex(body[1]), body[0])[0]
    dtype, shape, raw = body
    return np.ndarray(tuple(shape), dtype, bytearray.fromhex(raw))

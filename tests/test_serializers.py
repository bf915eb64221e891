"""Serializers: objects come back, bytes are stable, damage and danger are refused. NumPy stays optional."""

from __future__ import annotations

import contextlib
import enum
import io
import math
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict, namedtuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artifactfs.errors import AlreadyExists, InvalidName, SerializationError
from artifactfs.serializers import (
    SERIALIZER_KEY,
    Serializer,
    choose,
    object_file,
    read_object,
    register_serializer,
    serializer_of,
    write_object,
)

TEXTS = st.text(max_size=8)
CLEAN_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)
WIRE_KEYS = (
    CLEAN_TEXTS
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=8).filter(lambda b: b not in (b"nd", b"complex"))
)
WIRE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | CLEAN_TEXTS
    | st.binary(max_size=8) | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WIRE_KEYS, inner, max_size=4),
)  # fmt: skip
TYPED = (
    hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes() | hnp.complex_number_dtypes()
    | hnp.boolean_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes() | hnp.datetime64_dtypes()
)  # fmt: skip
ARRAYS = hnp.arrays(
    TYPED | hnp.array_dtypes(hnp.integer_dtypes() | hnp.floating_dtypes()), hnp.array_shapes(min_dims=0, min_side=0)
)


def same_array(one, other) -> bool:
    return type(one) is type(other) and (one.dtype, one.shape, one.tobytes()) == (
        other.dtype,
        other.shape,
        other.tobytes(),
    )


def there_and_back(name: str, obj):
    serializer = serializer_of(name)
    data = serializer.dumps(obj)
    assert serializer.dumps(obj) == data
    return serializer.loads(data)


# -- round trips ------------------------------------------------------------------------------------------------------


@given(JSON)
def test_json_gives_back_what_it_is_chosen_for(obj):
    if choose(obj) == "json":
        assert there_and_back("json", obj) == obj


@given(WIRE)
def test_messagepack_gives_back_plain_values(obj):
    assert there_and_back("messagepack", obj) == obj


@given(ARRAYS)
def test_arrays_come_back_exactly(array):
    for name in ("numpy", "messagepack"):
        back = there_and_back(name, array)
        assert same_array(back, array)
        assert back.flags.writeable


@given(hnp.arrays(hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes() | hnp.unicode_string_dtypes(),
                  hnp.array_shapes(min_dims=0, min_side=0), elements={"allow_nan": False}))  # fmt: skip
def test_json_keeps_typed_arrays(array):
    assert same_array(there_and_back("json", array), array)


@given(TYPED.filter(lambda dtype: dtype.kind in "biufc").flatmap(hnp.from_dtype))
def test_messagepack_keeps_numpy_scalars(scalar):
    back = there_and_back("messagepack", [scalar])[0]
    if type(scalar) is np.float64:
        # A Python float as well, and written as one, as msgpack does.
        assert type(back) is float
        assert back == scalar or (math.isnan(back) and math.isnan(scalar))
    else:
        assert back.tobytes() == scalar.tobytes()
        assert back.dtype == scalar.dtype


def test_the_encoding_is_squirrels():
    array = np.array([[1.5, 2.0]], dtype="<f4")
    assert serializer_of("json").dumps({"a": array, "b": np.int8(3), "c": np.float32(0.5), "ü": [1, None]}) == (
        b'{"a": {"data": [[1.5, 2.0]], "type": "<f4", "shape": [1, 2]}, "b": 3, "c": 0.5, "\\u00fc": [1, null]}'
    )
    assert msgspec.msgpack.decode(serializer_of("messagepack").dumps(array)) == {
        b"nd": True,
        b"type": "<f4",
        b"kind": b"",
        b"shape": [1, 2],
        b"data": array.tobytes(),
    }


def test_bool_scalars_are_plain_in_json():
    assert there_and_back("json", [np.bool_(True)]) == [True]


def test_lossy_by_design():
    point = namedtuple("point", "x y")
    colour = enum.IntEnum("colour", "RED")
    obj = {"t": (1, 2), "n": point(1, 2), "e": colour.RED, "o": OrderedDict(a=1)}
    plain = {"t": [1, 2], "n": [1, 2], "e": 1, "o": {"a": 1}}
    assert choose(obj) == "json"
    for name in ("json", "messagepack"):
        back = there_and_back(name, obj)
        assert back == plain
        assert type(back["e"]) is int
    assert there_and_back("messagepack", [bytearray(b"a"), memoryview(b"b")]) == [b"a", b"b"]


# -- choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "name"),
    [
        (None, "json"),
        (True, "json"),
        ("text", "json"),
        (2**100, "json"),
        ([1, 2.5, {"a": [None]}], "json"),
        ({"type": 1, "data": 2}, "json"),
        ({"type": 1, "data": 2, "shape": 3}, "messagepack"),
        ([{"x": {"type": 1, "data": 2, "shape": 3}}], "messagepack"),
        ({1: 2}, "messagepack"),
        (b"bytes", "messagepack"),
        ([1j], "messagepack"),
        (np.float64(1), "messagepack"),
        (np.str_("a"), "messagepack"),
        ({"a": np.zeros(2)}, "messagepack"),
        (np.zeros(2), "numpy"),
        (np.array(1), "numpy"),
        ({1, 2}, "messagepack"),
    ],
)
def test_choose(obj, name):
    assert choose(obj) == name


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "obj", "message"),
    [
        ("json", b"x", "json cannot encode this bytes"),
        ("json", {1, 2}, "json cannot encode this set"),
        ("json", 1j, "complex"),
        ("json", np.zeros(1, "c8"), "json cannot encode this numpy.ndarray"),
        ("json", np.zeros(1, [("a", "i4")]), "structured"),
        ("json", {"type": 1, "data": 2, "shape": 3}, "messagepack"),
        ("json", [({"type": 1, "data": 2, "shape": 3},)], "messagepack"),
        ("json", np.longdouble(1), "longdouble"),
        ("messagepack", {1, 2}, "set"),
        ("messagepack", 2**64, "messagepack cannot encode this int"),
        ("messagepack", "\ud800", "messagepack cannot encode this str"),
        ("messagepack", {(1, 2): 3}, "tuple"),
        ("messagepack", {np.int64(1): 3}, "numpy.int64"),
        ("messagepack", {b"nd": 1}, "b'nd'"),
        ("messagepack", {b"complex": 1}, "b'complex'"),
        ("messagepack", np.datetime64("2024-01-01"), "datetime64"),
        ("messagepack", pytest, "module"),
        ("numpy", [1, 2], "list"),
        ("numpy", np.float64(1), "numpy.float64"),
        ("pickle", lambda: None, "pickle cannot encode this function"),
    ],
)
def test_what_a_serializer_cannot_take_it_names(name, obj, message):
    with pytest.raises(SerializationError, match=message):
        serializer_of(name).dumps(obj)


@pytest.mark.parametrize("name", ["json", "messagepack", "numpy"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([object()]), "Python objects"),
        (np.zeros(1, [("a", "O")]), "Python objects"),
        (np.ma.masked_array([1, 2], [True, False]), "mask"),
    ],
    ids=["objects", "object-field", "masked"],
)
def test_arrays_that_would_lose_something(name, array, message):
    with pytest.raises(SerializationError, match=message):
        serializer_of(name).dumps(array)


@pytest.mark.parametrize("name", ["json", "messagepack", "pickle"])
def test_what_contains_itself(name, tmp_path):
    obj: list[object] = []
    obj.append(obj)
    if name == "pickle":
        back = there_and_back(name, obj)
        assert back[0] is back
        return
    with pytest.raises(SerializationError):
        serializer_of(name).dumps(obj)
    with pytest.raises(SerializationError, match="contains itself"):
        write_object(obj, tmp_path)


class MakesDirectory:
    """Pickles to a call, as an attacker's object would."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hidden_pickles_are_not_loaded(tmp_path):
    target = tmp_path / "made"
    payload = pickle.dumps(MakesDirectory(target))
    npy = io.BytesIO()
    np.save(npy, np.array([MakesDirectory(target)], dtype=object), allow_pickle=True)
    wire = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": payload}
    for name, data in [
        ("numpy", npy.getvalue()),
        ("numpy", payload),
        ("messagepack", msgspec.msgpack.encode(wire)),
        ("messagepack", msgspec.msgpack.encode({**wire, b"kind": b""})),
        ("messagepack", msgspec.msgpack.encode({**wire, b"nd": False})),
        ("json", payload),
    ]:
        with pytest.raises(SerializationError):
            serializer_of(name).loads(data)
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("json", b""),
        ("json", b"{"),
        ("json", b"\xff"),
        ("json", 100_000 * b"["),
        ("json", b'{"data": [1, 2], "type": "<i4", "shape": [3]}'),
        ("json", b'{"data": [1], "type": "nonsense", "shape": [1]}'),
        ("messagepack", b""),
        ("messagepack", b"\xc1"),
        ("messagepack", b"\x01\x02"),
        ("messagepack", b"\xa2\xff\xff"),
        ("messagepack", 100_000 * b"\x91"),
        ("messagepack", b"\xd4\x05\x00"),
        ("messagepack", msgspec.msgpack.encode({b"nd": True, b"type": "<i4", b"shape": [9], b"data": b"x"})),
        ("messagepack", msgspec.msgpack.encode({b"nd": False, b"type": "<i4", b"data": b"x"})),
        ("messagepack", msgspec.msgpack.encode({b"complex": True, b"data": "x"})),
        ("numpy", b""),
        ("numpy", b"\x93NUMPY"),
        ("numpy", b"PK\x03\x04"),
        ("pickle", b""),
        ("pickle", b"cno_such_module\nname\n."),
    ],
)
def test_damaged_bytes(name, data):
    with pytest.raises(SerializationError):
        serializer_of(name).loads(data)


@given(st.sampled_from(["json", "messagepack", "numpy"]), st.data())
def test_any_damage_is_a_serialization_error_or_another_object(name, data):
    original = serializer_of(name).dumps(np.arange(3))
    position = data.draw(st.integers(0, len(original) - 1))
    damaged = original[:position] + data.draw(st.binary(max_size=3)) + original[position + 1 :]
    with contextlib.suppress(SerializationError):
        serializer_of(name).loads(damaged)


# -- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "file", "name"),
    [({"a": [1, None]}, "object.json", "json"), (b"raw", "object.msgpack", "messagepack")],
)
def test_write_and_read(tmp_path, obj, file, name):
    metadata = write_object(obj, tmp_path)
    assert metadata == {SERIALIZER_KEY: name} == {"serializer": name}
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert object_file(metadata) == object_file(metadata, name) == file
    assert read_object((tmp_path / file).read_bytes(), metadata) == obj
    assert read_object(tmp_path / file, metadata, name) == obj


def test_an_array_is_a_npy_file(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    assert object_file(write_object(array, tmp_path)) == "object.npy"
    assert same_array(np.load(tmp_path / "object.npy"), array)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(SerializationError, match="set"):
        write_object({1, 2}, tmp_path)
    with pytest.raises(SerializationError, match="no serializer 'xml'; known are json, messagepack, numpy, pickle"):
        write_object(1, tmp_path, "xml")
    assert not list(tmp_path.iterdir())


def test_pickle_only_by_name_on_both_sides(tmp_path):
    target = tmp_path / "made"
    metadata = write_object(MakesDirectory(target), tmp_path, "pickle")
    assert metadata == {"serializer": "pickle"}
    data = (tmp_path / "object.pickle").read_bytes()
    for call in (lambda: read_object(data, metadata), lambda: object_file(metadata)):
        with pytest.raises(SerializationError, match="only if you trust"):
            call()
    # Metadata cannot be used to slip a pickle past a caller who asked for something else, or the other way round.
    with pytest.raises(SerializationError, match="not 'json'"):
        read_object(data, metadata, "json")
    with pytest.raises(SerializationError, match="not 'pickle'"):
        read_object(data, {"serializer": "json"}, "pickle")
    assert not target.exists()
    assert read_object(data, metadata, "pickle") is None
    assert target.is_dir()


def test_pickles_do_not_depend_on_the_python():
    assert serializer_of("pickle").dumps((1, "a"))[:2] == b"\x80\x05"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({}, "holds files"), ({"serializer": 3}, "damaged"), ({"serializer": "xml"}, "register_serializer")],
)
def test_versions_that_hold_no_readable_object(metadata, message):
    with pytest.raises(SerializationError, match=message):
        object_file(metadata)
    with pytest.raises(SerializationError, match=message):
        read_object(b"", metadata)


# -- the registry -----------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    from artifactfs import serializers

    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))


@pytest.mark.usefixtures("registry")
def test_a_serializer_of_ones_own(tmp_path):
    text = Serializer("text", ".txt", str.encode, bytes.decode, "text/plain")
    register_serializer(text)
    metadata = write_object("hello", tmp_path, "text")
    assert (tmp_path / "object.txt").read_text() == "hello"
    assert read_object(tmp_path / object_file(metadata), metadata) == "hello"
    with pytest.raises(SerializationError, match="text cannot encode this int"):
        write_object(3, tmp_path, "text")
    with pytest.raises(SerializationError, match="text cannot decode these 1 bytes: UnicodeDecodeError"):
        read_object(b"\xff", metadata)
    with pytest.raises(AlreadyExists, match="'text' already"):
        register_serializer(text)
    register_serializer(Serializer("text", ".text", str.encode, bytes.decode), replace=True)
    assert serializer_of("text").file == "object.text"
    with pytest.raises(AlreadyExists, match=r"'\.npy'"):
        register_serializer(Serializer("other", ".npy", str.encode, bytes.decode))


@pytest.mark.parametrize(("name", "suffix"), [("", ".x"), ("a/b", ".x"), ("a", ""), ("a", "/x"), ("a", ".x y")])
def test_names_and_suffixes_are_parts_of_file_names(name, suffix):
    with pytest.raises(InvalidName):
        register_serializer(Serializer(name, suffix, str.encode, bytes.decode))


def test_numpy_is_optional():
    code = """
        import sys
        sys.modules["numpy"] = None
        from artifactfs.errors import MissingDependency, SerializationError
        from artifactfs.serializers import choose, serializer_of
        for obj in ({"a": [1]}, {1: b"x"}):
            serializer = serializer_of(choose(obj))
            assert serializer.loads(serializer.dumps(obj)) == obj
        for name, data in (
            ("json", b'{"data": [1], "type": "<i4", "shape": [1]}'),
            ("messagepack", bytes.fromhex("83c4026e64c2c40474797065a37c6231c40464617461c40101")),
            ("numpy", b"\\x93NUMPY"),
        ):
            try:
                serializer_of(name).loads(data)
            except MissingDependency as error:
                assert "numpy" in str(error)
            else:
                raise AssertionError(name)
        try:
            serializer_of("numpy").dumps([1])
        except SerializationError:
            pass
        else:
            raise AssertionError
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)

"""Our json and messagepack are squirrel's: the same bytes, and the same objects from them, both ways."""

from __future__ import annotations

import numpy as np
import pytest
from exchange import describe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artifactfs.serializers import serializer_of

many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats()
NUMERIC = hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def arrays(dtypes):
    return hnp.arrays(dtypes, SHAPES)


def scalars(dtypes):
    return dtypes.flatmap(hnp.from_dtype)


def trees(leaves, keys=TEXTS):
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


JSON = trees(
    st.none() | st.booleans() | NUMBERS | TEXTS | scalars(NUMERIC) | arrays(NUMERIC | hnp.unicode_string_dtypes())
).filter(lambda value: "shape" not in str(value))
MESSAGEPACK = trees(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=10) | st.complex_numbers()
    | scalars(NUMERIC | hnp.complex_number_dtypes() | hnp.boolean_dtypes())
    | arrays(NUMERIC | hnp.complex_number_dtypes() | hnp.boolean_dtypes() | hnp.byte_string_dtypes()),
    TEXTS | st.binary(max_size=10).filter(lambda key: key not in (b"nd", b"complex")),
)  # fmt: skip
OBJECTS = pytest.mark.parametrize(("name", "objects"), [("json", JSON), ("messagepack", MESSAGEPACK)])


@OBJECTS
def test_the_bytes_are_squirrels_and_both_read_them_alike(squirrel, name, objects):
    @many
    @given(objects)
    def check(obj):
        theirs = squirrel.call("serialize", name, describe(obj))
        ours = serializer_of(name).dumps(obj)
        assert ours.hex() == theirs
        assert describe(serializer_of(name).loads(ours)) == squirrel.call("deserialize", name, theirs)

    check()


STRUCTURED = np.array(
    [(1, 2.5, [1, 2], b"ab", (3, 4))],
    dtype=[("a", "<i4"), ("b", ">f8"), ("c", "<u2", (2,)), ("d", "S3"), ("e", [("x", "u1"), ("y", "<i8")])],
)


@pytest.mark.parametrize(
    "array",
    [
        STRUCTURED,
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::3],
        np.arange(3, dtype=">i4"),
        np.array(["a", "längst"]),
        np.zeros((2, 0, 3)),
    ],
    ids=["structured", "fortran", "strided", "big-endian", "text", "empty"],
)
def test_messagepack_arrays_of_every_layout(squirrel, array):
    ours = serializer_of("messagepack").dumps({"x": array})
    theirs = squirrel.call("deserialize", "messagepack", ours.hex())
    assert theirs == describe({"x": array}) == describe(serializer_of("messagepack").loads(ours))


def test_what_squirrel_pickles_inside_messagepack_is_refused(squirrel):
    objects = np.array([{"a": 1}], dtype=object)
    import msgspec

    hidden = msgspec.msgpack.encode(
        {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": objects.shape, b"data": objects.dumps()}
    )
    with pytest.raises(ValueError, match="refused"):
        serializer_of("messagepack").loads(hidden)

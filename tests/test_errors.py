"""The exception tree: its docstring draws it, and its facts hold for every class."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from artifactfs import errors
from artifactfs.errors import ArtifactError, NotFound, StoreUnreachable

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ArtifactError)]


def test_the_drawing_shows_every_class_below_its_parent():
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"( *[│├└─ ]*)([A-Z][A-Za-z]+)(\(|$|  )", line)
        if match and hasattr(errors, match[2]):
            depth = len(match[1])
            while stack and stack[-1][0] >= depth:
                stack.pop()
            drawn[match[2]] = stack[-1][1] if stack else "Exception"
            stack.append((depth, match[2]))
    assert set(drawn) == {cls.__name__ for cls in CLASSES}
    for cls in CLASSES:
        assert drawn[cls.__name__] in {base.__name__ for base in cls.__bases__}


@pytest.mark.parametrize("cls", CLASSES)
def test_the_message_is_the_message(cls: type[ArtifactError]):
    error = cls("no artifact 'x'")
    assert str(error) == "no artifact 'x'"
    assert str(cls()) == cls.__name__
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (cls, str(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_not_there_and_not_reachable_are_never_the_same(cls: type[ArtifactError]):
    assert not (issubclass(cls, NotFound | FileNotFoundError) and issubclass(cls, StoreUnreachable | ConnectionError))
    assert cls.transient == (issubclass(cls, StoreUnreachable) or cls.__name__ in ("StoreFull", "TreeUnreadable"))
    assert cls.__doc__

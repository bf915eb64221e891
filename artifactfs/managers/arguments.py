"""Arguments of public methods: refused before anything happens when they are of the wrong kind.

:func:`guard` wraps the public methods of a class; `managers.base` applies it to every manager. What an argument may be
follows from its name, because all managers call the same thing by the same name: see `RULES`. None is allowed where the
method's own default is None. What names may look like is the matter of `artifactfs.names`.

Pure functions, safe from any thread.
"""

from __future__ import annotations

import functools
import math
import os
import reprlib
import sys
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from artifactfs import names
from artifactfs.errors import ArgumentError, InvalidName, SerializationError

Rule = Callable[[str, Any], None]
"""Raises ArgumentError or another ArtifactError when the value is none that the argument of that name may have."""

_Method = TypeVar("_Method", bound=Callable[..., Any])
_DEEPEST = 100


def wrong(name: str, expected: str, value: object) -> ArgumentError:
    """The error for a value of the wrong kind."""
    return ArgumentError(f"{name} must be {expected}, not {reprlib.repr(value)} ({type(value).__name__})")


def text(name: str, value: Any) -> None:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise wrong(name, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{name} must be text that UTF-8 can encode, not {reprlib.repr(value)}") from error


def word(name: str, value: Any) -> None:
    """A string; names of a foreign store are shown in ways that only the manager knows."""
    if not isinstance(value, str):
        raise wrong(name, "a string", value)
    _check_encodable(name, value)


def _check_encodable(name: str, value: str) -> None:
    if value.isascii():
        return
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{name} must be text or a name of a disk, not {reprlib.repr(value)}") from error


def collection(name: str, value: Any) -> None:
    """The name of a collection: not empty, because that would silently be the active one."""
    word(name, value)
    if not value:
        raise InvalidName(f"{name} is empty: leave it out, or use {names.COLLECTION_RULE}")


def version(name: str, value: Any) -> None:
    """``v3``, ``latest`` or an alias."""
    if isinstance(value, str):
        _check_encodable(name, value)
        return
    refusal = wrong(name, "a string such as 'v3', 'latest' or an alias", value)
    if type(value) is int and value >= 0:
        refusal = ArgumentError(f"{refusal}; for version {value} write {names.version_name(value)!r}")
    raise refusal


def aliases(name: str, value: Any) -> None:
    """Several names that a user may give to a version."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Collection):
        raise wrong(name, "a list of aliases", value)
    for alias in value:
        word(f"each of {name}", alias)
        names.check_alias(alias)


def metadata(name: str, value: Any) -> None:
    """A JSON object. Raises SerializationError for what JSON cannot keep as it is."""
    if not isinstance(value, Mapping):
        raise wrong(name, "a mapping", value)
    _check_json(name, value, 0)


def _check_json(where: str, value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise SerializationError(f"{where[:100]}… is nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise SerializationError(f"{where} must be JSON: its keys are strings, not {reprlib.repr(key)}")
            _check_json_text(where, key)
            _check_json(f"{where}[{key!r}]", inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            _check_json(f"{where}[{place}]", inner, depth + 1)
    elif isinstance(value, str):
        _check_json_text(where, value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise SerializationError(f"{where} must be JSON, which has no {value}")
    elif value is not None and not isinstance(value, (bool, int)):
        raise SerializationError(
            f"{where} must be JSON: strings, numbers, booleans, None, lists and dicts, not {reprlib.repr(value)} "
            f"({type(value).__name__})"
        )


def _check_json_text(where: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SerializationError(f"{where} must be JSON: UTF-8 cannot encode {reprlib.repr(value)}") from error


def path(name: str, value: Any) -> None:
    """A path of this machine or of a version."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise wrong(name, "a path: a string or a pathlib.Path", value)
    if not os.fspath(value):
        raise ArgumentError(f"{name} is empty: it must be a path")
    _check_encodable(name, os.fspath(value))
    if any(len(os.fsencode(part)) > names.MAX_NAME_BYTES for part in os.fspath(value).split("/")):
        raise ArgumentError(f"{name} has a part of more than {names.MAX_NAME_BYTES} bytes: no path has")


def local(name: str, value: Any) -> None:
    """A path of this machine."""
    path(name, value)
    if "\0" in os.fspath(value):
        raise ArgumentError(f"{name} has a NUL in it: no path has")


def url(name: str, value: Any) -> None:
    """The place of a store; not shown, because it may hold a password."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise ArgumentError(f"{name} must be a URL or a path, not of the type {type(value).__name__}")
    if not os.fspath(value) or "\0" in os.fspath(value):
        raise ArgumentError(f"{name} is empty or has a NUL in it: it must be a URL or a path")


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise wrong(name, "True or False", value)


def count(name: str, value: Any) -> None:
    """A number of bytes."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise wrong(name, "a whole number from 0", value)


def seconds(name: str, value: Any) -> None:
    """A time span."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise wrong(name, "a number of seconds from 0", value)


def function(name: str, value: Any) -> None:
    """A function, or anything else that can be called."""
    if not callable(value):
        raise wrong(name, "a function", value)


_USUAL: dict[Rule, Any] = {}
"""The type of which every value but the empty one passes a rule, where that is so; of strings, short ones in ASCII."""


def anything(name: str, value: Any) -> None:
    """Every value."""


def instance_of(kind: type) -> Rule:
    """The rule for a value that another method gave."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise wrong(name, f"of the type {kind.__name__}", value)

    _USUAL[check] = kind
    return check


def commit_id(name: str, value: Any) -> None:
    """A text that tells a commit from others."""
    text(name, value)
    if not value:
        raise InvalidName("a commit needs an id: see new_commit_id")


def catalog(name: str, value: Any) -> None:
    """A catalog, ours or squirrel's."""
    from artifactfs.catalog import Catalog

    squirrel = sys.modules.get("squirrel.catalog")
    if not isinstance(value, Catalog) and (squirrel is None or not isinstance(value, squirrel.Catalog)):
        raise wrong(name, "a Catalog", value)


_USUAL.update({word: str, collection: str, version: str, path: str})


RULES: Mapping[str, Rule] = {
    "alias": word,
    "aliases": aliases,
    "artifact": word,
    "artifact_name": word,
    "artifact_path": path,
    "below": word,
    "catalog": catalog,
    "collection": collection,
    "commit_id": commit_id,
    "consume": flag,
    "dry_run": flag,
    "grace_s": seconds,
    "local_path": local,
    "message": text,
    "metadata": metadata,
    "name": word,
    "new": version,
    "obj": anything,
    "offset": count,
    "old": version,
    "on_finding": function,
    "path": path,
    "progress": function,
    "reference_of": function,
    "serializer": word,
    "size_bytes": count,
    "target": local,
    "to": local,
    "tree": local,
    "version": version,
}
"""The rule of each argument, by its name."""
NEEDS: Mapping[str, str] = {"version": "artifact"}
"""The argument without which another means nothing, where a method lets both be left out."""
ONE_OF: Mapping[str, tuple[str, ...]] = {"annotate": ("message", "metadata")}
"""By the name of a method: the arguments of which at least one has to say something."""


def guard(kind: type, rules: Mapping[str, Rule], *, known_to: tuple[type, ...] = ()) -> None:
    """Let the public methods that `kind` itself defines check their arguments first.

    With `known_to`, those only that one of these classes has too: what else a class has is its own affair.
    """
    for name, method in list(vars(kind).items()):
        is_method = not name.startswith("_") and isinstance(method, types.FunctionType)
        if is_method and (not known_to or any(hasattr(other, name) for other in known_to)):
            setattr(kind, name, checked(method, rules))


def checked(method: _Method, rules: Mapping[str, Rule]) -> _Method:
    """`method`, refusing the arguments that the rules refuse; parameters without a rule are let through."""
    assert isinstance(method, types.FunctionType)
    code = method.__code__
    # Every open of a file comes through here: what is of the type that one expects needs no call.
    positional = code.co_varnames[1 : code.co_argcount]
    by_keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    defaults = dict(zip(reversed(positional), reversed(method.__defaults__ or ()), strict=False))
    defaults.update(method.__kwdefaults__ or {})
    optional = frozenset(name for name, default in defaults.items() if default is None)
    known = {name: rules[name] for name in (*positional, *by_keyword) if name in rules}
    in_order = tuple(
        (name, _USUAL.get(known[name]) if name in known else None, known.get(name, anything), name in optional)
        for name in positional
    )

    inner = _saying(method, ONE_OF[method.__name__]) if method.__name__ in ONE_OF else method

    @functools.wraps(method)
    def call(self: Any, /, *args: Any, **more: Any) -> Any:
        for value, (name, usual, check, may_be_none) in zip(args, in_order):  # noqa: B905 - strict costs as much again
            is_usual = type(value) is usual and value and (usual is not str or (len(value) < 256 and value.isascii()))
            if not is_usual and (value is not None or not may_be_none):
                check(name, value)
        for name, value in more.items():
            if name in known and (value is not None or name not in optional):
                known[name](name, value)
        return inner(self, *args, **more)

    needed = {name: other for name, other in NEEDS.items() if name in optional and other in optional}
    return cast(_Method, _together(call, positional, needed) if needed else call)


def _saying(method: Callable[..., Any], one_of: tuple[str, ...]) -> Callable[..., Any]:
    """`method`, refusing a call where none of these arguments, which are given by keyword, says something."""

    def call(self: Any, /, *args: Any, **more: Any) -> Any:
        if all(more.get(name) in (None, {}) for name in one_of):
            raise ArgumentError(f"nothing is said: give {' or '.join(one_of)}")
        return method(self, *args, **more)

    return call


def _together(method: Callable[..., Any], positional: tuple[str, ...], needed: Mapping[str, str]) -> Callable[..., Any]:
    """`method`, refusing an argument without the one that it needs."""

    @functools.wraps(method)
    def call(self: Any, /, *args: Any, **more: Any) -> Any:
        given = {**dict(zip(positional, args, strict=False)), **more}
        for name, other in needed.items():
            if given.get(name) is not None and given.get(other) is None:
                raise ArgumentError(f"{name} means nothing without {other}: give {other} too")
        return method(self, *args, **more)

    return call

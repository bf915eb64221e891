"""Matching paths as git does by the lines of a ``.gitignore``, in a time that no line can blow up.

It works on bytes, as git does: ``?`` is one byte, and names need not be UTF-8. Names are matched one by one: a pattern
is cut at its slashes, and each part of it at its stars. What lies between two stars has one length, so it is looked for
once, as far left as it goes. ``**`` is treated likewise one level up, with names for bytes.

Threading: pure, safe from any thread.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

# No name is longer (NAME_MAX).
_LONGEST_NAME = 255
_SLASH = b"/"
_ESCAPED_SLASH = b"\\/"
_STAR = b"*"
_BYTES = frozenset(range(256))
_SPECIAL = re.compile(rb"[*?\[\\]")
_IS_IN: dict[bytes, Callable[[int], bool]] = {
    b"alpha": lambda c: chr(c).isalpha(),
    b"digit": lambda c: chr(c).isdigit(),
    b"alnum": lambda c: chr(c).isalnum(),
    b"upper": lambda c: chr(c).isupper(),
    b"lower": lambda c: chr(c).islower(),
    b"space": lambda c: c in b" \t\n\r",
    b"blank": lambda c: c in b" \t",
    b"cntrl": lambda c: c < 32 or c == 127,
    b"print": lambda c: 32 <= c < 127,
    b"graph": lambda c: 32 < c < 127,
    b"punct": lambda c: 32 < c < 127 and not chr(c).isalnum(),
    b"xdigit": lambda c: c in b"0123456789abcdefABCDEF",
}
_CLASSES = {name: frozenset(filter(is_in, range(128))) for name, is_in in _IS_IN.items()}


class Unmatchable(Exception):
    """The pattern means nothing: git passes over it."""


class Line(NamedTuple):
    """A line of the file: what is left of it without its marks."""

    pattern: bytes
    takes_back: bool
    """It began with ``!``."""
    directories_only: bool
    """It ended with ``/``."""


def parse_lines(text: bytes) -> list[Line]:
    """The lines that say something, in their order."""
    lines = []
    for raw in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if not raw or raw.startswith(b"#"):
            continue
        line = _without_trailing_spaces(raw.removesuffix(b"\r").partition(b"\0")[0])
        takes_back = line.startswith(b"!")
        line = line[takes_back:]
        directories_only = line.endswith(_SLASH)
        pattern = line[: len(line) - directories_only]
        if pattern:
            lines.append(Line(pattern, takes_back, directories_only))
    return lines


def _without_trailing_spaces(line: bytes) -> bytes:
    """A space that is escaped stays, and so do all before a backslash that escapes nothing."""
    end = at = 0
    while at < len(line):
        if line[at : at + 1] == b"\\":
            if at + 1 == len(line):
                return line
            at += 1
            end = at + 1
        elif line[at : at + 1] != b" ":
            end = at + 1
        at += 1
    return line[:end]


# -- names -------------------------------------------------------------------------------------------------------------


class _Piece:
    """A pattern for so many bytes. It is compiled when it is first needed: most pieces of most lines never are."""

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = tokens
        self.length = len(tokens)

    @cached_property
    def regex(self) -> re.Pattern[bytes]:
        return re.compile(b"".join(self._tokens), re.DOTALL)


class _Name:
    """A pattern for one name: fixed pieces with stars between them."""

    def __init__(self, tokens: list[bytes]) -> None:
        """Tokens are regular expressions for one byte, and stars. Raises Unmatchable when no name is so long."""
        pieces: list[list[bytes]] = [[]]
        for token in tokens:
            if token.startswith(_STAR):
                pieces.append([])
            else:
                pieces[-1].append(token)
        pieces[1:-1] = [piece for piece in pieces[1:-1] if piece]
        self._least = sum(map(len, pieces))
        if self._least > _LONGEST_NAME:
            raise Unmatchable
        self._first, *self._middle = map(_Piece, pieces)
        self._last = self._middle.pop() if self._middle else None

    def matches(self, name: bytes) -> bool:
        """Tell whether the whole name matches."""
        length = len(name)
        if self._last is None:
            return length == self._least and self._first.regex.match(name) is not None
        end = length - self._last.length
        if length < self._least or not self._first.regex.match(name) or not self._last.regex.match(name, end):
            return False
        at = self._first.length
        for piece in self._middle:
            found = piece.regex.search(name, at, end)
            if found is None:
                return False
            at = found.end()
        return True


class _Run(NamedTuple):
    """Names one after the other. `skips`: so many others, or more, come before them; None for none."""

    skips: int | None
    names: list[_Name]

    def match_at(self, names: list[bytes], at: int) -> bool:
        return all(one.matches(name) for one, name in zip(self.names, names[at : at + len(self.names)], strict=True))


class _Path:
    """A pattern for the names of a path: runs with ``**`` between them."""

    def __init__(self, runs: list[_Run]) -> None:
        self._runs = runs
        self._least = sum(len(run.names) + (run.skips or 0) for run in runs)

    def matches(self, path: bytes) -> bool:
        names = path.split(_SLASH)
        left = len(names)
        if left < self._least:
            return False
        at, last = 0, self._runs[-1]
        end = left - len(last.names)
        for run in self._runs[:-1]:
            found = self._find(run, names, at, end)
            if found is None:
                return False
            at = found + len(run.names)
        if last.skips is None:
            return at == end and last.match_at(names, at)
        return at + last.skips <= end and last.match_at(names, end)

    def _find(self, run: _Run, names: list[bytes], at: int, end: int) -> int | None:
        """The first place of the run in the names between `at` and `end`; None where it is not."""
        latest = end - len(run.names)
        if run.skips is None:
            return at if at <= latest and run.match_at(names, at) else None
        return next((here for here in range(at + run.skips, latest + 1) if run.match_at(names, here)), None)


# -- patterns ----------------------------------------------------------------------------------------------------------


def _tokens(pattern: bytes) -> list[bytes]:
    """The pattern as regular expressions for one byte each, `_SLASH`, and runs of stars. Raises Unmatchable."""
    tokens = []
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"[":
            token, at = _bracket(pattern, at + 1)
        elif byte == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            token, at = pattern[at:end], end
        elif byte == b"\\":
            byte = pattern[at + 1 : at + 2]
            if not byte:
                raise Unmatchable
            token, at = _ESCAPED_SLASH if byte == _SLASH else re.escape(byte), at + 2
        else:
            token, at = (b"." if byte == b"?" else byte if byte == _SLASH else re.escape(byte)), at + 1
        tokens.append(token)
    return tokens


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int]:
    """A regular expression for the bytes of a bracket, and where it ends. Raises Unmatchable when it does not."""

    def byte_at(place: int) -> int:
        if place >= len(pattern):
            raise Unmatchable
        return pattern[place]

    wanted: set[int] = set()
    negated = byte_at(at) in b"!^"
    at += negated
    before = 0
    while True:
        byte = byte_at(at)
        if byte == ord("\\"):
            at += 1
            byte = byte_at(at)
            wanted.add(byte)
        elif byte == ord("-") and before and at + 1 < len(pattern) and pattern[at + 1] != ord("]"):
            at += 1
            if byte_at(at) == ord("\\"):
                at += 1
            wanted.update(range(before, byte_at(at) + 1))
            byte = 0
        elif byte == ord("[") and pattern[at + 1 : at + 2] == b":":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                raise Unmatchable
            if end - 1 < at + 2 or pattern[end - 1] != ord(":"):
                wanted.add(byte)
            else:
                if pattern[at + 2 : end - 1] not in _CLASSES:
                    raise Unmatchable
                wanted |= _CLASSES[pattern[at + 2 : end - 1]]
                at, byte = end, 0
        else:
            wanted.add(byte)
        before = byte
        at += 1
        if byte_at(at) == ord("]"):
            break
    return _one_of(_BYTES - wanted if negated else frozenset(wanted)), at + 1


@lru_cache(256)
def _one_of(wanted: frozenset[int]) -> bytes:
    """A regular expression for these bytes, no longer than the bracket that names them needs: made of ranges."""
    # Where wanted bytes begin, and where they end, by turns.
    edges = [byte for byte in range(257) if (byte in wanted) != (byte - 1 in wanted)]
    inside = b"".join(b"\\x%02x-\\x%02x" % (begin, end - 1) for begin, end in pairwise(edges) if begin in wanted)
    # An empty set is written as what no byte is.
    return b"[%s]" % inside if inside else b"[^\\x00-\\xff]"


def _path(pattern: bytes) -> _Path:
    """A pattern with slashes, for a whole path. Raises Unmatchable."""
    runs: list[_Run] = []
    skips: int | None = None
    names: list[_Name] = []
    for part, is_followed in _parts(_tokens(pattern)):
        if len(part) == 1 and part[0].startswith(b"**"):
            if names:
                runs.append(_Run(skips, names))
                skips, names = None, []
            skips = (skips or 0) + (not is_followed)
        else:
            names.append(_Name(part))
    return _Path([*runs, _Run(skips, names)])


def _parts(tokens: list[bytes]) -> Iterator[tuple[list[bytes], bool]]:
    """The tokens between slashes, and whether a slash follows that is not escaped."""
    part: list[bytes] = []
    for token in tokens:
        if token in (_SLASH, _ESCAPED_SLASH):
            yield part, token == _SLASH
            part = []
        else:
            part.append(token)
    yield part, False


def _is_literal(pattern: bytes) -> bool:
    return _literal_length(pattern) == len(pattern)


def _literal_length(pattern: bytes) -> int:
    special = _SPECIAL.search(pattern)
    return special.start() if special else len(pattern)


class _Lines:
    """Lines of which it does not matter which one matches; those that are simple are looked up at once."""

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self._names: set[bytes] = set()
        self._paths: set[bytes] = set()
        self._odd_names: list[_Name] = []
        self._odd_paths: list[tuple[bytes, _Path]] = []
        suffixes: list[bytes] = []
        prefixes: list[bytes] = []
        for pattern in patterns:
            if _SLASH in pattern:
                self._add_path(pattern.removeprefix(_SLASH))
            elif _is_literal(pattern):
                self._names.add(pattern)
            elif pattern.startswith(_STAR) and _is_literal(pattern[1:]):
                suffixes.append(pattern[1:])
            elif pattern.endswith(_STAR) and _is_literal(pattern[:-1]):
                prefixes.append(pattern[:-1])
            else:
                with contextlib.suppress(Unmatchable):
                    self._odd_names.append(_Name(_tokens(pattern)))
        self._suffixes, self._prefixes = tuple(suffixes), tuple(prefixes)

    def _add_path(self, pattern: bytes) -> None:
        length = _literal_length(pattern)
        if length == len(pattern):
            self._paths.add(pattern)
            return
        with contextlib.suppress(Unmatchable):
            self._odd_paths.append((pattern[:length], _path(pattern[length:])))

    def match(self, path: bytes, name: bytes) -> bool:
        """Tell whether one of the lines matches."""
        return (
            name in self._names
            or path in self._paths
            or name.endswith(self._suffixes)
            or name.startswith(self._prefixes)
            or any(odd.matches(name) for odd in self._odd_names)
            or any(path.startswith(start) and rest.matches(path[len(start) :]) for start, rest in self._odd_paths)
        )


class TooMany(ValueError):
    """Lines that have to be tried one by one are more than was allowed, or longer."""


class Rules:
    """The lines of a file; the last one that matches a path decides."""

    def __init__(self, lines: Iterable[Line], most: int, most_bytes: int) -> None:
        """Raises TooMany when more than `most` lines, or `most_bytes` of them, cannot be looked up at once."""
        # Lines between two changes from taking away to taking back are one group. Of equal ones the first counts.
        groups: list[tuple[bool, dict[bytes, None], dict[bytes, None]]] = []
        odd = odd_bytes = 0
        for line in lines:
            if not groups or groups[-1][0] != line.takes_back:
                groups.append((line.takes_back, {}, {}))
                odd += 1
            _, of_all, of_directories = groups[-1]
            patterns = of_directories if line.directories_only else of_all
            if line.pattern not in patterns:
                patterns[line.pattern] = None
                if not _is_literal(line.pattern):
                    odd += 1
                    odd_bytes += len(line.pattern)
            if odd > most:
                raise TooMany(f"more than {most:,} lines with wildcards")
            if odd_bytes > most_bytes:
                raise TooMany(f"more than {most_bytes:,} bytes in lines with wildcards")
        self._groups = [
            (takes_back, _Lines(of_all), _Lines(of_directories)) for takes_back, of_all, of_directories in groups[::-1]
        ]

    def ignore(self, path: bytes, *, is_directory: bool) -> bool:
        """Tell whether a path is ignored. No directory above it may be."""
        name = path[path.rfind(_SLASH) + 1 :]
        for takes_back, of_all, of_directories in self._groups:
            if of_all.match(path, name) or (is_directory and of_directories.match(path, name)):
                return not takes_back
        return False

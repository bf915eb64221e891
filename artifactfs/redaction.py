"""Secrets in a store's URL and options, and texts without them: the one place that knows.

Errors, logs, the status, state files, catalogs and `repr` go through here. A secret is known by the shape of a URL
(what stands before the host, queries named like secrets), by the name of the option that holds it, and, in a text of
somebody else's, because it was given to this process (`remember`).

Threading: any thread; `_lock` guards the secrets that were given, and is a leaf.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|pwd|key|credential|auth|signature|cookie|private|connection_string|"
    r"(?:^|[_-])sas(?:$|[_-])|(?:^|[_-])sig(?:$|[_-])",
    re.IGNORECASE,
)
# What stands before "@": without a slash, or, behind a user and a colon, with some: secrets of S3 have them, and ports
# and ARNs are no passwords.
_USERINFO = re.compile(
    r"\b([a-z][a-z0-9+.-]*)://([^/\s'\"]+|(?!arn:)[^/\s:'\"@]+:(?!\d+/)[^/\s'\"@]*/[^\s'\"@#?]*)@", re.IGNORECASE
)
_QUERY = re.compile(r"([?&]([^=&\s#]+)=)([^&\s'\"#]+)")
# In these the part before "@" is a user or a container when there is no password: worth showing.
_NAMED_BEFORE_AT = frozenset({"abfs", "abfss", "az", "adl", "sftp", "ssh"})
# github://org:repo@ref is an address, not a login.
_NO_LOGIN = "github"
# Shorter ones, and words that mean something else in the same place, would hide half of every text.
_LEAST_REMEMBERED = 6
_NO_SECRETS = frozenset({"secret", "password", "anonymous", "google_default", "browser"})
_MOST_REMEMBERED = 1000

_lock = threading.Lock()
_given: dict[str, None] = {}
_pattern: re.Pattern[str] | None = None


def is_secret_name(name: str) -> bool:
    """Tell whether an option, or a parameter of a query, of that name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` for people: secrets of the URLs in it, and those that this process was given, are hidden."""
    if "://" in text:
        text = _USERINFO.sub(_shown_userinfo, text)
    if "=" in text:
        text = _QUERY.sub(_shown_parameter, text)
    pattern = _pattern
    return text if pattern is None else pattern.sub(HIDDEN, text)


def _shown_userinfo(match: re.Match[str]) -> str:
    scheme, before = match[1], match[2]
    if scheme.lower() == _NO_LOGIN or (":" not in before and scheme.lower() in _NAMED_BEFORE_AT):
        return match[0]
    return f"{scheme}://{HIDDEN}@"


def _shown_parameter(match: re.Match[str]) -> str:
    return f"{match[1]}{HIDDEN}" if is_secret_name(match[2]) else match[0]


def without_url_secrets(url: str) -> str:
    """`url` for a file: without a password before the host and without query parameters that are named like secrets."""

    def userinfo(match: re.Match[str]) -> str:
        scheme, (user, colon, _) = match[1], match[2].partition(":")
        return match[0] if scheme.lower() == _NO_LOGIN or not colon else f"{scheme}://{user}@"

    url = _USERINFO.sub(userinfo, url)
    if "?" not in url:
        return url
    head, _, query = url.partition("?")
    query, hash_mark, fragment = query.partition("#")
    kept = [part for part in query.split("&") if not is_secret_name(part.partition("=")[0])]
    return head + ("?" if kept else "") + "&".join(kept) + hash_mark + fragment


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of storage options that may be written to a file.

    Left out at every depth: options whose name tells of a secret (``key``, ``secret``, ``token``, ``password`` …), and
    values that are live objects (sessions, credential providers), which hold secrets and could not be written anyway.
    """
    return {
        str(key): _value_without_secrets(value)
        for key, value in options.items()
        if not is_secret_name(str(key)) and _is_writable(value)
    }


def _is_writable(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, Mapping))


def _value_without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return without_url_secrets(value)
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, (list, tuple)):
        return [_value_without_secrets(item) for item in value if _is_writable(item)]
    return value


def secrets_in(options: Mapping[str, Any]) -> set[str]:
    """The texts among a store's options that must not be shown, at every depth."""
    return set(_secrets_of(options, is_secret=False))


def _secrets_of(value: Any, *, is_secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _secrets_of(inner, is_secret=is_secret or is_secret_name(str(name)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets_of(inner, is_secret=is_secret)
    elif isinstance(value, str):
        if is_secret and value:
            yield value
        else:
            yield from _secrets_of_url(value)


def _secrets_of_url(url: str) -> Iterator[str]:
    for match in _USERINFO.finditer(url):
        if match[1].lower() != _NO_LOGIN:
            _, colon, password = match[2].partition(":")
            if colon:
                yield password
    for match in _QUERY.finditer(url):
        if is_secret_name(match[2]):
            yield match[3]


def remember(url: str, options: Mapping[str, Any]) -> None:
    """Hide from now on, wherever they turn up, the secrets of a store that is about to be opened."""
    _remember([*_secrets_of_url(url), *secrets_in(options)])


def _remember(found: Iterable[str]) -> None:
    global _pattern
    new = {text for text in found if len(text) >= _LEAST_REMEMBERED and text.lower() not in _NO_SECRETS}
    with _lock:
        if new <= _given.keys():
            return
        _given.update(dict.fromkeys(new))
        while len(_given) > _MOST_REMEMBERED:
            del _given[next(iter(_given))]
        longest_first = sorted(_given, key=len, reverse=True)
        _pattern = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in longest_first))

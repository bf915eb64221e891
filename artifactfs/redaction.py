"""Secrets in a store's URL and options, and texts without them: the one place that knows.

Errors, logs, the status, state files, catalogs and `repr` go through here. A secret is known by the shape of a URL
(what stands before the host, queries named like secrets), by the name of the option that holds it, and, in any text,
because it was given to this process (`remember`): only a URL that is known to be one, from end to end, shows where a
password with quotes, blanks or slashes ends.

Threading: any thread; `_lock` guards the secrets that were given, and is a leaf.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|pwd|key|credential|auth|signature|cookie|private|bearer|"
    r"conn(?:ect(?:ion)?)?_?str(?:ing)?(?:$|[_-])|(?:^|[_-])(?:sas|sig|pass|pw|dsn|jwt)(?:$|[_-])",
    re.IGNORECASE,
)
# What stands before "@": without a slash, or, behind a user and a colon, with some: secrets of S3 have them, and ports
# and ARNs are no passwords.
_USERINFO = re.compile(
    r"\b([a-z][a-z0-9+.-]*)://([^/\s'\"]+|(?!arn:)[^/\s:'\"@]+:(?!\d+/)[^/\s'\"@]*/[^\s'\"@]*)@", re.IGNORECASE
)
# A value goes on after ";" unless another parameter begins there.
_QUERY = re.compile(r"([?&;]([^=?&;\s#]+)=)((?:[^&;\s'\"#]|;(?![^=?&;\s#'\"]+=))+)")
_PARAMETERS = re.compile(r"[?&;]([^=?&;#]+)=((?:[^&;#]|;(?![^=?&;#]+=))+)")
_URL = re.compile(r"([a-z][a-z0-9+.-]+):(?://)?", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"[^/?#@:]+:[0-9]{0,5}(?=[/?#])")
# In these the part before "@" is a user or a container when there is no password: worth showing.
_NAMED_BEFORE_AT = frozenset({"abfs", "abfss", "az", "adl", "sftp", "ssh"})
# In these it is no secret either, and leads to the store.
_USER_BEFORE_AT = _NAMED_BEFORE_AT | {"ftp", "ftps", "hdfs", "webhdfs", "smb"}
# github://org:repo@ref is an address, not a login; the others have no host.
_NO_LOGIN = frozenset({"github", "file", "local", "memory"})
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
    # First those that are known: the shapes may end in the midst of one.
    pattern = _pattern
    if pattern is not None:
        text = pattern.sub(HIDDEN, text)
    if "://" in text:
        text = _USERINFO.sub(_shown_userinfo, text)
    if "=" in text:
        text = _QUERY.sub(_shown_parameter, text)
    return text


def _shown_userinfo(match: re.Match[str]) -> str:
    scheme, before = match[1].lower(), match[2]
    if ":" not in before and scheme in _NAMED_BEFORE_AT:
        return match[0]
    # Who gives a login all the same has it hidden, where it cannot be part of a path.
    if scheme in _NO_LOGIN and (scheme != "memory" or "/" in before):
        return match[0]
    return f"{match[1]}://{HIDDEN}@"


def _shown_parameter(match: re.Match[str]) -> str:
    return f"{match[1]}{HIDDEN}" if is_secret_name(unquote(match[2])) else match[0]


class _Login(NamedTuple):
    """The part of a URL before "@"; `begin` and `end` are its place in the URL."""

    scheme: str
    user: str
    password: str | None
    begin: int
    end: int


def _login_of(url: str) -> _Login | None:
    """The login of a text that is a URL from end to end: what is before the last "@" of its host.

    When a user and a colon come first, and no port, it may have slashes, and then ends at the last "@" of all.
    """
    scheme, separator, rest = url.partition("://")
    scheme = re.split("[+:]", scheme.lower())[-1]
    if not separator or _URL.match(url) is None or scheme in _NO_LOGIN or rest.startswith("arn:"):
        return None
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    login, at, _ = authority.rpartition("@")
    if not at and ":" in authority and not authority.startswith("[") and not _HOST_AND_PORT.match(rest):
        login, at, _ = rest.rpartition("@")
    if not at:
        return None
    user, colon, password = login.partition(":")
    begin = url.index("://") + len("://")
    return _Login(scheme, user, password if colon else None, begin, begin + len(login) + 1)


def without_url_secrets(url: str) -> str:
    """`url` for a file: without a password before the host and without parameters that are named like secrets.

    A user stays where users are no secrets: tokens are given in the same place of other URLs.
    """
    login = _login_of(url)
    if login is not None:
        user = f"{login.user}@" if login.scheme in _USER_BEFORE_AT and login.user else ""
        url = url[: login.begin] + user + url[login.end :]
    if "://" not in url:
        return url
    head, hash_mark, fragment = url.partition("#")
    kept = _PARAMETERS.sub(lambda match: "" if is_secret_name(unquote(match[1])) else match[0], head)
    if "?" in head and "?" not in kept:
        # The first parameter is gone, and with it what begins them.
        begin = head.index("?")
        kept = kept[:begin] + kept[begin:].replace("&", "?", 1)
    return kept + hash_mark + fragment


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
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            yield from _secrets_of(inner, is_secret=is_secret)
    elif isinstance(value, (bytes, bytearray)):
        yield from _secrets_of(value.decode("utf-8", "backslashreplace"), is_secret=is_secret)
    elif isinstance(value, str):
        if is_secret and value:
            yield value
        else:
            yield from _secrets_of_url(value)
    elif is_secret and isinstance(value, int) and not isinstance(value, bool):
        # A password of digits is a number in JSON.
        yield str(value)


def _secrets_of_url(url: str) -> Iterator[str]:
    yield from _secrets_of_login(url)
    for match in _USERINFO.finditer(url):
        if match[1].lower() not in _NO_LOGIN:
            _, colon, password = match[2].partition(":")
            if colon:
                yield password
    for pattern in (_QUERY, _PARAMETERS):
        for match in pattern.finditer(url):
            if is_secret_name(unquote(match[match.re.groups - 1])):
                yield match[match.re.groups]


def _secrets_of_login(url: str) -> Iterator[str]:
    """The secrets before "@" of a URL, whichever "@" was meant."""
    begins = _URL.match(url)
    if begins is None:
        return
    is_mistyped = not begins[0].endswith("://")
    # With one slash, or none: the message that tells so must not tell the password.
    whole = f"{begins[1]}://{url[begins.end() :].lstrip('/')}" if is_mistyped else url
    login = _login_of(whole)
    if login is not None and login.password:
        yield login.password
        # A backend that takes the first part for a host or a bucket tells of the parts.
        yield from re.split("[/?#@]", login.password)
    elif (
        login is not None and not is_mistyped and login.scheme not in _USER_BEFORE_AT and re.search("[0-9]", login.user)
    ):
        # Without a digit it is rather a name, which other texts have as well.
        yield login.user
    scheme, _, rest = whole.partition("://")
    scheme = re.split("[+:]", scheme.lower())[-1]
    greatest = re.match(r"([^/?#@:\[]*):(.+)@", rest, re.DOTALL)
    if greatest is None or scheme in _NO_LOGIN or rest.startswith("arn:"):
        return
    yield greatest[2]
    if len(greatest[2]) < _LEAST_REMEMBERED:
        yield f"//{greatest[1]}:{greatest[2]}"


def remember(url: str, options: Mapping[str, Any]) -> None:
    """Hide from now on, wherever they turn up, the secrets of a store that is about to be opened."""
    _remember([*_secrets_of_url(url), *secrets_in(options)])


def remember_arguments(arguments: Iterable[str]) -> None:
    """Hide from now on the secrets of the URLs among a command's arguments, also in ``--store=URL`` and ``KEY=URL``."""
    for argument in arguments:
        name = re.match(r"-*[\w.-]+=", argument)
        remember(argument[name.end() :] if name else argument, {})


def _forms_of(secret: str) -> set[str]:
    """`secret` in the forms that it gets in URLs, in `repr`, in JSON and on one line."""
    plain = unquote(secret)
    forms = {secret, plain}
    for text in (secret, plain):
        raw = text.encode("utf-8", "surrogatepass")
        forms |= {quote(raw), quote(raw, safe=""), repr(text)[1:-1], json.dumps(text)[1:-1]}
        # As `repr` shows it in a longer text with both kinds of quotes, and as an error does on its one line.
        forms |= {repr(text)[1:-1].replace("\\'", "'").replace("'", "\\'"), " ".join(text.split())}
    return forms


def _remember(found: Iterable[str]) -> None:
    global _pattern
    new = {
        form
        for text in found
        if len(text) >= _LEAST_REMEMBERED and text.lower() not in _NO_SECRETS
        for form in _forms_of(text)
        if len(form) >= _LEAST_REMEMBERED
    }
    with _lock:
        if new <= _given.keys():
            return
        _given.update(dict.fromkeys(new))
        while len(_given) > _MOST_REMEMBERED:
            del _given[next(iter(_given))]
        longest_first = sorted(_given, key=len, reverse=True)
        _pattern = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in longest_first))

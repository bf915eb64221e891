"""What the commands take in common: the store, addresses, KEY=VALUE, ``--json``; and the completion of addresses."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.shell_completion import CompletionItem

from artifactfs.errors import ArtifactError, InvalidName, NotFound

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.managers.base import ArtifactManager

STORE_VARIABLE = "ARTIFACTFS_STORE"
STORAGE_OPTION_HELP = "An option of the store, such as endpoint_url=http://host or single_writer=true; may be repeated."


class CommandError(ArtifactError):
    """A command cannot do what it was asked, for a reason that only the command line has."""


class NoAnswer(ArtifactError):
    """A command whose exit status is its answer (``diff``, ``verify``) could not find it out."""

    exit_status: ClassVar[int] = 2


@contextmanager
def answering() -> Iterator[None]:
    """Turn errors into NoAnswer, so that they are not taken for the answer."""
    try:
        yield
    except ArtifactError as error:
        raise NoAnswer(str(error)) from error


@dataclass(frozen=True)
class StoreChoice:
    """The store that the options name."""

    url: str | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def connect(self) -> ArtifactManager:
        """Open the store, which must be there. Raises CommandError (none was named), NotFound, and as `connect`."""
        from artifactfs.managers.urls import shown_url

        manager = connect(self._named(), self.options)
        if manager.is_made() is False:
            raise NotFound(f"no store at {shown_url(self._named())}: nothing is there ('put' and 'mount' make one)")
        return manager

    @contextmanager
    def to_write(self) -> Iterator[ArtifactManager]:
        """Open the store, which is made where it is missing; then that is told. Raises as `connect`, NotFound."""
        with connected_to_write(self._named(), self.options) as manager:
            yield manager

    def _named(self) -> str:
        if not self.url:
            raise CommandError(f"no store: give --store URL or set {STORE_VARIABLE}")
        return self.url


def connect(url: str, options: Mapping[str, Any]) -> ArtifactManager:
    """The manager of the store at `url`. Raises UnknownScheme, MissingDependency."""
    from artifactfs.managers.registry import connect as connect_to

    return connect_to(url, **options)


@contextmanager
def connected_to_write(url: str, options: Mapping[str, Any]) -> Iterator[ArtifactManager]:
    """Open the store at `url`, which is made where it is missing; then that is told, however the command ends.

    Raises as `connect`, and NotFound for what is most likely no place for a store.
    """
    from artifactfs.managers.urls import check_new_place, check_url, shown_url

    check_url(url)
    check_new_place(url)
    manager = connect(url, options)
    try:
        yield manager
    finally:
        if manager.made_store:
            click.echo(f"made a new store at {shown_url(url)}", err=True)


class AddressType(click.ParamType):  # type: ignore[type-arg]
    """An address, or a collection alone where `shortest` says so; completed from the store."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Parse; InvalidName passes through click, so that it is one line like every other error."""
        from artifactfs.address import parse_address

        return parse_address(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What the store has that begins so; nothing when it cannot be asked, because a prompt is no place to fail."""
        from artifactfs.commands.completion import complete_address

        store = StoreChoice(ctx.params.get("store_url"), nested(ctx.params.get("store_options") or ()))
        try:
            return [CompletionItem(found) for found in complete_address(store.connect(), incomplete)]
        except (ArtifactError, OSError):
            return []


ADDRESS = AddressType()


class LocalPath(click.Path):
    """A path of this machine. An empty one is refused: it would stand for the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the path as click does, but look at the file only where a condition on it was given.

        It may lie on a drive whose daemon hangs, and then whoever looks at it waits for ever.
        """
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        if self.file_okay and self.dir_okay and not self.exists:
            return self.coerce_path_result(value)
        return super().convert(value, param, ctx)


PATH = LocalPath()
DIRECTORY = LocalPath(file_okay=False)


class TextType(click.ParamType):  # type: ignore[type-arg]
    """A text that is kept in the store, and so is UTF-8."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what arrives in other bytes."""
        if not is_utf8(value):
            self.fail("the text is not UTF-8", param, ctx)
        return str(value)


TEXT = TextType()


def is_utf8(text: str) -> bool:
    """Tell whether a text of the command line came in UTF-8: other bytes are lone surrogates in it (PEP 383)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class UrlType(click.ParamType):  # type: ignore[type-arg]
    """The URL of a store. An empty one is refused: it would stand for the current directory."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Leave all else to whoever connects."""
        if not value.strip():
            self.fail("the URL is empty; a store is a directory or any fsspec URL", param, ctx)
        return str(value)


URL = UrlType()


def key_value(text: str) -> tuple[str, Any]:
    """``single_writer=true`` → ("single_writer", True): the value is read as JSON where it is JSON, else as text.

    A key may have parts, as in ``client_kwargs.region_name``: see :func:`nested`.
    """
    key, separator, value = text.partition("=")
    if not separator or not all(part.isidentifier() for part in key.split(".")):
        # The text may be a secret: it is not repeated.
        raise click.BadParameter("expected KEY=VALUE, with KEY a name")
    return key, json_or_text(value)


def nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The options that pairs of :func:`key_value` ask for: ``a.b=1`` sets b in the dictionary a.

    Raises click.BadParameter when a key is a value and a dictionary at once.
    """
    options: dict[str, Any] = {}
    for key, value in pairs:
        *above, last = key.split(".")
        inner = options
        for part in above:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise click.BadParameter(f"{key} goes below an option that has a value of its own")
        inner[last] = value
    return options


def json_or_text(value: str) -> Any:
    """The JSON value that `value` is, else itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def metadata_of(text: str) -> dict[str, Any]:
    """``epoch=3`` → {"epoch": 3}; a JSON object is taken whole."""
    if not is_utf8(text):
        raise click.BadParameter("the text is not UTF-8")
    if text.lstrip().startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise click.BadParameter(f"not a JSON object: {error}") from None
        return found
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.BadParameter("expected KEY=VALUE or a JSON object")
    return {key: json_or_text(value)}


message_option = click.option("-m", "--message", type=TEXT, default="", help="What to remember about the version.")
aliases_option = click.option(
    "--alias", "aliases", multiple=True, metavar="NAME", help="Give the version this name; may be repeated."
)
metadata_option = click.option(
    "--metadata",
    type=metadata_of,
    multiple=True,
    callback=lambda _context, _option, given: {key: value for each in given for key, value in each.items()},
    metavar="KEY=VALUE|JSON",
    help="Remember this with the version: VALUE is JSON where it is JSON, else text; may be repeated.",
)


def store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--store`` and ``--storage-option``; the command gets them as one argument `store`, a StoreChoice."""

    @functools.wraps(command)
    def with_store(*, store_url: str | None, store_options: tuple[tuple[str, Any], ...], **given: Any) -> None:
        command(store=StoreChoice(store_url, nested(store_options)), **given)

    option = click.option(
        "--storage-option",
        "store_options",
        type=key_value,
        metavar="KEY=VALUE",
        multiple=True,
        help=STORAGE_OPTION_HELP,
    )
    store = click.option(
        "--store",
        "store_url",
        metavar="URL",
        envvar=STORE_VARIABLE,
        # Before the address, whatever their order: it is completed from this store.
        is_eager=True,
        help=f"The store: a directory or any fsspec URL.  [default: ${STORE_VARIABLE}]",
    )
    return store(option(with_store))


def seconds(text: str) -> float:
    """``7.5`` → 7.5: a time to wait."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise click.BadParameter(f"{text!r} is not a number of seconds from 0")
    return found


def size_in_bytes(text: str) -> int:
    """``500M`` → 524288000: bytes, or with K, M, G or T a power of 1024."""
    match = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size, such as 500M or 1G")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


cache_dir_option = click.option("--cache-dir", type=DIRECTORY, help="The cache directory given to 'artifactfs mount'.")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def artifact_of(address: Address) -> str:
    """The artifact of an address that must have one. Raises InvalidName."""
    if address.artifact is None:
        raise InvalidName(f"{address} names a collection only: say which artifact, as in {address}/NAME")
    return address.artifact


def refuse_path(address: Address, what: str) -> None:
    """Raises InvalidName when the address goes on into the version."""
    if address.path is not None:
        raise InvalidName(f"{address}: {what} takes a version, without a path")


def refuse_version(address: Address, what: str) -> None:
    """Raises InvalidName when the address names a version."""
    if address.version is not None:
        raise InvalidName(f"{address}: {what} takes an artifact, without a version")

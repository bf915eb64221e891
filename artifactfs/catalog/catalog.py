"""Catalog: the mapping from identifiers to the numbered versions of a source.

Neighbours: `source` (what is filed), `text` and `io` (YAML, loaded when first needed), `drivers`. No locking: see the
package. Every set operation returns a new catalog that shares nothing with its inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from artifactfs.catalog.source import Source
from artifactfs.errors import FormatError

LATEST_VERSION = -1
"""As a version in a key: the highest one there is."""

_Default = TypeVar("_Default")


class CatalogKey(NamedTuple):
    """What names one source of a catalog."""

    identifier: str
    version: int = LATEST_VERSION


class CatalogSource(Source):
    """A source with its place in a catalog: identifier, version, and the other versions of the identifier.

    ``source[2]`` is version 2, ``source[-1]`` the latest; ``source[3] = Source(…)`` adds one and ``del source[3]``
    takes one away, in the catalog as well.
    """

    def __init__(
        self,
        source: Source,
        identifier: str,
        catalog: Catalog | None = None,
        version: int = 1,
        versions: dict[int, CatalogSource] | None = None,
    ) -> None:
        """Wrap `source`; without `versions` it is the only version there is."""
        super().__init__(source.driver_name, source.driver_kwargs, source.metadata)
        self._identifier = identifier
        self._version = _check_version(version)
        self._catalog = catalog
        self._versions = {version: self} if versions is None else versions

    @property
    def identifier(self) -> str:
        """Usually ``collection/artifact``."""
        return self._identifier

    @property
    def version(self) -> int:
        """Counted from 1."""
        return self._version

    @property
    def versions(self) -> Mapping[int, CatalogSource]:
        """Every version of the identifier by number; a live, read-only view."""
        return MappingProxyType(self._versions)

    def get_driver(self, **kwargs: Any) -> Any:
        """Make the driver that reads this source; `kwargs` go over ``driver_kwargs``.

        ``storage_options`` are merged, so credentials can be added without repeating the rest. Nothing is opened yet.

        Raises:
            ValueError: no driver of that name is registered.
        """
        from artifactfs.catalog.drivers import make_driver

        options = {**(self.driver_kwargs.get("storage_options") or {}), **(kwargs.get("storage_options") or {})}
        return make_driver(
            self.driver_name, {**self.driver_kwargs, **kwargs, "storage_options": options, "catalog": self._catalog}
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CatalogSource):
            return NotImplemented
        return (self._identifier, self._version) == (other._identifier, other._version) and _same(self, other)

    # Mutable and compared by value, like Source.
    __hash__ = None  # type: ignore[assignment]

    def _shown(self) -> dict[str, Any]:
        place = {"identifier": self._identifier, "version": self._version, "versions": sorted(self._versions)}
        return {**super()._shown(), **place}

    def __len__(self) -> int:
        return len(self._versions)

    def __iter__(self) -> Iterator[CatalogSource]:
        return (source for _, source in sorted(self._versions.items()))

    def __contains__(self, version: int) -> bool:
        return version in self._versions or (version == LATEST_VERSION and bool(self._versions))

    def __getitem__(self, version: int) -> CatalogSource:
        return _pick(self._versions, self._identifier, version)

    def __setitem__(self, version: int, source: Source) -> None:
        self._versions[version] = CatalogSource(
            _check_source(source), self._identifier, self._catalog, _check_version(version), self._versions
        )

    def __delitem__(self, version: int) -> None:
        del self._versions[self[version].version]
        if not self._versions and self._catalog is not None:
            self._catalog._drop_empty(self._identifier)


class UnsetSource:
    """What ``catalog[identifier]`` gives before the identifier has a version, so that one can be assigned to it."""

    def __init__(self, identifier: str, catalog: Catalog) -> None:
        self._identifier = identifier
        self._catalog = catalog

    @property
    def identifier(self) -> str:
        """The identifier that has no version yet."""
        return self._identifier

    @property
    def versions(self) -> Mapping[int, CatalogSource]:
        """Empty."""
        return MappingProxyType({})

    def __repr__(self) -> str:
        return f"<no version of {self._identifier!r} yet>"

    def __contains__(self, version: object) -> bool:
        return False

    def __getitem__(self, version: int) -> CatalogSource:
        raise KeyError(f"the catalog has no source {self._identifier!r}")

    def __setitem__(self, version: int, source: Source) -> None:
        self._catalog[self._identifier, version] = source


class Catalog:
    """Sources by identifier and version.

    ``catalog[id]`` is the latest version, ``catalog[id][2]`` and ``catalog[id, 2]`` version 2. Assigning to
    ``catalog[id]`` adds the next version; assigning to ``catalog[id][2]`` or ``catalog[id, 2]`` sets that one, also of
    an identifier that is new. As in squirrel, iterating gives (identifier, latest source) pairs, like :meth:`items`.
    """

    def __init__(self) -> None:
        self._sources: dict[str, dict[int, CatalogSource]] = {}

    # -- access -----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str | tuple[str, int]) -> CatalogSource:
        """A source; for an identifier without any, an :class:`UnsetSource` that takes versions.

        Raises:
            KeyError: the key names a version, and it is not there.
        """
        identifier, version = _split(key)
        if identifier in self._sources:
            return _pick(self._sources[identifier], identifier, version)
        if isinstance(key, str):
            # Typed as a source, as squirrel does: callers that look one up would otherwise have to narrow every time.
            return cast(CatalogSource, UnsetSource(identifier, self))
        raise KeyError(f"the catalog has no source {identifier!r}")

    def __setitem__(self, key: str | tuple[str, int], source: Source) -> None:
        identifier, version = _split(key)
        if not isinstance(identifier, str) or not identifier:
            raise TypeError(f"a catalog identifier is a non-empty string, not {identifier!r}")
        versions = self._sources.get(identifier, {})
        if isinstance(key, str):
            version = max(versions, default=0) + 1
        versions[version] = CatalogSource(_check_source(source), identifier, self, _check_version(version), versions)
        self._sources[identifier] = versions

    def __delitem__(self, key: str | tuple[str, int]) -> None:
        """Delete one version, or with an identifier alone all of them. Raises KeyError."""
        identifier, version = _split(key)
        if identifier not in self._sources:
            raise KeyError(f"the catalog has no source {identifier!r}")
        if isinstance(key, str):
            del self._sources[identifier]
        else:
            del _pick(self._sources[identifier], identifier, LATEST_VERSION)[version]

    def __contains__(self, key: str | tuple[str, int]) -> bool:
        identifier, version = _split(key)
        versions = self._sources.get(identifier, {})
        return version in versions or (version == LATEST_VERSION and bool(versions))

    def __iter__(self) -> Iterator[tuple[str, CatalogSource]]:
        return ((identifier, self[identifier]) for identifier in list(self._sources))

    def __len__(self) -> int:
        """How many identifiers there are."""
        return len(self._sources)

    def items(self) -> Iterator[tuple[str, CatalogSource]]:
        """(identifier, latest source) pairs."""
        return iter(self)

    def keys(self) -> KeysView[str]:
        """The identifiers."""
        return self._sources.keys()

    def values(self) -> Iterator[CatalogSource]:
        """The latest source of every identifier."""
        return (source for _, source in self)

    def get(self, key: str | tuple[str, int], default: _Default | None = None) -> CatalogSource | _Default | None:
        """The source, or `default` where there is none."""
        # ruff takes this for a dict's get; self[key] never fails for a missing identifier, so it is not.
        return self[key] if key in self else default  # noqa: SIM401

    @property
    def sources(self) -> dict[str, CatalogSource]:
        """The latest source by identifier."""
        return dict(iter(self))

    def __repr__(self) -> str:
        return str(sorted(self._sources, key=str.lower))

    def __eq__(self, other: object) -> bool:
        return self._sources == other._sources if isinstance(other, Catalog) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def all_versions(self) -> Iterator[CatalogSource]:
        """Every version: identifiers in the order they were added, the versions of each ascending."""
        return (source for versions in list(self._sources.values()) for _, source in sorted(versions.items()))

    def _drop_empty(self, identifier: str) -> None:
        if not self._sources.get(identifier, True):
            del self._sources[identifier]

    # -- sets of (identifier, version) ------------------------------------------------------------------------------

    def copy(self) -> Catalog:
        """A deep copy."""
        return _catalog_of(self.all_versions())

    def slice(self, keys: Iterable[str]) -> Catalog:
        """A deep copy with these identifiers only, all their versions. Raises KeyError for one that is not there."""
        wanted = list(keys)
        for key in wanted:
            if key not in self._sources:
                raise KeyError(f"the catalog has no source {key!r}")
        return _catalog_of(source for key in wanted for source in self._sources[key].values())

    def filter(self, predicate: Callable[[CatalogSource], bool]) -> Catalog:
        """A deep copy of every version for which `predicate` holds."""
        return _catalog_of(source for source in self.copy().all_versions() if predicate(source))

    def union(self, other: Catalog) -> Catalog:
        """What is in either; where both have a version, `other`'s."""
        return _catalog_of([*self.all_versions(), *other.all_versions()])

    def join(self, other: Catalog) -> Catalog:
        """The union of catalogs that have no version in common.

        Raises:
            ValueError: they have; the message names them.
        """
        common = [_name(source) for source in other.all_versions() if _key(source) in self]
        if common:
            raise ValueError(f"cannot join catalogs that both have {_some(common)}; union() lets the second one win")
        return self.union(other)

    def difference(self, other: Catalog) -> Catalog:
        """What is in one of the two but not in both (as in squirrel: the symmetric difference)."""
        mine = [source for source in self.all_versions() if _key(source) not in other]
        return _catalog_of([*mine, *(source for source in other.all_versions() if _key(source) not in self)])

    def intersection(self, other: Catalog) -> Catalog:
        """What is in both.

        Raises:
            ValueError: a version is a different source in each; the message names it.
        """
        common = [source for source in self.all_versions() if _key(source) in other]
        differing = [_name(source) for source in common if source != other[_key(source)]]
        if differing:
            raise ValueError(f"the catalogs disagree about {_some(differing)}")
        return _catalog_of(common)

    # -- YAML -------------------------------------------------------------------------------------------------------

    @staticmethod
    def from_str(cat: str) -> Catalog:
        """Read the YAML form, squirrel's or ours; nothing in it is executed. Raises FormatError."""
        from artifactfs.catalog.text import catalog_from_text

        return catalog_from_text(cat)

    @staticmethod
    def from_files(
        paths: Iterable[str | os.PathLike[str]], *, storage_options: Mapping[str, Any] | None = None
    ) -> Catalog:
        """Join the catalogs in YAML files at paths or fsspec URLs.

        Raises:
            FormatError: a file is not a catalog.
            ValueError: two files have the same version of an identifier.
            PathNotFound, AccessDenied, StoreUnreachable: a file cannot be read.
        """
        from artifactfs.catalog.io import read_text

        catalog = Catalog()
        for path in paths:
            text = read_text(os.fspath(path), storage_options)
            try:
                catalog = catalog.join(Catalog.from_str(text))
            except FormatError as error:
                raise FormatError(f"{path}: {error}") from error
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        return catalog

    @staticmethod
    def from_dirs(
        paths: Iterable[str | os.PathLike[str]], *, storage_options: Mapping[str, Any] | None = None
    ) -> Catalog:
        """Join the catalogs in every ``*.yaml`` directly in these directories. Raises as :meth:`from_files`."""
        from artifactfs.catalog.io import yaml_files_in

        files = [file for path in paths for file in yaml_files_in(os.fspath(path), storage_options)]
        return Catalog.from_files(files, storage_options=storage_options)

    def to_str(self) -> str:
        """The YAML form; credentials in ``storage_options`` are left out. Raises SerializationError."""
        from artifactfs.catalog.text import catalog_to_text

        return catalog_to_text(self)

    def to_file(self, path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> None:
        """Write :meth:`to_str` to a path or fsspec URL. Raises SerializationError, AccessDenied, StoreUnreachable."""
        from artifactfs.catalog.io import write_text

        write_text(os.fspath(path), self.to_str(), storage_options)


def _split(key: str | tuple[str, int]) -> tuple[str, int]:
    if isinstance(key, str):
        return key, LATEST_VERSION
    identifier, version = key
    return identifier, version


def _pick(versions: Mapping[int, CatalogSource], identifier: str, version: int) -> CatalogSource:
    wanted = max(versions, default=LATEST_VERSION) if version == LATEST_VERSION else version
    if wanted not in versions:
        raise KeyError(f"{identifier!r} has no version {version!r}; it has {sorted(versions)}")
    return versions[wanted]


def _check_version(version: int) -> int:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"a catalog version is an integer from 1, not {version!r} (v0 of an artifact is 1)")
    return version


def _check_source(source: Source) -> Source:
    if not isinstance(source, Source):
        raise TypeError(f"a catalog holds Source objects, not {type(source).__name__}")
    return source


def _same(one: Source, other: Source) -> bool:
    return (one.driver_name, one.driver_kwargs, one.metadata) == (
        other.driver_name,
        other.driver_kwargs,
        other.metadata,
    )


def _key(source: CatalogSource) -> tuple[str, int]:
    return source.identifier, source.version


def _name(source: CatalogSource) -> str:
    return f"{source.identifier!r} version {source.version}"


def _some(found: list[str]) -> str:
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _catalog_of(sources: Iterable[CatalogSource]) -> Catalog:
    catalog = Catalog()
    for source in sources:
        catalog[_key(source)] = Source(source.driver_name, deepcopy(source.driver_kwargs), deepcopy(source.metadata))
    return catalog

"""The YAML form of a catalog: squirrel's ``!YamlCatalog`` holding ``!YamlSource`` entries.

`catalog` calls :func:`catalog_to_text` and :func:`catalog_from_text`; nobody else needs the form. What is read may be
hostile: only plain values are built, and aliases cannot blow a small file up. Pure functions, safe from any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from io import StringIO
from typing import Any

# ruamel.yaml rather than PyYAML: squirrel writes YAML 1.2, where the string yes is written bare; PyYAML is YAML 1.1
# and would read it as True, and would write the string 0o17 in a form that squirrel reads as 15.
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from artifactfs.catalog.catalog import Catalog, CatalogKey, CatalogSource
from artifactfs.catalog.source import Source, without_option_secrets
from artifactfs.errors import FormatError, SerializationError

# The release of squirrel-core whose form this is. squirrel reads catalogs of 0.4 and later.
WRITTEN_VERSION = "0.20.2"
_OLDEST_READABLE = (0, 4)
# With YAML aliases a few hundred bytes can stand for gigabytes; an honest catalog repeats itself a few times at most.
_VALUES_PER_CHARACTER = 20
_MAX_MERGED_KEYS = 10_000


class _YamlSource(dict[str, Any]):
    """The fields of a !YamlSource."""


class _YamlCatalog(dict[str, Any]):
    """The fields of a !YamlCatalog."""


_LINE_SEPARATORS = set("\x85\u2028\u2029")
_SOURCE_FIELDS = {"identifier", "driver_name", "driver_kwargs", "version", "metadata"}


class _Constructor(SafeConstructor):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Refuse a value that contains itself; ruamel.yaml 0.19 would put None in its place."""
        if node in self.recursive_objects and node not in self.constructed_objects:
            raise ConstructorError(None, None, "a value contains itself", node.start_mark)
        return super().construct_object(node, deep=deep)

    def flatten_mapping(self, node: Any) -> Any:
        """Apply merge keys, which can multiply like aliases do."""
        merged = super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED_KEYS:
            raise ConstructorError(None, None, f"a mapping of more than {_MAX_MERGED_KEYS} keys", node.start_mark)
        return merged


class _Representer(SafeRepresenter):
    def represent_float(self, data: float) -> Any:
        """Write without an exponent: squirrel's reader loses the last bit of 6.889540876896961e+16."""
        shown = repr(data)
        if "e" not in shown:
            return super().represent_float(data)
        shown = format(Decimal(shown), "f")
        return self.represent_scalar("tag:yaml.org,2002:float", shown if "." in shown else shown + ".0")

    def represent_str(self, data: str) -> Any:
        """Escape line separators: ruamel.yaml 0.19 writes U+0085 in single quotes and reads it back as a space."""
        style = '"' if _LINE_SEPARATORS & set(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


def _mapping_as(kind: type[dict[str, Any]]) -> Any:
    def construct(constructor: SafeConstructor, node: Node) -> Any:
        if not isinstance(node, MappingNode):
            raise ConstructorError(None, None, f"expected a mapping for {node.tag}", node.start_mark)
        return kind(constructor.construct_mapping(node, deep=True))

    return construct


def _construct_key(constructor: SafeConstructor, node: Node) -> CatalogKey:
    fields = constructor.construct_sequence(node, deep=True) if isinstance(node, SequenceNode) else []
    match fields:
        case [str(identifier)]:
            return CatalogKey(identifier)
        case [str(identifier), int(version)]:
            return CatalogKey(identifier, version)
    raise ConstructorError(None, None, "expected [identifier, version] for !CatalogKey", node.start_mark)


_Constructor.add_constructor("!YamlCatalog", _mapping_as(_YamlCatalog))
_Constructor.add_constructor("!YamlSource", _mapping_as(_YamlSource))
_Constructor.add_constructor("!CatalogKey", _construct_key)
_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(_YamlCatalog, lambda r, value: r.represent_mapping("!YamlCatalog", dict(value)))
_Representer.add_representer(_YamlSource, lambda r, value: r.represent_mapping("!YamlSource", dict(value)))
_Representer.add_representer(CatalogKey, lambda r, value: r.represent_sequence("!CatalogKey", list(value)))


def _yaml() -> Any:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1 << 20
    return yaml


# -- writing -----------------------------------------------------------------------------------------------------------


def catalog_to_text(catalog: Catalog) -> str:
    """The YAML form. The same catalog, filled in the same order, gives the same text.

    Raises:
        SerializationError: driver arguments or metadata hold something YAML has no plain form for.
    """
    sources = [_source_fields(source) for source in catalog.all_versions()]
    stream = StringIO()
    _yaml().dump(_YamlCatalog(version=WRITTEN_VERSION, sources=sources), stream)
    return stream.getvalue()


def _source_fields(source: CatalogSource) -> _YamlSource:
    try:
        return _YamlSource(
            identifier=_plain(source.identifier),
            driver_name=_plain(source.driver_name),
            driver_kwargs=_plain(without_option_secrets(source.driver_kwargs)),
            version=source.version,
            metadata=_plain(source.metadata),
        )
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise SerializationError(
            f"cannot write {source.identifier!r} version {source.version} to a catalog file: {error}; "
            "use strings, numbers, booleans, None, dates, lists and dicts"
        ) from error


class _Budget:
    """How many values may still be built."""

    def __init__(self, values: int) -> None:
        self.values = values

    def spend(self) -> None:
        self.values -= 1
        if self.values < 0:
            raise FormatError("hostile catalog: aliases make it far larger than its text")


def _plain(value: Any, budget: _Budget | None = None) -> Any:
    """A copy made of YAML's plain values only, nothing in it shared. Raises TypeError, UnicodeEncodeError."""
    if budget is not None:
        budget.spend()
    if value is None or isinstance(value, (bool, datetime, date, bytes)):
        return value
    if isinstance(value, str):
        value.encode()
        return str(value)
    for number in (int, float):
        if isinstance(value, number):
            return number(value)
    if isinstance(value, CatalogKey):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, budget) for item in value]
    if isinstance(value, Mapping):
        return {_plain_key(key): _plain(item, budget) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no plain YAML form")


def _plain_key(key: Any) -> Any:
    if isinstance(key, (list, tuple, Mapping)):
        raise TypeError(f"a {type(key).__name__} cannot be a key")
    return _plain(key)


# -- reading -----------------------------------------------------------------------------------------------------------


def catalog_from_text(text: str) -> Catalog:
    """Read the YAML form. Raises FormatError when it is damaged, hostile or not a catalog."""
    try:
        root = _yaml().load(text)
    except YAMLError as error:
        raise FormatError(f"not a catalog: {_first_lines(error)}") from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError) as error:
        # The parser lets these through for scalars that only look like a date or a number, and for broken tags.
        raise FormatError(f"damaged catalog: {error}") from error
    except RecursionError as error:
        raise FormatError("damaged or hostile catalog: nested too deeply") from error
    if not isinstance(root, _YamlCatalog):
        raise FormatError(f"not a catalog: expected !YamlCatalog at the top, found {type(root).__name__}")
    _check_form(root)
    budget = _Budget(1000 + _VALUES_PER_CHARACTER * len(text))
    catalog = Catalog()
    for number, fields in enumerate(root.get("sources") or [], start=1):
        try:
            _add_source(catalog, fields, budget)
        except FormatError as error:
            raise FormatError(f"source {number} of the catalog: {error}") from error
        except (TypeError, UnicodeEncodeError, RecursionError) as error:
            raise FormatError(f"damaged catalog: source {number}: {error}") from error
    return catalog


def _check_form(root: _YamlCatalog) -> None:
    version = root.get("version", WRITTEN_VERSION)
    found = re.match(r"(\d{1,9})\.(\d{1,9})", version) if isinstance(version, str) else None
    if found is None:
        raise FormatError(f"damaged catalog: version {version!r} is not a version such as {WRITTEN_VERSION}")
    if (int(found[1]), int(found[2])) < _OLDEST_READABLE:
        raise FormatError(f"the catalog was written by squirrel {version}; 0.4 is the oldest that can be read")
    unknown = set(root) - {"version", "sources"}
    if unknown:
        raise FormatError(f"damaged catalog, or written by a newer program: unknown fields {sorted(map(str, unknown))}")
    if not isinstance(root.get("sources") or [], list):
        raise FormatError("damaged catalog: sources is not a list")


def _add_source(catalog: Catalog, fields: Any, budget: _Budget) -> None:
    if not isinstance(fields, _YamlSource):
        raise FormatError(f"expected !YamlSource, found {type(fields).__name__}")
    unknown = set(fields) - _SOURCE_FIELDS
    if unknown:
        raise FormatError(f"unknown fields {sorted(map(str, unknown))}: damaged, or written by a newer program")
    identifier, driver_name = fields.get("identifier"), fields.get("driver_name")
    version = fields.get("version", 1)
    if not isinstance(identifier, str) or not identifier or not isinstance(driver_name, str):
        raise FormatError("identifier and driver_name must be strings")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{identifier!r}: version {version!r} is not an integer from 1")
    if (identifier, version) in catalog:
        raise FormatError(f"{identifier!r} version {version} occurs twice")
    arguments = {}
    for name in ("driver_kwargs", "metadata"):
        value = fields.get(name)
        if value is not None and (not isinstance(value, dict) or not all(isinstance(key, str) for key in value)):
            raise FormatError(f"{identifier!r}: {name} is not a mapping with names as keys")
        arguments[name] = _plain(value or {}, budget)
    catalog[identifier, version] = Source(driver_name, arguments["driver_kwargs"], arguments["metadata"])


def _first_lines(error: YAMLError) -> str:
    return " ".join(str(error).split())[:300]

"""squirrel-core reads the catalogs we write, and we read the ones it writes: values equal, both ways."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from exchange import build, describe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactfs.catalog import Catalog, Source, source_of
from artifactfs.managers.base import VersionInfo

HARD_TEXTS = (
    ["yes", "no", "on", "~", "null", "0o17", "0x1f", "012", "1:30", "1_000", "1e3", ".inf", "2024-01-01", "<<", "=",
     "-", "- a", "a: b", "a #b", "# a", "!a", "&a", "*a", "%a", "@a", "`", " lead", "trail ", "a\nb\n", "\n", "\ta",
     "é\u2028", "...", "---", "!YamlSource", "{", "[]", "'", '"', "a" * 200 + " " + "b" * 200]
)  # fmt: skip
FLOATS = st.floats(allow_nan=False)
# What squirrel does not read back from its own files: ruamel's round-trip reader computes floats with an exponent to
# the last bit but one, and its writer puts these line separators where its reader folds them.
KEPT_FLOATS = (
    st.floats(1e-4, 1e16, exclude_max=True)
    | st.floats(-1e16, -1e-4, exclude_min=True)
    | st.sampled_from([0.0, -0.0, float("inf"), float("-inf")])
)
SEPARATORS = "\x85\u2028\u2029"


def texts_without(characters: str) -> st.SearchStrategy[str]:
    hard = [text for text in HARD_TEXTS if not set(characters) & set(text)]
    drawn = st.characters(exclude_categories=["Cs"], exclude_characters=characters)
    return st.text(drawn, max_size=30) | st.sampled_from(hard)


NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,12}", fullmatch=True).filter(lambda name: name != "storage_options")


def rows(texts, floats):
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | floats | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=10,
    )
    arguments = st.dictionaries(NAMES, values, max_size=4)
    keys = st.tuples(texts.filter(bool), st.integers(1, 9))
    return st.dictionaries(keys, st.tuples(texts, arguments, arguments), max_size=4)


ROWS = rows(texts_without(""), FLOATS)
ROWS_SQUIRREL_KEEPS = rows(texts_without(SEPARATORS), KEPT_FLOATS)

many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def rows_of(catalog: Catalog) -> list:
    return [
        [s.identifier, s.version, s.driver_name, describe(s.driver_kwargs), describe(s.metadata)]
        for s in catalog.all_versions()
    ]


def catalog_of(contents) -> Catalog:
    catalog = Catalog()
    for (identifier, version), (driver_name, driver_kwargs, metadata) in contents.items():
        catalog[identifier, version] = Source(driver_name, driver_kwargs, metadata)
    return catalog


@many
@given(ROWS)
def test_squirrel_reads_what_we_write(squirrel, contents):
    catalog = catalog_of(contents)
    assert sorted(squirrel.call("read_catalog_text", catalog.to_str()), key=str) == sorted(rows_of(catalog), key=str)


@many
@given(ROWS_SQUIRREL_KEEPS)
def test_we_read_what_squirrel_writes(squirrel, tmp_path, contents):
    path = str(tmp_path / "catalog.yaml")
    squirrel.call("write_catalog", rows_of(catalog_of(contents)), path)
    ours = sorted(rows_of(Catalog.from_files([path])), key=str)
    assert ours == sorted(squirrel.call("read_catalog_files", [path]), key=str)
    assert ours == sorted(rows_of(catalog_of(contents)), key=str)


def test_a_catalog_of_versions_goes_there_and_back(squirrel, tmp_path):
    infos = [
        VersionInfo(
            "models", "resnet", f"v{i}", 1_714_564_800_123_456_789 + i, 10**i, i, digest=None, message="a: 'b'\n"
        )
        for i in range(4)
    ]
    catalog = Catalog()
    for info in infos:
        catalog[f"{info.collection}/{info.artifact}", info.number + 1] = source_of(
            "s3://bucket/store", info, {"anon": True, "secret": "hush"}, ["best"]
        )
    ours, theirs = str(tmp_path / "ours.yaml"), str(tmp_path / "theirs.yaml")
    catalog.to_file(ours)
    squirrel.call("write_catalog", squirrel.call("read_catalog_files", [ours]), theirs)
    assert Catalog.from_files([theirs]) == catalog
    assert catalog["models/resnet"].version == 4
    assert catalog["models/resnet", 2].metadata["version"] == "v1"


def test_a_catalog_written_by_hand_reads_the_same(squirrel):
    text = """
    !YamlCatalog
    version: 0.4.0
    sources:
    - !YamlSource
      identifier: cs
      driver_name: csv
      driver_kwargs: &shared
        url: yes   # a string in YAML 1.2
        when: 2024-05-01T12:00:00Z
        mode: 0o17
    - !YamlSource
      identifier: cs
      version: 7
      driver_name: csv
      driver_kwargs: {<<: *shared, url: other}
    """
    catalog = Catalog.from_str(text)
    theirs = {(row[0], row[1]): row for row in squirrel.call("read_catalog_text", text)}
    assert set(theirs) == {("cs", 1), ("cs", 7)}
    for source in catalog.all_versions():
        kwargs = build({"dict": [pair for pair in theirs["cs", source.version][3]["dict"] if "date" not in pair[1]]})
        when = source.driver_kwargs.pop("when")
        assert when in (datetime(2024, 5, 1, 12), datetime(2024, 5, 1, 12, tzinfo=timezone.utc))
        kwargs.pop("when", None)
        assert source.driver_kwargs == kwargs
        assert source.driver_kwargs["mode"] == 15


@pytest.mark.parametrize("text", ["!YamlCatalog {version: 0.3.9, sources: []}", "a: 1", "!Other {}"])
def test_what_squirrel_refuses_we_refuse(squirrel, text):
    from tests.squirrel.client import SquirrelError

    with pytest.raises(SquirrelError):
        squirrel.call("read_catalog_text", text)
    with pytest.raises(ValueError, match="catalog"):
        Catalog.from_str(text)

"""Catalogs: squirrel's mapping and set operations, the YAML form in the face of damage and malice, and drivers."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import fsspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import artifactfs
from artifactfs.catalog import (
    Catalog,
    CatalogKey,
    CatalogSource,
    Source,
    UnsetSource,
    VersionAddress,
    catalog_key,
    format_version_url,
    parse_version_url,
    register_driver,
    source_of,
)
from artifactfs.errors import (
    FormatError,
    InvalidName,
    PathNotFound,
    SerializationError,
    StoreUnreachable,
    UnknownScheme,
)
from artifactfs.managers.base import VersionInfo
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.redaction import without_secrets, without_url_secrets


def csv(url: str) -> Source:
    return Source("csv", {"url": url})


INFO = VersionInfo("models", "resnet", "v3", 1_714_564_800_123_456_789, 2048, 2, digest="ab" * 32, message="tuned")


# -- the mapping ------------------------------------------------------------------------------------------------------


def four_versions() -> Catalog:
    catalog = Catalog()
    catalog["s"] = csv("1")
    catalog["s"][catalog["s"].version + 1] = csv("2")
    catalog["s", catalog["s"].version + 1] = csv("3")
    catalog[CatalogKey("s", 4)] = csv("4")
    return catalog


def test_every_form_of_assignment_and_access():
    catalog = four_versions()
    assert list(catalog["s"].versions) == [1, 2, 3, 4]
    for version in range(1, 5):
        assert ("s", version) in catalog
        assert CatalogKey("s", version) in catalog
        assert version in catalog["s"]
        assert catalog["s"][version] == catalog["s", version] == catalog[CatalogKey("s", version)]
        assert catalog["s", version].driver_kwargs == {"url": str(version)}
    assert catalog["s"] == catalog["s"][-1] == catalog["s", -1] == catalog[CatalogKey("s")]
    assert ("s", -1) in catalog
    assert ("s", 9) not in catalog
    assert [source.version for source in catalog["s"]] == [1, 2, 3, 4]
    assert len(catalog["s"]) == 4


def test_assigning_again_adds_the_next_version():
    catalog = Catalog()
    catalog["s", 7] = csv("7")
    catalog["s"] = csv("8")
    assert catalog["s"].version == 8
    catalog["s", 7] = csv("seven")
    assert catalog["s", 7].driver_kwargs == {"url": "seven"}
    assert catalog["s"].version == 8


def test_an_identifier_without_versions_takes_them():
    catalog = Catalog()
    unset = catalog["new"]
    assert isinstance(unset, UnsetSource)
    assert unset.identifier == "new"
    assert 1 not in unset
    assert not unset.versions
    assert "new" not in catalog
    with pytest.raises(KeyError, match="new"):
        unset[1]
    catalog["new"][3] = csv("3")
    assert list(catalog["new"].versions) == [3]


def test_a_stale_placeholder_does_not_drop_versions():
    catalog = Catalog()
    unset = catalog["new"]
    catalog["new"] = csv("1")
    unset[2] = csv("2")
    assert list(catalog["new"].versions) == [1, 2]


def test_deletion():
    catalog = four_versions()
    del catalog["s"][1]
    del catalog["s", 2]
    del catalog[CatalogKey("s", 4)]
    assert list(catalog["s"].versions) == [3]
    del catalog["s"][-1]
    assert "s" not in catalog
    assert len(catalog) == 0
    catalog = four_versions()
    del catalog["s"]
    assert "s" not in catalog
    for key in ("s", ("s", 1)):
        with pytest.raises(KeyError):
            del catalog[key]


@pytest.mark.parametrize("key", [("s", 9), ("other", 1), ("s", "1"), (1337, 1), (1337, -1)])
def test_a_missing_version_is_a_key_error(key):
    with pytest.raises(KeyError):
        four_versions()[key]


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_versions_are_integers_from_one(version):
    catalog = four_versions()
    with pytest.raises(ValueError, match="integer from 1"):
        catalog["s", version] = csv("x")
    with pytest.raises(ValueError, match="integer from 1"):
        catalog["s"][version] = csv("x")
    with pytest.raises(ValueError, match="integer from 1"):
        catalog["new"][version] = csv("x")
    assert catalog == four_versions()


def test_only_sources_and_text_identifiers_are_taken():
    catalog = Catalog()
    with pytest.raises(TypeError, match="Source"):
        catalog["s"] = {"driver_name": "csv"}
    with pytest.raises(TypeError, match="identifier"):
        catalog[7, 1] = csv("x")
    with pytest.raises(TypeError):
        catalog[1337]
    assert len(catalog) == 0


def test_iteration_gives_pairs_of_identifier_and_latest():
    catalog = four_versions()
    catalog["a"] = csv("a")
    pairs = [("s", catalog["s", 4]), ("a", catalog["a", 1])]
    assert list(catalog) == list(catalog.items()) == list(catalog.sources.items()) == pairs
    assert list(catalog.keys()) == ["s", "a"]
    assert list(catalog.values()) == [source for _, source in pairs]
    assert dict(catalog) == dict(pairs)
    assert len(catalog) == 2
    assert repr(catalog) == "['a', 's']"
    assert [source.version for source in catalog.all_versions()] == [1, 2, 3, 4, 1]


def test_get_has_a_default():
    catalog = four_versions()
    assert catalog.get("s") == catalog["s"]
    assert catalog.get(("s", 2)) == catalog["s", 2]
    assert catalog.get("other") is None
    assert catalog.get(("s", 9), 1) == 1


def test_equality_is_by_value():
    assert four_versions() == four_versions()
    for change in (
        lambda catalog: catalog["s", 2].driver_kwargs.update(url="x"),
        lambda catalog: catalog["s", 2].metadata.update(a=1),
        lambda catalog: catalog.__delitem__(("s", 4)),
        lambda catalog: catalog.__setitem__("t", csv("t")),
        lambda catalog: catalog.__setitem__(("s", 1), Source("json", {"url": "1"})),
    ):
        other = four_versions()
        change(other)
        assert other != four_versions()
        assert four_versions() != other
    assert four_versions() != {"s": 1}
    assert Source("a") == Source("a", None, None)
    assert CatalogSource(Source("a"), "s") != Source("a")


def test_a_copy_is_deep():
    catalog = four_versions()
    copy = catalog.copy()
    assert copy == catalog
    copy["s"].driver_kwargs["url"] = "changed"
    copy["t"] = csv("t")
    assert catalog == four_versions()


def test_a_source_of_its_own_has_one_version():
    source = CatalogSource(csv("x"), "a/b", version=3)
    assert (source.identifier, source.version, list(source.versions)) == ("a/b", 3, [3])
    del source[3]
    assert len(source) == 0
    with pytest.raises(ValueError, match="integer from 1"):
        CatalogSource(csv("x"), "a/b", version=0)


def test_what_a_source_shows_has_no_secrets():
    catalog = Catalog()
    catalog["s"] = Source("x", {"url": "u", "storage_options": {"secret": "hush", "anon": False}}, {"a": 1})
    for shown in (repr(catalog["s"]), repr(Source("x", catalog["s"].driver_kwargs))):
        assert '"anon": false' in shown
        assert "hush" not in shown
    assert '"version": 1' in repr(catalog["s"])


# -- sets -------------------------------------------------------------------------------------------------------------

SMALL_SOURCES = st.builds(Source, st.sampled_from("ab"), st.dictionaries(st.sampled_from("xy"), st.integers(0, 1)))
CONTENTS = st.dictionaries(st.tuples(st.sampled_from(["p", "q", "r"]), st.integers(1, 3)), SMALL_SOURCES)


def catalog_of(contents: dict[tuple[str, int], Source]) -> Catalog:
    catalog = Catalog()
    for key, source in contents.items():
        catalog[key] = source
    return catalog


def keys_of(catalog: Catalog) -> set[tuple[str, int]]:
    return {(source.identifier, source.version) for source in catalog.all_versions()}


@given(CONTENTS, CONTENTS)
def test_set_operations_are_those_of_sets(left, right):
    a, b = catalog_of(left), catalog_of(right)
    before = a.copy(), b.copy()
    assert keys_of(a.union(b)) == left.keys() | right.keys()
    assert a.union(b) == catalog_of({**left, **right})
    assert keys_of(a.difference(b)) == left.keys() ^ right.keys()
    assert a.difference(b) == b.difference(a)
    assert a.union(a) == a == a.union(Catalog()) == a.join(Catalog()) == a.intersection(a)
    assert len(a.difference(a)) == 0
    if left.keys() & right.keys():
        with pytest.raises(ValueError, match="cannot join"):
            a.join(b)
    else:
        assert a.join(b) == a.union(b)
    assert (a, b) == before


@given(CONTENTS, CONTENTS)
def test_intersection_and_difference_make_up_the_union(left, right):
    a, b = catalog_of(left), catalog_of(right)
    if any(left[key] != right[key] for key in left.keys() & right.keys()):
        with pytest.raises(ValueError, match="disagree"):
            a.intersection(b)
        return
    assert keys_of(a.intersection(b)) == left.keys() & right.keys()
    assert a.intersection(b) == b.intersection(a)
    assert a.intersection(b).join(a.difference(b)) == a.union(b) == b.union(a)


@given(CONTENTS, st.integers(1, 3))
def test_filter_and_its_opposite_make_up_the_catalog(contents, bound):
    catalog = catalog_of(contents)
    low = catalog.filter(lambda source: source.version <= bound)
    assert all(source.version <= bound for source in low.all_versions())
    assert low.join(catalog.filter(lambda source: source.version > bound)) == catalog


@given(CONTENTS, st.sets(st.sampled_from(["p", "q", "r"])))
def test_slice_keeps_all_versions_of_some_identifiers(contents, wanted):
    catalog = catalog_of(contents)
    assume(wanted <= set(catalog.keys()))
    assert catalog.slice(list(wanted)) == catalog.filter(lambda source: source.identifier in wanted)


def test_slice_of_a_missing_identifier():
    with pytest.raises(KeyError, match="other"):
        four_versions().slice(["s", "other"])


def test_join_names_what_both_have():
    with pytest.raises(ValueError, match=r"'s' version 1, 's' version 2, 's' version 3 and 1 more"):
        four_versions().join(four_versions())


@given(CONTENTS)
def test_the_text_form_loses_nothing(contents):
    catalog = catalog_of(contents)
    text = catalog.to_str()
    assert Catalog.from_str(text) == catalog
    assert Catalog.from_str(text).to_str() == text


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "file", "path", "memory"])
def test_files_anywhere(tmp_path, where):
    directory = {"local": str(tmp_path), "file": tmp_path.as_uri(), "path": tmp_path, "memory": "memory://cat"}[where]
    one = tmp_path / "one.yaml" if where == "path" else f"{directory}/one.yaml"
    two = tmp_path / "two.yaml" if where == "path" else f"{directory}/two.yaml"
    other = catalog_of({("t", 1): csv("ü")})
    four_versions().to_file(one)
    other.to_file(two)
    with fsspec.open(f"{directory}/notes.txt", "w") as file:
        file.write("not a catalog")
    assert Catalog.from_files([one]) == four_versions()
    assert Catalog.from_files([one, two]) == Catalog.from_dirs([directory]) == four_versions().join(other)
    assert Catalog.from_files([]) == Catalog.from_dirs([]) == Catalog()


def test_files_that_clash_or_fail_are_named(tmp_path):
    path = tmp_path / "a.yaml"
    four_versions().to_file(path)
    with pytest.raises(ValueError, match=r"a\.yaml: cannot join"):
        Catalog.from_files([path, path])
    path.write_text("a: 1")
    with pytest.raises(FormatError, match=r"a\.yaml: not a catalog"):
        Catalog.from_files([path])
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(FormatError, match=r"a\.yaml: not a catalog"):
        Catalog.from_files([path])
    for read in (Catalog.from_files, Catalog.from_dirs):
        with pytest.raises(PathNotFound, match="gone"):
            read([tmp_path / "gone"])
    with pytest.raises(UnknownScheme, match="nonsense"):
        Catalog.from_files(["nonsense://x/y.yaml"])
    with pytest.raises(PathNotFound):
        four_versions().to_file(tmp_path / "gone" / "a.yaml")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.yaml"
    four_versions().to_file(path)
    with pytest.raises(SerializationError, match="'x' version 1"):
        catalog_of({("x", 1): Source("d", {"loop": object()})}).to_file(path)
    assert Catalog.from_files([path]) == four_versions()


# -- damage and malice ------------------------------------------------------------------------------------------------

HEAD = "!YamlCatalog\nversion: 0.20.2\nsources:\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1",
        "- 1",
        "just text",
        "{",
        "\x00",
        "!YamlCatalog [1]",
        "!YamlCatalog {sources: 3}",
        "!YamlCatalog {version: 0.4}",
        "!YamlCatalog {version: x.y.z}",
        "!YamlCatalog {version: 0.3.9}",
        "!YamlCatalog {version: 1.0.0, extra: 1}",
        "!YamlCatalog {sources: [{identifier: a, driver_name: b}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a}]}",
        "!YamlCatalog {sources: [!YamlSource {driver_name: a}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: 1, driver_name: a}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: '', driver_name: a}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, version: 0}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, version: true}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, colour: red}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, driver_kwargs: [1]}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: {1: 2}}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: {x: !!set {1}}}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: {x: !CatalogKey [1]}}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: {x: 2024-99-99}}]}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: {x: 1, x: 2}}]}",
        HEAD + 2 * "- !YamlSource {identifier: a, driver_name: b}\n",
        "!YamlCatalog {}\n---\n!YamlCatalog {}",
        "!YamlCatalog {sources: " + 10_000 * "[" + 10_000 * "]" + "}",
        "!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: &m {x: *m}}]}",
        "!YamlCatalog &c {sources: [*c]}",
    ],
)
def test_what_is_no_catalog_is_a_format_error(text):
    with pytest.raises(FormatError, match=r"catalog|source"):
        Catalog.from_str(text)


def test_missing_fields_have_squirrels_defaults():
    catalog = Catalog.from_str("!YamlCatalog {sources: [!YamlSource {identifier: a, driver_name: b, metadata: null}]}")
    assert catalog == catalog_of({("a", 1): Source("b")})
    assert Catalog.from_str("!YamlCatalog {}") == Catalog()


@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.mkdir [{path}]",
        "!!python/object/new:os.mkdir [{path}]",
        "!!python/object/apply:os.mkdir {{args: [{path}]}}",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [{path}]",
    ],
)
def test_nothing_in_a_catalog_is_executed(tmp_path, payload):
    target = tmp_path / "made"
    payload = payload.format(path=target)
    for text in (payload, f"{HEAD}- !YamlSource\n  identifier: a\n  driver_name: b\n  metadata:\n    x: {payload}\n"):
        with pytest.raises(FormatError, match="python"):
            Catalog.from_str(text)
    assert not target.exists()


def bomb(reference: str) -> str:
    lines = ["l0: &l0 {k0: 1}"]
    for i in range(1, 10):
        lines.append(f"l{i}: &l{i} " + reference.format(", ".join(8 * [f"*l{i - 1}"])))
    return HEAD + "- !YamlSource\n  identifier: a\n  driver_name: b\n  metadata:\n    " + "\n    ".join(lines) + "\n"


@pytest.mark.parametrize("reference", ["[{}]", "{{<<: [{}]}}"], ids=["aliases", "merges"])
def test_a_bomb_is_refused_at_once(reference):
    start = time.process_time()
    with pytest.raises(FormatError):
        Catalog.from_str(bomb(reference))
    # Unbounded, this takes minutes and gigabytes.
    assert time.process_time() - start < 20


@given(st.text(max_size=80), st.integers(0, 300), st.integers(0, 20))
def test_damaged_text_is_a_format_error_or_a_catalog(noise, position, cut):
    text = catalog_of({("a/b", 1): Source("d", {"url": "x", "n": [1, 2.5, None]}, {"m": "y"})}).to_str()
    position = min(position, len(text))
    damaged = text[:position] + noise + text[position + cut :]
    with contextlib.suppress(FormatError):
        assert isinstance(Catalog.from_str(damaged), Catalog)


def test_only_plain_values_are_written():
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    for value in (object(), {1, 2}, cycle, "\ud800", {(1, 2): 3}):
        with pytest.raises(SerializationError, match="'a' version 1"):
            catalog_of({("a", 1): Source("d", {"x": value})}).to_str()


def test_paths_tuples_and_keys_are_written(tmp_path):
    written = catalog_of({("a", 1): Source("d", {"p": tmp_path, "t": (1, 2), "k": CatalogKey("b", 2), "b": b"\0"})})
    read = Catalog.from_str(written.to_str())["a"].driver_kwargs
    assert read == {"p": str(tmp_path), "t": [1, 2], "k": CatalogKey("b", 2), "b": b"\0"}
    assert isinstance(read["k"], CatalogKey)


# -- addresses and secrets --------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["/data/store", "s3://bucket/a b", "wandb://me/project", "/data/#1@x/store", "memory://a#b/c@v1"]),
    st.text(min_size=1),
    st.text(min_size=1),
    st.sampled_from(["v0", "v17", "latest", "best.1"]),
)
def test_version_urls_come_back(store, collection, artifact, version):
    assume(not any("\ud800" <= char <= "\udfff" for char in collection + artifact))
    url = format_version_url(store, collection, artifact, version)
    assert parse_version_url(url) == VersionAddress(store, collection, artifact, version)


def test_the_url_of_a_version_is_readable():
    assert format_version_url("s3://bucket/store", "models", "resnet", "v3") == "s3://bucket/store#models/resnet@v3"


@pytest.mark.parametrize(
    "url", ["", "s3://b/store", "s3://b#models/resnet", "s3://b#models@v1", "#a/b@v1", "s#a/b/c@v1"]
)
def test_what_is_no_version_url(url):
    with pytest.raises(InvalidName, match="expected"):
        parse_version_url(url)


def test_secrets_are_left_out_at_every_depth():
    options = {
        "key": "AKIA",
        "secret": "hush",
        "aws_session_token": "hush",
        "PASSWORD": "hush",
        "passphrase": "hush",
        "connection_string": "hush",
        "sas_token": "hush",
        "session": object(),
        "anon": False,
        "endpoint_url": "https://me:hush@host:9000/x",
        "client_kwargs": {"region_name": "eu", "aws_secret_access_key": "hush", "headers": {"Authorization": "hush"}},
        "mirrors": [{"url": "http://a", "token": "hush"}, object()],
    }
    assert without_secrets(options) == {
        "anon": False,
        "endpoint_url": "https://host:9000/x",
        "client_kwargs": {"region_name": "eu", "headers": {}},
        "mirrors": [{"url": "http://a"}],
    }


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ("sftp://me:p@ss:word@host/path", "sftp://me@host/path"),
        ("simplecache::sftp://me:pw@host/path", "simplecache::sftp://me@host/path"),
        ("github://org:repo@main/path", "github://org:repo@main/path"),
        ("https://host/p?sig=abc&x=1#models/a@v1", "https://host/p?x=1#models/a@v1"),
        ("https://host/p?token=abc", "https://host/p"),
    ],
)
def test_secrets_in_urls(url, clean):
    assert without_url_secrets(url) == clean


def test_the_source_of_a_version():
    catalog = Catalog()
    options = {"anon": True, "secret": "hush"}
    catalog[catalog_key(INFO)] = source_of("s3://bucket/store", INFO, options, ["prod", "best"])
    source = catalog["models/resnet"]
    assert source.version == 4
    assert source.driver_name == "artifactfs"
    assert source.driver_kwargs == {"url": "s3://bucket/store#models/resnet@v3", "storage_options": {"anon": True}}
    assert source.metadata == {
        "collection": "models",
        "artifact": "resnet",
        "version": "v3",
        "created": "2024-05-01T12:00:00.123456+00:00",
        "size_bytes": 2048,
        "file_count": 2,
        "digest": "ab" * 32,
        "aliases": ["best", "prod"],
        "message": "tuned",
    }
    assert Catalog.from_str(catalog.to_str()) == catalog


def test_no_secret_reaches_a_file():
    nested = {"parts": {"storage_options": {"token": "hush"}}, "storage_options": {"key": "hush", "anon": True}}
    catalog = catalog_of({("a", 1): Source("d", nested)})
    assert "hush" not in catalog.to_str()
    assert "anon: true" in catalog.to_str()
    assert catalog.copy()["a"].driver_kwargs == nested


# -- drivers ----------------------------------------------------------------------------------------------------------


class FakeManager:
    """A store with one version; counts what is asked of it."""

    def __init__(self) -> None:
        self.contents = {"a.txt": b"alpha", "deep/b.bin": b"beta"}
        self.reads: list[str] = []
        self.resolved: list[str | None] = []

    def version_info(self, artifact, collection=None, version=None):
        self.resolved.append(version)
        assert (collection, artifact) == ("models", "resnet")
        return INFO

    def manifest(self, artifact, collection=None, version=None):
        assert version == "v3"
        files = [Entry(path, size_bytes=len(data)) for path, data in self.contents.items()]
        links = {"link": "deep/b.bin", "deep/up": "../a.txt", "dir": "deep", "gone": "nowhere", "x": "y", "y": "x"}
        symlinks = [Entry(path, EntryKind.SYMLINK, target=target) for path, target in links.items()]
        return Manifest([*files, *symlinks, Entry("empty", EntryKind.DIRECTORY)])

    def read_entry(self, info, entry, offset=0, size_bytes=None):
        self.reads.append(entry.path)
        return self.contents[entry.path]


@pytest.fixture
def store(monkeypatch):
    store = SimpleNamespace(manager=FakeManager(), connected=[])

    def connect(url, **options):
        store.connected.append((url, options))
        return store.manager

    monkeypatch.setattr("artifactfs.managers.registry.connect", connect)
    return store


def test_the_driver_of_a_version(store):
    catalog = Catalog()
    catalog["models/resnet"] = source_of("s3://bucket/store", INFO, {"anon": False})
    driver = catalog["models/resnet"].get_driver(storage_options={"secret": "hush"})
    assert not store.connected
    assert list(driver.keys()) == ["a.txt", "deep/b.bin", "deep/up", "link"]
    assert store.connected == [("s3://bucket/store", {"anon": False, "secret": "hush"})]
    assert not store.manager.reads
    assert driver.get("a.txt") == driver.get("deep/up") == b"alpha"
    assert driver.get("link") == driver.get("dir/b.bin") == b"beta"
    assert dict(driver.items()) == {"a.txt": b"alpha", "deep/b.bin": b"beta", "deep/up": b"alpha", "link": b"beta"}
    for missing in ("nothing", "deep", "dir", "gone", "x", "empty"):
        with pytest.raises(PathNotFound, match=missing):
            driver.get(missing)
    with pytest.raises(InvalidName):
        driver.get("../a.txt")
    assert len(store.connected) == 1
    assert store.manager.resolved == ["v3"]


@pytest.mark.parametrize("scheme", ["path", "file"])
def test_a_source_of_a_real_store(tmp_path, scheme):
    url = {"path": str(tmp_path / "store"), "file": (tmp_path / "store").as_uri()}[scheme]
    contents = {"weights.bin": bytes(range(256)) * 5000, "deep/config.json": b"{}"}
    for key, data in contents.items():
        (tmp_path / "tree" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / key).write_bytes(data)
    manager = artifactfs.connect(url)
    info = manager.commit_tree("resnet", tmp_path / "tree", "models", commit_id=new_commit_id()).info
    catalog = Catalog()
    catalog[catalog_key(info)] = source_of(url, info)
    driver = Catalog.from_str(catalog.to_str())["models/resnet", 1].get_driver()
    assert dict(driver.items()) == contents


def test_items_read_one_file_at_a_time(store):
    items = CatalogSource(source_of("s3://bucket/store", INFO), "models/resnet").get_driver().items()
    assert not store.manager.reads
    next(items)
    assert store.manager.reads == ["a.txt"]


def test_a_bad_version_url_is_told_when_the_driver_is_made():
    with pytest.raises(InvalidName, match="s3://bucket"):
        CatalogSource(Source("artifactfs", {"url": "s3://bucket"}), "a").get_driver()


@pytest.mark.parametrize("scheme", ["path", "file", "memory"])
def test_the_driver_of_a_directory(tmp_path, scheme):
    url = {"path": str(tmp_path), "file": tmp_path.as_uri() + "/", "memory": "memory://driver/files"}[scheme]
    contents = {"a.txt": b"alpha", "deep/b c.bin": b"beta"}
    for key, data in contents.items():
        filesystem, path = fsspec.core.url_to_fs(f"{url.rstrip('/')}/{key}")
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(path, data)
    driver = CatalogSource(Source("directory", {"url": url, "storage_options": {}}), "s").get_driver()
    assert list(driver.keys()) == ["a.txt", "deep/b c.bin"]
    assert dict(driver.items()) == contents
    with pytest.raises(PathNotFound, match="gone"):
        driver.get("gone")
    with pytest.raises(InvalidName):
        driver.get("../x")


def test_a_directory_that_is_not_there(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("gone", "file"):
        driver = CatalogSource(Source("directory", {"url": str(tmp_path / name)}), "s").get_driver()
        with pytest.raises(PathNotFound, match=name):
            driver.keys()


def test_an_unreachable_directory_is_not_a_missing_one(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise ConnectionRefusedError("down")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", refuse)
    with pytest.raises(StoreUnreachable, match="down"):
        CatalogSource(Source("directory", {"url": str(tmp_path)}), "s").get_driver().get("a")


def test_drivers_are_called_as_squirrel_calls_them():
    class Recorder:
        def __init__(self, **kwargs) -> None:
            self.kwargs = kwargs

    register_driver("test-recorder", Recorder, replace=True)
    catalog = Catalog()
    catalog["s"] = Source("test-recorder", {"welcome": "you", "n": 1, "storage_options": {"a": 1, "b": 1}})
    driver = catalog["s"].get_driver(n=2, storage_options={"b": 2})
    assert driver.kwargs == {"welcome": "you", "n": 2, "storage_options": {"a": 1, "b": 2}, "catalog": catalog}
    assert catalog["s"].driver_kwargs["storage_options"] == {"a": 1, "b": 1}
    catalog["none"] = Source("test-recorder", {"storage_options": None})
    assert catalog["none"].get_driver(storage_options=None).kwargs["storage_options"] == {}
    with pytest.raises(ValueError, match="already"):
        register_driver("test-recorder", Recorder)


def test_an_unknown_driver():
    with pytest.raises(ValueError, match="no driver 'csv'; known are artifactfs, directory"):
        CatalogSource(csv("x"), "s").get_driver()

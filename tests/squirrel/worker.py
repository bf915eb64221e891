"""squirrel-core behind two pipes: a JSON request per line in, a JSON answer per line out.

Run by the fixture `squirrel` with the interpreter of squirrel-core's environment; see `conftest`.
"""

from __future__ import annotations

import json
import sys

import numpy as np

# squirrel-core 0.20.2 names np.float_, which NumPy 2 dropped; in NumPy 1 it is float64.
if not hasattr(np, "float_"):
    np.float_ = np.float64

from exchange import build, describe
from squirrel.catalog import Catalog, Source
from squirrel.serialization import JsonSerializer, MessagepackSerializer

SERIALIZERS = {"json": JsonSerializer, "messagepack": MessagepackSerializer}


def catalog_of(rows):
    catalog = Catalog()
    for identifier, version, driver_name, driver_kwargs, metadata in rows:
        catalog[identifier, version] = Source(driver_name, build(driver_kwargs), build(metadata))
    return catalog


def rows_of(catalog):
    return [
        [key, version, source.driver_name, describe(source.driver_kwargs), describe(source.metadata)]
        for key in catalog.keys()  # noqa: SIM118 - iterating gives pairs
        for version, source in catalog[key].versions.items()
    ]


def write_catalog(rows, path):
    catalog_of(rows).to_file(path)


def read_catalog_text(text):
    return rows_of(Catalog.from_str(text))


def read_catalog_files(paths):
    return rows_of(Catalog.from_files(paths))


def serialize(name, description):
    return SERIALIZERS[name].serialize(build(description)).hex()


def deserialize(name, data):
    return describe(SERIALIZERS[name]().deserialize(bytes.fromhex(data)))


def main():
    operations = {
        function.__name__: function
        for function in (write_catalog, read_catalog_text, read_catalog_files, serialize, deserialize)
    }
    # Whatever squirrel prints must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": operations[name](*arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

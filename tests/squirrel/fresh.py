"""One call in a fresh interpreter of squirrel-core's environment: what depends on which module is imported first.

Arguments: the function, its arguments as JSON. The last line of the output is its result as JSON.
"""

from __future__ import annotations

import json
import sys


def prepare():
    """squirrel-core 0.20.2 names np.float_, which NumPy 2 dropped; in NumPy 1 it is float64."""
    import numpy as np

    if not hasattr(np, "float_"):
        np.float_ = np.float64


def is_of_squirrels_type(first, url):
    """What isinstance() says of a manager of ours, where that part of squirrel-core was imported first."""
    if first == "managers":
        import squirrel.artifact_manager.base
    elif first == "plug-ins":
        import squirrel.framework.plugins.plugin_manager  # noqa: F401
    elif first == "catalogs":
        from squirrel.catalog import Catalog, Source

        catalog = Catalog()
        catalog["x"] = Source("artifactfs", {"url": f"{url}#c/a@v0"})
        catalog["x"].get_driver()
    import artifactfs

    before = artifactfs.connect(url)
    from squirrel.artifact_manager.base import ArtifactManager

    # Of managers made before squirrel-core's own it is told by its plug-ins, which were loaded without those.
    manager = artifactfs.connect(url) if first == "plug-ins" else before
    kind = type(manager)
    return [isinstance(manager, ArtifactManager), issubclass(kind, ArtifactManager), isinstance(1, ArtifactManager)]


def load_catalog(path, identifier):
    from squirrel.catalog import Catalog

    driver = Catalog.from_files([path])[identifier].get_driver()
    return sorted((found.hex() for found in driver.get_iter(flatten=False)), reverse=True)


if __name__ == "__main__":
    prepare()
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))

"""The conformance suite, for every manager that `subjects` makes."""

from __future__ import annotations

import conformance
import conformance_annotations
import conformance_files
import pytest

pytestmark = pytest.mark.long(0.5)


class TestNames(conformance.Names):
    pass


class TestVersions(conformance.Versions):
    pass


class TestLogging(conformance.Logging):
    pass


class TestDownloading(conformance.Downloading):
    pass


class TestAliases(conformance.Aliases):
    pass


class TestCatalogs(conformance.Catalogs):
    pass


class TestErrors(conformance.Errors):
    pass


class TestAnnotations(conformance_annotations.Annotations):
    pass


class TestFiles(conformance_files.Files):
    pass


class TestDamage(conformance_files.Damage):
    pass


class TestThreads(conformance_files.Threads):
    pass

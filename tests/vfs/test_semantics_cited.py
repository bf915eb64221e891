"""The contract and the tests name each other: every clause has a test, and no test names a clause that is not there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mount

SEMANTICS = Path(mount.__file__).with_name("SEMANTICS.md")
TESTS = Path(__file__).parents[1]
_CLAUSE = re.compile(r"\b[NVSCODW][0-9]+\b")


def cited() -> Iterator[tuple[str, str]]:
    """(clause, where) for the docstrings of tests and scenarios."""
    for path in (
        *TESTS.glob("mount/*.py"),
        *TESTS.glob("kernel/*.py"),
        *TESTS.glob("vfs/*.py"),
        *TESTS.glob("scenarios/*.py"),
        *TESTS.glob("managers/*.py"),
        *TESTS.glob("store/*.py"),
        *TESTS.glob("content/*.py"),
        *TESTS.glob("squirrel/*.py"),
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            if not (node.name.startswith("test_") or any("scenario" in ast.dump(d) for d in node.decorator_list)):
                continue
            citation = (ast.get_docstring(node) or "").partition(":")[0]
            # Only a docstring that begins with clauses cites; "V1, C2: …".
            if re.fullmatch(rf"({_CLAUSE.pattern})(, {_CLAUSE.pattern})*", citation):
                yield from ((clause, f"{path.name}:{node.name}") for clause in _CLAUSE.findall(citation))


def test_every_clause_is_tested() -> None:
    """SEMANTICS.md and the docstrings of the tests have the same clauses."""
    clauses = set(re.findall(r"^\* \*\*([A-Z][0-9]+)\*\*", SEMANTICS.read_text(), re.MULTILINE))
    assert clauses
    places = {}
    for clause, where in cited():
        places.setdefault(clause, where)
    assert clauses - places.keys() == set(), "clauses without a test"
    assert places.keys() - clauses == set(), {clause: places[clause] for clause in places.keys() - clauses}

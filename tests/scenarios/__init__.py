"""What a drive does, as scenarios that run on any harness; `tests.drives` has two.

A scenario is a function of a `Drive`; its docstring begins with the clauses of ``mount/SEMANTICS.md`` it shows. `ALL`
is the table that the harnesses run. `automatic` scenarios want a drive that commits after `COMMIT_AFTER_S` quiet
seconds, the others one that commits on request only; those that look into the store's files want a `local` one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.drives import Drive

COMMIT_AFTER_S = 0.4
REFRESH_S = 0.2

Function = Callable[[Drive], None]


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    run: Function
    automatic: bool
    local: bool
    mounted: bool

    @property
    def name(self) -> str:
        """For the test's id."""
        return self.run.__name__


ALL: list[Scenario] = []


def scenario(*, automatic: bool = False, local: bool = False, mounted: bool = False) -> Callable[[Function], Function]:
    """Put a function into the table. `mounted`: it needs the kernel (locks, the page cache)."""

    def register(function: Function) -> Function:
        ALL.append(Scenario(function, automatic, local, mounted))
        return function

    return register


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block must fail with one of these errnos."""
    wanted = " or ".join(errno.errorcode[number] for number in numbers)
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise AssertionError(f"{errno.errorcode.get(error.errno or 0)} instead of {wanted}: {error}") from error
    else:
        raise AssertionError(f"not refused with {wanted}")


def is_root() -> bool:
    """Whether files can be given away."""
    return os.geteuid() == 0


# The modules register their scenarios when they are imported.
from tests.scenarios import commits, names, reopening, staging, versions  # noqa: E402, F401

"""Every error artifactfs raises on purpose.

::

    ArtifactError
    ├── ArgumentError(ValueError)       an argument of a kind that the method does not take; nothing was done
    ├── InvalidName(ValueError)          a collection, artifact, version, alias or path breaks the naming rules
    ├── NotFound(FileNotFoundError, ValueError)
    │   ├── CollectionNotFound
    │   ├── ArtifactNotFound
    │   ├── VersionNotFound              a version number or alias
    │   └── PathNotFound                 a file inside a version
    ├── AlreadyExists(FileExistsError)
    ├── AccessDenied(PermissionError)    the backend said no: credentials or permissions
    ├── StoreUnreachable(ConnectionError)   transient: the backend did not answer, or answered "try later"
    │   └── StoreTimeout(TimeoutError)      transient: a call ran into its time bound
    ├── StoreFull(OSError)               transient: no room or no quota left in the backend
    ├── IntegrityError(OSError)          stored bytes are missing or do not match their digest
    ├── FormatError(ValueError)          metadata that is not ours, is damaged, or is newer than this program
    ├── UnsupportedTree(ValueError)      a tree holds what a version cannot: a device, an escaping symlink …
    ├── TreeUnreadable(OSError)          transient: the disk of a tree to be logged gave an error
    ├── UnsafeStore                      the backend has no sound exclusive create, so it is refused for writing
    ├── UnknownScheme(ValueError)        a store URL nothing here opens
    ├── MissingDependency(ImportError)   an optional package is not installed; the message names the extra
    ├── SerializationError(ValueError)   an object cannot be encoded or decoded
    └── Unsupported(NotImplementedError) this backend cannot do what was asked

*Not found* and *unreachable* are never confused: ``NotFound`` is raised only when the backend answered and the
thing is not there. ``transient`` tells a caller that retries whether trying again can help; it is a fact of the
class, so that the decision needs no table elsewhere. The standard base classes are there for callers who catch
those (squirrel raises ValueError and FileNotFoundError in the same places).
"""

from __future__ import annotations

from typing import ClassVar

from artifactfs.redaction import redact


class ArtifactError(Exception):
    """Base of every error raised on purpose; its message names the thing concerned and what to do."""

    transient: ClassVar[bool] = False

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        # Here, because a URL with a password gets into messages at a hundred places.
        self.args = tuple(redact(one) if isinstance(one, str) else one for one in arguments)

    def __str__(self) -> str:
        # OSError subclasses would print "[Errno …]" or lose the message; the message is always the first argument.
        return str(self.args[0]) if self.args else type(self).__name__


class ArgumentError(ArtifactError, ValueError):
    """An argument is of a kind that the method does not take; the message names it. Nothing was done."""


class InvalidName(ArtifactError, ValueError):
    """A collection, artifact, version, alias or file path breaks the naming rules."""


class NotFound(ArtifactError, FileNotFoundError, ValueError):
    """The backend answered, and the thing is not there."""


class CollectionNotFound(NotFound):
    """No such collection."""


class ArtifactNotFound(NotFound):
    """No such artifact in the collection."""


class VersionNotFound(NotFound):
    """No such version or alias of the artifact."""


class PathNotFound(NotFound):
    """No such file in the version."""


class AlreadyExists(ArtifactError, FileExistsError):
    """The thing to be created is there already."""


class AccessDenied(ArtifactError, PermissionError):
    """The backend refused: missing credentials or permissions."""


class StoreUnreachable(ArtifactError, ConnectionError):
    """The backend did not answer, or asked to be tried later."""

    transient = True


class StoreTimeout(StoreUnreachable, TimeoutError):
    """A backend call ran into its time bound."""


class StoreFull(ArtifactError, OSError):
    """The backend has no room or no quota left. Transient: room may be made while the caller waits."""

    transient = True


class IntegrityError(ArtifactError, OSError):
    """Stored bytes are missing, too short, or do not match their digest."""


class FormatError(ArtifactError, ValueError):
    """Metadata that is damaged, not written by artifactfs, or written by a newer one."""


RECORD_FAULTS = (AccessDenied, FormatError, IntegrityError)
"""Errors that say what is wrong with one record, manifest or directory, and nothing of its neighbours.

Whoever goes through many passes over the one that has such an error. A store that does not answer is never among them.
"""


class UnsupportedTree(ArtifactError, ValueError):
    """A tree to be logged holds something a version cannot keep; the message names the path."""


class TreeUnreadable(ArtifactError, OSError):
    """The disk of a tree to be logged, or the machine, gave an error. Transient: such errors may pass."""

    transient = True


class UnsafeStore(ArtifactError):
    """The backend has no sound exclusive create, so committing to it could lose versions."""


class UnknownScheme(ArtifactError, ValueError):
    """A store URL whose scheme nothing here opens."""


class MissingDependency(ArtifactError, ImportError):
    """An optional package is needed; the message says which extra installs it."""


class SerializationError(ArtifactError, ValueError):
    """An object cannot be encoded, or stored bytes cannot be decoded, by the serializer asked for."""


class Unsupported(ArtifactError, NotImplementedError):
    """The backend cannot do what was asked."""

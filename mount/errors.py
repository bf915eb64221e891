"""What the drive refuses, on top of `artifactfs.errors`.

::

    artifactfs.errors.ArtifactError
    └── DriveError
        ├── ReadOnly             a change to something immutable: a version, a sealed tree, a read-only mount
        ├── NotPermitted         a change this place never allows, such as renaming an artifact
        ├── Stale                the node belonged to a staging that has been sealed or discarded; look it up again
        ├── CrossTree            a rename or link between two trees; programs copy instead
        ├── AreaRefused          the staging area is not to be trusted, or not there
        ├── Busy                 staged files are open for writing
        ├── StagingNotEmpty      something is staged where a sealed tree is to be taken back to
        ├── Held                 what is staged is not all on disk, and must not be committed
        ├── NoRoom               the staging disk keeps the rest of its room for others
        ├── NothingStaged        a commit or discard of an empty staging
        ├── NoSuchAttribute      an extended attribute that is not there
        ├── AttributeTooLong     the value of an extended attribute is longer than the room given for it
        ├── NoSuchOffset         looking for data past the end of a file
        └── AttributeUnsupported an extended attribute that cannot be kept
"""

from __future__ import annotations

from artifactfs.errors import ArtifactError


class DriveError(ArtifactError):
    """Base of what the drive refuses."""


class ReadOnly(DriveError):
    """A change to something immutable."""


class NotPermitted(DriveError):
    """A change that this place never allows."""


class Stale(DriveError):
    """The node's tree has been sealed or discarded since it was looked up."""


class CrossTree(DriveError):
    """A rename or hard link whose ends lie in different trees."""


class AreaRefused(DriveError):
    """The staging area is not to be trusted, or not there."""


class Busy(DriveError):
    """Staged files are open for writing. Transient: programs close them."""

    transient = True


class StagingNotEmpty(DriveError):
    """Something is staged where a sealed tree is to be taken back to."""


class Held(DriveError):
    """The staging disk has failed to keep what is staged; it waits for the user."""


class NoRoom(DriveError):
    """Writing would leave less free on the staging disk than the mount is to keep. Transient: room may be made."""

    transient = True


class NothingStaged(DriveError):
    """There is nothing to commit or to discard."""


class NoSuchAttribute(DriveError):
    """The extended attribute is not there."""


class AttributeTooLong(DriveError):
    """The value of an extended attribute does not fit into the room given for it."""


class NoSuchOffset(DriveError):
    """Data or a hole was looked for past the end of the file."""


class AttributeUnsupported(DriveError):
    """The extended attribute cannot be kept."""

"""From a failed request to the errno that the program gets, and what of it goes into the log.

Shared by the drivers. Threading: no state, safe from any thread.
"""

from __future__ import annotations

import logging

from artifactfs.errors import NotFound
from mount.errno_map import IO_ERROR, errno_of, is_expected
from mount.errors import AttributeUnsupported, NoSuchAttribute

logger = logging.getLogger("mount.drivers")

_USUAL = (NotFound, NoSuchAttribute, AttributeUnsupported, FileNotFoundError)


def errno_after(error: Exception, request: str, about: object) -> int:
    """The errno for `error`; a defect is logged with its traceback, an I/O error with its message."""
    number = errno_of(error)
    if not is_expected(error):
        logger.error("%s %s: unexpected error", request, about, exc_info=error)
    elif number == IO_ERROR:
        logger.error("%s %s: %s", request, about, error)
    elif logger.isEnabledFor(logging.DEBUG) and not isinstance(error, _USUAL):
        logger.debug("%s %s: %s", request, about, error)
    return number

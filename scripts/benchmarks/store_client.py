"""The listing program: lists a store through a fresh manager and tells how long that took.

Run as ``store_client.py version STORE COLLECTION ARTIFACT`` or ``store_client.py artifacts STORE COLLECTION``, prints
``{"seconds": …, "count": …, "rss_mib": …}``. The clock starts when artifactfs is imported.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from artifactfs import ArtifactManager, EntryKind, connect


def list_version(manager: ArtifactManager, collection: str, artifact: str) -> int:
    """Go through every directory of the latest version, as ``ls -R`` does; how many files there are."""
    manifest = manager.manifest(artifact, collection)
    files = 0
    pending = [""]
    while pending:
        directory = pending.pop()
        for name, position in manifest.children(directory):
            if position is None or manifest.kind(position) is EntryKind.DIRECTORY:
                pending.append(f"{directory}/{name}" if directory else name)
            else:
                files += 1
    return files


def list_artifacts(manager: ArtifactManager, collection: str) -> int:
    """List every artifact and the names of its versions; how many versions there are."""
    return sum(len(manager.list_version_names(name, collection)) for name in manager.list_artifacts(collection))


OPERATIONS = {"version": list_version, "artifacts": list_artifacts}


if __name__ == "__main__":
    operation, store, *arguments = sys.argv[1:]
    started = time.perf_counter()
    found = OPERATIONS[operation](connect(store), *arguments)
    seconds = time.perf_counter() - started
    # Not getrusage: what it gives at first is the size of the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    rss_mib = int(peak.split()[1]) / 1024
    print(json.dumps({"seconds": seconds, "count": found, "rss_mib": rss_mib}))

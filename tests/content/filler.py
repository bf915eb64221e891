"""A process that reads a version through the cache at random and checks every byte: ``filler.py STORE URL CACHE …``.

Arguments: the store's directory (for its listings), the URL of the server in front of it, the cache directory, the
size of the cache, how many reads, a seed. Prints a line for each read, so that it can be killed in the middle.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from artifactfs import connect
from artifactfs.content.cache import ContentCache
from artifactfs.content.metadata import place_of
from artifactfs.content.reader import ContentReader
from artifactfs.managers.filesystem import FileSystemArtifactManager

MIB = 1 << 20


def main(store: str, url: str, directory: str, size_bytes: str, reads: str, seed: str) -> None:
    local = connect(store)
    info, manifest = local.version_info("model"), local.manifest("model")
    cache = ContentCache(Path(directory), int(size_bytes), 0)
    cache.ensure_created()
    reader = ContentReader(FileSystemArtifactManager(url), cache, place_of(url, {}))
    chance = random.Random(int(seed))
    positions = [position for position in range(len(manifest)) if manifest.size_at(position)]
    big = [position for position in positions if manifest.size_at(position) > MIB]
    for _ in range(int(reads)):
        position = chance.choice(big if chance.random() < 0.5 else positions)
        entry = manifest[position]
        file = reader.open(info, entry, manifest.algorithm, manifest, position)
        offset = chance.randrange(entry.size_bytes)
        count = chance.choice([4096, 128 << 10, 2 * MIB])
        assert file.read(count, offset) == local.read_entry(info, entry, offset, count), entry.path
        print(entry.path, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Squirrel's directory layout: what `managers.plain` is made of.

::

    <collection>/<artifact>/v3/files/…              the files of a version, as squirrel-core writes and reads them
    <collection>/<artifact>/v3/.artifactfs.json     our record of it (absent where somebody else wrote the version)
    <collection>/<artifact>/v3/.artifactfs.manifest our manifest of it: digests, and what a backend cannot keep
    <collection>/<artifact>/v0/.artifactfs/…        the artifact's aliases and tombstones, versions not made yet
    .artifactfs/store/…                             what is being made or staged; the mark of a store without versions

squirrel-core takes every name in the root for a collection, every name in a collection for an artifact, and every name
in an artifact for a version, which ends in an error unless it is "v" and a number; it never looks at what a version
holds besides its files. So a version's record lies in the version, where it comes, moves and goes with it, and what is
of the artifact lies in the first one, whose directory stays when the version is deleted. What is of neither lies where
squirrel sees one more collection ``.artifactfs`` with one artifact of one version, so that its catalogs keep working,
and only for as long as there is something. The first programs kept aliases and tombstones there as well; they are read,
and moved by whoever writes to the store.

`layout` names things, `history` lists them, `contents` reads versions, `local` and `remote` make them, `detect` tells
such a directory from others. What a module promises about threads is in `managers.plain`.
"""

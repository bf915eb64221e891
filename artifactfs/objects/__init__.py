"""The object layout: what FileSystemArtifactManager writes, on any fsspec URL.

``layout`` says where things lie and what the small JSON files hold, ``store`` is the seam for all store I/O (``local``,
``s3`` and ``remote`` implement it, ``open`` picks one), ``scan`` lists a tree, ``packs`` puts its bytes into objects,
``history`` reads commit records, ``commit`` makes a version of a tree and ``restore`` makes a tree of a version.
"""

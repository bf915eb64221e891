"""The bytes of files: checking them against their digests."""

"""The on-disk cache: immutable entries, found by a digest of everything they depend on."""

"""finetune: make an embedding model better at your search, matching or clustering, from your own data."""

__version__ = "0.1.0"

"""finetune: fine-tune embedding models for search, matching or clustering on your own data."""

__version__ = "0.1.0"

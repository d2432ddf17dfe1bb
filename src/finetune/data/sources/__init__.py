"""Data sources: files, folders, URLs, Hugging Face data sets and objects in memory, as named Arrow columns."""

from finetune.data.source import Head, Reading, ReadOptions, Source
from finetune.data.sources.open import open_source

__all__ = ["Head", "ReadOptions", "Reading", "Source", "open_source"]

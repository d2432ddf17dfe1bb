"""Sources: whatever people keep their data in, as named Arrow columns."""

from finetune.data.source import Head, Reading, ReadOptions, Source
from finetune.data.sources.open import open_source

__all__ = ["Head", "ReadOptions", "Reading", "Source", "open_source"]

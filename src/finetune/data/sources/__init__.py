"""Sources: whatever people keep their data in, as named Arrow columns."""

from finetune.data.sources.open import open_source
from finetune.data.sources.source import Head, Reading, ReadOptions, Source

__all__ = ["Head", "ReadOptions", "Reading", "Source", "open_source"]

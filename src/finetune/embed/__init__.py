"""Embedding a corpus of any size into a folder of vectors, and searching in it.

import finetune

finetune.embed("sentence-transformers/all-MiniLM-L6-v2", "corpus.parquet", "vectors/")
finetune.search_vectors("vectors/", "a red cat", k=5)
"""

from finetune.callable_package import make_callable

make_callable(__name__, "finetune.api.vectors:embed")

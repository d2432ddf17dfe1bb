"""Embedding a corpus of any size into a folder of vectors, and searching in it.

    from finetune.embed.run import embed
    from finetune.embed.search import search_folder

    embed("sentence-transformers/all-MiniLM-L6-v2", "corpus.parquet", "vectors/")
    search_folder("vectors/", "a red cat", k=5)

Importing this package imports nothing.
"""

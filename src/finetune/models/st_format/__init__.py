"""The folder layout of sentence-transformers: reading, checking and writing it."""

"""Encoders: items in, embeddings out; a saved folder out."""

"""Losses: modules over embeddings and relations that return a scalar."""

"""Losses: modules over embeddings and relations; each returns one number."""

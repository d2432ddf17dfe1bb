"""Exact search, metrics over whole arrays, the bootstrap, the retrieval evaluator and the report."""

"""Evaluators, their metrics, exact search, and the bootstrap that compares two results."""

"""Holding out evaluation data, and finding leaks between it and the training data."""

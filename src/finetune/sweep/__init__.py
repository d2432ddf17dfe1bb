"""Sweeps: many runs of one config, as a grid or as a search with Optuna, each run a process of its own."""

"""Sweeps and searches: many runs of one config, each a process of its own."""

"""Composes, checks and builds configs; all mistakes are reported before anything starts."""

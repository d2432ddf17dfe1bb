"""Checks of everything that a config names, before a run starts. Imports no torch."""

"""Compose, check, build: from the command line to objects, with every mistake answered before anything starts."""

"""The micro-batch engine: embeds items within a memory budget, on one process or several. Imports no Lightning."""

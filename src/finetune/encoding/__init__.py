"""The micro-batch engine: embeds items within a memory budget, in one process or several. Imports no Lightning."""

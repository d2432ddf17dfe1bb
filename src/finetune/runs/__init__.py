"""The run directory, its status and its environment: plain files, readable without this program."""

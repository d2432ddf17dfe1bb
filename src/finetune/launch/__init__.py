"""From the command line to runs: one process each."""

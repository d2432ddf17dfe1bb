"""Run directories: their files, state and environment. Plain files, readable without this program."""

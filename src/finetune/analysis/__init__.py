"""Analysis of a run in addition to its metrics: similarities, a map, examples, suspect data. Plain data for the report."""

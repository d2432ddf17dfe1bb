"""Analysis of a run beyond its metrics: similarities, a map, examples, suspect data; plain data for report.json."""

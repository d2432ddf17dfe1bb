"""What a run finds out beside its metrics: similarities, a map, examples, doubtful data. Plain data for report.json."""

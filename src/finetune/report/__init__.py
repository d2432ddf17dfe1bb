"""The report that people read, from report.json and the run directory alone: a page, Markdown, the terminal."""

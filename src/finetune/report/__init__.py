"""The report that people read: report.html, report.md and the terminal, from report.json and the run directory alone."""

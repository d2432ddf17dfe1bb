"""The report of a run, rendered from report.json and metrics.jsonl as an HTML page, as Markdown and in the terminal.

Who makes what:

    training/build_report.py    collects the parts of report.json at the end of a run
    report_data.py              evaluation results as plain data: the core of report.json, `finetune evaluate --json`
    analysis/                   similarities, map, examples and suspect data as plain data: further keys of report.json
    content.py                  what all renderings show: verdicts, tables of cells, sentences
    formatting.py               numbers, durations and named facts as text
    escaping.py                 any text on one line, and escaped for Markdown
    charts.py, drawing.py       the charts of the page, as SVG
    page.py, templates/         report.html and the page that compares runs
    markdown.py                 report.md
    terminal.py                 tables and headlines in the terminal
    comparison.py               tables and page of several runs, from the data of runs/compare.py
    write.py                    reads report.json, writes report.html and report.md
    cli/report.py               the command `finetune report`
"""

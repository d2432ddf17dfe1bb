"""The report as GitHub-flavoured Markdown; any text in it shows as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.report import charts, content, words
from finetune.report.escaping import fenced, markdown

_LONGEST = 400  # characters of a text
_SHOWN = 80  # of a hit
_NUMBERS = re.compile(r"[-+.,/*\d to]*")  # in which nothing is markup
_EXAMPLES = 5  # of the worst, and of the best


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report from what `report_data` made."""
    return "\n\n".join(section for section in _sections(report) if section) + "\n"


def _sections(report: Mapping[str, Any]) -> Iterator[str]:
    evaluations, judged = report["evaluations"].items(), content.evaluations_and_forgetting(report).items()
    yield f"# {markdown(report['run'])}"
    for line in content.leading_notes(report):
        yield f"**{markdown(line, _LONGEST)}**"
    headlines = [f"- **{markdown(name)}**: {markdown(part['headline'], _LONGEST)}" for name, part in judged]
    yield "\n".join(headlines) or "Not evaluated (`evaluation=none`)."
    for name, part in evaluations:
        yield from _evaluation(name, part)
        yield from _examples(content.examples(report, name))
    yield from _embeddings(report)
    yield from _data(report)
    if report.get("forgetting"):
        yield from _evaluation("Forgetting", content.evaluations_and_forgetting(report)[content.FORGETTING])
    yield "## What it cost"
    yield _facts(words.format_facts(report["cost"]))
    yield "## How to do it again"
    yield fenced(report["again"]["command"], "sh") if report["again"].get("command") else ""
    versions = words.format_facts({"versions": report["again"].get("versions") or None})
    yield _facts([*content.reproduction_facts(report["again"]), *versions])
    yield "## How to use the model"
    yield fenced(content.usage(report), "python")


def _evaluation(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {markdown(name)}"
    yield markdown(content.description(part), _LONGEST)
    yield _table(content.metrics_table(part))
    yield f"\\* {content.CERTAIN}." if any(row.get("certain") for row in part["metrics"]) else ""
    yield "\n\n".join(markdown(line, _LONGEST) for line in content.further_notes(part))


def _examples(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    losses = [one for one in found if one["change"] < 0][:_EXAMPLES]
    gains = [one for one in found[::-1] if one["change"] > 0][:_EXAMPLES]
    for kind, examples in (("losses", losses), ("gains", gains)):
        yield f"### The largest {kind}" if examples else ""
        yield from (_example(example) for example in examples)


def _example(example: Mapping[str, Any]) -> str:
    right = "; ".join(markdown(text) for text in example["right"])
    before, after = example["before"], example["after"]
    rows = [(str(n + 1), _hit(before, n), _hit(after, n)) for n in range(max(len(before), len(after)))]
    change = f"**Change:** {example['change']:+.3f}, {content.rank_change(example)}"
    head = f"**Query:** {markdown(example['query'])}  \n**Right:** {right}  \n{change}"
    return f"{head}\n\n{_cells(('', 'before', 'after'), rows)}"


def _hit(hits: Sequence[Mapping[str, Any]], place: int) -> str:
    if place >= len(hits):
        return ""
    return ("✓ " if hits[place]["right"] else "") + markdown(hits[place]["text"], _SHOWN)


def _embeddings(report: Mapping[str, Any]) -> Iterator[str]:
    if report.get("similarities"):
        yield "## Embeddings"
        yield charts.overlap_words(report["similarities"])


def _data(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    yield _facts(content.data_facts(report["data"]))
    if lengths := content.lengths_table(report["data"]):
        yield _table(lengths)
    yield "\n".join(f"- {markdown(note, _LONGEST)}" for note in report["notes"])
    for one in content.suspect_sections(report["data"]):
        yield f"### {one.title}"
        yield one.words
        # Of pairs and of labels the lines mean other things: a table for each.
        kinds: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for doubt in one.rows:
            names = tuple(name for name, _, _ in content.suspect_lines(doubt))
            kinds.setdefault(names, []).append(_doubt(doubt))
        yield from (_cells(("where", *names), rows) for names, rows in kinds.items())


def _doubt(doubt: Mapping[str, Any]) -> tuple[str, ...]:
    lines = content.suspect_lines(doubt)
    texts = [markdown(text, _SHOWN) + (f" ({score})" if score else "") for _, text, score in lines]
    return (markdown(str(doubt.get("place") or "")), *texts)


def _facts(facts: content.Facts) -> str:
    rows = [(markdown(name), markdown(value, _LONGEST)) for name, value in facts]
    return _cells(("what", "value"), rows) if rows else ""


def _table(table: content.Table) -> str:
    return _cells(table.columns, [tuple(map(_cell, row)) for row in table.rows])


def _cell(cell: str) -> str:
    return cell if _NUMBERS.fullmatch(cell) else markdown(cell)


def _cells(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""The report as GitHub-flavored Markdown; all texts of the data are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.evaluation.metric_names import format_change
from finetune.report import charts, content, formatting, negatives
from finetune.report.escaping import fenced, markdown

_MAX_TEXT = 400  # characters of a text
_MAX_HIT = 80  # characters of a hit
_NUMBERS = re.compile(r"[-+.,/*\d to]*")  # cells of numbers, which contain no markup
_EXAMPLES = 5  # number of the largest losses, and of the largest gains


def report_markdown(report: Mapping[str, Any]) -> str:
    """Return report.md, from the content of report.json."""
    return "\n\n".join(section for section in _sections(report) if section) + "\n"


def _sections(report: Mapping[str, Any]) -> Iterator[str]:
    parts = content.evaluations_and_forgetting(report)
    yield f"# {markdown(report['run'])}"
    for line in content.leading_notes(report):
        yield f"**{markdown(line, _MAX_TEXT)}**"
    headlines = [f"- **{markdown(name)}**: {markdown(part['headline'], _MAX_TEXT)}" for name, part in parts.items()]
    yield "\n".join(headlines) or "Not evaluated (`evaluation=none`)."
    for name, part in report["evaluations"].items():
        yield from _evaluation(name, part)
        yield from _examples(content.examples(report, name))
    yield from _embeddings(report)
    yield from _data(report)
    if report.get("negatives"):
        yield from _negatives(report["negatives"])
    if report.get("forgetting"):
        yield from _evaluation("Forgetting", parts[content.FORGETTING])
    yield "## Cost"
    yield _facts(formatting.format_facts(report["cost"]))
    yield "## How to reproduce"
    again = report["again"]
    if again.get("command"):
        yield fenced(again["command"], "sh")
    versions = formatting.format_facts({"versions": again.get("versions") or None})
    yield _facts([*content.reproduction_facts(again), *versions])
    yield "## How to use the model"
    yield fenced(content.usage(report), "python")


def _evaluation(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {markdown(name)}"
    yield markdown(content.description(part), _MAX_TEXT)
    yield _table(content.metrics_table(part))
    if any(row.get("certain") for row in part["metrics"]):
        yield f"\\* {content.CERTAIN}."
    yield "\n\n".join(markdown(line, _MAX_TEXT) for line in content.further_notes(part))


def _examples(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    losses = [example for example in found if example["change"] < 0][:_EXAMPLES]
    gains = [example for example in found[::-1] if example["change"] > 0][:_EXAMPLES]
    for kind, examples in (("losses", losses), ("gains", gains)):
        if examples:
            yield f"### The largest {kind}"
        for example in examples:
            yield _example(example)


def _example(example: Mapping[str, Any]) -> str:
    right = "; ".join(markdown(text) for text in example["right"])
    before, after = example["before"], example["after"]
    rows = [(str(n + 1), _hit(before, n), _hit(after, n)) for n in range(max(len(before), len(after)))]
    change = f"**Change:** {format_change(example['change'])}, {content.rank_change(example)}"
    head = f"**Query:** {markdown(example['query'])}  \n**Right:** {right}  \n{change}"
    return f"{head}\n\n{_cells(('', 'before', 'after'), rows)}"


def _hit(hits: Sequence[Mapping[str, Any]], place: int) -> str:
    if place >= len(hits):
        return ""
    text = markdown(hits[place]["text"], _MAX_HIT)
    if hits[place]["right"]:
        return f"✓ {text}"
    return text


def _embeddings(report: Mapping[str, Any]) -> Iterator[str]:
    if report.get("similarities"):
        yield "## Embeddings"
        yield charts.overlap_words(report["similarities"])


def _data(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    yield _facts(content.data_facts(report["data"]))
    lengths = content.lengths_table(report["data"])
    if lengths is not None:
        yield _table(lengths)
    yield "\n".join(f"- {markdown(note, _MAX_TEXT)}" for note in report["notes"])
    for section in content.suspect_sections(report["data"]):
        yield f"### {section.title}"
        yield section.words
        # Pairs and labels have different columns: a table for each.
        tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for suspect in section.rows:
            names = tuple(name for name, _, _ in content.suspect_lines(suspect))
            tables.setdefault(names, []).append(_suspect_cells(suspect))
        for names, rows in tables.items():
            yield _cells(("where", *names), rows)


def _negatives(mined: Mapping[str, Any]) -> Iterator[str]:
    yield "## Hard negatives"
    yield "\n".join(f"- {sentence}" for sentence in negatives.sentences(mined))
    filters = negatives.filters_table(mined)
    if filters is not None:
        yield _table(filters)
    for title, examples in negatives.examples(mined):
        yield f"### {markdown(title)}"
        for lines in examples[:_EXAMPLES]:
            yield "  \n".join(
                f"**{name}:** {markdown(text, _MAX_HIT)}{f' ({score})' if score else ''}" for name, text, score in lines
            )


def _suspect_cells(suspect: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [markdown(str(suspect.get("place") or ""))]
    for _, text, score in content.suspect_lines(suspect):
        cell = markdown(text, _MAX_HIT)
        if score:
            cell += f" ({score})"
        cells.append(cell)
    return tuple(cells)


def _facts(facts: content.Facts) -> str:
    if not facts:
        return ""
    rows = [(markdown(name), markdown(value, _MAX_TEXT)) for name, value in facts]
    return _cells(("what", "value"), rows)


def _table(table: content.Table) -> str:
    return _cells(table.columns, [tuple(map(_cell, row)) for row in table.rows])


def _cell(cell: str) -> str:
    if _NUMBERS.fullmatch(cell):
        return cell
    return markdown(cell)


def _cells(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table of cells that are escaped already."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

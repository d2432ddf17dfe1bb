"""What a run found, as plain data (report.json), as Markdown (report.md) and as a table for the terminal.

`report_data` gathers everything into one JSON-able dict; `report_markdown` renders nothing but that dict, so
that a report can be rebuilt from its own report.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from finetune.evaluation.bootstrap import Change
from finetune.evaluation.comparison import Comparison, Row, compare
from finetune.evaluation.plain import fenced, markdown, one_line
from finetune.evaluation.result import Ints, Result
from finetune.evaluation.retrieval import RetrievalResult

__all__ = ["Comparison", "Row", "compare", "counts_in_words", "render_table", "report_data", "report_markdown"]

Take = Callable[[np.ndarray], list[str]]
Facts = Mapping[str, Any]

EXAMPLES = 5  # of each kind
TOP = 5  # hits shown of each example
_KEPT = 300  # characters of a text in report.json
_CERTAIN = "* certain: the interval excludes zero, and enough queries changed"
# Words that a reader of the report need not know.
_EXPLAINED = {
    "leaks": "training pairs that contain a validation query",
    "leaks_normalised": "the same but for case and punctuation",
    "leaks_near": "nearly the same",
    "validation_judgments": "which document answers which query",
    "validation_corpus": "texts that are searched",
}
_CHANGE_COLUMNS = ("metric", "before", "after", "change", "95 % interval", "won / lost / tied")


def report_data(
    *,
    run: str,
    model_path: str,
    evaluations: Mapping[str, Comparison | Result],
    take: Take,
    data: Facts,
    notes: Sequence[str],
    cost: Facts,
    again: Facts,
    takes: Mapping[str, Take] | None = None,
) -> dict[str, Any]:
    """Everything the report says, as dicts, lists, numbers and strings.

    `evaluations` maps an evaluator's name to its comparison, or to a single result where there was only one
    measurement; it may be empty. `take` gives the texts of item rows, `takes` those
    of evaluations on a source of their own. `data`, `cost` and `again` are shown as
    tables of name and value; in `again`, `command` is shown as code and a value may be a mapping (versions).
    """
    return {
        "run": run,
        "model_path": model_path,
        "evaluations": {
            name: _evaluation(result, (takes or {}).get(name, take)) for name, result in evaluations.items()
        },
        "data": dict(data),
        "notes": list(notes),
        "cost": dict(cost),
        "again": dict(again),
    }


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as GitHub-flavoured Markdown, from what `report_data` made; any text in it shows as text."""
    evaluations = report["evaluations"].items()
    headlines = [f"- **{markdown(name)}**: {markdown(part['headline'])}" for name, part in evaluations]
    sections = [
        f"# {markdown(report['run'])}",
        "\n".join(headlines) or "Not evaluated (`evaluation=none`).",
        *(_evaluation_markdown(name, part) for name, part in evaluations),
        "## Data",
        _facts_markdown({_in_words(name): value for name, value in report["data"].items()}),
        "\n".join(f"- {markdown(note, 400)}" for note in report["notes"]),
        "## What it cost",
        _facts_markdown(report["cost"]),
        "## How to do it again",
        fenced(report["again"]["command"], "sh") if "command" in report["again"] else "",
        _facts_markdown({name: value for name, value in report["again"].items() if name != "command"}),
        "## How to use the model",
        fenced(_usage(report["model_path"]), "python"),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_table(comparison: Comparison, name: str) -> Table:
    """The changes as a table for the terminal; certain ones in colour and marked, so that colour is not needed."""
    legend = f"\n{_CERTAIN}" if any(row.change.certain for row in comparison.rows) else ""
    legend += "".join(f"\n{line}" for line in _baselines(comparison.after.baselines, comparison.after.headline))
    table = Table(title=Text(one_line(f"{name}: {comparison.after.name}")), caption=Text(comparison.verdict + legend))
    for column in _CHANGE_COLUMNS:
        table.add_column(column, justify="left" if column == "metric" else "right")
    for row in comparison.rows:
        colour = ("green" if row.change.change > 0 else "red") if row.change.certain else "default"
        table.add_row(*(Text(cell) for cell in _cells(row.metric, change_data(row.change))), style=colour)
    return table


def counts_in_words(counts: Mapping[str, int]) -> str:
    """What was evaluated on, as in `1,500 queries, 6,000 documents`."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _evaluation(result: Comparison | Result, take: Take) -> dict[str, Any]:
    if isinstance(result, Result):
        metrics = [{"metric": metric, "value": mean} for metric, mean in result.means.items()]
        headline = f"{result.headline} {result.means[result.headline]:.3f}, measured once: nothing to compare it with"
        return _described(result, headline) | {"metrics": metrics, "examples": {}}
    changes = [{"metric": row.metric} | change_data(row.change) for row in result.rows]
    return _described(result.after, result.verdict) | {"metrics": changes, "examples": _examples(result, take)}


def _examples(result: Comparison, take: Take) -> dict[str, list[dict[str, Any]]]:
    before, after = result.before, result.after
    if not (isinstance(before, RetrievalResult) and isinstance(after, RetrievalResult)):
        return {}
    kinds = {"largest losses": result.lost(EXAMPLES), "largest gains": result.gained(EXAMPLES)}
    return {kind: [_example(before, after, query, take) for query in queries] for kind, queries in kinds.items()}


def _described(result: Result, headline: str) -> dict[str, Any]:
    return {
        "judgments": result.name,
        "headline": headline,
        "metric": result.headline,
        "counts": result.counts,
        "baselines": {name: dict(means) for name, means in result.baselines.items()},
        "notes": result.notes,
        "seconds": result.seconds,
    }


def change_data(change: Change) -> dict[str, Any]:
    """A change as plain data."""
    return {
        "before": change.mean_before,
        "after": change.mean_after,
        "change": change.change,
        "low": change.low,
        "high": change.high,
        "certain": change.certain,
        "won": change.won,
        "lost": change.lost,
        "tied": change.tied,
        "more_queries": change.more_queries(),
        "visible": change.visible,
    }


def _example(before: RetrievalResult, after: RetrievalResult, query: int, take: Take) -> dict[str, Any]:
    return {
        "query": _texts(after.queries[query : query + 1], take)[0],
        "right": _texts(after.right[query, :TOP], take),
        "before": {"score": float(before.per_query[before.headline][query]), "hits": _hits(before, query, take)},
        "after": {"score": float(after.per_query[after.headline][query]), "hits": _hits(after, query, take)},
    }


def _hits(result: RetrievalResult, query: int, take: Take) -> list[dict[str, Any]]:
    texts = _texts(result.hits[query, :TOP], take)
    return [{"text": text, "right": bool(gain > 0)} for text, gain in zip(texts, result.gains[query], strict=False)]


def _texts(rows: Ints, take: Take) -> list[str]:
    # Rows of -1 (fewer hits than places) stand only at the end.
    return [one_line(text, _KEPT) for text in take(rows[rows >= 0])]


def _evaluation_markdown(name: str, part: Mapping[str, Any]) -> str:
    counts = markdown(counts_in_words(part["counts"]), 400)
    rows = [_cells(metric["metric"], metric) for metric in part["metrics"]]
    metrics = _table(_CHANGE_COLUMNS if len(rows[0]) > 2 else ("metric", "value"), rows)
    legend = f"\\{_CERTAIN}." if any(metric.get("certain") for metric in part["metrics"]) else ""
    without = "\n".join(_baselines(part["baselines"], part["metric"]))
    sections = [f"## {markdown(name)}", f"On {markdown(part['judgments'])}: {counts}.", metrics, legend, without]
    for kind, examples in part["examples"].items():
        sections += [f"### The {kind}"] if examples else []
        sections += [_example_markdown(example, part["metric"]) for example in examples]
    return "\n\n".join(section for section in sections if section)


def _baselines(baselines: Mapping[str, Mapping[str, float]], headline: str) -> Iterator[str]:
    for name, means in baselines.items():
        yield f"Without a model: {name} has {headline} {means[headline]:.3f}."


def _example_markdown(example: Mapping[str, Any], metric: str) -> str:
    before, after = example["before"], example["after"]
    right = "; ".join(markdown(text) for text in example["right"])
    places = max(len(before["hits"]), len(after["hits"]))
    rows = [(str(n + 1), _hit(before["hits"], n), _hit(after["hits"], n)) for n in range(places)]
    return "\n\n".join(
        [
            f"**Query:** {markdown(example['query'])}  \n**Right:** {right}",
            _table(("", f"before ({metric} {before['score']:.2f})", f"after ({metric} {after['score']:.2f})"), rows),
        ]
    )


def _hit(hits: Sequence[Mapping[str, Any]], place: int) -> str:
    if place >= len(hits):
        return ""
    return ("✓ " if hits[place]["right"] else "") + markdown(hits[place]["text"], 80)


def _cells(metric: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """One row under `_CHANGE_COLUMNS`, or only metric and value of a single measurement."""
    if "change" not in values:
        return (metric, f"{values['value']:.3f}")
    return (
        metric,
        f"{values['before']:.3f}",
        f"{values['after']:.3f}",
        f"{values['change']:+.3f}" + (" *" if values["certain"] else ""),
        f"{values['low']:+.3f} to {values['high']:+.3f}",
        f"{values['won']} / {values['lost']} / {values['tied']}",
    )


def _in_words(fact: str) -> str:
    words = fact.replace("_", " ")
    return f"{words} ({_EXPLAINED[fact]})" if fact in _EXPLAINED else words


def _facts_markdown(facts: Facts) -> str:
    return _table(("what", "value"), [(markdown(name), markdown(_value(value), 400)) for name, value in facts.items()])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items() if inner is not None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows] if rows else []
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _usage(model_path: str) -> str:
    return f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer({model_path!r})
queries = model.encode(["what you look for"])
documents = model.encode(["one text", "another text"])
print(model.similarity(queries, documents))"""

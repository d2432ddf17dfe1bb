"""The content of a report that all renderings share: sentences, tables of cells and curves, in the order of the report.

Made from report.json and metrics.jsonl. Missing sections of report.json are left out. All texts are plain, and escaped
by the renderings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.metric_names import format_change, format_value
from finetune.report.charts import Points, kind_of
from finetune.report.formatting import capitalize, format_fact, format_facts, format_score, percent
from finetune.runs.metrics import curve

Facts = list[tuple[str, str]]

FORGETTING = "forgetting"
CERTAIN = "certain: the interval excludes zero, and chance rarely does as much"
CHANGE, INTERVAL, CASES = "change", "95 % interval", "won / lost / tied"
_CHANGE_COLUMNS = ("metric", "before", "after", CHANGE, INTERVAL, CASES)


@dataclass(frozen=True)
class Table:
    """Column names and rows of cells; all columns but the first are numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Verdict:
    """The headline of an evaluation: `kind` is better, worse, same or once (measured once), `row` its metric.

    `words` is the headline, `also` are metrics that changed differently, `cases` is what was compared: queries, pairs
    or items.
    """

    evaluation: str
    kind: str
    words: str
    also: list[str]
    row: Mapping[str, Any]
    cases: str


@dataclass(frozen=True)
class SuspectSection:
    """Rows of the data that the tuned model contradicts, with an explanation."""

    title: str
    words: str
    rows: list[Mapping[str, Any]]


def verdict(name: str, part: Mapping[str, Any]) -> Verdict:
    """Return the headline of one evaluation of a report."""
    row = _headline_row(part)
    kind = "once"
    if "change" in row:
        kind = kind_of(row)
    words, *also = part["headline"].split("; ")
    if kind == "same":  # the number of queries that would be needed is less important
        words, *rest = words.split(", ", 1)
        also = [*rest, *also]
    cases = next(iter(part["counts"]), "queries")
    return Verdict(name, kind, capitalize(words), [capitalize(each) for each in also], row, cases)


def _headline_row(part: Mapping[str, Any]) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = part["metrics"]
    for row in rows:
        if row["metric"] == part["metric"]:
            return row
    return rows[0]


def leading_notes(report: Mapping[str, Any]) -> list[str]:
    """Return what a report starts with: that training did not help, and that it ended early."""
    training = report.get("training") or {}
    first = training.get("kept_untouched") or _made_worse(report)
    return [line for line in (first, training.get("ended_early")) if line]


def _made_worse(report: Mapping[str, Any]) -> str | None:
    """Return a sentence if training made the model certainly worse, and certainly better in no evaluation."""
    verdicts = [verdict(name, part) for name, part in report["evaluations"].items()]
    worse = [one for one in verdicts if one.kind == "worse"]
    if not worse or any(one.kind == "better" for one in verdicts):
        return None
    first = worse[0]
    before, after = format_value(first.row["before"]), format_value(first.row["after"])
    untouched, model = "the untouched model", report["again"].get("model")
    if model:
        untouched += f" ({model})"
    return (
        f"Training made the model worse: {first.evaluation}, {first.row['metric']} {before} before, {after} after."
        f" Use {untouched}, or callbacks=[default,evaluate,best], which saves it if no step is better."
        " A lower optimizer.lr may help."
    )


def evaluations_and_forgetting(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return all evaluations by name, and the one of forgetting in the same form."""
    evaluations, forgetting = dict(report["evaluations"]), report.get("forgetting")
    if forgetting:
        rows = [{"metric": metric, **row} for metric, row in forgetting["metrics"].items()]
        evaluations[FORGETTING] = {
            "headline": forgetting["verdict"],
            "metric": rows[0]["metric"],
            "metrics": rows,
            "baselines": {},
            "judgments": forgetting["name"],
            "counts": forgetting["counts"],
            "notes": [forgetting["what"]],
        }
    return evaluations


def has_interval(row: Mapping[str, Any]) -> bool:
    """Whether a metric was measured before and after, and all its values are numbers."""
    return all(isinstance(row.get(name), int | float) for name in ("before", "after", "change", "low", "high"))


def metrics_table(part: Mapping[str, Any]) -> Table:
    """Return all metrics of one evaluation; certain changes are marked."""
    rows = part["metrics"]
    if any("change" in row for row in rows):
        return Table(_CHANGE_COLUMNS, [change_cells(row["metric"], row) for row in rows])
    return Table(("metric", "value"), [(str(row["metric"]), format_value(row["value"])) for row in rows])


def change_cells(metric: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one metric: before, after, change, interval, and won, lost and tied cases."""
    return (
        metric,
        format_value(row["before"]),
        format_value(row["after"]),
        format_change(row["change"]) + _mark(row),
        f"{format_change(row['low'])} to {format_change(row['high'])}",
        f"{row['won']} / {row['lost']} / {row['tied']}",
    )


def metric_cell(row: Mapping[str, Any] | None) -> str:
    """Return a metric as a single cell: its value, and in brackets its change; a dash if it was not measured."""
    if row is None:
        return "-"
    if "change" not in row:
        return format_value(row["value"])
    return f"{format_value(row['after'])} ({format_change(row['change'])}{_mark(row)})"


def _mark(row: Mapping[str, Any]) -> str:
    return " *" if row.get("certain") else ""


def description(part: Mapping[str, Any]) -> str:
    """Return a sentence on the data of an evaluation: its name and its size."""
    counts = ", ".join(f"{count:,} {what}" for what, count in part["counts"].items() if count)
    return f"On {part['judgments']}: {counts}."


def further_notes(part: Mapping[str, Any]) -> list[str]:
    """Return the baselines of an evaluation, and its notes."""
    return [*baseline_notes(part), *part["notes"]]


def baseline_notes(part: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each baseline that needs no model."""
    metric = part["metric"]
    values = {name: format_value(means[metric]) for name, means in part["baselines"].items()}
    return [f"Without a model: {name} has {metric} {value}." for name, value in values.items()]


def examples(report: Mapping[str, Any], evaluation: str) -> list[Mapping[str, Any]]:
    """Return the example queries of an evaluation, the worst regressions first."""
    found = report.get("examples", {}).get(evaluation, [])
    return sorted(found, key=lambda example: float(example["change"]))


def rank_change(example: Mapping[str, Any]) -> str:
    """Return the rank of the first right text before, and after if it changed."""
    before, after = _format_rank(example["right_rank_before"]), _format_rank(example["right_rank_after"])
    if before == after:
        return f"first right text: {before}"
    return f"first right text: {before} → {after}"


def _format_rank(rank: int | None) -> str:
    return f"rank {rank:,}" if rank else "not found"


def loss_points(records: Sequence[Mapping[str, Any]]) -> Points:
    """Return the curve of the training loss."""
    return curve(records, "loss")


def metric_points(records: Sequence[Mapping[str, Any]], name: str, metric: str) -> Points:
    """Return the curve of a metric: before, during and after the training."""
    before = [(0.0, value) for _, value in curve(records, f"{name}/before/{metric}")[:1]]
    after = curve(records, f"{name}/after/{metric}")[-1:]
    during = curve(records, f"{name}/{metric}")
    if after:
        last_step = after[0][0]
        during = [point for point in during if point[0] < last_step]
    return [*before, *during, *after]


def truncation_rows(part: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return the headline metric of truncated embeddings: (dimensions, before, after), the full embedding last."""
    rows = {row["metric"]: row for row in part["metrics"] if has_interval(row)}
    metric, truncated = part["metric"], []
    for name, row in rows.items():
        dimensions = name.removeprefix(f"{metric} (").removesuffix(")")
        if dimensions != name and dimensions.isdigit():
            truncated.append((dimensions, row["before"], row["after"]))
    if not truncated or metric not in rows:
        return []
    truncated.sort(key=lambda each: int(each[0]))
    return [*truncated, ("all", rows[metric]["before"], rows[metric]["after"])]


def data_facts(data: Mapping[str, Any]) -> Facts:
    """Return the counts, duplicates and leaks of the data."""
    facts: Facts = []
    for name, value in data.items():
        if name == "lengths" or isinstance(value, list):
            continue
        if isinstance(value, Mapping):
            facts += format_facts(value, name)
        else:
            facts += format_facts({name: value})
    return facts


def lengths_table(data: Mapping[str, Any]) -> Table | None:
    """Return the lengths of the texts in tokens, a row for each column of the data; None if unknown."""
    lengths = data.get("lengths") or {}
    columns = list(dict.fromkeys(column for values in lengths.values() for column in values))
    rows = [(name, *(format_fact(values.get(column, "")) for column in columns)) for name, values in lengths.items()]
    if not rows:
        return None
    return Table(("tokens", *columns), rows)


def suspect_sections(data: Mapping[str, Any]) -> list[SuspectSection]:
    """Return the rows of the data that the tuned model contradicts, to be checked and corrected."""
    sections = []
    if data.get("false_negatives"):
        words = "The model ranks these above the right answer. If they are right, mark them so in the data."
        sections.append(SuspectSection("Likely right, but not marked so", words, data["false_negatives"]))
    if data.get("wrong_labels"):
        words = "Marked right in the data, but the model disagrees. If they are wrong, remove or correct them."
        sections.append(SuspectSection("Likely wrong", words, data["wrong_labels"]))
    return sections


def suspect_lines(suspect: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a suspect row as lines of name, text and score."""
    if suspect.get("of") == "labels":
        return [
            ("item", suspect["anchor"], ""),
            ("its class", suspect["positive"], f"{percent(suspect['positive_score'])} of its neighbors"),
            ("class by model", suspect["text"], f"{percent(suspect['score'])} of its neighbors"),
        ]
    return [
        ("query", suspect["anchor"], ""),
        ("found by model", suspect["text"], format_score(suspect["score"])),
        ("marked right", suspect["positive"], format_score(suspect["positive_score"])),
    ]


def reproduction_facts(again: Mapping[str, Any]) -> Facts:
    """Return the model, data, settings and commit of the run; the command and the versions are shown separately."""
    facts = {name: value for name, value in again.items() if name not in ("command", "versions")}
    return format_facts(facts | {"git": _format_commit(again.get("git") or {})})


def _format_commit(git: Mapping[str, Any]) -> str | None:
    if not git.get("sha"):
        return None
    commit: str = git["sha"][:12]
    if git.get("dirty"):
        commit += " (changed)"
    return commit


def usage(report: Mapping[str, Any]) -> str:
    """Return Python code that uses the model."""
    path = repr(report["model_path"])
    if report.get("use"):
        return str(report["use"]).replace('"path/to/this/folder"', path)
    return f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer({path})
queries = model.encode(["what you look for"])
documents = model.encode(["one text", "another text"])
print(model.similarity(queries, documents))"""

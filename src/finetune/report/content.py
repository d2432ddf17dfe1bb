"""What a report says, in the words and the order in which all of its forms say it; from report.json and metrics.jsonl.

A section of report.json that is not there is left out. All of it is plain text, to be escaped by who shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.report.charts import Points, kind_of
from finetune.report.words import capitalize, format_fact, format_facts, format_number, percent
from finetune.runs.metrics import curve

Facts = list[tuple[str, str]]

FORGETTING = "forgetting"
CERTAIN = "certain: the interval excludes zero, and chance rarely does as much"
_WORD = {"better": "Better, certain", "worse": "Worse, certain", "same": "No visible change", "once": "Measured once"}
CHANGE, INTERVAL, CASES = "change", "95 % interval", "won / lost / tied"
_CHANGED = ("metric", "before", "after", CHANGE, INTERVAL, CASES)


@dataclass(frozen=True)
class Table:
    """Cells below columns; all but the first column are numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Verdict:
    """The headline of an evaluation: `kind` is better, worse, same or once; `row` are the numbers of its metric.

    `words` say it plainly, `also` what else went another way, `cases` what won and lost: queries, pairs, items.
    """

    evaluation: str
    kind: str
    word: str
    words: str
    also: list[str]
    row: Mapping[str, Any]
    cases: str


@dataclass(frozen=True)
class SuspectSection:
    """Pairs of the data that the tuned model contradicts, and what is to be read from them."""

    title: str
    words: str
    rows: list[Mapping[str, Any]]


def verdict(name: str, part: Mapping[str, Any]) -> Verdict:
    """The headline of one evaluation of a report."""
    row = next((row for row in part["metrics"] if row["metric"] == part["metric"]), part["metrics"][0])
    kind = kind_of(row) if "change" in row else "once"
    words, *also = part["headline"].split("; ")
    if kind == "same":  # what it would take to tell is the smaller news
        words, *rest = words.split(", ", 1)
        also = [*rest, *also]
    cases = next(iter(part["counts"]), "queries")
    return Verdict(name, kind, _WORD[kind], capitalize(words), [capitalize(each) for each in also], row, cases)


def leading_notes(report: Mapping[str, Any]) -> list[str]:
    """What is to be said before all else: that training did not help, and that it ended early."""
    training = report.get("training") or {}
    first = training.get("kept_untouched") or _made_worse(report)
    return [line for line in (first, training.get("ended_early")) if line]


def _made_worse(report: Mapping[str, Any]) -> str | None:
    """The sentence for a training that made the model certainly worse, and nothing certainly better."""
    found = [verdict(name, part) for name, part in report["evaluations"].items()]
    worse = [one for one in found if one.kind == "worse"]
    if not worse or any(one.kind == "better" for one in found):
        return None
    one, model = worse[0], report["again"].get("model")
    before, after = format_number(one.row["before"], 3), format_number(one.row["after"], 3)
    untouched = f"the untouched model ({model})" if model else "the untouched model"
    return (
        f"Training made the model worse: {one.evaluation}, {one.row['metric']} {before} before, {after} after."
        f" Use {untouched}, or callbacks=[default,evaluate,best], which saves it where no step is better."
        " A lower optimizer.lr may help."
    )


def evaluations_and_forgetting(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the headline tells of, by name: each evaluation, and what was forgotten, in the same shape."""
    found, forgetting = dict(report["evaluations"]), report.get("forgetting")
    if forgetting:
        rows = [{"metric": metric, **row} for metric, row in forgetting["metrics"].items()]
        facts = {"headline": forgetting["verdict"], "metric": rows[0]["metric"], "metrics": rows, "baselines": {}}
        named = {"judgments": forgetting["name"], "counts": forgetting["counts"], "notes": [forgetting["what"]]}
        found[FORGETTING] = facts | named
    return found


def has_interval(row: Mapping[str, Any]) -> bool:
    """Whether a metric was measured before and after, and is a number with an interval of numbers."""
    return all(isinstance(row.get(name), int | float) for name in ("before", "after", "change", "low", "high"))


def metrics_table(part: Mapping[str, Any]) -> Table:
    """All metrics of one evaluation; certain changes are marked."""
    if not any("change" in row for row in part["metrics"]):
        return Table(
            ("metric", "value"), [(str(row["metric"]), format_number(row["value"], 3)) for row in part["metrics"]]
        )
    return Table(_CHANGED, [change_cells(row["metric"], row) for row in part["metrics"]])


def change_cells(metric: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one metric before and after."""
    cells = (metric, format_number(row["before"], 3), format_number(row["after"], 3))
    interval = f"{format_number(row['low'], 3, '+')} to {format_number(row['high'], 3, '+')}"
    mark = " *" if row.get("certain") else ""
    return (
        *cells,
        format_number(row["change"], 3, "+") + mark,
        interval,
        f"{row['won']} / {row['lost']} / {row['tied']}",
    )


def description(part: Mapping[str, Any]) -> str:
    """What was evaluated on: its name and its counts."""
    counts = ", ".join(f"{count:,} {what}" for what, count in part["counts"].items() if count)
    return f"On {part['judgments']}: {counts}."


def further_notes(part: Mapping[str, Any]) -> list[str]:
    """What else is to be said of an evaluation: what needs no model, and its notes."""
    return [*baseline_notes(part), *part["notes"]]


def baseline_notes(part: Mapping[str, Any]) -> list[str]:
    """What is found without a model."""
    metric = part["metric"]
    return [f"Without a model: {name} has {metric} {means[metric]:.3f}." for name, means in part["baselines"].items()]


def examples(report: Mapping[str, Any], evaluation: str) -> list[Mapping[str, Any]]:
    """The example queries of an evaluation, the worst regressions first."""
    found = report.get("examples", {}).get(evaluation, [])
    return sorted(found, key=lambda example: float(example["change"]))


def rank_change(example: Mapping[str, Any]) -> str:
    """Where the first right text stood before, and where it stands after."""
    before, after = (_rank(example[f"right_rank_{when}"]) for when in ("before", "after"))
    return f"first right one: {before}" + (f" → {after}" if before != after else "")


def _rank(rank: int | None) -> str:
    return f"place {rank:,}" if rank else "not found"


def loss_points(records: Sequence[Mapping[str, Any]]) -> Points:
    """The curve of the loss."""
    return curve(records, "loss")


def metric_points(records: Sequence[Mapping[str, Any]], name: str, metric: str) -> Points:
    """The curve of an evaluation's metric: before, measured in between, after."""
    before = [(0.0, value) for _, value in curve(records, f"{name}/before/{metric}")[:1]]
    after = curve(records, f"{name}/after/{metric}")[-1:]
    between = [point for point in curve(records, f"{name}/{metric}") if not after or point[0] < after[0][0]]
    return [*before, *between, *after]


def truncation_rows(part: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """The headline metric by dimensions that are kept: dimensions, before, after; the whole embedding last."""
    rows = {row["metric"]: row for row in part["metrics"] if has_interval(row)}
    metric, found = part["metric"], []
    for name, row in rows.items():
        inside = name.removeprefix(f"{metric} (").removesuffix(")")
        if inside != name and inside.isdigit():
            found.append((inside, row["before"], row["after"]))
    if not found or metric not in rows:
        return []
    return [*sorted(found, key=lambda each: int(each[0])), ("all", rows[metric]["before"], rows[metric]["after"])]


def data_facts(data: Mapping[str, Any]) -> Facts:
    """The counts, duplicates and leaks of the data."""
    found: Facts = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            found += format_facts(value, name) if name != "lengths" else []
        elif not isinstance(value, list):
            found += format_facts({name: value})
    return found


def lengths_table(data: Mapping[str, Any]) -> Table | None:
    """How long the texts are, a row for each column of the data."""
    lengths = data.get("lengths") or {}
    columns = list(dict.fromkeys(column for values in lengths.values() for column in values))
    rows = [(name, *(format_fact(values.get(column, "")) for column in columns)) for name, values in lengths.items()]
    return Table(("tokens", *columns), rows) if rows else None


def suspect_sections(data: Mapping[str, Any]) -> list[SuspectSection]:
    """What the tuned model finds wrong with the data, to be looked at and mended."""
    missed = "The model ranks these above the right answer. Where they are right, say so in the data."
    wrong = "The data calls these right, the model does not. Where they are wrong, remove or mend them."
    kinds = (("false_negatives", "Likely right, but not marked so", missed), ("wrong_labels", "Likely wrong", wrong))
    return [SuspectSection(title, words, data[key]) for key, title, words in kinds if data.get(key)]


def suspect_lines(doubt: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """One doubt as lines: what stands there, the text, its score."""
    score, own = format_number(doubt["score"], 2), format_number(doubt["positive_score"], 2)
    if doubt.get("of") == "labels":
        of, told = percent(doubt["positive_score"]), percent(doubt["score"])
        rows = [("item", doubt["anchor"], ""), ("its class", doubt["positive"], f"{of} of its neighbours")]
        return [*rows, ("the model says", doubt["text"], f"{told} of its neighbours")]
    return [
        ("query", doubt["anchor"], ""),
        ("the model finds", doubt["text"], score),
        ("marked right", doubt["positive"], own),
    ]


def reproduction_facts(again: Mapping[str, Any]) -> Facts:
    """What the run was made of and from, without the command and the versions, which are shown by themselves."""
    git = again.get("git") or {}
    state = f"{git['sha'][:12]}{' (changed)' if git.get('dirty') else ''}" if git.get("sha") else None
    return format_facts(
        {name: value for name, value in again.items() if name not in ("command", "versions")} | {"git": state}
    )


def usage(report: Mapping[str, Any]) -> str:
    """How to use the model, in Python."""
    path = repr(report["model_path"])
    if report.get("use"):
        return str(report["use"]).replace('"path/to/this/folder"', path)
    return f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer({path})
queries = model.encode(["what you look for"])
documents = model.encode(["one text", "another text"])
print(model.similarity(queries, documents))"""

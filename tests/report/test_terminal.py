"""What the terminal shows of a report."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from finetune.report import terminal
from tests.report.made import BARE, HOSTILE, make_report


def shown(*things: object) -> str:
    console = Console(width=80, file=StringIO())
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def test_the_table_has_the_headline_below_and_marks_what_is_certain() -> None:
    name, part = next(iter(make_report()["evaluations"].items()))
    text = shown(terminal.metrics_table(name, part))
    assert "retrieval: pairs.csv, held out" in text
    assert "better: +0.081 nDCG@10, certain; certainly worse: recall@1 -0.030" in " ".join(text.split())
    assert "* certain: the interval excludes zero, and chance rarely does as much" in text
    assert "+0.081 *" in text and "+0.061 to +0.101" in text
    assert "Without a model: BM25 has nDCG@10 0.354." in text


def test_one_measurement_is_a_table_of_values() -> None:
    part = make_report()["evaluations"]["retrieval"] | {"metrics": [{"metric": "nDCG@10", "value": 0.5}]}
    text = shown(terminal.metrics_table("retrieval", part))
    assert "value" in text and "0.500" in text and "interval" not in text
    report = make_report() | {
        "forgetting": None,
        "evaluations": {"retrieval": part | {"headline": "nDCG@10 0.500, measured once"}},
    }
    assert terminal.headlines(report) == ["retrieval: nDCG@10 0.500, measured once"]


def test_nothing_evaluated_is_said() -> None:
    assert terminal.headlines(BARE) == ["not evaluated (evaluation=none)"]


def test_markup_in_a_name_is_text() -> None:
    part = make_report()["evaluations"]["retrieval"]
    text = shown(terminal.metrics_table("[red]" + HOSTILE[8], part), *terminal.headlines(make_report(hostile=True))[:1])
    assert "[red]line break tab" in " ".join(text.split())
    assert "\x1b" not in text

"""Reports in the terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from finetune.report import content, terminal
from finetune.report.markdown import report_markdown
from finetune.report.page import report_page
from tests.report.made import BARE, HOSTILE, make_report, row


def shown(*things: object, width: int = 80) -> str:
    console = Console(width=width, file=StringIO())
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


def test_a_narrow_terminal_keeps_the_metric_and_its_values() -> None:
    part = make_report()["evaluations"]["retrieval"]
    part = part | {"metrics": [row("nDCG@10", 0.4, 0.5), row("a metric of a long name", 0.25, 0.75)]}

    def header(width: int) -> str:
        lines = shown(terminal.metrics_table("retrieval", part), width=width).splitlines()
        return next(line for line in lines if line.startswith("metric"))

    assert "won / lost / tied" in header(100) and "95 % interval" in header(100)
    assert "won / lost / tied" not in header(72) and "95 % interval" in header(72)
    assert header(50).split() == ["metric", "before", "after", "change"]
    assert header(24).split() == ["metric", "before", "after"]
    rows = [line.split() for line in shown(terminal.metrics_table("retrieval", part), width=24).splitlines()]
    assert ["nDCG@10", "0.400", "0.500"] in rows


def test_one_measurement_is_a_table_of_values() -> None:
    part = make_report()["evaluations"]["retrieval"] | {"metrics": [{"metric": "nDCG@10", "value": 0.5}]}
    text = shown(terminal.metrics_table("retrieval", part))
    assert "value" in text and "0.500" in text and "interval" not in text
    report = make_report() | {
        "forgetting": None,
        "evaluations": {"retrieval": part | {"headline": "nDCG@10 0.500, measured once"}},
    }
    assert terminal.headlines(report) == ["retrieval: nDCG@10 0.500, measured once"]


def test_no_evaluation() -> None:
    assert terminal.headlines(BARE) == ["not evaluated (evaluation=none)"]


def test_markup_in_a_name_is_text() -> None:
    part = make_report()["evaluations"]["retrieval"]
    text = shown(terminal.metrics_table("[red]" + HOSTILE[8], part), *terminal.headlines(make_report(hostile=True))[:1])
    assert "[red]line break tab" in " ".join(text.split())
    assert "\x1b" not in text


def test_a_worse_model_is_reported_first() -> None:
    report = make_report()
    part = report["evaluations"]["retrieval"]
    worse = [row("nDCG@10", 0.6, 0.5)]
    one = {"retrieval": part | {"metrics": worse, "metric": "nDCG@10", "headline": "worse: -0.100 nDCG@10, certain"}}
    bad = report | {"evaluations": one}
    first, second, *_ = terminal.headlines(bad)
    assert first.startswith(
        "Training made the model worse: retrieval, nDCG@10 0.600 before, 0.500 after. Use the untouched"
    )
    assert "callbacks=[default,evaluate,best]" in first
    assert second.startswith("retrieval: worse")
    assert report_markdown(bad).split("\n\n")[1].startswith("**Training made the model worse")
    # Not if another evaluation is better, or the change is not certain.
    better = part | {"metrics": [row("nDCG@10", 0.5, 0.6)], "metric": "nDCG@10"}
    assert not content.leading_notes(report | {"evaluations": one | {"other": better}})
    assert not content.leading_notes(
        report | {"evaluations": {"retrieval": part | {"metrics": [row("a", 0.6, 0.5, False)]}}}
    )


def test_the_end_of_the_training_is_reported_before_the_headlines() -> None:
    ended, kept = "Training ended at step 7 of 520 because of <b>.", "No step was better than the untouched model."
    report = make_report() | {"training": {"ended_early": ended, "kept_untouched": kept}}
    assert terminal.headlines(report)[:2] == [kept, ended]
    assert terminal.headlines(BARE | {"training": {"ended_early": ended}}) == [ended, "not evaluated (evaluation=none)"]
    page = report_page(report, [])
    assert page.index(kept) < page.index("because of &lt;b&gt;") < page.index("retrieval")

"""The charts of a report, each with a sentence that describes it.

`Points` are those of a curve: (step, value), ordered by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune.evaluation.metric_names import format_change, format_value
from finetune.report.drawing import CLASSES, color, render_svg
from finetune.report.escaping import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

_MAX_POINTS = 200  # points of a curve that are drawn; a longer curve is averaged over this many intervals
_MARKERS = "os^DvPX*"  # shapes in addition to colors, for the color-blind
_SHAPES = "●■▲◆▼✚✖★"  # the same shapes as characters
_DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}
_NARROW = 3.4  # inches: fits three times next to each other


@dataclass(frozen=True)
class LegendEntry:
    """One entry of a chart's legend: the color and the shape, or the dash style (`solid`), that represent a name."""

    color: str
    shape: str
    name: str


@dataclass(frozen=True)
class Chart:
    """An SVG, its title, the sentence that describes it, and its legend."""

    title: str
    svg: str
    words: str
    key: tuple[LegendEntry, ...] = ()


_BEFORE_AFTER = (LegendEntry("before", "dashed", "before"), LegendEntry("after", "solid", "after"))


def interval(row: Mapping[str, Any], name: str) -> str:
    """Return a small SVG of the change of one metric with its interval, relative to no change: for the headline."""
    low, high = format_change(row["low"]), format_change(row["high"])
    words = f"change {format_change(row['change'])}, 95 % interval {low} to {high}"

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=color("ink"), linewidth=1)
        _interval(axes, row, 0)
        axes.set_yticks([])
        axes.set_ylim(-0.6, 0.6)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(_signed)
        axes.locator_params(axis="x", nbins=4)

    return render_svg(draw, name, words, 0.62, _NARROW)


def changes(rows: Sequence[Mapping[str, Any]], name: str) -> Chart:
    """Return the chart of the changes of all metrics with their intervals."""
    certain = [row for row in rows if row["certain"]]
    words = f"{len(certain)} of {len(rows)} metrics changed with certainty: their intervals exclude zero."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=color("ink"), linewidth=1)
        for place, row in enumerate(rows):
            _interval(axes, row, place)
        axes.set_yticks(range(len(rows)), [one_line(str(row["metric"]), 28) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(_signed)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("change, with its 95 % interval")

    keys = (
        LegendEntry("better", "●", "better"),
        LegendEntry("worse", "■", "worse"),
        LegendEntry("same", "○", "may be chance"),
    )
    return Chart("Changes", render_svg(draw, name, words, 0.75 + 0.27 * len(rows)), words, keys)


def _interval(axes: Axes, row: Mapping[str, Any], place: float) -> None:
    kind = kind_of(row)
    shape = {"better": "o", "worse": "s", "same": "o"}[kind]
    inside = "none" if kind == "same" else color(kind)
    axes.plot([row["low"], row["high"]], [place, place], color=color(kind), linewidth=3, solid_capstyle="round")
    axes.plot(row["change"], place, shape, markersize=8, color=color(kind), markerfacecolor=inside)


def _signed(value: float, _place: float) -> str:
    if abs(value) < 1e-12:
        return "0"
    return f"{value:+.3g}"


def kind_of(row: Mapping[str, Any]) -> str:
    """Return whether a metric is certainly `better` or `worse`, or else the `same`."""
    if not row["certain"]:
        return "same"
    return "better" if row["change"] > 0 else "worse"


def loss(points: Points) -> Chart:
    """Return the chart of the training loss over the steps; for long runs its mean and range per interval."""
    (first, start), (last, end) = points[0], points[-1]
    words = f"From {start:.4g} at step {first:,.0f} to {end:.4g} at step {last:,.0f}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _curve(axes, points, "after")
        axes.set_xlabel("step")

    return Chart("Loss", render_svg(draw, "loss", words), words)


def progress(metric: str, points: Points, name: str) -> Chart:
    """Return the chart of a metric over the steps: before, during and after the training."""
    best_step, best = max(points, key=lambda point: point[1])
    last = points[-1][1]
    words = f"Highest at step {best_step:,.0f}: {format_value(best)}; {format_value(last)} at the end."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(*zip(*points, strict=True), "o-", color=color("after"), markersize=5)
        axes.axhline(points[0][1], color=color("before"), linestyle="--", linewidth=1.5)
        axes.set_xlabel("step")

    keys = (LegendEntry("before", "dashed", "before"), LegendEntry("after", "solid", "at each step"))
    return Chart(f"{metric} over the steps", render_svg(draw, name, words), words, keys)


def overlaid(curves: Mapping[str, Points], title: str, name: str) -> Chart:
    """Return the chart of the same metric of several runs."""
    ends = {run: points[-1] for run, points in curves.items()}
    words = "; ".join(f"{run}: {value:.4g} at step {step:,.0f}" for run, (step, value) in ends.items())
    dashes = list(_DASHES)
    keys = [
        LegendEntry(f"class{number % CLASSES}", dashes[number % len(dashes)], run) for number, run in enumerate(curves)
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for key, points in zip(keys, curves.values(), strict=True):
            _curve(axes, points, key.color, _DASHES[key.shape])
        axes.set_xlabel("step")

    return Chart(title, render_svg(draw, name, words), words, tuple(keys))


def _curve(axes: Axes, points: Points, role: str, dash: str = "-") -> None:
    steps, lows, means, highs = zip(*_downsample(points), strict=True)
    axes.fill_between(steps, lows, highs, color=color(role), alpha=0.2, linewidth=0)
    marker = "o" if len(points) == 1 else None  # a line of a single point is invisible
    axes.plot(steps, means, dash, color=color(role), marker=marker)


def _downsample(points: Points) -> list[tuple[float, float, float, float]]:
    """Return the last step, and the lowest, mean and highest value, of each of at most `_MAX_POINTS` intervals."""
    intervals = min(len(points), _MAX_POINTS)
    bounds = [round(place * len(points) / intervals) for place in range(intervals + 1)]
    summary = []
    for first, end in pairwise(bounds):
        values = [value for _, value in points[first:end]]
        summary.append((points[end - 1][0], min(values), sum(values) / len(values), max(values)))
    return summary


def similarities(facts: Mapping[str, Any]) -> list[Chart]:
    """Return the histograms of the similarities of right and wrong pairs, before and after."""
    return [_similarities(facts, when) for when in ("before", "after")]


def _similarities(facts: Mapping[str, Any], when: str) -> Chart:
    words = f"Right and wrong pairs overlap by {_overlap(facts[when]):.0f} %: less is better."
    histograms = [facts[each][kind] for each in ("before", "after") for kind in ("positive", "negative")]
    highest = max(max(_percentages(counts)) for counts in histograms)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for kind, dash in (("negative", "--"), ("positive", "-")):
            shares = _percentages(facts[when][kind])
            axes.stairs(shares, facts["edges"], fill=True, alpha=0.25, color=color(kind), linewidth=0)
            axes.stairs(shares, facts["edges"], color=color(kind), linestyle=dash, linewidth=1.6)
        axes.set_ylim(0, 1.05 * highest)  # the same for both charts, so that they can be compared
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.locator_params(axis="y", nbins=4)
        axes.set_xlabel("cosine similarity")

    keys = (LegendEntry("positive", "solid", "right pairs"), LegendEntry("negative", "dashed", "wrong pairs"))
    return Chart(f"Right and wrong pairs, {when}", render_svg(draw, f"similarities-{when}", words), words, keys)


def overlap_words(facts: Mapping[str, Any]) -> str:
    """Return a sentence on the overlap of right and wrong pairs, before and after."""
    before, after = _overlap(facts["before"]), _overlap(facts["after"])
    return f"Right and wrong pairs overlap by {before:.0f} % before and {after:.0f} % after: less is better."


def _overlap(counts: Mapping[str, Sequence[float]]) -> float:
    """Return the overlap of two histograms with the same bins, in percent."""
    return sum(map(min, _percentages(counts["positive"]), _percentages(counts["negative"])))


def _percentages(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [100 * count / total for count in counts]


def dimensions(metric: str, rows: Sequence[tuple[str, float, float]], name: str) -> Chart:
    """Return the chart of a metric with truncated embeddings: rows of (dimensions, before, after), full one last."""
    (shortest, _, truncated), (_, _, full) = rows[0], rows[-1]
    if full > 0:
        kept = f"{100 * truncated / full:.0f} % of it with {shortest} dimensions"
    else:
        kept = f"{format_value(truncated)} with {shortest}"
    words = f"After: {format_value(full)} with all dimensions, {kept}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names, before, after = zip(*rows, strict=True)
        axes.plot(range(len(rows)), before, "s--", color=color("before"), markersize=5)
        axes.plot(range(len(rows)), after, "o-", color=color("after"), markersize=6)
        axes.set_xticks(range(len(rows)), names)
        axes.set_xlabel("dimensions")

    return Chart(f"{metric} with fewer dimensions", render_svg(draw, name, words), words, _BEFORE_AFTER)


def maps(facts: Mapping[str, Any]) -> list[Chart]:
    """Return the maps of the corpus, before and after, colored by class if there are labels."""
    return [_map(facts, when) for when in ("before", "after")]


def _map(facts: Mapping[str, Any], when: str) -> Chart:
    labels, points, texts = facts["labels"] or [], facts[when], facts["texts"]
    colored = min(len(labels), CLASSES)
    without_color = "same" if labels else "after"
    groups: dict[int, list[int]] = {}  # places of the points by label, -1 for all labels without a color
    for place, (_, _, label) in enumerate(points):
        group = label if 0 <= label < colored else -1
        groups.setdefault(group, []).append(place)
    words = f"{len(points):,} texts: those with similar embeddings are close together. Projected by {facts['method']}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(True)
        for label, places in sorted(groups.items()):
            xs, ys = [points[place][0] for place in places], [points[place][1] for place in places]
            if label >= 0:
                role, shape = f"class{label}", _MARKERS[label]
            else:
                role, shape = without_color, "o"
            axes.scatter(xs, ys, 16, color(role), marker=shape, alpha=0.75, linewidths=0, gid=f"points{label}")

    titles = {f"points{label}": [one_line(texts[place], 80) for place in places] for label, places in groups.items()}
    keys = [LegendEntry(f"class{n}", _SHAPES[n], name) for n, name in enumerate(labels[:CLASSES]) if n in groups]
    if labels and -1 in groups:
        keys.append(LegendEntry("same", "●", "others"))
    svg = render_svg(draw, f"map-{when}", words, 3.6, titles=titles)
    return Chart(f"Map of the texts, {when}", svg, words, tuple(keys))

"""The pictures of a report, each with the words that say what there is to see in it.

`Points` are those of a curve: (step, value), in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune.report.drawing import CLASSES, color, render_svg
from finetune.report.escaping import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

_MOST = 200  # points of a curve that are drawn; more are means of so many stretches
_MARKERS = "os^DvPX*"  # shapes, since colours alone are not for everybody
_SHAPES = "●■▲◆▼✚✖★"  # the same as characters
_DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}
_NARROW = 3.4  # inches: three stand beside each other


@dataclass(frozen=True)
class LegendEntry:
    """One line of a picture's key: the colour that stands for a name, and a shape, or how a line is drawn (`solid`)."""

    color: str
    shape: str
    name: str


@dataclass(frozen=True)
class Chart:
    """A picture, its title, what there is to see in words, and its key."""

    title: str
    svg: str
    words: str
    key: tuple[LegendEntry, ...] = ()


_BEFORE_AFTER = (LegendEntry("before", "dashed", "before"), LegendEntry("after", "solid", "after"))


def interval(row: Mapping[str, Any], name: str) -> str:
    """The change of one metric with its interval, against no change at all: a small picture for the headline."""
    words = f"change {row['change']:+.3f}, 95 % interval {row['low']:+.3f} to {row['high']:+.3f}"

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
    """The changes of all metrics with their intervals."""
    certain = [row for row in rows if row["certain"]]
    words = f"{len(certain)} of {len(rows)} metrics changed for certain: their intervals do not touch zero."

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
    return Chart("What changed", render_svg(draw, name, words, 0.75 + 0.27 * len(rows)), words, keys)


def _interval(axes: Axes, row: Mapping[str, Any], place: float) -> None:
    kind = kind_of(row)
    shape = {"better": "o", "worse": "s", "same": "o"}[kind]
    inside = "none" if kind == "same" else color(kind)
    axes.plot([row["low"], row["high"]], [place, place], color=color(kind), linewidth=3, solid_capstyle="round")
    axes.plot(row["change"], place, shape, markersize=8, color=color(kind), markerfacecolor=inside)


def _signed(value: float, _place: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}"


def kind_of(row: Mapping[str, Any]) -> str:
    """Whether a metric is certainly `better` or `worse`, or the `same` for all that is known."""
    return ("better" if row["change"] > 0 else "worse") if row["certain"] else "same"


def loss(points: Points) -> Chart:
    """The loss of the training, over the steps; of long runs the mean and the range of each stretch."""
    (first, start), (last, end) = points[0], points[-1]
    words = f"From {start:.4g} at step {first:,.0f} to {end:.4g} at step {last:,.0f}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _curve(axes, points, "after")
        axes.set_xlabel("step")

    return Chart("Loss", render_svg(draw, "loss", words), words)


def progress(metric: str, points: Points, name: str) -> Chart:
    """A metric over the steps, as it was before, measured in between, and after."""
    best_step, best = max(points, key=lambda point: point[1])
    words = f"Highest at step {best_step:,.0f}: {best:.3f}; {points[-1][1]:.3f} in the end."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(*zip(*points, strict=True), "o-", color=color("after"), markersize=5)
        axes.axhline(points[0][1], color=color("before"), linestyle="--", linewidth=1.5)
        axes.set_xlabel("step")

    keys = (LegendEntry("before", "dashed", "before"), LegendEntry("after", "solid", "at each step"))
    return Chart(f"{metric} over the steps", render_svg(draw, name, words), words, keys)


def overlaid(curves: Mapping[str, Points], title: str, name: str) -> Chart:
    """The same curve of several runs."""
    words = "; ".join(f"{run}: {points[-1][1]:.4g} at step {points[-1][0]:,.0f}" for run, points in curves.items())

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, points in enumerate(curves.values()):
            _curve(axes, points, f"class{number % CLASSES}", [*_DASHES.values()][number % len(_DASHES)])
        axes.set_xlabel("step")

    keys = [
        LegendEntry(f"class{number % CLASSES}", [*_DASHES][number % len(_DASHES)], run)
        for number, run in enumerate(curves)
    ]
    return Chart(title, render_svg(draw, name, words), words, tuple(keys))


def _curve(axes: Axes, points: Points, role: str, dash: str = "-") -> None:
    steps, lows, means, highs = zip(*_stretches(points), strict=True)
    axes.fill_between(steps, lows, highs, color=color(role), alpha=0.2, linewidth=0)
    axes.plot(steps, means, dash, color=color(role), marker="o" if len(points) == 1 else None)


def _stretches(points: Points) -> list[tuple[float, float, float, float]]:
    """The points, or the last step, lowest, mean and highest value of each of so many stretches."""
    cuts = sorted({round(place * len(points) / _MOST) for place in range(_MOST + 1)})
    stretches = [points[first:end] for first, end in pairwise(cuts)] if len(points) > _MOST else [[p] for p in points]
    found = []
    for stretch in stretches:
        values = [value for _, value in stretch]
        found.append((stretch[-1][0], min(values), sum(values) / len(values), max(values)))
    return found


def similarities(facts: Mapping[str, Any]) -> list[Chart]:
    """How similar right and wrong pairs are, before and after."""
    return [_similarities(facts, when) for when in ("before", "after")]


def _similarities(facts: Mapping[str, Any], when: str) -> Chart:
    words = f"Right and wrong pairs overlap by {_overlap(facts[when]):.0f} %: less is better."
    highest = max(max(_shares(facts[each][kind])) for each in ("before", "after") for kind in ("positive", "negative"))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for kind, dash in (("negative", "--"), ("positive", "-")):
            shares = _shares(facts[when][kind])
            axes.stairs(shares, facts["edges"], fill=True, alpha=0.25, color=color(kind), linewidth=0)
            axes.stairs(shares, facts["edges"], color=color(kind), linestyle=dash, linewidth=1.6)
        axes.set_ylim(0, 1.05 * highest)  # the same of both, so that they can be compared
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.locator_params(axis="y", nbins=4)
        axes.set_xlabel("cosine similarity")

    keys = (LegendEntry("positive", "solid", "right pairs"), LegendEntry("negative", "dashed", "wrong pairs"))
    return Chart(f"Right and wrong pairs, {when}", render_svg(draw, f"similarities-{when}", words), words, keys)


def overlap_words(facts: Mapping[str, Any]) -> str:
    """How much right and wrong pairs have in common, before and after."""
    before, after = (_overlap(facts[when]) for when in ("before", "after"))
    return f"Right and wrong pairs overlap by {before:.0f} % before and {after:.0f} % after: less is better."


def _overlap(counts: Mapping[str, Sequence[float]]) -> float:
    """Return the per cent that two histograms of the same bins have in common."""
    return sum(map(min, _shares(counts["positive"]), _shares(counts["negative"])))


def _shares(counts: Sequence[float]) -> list[float]:
    return [100 * count / (sum(counts) or 1) for count in counts]


def dimensions(metric: str, rows: Sequence[tuple[str, float, float]], name: str) -> Chart:
    """A metric with embeddings cut short: rows are (dimensions, before, after), the whole embedding last."""
    (short, _, cut), (_, _, whole) = rows[0], rows[-1]
    kept = f"{100 * cut / whole:.0f} % of it with {short} dimensions" if whole > 0 else f"{cut:.3f} with {short}"
    words = f"After: {whole:.3f} with all dimensions, {kept}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names, before, after = zip(*rows, strict=True)
        axes.plot(range(len(rows)), before, "s--", color=color("before"), markersize=5)
        axes.plot(range(len(rows)), after, "o-", color=color("after"), markersize=6)
        axes.set_xticks(range(len(rows)), names)
        axes.set_xlabel("dimensions that are kept")

    return Chart(f"{metric} with fewer dimensions", render_svg(draw, name, words), words, _BEFORE_AFTER)


def maps(facts: Mapping[str, Any]) -> list[Chart]:
    """The corpus on a plane, before and after, coloured by class where there are labels."""
    return [_map(facts, when) for when in ("before", "after")]


def _map(facts: Mapping[str, Any], when: str) -> Chart:
    labels, points, texts = facts["labels"] or [], facts[when], facts["texts"]
    groups: dict[int, list[int]] = {}
    for place, (_, _, label) in enumerate(points):
        groups.setdefault(label if 0 <= label < min(len(labels), CLASSES) else -1, []).append(place)
    words = f"{len(points):,} texts: those that the model finds alike lie close together. Drawn by {facts['method']}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(True)
        for label, places in sorted(groups.items()):
            xs, ys = zip(*(points[place][:2] for place in places), strict=True)
            role = f"class{label}" if label >= 0 else "after" if not labels else "same"
            shape = _MARKERS[label] if label >= 0 else "o"
            axes.scatter(xs, ys, 16, color(role), marker=shape, alpha=0.75, linewidths=0, gid=f"points{label}")

    titles = {f"points{label}": [one_line(texts[place], 80) for place in places] for label, places in groups.items()}
    keys = [LegendEntry(f"class{n}", _SHAPES[n], name) for n, name in enumerate(labels[:CLASSES]) if n in groups]
    keys += [LegendEntry("same", "●", "others")] if labels and -1 in groups else []
    return Chart(
        f"Map of the texts, {when}", render_svg(draw, f"map-{when}", words, 3.6, titles=titles), words, tuple(keys)
    )

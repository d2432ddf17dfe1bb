"""`finetune runs curve`: a metric over the steps, drawn with characters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle

from finetune.console import console, say
from finetune.runs.directory import RunDirectory
from finetune.runs.metrics import curve, last_values, resolve_metric_name

Points = list[tuple[float, float]]

_COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
_WIDEST, _HEIGHT = 120, 20  # characters
_MARGIN = 24  # characters beside the picture, for the numbers and the name of the axis
_NARROWEST = 16  # characters; a narrower picture shows nothing
_LONGEST_LABEL = 8  # characters


def curves(runs: Sequence[RunDirectory], metric: str, smooth: int) -> dict[str, Points]:
    """The points (step, value) of each run by its name, each the mean of the last `smooth`.

    Raises FinetuneError if one has no such metric.
    """
    found = {}
    for run in runs:
        records = run.read_metrics()
        name = resolve_metric_name(metric, last_values(records), run.name)
        found[f"{run.path.absolute().parent.name}/{run.name}"] = _smoothed(curve(records, name), smooth)
    return found


def _smoothed(points: Points, width: int) -> Points:
    sums = [0.0, *accumulate(value for _, value in points)]
    means = []
    for i, (step, _) in enumerate(points, start=1):
        first = max(0, i - width)
        means.append((step, (sums[i] - sums[first]) / (i - first)))
    return means


def draw(found: Mapping[str, Points], metric: str) -> None:
    """Print the picture, and below it where each curve begins and ends; colours only in a terminal.

    A terminal too narrow for the picture shows only the lines below it, and says so.
    """
    width = min(_WIDEST, console.width) - _MARGIN
    if width >= _NARROWEST:
        _draw_picture(found, metric, width)
    else:
        needed = _NARROWEST + _MARGIN
        say(f"The terminal is too narrow to draw: it has {console.width} columns, and a picture needs {needed}.")
    for colour, (name, points) in zip(cycle(_COLOURS), found.items(), strict=False):
        (first, start), (last, end), low = points[0], points[-1], min(value for _, value in points)
        high = max(value for _, value in points)
        line = f"{name}  {metric} {start:.6g} at step {first:g}, {end:.6g} at step {last:g}"
        say(f"{line}; lowest {low:.6g}, highest {high:.6g}", style=colour)


def _draw_picture(found: Mapping[str, Points], metric: str, width: int) -> None:
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height = width, _HEIGHT
    figure.with_colors = console.is_terminal and not console.no_color
    figure.x_label, figure.y_label = "step", metric.rpartition("/")[2][:_LONGEST_LABEL]
    for kind in (int, float):
        figure.register_label_formatter(kind, _number)
    figure.x_ticks_fkt = lambda step, _next: round(step)  # there are no halves of a step
    figure.set_x_limits(*_limits([step for points in found.values() for step, _ in points]))
    figure.set_y_limits(*_limits([value for points in found.values() for _, value in points]))
    for colour, points in zip(cycle(_COLOURS), found.values(), strict=False):
        steps, values = zip(*points, strict=True)
        figure.plot(steps, values, lc=colour if figure.with_colors else None)
    sys.stdout.write(figure.show() + "\n")


def _limits(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    # A picture of one point, or of a line that never moves, needs some room too.
    return (low, high) if low < high else (low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10)


def _number(value: float, chars: int, delta: float, left: bool = False) -> str:  # noqa: ARG001 - plotille gives it
    text = f"{value:.4g}"
    return text.ljust(chars) if left else text.rjust(chars)

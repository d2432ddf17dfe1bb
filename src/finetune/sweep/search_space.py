"""What a sweep varies: the overrides that have several values, and those that are drawn from an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig

from finetune.config.command_line import Arguments
from finetune.config.compose import Composer, composer
from finetune.config.hydra_errors import listing
from finetune.config.values import has_own_sweeper
from finetune.errors import CheckFailed, Problem

_OF_ALL = ("sweep.", "hydra/sweeper", "hydra.sweeper", "hydra/launcher", "hydra.launcher", "dry_run")
_LIST_THEM = "List the values, with commas between."


@dataclass(frozen=True)
class Numbers:
    """Numbers that a search may draw, both ends included; `step` is `None` where all between are meant."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Axis:
    """One override: all that it may be, as typed; of numbers that are drawn only the ends."""

    key: str
    overrides: list[str]
    numbers: Numbers | None = None

    @property
    def varies(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.overrides) > 1

    def values(self) -> list[str]:
        """Return the values alone."""
        return [text.removeprefix(f"{self.key}=") for text in self.overrides]

    def drawn(self, value: float | str) -> str:
        """Return the override for a value, or for a number that was drawn."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class SearchSpace:
    """All overrides in the order in which they were typed; `is_search` says that Optuna draws the points."""

    axes: list[Axis]
    is_search: bool

    def grid(self) -> list[tuple[list[str], list[str]]]:
        """Return for each point of the grid all its overrides, and those of them that vary."""
        return [self.point(list(values)) for values in product(*(axis.overrides for axis in self.axes))]

    def corners(self) -> list[tuple[list[str], list[str]]]:
        """Return the first point, and those where one axis alone is at each of its other values or ends."""
        first = [axis.overrides[0] for axis in self.axes]
        found = [first]
        for i, axis in enumerate(self.axes):
            found += [[*first[:i], other, *first[i + 1 :]] for other in axis.overrides[1:]]
        return [self.point(values) for values in found]

    def size(self) -> int | None:
        """Return how many points there can be; `None` if without end."""
        counts = [_count(axis) for axis in self.axes]
        return None if None in counts else math.prod(count or 1 for count in counts)

    def point(self, values: list[str]) -> tuple[list[str], list[str]]:
        """Return all overrides of a point, and those of them that vary."""
        return values, [value for axis, value in zip(self.axes, values, strict=True) if axis.varies]


def read_search_space(arguments: Arguments) -> SearchSpace:
    """Return what the overrides, and `hydra.sweeper.params`, vary.

    Raises:
        CheckFailed: an override gives no point, or asks for what a sweep cannot do.
    """
    with composer(arguments.config_dir, arguments.config_name) as compositor:
        parsed = [(text, _parsed(text, compositor)) for text in arguments.overrides]
        fixed = [text for text, override in parsed if override is None or not override.is_sweep_override()]
        config, _, _ = compositor.compose_valid(fixed)  # what is wrong the check answers
        is_search = config is not None and has_own_sweeper(config)
        if config is not None and is_search:
            parsed = [*_of_the_config(config, arguments.overrides, compositor), *parsed]
        found = [_axis(text, override, is_search, compositor) for text, override in parsed]
    problems = [each for each in found if isinstance(each, Problem)]
    axes = [each for each in found if isinstance(each, Axis)]
    if is_search and not problems and not any(axis.varies for axis in axes):
        what = "nothing is to be searched."
        problems.append(Problem("hydra/sweeper", what, "Say what: 'optimizer.lr=tag(log,interval(1e-5,1e-3))'"))
    if problems:
        raise CheckFailed(problems)
    return SearchSpace(axes, is_search)


def _count(axis: Axis) -> int | None:
    if axis.numbers is None:
        return len(axis.overrides)
    numbers = axis.numbers
    return None if numbers.step is None else round((numbers.high - numbers.low) / numbers.step) + 1


def _parsed(text: str, compositor: Composer) -> Override | None:
    try:
        return compositor.parse(text)
    except HydraException:
        return None  # for the check to answer


def _of_the_config(config: DictConfig, typed: list[str], compositor: Composer) -> Iterator[tuple[str, Override | None]]:
    """What a file says is searched, but for keys that were typed."""
    keys = {text.partition("=")[0].lstrip("+") for text in typed}
    for key, values in (config.hydra.sweeper.params or {}).items():
        if str(key).lstrip("+") not in keys:
            yield f"{key}={values}", _parsed(f"{key}={values}", compositor)


def _axis(text: str, override: Override | None, is_search: bool, compositor: Composer) -> Axis | Problem:
    if override is None:
        return Axis("", [text])
    if problem := _impossible(override, text):
        return problem
    if not override.is_sweep_override():
        return Axis(override.key_or_group, [text])
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return _interval(key, text, value) if is_search else _not_a_grid(key, text)
    overrides = [f"{key}={each}" for each in override.sweep_string_iterator()]
    if not overrides:
        return _nothing(override, text, compositor)
    return Axis(key, overrides, _range(value) if is_search and len(overrides) > 1 else None)


def _impossible(override: Override, text: str) -> Problem | None:
    if override.key_or_group == "hydra/launcher" and override.value() not in ("basic", "slurm"):
        what = "the points of a sweep are processes on this machine, or jobs of a SLURM cluster."
        return Problem(text, what, "Leave it out, or write hydra/launcher=slurm.")
    if override.key_or_group == "hydra/sweeper" and override.value() not in ("basic", "optuna"):
        what = "a sweep is a grid, or a search with Optuna."
        return Problem(text, what, "Leave it out, or write hydra/sweeper=optuna.")
    if override.key_or_group.startswith(_OF_ALL) and override.is_sweep_override():
        return Problem(text, "this speaks of the whole sweep and cannot vary in it.", "Give one value.")
    return None


def _interval(key: str, text: str, value: IntervalSweep) -> Axis | Problem:
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or low >= high:
        return Problem(text, "the interval is empty.", f"Write the smaller number first: {key}=interval(1e-5,1e-3)")
    if log and low <= 0:
        return Problem(text, "on a scale of logarithms numbers have to be above 0.", "Begin the interval above 0.")
    step = 1.0 if isinstance(low, int) and isinstance(high, int) else None
    return Axis(key, [f"{key}={low!r}", f"{key}={high!r}"], Numbers(low, high, step, log))


def _range(value: object) -> Numbers | None:
    if not isinstance(value, RangeSweep):
        return None
    numbers = sorted(value.range())
    return Numbers(numbers[0], numbers[-1], abs(value.step))


def _not_a_grid(key: str, text: str) -> Problem:
    what = "interval(...) is to be drawn from, and sweeps here are grids unless hydra/sweeper=optuna."
    return Problem(text, what, f"List the values: {key}=1e-5,3e-5,1e-4, or add hydra/sweeper=optuna.")


def _nothing(override: Override, text: str, compositor: Composer) -> Problem:
    group = override.key_or_group
    if isinstance(override.value(), Glob) and not compositor.is_group(group):
        return Problem(text, f"glob(...) is over options, and there is no group '{group}'.", _LIST_THEM)
    if isinstance(override.value(), Glob):
        return Problem(text, "no option fits.", listing(compositor.options(group)))
    return Problem(text, "this gives no value at all.", _LIST_THEM)

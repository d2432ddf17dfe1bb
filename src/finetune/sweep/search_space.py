"""What a sweep varies: the overrides that have several values, and those that are drawn from an interval."""

from __future__ import annotations

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

# Keys of the sweep as a whole, which cannot vary in it.
_SWEEP_KEYS = ("sweep.", "hydra/sweeper", "hydra.sweeper", "hydra/launcher", "hydra.launcher", "dry_run")
_LIST_THEM = "List the values, with commas between."

# All overrides of a trial, and those of them that vary in the sweep.
Candidate = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Numbers:
    """Numbers that a search may draw, both ends included; `step` is `None` for every number between them."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Axis:
    """One key and the overrides it may have; of numbers that are drawn only the two ends are listed."""

    key: str
    overrides: list[str]
    numbers: Numbers | None = None

    @property
    def varies(self) -> bool:
        """Whether there is more than one override."""
        return len(self.overrides) > 1

    def values(self) -> list[str]:
        """Return the values without the key."""
        return [text.removeprefix(f"{self.key}=") for text in self.overrides]

    def override(self, value: float | str) -> str:
        """Return the override that sets a value."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class SearchSpace:
    """All overrides in the order in which they were typed; with `is_search` Optuna draws the trials."""

    axes: list[Axis]
    is_search: bool

    def grid(self) -> list[Candidate]:
        """Return all trials of the grid."""
        return [self.candidate(list(overrides)) for overrides in product(*(axis.overrides for axis in self.axes))]

    def one_at_a_time(self) -> list[Candidate]:
        """Return the first trial, and those in which a single axis is at each of its other values or ends."""
        first = [axis.overrides[0] for axis in self.axes]
        found = [first]
        for i, axis in enumerate(self.axes):
            found += [[*first[:i], other, *first[i + 1 :]] for other in axis.overrides[1:]]
        return [self.candidate(overrides) for overrides in found]

    def size(self) -> int | None:
        """Return how many different trials there are; `None` if there is no limit."""
        total = 1
        for axis in self.axes:
            count = _count(axis)
            if count is None:
                return None
            total *= count
        return total

    def candidate(self, overrides: list[str]) -> Candidate:
        """Return a trial with one override for each axis."""
        own_overrides = [text for axis, text in zip(self.axes, overrides, strict=True) if axis.varies]
        return overrides, own_overrides


def read_search_space(arguments: Arguments) -> SearchSpace:
    """Return what the overrides, and `hydra.sweeper.params`, vary.

    Raises:
        CheckFailed: an override has no value, or asks for what a sweep does not support.
    """
    with composer(arguments.config_dir, arguments.config_name) as compositor:
        parsed = [(text, _parse(text, compositor)) for text in arguments.overrides]
        fixed = [text for text, override in parsed if override is None or not override.is_sweep_override()]
        config, _, _ = compositor.compose_valid(fixed)  # mistakes are reported by the check
        is_search = config is not None and has_own_sweeper(config)
        if config is not None and is_search:
            parsed = [*_params_of_config(config, arguments.overrides, compositor), *parsed]
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
    """Return how many values an axis has; `None` if there is no limit."""
    numbers = axis.numbers
    if numbers is None:
        return len(axis.overrides) or 1
    if numbers.step is None:
        return None
    return round((numbers.high - numbers.low) / numbers.step) + 1


def _parse(text: str, compositor: Composer) -> Override | None:
    try:
        return compositor.parse(text)
    except HydraException:
        return None  # the check reports it


def _params_of_config(
    config: DictConfig, typed: list[str], compositor: Composer
) -> Iterator[tuple[str, Override | None]]:
    """Yield the overrides that a config file searches over, except for keys that were typed."""
    keys = {text.partition("=")[0].lstrip("+") for text in typed}
    for key, values in (config.hydra.sweeper.params or {}).items():
        if str(key).lstrip("+") not in keys:
            yield f"{key}={values}", _parse(f"{key}={values}", compositor)


def _axis(text: str, override: Override | None, is_search: bool, compositor: Composer) -> Axis | Problem:
    if override is None:
        return Axis("", [text])
    problem = _unsupported(override, text)
    if problem is not None:
        return problem
    if not override.is_sweep_override():
        return Axis(override.key_or_group, [text])
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return _interval(key, text, value, is_search)
    overrides = [f"{key}={each}" for each in override.sweep_string_iterator()]
    if not overrides:
        return _no_value(override, text, compositor)
    numbers = None
    if is_search and isinstance(value, RangeSweep) and len(overrides) > 1:
        numbers = _numbers_of_range(value)
    return Axis(key, overrides, numbers)


def _unsupported(override: Override, text: str) -> Problem | None:
    if override.key_or_group == "hydra/launcher" and override.value() not in ("basic", "slurm"):
        what = "the trials of a sweep are processes on this machine, or jobs of a SLURM cluster."
        return Problem(text, what, "Leave it out, or write hydra/launcher=slurm.")
    if override.key_or_group == "hydra/sweeper" and override.value() not in ("basic", "optuna"):
        what = "a sweep is a grid, or a search with Optuna."
        return Problem(text, what, "Leave it out, or write hydra/sweeper=optuna.")
    if override.key_or_group.startswith(_SWEEP_KEYS) and override.is_sweep_override():
        return Problem(text, "this is an option of the whole sweep and cannot vary in it.", "Give one value.")
    return None


def _interval(key: str, text: str, value: IntervalSweep, is_search: bool) -> Axis | Problem:
    if not is_search:
        return _not_a_grid(key, text)
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or low >= high:
        return Problem(text, "the interval is empty.", f"Write the smaller number first: {key}=interval(1e-5,1e-3)")
    if log and low <= 0:
        return Problem(text, "on a logarithmic scale numbers have to be above 0.", "Begin the interval above 0.")
    step = None
    if isinstance(low, int) and isinstance(high, int):
        step = 1.0
    return Axis(key, [f"{key}={low!r}", f"{key}={high!r}"], Numbers(low, high, step, log))


def _numbers_of_range(value: RangeSweep) -> Numbers:
    numbers = sorted(value.range())
    return Numbers(numbers[0], numbers[-1], abs(value.step))


def _not_a_grid(key: str, text: str) -> Problem:
    what = "interval(...) is for a search, and a sweep is a grid unless hydra/sweeper=optuna."
    return Problem(text, what, f"List the values: {key}=1e-5,3e-5,1e-4, or add hydra/sweeper=optuna.")


def _no_value(override: Override, text: str, compositor: Composer) -> Problem:
    group = override.key_or_group
    if isinstance(override.value(), Glob) and not compositor.is_group(group):
        return Problem(text, f"glob(...) selects options of a group, and there is no group '{group}'.", _LIST_THEM)
    if isinstance(override.value(), Glob):
        return Problem(text, "no option fits.", listing(compositor.options(group)))
    return Problem(text, "this has no value at all.", _LIST_THEM)

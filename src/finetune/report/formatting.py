"""Numbers, durations and named facts as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# Explanations of terms that a reader of the report may not know.
_EXPLAINED = {
    "leaks": "training pairs that contain a validation query",
    "leaks_near": "nearly the same",
    "validation_judgments": "which document answers which query",
    "validation_corpus": "texts that are searched",
}


_NAMES = {"leaks_normalised": "leaks ignoring case, spaces and punctuation"}


def format_score(score: Any) -> str:
    """Return a cosine similarity or another score of a model with two decimals; a dash if it is not a number."""
    return f"{score:.2f}" if isinstance(score, int | float) else "-"


def percent(fraction: float) -> str:
    """Return a fraction of 1 in percent."""
    return f"{100 * fraction:.0f} %"


def typographic_minus(text: str) -> str:
    """Replace the hyphens in front of numbers and names by minus signs, after which a line is not broken."""
    return re.sub(r"(?<![\w-])-(?=\w)", "\N{MINUS SIGN}", text)


def capitalize(text: str) -> str:
    """Return the sentence with its first letter in upper case, and the rest unchanged."""
    return text[:1].upper() + text[1:]


def format_duration(seconds: float) -> str:
    """Return a duration: `4.2 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


# Names and formats of the cost of a run.
_COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "seconds": ("total time", format_duration),
    "training_seconds": ("training time", format_duration),
    "training seconds": ("training time", format_duration),
    "skipped_steps": ("steps without an update (fp16)", lambda value: f"{value:,.0f}"),
    "tokens": ("tokens trained on", lambda value: f"{value:,.0f}"),
    "peak_memory_mb": ("peak memory", lambda value: f"{value:,.0f} MB"),
    "gpu_memory_mb": ("peak GPU memory", lambda value: f"{value:,.0f} MB"),
    "energy_wh": ("energy", lambda value: f"{value:,.3g} Wh"),
}

_UNKNOWN: tuple[Any, ...] = (None, "", {}, [])


def format_facts(facts: Mapping[str, Any], group: str = "") -> list[tuple[str, str]]:
    """Return names and values as text, without unknown values. `group` is the section of report.json they are from."""
    prefix = "analyzed: " if group == "looked_at" else ""
    known = {name: value for name, value in facts.items() if value not in _UNKNOWN}
    return [(prefix + _format_name(name), _format_named_value(name, value)) for name, value in known.items()]


def format_fact(value: Any) -> str:
    """Return a value as text: numbers with thousands separators, mappings as `name value, name value`."""
    if isinstance(value, Mapping):
        known = {name: inner for name, inner in value.items() if inner is not None}
        return ", ".join(f"{name} {format_fact(inner)}" for name, inner in known.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(format_fact, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}"


def _format_name(name: str) -> str:
    if name in _COSTS:
        text, _ = _COSTS[name]
    else:
        text = _NAMES.get(name) or name.replace("_per_second", " per second").replace("_", " ")
    if name in _EXPLAINED:
        text += f" ({_EXPLAINED[name]})"
    return text


def _format_named_value(name: str, value: Any) -> str:
    if name in _COSTS and isinstance(value, int | float):
        _, format_cost = _COSTS[name]
        return format_cost(value)
    return format_fact(value)

"""Numbers and facts as people say them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# Words that a reader of the report need not know.
_EXPLAINED = {
    "leaks": "training pairs that contain a validation query",
    "leaks_normalised": "the same but for case and punctuation",
    "leaks_near": "nearly the same",
    "validation_judgments": "which document answers which query",
    "validation_corpus": "texts that are searched",
}


def format_number(value: Any, digits: int, sign: str = "") -> str:
    """A number with so many digits behind the point; a dash where there is none."""
    return f"{value:{sign}.{digits}f}" if isinstance(value, int | float) else "-"


def percent(share: float) -> str:
    """A share of 1 in per cent."""
    return f"{100 * share:.0f} %"


def typographic_minus(text: str) -> str:
    """The text with minus signs in front of numbers and names, from which no line's end parts them as from a hyphen."""
    return re.sub(r"(?<![\w-])-(?=\w)", "\N{MINUS SIGN}", text)


def capitalize(text: str) -> str:
    """The sentence with a capital letter in front."""
    return text[:1].upper() + text[1:]


def format_duration(seconds: float) -> str:
    """A length of time: `4.2 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


# What the cost of a run is called, and how it is told.
_COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "seconds": ("time in all", format_duration),
    "training_seconds": ("time of the training", format_duration),
    "training seconds": ("time of the training", format_duration),
    "tokens": ("tokens trained on", lambda value: f"{value:,.0f}"),
    "peak_memory_mb": ("memory at most", lambda value: f"{value:,.0f} MB"),
    "gpu_memory_mb": ("GPU memory at most", lambda value: f"{value:,.0f} MB"),
    "energy_wh": ("energy", lambda value: f"{value:,.3g} Wh"),
}


_UNKNOWN: tuple[Any, ...] = (None, "", {}, [])


def format_facts(facts: Mapping[str, Any], group: str = "") -> list[tuple[str, str]]:
    """Names and values in words; what is not known is left out. `group` is what they are all about."""
    named = "looked at: " if group == "looked_at" else ""
    return [(named + _name(name), _value(name, value)) for name, value in facts.items() if value not in _UNKNOWN]


def format_fact(value: Any) -> str:
    """A value as text: numbers with commas, mappings as `name value, name value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_fact(inner)}" for name, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(format_fact, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _name(name: str) -> str:
    words = _COSTS[name][0] if name in _COSTS else name.replace("_per_second", " per second").replace("_", " ")
    return f"{words} ({_EXPLAINED[name]})" if name in _EXPLAINED else words


def _value(name: str, value: Any) -> str:
    return _COSTS[name][1](value) if name in _COSTS and isinstance(value, int | float) else format_fact(value)

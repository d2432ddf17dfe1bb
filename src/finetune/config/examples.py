"""Examples of values that are often written in another form than the config takes."""

from __future__ import annotations

_PRECISIONS = {
    "fp16": "16-mixed",
    "float16": "16-mixed",
    "half": "16-mixed",
    "fp32": "32-true",
    "float32": "32-true",
    "full": "32-true",
    "bfloat16": "bf16-mixed",
    "fp64": "64-true",
    "float64": "64-true",
    "double": "64-true",
}


def example(value: object, key: str) -> str:
    """Return how a value of `key` is written, for one that does not fit; an empty text where no example is needed."""
    if key == "trainer.precision" and str(value).lower() in _PRECISIONS:
        return f"Write trainer.precision={_PRECISIONS[str(value).lower()]}."
    if key == "trainer.max_time":
        return "20 seconds are trainer.max_time=00:00:00:20, and 12 hours trainer.max_time=00:12:00:00."
    if key == "data.prompts" and isinstance(value, str):
        return 'Name the column of each prompt: \'data.prompts={anchor: "query: ", positive: "passage: "}\'.'
    if key.startswith("evaluation.") and key.endswith(".data") and isinstance(value, str):
        return f"Write '{key}={{path: {value}}}'."
    return ""

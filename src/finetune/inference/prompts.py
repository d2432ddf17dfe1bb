"""The prompt that is put before a text, found by its name."""

from __future__ import annotations

from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError
from finetune.inference.build_encoder import InferenceSettings

_DOCUMENT = ("document", "passage", "corpus")  # the names that models have for it


def prompt_text(name: str | None, settings: InferenceSettings, model: str) -> str:
    """Return the text of the prompt `name` of a model; `query` and `document` are empty where it has none.

    None is the default prompt of the model, which few have.

    Raises:
        FinetuneError: the model has no prompt of this name.
    """
    prompts = settings.prompts
    if name is None:
        return settings.default_prompt
    if name == "document":
        name = next((each for each in _DOCUMENT if each in prompts), name)
    if name in prompts:
        return prompts[name]
    if name in ("query", "document"):
        return ""
    known = sorted({"query", "document", *prompts})
    what = f"{model} has no prompt {name!r}; its prompts are {', '.join(known)}."
    raise FinetuneError(
        what, did_you_mean(str(name), known) or "Choose one of them, or write its text in front of every item."
    )

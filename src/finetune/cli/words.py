"""The words of a command that takes models and overrides."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.config.home import expand_home
from finetune.config.quoting import quoted, typed
from finetune.errors import CheckFailed, Problem
from finetune.runs.artifact import is_artifact


def split_models(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into models, each once, and overrides: a model has no `=`, and `~key` is an override.

    Raises:
        CheckFailed: a word is a file that is not an artifact, such as the data.
    """
    models, overrides = [], []
    for word in words:
        is_deletion = word.startswith("~") and not word.startswith("~/")
        if "=" in word or is_deletion:
            overrides.append(word)
        else:
            models.append(word)
    models = list(dict.fromkeys(models))
    problems = [_file_problem(word) for word in models if _is_other_file(word)]
    if problems:
        raise CheckFailed(problems)
    return models, overrides


def _is_other_file(word: str) -> bool:
    path = expand_home(word)
    return path.is_file() and not is_artifact(path)


def _file_problem(word: str) -> Problem:
    return Problem(word, "expected a model, found a file.", f"Write {typed('data.path', quoted(word))}.")

"""Signatures read from source, against `inspect` on the imported object."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from finetune.config.signatures import signature
from finetune.config.static_source import NotFound, Opaque, find_definition

from .conftest import write


@pytest.mark.parametrize(
    "name",
    [
        "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.Adafactor", "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.EarlyStopping", "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.callbacks.RichProgressBar", "pytorch_lightning.loggers.CSVLogger",
        "finetune.losses.infonce.InfoNCE", "finetune.models.text.TextEncoder", "finetune.data.settings.Data",
        "finetune.training.schedules.Cosine", "finetune.training.callbacks.Checkpoint",
        "finetune.evaluation.retrieval.Retrieval", "textwrap.dedent", "collections.abc.Mapping.get",
    ],
)  # fmt: skip
def test_agrees_with_inspect(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if name == "collections.abc.Mapping.get":
        with pytest.raises((NotFound, Opaque)):
            find_definition(name)
        return
    target = getattr(importlib.import_module(module), attribute)
    definition = find_definition(name)
    known = signature(definition)
    real = inspect.signature(target).parameters.values()
    named = [
        parameter for parameter in real if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    assert {parameter.name: parameter.default is parameter.empty for parameter in named} == {
        name: parameter.required for name, parameter in known.parameters.items()
    }
    assert known.is_open == any(parameter.kind is parameter.VAR_KEYWORD for parameter in real)
    assert definition.node.name == target.__qualname__


def test_nothing_is_imported(own_code: Path) -> None:
    write(own_code, {"loud.py": "raise RuntimeError('imported')\nclass Loud:\n    def __init__(self, a): ...\n"})
    assert list(signature(find_definition("mine.loud.Loud")).parameters) == ["a"]


def test_circles_end(own_code: Path) -> None:
    write(
        own_code,
        {
            "a.py": "from mine.b import X\nfrom mine.b import *\nclass C(D): ...\nclass D(C): ...\n",
            "b.py": "from mine.a import X\nfrom mine.a import *\n",
        },
    )
    with pytest.raises((Opaque, NotFound)):
        find_definition("mine.a.X")
    with pytest.raises((Opaque, NotFound)):
        find_definition("mine.a.Y")
    with pytest.raises(Opaque):
        signature(find_definition("mine.a.C"))


@pytest.mark.parametrize(
    "name", ["posix.system", "no_such_package.x", "mine", "mine.parts", "mine.broken.X", "__main__.x"]
)
def test_what_cannot_be_told_says_so(own_code: Path, name: str) -> None:
    write(own_code, {"broken.py": "def f(:\n"})
    with pytest.raises((Opaque, NotFound)):
        find_definition(name)

"""The formats that a model can be exported to, and the files of each; no torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError

Runtime = Literal["onnx", "openvino", "safetensors"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

# Largest loss of the headline metric that an export may have without being told so (--max-loss).
MAX_LOSS = 0.01


@dataclass(frozen=True)
class Target:
    """One format: `name` on the command line, the program that runs it, its precision, and the end of its file names.

    `needs` are the packages that write it, which `finetune[extra]` installs.
    """

    name: str
    runtime: Runtime
    precision: Precision
    suffix: str = ""
    needs: tuple[str, ...] = ()

    @property
    def extra(self) -> str:
        """The optional part of finetune that installs what this format needs."""
        return self.runtime

    def file(self, graph: str) -> str:
        """Return the file of a graph (`model`, or `text_model` and `vision_model`), relative to the backbone's folder.

        These are the names that sentence-transformers, optimum and transformers.js use.
        """
        if self.runtime == "onnx":
            return f"onnx/{graph}{self.suffix}.onnx"
        return f"openvino/openvino_{graph}{self.suffix}.xml"


_ONNX = ("onnx", "onnxruntime", "onnxscript")
_OPENVINO = ("openvino",)
TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "onnx", "fp32", needs=_ONNX),
        Target("onnx-fp16", "onnx", "fp16", "_fp16", _ONNX),
        Target("onnx-int8", "onnx", "int8", "_qint8", _ONNX),
        Target("openvino", "openvino", "fp32", needs=_OPENVINO),
        Target("openvino-int8", "openvino", "int8", "_qint8_quantized", (*_OPENVINO, "nncf")),
        Target("fp16", "safetensors", "fp16"),
        Target("bf16", "safetensors", "bf16"),
    )
}


def target_of(name: str) -> Target:
    """Return a format by its name.

    Raises:
        FinetuneError: there is no such format, or a package that writes it is not installed.
    """
    target = TARGETS.get(name)
    if target is None:
        raise FinetuneError(
            f"there is no format {name!r}.", f"{did_you_mean(name, TARGETS)} There are: {', '.join(TARGETS)}.".strip()
        )
    missing = [package for package in target.needs if importlib.util.find_spec(package) is None]
    if missing:
        what = f"the format {name} needs {' and '.join(missing)}, which is not installed."
        raise FinetuneError(what, f"pip install 'finetune[{target.extra}]'")
    return target

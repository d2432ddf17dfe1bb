"""Exported files in use: each is loaded by its runtime, and takes the place of a part of the encoder.

So everything that embeds, evaluates or searches with an encoder also does so with an exported one.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data.arrays import Ints
from finetune.formats.targets import Target
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.encoder import Encoder
from finetune.models.packing import Packing
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder


class Session(Protocol):
    """A loaded file: arrays by the names of its inputs in, its first output out."""

    inputs: tuple[str, ...]

    def run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Return the first output."""
        ...


class OnnxSession:
    """A file of ONNX, run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(each.name for each in self._session.get_inputs())

    def run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Return the first output."""
        output: np.ndarray[Any, Any] = self._session.run(None, dict(arrays))[0]
        return output


class OpenVinoSession:
    """A file of OpenVINO, on the CPU; computed in fp32, as its default on some processors is bf16."""

    def __init__(self, path: Path) -> None:
        openvino = import_openvino()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._model = openvino.Core().compile_model(str(path), "CPU", settings)
        self.inputs = tuple(each.get_any_name() for each in self._model.inputs)

    def run(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Return the first output."""
        output: np.ndarray[Any, Any] = self._model(dict(arrays))[0]
        return output


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would send statistics of use without being asked."""
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # an ImportError, which it expects
    os.environ.setdefault("NNCF_CI", "1")  # the switch of nncf
    import openvino

    return openvino


def open_session(target: Target, path: Path) -> Session:
    """Load an exported file."""
    return OnnxSession(path) if target.runtime == "onnx" else OpenVinoSession(path)


def exported_encoder(encoder: Encoder, sessions: Mapping[str, Session]) -> Encoder:
    """Return a copy of an encoder that computes with sessions, by the names of its graphs."""
    exported = copy.copy(encoder)
    exported._modules = dict(encoder._modules)
    if isinstance(exported, TextEncoder):
        exported.use_padded_backbone(_Backbone(encoder.backbone, sessions["model"]))
    elif isinstance(exported, CrossEncoder):
        exported.backbone = _Backbone(encoder.backbone, sessions["model"])
    elif isinstance(exported, TextImageEncoder):
        exported.backbone = _Towers(encoder.backbone, sessions["text_model"], sessions["vision_model"])
    elif isinstance(exported, StaticEncoder):
        exported.forward = partial(_embed_texts, sessions["model"], encoder.normalize)  # type: ignore[method-assign]
    else:
        exported.backbone = _ImageBackbone(encoder.backbone, sessions["model"])
    return exported


class _Backbone(nn.Module):
    """Takes the place of a text backbone: hidden states `(N, t, D)` or logits `(N, 1)` by its session."""

    def __init__(self, original: Any, session: Session) -> None:
        super().__init__()
        self.config, self._session = original.config, session
        # Only to say where this module is, and for lookups of token ids; not used to compute.
        self._embeddings: nn.Module = original.get_input_embeddings()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of the original backbone."""
        return self._embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Any:
        """Return the output where transformers has it."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        given["token_type_ids"] = others.get("token_type_ids")
        if attention_mask is None:
            given["attention_mask"] = torch.ones_like(input_ids)
        if given["token_type_ids"] is None:
            given["token_type_ids"] = torch.zeros_like(input_ids)
        output = _run(self._session, given)
        return SimpleNamespace(last_hidden_state=output, logits=output)


class _ImageBackbone(nn.Module):
    """Takes the place of an image backbone: states of patches, or what the backbone pools itself, by its session."""

    def __init__(self, original: Any, session: Session) -> None:
        super().__init__()
        self.config, self._session = original.config, session
        self._weight = next(original.parameters())  # only to say where this module is

    def forward(self, pixel_values: Tensor) -> Any:
        """Return the output where transformers has it."""
        output = _run(self._session, {"pixel_values": pixel_values})
        return SimpleNamespace(last_hidden_state=output, pooler_output=output)


class _Towers(nn.Module):
    """Takes the place of the two towers of CLIP and similar models."""

    def __init__(self, original: Any, text: Session, image: Session) -> None:
        super().__init__()
        self.config, self._text, self._image = original.config, text, image
        self._weight = next(original.parameters())  # only to say where this module is

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return embeddings of texts `(N, D)`."""
        if attention_mask is None and "attention_mask" in self._text.inputs:
            attention_mask = torch.ones_like(input_ids)
        return _run(self._text, {"input_ids": input_ids, "attention_mask": attention_mask})

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return embeddings of images `(N, D)`."""
        return _run(self._image, {"pixel_values": pixel_values})


def _embed_texts(session: Session, normalize: bool, values: Tensor, lengths_N: Ints, *_: object) -> Tensor:
    packing = Packing(lengths_N, values.device)
    emb_ND = _run(session, {"input_ids": packing.pad(values), "attention_mask": packing.mask().long()})
    return nn.functional.normalize(emb_ND, dim=1) if normalize else emb_ND


def _run(session: Session, tensors: Mapping[str, Tensor | None]) -> Tensor:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    arrays = {name: given[name].cpu().numpy() for name in session.inputs}
    device = next(iter(given.values())).device
    return torch.from_numpy(session.run(arrays)).float().to(device)

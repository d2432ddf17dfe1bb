"""The part of an encoder that an exported file holds: its tensors in, hidden states, scores or embeddings out.

sentence-transformers pools, projects and normalizes outside of the file, so the graph of an encoder of texts or images
is its backbone. The towers of CLIP have their projection, and a static table is a graph as a whole.

Shapes: N texts or images, t tokens of the longest, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import FinetuneError
from finetune.models.backbone import load_backbone
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.encoder import Encoder
from finetune.models.image import ImageEncoder
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder

_EXAMPLE_LENGTHS = (5, 9)  # tokens; different, so that padding is a part of the traced example
# torch cannot export what these do with the result of its scaled_dot_product_attention.
_WITH_EAGER_ATTENTION = ("t5", "mt5", "umt5")
_REASONS = {
    "TwoTowers": "it is two encoders: export its folders text and image by themselves.",
    "PointEncoder": "no other library reads meshes as it does.",
    "VectorEncoder": "it is an adapter after another model, and no library looks for it there.",
}


@dataclass(frozen=True)
class Graph:
    """One file to write: a module with its inputs by name, and the names of its outputs.

    `inputs` are examples, whose sizes along `dynamic` dimensions (by the name of an input) may differ in use.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Sequence[int]]
    outputs: Sequence[str]


def graphs_of(encoder: Encoder) -> list[Graph]:
    """Return the graphs that an exported encoder consists of.

    Raises:
        FinetuneError: this kind of encoder cannot be exported.
    """
    if isinstance(encoder, TextEncoder):
        if encoder.pooling.state_dict():
            what = f"the model {encoder.name} cannot be exported: its learned pooling is known to finetune only."
            raise FinetuneError(what, "Train with pooling=mean, cls or last to export a model.")
        backbone = _plain_backbone(encoder, "AutoModel", {"use_cache": False})
        return [_text_graph(encoder, _States(backbone), "last_hidden_state")]
    if isinstance(encoder, CrossEncoder):
        settings = {"num_labels": 1, "use_cache": False}
        backbone = _plain_backbone(encoder, "AutoModelForSequenceClassification", settings)
        backbone.config.pad_token_id = encoder.backbone.config.pad_token_id
        return [_text_graph(encoder, _Logits(backbone), "logits")]
    if isinstance(encoder, StaticEncoder):
        return [_text_graph(encoder, _MeanOfTable(encoder), "sentence_embedding")]
    if isinstance(encoder, TextImageEncoder):
        return [
            _text_tower(encoder),
            _image_graph(encoder, _ImageTower(encoder.backbone), "vision_model", "image_embeds"),
        ]
    if isinstance(encoder, ImageEncoder):
        output = "pooler_output" if encoder.pooling is None else "last_hidden_state"
        return [_image_graph(encoder, _ImageStates(encoder.backbone, output), "model", output)]
    kind = type(encoder).__name__
    raise FinetuneError(f"a {kind} cannot be exported: {_REASONS.get(kind, 'its kind is not supported.')}")


def backbone_folder(encoder: Encoder) -> Path:
    """Return the folder of the first module of an encoder, next to which its files are looked for."""
    st_config: Any = encoder._st_config
    return Path(st_config.backbone)


def _plain_backbone(encoder: TextEncoder | CrossEncoder, auto: str, settings: dict[str, Any]) -> Any:
    """Return the backbone as transformers builds it: that of the encoder may be rebuilt for packed texts."""
    folder = backbone_folder(encoder)
    backbone = load_backbone(folder, encoder.name, settings=settings, auto=auto).eval()
    if backbone.config.model_type in _WITH_EAGER_ATTENTION:
        backbone.set_attn_implementation("eager")
    return backbone


def _text_graph(encoder: Encoder, module: nn.Module, output: str, name: str = "model") -> Graph:
    inputs = _example_texts(encoder)
    return Graph(name, module.eval(), inputs, dict.fromkeys(inputs, (0, 1)), [output])


def _example_texts(encoder: Encoder) -> dict[str, Tensor]:
    longest = max(_EXAMPLE_LENGTHS)
    mask_nt = torch.arange(longest) < torch.tensor(_EXAMPLE_LENGTHS).unsqueeze(1)
    ids_nt = torch.full((len(_EXAMPLE_LENGTHS), longest), 7).masked_fill(~mask_nt, encoder.pad_id)
    inputs = {"input_ids": ids_nt, "attention_mask": mask_nt.long()}
    # A static table has no types, though its tokenizer may return some.
    if "token_type_ids" in encoder.tokenizer.model_input_names and not isinstance(encoder, StaticEncoder):
        inputs["token_type_ids"] = torch.zeros_like(ids_nt)
    return inputs


def _text_tower(encoder: TextImageEncoder) -> Graph:
    inputs = _example_texts(encoder)
    inputs.pop("token_type_ids", None)
    dynamic: dict[str, Sequence[int]] = dict.fromkeys(inputs, (0, 1))
    if encoder._pads_to:
        # SigLIP: a fixed length, and no mask.
        ids_nt = inputs["input_ids"]
        padding = encoder._pads_to - ids_nt.shape[1]
        inputs = {"input_ids": nn.functional.pad(ids_nt, (0, padding), value=encoder.pad_id)}
        dynamic = {"input_ids": (0,)}
    return Graph("text_model", _TextTower(encoder.backbone).eval(), inputs, dynamic, ["text_embeds"])


def _image_graph(encoder: Encoder, module: nn.Module, name: str, output: str) -> Graph:
    from PIL import Image

    pixels = torch.from_numpy(encoder.prepare([Image.new("RGB", (64, 64))] * 2, None))
    return Graph(name, module.eval(), {"pixel_values": pixels}, {"pixel_values": (0,)}, [output])


class _States(nn.Module):
    """A backbone, reduced to its last hidden states `(N, t, D)`."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        states: Tensor = self.backbone(**inputs).last_hidden_state
        return states


class _Logits(_States):
    """A classifier, reduced to its logits `(N, 1)`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        logits: Tensor = self.backbone(**inputs).logits
        return logits


class _MeanOfTable(nn.Module):
    """A static encoder as a whole: the mean of token embeddings `(N, D)`, normalized as the encoder does it."""

    def __init__(self, encoder: StaticEncoder) -> None:
        super().__init__()
        self.embedding, self.normalize = encoder.embedding, encoder.normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight_nt1 = attention_mask.unsqueeze(2).to(self.embedding.weight.dtype)
        sum_ND = (self.embedding(input_ids) * weight_nt1).sum(1)
        mean_ND = sum_ND / weight_nt1.sum(1).clamp(min=1)
        return nn.functional.normalize(mean_ND, dim=1) if self.normalize else mean_ND


class _TextTower(nn.Module):
    """The text tower of CLIP and similar models with its projection: `(N, D)`, not normalized."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        output = self.backbone.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        embeds: Tensor = getattr(output, "pooler_output", output)
        return embeds


class _ImageTower(nn.Module):
    """The image tower of CLIP and similar models with its projection: `(N, D)`, not normalized."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> Tensor:
        output = self.backbone.get_image_features(pixel_values=pixel_values)
        embeds: Tensor = getattr(output, "pooler_output", output)
        return embeds


class _ImageStates(nn.Module):
    """An image backbone, reduced to the output that the encoder pools: states of patches, or what it pools itself."""

    def __init__(self, backbone: Any, output: str) -> None:
        super().__init__()
        self.backbone, self.output = backbone, output

    def forward(self, pixel_values: Tensor) -> Tensor:
        states: Tensor = getattr(self.backbone(pixel_values=pixel_values), self.output)
        return states

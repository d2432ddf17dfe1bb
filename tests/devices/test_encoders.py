"""Every encoder in one step of the engine on the device: no synchronization, and the numbers of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import finetune.conf
import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from finetune import devices
from finetune.data.tokens.token_store import Tokens
from finetune.encoding.engine import Engine
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.encoder import Encoder
from finetune.models.image import ImageEncoder
from finetune.models.points import PointEncoder
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder, TwoTowers
from finetune.models.tuning import LoRA, Tuning
from finetune.models.vectors import VectorEncoder
from tests.conftest import thorough
from tests.devices.fake_cuda import CUDA, FakeCuda
from tests.models.tiny import tiny

Folders = Callable[[str], str]

LENGTHS = np.array([3, 9, 1, 5, 9, 2, 7])


@dataclass(frozen=True)
class Case:
    """How to build an encoder without dropout, and what it reads: texts, pairs of texts, or others `(M, ...)`."""

    build: Callable[[Folders], Encoder]
    reads: str = "texts"
    others: tuple[int, ...] | None = None
    tuning: Tuning | None = None
    layers: tuple[int, ...] = ()


def text(kind: str, **settings: Any) -> Callable[[Folders], Encoder]:
    return lambda folders: TextEncoder(folders(kind), dropout=_dropout(kind), **settings)


def _dropout(kind: str) -> float | None:
    return None if kind == "llama" else 0.0


def _case(names: tuple[str, str], *more: Any, is_variant: bool = True) -> ParameterSet:
    """Return a case of a test; those of all but a few encoders are variants, which only `make test-all` tries."""
    values, name = (*names, *more), " ".join(map(str, (*names, *more)))
    return thorough(*values, id=name) if is_variant and names not in QUICK else pytest.param(*values, id=name)


IMAGE = (4, 3, 32, 32)
# By the name of the config in conf/model: the test below fails if one is missing.
CASES: dict[str, dict[str, Case]] = {
    "bert": {
        "packed": Case(text("bert")),
        "padded": Case(text("mpnet")),
        "padded, relative positions": Case(text("deberta")),
        "packed, windows": Case(text("modernbert")),
        "t5": Case(text("t5")),
        "positions after padding": Case(text("xlm-roberta")),
        "linear head": Case(text("bert", head="linear", output_width=8, pooling="cls")),
        "mlp head": Case(text("bert", head="mlp", output_width=8, pooling="weighted_mean")),
        "max": Case(text("bert", pooling="max")),
        "gem": Case(text("bert", pooling="gem", normalize=False)),
        "attention pooling": Case(text("bert", pooling="attention", keep_layers=1)),
        "max, padded": Case(text("mpnet", pooling="max")),
        "lora": Case(text("bert"), tuning=LoRA(rank=2)),
        "dora, padded": Case(text("mpnet"), tuning=LoRA(rank=2, dora=True)),
        "frozen layers": Case(text("bert"), tuning=Tuning(freeze_layers=1)),
        "gradient checkpointing": Case(text("bert"), tuning=Tuning(gradient_checkpointing=True)),
        "layers": Case(text("bert"), layers=(1,)),
        "layers, padded": Case(text("mpnet"), layers=(1,)),
    },
    "decoder": {
        "qwen3": Case(text("qwen3")),
        "llama": Case(text("llama")),
        "bidirectional": Case(text("qwen3", bidirectional=True, pooling="mean")),
    },
    "static": {
        "random": Case(lambda folders: StaticEncoder(folders("bert"), init="random", output_width=8)),
        "distilled": Case(lambda folders: StaticEncoder(folders("bert"), init="distil", output_width=8)),
    },
    "image": {
        "vit": Case(lambda folders: ImageEncoder(folders("vit"), dropout=0.0), "others", IMAGE),
        "resnet": Case(lambda folders: ImageEncoder(folders("resnet")), "others", IMAGE),
        "convnext": Case(lambda folders: ImageEncoder(folders("convnext"), pooling="gem"), "others", IMAGE),
    },
    "clip": {
        "clip": Case(lambda folders: TextImageEncoder(folders("clip"), dropout=0.0), "texts", IMAGE),
        "siglip": Case(lambda folders: TextImageEncoder(folders("siglip"), dropout=0.0), "texts", IMAGE),
    },
    "two_towers": {
        "bert and vit": Case(
            lambda folders: TwoTowers(
                TextEncoder(folders("bert"), dropout=0.0), ImageEncoder(folders("vit"), dropout=0.0), output_width=10
            ),
            "texts",
            IMAGE,
        ),
    },
    "points": {
        "aligned": Case(
            lambda _: PointEncoder(point_widths=[8, 16], head_widths=[12], output_width=5), "others", (4, 50, 3)
        ),
    },
    "vectors": {
        "two blocks": Case(lambda _: VectorEncoder(input_width=16, layers=2, output_width=8), "others", (4, 16)),
    },
    "cross_encoder": {
        kind: Case(lambda folders, kind=kind: CrossEncoder(folders(kind), dropout=_dropout(kind)), "pairs")  # type: ignore[misc]
        for kind in ("bert", "mpnet", "modernbert", "qwen3")
    },
}
EVERY = [(name, case) for name, cases in CASES.items() for case in cases]
# One of each kind, and for texts a packed one, one with windows, a padded one, and a decoder.
QUICK = [(name, next(iter(cases))) for name, cases in CASES.items()]
QUICK += [("bert", "packed, windows"), ("bert", "padded"), ("bert", "lora"), ("decoder", "bidirectional")]
FP32 = [_case(names, mb, is_variant=mb == 0) for mb in (10_000, 0) for names in EVERY]  # kept, and recomputed
HALF = [_case(names, dtype) for dtype in (torch.bfloat16, torch.float16) for names in EVERY]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Return a function that makes a tiny model of a kind, once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = str(tiny(kind, root / kind))
        return made[kind]

    return folder


def make(folders: Folders, name: str, case: str) -> Encoder:
    """Return the encoder of a case, tuned and in training mode."""
    chosen = CASES[name][case]
    torch.manual_seed(0)
    encoder = chosen.build(folders)
    encoder.set_output_layers(chosen.layers)
    if chosen.tuning is not None:
        chosen.tuning.apply(encoder)
    return encoder.train()


def inputs(case: Case, encoder: Encoder) -> tuple[Tensor, np.ndarray, Tensor | None]:
    """Return token ids, their lengths, and other items."""
    generator = torch.Generator().manual_seed(1)
    lengths = LENGTHS if case.reads != "others" else np.empty(0, np.int64)
    ids = torch.randint(4, 60, (int(lengths.sum()),), generator=generator)
    if case.reads == "pairs":
        ids = torch.stack([ids, torch.zeros_like(ids)], 1)
    others = None if case.others is None else torch.randn(*case.others, generator=generator)
    return ids, lengths, others


def step(encoder: Encoder, case: Case, engine: Engine, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """Compute embeddings and gradients on a device, and return the embeddings."""
    ids, lengths, others = inputs(case, encoder)
    ids = devices.of(device).upload(ids.numpy())
    others = None if others is None else devices.of(device).upload(others.numpy())
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        emb = engine.encode(encoder, ids, lengths, None, others)
    direction = torch.ones_like(emb).cumsum(-1)
    (emb * direction).sum().backward()
    return emb


def gradients(encoder: Encoder) -> Iterator[tuple[str, Tensor]]:
    for name, weight in encoder.named_parameters():
        if weight.grad is not None:
            yield name, weight.grad


def test_every_encoder_has_a_case(folders: Folders) -> None:
    configs = {file.stem for folder in finetune.conf.__path__ for file in Path(folder).glob("model/*.yaml")}
    assert set(CASES) == configs
    classes = {type(make(folders, name, next(iter(cases)))) for name, cases in CASES.items()}
    assert classes == {kind for kind in Encoder.__subclasses__() if kind.__module__.startswith("finetune.")}


@pytest.mark.parametrize(("name", "case", "activation_mb"), FP32)
def test_a_step_has_the_numbers_of_the_cpu_and_does_not_wait(folders, name, case, activation_mb):
    chosen, expected = CASES[name][case], make(folders, name, case)
    emb = step(expected, chosen, Engine(20, activation_mb), torch.device("cpu"), None)
    encoder = make(folders, name, case)
    with FakeCuda.active() as cuda:
        encoder.to(CUDA)
        with cuda.recording() as syncs:
            found = step(encoder, chosen, Engine(20, activation_mb), CUDA, None)
        found_gradients = {key: gradient.host for key, gradient in gradients(encoder)}
        assert found.device == CUDA and cuda.copies
    assert syncs == []
    torch.testing.assert_close(found.host.detach(), emb.detach(), rtol=1e-4, atol=1e-5)
    expected_gradients = dict(gradients(expected))
    assert found_gradients.keys() == expected_gradients.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    for key, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[key], gradient, rtol=1e-3, atol=1e-5 * scale, msg=key)


@pytest.mark.parametrize(("name", "case", "dtype"), HALF)
def test_a_step_in_half_precision_does_not_wait(folders, name, case, dtype):
    encoder = make(folders, name, case)
    with FakeCuda.active() as cuda:
        encoder.to(CUDA)
        with cuda.recording() as syncs:
            found = step(encoder, CASES[name][case], Engine(20, 10_000), CUDA, dtype)
        assert found.dtype == torch.float32 and found.isfinite().all().host
    assert syncs == []


class Others:
    """Items that are not texts, after `texts` texts."""

    def __init__(self, values: Tensor, texts: int) -> None:
        self.values, self.texts = values, texts

    def take(self, items: np.ndarray) -> np.ndarray:
        return self.values[items - self.texts].numpy()


def embed(encoder: Encoder, case: Case) -> tuple[np.ndarray, list[Tensor]]:
    """Return what an evaluation embeds: positions of items, and embeddings on their device."""
    ids, lengths, values = inputs(case, encoder)
    tokens = Tokens(ids.numpy(), np.concatenate([[0], np.cumsum(lengths)]))
    others = None if values is None else Others(values, len(lengths))
    items = np.arange(len(lengths) + (0 if values is None else len(values)))
    parts = list(Engine(20).embed(encoder, tokens, items, others))  # type: ignore[arg-type]
    return np.concatenate([positions for positions, _ in parts]), [emb for _, emb in parts]


@pytest.mark.parametrize(("name", "case"), [_case(names) for names in EVERY])
def test_an_evaluation_has_the_embeddings_of_the_cpu_and_does_not_wait(folders, name, case):
    order, expected = embed(make(folders, name, case).eval(), CASES[name][case])
    encoder = make(folders, name, case).eval()
    with FakeCuda.active() as cuda:
        encoder.to(CUDA)
        with cuda.recording() as syncs:
            found_order, found = embed(encoder, CASES[name][case])
    assert syncs == []
    np.testing.assert_array_equal(found_order, order)
    hosts = torch.cat([emb.host for emb in found])
    torch.testing.assert_close(hosts, torch.cat(expected), rtol=1e-4, atol=1e-5)

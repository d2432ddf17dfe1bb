"""What a run holds does not grow with its steps: every byte that a step allocates is freed by the next one.

Counted by torch's profiler, which sees all allocations, those of graphs that no Python object refers to as well.
"""

import gc

import numpy as np
import pytest
import torch

from finetune.models.image import ImageEncoder
from finetune.models.points import PointEncoder
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder
from finetune.models.vectors import VectorEncoder
from finetune.training.engine import Engine
from tests.models.tiny import tiny

STEPS = 6


def text(kind):
    return lambda folder: TextEncoder(str(tiny(kind, folder)))


KINDS = {
    **{kind: text(kind) for kind in ("bert", "mpnet", "xlm-roberta", "modernbert", "deberta", "t5", "qwen3")},
    "head": lambda folder: TextEncoder(str(tiny("bert", folder)), head="mlp", pooling="attention"),
    "static": lambda folder: StaticEncoder(str(tiny("bert", folder)), output_width=32),
    "clip": lambda folder: TextImageEncoder(str(tiny("clip", folder))),
    "vit": lambda folder: ImageEncoder(str(tiny("vit", folder))),
    "vectors": lambda folder: VectorEncoder(input_width=8),
    "points": lambda folder: PointEncoder(),
}


def step(encoder, engine, random, optimizer):
    lengths = random.integers(1, 20, 12)
    ids = torch.from_numpy(random.integers(4, 40, int(lengths.sum())))
    other = None
    if "text" not in encoder.reads:
        lengths, ids = lengths[:0], ids[:0]
    if set(encoder.reads) != {"text"}:
        shape = {"vectors": (8,), "points": (64, 3)}.get(encoder.kind, (3, 32, 32))
        other = torch.from_numpy(random.random((6, *shape), np.float32))
    emb_ND = engine.encode(encoder, ids, lengths, None, other)
    (emb_ND @ emb_ND.T).logsumexp(1).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def growth(run, steps):
    """Return the bytes by which memory of the CPU grew over some calls, all allocations less all that was freed."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(steps):
            run()
    gc.collect()
    events = profile.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.mark.parametrize("activation_mb", [10_000, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_leave_nothing_behind(kind, activation_mb, tmp_path):
    encoder = KINDS[kind](tmp_path / "model").train()
    encoder.kind = kind
    engine, random = Engine(token_budget=40, activation_mb=activation_mb), np.random.default_rng(0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-4)
    for _ in range(3):
        step(encoder, engine, random, optimizer)
    grown = growth(lambda: step(encoder, engine, random, optimizer), STEPS)
    assert grown < 100 * STEPS  # a pooler of width 32 that leaks is 512 bytes a step

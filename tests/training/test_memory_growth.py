"""Memory does not grow with the steps: every byte that a step allocates is freed by the next one.

Counted by torch's profiler, which records all allocations, also those of graphs that no Python object refers to.
"""

import gc
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from finetune.data.tokens.token_store import Tokens
from finetune.encoding.engine import Engine
from finetune.models.image import ImageEncoder
from finetune.models.points import PointEncoder
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder
from finetune.models.vectors import VectorEncoder
from finetune.training import assembly
from finetune.training.fit import fit
from tests.conftest import thorough
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


class Growth:
    """The bytes by which memory of the CPU grows between `start` and `stop`: all allocations less all that is freed."""

    def start(self):
        gc.collect()
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self._profile.start()

    def stop(self, since=0):
        """Return the growth, from a moment `since` on (nanoseconds of the clock)."""
        gc.collect()
        self._profile.stop()
        events = self._profile.profiler.kineto_results.events()
        return sum(event.nbytes() for event in events if event.name() == "[memory]" and event.start_ns() > since)


def growth(run, steps):
    """Return by how much memory grows over some calls."""
    measured = Growth()
    measured.start()
    for _ in range(steps):
        run()
    return measured.stop()


# One text encoder both ways, and one of text and images; the other encoders are in `make test-all`.
QUICK = [("bert", "kept"), ("bert", "recomputed"), ("clip", "kept")]
CASES = [(kind, graph) for kind in KINDS for graph in ("kept", "recomputed")]


@pytest.mark.parametrize(("kind", "graph"), [case if case in QUICK else thorough(*case) for case in CASES])
def test_steps_do_not_leak(kind, graph, tmp_path):
    activation_mb = 10_000 if graph == "kept" else 0
    encoder = KINDS[kind](tmp_path / "model").train()
    encoder.kind = kind
    engine, random = Engine(token_budget=40, activation_mb=activation_mb), np.random.default_rng(0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-4)
    for _ in range(3):
        step(encoder, engine, random, optimizer)
    grown = growth(lambda: step(encoder, engine, random, optimizer), STEPS)
    assert grown < 100 * STEPS  # a pooler of width 32 that leaks is 512 bytes a step


@pytest.mark.parametrize("kind", ["bert", thorough("mpnet"), thorough("static")])
def test_embedding_a_corpus_does_not_leak(kind, tmp_path):
    encoder, engine, random = KINDS[kind](tmp_path / "model").eval(), Engine(token_budget=40), np.random.default_rng(0)
    lengths = random.integers(1, 20, 50)
    tokens = Tokens(random.integers(4, 40, int(lengths.sum())).astype(np.int32), np.cumsum([0, *lengths]))

    def embed():
        for _ in engine.embed(encoder, tokens, np.arange(len(lengths))):
            pass

    embed()
    assert growth(embed, STEPS) < 100 * STEPS


class Watch(pl.Callback):
    """Measures between two steps of a training, including everything that the run does between them.

    It starts earlier: a free is recorded only for a tensor that was allocated while the profiler ran.
    """

    START, FIRST, LAST = 4, 8, 18

    def __init__(self):
        self.measured, self.since, self.grown = Growth(), 0, None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.START and not self.since:
            self.measured.start()
            self.since = 1
        elif trainer.global_step == self.FIRST and self.since == 1:
            self.since = time.time_ns()
        elif trainer.global_step == self.LAST and self.grown is None:
            self.grown = self.measured.stop(self.since)


@pytest.mark.parametrize(
    "more",
    [
        thorough([], id="plain"),
        pytest.param(["callbacks=[default,evaluate]", "callbacks.evaluate.every_n_steps=4"], id="evaluated in between"),
        thorough(["trainer.accumulate_grad_batches=2", "callbacks=[default,average]"], id="accumulated and averaged"),
    ],
)
def test_a_training_with_callbacks_does_not_leak(start, monkeypatch, more):
    watch, real = Watch(), assembly.build_trainer
    monkeypatch.setattr(
        assembly, "build_trainer", lambda node, run, n, calls, *rest: real(node, run, n, [*calls, watch], *rest)
    )
    fit(*start("grows", "trainer.max_epochs=6", "trainer.log_every_n_steps=1", *more))
    assert watch.grown is not None
    assert watch.grown < 100 * (watch.LAST - watch.FIRST)

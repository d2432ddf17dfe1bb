"""Whole runs on a GPU: the losses of the CPU, resume to the same bits, and memory that runs out."""

import contextlib
import csv
import gc

import numpy as np
import pytest
import torch

from finetune.errors import Interrupted
from finetune.models.text import TextEncoder
from finetune.training.fit import fit
from tests.conftest import WORDS, make_tiny_model
from tests.gpu.conftest import accelerator, losses, rows
from tests.models.tiny import tiny
from tests.preflight.test_models import draw_digits
from tests.training.test_fit import Spy, fit_with, weights

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
SHORT = ["trainer.max_steps=6", "model.dropout=0"]


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 5e-2), ("bf16-true", 1e-1), ("16-mixed", 2e-2)]
)
def test_a_run_has_the_losses_and_metrics_of_the_cpu(run_on, device, precision, tolerance):
    if precision == "16-mixed" and device.type == "cpu":
        pytest.skip("16-mixed needs a GPU")
    run = run_on(device, "device", *SHORT, f"trainer.precision={precision}")
    expected = run_on(CPU, "cpu", *SHORT, "trainer.precision=32-true")
    # With fp16 the first steps may be skipped, until the scale of the loss is found: the losses after are of others.
    count = 1 if precision == "16-mixed" else 6
    assert len(losses(run)) == 6 and np.isfinite(losses(run)).all()
    assert losses(run)[:count] == pytest.approx(losses(expected)[:count], rel=tolerance)
    before, expected_before = metrics(run, "/before/"), metrics(expected, "/before/")
    assert before and before.keys() == expected_before.keys()
    assert before == pytest.approx(expected_before, abs=0.02)


def metrics(run, part):
    return {key: value for row in rows(run) for key, value in row.items() if part in key}


@pytest.mark.parametrize("more", [["model.dropout=0"], ["model.dropout=0.1"]], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_has_the_same_bits(start, device, monkeypatch, precision, more):
    settings = [
        *more, f"trainer.precision={precision}", "trainer.max_steps=6", "trainer.deterministic=true",
        "evaluation=none", f"trainer.accelerator={accelerator(device)}",
    ]  # fmt: skip
    cfg, dataset, whole = start("whole", *settings)
    fit(cfg, dataset, whole)
    cfg, dataset, broken = start("broken", *settings)
    with pytest.raises(Interrupted, match="at step 3"):
        fit_with(Spy(stop_at=3), monkeypatch, cfg, dataset, broken)
    monkeypatch.undo()
    fit(cfg, dataset, broken, checkpoint=broken.checkpoints / "last.ckpt")
    found, expected = weights(broken), weights(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert losses(broken) == losses(whole)


def test_a_step_that_runs_out_of_memory_is_repeated_with_smaller_micro_batches(
    start, run_on, device, tmp_path, monkeypatch, capsys
):
    on_gpu = device.type == "cuda"
    write_long_pairs(tmp_path / "long.csv", 256 if on_gpu else 16)
    model = wide_model(tmp_path / "wide") if on_gpu else make_tiny_model(tmp_path / "wide")
    budget = 2**15 if on_gpu else 2**10
    settings = [
        f"model.name={model}", "data.path=long.csv", "data.validation_fraction=0", "data.max_length=64",
        f"data.batch_size={256 if on_gpu else 16}", "model.dropout=0", "trainer.max_steps=2", "evaluation=none",
        "trainer.precision=32-true", f"engine.token_budget={budget}", "engine.activation_mb=20000",
    ]  # fmt: skip
    expected = run_on(device, "enough", *settings)
    assert "Memory ran out" not in capsys.readouterr().out
    with little_memory(device, monkeypatch):
        found = run_on(device, "little", *settings)
    assert "Memory ran out" in capsys.readouterr().out
    assert [row["token_budget"] for row in rows(found) if "loss" in row][-1] < budget
    assert losses(found) == pytest.approx(losses(expected), rel=1e-4)


@contextlib.contextmanager
def little_memory(device, monkeypatch):
    """Leave 3 GB of a GPU's memory; on a CPU a micro-batch of more than 200 tokens raises the error of a GPU."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(3 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    real = TextEncoder.forward

    def forward(self, values, *arguments):
        if len(values) > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, values, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "forward", forward)
        yield


def wide_model(folder):
    """Write a BERT whose activations of 32,768 tokens take some 12 GB in fp32."""
    from transformers import BertConfig, BertModel

    make_tiny_model(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=200, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
                        intermediate_size=2048, max_position_embeddings=64)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def write_long_pairs(path, count):
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["anchor", "positive"])
        writer.writerows([[" ".join(random.choice(WORDS, 60)) for _ in range(2)] for _ in range(count)])


ENCODERS = {
    "static": ["model=static", "model.init=random", "model.output_width=16"],
    "image": ["model=image", "model.name=vit", "model.dropout=0", "data=images", "data.path=digits", "loss=supcon"],
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_other_encoders_have_the_losses_of_the_cpu(run_on, device, tmp_path, kind):
    if kind == "image":
        draw_digits(tmp_path / "digits")
        tiny("vit", tmp_path / "vit")
    settings = [*ENCODERS[kind], "trainer.max_steps=2", "evaluation=none", "trainer.precision=32-true"]
    run, expected = run_on(device, "device", *settings), run_on(CPU, "cpu", *settings)
    assert len(losses(run)) == 2
    assert losses(run) == pytest.approx(losses(expected), rel=1e-3)

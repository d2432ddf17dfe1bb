"""Callbacks of a run: what they measure and save, and that evaluations do not change the weights."""

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch import nn

from finetune.config.check import check
from finetune.errors import CheckFailed, Interrupted
from finetune.training.assembly import assemble
from finetune.training.callbacks import Average
from finetune.training.fit import fit
from finetune.training.non_finite_loss import NonFiniteLossError
from finetune.training.preserve_state import preserve_state, random_state, set_random_state


def last(run):
    return torch.load(run.last_checkpoint, weights_only=True)["state_dict"]


def model(run):
    return load_file(run.model / "model.safetensors")


def rows(run):
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def test_evaluation_does_not_change_the_training(start):
    looks = ["evaluate", "average", "samples", "device_stats"]
    every = [f"callbacks.{name}.every_n_steps=2" for name in looks if name != "average"]
    runs = []
    for name, more in (("plain", []), ("looked", [f"callbacks=[default,{','.join(looks)}]", *every])):
        cfg, dataset, run = start(name, "trainer.max_steps=5", "trainer.precision=bf16-true", *more)
        fit(cfg, dataset, run)
        runs.append(run)
    plain, looked = map(last, runs)
    assert all(torch.equal(plain[name], looked[name]) for name in plain)
    run = runs[1]
    found = [(row["step"], row["retrieval/nDCG@10"]) for row in rows(run) if "retrieval/nDCG@10" in row]
    assert [step for step, _ in found] == [2, 4, 5]
    assert sum("average/retrieval/nDCG@10" in row for row in rows(run)) == 3
    assert [row["step"] for row in rows(run) if "device/load" in row] == [2, 4, 5]
    folder = run.path / "samples" / "step-00000004"
    vectors, texts = np.loadtxt(folder / "vectors.tsv"), (folder / "metadata.tsv").read_text().splitlines()
    assert vectors.shape == (len(texts), 32)
    assert set(texts) <= set(dataset.items.take(np.arange(len(dataset.items))))


def test_preserve_state_restores_everything():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).bfloat16()
    module(torch.ones(1, 3).bfloat16()).sum().backward()
    module[1].eval()
    weight, gradient = module[0].weight, module[0].weight.grad
    data, before = weight.data.clone(), random_state(torch.device("cpu"))
    with preserve_state(module):
        module.float().train()
        weight.data.add_(0)
        torch.rand(3), random.random(), np.random.rand()
    assert module[0].weight is weight
    assert (weight.dtype, gradient.dtype, module[1].training) == (torch.bfloat16, torch.bfloat16, False)
    assert torch.equal(weight.data, data)
    drawn = torch.rand(2), random.random(), np.random.rand()
    set_random_state(before)
    assert torch.equal(drawn[0], torch.rand(2))
    assert drawn[1:] == (random.random(), np.random.rand())


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_average_equals_that_of_torch(decay):
    torch.manual_seed(0)
    module, trainer = nn.Linear(4, 2), pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    average = Average(decay=decay, warmup=False)
    theirs = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay))
    theirs.update_parameters(module)  # the first only copies
    average.on_fit_start(trainer, module)
    for step in range(1, 6):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 4))
        average.on_train_batch_end(trainer, module, None, None, step)
        theirs.update_parameters(module)
    weight = module.weight.detach().clone()
    with average.in_place(module):
        torch.testing.assert_close(module.weight, theirs.module.weight)
    assert torch.equal(module.weight, weight)
    average.finish(trainer, module)
    torch.testing.assert_close(module.weight, theirs.module.weight)


def test_warmup_averages_a_short_run_over_its_later_steps(start):
    cfg, dataset, run = start("ema", "trainer.max_steps=4", "callbacks=[default,average]", "evaluation=none",
                              "callbacks.average.evaluate=false", "callbacks.checkpoint.every_n_steps=1",
                              "callbacks.checkpoint.keep_last=9")  # fmt: skip
    parts = assemble(cfg, dataset, run)
    mean = {name: weight.detach().clone() for name, weight in parts.module.named_parameters()}
    fit(cfg, dataset, run)
    for n in range(1, 5):
        state = torch.load(run.saved.path(n), weights_only=True)["state_dict"]
        share = (1 + n) / (10 + n)
        mean = {name: share * mean[name] + (1 - share) * state[name] for name in mean}
    saved, name = model(run), "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(saved[name], mean[f"encoder.backbone.{name}"], rtol=1e-5, atol=1e-6)


HARD = ["data.validation_fraction=0.3", "evaluation.retrieval.metrics=[nDCG@1]"]


WORSE = ["optimizer.lr=1", "scheduler.warmup=0"]  # its own weights shrink to nothing: the evaluation can only get worse


def test_the_best_checkpoint_is_kept_and_restored_and_patience_ends_the_training(start, capsys):
    some = "evaluate.every_n_steps=1 early_stopping.patience=2 checkpoint.keep_last=1 checkpoint.mode=min"
    more = ["callbacks=[default,evaluate,best,early_stopping]", *WORSE]
    more += [f"callbacks.{word}" for word in some.split()]
    cfg, dataset, run = start("best", *HARD, *more)
    fit(cfg, dataset, run)
    scores = {row["step"]: row["retrieval/nDCG@1"] for row in rows(run) if "retrieval/nDCG@1" in row}
    best = min(scores, key=lambda step: (scores[step], step))
    assert len(scores) < 21
    assert run.saved.steps() == sorted({best, len(scores)})
    state = torch.load(run.checkpoints / "best.ckpt", weights_only=True)["state_dict"]
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(model(run)[name], state[f"encoder.backbone.{name}"])
    report = json.loads(run.report_data_path.read_text())
    assert report["evaluations"]["retrieval"]["metrics"][0]["after"] == pytest.approx(scores[best])
    why = (
        f"Training ended at step {len(scores)} of 18 because of callbacks.early_stopping: no better for 2 evaluations."
    )
    assert report["training"] == {
        "step": len(scores), "steps": 18, "ended_early": why, "kept_untouched": None,
    }  # fmt: skip
    assert run.read_status()["reason"] == why
    said = capsys.readouterr().out
    assert said.count(why) == 1
    assert "Training made the model worse: retrieval, nDCG@1 1.000 before" in said
    # Killed after its last save, it does not train on.
    fit(cfg, dataset, run, checkpoint=run.last_checkpoint)
    assert run.saved.steps() == sorted({best, len(scores)})


@pytest.mark.parametrize("more", [[], ["tuning=lora"], ["callbacks=[default,evaluate,best,average]"]], ids=str)
def test_the_untouched_model_is_saved_if_no_step_is_better(start, capsys, more):
    words = ["callbacks=[default,evaluate,best]", "callbacks.evaluate.every_n_steps=2", "trainer.max_steps=4"]
    cfg, dataset, run = start("worse", *HARD, *WORSE, *words, *more)
    before = {name: weight.clone() for name, weight in assemble(cfg, dataset, run).encoder.named_parameters()}
    fit(cfg, dataset, run)
    saved, name = model(run), "encoder.layer.1.output.dense.weight"
    pretrained = [weight for key, weight in before.items() if key.endswith(name.replace("dense", "dense.base_layer"))]
    torch.testing.assert_close(saved[name], (pretrained or [before[f"backbone.{name}"]])[0], rtol=0, atol=1e-7)
    report = json.loads(run.report_data_path.read_text())
    kept = report["training"]["kept_untouched"]
    assert kept.startswith(
        "No step of the training was better than the untouched model: retrieval/nDCG@1 1.0000, and 0."
    )
    assert kept in capsys.readouterr().out
    assert f"**{kept[:60]}" in run.report_path.read_text().split("\n\n")[1]
    assert report["evaluations"]["retrieval"]["metrics"][0]["change"] == 0
    assert (run.checkpoints / "best.ckpt").is_file()


def test_wise_ft_interpolates_between_the_pretrained_and_the_tuned_model(start, tmp_path):
    models = {}
    for alpha in (0.0, 0.25, 1.0):
        more = ["callbacks=[default,wise_ft]", f"callbacks.wise_ft.alphas=[{alpha}]", "trainer.max_steps=3"]
        cfg, dataset, run = start(f"wise{alpha}", *more)
        parts = assemble(cfg, dataset, run)
        fit(cfg, dataset, run)
        models[alpha] = model(run)
        assert any(f"wise_ft/{alpha:g}/retrieval/nDCG@10" in row for row in rows(run))
    name = "encoder.layer.1.output.dense.weight"
    before = dict(parts.encoder.named_parameters())[f"backbone.{name}"].detach()
    assert torch.equal(models[0.0][name], before)
    assert torch.equal(models[1.0][name], last(run)[f"encoder.backbone.{name}"])
    torch.testing.assert_close(models[0.25][name], 0.75 * models[0.0][name] + 0.25 * models[1.0][name])


def test_the_final_model_is_a_fixed_mixture_of_the_pretrained_and_the_tuned_model(start):
    more = ["evaluation=none", "callbacks=[default,interpolate]", "callbacks.interpolate.alpha=0.25"]
    cfg, dataset, run = start("mixed", *more, "trainer.max_steps=3")
    before = dict(assemble(cfg, dataset, run).encoder.named_parameters())
    fit(cfg, dataset, run)
    tuned = last(run)
    for name, weight in model(run).items():
        pretrained = before[f"backbone.{name}"].detach()
        torch.testing.assert_close(weight, 0.75 * pretrained + 0.25 * tuned[f"encoder.backbone.{name}"])
    changed = "encoder.layer.1.output.dense.weight"
    assert not torch.equal(before[f"backbone.{changed}"], tuned[f"encoder.backbone.{changed}"])


def test_periodic_checkpoints_are_kept(start):
    more = ["callbacks.checkpoint.keep_every_n_steps=3", "callbacks.checkpoint.keep_last=1", "trainer.max_steps=8"]
    cfg, dataset, run = start("periodic", "evaluation=none", *more)
    fit(cfg, dataset, run)
    assert run.saved.steps() == [3, 6, 8]


def test_an_unknown_metric_fails_before_the_training(start):
    more = ["callbacks=[default,evaluate,early_stopping]", "callbacks.early_stopping.metric=retrieval/nDCG@7"]
    cfg, dataset, run = start("metric", *more)
    with pytest.raises(CheckFailed, match=r"have no 'retrieval/nDCG@7'\. They have: retrieval/nDCG@10"):
        fit(cfg, dataset, run)
    assert not run.checkpoints.exists()


@pytest.mark.parametrize("log_every", [1, 4])
def test_the_batch_of_a_non_finite_loss_is_written_to_a_file(start, monkeypatch, log_every):
    cfg, dataset, run = start("diverges", "evaluation=none", f"trainer.log_every_n_steps={log_every}",
                              "callbacks.checkpoint.every_n_steps=1")  # fmt: skip
    seen = []

    def fails_at_the_third(self, emb, batch, *_):
        seen.append(dataset.items.take(batch.items_N.numpy()))
        return emb.sum() * (float("nan") if len(seen) == 3 else 1.0)

    monkeypatch.setattr("finetune.losses.infonce.InfoNCE.forward", fails_at_the_third)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 3"):
        fit(cfg, dataset, run)
    told = json.loads(run.diverged_path.read_text())
    assert (told["step"], told["loss"], told["epoch"], told["batch"]) == (3, "nan", 0, 2)
    assert {item["text"] for row in told["rows"] for item in row["anchor"] + row["others"]} == set(seen[2])
    numbers = np.array([row["anchor"][0]["item"] for row in told["rows"]])
    assert [row["anchor"][0]["text"] for row in told["rows"]] == dataset.items.take(numbers)
    assert run.saved.steps() == [1, 2]  # none with weights of such a loss


class Impatient(pl.Callback):
    """Requests a stop in the middle of an accumulated step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 2:
            signal.raise_signal(signal.SIGTERM)


def test_a_stop_waits_for_the_end_of_an_accumulated_step(start, monkeypatch):
    monkeypatch.setenv("FINETUNE_ALLOW", __name__)
    own = f"+callbacks.own._target_={__name__}.Impatient"
    cfg, dataset, run = start("stop", "evaluation=none", "trainer.accumulate_grad_batches=2", own)
    with pytest.raises(Interrupted, match="SIGTERM at step 2"):
        fit(cfg, dataset, run)
    assert run.saved.steps() == [2]


def test_a_users_own_callback_has_to_be_allowed(start, monkeypatch):
    monkeypatch.delenv("FINETUNE_ALLOW", raising=False)
    with pytest.raises(CheckFailed, match="FINETUNE_ALLOW"):
        start("own", f"+callbacks.own._target_={__name__}.Impatient")


def test_every_callback_alone_is_a_valid_config(tmp_path):
    names = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "callbacks").glob("*.yaml"))
    for name in names:
        alone = f"callbacks=[default,evaluate,{name}]" if name not in ("none", "default", "evaluate") else ""
        check([word for word in (alone, f"output_root={tmp_path}") if word])

"""Every argument of Lightning's Trainer: supported ones have an effect, the others are refused before a run."""

import inspect
import json
import signal
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from finetune.config import trainer as arguments
from finetune.config.check import check
from finetune.config.command_line import Arguments
from finetune.config.rules import GROUPS
from finetune.data.load import load
from finetune.data.settings import data_settings
from finetune.errors import CheckFailed, Interrupted
from finetune.preflight.check import check_fit
from finetune.runner.run_setup import find_run
from finetune.training.assembly import assemble
from finetune.training.fit import fit
from finetune.training.length import length_problems
from tests.conftest import quick, write_pairs
from tests.training.test_fit import fit_with

NAMES = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
SET = {
    "accelerator": "cpu", "strategy": "ddp", "devices": "1", "num_nodes": "1", "precision": "64-true",
    "max_epochs": "3", "min_epochs": "1", "max_steps": "5", "min_steps": "2", "max_time": "{hours:1,minutes:30}",
    "limit_train_batches": "3", "log_every_n_steps": "2", "accumulate_grad_batches": "2", "gradient_clip_val": "1e-3",
    "gradient_clip_algorithm": "value", "deterministic": "warn", "benchmark": "true", "profiler": "simple",
    "detect_anomaly": "true",
}  # fmt: skip


class Facts(pl.Callback):
    """Records what is only accessible during the training."""

    def __init__(self):
        self.gradients, self.trainer, self.anomaly, self.batches, self.left = [], None, [], 0, None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.trainer = trainer
        self.batches += 1
        self.anomaly.append(torch.is_anomaly_enabled())
        self.warns = torch.is_deterministic_algorithms_warn_only_enabled()
        self.benchmark = torch.backends.cudnn.benchmark
        self.dtype = module.encoder.backbone.get_input_embeddings().weight.dtype
        self.gradients += [p.grad.abs().max().item() for p in module.parameters() if p.grad is not None]
        limit = next(each for each in trainer.callbacks if type(each).__name__ == "TimeLimit")
        self.left = limit.seconds_left()


# What each supported argument did in a run that sets all of them.
ACTS = {
    "accelerator": lambda facts: type(facts.trainer.accelerator).__name__ == "CPUAccelerator",
    "strategy": lambda facts: facts.trainer.world_size == 1,  # with more: test_processes.py
    "devices": lambda facts: facts.trainer.num_devices == 1,
    "num_nodes": lambda facts: facts.trainer.num_nodes == 1,
    "precision": lambda facts: facts.dtype == torch.float64,
    "max_epochs": lambda facts: facts.trainer.max_epochs == 3,
    "min_epochs": lambda facts: facts.trainer.min_epochs == 1,
    "max_steps": lambda facts: facts.trainer.global_step == 5,
    "min_steps": lambda facts: facts.trainer.min_steps == 2,  # and test_min_steps_...
    "max_time": lambda facts: 5300 < facts.left < 5400,
    "limit_train_batches": lambda facts: facts.batches == 3 + 3 + 2,
    "log_every_n_steps": lambda facts: facts.logged == [2, 4, 5],
    "accumulate_grad_batches": lambda facts: facts.trainer.global_step == 5 < facts.batches,
    "gradient_clip_val": lambda facts: 0 < max(facts.gradients[-30:]) <= 1e-3,
    "gradient_clip_algorithm": lambda facts: sum(value > 0.99e-3 for value in facts.gradients[-30:]) > 1,
    "deterministic": lambda facts: facts.warns,
    "benchmark": lambda facts: facts.benchmark,
    "profiler": lambda facts: "Profiler Report" in facts.said,
    "detect_anomaly": lambda facts: all(facts.anomaly),
}


def given(names):
    """Return the overrides that set these arguments, with a plus where conf/trainer has no such key."""
    there = check(["trainer.max_steps=1"]).trainer
    return [f"{'' if name in there else '+'}trainer.{name}={SET[name]}" for name in names]


def test_each_argument_is_supported_or_refused():
    """A new version of Lightning may have a new argument: decide what it is here."""
    supported, refused = set(arguments.SUPPORTED), set(arguments.REFUSED)
    assert supported | refused == set(NAMES)
    assert not supported & refused
    assert supported == set(SET) == set(ACTS)


@pytest.mark.parametrize("plus", ["+", ""])
def test_a_refused_argument_has_a_reason_and_an_alternative(plus):
    with pytest.raises(CheckFailed) as failed:
        check([f"{plus}trainer.{name}=1" for name in arguments.REFUSED])
    found = {problem.where.removesuffix("=1"): (problem.what, problem.advice) for problem in failed.value.problems}
    assert found == {
        f"trainer.{name}": (f"a run does not take this: {why}.", instead)
        for name, (why, instead) in arguments.REFUSED.items()
    }


def test_an_argument_of_a_newer_lightning_is_refused(monkeypatch):
    group = GROUPS["trainer"]
    monkeypatch.setitem(GROUPS, "trainer", replace(group, supported=group.supported - {"benchmark"}))
    with pytest.raises(CheckFailed, match="a run does not support this argument"):
        check(["+trainer.benchmark=true"])


@pytest.fixture(scope="module")
def facts(tiny_model, tmp_path_factory):
    """The facts of a run that sets all supported arguments."""
    folder = tmp_path_factory.mktemp("trainer")
    write_pairs(folder / "pairs.csv")
    own = [word for word in quick(tiny_model) if not word.startswith(("data.path", "trainer."))]
    overrides = [*own, f"data.path={folder}/pairs.csv", "evaluation=none", f"output_root={folder}", "name=all"]
    overrides += given(SET)
    cfg = check(overrides)
    dataset = load(data_settings(cfg), cfg.seed)
    run = find_run(cfg, overrides, dataset, Arguments(overrides))[0]
    spy, said = Facts(), []
    modes = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with pytest.MonkeyPatch.context() as patch:
        for module in ("fit", "outputs"):
            patch.setattr(f"finetune.training.{module}.say", lambda text, **_: said.append(text))
        fit_with(spy, patch, cfg, dataset, run)
    torch.use_deterministic_algorithms(modes[0])
    torch.backends.cudnn.benchmark = modes[1]
    spy.said = "\n".join(said)
    spy.logged = [row["step"] for row in map(json.loads, run.metrics_path.open()) if "loss" in row]
    return spy


@pytest.mark.parametrize("name", ACTS)
def test_a_supported_argument_has_an_effect(facts, name):
    assert ACTS[name](facts)


@pytest.mark.parametrize(
    ("profiler", "words"), [("advanced", "run_training_batch"), ("pytorch", "Self CPU time total")]
)
def test_every_profiler_writes_its_summary(start, capsys, profiler, words):
    cfg, dataset, run = start("profile", "evaluation=none", "trainer.max_steps=2", f"+trainer.profiler={profiler}")
    fit(cfg, dataset, run)
    (path,) = run.path.glob("fit-profile*.txt")
    assert f"profile: {path}" in capsys.readouterr().out
    assert words in path.read_text()


@pytest.mark.parametrize(
    ("more", "where", "what"),
    [
        (
            ["+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=null"],
            "gradient_clip_algorithm",
            "not",
        ),
        (["+trainer.min_steps=9", "trainer.max_steps=5"], "min_steps", "more than trainer.max_steps=5"),
        (["+trainer.min_epochs=9", "trainer.max_epochs=5"], "min_epochs", "more than trainer.max_epochs=5"),
        (["+trainer.limit_train_batches=0"], "limit_train_batches", "at least 1"),
        (["trainer.max_time='00:12'"], "max_time", "DD:HH:MM:SS"),
        (["trainer.max_time={hour:1}"], "max_time", "{hours: 12}"),
        (["trainer.max_time='00:00:00:00'"], "max_time", "a positive duration"),
        (["trainer.max_time=90"], "max_time", "DD:HH:MM:SS"),
        (["+trainer.profiler=xla"], "profiler", "'simple'"),
        (["callbacks.checkpoint.every_n_minutes=0"], "callbacks.checkpoint.every_n_minutes", "above 0"),
    ],
    ids=str,
)
def test_values_without_an_effect_are_refused(more, where, what):
    with pytest.raises(CheckFailed) as failed:
        check(more)
    (problem,) = failed.value.problems
    assert problem.where == (where if "." in where else f"trainer.{where}")
    assert what in problem.what


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("+trainer.limit_train_batches=0.1", "0.1 of the 7 batches of an epoch is less than one batch"),
        ("+trainer.min_steps=22", "the training has 21 steps, fewer than 22"),
    ],
)
def test_the_check_refuses_what_depends_on_the_data(start, more, what):
    cfg, dataset, _ = start("few", "evaluation=none", more)
    (problem,) = check_fit(cfg, dataset)
    assert problem.where == more[1:].partition("=")[0] and what in problem.what


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"max_epochs": 2}, ["trainer.min_steps"]),
        ({"max_epochs": None}, []),
        ({"max_epochs": -1, "max_steps": 30}, []),
        ({"max_epochs": "auto"}, []),
        ({}, []),
        ({"max_epochs": "auto", "min_epochs": 11}, ["trainer.min_epochs"]),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, ["trainer.min_steps"]),
        ({"max_epochs": 2, "limit_train_batches": 1e-5}, ["trainer.limit_train_batches"]),
    ],
)
def test_the_length_of_a_training_follows_from_its_settings_and_batches(settings, refused):
    node = OmegaConf.create({"max_steps": -1, "accumulate_grad_batches": 1, "min_steps": 20} | settings)
    assert [problem.where for problem in length_problems(node, 7)] == refused


def test_automatic_epochs_respect_the_limit_of_batches(start):
    parts = assemble(*start("auto", "evaluation=none", "trainer.max_epochs=auto", "+trainer.limit_train_batches=0.3"))
    assert parts.module.total_steps == 10 * 2


class Stops(pl.Callback):
    """Requests a stop at a step, like early stopping or a signal."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and self.how == "callback":
            trainer.should_stop = True
        elif trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("minimum", "ends"), [("min_steps=5", 7), ("min_steps=9", 9), ("min_epochs=2", 14)])
def test_min_steps_and_min_epochs_delay_an_early_end(start, monkeypatch, minimum, ends):
    """As in Lightning, where min_steps also implies one whole epoch, unless min_epochs is set."""
    cfg, dataset, run = start("least", "evaluation=none", f"+trainer.{minimum}", "callbacks.checkpoint.keep_last=99")
    fit_with(Stops(2, "callback"), monkeypatch, cfg, dataset, run)
    assert run.saved.steps() == sorted({7, ends})
    reason = f"Training ended at step {ends} of 21 because of a callback that stopped it."
    assert run.read_status()["reason"] == reason


def test_a_signal_does_not_wait_for_min_steps(start, monkeypatch):
    cfg, dataset, run = start("least", "evaluation=none", "+trainer.min_steps=9")
    with pytest.raises(Interrupted, match="SIGTERM at step 2 of 21"):
        fit_with(Stops(2, "signal"), monkeypatch, cfg, dataset, run)
    assert run.saved.steps() == [2]

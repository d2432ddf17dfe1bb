"""The check through its front door: what is typed, and what is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from finetune.config.check import check
from finetune.config.compose import shipped_folder
from finetune.config.rules import GROUPS
from finetune.errors import Problem

from .conftest import problems_of, write

# One override (or several, split by " | "), where the answer points, and words that it must have.
ANSWERS = [
    # what cannot be read
    ("model", "model", ["KEY=VALUE"]),
    ("a..b=1", "a..b=1", ["cannot be a key"]),
    ("=3", "=3", ["no key"]),
    ("ü=3", "ü=3", ["cannot be a key"]),
    ("data.path=ü.csv", "data.path=ü.csv", ["'data.path=\"ü.csv\"'"]),
    ("data.path=~/a b.csv", "data.path=~/a b.csv", [f"Write 'data.path=\"{Path.home()}/a b.csv\"'."]),
    ("data.path=a(b).csv", "data.path=a(b).csv", ["quotes"]),
    ("data.columns=[a,b", "data.columns=[a,b", ["brackets"]),
    # groups and options
    ("modle=bert", "modle=bert", ["no group or key 'modle'", "Did you mean model?"]),
    ("+modle=bert", "modle", ["no group or key 'modle'", "Did you mean model?"]),
    ("model=brt", "model=brt", ["group model has no 'brt'", "Did you mean bert?", "There are: bert"]),
    ("model=", "model=", ["group model has no ''", "There are: bert"]),
    ("trainer=5", "trainer=5", ["group trainer has no '5'"]),
    ("recipe=null", "recipe=null", ["~recipe"]),
    ("model=null", "model=null", ["There are: bert, "]),
    ("~0", "~0", ["KEY=VALUE"]),  # no user of that name has a home directory
    ("evaluation=null", "evaluation=null", ["evaluation=none"]),
    ("+model=bert", "+model=bert", ["Remove the plus"]),
    ("++model=bert", "++model=bert", ["Write model=bert"]),
    ("model@x=bert", "model@x=bert", ["model@x"]),
    ("nope@x=bert", "nope@x=bert", ["no group 'nope'"]),
    ("hydra/launcher=bassic", "hydra/launcher=bassic", ["Did you mean basic?"]),
    ("hydra/launchr=basic", "hydra/launchr=basic", ["Did you mean hydra/launcher?"]),
    ("hydra.run.dri=x", "hydra.run.dri=x", ["Did you mean hydra.run.dir"]),
    ("hydra.searchpath=[file:///nope]", "hydra.searchpath=[file:///nope]", ["no folder '/nope'"]),
    ("hydra.job.env_copy=[HOME]", "hydra.job.env_copy", ["cannot be changed"]),
    # keys
    ("trainer.max_epcohs=3", "trainer.max_epcohs=3", ["Did you mean trainer.max_epochs?"]),
    ("+trainer.max_epcohs=3", "trainer.max_epcohs", ["Trainer has no parameter", "Did you mean trainer.max_epochs?"]),
    ("++optimizer.lrr=1", "optimizer.lrr", ["AdamW has no parameter 'lrr'", "Did you mean optimizer.lr?"]),
    ("trainer.min_steps=1", "trainer.min_steps=1", ["with a plus: +trainer.min_steps=1"]),
    ("+trainer.max_epochs=3", "+trainer.max_epochs=3", ["Remove the plus"]),
    ("lr=1e-5", "lr=1e-5", ["Did you mean optimizer.lr?"]),
    ("batch_size=8", "batch_size=8", ["Did you mean data.batch_size?"]),
    ("epochs=3", "epochs=3", ["trainer.max_epochs"]),
    ("model/name=x", "model/name=x", ["Did you mean model.name?"]),
    ("optimizer.lr.x=1", "optimizer.lr.x=1", ["'optimizer.lr' is a value"]),
    ("optimizer.betas.7=0.5", "optimizer.betas.7=0.5", ["no '7' below it"]),
    ("optimizer={lrr: 1}", "optimizer={lrr: 1}", ["Did you mean optimizer.lr?"]),
    ("~callbacks.progres", "~callbacks.progres", ["Did you mean callbacks.progress?"]),
    ("~nope", "~nope", ["no group or key 'nope'"]),
    ("+foo=3", "foo", ["no group or key 'foo'", "There are:"]),
    ("+callbacks.x.y=1", "callbacks.x", ["no _target_"]),
    ("++callbacks.chekpoint.every_n_steps=4", "callbacks.chekpoint", ["Did you mean callbacks.checkpoint?"]),
    ("callbacks.progress=null", "callbacks.progress", ["found null", "~callbacks.progress"]),
    # sweeps
    ("optimizer.lr=1e-5,3e-5", "optimizer.lr=1e-5,3e-5", ["-m", "'optimizer.lr=[1e-5,3e-5]'"]),
    ("seed=range(1,3)", "seed=range(1,3)", ["-m"]),
    # what is missing
    ("~loss", "loss", ["a run needs one", "loss=..."]),
    ("~experiment", "experiment", ["required"]),
    ("~evaluation", "evaluation", ["required", "evaluation=none"]),
    ("~callbacks", "callbacks", ["required", "callbacks"]),
    ("~logger", "logger", ["required", "logger"]),
    ("~model.name", "model.name", ["TextEncoder cannot be built without 'name'"]),
    ("model.name=???", "model.name", ["no value yet"]),
    # interpolations
    (
        "model.name=${modle.pooling}",
        "model.name",
        ["'modle.pooling', which does not exist", "Did you mean model.pooling?"],
    ),
    ("model.name=${oc.env:FINETUNE_NOT_SET}", "model.name", ["FINETUNE_NOT_SET is not set"]),
    ("model.name=${oc.evn:HOME}", "model.name", ["'oc.evn', which is not a resolver", "Did you mean oc.env?"]),
    ("model.name=${model.pooling} | model.pooling=${model.name}", "model.pooling", ["refers to itself"]),
    (
        "data.columns=${loss} | loss.temperature=${data}",
        "data.columns.temperature",
        ["refers to data, which contains it"],
    ),
    ("data.columns=${data}", "data.columns", ["refers to itself"]),
    ("experiment=${nope}", "experiment", ["'nope', which does not exist"]),
    ("hydra.run.dir=${nope}", "hydra.run.dir", ["'nope', which does not exist"]),
]

# The same for values; those of different keys are checked together, because one check answers all.
VALUES = [
    ("trainer.max_epochs=0", "trainer.max_epochs", ["expected a whole number of at least 1", "found 0"]),
    ("trainer.max_epochs=-5", "trainer.max_epochs", ["found -5"]),
    ("trainer.max_steps=0", "trainer.max_steps", ["found 0"]),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps", ["at least 1"]),
    ("trainer.devices=0", "trainer.devices", ["found 0"]),
    ("trainer.accelerator=gup", "trainer.accelerator", ["Did you mean gpu?"]),
    ("trainer.precision=bf17", "trainer.precision", ["'bf16-mixed'", "found 'bf17'", "Did you mean bf16?"]),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val", ["at least 0"]),
    ("trainer.deterministic=wran", "trainer.deterministic", ["Did you mean warn?"]),
    ("data.batch_size=1", "data.batch_size", ["expected a whole number of at least 2, found 1"]),
    ("data.batch_size=2.5", "data.batch_size", ["expected a whole number", "found 2.5"]),
    ("data.validation_fraction=2", "data.validation_fraction", ["below 1", "found 2"]),
    ("data.max_length=2", "data.max_length", ["at least 4"]),
    ("data.path=", "data.path", ["a text that is not empty", "found ''"]),
    ("data.columns={anchor: null}", "data.columns.anchor", ["expected a text, a whole number or a list", "found null"]),
    ("loss.temperature=0", "loss.temperature", ["expected a number above 0, found 0"]),
    ("loss.temperature=nan", "loss.temperature", ["found nan"]),
    ("loss.temperature=inf", "loss.temperature", ["found inf"]),
    ("loss.symmetric=1", "loss.symmetric", ["expected true or false, found 1"]),
    ("optimizer.lr=-1", "optimizer.lr", ["above 0", "found -1"]),
    ("optimizer.lr=true", "optimizer.lr", ["expected a number", "found true"]),
    ("optimizer.lr='1e-5'", "optimizer.lr", ["without quotes: 1.0e-05"]),
    ("optimizer.betas=[0.9]", "optimizer.betas", ["a list of 2"]),
    ("optimizer.betas.0=1.8", "optimizer.betas", ["found [1.8, 0.999]"]),
    ("optimizer.weight_decay=null", "optimizer.weight_decay", ["found null"]),
    ("scheduler.warmup=1.5", "scheduler.warmup", ["at most 1"]),
    ("model.pooling=meen", "model.pooling", ["Did you mean mean?"]),
    ("model.name=null", "model.name", ["expected a text that is not empty, found null"]),
    ("evaluation.retrieval.dimensions=[1,0]", "evaluation.retrieval.dimensions", ["at least 1", "found [1, 0]"]),
    ("callbacks.checkpoint.every_n_steps=0", "callbacks.checkpoint.every_n_steps", ["at least 1"]),
    # the run's own keys
    ("seed=-1", "seed", ["at least 0", "found -1"]),
    ("seed=4294967296", "seed", ["at most 4294967295"]),
    ("experiment=a/b", "experiment", ["a folder name"]),
    ("experiment=..", "experiment", ["a folder name"]),
    ("experiment=''", "experiment", ["a folder name"]),
    ("experiment=2024", "experiment", ["'experiment=\"2024\"'"]),
    ("name=.x", "name", ["a folder name"]),
    ("name=' x'", "name", ["a folder name"]),
    (f"name={'x' * 201}", "name", ["200 bytes"]),
    ("check=maybe", "check", ["true or false"]),
    ("resume=''", "resume", ["not empty"]),
]

# The same for what may be built, and with which arguments.
TARGETS = [
    (
        "model._target_=os.system",
        "model._target_",
        ["model may not build os.system", "finetune.models.*", "FINETUNE_ALLOW"],
    ),
    ("model._target_=finetune.runs.os.system", "model._target_", ["may not build"]),
    ("model._target_=5", "model._target_", ["dotted name"]),
    ("loss._target_=finetune.losses.infonce.torch.load", "loss._target_", ["it comes from torch.serialization.load"]),
    (
        "callbacks.progress._target_=finetune.training.callbacks.checkpoint.os.system",
        "callbacks.progress._target_",
        ["os"],
    ),
    ("trainer._target_=pytorch_lightning.LightningModule", "trainer._target_", ["Allowed: pytorch_lightning.Trainer"]),
    ("model.name={_target_: os.system, command: ls}", "model.name._target_", ["may not build os.system"]),
    ("data.columns=[{_target_: os.system}]", "data.columns.0._target_", ["may not build os.system"]),
    ("optimizer._target_=torch.optim.AdamX", "optimizer._target_", ["Did you mean torch.optim.Adam"]),
    ("loss._target_=finetune.losses.infonec.InfoNCE", "loss._target_", ["mean finetune.losses.infonce.InfoNCE?"]),
    ("loss._target_=finetune.losses.infonce", "loss._target_", ["is a module"]),
    # what was renamed
    (
        "loss._target_=finetune.losses.scored.CoSENT",
        "loss._target_",
        ["scored.CoSENT was renamed.", "Write finetune.losses.pairwise_scores.CoSENT."],
    ),
    (
        "engine._target_=finetune.training.engine.Engine",
        "engine._target_",
        ["was renamed.", "Write finetune.encoding.engine.Engine."],
    ),
    ("+callbacks.x._target_=pytorch_lightning.callbacks.EarlyStoping", "callbacks.x._target_", ["EarlyStopping?"]),
    (
        "+callbacks.x._target_=pytorch_lightning.callbacks.GradientAccumulationScheduler",
        "callbacks.x.scheduling",
        ["without"],
    ),
    ("+optimizer._partial_=true", "optimizer._partial_", ["not allowed"]),
    ("+optimizer._args_=[1]", "optimizer._args_", ["not allowed"]),
    ("+trainer.callbacks=[1]", "trainer.callbacks", ["callbacks are a group", "callbacks=[default,evaluate]"]),
    ("+optimizer.params=[1]", "optimizer.params", ["set by the run itself"]),
    ("optimizer._target_=torch.optim.SGD", "optimizer.betas", ["SGD has no parameter", "~optimizer.betas"]),
    (
        "optimizer={_target_: torch.optim.SGD, lr: 0.1}",
        "optimizer.betas",
        ["conf/optimizer/adamw.yaml:", "~optimizer.betas", "your own file conf/optimizer/NAME.yaml"],
    ),
    (
        "+callbacks.x._target_=pytorch_lightning.callbacks.ModelCheckpoint",
        "callbacks.x._target_",
        ["ModelCheckpoint does not work here", "callbacks.checkpoint"],
    ),
    (
        "+callbacks.timer._target_=pytorch_lightning.callbacks.Timer",
        "callbacks.timer._target_",
        ["Timer does not work here", "trainer.max_time"],
    ),
]

# The same for values that are wrong only together, or only here.
TOGETHER = [
    ("trainer.max_epochs=-1", "trainer.max_epochs", ["never end"]),
    ("trainer.max_epochs=null", "trainer.max_epochs", ["never end"]),
    ("trainer.strategy=dpp", "trainer.strategy", ["ddp"]),
    ("trainer.num_nodes=0", "trainer.num_nodes", ["at least 1"]),
    ("trainer.devices=0", "trainer.devices", ["at least 1"]),
    ("trainer=fsdp | optimizer=muon", "optimizer", ["unsharded", "fsdp"]),
    ("trainer=fsdp | callbacks=[default,average]", "callbacks.average", ["unsharded", "fsdp"]),
    ("trainer.accelerator=cpu | trainer.devices=-1", "trainer.devices", ["on a CPU"]),
    ("trainer.accelerator=cpu | trainer.devices=[0]", "trainer.devices", ["on a CPU"]),
    ("hydra.run.dir=a/x | name=foo", "hydra.run.dir", ["named 'x'", "'foo'", "one of the two"]),
    ("output_root='~/runs'", "output_root", ["not your home", str(Path.home() / "runs")]),
    ("hydra.run.dir='~/x/y'", "hydra.run.dir", ["not your home"]),
    ("name=${foo}", "name", ["'foo', which does not exist"]),
]

# Hydra builds and calls what its own node names.
HYDRAS = [
    ("+hydra.foo=1", "hydra.foo", ["cannot be changed", "run.dir"]),
    ("hydra.launcher._target_=evil.Launcher", "hydra.launcher._target_", ["cannot be changed"]),
    ("hydra.sweeper._target_=evil.Sweeper", "hydra.sweeper._target_", ["cannot be changed"]),
    ("+hydra.callbacks.x._target_=evil.CB", "hydra.callbacks.x", ["cannot be changed"]),
    (
        "hydra.job_logging.handlers.file.class=evil.Handler",
        "hydra.job_logging.handlers.file.class",
        ["cannot be changed"],
    ),
    (
        "hydra.job_logging.handlers.file.filename=/etc/x",
        "hydra.job_logging.handlers.file.filename",
        ["cannot be changed"],
    ),
    ("+hydra.job.env_set.LD_PRELOAD=x", "hydra.job.env_set.LD_PRELOAD", ["cannot be changed"]),
    ("hydra.job.chdir=true", "hydra.job.chdir", ["relative to the working directory"]),
    ("hydra.overrides.task=[--x]", "hydra.overrides", ["Hydra's record of the command line"]),
    ("hydra.runtime.output_dir=/x", "hydra.runtime.output_dir", ["cannot be changed"]),
    ("hydra.mode=MULTIRUN", "hydra.mode", ["-m"]),
    ("+model@hydra.callbacks.x=bert", "hydra.callbacks.x", ["cannot be changed"]),
]
STEPS = [
    ("optimizer._target_=torch.optim.LBFGS", "optimizer._target_", ["LBFGS does not work here", "optimizer=adamw"]),
    (
        "optimizer._target_=torch.optim.SparseAdam",
        "optimizer._target_",
        ["supports sparse gradients", "optimizer=adam"],
    ),
    ("optimizer._target_=torch.optim.Muon", "optimizer._target_", ["optimizer=muon, which uses AdamW for the rest"]),
    ("optimizer=sgd | optimizer.momentum=0", "optimizer.nesterov", ["optimizer.momentum is 0", "momentum=0.9"]),
    ("optimizer=sgd | optimizer.dampening=0.1", "optimizer.nesterov", ["allows no dampening"]),
    ("optimizer=sgd | optimizer.momentum=1", "optimizer.momentum", ["below 1, found 1"]),
    ("optimizer=sgd | +optimizer.maximize=true", "optimizer.maximize", ["expected false"]),
    ("optimizer=rmsprop | optimizer.alpha=1.5", "optimizer.alpha", ["below 1"]),
    ("optimizer=adadelta | optimizer.rho=-1", "optimizer.rho", ["at least 0"]),
    ("optimizer=adafactor | optimizer.eps=1e-8", "optimizer.eps", ["a list of 2"]),
    ("optimizer=nadam | optimizer.momentum_decay=-1", "optimizer.momentum_decay", ["at least 0"]),
    ("optimizer=muon | optimizer.adamw_lr=0", "optimizer.adamw_lr", ["above 0"]),
    ("optimizer=muon | optimizer.adjust_lr_fn=orignal", "optimizer.adjust_lr_fn", ["Did you mean", "original"]),
    (
        "scheduler=wsd | scheduler.cooldown=0.8 | scheduler.warmup=0.3",
        "scheduler.cooldown",
        ["are 1.1 of all steps", "Set scheduler.cooldown=0.7 or less"],
    ),
    ("scheduler=wsd | scheduler.shape=root", "scheduler.shape", ["'sqrt', 'linear' or 'cosine'"]),
    ("scheduler=plateau | scheduler.window=0", "scheduler.window", ["at least 1"]),
    ("scheduler=cosine_restarts | scheduler.decay=0", "scheduler.decay", ["above 0"]),
    ("scheduler=polynomial | scheduler.power=0", "scheduler.power", ["above 0"]),
    ("scheduler=inverse_sqrt | +scheduler.floor=0.1", "scheduler.floor", ["InverseSqrt has no parameter 'floor'"]),
]

FINE = [
    "",
    "data.columns=[question,answer]",
    "data.columns={anchor: q, positive: a, negative: [bad]}",
    "optimizer.betas.0=0.8",
    "optimizer={lr: 1e-3}",
    "~callbacks.progress",
    "+callbacks.mine._target_=pytorch_lightning.callbacks.LearningRateMonitor | +callbacks.mine.log_momentum=true",
    "+callbacks.m={_target_: pytorch_lightning.callbacks.RichModelSummary, max_depth: 1} | callbacks.m.max_depth=2",
    "+logger.csv._target_=pytorch_lightning.loggers.CSVLogger",
    "+trainer.limit_train_batches=1",
    "trainer.max_time=00:12:00:00",
    "trainer.max_time={hours: 12, minutes: 30}",
    "trainer.gradient_clip_val=null",
    "trainer.devices=[0,1]",
    "trainer.max_steps=5 | trainer.max_epochs=-1",
    "optimizer.lr=1e-5 | optimizer.eps=1e-6 | data.limit=10",
    "experiment='a \"b\" c' | name='it\\'s ü'",
    "name=${experiment}-${seed}",
    "name=${oc.env:FINETUNE_NOT_SET,plain}",
    "name=${hydra:job.name}",
    "hydra.run.dir=/x",
    "hydra/launcher=basic",
    "hydra.verbose=true",
    "hydra.run.dir='/x' | hydra.job.name=train_ddp_process_1 | hydra.output_subdir=null",
    "hydra.run.dir=outputs/default/foo | name=foo",
    "hydra.run.dir=${output_root}/foo | name=foo",
    "hydra.mode=RUN | hydra.job.chdir=false",
    "hydra/job_logging=stdout | hydra/hydra_logging=default",
    "trainer.max_epochs=null | trainer.max_steps=5",
    "trainer.num_nodes=1",
    "trainer.accelerator=cpu | trainer.devices=2",
    "output_root='a/~b'",
    "loss.temperature=1 | loss.temperature=2",
    "optimizer=sgd | optimizer.momentum=0 | optimizer.nesterov=false",
    "scheduler=wsd | scheduler.cooldown=0.7 | scheduler.warmup=0.3",
    "~optimizer.betas | ~optimizer.eps | optimizer._target_=torch.optim.SGD | +optimizer.momentum=0.9",
]


Answer = tuple[str, str, list[str]]


def layers(answers: list[Answer], depth: int) -> list[list[Answer]]:
    """The answers in as few lists as possible, no key twice in one as far as its first `depth` parts go."""
    made: list[list[Answer]] = []
    for answer in answers:
        key = answer[1].split(".")[:depth]
        free = [layer for layer in made if all(other[1].split(".")[:depth] != key for other in layer)]
        (free[0] if free else made.append([]) or made[-1]).append(answer)
    return made


def split(line: str) -> list[str]:
    return line.split(" | ") if line else []


@pytest.mark.parametrize(("typed", "where", "words"), ANSWERS, ids=lambda value: str(value)[:60])
def test_problems_are_reported_with_their_location(typed: str, where: str, words: list[str]) -> None:
    assert_answered(problems_of(*split(typed)), where, words)


@pytest.mark.parametrize("layer", layers(VALUES, 9), ids=lambda layer: f"{len(layer)} values")
def test_every_value_that_does_not_fit_is_reported(layer: list[Answer]) -> None:
    problems = problems_of(*(typed for typed, _, _ in layer))
    for _, where, words in layer:
        assert_answered(problems, where, words)
    assert len(problems) == len(layer), "nothing else is wrong"


@pytest.mark.parametrize("layer", layers(TARGETS, 1), ids=lambda layer: f"{len(layer)} targets")
def test_every_target_that_cannot_be_built_is_reported(layer: list[Answer]) -> None:
    problems = problems_of(*(typed for typed, _, _ in layer))
    for _, where, words in layer:
        assert_answered(problems, where, words)


def assert_answered(problems: list[Problem], where: str, words: list[str]) -> None:
    there = [problem for problem in problems if problem.where == where]
    assert there, f"nothing at {where}: {problems}"
    assert all(word in str(there[0]) for word in words), str(there[0])
    assert there[0].what.endswith((".", "?")), "the advice follows in the same line"
    assert "\n" not in str(there[0])


@pytest.mark.parametrize(("typed", "where", "words"), [*TOGETHER, *HYDRAS, *STEPS], ids=lambda value: str(value)[:60])
def test_is_one_problem_and_no_second_that_follows_from_it(typed: str, where: str, words: list[str]) -> None:
    problems = problems_of(*split(typed))
    assert_answered(problems, where, words)
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("loss.temperature=0,05", "Did you mean 0.05?"),
        ("trainer.precision=fp16", "Write trainer.precision=16-mixed."),
        ("trainer.max_steps=1e3", "Write trainer.max_steps=1000."),
        ("trainer.max_time=20", "00:00:00:20"),
        ("evaluation.retrieval.data=beir", "Write 'evaluation.retrieval.data={path: beir}'."),
        ('data.prompts="query: "', '\'data.prompts={anchor: "query: "'),
        ("data.path = pairs.csv", "Write data.path=pairs.csv."),
        ("data.path | = | pairs.csv", "Write data.path=pairs.csv."),
        ("data.path | =pairs.csv", "Write data.path=pairs.csv."),
    ],
)
def test_advice_shows_how_the_value_is_written(typed: str, advice: str) -> None:
    (problem,) = problems_of(*split(typed))
    assert advice in problem.advice


def test_several_whole_numbers_are_no_decimal_comma() -> None:
    (problem,) = problems_of("data.batch_size=16,32")
    assert "Did you mean" not in problem.advice


def test_a_file_without_a_key_is_data(elsewhere: Path) -> None:
    (elsewhere / "pairs.csv").touch()
    (problem,) = problems_of("pairs.csv")
    assert "Write data.path=pairs.csv." in problem.advice


@pytest.mark.parametrize("typed", FINE)
def test_valid_overrides_pass(typed: str) -> None:
    assert problems_of(*split(typed)) == []


def test_all_problems_are_reported_at_once() -> None:
    typed = ["model=brt", "trainer.max_epcohs=3", "lr=1", "seed=-1", "x", "optimizer.lr=1,2", "loss.temperature=0"]
    found = [problem.where for problem in problems_of(*typed)]
    assert sorted(found) == sorted([*typed[:3], "seed", "x", "optimizer.lr=1,2", "loss.temperature"])


def test_an_empty_argument_is_reported() -> None:
    assert [problem.where for problem in problems_of("", "  ")] == ["''", "'  '"]


def test_returns_the_config_with_what_was_set() -> None:
    config = check(["optimizer.lr=1e-5", "name=mine"])
    assert config.optimizer.lr == 1e-5
    assert config.hydra.run.dir == "outputs/default/mine"


@pytest.mark.parametrize(
    "file", sorted(shipped_folder().rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_every_shipped_yaml_composes_and_checks(file: Path) -> None:
    group = file.parent.relative_to(shipped_folder()).as_posix()
    # A file may leave open what only its user knows; that alone is what is answered then.
    told = ["data.path=mine"] if "path: ???" in file.read_text() or "  - files" in file.read_text() else []
    told += ["loss.loss._target_=pytorch_metric_learning.losses.NCALoss"] if "_target_: ???" in file.read_text() else []
    told += ["loss.teacher=mine"] if "teacher: ???" in file.read_text() else []
    told += ["evaluation.mteb.tasks=[SciFact]"] if "tasks: ???" in file.read_text() else []
    told += ["negatives.path=mine"] if group == "negatives" and "path: ???" in file.read_text() else []
    told += ["hydra/sweeper=optuna"] if group.startswith("hydra/sweeper/") else []
    # Some callbacks are there to be put beside others.
    beside = "default,evaluate," if group == "callbacks" and file.stem in ("best", "early_stopping") else ""
    chosen = [] if group == "." else [f"{group}=[{beside}{file.stem}]" if beside else f"{group}={file.stem}"]
    assert problems_of(*chosen, *told) == []


def test_every_shipped_argument_is_a_parameter_with_a_fitting_type() -> None:
    # If the checks of arguments were skipped (source not found), the test above would prove nothing.
    chosen = ["miner=hdc", "negatives=dense"]
    config = check(chosen)
    nodes = [group for group in GROUPS if not GROUPS[group].named]
    nodes += [f"{group}.{name}" for group in GROUPS if GROUPS[group].named for name in config[group]]
    problems = problems_of(*chosen, *(f"+{node}.not_a_parameter=1" for node in nodes))
    assert sorted(problem.where for problem in problems) == sorted(f"{node}.not_a_parameter" for node in nodes)


def test_a_number_in_quotes_in_a_file_is_reported(elsewhere: Path) -> None:
    write(elsewhere, {"conf/loss/mine.yaml": '_target_: finetune.losses.infonce.InfoNCE\ntemperature: "5e-2"\n'})
    (problem,) = problems_of("loss=mine")
    assert (problem.where, problem.advice) == ("loss.temperature", "Write the number without quotes: 0.05.")
    assert problem.what.endswith("found '5e-2' (conf/loss/mine.yaml:2).")


def test_numbers_of_files_are_numbers(elsewhere: Path) -> None:
    # PyYAML alone reads 5e-2 as a text.
    write(elsewhere, {"conf/loss/mine.yaml": "_target_: finetune.losses.infonce.InfoNCE\ntemperature: 5e-2\n"})
    assert check(["loss=mine"]).loss.temperature == 0.05


class TestOwnCode:
    """A user's own classes, allowed by the environment."""

    def test_is_refused_without_leave(self, own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FINETUNE_ALLOW")
        (problem,) = problems_of("+callbacks.x={_target_: mine.parts.Fields, size: 3}")
        assert problem.where == "callbacks.x._target_"

    @pytest.mark.parametrize(
        ("node", "where", "words"),
        [
            ("mine.parts.Base, size: 0", "size", "at least 1"),
            ("mine.parts.Base, size: 1, mode: fsat", "mode", "Did you mean fast?"),
            ("mine.Renamed, size: 1, share: 2", "share", "at most 1"),
            ("mine.Base, sise: 1, size: 1", "sise", "Did you mean callbacks.x.size?"),
            ("mine.parts.alias", "size", "cannot be built without 'size'"),
            ("mine.parts.Open, size: one, more: 3", "size", "expected a whole number"),
            ("mine.parts.Fields, size: 10", "size", "of at least 2 and below 10"),
            ("mine.parts.Fields, size: 2, names: [1]", "names", "a list"),
            ("mine.parts.Fields, size: 2, kind: y", "kind", "no parameter"),
            ("mine.parts.Fields, size: 2, made: 1", "made", "no parameter"),
            ("mine.parts.MoreFields, size: 2, deep: b", "deep", "mapping"),
            ("mine.parts.MoreFields, size: 2, deep: {a: b}", "deep.a", "expected a number, found 'b'"),
            ("mine.parts.function, size: 1, path: 2", "path", "expected a text"),
            ("mine.parts.subprocess.run", "_target_", "it comes from subprocess.run"),
            ("mine.os.system", "_target_", "may not build"),
            ("mine.parts.Base.__init__", "_target_", "not a class or function of"),
            ("mine.parts.Bose", "_target_", "Did you mean mine.parts.Base?"),
            ("mine.prats.Base", "_target_", "Did you mean mine.parts.Base?"),
            ("mine.parts.Fields, size: 2, inner: {_target_: mine.parts.Base}", "inner.size", "without 'size'"),
        ],
    )
    def test_arguments_are_held_against_its_source(self, own_code: Path, node: str, where: str, words: str) -> None:
        problems = problems_of(f"+callbacks.x={{_target_: {node}}}")
        there = [problem for problem in problems if problem.where == f"callbacks.x.{where}"]
        assert there, problems
        assert words in str(there[0])

    @pytest.mark.parametrize(
        "node",
        [
            "mine.parts.Base, size: 1, share: null",
            "mine.Renamed, size: 1, mode: exact",
            "mine.parts.Open, anything: 3",
            "mine.parts.Unreadable, whatever: 3",
            "mine.parts.MoreFields, size: 2, deep: {a: 1}",
            "mine.parts.Fields, size: 2, inner: {_target_: mine.parts.Base, size: 1}",
        ],
    )
    def test_what_fits_passes(self, own_code: Path, node: str) -> None:
        assert problems_of(f"+callbacks.x={{_target_: {node}}}") == []


def test_the_callers_hydra_state_is_left_alone() -> None:
    check([])
    assert not GlobalHydra.instance().is_initialized()
    assert HydraConfig.instance().cfg is None

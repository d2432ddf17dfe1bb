"""The way from a command line to a run: check everything, claim the directory, start."""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf.errors import OmegaConfBaseException

import finetune
from finetune import garbage, interrupts, processes, streams
from finetune.config import resolvers
from finetune.config.callbacks import evaluates
from finetune.config.check import check, look, placed
from finetune.config.compose import JOB_NAME, compose, run_hydra
from finetune.config.evaluators import needs_held
from finetune.config.hydra_node import folder_is_set
from finetune.config.losses import loss_nodes
from finetune.config.values import has_own_sweeper
from finetune.console import be_quiet, complain, end_quietly_without_a_reader, log, say
from finetune.errors import CheckFailed, FinetuneError, Interrupted, Problem
from finetune.launch.arguments import Arguments, is_of_the_cluster, is_of_the_sweep, parse
from finetune.launch.catalogue import loss_problems, loss_settings, losses_that_take_scores
from finetune.launch.claim import checkpoint_of, find_run, record_time_limit
from finetune.launch.devices import check_devices, check_start, device_notes, processes_here
from finetune.launch.encoders import (
    Named,
    check_lengths,
    check_reads,
    check_scores,
    check_teachers,
    fetch,
    look_at_models,
    model_notes,
    models_of,
    width,
)
from finetune.launch.evaluations import (
    check_sources,
    evaluation_notes,
    evaluation_problems,
    list_left_out,
    load_sources,
    unused_held_note,
    with_sources,
)
from finetune.launch.loggers import logger_problems
from finetune.launch.meeting import company, tell_before_meeting
from finetune.launch.metric import miner_problems
from finetune.launch.others import Others
from finetune.launch.outcome import outcome
from finetune.launch.resume import LAUNCHER, composed, named_folder
from finetune.launch.slurm.job import is_restart
from finetune.launch.slurm.settings import check_slurm, settings_of, slurm_notes
from finetune.runs.checkpoints import NO_CHECKPOINT
from finetune.training.length import length_problems, limits_length

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.dataset import Dataset
    from finetune.runs.directory import RunDirectory


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code: 0, 2 for a mistake in it, 1 for a failed run."""
    resolvers.begin()
    return answered(lambda: _do(parse(sys.argv[1:] if argv is None else argv)))


def answered(do: Callable[[], int]) -> int:
    """Do something and return its exit code; a mistake or a mishap is told as text, a bug keeps its whole traceback."""
    if not processes.speaks():
        be_quiet()  # the first process of the run says the same
    if streams.is_program():
        garbage.leave_out_what_is_loaded()
    # Hydra would cut the traceback. And a hub is asked for a model, never told about a run.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of several processes torch says much that nobody can mend
    if os.environ.get("FINETUNE_ALLOW"):
        sys.path.insert(0, str(Path.cwd()))  # where one's own package stands, as with python -m
    try:
        return do()
    except FinetuneError as error:
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        complain(Interrupted(interrupts.LINE))
        return Interrupted.exit_code
    except Exception:
        if not interrupts.asked():
            raise
        complain(Interrupted(interrupts.LINE))  # a library made another error of it
        return Interrupted.exit_code


def _do(arguments: Arguments) -> int:
    if "--version" in arguments.show:
        say(f"finetune {finetune.__version__}")
        return 0
    if arguments.show:
        return show(arguments) if processes.speaks() else 0
    if arguments.multirun:
        if processes.place().world > 1:
            raise FinetuneError("A sweep starts its own processes.", "Start it without torchrun or srun.")
        from finetune.launch.sweep import sweep

        return sweep(arguments)
    return _run(arguments)


def check_all(arguments: Arguments) -> tuple[Arguments, DictConfig, Dataset]:
    """Check the config, then all of the data, and return both ready to be used, with the arguments of the run.

    Raises:
        CheckFailed: with everything that is wrong; of the data only what shows at a glance if anything else is wrong.
    """
    from finetune.config.build import build

    arguments, cfg, problems = composed(arguments)
    if cfg is not None:
        problems = look_closer(cfg, problems, is_a_job=is_for_a_cluster(arguments))
    if cfg is None or problems:
        raise CheckFailed(problems)
    interrupts.raise_from_now_on()
    dataset = build(cfg.data, "data").load(cfg.seed)
    own, broken = load_sources(cfg)  # for what is to be said of them: they are read again from the cache
    if unfit := [*check_fit(cfg, dataset), *broken]:
        raise CheckFailed(unfit)
    return arguments, cfg, with_sources(cfg, dataset, own)


def check_fit(cfg: DictConfig, dataset: Dataset) -> list[Problem]:
    """Return why the model cannot read these items, or the loss cannot learn from relations of this layout."""
    from omegaconf import OmegaConf

    problems = check_reads(cfg, dataset.items)
    problems += loss_problems(cfg, dataset)
    if "texts" in dataset.layouts:
        what = "there is one column of texts, and nothing says which of them belong together."
        problems.append(Problem("data.columns", what, "Training needs pairs, or items with a label."))
    if limits_length(cfg.trainer) and (batches := batches_per_epoch(cfg, dataset)):
        problems += length_problems(cfg.trainer, batches)
    needed = any(map(needs_held, cfg.evaluation.values()))
    if needed and not dataset.held.found and (key := evaluates(OmegaConf.to_container(cfg.callbacks))):
        what = "nothing is held out to evaluate on."
        problems.append(Problem(key, what, "Set data.validation_fraction=0.1, or leave it out."))
    return problems


def batches_per_epoch(cfg: DictConfig, dataset: Dataset) -> int:
    """Return the batches of one pass over the training relations; zero if none can be made of them."""
    from finetune.config.build import build
    from finetune.data.mixing import Epochs

    return len(Epochs(dataset.train, build(cfg.data, "data").batch_settings(), cfg.seed)) if len(dataset.train) else 0


def look_at_a_glance(arguments: Arguments, overrides: list[str]) -> tuple[DictConfig | None, list[Problem]]:
    """Return the config and what is wrong with it, its model's folder, its output folder, its data file's head.

    What belongs to a part of the config that is itself wrong is not looked at.
    """
    cfg, problems = look(overrides, arguments.config_dir, arguments.config_name, multirun=arguments.multirun)
    if cfg is not None:
        problems = look_closer(cfg, problems, is_a_job=is_for_a_cluster(arguments))
    return cfg, problems


def is_for_a_cluster(arguments: Arguments) -> bool:
    """Return whether what the config asks of a cluster is meant: a single run is a job only by `finetune submit`."""
    return arguments.multirun or LAUNCHER in arguments.overrides


def look_closer(cfg: DictConfig, problems: list[Problem], *, is_a_job: bool) -> list[Problem]:
    """Return what is wrong with a composed config, which are these `problems` and those of what it names."""
    from finetune.config.build import build

    wrong = {part for problem in problems for part in re.findall(r"^[+~]*(\w+)", problem.where)}
    models: list[Named] = []
    embedding_width: int | None = None
    found: list[Problem] = []

    def look_at_the_models() -> list[Problem]:
        nonlocal models, embedding_width
        models, mistakes = look_at_models(cfg)
        embedding_width = width(cfg, models)
        return mistakes

    looks: list[tuple[set[str], Callable[[], Iterable[Problem]]]] = [
        ({"model"}, look_at_the_models),
        ({"model", "data"}, lambda: check_lengths(cfg, models)),
        ({"model", "loss"}, lambda: check_scores(cfg, losses_that_take_scores)),
        ({"model", "loss"}, lambda: check_teachers(models, embedding_width)),
        ({"model", "evaluation"}, lambda: evaluation_problems(cfg, embedding_width)),
        ({"data", "evaluation"}, lambda: check_sources(cfg)),
        ({"trainer", "hydra"}, lambda: check_slurm(cfg) if is_a_job and settings_of(cfg) else check_devices(cfg)),
        ({"output_root", "experiment", "name", "hydra"}, lambda: check_output(cfg)),
        ({"logger"}, lambda: logger_problems(cfg)),
        ({"loss"}, lambda: loss_settings("loss", cfg.loss, embedding_width)),
        ({"data", "loss"}, lambda: check_source_losses(cfg, embedding_width)),
        ({"data", "loss", "miner"}, lambda: miner_problems(cfg)),
        ({"data"}, lambda: build(cfg.data, "data").check_head()),
    ]
    for parts, looking in looks:
        if wrong & parts:
            continue
        try:
            found += looking()
        except OmegaConfBaseException:
            if not problems:
                raise
            # It reads a value that is missing or cannot be resolved, which is among the problems already.
    return [*problems, *found]


def check_source_losses(cfg: DictConfig, width: int | None) -> list[Problem]:
    """Look at what each of several sources has for a loss of its own."""
    from finetune.config.arguments import check_node

    problems: list[Problem] = []
    for key, node in loss_nodes(cfg):
        if key != "loss":
            problems += [*check_node(node, key, "loss")] or [*loss_settings(key, node, width)]
    return problems


def check_output(cfg: DictConfig) -> list[Problem]:
    """Check that the run can be written into its folder; leaves nothing behind."""
    folder = named_folder(cfg) or Path(cfg.output_root) / cfg.experiment / "NEW"
    key = "hydra.run.dir" if folder_is_set(cfg) else "output_root"
    try:
        # The run's own folder may exist: then it is resumed. A link to nothing exists too, and cannot be one.
        around = [folder.absolute(), *folder.absolute().parents]
        there = next(each for each in around if os.path.lexists(each))
        if there == folder.absolute() and not folder_is_set(cfg):
            key = "name"
        if not there.is_dir():
            return [Problem(key, _no_folder(there), f"Choose another place with {key}=...")]
        # Only trying tells: a file system may be read-only, or made of something else than files (/proc).
        Path(tempfile.mkdtemp(prefix=".finetune-", dir=there)).rmdir()
    except OSError as error:
        return [Problem(key, f"{there} may not be written ({error.strerror}).", f"Choose another place with {key}=...")]
    return []


def _no_folder(path: Path) -> str:
    if not path.is_symlink():
        return f"{path} is a file."
    if path.exists():
        return f"{path} is a link to a file."
    return f"{path} is a link to {path.readlink()}, and no folder is found there."


def start_hydra(arguments: Arguments, flags: list[str], task: Callable[[DictConfig], None]) -> None:
    """Hand over to Hydra with the same search path that the check used.

    Raises:
        Exception: what `task` raised, about which Hydra would say something of its own.
    """
    failures: list[Exception] = []

    def guarded(cfg: DictConfig) -> None:
        resolvers.register()  # Hydra has registered its own
        try:
            task(cfg)
        except Exception as error:
            failures.append(error)

    guarded.__module__ = JOB_NAME  # from where Hydra takes the name of the job
    words = [*flags, *arguments.where(), *arguments.overrides]
    run_hydra(words, arguments.config_dir, arguments.config_name, guarded)
    for failure in failures:
        raise failure


def show(arguments: Arguments) -> int:
    """Print what was asked for with a flag, such as --cfg, and return the exit code."""
    end_quietly_without_a_reader()
    if "--help" in arguments.show:
        from finetune.launch.help import help_text

        say(help_text(arguments))
        return 0
    if not {"--hydra-help", "--shell-completion"} & set(arguments.show):
        _check_showable(arguments)
    try:
        start_hydra(arguments, arguments.show, lambda _: None)
    except SystemExit as shown:  # Hydra ends the process when it has printed its help
        return shown.code if isinstance(shown.code, int) else 0
    return 0


def _check_showable(arguments: Arguments) -> None:
    """Refuse what cannot be composed, or not be resolved; anything else that is wrong may be what one wants to see.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    where = arguments.overrides, arguments.config_dir, arguments.config_name
    try:
        compose(*where)
    except CheckFailed:
        check(*where)
        raise
    if "--resolve" in arguments.show:
        check(*where)


def _run(arguments: Arguments) -> int:
    if not processes.is_first() and not arguments.only_checks:
        from finetune.launch.follow import follow

        return follow(arguments)
    try:
        found = _checked(arguments)
    except FinetuneError as error:
        complain(error)  # before the others are waited for
        if not arguments.only_checks:
            tell_before_meeting(error)
        return error.exit_code
    except BaseException as error:
        tell_before_meeting(error)
        raise
    if found is None:
        return 0
    arguments, cfg, dataset = found
    peers = company(processes_here(cfg))
    run, is_resumed = find_run(cfg, arguments.overrides, dataset, arguments)
    arguments = arguments.in_folder(run.path)
    with Others(peers) as others, outcome(run, is_resumed, peers):
        if peers is not None:
            peers.tell("run", str(run.path.absolute()))
        others.start([*arguments.where(), *arguments.overrides])
        start_hydra(arguments, [], lambda cfg: _train(cfg, dataset, run, is_resumed=is_resumed))
    return 0


def _checked(arguments: Arguments) -> tuple[Arguments, DictConfig, Dataset] | None:
    """Return what is to be trained, when nothing speaks against it; None if only the check was asked for."""
    if of_a_sweep := [text for text in arguments.overrides if is_of_the_sweep(text)]:
        what = "this speaks of a sweep, and this is one run."
        raise CheckFailed(Problem(text, what, "Leave it out, or add -m.") for text in of_a_sweep)
    if of_a_cluster := [text for text in arguments.overrides if is_of_the_cluster(text)]:
        what = "this speaks of a cluster, and this is a run on this machine."
        raise CheckFailed(Problem(text, what, "Leave it out, or use finetune submit.") for text in of_a_cluster)
    checked = check_run(arguments)
    if checked is None:
        return None
    arguments, cfg, _ = checked
    if cfg.dry_run:
        what = "there is no job's script to show: this is a run on this machine."
        problems = [Problem("dry_run", what, "Use finetune submit, or write dry_run=false.")]
        raise CheckFailed(placed(problems, arguments.overrides, arguments.config_dir, arguments.config_name))
    check_start(cfg)
    fetch(cfg)  # downloads what is not here yet, before there is a run that could fail for it
    return checked


def check_run(arguments: Arguments) -> tuple[Arguments, DictConfig, Dataset] | None:
    """Check all of a run and say what there is to say of it; return None if that was all that was asked for.

    Raises:
        CheckFailed: with everything that is wrong.
    """
    arguments, cfg, dataset = checked = check_all(arguments)
    models = models_of(cfg)
    is_a_job = is_for_a_cluster(arguments)
    notes = slurm_notes(cfg) if is_a_job and settings_of(cfg) else device_notes(cfg)
    notes = [*dataset.notes, *_batch_notes(cfg, dataset), *notes, *model_notes(cfg, models)]
    notes += [
        *unused_held_note(cfg, dataset.held),
        *evaluation_notes(cfg, dataset.held),
        *_unused_notes(cfg, is_a_job=is_a_job),
    ]
    for note in notes if not cfg.dry_run else ():
        say(note)
    if not cfg.check:
        return checked
    end_quietly_without_a_reader()
    for model in models:
        if model.folder is None:
            say(f"{model.name} is not on this machine; a run would fetch it from the hub.")
    list_left_out([dataset.problems])
    _say_fine(dataset)
    return None


def _unused_notes(cfg: DictConfig, *, is_a_job: bool) -> list[str]:
    """Say which settings of a file mean nothing for a single run here; a process of a sweep or of a job knows."""
    if folder_is_set(cfg):
        return []
    notes = []
    if has_own_sweeper(cfg):
        notes.append("The config chooses hydra/sweeper=optuna, and this is one run: add -m to search.")
    if settings_of(cfg) is not None and not is_a_job:
        notes.append("The config chooses hydra/launcher=slurm, and this runs here: use finetune submit for a job.")
    return notes


def _train(cfg: DictConfig, dataset: Dataset, run: RunDirectory, *, is_resumed: bool) -> None:
    """Train a new run, or resume one."""
    checkpoint = None
    if is_resumed:
        # A checkpoint that was chosen is where a job began, not where it resumes.
        checkpoint = checkpoint_of(run, "auto" if is_restart() else cfg.resume)
        if checkpoint is None:
            say(NO_CHECKPOINT)
        record_time_limit(cfg, run)
    for note in dataset.notes:
        log(note)  # they were printed before there was a run
    from finetune.training.fit import fit

    fit(cfg, dataset, run, checkpoint)


def _batch_notes(cfg: DictConfig, dataset: Dataset) -> list[str]:
    size, there = cfg.data.batch_size, len(dataset.train)
    batches, together = math.ceil(there / size), cfg.trainer.get("accumulate_grad_batches", 1)
    if together > batches:
        what = f"trainer.accumulate_grad_batches is {together}, but an epoch has about {batches:,} batches"
        return [f"{what} of data.batch_size={size}: each step takes those of a whole epoch, and no more."]
    if size <= there:
        return []
    return [f"data.batch_size is {size}, but there are {there} training pairs: each step takes them all."]


def _say_fine(dataset: Dataset) -> None:
    say("The config and the data are fine; nothing was started.", style="bold green")
    for name, value in dataset.facts.items():
        say(
            f"  {name.replace('_', ' ')}: {value:,}"
            if isinstance(value, int)
            else f"  {name.replace('_', ' ')}: {value}"
        )

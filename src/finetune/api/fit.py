"""Starting runs: each is a process of its own, or a job of a SLURM cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api.run import LocalRun


def fit(
    *overrides: str,
    data: Any = None,
    name: str | None = None,
    experiment: str | None = None,
    wait: bool = True,
    config_dir: str | Path | None = None,
    config_name: str = "train",
) -> LocalRun:
    """Fine-tune a model: check everything, evaluate, train, evaluate again, save and report, in a process of its own.

    With `hydra/launcher=slurm` among the overrides the run is a job of the cluster. An unfinished run of the same
    `name` with the same config and data is resumed.

    Args:
        *overrides: Overrides of `finetune train`, such as `"model=bert"` or `"trainer.max_epochs=3"`.
        data: The training data: a path, URL or pattern, or a list of them; a pandas or Polars frame; an Arrow table; a
            `datasets.Dataset`; a list of dicts, or of tuples in the order anchor, positive, negative or score; a dict
            of columns; or what `build_dataset` returned. Data in memory is stored below the folder of all runs, once
            for the same content. None if the overrides choose the data.
        name: The name of the run; None generates one from the time.
        experiment: The experiment that it belongs to, a folder below `output_root`; None is `default`.
        wait: True shows the progress and returns when the run has finished. KeyboardInterrupt (Ctrl-C, or the interrupt
            of a notebook) stops the run, which saves first and can be resumed. False returns at once; the run continues
            after this program ends.
        config_dir: A folder of your own config groups, as the flag `--config-dir`.
        config_name: The root config, as the flag `--config-name`.

    Raises:
        CheckFailed: with everything that is wrong with config and data; nothing was started.
        RunFailed: the run failed, with `wait`: the reason, the cause and the end of its log.
        Interrupted: the run was stopped from elsewhere, with `wait`.
        FinetuneError: the run cannot be started: its directory belongs to something else or is in use, a model cannot
            be downloaded, or the cluster refuses the job.

    Example:
        >>> pairs = [(f"red cat {i}", f"cat red {i}") for i in range(40)]
        >>> overrides = ["model.name=tiny", "data.max_length=32", "trainer.max_steps=2", "evaluation=none"]
        >>> run = finetune.fit(*overrides, data=pairs, name="from_memory", wait=False)
        >>> run.wait().state
        'finished'
        >>> run.artifact.files["model.safetensors"] > 0
        True
    """
    from finetune.api.isolation import arguments_of
    from finetune.api.launch import launch
    from finetune.api.run import LocalRun

    arguments = arguments_of(overrides, config_dir, config_name, name=name, experiment=experiment)
    executor, path = launch(arguments, data)
    run = LocalRun(path, executor)
    if wait:
        run.follow()
    return run


def create_training_run(
    *overrides: str, data: Any = None, name: str | None = None, experiment: str | None = None
) -> LocalRun:
    """Start a run and return at once: `fit` with `wait=False`, under the name that a server's client has too.

    Args and errors are those of `fit`.

    Example:
        >>> finetune.create_training_run("model.name=tiny", "trainer.max_epcohs=1", data="pairs.csv")
        Traceback (most recent call last):
        finetune.errors.CheckFailed: trainer.max_epcohs=1: there is no key 'trainer.max_epcohs'. Did you mean ...
    """
    return fit(*overrides, data=data, name=name, experiment=experiment, wait=False)

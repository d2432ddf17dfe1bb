"""`finetune VERB …`: the same as train.py and what stands beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

import finetune
from finetune.cli import cache, runs
from finetune.cli.errors import reports_errors

app = typer.Typer(
    name="finetune",
    help="Fine-tune embedding models from YAML: checked before it starts, measured before and after.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # or [question,answer] in an example would be read as markup
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

app.add_typer(cache.app, name="cache")
app.add_typer(runs.app, name="runs")

_ANY = {"allow_extra_args": True, "ignore_unknown_options": True}
# Without a --help of its own: it is handed on, and answered with the groups that are there.
_ALL = {**_ANY, "help_option_names": []}
_RUNS = typer.Argument(None, metavar="RUN", help="Names as in finetune runs show, or paths.", show_default=False)
_ROOT = typer.Option(None, metavar="FOLDER", help="The folder of all runs (output_root); outputs if not given.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(finetune.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


@app.command(context_settings=_ALL)
def train(ctx: typer.Context) -> None:
    """Check, evaluate, train, evaluate again, save and report one run."""
    from finetune.cli.train import main as launch

    raise typer.Exit(launch(ctx.args))


@app.command(context_settings=_ALL)
def check(ctx: typer.Context) -> None:
    """Look for mistakes in a config and its data, all at once, and start nothing."""
    from finetune.cli.train import check as check_run

    raise typer.Exit(check_run(ctx.args))


@app.command(context_settings=_ANY)
def submit(ctx: typer.Context) -> None:
    """Hand one run over to a SLURM cluster and return at once with the id of its job; with -m a sweep as an array job.

    Takes the overrides of finetune train, and hydra.launcher.* for what the job asks for: partition, account, qos,
    constraint, time (minutes), memory, cpus_per_process, gpus_per_process, options (conf/hydra/launcher/slurm.yaml).
    Machines and processes are trainer.num_nodes and trainer.devices. Everything is checked here, as for any run. A job
    that is preempted, or whose time is over, saves, is queued again, and goes on. dry_run=true prints the script.

    Example: finetune submit model=bert data.path=pairs.csv trainer.accelerator=gpu hydra.launcher.partition=gpu
    hydra.launcher.time=240

    Example: finetune submit -m optimizer.lr=5e-5,1e-4 sweep.parallel=2 dry_run=true
    """
    from finetune.cli.submit import main as submit_run

    raise typer.Exit(submit_run(ctx.args))


@app.command(context_settings=_ANY, options_metavar="[OPTIONS] [MODEL...] [KEY=VALUE...]")
def evaluate(
    ctx: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print the same as JSON, for programs."),
) -> None:
    """Measure any models without training, side by side: run directories, folders or hub ids.

    Takes the overrides of finetune train, and measures on what such a run would hold out, or on sources that the
    evaluations name. Without any, on what the first run that is named held out. Without a model it is that of
    model.name.

    Example: finetune evaluate default/my_run

    Example: finetune evaluate outputs/default/my_run BAAI/bge-small-en-v1.5 data.path=pairs.csv

    Example: finetune evaluate sentence-transformers/all-MiniLM-L6-v2 evaluation=retrieval
    'evaluation.retrieval.data={path: my_beir_folder}'
    """
    from finetune.cli.evaluate import main as evaluate_models

    raise typer.Exit(evaluate_models(ctx.args, as_json=as_json))


@app.command()
@reports_errors
def losses() -> None:
    """List the losses that loss=NAME chooses, with one line each and what they learn from.

    Example: finetune losses
    """
    _list("loss")


@app.command()
@reports_errors
def miners() -> None:
    """List the miners that miner=NAME chooses, with one line each: they choose the pairs that a loss sees.

    Example: finetune miners
    """
    _list("miner")


@app.command()
@reports_errors
def models() -> None:
    """List the models that model=NAME chooses, with one line each.

    Example: finetune models
    """
    _list("model")


def _list(group: str) -> None:
    from finetune.preflight.losses import describe

    for name, line, learns in describe(group):
        typer.echo(f"{name:<20} {line}")
        if learns:
            typer.echo(f"{'':<20} learns from {learns}")


@app.command()
@reports_errors
def report(
    runs: list[str] = _RUNS,
    root: Path | None = _ROOT,
    show: bool | None = typer.Option(
        None, "--open/--no-open", help="Open it in a browser; without a word that is done where there is a screen."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what the report is made of, for programs."),
) -> None:
    """Make a run's report.html and report.md anew, say its headline, and open it. Of several runs: compare them.

    Without a name it is the newest run that has a report. Of several runs the page lies beside the first.

    Example: finetune report my_run

    Example: finetune report first second --no-open
    """
    from finetune.cli.report import report as make_report

    make_report(runs or [], root, show=show, as_json=as_json)


@data_app.command(context_settings=_ANY)
def show(
    ctx: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print the same as JSON, for programs."),
) -> None:
    """Show what a run would learn from: columns, counts, lengths, classes, scores, examples, leaks, bad rows.

    Takes the same overrides as finetune train, and starts nothing.

    Example: finetune data show data=csv data.path=pairs.csv data.near_leaks=true
    """
    from finetune.cli.data import main as show_data

    raise typer.Exit(show_data(ctx.args, as_json=as_json))


def main() -> None:
    """Run the command line."""
    sys.exit(app())

"""`finetune runs`: list, show, compare and manage runs. Imports lazily, like `cli/app.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finetune.cli.errors import reports_errors
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.runs.record import Record

SHOWN = 50  # runs in a table, without --limit

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_RUN = typer.Argument(metavar="RUN", help="A run's name, <experiment>/<name>, a unique part of it, or its path.")
_RUNS = typer.Argument(metavar="RUN...", help="Names as in finetune runs show, or paths.")
_RUNS_AND_METRIC = typer.Argument(
    metavar="RUN... METRIC",
    help="Names as in finetune runs show, or paths; then a metric, as in loss, or nDCG@10 for retrieval/after/nDCG@10.",
)
_FOLDER = typer.Argument(Path(), metavar="[FOLDER]", help="Where to write it; default: here.", show_default=False)
_ROOT = typer.Option(None, metavar="FOLDER", help="The folder that holds all runs (output_root); default: outputs.")
_EXPERIMENT = typer.Option(
    [], "--experiment", "-e", metavar="NAME", help="Only this experiment; * and ? are wildcards."
)
_STATE = typer.Option([], "--state", "-s", metavar="STATE", help="Only in this state: finished, dead, running ...")
_WHERE = typer.Option([], "--where", "-w", metavar="COND", help="Config value: 'optimizer.lr<=1e-4', loss=triplet.")
_METRIC = typer.Option([], "--metric", "-m", metavar="COND", help="Last value of a metric: 'nDCG@10>0.3'.")
_COLUMN = typer.Option([], "--column", "-c", metavar="NAME", help="One more column: a metric or a config key.")
_JSON = typer.Option(False, "--json", help="Print the same as JSON, for programs.")


@app.callback(invoke_without_command=True)
@reports_errors
def runs(
    ctx: typer.Context,
    root: Path | None = _ROOT,
    experiment: list[str] = _EXPERIMENT,
    state: list[str] = _STATE,
    where: list[str] = _WHERE,
    metric: list[str] = _METRIC,
    since: str | None = typer.Option(None, metavar="WHEN", help="Started since: 30m, 12h, 7d, 2w, or 2026-11-20."),
    sort: str = typer.Option("started", metavar="NAME", help="started, run, state, step, a metric, or a config key."),
    reverse: bool = typer.Option(
        False, "-r", "--reverse", help="Smallest or oldest first; default: largest or newest."
    ),
    column: list[str] = _COLUMN,
    limit: int | None = typer.Option(
        None, "--limit", "-n", min=0, help=f"At most this many; 0: all. Default: {SHOWN}, all with --json."
    ),
    as_json: bool = _JSON,
) -> None:
    """List the runs, newest first. Everything is read from the run directories.

    A run is dead if its status is running and no process holds its lock: it was killed, or the machine went down.

    Example: finetune runs -s finished -w 'optimizer.lr<=1e-4' -m 'nDCG@10>0.3' --since 7d --sort nDCG@10
    """
    if ctx.invoked_subcommand is not None:
        return
    from finetune.cli.runs_tables import print_list
    from finetune.runs.selection import RunQuery, select

    query = RunQuery(experiment, state, where, metric, since, sort, reverse)
    found = select(_folder(root, ctx), query)
    if limit is None:
        limit = 0 if as_json else SHOWN
    chosen = found.records[:limit] if limit else found.records
    if as_json:
        _print_json([one.facts() | {name: one.value(name) for name in column} for one in chosen])
    else:
        print_list(found, chosen, column, _folder(root, ctx))


@app.command()
@reports_errors
def show(ctx: typer.Context, run: str = _RUN, root: Path | None = _ROOT, as_json: bool = _JSON) -> None:
    """Show one run: its state, its command and its results.

    Example: finetune runs show default/my_run
    """
    from finetune.cli.runs_tables import print_run
    from finetune.runs.metrics import last_values

    record = _record(run, root, ctx)
    if as_json:
        more = {"config": record.config, "metrics": last_values(record.run.read_metrics())}
        _print_json(record.facts() | more)
    else:
        print_run(record)


@app.command()
@reports_errors
def compare(ctx: typer.Context, runs: list[str] = _RUNS, root: Path | None = _ROOT, as_json: bool = _JSON) -> None:
    """Compare runs: their configs, data, environments and metrics.

    Example: finetune runs compare default/first default/second
    """
    from finetune.cli.runs_tables import print_comparison
    from finetune.runs.compare import compare_runs

    records = _records(runs, root, ctx)
    if len(records) < 2:
        raise FinetuneError("One run cannot be compared.", "Give two or more.")
    facts = compare_runs(records)
    if as_json:
        _print_json(facts)
    else:
        print_comparison(facts)


@app.command()
@reports_errors
def logs(
    ctx: typer.Context,
    run: str = _RUN,
    follow: bool = typer.Option(False, "-f", "--follow", help="Print new lines until the run's process ends."),
    lines: int = typer.Option(20, "--lines", "-n", min=0, help="Number of lines from the end; 0: all."),
    root: Path | None = _ROOT,
) -> None:
    """Show the end of the log of a run.

    It has its terminal output and the messages of libraries.

    Example: finetune runs logs my_run -f
    """
    from finetune.runs.log import status_line, tail

    record = _record(run, root, ctx)
    for text in tail(record.run, lines, follow=follow):
        sys.stdout.write(text)
        sys.stdout.flush()
    if follow:
        typer.echo(status_line(record.run), err=True)


@app.command()
@reports_errors
def curve(
    ctx: typer.Context,
    runs_and_metric: list[str] = _RUNS_AND_METRIC,
    smooth: int = typer.Option(1, min=1, help="Average over this many points."),
    root: Path | None = _ROOT,
    as_json: bool = _JSON,
) -> None:
    """Plot a metric of one or more runs over the steps.

    Example: finetune runs curve my_run loss --smooth 20
    """
    from finetune.cli.runs_curve import curves, draw

    *runs, metric = runs_and_metric
    if not runs:
        raise _missing_metric(_record(metric, root, ctx))
    points = curves([record.run for record in _records(runs, root, ctx)], metric, smooth)
    if as_json:
        _print_json(points)
    else:
        draw(points, metric)


@app.command()
@reports_errors
def path(ctx: typer.Context, run: str = _RUN, root: Path | None = _ROOT) -> None:
    """Print the path of a run, for other programs.

    Example: cd "$(finetune runs path my_run)"
    """
    sys.stdout.write(f"{_record(run, root, ctx).run.path.absolute()}\n")


@app.command()
@reports_errors
def save(
    ctx: typer.Context,
    run: str = _RUN,
    folder: Path = _FOLDER,
    root: Path | None = _ROOT,
) -> None:
    """Write the model of a run into one zip, for another machine.

    The zip is an artifact: the files of the model, its exports too, with their checksums. Wherever a command takes a
    model, it takes the zip, too. An existing zip is replaced.

    Example: finetune runs save default/my_run
    """
    from finetune.api.run import LocalRun
    from finetune.console import format_size

    one = LocalRun(_record(run, root, ctx).run.path)
    for name, size in one.artifact.files.items():
        typer.echo(f"{format_size(size):>12}  {name}")
    path = one.save_artifact(folder)
    typer.echo(f"{path}: {len(one.artifact.files)} files, {format_size(path.stat().st_size)}")


@app.command()
@reports_errors
def cancel(ctx: typer.Context, runs: list[str] = _RUNS, root: Path | None = _ROOT) -> None:
    """Stop runs, on this machine or on a cluster, also in its queue.

    Runs in progress save a checkpoint first.

    Example: finetune runs cancel default/my_run
    """
    from finetune.executors.cancel import cancel_runs

    cancel_runs([_record(run, root, ctx) for run in runs])


@app.command()
@reports_errors
def rm(
    ctx: typer.Context,
    runs: list[str] = _RUNS,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask for confirmation."),
    root: Path | None = _ROOT,
) -> None:
    """Delete run directories, after confirmation. Refuses runs that a process is working on, and other folders.

    Example: finetune runs rm default/my_run
    """
    from finetune.runs.delete import check_deletable, delete_run
    from finetune.runs.registry import find_run

    folder = _folder(root, ctx)
    paths = list(dict.fromkeys(find_run(run, folder, whole=True) for run in runs))
    for one in paths:
        check_deletable(one, folder)
    if not yes:
        _confirm(paths)
    for one in paths:
        delete_run(one, folder)
        typer.echo(f"removed {one}")


def _missing_metric(record: Record) -> FinetuneError:
    """Return the error for a command line with a run and no metric."""
    from finetune.runs.metrics import last_values

    names = ", ".join(last_values(record.run.read_metrics()))
    advice = f"Give one of: {names}." if names else "It has logged none yet."
    return FinetuneError(f"The metric to plot for {record.name} is missing.", advice)


def _confirm(paths: list[Path]) -> None:
    """List the runs to be deleted and ask for confirmation; raises FinetuneError without it."""
    from finetune.runs.record import read_run

    for path in paths:
        record = read_run(path)
        line = f"{path}  {record.state}"
        if record.step:
            line += f" at step {record.step}"
        typer.echo(line)
    if not sys.stdin.isatty():
        what = "This needs a confirmation, and there is no terminal; nothing was removed."
        raise FinetuneError(what, "Use --yes to remove without confirmation.")
    runs = "this run" if len(paths) == 1 else f"these {len(paths)} runs"
    if not typer.confirm(f"Remove {runs} permanently?"):
        raise FinetuneError("Nothing was removed.")


def _folder(root: Path | None, ctx: typer.Context) -> Path:
    from finetune.runs.registry import OUTPUTS

    above = ctx.parent.params.get("root") if ctx.parent else None
    return root or above or OUTPUTS


def _record(run: str, root: Path | None, ctx: typer.Context) -> Record:
    from finetune.runs.record import read_run
    from finetune.runs.registry import find_run

    return read_run(find_run(run, _folder(root, ctx)))


def _records(runs: list[str], root: Path | None, ctx: typer.Context) -> list[Record]:
    # Skips files, because the glob outputs/my_sweep/* also matches a sweep's own files.
    return [_record(run, root, ctx) for run in runs if not Path(run).is_file()]


def _print_json(content: object) -> None:
    from finetune.runs.atomic import to_json

    # ASCII only, because the data may contain characters that the terminal's encoding lacks.
    sys.stdout.write(to_json(content, indent=1, ascii_only=True) + "\n")

"""`finetune VERB …`: the commands and their help texts. Imports lazily, so that `--help` is fast."""

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
    rich_markup_mode=None,  # otherwise [question,answer] in an example would be parsed as markup
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Inspect data before training on it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

app.add_typer(cache.app, name="cache")
app.add_typer(runs.app, name="runs")

_EXTRA_ARGS = {"allow_extra_args": True, "ignore_unknown_options": True}
# --help is passed on as well: the command's own help lists the config groups.
_EXTRA_ARGS_AND_HELP = {**_EXTRA_ARGS, "help_option_names": []}
_RUNS = typer.Argument(None, metavar="RUN", help="Names as in finetune runs show, or paths.", show_default=False)
_ROOT = typer.Option(None, metavar="FOLDER", help="The folder that holds all runs (output_root); default: outputs.")

_MODEL = typer.Argument(..., metavar="MODEL", help="A run, a folder, a hub id, or an artifact (zip).")
_FORMATS = typer.Argument(
    ..., metavar="FORMAT...", help="onnx, onnx-fp16, onnx-int8, openvino, openvino-int8, fp16, bf16 (safetensors)."
)
_OUT = typer.Option(
    None, metavar="FOLDER", help="Copy the model to this folder and export there; default: into the model's folder."
)
_VECTORS = typer.Argument(..., metavar="FOLDER", help="A folder that finetune embed wrote.")
_QUERY = typer.Argument(..., metavar="QUERY", help="The text to search for.")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(finetune.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


@app.command(context_settings=_EXTRA_ARGS_AND_HELP)
def train(ctx: typer.Context) -> None:
    """Check, evaluate, train, evaluate again, save and report one run."""
    from finetune.cli.train import main as train_main

    raise typer.Exit(train_main(ctx.args))


@app.command(context_settings=_EXTRA_ARGS_AND_HELP)
def check(ctx: typer.Context) -> None:
    """Check a config and its data, and report all problems at once."""
    from finetune.cli.train import check as check_run

    raise typer.Exit(check_run(ctx.args))


@app.command(context_settings=_EXTRA_ARGS)
def submit(
    ctx: typer.Context,
    embed: bool = typer.Option(False, "--embed", help="Submit finetune embed with these words, as an array job."),
    tasks: int = typer.Option(4, "--tasks", help="With --embed: how many tasks share the work."),
) -> None:
    """Submit a run, a sweep or an embedding to a SLURM cluster.

    Prints the job id. With -m a sweep is submitted as an array job, with --embed an embedding. Takes the overrides of
    finetune train, and hydra.launcher.* for the resources of the job: partition, account, qos, constraint, time
    (minutes), memory, cpus_per_process, gpus_per_process, options (conf/hydra/launcher/slurm.yaml). Set the number of
    machines and processes with trainer.num_nodes and trainer.devices. Config and data are checked before submission, as
    for any run. A job that is preempted or reaches its time limit saves a checkpoint, is requeued, and resumes.
    dry_run=true prints the job script.

    Example: finetune submit model=bert data.path=pairs.csv trainer.accelerator=gpu hydra.launcher.partition=gpu
    hydra.launcher.time=240

    Example: finetune submit -m optimizer.lr=5e-5,1e-4 sweep.parallel=2 dry_run=true

    Example: finetune submit --embed --tasks 8 BAAI/bge-m3 data.path=corpus.parquet out=vectors
    hydra.launcher.partition=gpu
    """
    if embed:
        from finetune.cli.submit_embed import main as submit_embedding

        raise typer.Exit(submit_embedding(ctx.args, tasks))
    from finetune.cli.submit import main as submit_run

    raise typer.Exit(submit_run(ctx.args))


@app.command(context_settings=_EXTRA_ARGS, options_metavar="[OPTIONS] [MODEL...] [KEY=VALUE...]")
def evaluate(
    ctx: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print the same as JSON, for programs."),
) -> None:
    """Evaluate models without training, and compare them.

    A model is a run, a folder or a hub id. Takes the overrides of finetune train, and evaluates on the data that such a
    run would hold out, or on the sources that the evaluations name. Without overrides it uses the held-out data of the
    first run that is given. Without a model it evaluates model.name.

    Example: finetune evaluate default/my_run

    Example: finetune evaluate outputs/default/my_run BAAI/bge-small-en-v1.5 data.path=pairs.csv

    Example: finetune evaluate sentence-transformers/all-MiniLM-L6-v2 evaluation=retrieval
    'evaluation.retrieval.data={path: my_beir_folder}'
    """
    from finetune.cli.evaluate import main as evaluate_models

    raise typer.Exit(evaluate_models(ctx.args, as_json=as_json))


@app.command(context_settings=_EXTRA_ARGS, options_metavar="[OPTIONS] MODEL data.path=FILE out=FOLDER [KEY=VALUE...]")
def embed(
    ctx: typer.Context,
    index: str | None = typer.Option(None, metavar="usearch", help="Also write an index for fast approximate search."),
) -> None:
    """Embed a corpus of any size into a folder of vectors.

    The folder has files of ids and vectors, and manifest.json. MODEL is a run, a folder, a hub id or an artifact. Each
    distinct text is embedded once. The same command completes a folder that was interrupted, and may run several times
    at once, also on several machines: the processes share the work. Settings of the data: data.path, data.columns (one
    column, several to join, or {text: ..., title: ..., id: ...}), data.on_bad_rows=skip, data.limit, data.format and
    the like, as for training.

    Settings of the vectors: prompt (document), dimensions, precision (float32, int8, binary), normalize, dtype
    (float32, bfloat16), max_length. Of the files: format (parquet, arrow, npy), keep (columns to store), shard_rows.
    Of the computer: device (auto, cpu, cuda:0, [cuda:0,cuda:1]), batch_tokens.

    Example: finetune embed default/my_run data.path=corpus.parquet out=vectors keep=[title,text]

    Example: finetune embed BAAI/bge-small-en-v1.5 data.path=corpus.jsonl out=vectors precision=int8 --index usearch
    """
    from finetune.cli.embed import embed as embed_corpus

    raise typer.Exit(embed_corpus(ctx.args, index))


@app.command()
def search(
    folder: Path = _VECTORS,
    query: str = _QUERY,
    k: int = typer.Option(10, "-k", "--k", help="How many documents to show."),
    prompt: str = typer.Option("query", metavar="NAME", help="The prompt of the model in front of the query."),
    index: bool = typer.Option(False, "--index", help="Search approximately, with the index in the folder."),
    model: str | None = typer.Option(None, metavar="MODEL", help="Where the model is now, if it was moved."),
    device: str | None = typer.Option(None, metavar="DEVICE", help="cpu, cuda:0, ...; default: the fastest one."),
    as_json: bool = typer.Option(False, "--json", help="Print the same as JSON, for programs."),
) -> None:
    """Search in a folder of vectors for the most similar documents.

    Shows their score, their id, and the columns that were stored by keep=. The search is exact without --index.

    Example: finetune search vectors "how do I cancel an order"
    """
    from finetune.cli.embed import search as search_vectors

    raise typer.Exit(
        search_vectors(folder, query, k, prompt=prompt, index=index, model=model, device=device, as_json=as_json)
    )


@app.command(context_settings=_EXTRA_ARGS, options_metavar="[MODEL] data.path=FILE out=FILE [KEY=VALUE...]")
def mine(ctx: typer.Context) -> None:
    """Mine hard negatives for the pairs of data into a Parquet file.

    MODEL (a run, a folder, a hub id or an artifact) finds documents that resemble the anchor; without one they are
    found by words (negatives=bm25). What is known to be right, equal or nearly equal to it, or scores above 0.95 of the
    positive, is left out. Settings of the mining: negatives=dense, bm25 or fused, and negatives.count, first_rank,
    last_rank, max_share_of_positive, corpus, judge.model and others (conf/negatives/dense.yaml explains them). Of the
    data: data.path, data.columns and all others of finetune train; seed. Of the file: format=ntuples (anchor, positive,
    negative_1, ...), triplets, or scores (lists of documents and scores). device=auto, cpu, cuda:0.

    An interrupted mining continues where it was with the same command. Counts and examples of what each filter left out
    are written next to the file (mined.json).

    Example: finetune mine BAAI/bge-small-en-v1.5 data.path=pairs.csv out=mined.parquet negatives.count=4

    Example: finetune mine default/my_run data.path=pairs.csv out=mined.parquet negatives=fused
    'negatives.corpus={path: corpus.jsonl}' format=triplets
    """
    from finetune.cli.mine import main as mine_negatives

    raise typer.Exit(mine_negatives(ctx.args))


@app.command()
@reports_errors
def losses() -> None:
    """List the losses for loss=NAME, and what each learns from.

    Example: finetune losses
    """
    _list("loss")


@app.command()
@reports_errors
def miners() -> None:
    """List the miners for miner=NAME, each with a description.

    A miner selects the pairs that a loss is computed on.

    Example: finetune miners
    """
    _list("miner")


@app.command()
@reports_errors
def models() -> None:
    """List the models for model=NAME, each with a description.

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
        None, "--open/--no-open", help="Open the page in a browser; default: only if there is a screen."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the data of the report as JSON, for programs."),
) -> None:
    """Write the report of a run again and open it, or compare runs.

    Writes report.html and report.md, and prints the headline. Without a name, the newest run that has a report is used.
    The page of several runs is written next to the first.

    Example: finetune report my_run

    Example: finetune report first second --no-open
    """
    from finetune.cli.report import report as make_report

    make_report(runs or [], root, show=show, as_json=as_json)


@app.command()
def export(
    model: str = _MODEL,
    formats: list[str] = _FORMATS,
    out: Path | None = _OUT,
    max_loss: float = typer.Option(0.01, help="Largest loss of the headline metric, such as nDCG@10."),
    evaluation: bool = typer.Option(True, "--evaluation/--no-evaluation", help="Measure the headline metric again."),
) -> None:
    """Export a model to ONNX, OpenVINO or another precision.

    Each export is verified against the model. ONNX and OpenVINO files are written where sentence-transformers looks for
    them; fp16 and bf16 are folders next to the model. An export whose embeddings differ too much, or which loses more
    than --max-loss on the data that the run held out, is not kept, and the exit code is 1. Size, speed, differences and
    metrics are written to export.json and to the model card.

    Example: finetune export my_run onnx onnx-int8

    Example: finetune export BAAI/bge-small-en-v1.5 openvino --out bge-openvino --no-evaluation
    """
    from finetune.cli.export import main as export_model

    raise typer.Exit(export_model(model, formats, out, max_loss=max_loss, evaluation=evaluation))


@app.command()
def push(
    model: str = _MODEL,
    repo: str = typer.Argument(..., metavar="ORG/NAME", help="The repository to create on the hub."),
    public: bool = typer.Option(False, "--public", help="Everybody can see it; default: private."),
    update: bool = typer.Option(False, "--update", help="Replace files of a repository that exists."),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Show the files and the card, and upload nothing; needs no token and no network."
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask for confirmation."),
) -> None:
    """Upload a model to the Hugging Face hub, after confirmation.

    Its card and its exports are uploaded, too, to a repository that is private unless --public is given. The token is
    that of `hf auth login`, or HF_TOKEN. Pickles and code are refused. Read the card first (README.md): it has the
    command that the model was trained with. After the upload the checksums on the hub are compared.

    Example: finetune push my_run my-team/my-model --dry-run
    """
    from finetune.cli.push import main as push_model

    raise typer.Exit(push_model(model, repo, public=public, update=update, yes=yes, dry_run=dry_run))


@app.command()
def doctor(
    run: str | None = typer.Argument(None, metavar="[RUN]", help="With --report: the run that the report is about."),
    root: Path | None = _ROOT,
    as_json: bool = typer.Option(False, "--json", help="Print the same as JSON, for programs."),
    report: bool = typer.Option(False, "--report", help="Print what a bug report should contain, without secrets."),
    network: bool = typer.Option(False, "--network", help="Also try to reach the Hugging Face hub."),
) -> None:
    """Show what is installed and works here, and how to fix the rest.

    Each line is fine, doubtful (!) or wrong (x). The exit code is 1 if anything is wrong.

    Example: finetune doctor

    Example: finetune doctor --report my_run
    """
    from finetune.cli.doctor import main as examine

    raise typer.Exit(examine(run, root, as_json=as_json, report=report, network=network))


@data_app.command(context_settings=_EXTRA_ARGS)
def show(
    ctx: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print the same as JSON, for programs."),
) -> None:
    """Show the data that a run would train on.

    Shows columns, counts, lengths, classes, scores, examples, leaks and bad rows. Takes the same overrides as finetune
    train, and starts nothing.

    Example: finetune data show data=csv data.path=pairs.csv data.near_leaks=true
    """
    from finetune.cli.data import main as show_data

    raise typer.Exit(show_data(ctx.args, as_json=as_json))


def main() -> None:
    """Run the command line."""
    sys.exit(app())

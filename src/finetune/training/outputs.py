"""The output of a finished run: the model folder with its card, the report, and a summary in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig
from pytorch_lightning.profilers import PassThroughProfiler, SimpleProfiler

import finetune
from finetune.config.home import expand_home
from finetune.console import console, say
from finetune.evaluation.comparison import Comparison
from finetune.export.card import CardFacts, model_card
from finetune.export.folder import save
from finetune.report.content import leading_notes
from finetune.report.report_data import format_counts
from finetune.report.terminal import metrics_table
from finetune.report.write import try_to_write_report
from finetune.runs.atomic import write_json_atomically
from finetune.runs.directory import RunDirectory
from finetune.training.assembly import Parts
from finetune.training.build_report import build_report


def save_model(cfg: DictConfig, parts: Parts, run: RunDirectory, comparisons: Mapping[str, Comparison]) -> None:
    """Save the model in fp32 with a card that has the comparisons.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    encoder = parts.encoder.cpu().float().eval()
    parts.tuning.merge(encoder)
    dataset, max_length = parts.data.dataset, cfg.data.max_length
    results = []
    for comparison in comparisons.values():
        for row in comparison.rows:
            change = row.change
            results.append((row.metric, change.mean_before, change.mean_after, change.low, change.high))
    evaluated_on = [
        f"{_public_name(comparison.after.name)} ({format_counts(comparison.after.counts)})"
        for comparison in comparisons.values()
    ]
    facts = CardFacts(
        run=run.name,
        base_model=encoder.name,
        command=run.read_environment()["command"],
        pairs=len(dataset.train),
        about=encoder.about(max_length),
        use=encoder.use,
        results=results,
        version=finetune.__version__,
        data=", ".join(map(_public_name, dataset.sources)),
        evaluated_on=evaluated_on,
        prompts=dataset.prompts,
    )
    save(encoder, run.model, max_length, model_card(facts), dataset.prompts)


def _public_name(name: str) -> str:
    """Return the name of a data source without the folders of this machine, if it is a file."""
    path = expand_home(name)
    return path.name if path.exists() else name


def write_run_report(cfg: DictConfig, parts: Parts, run: RunDirectory, comparisons: Mapping[str, Comparison]) -> None:
    """Write the report, and print its summary.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    report = build_report(cfg, parts, run, comparisons)
    write_json_atomically(run.report_data_path, report)
    is_page_written = try_to_write_report(run)
    _print_profile(parts, run)
    for line in leading_notes(report):
        if line != report["training"]["ended_early"]:  # which was printed at the end of the training
            say(line, style="bold yellow")
    for name, part in report["evaluations"].items():
        console.print(metrics_table(name, part))
    for name, comparison in parts.of_report_only(comparisons).items():
        say(f"{name}, on {comparison.after.name}: {comparison.verdict}")
    say(f"model:  {run.model}")
    say(f"report: {run.report_page_path if is_page_written else run.report_data_path}")


def _print_profile(parts: Parts, run: RunDirectory) -> None:
    """Print the path of the profile, and a simple profile itself."""
    profiler = parts.trainer.profiler  # type: ignore[attr-defined]
    if isinstance(profiler, PassThroughProfiler):
        return
    for path in sorted(run.path.glob("fit-profile*.txt")):
        if isinstance(profiler, SimpleProfiler):
            say(path.read_text(encoding="utf-8"))
        say(f"profile: {path}")

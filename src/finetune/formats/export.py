"""Exports a model to other formats: written apart, verified against the model, and only then put in place.

Nothing is kept of an export whose embeddings or whose headline metric differ too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.console import say
from finetune.errors import FinetuneError
from finetune.evaluation.bootstrap import Change
from finetune.evaluation.comparison import compare
from finetune.evaluation.metric_names import format_value
from finetune.evaluation.result import Result
from finetune.formats.card import FormatResult, Original, read_export, write_export
from finetune.formats.graphs import backbone_folder, graphs_of
from finetune.formats.held_out import HeldOut, compared_as_trained, load_held_out
from finetune.formats.measure import ExportFailed, Measured, compare_embeddings
from finetune.formats.publish import copy_model, destination, publish_files, publish_folder, staging
from finetune.formats.real_items import real_items
from finetune.formats.sessions import exported_encoder, open_session
from finetune.formats.targets import MAX_LOSS, Target, target_of
from finetune.formats.write import cast_folder, convert, write_onnx
from finetune.inference.build_encoder import InferenceSettings, build_encoder
from finetune.inference.locate import Location, locate
from finetune.inference.quantize import Floats
from finetune.models.digest import digest_of
from finetune.models.encoder import Encoder

_PLAIN = "plain"  # the folder of the ONNX files in fp32 that the other formats are made from
_WEIGHTS = (".safetensors", ".onnx", ".data", ".bin", ".xml")


@dataclass(frozen=True)
class ExportResult:
    """The exports of one model: its folder, and what was measured, by format."""

    model: str
    folder: Path
    original: Original
    formats: Mapping[str, FormatResult]


def export_model(
    model: Any,
    formats: Sequence[str],
    out: Path | str | None = None,
    *,
    max_loss: float = MAX_LOSS,
    evaluation: bool = True,
) -> ExportResult:
    """Export a model to formats (`TARGETS`), and return what was measured against the original.

    `model` is a run, a folder, a hub id or an artifact, as for `get_model`. ONNX and OpenVINO files are written into
    the folder of the model, where sentence-transformers looks for them, or with `out` into a copy of it; a precision of
    safetensors is a folder of its own, `out` or next to the model. With `evaluation` the headline metric of every
    evaluation of the run is measured again; an export that loses more than `max_loss` of it fails.

    Raises:
        ExportFailed: an export is too far from the model; the other formats are written.
        FinetuneError: there is no such model or format, the model cannot be exported, a package is missing.
        RunError: the disk is full or cannot be written.

    Example:
        >>> from finetune.formats.export import export_model
        >>> result = export_model("outputs/default/my_run", ["onnx", "onnx-int8"])  # doctest: +SKIP
        >>> result.formats["onnx"].difference.largest < 1e-4  # doctest: +SKIP
        True
    """
    targets = [target_of(name) for name in dict.fromkeys(map(str, formats))]
    out = Path(out) if out is not None else None
    _check_request(targets, out, max_loss)
    location = locate(model)
    digest = digest_of(location.folder)
    folder = destination(location, out, digest)
    exporter = _Exporter.of(location, digest, folder, max_loss, evaluation)
    failures: list[ExportFailed] = []
    results: list[FormatResult] = []
    graphs = [target for target in targets if target.runtime != "safetensors"]
    if graphs:
        results += exporter.export_graphs(graphs, failures)
    for target in targets:
        if target.runtime == "safetensors":
            results += exporter.export_weights(target, out is not None, failures)
    if failures:
        raise ExportFailed(" ".join(failure.what for failure in failures), failures[0].advice)
    return ExportResult(location.name, folder, exporter.original, {result.format: result for result in results})


def _check_request(targets: Sequence[Target], out: Path | None, max_loss: float) -> None:
    if not targets:
        raise FinetuneError("no format was given.", "Give one, such as onnx.")
    if not isinstance(max_loss, int | float) or not max_loss >= 0:
        raise FinetuneError(f"max-loss={max_loss!r} is not a loss of a metric.", "Give a number from 0, such as 0.01.")
    weights = [target.name for target in targets if target.runtime == "safetensors"]
    if out is not None and weights and len(targets) > 1:
        what = f"--out takes the folder of {weights[0]}, which cannot hold other formats too."
        raise FinetuneError(what, f"Export {weights[0]} by itself.")


@dataclass(frozen=True)
class _Exporter:
    """The original with everything that was measured of it, which each export is compared with."""

    location: Location
    folder: Path
    encoder: Encoder
    settings: InferenceSettings
    items: list[Any]
    embeddings: Floats
    held_out: HeldOut | None
    results: Mapping[str, Result]
    original: Original
    max_loss: float

    @classmethod
    def of(cls, location: Location, digest: str, folder: Path, max_loss: float, evaluation: bool) -> _Exporter:
        encoder, settings = build_encoder(location.folder)
        encoder.eval()
        graphs_of(encoder)  # raises if it cannot be exported, before anything is measured
        held_out = load_held_out(location.run, settings) if evaluation else None
        items = real_items(encoder, held_out.held if held_out is not None else None)
        say(f"measuring {location.name} on {len(items)} items")
        measured = Measured(encoder, settings, items)
        embeddings = measured.embed()
        results: Mapping[str, Result] = {}
        if held_out is not None:
            results = held_out.evaluate(compared_as_trained(encoder, settings), "the model")
        name = location.run.name if location.run is not None else Path(location.name).name
        original = Original(digest, name, _size_of(_weights_of(location.folder)), measured.speed())
        return cls(location, folder, encoder, settings, items, embeddings, held_out, results, original, max_loss)

    def export_graphs(self, targets: Sequence[Target], failures: list[ExportFailed]) -> list[FormatResult]:
        """Write the files of ONNX and OpenVINO; those that pass are moved into the folder together."""
        graphs = graphs_of(self.encoder)
        backbone = backbone_folder(self.encoder).relative_to(self.location.folder)
        results = []
        is_new = self.folder != self.location.folder and not read_export(self.folder)
        with staging(self.folder.parent if is_new else self.folder) as stage:
            say("exporting to ONNX")
            for graph in graphs:
                (stage / _PLAIN).mkdir(exist_ok=True)
                write_onnx(graph, stage / _PLAIN / f"{graph.name}.onnx")
            for target in targets:
                try:
                    names = [graph.name for graph in graphs]
                    results.append(self._export_graph(target, names, stage / target.name, backbone))
                except ExportFailed as failure:
                    failures.append(failure)
            if results:
                self._publish(stage, results, is_new)
        return results

    def _export_graph(self, target: Target, graphs: Sequence[str], stage: Path, backbone: Path) -> FormatResult:
        """Write one format below `stage`, with the same layout as the folder of the model, and verify it."""
        say(f"writing and verifying {target.name}")
        sessions = {}
        for graph in graphs:
            path = stage / backbone / target.file(graph)
            convert(stage.parent / _PLAIN / f"{graph}.onnx", target, path)
            sessions[graph] = open_session(target, path)
        return self._verify(
            target,
            exported_encoder(self.encoder, sessions),
            exported_encoder(compared_as_trained(self.encoder, self.settings), sessions),
            stage,
            self.folder,
        )

    def _publish(self, stage: Path, results: Sequence[FormatResult], is_new: bool) -> None:
        if is_new:
            copy = stage / "copy"
            copy_model(self.location.folder, copy)
            for result in results:
                publish_files(stage / result.format, copy)
            write_export(copy, self.original, list(results))
            publish_folder(copy, self.folder)
            return
        for result in results:
            publish_files(stage / result.format, self.folder)
        write_export(self.folder, self.original, list(results))

    def export_weights(self, target: Target, has_out: bool, failures: list[ExportFailed]) -> list[FormatResult]:
        """Write a folder of safetensors in another precision."""
        folder = self.folder if has_out else self.folder.with_name(f"{self.folder.name}-{target.name}")
        if not has_out:
            destination(self.location, folder, self.original.digest)  # raises if it holds something else
        say(f"writing and verifying {target.name}")
        with staging(folder.parent) as stage:
            copy = stage / "copy"
            copy_model(self.location.folder, copy)
            cast_folder(copy, target)
            encoder, settings = build_encoder(copy)
            encoder.eval()
            try:
                result = self._verify(target, encoder, compared_as_trained(encoder, settings), copy, folder)
            except ExportFailed as failure:
                failures.append(failure)
                return []
            write_export(copy, self.original, [result])
            publish_folder(copy, folder)
        return [result]

    def _verify(self, target: Target, encoder: Encoder, compared: Encoder, stage: Path, folder: Path) -> FormatResult:
        """Measure an export; raises ExportFailed where it is too far from the original."""
        measured = Measured(encoder, self.settings, self.items)
        difference = compare_embeddings(self.embeddings, measured.embed(), target.precision, target.name)
        changes: dict[tuple[str, str], Change] = {}
        if self.held_out is not None:
            for name, result in self.held_out.evaluate(compared, target.name).items():
                changes[name, result.headline] = compare(self.results[name], result).headline
        self._check_loss(target, changes)
        files = _weights_of(stage)
        names = [path.relative_to(stage).as_posix() for path in files]
        return FormatResult(target.name, folder, names, _size_of(files), difference, measured.speed(), changes)

    def _check_loss(self, target: Target, changes: Mapping[tuple[str, str], Change]) -> None:
        if not changes:
            return
        (_, metric), change = next(iter(changes.items()))
        if -change.change > self.max_loss:
            what = (
                f"the export to {target.name} failed: {metric} falls from {format_value(change.mean_before)} to"
                f" {format_value(change.mean_after)} (95 % interval of the change {change.low:+.4f} to"
                f" {change.high:+.4f}), which is a loss of more than {self.max_loss:g}."
            )
            raise ExportFailed(what, "Nothing of it was kept. Choose another format, or allow more with --max-loss.")


def _weights_of(folder: Path) -> list[Path]:
    """Return the files of a folder with weights, sorted; not those of exports into it if it has its own."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _WEIGHTS)
    own = [path for path in files if path.suffix == ".safetensors"]
    return own or files


def _size_of(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)

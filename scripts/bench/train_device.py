"""Training steps on a device with models of well-known shapes: what `train.py --device cuda` and `--tiny` measure.

Every measurement has a process of its own (`prepared.py`). The first round of all cases comes before the second one, so
that a table is complete as early as possible; a measurement that would not end in time is not started.

pairs/s are those of the steps after the warm-up, from the wait for the batch to the optimizer. MFU is the FLOP/s of the
model (`shapes.step_flops`: real tokens, nothing recomputed) divided by what the manufacturer states for the GPU;
"share of matmul" divides by the FLOP/s that this device reaches in a large matrix product.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import device
from contestants import ours, rows_of, theirs
from fresh import table
from prepared import MeasurementError, Prepared
from results import Deadline, write
from shapes import SHAPES, make_model, step_flops
from texts import KINDS

BATCHES, TINY_BATCHES = [128, 4096], [8, 16]
ORDER = ("ragged", "short", "long")
# By pairs per step: steps before the ones that count, and counted steps.
STEPS = {128: (5, 20), 4096: (1, 3)}
TINY_STEPS = (1, 2)
_LARGE = 1024  # from this batch on the peer needs its gradient cache
PEER = "sentence-transformers"
_WORKERS = 4  # of the peer's data loader, which tokenizes; ours has done so before
_MINI_BATCH = 128  # texts of one pass of the peer's gradient cache
_SHORTEST = 10.0  # seconds; less time is not enough for any measurement


def compare(arguments: argparse.Namespace) -> None:
    """Measure ours and the peer on every case as far as the time allows; print the table and write it."""
    deadline = Deadline(arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="finetune-bench-models-") as folder:
        prepared = Prepared(arguments.device)
        facts: dict[str, Any] = {"environment": device.environment(arguments.device), "cases": []}
        facts["matmul_flops"] = prepared.measure(_matmul, (arguments.device,), deadline.left())["flops"]
        facts["peak_flops"] = device.peak_flops(facts["environment"]["device"])
        shapes = arguments.shapes or list(SHAPES)
        models = {
            shape: make_model(shape, Path(folder) / shape, arguments.tokenizer, arguments.tiny) for shape in shapes
        }
        facts["cases"] = [_case(case, models[case["shape"]]) for case in _cases(arguments, shapes)]
        for round_ in range(arguments.rounds):
            for case in facts["cases"]:
                _measure_round(case, round_, arguments, models, prepared, deadline)
                write(arguments.out, "train", facts, markdown(facts, arguments.device))
    print(markdown(facts, arguments.device))


def _matmul(name: str) -> dict[str, Any]:
    return {"flops": device.matmul_flops(name)}


def _cases(arguments: argparse.Namespace, shapes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the cases by value: ragged text first. The model without dropout is measured in small batches only."""
    batches = arguments.batches or (TINY_BATCHES if arguments.tiny else BATCHES)
    kinds = [kind for kind in ORDER if kind in arguments.texts]
    precisions = arguments.precisions or ["bf16-mixed"]
    large = TINY_BATCHES[-1] if arguments.tiny else _LARGE
    for texts, batch, shape, precision in itertools.product(kinds, batches, shapes, precisions):
        if batch >= large and shape == "bert-base-no-dropout" and arguments.shapes is None:
            continue
        warmup, steps = TINY_STEPS if arguments.tiny else STEPS.get(batch, STEPS[4096])
        yield {"shape": shape, "texts": texts, "batch": batch, "precision": precision, "device": arguments.device,
               "warmup": warmup, "steps": arguments.steps or steps, "large": batch >= large}  # fmt: skip


def _rows_file(case: dict[str, Any], model: Path) -> Path:
    """Return the file with the pairs of a case, next to the models; cases with the same pairs share it."""
    count = case["batch"] * (case["steps"] + case["warmup"])
    return model.parent / f"{case['texts']}-{count}.json"


def _case(case: dict[str, Any], model: Path) -> dict[str, Any]:
    """Write the pairs of a case into a file; return its entry in the results, with the FLOPs of one of its pairs."""
    from tokenizers import Tokenizer

    rows = rows_of(case)
    _rows_file(case, model).write_text(json.dumps(rows), encoding="utf-8")
    rows = rows[:2048]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(KINDS[case["texts"]])
    tokenizer.no_padding()
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch([text for row in rows for text in row])]
    flops = step_flops(model, lengths) / len(rows)
    return {"case": case, "flops_per_pair": flops, "tokens_per_text": sum(lengths) / len(lengths), "contestants": {}}


def contestants(case: dict[str, Any], asked: list[str] | None) -> dict[str, dict[str, Any]]:
    """Return the settings of the contestants of a case, ours first."""
    peer: dict[str, Any] = {"who": "theirs", "workers": _WORKERS if case["device"] == "cuda" else 0}
    if case["large"]:
        peer |= {"cached": True, "mini_batch_size": min(_MINI_BATCH, case["batch"] // 4)}
    found: dict[str, dict[str, Any]] = {"ours": {"who": "ours"}, f"{PEER}, sdpa": {**peer, "attention": "sdpa"}}
    if case["device"] == "cuda" and importlib.util.find_spec("flash_attn") is not None:
        found[f"{PEER}, flash"] = {**peer, "attention": "flash_attention_2"}
    found["ours, compiled"] = {"who": "ours", "engine": ["engine.compile=true"]}
    wanted = ("ours", *(asked or ("sdpa", "flash")))
    return {name: knobs for name, knobs in found.items() if name == "ours" or name.split(", ")[-1] in wanted}


def _measure_round(
    entry: dict[str, Any],
    round_: int,
    arguments: argparse.Namespace,
    models: dict[str, Path],
    prepared: Prepared,
    deadline: Deadline,
) -> None:
    """Measure every contestant of a case once, in alternating order, and add what they measured to the entry."""
    case = entry["case"]
    model = models[case["shape"]]
    names = list(contestants(case, arguments.only).items())
    for name, knobs in names if round_ % 2 == 0 else reversed(names):
        found = entry["contestants"].setdefault(name, {"rounds": [], "problem": None})
        expected = max((one["seconds_in_all"] for one in found["rounds"]), default=_SHORTEST)
        if found["problem"] or deadline.left() < expected:
            continue
        function = ours if knobs["who"] == "ours" else theirs
        try:
            told = {**case, **knobs, "model": str(model), "rows": str(_rows_file(case, model))}
            found["rounds"].append(prepared.measure(function, (told,), deadline.left()))
        except MeasurementError as error:
            found["problem"] = str(error)
        answer = found["problem"] or f"{found['rounds'][-1]['pairs_per_second']:.1f} pairs/s"
        print(f"round {round_ + 1}, {_title(case)}, {name}: {answer}", file=sys.stderr, flush=True)


def _title(case: dict[str, Any]) -> str:
    return f"{case['shape']}, {case['texts']}, {case['batch']:,}, {case['precision']}"


def markdown(facts: dict[str, Any], name: str) -> str:
    """Return the table of all that was measured, with the device, the versions and the command above it."""
    rows = []
    for entry in facts["cases"]:
        for contestant, found in entry["contestants"].items():
            rows.append([f"{_title(entry['case'])}: {contestant}", *_cells(entry, found, facts)])
    header = ["", "pairs/s", "ours is times as fast", "peak MB", "MFU", "share of matmul", "rounds"]
    rate = f"A large bf16 matrix product reaches {facts['matmul_flops'] / 1e12:.1f} TFLOP/s on this device. "
    peak = facts["peak_flops"]
    rate += f"MFU refers to {peak / 1e12:.1f} TFLOP/s." if peak else "MFU: the peak of this device is not known."
    return f"{device.heading(name)}\n{rate}\n\n{table(header, rows)}"


def _cells(entry: dict[str, Any], found: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    if not found["rounds"]:
        return [found["problem"] or "not measured: no time left", "", "", "", "", "0"]
    pace = _median(found, "pairs_per_second")
    own = entry["contestants"]["ours"]
    ratio = f"{_median(own, 'pairs_per_second') / pace:.2f}" if own["rounds"] else ""
    flops, peak = pace * entry["flops_per_pair"], facts["peak_flops"]
    mfu = f"{flops / peak:.1%}" if peak else ""
    share = f"{flops / facts['matmul_flops']:.1%}"
    return [f"{pace:,.1f}", ratio, f"{_median(found, 'most_mb'):,.0f}", mfu, share, str(len(found["rounds"]))]


def _median(found: dict[str, Any], key: str) -> float:
    return float(median(one[key] for one in found["rounds"]))

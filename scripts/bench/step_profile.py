"""Where a training step spends its time on a device: the largest kernels, the time without one, and what waits for it.

    python scripts/bench/step_profile.py --device cuda --out results
    python scripts/bench/step_profile.py --device cpu --tiny

A run of `finetune train` with Lightning's PyTorch profiler (`trainer.profiler=pytorch`), three steps after two of
warm-up, whose Chrome trace is read here. On a CPU the operators take the place of the kernels. The trace is written too
(chrome://tracing, https://ui.perfetto.dev), compressed, unless it is larger than --trace-mb.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import device
from fresh import table
from results import write
from shapes import MINILM, SHAPES, make_model
from texts import KINDS, pairs

STEPS = 6  # the profiler leaves the first out, warms up in the second, and records three
LARGEST, LARGEST_GAPS = 10, 5
# Calls of the CUDA runtime that return when the device has done its work; copies do so only from or to pageable memory.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_KERNELS = {"cuda": {"kernel", "gpu_memcpy", "gpu_memset"}, "cpu": {"cpu_op"}}
Event = dict[str, Any]


def main() -> None:
    """Profile a run, and print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and 8 pairs a step")
    parser.add_argument("--shape", choices=list(SHAPES), default="bert-base")
    parser.add_argument("--texts", choices=list(KINDS), default="ragged")
    parser.add_argument("--batch", type=int, default=128, help="pairs per step")
    parser.add_argument("--tokenizer", default=MINILM, help="a name, or a folder with a tokenizer")
    parser.add_argument("--trace-mb", type=float, default=12, help="largest size of the compressed trace")
    parser.add_argument("--out", type=Path, help="a folder for profile.json, profile.md and trace.json.gz")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.batch = 8
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here: nothing was measured.")
    trace = traced(arguments)
    facts = {"environment": device.environment(arguments.device), **analyze(trace["traceEvents"], arguments.device)}
    text = markdown(facts, arguments.device)
    write(arguments.out, "profile", facts, text)
    print(text)
    if arguments.out is not None:
        print(write_trace(trace, arguments.out / "trace.json.gz", arguments.trace_mb))


def traced(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train some steps and return the profiler's Chrome trace."""
    from finetune.cli.train import main as finetune

    with tempfile.TemporaryDirectory(prefix="finetune-bench-profile-") as folder:
        model = make_model(arguments.shape, Path(folder) / "model", arguments.tokenizer, arguments.tiny)
        path = Path(folder) / "pairs.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = pairs(arguments.texts, arguments.batch * STEPS)
            csv.writer(file).writerows([("anchor", "positive"), *rows])
        status = finetune([
            "data=csv", f"data.path={path}", "data.validation_fraction=0", "data.cache=false", "evaluation=none",
            f"data.batch_size={arguments.batch}", f"data.max_length={KINDS[arguments.texts]}", f"model.name={model}",
            "trainer.precision=bf16-mixed", f"trainer.accelerator={'gpu' if arguments.device == 'cuda' else 'cpu'}",
            "trainer.max_epochs=1", "+trainer.profiler=pytorch", f"output_root={folder}", "name=run",
            # A logged step waits for the device to read its loss; only the last one should.
            f"trainer.log_every_n_steps={STEPS}", "callbacks.checkpoint.every_n_steps=1000000",
        ])  # fmt: skip
        if status:
            sys.exit(f"The run failed with exit code {status}.")
        found = sorted(Path(folder, "default", "run").glob("*.pt.trace.json*"))
        if not found:
            sys.exit("The profiler wrote no trace.")
        packed = found[0].read_bytes()
    if found[0].suffix == ".gz":
        packed = gzip.decompress(packed)
    return dict(json.loads(packed))


def analyze(events: Iterable[Event], name: str) -> dict[str, Any]:
    """Return what a trace says of its steps, in milliseconds: kernels, idle time and calls that wait."""
    complete = [event for event in events if event.get("ph") == "X" and "dur" in event]
    steps = [event for event in complete if str(event["name"]).startswith("ProfilerStep#")]
    kernels = [event for event in complete if event.get("cat") in _KERNELS[name]]
    if not kernels:
        sys.exit("The trace has no kernels.")
    if name == "cpu":
        kernels = _outermost(kernels)
    busy = _union(kernels)
    # From the first kernel to the last one: the device works later than the steps of the host, which only queue.
    span = busy[-1][1] - busy[0][0]
    gaps = sorted((after[0] - before[1] for before, after in itertools.pairwise(busy)), reverse=True)
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in kernels:
        by_name[str(event["name"])].append(float(event["dur"]))
    total = sum(sum(each) for each in by_name.values())
    largest = sorted(by_name.items(), key=lambda each: -sum(each[1]))[:LARGEST]
    waits = [str(event["name"]) for event in complete if str(event["name"]) in _WAITS]
    waits += [str(event["name"]) for event in complete if event["name"] == "aten::_local_scalar_dense"]
    return {
        "steps": len({step["name"] for step in steps}),
        "span_ms": span / 1000,
        "busy_ms": sum(end - start for start, end in busy) / 1000,
        "idle_share": sum(gaps) / span if span else 0.0,
        "gaps": len(gaps),
        "largest_gaps_ms": [gap / 1000 for gap in gaps[:LARGEST_GAPS]],
        "kernels": [
            {"name": kernel, "calls": len(each), "ms": sum(each) / 1000, "share": sum(each) / total}
            for kernel, each in largest
        ],
        "waits": {wait: waits.count(wait) for wait in sorted(set(waits))},
    }


def _union(events: Iterable[Event]) -> list[tuple[float, float]]:
    """Return the times in which at least one event runs, as disjoint intervals in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in events):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _outermost(events: list[Event]) -> list[Event]:
    """Return the operators that no other operator of their thread has called."""
    found: list[Event] = []
    ends: dict[Any, float] = defaultdict(lambda: float("-inf"))
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= ends[event.get("tid")]:
            ends[event.get("tid")] = event["ts"] + event["dur"]
            found.append(event)
    return found


def markdown(facts: dict[str, Any], name: str) -> str:
    """Return the tables, with the device, the versions and the command above them."""
    gaps = ", ".join(f"{gap:.2f}" for gap in facts["largest_gaps_ms"]) or "none"
    waits = ", ".join(f"{wait} {count}" for wait, count in facts["waits"].items()) or "none"
    summary = (
        f"{facts['steps']} steps, {facts['span_ms']:.1f} ms from the first to the last kernel, of which"
        f" {facts['idle_share']:.1%} without one, in {facts['gaps']:,} gaps; the longest, in ms: {gaps}.\n"
        f"Calls that wait for the device: {waits}.\n"
    )
    rows = [
        [f"`{kernel['name'][:100]}`", kernel["calls"], f"{kernel['ms']:.2f}", f"{kernel['share']:.1%}"]
        for kernel in facts["kernels"]
    ]
    return f"{device.heading(name)}\n{summary}\n{table(['kernel', 'calls', 'ms', 'share'], rows)}"


def write_trace(trace: dict[str, Any], path: Path, most_mb: float) -> str:
    """Write the trace compressed, without operators of the host if it is too large with them; return what was done."""
    events = list(trace["traceEvents"])
    for kept in (events, [event for event in events if event.get("cat") not in ("cpu_op", "ac2g", "fwdbwd")]):
        packed = gzip.compress(json.dumps({**trace, "traceEvents": kept}).encode())
        if len(packed) <= most_mb * 2**20:
            path.write_bytes(packed)
            return f"The trace of {len(kept):,} events is {path.name} ({len(packed) / 2**20:.1f} MB)."
    return f"The trace is larger than {most_mb} MB and was not written."


if __name__ == "__main__":
    main()

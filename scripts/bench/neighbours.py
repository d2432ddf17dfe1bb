"""Training next to other busy processes: what the OpenMP threads of a step wait for, by environment setting.

    python scripts/bench/neighbours.py                       # all settings, with 0, 1 and 2 busy neighbours
    python scripts/bench/neighbours.py --neighbours 0 --settings default passive --rounds 5
    python scripts/bench/neighbours.py --layer --rounds 3    # a linear layer and a relu alone, in place of a training

A step on several threads ends in hundreds of barriers. By default a thread that arrives first spins, and where
another process has taken a core it spins for a thread that does not run. Every contestant is a fresh process that
trains all-MiniLM-L6-v2 on short text; a neighbour is a process that computes without a pause.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, medians, run_fresh, table
from texts import KINDS, pairs

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 3,000": {"GOMP_SPINCOUNT": "3000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 0": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "dynamic": {"OMP_DYNAMIC": "true"},
    "passive, dynamic": {"OMP_WAIT_POLICY": "passive", "OMP_DYNAMIC": "true"},
}
OURS = [name for setting in SETTINGS.values() for name in setting]
BATCH = 64


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--neighbours", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--texts", choices=list(KINDS), default="short")
    parser.add_argument("--steps", type=int, default=12, help="counted steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layer", action="store_true", help="measure one linear layer and a relu, not a training")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case = json.loads(arguments.one)
        print(json.dumps(layer() if case["layer"] else training(case)))
        return
    print(heading())
    rows = [row for neighbours in arguments.neighbours for row in measured(arguments, neighbours)]
    unit = "ms a call" if arguments.layer else "pairs/s"
    print(table(["neighbours, setting", unit, "times the default's speed"], rows))


def measured(arguments: argparse.Namespace, neighbours: int) -> list[list[str]]:
    """Return the rows of all settings with so many neighbours; contestants alternate."""
    case = json.dumps({"texts": arguments.texts, "steps": arguments.steps, "layer": arguments.layer})
    rounds: dict[str, list[object]] = {name: [] for name in arguments.settings}
    with busy(neighbours):
        for _ in range(arguments.rounds):
            for name in arguments.settings:
                for variable in OURS:
                    os.environ.pop(variable, None)
                rounds[name].append(run_fresh(Path(__file__), ["--one", case], **SETTINGS[name]))
                print(neighbours, name, rounds[name][-1], file=sys.stderr, flush=True)
    found = {name: medians(each)["speed"] for name, each in rounds.items()}  # type: ignore[arg-type]
    first = found[arguments.settings[0]]
    shown = {name: 1000 / speed if arguments.layer else speed for name, speed in found.items()}
    return [[f"{neighbours}, {name}", f"{shown[name]:.2f}", f"{speed / first:.2f}"] for name, speed in found.items()]


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many other processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def training(case: dict[str, object]) -> dict[str, float]:
    """Train some steps, and return the pairs a second of the steps after the first three."""
    import torch  # noqa: F401 - before ours, so that the environment is the one of the contestant and nothing else

    from finetune.cli.train import main as finetune

    steps, kind = int(case["steps"]), str(case["texts"])  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory(prefix="finetune-bench-neighbours-") as folder:
        path = Path(folder) / "pairs.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("anchor", "positive"), *pairs(kind)[: BATCH * (steps + 3)]])
        status = finetune([
            f"data.path={path}", "data.validation_fraction=0", "data.cache=false", "evaluation=none",
            f"data.batch_size={BATCH}", f"data.max_length={KINDS[kind]}", "trainer.accelerator=cpu",
            "trainer.max_epochs=1", f"output_root={folder}", "name=run",
        ])  # fmt: skip
        assert status == 0
        lines = [json.loads(line) for line in (Path(folder) / "default/run/metrics.jsonl").open()]
    taken = [
        sum(value for key, value in line.items() if key.startswith("seconds/")) for line in lines if "loss" in line
    ]
    return {"speed": BATCH / median(taken[3:])}


def layer() -> dict[str, float]:
    """Return how often a second a linear layer and a relu are computed on all threads."""
    import torch

    linear, values = torch.nn.Linear(384, 384), torch.randn(512, 384)
    taken = []
    with torch.inference_mode():
        for _ in range(300):
            start = time.perf_counter()
            torch.relu(linear(values))
            taken.append(time.perf_counter() - start)
    return {"speed": 1 / median(taken[50:])}


if __name__ == "__main__":
    main()

r"""Compare configurations of finetune, and the trainer of sentence-transformers, on development tasks.

    python scripts/tasks/compare.py --tasks tasks/* --results results.jsonl
    python scripts/tasks/compare.py --tasks tasks/foldoc --configurations default peer-1 --seeds 1 2 3 \
        --results results.jsonl
    python scripts/tasks/compare.py --list
    python scripts/tasks/summary.py results.jsonl

A task is a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv) with a file train.csv, whose first two columns are
anchor and positive. Configurations are in configurations.yaml. Each result is measured in a fresh process, one at a
time, and appended to the file of results. What is in the file is not measured again, so a comparison can be killed and
continued. All trained models are evaluated by the same code with the same maximum length.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from store import UNTOUCHED, append, key_of, only_writer, read_results

HERE = Path(__file__).parent
PARTS = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "train.csv")
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def main() -> None:
    """Measure what is missing in the file of results; exit code 1 if a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", type=Path, default=[], help="folders of tasks")
    parser.add_argument("--configurations", nargs="+", help="names; by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--limit", type=int, help="use only this many training pairs of each task, always the same")
    parser.add_argument("--documents", type=int, help="evaluate on the right documents and others, this many in all")
    parser.add_argument("--results", type=Path, help="the file that results are appended to")
    parser.add_argument("--file", type=Path, default=HERE / "configurations.yaml", help="the file of configurations")
    parser.add_argument("--model", default=MODEL, help="the model that is trained")
    parser.add_argument("--max-length", type=int, default=128, help="tokens per text, of all contestants")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="on a GPU CPU seconds say nothing")
    parser.add_argument("--fp32", action="store_true", help="train and evaluate in fp32, not in bf16-mixed")
    parser.add_argument("--list", action="store_true", help="print the configurations, and stop")
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        parser.error(f"no such file: {arguments.file}")
    definitions = yaml.safe_load(arguments.file.read_text(encoding="utf-8"))
    if arguments.list:
        for name, definition in definitions.items():
            print(f"{name}: {json.dumps(definition)}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: it also ends the measuring process
    chosen = arguments.configurations or list(definitions)
    check(parser, arguments, chosen, definitions)
    try:
        with only_writer(arguments.results):
            failed = measure_missing(list(cases(arguments, chosen, definitions)), arguments.results)
    except BlockingIOError:
        parser.error(f"another process writes to {arguments.results}")
    sys.exit(1 if failed else 0)


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace, chosen: list[str], known: Any) -> None:
    """End the program with a message if an argument is wrong."""
    if arguments.results is None or not arguments.tasks:
        parser.error("--tasks and --results are needed")
    for name in ("limit", "documents"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            parser.error(f"--{name} must be at least 1")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"{arguments.file} has no configuration {', '.join(unknown)}; it has {', '.join(known)}")
    for task, part in itertools.product(arguments.tasks, PARTS):
        if not (task / part).exists():
            parser.error(f"{task / part} is missing")


def cases(arguments: argparse.Namespace, chosen: list[str], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the cases: for each seed all tasks, for each task the untouched model, then all configurations."""
    shared = {
        "model": arguments.model,
        "max_length": arguments.max_length,
        "documents": arguments.documents,
        "version": version(),
        "device": arguments.device,
        "precision": "32-true" if arguments.fp32 else "bf16-mixed",
    }
    for seed, task in itertools.product(arguments.seeds, arguments.tasks):
        place = {
            "task": task.resolve().name,
            "data": digest(task),
            "task_folder": str(task.resolve()),
            **shared,
        }
        yield {**place, "configuration": UNTOUCHED, "definition": None, "seed": None, "limit": None}
        for name in chosen:
            yield {
                **place,
                "configuration": name,
                "definition": definitions[name],
                "seed": seed,
                "limit": arguments.limit,
            }


def digest(task: Path) -> str:
    """Return a digest of the files of a task: one that was built again with other data is another task."""
    parts = [hashlib.sha256((task / part).read_bytes()).digest() for part in PARTS]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def version() -> str | None:
    """Return the commit of this checkout, with `-dirty` if files differ from it; None without git."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def measure_missing(wanted: list[dict[str, Any]], path: Path) -> int:
    """Measure the cases that have no result yet, and return how many failed."""
    done = {key_of(result) for result in read_results([path])}
    missing = list({key_of(case): case for case in wanted if key_of(case) not in done}.values())
    print(f"{len(wanted) - len(missing)} results are in {path}, {len(missing)} are to be measured", flush=True)
    failed = 0
    for number, case in enumerate(missing, 1):
        print(f"{number}/{len(missing)}: {case['task']}, {case['configuration']}, seed {case['seed']}", flush=True)
        try:
            results = measure(case)
        except subprocess.CalledProcessError as error:
            print(f"  failed with exit code {error.returncode}:\n{error.output[-2000:]}", flush=True)
            failed += 1
            continue
        for result in results:
            append(path, result)
            means = ", ".join(f"{name} {sum(values) / len(values):.4f}" for name, values in result["ndcg"].items())
            print(f"  {result['configuration']}: {means}; {json.dumps(result['training'])}", flush=True)
    return failed


def measure(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a case, measured in a new process.

    Raises:
        subprocess.CalledProcessError: it failed; `output` is what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-compare-") as folder:
        asked, answer = Path(folder) / "case.json", Path(folder) / "result.json"
        asked.write_text(json.dumps({**case, "folder": folder}), encoding="utf-8")
        command = [sys.executable, str(HERE / "measure.py"), str(asked), str(answer)]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        results: list[dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))
    return results


if __name__ == "__main__":
    main()

"""Tables of the results of compare.py: each task, the mean over tasks, and the choice that leaves one task out.

    python scripts/tasks/summary.py results.jsonl
    python scripts/tasks/summary.py results.jsonl --reference peer-3 --tasks foldoc man-pages

Values are nDCG@10 times 100, the mean over the seeds of a configuration. Intervals are 95 % intervals of a paired
bootstrap over the queries (finetune.evaluation.bootstrap), of the mean over seeds of each query: they do not contain
the variation between seeds, whose standard deviation is a column of its own. A task with another limit of its pairs or
documents, another model, length or precision is another task.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
sys.path.insert(0, str(Path(__file__).parent))
from fresh import table
from store import UNTOUCHED, read_results

from finetune.evaluation.bootstrap import Change, paired_change

SAMPLES, SEED = 2000, 0
RETRIEVAL, FORGETTING = "retrieval", "forgetting"
EVALUATED = ("documents", "model", "max_length", "precision")  # settings of an evaluation, besides the task


@dataclass(frozen=True)
class Measured:
    """A configuration on one task: nDCG@10 (S, Q) of S seeds and Q queries, by evaluation; and facts."""

    ndcg: Mapping[str, NDArray[np.float64]]
    cpu_seconds: float
    steps: float
    is_peer: bool

    def per_query(self, evaluation: str = RETRIEVAL) -> NDArray[np.float64]:
        """Return the mean over seeds for each query, (Q,)."""
        mean_Q: NDArray[np.float64] = self.ndcg[evaluation].mean(0)
        return mean_Q

    def mean(self) -> float:
        """Return nDCG@10 on the task."""
        return float(self.ndcg[RETRIEVAL].mean())


Tasks = Mapping[str, Mapping[str, Measured]]  # by task and configuration


def main() -> None:
    """Print the tables of the given files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--reference", default="peer-1", help="the configuration that others are compared with")
    parser.add_argument("--ours", default="default", help="the configuration that is compared at equal CPU time")
    parser.add_argument("--tasks", nargs="+", help="only these tasks")
    arguments = parser.parse_args()
    absent = [str(path) for path in arguments.results if not path.is_file()]
    if absent:
        parser.error(f"no such file: {', '.join(absent)}")
    results = of_last_data(read_results(arguments.results))
    tasks = grouped([one for one in results if arguments.tasks is None or one["task"] in arguments.tasks])
    for task, measured in tasks.items():
        print(f"## {task}\n\n{task_table(measured, arguments.reference)}\n")
    compared = {task: measured for task, measured in tasks.items() if arguments.reference in measured}
    if not compared:
        parser.error(f"{arguments.reference} is not among the results")
    print(f"## Mean over tasks, against {arguments.reference}\n\n{mean_table(compared, arguments.reference)}\n")
    print(f"## {arguments.ours} at equal CPU time\n\n{equal_time_table(tasks, arguments.ours)}\n")
    print(f"## Leaving one task out\n\n{left_out_table(compared, arguments.reference)}")


def of_last_data(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results on the files of each task that were measured last, without those of older builds of it."""
    last = {one["task"]: one.get("data") for one in results}
    return [one for one in results if one.get("data") == last[one["task"]]]


def grouped(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Measured]]:
    """Return what was measured, by task and configuration; the untouched model belongs to all limits of its task."""
    varying = [
        name for name in (*EVALUATED, "limit") if len({one.get(name) for one in results if one["seed"] is not None}) > 1
    ]
    untouched = {_evaluated(one): one for one in results if one["configuration"] == UNTOUCHED}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for one in results:
        if one["configuration"] == UNTOUCHED:
            continue
        by_configuration = found.setdefault(_label(one, varying), {})
        if _evaluated(one) in untouched:
            by_configuration.setdefault(UNTOUCHED, [untouched[_evaluated(one)]])
        by_configuration.setdefault(one["configuration"], []).append(one)
    return {
        task: {name: merged(seeds) for name, seeds in by_configuration.items()}
        for task, by_configuration in found.items()
    }


def _evaluated(one: dict[str, Any]) -> tuple[Any, ...]:
    """Return what the values of an untouched model depend on."""
    return (one["task"], *(one.get(name) for name in EVALUATED))


def _label(one: dict[str, Any], varying: Sequence[str]) -> str:
    """Return the name of a task, with the settings in which results differ."""
    return ", ".join([one["task"], *(f"{name} {one.get(name) or 'all'}" for name in varying)])


def merged(seeds: Sequence[dict[str, Any]]) -> Measured:
    """Return the results of one configuration with several seeds as one; its last definition counts."""
    seeds = [one for one in seeds if one["definition"] == seeds[-1]["definition"]]
    definition = seeds[0]["definition"] or {}
    return Measured(
        {name: np.array([one["ndcg"][name] for one in seeds]) for name in seeds[0]["ndcg"]},
        statistics.mean(one["training"].get("cpu_seconds", 0) for one in seeds),
        statistics.mean(one["training"].get("steps", 0) for one in seeds),
        definition.get("trainer") != "finetune",
    )


def task_table(measured: Mapping[str, Measured], reference: str) -> str:
    """Return the table of one task, the best configuration first."""
    rows = []
    for name, one in sorted(measured.items(), key=lambda item: -item[1].mean()):
        spread = one.ndcg[RETRIEVAL].mean(1).std(ddof=1) if len(one.ndcg[RETRIEVAL]) > 1 else None
        rows.append([
            name, len(one.ndcg[RETRIEVAL]), points(one.mean()), "-" if spread is None else points(float(spread)),
            changed(measured, UNTOUCHED, one), changed(measured, reference, one),
            changed(measured, UNTOUCHED, one, FORGETTING), f"{one.steps:.0f}", f"{one.cpu_seconds:.0f}",
        ])  # fmt: skip
    header = ["configuration", "seeds", "nDCG@10", "sd of seeds", "against untouched", f"against {reference}",
              "general set, against untouched", "steps", "CPU s"]  # fmt: skip
    return str(table(header, rows))


def changed(measured: Mapping[str, Measured], before: str, after: Measured, evaluation: str = RETRIEVAL) -> str:
    """Return the change against another configuration with its interval, in bold if it excludes zero."""
    if before not in measured or measured[before] is after:
        return "-"
    return shown(change(measured[before], after, evaluation))


def change(before: Measured, after: Measured, evaluation: str = RETRIEVAL) -> Change:
    """Return the change of the mean over queries."""
    return paired_change(before.per_query(evaluation), after.per_query(evaluation), SAMPLES, SEED)


def shown(one: Change) -> str:
    """Return a change as in `+1.2 [+0.3, +2.1]`, in bold if it is certain."""
    text = f"{100 * one.change:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return f"**{text}**" if one.certain else text


def points(value: float) -> str:
    """Return a value in hundredths."""
    return f"{100 * value:.1f}"


def mean_table(tasks: Tasks, reference: str) -> str:
    """Return the mean change over the tasks that a configuration was measured on, every task with the same weight.

    The interval is 1.96 standard errors: those of the tasks are independent, so the squares of them add up.
    """
    rows: list[tuple[float, list[object]]] = []
    for name in dict.fromkeys(name for measured in tasks.values() for name in measured):
        if name == reference:
            continue
        measured_on = [measured for measured in tasks.values() if name in measured]
        changes = [change(measured[reference], measured[name]) for measured in measured_on]
        mean = statistics.mean(one.change for one in changes)
        error = 1.96 * float(np.sqrt(sum(one.standard_error**2 for one in changes))) / len(changes)
        better = sum(one.certain and one.change > 0 for one in changes)
        worse = sum(one.certain and one.change < 0 for one in changes)
        seconds = statistics.mean(m[name].cpu_seconds / m[reference].cpu_seconds for m in measured_on)
        interval = f"{100 * mean:+.2f} [{100 * (mean - error):+.2f}, {100 * (mean + error):+.2f}]"
        rows.append((-mean, [name, len(changes), interval, better, worse, f"{seconds:.2f}"]))
    header = ["configuration", "tasks", f"mean change against {reference}", "certainly better", "certainly worse",
              "CPU time, times the reference's"]  # fmt: skip
    return str(table(header, [row for _, row in sorted(rows, key=lambda row: row[0])]))


def equal_time_table(tasks: Tasks, ours: str) -> str:
    """Return the change against the peer that was trained for as long: the longest one that took no more CPU time.

    If every peer took more time it is the shortest one, which then has an advantage.
    """
    rows = []
    for task, measured in tasks.items():
        peers = {name: one for name, one in measured.items() if one.is_peer and name != UNTOUCHED}
        if ours not in measured or not peers:
            continue
        mine = measured[ours]
        shorter = [name for name, one in peers.items() if one.cpu_seconds <= mine.cpu_seconds]
        choose, among = (max, shorter) if shorter else (min, list(peers))
        peer = choose(among, key=lambda name: peers[name].cpu_seconds)
        seconds = [f"{one.cpu_seconds:.0f}" for one in (mine, peers[peer])]
        rows.append([task, peer, *seconds, shown(change(peers[peer], mine))])
    return str(table(["task", "peer", f"CPU s of {ours}", "CPU s of the peer", "change"], rows))


def left_out_table(tasks: Tasks, reference: str) -> str:
    """Return, for each task, our configuration that is best on the mean of the other tasks, and its result on this one.

    Only configurations are compared that were measured on every task.
    """
    candidates = [
        name
        for name, one in next(iter(tasks.values()), {}).items()
        if not one.is_peer and all(name in measured for measured in tasks.values())
    ]
    if len(tasks) < 2 or not candidates:
        return "Needs two tasks with the reference and a configuration of finetune that is measured on all of them."
    rows = []
    for task, measured in tasks.items():
        others = [other for name, other in tasks.items() if name != task]
        chosen = max(candidates, key=lambda name: statistics.mean(other[name].mean() for other in others))
        rows.append([task, chosen, points(measured[chosen].mean()), changed(measured, reference, measured[chosen])])
    header = ["left out", "best on the mean of the other tasks", "nDCG@10 on this task", f"against {reference}"]
    return f"Of {len(candidates)} configurations.\n\n{table(header, rows)}"


if __name__ == "__main__":
    main()

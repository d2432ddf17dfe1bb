"""What a BEIR folder is made of; looked at before anything heavy is imported.

As published it is `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`. People also have them packed, in several files
(`corpus-1.jsonl`, or a folder `corpus/`), as Parquet, and judgments as TREC writes them (`qrels/*.txt`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from finetune.data.extensions import PACKED, unpacked_name
from finetune.errors import CheckFailed, Problem

TEXTS = {".jsonl", ".ndjson", ".json", ".parquet"}
JUDGMENTS = {".tsv", ".txt", ".qrels", ".trec", ".csv", ".jsonl", ".parquet"}
TRAIN = ("train", "training")
TO_EVALUATE = ("test", "dev", "validation", "valid", "val", "eval")  # the first that is there is evaluated on
WANTED = "It must be a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv."


@dataclass(frozen=True)
class BeirFolder:
    """The files of a BEIR folder: `corpus`, `queries`, and the judgments that are meant.

    `shown` is what the folder is called in front of its files' names, `name` what it is called in sentences.
    """

    root: Path
    corpus: tuple[Path, ...]
    queries: tuple[Path, ...]
    qrels: Path
    shown: str
    name: str

    @property
    def files(self) -> list[Path]:
        """All of its files that are read."""
        return [*self.corpus, *self.queries, self.qrels]

    def shown_file(self, file: Path) -> str:
        """Return what one of its files is called in messages."""
        return f"{self.shown.rstrip('/')}/{file.relative_to(self.root).as_posix()}"


def is_beir(folder: Path) -> bool:
    """Return whether `folder` holds the three parts of a BEIR data set."""
    return bool(_texts(folder, "corpus") and _texts(folder, "queries") and _judgments(folder))


def missing_parts(folder: Path) -> list[str]:
    """Return which of the three parts of a BEIR data set `folder` lacks."""
    missing = [f"{part}.jsonl" for part in ("corpus", "queries") if not _texts(folder, part)]
    return missing + ([] if _judgments(folder) else ["qrels/*.tsv"])


def named_judgments(path: Path) -> Path | None:
    """Return the BEIR folder whose file of judgments `path` is (`folder/qrels/dev.tsv`), None if it is no such file."""
    folder = path.parent.parent if path.parent.name == "qrels" else path.parent
    return folder if path.is_file() and path in _judgments(folder) and is_beir(folder) else None


def why_not(folder: Path, shown: str, key: str) -> Problem | None:
    """Return why `folder`, named by `key`, is no BEIR folder: a part is missing, or it holds several (CQADupStack)."""
    if not (parts := missing_parts(folder)):
        return None
    if inner := beir_inside(folder):
        example = f"as in {key}={shown.rstrip('/')}/{inner[0]}"
        if len(inner) == 1:
            return Problem(key, f"'{shown}' holds the BEIR folder {inner[0]}.", f"Name it, {example}.")
        what = f"'{shown}' holds several BEIR folders: {', '.join(inner)}."
        return Problem(key, what, f"Name one of them, {example}.")
    return Problem(key, f"'{shown}' has no {' and no '.join(parts)}.", WANTED)


def beir_inside(folder: Path) -> list[str]:
    """Return the names of the folders in `folder` that are BEIR folders."""
    try:
        return sorted(inner.name for inner in folder.iterdir() if inner.is_dir() and is_beir(inner))
    except OSError:
        return []


def to_evaluate_on(path: Path, shown: str, key: str, name: str = "") -> BeirFolder:
    """Return the folder at `path` with its judgments `test`, else `dev`, else `validation`, else the only ones.

    `path` may also be one of its files of judgments. `key` is the setting that named it.

    Raises:
        CheckFailed: there are several of other names.
    """
    return _chosen(path, shown, key, TO_EVALUATE, name)


def to_train_on(path: Path, shown: str, key: str) -> BeirFolder:
    """Return the folder at `path`, or of the judgments at `path`, with its judgments `train`, else the only ones.

    Raises:
        CheckFailed: there are several of other names.
    """
    return _chosen(path, shown, key, TRAIN, "")


def _chosen(path: Path, shown: str, key: str, splits: tuple[str, ...], name: str) -> BeirFolder:
    name = name or shown
    folder = named_judgments(path)
    if folder is not None:
        qrels = path
        shown = PurePath(shown).parents[0 if path.parent == folder else 1].as_posix()
    else:
        folder, qrels = path, _pick(path, shown, key, splits)
    return BeirFolder(folder, _texts(folder, "corpus"), _texts(folder, "queries"), qrels, shown, name)


def _pick(folder: Path, shown: str, key: str, splits: tuple[str, ...]) -> Path:
    files = _judgments(folder)
    for split in splits:
        if of_split := [file for file in files if split_of(file) == split]:
            return min(of_split, key=lambda file: len(file.name))  # of test.tsv and test.tsv.gz the first
    rest = [file for file in files if split_of(file) not in (*TRAIN, *TO_EVALUATE)] or files
    if len(rest) == 1:
        return rest[0]
    there = ", ".join(file.name for file in files)
    what = f"'{shown}' has no qrels/{splits[0]}.tsv, but {there}."
    example = f"{shown.rstrip('/')}/{files[0].relative_to(folder).as_posix()}"
    raise CheckFailed([Problem(key, what, f"Name the judgments that are meant, as in {key}={example}.")])


def split_of(file: Path) -> str:
    """Return the part of the data that a file of judgments is for, as its name says: test, dev, ...; else nothing."""
    words = re.split(r"[-_. ]", unpacked_name(file.name))
    return next((word for word in words if word in (*TRAIN, *TO_EVALUATE)), "")


def _texts(folder: Path, part: str) -> tuple[Path, ...]:
    """Return the files of the corpus or the queries: one, or parts that are numbered, or in a folder of that name."""
    files = _files(folder, TEXTS)
    if whole := [file for file in files if _stem(file) == part]:
        return (min(whole, key=lambda file: len(file.name)),)
    parts = [file for file in files if re.fullmatch(rf"{part}([-_. ].*|\d+)", _stem(file))]
    return tuple(parts or _files(folder / part, TEXTS))


def _judgments(folder: Path) -> list[Path]:
    """Return the files of judgments: those in `qrels/`, else those in the folder itself that are called qrels.

    Where some are `.tsv`, only those: a text file next to them is a description.
    """
    for files in (_files(folder / "qrels", {".tsv"}), _files(folder / "qrels", JUDGMENTS)):
        if files:
            return files
    return [file for file in _files(folder, JUDGMENTS) if file.name.lower().startswith("qrels")]


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    """Return the files in a folder, packed ones too, that end so; none if it is no folder. There may be a million."""
    endings = tuple(suffix + packed for suffix in suffixes for packed in ("", *PACKED))
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(endings)]  # noqa: PTH208 names are enough
        return sorted(folder / name for name in names if not name.startswith(".") and (folder / name).is_file())
    except (OSError, ValueError):
        return []


def _stem(file: Path) -> str:
    return PurePath(unpacked_name(file.name)).stem

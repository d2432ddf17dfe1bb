"""The files of a BEIR folder; imports nothing heavy, so that a config can be checked fast.

The published layout is `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`. Also supported are compressed files, several
files (`corpus-1.jsonl`, or a folder `corpus/`), Parquet, and judgments in the TREC format (`qrels/*.txt`).
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
TO_EVALUATE = ("test", "dev", "validation", "valid", "val", "eval")  # in order of preference
WANTED = "It must be a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv."


@dataclass(frozen=True)
class BeirFolder:
    """The files of a BEIR folder: `corpus`, `queries`, and the selected judgments.

    `shown` is the name of the folder in paths of its files, `name` its name in sentences.
    """

    root: Path
    corpus: tuple[Path, ...]
    queries: tuple[Path, ...]
    qrels: Path
    shown: str
    name: str

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        return [*self.corpus, *self.queries, self.qrels]

    def shown_file(self, file: Path) -> str:
        """Return the name of one of its files in messages."""
        return f"{self.shown.rstrip('/')}/{file.relative_to(self.root).as_posix()}"


def is_beir(folder: Path) -> bool:
    """Return whether `folder` holds the three parts of a BEIR data set."""
    return bool(_texts(folder, "corpus") and _texts(folder, "queries") and _judgments(folder))


def corpus_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the documents in `folder`, none if it has no `corpus.jsonl` or the like."""
    return _texts(folder, "corpus")


def missing_parts(folder: Path) -> list[str]:
    """Return which of the three parts of a BEIR data set `folder` lacks."""
    missing = [f"{part}.jsonl" for part in ("corpus", "queries") if not _texts(folder, part)]
    if not _judgments(folder):
        missing.append("qrels/*.tsv")
    return missing


def named_judgments(path: Path) -> Path | None:
    """Return the BEIR folder whose file of judgments `path` is (`folder/qrels/dev.tsv`), None if it is no such file."""
    folder = path.parent
    if folder.name == "qrels":
        folder = folder.parent
    if path.is_file() and path in _judgments(folder) and is_beir(folder):
        return folder
    return None


def beir_problem(folder: Path, shown: str, key: str) -> Problem | None:
    """Return why `folder`, named by `key`, is no BEIR folder: a part is missing, or it holds several (CQADupStack)."""
    missing = missing_parts(folder)
    if not missing:
        return None
    inner = beir_inside(folder)
    if inner:
        example = f"as in {key}={shown.rstrip('/')}/{inner[0]}"
        if len(inner) == 1:
            return Problem(key, f"'{shown}' holds the BEIR folder {inner[0]}.", f"Name it, {example}.")
        what = f"'{shown}' holds several BEIR folders: {', '.join(inner)}."
        return Problem(key, what, f"Name one of them, {example}.")
    return Problem(key, f"'{shown}' has no {' and no '.join(missing)}.", WANTED)


def beir_inside(folder: Path) -> list[str]:
    """Return the names of the folders in `folder` that are BEIR folders."""
    try:
        return sorted(inner.name for inner in folder.iterdir() if inner.is_dir() and is_beir(inner))
    except OSError:
        return []


def eval_beir_folder(path: Path, shown: str, key: str, name: str = "") -> BeirFolder:
    """Return the folder at `path` with its judgments `test`, else `dev`, else `validation`, else the only ones.

    `path` may also be one of its files of judgments. `key` is the setting that named it.

    Raises:
        CheckFailed: there are several of other names.
    """
    return _with_judgments(path, shown, key, TO_EVALUATE, name)


def train_beir_folder(path: Path, shown: str, key: str) -> BeirFolder:
    """Return the folder at `path`, or of the judgments at `path`, with its judgments `train`, else the only ones.

    Raises:
        CheckFailed: there are several of other names.
    """
    return _with_judgments(path, shown, key, TRAIN, "")


def _with_judgments(path: Path, shown: str, key: str, splits: tuple[str, ...], name: str) -> BeirFolder:
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
        of_split = [file for file in files if split_of(file) == split]
        if of_split:
            return _shortest_name(of_split)
    without_split = [file for file in files if split_of(file) not in (*TRAIN, *TO_EVALUATE)]
    candidates = without_split or files
    if len(candidates) == 1:
        return candidates[0]
    what = f"'{shown}' has no qrels/{splits[0]}.tsv, but {', '.join(file.name for file in files)}."
    example = f"{shown.rstrip('/')}/{files[0].relative_to(folder).as_posix()}"
    raise CheckFailed([Problem(key, what, f"Name the intended judgments, as in {key}={example}.")])


def split_of(file: Path) -> str:
    """Return the split in the name of a file of judgments: test, dev, ...; empty if there is none."""
    for word in re.split(r"[-_. ]", unpacked_name(file.name)):
        if word in (*TRAIN, *TO_EVALUATE):
            return word
    return ""


def _texts(folder: Path, part: str) -> tuple[Path, ...]:
    """Return the files of the corpus or the queries: one, or numbered parts, or those in a folder of that name."""
    files = _files(folder, TEXTS)
    whole = [file for file in files if _stem(file) == part]
    if whole:
        return (_shortest_name(whole),)
    parts = [file for file in files if re.fullmatch(rf"{part}([-_. ].*|\d+)", _stem(file))]
    return tuple(parts or _files(folder / part, TEXTS))


def _judgments(folder: Path) -> list[Path]:
    """Return the files of judgments: those in `qrels/`, else those in the folder itself whose name begins with qrels.

    If some are `.tsv`, only those: a text file next to them is a description.
    """
    for files in (_files(folder / "qrels", {".tsv"}), _files(folder / "qrels", JUDGMENTS)):
        if files:
            return files
    return [file for file in _files(folder, JUDGMENTS) if file.name.lower().startswith("qrels")]


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    """Return the files with these suffixes, also compressed; none if it is no folder. There may be a million."""
    endings = tuple(suffix + packed for suffix in suffixes for packed in ("", *PACKED))
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(endings)]  # noqa: PTH208 names are enough
        return sorted(folder / name for name in names if not name.startswith(".") and (folder / name).is_file())
    except (OSError, ValueError):
        return []


def _shortest_name(files: list[Path]) -> Path:
    """Return the file with the shortest name: test.tsv rather than test.tsv.gz."""
    return min(files, key=lambda file: len(file.name))


def _stem(file: Path) -> str:
    return PurePath(unpacked_name(file.name)).stem

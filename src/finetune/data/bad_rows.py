"""Bad rows: each with its file, line, column, what is wrong and its text; the first shown, all of them in a file."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from os import SEEK_END
from pathlib import Path
from typing import NamedTuple

from finetune.errors import Problem, RunError
from finetune.runs.atomic import explain

SHOWN = 20
FILE = "problems.jsonl"

ADVICE = {
    "ragged": "A cell that holds the delimiter or a line end must stand in double quotes.",
    "unclosed": 'Close it with a double quote; a quote inside a quoted cell is written twice ("").',
    "stray": 'A quote inside a quoted cell is written twice ("").',
    "undecodable": "If the whole file is in another encoding, set data.encoding=cp1252 (Windows, Excel) or latin-1.",
    "nul": "Remove it; many of them mean that the file is utf-16 (data.encoding=utf-16).",
    "long": "If it is meant, raise data.max_cell_characters.",
    "json": 'Every line must be one JSON object, such as {"anchor": "...", "positive": "..."}.',
    "array": 'Every row must be an array of as many values, such as ["...", "..."].',
    "type": "Every row of a column must be of the same kind.",
    "empty": "Every row needs it.",
    "negative": "A negative must be a wrong answer.",
    "same": "Such a pair teaches nothing.",
    "number": "A score is a finite number, such as 0.75; set 'data.decimal=\",\"' for numbers with a decimal comma, "
    "data.score_values for words and classes.",
    "grade": "A grade is a finite number, such as 1; above 0 is a right answer.",
    "score_values": "Add it there with its score; null leaves its rows out.",
    "lengths": "There must be one score for each document.",
    "lonely": "A class with one member has no pair to learn from.",
    "image": "It must be a picture that Pillow opens.",
    "mesh": "It must be a mesh with faces or points (OBJ, OFF, PLY).",
    "vector": "All vectors of a column must have the same number of finite numbers.",
    "unknown": "Most judgments have ids that are not in corpus.jsonl and queries.jsonl: are these files of one set?",
    "dangling": "Every id must be one of corpus.jsonl and queries.jsonl.",
    "blank": "Nothing can be searched for, or found, by an empty text.",
    "regraded": "Remove the grade that does not count.",
    "id": "Every text needs an id.",
    "twice": "Every id must stand once.",
    "missing": "Paths are relative to the folder of the data file.",
    "unreachable": "Try it in a browser, or download the files and give their paths.",
}


# What published data sets have, and what does no harm: such rows are left out and counted, and no reason to stop. Each
# with what is said of one and of several.
USUAL = {
    "dangling": ("judgment of an id that is not there", "judgments of ids that are not there"),
    "blank": ("empty text", "empty texts"),
    "regraded": (
        "judgment that is given again with another grade (the last one counts)",
        "judgments that are given again with other grades (the last ones count)",
    ),
}


# Kinds that a setting for the whole file cures, by that setting.
_CURED_BY = {"undecodable": "data.encoding", "nul": "data.encoding", "long": "data.max_cell_characters"}
_NEARLY_ALL = 0.9  # share of the rows, from which on one reason is the problem and not its rows
_ENOUGH = 10  # rows; of fewer each is shown


class RowLocation(NamedTuple):
    """Where a row stands: the file as it is called in messages, and the line it begins in (or its row, from 1)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class BadRow:
    """One bad row: `kind` is a key of `ADVICE`, `what` a sentence, `text` what stood there, cut to one line."""

    file: str
    line: int
    column: str | None
    kind: str
    what: str
    text: str = ""

    def sentence(self) -> str:
        """Return column, what is wrong, and the text."""
        column = f"column '{self.column}'" if self.column else ""
        said_of_it = self.what.startswith(("has ", "is "))
        front = f"{column}{' ' if said_of_it else ': '}" if column else ""
        return f"{front}{self.what}{': ' + self.text if self.text else '.'}"


class BadRows:
    """Collects bad rows; the first few are kept to be shown, every one is spooled to a temporary file.

    Those of a `USUAL` kind are no reason to stop: `serious` counts the others.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.first: list[BadRow] = []
        self._first_serious: list[BadRow] = []
        self._first_of: dict[str, BadRow] = {}
        self._spool = tempfile.SpooledTemporaryFile(  # noqa: SIM115 lives as long as this does
            max_size=1 << 20, mode="w+", encoding="utf-8"
        )

    def __len__(self) -> int:
        return self.kinds.total()

    def add(self, place: RowLocation, column: str | None, kind: str, what: str, text: str = "") -> None:
        """Note one bad row; `text` is cut to one line here."""
        self._add(BadRow(place.file, place.line, column, kind, what, cut(text)))

    def include(self, lines: Iterable[str]) -> None:
        """Add the rows that another one has written: lines of JSON."""
        for line in lines:
            self._add(BadRow(**json.loads(line)))

    def lines(self) -> Iterator[str]:
        """Yield every row as a line of JSON."""
        self._spool.seek(0)
        yield from self._spool
        self._spool.seek(0, SEEK_END)

    @property
    def serious(self) -> int:
        """How many rows are a reason to stop."""
        return sum(count for kind, count in self.kinds.items() if kind not in USUAL)

    def counted(self) -> str:
        """Return how many there are of each kind, in words."""
        parts = [f"{count:,} {USUAL[kind][count > 1]}" for kind, count in self.kinds.items() if kind in USUAL]
        if others := self.serious:
            parts.append(f"{others:,} {'other ' if parts else ''}bad {'row' if others == 1 else 'rows'}")
        return ", ".join(parts)

    def _add(self, row: BadRow) -> None:
        self.kinds[row.kind] += 1
        self._first_of.setdefault(row.kind, row)
        if len(self.first) < SHOWN:
            self.first.append(row)
        if row.kind not in USUAL and len(self._first_serious) < SHOWN:
            self._first_serious.append(row)
        self._spool.write(json.dumps(asdict(row), ensure_ascii=True) + "\n")

    def problems(self, rows_read: int, written: Path | None) -> list[Problem]:
        """Return a problem that counts the bad rows and says where they are listed, then the first of them.

        Rows of a usual kind are left out of it where there are others. Nearly all rows bad for one reason are one
        problem, with the advice for that reason.
        """
        listed = f" All of them are listed in {written}." if written else ""
        kind, count = self._commonest()
        if count >= _ENOUGH and count >= _NEARLY_ALL * rows_read:
            what = f"{count:,} of {rows_read:,} rows are bad for the same reason"
            return [self._of_kind(kind, what, listed)]
        problems, advised = [], set()
        for row in self._first_serious or self.first:
            advice = "" if row.kind in advised else ADVICE[row.kind]
            advised.add(row.kind)
            problems.append(Problem(f"{row.file}:{row.line}", row.sentence(), advice, part=True))
        total = self.serious or len(self)
        what = f"{total:,} of {rows_read:,} {'row' if rows_read == 1 else 'rows'} {'is' if total == 1 else 'are'} bad."
        advice = f"Mend them, or leave them out: data.on_bad_rows=skip.{listed}"
        return [Problem("data.on_bad_rows", what, advice), *problems]

    def none_left(self) -> Problem:
        """Return the problem that every row was skipped, with the commonest reason; call it only if some were."""
        kind, count = self._commonest()
        total = self.serious
        were = "row was" if total == 1 else "rows were"
        reason = "for the same reason" if count == total else "most of them for the same reason"
        what = f"no usable row is left: {total:,} {were} skipped, {reason}"
        return self._of_kind(kind, what)

    def _commonest(self) -> tuple[str, int]:
        """Return the kind of most rows, and how many they are; a usual kind only where there is no other."""
        kinds = Counter({kind: count for kind, count in self.kinds.items() if kind not in USUAL}) or self.kinds
        return kinds.most_common(1)[0]

    def _of_kind(self, kind: str, what: str, listed: str = "") -> Problem:
        """Return one problem for all rows of a kind, at the setting that cures it, else at the first of the rows."""
        row = self._first_of[kind]
        place = f"{row.file}:{row.line}"
        if key := _CURED_BY.get(kind):
            return Problem(key, f"{what}; {place} is the first: {row.sentence()}", f"{ADVICE[kind]}{listed}")
        return Problem(place, f"{what}: {row.sentence()}", f"{ADVICE[kind]}{listed}")

    def write(self, path: Path) -> None:
        """Write every bad row as one line of JSON: file, line, column, kind, what, text.

        Raises:
            RunError: the file cannot be written.
        """
        draft = path.with_name(f".{path.name}.tmp")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.writelines(self.lines())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise explain(error, f"write {path}") from error


def list_for_user(bad: BadRows) -> Path | None:
    """Write all bad rows to `problems.jsonl` where the command was typed; None if nothing can be written there.

    An older list is replaced; a file of that name that is something else is left alone.
    """
    path = Path(FILE)
    try:
        with path.open("rb") as file:
            is_ours = file.read(9) == b'{"file": '
        path = path if is_ours else Path(f"finetune-{FILE}")
    except OSError:
        pass  # there is none, or none that can be read: writing tells
    try:
        bad.write(path)
    except RunError:
        return None
    return path


def list_apart(bad: BadRows) -> Path | None:
    """Return a new temporary file that lists the bad rows, None if there are none."""
    if not bad:
        return None
    path = Path(tempfile.mkdtemp(prefix="finetune-")) / FILE
    bad.write(path)
    return path


def rows_in(paths: Iterable[Path | None]) -> BadRows:
    """Return the bad rows that these files list."""
    bad = BadRows()
    for path in paths:
        if path is not None:
            with path.open(encoding="utf-8") as lines:
                bad.include(lines)
    return bad


def cut(text: str, width: int = 60) -> str:
    """Return `text` on one printable line of at most `width` characters, for a message."""
    line = " ".join(text[: 4 * width].split())
    shown = "".join(char if char.isprintable() else _escaped(char) for char in line[: width + 1])
    return shown if len(shown) <= width and len(text) <= 4 * width else shown[: width - 1] + "…"


# A byte b that cannot be decoded becomes the lone surrogate U+DC00 + b.
UNDECODABLE = 0xDC00


def _escaped(char: str) -> str:
    code = ord(char)
    if UNDECODABLE <= code < UNDECODABLE + 256:
        code -= UNDECODABLE
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

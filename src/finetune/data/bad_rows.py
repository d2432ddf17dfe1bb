"""Bad rows: each with its file, line, column, problem and text; the first are shown, all are listed in a file."""

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
from finetune.runs.atomic import open_atomically

SHOWN = 20
FILE = "problems.jsonl"

ADVICE = {
    "ragged": "A cell that holds the delimiter or a line end must be in double quotes.",
    "unclosed": 'Close it with a double quote; a quote inside a quoted cell is written twice ("").',
    "stray": 'A quote inside a quoted cell is written twice ("").',
    "undecodable": "If the whole file is in another encoding, set data.encoding=cp1252 (Windows, Excel) or latin-1.",
    "nul": "Remove it; many of them indicate that the file is utf-16 (data.encoding=utf-16).",
    "long": "If it is intended, raise data.max_cell_characters.",
    "json": 'Every line must be one JSON object, such as {"anchor": "...", "positive": "..."}.',
    "row": "Every row must be a dict, or a tuple of as many values.",
    "array": 'Every row must be an array of as many values, such as ["...", "..."].',
    "type": "Every row of a column must be of the same kind.",
    "unsupported": "Give text, numbers, lists of numbers, paths, images of Pillow, or arrays (height, width, 3) of "
    "uint8.",
    "empty": "Every row needs it.",
    "negative": "A negative must be a wrong answer.",
    "same": "Nothing can be learned from such a pair.",
    "number": "A score is a finite number, such as 0.75; set 'data.decimal=\",\"' for numbers with a decimal comma, "
    "data.score_values for words and classes.",
    "grade": "A grade is a finite number, such as 1; above 0 is a right answer.",
    "score_values": "Add it there with its score; null leaves its rows out.",
    "lengths": "There must be one score for each document.",
    "lonely": "A class with one member has no pairs.",
    "image": "It must be an image that Pillow can open.",
    "mesh": "It must be a mesh with faces or points (OBJ, OFF, PLY).",
    "vector": "All vectors of a column must have the same number of finite numbers.",
    "unknown": "Most judgments have ids that are not in corpus.jsonl and queries.jsonl: are these files of one set?",
    "dangling": "Every id must be one of corpus.jsonl and queries.jsonl.",
    "blank": "Nothing can be searched for, or found, by an empty text.",
    "regraded": "Remove the grade that does not count.",
    "id": "Every text needs an id.",
    "twice": "Every id must be unique.",
    "missing": "Paths are relative to the folder of the data file.",
    "unreachable": "Try it in a browser, or download the files and give their paths.",
}


# Harmless kinds that published data sets contain: such rows are left out and counted, and are no reason to stop. Each
# kind with the words for one row and for several.
TOLERATED = {
    "dangling": ("judgment of an id that is not there", "judgments of ids that are not there"),
    "blank": ("empty text", "empty texts"),
    "regraded": (
        "judgment that is given again with another grade (the last one counts)",
        "judgments that are given again with other grades (the last ones count)",
    ),
}


# Kinds that are fixed by a setting for the whole file, with that setting.
_FIXED_BY = {"undecodable": "data.encoding", "nul": "data.encoding", "long": "data.max_cell_characters"}
_NEARLY_ALL = 0.9  # share of the rows from which on one common reason is reported instead of single rows
_ENOUGH = 10  # with fewer rows, each is reported


class RowLocation(NamedTuple):
    """Where a row is: the file as it is called in messages, and the line it begins in (or its row, from 1)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class BadRow:
    """One bad row: `kind` is a key of `ADVICE`, `what` a sentence, `text` the content, cut to one line."""

    file: str
    line: int
    column: str | None
    kind: str
    what: str
    text: str = ""

    def sentence(self) -> str:
        """Return column, what is wrong, and the text."""
        sentence = self.what
        if self.column:
            has_verb = self.what.startswith(("has ", "is "))
            sentence = f"column '{self.column}'{' ' if has_verb else ': '}{self.what}"
        if self.text:
            return f"{sentence}: {self.text}"
        return f"{sentence}."


class BadRows:
    """Collects bad rows: the first few in memory for messages, all of them in a temporary file.

    Those of a `TOLERATED` kind are no reason to stop: `serious` counts the rest.
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

    def add(self, location: RowLocation, column: str | None, kind: str, what: str, text: str = "") -> None:
        """Add one bad row; `text` is cut to one line here."""
        self._add(BadRow(location.file, location.line, column, kind, what, cut(text)))

    def include(self, lines: Iterable[str]) -> None:
        """Add the rows of another list: lines of JSON, as `lines` yields them."""
        for line in lines:
            self._add(BadRow(**json.loads(line)))

    def lines(self) -> Iterator[str]:
        """Yield every row as a line of JSON."""
        self._spool.seek(0)
        yield from self._spool
        self._spool.seek(0, SEEK_END)

    @property
    def serious(self) -> int:
        """The number of rows that are a reason to stop."""
        return sum(count for kind, count in self.kinds.items() if kind not in TOLERATED)

    def counted(self) -> str:
        """Return the number of rows of each tolerated kind, and of the rest, in words."""
        parts = [f"{count:,} {TOLERATED[kind][count > 1]}" for kind, count in self.kinds.items() if kind in TOLERATED]
        serious = self.serious
        if serious:
            other = "other " if parts else ""
            parts.append(f"{serious:,} {other}bad {'row' if serious == 1 else 'rows'}")
        return ", ".join(parts)

    def _add(self, row: BadRow) -> None:
        self.kinds[row.kind] += 1
        self._first_of.setdefault(row.kind, row)
        if len(self.first) < SHOWN:
            self.first.append(row)
        if row.kind not in TOLERATED and len(self._first_serious) < SHOWN:
            self._first_serious.append(row)
        self._spool.write(json.dumps(asdict(row), ensure_ascii=True) + "\n")

    def problems(self, rows_read: int, written: Path | None) -> list[Problem]:
        """Return a problem with the number of bad rows and the file that lists them, then the first of the rows.

        Rows of a tolerated kind are left out if there are serious ones. If nearly all rows are bad for one reason,
        that is the only problem, with the advice for that reason.
        """
        listed = ""
        if written is not None:
            listed = f" All of them are listed in {written}."
        kind, count = self._most_common()
        if count >= _ENOUGH and count >= _NEARLY_ALL * rows_read:
            what = f"{count:,} of {rows_read:,} rows are bad for the same reason"
            return [self._of_kind(kind, what, listed)]
        problems, advised = [], set()
        for row in self._first_serious or self.first:
            advice = ""
            if row.kind not in advised:
                advice = ADVICE[row.kind]
                advised.add(row.kind)
            problems.append(Problem(f"{row.file}:{row.line}", row.sentence(), advice, part=True))
        total = self.serious or len(self)
        of_rows = f"{rows_read:,} {'row' if rows_read == 1 else 'rows'}"
        what = f"{total:,} of {of_rows} {'is' if total == 1 else 'are'} bad."
        advice = f"Fix them, or leave them out: data.on_bad_rows=skip.{listed}"
        return [Problem("data.on_bad_rows", what, advice), *problems]

    def none_left(self) -> Problem:
        """Return the problem that every row was skipped, with the most common reason; there must be bad rows."""
        kind, count = self._most_common()
        total = self.serious
        were = "row was" if total == 1 else "rows were"
        reason = "for the same reason"
        if count < total:
            reason = "most of them for the same reason"
        what = f"no usable row is left: {total:,} {were} skipped, {reason}"
        return self._of_kind(kind, what)

    def _most_common(self) -> tuple[str, int]:
        """Return the kind of most rows, and their number; a tolerated kind only if there is no serious one."""
        serious = Counter({kind: count for kind, count in self.kinds.items() if kind not in TOLERATED})
        return (serious or self.kinds).most_common(1)[0]

    def _of_kind(self, kind: str, what: str, listed: str = "") -> Problem:
        """Return one problem for all rows of a kind, at the setting that fixes it, else at the first of the rows."""
        row = self._first_of[kind]
        location, advice = f"{row.file}:{row.line}", f"{ADVICE[kind]}{listed}"
        if kind in _FIXED_BY:
            return Problem(_FIXED_BY[kind], f"{what}; {location} is the first: {row.sentence()}", advice)
        return Problem(location, f"{what}: {row.sentence()}", advice)

    def write(self, path: Path) -> None:
        """Write every bad row as one line of JSON: file, line, column, kind, what, text.

        Raises:
            RunError: the file cannot be written.
        """
        with open_atomically(path) as file:
            file.writelines(line.encode() for line in self.lines())


def list_for_user(bad: BadRows) -> Path | None:
    """Write all bad rows to `problems.jsonl` in the working directory; None if it cannot be written.

    An older list is replaced; any other file of that name is not touched.
    """
    path = Path(FILE)
    try:
        with path.open("rb") as file:
            is_older_list = file.read(9) == b'{"file": '
        if not is_older_list:
            path = Path(f"finetune-{FILE}")
    except OSError:
        pass  # no file, or not readable: then writing fails
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
    shown = "".join(map(_printable, line[: width + 1]))
    if len(shown) > width or len(text) > 4 * width:
        return shown[: width - 1] + "…"
    return shown


# A byte b that cannot be decoded becomes the lone surrogate U+DC00 + b.
UNDECODABLE = 0xDC00


def _printable(char: str) -> str:
    """Return a printable character as it is, any other one as an escape sequence."""
    if char.isprintable():
        return char
    code = ord(char)
    if UNDECODABLE <= code < UNDECODABLE + 256:
        code -= UNDECODABLE
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}"

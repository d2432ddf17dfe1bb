"""A small table of columns: ready for a data frame, and readable in a terminal and a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SHOWN = 60  # rows in a notebook and in `str`


class Table(dict[str, list[Any]]):
    """Columns of equal length by name, in order; a missing value is None.

    It is a dict, so that `pandas.DataFrame(table)` and `polars.DataFrame(table)` take it as it is.
    """

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> Table:
        """Return the table of these rows; `columns` come first, then others in the order in which they appear."""
        rows = list(rows)
        names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
        return cls({name: [row.get(name) for row in rows] for name in names})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts."""
        return [dict(zip(self, values, strict=True)) for values in zip(*self.values(), strict=True)]

    def __str__(self) -> str:
        cells = [list(self), *([_cell(value) for value in row.values()] for row in self.rows[:_SHOWN])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([*(line.rstrip() for line in lines), *self._rest()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self)
        body = ""
        for row in self.rows[:_SHOWN]:
            body += "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row.values()) + "</tr>"
        rest = "".join(f"<p>{line}</p>" for line in self._rest())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"

    def _rest(self) -> list[str]:
        more = len(self.rows) - _SHOWN
        return [f"and {more:,} more rows"] if more > 0 else []


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)

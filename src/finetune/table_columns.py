"""Tables that drop columns in a narrow terminal, instead of wrapping their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, ConsoleOptions
from rich.table import Table

_UNLIMITED = 100_000  # characters


class ResponsiveTable:
    """A table that drops the `expendable` columns one by one, in this order, until the others fit on a line.

    `make` builds the table with the given columns. If they still do not fit, Rich wraps their cells.
    """

    def __init__(self, make: Callable[[Sequence[str]], Table], columns: Sequence[str], expendable: Sequence[str]):
        self._make, self._columns, self._expendable = make, list(columns), expendable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Table]:
        columns = self._columns
        wide = options.update(width=_UNLIMITED)
        for name in self._expendable:
            if console.measure(self._make(columns), options=wide).maximum <= options.max_width:
                break
            columns = [column for column in columns if column != name]
        yield self._make(columns)

"""The report of a run, to show in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Report:
    """The report of a run: the last expression of a notebook's cell shows it, `print` prints it as Markdown.

    `path` is its HTML page, which loads nothing from the network, and `data` what it shows, as in report.json.
    """

    path: Path
    data: Mapping[str, Any]

    @cached_property
    def page(self) -> str:
        """The HTML page."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def markdown(self) -> str:
        """The same as Markdown."""
        return self.path.with_suffix(".md").read_text(encoding="utf-8")

    def __str__(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"

    def _repr_html_(self) -> str:
        # A frame of its own, so that the styles of the page and of the notebook do not mix.
        style = "width: 100%; height: 640px; border: 1px solid #8884"
        page = html.escape(self.page)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="report of the run" style="{style}"></iframe>'

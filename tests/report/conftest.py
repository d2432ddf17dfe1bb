"""A real browser, and runs whose reports it opens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune.report.comparison import comparison_page
from finetune.report.write import write_report
from finetune.runs.atomic import write_json_atomically
from finetune.runs.record import read_run
from tests.report.made import BARE, make_reported_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium in headless mode, for tests marked `browser`."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: make browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox does not work for root, and the pages are our own.
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of harmless texts, one of hostile texts, a minimal one, and one that compares them."""
    root = tmp_path_factory.mktemp("reported")
    names = ("calm", "hostile", "bare")
    runs = {name: make_reported_run(root, f"x/{name}", hostile=name == "hostile") for name in names}
    write_json_atomically(runs["bare"].report_data_path, BARE)
    runs["bare"].metrics_path.unlink()
    for run in runs.values():
        write_report(run)
    compared = root / "x" / "compared.html"
    compared.write_text(comparison_page([read_run(run.path) for run in runs.values()]), encoding="utf-8")
    return {name: run.report_page_path for name, run in runs.items()} | {"compared": compared}

"""Make the pictures of the documentation: a run on the bundled data, its terminal output and its report.

Example: .venv/bin/python scripts/docs/screenshots.py --steps 60

Writes docs/images/terminal.svg, docs/images/mistakes.svg and docs/images/report.png. Needs chromium (make browser).
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
COLUMNS, LINES = 110, 60
MISTAKES = ["trainer.max_epcohs=3", "model=brt", "loss.temperature=0"]


def main() -> None:
    """Run the commands and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=None, help="optimizer steps of the run; default: those of the bundled data"
    )
    steps = parser.parse_args().steps
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        words = ["name=first"] if steps is None else ["name=first", f"trainer.max_steps={steps}"]
        write_terminal(["python", "train.py", *words], run_in_terminal(words, Path(folder)), "terminal")
        write_terminal(["python", "train.py", *MISTAKES], run_in_terminal(MISTAKES, Path(folder)), "mistakes")
        photograph(Path(folder) / "outputs/default/first/report.html", IMAGES / "report.png")


def run_in_terminal(words: list[str], folder: Path) -> str:
    """Run `python train.py` with these words in a pseudo-terminal and return what it printed, with its colors."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 1)[0]:
            try:
                output += os.read(ours, 65536)
            except OSError:  # the terminal is closed
                break
    return output.decode(errors="replace")


def write_terminal(command: list[str], printed: str, name: str) -> None:
    """Draw a command and its output as docs/images/NAME.svg; of a line that was rewritten, only its last state."""
    from rich.console import Console
    from rich.text import Text

    lines = [line.rstrip("\r").rpartition("\r")[2] for line in printed.replace("\x1b[2K", "").split("\n")]
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {' '.join(command)}", style="bold"))
        console.print(Text.from_ansi("\n".join(lines).strip("\n")))
        console.save_svg(str(IMAGES / f"{name}.svg"), title="finetune")


def photograph(page: Path, image: Path) -> None:
    """Take a picture of the top of a page with chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": 1100, "height": 1300})
        tab.goto(page.as_uri())
        tab.screenshot(path=str(image))
        browser.close()


if __name__ == "__main__":
    main()

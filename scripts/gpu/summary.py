"""Add the outcome of one part of `run.sh` to `results.json` and `summary.md` of its folder.

python scripts/gpu/summary.py FOLDER PART STATE EXIT_CODE SECONDS LIMIT

What the part wrote itself, PART.json and PART.md, is taken over and removed, so that the folder has few files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_LINES = 15  # of the log of a part that did not end well


def main() -> None:
    """Read the arguments, and write both files."""
    folder, part = Path(sys.argv[1]), sys.argv[2]
    results_path = folder / "results.json"
    results: dict[str, Any] = json.loads(results_path.read_text()) if results_path.exists() else {"parts": {}}
    outcome: dict[str, Any] = {
        "state": sys.argv[3],
        "exit_code": int(sys.argv[4]),
        "seconds": int(sys.argv[5]),
        "limit": int(sys.argv[6]),
    }
    outcome["last_line"], outcome["log_end"] = _end_of(folder / f"{part}.log", outcome["state"])
    outcome["results"] = _take(folder / f"{part}.json")
    outcome["markdown"] = _take(folder / f"{part}.md")
    results["parts"][part] = outcome
    results_path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(summary(results["parts"]), encoding="utf-8")


def _end_of(log: Path, state: str) -> tuple[str, list[str]]:
    """Return the last line of a log, and the last lines unless the part is ok."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    lines = [line for line in lines if line.strip()]
    return (lines[-1] if lines else ""), ([] if state == "ok" else lines[-_LINES:])


def _take(path: Path) -> Any:
    """Return the content of a file and remove it; None if there is none."""
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    path.unlink()
    return json.loads(text) if path.suffix == ".json" else text


def summary(parts: dict[str, Any]) -> str:
    """Return the table of all parts, then what each wrote, or the end of its log."""
    lines = [
        "# Results of scripts/gpu/run.sh",
        "",
        "| part | state | seconds | limit | last line |",
        "|---|---|---:|---:|---|",
    ]
    for name, part in parts.items():
        last = part["last_line"].replace("|", "\\|")[:120]
        lines.append(f"| {name} | {part['state']} | {part['seconds']} | {part['limit']} | {last} |")
    for name, part in parts.items():
        if part["markdown"]:
            lines += ["", f"## {name}", "", part["markdown"].rstrip()]
        if part["log_end"]:
            lines += ["", f"## {name}: end of the log", "", "```", *part["log_end"], "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

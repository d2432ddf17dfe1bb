"""What a command costs before it does anything: CPU seconds of fresh processes, of a wrong key and of the help texts.

    python scripts/bench/startup.py                          # this checkout
    python scripts/bench/startup.py --other ../before        # and another one, which has a .venv of its own
    python scripts/bench/startup.py --rounds 1               # only to see that it runs

CPU seconds are user and system time of the process and its children, because wall time depends on whatever else the
machine does. Both checkouts take turns. Bytecode is compiled once, before the first round, into a temporary folder, so
that the environment variable PYTHONDONTWRITEBYTECODE of a container or a CI job does not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from fresh import heading, table

HERE = Path(__file__).resolve().parents[2]
COMMANDS = {
    "train.py trainer.max_epcohs=3": 2,  # the exit code that shows that it did what it is measured for
    "train.py --help": 0,
    "train.py --shell-completion query=bash": 0,
    "train.py check=true": 0,
    "-m finetune --help": 0,
    "-m finetune losses": 0,
    "-m finetune runs --root .": 0,
}


def main() -> None:
    """Measure every command in fresh processes, alternating between the checkouts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    pythons = {"here": Path(sys.executable)}
    folders = {"here": HERE}
    if arguments.other:
        folders["other"] = arguments.other.resolve()
        pythons["other"] = folders["other"] / ".venv" / "bin" / "python"
    rows = []
    with tempfile.TemporaryDirectory(prefix="finetune-bench-startup-") as bytecode:
        for command, code in COMMANDS.items():
            measured: dict[str, list[float]] = {who: [] for who in folders}
            for count in range(arguments.rounds + 1):
                for who, folder in folders.items():
                    seconds = cpu_seconds([str(pythons[who]), *command.split()], folder, f"{bytecode}/{who}", code)
                    if count:  # the first one compiles
                        measured[who].append(seconds)
            found = {who: median(seconds) for who, seconds in measured.items()}
            print(f"{command}: {found}", file=sys.stderr)
            rows.append([f"`{command}`", *(f"{seconds:.2f}" for seconds in found.values())])
            if "other" in found:
                rows[-1].append(f"{found['other'] / found['here']:.1f}")
    print(heading())
    print(table(["CPU seconds", *folders, *(["times here"] if arguments.other else [])], rows))


def cpu_seconds(command: list[str], folder: Path, bytecode: str, code: int) -> float:
    """Run a command in a new process and return the CPU seconds that it took; stops everything if it fails."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "COMP_LINE": "python train.py trainer.ma"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode} and not {code}.")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()

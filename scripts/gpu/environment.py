"""Write what measurements on this machine depend on: `environment.json` and `environment.md` in a folder.

python scripts/gpu/environment.py --device cuda --out results
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import device
from results import write


def main() -> None:
    """Write and print the facts; without the GPU that was asked for, exit with a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} has no GPU here. nvidia-smi: {nvidia_smi()}")
    facts = {**device.environment(arguments.device), "nvidia_smi": nvidia_smi()}
    text = "\n".join(f"- {key}: {value}" for key, value in facts.items() if key != "nvidia_smi")
    text += f"\n\n```\n{facts['nvidia_smi']}\n```"
    write(arguments.out, "environment", facts, text)
    print(json.dumps(facts, indent=1))


def nvidia_smi() -> str:
    """Return what nvidia-smi prints, or that it is not there."""
    if shutil.which("nvidia-smi") is None:
        return "not installed"
    answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    return (answer.stdout or answer.stderr).strip()


if __name__ == "__main__":
    main()

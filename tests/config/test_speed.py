"""A command that only answers imports little: modules are counted, because seconds depend on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    *("torch", "lightning", "pytorch_lightning", "transformers", "tokenizers", "numpy", "pyarrow", "pandas", "scipy"),
    *("sklearn", "matplotlib", "jinja2", "fsspec", "optuna", "hydra_plugins", "PIL"),
    *("rich.progress", "rich.markdown", "rich.syntax", "rich.traceback", "rich.live"),
    *("asyncio", "multiprocessing", "http.client", "ssl", "unittest", "pdb"),
}
PROGRAM = """
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules))))
kind, name, *words = sys.argv[1:]
sys.argv = [name, *words]
if kind == "script":
    sys.path.insert(0, name.rpartition("/")[0])
    runpy.run_path(name, run_name="__main__")
else:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
TRAIN = ("script", str(ROOT / "train.py"))
FINETUNE = ("module", "finetune")


def answer(*words: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command in a fresh process; return also the modules that it imported."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ, check=False)
    return done, set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("words", "code", "most"),
    [
        # Hydra, OmegaConf and ANTLR alone are 260, and Python's own 100.
        pytest.param((*TRAIN, "trainer.max_epcohs=3"), 2, 520, id="a wrong key"),
        pytest.param((*TRAIN, "modle=bert", "optimizer.lr=-1"), 2, 520, id="a wrong group and a wrong value"),
        # Without Typer.
        pytest.param((*FINETUNE, "check", "trainer.max_epcohs=3"), 2, 520, id="finetune check"),
        pytest.param((*FINETUNE, "train", "trainer.max_epcohs=3"), 2, 520, id="finetune train"),
        pytest.param((*TRAIN, "--help"), 0, 520, id="train.py --help"),
        pytest.param((*TRAIN, "--version"), 0, 520, id="train.py --version"),
        pytest.param((*FINETUNE, "--help"), 0, 200, id="finetune --help"),
        # Typer imports pydantic where it is installed: 100.
        pytest.param((*FINETUNE, "losses"), 0, 640, id="finetune losses"),
        pytest.param((*FINETUNE, "runs", "--root", "."), 0, 400, id="finetune runs"),
    ],
)
def test_a_command_that_starts_nothing_imports_little(words: tuple[str, ...], code: int, most: int) -> None:
    done, modules = answer(*words)
    assert done.returncode == code, done.stderr
    assert not HEAVY & modules
    assert len(modules) <= most


def test_model_and_data_are_checked_without_their_libraries(tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("anchor,positive\nred,rot\n")
    (tmp_path / "model").mkdir()
    overrides = ["trainer.max_epcohs=3", f"data.path={data}", "data.columns=[question]", f"model.name={tmp_path}/model"]
    done, modules = answer(*TRAIN, *overrides)
    assert done.stderr.startswith("3 problems; nothing was started.\n"), done.stderr
    assert not HEAVY & modules

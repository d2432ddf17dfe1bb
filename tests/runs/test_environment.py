import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import finetune
from finetune.runs.environment import command_line, describe_environment, git_state


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_contents(repository: Path) -> None:
    found = describe_environment(repository)
    assert found["finetune"] == finetune.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"] == numpy.__version__
    assert found["packages"]["torch"] == torch.__version__
    assert found["git"] == {"sha": _git(repository, "rev-parse", "HEAD"), "dirty": False}
    assert 1 <= found["cpu_usable"] <= found["cpu_count"]
    assert found["memory_bytes"] > 2**28
    json.dumps(found, allow_nan=False)


def test_git_in_a_subfolder_with_a_change(repository: Path) -> None:
    (repository / "deep").mkdir()
    (repository / "file").write_text("two")
    assert git_state(repository / "deep") == {"sha": _git(repository, "rev-parse", "HEAD"), "dirty": True}


def test_git_before_the_first_commit(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {"sha": None, "dirty": False}


def test_no_git_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "gone") is None
    monkeypatch.setenv("PATH", "")
    assert describe_environment(tmp_path)["git"] is None


def test_a_repository_cannot_start_programs(repository: Path) -> None:
    _git(repository, "config", "core.fsmonitor", f"touch {repository}/pwned; false")
    assert git_state(repository) is not None
    assert not (repository / "pwned").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["train.py", "model=bert", "data.path=my pairs.csv"], "python train.py model=bert 'data.path=my pairs.csv'"),
        (["/somewhere/bin/finetune", "train", "seed=1"], "finetune train seed=1"),
        (
            ["train.py", "+logger.wandb.api_key=abc", "x.password=p=q"],
            "python train.py '+logger.wandb.api_key=***' 'x.password=***'",
        ),
        (["train.py", "data.max_tokens=5"], "python train.py data.max_tokens=5"),
        ([], "''"),
    ],
)
def test_the_command_can_be_repeated_without_secrets(argv: list[str], expected: str) -> None:
    assert command_line(argv) == expected


def test_environment_variables_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "do-not-tell")
    assert "do-not-tell" not in json.dumps(describe_environment(tmp_path))


def test_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, finetune.runs.directory, finetune.runs.environment\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'pytorch_lightning', 'rich') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert answer == "[]\n"

"""`finetune push` through the front door, with the real client of the hub and a stand-in of the hub on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.errors import FinetuneError
from finetune.formats.push import prepare_push
from tests.formats.hub import READ_TOKEN, TOKEN, Hub, running_hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    (folder / ".hidden").write_text("not for others")
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(b"onnx")
    return folder


def push(hub: Hub, model: Path, *words: str, code: int = 0, token: str | None = TOKEN, **env: str) -> str:
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(model.parent / "hf"),
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | own | env
    if token is not None:
        environment["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "push", str(model), *words],
        env=environment,
        cwd=model.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert TOKEN not in said and READ_TOKEN not in said
    return said


def test_a_model_is_uploaded_to_a_private_repository_with_all_its_files(hub, model):
    said = push(hub, model, "team/model", "--yes")
    assert "to the private repository team/model" in said and "onnx/model.onnx" in said
    assert hub.repos == {"team/model": True}
    expected = {
        path.relative_to(model).as_posix(): path.read_bytes()
        for path in model.rglob("*")
        if path.is_file() and path.name != ".hidden"
    }
    assert hub.files["team/model"] == expected
    for path in [*model.parent.rglob("*.log"), *model.parent.rglob("*.json")]:
        assert TOKEN not in path.read_text()

    # Again: it exists, so it is an update that has to be asked for, and of another visibility.
    assert "the repository team/model exists" in push(hub, model, "team/model", "--yes", code=1)
    (model / "README.md").write_text("---\nlicense: mit\n---\n# better\n")
    push(hub, model, "team/model", "--yes", "--update")
    assert b"better" in hub.files["team/model"]["README.md"]
    hub.repos["team/model"] = False
    assert "is public" in push(hub, model, "team/model", "--yes", "--update", code=1)


def test_nothing_is_created_without_a_confirmation(hub, model):
    assert "needs a confirmation" in push(hub, model, "team/model", code=2)
    assert hub.repos == {} and not any(request.startswith("POST") for request in hub.requests)


def test_a_dry_run_shows_files_visibility_and_card_without_the_hub_and_without_a_token(hub, model):
    said = push(hub, model, "team/model", "--dry-run", token=None, HF_HUB_OFFLINE="1")
    assert "model.safetensors" in said and "onnx/model.onnx" in said and ".hidden" not in said
    assert "to the private repository team/model" in said
    assert "license: mit" in said and "# mine" in said
    assert "PUBLIC" in push(hub, model, "team/model", "--dry-run", "--public")
    assert "is not a name of a repository" in push(hub, model, "team", "--dry-run", code=2)
    (model / "README.md").unlink()
    assert "There is no card" in push(hub, model, "team/model", "--dry-run", "--yes")
    assert hub.requests == []


@pytest.mark.thorough
def test_public_is_said_and_done(hub, model):
    assert "PUBLIC" in push(hub, model, "team/model", "--yes", "--public")
    assert hub.repos == {"team/model": False}


def test_a_file_that_the_hub_stores_wrongly_is_noticed(hub, model):
    hub.damages = ".safetensors"
    assert "model.safetensors on the hub differs" in push(hub, model, "team/model", "--yes", code=1)
    hub.damages = "tokenizer.json"  # which git holds, with another checksum
    assert "tokenizer.json on the hub differs" in push(hub, model, "team/other", "--yes", code=1)


def test_no_rights_and_wrong_tokens_are_explained(hub, model):
    said = push(hub, model, "team/model", "--yes", token=READ_TOKEN, code=1)
    assert "the token may not create team/model" in said and "right to write" in said
    assert "refuses the token" in push(hub, model, "team/model", "--yes", token="hf_wrong", code=1)
    assert "hf auth login" in push(hub, model, "team/model", "--yes", token=None, code=2)
    assert hub.repos == {}


def test_without_a_network_it_says_so(hub, model):
    assert "HF_HUB_OFFLINE is set" in push(hub, model, "team/model", "--yes", code=2, HF_HUB_OFFLINE="1")
    said = push(hub, model, "team/model", "--yes", code=1, HF_ENDPOINT="http://127.0.0.1:9")
    assert "could not look up team/model on the hub" in said and "Check the network" in said


def test_pickles_code_and_wrong_names_are_refused_before_the_hub_is_asked(hub, model):
    for name in ("team", "team/a/b", "../x", "-a/b", "a/b--c", "a/" + "b" * 100):
        with pytest.raises(FinetuneError, match="not a name of a repository"):
            prepare_push(model, name)
    (model / "modeling.py").write_text("import os")
    assert "pickle or code" in push(hub, model, "team/model", "--yes", code=2)
    assert hub.requests == []
    assert "does not exist" in push(hub, model.parent / "nothing", "team/model", "--yes", code=2)

"""What a wheel carries, and that it works on its own in an empty folder."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, quick, write_pairs


def test_every_package_is_listed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    source = ROOT / "src"
    there = {".".join(path.parent.relative_to(source).parts) for path in source.rglob("__init__.py")}
    assert listed == there | {"finetune.conf"}


def test_every_requirement_has_an_exact_version():
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in constraints()}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    names = {
        line.split()[0].lower().replace("_", "-").removesuffix("[python]")
        for text in wanted
        for line in text.split("\n")
        if line.strip()
    }
    assert {name for name in names if not name.startswith("finetune[")} <= pinned


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    return lines


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel's content in a folder, built from a copy of the sources so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in files.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "source"),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_carries_conf_data_and_licences(unpacked):
    shipped = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    carried = {str(path.relative_to(unpacked / "finetune/conf")) for path in unpacked.glob("finetune/conf/**/*.yaml")}
    assert carried == shipped
    assert (unpacked / "finetune/py.typed").is_file()
    data = unpacked / "finetune/datasets/reverse_dictionary"
    assert (data / "train.csv").is_file()
    assert (data / "evaluation/qrels/test.tsv").is_file()
    assert (data / "LICENSE.txt").is_file()
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


def test_finetune_train_from_the_wheel_in_an_empty_folder(unpacked, tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    code = (
        "import sys, finetune; assert finetune.__file__.startswith(sys.argv.pop(1));"
        "from finetune.cli.app import main; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(unpacked), "train", *quick(tiny_model, "name=wheel", "trainer.max_steps=2")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "outputs/default/wheel/model/model.safetensors").is_file()


def test_the_users_conf_adds_to_and_overrides_the_shipped_groups(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/optimizer").mkdir()
    (tmp_path / "conf/loss/sharp.yaml").write_text("_target_: finetune.losses.infonce.InfoNCE\ntemperature: 0.01\n")
    (tmp_path / "conf/optimizer/adamw.yaml").write_text("_target_: torch.optim.AdamW\nlr: 0.0123\n")
    show = [sys.executable, "-m", "finetune", "train", "loss=sharp", "--cfg", "job"]
    answer = subprocess.run(show, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "temperature: 0.01" in answer.stdout
    assert "lr: 0.0123" in answer.stdout
    assert "TextEncoder" in answer.stdout

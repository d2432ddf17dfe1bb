"""`scripts/gpu/pack.sh`: what a machine lacks, and nothing that it has."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PACK = ROOT / "scripts/gpu/pack.sh"


@pytest.fixture(scope="module")
def pack():
    spec = importlib.util.spec_from_file_location("gpu_pack", ROOT / "scripts/gpu/pack.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    command = [PACK, *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def everything(tmp_path):
    """A machine that has all packages of this one."""
    path = tmp_path / "machine.txt"
    path.write_text("".join(f"{each.name}=={each.version}\n" for each in distributions()))
    return path


def test_what_is_missing_is_packed_with_all_that_it_needs(pack):
    pinned = {"hydra-core": "1.3.8", "omegaconf": "2.3.1", "antlr4-python3-runtime": "4.9.3", "packaging": "26.3"}
    have = {"pyyaml": "6.0", "packaging": None}
    found = pack.closure([Requirement("hydra-core >=1.3.6"), Requirement("torch")], have, pinned, "3.12")
    assert found == {name: pinned[name] for name in ("hydra-core", "omegaconf", "antlr4-python3-runtime")}


def test_what_is_there_in_a_version_that_does_not_do_is_packed(pack):
    pinned = {"omegaconf": "2.3.1", "pyyaml": "6.0.3", "antlr4-python3-runtime": "4.9.3"}
    have = {"omegaconf": "2.1.0", "pyyaml": "6.0.3"}
    found = pack.closure([Requirement("omegaconf >=2.3,<2.4")], have, pinned, "3.12")
    assert found == {"omegaconf": "2.3.1", "antlr4-python3-runtime": "4.9.3"}


def test_every_package_is_pinned_and_torch_is_never_packed(pack):
    pinned = pack.read_constraints(ROOT / "constraints.txt")
    found = pack.closure([*pack.declared(), *map(Requirement, pack.NEEDED)], {}, pinned, "3.12")
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "plotille", "datasets", "pytest"} <= found.keys()
    assert not {"torch", "triton", "wandb"} & found.keys()
    assert not [name for name in found if name.startswith("nvidia")]


def test_a_list_of_packages_in_the_formats_of_pip(pack, tmp_path):
    path = tmp_path / "machine.txt"
    path.write_text("# list\nTorch==2.11.0+cu130\nnumpy\nsix @ file:///tmp/six.whl\n-e git+https://x/y#egg=z\n\n")
    assert pack.read_have(path) == {"torch": "2.11.0+cu130", "numpy": None, "six": None}


@pytest.mark.parametrize(
    ("limit", "dtype"), [(60, "BF16"), (20, None), pytest.param(200, "F32", marks=pytest.mark.thorough)]
)
def test_weights_are_as_exact_as_the_limit_allows(everything, tmp_path, limit, dtype):
    out = tmp_path / "out"
    done = run("--python", "3.12", "--have", everything, "--out", out, "--limit-mb", limit)
    assert done.returncode == 0, done.stderr
    assert (out / "requirements.txt").read_text() == ""
    assert (out / "model/tokenizer.json").exists() and (out / "model/1_Pooling/config.json").exists()
    weights = out / "model/model.safetensors"
    assert weights.exists() == (dtype is not None)
    if dtype:
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert header["embeddings.word_embeddings.weight"]["dtype"] == dtype
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert size < limit * 2**20
    syntax = subprocess.run(["sh", "-n", out / "install.sh"], capture_output=True, check=False)
    assert syntax.returncode == 0


def test_mistakes_are_one_line(everything, tmp_path):
    (tmp_path / "bad.txt").write_text("this is no list\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    for arguments, word in (
        (["--have", tmp_path / "none.txt"], "none.txt cannot be read"),
        (["--have", tmp_path / "bad.txt"], "'this is no list'"),
        (["--have", everything, "--out", tmp_path / "mine"], "is not empty"),
        (["--have", everything, "--out", tmp_path / "small", "--limit-mb", "1"], "more than --limit-mb 1"),
        (["--have", everything, "--out", tmp_path / "small", "--add", "no-such-package"], "no-such-package"),
    ):
        done = run("--python", "3.12", *arguments)
        assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "mine/file").exists()


@pytest.mark.network
@pytest.mark.slow
def test_the_wheels_are_installed_offline(everything, tmp_path):
    lacks = ("antlr4", "hydra", "omegaconf", "multiprocess")
    lines = [line for line in everything.read_text().splitlines() if not line.lower().startswith(lacks)]
    everything.write_text("\n".join(lines))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = run("--python", version, "--have", everything, "--out", tmp_path / "out", "--limit-mb", 20)
    assert done.returncode == 0, done.stderr
    install = [tmp_path / "out/install.sh", tmp_path / "site"]
    subprocess.run(install, env=os.environ | {"PYTHON": sys.executable}, check=True)
    code = "import hydra, omegaconf, antlr4, multiprocess; print(hydra.__file__)"
    answer = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
                            capture_output=True, text=True, check=True)  # fmt: skip
    assert answer.stdout.startswith(str(tmp_path / "site"))

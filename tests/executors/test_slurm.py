"""Runs and sweeps as jobs of a real SLURM cluster of four nodes on this machine; `make test-slurm`.

All of the first jobs are submitted at once and then run beside each other: they hold where a test wants them to.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from finetune.config.quoting import quoted
from tests.conftest import ROOT, quick, write_pairs

pytestmark = pytest.mark.slurm

CLUSTER = ROOT / "scripts/slurm/cluster.sh"
LONGEST = 240  # seconds that a test waits for what is to come; only a failure takes so long
MINE = """
import time
from pathlib import Path
from pytorch_lightning import Callback


class Hold(Callback):
    # Stays at a step until somebody stops the run; only once.
    def __init__(self, mark: str, step: int = 5) -> None:
        self.mark, self.step = Path(mark), step

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step and not self.mark.exists():
            self.mark.touch()
            while not any(getattr(callback, "stopped_by", None) for callback in trainer.callbacks):
                time.sleep(0.1)


class Boom(Callback):
    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def on_train_batch_start(self, trainer, module, batch, index):
        if self.fails and trainer.global_step == 3 and not Path("mended").exists():
            raise ValueError("injected")
"""


@dataclass(frozen=True)
class World:
    """A folder to type commands in, with a cluster."""

    folder: Path
    cluster: Path
    model: Path

    def run(self, *words):
        return subprocess.run(
            [sys.executable, "-m", "finetune", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )

    def submit(self, *words):
        done = self.run("submit", *self.settings(), *words)
        assert done.returncode == 0, done.stderr
        return done

    def settings(self):
        fixed = ["model.dropout=0", "callbacks.checkpoint.every_n_steps=2", "hydra.launcher.cpus_per_process=1"]
        return [*quick(self.model), *fixed]

    def path(self, name):
        return self.folder / "outputs/default" / name

    def shown(self, name):
        return next(run for run in json.loads(self.run("runs", "--json").stdout) if run["run"] == f"default/{name}")

    def job(self, name):
        return json.loads((self.path(name) / "job.json").read_text())["id"]

    def status(self, name):
        return json.loads((self.path(name) / "status.json").read_text())

    def ends(self, name):
        """Wait until a run says that it has ended, and its job too."""
        until(lambda: self.status(name)["state"] in ("finished", "failed", "interrupted"), f"{name} to end", self, name)
        until(lambda: not slurm("squeue", "--noheader", "--jobs", self.job(name)), f"{name}'s job to end", self, name)
        return self.status(name)

    def holds(self, name):
        until((self.folder / f"{name}.held").exists, f"{name} to hold", self, name)

    def restarts(self, name):
        return int(re.search(r"Restarts=(\d+)", slurm("scontrol", "show", "job", self.job(name)))[1])

    def weights(self, name):
        return torch.load(self.path(name) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    def said(self, name):
        return "\n".join(file.read_text() for file in sorted((self.path(name) / "ranks").glob("*")))


def until(holds, what, world, name):
    for _ in range(LONGEST * 5):
        if holds():
            return
        time.sleep(0.2)
    pytest.fail(f"waited for {what}: {world.status(name)}\n{slurm('squeue')}\n{world.said(name)}")


def slurm(*words):
    # An error of squeue is that it knows the job no more.
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def free_ports(count):
    for first in range(6917, 14_000, count):
        with_all = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(with_all):
                each.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for each in with_all:
                each.close()
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def cluster():
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster is started by root only")
    if missing := [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed; on Debian: {CLUSTER.relative_to(ROOT)} install")
    if subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives nodes no namespaces of their own")
    # Not below pytest's own folder, which others may not enter: munge wants that.
    folder = Path(tempfile.mkdtemp(prefix="finetune-slurm-"))
    ports = {"FIRST_PORT": str(free_ports(5))}
    try:
        subprocess.run([CLUSTER, "up", folder, "4"], env=os.environ | ports, check=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patch.setenv("FINETUNE_ALLOW", "mine")
            patch.setenv("HF_HUB_OFFLINE", "1")
            yield folder
    finally:
        subprocess.run([CLUSTER, "down", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def world(cluster, tiny_model, tmp_path_factory):
    """All jobs that need nothing of each other, each on a node where only it is disturbed."""
    folder = tmp_path_factory.mktemp("jobs") / 'it\'s 100% "here"'
    folder.mkdir()
    write_pairs(folder / "pairs.csv")
    (folder / "mine.py").write_text(MINE)
    world = World(folder, cluster, tiny_model)
    world.submit("name=one", on("node1"))
    for name, node, more in (
        ("preempted", "node3", []),
        ("limited", "node1", ["hydra.launcher.time=60", "hydra.launcher.save_seconds=60"]),
        ("lost", "node2", []),
        ("cancelled", "node[1,4]", ["trainer.num_nodes=2"]),
    ):
        holds = ["+callbacks.hold._target_=mine.Hold", f"+callbacks.hold.mark={name}.held"]
        world.submit(f"name={name}", on(node), *holds, *more)
    world.submit("name=two", "trainer.num_nodes=2", on("node[1,4]"))
    world.submit("name=waits", "+hydra.launcher.options.begin=now+1hour")
    return world


def on(nodes):
    return f"+hydra.launcher.options.nodelist='{nodes}'"


def test_one_run_is_checked_here_done_there_and_says_where_it_is(world):
    done = world.run("submit", *world.settings(), "name=one")
    assert done.returncode == 2  # it is in the queue, or at work, or finished
    assert world.ends("one")["state"] == "finished", world.said("one")
    assert world.status("one")["host"] == "node1"
    shown = world.shown("one")
    assert (shown["state"], shown["step"], shown["job"]) == ("finished", 21, world.job("one"))
    assert (world.path("one") / "model/model.safetensors").is_file()
    assert "training 21/21" in (world.path("one") / "ranks/0.log").read_text()
    # Neither what is asked of the cluster, nor where the run is, is a part of what it is.
    assert not [text for text in (world.path("one") / "overrides.yaml").read_text().splitlines() if "hydra" in text]


def test_what_waits_is_pending_is_not_removed_and_can_be_cancelled(world):
    shown = world.shown("waits")
    assert shown["state"] == "pending"
    assert f"Job {world.job('waits')} is waiting in the queue (BeginTime)" in shown["reason"]
    removal = world.run("runs", "rm", "waits", "--yes")
    assert removal.returncode == 2 and "finetune runs cancel" in removal.stderr
    assert "is pending as job" in world.run("submit", *world.settings(), "name=waits").stderr
    assert world.run("runs", "cancel", "waits").returncode == 0
    assert world.shown("waits")["state"] == "interrupted"
    assert world.status("waits")["cause"] == "cancelled"
    assert world.run("runs", "cancel", "waits").returncode == 2  # there is nothing to cancel any more


def test_two_nodes_compute_what_one_process_does(world):
    assert world.ends("two")["state"] == "finished", world.said("two")
    assert {file.name for file in (world.path("two") / "ranks").glob("*")} >= {"0.log", "1.log"}
    world.ends("one")
    one, two = world.weights("one"), world.weights("two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5, msg=name)


def test_a_preempted_run_saves_is_queued_again_once_and_ends_as_if_nothing_had_been(world):
    world.holds("preempted")
    urgent = ["--partition=urgent", "--exclusive", "--nodelist=node3", "--output=/dev/null", "--wrap=sleep 900"]
    urgent_job = slurm("sbatch", "--parsable", *urgent).strip()
    until(lambda: slurm("squeue", "-h", "-j", urgent_job, "-o%T").strip() == "RUNNING", "the other", world, "preempted")
    shown = world.shown("preempted")
    assert shown["state"] == "requeued"
    assert "at step 6 of 21" in shown["reason"] and "make room for another. It is requeued." in shown["reason"]
    assert world.status("preempted")["cause"] == "preempted"
    slurm("scancel", urgent_job)
    goes_on_alike(world, "preempted", step=6)


def test_a_run_past_its_time_saves_is_queued_again_and_goes_on(world):
    world.holds("limited")
    soon = datetime.now() + timedelta(seconds=62)
    slurm("scontrol", "update", f"JobId={world.job('limited')}", f"EndTime={soon:%Y-%m-%dT%H:%M:%S}")
    until(lambda: world.restarts("limited") == 1, "a restart", world, "limited")
    goes_on_alike(world, "limited", step=6)
    assert "The time limit of job" in world.said("limited")


def test_a_run_whose_node_dies_goes_on_from_its_last_checkpoint(world):
    world.holds("lost")
    subprocess.run([CLUSTER, "kill", world.cluster, "node2"], check=True)
    until(lambda: world.shown("lost")["state"] == "requeued", "a requeue", world, "lost")
    subprocess.run([CLUSTER, "boot", world.cluster, "node2"], check=True)
    goes_on_alike(world, "lost", step=4)


def goes_on_alike(world, name, step):
    """A run goes on from a step, by one restart, and has in the end the weights of one that nobody disturbed."""
    assert world.ends(name)["state"] == "finished", world.said(name)
    assert f"resuming from step {step}:" in world.said(name)
    assert world.restarts(name) == 1
    world.ends("one")
    one, mine = world.weights("one"), world.weights(name)
    assert all(torch.equal(one[key], mine[key]) for key in one)
    steps = [json.loads(line)["step"] for line in (world.path(name) / "metrics.jsonl").open() if '"loss"' in line]
    assert steps == list(range(1, 22))


def test_a_cancelled_run_of_two_nodes_saves_and_stays_away(world):
    world.holds("cancelled")
    assert "it saves and stops" in world.run("runs", "cancel", "cancelled").stdout
    status = world.ends("cancelled")
    assert (status["state"], status["cause"], status["step"]) == ("interrupted", "cancelled", 6)
    assert world.shown("cancelled")["state"] == "interrupted"
    assert (world.path("cancelled") / "checkpoints/step-00000006.ckpt").is_file()
    # By hand it goes on, with what was asked of the cluster then.
    shown = world.run("submit", f"resume={quoted(str(world.path('cancelled')))}", "dry_run=true")
    assert "--nodelist='node[1,4]'" in shown.stdout, shown.stderr


def test_a_sweep_is_an_array_goes_on_without_its_shell_and_reports_to_the_next(world):
    trials = ["+callbacks.boom._target_=mine.Boom", "+callbacks.boom.fails=true,false", "experiment=swept"]
    words = ["train", "-m", "hydra/launcher=slurm", *world.settings(), *trials, "sweep.parallel=2"]
    shell = subprocess.Popen(
        [sys.executable, "-m", "finetune", *words],
        cwd=world.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    while not said.endswith("at once at most\n"):
        said += shell.stdout.readline() or pytest.fail(shell.stderr.read())
    shell.send_signal(signal.SIGINT)
    said, errors = shell.communicate(timeout=LONGEST)
    assert shell.returncode == 130
    assert "2 trials are still in the queue or running, and continue without this shell" in errors
    jobs = {
        path.parent.name: json.loads(path.read_text())["id"] for path in world.folder.glob("outputs/swept/*/job.json")
    }
    assert len({each.partition("_")[0] for each in jobs.values()}) == 1

    again = world.run(*words)
    assert again.returncode == 1, again.stderr
    # Nothing is submitted twice; the failing point is told, and ranked last.
    assert "job " not in again.stdout.replace("as job ", "")
    table = again.stdout.split("the trials, best first")[1]
    assert table.index("boom.fails=False") < table.index("failed: ValueError: injected")

    (world.folder / "mended").touch()
    mended = world.run(*words)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert mended.stdout.count("finished already") == 1 and ": 1 trial," in mended.stdout


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("hydra.launcher.partition=nowhere", "to one of: main, urgent"),
        ("trainer.num_nodes=99", "SLURM refuses the job: Requested node configuration is not available"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused_and_leaves_nothing(world, asked, words):
    done = world.run("submit", *world.settings(), "experiment=impossible", asked)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (world.folder / "outputs/impossible").exists()

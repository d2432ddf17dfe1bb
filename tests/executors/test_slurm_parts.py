"""What stands before and behind a SLURM cluster: the script, the check, what its commands answer. These are faked here.

The cluster itself is in test_slurm.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.api.run import LocalRun
from finetune.config.check import check, check_overrides
from finetune.config.command_line import Arguments
from finetune.errors import FinetuneError
from finetune.executors.base import RunRequest
from finetune.executors.cancel import cancel_runs
from finetune.executors.pending import pending
from finetune.executors.slurm.executor import SlurmExecutor
from finetune.executors.slurm.script import script
from finetune.preflight.slurm import ResourceRequest, check_slurm, resource_request, seconds_of, slurm_settings
from finetune.runner import slurm_epilog
from finetune.runs.environment import write_changes
from finetune.runs.jobs import MARK, ONCE, QUEUED_AGAIN, write_job
from finetune.runs.record import read_run, read_runs
from tests.conftest import ROOT, quick, run_train, write_pairs
from tests.runs.made import living, make_run

SLURM = "hydra/launcher=slurm"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put commands of SLURM on the PATH that say something and end with a code; what each was called with is kept."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answer(name, said="", code=0, errors=""):
        (folder / f"{name}.said").write_text(said)
        (folder / f"{name}.errors").write_text(errors)
        text = f'#!/bin/sh\necho "$@" >> "$0.calls"\ncat "$0.said"\ncat "$0.errors" >&2\nexit {code}\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return folder / f"{name}.calls"

    return answer


def settings(*overrides):
    cfg = check([SLURM, *overrides])
    return slurm_settings(cfg), resource_request(cfg, slurm_settings(cfg))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (60, 3600),
        ("60", 3600),
        ("1:30", 90),
        ("2:00:10", 7210),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("1-0:0:5", 86405),
    ],
)
def test_lengths_of_time_are_read_as_sbatch_reads_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("override", "where", "words"),
    [
        ("hydra.launcher.partion=gpu", "hydra.launcher.partion=gpu", "Did you mean hydra.launcher.partition?"),
        ("+hydra.launcher.partion=gpu", "hydra.launcher.partion", "Did you mean hydra.launcher.partition?"),
        ("hydra.launcher.time=0", "hydra.launcher.time", "at least 1"),
        ("hydra.launcher.cpus_per_process=-1", "hydra.launcher.cpus_per_process", "at least 1"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_", ""),
        ("hydra/launcher=slrum", "hydra/launcher", "Did you mean slurm?"),
        (
            "hydra.launcher.options={begin: now}",
            "hydra.launcher.options={begin: now}",
            "+hydra.launcher.options.begin=",
        ),
    ],
)
def test_what_is_wrong_with_the_launchers_config_is_reported_as_anywhere(override, where, words):
    _, problems = check_overrides([SLURM, override] if "/" not in override else [override])
    assert any(problem.where.startswith(where) and words in f"{problem.what} {problem.advice}" for problem in problems)


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["hydra.launcher.time=soon"], "hydra.launcher.time"),
        (["hydra.launcher.time=2"], "hydra.launcher.time"),  # minutes, and it is told to save two before the end
        (["trainer.devices=auto"], "trainer.devices"),
        (["+hydra.launcher.options.output=/etc/passwd"], "hydra.launcher.options.output"),
        (["+hydra.launcher.options.time=3"], "hydra.launcher.options.time"),
        (["+hydra.launcher.options.comment='a\nb'"], "hydra.launcher.options.comment"),
        (["hydra.launcher.partition='a\n#SBATCH --uid=0'"], "hydra.launcher.partition"),
    ],
)
def test_what_no_job_can_be_asked_for(overrides, where, commands):
    commands("sbatch")
    assert [problem.where for problem in check_slurm(check([SLURM, *overrides]))] == [where]


def test_a_script_asks_for_what_the_config_says():
    asked = ["trainer.num_nodes=2", "trainer.devices=4", "trainer.accelerator=gpu", "hydra.launcher.partition=gpu"]
    asked += ["hydra.launcher.memory=32G", "+hydra.launcher.options.exclusive=true", "hydra.launcher.requeue=false"]
    asked += ["+hydra.launcher.options.mail-user='me and you'"]
    slurm, shape = settings(*asked)
    text = script([RunRequest(Path("r"), [])], slurm, shape, Arguments([]))
    told = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert told == [
        *["job-name=finetune", "nodes=2", "ntasks-per-node=4", "cpus-per-task=4", "gpus-per-node=4", "time=1440"],
        *["mem=32G", "partition=gpu", "no-requeue", "signal=USR1@120", "output=/dev/null", "exclusive"],
        "mail-user='me and you'",
    ]


@pytest.mark.parametrize("number", [None, "1"])
def test_a_script_starts_its_run_whatever_its_name_and_records_how_it_ended(tmp_path, monkeypatch, commands, number):
    run = tmp_path / 'it\'s 100% "$HOME" `x` ü'
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin/srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RUN/arguments"\nexit 3\n')
    (tmp_path / "bin/srun").chmod(0o755)
    (run / "config.yaml").touch()
    tasks = [
        RunRequest(tmp_path / "other", []),
        RunRequest(run, ["name='it''s; rm -rf x'", "resume=never", SLURM, "dry_run=true"]),
    ]
    text = script(
        tasks if number else tasks[1:], settings()[0], ResourceRequest(1, 1, 0), Arguments([]), 2 if number else None
    )
    outside = (
        os.environ | {"SLURM_CPUS_PER_TASK": "4", "RUN": str(run)} | ({"SLURM_ARRAY_TASK_ID": number} if number else {})
    )
    done = subprocess.run(["bash"], input=text, text=True, env=outside, check=False)
    assert done.returncode == 3
    arguments = (run / "arguments").read_text().splitlines()
    assert f"--output={str(run).replace('%', '%%')}/ranks/%t.log" in arguments
    assert arguments[-3:-1] == ["name='it''s; rm -rf x'", "resume=auto"]
    assert arguments[-1].startswith("hydra.run.dir=") and "resume=never" not in arguments
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["cause"]) == ("failed", "killed")
    assert "exit code 3" in status["reason"]


def job(tmp_path, name, state, job_id, **facts):
    run = make_run(tmp_path, f"e/{name}", "finished")
    run.write_status(state, **facts)
    write_job(run, job_id, [])
    return run


def test_the_cluster_decides_the_state_where_a_run_cannot(tmp_path, commands):
    again = {"reason": "so", "cause": "preempted", "will_resume": True}
    before = {"reason": "so", "cause": "preempted", "goes_on": True}  # as earlier versions wrote it
    runs = {
        "waits": job(tmp_path, "waits", "pending", "1"),
        "begins": job(tmp_path, "begins", "pending", "2"),
        "works": job(tmp_path, "works", "running", "3_7"),
        "preempted": job(tmp_path, "preempted", "interrupted", "4", **again),
        "about to be": job(tmp_path, "about to be", "interrupted", "5", **before),
        "its node died": job(tmp_path, "its node died", "running", "6"),
        "cancelled": job(tmp_path, "cancelled", "pending", "7"),
        "memory": job(tmp_path, "memory", "running", "8"),
        "gone": job(tmp_path, "gone", "pending", "9"),
        "done": job(tmp_path, "done", "finished", "10"),
    }
    lines = ["1|PENDING|Priority", "2|RUNNING|None", "3_7|RUNNING|None", "4|PENDING|BeginTime", "5|COMPLETING|None"]
    calls = commands("squeue", "\n".join([*lines, "6|PENDING|BeginTime", "7|CANCELLED|None"]))
    commands("sacct", "8|OUT_OF_MEMORY\n")
    found = {record.run.name: record for record in read_runs([run.path for run in runs.values()])}
    assert {name: found[name].state for name in runs} == {
        "waits": "pending",
        "begins": "running",
        "works": "running",
        "preempted": "requeued",
        "about to be": "requeued",
        "its node died": "requeued",
        "cancelled": "interrupted",
        "memory": "failed",
        "gone": "interrupted",
        "done": "finished",
    }
    assert found["waits"].reason == "Job 1 is waiting in the queue (Priority)."
    assert "out of memory" in found["memory"].reason
    assert len(calls.read_text().splitlines()) == 1  # for all of them


def test_a_run_whose_cluster_is_out_of_reach_keeps_its_last_status(tmp_path, commands):
    commands("squeue", code=1, errors="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    commands("sacct", code=1)
    record = read_run(job(tmp_path, "a", "pending", "1").path)
    assert record.state == "pending"
    assert "The state of job 1 is unknown: squeue: " in record.reason and "Unable to contact" in record.reason


@pytest.mark.parametrize(
    ("facts", "warned", "mark", "steps", "cause", "asks"),
    [
        ("JobState=RUNNING Restarts=0 PreemptTime=2026-01-01T00:00:00", True, QUEUED_AGAIN, 0, "preempted", True),
        ("JobState=RUNNING Restarts=0 PreemptTime=None", True, QUEUED_AGAIN, 3, "time limit", True),
        # It would be the same for ever.
        ("JobState=RUNNING Restarts=0 PreemptTime=None", True, QUEUED_AGAIN, 0, "time limit", False),
        ("JobState=RUNNING Restarts=0 PreemptTime=None", True, ONCE, 3, "time limit", False),
        ("JobState=RUNNING Restarts=0 PreemptTime=None", False, QUEUED_AGAIN, 3, "stopped", False),
        # SLURM has ended it: it has queued it again, or it was cancelled, or its time was over too soon.
        ("JobState=COMPLETING Restarts=1 PreemptTime=None", False, QUEUED_AGAIN, 3, "preempted", False),
        ("JobState=COMPLETING RunTime=00:01:00 TimeLimit=01:00:00", False, QUEUED_AGAIN, 3, "cancelled", False),
        ("JobState=COMPLETING RunTime=01:00:02 TimeLimit=01:00:00", False, QUEUED_AGAIN, 3, "time limit", False),
        ("", False, QUEUED_AGAIN, 3, "stopped", False),
    ],
)
def test_why_a_job_stops_and_when_it_is_queued_again(
    tmp_path, commands, monkeypatch, facts, warned, mark, steps, cause, asks
):
    from finetune.runner import slurm_job

    calls = commands("scontrol", f"JobId=7 JobName=a=b {facts}\n", code=0 if facts else 1)
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm_job, "_warned", [True] if warned else [])
    stop = slurm_job.stop_reason(has_progressed=steps > 0)
    assert stop.cause == cause
    run = job(tmp_path, "a", "interrupted", "7", reason=stop.what, cause=stop.cause, will_resume=stop.will_resume)
    assert slurm_epilog.main(str(run.path), "130") == 130
    assert ("requeue 7" in calls.read_text()) is asks
    assert stop.will_resume is (asks or "Restarts=1" in facts)


def test_a_requeue_that_is_refused_is_recorded(tmp_path, commands, monkeypatch):
    commands("scontrol", "JobId=7 JobState=RUNNING", errors="Requested operation is presently disabled")
    script = Path(os.environ["PATH"].split(":")[0]) / "scontrol"
    script.write_text(script.read_text().replace("exit 0", '[ "$1" != requeue ]'))
    monkeypatch.setenv(MARK, QUEUED_AGAIN)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run = job(tmp_path, "a", "interrupted", "7", reason="It is queued again.", cause="time limit", will_resume=True)
    slurm_epilog.main(str(run.path), "130")
    status = run.read_status()
    assert status["will_resume"] is False and "could not: Requested operation is presently disabled" in status["reason"]


@pytest.mark.parametrize("now", ["submitting", "submitted"])
def test_a_late_epilog_leaves_the_status_of_the_next_job_alone(tmp_path, commands, monkeypatch, now):
    calls = commands("scontrol", "JobId=7 JobState=RUNNING")
    commands("squeue")
    monkeypatch.setenv(MARK, QUEUED_AGAIN)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run = job(tmp_path, "a", "failed", "7")
    with pending(run, existed=True):
        if now == "submitted":
            write_job(run, "8", [])
        assert slurm_epilog.main(str(run.path), "1") == 1
        assert run.read_status()["state"] == "pending"
    assert not calls.exists()


def test_a_submission_that_fails_leaves_the_run_as_it_was(tmp_path, commands):
    commands("squeue")
    run = job(tmp_path, "a", "failed", "7")
    before = run.read_status(), run.read_job()
    with pytest.raises(FinetuneError), pending(run, existed=True):
        raise FinetuneError("SLURM refuses the job.", "")
    assert (run.read_status(), run.read_job()) == before


def test_without_slurm_one_sentence_and_nothing_made(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    words = [sys.executable, "-m", "finetune", "submit", *quick(tiny_model)]
    only_python = {"PATH": str(tmp_path)} | {name: os.environ[name] for name in ("FINETUNE_CACHE", "HOME")}
    done = subprocess.run(words, cwd=tmp_path, env=only_python, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "sbatch is not on the PATH here" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_a_job_that_is_refused_leaves_nothing_and_one_that_is_shown_too(tiny_model, tmp_path, commands):
    write_pairs(tmp_path / "pairs.csv")
    commands(
        "sbatch", code=1, errors="sbatch: error: Batch job submission failed: Job violates accounting/QOS policy\n"
    )
    words = [sys.executable, "-m", "finetune", "submit", *quick(tiny_model), "name=a"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "SLURM refuses the job: Job violates accounting/QOS policy. Nothing was submitted." in done.stderr
    shown = subprocess.run([*words, "dry_run=true"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.stdout.startswith("#!/bin/bash\n") and "/outputs/default/a" in shown.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "bin"}


def test_options_of_a_cluster_are_refused_in_a_single_run(tmp_path):
    run = run_train(SLURM, "dry_run=true", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.count("finetune submit") == 2


def test_a_run_of_this_machine_is_cancelled_too(tmp_path):
    run = make_run(tmp_path, "e/a", "created")
    with living(run) as process:
        cancel_runs([read_run(run.path)])
        assert process.wait() != 0
    with pytest.raises(FinetuneError, match="nothing to cancel"):
        cancel_runs([read_run(run.path)])


def test_a_run_whose_process_is_not_recorded_is_not_said_to_be_on_another_machine(tmp_path):
    run = make_run(tmp_path, "e/a", "created")
    with living(run) as process:
        run.lock_path.write_text("")  # as it is for a moment when the lock is acquired
        with pytest.raises(FinetuneError, match="its process is unknown") as refused:
            cancel_runs([read_run(run.path)])
        assert "another machine" not in refused.value.what
        assert process.poll() is None


def test_a_job_that_slurm_does_not_cancel_raises_and_keeps_running(tmp_path, commands):
    run = job(tmp_path, "a", "running", "7")
    commands("squeue", "7|RUNNING|None")
    commands("scancel", code=1, errors="scancel: error: Access denied\n")
    executor = slurm_executor(run)
    with pytest.raises(FinetuneError, match="did not cancel 7: Access denied"):
        LocalRun(run.path, executor).cancel()
    assert executor.running() == [run.path]
    commands("scancel")
    LocalRun(run.path, executor).cancel()
    assert executor.running() == []


def test_one_trial_in_the_queue_is_singular(tmp_path):
    one, two = job(tmp_path, "a", "pending", "7"), job(tmp_path, "b", "pending", "8")
    assert "1 trial is still in the queue or running, and continues" in slurm_executor(one).interrupted(0, "x").what
    assert "2 trials are still" in slurm_executor(one, two).interrupted(0, "x").what


def slurm_executor(*active):
    """Return an executor that watches the jobs of these runs."""
    executor = SlurmExecutor(
        slurm_settings(check([SLURM])), Arguments([]), lambda _request: None, lambda _request: None
    )
    executor._active += [run.path for run in active]
    return executor


def test_a_run_in_use_is_not_changed_by_a_submission(tmp_path, commands):
    run = job(tmp_path, "a", "running", "1")
    commands("squeue", "1|RUNNING|None")
    said = run.status_path.read_bytes()
    with pytest.raises(FinetuneError, match="running as job 1"), pending(run, existed=True):
        pass
    other = make_run(tmp_path, "e/b", "created")
    with living(other) as process:
        said_by_other = other.status_path.read_bytes()
        with pytest.raises(FinetuneError, match="in use by process"), pending(other, existed=True):
            pass
        assert (run.status_path.read_bytes(), other.status_path.read_bytes()) == (said, said_by_other)
        process.kill()
        process.wait()
    with pytest.raises(ZeroDivisionError), pending(other, existed=True):
        assert other.read_status()["state"] == "pending"
        raise ZeroDivisionError
    assert other.status_path.read_bytes() == said_by_other
    # A status that cannot be read does not make a run a new one, which would be gone with its checkpoints.
    other.status_path.write_text("")
    with pytest.raises(ZeroDivisionError), pending(other, existed=True):
        raise ZeroDivisionError
    assert other.path.is_dir()
    with pytest.raises(ZeroDivisionError), pending(other, existed=False):
        raise ZeroDivisionError
    assert not other.path.exists()


def test_what_git_had_not_committed_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one\n")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "file").write_text("two\n")
    write_changes(tmp_path)
    assert "-one\n+two\n" in (tmp_path / "changes.diff").read_text()


def test_the_clusters_script_is_sound():
    subprocess.run(["bash", "-n", ROOT / "scripts/slurm/cluster.sh"], check=True)

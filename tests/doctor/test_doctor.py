"""`finetune doctor` through its command, and what it says about machines that this one is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from finetune.doctor import devices, packages, services
from finetune.doctor.devices import device_findings, findings_of
from finetune.doctor.diagnose import diagnose
from finetune.doctor.machine import disk_findings
from finetune.doctor.redact import redact
from tests.runs.made import make_run

FACTS = {
    "torch": "2.13.0",
    "cuda": "13.0",
    "hip": None,
    "threads": 8,
    "cpu": "AVX512",
    "bf16": True,
    "available": True,
    "gpus": [],
    "error": "",
}
GPU = {"name": "NVIDIA H200", "flash": None, "free": 140e9, "total": 150e9, "bf16": True, "works": True}


def doctor(*words, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "finetune", "doctor", *words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_names_every_topic_and_leaves_nothing(tmp_path):
    done = doctor(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    topics = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")][:-1]
    wanted = ["finetune", "packages", "devices", "memory", "disk", "hub", "trackers", "SLURM", "limits", "locale"]
    assert topics == wanted
    assert "torch: 2." in done.stdout and "GPU" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_same_findings(tmp_path):
    found = json.loads(doctor("--json", cwd=tmp_path).stdout)
    assert {"topic", "name", "state", "text", "advice"} == set(found[0])
    assert {each["state"] for each in found} <= {"fine", "doubtful", "wrong"}
    assert all(each["advice"] for each in found if each["state"] != "fine")


def test_what_is_wrong_sets_the_exit_code(tmp_path):
    (tmp_path / "file").write_text("")
    done = doctor(f"--root={tmp_path / 'file'}", cwd=tmp_path, FINETUNE_CACHE="/proc/finetune")
    assert done.returncode == 1, done.stdout
    assert "file is not a folder" in done.stdout
    # Even root cannot write there.
    assert "/proc/finetune cannot be written to" in done.stdout
    assert "2 wrong" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "--report"], "--json cannot be combined with --report"),
        (["my_run"], "only used by --report"),
        (["--report", "missing"], "no folder outputs with runs"),
    ],
)
def test_mistakes_are_answered(tmp_path, words, message):
    done = doctor(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_report_has_the_run_and_no_secrets(tmp_path):
    run = make_run(tmp_path / "outputs", "e/broken", "failed", reason="ValueError: injected")
    run.overrides_path.write_text("- logger.wandb.api_key=abcdef123456\n- optimizer.lr=1e-4\n")
    secret = "hf_" + "Q" * 30
    run.log_path.write_text(f"loading with {secret} from {Path.home()}/data\nhttps://me:pass@host/x\nthe last line\n")
    done = doctor("--report", "broken", cwd=tmp_path, HF_TOKEN=secret)
    assert "ValueError: injected" in done.stdout and "the last line" in done.stdout and "optimizer.lr" in done.stdout
    for hidden in (secret, "abcdef123456", "me:pass", str(Path.home()) + "/"):
        assert hidden not in done.stdout


SECRETS = {
    "WANDB_API_KEY": "a1b2c3d4e5f6",
    "HF_TOKEN": "hf_" + "Q" * 30,
    "HTTPS_PROXY": "http://joe:s3cr%40tpass@proxy.corp:3128",
    "MLFLOW_TRACKING_URI": "https://ml:trackpass@mlflow.corp:5000",
    "MLFLOW_TRACKING_PASSWORD": "other pass",
    "HF_ENDPOINT": "https://user:mirrorpass@localhost:1",
}
PARTS = ("a1b2c3", "QQQ", "s3cr", "trackpass", "other pass", "mirrorpass")


def test_a_report_has_no_secret_of_the_environment_wherever_it_was_printed(tmp_path):
    run = make_run(tmp_path / "outputs", "e/broken", "failed", reason="refused: s3cr@tpass")
    run.overrides_path.write_text("- 'logger.mlflow.tracking_uri=https://ml:trackpass@mlflow.corp:5000'\n")
    run.log_path.write_text("\n".join(["the log", *SECRETS.values(), "trackpass alone", "the end"]))
    done = doctor("--report", "broken", "--network", cwd=tmp_path, **SECRETS)
    assert "mlflow.corp:5000" in done.stdout and "the end" in done.stdout and "proxy.corp" in done.stdout
    assert not [part for part in PARTS if part in done.stdout + done.stderr], done.stdout
    for words in (["--network"], ["--network", "--json"]):
        done = doctor(*words, cwd=tmp_path, **SECRETS)
        assert "does not answer" in done.stdout
        assert not [part for part in PARTS if part in done.stdout + done.stderr], done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://token123@github.com/x", "https://(hidden)@github.com/x"),
        ("s3://key:secret@bucket/x, 3", "s3://(hidden)@bucket/x, 3"),
        ("https://host/x.csv?X-Amz-Signature=deadbeef&y=1 next", "https://host/x.csv?(hidden) next"),
        ("Authorization: Basic bWw6dHJhY2twdw==", "Authorization: Basic (hidden)"),
        ("{'token': 'a b', 'password': \"c d\"}", "{'token': (hidden), 'password': (hidden)}"),
        (f"key {'0a' * 20}.", "key (hidden)."),
        ("eyJhbGciOiJI.eyJzdWIi.dozjgNry-P4 end", "(hidden) end"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text, shown):
    assert redact(text) == shown


def test_words_that_are_no_secrets_stay(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    monkeypatch.setenv("SHORT_TOKEN", "lr")
    text = "lr=1e-4 tokens=128 sk-learn monkey=3 0.1234 /data/file.csv parallel https://host/a@b me@host"
    assert redact(text) == text


@pytest.mark.parametrize(
    ("facts", "driver", "state", "words"),
    [
        ({"gpus": [GPU]}, True, "fine", "NVIDIA H200, 140.0 GB of 150.0 GB free, bf16, flash attention"),
        ({"gpus": [GPU | {"flash": "the GPU is older", "bf16": False}]}, True, "fine", "no bf16, no flash attention"),
        ({"gpus": [GPU | {"free": 10e9}]}, True, "doubtful", "other processes use its memory"),
        ({"gpus": [GPU | {"works": False}]}, True, "wrong", "wrong results"),
        ({"available": False, "cuda": None}, True, "wrong", "built for the CPU only"),
        ({"available": False}, True, "wrong", "torch finds no device"),
        ({"available": False, "cuda": None}, False, "fine", "none; runs use the CPU"),
        ({"error": "RuntimeError: CUDA error: device-side assert"}, True, "wrong", "device-side assert"),
    ],
)
def test_gpus(facts, driver, state, words):
    found = next(each for each in findings_of(FACTS | facts, driver) if each.name.startswith("GPU"))
    assert found.state == state and words in found.text
    assert bool(found.advice) is (state != "fine")


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os.kill(os.getpid(), 11)", "exit code -11"),
        ("import time; time.sleep(60)", "did not answer within"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_a_finding(monkeypatch, probe, words):
    monkeypatch.setattr(devices, "_PROBE", (sys.executable, "-c", probe))
    monkeypatch.setattr(devices, "_SECONDS", 2)
    found = next(each for each in device_findings() if each.name == "torch")
    assert found.state == "wrong" and words in found.text


def test_packages_that_do_not_fit(monkeypatch):
    versions = {"torch": "2.1.0", "peft": "0.1"}
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, "999" if name == "typer" else None))
    found = {each.name: each for each in packages.package_findings()}
    assert found["torch"].state == "wrong" and "2.1.0, and finetune needs" in found["torch"].text
    assert found["typer"].state == "fine"
    assert found["rich"].state == "wrong" and "pip install 'rich" in found["rich"].advice
    assert found["finetune[lora]"].state == "wrong"
    assert found["finetune[optuna]"].state == "fine" and "optional" in found["finetune[optuna]"].text
    assert "finetune[dev]" not in found


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    found = {each.name: each for each in disk_findings(tmp_path / "outputs")}
    assert found["output folder"].state == "wrong" and found["output folder"].advice


def test_a_topic_that_fails_does_not_hide_the_others(tmp_path, monkeypatch):
    def fail(**_):
        raise RuntimeError("broken")
        yield

    monkeypatch.setattr("finetune.doctor.diagnose.hub_findings", fail)
    found = list(diagnose(tmp_path))
    assert next(each for each in found if each.topic == "hub").state == "wrong"
    assert found[-1].topic == "locale"


def test_the_network_is_used_only_when_asked(monkeypatch):
    calls = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            calls.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    list(services.hub_findings(network=False))
    assert not calls
    found = {each.name: each for each in services.hub_findings(network=True)}
    assert len(calls) == 1 and found["reachable"].state == "fine"
    server.shutdown()
    server.server_close()
    found = {each.name: each for each in services.hub_findings(network=True)}
    assert found["reachable"].state == "doubtful" and found["reachable"].advice


def test_a_login_node_without_a_controller(tmp_path, monkeypatch):
    for name in ("sbatch", "squeue", "scontrol", "scancel", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sinfo: error: Unable to contact slurm controller' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {each.name: each for each in services.slurm_findings()}
    assert found["commands"].state == "fine"
    assert found["controller"].state == "doubtful" and found["controller"].advice
    (tmp_path / "scontrol").unlink()
    assert next(services.slurm_findings()).state == "doubtful"

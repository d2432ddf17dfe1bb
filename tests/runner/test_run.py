"""A run through the front door: what it leaves behind, and what it says."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from finetune.config.compose import compose
from finetune.export.card import _base
from finetune.preflight.sweep_metric import PREFIXES, known_metrics
from tests.conftest import Ran, quick, run_train, write_pairs


def test_ends_well_in_a_folder_with_spaces_and_quotes(ran: Ran):
    assert ran.process.returncode == 0, ran.process.stderr
    assert ran.process.stderr == ""
    assert ran.path.is_dir()


def test_leaves_the_whole_run_directory(ran: Ran):
    names = {path.name for path in ran.path.iterdir()}
    assert names >= {
        "config.yaml",
        "overrides.yaml",
        "status.json",
        "metrics.jsonl",
        "environment.json",
        "checkpoints",
        "model",
        "report.html",
        "report.md",
        "report.json",
        "run.log",
    }
    assert not [path for path in ran.cwd.rglob("*") if path.suffix in (".partial", ".tmp")]


def test_says_what_improved_and_where_the_model_is(ran: Ran):
    for words in ("nDCG@10", "recall@10", "MRR@10", "MAP@100", "95 % interval", "before", "after", "training 21/21"):
        assert words in ran.process.stdout
    assert "model:" in ran.process.stdout


def test_status_config_and_overrides(ran: Ran, tiny_model):
    status = json.loads((ran.path / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["step"] == 21
    config = yaml.safe_load((ran.path / "config.yaml").read_text())
    assert config["model"]["name"] == str(tiny_model)
    assert config["name"] == ran.path.name
    assert "hydra" not in config
    assert "optimizer.lr=1e-3" in yaml.safe_load((ran.path / "overrides.yaml").read_text())
    assert json.loads((ran.path / "environment.json").read_text())["packages"]["torch"] == torch.__version__


def test_metrics_are_json_lines_with_a_falling_loss(ran: Ran):
    rows = [json.loads(line) for line in (ran.path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 21
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 22))
    rates = [row["learning_rate"] for row in rows if "loss" in row]
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[0] == pytest.approx(1e-3 / 3, rel=1e-3)  # a tenth of 21 steps, rounded up, is the warm-up
    assert all(row["items_per_second"] > 0 and 0 <= row["padding_share"] < 1 for row in rows if "loss" in row)
    assert "retrieval/before/nDCG@10" in rows[0]
    assert "retrieval/after/nDCG@10" in rows[-1]
    # The check of sweep.metric refuses all other names.
    known = known_metrics(compose(yaml.safe_load((ran.path / "overrides.yaml").read_text())))
    assert known is not None
    logged = {name for row in rows for name in row if name != "step"}
    assert {name for name in logged if not name.startswith(PREFIXES)} <= {*known.logged}


def test_checkpoint_is_plain_data(ran: Ran):
    checkpoint = torch.load(ran.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 21


def test_the_saved_model_is_the_trained_one_and_has_moved(ran: Ran, tiny_model):
    saved = load_file(ran.path / "model" / "model.safetensors")
    checkpoint = torch.load(ran.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    trained = {name.removeprefix("encoder.backbone."): value for name, value in checkpoint.items()}
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)
    before = load_file(tiny_model / "model.safetensors")
    moved = [name for name in saved if not torch.equal(saved[name], before[name])]
    assert any("attention" in name for name in moved)
    assert not any("pooler" in name for name in moved)


def test_the_card_names_no_folder_of_this_machine(ran: Ran, tiny_model):
    front, text = (ran.path / "model" / "README.md").read_text().split("---\n")[1:3]
    assert "base_model" not in front
    assert str(tiny_model) not in text.split("## How it was made")[0]


def test_the_card_says_what_it_was_trained_and_measured_on(ran: Ran):
    text = (ran.path / "model" / "README.md").read_text()
    for words in ("of pairs.csv with finetune", "On a held-out part of the file (", "| 95 % interval |", "## Licence"):
        assert words in text


def test_the_log_holds_what_was_said(ran: Ran):
    text = (ran.path / "run.log").read_text()
    assert "training 21/21 steps" in text
    assert f"run directory: {ran.path.relative_to(ran.cwd)}" in text


def test_a_tuned_model_tuned_again_names_where_it_comes_from(ran: Ran, tmp_path):
    run = tmp_path / "a run"
    shutil.copytree(ran.path / "model", run / "model")
    (run / "config.yaml").touch()
    card = run / "model" / "README.md"
    assert _base(str(run / "model")) == ("", "the model of run a run")
    card.write_text("---\nbase_model: some/model\n---\n")
    assert _base(str(run / "model")) == ("some/model", "the model of run a run (itself from some/model)")
    for text in ("", "---\n---\n", "---\nbase_model: [1]\n---\n", "---\n{\n---\n"):
        card.write_text(text)
        assert _base(str(run / "model")) == ("", "the model of run a run")


def test_the_saved_model_loads_in_sentence_transformers(ran: Ran):
    model = SentenceTransformer(str(ran.path / "model"), device="cpu")
    assert model.encode(["red house"]).shape == (1, 32)
    assert model.max_seq_length == 16


def test_the_report_names_the_command_and_the_data(ran: Ran):
    report = (ran.path / "report.md").read_text()
    assert "train.py" in report
    assert str(ran.process.args[-1].split("=")[0]) in report
    assert "optimizer.lr=1e-3" in report
    assert "SentenceTransformer(" in report
    assert "nDCG@10" in report


def test_the_run_ends_with_a_page_and_says_where_it_is(ran: Ran):
    assert f"report: {ran.path.relative_to(ran.cwd)}/report.html" in ran.process.stdout
    page = (ran.path / "report.html").read_text()
    assert ran.path.name.replace("'", "&#39;").replace('"', "&#34;") in page
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert {"metrics", "learning", "data", "cost", "again", "use"} <= set(sections)


def test_the_command_of_the_report_makes_the_same_run_again(ran: Ran):
    report = json.loads((ran.path / "report.json").read_text())
    command = report["again"]["command"]
    assert "name=it" not in command
    answer = subprocess.run(
        f"{command} check=true", shell=True, cwd=ran.cwd, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert report["again"]["passes"] == 3


def test_a_finished_run_is_not_trained_again(ran: Ran, tiny_model):
    name = "name='it\\'s a \"run\"'"
    again = run_train(*quick(tiny_model, "experiment='my experiment'", name), cwd=ran.cwd)
    assert again.returncode == 2
    assert "is finished" in again.stderr
    assert "Traceback" not in again.stderr


def test_two_runs_in_the_same_second_get_their_own_directories(tiny_model, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    write_pairs(tmp_path / "pairs.csv")
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: run_train(*quick(tiny_model, "trainer.max_steps=1"), cwd=tmp_path), range(3)))
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    directories = list((tmp_path / "outputs" / "default").iterdir())
    assert len(directories) == 3
    assert {json.loads((d / "status.json").read_text())["state"] for d in directories} == {"finished"}


def test_without_evaluation_there_is_still_a_model_and_a_report(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    more = ["trainer.max_epochs=auto", "evaluation=none", "name=bare", "trainer.max_steps=2"]
    run = run_train(*quick(tiny_model), *more, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "| passes | 0.29 |" in (tmp_path / "outputs/default/bare/report.md").read_text()  # 2 of 7 steps
    assert (tmp_path / "outputs/default/bare/report.md").is_file()
    assert (tmp_path / "outputs/default/bare/model/model.safetensors").is_file()


@pytest.mark.parametrize(
    "more", ["trainer.precision=bf16-mixed", "trainer.precision=bf16-true", "loss.symmetric=false"]
)
def test_variants_train_and_save_fp32(tiny_model, tmp_path, more):
    write_pairs(tmp_path / "pairs.csv")
    run = run_train(*quick(tiny_model, more, "name=v", "trainer.max_steps=4"), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "outputs/default/v/report.json").read_text())
    assert report["cost"]["precision"] == (more.split("=")[1] if "precision" in more else "32-true")
    rows = map(json.loads, (tmp_path / "outputs/default/v/metrics.jsonl").open())
    first = next(row["loss"] for row in rows if "loss" in row)
    plain = json.loads((Path(__file__).parents[1] / "golden_loss.json").read_text())[0]
    assert first == pytest.approx(plain, rel=0.01)
    # One direction is another loss than the mean of both.
    assert "symmetric" not in more or first != pytest.approx(plain, rel=1e-3)
    weights = load_file(tmp_path / "outputs/default/v/model/model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}

"""Sweeps through the front door: a fresh process and a directory for every point."""

import json
import re
import shutil
from pathlib import Path

import pytest

from finetune.launch.sweep import Point, _say_ranked
from tests.conftest import quick, run_train, write_pairs


def test_points_run_on_their_own_and_are_ranked(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    overrides = [text for text in quick(tiny_model) if not text.startswith("optimizer.lr")]
    sweep = run_train("-m", *overrides, "optimizer.lr=1e-6,1e-3", "trainer.max_steps=7", cwd=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    runs = sorted((tmp_path / "outputs/default").glob("*/status.json"))
    status = [json.loads(path.read_text()) for path in runs]
    assert [point["state"] for point in status] == ["finished", "finished"]
    assert len({point["pid"] for point in status}) == 2
    ranked = sweep.stdout.split("the points, best first")[1]
    assert {"optimizer.lr=0.001", "optimizer.lr=1e-06"} <= set(ranked.split())
    # Each path stands whole on a line of its own, however long it is.
    assert {f"     {path.parent.relative_to(tmp_path)}" for path in runs} <= set(ranked.splitlines())


def test_the_best_point_stands_first_and_the_failed_last(capsys):
    values = {"a": 0.5, "b": None, "c": 0.75}
    points = [Point([name], Path(name), int(value is None), "nDCG@10", value) for name, value in values.items()]
    _say_ranked(points)
    shown = capsys.readouterr().out
    assert re.findall(r"^ +\d\. .* (\w)$", shown, re.MULTILINE) == ["c", "a", "b"]
    assert "failed" in shown
    assert "no run directory was made" in shown


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["scheduler=glob(*)", "check=true"], "All 3 points are fine"),
        (["scheduler=glob(*,exclude=c*)", "check=true"], "The one point is fine"),
        (["scheduler=glob(x*)"], "no option fits.\n    There are: constant, cosine, linear."),
        (["optimizer.lr=glob(*)"], "there is no group 'optimizer.lr'"),
        (["optimizer.lr=interval(1e-5,1e-4)"], "sweeps here are grids"),
        (["seed=range(3,3)"], "no value at all"),
    ],
)
def test_what_hydra_can_sweep_over(tmp_path, overrides, words):
    sweep = run_train("-m", *overrides, cwd=tmp_path)
    assert words in sweep.stdout + sweep.stderr
    assert sweep.returncode == (0 if "check=true" in overrides else 2)
    assert not list(tmp_path.iterdir())


def test_a_failing_point_is_said_and_the_others_go_on(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    damaged = shutil.copytree(tiny_model, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"damaged")
    overrides = [text for text in quick(tiny_model) if not text.startswith("model.name")]
    more = [f"model.name={damaged},{tiny_model}", "trainer.max_steps=2", "evaluation=none"]
    sweep = run_train("-m", *overrides, *more, cwd=tmp_path)
    assert sweep.returncode == 1
    assert "failed" in sweep.stdout
    assert "cannot be read" in sweep.stderr
    assert "Traceback" not in sweep.stderr
    assert len(list((tmp_path / "outputs/default").glob("*/model"))) == 1


def test_the_same_name_for_all_points_is_refused(tmp_path):
    sweep = run_train("-m", "name=one", "optimizer.lr=1e-5,1e-4", cwd=tmp_path)
    assert sweep.returncode == 2
    assert "all points would have the same name" in sweep.stderr


def test_a_mistake_in_a_sweep_is_answered_before_anything_runs(tmp_path):
    for text, words in (("optimizer.lrr=1e-5,1e-4", "optimizer.lr"), ("loss.temperature=0.1,0", "above 0")):
        sweep = run_train("-m", text, cwd=tmp_path)
        assert sweep.returncode == 2
        assert words in sweep.stderr
    assert not (tmp_path / "outputs").exists()

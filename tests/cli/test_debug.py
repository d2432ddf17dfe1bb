"""What the debug presets promise."""

import json

from tests.conftest import run_train, write_pairs


def test_overfit_brings_the_loss_to_nearly_zero(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    more = [f"model.name={tiny_model}", "data.path=pairs.csv", "data.max_length=16", "optimizer.lr=1e-3", "name=run"]
    run = run_train("debug=overfit", *more, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = map(json.loads, (tmp_path / "outputs/debug/run/metrics.jsonl").open())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 40
    assert losses[0] > 1
    assert losses[-1] < 0.05
    assert "evaluating" not in run.stdout


def test_profile_prints_a_summary_of_times(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    more = [f"model.name={tiny_model}", "data.path=pairs.csv", "data.max_length=16", "evaluation=none"]
    run = run_train("debug=profile", *more, "trainer.max_steps=2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "run_training_batch" in run.stdout


def test_tiny_evaluates_on_its_few_rows_only(tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    config = run_train("debug=tiny", "data.path=pairs.csv", "--cfg", "job", cwd=tmp_path).stdout
    assert "Retrieval" in config
    assert "Similarity" in config
    assert "Forgetting" not in config
    checked = run_train("debug=tiny", "data.path=pairs.csv", "check=true", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "is left out" not in checked.stdout and "is skipped" not in checked.stdout
    chosen = run_train("debug=tiny", "evaluation=forgetting", "data.path=pairs.csv", "--cfg", "job", cwd=tmp_path)
    assert "Forgetting" in chosen.stdout

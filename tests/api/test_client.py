"""What a client offers: runs, experiments, data. One of a server runs the same tests with a fixture of its own."""

import pandas
import polars
import pytest

from finetune.errors import CheckFailed, FinetuneError
from tests.runs.made import living, make_run


def test_a_finished_run_has_its_results(client, project):
    run = client.get_run("default/first")
    assert run.name == "default/first"
    assert (run.status.state, run.status.step, run.status.has_ended) == ("finished", 3, True)
    assert run.wait(timeout=0).state == "finished"
    run.raise_unless_finished()
    run.cancel()  # does nothing any more
    metrics = run.metrics
    assert metrics["metric"][0] == "nDCG@10" and metrics["evaluation"][0] == "retrieval"
    assert metrics["change"][0] == pytest.approx(metrics["after"][0] - metrics["before"][0])
    assert metrics["low"][0] <= metrics["change"][0] <= metrics["high"][0]
    history = run.history
    losses = [(step, loss) for step, loss in zip(history["step"], history["loss"], strict=True) if loss is not None]
    assert [step for step, _ in losses] == [1, 2, 3] and losses[0][1] > losses[-1][1]
    for frame in (pandas.DataFrame(history), polars.DataFrame(history)):
        assert list(frame.columns) == list(history) and len(frame) == len(history["step"])
    example = run.example_results["retrieval"][0]
    assert {"query", "before", "after"} <= set(example) and example["after"][0]["score"] > 0
    assert run.artifact.files["model.safetensors"] > 10_000 and run.artifact.size > 10_000


def test_a_finished_run_has_its_report_config_and_log(client, project):
    run = client.get_run("first")
    assert run.report._repr_html_().startswith("<iframe srcdoc=") and "retrieval" in str(run.report)
    assert run.config["trainer"]["max_steps"] == 3 and "trainer.max_steps=3" in run.overrides
    assert len(run.data["fingerprint"]) == 64 and run.environment["packages"]["torch"]
    assert "training 3/3 steps" in run.logs and len(run.log_tail(2).splitlines()) == 2
    lines = list(run.stream_logs())
    assert "\n".join(lines) == run.logs.rstrip("\n")
    html = run._repr_html_()
    assert "default/first" in html and "finished at step 3" in html and "nDCG@10" in html


def test_runs_are_found_and_filtered(client, project):
    assert [run.name for run in client.list_runs(experiment="default")] == ["default/first"]
    assert client.list_runs(experiment="default", state="failed") == []
    assert len(client.list_runs(metric=["nDCG@10>0", "loss>0"], where="trainer.max_steps=3", since="7d")) == 1
    with pytest.raises(FinetuneError, match=r"no run 'default/frist'.*Did you mean default/first"):
        client.get_run("default/frist")
    with pytest.raises(FinetuneError, match="there is no state 'finishd'"):
        client.list_runs(state="finishd")


def test_nothing_was_run_yet(client, folder):
    assert client.list_runs() == [] and client.list_experiments() == []
    with pytest.raises(FinetuneError, match="there is no folder outputs with runs"):
        client.get_run("first")


def test_experiments_are_created_listed_and_deleted(client, folder):
    made = client.create_experiment("faq", "Questions & answers")
    assert (made.name, made.description, made.list_runs()) == ("faq", "Questions & answers", [])
    with pytest.raises(FinetuneError, match="there is an experiment 'faq' already"):
        client.create_experiment("faq")
    make_run(folder / "outputs", "faq/one", "finished")
    make_run(folder / "outputs", "other/two", "finished")
    assert [experiment.name for experiment in client.list_experiments()] == ["faq", "other"]
    assert [run.name for run in client.get_experiment("faq").list_runs()] == ["faq/one"]
    assert made.get_run("one").name == "faq/one"
    assert client.get_experiment("other").description == ""
    with pytest.raises(FinetuneError, match="no experiment 'fag'"):
        client.get_experiment("fag")
    client.delete_run("other/two")
    client.delete_experiment("faq")
    assert client.list_experiments() == []
    assert list((folder / "outputs").iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "..\\x", "a\0b", ".data"])
def test_an_experiment_cannot_have_the_name_of_another_place(client, folder, name):
    with pytest.raises(FinetuneError, match="cannot be the name of an experiment"):
        client.create_experiment(name)
    with pytest.raises(FinetuneError, match="cannot be the name of an experiment"):
        client.delete_experiment(name)


def test_deleting_an_experiment_keeps_what_is_not_of_finetune(client, folder):
    make_run(folder / "outputs", "mine/one", "finished")
    (folder / "outputs/mine/notes.txt").write_text("mine")
    with pytest.raises(FinetuneError, match="still has files that are not of finetune"):
        client.delete_experiment("mine")
    assert (folder / "outputs/mine/notes.txt").read_text() == "mine"
    assert not (folder / "outputs/mine/one").exists()


def test_an_experiment_with_an_active_run_is_not_deleted(client, folder):
    make_run(folder / "outputs", "busy/done", "finished")
    with living(make_run(folder / "outputs", "busy/now", "running")):
        with pytest.raises(FinetuneError, match=r"busy/now is not removed: it is active"):
            client.delete_experiment("busy")
        assert client.get_run("now").status.state == "running"
    assert len(client.list_runs()) == 2
    client.delete_experiment("busy")
    assert client.list_experiments() == []


def test_a_run_without_results_says_so(client, folder):
    make_run(folder / "outputs", "default/early", "interrupted")
    run = client.get_run("early")
    for name in ("metrics", "example_results", "report"):
        with pytest.raises(FinetuneError, match=r"has no report.json yet"):
            getattr(run, name)
    with pytest.raises(FinetuneError, match="has no model yet: it is interrupted"):
        run.artifact  # noqa: B018


def test_a_config_is_composed_and_resolved(client, folder):
    config = client.compose("optimizer.lr=3e-5", "name=x")
    assert config["optimizer"]["lr"] == 3e-5 and config["name"] == "x" and "hydra" not in config
    with pytest.raises(CheckFailed, match=r"no key 'optimizer.lrr'"):
        client.compose("optimizer.lrr=1")


def test_data_is_described(client, folder, tiny_model):
    dataset = client.build_dataset(
        "pairs.csv", f"model.name={tiny_model}", max_length=16, columns=["positive", "anchor"]
    )
    assert dataset.layout == "pairs" and dataset.counts["rows_read"] == 120
    assert dataset.columns["role"] == ["positive", "anchor"]
    assert dataset.statistics["lengths"]["unit"] == "tokens" and len(dataset.examples) == 3
    assert dataset.leaks["leaks"] == 0 and any("Held out" in note for note in dataset.notes)
    assert dataset.to_dict()["counts"] == dataset.counts and "rows_read" in dataset._repr_html_()


def test_bad_rows_of_a_data_set_are_listed(client, folder):
    (folder / "bad.csv").write_text("q;a\n" + "".join(f"red {i};cat {i}\n" for i in range(20)) + "alone;\n")
    with pytest.raises(CheckFailed, match=r"bad.csv:22: column 'a': there is no text"):
        client.build_dataset("bad.csv", delimiter=";")
    dataset = client.build_dataset("bad.csv", delimiter=";", on_bad_rows="skip")
    assert dataset.problems.rows == [
        {"file": "bad.csv", "line": 22, "column": "a", "kind": "empty", "what": "there is no text", "text": ""}
    ]
    with pytest.raises(CheckFailed, match=r"no key 'data.delimter'"):
        client.build_dataset("bad.csv", delimter=";")

"""A corpus in vectors: what is written, each text once, kills, several processes, full disks, memory, mistakes."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.embed.files import ELSEWHERE
from finetune.embed.run import embed
from finetune.embed.settings import settings_of
from finetune.errors import CheckFailed, FinetuneError
from finetune.inference.load import get_model
from finetune.inference.model import Model
from finetune.inference.quantize import quantize
from finetune.runs.atomic import explain
from tests.conftest import ROOT, can_mount, thorough

SHARD = 64


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def read(out: Path) -> tuple[pa.Table, np.ndarray]:
    """All rows and vectors of a folder, by pyarrow and NumPy alone."""
    tables, vectors = [], []
    for entry in manifest_of(out)["shards"]:
        path = out / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        if path.suffix == ".npy":
            tables.append(pq.read_table(out / entry["rows_file"]))
            vectors.append(np.load(path, allow_pickle=False))
            continue
        table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
        tables.append(table.drop_columns(["vector"]))
        vectors.append(np.stack(table["vector"].to_numpy()))
        assert table.num_rows == entry["rows"]
    return pa.concat_tables(tables), np.concatenate(vectors)


@pytest.fixture(scope="module")
def model(folder):
    return get_model(folder, device="cpu")


@pytest.fixture(scope="module")
def whole(folder, corpus, tmp_path_factory):
    """The folder of an embedding without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    embed(folder, str(corpus), out, shard_rows=SHARD, keep=["year"], device="cpu")
    return out


# What is written


@pytest.mark.parametrize("file_format", ["parquet", "arrow", "npy"])
def test_every_format_holds_ids_vectors_and_kept_columns(folder, model, table, corpus, tmp_path, file_format):
    out = tmp_path / "out"
    done = embed(folder, str(corpus), out, format=file_format, shard_rows=SHARD, keep=["year", "text"], device="cpu")
    rows, vectors = read(out)
    assert (done.rows, done.shards) == (len(table), -(-len(table) // SHARD))
    assert rows["id"].to_pylist() == table["id"].to_pylist()
    assert rows.select(["year", "text"]).to_pydict() == table.select(["year", "text"]).to_pydict()
    expected = model.encode(table["text"].to_pylist(), "document")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    found = manifest_of(out)
    assert found["complete"] and found["model_digest"] == model.digest and not (out / ".work").exists()


def test_vectors_are_shortened_scaled_and_quantized_as_by_the_model(folder, model, table, corpus, tmp_path):
    texts = table["text"].to_pylist()
    settings = {"dimensions": 16, "normalize": True}
    embed(folder, str(corpus), tmp_path / "binary", precision="binary", shard_rows=SHARD, device="cpu", **settings)
    embed(folder, str(corpus), tmp_path / "int8", precision="int8", shard_rows=SHARD, device="cpu", **settings)
    expected = model.encode(texts, "document", precision="binary", **settings)
    found = read(tmp_path / "binary")[1]
    assert found.dtype == np.int8 and (found == expected).mean() > 0.999
    ranges = np.array(manifest_of(tmp_path / "int8")["int8_ranges"], np.float32)
    floats = model.encode(texts, "document", **settings)
    steps = read(tmp_path / "int8")[1].astype(int) - quantize(floats, "int8", ranges).astype(int)
    assert np.abs(steps).max() <= 1  # a value at the edge of a step
    assert (ranges[0] <= floats.min(0) + 0.05).all() and (ranges[1] >= floats.max(0) - 0.05).all()


def test_each_text_of_the_corpus_is_embedded_once(folder, table, corpus, tmp_path, monkeypatch):
    embedded: list[str] = []
    encode = Model.encode

    def counting(self, items, *arguments, **options):
        embedded.extend(pa.array(items).to_pylist())
        return encode(self, items, *arguments, **options)

    monkeypatch.setattr(Model, "encode", counting)
    done = embed(folder, str(corpus), tmp_path / "out", shard_rows=SHARD, device="cpu")
    embedded.remove("a")  # with which the model is checked
    assert sorted(embedded) == sorted(set(table["text"].to_pylist()))
    assert done.texts == len(embedded) < done.rows


def test_every_source_of_texts_gives_the_same_vectors(folder, table, whole, tmp_path):
    rows = table.select(["id", "text", "year"]).to_pylist()
    with (tmp_path / "corpus.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "year"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pa.ipc.new_file(tmp_path / "corpus.arrow", table.schema) as writer:
        writer.write_table(table)
    sources = [str(tmp_path / f"corpus.{kind}") for kind in ("csv", "jsonl", "arrow")]
    expected = read(whole)[1]
    for number, source in enumerate([*sources, table.to_pandas(), rows]):
        out = tmp_path / str(number)
        embed(folder, source, out, shard_rows=SHARD, device="cpu")
        found, vectors = read(out)
        assert found["id"].to_pylist() == table["id"].to_pylist(), source
        np.testing.assert_array_equal(vectors, expected)


def test_titles_are_joined_and_rows_numbered(folder, model, tmp_path):
    frame = pd.DataFrame({"title": ["sun", None, "sea"], "body": ["old cat", "dog", ""]})
    embed(folder, frame, tmp_path / "out", device="cpu")
    rows, vectors = read(tmp_path / "out")
    assert rows["id"].to_pylist() == [0, 1, 2]
    np.testing.assert_allclose(vectors, model.encode(["sun old cat", "dog", "sea"], "document"), atol=1e-5)
    embed(folder, frame, tmp_path / "body", columns="body", on_bad_rows="skip", device="cpu")
    rows, vectors = read(tmp_path / "body")
    assert rows["id"].to_pylist() == [0, 1]
    np.testing.assert_allclose(vectors, model.encode(["old cat", "dog"], "document"), atol=1e-5)


def test_a_beir_folder_is_read_as_its_documents(folder, tmp_path):
    (tmp_path / "beir").mkdir()
    rows = [{"_id": "x1", "title": "sun", "text": "cat"}, {"_id": "x2", "title": "", "text": "dog"}]
    (tmp_path / "beir/corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed(folder, str(tmp_path / "beir"), tmp_path / "out", keep=["title"], device="cpu")
    assert read(tmp_path / "out")[0].to_pylist() == [{"id": "x1", "title": "sun"}, {"id": "x2", "title": ""}]


# Interrupted, and by several processes


def command(folder, corpus, out, *words):
    settings = [f"data.path={corpus}", f"out={out}", f"shard_rows={SHARD}", "keep=[year]", "device=cpu"]
    return [sys.executable, "-m", "finetune", "embed", str(folder), *settings, *words]


SLOW = """
import os, sys, time
from finetune.embed import work
from finetune.__main__ import main
embeddings = work.embeddings
work.embeddings = lambda *arguments: (time.sleep(float(os.environ.get("DELAY", "0.1"))), embeddings(*arguments))[1]
main()
"""


def slow_command(*arguments):
    words = command(*arguments)
    return [words[0], "-c", SLOW, *words[3:]]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_killed_embedding_is_completed_with_the_same_bytes(folder, corpus, whole, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(slow_command(folder, corpus, out), cwd=ROOT)
    wait_for(lambda: len(list(out.glob(".work/vectors/*.npy"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob(".work/vectors/*.npy")}
    assert 3 <= len(before) < len(manifest_of(whole)["shards"]) and not manifest_of(out)["complete"]
    # Existing results are not computed again.
    taken = {path.name: path.stat().st_ino for path in out.glob(".work/vectors/*.npy")}
    process = subprocess.Popen(slow_command(folder, corpus, out), cwd=ROOT)
    wait_for(lambda: len(list(out.glob(".work/vectors/*.npy"))) > len(before))
    for path in out.glob(".work/vectors/*.npy"):
        assert taken.get(path.name, path.stat().st_ino) == path.stat().st_ino
    assert process.wait() == 0
    assert files_of(out) == files_of(whole)


@pytest.mark.thorough
def test_two_processes_share_the_shards_and_survive_the_death_of_one(folder, corpus, whole, tmp_path):
    out = tmp_path / "out"
    slowly = {**os.environ, "DELAY": "0.5"}
    processes = [subprocess.Popen(slow_command(folder, corpus, out), cwd=ROOT, env=slowly) for _ in range(2)]
    wait_for(lambda: len({path.read_text() for path in out.glob(".work/claims/*.lock")} - {""}) == 2)
    processes[0].send_signal(signal.SIGKILL)
    assert processes[1].wait(60) == 0
    processes[0].wait()
    assert files_of(out) == files_of(whole)


def test_several_devices_have_a_process_each(folder, corpus, whole, tmp_path):
    out = tmp_path / "out"
    words = [*command(folder, corpus, out), "device=[cpu,cpu]"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "on cpu, cpu" in done.stdout
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize("size", ["8k", "60k"], ids=["the plan", "the vectors"])
@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace")
def test_a_disk_that_is_full_is_named_with_what_continues(folder, corpus, tmp_path, size):
    words = shlex.join(command(folder, corpus, "disk/out"))
    script = ["sh", "-c", f"mkdir disk && mount -t tmpfs -o size={size} full disk && {words}"]
    full = subprocess.run(["unshare", "-rm", *script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert full.returncode == 1, full.stdout + full.stderr
    assert "the disk is full" in full.stderr and "another folder with out=" in full.stderr
    assert "output_root" not in full.stderr and "Traceback" not in full.stderr


LIMITED = """
import resource, sys
from finetune.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
main()
"""


@pytest.mark.parametrize("limit", [thorough(4_000, id="the texts"), pytest.param(9_000, id="the vectors")])
def test_a_full_disk_is_reported_and_nothing_is_lost(folder, corpus, whole, tmp_path, limit):
    out = tmp_path / "out"
    words = command(folder, corpus, out)
    full = subprocess.run(
        [words[0], "-c", LIMITED, str(limit), *words[3:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert full.returncode == 1, full.stdout + full.stderr
    assert "could not write" in full.stderr and "Traceback" not in full.stderr
    assert "output_root" not in full.stderr
    assert not list(out.rglob("*.tmp"))
    assert subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert files_of(out) == files_of(whole)


def test_the_advice_for_a_full_disk_is_that_of_an_embedding():
    refused = explain(OSError(errno.ENOSPC, "full"), "write vectors/manifest.json", ELSEWHERE)
    kept = "What is done is kept: the same command completes it."
    assert refused.advice == f"Free some space there, or choose another folder with out=. {kept}"


# Not ru_maxrss or VmHWM: they count pages of mapped files, which the system takes back when it needs memory.
PEAK = """
import re, sys, threading, time
from finetune import native_libraries
native_libraries.set_defaults()
from finetune.cli.embed import embed
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.02):
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]))
watcher = threading.Thread(target=watch)
watcher.start()
assert embed(sys.argv[1:], None) == 0
done.set()
watcher.join()
print(peak)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_memory_does_not_grow_with_the_corpus(folder, tmp_path, kind):
    peaks = []
    for rows in (60_000, 150_000):  # 192 and 480 MB of texts; a CSV reaches its maximum at 200 MB
        frame = pd.DataFrame({"text": [f"{row % 4_000} " + "red cat " * 400 for row in range(rows)]})
        path = tmp_path / f"{rows}.{kind}"
        if kind == "parquet":
            frame.to_parquet(path, row_group_size=rows, compression=None)
        elif kind == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)
        words = command(folder, path, tmp_path / f"out{rows}", "keep=[]", "shard_rows=2000")
        printed = subprocess.check_output([words[0], "-c", PEAK, *words[4:]], cwd=ROOT, text=True)
        peaks.append(int(printed.split()[-1]) // 1024)
    assert peaks[1] < peaks[0] + 60, peaks


# Mistakes


def refused(words: list[str]) -> str:
    with pytest.raises(CheckFailed) as failed:
        settings_of(words)
    return str(failed.value)


def test_unknown_settings_and_values_are_refused_with_the_nearest_right_one():
    assert "Did you mean shard_rows?" in refused(["out=v", "data.path=c.csv", "shardrows=4"])
    assert "data.path: is not set" in refused(["out=v"]) and "out: is not set" in refused(["data.path=c.csv"])
    assert "expected" in refused(["out=v", "data.path=c.csv", "precision=int4"])
    assert "expected" in refused(["out=v", "data.path=c.csv", "shard_rows=0"])
    assert "no such key" in refused(["out=v", "data.path=c.csv", "data.batch_size=4"])


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ([], {}, "holds nothing"),
        ([{"text": " "}], {}, "no row with a text"),
        ([{"text": "a"}], {"columns": "body"}, "no column 'body'"),
        ([{"text": "a"}], {"keep": ["year"]}, "no column 'year'"),
        ([{"a": "x", "b": "y"}], {}, "no column of"),
        ([{"text": "a"}], {"dimensions": 99}, "have 32"),
        ([{"text": "a"}], {"prompt": "nope"}, "no prompt 'nope'"),
        ([{"text": None}, {"text": "a"}], {}, "data.on_bad_rows"),
        ([{"text": ["a"]}], {}, "lists"),
        ([{"text": 3.5}], {}, "'text' of the list of rows holds numbers or dates"),
        (
            pd.DataFrame({"text": pd.to_datetime(["2020-01-01"])}),
            {},
            "'text' of the pandas frame holds numbers or dates",
        ),
        ("", {}, "data.path: is not set"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(folder, tmp_path, monkeypatch, data, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FinetuneError, match=message):
        embed(folder, data, tmp_path / "out", device="cpu", **settings)
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_with_device_length_dimensions_and_prompt_is_reported_at_once(folder, corpus, tmp_path):
    wrong = {"device": "cuda:99", "max_length": 1000, "dimensions": 99, "prompt": "nope"}
    with pytest.raises(CheckFailed) as failed:
        embed(folder, str(corpus), tmp_path / "out", **wrong)
    assert [problem.where for problem in failed.value.problems] == list(wrong)
    assert "device: 'cuda:99': this machine has no such device. Choose one of cpu" in str(failed.value)
    assert "dimensions: 99: the embeddings of" in str(failed.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_model_is_refused_before_its_vectors_are_compared(corpus, whole, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FinetuneError, match="there is no model in this folder"):
        embed(tmp_path / "empty", str(corpus), whole, shard_rows=SHARD, keep=["year"])


@pytest.mark.parametrize("out", ["/proc/x", "/proc/x/y"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(folder, corpus, out, monkeypatch):
    monkeypatch.setattr("finetune.inference.model.build_encoder", None)
    with pytest.raises(CheckFailed, match=r"out: could not write to /proc: .*[Cc]hoose another folder with out="):
        embed(folder, str(corpus), out)


def test_data_in_the_place_of_a_model_is_recognized(folder, corpus, tmp_path):
    for words in ([str(folder), str(corpus)], [str(corpus)]):
        for command in (["embed"], ["submit", "--embed"], ["evaluate"]):
            said = CliRunner().invoke(app, [*command, *words, f"out={tmp_path / 'out'}"])
            assert said.exit_code == 2
            assert "expected a model, found a file." in said.output
            assert f"Write data.path={corpus}." in said.output


def test_one_row_is_a_corpus_and_none_is_not(folder, tmp_path):
    (tmp_path / "one.csv").write_text("id,text\n7,a red cat\n")
    assert embed(folder, str(tmp_path / "one.csv"), tmp_path / "one", device="cpu").rows == 1
    (tmp_path / "none.csv").write_text("id,text\n")
    with pytest.raises(CheckFailed, match=r"nothing below it\. Write at least one row below it"):
        embed(folder, str(tmp_path / "none.csv"), tmp_path / "none")


def test_a_folder_with_something_else_is_not_touched(folder, tiny_model, corpus, whole, tmp_path):
    before = files_of(whole)
    same = {"shard_rows": SHARD, "keep": ["year"], "device": "cpu"}
    assert embed(folder, str(corpus), whole, **same).rows == 500  # complete: nothing to do
    for changed in ({"dimensions": 8}, {"prompt": "query"}, {"shard_rows": 100}):
        with pytest.raises(FinetuneError, match=f"{next(iter(changed))}=.* instead of"):
            embed(folder, str(corpus), whole, **same | changed)
    with pytest.raises(FinetuneError, match="of another model"):
        embed(tiny_model, str(corpus), whole, **same)
    with pytest.raises(FinetuneError, match="of another corpus"):
        embed(folder, [{"text": "a", "year": 1}], whole, **same)
    assert files_of(whole) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckFailed, match="other files"):
        embed(folder, str(corpus), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_bad_rows_are_left_out_and_listed_where_that_is_asked_for(folder, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("id,text\n1,cat\n2,dog,tree\n3,\n4,sun\n")
    done = embed(folder, str(path), tmp_path / "out", on_bad_rows="skip", device="cpu")
    assert (done.rows, done.left_out) == (2, 2)
    assert read(tmp_path / "out")[0]["id"].to_pylist() == ["1", "4"]
    listed = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    assert [(row["line"], row["kind"]) for row in listed] == [(3, "ragged"), (4, "blank")]


# As a job, and by torchrun


def test_the_tasks_of_a_job_share_the_work(folder, corpus, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [f"data.path={corpus}", "out=my vectors", f"shard_rows={SHARD}", "keep=[year]", "device=cpu"]
    words = ["submit", "--embed", "--tasks", "2", str(folder), *settings, "hydra.launcher.time=60", "dry_run=true"]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    script = printed.stdout
    assert "#SBATCH --array=0-1\n" in script and "gpus" not in script and "signal" not in script
    assert not (tmp_path / "my vectors").exists()
    tasks = [subprocess.Popen(["bash", "-c", script], env={**os.environ, "SLURM_CPUS_PER_TASK": "1"}) for _ in range(2)]
    assert [task.wait(120) for task in tasks] == [0, 0]
    assert files_of(tmp_path / "my vectors") == files_of(whole)


def test_a_job_that_cannot_work_is_not_submitted(folder, corpus):
    words = ["submit", "--embed", str(folder), f"data.path={corpus}", "out=v", "dry_run=true"]
    for wrong, message in [
        (["keep=[nope]"], "no column 'nope'"),
        (["hydra.launcher.tme=3"], "Did you mean"),
        (["--tasks", "0"], "--tasks 0"),
    ]:
        printed = CliRunner().invoke(app, [*words, *wrong])
        assert printed.exit_code == 2 and message in printed.output, printed.output


@pytest.mark.thorough
def test_the_processes_of_torchrun_share_the_work(folder, corpus, whole, tmp_path):
    words = command(folder, corpus, tmp_path / "out")
    launch = [words[0], "-m", "torch.distributed.run", "--nproc-per-node", "2", *words[1:]]
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is complete") == 1
    assert files_of(tmp_path / "out") == files_of(whole)

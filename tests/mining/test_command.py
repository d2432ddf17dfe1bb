"""`finetune mine`: what is written and read back, kills, mistakes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.data.items import ABSENT
from finetune.data.load import read
from tests.conftest import WORDS, run_script, thorough, write_pairs
from tests.models.test_folders import build


@pytest.fixture(scope="session")
def folder(tiny_model, tmp_path_factory):
    """A model with prompts in the layout of sentence-transformers."""
    prompts = {"prompts": {"query": "red ", "document": "tree "}, "similarity_fn_name": "cosine"}
    return build(tiny_model, tmp_path_factory.mktemp("mine") / "model", model=prompts)


@pytest.fixture(scope="session")
def cross_encoder(tiny_model, tmp_path_factory):
    """A cross-encoder with random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    place = tmp_path_factory.mktemp("judge") / "model"
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(tiny_model, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(place)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(place)
    return place


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.csv")
    return tmp_path


def run(*words: object) -> str:
    """Run `finetune mine` and return what it printed."""
    result = CliRunner().invoke(app, ["mine", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, ["mine", *map(str, words)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


class TestFiles:
    def test_tuples_are_read_back_as_they_were_mined(self, here, folder) -> None:
        run(folder, "data.path=pairs.csv", "out=mined.parquet", "negatives.count=2", "negatives.last_rank=30")
        table = pq.read_table("mined.parquet")
        assert table.column_names == ["anchor", "positive", "negative_1", "negative_2"]
        assert [table["anchor"].to_pylist(), table["positive"].to_pylist()] == columns("pairs.csv")
        dataset = read("mined.parquet", validation_fraction=0.0, cache=False)
        assert dataset.layouts == ["triplets"]
        assert dataset.train.negatives.shape == (120, 2)
        for name, numbers in zip(table.column_names[2:], dataset.train.negatives.T, strict=True):
            texts = [None if n == ABSENT else dataset.items.take(np.array([n]))[0] for n in numbers]
            assert texts == table[name].to_pylist()
        report = json.loads(Path("mined.json").read_text())
        assert report["rows"] == 120
        assert report["negatives"] == (dataset.train.negatives != ABSENT).sum()

    def test_triplets_have_a_row_for_each_negative_and_keep_pairs_without_one(self, here) -> None:
        write("few.csv", [["anchor", "positive"], ["red cat", "cat"], ["blue dog", "cat dog"], ["sun", "moon"]])
        run("data.path=few.csv", "out=mined.parquet", "negatives.count=2", "format=triplets")
        rows = pq.read_table("mined.parquet").to_pylist()
        assert rows == [
            {"anchor": "red cat", "positive": "cat", "negative": "cat dog"},
            {"anchor": "blue dog", "positive": "cat dog", "negative": None},
            {"anchor": "sun", "positive": "moon", "negative": None},
        ]
        dataset = read("mined.parquet", validation_fraction=0.0, cache=False)
        assert dataset.train.negatives.tolist()[1:] == [[ABSENT], [ABSENT]]

    def test_scored_lists_are_read_back(self, here, folder) -> None:
        run(folder, "data.path=pairs.csv", "out=mined.parquet", "negatives.count=3", "format=scores")
        rows = pq.read_table("mined.parquet").to_pylist()
        assert [len(row["documents"]) == len(row["scores"]) for row in rows] == [True] * 120
        dataset = read("mined.parquet", validation_fraction=0.0, cache=False)
        assert dataset.layouts == ["scored lists"]
        for row, anchor, positive, score in zip(
            rows, dataset.train.anchor, dataset.train.positive, dataset.train.score, strict=True
        ):
            assert dataset.items.take(np.array([anchor, positive])) == [row["anchor"], row["documents"][0]]
            np.testing.assert_array_equal(score[np.isfinite(score)], np.float32(row["scores"]))

    def test_other_libraries_read_them(self, here, folder) -> None:
        import datasets

        run(folder, "data.path=pairs.csv", "out=mined.parquet", "negatives.max_share_of_positive=null")
        table = datasets.load_dataset("parquet", data_files="mined.parquet", split="train", cache_dir="cache")
        assert table.column_names == ["anchor", "positive", "negative_1"]
        assert all(isinstance(text, str) for text in table[0].values())

    def test_prompts_of_the_data_are_not_written(self, here, folder) -> None:
        prompts = "data.prompts={query: 'q: ', document: 'd: '}"
        run(folder, "data.path=pairs.csv", "out=mined.parquet", prompts, "negatives=fused")
        table = pq.read_table("mined.parquet")
        assert [table["anchor"].to_pylist(), table["positive"].to_pylist()] == columns("pairs.csv")
        negatives = [text for text in table["negative_1"].to_pylist() if text is not None]
        assert negatives and not any(text.startswith(("d: ", "q: ")) for text in negatives)

    def test_relabelled_pairs_come_last(self, here, folder, cross_encoder) -> None:
        judge = [
            f"negatives.judge.model={cross_encoder}",
            "negatives.judge.threshold=-100",
            "negatives.judge.relabel=true",
        ]
        loose = ["negatives.max_share_of_positive=null", "negatives.last_rank=5", "negatives.near_duplicates=false"]
        output = run(folder, "data.path=pairs.csv", "out=mined.parquet", *judge, *loose)
        table = pq.read_table("mined.parquet")
        assert len(table) > 120  # every candidate is right by this threshold
        assert table["negative_1"].null_count == len(table)
        assert f"{len(table) - 120:,} candidates became positives" in output

    def test_documents_of_a_corpus_of_their_own(self, here, folder) -> None:
        write("corpus.csv", [["text"], *[[f"{a} {b} corpus"] for a in WORDS[:6] for b in WORDS[7:12]]])
        run(folder, "data.path=pairs.csv", "out=mined.parquet", "negatives.corpus={path: corpus.csv}")
        found = set(pq.read_table("mined.parquet")["negative_1"].to_pylist()) - {None}
        assert found and all(text.endswith("corpus") for text in found)
        assert json.loads(Path("mined.json").read_text())["documents"] == 30


def columns(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        _, *rows = csv.reader(file)
    return [list(column) for column in zip(*rows, strict=True)]


def write(path: str, rows: list[list[str]]) -> None:
    with Path(path).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_prompts_of_the_model_are_used_if_the_data_has_none(here, folder) -> None:
    from finetune.inference.load import get_model

    run(folder, "data.path=pairs.csv", "out=mined.parquet", "format=scores")
    row = pq.read_table("mined.parquet").to_pylist()[0]
    model = get_model(folder, device="cpu")
    anchor = model.encode([row["anchor"]], "query", normalize=True)
    documents = model.encode(row["documents"], "document", normalize=True)
    np.testing.assert_allclose(row["scores"], (documents @ anchor.T)[:, 0], atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_also_without_the_cache(here, folder, monkeypatch) -> None:
    words = (folder, "data.path=pairs.csv", "negatives=fused", "negatives.pick=random", "negatives.count=2")
    run(*words, "out=a.parquet", "seed=1")
    monkeypatch.setenv("FINETUNE_CACHE", str(here / "other"))
    run(*words, "out=b.parquet", "seed=1")
    run(*words, "out=c.parquet", "seed=2")
    assert Path("a.parquet").read_bytes() == Path("b.parquet").read_bytes() != Path("c.parquet").read_bytes()
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


SLOW = """
import os, signal, sys
from finetune.mining import cached
made, inner = [], cached._cached
cached._ITEMS_AT_ONCE, cached._PAIRS_AT_ONCE = 40, 50
from finetune.mining import mine
mine._SCORES_AT_ONCE = 1
mine._ANCHOR_UNIT = 30
def counted(kind, identity, compute):
    def slow():
        found = compute()
        made.append(kind)
        print(kind, file=open("made.log", "a"))
        if len(made) == int(os.environ["KILLED_AFTER"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return inner(kind, identity, slow)
cached._cached = counted
from finetune.cli.app import app
app(["mine", *sys.argv[1:]])
"""


@pytest.mark.parametrize("kills", [(4,), thorough((2, 5, 4), id="often")])
def test_a_killed_mining_continues_and_gives_the_same_bytes(here, folder, cross_encoder, kills) -> None:
    words = [str(folder), "data.path=pairs.csv", "negatives=fused", f"negatives.judge.model={cross_encoder}"]
    words += ["negatives.judge.threshold=0.1", "device=cpu"]
    run(*words, "out=whole.parquet")
    Path("slow.py").write_text(SLOW)
    for after in (*kills, 1000):
        assert not Path("killed.parquet").exists()
        more = {"FINETUNE_CACHE": str(here / "own"), "KILLED_AFTER": str(after)}
        process = run_script(here / "slow.py", *words, "out=killed.parquet", cwd=here, more=more)
        assert process.returncode == (0 if after == 1000 else -signal.SIGKILL), process.stderr
    assert Path("killed.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert Path("killed.json").read_bytes() == Path("whole.json").read_bytes()
    made = Path("made.log").read_text().split()
    # What a killed process had just computed was not stored yet: that alone is computed twice.
    whole = {"vectors": 3 + 4, "hits": 2 * 4}  # parts of 40 documents and 30 anchors; two retrievers
    assert sum(map(made.count, whole)) <= sum(whole.values()) + len(kills)


def test_two_folders_of_one_name_do_not_share_vectors(here, folder) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    for name, scale in (("one", 1.0), ("two", -1.0)):
        shutil.copytree(folder, here / name / "model")
        weights = load_file(here / name / "model" / "model.safetensors")
        changed = {key: value * scale if "word_embeddings" in key else value for key, value in weights.items()}
        save_file(changed, here / name / "model" / "model.safetensors", {"format": "pt"})
        run(f"{name}/model", "data.path=pairs.csv", f"out={name}.parquet", "format=scores")
    first, second = (pq.read_table(f"{name}.parquet")["scores"].to_pylist() for name in ("one", "two"))
    assert not {row[0] for row in first} & {row[0] for row in second}  # by the vectors
    found, others = ({score for row in rows for score in row[1:]} for rows in (first, second))
    assert found and not found & others  # by the hits


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["data.path=pairs.csv"], "out=mined.parquet"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives=dense"], "finetune mine MODEL"),
            (["out=m.parquet", "data.path=pairs.csv", "no/such/model"], "no/such/model"),
            (["out=m.csv", "data.path=pairs.csv"], "not a name of a Parquet file"),
            (["out=no/such/m.parquet", "data.path=pairs.csv"], "there is no folder"),
            (["out=m.parquet", "data.path=pairs.csv", "format=list"], "ntuples, triplets, scores"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives=none"], "negatives=dense"),
            (
                ["out=m.parquet", "data.path=pairs.csv", "negatives.first_rank=5", "negatives.last_rank=4"],
                "first_rank=1",
            ),
            (
                ["out=m.parquet", "data.path=pairs.csv", "negatives.count=200", "negatives.last_rank=300"],
                "120 documents",
            ),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.count=9", "negatives.last_rank=8"], "among 8 ranks"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.min_score=2", "negatives.max_score=1"], "Exchange"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.retrievers=[bm25,bm25]"], "listed twice"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.judge.relabel=true"], "no judge"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.every_n_steps=5"], "only a training"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.pick=bset"], "'random'"),
            (["out=m.parquet", "data.path=pairs.csv", "negatives.corpus={path: none.csv}"], "negatives.corpus.path"),
            (["out=m.parquet", "data.path=texts.csv"], "no pairs"),
            (
                [
                    "out=m.parquet",
                    "data.path=pairs.csv",
                    "negatives.judge.endpoint=localhost:1",
                    "negatives.judge.model=m",
                ],
                "http://",
            ),
            (["out=m.parquet", "data.path=pairs.csv", "-m"], "-m"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_is_one_sentence_and_nothing_is_written(self, here, words, message) -> None:
        write("texts.csv", [["text"], *[[f"text {i}"] for i in range(9)]])
        assert message in " ".join(refused(*words).split())
        assert sorted(path.name for path in here.iterdir()) == ["pairs.csv", "texts.csv"]

    def test_a_file_that_exists_is_kept(self, here) -> None:
        Path("m.parquet").write_text("mine")
        assert "exists" in refused("out=m.parquet", "data.path=pairs.csv")
        assert Path("m.parquet").read_text() == "mine"

    def test_a_cross_encoder_does_not_retrieve_and_another_model_does_not_judge(
        self, here, folder, cross_encoder
    ) -> None:
        assert "cross-encoder" in refused(cross_encoder, "out=m.parquet", "data.path=pairs.csv")
        found = refused("out=m.parquet", "data.path=pairs.csv", f"negatives.judge.model={folder}")
        assert "scores no pairs" in " ".join(found.split())

    def test_images_have_no_words(self, here) -> None:
        from PIL import Image

        for name in ("a", "b", "c"):
            Image.new("RGB", (8, 8), (name != "a" and "red") or "blue").save(f"{name}.png")
        write("images.csv", [["anchor", "image"], ["x", "a.png"], ["y", "b.png"], ["z", "c.png"]])
        found = refused("out=m.parquet", "data.path=images.csv", "data.modality={image: image}")
        assert "bm25 compares words" in " ".join(found.split())


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["mine", "--help"])
    assert "Example: finetune mine" in result.output


def test_no_torch_is_imported_to_report_a_mistake(here) -> None:
    code = (
        "import sys; from finetune.cli.mine import main; code = main(['out=m.parquet', 'data.path=none.csv']);"
        "assert code == 2 and 'torch' not in sys.modules, code"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

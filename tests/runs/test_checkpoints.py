"""The checkpoint a run resumes from: the newest complete one, after a kill, a disk error or a clock change."""

import hashlib
import json
import os

import pytest
import yaml

from finetune.errors import FinetuneError
from finetune.runs.checkpoints import Checkpoints, step_and_metrics


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed": 1, "optimizer": {"lr": 1e-3}}))
    return Checkpoints(tmp_path)


def save(saved, step):
    path, content = saved.path(step), f"the weights of step {step}".encode()
    path.write_bytes(content)
    saved.seal(path, hashlib.sha256(content).hexdigest(), len(content), step, {"loss": 1 / step})
    return path


def test_the_newest_checkpoint_is_chosen_by_step_not_by_time(saved):
    assert saved.newest() == (None, [])
    for step in (9, 10, 100):
        os.utime(save(saved, step), (10**9 - step, 10**9 - step))
    assert saved.newest() == (saved.path(100), [])
    assert saved.steps() == [9, 10, 100]
    assert step_and_metrics(saved.folder / "last.ckpt") == (100, {"loss": 0.01})


def change_a_byte(path):
    path.write_bytes(b"T" + path.read_bytes()[1:])


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage_the_manifest(path):
    path.with_suffix(".json").write_text("{ damaged")


def make_it_older(path):
    manifest = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(manifest | {"format": 0, "finetune": "0.0.1"}))


def make_it_another_configs(path):
    manifest = json.loads(path.with_suffix(".json").read_text())
    manifest["config"]["optimizer"]["lr"] = 0.5
    path.with_suffix(".json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (change_a_byte, "its checksum differs from that of the saved file"),
        (cut, "it has 17 of 22 bytes"),
        (damage_the_manifest, "its manifest is damaged"),
        (make_it_older, "it was saved by finetune 0.0.1 in format 0"),
        (make_it_another_configs, "it is from another config (optimizer.lr was 0.5, now 0.001)"),
    ],
)
def test_unusable_checkpoints_are_skipped_with_the_reason(saved, spoil, why):
    save(saved, 10)
    spoil(save(saved, 20))
    newest, left_out = saved.newest()
    assert newest == saved.path(10)
    assert [line.replace("it is damaged: ", "")[: len(why) + 20] for line in left_out] == [f"step-00000020.ckpt, {why}"]
    with pytest.raises(FinetuneError) as refused:
        saved.check(saved.path(20))
    assert why in refused.value.what
    spoil(saved.path(10))
    with pytest.raises(FinetuneError, match="has no usable checkpoint"):
        saved.newest()


def test_an_interrupted_save_is_ignored(saved):
    saved.path(10).write_bytes(b"whole, but nothing says so")
    (saved.folder / ".step-00000020.ckpt.partial").write_bytes(b"ha")
    assert saved.newest() == (None, [])
    save(saved, 5)
    assert saved.newest() == (saved.path(5), [])
    saved.remove_after(5)
    assert sorted(path.name for path in saved.folder.iterdir()) == [
        "last.ckpt", "step-00000005.ckpt", "step-00000005.json",
    ]  # fmt: skip


def test_a_checkpoint_of_a_version_without_manifests_is_one_sentence(saved):
    (saved.folder / "last.ckpt").write_bytes(b"old")
    with pytest.raises(FinetuneError, match=r"last\.ckpt, it is from an older version"):
        saved.newest()


def test_a_file_that_is_not_a_checkpoint(saved):
    note = saved.folder / "notes.txt"
    note.write_text("mine")
    with pytest.raises(FinetuneError, match="it is not a checkpoint"):
        saved.check(note)


def test_kept_checkpoints_are_unchanged_and_links_survive_a_move(saved, tmp_path):
    for step in (1, 2, 3):
        save(saved, step)
    saved.keep({1, 3})
    saved.link("best", saved.path(1))
    moved = Checkpoints(tmp_path.rename(tmp_path.with_name("moved")))
    assert moved.steps() == [1, 3]
    assert step_and_metrics(moved.folder / "best.ckpt")[0] == 1
    moved.remove_after(0)
    assert not list(moved.folder.iterdir())

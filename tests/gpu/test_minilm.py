"""Trained weights, whose activations are larger than random ones: embeddings on a GPU are those of the CPU.

`FINETUNE_TEST_MODEL` names the model; by default it is MiniLM, from its package.
"""

import copy
import os

import numpy as np
import pytest
import torch

from finetune.encoding.engine import Engine
from finetune.errors import ModelError
from finetune.models.text import TextEncoder

pytestmark = pytest.mark.gpu

TEXTS = [
    "A tree is a perennial plant with an elongated stem.",
    "def add(a, b):\n    return a + b",
    "The stock exchange fell by three percent on Monday. " * 12,
    "7",
]


@pytest.fixture(scope="module")
def encoder():
    name = os.environ.get("FINETUNE_TEST_MODEL", "sentence-transformers/all-MiniLM-L6-v2")
    try:
        return TextEncoder(name).eval()
    except ModelError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("dtype", "least"),
    [(None, 1 - 1e-6), (torch.bfloat16, 0.998), (torch.float16, 0.9999)],
    ids=["fp32", "bf16", "fp16"],
)
def test_embeddings_of_a_trained_model(encoder, device, dtype, least):
    ids = encoder.tokenizer(TEXTS, truncation=True, max_length=128)["input_ids"]
    lengths, ids_T = np.array([len(each) for each in ids]), torch.tensor(np.concatenate(ids))

    def embed(on, half):
        with torch.no_grad(), torch.autocast(on.type, half or torch.bfloat16, enabled=half is not None):
            return Engine().encode(copy.deepcopy(encoder).to(on), ids_T.to(on), lengths).cpu().double()

    expected_ND = embed(torch.device("cpu"), None)
    cosine_N = torch.cosine_similarity(embed(device, dtype), expected_ND)
    assert float(cosine_N.min()) >= least

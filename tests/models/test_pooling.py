import json

import numpy as np
import pytest
import torch

from finetune.errors import ModelError
from finetune.models.packing import Packing
from finetune.models.pooling import MODES, Pooling
from finetune.models.st_format.config import read_st_config

TOKENS = torch.tensor([[1.0, -2.0], [3.0, -4.0], [1.0, 1.0], [2.0, 5.0], [6.0, 0.0]])
PACKING = Packing(np.array([2, 3]), torch.device("cpu"))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mean", [[2.0, -3.0], [3.0, 2.0]]),
        ("mean_sqrt_len", [[4 / 2**0.5, -6 / 2**0.5], [9 / 3**0.5, 6 / 3**0.5]]),
        ("cls", [[1.0, -2.0], [1.0, 1.0]]),
        ("max", [[3.0, -2.0], [6.0, 5.0]]),
        ("last", [[3.0, -4.0], [6.0, 0.0]]),
        ("weighted_mean", [[7 / 3, -10 / 3], [23 / 6, 11 / 6]]),
        ("gem", [[14 ** (1 / 3), 1e-6], [75 ** (1 / 3), 42 ** (1 / 3)]]),
        ("attention", [[2.0, -3.0], [3.0, 2.0]]),  # initially the mean
    ],
)
def test_by_hand(mode, expected):
    torch.testing.assert_close(Pooling(mode, 2)(TOKENS, PACKING), torch.tensor(expected))


def test_attention_is_a_softmax_within_each_item():
    pooling = Pooling("attention", 2)
    torch.nn.init.constant_(pooling.query_D, 0.7)
    expected = [torch.softmax(part @ pooling.query_D, 0) @ part for part in TOKENS.split([2, 3])]
    torch.testing.assert_close(pooling(TOKENS, PACKING), torch.stack(expected))
    # A weight beyond what exp can hold.
    torch.nn.init.constant_(pooling.query_D, 1e4)
    torch.testing.assert_close(pooling(TOKENS, PACKING), torch.tensor([[2.0, -3.0], [2.0, 5.0]]))


@pytest.mark.parametrize("mode", MODES)
def test_gradients_by_finite_differences(mode, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    pooling = Pooling(mode, 2).double()
    inputs = [TOKENS.double().requires_grad_(), *pooling.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: pooling(x, PACKING), inputs)


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 32, "pooling_mode": "max", "include_prompt": True}, "max"),
        ({"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True}, "last"),
    ],
)
def test_reads_old_and_new_sentence_transformers_folders(tmp_path, config, mode):
    write(tmp_path, ["Transformer", "Pooling"], config)
    assert read_st_config(tmp_path).pooling == mode


def test_an_unsupported_module_is_refused(tmp_path):
    write(tmp_path, ["Transformer", "Pooling", "LSTM"], {"pooling_mode": "mean"})
    with pytest.raises(ModelError, match="LSTM"):
        read_st_config(tmp_path)


def test_an_unknown_pooling_is_refused(tmp_path):
    write(tmp_path, ["Transformer", "Pooling"], {"pooling_mode": "median"})
    with pytest.raises(ModelError, match="median"):
        read_st_config(tmp_path)


def test_several_poolings_are_concatenated():
    single = [Pooling(mode, 2)(TOKENS, PACKING) for mode in ("max", "weighted_mean", "cls")]
    torch.testing.assert_close(Pooling("max+weighted_mean+cls", 2)(TOKENS, PACKING), torch.cat(single, 1))


def write(folder, kinds, pooling):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

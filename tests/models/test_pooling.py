import json

import numpy as np
import pytest
import torch

from finetune.errors import ModelError
from finetune.models.packing import Packing
from finetune.models.pooling import MODES, pool, pooling_of

TOKENS = torch.tensor([[1.0, -2.0], [3.0, -4.0], [1.0, 1.0], [2.0, 5.0], [6.0, 0.0]])
PACKING = Packing(np.array([2, 3]), torch.device("cpu"))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("mean", [[2.0, -3.0], [3.0, 2.0]]), ("cls", [[1.0, -2.0], [1.0, 1.0]]), ("max", [[3.0, -2.0], [6.0, 5.0]])],
)
def test_by_hand(mode, expected):
    assert pool(TOKENS, PACKING, mode).tolist() == expected


@pytest.mark.parametrize("mode", MODES)
def test_gradients_by_finite_differences(mode, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    assert torch.autograd.gradcheck(lambda x: pool(x, PACKING, mode), TOKENS.double().requires_grad_())


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 32, "pooling_mode": "max", "include_prompt": True}, "max"),
    ],
)
def test_reads_old_and_new_sentence_transformers_folders(tmp_path, config, mode):
    write(tmp_path, ["Transformer", "Pooling"], config)
    assert pooling_of(tmp_path) == mode


def test_a_module_that_would_be_lost_is_refused(tmp_path):
    write(tmp_path, ["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"})
    with pytest.raises(ModelError, match="Dense"):
        pooling_of(tmp_path)


def test_an_unknown_pooling_is_refused(tmp_path):
    write(tmp_path, ["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True})
    with pytest.raises(ModelError, match="cls"):
        pooling_of(tmp_path)


def write(folder, kinds, pooling):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

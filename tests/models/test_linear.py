"""Linear layers without gradients: both libraries compute what `nn.functional.linear` does, for all memory layouts."""

import numpy as np
import pytest
import torch
from torch import nn

from finetune.inference.load import get_model
from finetune.models import linear as module
from finetune.models.linear import FastLinear, linear, prefers_onednn, speed_up_linears

AMD = {"avx512_f": True, "cpu_name": "AMD EPYC"}
WIDTH, OUTPUTS = 5, 6


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


INPUTS = {
    "matrix": numbers(4, WIDTH),
    "vector": numbers(WIDTH),
    "batch": numbers(2, 3, WIDTH),
    "transposed": numbers(WIDTH, 4).t(),
    "columns": numbers(4, 2 * WIDTH)[:, WIDTH:],
    "every second row": numbers(8, WIDTH)[::2],
    "expanded": numbers(1, WIDTH).expand(4, WIDTH),
    "no rows": numbers(0, WIDTH),
}
WEIGHTS = {
    "matrix": numbers(OUTPUTS, WIDTH),
    "transposed": numbers(WIDTH, OUTPUTS).t(),
    "columns": numbers(OUTPUTS, 2 * WIDTH)[:, :WIDTH],
}


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def library(request, monkeypatch):
    """Compute by one of the two libraries, whatever the processor is."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch was built without oneDNN")
    monkeypatch.setattr(module, "prefers_onednn", lambda: request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("bias", [numbers(OUTPUTS), None], ids=["bias", "none"])
def test_equals_the_function_of_torch(x, weight, bias):
    with torch.inference_mode():
        if x.numel():
            found = linear(x, weight, bias)
        else:
            layer = FastLinear(WIDTH, OUTPUTS, bias=bias is not None)
            layer.weight, layer.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
            found = layer(x)
        expected = nn.functional.linear(x, weight, bias)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("library")
def test_gradients_are_those_of_the_plain_layer():
    plain, fast = nn.Linear(WIDTH, OUTPUTS), nn.Linear(WIDTH, OUTPUTS)
    fast.load_state_dict(plain.state_dict())
    speed_up_linears(fast)
    for layer in (plain, fast):
        layer(INPUTS["batch"]).square().sum().backward()
    assert type(fast) is FastLinear
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


@pytest.mark.usefixtures("library")
def test_autocast_still_computes_in_its_dtype():
    layer = nn.Linear(WIDTH, OUTPUTS)
    speed_up_linears(layer)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(INPUTS["matrix"]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("processor", "expected"),
    [(AMD, True), (AMD | {"cpu_name": "Intel Xeon"}, False), (AMD | {"avx512_f": False}, False), ({}, False)],
)
def test_the_library_follows_from_the_processor(monkeypatch, processor, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert prefers_onednn.__wrapped__() == (expected and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def test_a_model_has_the_same_embeddings_with_both_libraries(tiny_model, monkeypatch):
    texts = ["a red cat", "a dog", "the green tree of a house " * 5]
    found = []
    for prefers in (True, False):
        monkeypatch.setattr(module, "prefers_onednn", lambda prefers=prefers: prefers)
        found.append(get_model(str(tiny_model), device="cpu").encode(texts))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)

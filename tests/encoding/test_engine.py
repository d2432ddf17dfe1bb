"""The engine returns the embeddings and the gradients of a padded computation of all items at once."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, MPNetConfig, MPNetModel

from finetune.data.items import Items
from finetune.data.tokens.token_store import Tokens
from finetune.encoding.engine import Engine
from finetune.encoding.memory import Budget, find_budget
from finetune.errors import MemoryRanOut, ModelError
from finetune.models.text import TextEncoder
from finetune.runs.failure_causes import cause_of

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def padding_model(tiny_model, tmp_path_factory):
    """A model whose attention cannot be replaced, and which has to pad."""
    folder = tmp_path_factory.mktemp("padding") / "model"
    config = AutoModel.from_pretrained(tiny_model).config
    torch.manual_seed(0)
    sizes = {key: getattr(config, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    model = MPNetModel(MPNetConfig(vocab_size=config.vocab_size, intermediate_size=64, pad_token_id=0, **sizes))
    model.save_pretrained(folder)
    for file in tiny_model.glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module", params=["packs", "pads"])
def both(request, tiny_model, padding_model):
    """An encoder of each kind, and transformers' own model of the same weights."""
    folder = tiny_model if request.param == "packs" else padding_model
    encoder = TextEncoder(str(folder), dropout=0.0).train()
    assert encoder.packs == (request.param == "packs")
    return encoder, AutoModel.from_pretrained(folder).eval()


def padded(model, ids, lengths):
    """The mean of the last hidden states, unit length, of texts padded to the longest: without code of this project."""
    longest = int(lengths.max())
    rows = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for i, part in enumerate(torch.split(ids, lengths.tolist())):
        rows[i, : len(part)] = part
        mask[i, : len(part)] = 1
    states = model(input_ids=rows, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)
    return torch.nn.functional.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=-1)


def gradients(model, emb, direction):
    model.zero_grad()
    (emb * direction).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=TOLERANCE, atol=TOLERANCE * scale, msg=name)


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=17)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LENGTHS, st.integers(1, 200), st.sampled_from([0, 1, 10_000]), st.integers(0, 2**16))
def test_equals_the_padded_computation(both, lengths, budget, activation_mb, seed):
    encoder, plain = both
    generator = torch.Generator().manual_seed(seed)
    lengths = np.array(lengths, dtype=np.int64)
    ids = torch.randint(4, 60, (int(lengths.sum()),), generator=generator)
    direction = torch.randn(len(lengths), encoder.width, generator=generator)

    expected = padded(plain, ids, lengths)
    engine = Engine(budget, activation_mb, call_cost=seed % 50)
    ours = engine.encode(encoder, ids, lengths)
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)
    same(gradients(encoder.backbone, ours, direction), gradients(plain, expected, direction))

    some = np.random.default_rng(seed).permutation(len(lengths))[: 1 + seed % len(lengths)]
    torch.testing.assert_close(engine.encode(encoder, ids, lengths, some), expected[some], rtol=0, atol=TOLERANCE)


def texts(seed=0, n=12, longest=20):
    lengths = np.random.default_rng(seed).integers(1, longest, n)
    return torch.randint(4, 60, (int(lengths.sum()),), generator=torch.Generator().manual_seed(seed)), lengths


@pytest.mark.parametrize("autocast", [False, True])
def test_recomputation_repeats_dropout(tiny_model, autocast):
    encoder, (ids, lengths) = TextEncoder(str(tiny_model), dropout=0.3).train(), texts()
    results = []
    for activation_mb in (10_000, 0):
        torch.manual_seed(5)
        engine = Engine(30, activation_mb)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            emb = engine.encode(encoder, ids, lengths)
        results.append((emb.detach(), gradients(encoder, emb, torch.ones_like(emb).cumsum(0))))
        after = torch.rand(1)  # what comes next draws the same numbers, too
        results[-1] += (after,)
    (kept, kept_gradients, kept_next), (again, again_gradients, again_next) = results
    assert torch.equal(kept, again)
    assert torch.equal(kept_next, again_next)
    for name in kept_gradients:
        torch.testing.assert_close(again_gradients[name], kept_gradients[name], rtol=1e-5, atol=1e-6, msg=name)


def test_keeps_activations_that_fit_and_recomputes_the_others(tiny_model):
    encoder, (ids, lengths) = TextEncoder(str(tiny_model)).train(), texts(n=400)
    shares = []
    for activation_mb in (0, 1, 2, 4, 10_000):
        engine = Engine(100, activation_mb)
        engine.encode(encoder, ids, lengths)
        shares.append(engine.recomputed_share)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1 and 0 < shares[2] < 0.9 and shares[-1] == 0


def test_kept_activations_stay_within_their_budget(tiny_model):
    from finetune.encoding import memory

    encoder, (ids, lengths) = TextEncoder(str(tiny_model)).train(), texts(n=400)
    kept = memory.SavedTensorCounter(encoder.parameters())
    with kept.counted(torch.device("cpu")):
        Engine(100, 2).encode(encoder, ids, lengths)
    # Beyond the kept graphs there are the tokens of the recomputed ones, the embeddings, and one micro-batch.
    assert kept.bytes < 2.5 * memory.MB


class Small:
    """An encoder on a device with memory for `most` tokens."""

    def __init__(self, encoder, most):
        self.most, self.calls, self.encoder = most, 0, encoder

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def __call__(self, ids, lengths, lookup=None):
        self.calls += 1
        if len(ids) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.encoder(ids, lengths, lookup)


def test_out_of_memory_halves_the_budget_and_retries(tiny_model, capsys):
    encoder, (ids, lengths) = TextEncoder(str(tiny_model), dropout=0.0), texts(n=40)
    engine = Engine(256, 100)
    emb = engine.encode(Small(encoder, most=70), ids, lengths)
    torch.testing.assert_close(emb, Engine().encode(encoder, ids, lengths), rtol=0, atol=TOLERANCE)
    assert engine.budget(encoder).tokens == 64
    assert "engine.token_budget=64" in capsys.readouterr().out


def test_a_single_item_that_is_too_large_raises(tiny_model):
    encoder, (ids, lengths) = TextEncoder(str(tiny_model)), texts(n=40)
    with pytest.raises(MemoryRanOut, match=f"the longest item has {lengths.max()} tokens.*data.max_length") as raised:
        Engine(256, 1).encode(Small(encoder, most=int(lengths.max()) - 1), ids, lengths)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)
    assert cause_of(raised.value) == "out of memory"


def test_other_errors_are_raised(tiny_model):
    with pytest.raises(IndexError):
        Engine().encode(TextEncoder(str(tiny_model)), torch.tensor([10**6]), np.array([1]))


def test_auto_budget_fits_the_cache_of_the_processor(tiny_model, minilm):
    assert find_budget(TextEncoder(str(minilm)), None, None).tokens == 2048
    assert find_budget(TextEncoder(str(minilm)), 100, 3) == Budget(100, 3 * 2**20)
    assert find_budget(TextEncoder(str(tiny_model)), None, 0).kept == 0


def test_padding_share_by_hand(padding_model, tiny_model):
    # At this price of a call, 2 and 4 share a micro-batch of 2 x 4 positions, 6 of them real; 8 stands alone.
    lengths = np.array([8, 2, 4])
    assert Engine(call_cost=3).padding_share(lengths, TextEncoder(str(padding_model))) == pytest.approx(1 - 14 / 16)
    assert Engine().padding_share(lengths, TextEncoder(str(tiny_model))) == 0


def test_bf16_embeddings_are_nearly_the_same_and_returned_in_fp32(both):
    encoder, _ = both
    encoder.eval()
    texts = Items.of_texts(pa.array(["a red bird", "two", "", "a much longer text about nothing"], pa.large_string()))
    tokens = Tokens.build(texts, encoder.tokenizer, 16)

    def embedded(precision):
        found = torch.empty(4, encoder.width)
        for places, part in Engine(embed_precision=precision).embed(encoder, tokens, np.arange(4)):
            found[places] = part
            assert part.dtype == torch.float32
        return found

    exact, near = embedded("32-true"), embedded("bf16-mixed")
    assert not torch.equal(exact, near)
    assert (exact * near).sum(1).min() > 0.999
    assert torch.allclose(near.norm(dim=1), torch.ones(4))


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a CPU with a C++ compiler")
@pytest.mark.slow
def test_a_compiled_encoder_computes_the_same(tiny_model):
    encoder, (ids, lengths) = TextEncoder(str(tiny_model), dropout=0.0).train(), texts(n=30)
    direction = torch.randn(30, encoder.width, generator=torch.Generator().manual_seed(0))
    plain = Engine(100).encode(encoder, ids, lengths)
    expected = gradients(encoder, plain, direction)
    encoder.compile_backbone(torch.device("cpu"))
    for activation_mb in (100, 0):
        emb = Engine(100, activation_mb).encode(encoder, ids, lengths)
        torch.testing.assert_close(emb, plain, rtol=0, atol=TOLERANCE)
        same(gradients(encoder, emb, direction), expected)


def test_compile_without_a_compiler_raises(tiny_model, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelError, match=r"engine\.compile=true needs a C\+\+ compiler"):
        TextEncoder(str(tiny_model)).compile_backbone(torch.device("cpu"))


class LowRank(torch.nn.Module):
    """A frozen linear layer with a trained low-rank update (LoRA, Hu et al. 2021)."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = torch.nn.Parameter(torch.randn(2, base.in_features) / 10)
        self.up = torch.nn.Parameter(torch.randn(base.out_features, 2) / 10)

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def adapted(model):
    torch.manual_seed(3)
    model.requires_grad_(False)
    for layer in model.encoder.layer:
        layer.attention.self.query = LowRank(layer.attention.self.query)
        layer.attention.self.value = LowRank(layer.attention.self.value)
    return model


@pytest.mark.parametrize("activation_mb", [0, 100])
def test_adapters_on_frozen_weights_get_their_gradients(tiny_model, activation_mb):
    encoder, plain = TextEncoder(str(tiny_model), dropout=0.0), AutoModel.from_pretrained(tiny_model).eval()
    adapted(encoder.backbone)
    adapted(plain)
    (ids, lengths), direction = texts(), torch.randn(12, encoder.width, generator=torch.Generator().manual_seed(0))
    emb, expected = Engine(30, activation_mb).encode(encoder, ids, lengths), padded(plain, ids, lengths)
    torch.testing.assert_close(emb, expected, rtol=0, atol=TOLERANCE)
    ours, theirs = gradients(encoder.backbone, emb, direction), gradients(plain, expected, direction)
    assert len(ours) == 8
    same(ours, theirs)


def test_shared_weights_are_not_counted_as_activations(tiny_model):
    from finetune.encoding import memory

    encoder, (ids, lengths) = TextEncoder(str(tiny_model)).train(), texts(n=4)
    lookup, counted = encoder.token_embedding(), []
    for shared in (frozenset(), lookup.storages):
        kept = memory.SavedTensorCounter(encoder.parameters(), shared)
        with kept.counted(torch.device("cpu")):
            encoder(ids, np.sort(lengths), lookup)
        counted.append(kept.bytes)
    copies = sum(tensor.nbytes for tensors in lookup._prepared.values() for tensor in tensors)
    assert 0 < counted[0] - counted[1] <= copies

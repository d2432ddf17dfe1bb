"""The budget of a device with 1 GB, and embeddings for which its memory runs out."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from finetune import devices
from finetune.data.items import Items
from finetune.data.tokens.token_store import Tokens
from finetune.encoding.engine import Engine
from finetune.encoding.memory import MB, Budget, SavedTensorCounter, find_budget
from finetune.errors import MemoryRanOut
from finetune.models.text import TextEncoder
from tests.fake_device import GB, FakeDevice


class Sizes(torch.nn.Module):
    """An encoder of which only the sizes matter: its weights, in fp32 and without memory, and its layers."""

    def __init__(self, weights_mb, depth, hidden, trained=True):
        super().__init__()
        weights = torch.empty(weights_mb * MB // 4, device="meta")
        self.weights = torch.nn.Parameter(weights, requires_grad=trained)
        self.depth, self.hidden, self.widest = depth, hidden, 4 * hidden


MINILM, BASE, LARGE = Sizes(87, 6, 384), Sizes(417, 12, 768), Sizes(1278, 24, 1024)


@pytest.fixture
def on_fake(monkeypatch):
    def use(fake):
        monkeypatch.setattr(devices, "of", lambda device: fake)
        return fake

    return use


def per_token(encoder):
    return 4 * encoder.depth * (12 * encoder.hidden + 3 * encoder.widest)


def test_kept_activations_and_a_micro_batch_leave_room_for_gradients_optimizer_and_loss(on_fake):
    on_fake(FakeDevice(others=87 * MB))  # the weights themselves
    budget = find_budget(MINILM, None, None)
    states = 4 * 87 * MB  # gradients, two moments, one result
    used = budget.kept + budget.tokens * per_token(MINILM)
    assert 0.6 * (GB - 87 * MB - states) < used < 0.8 * (GB - 87 * MB - states)
    assert budget.tokens > 500


@pytest.mark.parametrize("encoder", [BASE, LARGE])
def test_a_model_that_leaves_no_room_keeps_nothing_and_gets_small_micro_batches(on_fake, encoder):
    on_fake(FakeDevice(others=min(GB, 417 * MB)))
    assert find_budget(encoder, None, None) == Budget(256, 0)


def test_frozen_weights_need_no_gradients(on_fake):
    on_fake(FakeDevice(others=417 * MB))
    frozen, trained = (find_budget(Sizes(417, 12, 768, trained=kind), None, None) for kind in (False, True))
    assert frozen.kept == pytest.approx((GB - 417 * MB) / 2, abs=MB)
    assert trained.kept == 0


def test_the_budget_follows_what_other_programs_leave(on_fake):
    kept, tokens = [], []
    for others in (0, 300, 600, 900, 1024):
        on_fake(FakeDevice(others=others * MB))
        budget = find_budget(MINILM, None, None)
        kept.append(budget.kept)
        tokens.append(budget.tokens)
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[1] > kept[2] and kept[-2:] == [0, 0]
    assert tokens == sorted(tokens, reverse=True) and tokens[0] > tokens[1] and tokens[-1] == 256


def test_a_large_device_gets_no_more_tokens_than_make_it_faster(on_fake):
    on_fake(FakeDevice(capacity=141 * GB))
    assert find_budget(BASE, None, None).tokens == 32_768


def test_settings_come_before_the_memory(on_fake):
    on_fake(FakeDevice(others=GB))
    assert find_budget(BASE, 4096, 500) == Budget(4096, 500 * MB)


def test_halving_starts_from_what_was_used():
    budget = Budget(32_768, 60 * GB)
    budget.halve_tokens(5000)
    budget.halve_kept(8 * GB)
    assert budget == Budget(2500, 4 * GB)
    budget.halve_tokens(5000)
    budget.halve_kept(MB)
    assert budget == Budget(1250, 0)


def test_activations_are_counted_by_the_allocator_of_the_device(on_fake):
    fake = on_fake(FakeDevice())
    counter = SavedTensorCounter([])
    with fake, counter.counted(torch.device("cpu")):
        kept = torch.ones(1000, requires_grad=True) * 2
    assert counter.bytes == fake.in_use == 8000
    with counter.counted(torch.device("cpu")):
        del kept  # something else was freed meanwhile
    assert counter.bytes == 8000


def test_a_resumed_run_has_the_budget_of_the_free_memory_then_but_not_more_than_its_settings(on_fake, tiny_model):
    encoder = TextEncoder(str(tiny_model))
    assert Engine().state_dict() == {}
    plain = Engine()
    plain.budget(encoder)
    assert plain.state_dict() == {}  # on a CPU it does not depend on the memory
    on_fake(FakeDevice(others=GB - 100 * MB))
    engine = Engine()
    state = {"tokens": engine.budget(encoder).tokens, "kept": engine.budget(encoder).kept}
    assert engine.state_dict() == state
    on_fake(FakeDevice(others=GB - 50 * MB))
    for settings, expected in (
        ({}, state),
        ({"token_budget": 128, "activation_mb": 1}, {"tokens": 128, "kept": MB}),
        ({"token_budget": 10**6, "activation_mb": 10**4}, state),
    ):
        resumed = Engine(**settings)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == expected


TEXTS = [
    "a red bird",
    "two",
    "",
    "a much longer text about nothing",
    *(f"the old house {n} by the sea" for n in range(30)),
]


def embedded(encoder, tokens, budget):
    engine, found = Engine(budget), torch.full((len(tokens), encoder.width), torch.nan)
    sizes = []
    for places, part in engine.embed(encoder, tokens, np.arange(len(tokens))):
        found[places] = part.cpu()
        sizes.append(int(tokens.lengths[places].sum()))
    return found, sizes, engine


@pytest.fixture
def encoder_and_tokens(tiny_model):
    encoder = TextEncoder(str(tiny_model)).eval()
    items = Items.of_texts(pa.array(TEXTS, pa.large_string()))
    return encoder, Tokens.build(items, encoder.tokenizer, 32)


def test_an_evaluation_for_which_memory_runs_out_continues_with_smaller_micro_batches(
    on_fake, encoder_and_tokens, capsys
):
    encoder, tokens = encoder_and_tokens
    expected, sizes, _ = embedded(encoder, tokens, 200)
    fake = on_fake(FakeDevice())
    fake.add(encoder)
    before = fake.in_use
    with fake:
        embedded(encoder, tokens, 200)
    left = (before + fake.highest) // 2
    fake = on_fake(FakeDevice(others=GB - left))
    fake.add(encoder)
    with fake:
        found, smaller, engine = embedded(encoder, tokens, 200)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert max(smaller) < max(sizes)
    assert 1 <= len(fake.released) <= 3  # not once for each micro-batch
    assert all(released < before + 50_000 for released in fake.released)
    assert engine.budget(encoder).tokens <= 100  # for what is computed later
    assert "micro-batches of" in capsys.readouterr().out


def test_an_evaluation_of_an_item_that_is_too_large_ends_with_advice(on_fake, encoder_and_tokens):
    encoder, tokens = encoder_and_tokens
    fake = on_fake(FakeDevice(fail_at=range(10**6)))
    fake.start()
    with fake, pytest.raises(MemoryRanOut, match=f"the longest item has {tokens.lengths.max()} tokens"):
        next(Engine(200).embed(encoder, tokens, np.arange(len(tokens))))


def test_another_error_of_an_evaluation_is_raised(on_fake, encoder_and_tokens):
    encoder, tokens = encoder_and_tokens
    fake = on_fake(FakeDevice(fail_at=[3], error=lambda: RuntimeError("CUDA error: an illegal memory access")))
    fake.start()
    with fake, pytest.raises(RuntimeError, match="illegal"):
        embedded(encoder, tokens, 200)

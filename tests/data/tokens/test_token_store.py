from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune.data.batching.datamodule import RelationDataModule
from finetune.data.batching.mixing import BatchSettings
from finetune.data.cache.store import Cache
from finetune.data.items import Items, Part
from finetune.data.load import read
from finetune.data.tokens import tokenize, wordpiece
from finetune.data.tokens.token_store import Tokens, key_of
from finetune.data.tokens.tokenize import FastTokenizer, slices
from finetune.data.tokens.wordpiece import special_tokens_of
from finetune.errors import ModelError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "Red", "green", "un", "##able", "é", "e", "中", "σ", "."]  # noqa: RUF001
PIECES += [*"abcdefgxyz", *(f"##{letter}" for letter in "abcdefgxyzé")]
# Everything that some library takes for white space, removes, joins to its neighbour, or writes in more than one way.
ODD = [
    *"\t\n\v\f\r\x00\x01\x1b\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u0130\u0131\u0301\u0323\u0345\u0600\u1680\u180e\u1e9e\ufb01",
    *"\u2000\u2003\u2009\u200a\u200b\u200c\u200d\u200e\u2028\u2029\u202e\u202f\u205f\u2060\u3000\ufe0f\ufeff\ufffd\U000e0001",
    *"中日한あﾊﾞ𠀀ΣσςéÉẞßŉÅÅ.,!-_@#[]()<>|«»—。、\U0001f600\U0001f468\u0e33\ue000",
]
WORDS = ["red", "Red", "RED", "unable", "green", "[SEP]", "[MASK]", "[mask]", "fred", "new york", "@name", "x" * 99]
WORDS += ["x" * 100, "x" * 101, "中文", "e\u0301", "a\u0301\u0323", "[CLS", "S]", "ΣΑΣ", "abcdefg.red"]
texts = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.lists(st.sampled_from([*WORDS, *ODD, " ", " ", " ", "  "]), max_size=14).map("".join),
        st.lists(st.sampled_from([*WORDS, *ODD]), max_size=9).map(" ".join),
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


def word_pieces(
    normalizer: Any = None, added: Sequence[AddedToken] = (), processor: Any = None, **settings: Any
) -> PreTrainedTokenizerFast:
    """A tiny tokenizer of BERT's kind."""
    inner = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processor or processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", **names, **settings)
    tokenizer.add_tokens(list(added))
    return tokenizer


def word_level() -> PreTrainedTokenizerFast:
    """A tiny tokenizer of another kind."""
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, **{f"w{i}": i + 3 for i in range(50)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def byte_pairs() -> PreTrainedTokenizerFast:
    """A tiny tokenizer of the kind of GPT and RoBERTa, which knows every byte and no unknown token."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=bytes_)
    inner.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    inner.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=inner, cls_token="<s>", sep_token="</s>")


BERT = normalizers.BertNormalizer
TEMPLATE = processors.TemplateProcessing("[CLS] [CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
BY_WORDS = {
    "uncased": word_pieces(BERT()),
    "cased": word_pieces(BERT(lowercase=False)),
    "cased without accents": word_pieces(BERT(lowercase=False, strip_accents=True)),
    "uncased with accents": word_pieces(BERT(strip_accents=False)),
    "chinese characters kept together": word_pieces(BERT(handle_chinese_chars=False)),
    "not cleaned": word_pieces(BERT(clean_text=False)),
    "no normalizer": word_pieces(),
    "cut on the left": word_pieces(BERT(), truncation_side="left"),
    "marks as text": word_pieces(BERT(), split_special_tokens=True),
    "two marks before": word_pieces(BERT(), processor=TEMPLATE),
    "roberta's marks": word_pieces(BERT(), processor=processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))),
    "added tokens": word_pieces(
        BERT(), [AddedToken("fred"), AddedToken("[red]", normalized=False), AddedToken("@name", special=True)]
    ),
    "added tokens that strip": word_pieces(
        BERT(), [AddedToken("red", lstrip=True), AddedToken("green", rstrip=True), AddedToken("ab", single_word=True)]
    ),
    "added tokens that strip raw text": word_pieces(
        BERT(),
        [
            AddedToken("red", lstrip=True, rstrip=True, normalized=False),
            AddedToken("ab", single_word=True, lstrip=True, normalized=False),
        ],
    ),
}
OTHERWISE = {
    "another model": word_level(),
    "byte pairs": byte_pairs(),
    "an added token with a space": word_pieces(BERT(), [AddedToken("new york")]),
    "an added token that is not ASCII": word_pieces(BERT(), [AddedToken("中文")]),
    "a second normalizer": word_pieces(normalizers.Sequence([normalizers.Strip(), BERT()])),
    "another processor": word_pieces(BERT(), processor=processors.ByteLevel()),
}


def items_of(found: Sequence[str]) -> Items:
    return Items.of_texts(pa.array(found, pa.large_string()))


def assert_same(tokens: Tokens, found: Sequence[str], tokenizer: Any, max_length: int) -> None:
    """Hold tokens against what the tokenizer says of each text alone."""
    expected = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in found]
    whole = [tokenizer(text)["input_ids"] for text in found]
    lengths = [len(ids) for ids in expected]
    assert tokens.lengths.tolist() == lengths
    assert tokens.ids.tolist() == [one for ids in expected for one in ids]
    ids, counted = tokens.take(np.arange(len(found))[::-1])
    assert ids.tolist() == [one for ids in expected[::-1] for one in ids] and counted.tolist() == lengths[::-1]
    marks = tokenizer.num_special_tokens_to_add()
    assert tokens.counts.truncated == sum(len(ids) > max_length for ids in whole)
    assert tokens.counts.without_tokens == sum(len(ids) == marks for ids in whole)
    bodies = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in found]
    if tokenizer.truncation_side == "right":
        kept = [ids[: max_length - marks] for ids in bodies]
        assert tokens.counts.unknown_only == sum(set(ids) == {tokenizer.unk_token_id} for ids in kept)


def by_words(found: Sequence[str], tokenizer: Any, max_length: int) -> Tokens:
    """Tokenize by words and by no other method, whatever the comparison with the tokenizer says."""
    fast = FastTokenizer(tokenizer, max_length)
    with tokenize.no_truncation(tokenizer):
        method = next(iter(fast._methods()))
        assert method.name == "words"
        for _ in range(2):  # the second time all words are known
            chunk = method.encode(pa.array(found, pa.large_string()))
    return Tokens(chunk.ids, np.concatenate([[0], np.cumsum(chunk.lengths)]))


def assert_words_do(found: Sequence[str], tokenizer: Any, max_length: int) -> None:
    built = Tokens.build(items_of(found), tokenizer, max_length)
    assert_same(built, found, tokenizer, max_length)
    tokens = by_words(found, tokenizer, max_length)
    assert tokens.ids.tolist() == built.ids.tolist() and tokens.offsets.tolist() == built.offsets.tolist()


@pytest.mark.parametrize("name", BY_WORDS)
@settings(deadline=None, max_examples=60)
@given(found=texts, max_length=st.integers(4, 12))
def test_words_give_the_ids_of_the_tokenizer(name, found, max_length):
    assert_words_do(found, BY_WORDS[name], max_length)


@pytest.fixture(scope="module")
def real(minilm: Path) -> Any:
    return AutoTokenizer.from_pretrained(minilm)


@settings(deadline=None, max_examples=100)
@given(found=texts, max_length=st.integers(4, 24))
def test_the_ids_of_the_real_model(real, found, max_length):
    assert_words_do(found, real, max_length)


@pytest.mark.parametrize("name", OTHERWISE)
@settings(deadline=None, max_examples=50)
@given(found=texts, max_length=st.integers(4, 12))
def test_any_other_tokenizer_gives_its_own_ids_too(name, found, max_length):
    tokenizer = OTHERWISE[name]
    with tokenize.no_truncation(tokenizer):
        assert special_tokens_of(tokenizer.backend_tokenizer) is None
    assert_same(Tokens.build(items_of(found), tokenizer, max_length), found, tokenizer, max_length)


@pytest.mark.slow
def test_every_character_next_to_a_space_and_next_to_a_letter(real):
    """All of Unicode's letters and marks, once: none may reach over a space."""
    found = [f"a {chr(code)}b c{chr(code)} d{chr(code)}e" for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    tokens = by_words(found, real, 128)
    with tokenize.no_truncation(real):
        expected = [encoding.ids for encoding in real.backend_tokenizer.encode_batch_fast(found)]
    assert tokens.ids.tolist() == [one for ids in expected for one in ids]
    assert tokens.lengths.tolist() == [len(ids) for ids in expected]


def test_many_chunks_in_several_threads_are_in_order(real, monkeypatch):
    monkeypatch.setattr(tokenize, "CHUNK_TEXTS", 50)
    monkeypatch.setattr(wordpiece, "MOST_WORDS", 100)
    rng = np.random.default_rng(0)
    found = [" ".join(f"w{word}" for word in rng.integers(0, 400, rng.integers(0, 9))) + f" {i}" for i in range(2000)]
    seen: list[tuple[int, int]] = []
    tokens = Tokens.build(items_of(found), real, 12, lambda done, total: seen.append((done, total)))
    assert_same(tokens, found, real, 12)
    assert seen == [(done, 2000) for done in range(50, 2001, 50)]


def test_the_tokenizer_is_left_as_it_was():
    tokenizer = word_pieces(BERT())
    tokenizer.backend_tokenizer.enable_truncation(7, stride=2, direction="left")
    tokenizer.backend_tokenizer.enable_padding(length=9)
    before = tokenizer.backend_tokenizer.to_str()
    key = key_of(pa.array(["red"], pa.large_string()), tokenizer, 8)
    assert tokenizer.backend_tokenizer.to_str() == before
    Tokens.build(items_of(["red"]), tokenizer, 8)
    assert key == key_of(pa.array(["red"], pa.large_string()), tokenizer, 8)


def test_a_tokenizer_whose_class_does_more_than_its_backend_is_taken_at_its_word():
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            text = text.lower() if isinstance(text, str) else [each.lower() for each in text]
            return super()._encode_plus(text, *args, **kwargs)

    cased = word_pieces(BERT(lowercase=False)).backend_tokenizer
    tokenizer = Shouting(tokenizer_object=cased, unk_token="[UNK]", pad_token="[PAD]")
    found = ["RED", "Red", "green", "GREEN red"]
    assert_same(Tokens.build(items_of(found), tokenizer, 8), found, tokenizer, 8)


def test_ids_are_as_narrow_as_the_vocabulary_allows():
    words = {"[UNK]": 0, **{f"w{i}": i for i in range(1, 70_000)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    wide = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    assert Tokens.build(items_of(["w69999 w1"]), wide, 8).ids.tolist() == [69999, 1]
    assert Tokens.build(items_of(["w69999 w1"]), wide, 8).ids.dtype == np.int32
    assert Tokens.build(items_of(["red"]), BY_WORDS["uncased"], 8).ids.dtype == np.uint16


def test_only_a_fast_tokenizer_will_do():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is not a fast tokenizer"):
        Tokens.build(items_of(["red"]), Slow(), 8)


def test_no_texts_and_other_items():
    tokenizer = BY_WORDS["uncased"]
    empty = Tokens.build(items_of([]), tokenizer, 8)
    assert len(empty) == 0 and empty.facts()["tokens"] == 0 and empty.note(items_of([])) is None
    vectors = Part("vector", pa.array([b"1234"], pa.large_binary()))
    mixed = Items((Part("text", pa.array(["red", "green"], pa.large_string())), vectors))
    assert len(Tokens.build(mixed, tokenizer, 8)) == 2


def test_empty_texts_are_noted_with_an_example():
    tokenizer = BY_WORDS["uncased"]
    items = items_of(["red", "q", "\x00 ", "q w", "q red"])
    tokens = Tokens.build(items, tokenizer, 8)
    facts = tokens.facts()
    assert (facts["texts_without_tokens"], facts["unknown_only_texts"]) == (1, 2)
    assert tokens.note(items) == (
        "of 5 texts 1 has no token at all and 2 have nothing but unknown tokens, such as 'q': "
        "to the model they are all the same."
    )
    assert Tokens.build(items_of(["red"]), tokenizer, 8).note(items) is None


@given(found=st.lists(st.text(max_size=9), max_size=20), most_texts=st.integers(1, 5), most_bytes=st.integers(1, 20))
def test_slices_are_all_texts_in_order_and_small(found, most_texts, most_bytes):
    array = pa.array(["before", *found, "after"], pa.large_string()).slice(1, len(found))
    parts = list(slices(array, most_texts, most_bytes))
    assert [text for part in parts for text in part.to_pylist()] == found
    for part in parts:
        size = sum(len(text.encode()) for text in part.to_pylist())
        assert len(part) == 1 or (len(part) <= most_texts and size <= most_bytes)


TEXTS = ["red", "green red", "", "unable"]


def same_key(texts: pa.Array, tokenizer: Any = None, max_length: int = 8) -> bool:
    tokenizer = tokenizer or word_pieces(BERT())
    return key_of(texts, tokenizer, max_length) == key_of(
        pa.array(TEXTS, pa.large_string()), word_pieces(BERT()), max_length=8
    )


def test_the_key_depends_on_the_texts_and_not_on_their_memory():
    assert same_key(pa.array(["x", *TEXTS, "y"], pa.large_string()).slice(1, 4))
    with_bitmap = pa.array([None, *TEXTS], pa.large_string()).slice(1)
    assert with_bitmap.null_count == 0 and with_bitmap.buffers()[0] is not None
    assert same_key(with_bitmap)
    assert not same_key(pa.array(["redg", "reen red", "", "unable"], pa.large_string()))
    assert not same_key(pa.array(["green red", "red", "", "unable"], pa.large_string()))
    assert not same_key(pa.array(TEXTS[:3], pa.large_string()))
    with pytest.raises(ValueError, match="null"):
        same_key(pa.array([*TEXTS, None], pa.large_string()))


def test_the_key_is_of_all_that_the_tokens_depend_on():
    texts = pa.array(TEXTS, pa.large_string())
    assert not same_key(texts, max_length=9)
    for name, tokenizer in BY_WORDS.items():
        assert same_key(texts, tokenizer) == (name == "uncased"), name


def test_the_key_is_the_same_in_another_process(minilm: Path, real):
    script = f"""
import pyarrow as pa, sys
from transformers import AutoTokenizer
from finetune.data.tokens.token_store import key_of
print(key_of(pa.array({TEXTS!r}, pa.large_string()), AutoTokenizer.from_pretrained({str(minilm)!r}), 8))
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == key_of(pa.array(TEXTS, pa.large_string()), real, 8)


@settings(deadline=None, max_examples=20)
@given(found=texts)
def test_tokens_from_the_cache_are_those_that_were_built(tmp_path_factory, found):
    tokenizer, cache = BY_WORDS["uncased"], Cache(tmp_path_factory.mktemp("cache"))
    built = Tokens.build(items_of(found), tokenizer, 8)
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        tokens = Tokens.cached(items_of(found), tokenizer, 8, cache, lambda done, total: seen.append((done, total)))
        assert tokens.ids.dtype == built.ids.dtype and tokens.ids.tolist() == built.ids.tolist()
        assert tokens.offsets.tolist() == built.offsets.tolist() and tokens.counts == built.counts
    assert seen == [(len(found), len(found))]  # one chunk, and no progress of what is read from the cache
    assert len(cache.entries()) == 1


def test_tokens_from_the_cache_are_mapped_and_read_again_not_made_again(tmp_path, monkeypatch):
    tokenizer, cache = BY_WORDS["uncased"], Cache(tmp_path)
    Tokens.cached(items_of(TEXTS), tokenizer, 8, cache)
    monkeypatch.setattr(FastTokenizer, "chunks", None)
    tokens = Tokens.cached(items_of(TEXTS), tokenizer, 8, cache)
    assert not tokens.ids.flags.writeable and not tokens.ids.flags.owndata
    mapped = Path("/proc/self/maps").read_text()
    assert str(cache.entries()[0].path / "ids.arrow") in mapped
    cache.remove([entry.path for entry in cache.entries()])
    assert tokens.take(np.array([1]))[0].tolist() == tokenizer("green red")["input_ids"]


def test_damage_that_only_reading_finds_is_mended(tmp_path):
    tokenizer, cache = BY_WORDS["uncased"], Cache(tmp_path)
    key = key_of(items_of(TEXTS).texts, tokenizer, 8)
    cache.entry("tokens", key, lambda folder: (folder / "ids.arrow").write_text("no arrow"))
    tokens = Tokens.cached(items_of(TEXTS), tokenizer, 8, cache)
    assert_same(tokens, TEXTS, tokenizer, 8)


def test_a_bar_is_shown_while_texts_are_tokenized_and_not_when_they_are_cached(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    said = []
    for _ in range(2):
        rows = [{"question": f"green {i}", "answer": f"red {i}"} for i in range(8)]
        RelationDataModule(read(rows, validation_fraction=0), BY_WORDS["uncased"], BatchSettings(4), 8, 0)
        said.append(capsys.readouterr().out)
    assert "tokenizing 16/16 texts" in said[0]
    assert "tokenizing" not in said[1]

"""The shipped data set keeps its promises; read with the standard library alone, as anybody would."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import finetune.datasets

FOLDER = Path(finetune.datasets.__file__).parent / "reverse_dictionary"
EVALUATION = FOLDER / "evaluation"


def read_jsonl(path: Path) -> dict[str, str]:
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    texts = {record["_id"]: record["text"] for record in records}
    assert len(texts) == len(records), f"{path.name} has an id twice"
    assert all(record.keys() == {"_id", "text"} for record in records)
    return texts


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    with (FOLDER / "train.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def pairs(rows: list[list[str]]) -> list[list[str]]:
    return rows[1:]


@pytest.fixture(scope="module")
def corpus() -> dict[str, str]:
    return read_jsonl(EVALUATION / "corpus.jsonl")


@pytest.fixture(scope="module")
def queries() -> dict[str, str]:
    return read_jsonl(EVALUATION / "queries.jsonl")


@pytest.fixture(scope="module")
def judgments() -> list[list[str]]:
    header, *lines = (EVALUATION / "qrels/test.tsv").read_text("utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    return [line.split("\t") for line in lines]


def gives_away(description: str, word: str) -> bool:
    """Not the script's own rule: any word of four letters or more stands in the description, or shares five letters."""
    tokens = re.findall(r"[a-z]+", description.lower())
    parts = re.findall(r"[a-z]{4,}", word.lower())
    function_words = {"with", "from", "into", "over", "that"}
    return any(
        token == part or (len(part) >= 5 and token[:5] == part[:5])
        for part in parts
        for token in tokens
        if part not in function_words
    )


def test_the_table_has_a_header_and_whole_rows(rows: list[list[str]]) -> None:
    assert rows[0] == ["description", "word"]
    assert all(len(row) == 2 for row in rows)
    assert all(cell and cell == cell.strip() for row in rows for cell in row)


def test_there_are_thousands_of_pairs_and_none_twice(pairs: list[list[str]]) -> None:
    assert len(pairs) > 10_000
    assert len({tuple(pair) for pair in pairs}) == len(pairs)


def test_at_most_two_words_share_a_training_description(pairs: list[list[str]]) -> None:
    counts = Counter(description for description, _ in pairs)
    # Several synsets may say the same: that is rare, and the only way to more than two.
    assert sum(count > 2 for count in counts.values()) < 20


def test_the_corpus_is_large_and_the_queries_are_many(corpus: dict[str, str], queries: dict[str, str]) -> None:
    assert len(set(corpus.values())) == len(corpus) >= 5_000
    assert len(set(queries.values())) == len(queries) == 1_500


def test_no_word_and_no_description_is_on_both_sides(
    pairs: list[list[str]], corpus: dict[str, str], queries: dict[str, str]
) -> None:
    assert {word.casefold() for _, word in pairs}.isdisjoint(text.casefold() for text in corpus.values())
    assert {text.casefold() for text, _ in pairs}.isdisjoint(text.casefold() for text in queries.values())


def test_every_judgment_names_a_known_query_and_a_known_word(
    judgments: list[list[str]], corpus: dict[str, str], queries: dict[str, str]
) -> None:
    assert {query for query, _, _ in judgments} == queries.keys()
    assert {word for _, word, _ in judgments} <= corpus.keys()
    assert {grade for _, _, grade in judgments} == {"1"}
    assert len({(query, word) for query, word, _ in judgments}) == len(judgments)


def test_no_description_gives_its_word_away(
    pairs: list[list[str]], judgments: list[list[str]], corpus: dict[str, str], queries: dict[str, str]
) -> None:
    asked = [(queries[query], corpus[word]) for query, word, _ in judgments]
    assert [pair for pair in [*pairs, *asked] if gives_away(*pair)] == []


def test_descriptions_are_definitions_without_examples(pairs: list[list[str]], queries: dict[str, str]) -> None:
    for description in [*queries.values(), *(text for text, _ in pairs)]:
        assert len(description.split()) >= 3
        assert '"' not in description


def test_words_are_no_proper_names_numerals_or_letters(pairs: list[list[str]], corpus: dict[str, str]) -> None:
    for word in [*corpus.values(), *(word for _, word in pairs)]:
        assert re.fullmatch(r"[a-z' -]{2,}", word), word


def test_the_licence_goes_with_the_data() -> None:
    text = (FOLDER / "LICENSE.txt").read_text("utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in text
    assert text.startswith("This software and database is being provided to you, the LICENSEE, by\nPrinceton")
    assert text.endswith("Princeton University and LICENSEE agrees to preserve same.\n")


def test_the_readme_counts_what_is_there(
    pairs: list[list[str]], judgments: list[list[str]], corpus: dict[str, str], queries: dict[str, str]
) -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    descriptions, words = (len(set(column)) for column in zip(*pairs, strict=True))
    assert f"{len(pairs):,} pairs: {descriptions:,} descriptions, {words:,} words" in text
    for count in (len(corpus), len(queries), len(judgments)):
        assert f"| {count:,} |" in text
    examples = re.findall(r"^\| (.+) \| (.+) \|$", text, re.MULTILINE)[1:4]
    assert len(examples) == 3 and all(list(example) in pairs for example in examples)


def test_the_folder_is_small_enough_for_a_wheel() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 3_000_000


class TestWordsInUse:
    """The general set: read as anybody would, and nothing of it is in the reverse dictionary."""

    folder = FOLDER.parent / "words_in_use"

    def test_each_query_asks_for_one_meaning_of_the_corpus(self) -> None:
        queries, corpus = (read_jsonl(self.folder / f"{name}.jsonl") for name in ("queries", "corpus"))
        header, *lines = (self.folder / "qrels/test.tsv").read_text("utf-8").splitlines()
        assert header == "query-id\tcorpus-id\tscore"
        assert lines == [f"{id_}\t{id_}\t1" for id_ in sorted(queries)]
        assert queries.keys() <= corpus.keys()
        assert len(set(corpus.values())) == len(corpus) == 1500
        assert len(set(queries.values())) == len(queries) == 500

    def test_a_query_is_a_word_and_a_sentence_that_holds_it(self) -> None:
        for text in read_jsonl(self.folder / "queries.jsonl").values():
            word, sentence = text.split(": ", 1)
            assert word in sentence
            assert len(sentence.split()) >= 4

    def test_it_shares_nothing_with_the_reverse_dictionary(
        self, pairs: list[list[str]], queries: dict[str, str]
    ) -> None:
        known = {description for description, _ in pairs} | set(queries.values())
        assert known.isdisjoint(read_jsonl(self.folder / "corpus.jsonl").values())

    def test_it_carries_its_licence_and_is_small(self) -> None:
        assert "WordNet 3.0 Copyright 2006 by Princeton University" in (self.folder / "LICENSE.txt").read_text("utf-8")
        assert sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) < 1_000_000

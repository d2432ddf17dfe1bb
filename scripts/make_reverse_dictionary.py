"""Make the reverse dictionary that ships with finetune: descriptions and the words they describe, from WordNet 3.0.

    apt-get install wordnet-base        # Debian or Ubuntu; unpacked elsewhere, name its folder with --wordnet
    python scripts/make_reverse_dictionary.py --out src/finetune/datasets/reverse_dictionary

Only the standard library is used, and a second run writes the same bytes. README.md in the data set's folder says how
the words were chosen and split. File formats: https://wordnet.princeton.edu/documentation/wndb5wn (data.noun, ...) and
https://wordnet.princeton.edu/documentation/senseidx5wn (sense keys and cntlist.rev).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

CORPUS_WORDS = 6000  # the side held out, at least so many words: answers and distractors
QUERIES = 1500  # held-out descriptions that are asked
LEMMAS_PER_SYNSET = 2  # of training pairs; synonyms beyond these are left out
MIN_DESCRIPTION_WORDS = 3

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
SENSE_TYPES = "nvars"  # the ss_type digits of a sense key are places in this string, counted from 1
WORD = re.compile(r"[a-z][a-z'-]+( [a-z][a-z'-]*)*")  # lower case: no proper names; no digits, no single letters
# Words that say how a term is used, in brackets or before "term", "word", ...: such synsets are left out.
SLIGHTING = r"(slur|offensive|obscene|vulgar|disparag\w+|derogatory|insulting)"
MARKED = re.compile(
    rf"\([^)]*\b{SLIGHTING}\b[^)]*\)|\b{SLIGHTING}\b[ ,a-z]*\b(terms?|words?|names?|expressions?|slang)\b"
)
# "(law) ..." is a label that can go; "(of persons) ..." and "(usually followed by `to') ..." belong to the meaning.
LABEL = re.compile(r"^\((?!of |used |usually |often |sometimes |followed |especially )[\w ]{3,30}\) *")
SUFFIX = r"(e?s|e?d|ing|e?r|est|e?n|ly|y|ies|ied|ier|iest|ily|iness|ness|al|ful|less|able)"
FUNCTION_WORDS = {"for", "with", "from", "into", "over", "that", "the", "and", "one", "out", "off", "not", "its", "all"}


class Synset(NamedTuple):
    """One meaning: its id (part of speech and offset), its words, and what it means; "" if that cannot be asked."""

    id: str
    words: tuple[str, ...]
    description: str


def read_synsets(wordnet: Path) -> tuple[dict[str, Synset], dict[str, str]]:
    """Read the data files: synsets by id, and the synset id of each sense key (`dog%1:05:00::`)."""
    synsets: dict[str, Synset] = {}
    senses: dict[str, str] = {}
    heads: dict[str, str] = {}
    satellites: list[tuple[str, str, str]] = []
    for fields, gloss in read_lines(wordnet):
        offset, lex_file, kind, count, *rest = fields
        lemmas = [re.sub(r"\((a|p|ip)\)$", "", lemma) for lemma in rest[: 2 * int(count, 16) : 2]]
        lex_ids = [f"{int(lex_id, 16):02}" for lex_id in rest[1 : 2 * int(count, 16) : 2]]
        id_ = kind.replace("s", "a") + offset
        synsets[id_] = Synset(id_, tuple(lemma.replace("_", " ") for lemma in lemmas), describe(gloss, lemmas))
        heads[id_] = f"{lemmas[0].lower()}:{lex_ids[0]}"
        for lemma, lex_id in zip(lemmas, lex_ids, strict=True):
            key = f"{lemma.lower()}%{SENSE_TYPES.index(kind) + 1}:{lex_file}:{lex_id}:"
            if kind == "s":  # a satellite's key ends with its head, which may stand further down the file
                satellites.append((key, id_, "a" + rest[rest.index("&") + 1]))
            else:
                senses[key + ":"] = id_
    senses.update((key + heads[head], id_) for key, id_, head in satellites)
    return synsets, senses


def read_lines(wordnet: Path) -> Iterator[tuple[list[str], str]]:
    """Yield the fields and the gloss of every synset."""
    for part in PARTS_OF_SPEECH:
        for line in (wordnet / f"data.{part}").read_text("utf-8").splitlines():
            if not line.startswith(" "):  # the licence at the top
                fields, gloss = line.split(" | ", 1)
                yield fields.split(), gloss


def describe(gloss: str, lemmas: list[str]) -> str:
    """Give the definition without examples and field label; "" for numerals, slighting terms and what is too short."""
    definition = LABEL.sub("", gloss.partition('; "')[0].strip(), count=1)
    numeral = any(character.isdigit() for lemma in lemmas for character in lemma)
    too_short = len(definition.split()) < MIN_DESCRIPTION_WORDS
    example_left = '"' in definition
    return "" if numeral or too_short or example_left or MARKED.search(gloss) else definition


def gives_away(description: str, word: str) -> bool:
    """Say whether a description holds a part of its word, inflected or derived: that would be looking up letters."""
    for part in set(re.findall(r"[a-z]{3,}", word.lower())) - FUNCTION_WORDS:
        stem, doubled, cut = part[:5], part + part[-1], part.rstrip("ey")  # doubled: run, running; cut: write, writing
        derived = rf"{stem}\w*" if len(stem) == 5 else part
        if re.search(rf"\b({derived}|({part}|{doubled}|{cut}){SUFFIX})\b", description.lower()):
            return True
    return False


def count_senses(wordnet: Path, synsets: dict[str, Synset], senses: dict[str, str]) -> dict[str, Counter[str]]:
    """Count how often each word was tagged with each synset in Princeton's texts: our measure of a known word."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in (wordnet / "cntlist.rev").read_text("utf-8").splitlines():
        key, _, count = line.split()
        word = key.split("%")[0].replace("_", " ")
        # The key is in lower case: a proper name is known by how its synset writes it.
        if key in senses and WORD.fullmatch(word) and word in synsets[senses[key]].words:
            counts[word][senses[key]] += int(count)
    return dict(sorted(counts.items()))


def place(text: str) -> bytes:
    """Give a sorting key that shuffles, the same on every machine and version of Python."""
    return hashlib.sha256(text.encode()).digest()


def hold_out(synsets: dict[str, Synset], counts: dict[str, Counter[str]]) -> tuple[dict[str, list[str]], set[str]]:
    """Choose what is held out: each asked description with its right words, and the corpus of words.

    Each word follows its most frequent sense alone, so that words which share a meaning stay together, and words of
    many meanings do not tie the whole language into one group.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for word, senses in counts.items():
        description = synsets[min(senses, key=lambda id_: (-senses[id_], id_))].description
        if description:
            groups[description].append(word)
    right: dict[str, set[str]] = defaultdict(set)  # by description, not synset: some synsets say the same
    for synset in synsets.values():
        right[synset.description].update(synset.words)
    corpus: set[str] = set()
    asked: list[str] = []
    for description in sorted(groups, key=place):
        if len(corpus) >= CORPUS_WORDS:
            break
        corpus.update(groups[description])
        if not any(gives_away(description, word) for word in right[description]):
            asked.append(description)
    return {description: sorted(right[description] & corpus) for description in asked[:QUERIES]}, corpus


def training_pairs(
    synsets: dict[str, Synset], counts: dict[str, Counter[str]], asked: Iterable[str], corpus: set[str]
) -> list[tuple[str, str]]:
    """Pair descriptions with words of the training side, over all senses that were counted.

    A synset that touches the held-out side, by its description or by any of its words, is left out; so is a word that
    is itself, letter for letter, an asked description ("get rid of").
    """
    words: dict[str, list[str]] = defaultdict(list)
    for word, senses in counts.items():
        for id_ in senses:
            words[id_].append(word)
    unusable = {"", *asked}
    pairs: set[tuple[str, str]] = set()
    for id_, candidates in words.items():
        description = synsets[id_].description
        if description not in unusable and corpus.isdisjoint(synsets[id_].words):
            fitting = [word for word in candidates if word not in unusable and not gives_away(description, word)]
            fitting.sort(key=lambda word: (-counts[word][id_], word))
            pairs.update((description, word) for word in fitting[:LEMMAS_PER_SYNSET])
    return sorted(pairs, key=lambda pair: place("\n".join(pair)))


def write(out: Path, pairs: list[tuple[str, str]], queries: dict[str, tuple[str, list[str]]], corpus: set[str]) -> None:
    """Write train.csv and the BEIR folder `evaluation/`; queries are (description, right words) by id."""
    (out / "evaluation/qrels").mkdir(parents=True, exist_ok=True)
    with (out / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("description", "word"), *pairs])
    ids = {word: word.replace(" ", "_") for word in sorted(corpus)}
    write_jsonl(out / "evaluation/corpus.jsonl", {id_: word for word, id_ in ids.items()})
    write_jsonl(out / "evaluation/queries.jsonl", {id_: description for id_, (description, _) in queries.items()})
    judgments = [f"{id_}\t{ids[word]}\t1\n" for id_, (_, words) in queries.items() for word in words]
    (out / "evaluation/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judgments), "utf-8")


def write_jsonl(path: Path, texts: dict[str, str]) -> None:
    """Write one JSON object with `_id` and `text` per line."""
    lines = [json.dumps({"_id": id_, "text": text}, ensure_ascii=False) + "\n" for id_, text in texts.items()]
    path.write_text("".join(lines), "utf-8")


def write_licence(wordnet: Path, out: Path) -> None:
    """Copy Princeton's notice, which must go with every copy, from the top of a data file without its line numbers."""
    notice = [line for line in (wordnet / "data.noun").read_text("utf-8").splitlines() if line.startswith("  ")]
    text = "".join(re.sub(r"^ +\d+ ", "", line).rstrip() + "\n" for line in notice)
    (out / "LICENSE.txt").write_text(text, "utf-8")


def main() -> None:
    """Read the command line and make the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options = parser.parse_args()
    if not (options.wordnet / "data.noun").exists():
        parser.error(f"no WordNet in {options.wordnet}: install the package wordnet-base or name its folder.")
    synsets, senses = read_synsets(options.wordnet)
    counts = count_senses(options.wordnet, synsets, senses)
    answers, corpus = hold_out(synsets, counts)
    pairs = training_pairs(synsets, counts, answers, corpus)
    first_id = {synset.description: id_ for id_, synset in sorted(synsets.items(), reverse=True)}
    queries = {first_id[text]: (text, words) for text, words in answers.items()}
    write(options.out, pairs, dict(sorted(queries.items())), corpus)
    write_licence(options.wordnet, options.out)
    print(f"{len(pairs)} training pairs, {len(queries)} queries, {len(corpus)} corpus words -> {options.out}")


if __name__ == "__main__":
    main()

"""Make the general set that ships with finetune: words in a sentence, and what they mean there, from WordNet 3.0.

    apt-get install wordnet-base        # Debian or Ubuntu; unpacked elsewhere, name its folder with --wordnet
    python scripts/make_words_in_use.py --out src/finetune/datasets/words_in_use

Made like the reverse dictionary beside it, whose descriptions are left out: who trains on those is measured on others.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from make_reverse_dictionary import WORD, Synset, place, read_lines, read_synsets, write_jsonl, write_licence

QUERIES, CORPUS = 500, 1500
SHORTEST = 4  # words of an example
INFLECTED = r"(s|es|ed|d|ing|er|est|ly)?"
REVERSE_DICTIONARY = Path(__file__).parents[1] / "src/finetune/datasets/reverse_dictionary"


def read_examples(wordnet: Path, synsets: dict[str, Synset]) -> dict[str, list[tuple[str, str]]]:
    """Read the examples of each synset that hold one of its words, as (word, example)."""
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for fields, gloss in read_lines(wordnet):
        id_ = fields[2].replace("s", "a") + fields[0]
        for example in re.findall(r'"([^"]+)"', gloss):
            for word in synsets[id_].words:
                held = re.search(rf"\b{re.escape(word)}{INFLECTED}\b", example)
                if held and WORD.fullmatch(word) and len(example.split()) >= SHORTEST:
                    examples[id_].append((word, example))
                    break
    return examples


def used_elsewhere() -> set[str]:
    """Read the descriptions of the reverse dictionary, trained on and asked for."""
    with (REVERSE_DICTIONARY / "train.csv").open(encoding="utf-8", newline="") as file:
        used = {row["description"] for row in csv.DictReader(file)}
    lines = (REVERSE_DICTIONARY / "evaluation/queries.jsonl").read_text("utf-8").splitlines()
    return used | {json.loads(line)["text"] for line in lines}


def choose(
    synsets: dict[str, Synset], examples: dict[str, list[tuple[str, str]]], used: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Choose queries and corpus, texts by synset: each query's meaning, the other meanings of its word, and others."""
    free = {id_: synset for id_, synset in synsets.items() if synset.description and synset.description not in used}
    once: dict[str, str] = {}  # synset by description: some say the same
    for id_ in sorted(free, key=place):
        once.setdefault(free[id_].description, id_)
    meanings: dict[str, list[str]] = defaultdict(list)
    for id_ in once.values():
        for word in free[id_].words:
            meanings[word].append(id_)
    asked = [id_ for id_ in once.values() if examples[id_]][:QUERIES]
    queries = {id_: "{}: {}".format(*min(examples[id_], key=lambda pair: place("".join(pair)))) for id_ in asked}
    others = [other for id_ in asked for other in meanings[queries[id_].split(": ")[0]]]
    corpus = list(dict.fromkeys([*asked, *others, *once.values()]))[:CORPUS]
    return queries, {id_: free[id_].description for id_ in corpus}


def main() -> None:
    """Read the command line and make the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options = parser.parse_args()
    if not (options.wordnet / "data.noun").exists():
        parser.error(f"no WordNet in {options.wordnet}: install the package wordnet-base or name its folder.")
    synsets, _ = read_synsets(options.wordnet)
    queries, corpus = choose(synsets, read_examples(options.wordnet, synsets), used_elsewhere())
    (options.out / "qrels").mkdir(parents=True, exist_ok=True)
    write_jsonl(options.out / "queries.jsonl", dict(sorted(queries.items())))
    write_jsonl(options.out / "corpus.jsonl", dict(sorted(corpus.items())))
    judgments = "".join(f"{id_}\t{id_}\t1\n" for id_ in sorted(queries))
    (options.out / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments, "utf-8")
    write_licence(options.wordnet, options.out)
    print(f"{len(queries)} queries, {len(corpus)} meanings -> {options.out}")


if __name__ == "__main__":
    main()

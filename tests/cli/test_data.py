"""What `finetune data show` prints.

After a change that is meant to change it, run `python -m tests.cli.test_data` and look at the difference.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from finetune.cli.data_tables import print_facts
from finetune.models.tokenizer import load_tokenizer
from tests.conftest import WORDS, make_tiny_model, run_finetune, write_pairs
from tests.data.inspect.test_describe import HOSTILE, described

GOLDEN = Path(__file__).with_name("golden")
PLACES = range(12)
QUESTIONS = [f"{WORDS[i % 7]} {WORDS[7 + i % 5]} {i}" for i in PLACES]
ANSWERS = [f"the {WORDS[7 + i % 5]} is {WORDS[i % 7]}, and number {i} of {len(PLACES)}" for i in PLACES]
HARD = "[red]not markup[/red] \x1b[31m \u202eright to left " * 9

LAYOUTS: dict[str, dict[str, Any]] = {
    "pairs": {
        "columns": {
            "id": list(PLACES),
            "question": [*QUESTIONS[:6], *(f"{question.title()}!" for question in QUESTIONS[:6])],
            "answer": [*ANSWERS[:-1], HARD],
        },
        "notes": ("Columns are separated by ';'.",),
    },
    "triplets": {"columns": {"anchor": QUESTIONS, "positive": ANSWERS, "negative": ["sun"] * 6 + [HARD] * 6}},
    "several_positives": {
        "columns": {
            "query": QUESTIONS,
            "positives": [ANSWERS[i : i + 1 + i % 3] for i in PLACES],
            "negatives": [[f"sea {n}" for n in range(i % 6)] for i in PLACES],
        }
    },
    "scored_pairs": {"columns": {"text1": QUESTIONS, "text2": ANSWERS, "score": [i / 11 for i in PLACES]}},
    "judgments": {
        "columns": {
            "query": [QUESTIONS[i // 3] for i in PLACES],
            "document": ANSWERS,
            "grade": [2 - i % 3 for i in PLACES],
        }
    },
    "scored_lists": {
        "columns": {
            "query": QUESTIONS,
            "documents": [[ANSWERS[i], ANSWERS[i - 1], ANSWERS[i - 2]] for i in PLACES],
            "scores": [[0.9, 0.5 - i / 50, 0.1] for i in PLACES],
        }
    },
    "labelled": {
        "columns": {"text": QUESTIONS + ANSWERS, "label": ["a"] * 3 + ["\x1b[0m [b]"] * 18 + ["c c"] * 3},
    },
    "texts": {"columns": {"text": QUESTIONS}},
}


def printed(facts: dict[str, Any], width: int = 80) -> str:
    file = io.StringIO()
    print_facts(facts, Console(file=file, width=width, color_system=None))
    return "".join(line.rstrip() + "\n" for line in file.getvalue().splitlines())


def shown(layout: str, model: Path) -> str:
    return printed(described(tokenizer=load_tokenizer(model, "tiny"), **LAYOUTS[layout]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_shown_as_it_was(layout, tiny_model):
    text = shown(layout, tiny_model)
    assert text == (GOLDEN / f"show_{layout}.txt").read_text("utf-8")
    assert max(map(len, text.splitlines())) <= 80


@settings(deadline=None)
@given(texts=st.lists(HOSTILE, min_size=6, max_size=9, unique_by=str.strip), width=st.integers(30, 120))
def test_hostile_texts_are_printed_as_text_on_one_line(texts, width):
    half = len(texts) // 2
    text = printed(described({"anchor": texts[:half], "positive": texts[half : 2 * half]}), width)
    assert all(line.isprintable() for line in text.splitlines())


def test_prompts_are_quoted_so_that_a_space_at_their_end_is_seen():
    assert "query  'ask me: '\n" in printed({"prompts": {"query": "ask me: "}})


def show(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_finetune("data", "show", *arguments, cwd=cwd)


def test_the_verb_shows_a_file_and_leaves_nothing_behind(tmp_path, tiny_model):
    write_pairs(tmp_path / "pairs.csv")
    answer = show(f"model.name={tiny_model}", "data.path=pairs.csv", "data.max_length=16", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for words in ("Recognized", "pairs.csv: pairs", "rows read", "120", "[CLS]|", "Leaks"):
        assert words in answer.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.csv"]


def test_with_check_nothing_is_shown(tmp_path, tiny_model):
    write_pairs(tmp_path / "pairs.csv")
    done = show(f"model.name={tiny_model}", "data.path=pairs.csv", "data.max_length=16", "check=true", cwd=tmp_path)
    assert done.returncode == 0 and "nothing was started" in done.stdout and "Recognized" not in done.stdout


def test_json_is_the_same_and_nothing_else(tmp_path, tiny_model):
    write_pairs(tmp_path / "pairs.csv")
    answer = show("--json", f"model.name={tiny_model}", "data.path=pairs.csv", "data.max_length=16", cwd=tmp_path)
    facts = json.loads(answer.stdout)
    assert facts["counts"]["rows_read"] == 120
    assert facts["lengths"]["unit"] == "tokens"
    assert facts["leaks"]["leaks"] == 0


def test_without_a_tokenizer_lengths_are_in_characters(tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    answer = show("model.name=nobody/nothing", "data.path=pairs.csv", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "characters of a text" in answer.stdout
    assert "nobody/nothing is not on this machine" in answer.stdout


def test_problems_that_only_affect_training_are_warnings(tmp_path, tiny_model):
    (tmp_path / "texts.csv").write_text("text\n" + "".join(f"red {i}\n" for i in range(9)))
    answer = show(f"model.name={tiny_model}", "data.path=texts.csv", "data.max_length=16", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "A run would stop here" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.path=nowhere.csv", "trainer.max_epcohs=3"], ["nowhere.csv", "trainer.max_epochs"]),
        (["-m", "data.path=pairs.csv"], ["data show does not take -m"]),
        (["--jsno"], ["no option --jsno"]),
    ],
)
def test_a_mistake_has_exit_code_2_and_no_standard_output(tmp_path, arguments, words):
    write_pairs(tmp_path / "pairs.csv")
    answer = show(*arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    for word in words:
        assert word in answer.stderr


def test_help_has_an_example(tmp_path):
    assert "finetune data show data=csv" in show("--help", cwd=tmp_path).stdout


def test_the_verb_imports_nothing_heavy_before_it_must(tmp_path):
    code = (
        "import sys; from finetune.cli.data import main;"
        "code = main(['data.path=nowhere.csv'], as_json=False);"
        "heavy = {'torch', 'transformers', 'tokenizers', 'pyarrow'} & set(sys.modules);"
        "sys.exit(code if not heavy else f'imported {heavy}')"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2, answer.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tiny = make_tiny_model(Path(folder))
        for name in LAYOUTS:
            (GOLDEN / f"show_{name}.txt").write_text(shown(name, tiny), "utf-8")

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from finetune.report.escaping import fenced, markdown, one_line

RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Cells(HTMLParser):
    """Collects the text of table cells, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data) -> None:
        if self.cells:
            self.cells[-1] += data


pieces = st.sampled_from(
    [
        *(
            "`",
            "``",
            "|",
            "\\",
            "\\|",
            "*",
            "**",
            "__",
            "_",
            "[a](b)",
            "![a](b)",
            "<b>",
            "</td>",
            "<!--",
            "&lt;",
            "&#124;",
        ),
        *("~~", "$x$", "#", "# ", "- ", "+ ", "> ", "1. ", "23) ", "\n", "\r\n", "\t", "\u2028", "\x0b", "http://a.b"),
        *(
            "word",
            " ",
            "\u05d0\u05d1",
            "مرحبا",
            "👨‍👩‍👧",
            "é",
            "\u202e",
            "\x00",
            "---",
            "===",
            "::",
            "<script>alert(1)</script>",
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces | st.text(max_size=3), max_size=12).map("".join))
@example("a|b").via("a cell border")
@example("\\|")
@example("x" * 10_000)
def test_any_text_shows_as_itself_in_a_table(text: str) -> None:
    html = RENDERER.render(f"| a | b |\n| --- | --- |\n| {markdown(text)} | end |\n")
    found = Cells(html)
    assert found.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    shown = re.sub("[\u2068\u2069]", "", found.cells[0])
    assert shown.strip() == one_line(text)
    assert found.cells[1].strip() == "end"


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=8).map("".join))
def test_any_text_shows_as_itself_in_a_list_and_a_heading(text: str) -> None:
    assert re.findall(r"<(\w+)", RENDERER.render(f"- {markdown(text)}\n")) == ["ul", "li"]
    assert re.findall(r"<(\w+)", RENDERER.render(f"# {markdown(text)}\n")) == ["h1"]


@given(st.text(), st.integers(2, 50))
def test_one_line_is_one_line_of_at_most_its_width(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert len(line.splitlines()) <= 1
    assert line == one_line(line, width)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  a\n\n b\tc ", "a b c"),
        ("x" * 10_000, "x" * 119 + "…"),
        (" " * 1_000_000 + "late", "…"),
        ("right\u202eto\u2066left\x00\x1b[31m", "righttoleft[31m"),
        ("👨‍👩‍👧 नमस्ते", "👨‍👩‍👧 नमस्ते"),
        ("bad \udc80 surrogate", "bad surrogate"),
    ],
)
def test_lines(text: str, line: str) -> None:
    assert one_line(text) == line


def test_names_stay_readable() -> None:
    assert markdown("nDCG@10 of my_model-v1.5 (bert): 50 %") == "nDCG@10 of my_model-v1.5 (bert): 50 %"


@pytest.mark.parametrize(
    "text",
    ["shipped://a/train.csv", "12:30:45", "a < b & c > d", "see: this", "R&D", "C# and 100 %", "half_done (one) x-y"],
)
def test_plain_text_is_not_escaped(text: str) -> None:
    assert markdown(text) == text


def test_code_is_escaped_as_a_person_would() -> None:
    assert markdown("`a` *b*") == r"\`a\` \*b\*"


def test_no_mentions_or_links() -> None:
    escaped = markdown("@somebody #12 https://example.org www.example.org :smile:")
    assert not re.search(r"(^|\s)@|#\d|https:|www\.|:smile", re.sub(r"&#\d+;", "·", escaped))


def test_right_to_left_text_is_kept_to_itself() -> None:
    assert markdown("\u05d0\u05d1") == "\u2068\u05d0\u05d1\u2069"


@pytest.mark.parametrize("code", ["plain", "```", "a ````` b", "~~~\n```sh\n"])
def test_code_cannot_leave_its_block(code: str) -> None:
    (block,) = [token for token in RENDERER.parse(fenced(code, "sh") + "\n\nafter") if token.type == "fence"]
    assert block.content == code.rstrip() + "\n"

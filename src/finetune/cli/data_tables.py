"""What `finetune data show` prints: the facts of `data/inspect/describe.py` as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Facts = Mapping[str, Any]

_PERCENTILES = {"min": "min", "5": "5%", "25": "25%", "50": "50%", "75": "75%", "95": "95%", "99": "99%", "max": "max"}
_BAR = 14  # cells of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDEST = 120  # a line that is longer is hard to read
_BLANK = Text(" ")


def print_facts(facts: Facts, console: Console) -> None:
    """Print all sections that there are; texts are printed as text, never as markup."""
    for name, (title, render) in _SECTIONS.items():
        if facts.get(name):
            _print(console, Text(title, style="bold"))
            for part in render(facts[name]):
                _print(console, Padding(part, (0, 0, 0, 2), expand=False))
            _print(console, Text())


def _print(console: Console, part: RenderableType) -> None:
    console.print(part, width=min(_WIDEST, console.width), soft_wrap=False)


def _recognised(sources: Sequence[Facts]) -> Iterable[RenderableType]:
    for source in sources:
        header = "" if source["header"] else ", without a header"
        yield _line(f"{source['source']}: {source['layout']}{header}")
        table = _table("column", "is", "kind")
        for column in source["columns"]:
            table.add_row(
                *map(_line, (column["column"], column["role"] or "not used", column["kind"])),
                style="" if column["role"] else "dim",
            )
        yield table
        yield from map(Text, source["notes"])


def _pairs(facts: Facts) -> Iterable[RenderableType]:
    table = _table("", "", header=False)
    for name, value in facts.items():
        if name != "layout":  # which is shown above, and for machines
            table.add_row(_line(name.replace("_", " ")), _line(_number(value)))
    yield table


def _prompts(prompts: Facts) -> Iterable[RenderableType]:
    # Quoted, or nobody would see the space at the end, which matters.
    return _pairs({name: repr(prompt) for name, prompt in prompts.items()})


def _lengths(facts: Facts) -> Iterable[RenderableType]:
    in_tokens = facts["unit"] == "tokens"
    table = _table("", "texts", *_PERCENTILES.values(), *(["cut"] if in_tokens else []), right=True)
    for row in facts["roles"]:
        cut = [f"{row['truncated']:.1%}"] if in_tokens else []
        table.add_row(_line(row["role"]), _number(row["texts"]), *(_number(row[name]) for name in _PERCENTILES), *cut)
    what = f"{facts['unit']} of a text"
    yield _line(f"{what}; cut are those longer than data.max_length={facts['max_length']}" if in_tokens else what)
    yield table
    if sampled := [row for row in facts["roles"] if row["measured"] < row["texts"]]:
        names = ", ".join(f"{row['role']} {row['measured']:,}" for row in sampled)
        yield _line(f"Measured on a random sample: {names}.")
    if note := facts.get("note"):
        yield Text(note[:1].upper() + note[1:])
    yield _BLANK
    yield _histogram(facts["histogram"], facts["unit"])


def _histogram(facts: Facts, unit: str) -> RenderableType:
    if not facts:
        return Text()
    edges, shares = facts["edges"], facts["shares"]
    table = _table(unit, *(column for name in shares for column in (name, "")))
    most = max(max(row) for row in shares.values()) or 1
    for i in range(len(edges)):
        cells = [cell for row in shares.values() for cell in (_bar(row[i] / most), _percent(row[i]))]
        table.add_row(_bin(edges, i), *cells)
    return table


def _bin(edges: Sequence[float], i: int) -> str:
    if i == len(edges) - 1:
        return f"{edges[i]:g}+" if i else f"{edges[i]:g}"
    whole = all(float(edge).is_integer() for edge in edges)
    last = edges[i + 1] - 1 if whole else edges[i + 1]
    return f"{edges[i]:g}" if whole and last == edges[i] else f"{edges[i]:g}-{last:g}"


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _percent(share: float) -> str:
    return "" if not share else f"{share:.0%}" if share >= 0.005 else "<1%"


def _classes(facts: Facts) -> Iterable[RenderableType]:
    sizes = f"smallest {facts['smallest']:,}, median {facts['median']:,g}, largest {facts['largest']:,}"
    yield _line(f"{facts['number']:,} classes; items in each: {sizes}")
    table = _table("largest", "items", right=True)
    for name, size in facts["names"].items():
        table.add_row(_line(name), _number(size))
    yield table


def _per_anchor(facts: Facts) -> Iterable[RenderableType]:
    yield _line(
        f"{facts['anchors']:,} anchors; positives of each: {facts['mean']:g} on average, at most {facts['max']:,}"
    )
    table = _table("positives", "anchors", "", right=True)
    for name, number in facts["positives"].items():
        table.add_row(name, _number(number), _bar(number / facts["anchors"]))
    yield table
    if negatives := facts.get("negatives_per_row"):
        yield _line(f"Negatives of a row: {negatives['min']} to {negatives['max']}, median {negatives['50']}.")


def _scores(facts: Facts) -> Iterable[RenderableType]:
    table = _table("", "scores", *_PERCENTILES.values(), right=True)
    for row in facts["roles"]:
        table.add_row(row["role"], _number(row["scores"]), *(f"{row[name]:.3g}" for name in _PERCENTILES))
    yield table
    yield _BLANK
    if "values" not in facts:
        yield _histogram(facts["histogram"], "score")
        return
    total = sum(facts["values"].values())
    values = _table("score", "how often", "", right=True)
    for value, number in facts["values"].items():
        values.add_row(value, _number(number), _bar(number / total))
    yield values


def _examples(examples: Sequence[Facts]) -> Iterable[RenderableType]:
    for number, example in enumerate(examples, 1):
        table = Table(box=None, show_header=False, pad_edge=False, expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        front = str(number)
        for item in example["items"]:
            table.add_row(front, item["role"], _line(item["text"]))
            if "tokens" in item:
                table.add_row("", f"{item['length']} tokens", _line(item["tokens"]), style="dim")
            front = ""
        if more := example.get("more_negatives"):
            table.add_row("", "", f"and {more:,} more {'negative' if more == 1 else 'negatives'}")
        for name in ("label", "score", "source"):
            if name in example:
                table.add_row("", name, _line(example[name]))
        yield Group(table, _BLANK) if number < len(examples) else table


def _repeated(entries: Sequence[Facts]) -> Iterable[RenderableType]:
    table = _table("rows", "as", "text")
    for entry in entries:
        table.add_row(_number(entry["rows"]), entry["role"], _line(entry["text"]))
    yield table


def _leaks(facts: Facts) -> Iterable[RenderableType]:
    names = {"leaks": "the same", "leaks_normalised": "but for case, spaces, punctuation", "leaks_near": "nearly"}
    looked_for = {name: title for name, title in names.items() if name in facts}
    if not any(facts[name] for name in looked_for):
        near = ", nor a near-duplicate of one" if "leaks_near" in facts else ""
        yield Text(f"No training row contains a validation query, not even up to case, spaces and punctuation{near}.")
        return
    table = _table("a validation query in training", "rows", right=True)
    for name, title in looked_for.items():
        table.add_row(title, _number(facts[name]))
    yield table
    for kind, title in (("normalised", "but for case, spaces, punctuation"), ("near", "nearly the same")):
        if facts[kind]:
            examples = _table(f"trained on ({title})", "asked")
            for example in facts[kind]:
                examples.add_row(*map(_line, example))
            yield _BLANK
            yield examples


def _bad_rows(facts: Facts) -> Iterable[RenderableType]:
    yield _line(f"{facts['skipped']:,} left out" + (", such as" if "first" in facts else ""))
    for line in facts.get("first", ()):
        yield _line(line)
    if "listed_in" in facts:
        yield Text(f"All of them are listed in {facts['listed_in']}")


def _sentences(sentences: Sequence[str]) -> Iterable[RenderableType]:
    for sentence in sentences:
        yield Text(sentence)


_SECTIONS: dict[str, tuple[str, Callable[[Any], Iterable[RenderableType]]]] = {
    "recognised": ("Recognised", _recognised),
    "prompts": ("Prompts", _prompts),
    "counts": ("Counts", _pairs),
    "lengths": ("Lengths", _lengths),
    "classes": ("Classes", _classes),
    "per_anchor": ("Positives of an anchor", _per_anchor),
    "scores": ("Scores", _scores),
    "examples": ("Examples", _examples),
    "repeated": ("Most repeated", _repeated),
    "validation": ("Evaluation", _pairs),
    "leaks": ("Leaks", _leaks),
    "bad_rows": ("Bad rows", _bad_rows),
    "notes": ("Notes", _sentences),
    "warnings": ("Worth a look", _sentences),
}


def _table(*columns: str, right: bool = False, header: bool = True) -> Table:
    """Return a table without lines; with `right`, all columns but the first are numbers."""
    table = Table(box=None, pad_edge=False, show_header=header, header_style="dim", padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        number = right and i > 0 and name
        table.add_column(name, justify="right" if number else "left", no_wrap=True, overflow="ellipsis")
    return table


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)

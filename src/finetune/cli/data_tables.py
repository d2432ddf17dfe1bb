"""The output of `finetune data show`: the facts of `data/inspect/describe.py` as tables."""

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
_WIDEST = 120  # characters; longer lines are hard to read
_BLANK = Text(" ")


def print_facts(facts: Facts, console: Console) -> None:
    """Print all non-empty sections; texts of the data are never interpreted as markup."""
    for name, (title, render) in _SECTIONS.items():
        if facts.get(name):
            _print(console, Text(title, style="bold"))
            for part in render(facts[name]):
                _print(console, Padding(part, (0, 0, 0, 2), expand=False))
            _print(console, Text())


def _print(console: Console, part: RenderableType) -> None:
    console.print(part, width=min(_WIDEST, console.width), soft_wrap=False)


def _recognized(sources: Sequence[Facts]) -> Iterable[RenderableType]:
    for source in sources:
        title = f"{source['source']}: {source['layout']}"
        if not source["header"]:
            title += ", without a header"
        yield _line(title)
        table = _table("column", "is", "kind")
        for column in source["columns"]:
            name, role, kind = column["column"], column["role"], column["kind"]
            if role:
                table.add_row(_line(name), _line(role), _line(kind))
            else:
                table.add_row(_line(name), _line("not used"), _line(kind), style="dim")
        yield table
        yield from map(Text, source["notes"])


def _pairs(facts: Facts) -> Iterable[RenderableType]:
    table = _table("", "", header=False)
    for name, value in facts.items():
        if name != "layout":  # shown in another section already
            table.add_row(_line(name.replace("_", " ")), _line(_number(value)))
    yield table


def _prompts(prompts: Facts) -> Iterable[RenderableType]:
    # Quoted, so that a space at the end is visible.
    return _pairs({name: repr(prompt) for name, prompt in prompts.items()})


def _lengths(facts: Facts) -> Iterable[RenderableType]:
    in_tokens = facts["unit"] == "tokens"
    title, columns = f"{facts['unit']} of a text", ["", "texts", *_PERCENTILES.values()]
    if in_tokens:
        title += f"; cut are those longer than data.max_length={facts['max_length']}"
        columns.append("cut")
    table = _table(*columns, right=True)
    for row in facts["roles"]:
        cells = [_number(row["texts"]), *(_number(row[name]) for name in _PERCENTILES)]
        if in_tokens:
            cells.append(f"{row['truncated']:.1%}")
        table.add_row(_line(row["role"]), *cells)
    yield _line(title)
    yield table
    sampled = [row for row in facts["roles"] if row["measured"] < row["texts"]]
    if sampled:
        names = ", ".join(f"{row['role']} {row['measured']:,}" for row in sampled)
        yield _line(f"Measured on a random sample: {names}.")
    note = facts.get("note")
    if note:
        yield Text(note[:1].upper() + note[1:])
    yield _BLANK
    yield _histogram(facts["histogram"], facts["unit"])


def _histogram(facts: Facts, unit: str) -> RenderableType:
    if not facts:
        return Text()
    edges, shares = facts["edges"], facts["shares"]
    columns = [unit]
    for name in shares:
        columns += [name, ""]  # a bar and a percentage
    table = _table(*columns)
    highest = max(max(row) for row in shares.values()) or 1
    for i in range(len(edges)):
        cells = [_bin(edges, i)]
        for row in shares.values():
            cells += [_bar(row[i] / highest), _percent(row[i])]
        table.add_row(*cells)
    return table


def _bin(edges: Sequence[float], i: int) -> str:
    """Return the label of bin `i`; for integer edges both ends are inclusive, and the last bin is open."""
    low = f"{edges[i]:g}"
    if i == len(edges) - 1:
        return f"{low}+" if i else low
    high = edges[i + 1]
    if all(float(edge).is_integer() for edge in edges):
        high -= 1
        if high == edges[i]:
            return low
    return f"{low}-{high:g}"


def _bar(share: float) -> str:
    full, eighths = divmod(round(share * _BAR * 8), 8)
    return "█" * full + _EIGHTHS[eighths].strip()


def _percent(share: float) -> str:
    if not share:
        return ""
    return f"{share:.0%}" if share >= 0.005 else "<1%"


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
    negatives = facts.get("negatives_per_row")
    if negatives:
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
        more = example.get("more_negatives")
        if more:
            noun = "negative" if more == 1 else "negatives"
            table.add_row("", "", f"and {more:,} more {noun}")
        for name in ("label", "score", "source"):
            if name in example:
                table.add_row("", name, _line(example[name]))
        is_last = number == len(examples)
        yield table if is_last else Group(table, _BLANK)


def _repeated(entries: Sequence[Facts]) -> Iterable[RenderableType]:
    table = _table("rows", "as", "text")
    for entry in entries:
        table.add_row(_number(entry["rows"]), entry["role"], _line(entry["text"]))
    yield table


def _leaks(facts: Facts) -> Iterable[RenderableType]:
    names = {"leaks": "the same", "leaks_normalised": "but for case, spaces, punctuation", "leaks_near": "nearly"}
    searched = {name: title for name, title in names.items() if name in facts}
    if not any(facts[name] for name in searched):
        near = ", nor a near-duplicate of one" if "leaks_near" in facts else ""
        yield Text(f"No training row contains a validation query, not even up to case, spaces and punctuation{near}.")
        return
    table = _table("a validation query in training", "rows", right=True)
    for name, title in searched.items():
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
    such_as = ", such as" if "first" in facts else ""
    yield _line(f"{facts['skipped']:,} left out{such_as}")
    for line in facts.get("first", ()):
        yield _line(line)
    if "listed_in" in facts:
        yield Text(f"All of them are listed in {facts['listed_in']}")


def _sentences(sentences: Sequence[str]) -> Iterable[RenderableType]:
    for sentence in sentences:
        yield Text(sentence)


_SECTIONS: dict[str, tuple[str, Callable[[Any], Iterable[RenderableType]]]] = {
    "recognised": ("Recognized", _recognized),
    "prompts": ("Prompts", _prompts),
    "counts": ("Counts", _pairs),
    "lengths": ("Lengths", _lengths),
    "classes": ("Classes", _classes),
    "per_anchor": ("Positives per anchor", _per_anchor),
    "scores": ("Scores", _scores),
    "examples": ("Examples", _examples),
    "repeated": ("Most repeated", _repeated),
    "validation": ("Evaluation", _pairs),
    "leaks": ("Leaks", _leaks),
    "bad_rows": ("Bad rows", _bad_rows),
    "notes": ("Notes", _sentences),
    "warnings": ("Warnings", _sentences),
}


def _table(*columns: str, right: bool = False, header: bool = True) -> Table:
    """Return a table without lines; with `right`, all named columns but the first are right-aligned numbers."""
    table = Table(box=None, pad_edge=False, show_header=header, header_style="dim", padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        is_number = right and i > 0 and name
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
    return table


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)

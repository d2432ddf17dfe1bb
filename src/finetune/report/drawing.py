"""Figures of Matplotlib as SVG that stands in a page: text is text, and colours are the page's.

They are drawn in stand-in colours, each of which becomes a CSS variable (templates/style.css): one picture does for
light and for dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 8  # colours and shapes that can be told apart
_NAMES = ("ink", "grid", "before", "after", "positive", "negative", "better", "worse", "same")
_STAND_IN = {
    name: f"#01fe{number:02x}"
    for number, name in enumerate([*_NAMES, *(f"class{number}" for number in range(CLASSES))])
}
WIDTH = 5.2  # inches of 72 units: as wide as a phone, so that the text keeps its size there
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def color(name: str) -> str:
    """What to draw in for a colour of the page: ink, grid, before, after, positive ... class0 to class7."""
    return _STAND_IN[name]


def render_svg(
    draw: Callable[[Figure], None],
    name: str,
    words: str,
    height: float = 2.6,
    width: float = WIDTH,
    titles: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The SVG element of what `draw` draws, `height` and `width` in inches.

    `name` is unique in the page. `words` say what there is to see to who does not see it. `titles` are what each
    point of a scatter says when it is pointed at, by the scatter's gid.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    written = io.StringIO()
    with mpl.rc_context(_style()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that Matplotlib's own font lacks: the page has others
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(written, format="svg", transparent=True)
    root = ElementTree.fromstring(written.getvalue())
    for gid, texts in (titles or {}).items():
        _entitle(root, gid, texts)
    _tidy(root, name)
    root.attrib.update({"role": "img", "aria-label": words, "class": "plot"})
    ElementTree.register_namespace("", _SVG[1:-1])
    return _coloured(ElementTree.tostring(root, encoding="unicode"))


def _style() -> dict[Any, Any]:
    ink, grid = color("ink"), color("grid")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "finetune",  # the same report is the same file
        "text.parse_math": False,  # a name with two $ in it is no formula
        "font.size": 11,
        "text.color": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.edgecolor": grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "lines.linewidth": 2,
    }


def _entitle(root: ElementTree.Element, gid: str, texts: Sequence[str]) -> None:
    group = next((each for each in root.iter(f"{_SVG}g") if each.get("id") == gid), None)
    points = [] if group is None else list(group.iter(f"{_SVG}use"))
    for point, text in zip(points, texts, strict=True):
        ElementTree.SubElement(point, f"{_SVG}title").text = text


def _tidy(root: ElementTree.Element, name: str) -> None:
    """Drop what a page has no use for, and make the ids unique to this picture."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}metadata" or child.find(f"{_SVG}style") is not None:
                parent.remove(child)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    used = set(re.findall(r"#([\w.-]+)", " ".join(value for each in root.iter() for value in each.attrib.values())))
    for each in root.iter():
        if each.get("id") in used:
            each.set("id", f"{name}-{each.get('id')}")
        else:
            each.attrib.pop("id", None)
        if _LINK in each.attrib:
            each.set("href", each.attrib.pop(_LINK).replace("#", f"#{name}-"))
        if "clip-path" in each.attrib:
            each.set("clip-path", each.attrib["clip-path"].replace("#", f"#{name}-"))
        if each.tag == f"{_SVG}text":
            each.set("style", re.sub(r"font-family: [^;]*;? ?", "", each.get("style", "")))
        for attribute in {"d", "x", "y", "transform"} & set(each.attrib):
            # A hundredth of a unit is less than anybody sees.
            each.set(attribute, re.sub(r"(\.\d\d)\d+", r"\1", each.attrib[attribute]).replace("\n", ""))
        each.tail = (each.tail or "").strip()
        each.text = (each.text or "").strip()


def _coloured(svg: str) -> str:
    for name, stand_in in _STAND_IN.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg

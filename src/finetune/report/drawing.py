"""Matplotlib figures as SVG inside a page, with text as text and the colors of the page.

They are drawn in placeholder colors, each replaced by a CSS variable (templates/style.css), so that the same
SVG works in light and dark mode.
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

CLASSES = 8  # colors and shapes that can be distinguished
_NAMES = ("ink", "grid", "before", "after", "positive", "negative", "better", "worse", "same")
_CLASS_NAMES = [f"class{number}" for number in range(CLASSES)]
_PLACEHOLDERS = {name: f"#01fe{number:02x}" for number, name in enumerate([*_NAMES, *_CLASS_NAMES])}
WIDTH = 5.2  # inches of 72 units: as wide as a phone, so that the text is not scaled down there
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def color(name: str) -> str:
    """Return the placeholder of a color of the page: ink, grid, before, after, positive ... class0 to class7."""
    return _PLACEHOLDERS[name]


def render_svg(
    draw: Callable[[Figure], None],
    name: str,
    words: str,
    height: float = 2.6,
    width: float = WIDTH,
    titles: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the SVG element of the figure that `draw` draws; `height` and `width` are in inches.

    `name` is unique in the page. `words` is the description for screen readers. `titles` are the tooltips of the points
    of a scatter plot, by its gid.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    written = io.StringIO()
    with mpl.rc_context(_style()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph missing from Matplotlib's font: the page uses other fonts
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(written, format="svg", transparent=True)
    root = ElementTree.fromstring(written.getvalue())
    for gid, texts in (titles or {}).items():
        _add_tooltips(root, gid, texts)
    _clean_up(root, name)
    root.attrib.update({"role": "img", "aria-label": words, "class": "plot"})
    ElementTree.register_namespace("", _SVG[1:-1])
    return _with_css_colors(ElementTree.tostring(root, encoding="unicode"))


def _style() -> dict[Any, Any]:
    ink, grid = color("ink"), color("grid")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "finetune",  # the same report gives the same file
        "text.parse_math": False,  # a name with two $ in it is not a formula
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


def _add_tooltips(root: ElementTree.Element, gid: str, texts: Sequence[str]) -> None:
    for group in root.iter(f"{_SVG}g"):
        if group.get("id") == gid:
            for point, text in zip(list(group.iter(f"{_SVG}use")), texts, strict=True):
                ElementTree.SubElement(point, f"{_SVG}title").text = text


def _clean_up(root: ElementTree.Element, name: str) -> None:
    """Remove elements and attributes that the page does not need, and make the ids unique in the page."""
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
            # A hundredth of a unit is invisible.
            each.set(attribute, re.sub(r"(\.\d\d)\d+", r"\1", each.attrib[attribute]).replace("\n", ""))
        each.tail = (each.tail or "").strip()
        each.text = (each.text or "").strip()


def _with_css_colors(svg: str) -> str:
    for name, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return svg

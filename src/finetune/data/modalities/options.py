"""How items that are no texts are read, and the one way to say that a value is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.cache.store import Cache
from finetune.data.threads import usable_cores

Report = Callable[[int, str, str], None]  # called with a row, a key of `bad_rows.ADVICE`, and what is wrong
Facts = dict[str, int | float | str]
Progress = Callable[[int, int], None]  # called with the rows that are done, and the rows in all


def no_progress(done: int, total: int) -> None:
    """Show no progress."""


class UnusableValue(Exception):
    """A value that is no image, or no mesh: `kind` is a key of `bad_rows.ADVICE`, `what` the end of a sentence."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind, self.what = kind, what


@dataclass(frozen=True)
class Options:
    """How the values of a column are brought to their stored form; those that change it belong in a cache's key.

    `originals` is what is known of images so far, by the digest of their bytes: pass the same for all columns of a
    data set, and an image that stands at two places is one item.
    """

    points: int = 1024  # of each mesh, as PointNet takes them (Qi et al. 2017, https://arxiv.org/abs/1612.00593)
    unit_sphere: bool = True  # move meshes to the origin and scale them to radius 1
    root: Path | None = None  # no file outside of it is opened; None: any that may be read
    fetch: bool = True  # False: no URL is asked
    timeout: float = 10.0  # seconds without a word of a server
    attempts: int = 3  # for each URL
    most_bytes: int = 256 << 20  # of one image or mesh
    most_pixels: int = 89_000_000  # of one image; what Pillow warns about: 270 MB as RGB
    threads: int = field(default_factory=usable_cores)
    cache: Cache = field(default_factory=Cache)  # where downloads are kept
    originals: dict[bytes, str] = field(default_factory=dict)

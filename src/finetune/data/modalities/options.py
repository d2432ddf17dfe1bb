"""Options for preparing items other than texts, and the error for an unusable value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.cache.store import Cache
from finetune.data.threads import usable_cores

Report = Callable[[int, str, str], None]  # called with a row, a key of `bad_rows.ADVICE`, and the fault
Facts = dict[str, int | float | str]
Progress = Callable[[int, int], None]  # called with the number of rows done, and of all rows


def no_progress(done: int, total: int) -> None:
    """Report no progress."""


class UnusableValue(Exception):
    """A value is not a valid image or mesh: `kind` is a key of `bad_rows.ADVICE`, `what` the end of a sentence."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind, self.what = kind, what


@dataclass(frozen=True)
class Options:
    """Options for converting a column to its stored form; those that change the result belong in a cache key.

    `originals` are the images seen so far, by the digest of their bytes: with the same dict for all columns of a data
    set, an image that occurs twice is one item.
    """

    points: int = 1024  # of each mesh, as in PointNet (Qi et al. 2017, https://arxiv.org/abs/1612.00593)
    unit_sphere: bool = True  # move meshes to the origin and scale them to radius 1
    root: Path | None = None  # no file outside of it is opened; None: no restriction
    fetch: bool = True  # False: URLs are not downloaded
    timeout: float = 10.0  # seconds without data from a server
    attempts: int = 3  # for each URL
    most_bytes: int = 256 << 20  # of one image or mesh
    most_pixels: int = 89_000_000  # of one image; Pillow's own warning threshold: 270 MB as RGB
    threads: int = field(default_factory=usable_cores)
    cache: Cache = field(default_factory=Cache)  # for downloads
    originals: dict[bytes, str] = field(default_factory=dict)

"""Images: looked at once, stored as where they are (`references.py`), decoded when a batch needs them.

An image that occurs twice, as two files or as a file and a cell, is one item: the first place stands for all.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.items import STORED
from finetune.data.modalities.cells import first_non_null, text_or_bytes_columns
from finetune.data.modalities.downloads import THREADS
from finetune.data.modalities.map_unique import map_unique, map_values
from finetune.data.modalities.options import Facts, Options, Progress, Report, UnusableValue, no_progress
from finetune.data.modalities.references import Cell, ContentReader
from finetune.errors import FinetuneError, RunError

if TYPE_CHECKING:
    from PIL.Image import Image

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")
# What Pillow reads by itself. Others of its formats start programs (EPS) or were sources of trouble and are rare.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM")
DAMAGED = "the picture is cut off or damaged"
LOOKED_AT = 1000  # images, for the facts of many


def is_image(content: bytes) -> bool:
    """Whether the bytes begin like an image."""
    return content.startswith(MAGIC) or content[8:12] == b"WEBP" or content[4:12] in (b"ftypavif", b"ftypavis")


def prepare(
    column: pa.ChunkedArray,
    base: Path,
    report: Report,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> pa.ChunkedArray:
    """Return where each image is, `large_string`: an absolute path, an http(s) URL, or a data: URI that holds it.

    `column` holds paths (from `base`), URLs, data: URIs, bytes, or structs of bytes and path. Every image is decoded
    once, so that a damaged one is known before a run; those are reported and become null. URLs are fetched into the
    cache. Images in cells stay in memory as base64.

    Raises:
        CheckFailed: the column holds something else.
        FinetuneError: Pillow is missing.
    """
    _need_pillow()
    options = options or Options()
    contents = ContentReader("image", base, options)

    def look(cell: Cell) -> tuple[bytes, str]:
        content = contents.get(cell)
        mime = _check(content, options.most_pixels)
        return hashlib.sha256(content).digest(), contents.reference(cell, content, mime)

    def settle(found: tuple[bytes, str]) -> str:
        return options.originals.setdefault(*found)

    columns = text_or_bytes_columns(column, "images: paths, URLs, data: URIs or bytes")
    with _quiet():
        stored = [
            map_unique(one, look, settle, STORED["image"], threads_for(one, options), report, progress)
            for one in columns
        ]
    return first_non_null(stored)


def load(values: pa.Array, options: Options | None = None) -> list[Image]:
    """Return the images that `prepare` stored, as RGB and upright: EXIF orientation applied, transparency on white.

    Raises:
        RunError: one is not there any more, or is another file now.
        FinetuneError: Pillow is missing.
    """
    _need_pillow()
    options = options or Options()
    contents = ContentReader("image", Path("/"), options)

    def decode(reference: str) -> Image:
        try:
            return _decode(contents.get(reference), options.most_pixels)
        except UnusableValue as fault:
            what = f"an image cannot be read any more ({fault.what}): {_short(reference)}"
            raise RunError(what, "Put it back, or start again with data.cache=false.") from fault

    with _quiet():
        return list(map_values(decode, values, threads_for(values, options)))


def facts(values: pa.Array, options: Options | None = None) -> Facts:
    """Return what a report says of the images: formats and how many of each, least and greatest width and height.

    Of many a thousand are looked at, spread evenly; those that are not there any more do not count.
    """
    _need_pillow()
    options = options or Options()
    contents = ContentReader("image", Path("/"), options)

    def measure(reference: str) -> tuple[str, int, int] | None:
        try:
            image = _open(contents.get(reference), options.most_pixels)
        except UnusableValue:
            return None
        return image.format or "", *image.size

    rows = np.unique(np.linspace(0, max(0, len(values) - 1), min(LOOKED_AT, len(values))).astype(np.int64))
    with _quiet():
        found = [one for one in map_values(measure, values.take(pa.array(rows)), options.threads) if one]
    if not found:
        return {}
    formats, widths, heights = zip(*found, strict=True)
    return {
        "image_formats": ", ".join(f"{name} {count:,}" for name, count in Counter(formats).most_common()),
        "image_width": f"{min(widths):,} to {max(widths):,}",
        "image_height": f"{min(heights):,} to {max(heights):,}",
    }


def threads_for(column: pa.Array | pa.ChunkedArray, options: Options) -> int:
    """Return how many threads: as many as cores, more where servers are waited for."""
    if not pa.types.is_large_string(column.type):
        return options.threads
    has_urls = pc.any(pc.match_substring_regex(column, "^https?://", ignore_case=True)).as_py()
    return max(THREADS, options.threads) if has_urls else options.threads


def _check(content: bytes, most_pixels: int) -> str:
    """Return the MIME type of a sound image; raises `UnusableValue`."""
    image = _open(content, most_pixels)
    try:
        # A JPEG decodes at an eighth of its size several times as fast, and is read to its end all the same.
        image.draft("RGB", (1, 1))
        image.load()
    except Exception as error:  # whatever a decoder makes of bytes that anybody may have written
        raise _damaged(error) from error
    from PIL import Image

    return Image.MIME.get(image.format or "", "image/png")


def _open(content: bytes, most_pixels: int) -> Any:
    """Return the image with its header read; raises `UnusableValue`."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise UnusableValue("image", "the file is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        what = DAMAGED if is_image(content) else "it is no picture, or of a format that is not read"
        raise UnusableValue("image", what) from None
    except Image.DecompressionBombError:
        raise UnusableValue("image", f"the picture has more than {most_pixels:,} pixels") from None
    except Exception as error:
        raise _damaged(error) from error
    width, height = image.size
    if width * height > most_pixels:
        raise UnusableValue("image", f"the picture has {width:,} x {height:,} pixels, more than {most_pixels:,}")
    return image


def _damaged(error: Exception) -> UnusableValue:
    if isinstance(error, MemoryError):
        return UnusableValue("image", "the picture does not fit into memory")
    return UnusableValue("image", DAMAGED)


def _decode(content: bytes, most_pixels: int) -> Image:
    from PIL import ImageOps

    image = _open(content, most_pixels)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _rgb(upright)
    except Exception as error:
        raise _damaged(error) from error


def _rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16 bits: Pillow would cut off everything above 255, which leaves white.
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        top = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", top.size, "white"), top).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow from warning about what is refused here, or is harmless (odd EXIF data)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF is not in every Pillow


def _need_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise FinetuneError("Images need the package Pillow.", "pip install 'finetune[images]'") from error


def _short(reference: str) -> str:
    return reference if len(reference) < 300 else f"{reference[:60]}…"

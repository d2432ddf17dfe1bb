"""Images: checked once, stored as references (`references.py`), decoded when a batch needs them.

An image that occurs twice, as two files or as a file and a cell, is one item with the reference of the first.
"""

from __future__ import annotations

import base64
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

from finetune.data.items import STORED
from finetune.data.modalities.cells import first_non_null, text_or_bytes_columns
from finetune.data.modalities.map_unique import map_unique, map_values, threads_for
from finetune.data.modalities.options import Facts, Options, Progress, Report, UnusableValue, no_progress
from finetune.data.modalities.references import Cell, ContentReader
from finetune.errors import FinetuneError, RunError

if TYPE_CHECKING:
    from PIL.Image import Image

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")
# Formats that Pillow decodes by itself. Its other formats start programs (EPS) or are rare and less safe.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM")
DAMAGED = "the image is truncated or damaged"
SAMPLE_IMAGES = 1000  # for the facts of many


def is_image(content: bytes) -> bool:
    """Whether the bytes begin with the signature of an image."""
    return content.startswith(MAGIC) or content[8:12] == b"WEBP" or content[4:12] in (b"ftypavif", b"ftypavis")


def prepare(
    column: pa.ChunkedArray,
    base: Path,
    report: Report,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> pa.ChunkedArray:
    """Return a reference to each image, `large_string`: an absolute path, an http(s) URL, or a data: URI.

    `column` holds paths (from `base`), URLs, data: URIs, bytes, or structs of bytes and path. Every image is decoded
    once, so that damaged ones are found before a run; these are reported and become null. URLs are downloaded into the
    cache. Images in cells are stored in memory as base64.

    Raises:
        CheckFailed: the column has another type.
        FinetuneError: Pillow is not installed.
    """
    _check_pillow()
    options = options or Options()
    contents = ContentReader("image", base, options)

    def check(cell: Cell) -> tuple[bytes, str]:
        content = contents.get(cell)
        mime = _check(content, options.most_pixels)
        return hashlib.sha256(content).digest(), contents.reference(cell, content, mime)

    def first_reference(found: tuple[bytes, str]) -> str:
        digest, reference = found
        return options.originals.setdefault(digest, reference)

    columns = text_or_bytes_columns(column, "images: paths, URLs, data: URIs or bytes")
    with _quiet():
        stored = []
        for values in columns:
            threads = threads_for(values, options)
            stored.append(map_unique(values, check, first_reference, STORED["image"], threads, report, progress))
    return first_non_null(stored)


def load(values: pa.Array, options: Options | None = None) -> list[Image]:
    """Return the images that `prepare` stored, as RGB and upright: EXIF orientation applied, transparency on white.

    Raises:
        RunError: one is missing or damaged now.
        FinetuneError: Pillow is not installed.
    """
    _check_pillow()
    options = options or Options()
    contents = ContentReader("image", Path("/"), options)

    def decode(reference: str) -> Image:
        try:
            return _decode(contents.get(reference), options.most_pixels)
        except UnusableValue as fault:
            what = f"an image can no longer be read ({fault.what}): {_short(reference)}"
            raise RunError(what, "Put it back, or start again with data.cache=false.") from fault

    with _quiet():
        return list(map_values(decode, values, threads_for(values, options)))


def data_uri(content: bytes) -> str:
    """Return the bytes of an image's file as `prepare` stores them."""
    return f"data:image/*;base64,{base64.b64encode(content).decode('ascii')}"


def as_file(image: Any) -> bytes:
    """Return an image of Pillow, or an array of pixels (height, width, 3) of uint8, as a PNG of what `load` returns.

    An image that cannot be read becomes one that is reported as damaged.

    Raises:
        FinetuneError: Pillow is not installed.
    """
    _check_pillow()
    from PIL import Image

    file = io.BytesIO()
    try:
        found = image if hasattr(image, "convert") else Image.fromarray(np.asarray(image))
        upright_rgb(found).save(file, "PNG", compress_level=1)
    except Exception:  # decoders raise errors of many types for invalid data
        return MAGIC[0]
    return file.getvalue()


def upright_rgb(image: Image) -> Image:
    """Return an image of Pillow as `load` does: in RGB, EXIF orientation applied, transparency on white."""
    from PIL import ImageOps

    return _rgb(ImageOps.exif_transpose(image))


def facts(values: pa.Array, options: Options | None = None) -> Facts:
    """Return a summary of the images for a report: formats with counts, least and greatest width and height.

    Of more than a thousand images an even sample is opened; missing ones are skipped.
    """
    _check_pillow()
    options = options or Options()
    contents = ContentReader("image", Path("/"), options)

    def measure(reference: str) -> tuple[str, int, int] | None:
        try:
            image = _open(contents.get(reference), options.most_pixels)
        except UnusableValue:
            return None
        return image.format or "", *image.size

    rows = np.unique(np.linspace(0, max(0, len(values) - 1), min(SAMPLE_IMAGES, len(values))).astype(np.int64))
    with _quiet():
        measured = map_values(measure, values.take(pa.array(rows)), options.threads)
        found = [image for image in measured if image is not None]
    if not found:
        return {}
    formats, widths, heights = zip(*found, strict=True)
    return {
        "image_formats": ", ".join(f"{name} {count:,}" for name, count in Counter(formats).most_common()),
        "image_width": f"{min(widths):,} to {max(widths):,}",
        "image_height": f"{min(heights):,} to {max(heights):,}",
    }


def _check(content: bytes, most_pixels: int) -> str:
    """Return the MIME type of a valid image; raises `UnusableValue`."""
    image = _open(content, most_pixels)
    try:
        # A JPEG decodes several times as fast at an eighth of its size, and is still read to its end.
        image.draft("RGB", (1, 1))
        image.load()
    except Exception as error:  # decoders raise errors of many types for invalid data
        raise _damaged(error) from error
    from PIL import Image

    return Image.MIME.get(image.format or "", "image/png")


def _open(content: bytes, most_pixels: int) -> Any:
    """Return the image after reading its header; raises `UnusableValue`."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise UnusableValue("image", "the file is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        what = DAMAGED if is_image(content) else "it is not an image, or its format is not supported"
        raise UnusableValue("image", what) from None
    except Image.DecompressionBombError:
        raise UnusableValue("image", f"the image has more than {most_pixels:,} pixels") from None
    except Exception as error:
        raise _damaged(error) from error
    width, height = image.size
    if width * height > most_pixels:
        raise UnusableValue("image", f"the image has {width:,} x {height:,} pixels, more than {most_pixels:,}")
    return image


def _damaged(error: Exception) -> UnusableValue:
    if isinstance(error, MemoryError):
        return UnusableValue("image", "the image does not fit into memory")
    return UnusableValue("image", DAMAGED)


def _decode(content: bytes, most_pixels: int) -> Image:
    image = _open(content, most_pixels)
    try:
        image.load()
        return upright_rgb(image)
    except Exception as error:
        raise _damaged(error) from error


def _rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16 bits: Pillow would clip everything above 255 to white.
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        top = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", top.size, "white"), top).convert("RGB")
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings: of large images, which are checked here, and of invalid EXIF data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # not every build of Pillow has AVIF


def _check_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise FinetuneError("Images need the package Pillow.", "pip install 'finetune[images]'") from error


def _short(reference: str) -> str:
    if len(reference) < 300:
        return reference
    return f"{reference[:60]}…"

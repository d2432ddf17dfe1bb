from __future__ import annotations

import base64
import io
import os
import struct
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.data.items import Part
from finetune.data.modalities import Options, facts, load, prepare_column
from finetune.errors import CheckFailed, FinetuneError, RunError
from tests.data.modalities.conftest import picture, prepared

NOT_AN_IMAGE, DAMAGED = "it is not an image, or its format is not supported", "the image is truncated or damaged"
HOSTILE = [
    "with space.png",
    'it\'s "quoted".png',
    "new\nline.png",
    "ünï 猫🐈.png",
    "-rf.png",
    "100%25.png",
    "a#b?c.png",
]


def colour(image: Any, at: tuple[int, int] = (0, 0)) -> Any:
    return image.getpixel(at)


def loaded(stored: pa.ChunkedArray) -> list[Any]:
    return load(Part("image", stored.combine_chunks()))


def uri(content: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_formats_are_checked_and_loaded(tmp_path: Path, form: str) -> None:
    name = f"a.{form.lower()}"
    (tmp_path / name).write_bytes(picture((250, 0, 0), form=form))
    stored, bad, column = prepared("image", [name], tmp_path)
    assert (stored, bad) == ([str(tmp_path / name)], [])
    [image] = loaded(column)
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert np.abs(np.array(colour(image)) - (250, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"", "image", "the file is empty"),
        (b"just text", "image", NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image", NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "image", NOT_AN_IMAGE),
        (picture(form="PNG", size=(300, 300))[:200], "image", DAMAGED),
        (picture()[:30], "image", DAMAGED),
        (np.random.default_rng(0).bytes(400), "image", NOT_AN_IMAGE),
    ],
)
def test_an_invalid_image_is_reported(tmp_path: Path, content: bytes, kind: str, what: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    stored, bad, _ = prepared("image", ["a.png"], tmp_path)
    assert stored == [None]
    assert bad == [(0, kind, what)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_image_is_reported(form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    stream = io.BytesIO()
    noise.save(stream, form)
    whole = stream.getvalue()
    # From the middle to near the end; what follows the last pixel (a trailer) may be missing.
    pieces = [whole[: int(len(whole) * share)] for share in (0.0, 0.01, 0.3, 0.6, 0.9)]
    stored, bad, _ = prepared("image", [*pieces, whole])
    assert [value is None for value in stored] == [True] * 5 + [False]
    assert bad.rows == [0, 1, 2, 3, 4]


def test_a_decompression_bomb_is_detected_by_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(side: int) -> bytes:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")

    stored, bad, _ = prepared("image", [png(50_000), png(12_000), picture(size=(40, 40))], most_pixels=1500)
    assert stored == [None] * 3
    assert all("pixels" in what for _, _, what in bad), bad


def test_missing_files_and_invalid_paths(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    names = ["no.png", "folder.png", "pipe.png", "link.png", "a\0b.png", "x" * 5000, "s3://bucket/a.png", "a.png/b.png"]
    stored, bad, _ = prepared("image", names, tmp_path)
    assert stored == [None] * len(names)
    assert bad.rows == list(range(len(names)))
    assert {kind for _, kind, _ in bad} == {"missing", "unreachable"}


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(picture())

    def refusing(*_: Any) -> Any:  # root, who may run this, reads everything
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refusing)
        _, bad, _ = prepared("image", ["a.png"], tmp_path)
    assert bad == [(0, "missing", "it cannot be read (Permission denied)")]


def test_paths_outside_of_a_given_root_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for place in (root, tmp_path):
        (place / "a.png").write_bytes(picture())
    (root / "link.png").symlink_to("../a.png")
    inside, outside = ["a.png", str(root / "a.png"), "./x/../a.png"], ["../a.png", str(tmp_path / "a.png"), "link.png"]
    (root / "x").mkdir()
    stored, bad, _ = prepared("image", [*inside, *outside], root, root=root)
    assert [value is None for value in stored] == [False] * 3 + [True] * 3
    assert {what for _, _, what in bad} == {"the path leaves the folder of the data"}
    assert prepared("image", outside, root)[1] == []  # without a root any file may be named


@pytest.mark.parametrize("name", HOSTILE)
def test_file_names_with_special_characters(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a 'b' \n ü"
    folder.mkdir()
    (folder / name).write_bytes(picture("blue"))
    stored, bad, column = prepared("image", [name], folder)
    assert (stored, bad) == ([str(folder / name)], [])
    assert colour(loaded(column)[0]) == (0, 0, 255)


def test_bytes_data_uris_and_structs_are_stored_alike() -> None:
    content = picture("green")
    lines = uri(content)[:40] + "\n" + uri(content)[40:]
    texts = [
        uri(content),
        uri(content, "image/jpeg"),
        uri(content).rstrip("="),
        lines,
        uri(content).upper()[:5] + uri(content)[5:],
    ]
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in content)
    as_texts, bad, column = prepared("image", [*texts, percent])
    as_bytes, _, _ = prepared("image", [content])
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": content, "path": "only a name.png"}, None, {"bytes": None, "path": None}]
    as_structs, none_bad, _ = prepared("image", pa.chunked_array([pa.array(rows, struct_type)]))
    assert bad == none_bad == []
    assert {*as_texts, *as_bytes, as_structs[0]} == {uri(content)}
    assert as_structs[1:] == [None, None]
    assert colour(loaded(column)[0]) == (0, 128, 0)


def test_a_struct_without_bytes_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    rows = [{"bytes": None, "path": "a.png"}, {"bytes": b"no", "path": "a.png"}, {"bytes": None, "path": "no.png"}]
    stored, bad, _ = prepared("image", rows, tmp_path)
    assert stored == [str(tmp_path / "a.png"), None, None]
    assert sorted((row, kind) for row, kind, _ in bad) == [(1, "image"), (2, "missing")]


@pytest.mark.parametrize(
    "text", ["data:image/png;base64,@@@@", "data:image/png;base64,", "data:,", "data:image/png;base64,AAAA"]
)
def test_damaged_data_uris(text: str) -> None:
    stored, bad, _ = prepared("image", [text])
    assert stored == [None]
    assert bad.rows == [0]


def test_columns_of_every_arrow_type_of_text_and_bytes() -> None:
    content = picture()
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(len(content))):
        assert prepared("image", pa.chunked_array([pa.array([content, None], kind)]))[0] == [uri(content), None]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.chunked_array([pa.array([uri(content), None]).cast(kind)])
        assert prepared("image", column)[0] == [uri(content), None]
    assert prepared("image", [None, None])[0] == [None, None]
    assert prepared("image", pa.chunked_array([], pa.string()))[0] == []
    assert prepared("image", ["", "  "])[:2] == ([None, None], [])


def test_a_column_of_another_type_is_a_problem() -> None:
    for values in ([1, 2], [[1.0]], [{"x": 1}], [True]):
        with pytest.raises(CheckFailed, match="expected images"):
            prepared("image", values)


@settings(max_examples=20, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["file", "copy", "bytes", "uri"])), max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_the_same_content_is_the_same_stored_value(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, str]], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("same")
    contents = [picture((shade * 60, 0, 0)) for shade in range(4)]
    for number, content in enumerate(contents):
        for kind in ("file", "copy"):
            (folder / f"{kind}{number}.png").write_bytes(content)
    texts = [uri(contents[n]) if kind in ("uri", "bytes") else f"{kind}{n}.png" for n, kind in places]
    ends = sorted({0, len(texts), *(min(cut, len(texts)) for cut in cuts)})
    chunks = [pa.array(texts[a:b], pa.string()) for a, b in pairwise(ends)]
    options = Options()
    report = pytest.fail
    stored = prepare_column("image", pa.chunked_array(chunks, pa.string()), folder, report, options=options).to_pylist()
    binary = pa.chunked_array([pa.array(contents)])
    other = prepare_column("image", binary, folder, report, options=options).to_pylist()
    for i, (n, _) in enumerate(places):
        assert stored[i] == other[n]
        assert all((stored[i] == stored[j]) == (n == m) for j, (m, _) in enumerate(places))


def test_threads_do_not_change_what_is_stored(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(picture((number // 4, 0, 0)))
    names = [f"{number}.png" for number in range(40)] * 2
    one, many = (prepared("image", names, tmp_path, threads=threads)[0] for threads in (1, 8))
    assert one == many
    assert len(set(one)) == 10


def test_transparency_is_composited_on_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    kept, clear = io.BytesIO(), io.BytesIO()
    palette.save(kept, "GIF")
    palette.save(clear, "PNG", transparency=1)
    contents = [
        picture((255, 0, 0, 0), mode="RGBA"),
        picture((0, 0, 0, 128), mode="RGBA", form="WEBP", lossless=True),
        picture((0, 0), mode="LA"),
        kept.getvalue(),
        clear.getvalue(),
    ]
    images = loaded(prepared("image", contents)[2])
    assert [image.mode for image in images] == ["RGB"] * 5
    assert [colour(image) for image in images] == [
        (255, 255, 255), (127, 127, 127), (255, 255, 255), (255, 0, 0), (255, 255, 255),
    ]  # fmt: skip


def test_grey_sixteen_bits_cmyk_and_two_colours() -> None:
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 4), 128 << 8, np.uint16)).save(deep, "PNG")
    contents = [
        picture(100, mode="L"),
        deep.getvalue(),
        picture((0, 255, 255, 0), mode="CMYK", form="TIFF"),
        picture(1, mode="1"),
    ]
    images = loaded(prepared("image", contents)[2])
    assert [colour(image) for image in images] == [(100,) * 3, (128,) * 3, (255, 0, 0), (255,) * 3]


@pytest.mark.parametrize(("orientation", "size"), [(1, (8, 6)), (3, (8, 6)), (6, (6, 8)), (8, (6, 8))])
def test_images_are_rotated_by_their_exif_orientation(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (8, 6), "white")
    image.putpixel((0, 0), (255, 0, 0))
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    [turned] = loaded(prepared("image", [stream.getvalue()])[2])
    corner = {1: (0, 0), 3: (7, 5), 6: (5, 0), 8: (0, 7)}[orientation]
    assert (turned.size, colour(turned, corner)) == (size, (255, 0, 0))


def test_broken_exif_is_harmless() -> None:
    content = picture(form="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    stored, bad, column = prepared("image", [content])
    assert bad == []
    assert loaded(column)[0].size == (8, 6)
    assert stored[0].startswith("data:image/jpeg")


def test_facts_have_formats_and_sizes(tmp_path: Path) -> None:
    contents = [picture(size=(10, 1200)), picture("blue", size=(20, 7)), picture(form="JPEG")]
    part = Part("image", prepared("image", contents)[2].combine_chunks())
    wanted = {"image_formats": "PNG 2, JPEG 1", "image_width": "8 to 20", "image_height": "6 to 1,200"}
    assert facts(part) == wanted
    assert facts(Part("image", pa.array([], pa.large_string()))) == {}
    assert facts(Part("image", pa.array([str(tmp_path / "gone.png")], pa.large_string()))) == {}


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    _, _, column = prepared("image", ["a.png"], tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(RunError, match=r"there is no such file.*a\.png"):
        loaded(column)


def test_progress_reaches_the_number_of_rows() -> None:
    seen: list[tuple[int, int]] = []
    values = pa.chunked_array([pa.array([picture((i % 250, 0, i // 250)) for i in range(600)] * 2)])
    prepare_column("image", values, Path(), pytest.fail, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1200, 1200)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) == 2


def test_without_pillow_the_install_command_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(FinetuneError, match=r"pip install 'finetune\[images\]'"):
        prepared("image", ["a.png"])

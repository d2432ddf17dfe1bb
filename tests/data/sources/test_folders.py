from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from finetune.data.bad_rows import BadRows
from finetune.data.source import Source
from finetune.data.sources import ReadOptions
from finetune.data.sources.folders import open_folder
from finetune.errors import CheckFailed


def fill(root: Path, *files: str, content: str = "x") -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content)
    return root


def opened(root: Path, form: str = "auto") -> Source:
    return open_folder(root, "photos", ReadOptions(format=form), "data.path")


def rows(source: Source, *names: str) -> tuple[list[tuple[object, ...]], BadRows]:
    bad = BadRows()
    reading = source.read(list(names) or source.head().names, bad)
    assert reading.rows_read == reading.table.num_rows + len(bad)
    return list(zip(*(column.to_pylist() for column in reading.table.columns), strict=True)), bad


def error_message(root: Path, form: str = "auto") -> str:
    with pytest.raises(CheckFailed) as failed:
        opened(root, form).head()
    [problem] = failed.value.problems
    return str(problem)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def test_classes_are_the_first_folders(root: Path) -> None:
    fill(
        root,
        "dog/b.jpg",
        "dog/puppies/new/a.PNG",
        "cat/c.jpeg",
        "cat/.hidden.jpg",
        ".git/x/y.jpg",
        "cat/notes.txt",
        "top.jpg",
    )
    source = opened(root)
    head = source.head()
    wanted = [("cat/c.jpeg", "cat"), ("dog/b.jpg", "dog"), ("dog/puppies/new/a.PNG", "dog")]
    assert (head.names, head.sample, head.named) == (["image", "label"], wanted, True)
    assert head.notes == ["3 images in 2 folders, each a class.", "2 other files are left out."]
    assert source.base == root
    assert rows(source)[0] == wanted
    assert rows(source, "label")[0] == [("cat",), ("dog",), ("dog",)]
    place = source.read(["image"], BadRows()).locate
    assert [str(one) for one in place([2])] == ["photos:3"]  # type: ignore[arg-type]


def test_files_without_folders_have_no_class(root: Path) -> None:
    source = opened(fill(root, "b.jpg", "a.jpg", "readme.md"))
    assert (source.head().names, rows(source)[0]) == (["image"], [("a.jpg",), ("b.jpg",)])
    assert source.head().notes == ["1 other file is left out."]


def test_meshes_as_modelnet_has_them(root: Path) -> None:
    fill(
        root,
        "README.txt",
        *(f"{name}/{part}/{i}.off" for name in ("bed", "chair") for part in ("train", "test") for i in (1, 2)),
    )
    source = opened(root)
    assert rows(source)[0] == [(f"{name}/train/{i}.off", name) for name in ("bed", "chair") for i in (1, 2)]
    assert source.head().names == ["mesh", "label"]
    assert source.head().notes == [
        "4 meshes in 2 folders, each a class.",
        "4 meshes in folders for testing (as test/) are left out.",
        "1 other file is left out.",
    ]


def test_a_folder_of_both_kinds_needs_a_format(root: Path) -> None:
    fill(root, "a/1.obj", "b/2.obj", "a/texture.png", "b/texture.png")
    assert "'photos' holds 2 images and 2 meshes. Say which are meant: data.format=images or" in error_message(root)
    assert rows(opened(root, "meshes"))[0] == [("a/1.obj", "a"), ("b/2.obj", "b")]
    assert rows(opened(root, "images"), "image")[0] == [("a/texture.png",), ("b/texture.png",)]


def test_folders_without_usable_classes_are_problems(root: Path, tmp_path: Path) -> None:
    assert "there is no folder 'photos'" in error_message(root)
    root.mkdir()
    assert error_message(root) == "data.path: 'photos' holds no images or meshes. It is empty."
    fill(root, "a/1.txt")
    assert "'photos' holds no images. They end in .avif, .bmp" in error_message(root, "images")
    fill(root, "only one/1.jpg", "only one/2.jpg")
    assert "has one class only, 'only one'" in error_message(root)
    assert "'data.path=\"photos/only one\"'" in error_message(root)
    file = tmp_path / "file.jpg"
    file.write_text("x")
    assert "is not a folder" in error_message(file)


def test_splits_are_not_classes(root: Path) -> None:
    fill(root, "Train/cat/1.jpg", "Train/dog/1.jpg", "test/cat/2.jpg", "val/dog/3.jpg")
    assert error_message(root) == (
        "data.path: the folders in 'photos' are splits of a data set, not classes: 'Train', 'test', 'val'. "
        "Name one of them: data.path=photos/Train"
    )


@pytest.mark.parametrize("target", ["../secret/1.jpg", "../secret"])
def test_links_out_of_the_folder_are_problems(root: Path, tmp_path: Path, target: str) -> None:
    fill(root, "a/1.jpg", "b/2.jpg")
    fill(tmp_path / "secret", "1.jpg")
    (root / "b.jpg").symlink_to(target)
    assert "has a link that leads out of it, 'b.jpg'." in error_message(root)


def test_links_inside_the_folder_are_files(root: Path) -> None:
    fill(root, "a/1.jpg", "b/2.jpg")
    (root / "b" / "again.jpg").symlink_to("../a/1.jpg")
    (root / "b" / "round").symlink_to("..")
    (root / "b" / "gone.jpg").symlink_to("nowhere.jpg")
    assert [file for file, _ in rows(opened(root))[0]] == ["a/1.jpg", "b/2.jpg", "b/again.jpg", "b/gone.jpg"]
    assert opened(root).fingerprint() == opened(root).fingerprint()


def test_a_folder_that_is_a_link_itself(root: Path, tmp_path: Path) -> None:
    fill(root, "a/1.jpg", "b/2.jpg")
    (tmp_path / "link").symlink_to(root)
    assert len(rows(opened(tmp_path / "link"))[0]) == 2


def test_an_unreadable_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, "a/1.jpg", "b/2.jpg")
    real = os.scandir

    def refusing(path: str) -> object:  # root, who may run this, reads everything
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert f"'{root}/b' cannot be read: Permission denied" in error_message(root)


def test_file_names_with_special_characters(root: Path) -> None:
    names = ["a b", "it's", '"q"', "new\nline", "ü猫🐈", "data:x,", "http:", "-x", "*?["]
    fill(root, *(f"{name}/{name}.jpg" for name in names))
    try:
        (root / "a b" / os.fsdecode(b"\xff.jpg")).write_text("x")
        unnamable = True
    except OSError:
        unnamable = False
    found, _ = rows(opened(root))
    assert {label for _, label in found} == set(names)
    assert {file for file, _ in found} == {f"{'./' if name == 'data:x,' else ''}{name}/{name}.jpg" for name in names}
    assert all((root / str(file)).is_file() for file, _ in found)
    assert any("1 other file is left out" in note for note in opened(root).head().notes) == unnamable


def test_every_change_changes_the_fingerprint(root: Path, tmp_path: Path) -> None:
    fill(root, "a/1.jpg", "b/2.jpg", "b/notes.txt")
    before = opened(root).fingerprint()
    fill(root, "b/notes.txt", content="other")
    assert opened(root).fingerprint() == before
    seen = {before}

    def changed() -> None:
        seen.add(opened(root).fingerprint())

    fill(root, "a/1.jpg", content="longer")
    changed()
    os.utime(root / "a/1.jpg", ns=(time.time_ns(), 1))
    changed()
    (root / "a/1.jpg").rename(root / "a/3.jpg")
    changed()
    fill(root, "c/1.jpg")
    changed()
    root.rename(tmp_path / "photos elsewhere")  # the paths that are kept start from it
    seen.add(opened(tmp_path / "photos elsewhere").fingerprint())
    assert len(seen) == 6


def test_the_sample_is_spread_over_the_classes(root: Path) -> None:
    fill(root, *(f"{name}/{i}.jpg" for name in "abcde" for i in range(60)))
    sample = opened(root).head().sample
    assert len(sample) == 20
    assert {label for _, label in sample} == set("abcde")


def test_a_table_describes_the_files(root: Path) -> None:
    fill(root, "1.jpg", "sub/2.jpg", "sub/not named.jpg")
    fill(
        root, "metadata.csv", content='file_name,caption\n1.jpg,a cat\n./sub//2.jpg,"a dog, asleep"\nsub\\2.jpg,again\n'
    )
    source = opened(root)
    head = source.head()
    assert (head.names, head.sample[0], source.base) == (["image", "caption"], ("1.jpg", "a cat"), root)
    assert head.notes[0] == "The images in 'photos' as its metadata.csv describes them."
    found, bad = rows(source)
    assert found == [("1.jpg", "a cat"), ("sub/2.jpg", "a dog, asleep"), ("sub/2.jpg", "again")]
    assert not bad
    assert rows(source, "caption", "image")[0][0] == ("a cat", "1.jpg")
    assert rows(source, "caption")[0][0] == ("a cat",)


def test_a_table_in_json_lines(root: Path) -> None:
    fill(root, "a/1.obj", "a/2.obj")
    fill(
        root,
        "metadata.jsonl",
        content='{"file_name": "a/1.obj", "text": "one"}\n{"text": "two", "file_name": "a/2.obj"}\n',
    )
    source = opened(root)
    assert source.head().names == ["mesh", "text"]
    assert rows(source)[0] == [("a/1.obj", "one"), ("a/2.obj", "two")]


def test_rows_whose_file_is_not_in_the_folder_are_bad(root: Path, tmp_path: Path) -> None:
    fill(tmp_path, "secret.jpg")
    fill(root, "1.jpg", "metadata.csv")
    lines = [
        "1.jpg,good",
        "gone.jpg,bad",
        "../secret.jpg,bad",
        f"{tmp_path}/secret.jpg,bad",
        "https://a.org/1.jpg,bad",
        '"",bad',
        "1.jpg,too",
    ]
    (root / "metadata.csv").write_text("file_name,caption\n" + "\n".join(lines) + "\n")
    source = opened(root)
    found, bad = rows(source)
    assert found == [("1.jpg", "good"), ("1.jpg", "too")]
    assert [(Path(row.file).name, row.line, row.column, row.kind) for row in bad.first] == [
        ("metadata.csv", line, "image", "missing") for line in range(3, 8)
    ]
    assert bad.first[1].text == "../secret.jpg"
    again = source.read(["image", "caption"], BadRows())
    assert [place.line for place in again.locate([1])] == [8]  # type: ignore[arg-type]


def test_unusable_tables_are_problems(root: Path) -> None:
    fill(root, "1.jpg")
    fill(root, "metadata.csv", content="name,caption\n1.jpg,a cat\n")
    assert "photos/metadata.csv: has no column 'file_name' that names the images" in error_message(root)
    fill(root, "metadata.jsonl")
    assert "has several tables: 'metadata.csv', 'metadata.jsonl'" in error_message(root)


def test_a_changed_table_or_file_changes_the_fingerprint(root: Path) -> None:
    fill(root, "1.jpg")
    fill(root, "metadata.csv", content="file_name,caption\n1.jpg,a cat\n")
    prints = {opened(root).fingerprint(), opened(root).fingerprint()}
    fill(root, "metadata.csv", content="file_name,caption\n1.jpg,a dog\n")
    prints.add(opened(root).fingerprint())
    fill(root, "1.jpg", content="other")
    prints.add(opened(root).fingerprint())
    assert len(prints) == 3

"""The manifest of an output folder: what its vectors are, of which model and corpus, and its shards with checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.embed.files import MANIFEST, write_json
from finetune.errors import FinetuneError
from finetune.runs.atomic import explain

VERSION = 1


@dataclass(frozen=True)
class ShardEntry:
    """A shard: its file and the SHA-256 of it; of `.npy` shards also the file with ids and kept columns."""

    file: str
    rows: int
    sha256: str
    rows_file: str | None = None
    rows_sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What is in an output folder.

    `settings` are those that decide the bytes of the shards. `width` is how many numbers a vector has. `int8_ranges`
    are the lowest and highest value of each dimension. `complete` is false until every shard is written.
    """

    model: str
    model_digest: str
    corpus: str
    corpus_digest: str
    settings: Mapping[str, Any]
    rows: int = 0
    texts: int = 0
    left_out: int = 0
    dimensions: int = 0
    width: int = 0
    similarity: str = "cosine"
    int8_ranges: list[list[float]] | None = None
    shards: list[ShardEntry] = field(default_factory=list)
    complete: bool = False
    version: int = VERSION

    def completed(self, **facts: Any) -> Manifest:
        """Return the manifest of a finished folder with these fields."""
        return replace(self, complete=True, **facts)


def read_manifest(out: Path) -> Manifest | None:
    """Return the manifest of a folder, None if it has none.

    Raises:
        FinetuneError: it is damaged, or of a newer version.
        Refused: it cannot be read.
    """
    path = out / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == VERSION:
            shards = [ShardEntry(**entry) for entry in content.pop("shards")]
            return Manifest(**content, shards=shards)
        what = f"{path} is of version {content['version']!r}, and this finetune reads version {VERSION}."
        raise FinetuneError(what, "Update finetune, or embed the corpus into another folder.")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise explain(error, f"read {path}", "check who may read it.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise FinetuneError(f"{path} is damaged.", "Remove the folder and embed the corpus again.") from error


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder.

    Raises:
        Refused: the disk is full.
    """
    write_json(out / MANIFEST, asdict(manifest))


def check_same(out: Path, found: Manifest, wanted: Manifest) -> None:
    """Check that a folder holds the vectors that are wanted, complete or not.

    Raises:
        FinetuneError: it holds those of another model, corpus or settings.
    """
    differences = []
    if found.model_digest != wanted.model_digest:
        differences.append(f"of another model ({found.model})" if found.model != wanted.model else "of another model")
    if found.corpus_digest != wanted.corpus_digest:
        differences.append(f"of another corpus ({found.corpus}, or its content has changed)")
    for name, value in wanted.settings.items():
        if found.settings.get(name) != value:
            differences.append(f"with {name}={_shown(found.settings.get(name))} instead of {_shown(value)}")
    if differences:
        what = f"{out} holds vectors {', '.join(differences)}."
        raise FinetuneError(what, "Choose another folder with out=, or remove this one.")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

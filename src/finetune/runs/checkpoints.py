"""The checkpoints of a run: which there are, which of them are whole, which are kept.

step-00000120.ckpt  what is needed to go on from step 120
step-00000120.json  its manifest, written last: without one, the save did not end
last.ckpt best.ckpt links to two of them
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

import finetune
from finetune.config.differences import changes
from finetune.errors import FinetuneError
from finetune.runs.atomic import explained, to_json, write_json_atomically

# Raise it when a checkpoint of before can no longer be loaded.
FORMAT = 2

_STEP = re.compile(r"step-(\d+)\.ckpt")
_BEGIN_AGAIN = "Start the run again under another name=, or remove its folder checkpoints to begin it anew."

NO_CHECKPOINT = "No checkpoint was written yet; training starts from the beginning."


@dataclass(frozen=True)
class Checkpoints:
    """The folder `checkpoints/` of the run directory `run`."""

    run: Path

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.run / "checkpoints"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or will be."""
        return self.folder / f"step-{step:08d}.ckpt"

    def steps(self) -> list[int]:
        """The steps there is a checkpoint of, whole or not, in order.

        By their names: a clock that was set back must not make an old one the newest.
        """
        found = (_STEP.fullmatch(path.name) for path in self.folder.glob("step-*.ckpt"))
        return sorted(int(match[1]) for match in found if match)

    def seal(self, path: Path, sha256: str, size: int, step: int, metrics: Mapping[str, float]) -> None:
        """Write the manifest of a checkpoint that is on disk: from now on it is whole. Raises RunError."""
        manifest = {
            "format": FORMAT,
            "finetune": finetune.__version__,
            "step": step,
            "metrics": metrics,
            "bytes": size,
            "sha256": sha256,
            "config": self._config(),
        }
        write_json_atomically(path.with_suffix(".json"), manifest)
        self.link("last", path)

    def link(self, name: str, path: Path) -> None:
        """Let `name.ckpt` be a link to a checkpoint; a relative one, so that a run can be moved. Raises RunError."""
        link, draft = self.folder / f"{name}.ckpt", self.folder / f".{name}.ckpt.link"
        with explained(f"write {link}"):
            draft.unlink(missing_ok=True)
            draft.symlink_to(path.name)
            draft.replace(link)

    def keep(self, steps: Collection[int]) -> None:
        """Remove the checkpoints of other steps. Raises RunError."""
        for step in self.steps():
            if step not in steps:
                self._remove(step)

    def remove_after(self, step: int) -> None:
        """Remove what is past `step`, which a run that goes on from there will save again, and halves of files."""
        self.keep([there for there in self.steps() if there <= step])
        with explained(f"write {self.folder}"):
            for half in [*self.folder.glob(".*.partial"), *self.folder.glob(".*.tmp"), *self.folder.glob(".*.link")]:
                half.unlink(missing_ok=True)
            for link in self.folder.glob("*.ckpt"):
                if link.is_symlink() and not link.exists():
                    link.unlink()

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, `None` if the run has to begin anew; and what was left out for it, with why.

        Raises:
            FinetuneError: something is there, and nothing of it is whole.
        """
        old = self.folder / "last.ckpt"
        names = [self.path(step) for step in reversed(self.steps())]
        left_out: list[str] = []
        for path in [*names, *([old] if old.exists() and not old.is_symlink() else [])]:
            if (wrong := self.wrong(path)) is None:
                return path, left_out
            # Killed while it saved: nobody's mistake, and nothing to keep.
            if path == old or path.with_suffix(".json").exists():
                left_out.append(f"{path.name}, {wrong}")
        if left_out:
            raise FinetuneError(f"{self.folder} has no whole checkpoint: {'; '.join(left_out)}.", _BEGIN_AGAIN)
        return None, []

    def chosen(self, path: Path) -> Path:
        """The checkpoint that somebody chose to go on from.

        Raises:
            FinetuneError: it is not whole, or not of this run's config.
        """
        if (wrong := self.wrong(path)) is not None:
            raise FinetuneError(f"The checkpoint {path} cannot be used: {wrong}.", "Choose another, or resume=auto.")
        return path

    def wrong(self, path: Path) -> str | None:
        """Why a run cannot go on from a checkpoint; `None` if it can."""
        manifest_path = path.with_suffix(".json")
        if not manifest_path.exists():
            return _without_manifest(path)
        manifest = _manifest(manifest_path)
        if manifest is None:
            return "its manifest is damaged"
        if manifest["format"] != FORMAT:
            saved = f"finetune {manifest['finetune']} in format {manifest['format']}"
            return f"it was saved by {saved}, and this is finetune {finetune.__version__} with format {FORMAT}"
        size = path.stat().st_size
        if size != manifest["bytes"]:
            return f"it is damaged: {size:,} of {manifest['bytes']:,} bytes are there"
        if differ := changes(manifest["config"], self._config()):
            return f"it is from another config ({', '.join(differ)})"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return None if found == manifest["sha256"] else "it is damaged: its bytes are not those that were saved"

    def _remove(self, step: int) -> None:
        path = self.path(step)
        with explained(f"remove {path}"):
            # The manifest first: a checkpoint without one is no checkpoint, a manifest alone would look like damage.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _config(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            config = yaml.safe_load((self.run / "config.yaml").read_text(encoding="utf-8"))
            # As the manifest has it, in JSON.
            return cast(dict[str, Any], json.loads(to_json(config)))
        return {}


def step_and_metrics(path: Path) -> tuple[int, dict[str, float]]:
    """The optimizer step that a whole checkpoint, or a link to one, was saved at, and its loss and other numbers."""
    manifest = _manifest(path.resolve().with_suffix(".json"))
    assert manifest is not None, path
    return manifest["step"], manifest["metrics"]


def _without_manifest(path: Path) -> str:
    if _STEP.fullmatch(path.name):
        return "its save did not end"
    is_old = path.suffix == ".ckpt"
    return "it is of an older version of finetune, without a manifest" if is_old else "it is no checkpoint"


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = {"format", "finetune", "step", "metrics", "bytes", "sha256", "config"}
    return found if isinstance(found, dict) and wanted <= found.keys() else None

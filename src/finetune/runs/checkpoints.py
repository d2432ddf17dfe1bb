"""The checkpoints of a run: listing, verifying and removing them.

step-00000120.ckpt   the state at step 120
step-00000120.json   its manifest, written last: without it the checkpoint is incomplete
last.ckpt best.ckpt  links to two of them
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
from finetune.runs.atomic import explained, read_mapping, to_json, write_json_atomically

# Increase it when earlier checkpoints can no longer be loaded.
FORMAT = 2

_STEP = re.compile(r"step-(\d+)\.ckpt")
_MANIFEST_KEYS = {"format", "finetune", "step", "metrics", "bytes", "sha256", "config"}
_START_OVER = "Start a new run with another name=, or delete the folder checkpoints to restart this one from step 0."

NO_CHECKPOINT = "No checkpoint was written yet; training starts from the beginning."


@dataclass(frozen=True)
class Checkpoints:
    """The folder `checkpoints/` of the run directory `run`."""

    run: Path

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.run / "checkpoints"

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step, whether it exists or not."""
        return self.folder / f"step-{step:08d}.ckpt"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, complete or not, in order.

        From the file names, since file times are wrong after the clock was set back.
        """
        matches = [_STEP.fullmatch(path.name) for path in self.folder.glob("step-*.ckpt")]
        return sorted(int(match[1]) for match in matches if match)

    def seal(self, path: Path, sha256: str, size: int, step: int, metrics: Mapping[str, float]) -> None:
        """Write the manifest of a checkpoint file, which makes it complete, and link `last` to it. Raises RunError."""
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
        """Make `name.ckpt` a relative link to a checkpoint, so that the run can be moved. Raises RunError."""
        link, draft = self.folder / f"{name}.ckpt", self.folder / f".{name}.ckpt.link"
        with explained(f"write {link}"):
            draft.unlink(missing_ok=True)
            draft.symlink_to(path.name)
            draft.replace(link)

    def keep(self, steps: Collection[int]) -> None:
        """Remove the checkpoints of all other steps. Raises RunError."""
        for step in self.steps():
            if step not in steps:
                self._remove(step)

    def remove_after(self, step: int) -> None:
        """Remove checkpoints after `step`, which a run resumed from there saves again, and temporary files."""
        self.keep([each for each in self.steps() if each <= step])
        with explained(f"write {self.folder}"):
            for pattern in (".*.partial", ".*.tmp", ".*.link"):
                for leftover in list(self.folder.glob(pattern)):
                    leftover.unlink(missing_ok=True)
            for link in self.folder.glob("*.ckpt"):
                if link.is_symlink() and not link.exists():
                    link.unlink()

    def newest(self) -> tuple[Path | None, list[str]]:
        """Return the newest usable checkpoint, None if there is none; and the newer ones that were skipped, with why.

        Raises:
            FinetuneError: there are checkpoints, but none is usable.
        """
        candidates = [self.path(step) for step in reversed(self.steps())]
        old_format = self.folder / "last.ckpt"
        if old_format.exists() and not old_format.is_symlink():
            candidates.append(old_format)
        skipped: list[str] = []
        for path in candidates:
            problem = self.problem(path)
            if problem is None:
                return path, skipped
            # A checkpoint without a manifest is not reported: its process was killed while saving.
            if path == old_format or path.with_suffix(".json").exists():
                skipped.append(f"{path.name}, {problem}")
        if skipped:
            raise FinetuneError(f"{self.folder} has no usable checkpoint: {'; '.join(skipped)}.", _START_OVER)
        return None, []

    def check(self, path: Path) -> Path:
        """Return `path`, a checkpoint chosen by the user.

        Raises:
            FinetuneError: it is incomplete or damaged, or from another config.
        """
        problem = self.problem(path)
        if problem is not None:
            raise FinetuneError(f"The checkpoint {path} cannot be used: {problem}.", "Choose another, or resume=auto.")
        return path

    def problem(self, path: Path) -> str | None:
        """Return why a run cannot resume from a checkpoint; None if it can."""
        manifest_path = path.with_suffix(".json")
        if not manifest_path.exists():
            return _problem_without_manifest(path)
        manifest = _read_manifest(manifest_path)
        if manifest is None:
            return "its manifest is damaged"
        if manifest["format"] != FORMAT:
            saved = f"finetune {manifest['finetune']} in format {manifest['format']}"
            return f"it was saved by {saved}, and this is finetune {finetune.__version__} with format {FORMAT}"
        changed_keys = changes(manifest["config"], self._config())
        return _damage(path, manifest, changed_keys)

    def _remove(self, step: int) -> None:
        path = self.path(step)
        with explained(f"remove {path}"):
            # The manifest first: a checkpoint without one is ignored, a manifest without one would look like damage.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _config(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            config = yaml.safe_load((self.run / "config.yaml").read_text(encoding="utf-8"))
            # Through JSON, to compare equal with the config in a manifest.
            return cast(dict[str, Any], json.loads(to_json(config)))
        return {}


def step_and_metrics(path: Path) -> tuple[int, dict[str, float]]:
    """Return the optimizer step of a complete checkpoint, or of a link to one, and its loss and other metrics."""
    manifest = _read_manifest(path.resolve().with_suffix(".json"))
    assert manifest is not None, path
    return manifest["step"], manifest["metrics"]


def _problem_without_manifest(path: Path) -> str:
    if _STEP.fullmatch(path.name):
        return "it was not saved completely"
    if path.suffix == ".ckpt":
        return "it is from an older version of finetune, without a manifest"
    return "it is not a checkpoint"


def _damage(path: Path, manifest: Mapping[str, Any], changed_keys: Collection[str]) -> str | None:
    """Return why a checkpoint does not match its manifest or the config; the checksum is compared last: it is slow."""
    size = path.stat().st_size
    if size != manifest["bytes"]:
        return f"it is damaged: it has {size:,} of {manifest['bytes']:,} bytes"
    if changed_keys:
        return f"it is from another config ({', '.join(changed_keys)})"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != manifest["sha256"]:
        return "it is damaged: its checksum differs from that of the saved file"
    return None


def _read_manifest(path: Path) -> dict[str, Any] | None:
    manifest = read_mapping(path)
    return manifest if manifest.keys() >= _MANIFEST_KEYS else None

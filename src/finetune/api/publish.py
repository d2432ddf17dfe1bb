"""Exporting a model to other formats, and publishing it on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.formats.export import ExportResult


def export(
    model: Any,
    format: str | Sequence[str],
    out: str | Path | None = None,
    *,
    max_loss: float = 0.01,
    evaluation: bool = True,
    show_progress: bool = True,
) -> ExportResult:
    """Write a model in other formats, each verified before it is kept, as `finetune export` does.

    Args:
        model: A run, a folder, a hub id or an artifact, as for `get_model`.
        format: One or more of `"onnx"`, `"onnx-fp16"`, `"onnx-int8"`, `"openvino"`, `"openvino-int8"`, `"fp16"` and
            `"bf16"` (safetensors).
        out: A folder for a copy of the model with the exports; None writes ONNX and OpenVINO into the folder of the
            model, where sentence-transformers looks for them, and safetensors next to it. A model of the hub and an
            artifact need it.
        max_loss: How much of the headline metric an export may lose.
        evaluation: Compute the evaluations of the run with each export again; False only compares embeddings.
        show_progress: Print the progress.

    Returns:
        The `folder`, and by format in `formats` the files, their size in bytes, the largest `difference` of any number
        of an embedding and the smallest cosine, the `speed` (milliseconds of one item, items per second, on the CPU),
        and the `changes` of the metrics with 95 % intervals.

    Raises:
        ExportFailed: an export is too far from the model; nothing of it is kept, other formats are.
        FinetuneError: there is no such model or format, the model cannot be exported, a package is missing.
        RunError: the disk is full or cannot be written.

    Example:
        >>> result = finetune.export("default/first", "bf16", "in_bf16", evaluation=False, show_progress=False)
        >>> result.formats["bf16"].files
        ['model.safetensors']
    """
    from finetune.api.isolation import isolated

    formats = list(format) if isinstance(format, list | tuple) else [str(format)]
    with isolated(quiet=not show_progress):
        from finetune.formats.export import export_model

        return export_model(model, formats, out, max_loss=max_loss, evaluation=evaluation)


def push(model: Any, repo: str, *, public: bool = False, update: bool = False) -> str:
    """Upload a model to the Hugging Face hub without asking, as `finetune push --yes` does, and verify it there.

    The token is that of `hf auth login`, or of the environment variable HF_TOKEN.

    Args:
        model: A run, a folder or an artifact, as for `get_model`.
        repo: The repository, `"ORG/NAME"`.
        public: Everybody can read it; False makes a private one.
        update: Replace the files of a repository that exists; False refuses it.

    Returns:
        The address of the repository.

    Raises:
        FinetuneError: there is no such model, it has pickles or code, `repo` is not a name, there is no token.
        PushFailed: the hub cannot be reached or refuses, the repository exists, or a file on it differs afterwards.

    Example:
        >>> finetune.push("default/first", "my model")
        Traceback (most recent call last):
        finetune.errors.FinetuneError: 'my model' is not a name of a repository. Give ORG/NAME, as in my-team/my-model.
    """
    from finetune.formats.push import prepare_push
    from finetune.formats.push import push as upload

    return upload(prepare_push(model, repo, public=public, update=update))

"""Writes the files of an export: ONNX by torch's exporter, OpenVINO from it, quantization by their own tools."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from finetune.errors import FinetuneError, first_line
from finetune.formats.graphs import Graph
from finetune.formats.sessions import import_openvino
from finetune.formats.targets import Target

_OPSET = 18


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph as ONNX in fp32; beyond 2 GB its weights are in a file next to it.

    Raises:
        FinetuneError: the exporter does not support an operation of the model.
        OSError: the disk is full or cannot be written.
    """
    with _quiet():
        _write_onnx(graph, path)


def convert(plain: Path, target: Target, path: Path) -> None:
    """Write an ONNX file in fp32 (`plain`) in a format to `path`, with the files next to it that it refers to.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        if target.name == "onnx":
            for file in plain.parent.glob(f"{plain.stem}.*"):
                shutil.copyfile(file, path.parent / file.name)
        elif target.runtime == "openvino":
            _write_openvino(plain, path, is_int8=target.precision == "int8")
        elif target.precision == "fp16":
            _write_fp16(plain, path)
        else:
            _write_int8(plain, path)


def _write_onnx(graph: Graph, path: Path) -> None:
    dynamic = tuple(
        dict.fromkeys(graph.dynamic.get(name, ()), torch.export.Dim.DYNAMIC) or None for name in graph.inputs
    )
    try:
        program: Any = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=_OPSET,
            verbose=False,
        )
    except Exception as error:  # torch raises any type, and its message is pages long
        what = f"torch cannot export this architecture to ONNX: {first_line(error)}"
        raise FinetuneError(what, "Use the safetensors folder, or another architecture.") from error
    _remove_traces(program.model.graph)
    program.save(str(path), external_data=_is_large(graph))


def _remove_traces(graph: Any) -> None:
    """Remove the stack trace of every node: it has paths of this machine, and is larger than a small model."""
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None


def _is_large(graph: Graph) -> bool:
    """Whether the weights are beyond what one file of ONNX can hold (2 GB); they are then in a file next to it."""
    return sum(weight.nbytes for weight in graph.module.parameters()) > 1_800_000_000


def _write_fp16(plain: Path, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(plain)), keep_io_types=True)
    onnx.save(model, str(path))


def _write_int8(plain: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Weights of 7 bits: processors without VNNI add products of 8 bits in 16, which overflow.
    quantize_dynamic(str(plain), str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


def _write_openvino(plain: Path, path: Path, *, is_int8: bool) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(str(plain))
    if is_int8:
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    try:
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        # It does not say why a file could not be written.
        if shutil.disk_usage(path.parent).free < plain.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def cast_folder(folder: Path, target: Target) -> None:
    """Change the floating point weights in the folder of a model to another precision, and its config.

    Raises:
        OSError, SafetensorError: the disk is full or cannot be written.
    """
    for weights in folder.rglob("*.safetensors"):
        _cast(weights, target)
    for config in folder.rglob("config.json"):
        _set_dtype(config, target)


def _cast(path: Path, target: Target) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[target.precision]
    mode = path.stat().st_mode
    with safe_open(path, "pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - not a mapping
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(cast, path, metadata)
    path.chmod(mode)


def _set_dtype(path: Path, target: Target) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    name = {"fp16": "float16", "bf16": "bfloat16"}[target.precision]
    # Only configs of transformers have one of these keys.
    keys = [key for key in ("dtype", "torch_dtype") if key in content]
    if keys:
        content |= dict.fromkeys(keys, name)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, which print pages; an error is raised in any case."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "nncf", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # nncf prints its progress, and tables of layers, to stdout.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

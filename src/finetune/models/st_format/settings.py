"""The settings files of a sentence-transformers folder: each key is supported, or raises with its name; no torch.

`config_sentence_transformers.json` is about the whole model, `sentence_bert_config.json` about its transformer.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ModelError
from finetune.models.st_format.json_files import check_keys, is_int, read_count, read_flag, read_json, unsupported

# The kind of encoder that a folder is read for; `pairs` are the pairs of texts of a cross-encoder.
EncoderKind = Literal["text", "image", "text_image", "static", "pairs"]

FORMAT = "6.2"  # the version of sentence-transformers whose folder format is supported, with all keys
MODEL_FILE = "config_sentence_transformers.json"
# The names that sentence-transformers tries, in this order; the first file that is not empty counts.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

_MODEL_KEYS = {
    "__version__",  # of the libraries that saved it
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "truncate_dim",
    "requirements",
}
_CROSS_ENCODER_KEYS = ("activation_fn", "keep_in_fp32_modules")
_NO_LIMIT = 10**9  # tokens; transformers writes a larger number where a tokenizer has no limit
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

_TRANSFORMER_KEYS = {
    "max_seq_length",
    "do_lower_case",
    "unpad_inputs",  # changes how embeddings are computed, not their values
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
}
# Arguments for the classes of transformers, under their old and new keys.
_ARGUMENTS = {
    "model_args": "model",
    "model_kwargs": "model",
    "tokenizer_args": "tokenizer",
    "processor_kwargs": "tokenizer",
    "config_args": "config",
    "config_kwargs": "config",
}
# Those that change no embedding in fp32.
_ARGUMENTS_WITHOUT_EFFECT = {
    "model": {"attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype", "use_safetensors"},
    "tokenizer": {"model_max_length", "use_fast"},
    "config": {"use_cache"},
}


@dataclass(frozen=True)
class _Outputs:
    """What a kind of encoder takes from a transformer.

    `methods` has the method and its output for each modality, `name` the name of that output in sentence-transformers,
    `advice` which models have it.
    """

    methods: Mapping[str, tuple[str, str]]
    name: str
    advice: str


_OUTPUTS = {
    "text": _Outputs(
        {"text": ("forward", "last_hidden_state")},
        "token_embeddings",
        "Use a text-only model, without a chat template, whose pooling takes the last hidden states.",
    ),
    "image": _Outputs(
        {"image": ("forward", "last_hidden_state")},
        "token_embeddings",
        "Use an image-only model, whose pooling takes the last hidden states.",
    ),
    "text_image": _Outputs(
        {"text": ("get_text_features", "pooler_output"), "image": ("get_image_features", "pooler_output")},
        "sentence_embedding",
        "Use a model whose two towers embed texts and images by get_text_features and get_image_features.",
    ),
}


@dataclass(frozen=True)
class ModelSettings:
    """The content of `config_sentence_transformers.json`.

    `similarity` is the function that compares embeddings, `truncate_dim` the number of their dimensions that are used;
    `extra` has keys that are saved again unchanged.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def default_prompt(self) -> str:
        """The prompt of every text for which no other prompt is requested."""
        return self.prompts.get(self.default_prompt_name or "", "")


@dataclass(frozen=True)
class TransformerSettings:
    """The content of `sentence_bert_config.json`: the maximum length in tokens, and whether texts are lowercased.

    `extra` has keys that are saved again unchanged.
    """

    max_length: int | None = None
    lower_case: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_model_settings(folder: Path, pairs: bool = False) -> ModelSettings:
    """Read `config_sentence_transformers.json`; with `pairs` that of a cross-encoder too.

    Raises:
        ModelError: it contains something that is not supported.
    """
    path = folder / MODEL_FILE
    content = read_json(path)
    is_cross_encoder = _check_model_type(path, content.get("model_type") or "SentenceTransformer", pairs)
    supported = set(_MODEL_KEYS)
    if is_cross_encoder:
        supported.update(_CROSS_ENCODER_KEYS)
    check_keys(path, content, supported)
    similarity = content.get("similarity_fn_name")
    if similarity is not None and similarity not in _SIMILARITIES:
        raise unsupported(path, "similarity_fn_name", similarity, f"Supported are {', '.join(_SIMILARITIES)}.")
    _check_requirements(path, content.get("requirements"))
    prompts = _read_prompts(path, content.get("prompts") or {})
    default = content.get("default_prompt_name")
    if default is not None and default not in ("query", "document", *prompts):
        advice = f"Name one of its prompts: {', '.join(prompts) or 'none'}."
        raise unsupported(path, "default_prompt_name", default, advice)
    truncate_dim = read_count(path, "truncate_dim", content.get("truncate_dim"))
    extra = {key: content[key] for key in ("requirements", *_CROSS_ENCODER_KEYS) if content.get(key)}
    return ModelSettings(prompts, default, similarity, truncate_dim, extra)


def _check_model_type(path: Path, model_type: str, pairs: bool) -> bool:
    """Check the type of the model, and return whether it is a cross-encoder."""
    if model_type == "CrossEncoder" and pairs:
        return True
    if model_type != "SentenceTransformer":
        other = ", or model=cross_encoder for this one" if model_type == "CrossEncoder" else ""
        raise unsupported(path, "model_type", model_type, f"Use a SentenceTransformer model{other}.")
    return False


def _read_prompts(path: Path, prompts: Mapping[str, Any]) -> dict[str, str]:
    for name, text in prompts.items():
        if text is not None and not isinstance(text, str):
            raise unsupported(path, f"prompts.{name}", text, "Write a text, or null for no prompt.")
    return {name: text or "" for name, text in prompts.items()}


def _check_requirements(path: Path, requirements: Any) -> None:
    """Check the package versions that a model requires against those installed; packages not in use are ignored."""
    from packaging.specifiers import SpecifierSet

    for package, required in (requirements or {}).items():
        specifier = required.get("specifier", "") if isinstance(required, dict) else required
        installed = _installed_version(package.replace("_", "-").lower())
        if installed is not None and not SpecifierSet(specifier).contains(installed, prereleases=True):
            what = f"{path}: the model requires {package}{specifier}, and this is {package} {installed}."
            raise ModelError(what, f"Install a version that fits, or remove {package!r} from 'requirements'.")


def _installed_version(package: str) -> str | None:
    """Return the version of a package, None if it is not installed; of sentence-transformers that of the format."""
    from importlib.metadata import PackageNotFoundError, version

    if package == "python":
        return platform.python_version()
    if package == "sentence-transformers":
        return FORMAT
    try:
        return version("torch" if package == "pytorch" else package)
    except PackageNotFoundError:
        return None


def read_transformer_settings(folder: Path, encoder_kind: EncoderKind) -> TransformerSettings:
    """Read the `sentence_bert_config.json` of a transformer module in `folder`, for an encoder of this kind.

    Raises:
        ModelError: it contains something that is not supported.
    """
    path, content = _first_transformer_file(folder)
    # None is the default of newer keys that are used by other kinds of models only, such as query_length.
    check_keys(
        path, {key: value for key, value in content.items() if value is not None}, _TRANSFORMER_KEYS | {*_ARGUMENTS}
    )
    for key, kind in _ARGUMENTS.items():
        if key in content:
            _check_arguments(path, key, content[key] or {}, _ARGUMENTS_WITHOUT_EFFECT[kind])
    _check_outputs(path, content, encoder_kind)
    lower_case = read_flag(path, "do_lower_case", content.get("do_lower_case"))
    extra = {}
    if content.get("unpad_inputs") is not None:
        extra["unpad_inputs"] = read_flag(path, "unpad_inputs", content["unpad_inputs"])
    return TransformerSettings(_max_length(folder, path, content), lower_case, extra)


def _first_transformer_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    for name in TRANSFORMER_FILES:
        content = read_json(folder / name)
        if content:
            return folder / name, content
    return folder / TRANSFORMER_FILES[0], {}


def _max_length(folder: Path, path: Path, content: Mapping[str, Any]) -> int | None:
    """Return the first maximum length in tokens that a file of the folder sets, None if none does."""
    lengths = [read_count(path, "max_seq_length", content.get("max_seq_length"))]
    lengths += [_tokenizer_length(path, content.get(key) or {}, f"{key}.") for key in _ARGUMENTS]
    tokenizer_path = folder / "tokenizer_config.json"  # where sentence-transformers keeps the length since 5.4
    lengths.append(_tokenizer_length(tokenizer_path, read_json(tokenizer_path)))
    for length in lengths:
        if length is not None:
            return length
    return None


def _tokenizer_length(path: Path, content: Mapping[str, Any], prefix: str = "") -> int | None:
    """Return the maximum length in the settings of a tokenizer, None if they set no limit."""
    length = content.get("model_max_length")
    # Other tools round the large number that means no limit to a float.
    if (is_int(length) or isinstance(length, float)) and length >= _NO_LIMIT:
        return None
    return read_count(path, f"{prefix}model_max_length", length)


def _check_arguments(path: Path, key: str, arguments: Mapping[str, Any], without_effect: Collection[str]) -> None:
    for name, value in arguments.items():
        if name not in without_effect and name != "trust_remote_code":  # ignored by sentence-transformers too
            raise unsupported(path, f"{key}.{name}", value, "Use another model, or remove it.")


def _check_outputs(path: Path, content: Mapping[str, Any], encoder_kind: EncoderKind) -> None:
    """Check that the module is configured to return what this kind of encoder takes from a transformer."""
    task = content.get("transformer_task", "feature-extraction")
    tasks = {"feature-extraction"}
    if encoder_kind == "pairs":
        tasks.add("sequence-classification")
    if task not in tasks:
        raise unsupported(path, "transformer_task", task, f"Supported: {', '.join(sorted(tasks))}.")
    _check_processing(path, content.get("processing_kwargs") or {}, encoder_kind)
    modalities = content.get("modality_config")
    if modalities is None or encoder_kind == "pairs":
        return
    outputs = _OUTPUTS[encoder_kind]
    for key, value in modalities.items():
        if outputs.methods.get(key) != (value.get("method"), value.get("method_output_name")):
            raise unsupported(path, "modality_config", {key: value}, outputs.advice)
    if content.get("module_output_name") != outputs.name:
        raise unsupported(path, "module_output_name", content.get("module_output_name"), outputs.advice)


def _check_processing(path: Path, processing: Mapping[str, Any], encoder_kind: EncoderKind) -> None:
    # SigLIP pads its texts to a fixed length, which its encoder does by itself.
    pads_texts = (
        encoder_kind == "text_image"
        and set(processing) == {"text"}
        and set(processing["text"]) <= {"padding", "max_length"}
    )
    if processing and not pads_texts:
        raise unsupported(path, "processing_kwargs", processing, "Use another model, or remove it.")

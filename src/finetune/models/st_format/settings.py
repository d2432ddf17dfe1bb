"""The settings files of a sentence-transformers folder, key by key: each is honoured, or refused by its name; no torch.

`config_sentence_transformers.json` is about the whole model, `sentence_bert_config.json` about its transformer.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.models.st_format.values import check_keys, count, flag, is_int, read_json, refused

FORMAT = "6.2"  # the sentence-transformers whose folders are known here, to the last key
MODEL_FILE = "config_sentence_transformers.json"
# What sentence-transformers looks for, in this order; the first that says anything counts.
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
_NO_LIMIT = 10**9
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

_TRANSFORMER_KEYS = {
    "max_seq_length",
    "do_lower_case",
    "unpad_inputs",  # how it is computed, not what
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
}
_ARGUMENTS = {  # for what of transformers, under their old and new names: the keys that change no embedding in fp32
    "model": ("model_args", "model_kwargs"),
    "tokenizer": ("tokenizer_args", "processor_kwargs"),
    "config": ("config_args", "config_kwargs"),
}
_WITHOUT_EFFECT = {
    "model": {"attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype", "use_safetensors"},
    "tokenizer": {"model_max_length", "use_fast"},
    "config": {"use_cache"},
}
# What each kind of encoder takes from a transformer: of each modality the method and its output, and what that is
# called; and which models have it so.
_OUTPUTS: dict[str, tuple[dict[str, tuple[str, str]], str, str]] = {
    "text": (
        {"text": ("forward", "last_hidden_state")},
        "token_embeddings",
        "Use a model of texts alone, without a chat template, whose pooling takes the last hidden states.",
    ),
    "image": (
        {"image": ("forward", "last_hidden_state")},
        "token_embeddings",
        "Use a model of images alone, whose pooling takes the last hidden states.",
    ),
    "text_image": (
        {"text": ("get_text_features", "pooler_output"), "image": ("get_image_features", "pooler_output")},
        "sentence_embedding",
        "Use a model whose two towers embed texts and images by get_text_features and get_image_features.",
    ),
}


@dataclass(frozen=True)
class ModelSettings:
    """What `config_sentence_transformers.json` says.

    `similarity` is the function that embeddings are compared by, `truncate_dim` how many of their numbers are used;
    `kept` are keys that are saved again as they are.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def default_prompt(self) -> str:
        """What every text begins with if nothing else is asked for."""
        return self.prompts.get(self.default_prompt_name or "", "")


@dataclass(frozen=True)
class TransformerSettings:
    """What `sentence_bert_config.json` says: cut to how many tokens, in lower case; `kept` is saved again as it is."""

    max_length: int | None = None
    lower_case: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)


def read_model_settings(folder: Path, pairs: bool = False) -> ModelSettings:
    """Read `config_sentence_transformers.json`, of a cross-encoder if it is to score `pairs`.

    Raises:
        ModelError: it says what cannot be honoured.
    """
    path = folder / MODEL_FILE
    found = read_json(path)
    model_type = found.get("model_type") or "SentenceTransformer"
    is_scorer = pairs and model_type == "CrossEncoder"
    if model_type != "SentenceTransformer" and not is_scorer:
        other = ", or model=cross_encoder for this one" if model_type == "CrossEncoder" else ""
        raise refused(path, "model_type", model_type, f"Use a SentenceTransformer model{other}.")
    check_keys(path, found, {*_MODEL_KEYS, *(_CROSS_ENCODER_KEYS if is_scorer else ())})
    _check_similarity(path, found.get("similarity_fn_name"))
    _check_requirements(path, found.get("requirements"))
    prompts = _prompts(path, found.get("prompts") or {})
    default = found.get("default_prompt_name")
    if default is not None and default not in ("query", "document", *prompts):
        raise refused(path, "default_prompt_name", default, f"Name one of its prompts: {', '.join(prompts) or 'none'}.")
    truncate = count(path, "truncate_dim", found.get("truncate_dim"))
    kept = {key: found[key] for key in ("requirements", *_CROSS_ENCODER_KEYS) if found.get(key)}
    return ModelSettings(prompts, default, found.get("similarity_fn_name"), truncate, kept)


def _prompts(path: Path, found: Mapping[str, Any]) -> dict[str, str]:
    for name, text in found.items():
        if text is not None and not isinstance(text, str):
            raise refused(path, f"prompts.{name}", text, "Write a text, or null for no prompt.")
    return {name: text or "" for name, text in found.items()}


def _check_similarity(path: Path, name: object) -> None:
    if name is not None and name not in _SIMILARITIES:
        raise refused(path, "similarity_fn_name", name, f"Supported are {', '.join(_SIMILARITIES)}.")


def _check_requirements(path: Path, requirements: Any) -> None:
    """Check the versions that a model asks for, of packages that are used here."""
    from packaging.specifiers import SpecifierSet

    for package, asked in (requirements or {}).items():
        specifier = asked.get("specifier", "") if isinstance(asked, dict) else asked
        there = _version(package.replace("_", "-").lower())
        if there is not None and not SpecifierSet(specifier).contains(there, prereleases=True):
            what = f"{path}: the model requires {package}{specifier}, and this is {package} {there}."
            raise ModelError(what, f"Install a version that fits, or remove {package!r} from 'requirements'.")


def _version(package: str) -> str | None:
    """Return which version of a package a folder is read with, None if it is not used."""
    from importlib.metadata import PackageNotFoundError, version

    if package == "python":
        return platform.python_version()
    if package == "sentence-transformers":
        return FORMAT
    try:
        return version("torch" if package == "pytorch" else package)
    except PackageNotFoundError:
        return None


def read_transformer_settings(folder: Path, use: str) -> TransformerSettings:
    """Read the `sentence_bert_config.json` of a transformer module in `folder`, for an encoder of kind `use`.

    Raises:
        ModelError: it says what cannot be honoured.
    """
    path, found = folder / TRANSFORMER_FILES[0], {}
    for name in TRANSFORMER_FILES:
        if found := read_json(folder / name):
            path = folder / name
            break
    arguments = {spelling: kind for kind, spellings in _ARGUMENTS.items() for spelling in spellings}
    # None is the default of what a newer version writes only where it is used (query_length, query_expansion, ...).
    check_keys(path, {k: v for k, v in found.items() if v is not None}, _TRANSFORMER_KEYS | set(arguments))
    for key in arguments.keys() & found.keys():
        _check_arguments(path, key, found[key] or {}, _WITHOUT_EFFECT[arguments[key]])
    _check_outputs(path, found, use)
    lengths = [count(path, "max_seq_length", found.get("max_seq_length"))]
    lengths += [_tokenizer_length(path, found.get(key) or {}, f"{key}.") for key in arguments]
    tokenizer = folder / "tokenizer_config.json"  # where sentence-transformers keeps the length since 5.4
    lengths.append(_tokenizer_length(tokenizer, read_json(tokenizer)))
    lower_case = flag(path, "do_lower_case", found.get("do_lower_case"))
    kept = {}
    if found.get("unpad_inputs") is not None:
        kept["unpad_inputs"] = flag(path, "unpad_inputs", found["unpad_inputs"])
    return TransformerSettings(next(filter(None, lengths), None), lower_case, kept)


def _tokenizer_length(path: Path, found: Mapping[str, Any], prefix: str = "") -> int | None:
    """Return where the settings of a tokenizer say that it cuts texts, None if they set no limit."""
    length = found.get("model_max_length")
    # Without a limit transformers writes a number longer than any text, which other tools round to a float.
    if (is_int(length) or isinstance(length, float)) and length >= _NO_LIMIT:
        return None
    return count(path, f"{prefix}model_max_length", length)


def _check_arguments(path: Path, key: str, found: Mapping[str, Any], without_effect: Collection[str]) -> None:
    for name, value in found.items():
        if name not in without_effect and name != "trust_remote_code":  # which sentence-transformers ignores too
            raise refused(path, f"{key}.{name}", value, "Use another model, or remove it.")


def _check_outputs(path: Path, found: Mapping[str, Any], use: str) -> None:
    """Check that the module is asked for what this kind of encoder takes from a transformer."""
    task = found.get("transformer_task", "feature-extraction")
    wanted = {"feature-extraction", "sequence-classification"} if use == "pairs" else {"feature-extraction"}
    if task not in wanted:
        raise refused(path, "transformer_task", task, f"Supported: {', '.join(sorted(wanted))}.")
    processing = found.get("processing_kwargs") or {}
    # SigLIP's texts are filled up to one length, which its encoder does by itself.
    filled = (
        use == "text_image" and set(processing) == {"text"} and set(processing["text"]) <= {"padding", "max_length"}
    )
    if processing and not filled:
        raise refused(path, "processing_kwargs", processing, "Use another model, or remove it.")
    modalities = found.get("modality_config")
    if modalities is None or use == "pairs":
        return
    expected, output, instead = _OUTPUTS[use]
    for key, value in modalities.items():
        if expected.get(key) != (value.get("method"), value.get("method_output_name")):
            raise refused(path, "modality_config", {key: value}, instead)
    if found.get("module_output_name") != output:
        raise refused(path, "module_output_name", found.get("module_output_name"), instead)

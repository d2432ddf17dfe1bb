"""The modules of sentence-transformers, by the full dotted type that a `modules.json` names.

A type is one of exactly these spellings, old and new, or it is another library's class, however it is called.
"""

from __future__ import annotations

from finetune.errors import ModelError

_BASE, _DENSE = "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules"
_OLD = "sentence_transformers.models"  # before 5.4; later versions read it as an alias

# Where each module that can be trained is defined, in sentence-transformers 6.
_DEFINED = {
    "Transformer": f"{_BASE}.transformer",
    "CLIPModel": f"{_DENSE}.clip_model",
    "StaticEmbedding": f"{_DENSE}.static_embedding",
    "Pooling": f"{_DENSE}.pooling",
    "Dense": f"{_BASE}.dense",
    "LayerNorm": f"{_DENSE}.layer_norm",
    "Dropout": f"{_DENSE}.dropout",
    "Normalize": f"{_BASE}.normalize",
}
_MOVED = {f"{_DENSE}.normalize.Normalize": "Normalize"}  # where 5.4 to 5.6 had it


def _spellings(name: str, place: str) -> list[str]:
    package = place.rpartition(".")[0]
    return [f"{place}.{name}", f"{package}.{name}", f"{_DENSE}.{name}", f"{_OLD}.{name}", f"{_OLD}.{name}.{name}"]


TYPES = {spelling: name for name, place in _DEFINED.items() for spelling in _spellings(name, place)} | _MOVED


def module_kind(dotted: str, folder: object) -> str:
    """Return which of the modules that can be trained a dotted type names, such as `Dense`.

    Raises:
        ModelError: it is none of them.
    """
    if kind := TYPES.get(dotted):
        return kind
    if dotted.startswith("sentence_transformers."):
        raise ModelError(
            f"model.name={folder}: its module {dotted} cannot be trained.",
            f"Use a model made of these modules of sentence-transformers: {', '.join(_DEFINED)}.",
        )
    raise ModelError(
        f"model.name={folder}: its module {dotted} is code from outside sentence-transformers, which is never run.",
        f"Use a model made of these modules of sentence-transformers: {', '.join(_DEFINED)}.",
    )


def written_type(kind: str) -> str:
    """Return the type to save a module under: the one that every sentence-transformers since 2.0 reads."""
    return f"{_OLD}.{kind}"

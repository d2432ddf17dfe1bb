"""Builds what the settings name: retrievers and the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.items import Items
from finetune.mining.bm25 import BM25
from finetune.mining.cached import CachedJudge, CachedRetriever, ModelVectors, digest_of_texts
from finetune.mining.dense import Dense, approximate
from finetune.mining.judge import CrossEncoderJudge, PairJudge
from finetune.mining.retriever import Retriever
from finetune.mining.settings import BM25 as BY_WORDS
from finetune.mining.settings import OWN, Judge, Mining


def build_retrievers(
    settings: Mining, items: Items, own: Retriever | None, prompts: Sequence[str] = (), device: Any = None
) -> list[Retriever]:
    """Return the retrievers that the settings name; `own` is that of the model itself, if it is among them.

    `prompts` are those that texts of the data begin with; without any, models put their own in front.

    Raises:
        ModelError: a model cannot be loaded, or does not embed texts.
    """
    found: list[Retriever] = []
    for name in settings.retrievers:
        if name == OWN:
            assert own is not None
            found.append(own)
        elif name == BY_WORDS:
            identity = ("bm25", digest_of_texts(items.texts), *prompts)
            found.append(CachedRetriever(BM25(items, prompts), identity))
        else:
            found.append(model_retriever(name, name, settings, items, prompts, device))
    return found


def model_retriever(
    model: str, name: str, settings: Mining, items: Items, prompts: Sequence[str] = (), device: Any = None
) -> Retriever:
    """Return the retriever of a model that is on disk (a run, a folder, a hub id), which `name` shows.

    Raises:
        ModelError: it cannot be loaded, does not embed texts, or compares by a distance.
    """
    from finetune.errors import ModelError
    from finetune.inference.load import get_model

    loaded = get_model(model, device=device)
    if loaded.scores_pairs:
        raise ModelError(f"{model} scores pairs of texts and makes no embeddings.", "Name a model that embeds texts.")
    if loaded.similarity_function not in ("cosine", "dot"):
        what = f"{model} compares by the {loaded.similarity_function} distance."
        raise ModelError(what, "Mine with a model that compares by cosine or dot product.")
    vectors = ModelVectors(loaded, items, own_prompts=not any(prompts))
    search = approximate if settings.index == "usearch" else None
    identity = (loaded.digest, settings.index, str(loaded.device), digest_of_texts(items.texts), *prompts)
    return CachedRetriever(Dense(vectors, name, search), identity)


def build_judge(judge: Judge, items: Items, prompts: Sequence[str] = (), device: Any = None) -> PairJudge | None:
    """Return the judge that the settings name, None for none.

    Raises:
        ModelError: it cannot be loaded, or scores no pairs.
    """
    if judge.model is None:
        return None
    if judge.endpoint is not None:
        from finetune.mining.endpoint import EndpointJudge

        identity = ("endpoint", judge.endpoint, judge.model, judge.prompt, *prompts)
        return CachedJudge(EndpointJudge(judge, items, prompts), items, identity)
    from finetune.inference.load import get_model

    model = get_model(judge.model, device=device)
    identity = ("cross-encoder", model.digest, str(model.device), *prompts)
    return CachedJudge(CrossEncoderJudge(model, items, prompts), items, identity)

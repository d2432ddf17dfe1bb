"""Callbacks that do not fit each other, or what the run has: one sentence each, before anything is loaded."""

import pytest

from finetune.config.check import check
from finetune.errors import CheckFailed


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("callbacks=best", "callbacks=default, which is not selected"),
        ("callbacks=best", "Write 'callbacks=[default,evaluate,best]'."),
        ("callbacks=[evaluate,best]", "Write 'callbacks=[default,evaluate,best]'."),
        ("callbacks=[default,early_stopping]", "callbacks.early_stopping: it needs evaluations during training, and"),
        ("callbacks=[default,best]", "callbacks.checkpoint: it needs evaluations during training, and there are none"),
        ("callbacks=[default,evaluate] evaluation=none", "callbacks.evaluate: there is no evaluation"),
        (
            "callbacks=[default,evaluate] evaluation=mteb evaluation.mteb.tasks=[SciFact]",
            "Set evaluation.mteb.during_training=true, or leave it out.",
        ),
        ("callbacks=[default,wise_ft] evaluation=none", "callbacks.wise_ft: there is no evaluation"),
        ("callbacks=[default,wise_ft] tuning=lora", "callbacks.wise_ft: it interpolates the weights"),
        ("callbacks=[default,interpolate] tuning=lora", "callbacks.interpolate: it interpolates the weights"),
        (
            "callbacks.checkpoint.restore_best=true",
            "callbacks.checkpoint.restore_best: the best checkpoint is not kept",
        ),
        (
            "callbacks=[default,evaluate,best] callbacks.checkpoint.metric=search/nDCG@10",
            "callbacks.checkpoint.metric: 'search/nDCG@10' is not a metric of an evaluation of this run.",
        ),
        ("+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping", "EarlyStopping does not work here"),
        ("callbacks=[default,average] callbacks.average.decay=1", "expected a number of at least 0 and below 1"),
        ("callbacks=[default,wise_ft] callbacks.wise_ft.alphas=[1.5]", "callbacks.wise_ft.alphas"),
    ],
)
def test_one_sentence_says_what_does_not_fit(overrides, sentence):
    with pytest.raises(CheckFailed) as refused:
        check(overrides.split())
    (problem,) = refused.value.problems
    assert sentence in str(problem)


@pytest.mark.parametrize(
    "overrides",
    [
        "callbacks=[default,evaluate,best,early_stopping,average,device_stats,samples] tuning=lora",
        "callbacks=[default,wise_ft]",
        "callbacks=[default,interpolate] evaluation=none",
        "callbacks=[default,evaluate,best] callbacks.checkpoint.metric=average/retrieval/recall@10",
        "callbacks=none",
    ],
)
def test_values_that_fit_pass(overrides):
    check(overrides.split())

"""Lightning's Trainer: which of its arguments a config may set, and what to use in place of the others.

Each argument of the Trainer is in exactly one of the two tables, which a test checks against the installed Lightning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from finetune.config.types import (
    CountFromZero,
    Duration,
    NotNegative,
    PositiveFraction,
    PositiveInt,
)

_Units = Literal["weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds"]

# The supported arguments with their types; Lightning's own annotations say too little.
SUPPORTED: dict[str, Any] = {
    "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "strategy": Literal["auto", "ddp", "fsdp"],
    "devices": PositiveInt | list[CountFromZero] | Literal["auto", -1],
    "num_nodes": PositiveInt | Literal["auto"],
    "precision": Literal[
        "auto",
        "32-true",
        "bf16-mixed",
        "bf16-true",
        "16-mixed",
        "16-true",
        "64-true",
        "32",
        "16",
        "64",
        "bf16",
        32,
        16,
        64,
    ]
    | None,
    "max_epochs": PositiveInt | Literal["auto", -1] | None,
    "min_epochs": CountFromZero | None,
    "max_steps": PositiveInt | Literal[-1],
    "min_steps": CountFromZero | None,
    "max_time": Annotated[str, Duration("DD:HH:MM:SS (in a file with quotes)")]
    | Annotated[dict[_Units, float], Duration("{hours: 12}")]
    | None,
    # Lightning: a whole number counts batches, a fraction is a share of them.
    "limit_train_batches": PositiveInt | PositiveFraction | None,
    "log_every_n_steps": PositiveInt | None,
    "accumulate_grad_batches": PositiveInt,
    "gradient_clip_val": NotNegative | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "deterministic": bool | Literal["warn"] | None,
    "benchmark": bool | None,
    "profiler": Literal["simple", "advanced", "pytorch"] | None,
    "detect_anomaly": bool,
}

_NO_VALIDATION = "a run has no validation, test or predict loop of Lightning's"
_EVALUATE = "Evaluate during training with callbacks=[default,evaluate] callbacks.evaluate.every_n_steps=100."

# The others: why a run does not take them, and what to use instead.
REFUSED: dict[str, tuple[str, str]] = {
    "logger": ("loggers are a group of the config", "Choose them with logger=..., as in logger=[default,tensorboard]."),
    "callbacks": (
        "callbacks are a group of the config",
        "Choose them with callbacks=..., as in callbacks=[default,evaluate].",
    ),
    "plugins": (
        "the run sets the plugins, which save checkpoints atomically and connect its processes",
        "Set trainer.precision or trainer.strategy.",
    ),
    "default_root_dir": ("all files of a run are in its run directory", "Set output_root=..., or name=..."),
    "enable_checkpointing": (
        "checkpoints are saved by callbacks.checkpoint",
        "~callbacks.checkpoint removes it; callbacks.checkpoint.every_n_steps sets how often.",
    ),
    "enable_progress_bar": ("progress is shown by callbacks.progress", "~callbacks.progress removes it."),
    "enable_model_summary": (
        "Lightning's summary of the model is not among what a run prints",
        "+callbacks.summary._target_=pytorch_lightning.callbacks.RichModelSummary prints one.",
    ),
    "enable_autolog_hparams": (
        "the run records the whole config in config.yaml, and trackers get it from there",
        "Choose what is logged with logger=...",
    ),
    "fast_dev_run": (
        "it would disable the loggers and the limits of the run",
        "Use debug=tiny, which takes five steps on a few rows; check=true only checks the config and the data.",
    ),
    "overfit_batches": (
        "batches are drawn again in every epoch, so that these would not be the same ones",
        "Use debug=overfit, or data.limit=64, which take the same pairs in every epoch.",
    ),
    "barebones": (
        "it would disable the callbacks and loggers that a run consists of",
        "Use debug=profile to see where the time goes, or callbacks=none.",
    ),
    "limit_val_batches": (_NO_VALIDATION, "Set data.validation_fraction, or evaluation=none for no evaluation."),
    "limit_test_batches": (_NO_VALIDATION, "Set data.validation_fraction, or evaluation=none for no evaluation."),
    "limit_predict_batches": (_NO_VALIDATION, "Embed texts with the saved model."),
    "val_check_interval": (_NO_VALIDATION, _EVALUATE),
    "check_val_every_n_epoch": (_NO_VALIDATION, _EVALUATE),
    "num_sanity_val_steps": (
        "the whole evaluation runs once before the training, and is its sanity check",
        "Leave it out.",
    ),
    "inference_mode": (_NO_VALIDATION, "Leave it out: an evaluation never computes gradients."),
    "use_distributed_sampler": (
        "all processes get the same batch, and each computes its share of it",
        "Leave it out; trainer.devices sets how many processes there are.",
    ),
    "sync_batchnorm": (
        "each process computes micro-batches of its own, whose statistics cannot be synchronized",
        "Use trainer.devices=1, or a model without batch normalization.",
    ),
    "reload_dataloaders_every_n_epochs": (
        "the data is read once, and the batches of each epoch are drawn again from it",
        "Leave it out; start another run to train on data that has changed.",
    ),
    "model_registry": (
        "a run resumes from its own checkpoints only",
        "Use resume=PATH, or model.name=PATH to start from a model.",
    ),
}

"""Rules of the config: its groups, its top-level keys, and bounds that third-party annotations do not state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from finetune.config import trainer
from finetune.config.types import (
    BelowOne,
    CountFromZero,
    FolderName,
    Fraction,
    NotEmptyText,
    NotNegative,
    Positive,
    PositiveFraction,
    PositiveInt,
    Range,
)

# The run directory is offered to whatever has a parameter of one of these names.
_DIRECTORIES = frozenset({"directory", "save_dir"})

# Classes of pytorch-metric-learning, and the components they take as arguments.
_LOSSES, _MINERS = "pytorch_metric_learning.losses", "pytorch_metric_learning.miners"
_PARTS = tuple(f"pytorch_metric_learning.{part}" for part in ("distances", "reducers", "regularizers"))

# Metrics that an evaluation may compute; other parts of torchmetrics download models.
_METRICS = tuple(f"torchmetrics.{part}" for part in ("retrieval", "regression", "classification", "clustering"))


@dataclass(frozen=True)
class Group:
    """What one group of the config may build.

    `prefixes`: dotted names below which a target must be defined. A `named` group holds any number of nodes, each with
    a name; an `optional` one may be empty. `given` arguments always come from the run, `offered` ones if the target has
    such a parameter and the config does not set it. `refused` arguments cannot be set; each has a reason and an
    alternative. If `supported` is not empty, only these can be set.
    """

    prefixes: tuple[str, ...]
    named: bool = False
    optional: bool = False
    given: frozenset[str] = frozenset()
    offered: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    supported: frozenset[str] = frozenset()

    def refusal(self, name: str) -> tuple[str, str] | None:
        """Return why an existing argument cannot be set, and an alternative; None if it can be set."""
        if name in self.given:
            return "this is set by the run itself.", "Leave it out."
        if name in self.refused:
            why, instead = self.refused[name]
            return f"a run does not take this: {why}.", instead
        if self.supported and name not in self.supported:
            return "a run does not support this argument.", "Leave it out."
        return None


GROUPS: dict[str, Group] = {
    "model": Group(("finetune.models",)),
    "tuning": Group(("finetune.models.tuning",)),
    "data": Group(("finetune.data",)),
    "loss": Group(("finetune.losses", _LOSSES, *_PARTS)),
    "miner": Group((_MINERS, *_PARTS), optional=True),
    "negatives": Group(("finetune.mining.settings",), optional=True),
    "engine": Group(("finetune.encoding.engine",)),
    "optimizer": Group(
        ("torch.optim", "finetune.training"), given=frozenset({"params"}), offered=frozenset({"hidden"})
    ),
    "scheduler": Group(("finetune.training.schedules",)),
    "trainer": Group(
        # The first is the name to use, the second where it is defined.
        ("pytorch_lightning.Trainer", "pytorch_lightning.trainer.trainer.Trainer"),
        supported=frozenset(trainer.SUPPORTED),
        refused=trainer.REFUSED,
    ),
    "callbacks": Group(
        ("finetune.training.callbacks", "pytorch_lightning.callbacks"),
        named=True,
        offered=_DIRECTORIES | {"evaluator"},  # the evaluator that callbacks use during training
    ),
    "logger": Group(("finetune.training.loggers", "pytorch_lightning.loggers"), named=True, offered=_DIRECTORIES),
    "evaluation": Group(("finetune.evaluation", "finetune.metrics", *_METRICS), named=True),
    # Also what hydra.sweeper builds, with sampler and pruner inside, and hydra.launcher.
    "sweep": Group(
        (
            *("finetune.sweep.settings", "finetune.preflight.slurm"),
            *("optuna.samplers", "optuna.pruners"),
        )
    ),
}

# Top-level keys; train.yaml documents them.
KEYS: dict[str, Any] = {
    "experiment": Annotated[str, FolderName()],
    "name": Annotated[str, FolderName()] | None,
    "output_root": NotEmptyText,
    "seed": Annotated[int, Range(at_least=0, at_most=2**32 - 1)],
    "resume": NotEmptyText | bool,  # a bool is refused with advice, see cross_checks.py
    "collective_timeout": Positive,
    "check": bool,
    "dry_run": bool,
}

# Optional packages, and the extra of finetune that installs each.
EXTRAS = {"pytorch_metric_learning": "metric", "optuna": "optuna"}

# Classes that a run cannot use: the reason and an alternative, by the name under which each is defined.
_ITSELF, _ABSTRACT = "the run does this itself", "it is a base class"
_AVERAGE, _OURS = "a run neither evaluates nor saves its average", "callbacks=[default,average]"
INSTEAD: dict[str, tuple[str, str]] = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": (
        _ITSELF,
        "callbacks.checkpoint, which resumes exactly",
    ),
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": (
        "it needs Lightning's validation loop, which a run does not use",
        "callbacks=[default,evaluate,early_stopping]",
    ),
    "pytorch_lightning.callbacks.timer.Timer": (
        _ITSELF,
        "trainer.max_time=00:12:00:00, which saves a checkpoint",
    ),
    "pytorch_lightning.callbacks.weight_averaging.WeightAveraging": (_AVERAGE, _OURS),
    "pytorch_lightning.callbacks.weight_averaging.EMAWeightAveraging": (_AVERAGE, _OURS),
    "pytorch_lightning.callbacks.stochastic_weight_avg.StochasticWeightAveraging": (_AVERAGE, _OURS),
    f"{_LOSSES}.cross_batch_memory.CrossBatchMemory": (_ITSELF, "the loss inside, with loss.memory=1024"),
    f"{_LOSSES}.multiple_losses.MultipleLosses": (_ITSELF, "loss=sum, with the losses inside"),
    f"{_LOSSES}.self_supervised_loss.SelfSupervisedLoss": (_ITSELF, "the loss inside, which learns from pairs"),
    f"{_LOSSES}.base_loss_wrapper.BaseLossWrapper": (_ABSTRACT, "one of those: `finetune losses`"),
    f"{_LOSSES}.base_metric_loss_function.BaseMetricLossFunction": (_ABSTRACT, "one of those: `finetune losses`"),
    f"{_LOSSES}.generic_pair_loss.GenericPairLoss": (_ABSTRACT, "one of those: `finetune losses`"),
    f"{_LOSSES}.mixins.EmbeddingRegularizerMixin": (_ABSTRACT, "one of those: `finetune losses`"),
    f"{_LOSSES}.mixins.WeightRegularizerMixin": (_ABSTRACT, "one of those: `finetune losses`"),
    f"{_MINERS}.base_miner.BaseMiner": (_ABSTRACT, "one of those: `finetune miners`"),
    f"{_MINERS}.embeddings_already_packaged_as_triplets.EmbeddingsAlreadyPackagedAsTriplets": (
        "each item of a batch is encoded once",
        "loss=triplet loss.negatives=given",
    ),
    "torch.optim.lbfgs.LBFGS": (
        "it computes the loss of a step several times and does not support parameter groups",
        "optimizer=adamw",
    ),
    "torch.optim.sparse_adam.SparseAdam": (
        "it supports sparse gradients only, and those of an encoder are dense",
        "optimizer=adam",
    ),
    "torch.optim._muon.Muon": (
        "it supports matrices only, and an encoder also has vectors",
        "optimizer=muon, which uses AdamW for the rest",
    ),
}

# Required arguments that the run provides if a config does not, anywhere inside a loss: by the dotted prefix of the
# target, with the fact of the run that each one is.
FILLED: dict[str, dict[str, str]] = {
    "finetune.losses.metric_learning": {"miner": "miner", "classes": "classes", "width": "width"},
    _LOSSES: {
        "num_classes": "class_count",
        "embedding_size": "width",
        "descriptors_dim": "width",
        "l": "width",
    },
}

# Types of arguments whose own annotations are too general, by the dotted prefix of the target.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "pytorch_lightning.trainer.trainer.Trainer": trainer.SUPPORTED,
    # The first matching prefix is used.
    "torch.optim._adafactor": {"eps": tuple[Positive | None, Positive]},
    "torch.optim": {
        "lr": PositiveFraction,
        "lr_decay": NotNegative,
        "weight_decay": NotNegative,
        "betas": tuple[BelowOne, BelowOne],
        "eps": Positive,
        "momentum": BelowOne,
        "momentum_decay": NotNegative,
        "dampening": NotNegative,
        "alpha": BelowOne,
        "rho": BelowOne,
        "initial_accumulator_value": NotNegative,
        "beta2_decay": Annotated[float, Range(at_most=0)],
        "d": Annotated[float, Range(at_least=1)],
        "lambd": NotNegative,
        "t0": Positive,
        "etas": tuple[Annotated[float, Range(above=0, below=1)], Annotated[float, Range(above=1)]],
        "step_sizes": tuple[Positive, Positive],
        "maximize": Literal[False],  # it would make the loss larger
        "foreach": bool | None,
        "fused": bool | None,
    },
    "torchmetrics.retrieval": {"top_k": PositiveInt | None, "max_k": PositiveInt | None},
    "optuna.samplers": {"seed": CountFromZero | None, "n_startup_trials": CountFromZero},
    "optuna.pruners": {
        **dict.fromkeys(("n_startup_trials", "n_warmup_steps"), CountFromZero),
        **dict.fromkeys(("interval_steps", "n_min_trials", "min_resource"), PositiveInt),
        "max_resource": PositiveInt | Literal["auto"],
        "reduction_factor": Annotated[int, Range(at_least=2)],
    },
    _LOSSES: {
        "num_classes": PositiveInt | None,
        **dict.fromkeys(("embedding_size", "descriptors_dim", "l", "sub_centers", "centers_per_class"), PositiveInt),
        **dict.fromkeys(("margin", "pos_margin", "neg_margin", "beta", "base", "m", "nu", "Tp", "Tn"), float),
        **dict.fromkeys(("scale", "temperature", "gamma", "la", "softmax_scale", "eps"), Positive),
        "n_bins": PositiveInt | None,
        "num_bins": PositiveInt,
        "imbalance": Fraction,
        "triplets_per_anchor": PositiveInt | Literal["all"],
        "variant": Literal["Ds", "Dq", "Iu", "Ib", "O"],
        **dict.fromkeys(("swap", "smooth_loss", "learn_beta"), bool),
    },
    _MINERS: {
        **dict.fromkeys(("margin", "pos_margin", "neg_margin", "epsilon", "angle", "cutoff"), float),
        **dict.fromkeys(("pos_strategy", "neg_strategy"), Literal["hard", "semihard", "easy", "all"]),
        "type_of_triplets": Literal["all", "hard", "semihard", "easy"],
        "filter_percentage": Annotated[float, Range(above=0, at_most=1)],
        **dict.fromkeys(("num_bins", "pos_per_bin", "neg_per_bin"), PositiveInt),
    },
}

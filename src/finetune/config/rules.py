"""What a config may hold: its groups, its own keys, and bounds that third-party annotations leave out."""

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

# pytorch-metric-learning's, and what they are put together from.
_LOSSES, _MINERS = "pytorch_metric_learning.losses", "pytorch_metric_learning.miners"
_PARTS = tuple(f"pytorch_metric_learning.{part}" for part in ("distances", "reducers", "regularizers"))


@dataclass(frozen=True)
class Group:
    """What one group of the config may build.

    `prefixes` are the dotted names under which it must be defined. A `named` group holds any number of
    nodes, each under a name; an `optional` one may be empty. `given` arguments always come from the run,
    `offered` ones when a node wants them and the config has none. `refused` arguments cannot be set, for a reason and
    with an alternative; where `supported` is not empty, no others than these can.
    """

    prefixes: tuple[str, ...]
    named: bool = False
    optional: bool = False
    given: frozenset[str] = frozenset()
    offered: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    supported: frozenset[str] = frozenset()

    def refusal(self, name: str) -> tuple[str, str] | None:
        """Return why an argument that exists cannot be set, and what to use instead; `None` if it can be set."""
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
    "engine": Group(("finetune.encoding.engine",)),
    "optimizer": Group(
        ("torch.optim", "finetune.training"), given=frozenset({"params"}), offered=frozenset({"hidden"})
    ),
    "scheduler": Group(("finetune.training.schedules",)),
    "trainer": Group(
        # The first is the name to write, the second where it is defined.
        ("pytorch_lightning.Trainer", "pytorch_lightning.trainer.trainer.Trainer"),
        supported=frozenset(trainer.SUPPORTED),
        refused=trainer.REFUSED,
    ),
    "callbacks": Group(
        ("finetune.training.callbacks", "pytorch_lightning.callbacks"),
        named=True,
        offered=_DIRECTORIES | {"evaluator"},  # training/in_training_evaluator.py
    ),
    "logger": Group(("finetune.training.loggers", "pytorch_lightning.loggers"), named=True, offered=_DIRECTORIES),
    "evaluation": Group(("finetune.evaluation",), named=True),
    # Also what hydra.sweeper builds, with sampler and pruner inside, and hydra.launcher.
    "sweep": Group(
        (
            *("finetune.sweep.settings", "finetune.preflight.slurm"),
            *("optuna.samplers", "optuna.pruners"),
        )
    ),
}

# Keys beside the groups; train.yaml says what each is for.
KEYS: dict[str, Any] = {
    "experiment": Annotated[str, FolderName()],
    "name": Annotated[str, FolderName()] | None,
    "output_root": NotEmptyText,
    "seed": Annotated[int, Range(at_least=0, at_most=2**32 - 1)],
    "resume": NotEmptyText | bool,  # a bool is refused where it can be said what is meant, see relations.py
    "check": bool,
    "dry_run": bool,
}

# Packages that come with an extra of this one.
EXTRAS = {"pytorch_metric_learning": "metric", "optuna": "optuna"}

# Modules that have been renamed, for configs written before.
MOVED = {
    "finetune.losses.scored": "finetune.losses.pairwise_scores",
    "finetune.evaluation.labels": "finetune.evaluation.classification",
    "finetune.training.engine": "finetune.encoding.engine",
    "finetune.launch.sweep_settings": "finetune.sweep.settings",
    "finetune.launch.slurm.settings": "finetune.preflight.slurm",
}

# What a group could build and a run cannot use: by where it is defined, why, and what to use.
_ITSELF, _ABSTRACT = "the run does this itself", "it is only what others are built on"
_AVERAGE, _OURS = "what it averages is neither evaluated nor saved by a run", "callbacks=[default,average]"
INSTEAD: dict[str, tuple[str, str]] = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": (
        _ITSELF,
        "callbacks.checkpoint, which resumes exactly",
    ),
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": (
        "it waits for a validation loop, which a run does not have",
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
        "each item is encoded once, wherever it stands",
        "loss=triplet loss.negatives=given",
    ),
    "torch.optim.lbfgs.LBFGS": (
        "it computes the loss of a step several times and knows no groups of weights",
        "optimizer=adamw",
    ),
    "torch.optim.sparse_adam.SparseAdam": (
        "it takes sparse gradients only, and those of an encoder are dense",
        "optimizer=adam",
    ),
    "torch.optim._muon.Muon": (
        "it takes matrices only, and an encoder has vectors too",
        "optimizer=muon, which leaves the rest to AdamW",
    ),
}

# Arguments that have to be there and that the run says where a config does not, wherever in a loss: by the dotted
# prefix of what is built, and which fact of the run each is.
FILLED: dict[str, dict[str, str]] = {
    "finetune.losses.metric_learning": {"miner": "miner", "classes": "classes", "width": "width"},
    _LOSSES: {
        "num_classes": "class_count",
        "embedding_size": "width",
        "descriptors_dim": "width",
        "l": "width",
    },
}

# Arguments whose own annotation says too little, by the dotted prefix of what is built.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "pytorch_lightning.trainer.trainer.Trainer": trainer.SUPPORTED,
    # Of several prefixes the first counts.
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

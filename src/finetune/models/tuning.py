"""Which parameters of an encoder are trained, and with which learning rate; LoRA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from torch import nn

from finetune.config.suggest import did_you_mean
from finetune.config.types import CountFromZero, Fraction, Positive, PositiveInt, Range
from finetune.errors import FinetuneError, ModelError, first_line
from finetune.models.backbone import layers_of
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder


@dataclass(frozen=True)
class Tuning:
    """Trains all parameters, except those frozen by name (`freeze`) or by layer (`freeze_layers`, from the input on).

    `layer_decay` multiplies the learning rate from each layer to the one below it (Clark et al. 2020,
    https://arxiv.org/abs/2003.10555). `gradient_checkpointing` keeps only the inputs of each layer for the backward
    pass, and recomputes the rest.

    Raises:
        ModelError: a pattern matches nothing, there are fewer layers, or no parameter is left to train.
    """

    freeze: Sequence[str] = ()
    freeze_layers: CountFromZero = 0
    layer_decay: Annotated[float, Range(above=0, at_most=1)] = 1.0
    gradient_checkpointing: bool = False

    def apply(self, encoder: Encoder) -> None:
        """Prepare the encoder for training."""
        names = [name for name, _ in encoder.named_parameters()]
        for pattern in self.freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ModelError(
                    f"tuning.freeze: the pattern {pattern!r} matches none of the model's {len(names)} weights,"
                    f" such as {_examples(names)}.",
                    did_you_mean(pattern, names) or '* matches anything, as in "*embeddings*".',
                )
        for name, parameter in encoder.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in self.freeze):
                parameter.requires_grad_(False)
        if self.freeze_layers:
            self._freeze_layers(encoder)
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ModelError("tuning: all weights are frozen; nothing is left to train.", "Freeze fewer of them.")
        if self.gradient_checkpointing:
            _checkpoint(encoder)

    def lr_multipliers(self, encoder: Encoder) -> dict[nn.Parameter, float]:
        """Return the factor of the learning rate of each parameter where it is not 1."""
        multipliers: dict[nn.Parameter, float] = {}
        if self.layer_decay == 1:
            return multipliers
        for backbone in encoder.backbones():
            layers = layers_of(backbone, encoder.name)
            # The modules below the first layer count as one layer, and so do those above the last.
            top = len(layers) + 1
            multipliers |= dict.fromkeys(_parameters_below(backbone, layers), self.layer_decay**top)
            for depth, layer in enumerate(layers, start=1):
                multipliers |= dict.fromkeys(layer.parameters(), self.layer_decay ** (top - depth))
        return multipliers

    def merge(self, encoder: Encoder) -> None:
        """Turn the trained encoder into one with its original modules."""

    def _freeze_layers(self, encoder: Encoder) -> None:
        if not encoder.backbones():
            raise ModelError(
                "tuning.freeze_layers: this model has no layers.", "Use patterns of names in tuning.freeze."
            )
        for backbone in encoder.backbones():
            layers = layers_of(backbone, encoder.name)
            if self.freeze_layers > len(layers):
                raise ModelError(
                    f"tuning.freeze_layers={self.freeze_layers} is more than the {len(layers)} layers of"
                    f" {encoder.name}.",
                    f"Set {len(layers)} or less.",
                )
            for parameter in _parameters_below(backbone, layers):
                parameter.requires_grad_(False)
            for layer in layers[: self.freeze_layers]:
                layer.requires_grad_(False)


@dataclass(frozen=True)
class LoRA(Tuning):
    """Trains low-rank matrices next to the frozen weights of the backbone; they are merged when it is saved.

    Modules that the checkpoint did not have, such as the classifier of a new cross-encoder, are trained themselves.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; `dora` learns magnitude and direction separately (Liu et
    al. 2024, https://arxiv.org/abs/2402.09353). Implemented by PEFT.

    Raises:
        ModelError: PEFT is not installed, or `targets` match nothing.
    """

    rank: PositiveInt = 16
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | Sequence[str] = "all-linear"
    dora: bool = False

    def apply(self, encoder: Encoder) -> None:
        """Add the matrices to the encoder's backbones."""
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise FinetuneError("tuning=lora needs the package peft.", "pip install 'finetune[lora]'") from error
        if not encoder.backbones():
            raise ModelError("tuning=lora: this model has no pretrained backbone.", "Train all of it: tuning=full.")
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        for backbone in encoder.backbones():
            new = _new_parameters(backbone)
            frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
            excluded = sorted({name.rpartition(".")[0] for name in [*new, *frozen]})
            config = LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,  # type: ignore[arg-type]
                lora_dropout=self.dropout,
                target_modules=targets,
                exclude_modules=excluded,
                use_dora=self.dora,
            )
            try:
                with warnings.catch_warnings():  # PEFT's own imports of other packages
                    warnings.simplefilter("ignore")
                    get_peft_model(backbone, config)
            except ValueError as error:
                names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
                raise ModelError(
                    f"tuning.targets={targets}: {first_line(error)}",
                    f"The linear layers have names such as {_examples(names)}; their last part is enough.",
                ) from error
            for name in new:
                backbone.get_parameter(name).requires_grad_(True)
            replace_dropout(backbone)
        super().apply(encoder)

    def merge(self, encoder: Encoder) -> None:
        """Add the trained matrices to the weights of the backbone, and remove them."""
        from peft.tuners.lora import LoraLayer

        for backbone in encoder.backbones():
            for name, module in [*backbone.named_modules()]:
                if isinstance(module, LoraLayer):
                    module.merge()
                    parent, _, last = name.rpartition(".")
                    setattr(backbone.get_submodule(parent), last, module.get_base_layer())
            backbone.requires_grad_(True)


def _new_parameters(backbone: nn.Module) -> list[str]:
    """Return the names of the trainable parameters that the checkpoint did not have."""
    names = getattr(backbone, "newly_initialized", [])
    return [name for name in names if backbone.get_parameter(name).requires_grad]


def _parameters_below(backbone: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Parameter]:
    """Yield the parameters before the first layer, in the order in which modules are registered."""
    inside = {id(parameter) for parameter in layers.parameters()}
    for parameter in backbone.parameters():
        if id(parameter) in inside:
            return
        yield parameter


def _checkpoint(encoder: Encoder) -> None:
    backbones = [each for each in encoder.backbones() if getattr(each, "supports_gradient_checkpointing", False)]
    if not backbones:
        raise ModelError(
            "tuning.gradient_checkpointing=true: this model does not support gradient checkpointing of its layers.",
            "Leave it false; engine.activation_mb=0 recomputes whole micro-batches.",
        )
    for backbone in backbones:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})


def _examples(names: Sequence[str]) -> str:
    """Return the first name and the middle one."""
    middle = len(names) // 2
    return ", ".join([*names[:1], *names[middle : middle + 1]])

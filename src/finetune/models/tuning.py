"""Which weights of an encoder are trained, and how fast each of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from torch import nn

from finetune.config.suggest import did_you_mean
from finetune.config.types import CountFromZero, Fraction, Positive, PositiveInt, Range
from finetune.errors import FinetuneError, ModelError, first_line
from finetune.models.dropout import replace_dropout
from finetune.models.encoder import Encoder
from finetune.models.layers import layers_of


@dataclass(frozen=True)
class Tuning:
    """All weights, but those that are frozen by name (`freeze`) or by layer (`freeze_layers`, from the input on).

    `layer_decay` is what the learning rate is multiplied by from each layer to the one below it (Clark et al. 2020,
    https://arxiv.org/abs/2003.10555). `gradient_checkpointing` keeps only what goes from layer to layer, and computes
    the rest again.

    Raises:
        ModelError: a pattern matches nothing, there are not so many layers, nothing is left to train.
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
                    did_you_mean(pattern, names) or '* stands for anything, as in "*embeddings*".',
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

    def rates(self, encoder: Encoder) -> dict[nn.Parameter, float]:
        """Return what the learning rate of some weights is multiplied by; that of the others is the run's."""
        found: dict[nn.Parameter, float] = {}
        if self.layer_decay == 1:
            return found
        for backbone in encoder.backbones():
            layers = layers_of(backbone, encoder.name)
            # What is below the first layer counts as one, and so does what is above the last.
            below = self.layer_decay ** (len(layers) + 1)
            found |= dict.fromkeys(_below(backbone, layers), below)
            for depth, layer in enumerate(layers, start=1):
                rate = self.layer_decay ** (len(layers) + 1 - depth)
                found |= dict.fromkeys(layer.parameters(), rate)
        return found

    def merge(self, encoder: Encoder) -> None:
        """Make the encoder what it was built as, with what it has learnt."""

    def _freeze_layers(self, encoder: Encoder) -> None:
        if not encoder.backbones():
            raise ModelError("tuning.freeze_layers: this model has no layers.", "Name what is meant in tuning.freeze.")
        for backbone in encoder.backbones():
            layers = layers_of(backbone, encoder.name)
            if self.freeze_layers > len(layers):
                raise ModelError(
                    f"tuning.freeze_layers={self.freeze_layers} is more than the {len(layers)} layers that"
                    f" {encoder.name} has.",
                    f"Take {len(layers)} or less.",
                )
            for parameter in _below(backbone, layers):
                parameter.requires_grad_(False)
            for layer in layers[: self.freeze_layers]:
                layer.requires_grad_(False)


@dataclass(frozen=True)
class LoRA(Tuning):
    """Small matrices beside the weights of the backbone, which stay as they are; merged into them when it is saved.

    What the checkpoint did not have, as the last layer of a new cross-encoder, is trained itself.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; `dora` learns size and direction apart (Liu et al. 2024,
    https://arxiv.org/abs/2402.09353). By PEFT.

    Raises:
        ModelError: PEFT is not installed, or `targets` match nothing.
    """

    rank: PositiveInt = 16
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | Sequence[str] = "all-linear"
    dora: bool = False

    def apply(self, encoder: Encoder) -> None:
        """Put the matrices into the encoder's backbones."""
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise FinetuneError("tuning=lora needs the package peft.", "pip install 'finetune[lora]'") from error
        if not encoder.backbones():
            raise ModelError("tuning=lora: this model has no pretrained backbone.", "Train all of it: tuning=full.")
        settings: dict[str, Any] = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        for backbone in encoder.backbones():
            new = [name for name in getattr(backbone, "made_anew", ()) if backbone.get_parameter(name).requires_grad]
            fixed = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
            left_out = sorted({name.rpartition(".")[0] for name in [*new, *fixed]})
            settings |= {"target_modules": targets, "exclude_modules": left_out, "use_dora": self.dora}
            try:
                with warnings.catch_warnings():  # of what PEFT itself looks at
                    warnings.simplefilter("ignore")
                    get_peft_model(backbone, LoraConfig(**settings))
            except ValueError as error:
                names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
                raise ModelError(
                    f"tuning.targets={targets}: {first_line(error)}",
                    f"The linear layers are called such as {_examples(names)}; their last part is enough.",
                ) from error
            for name in new:
                backbone.get_parameter(name).requires_grad_(True)
            replace_dropout(backbone)
        super().apply(encoder)

    def merge(self, encoder: Encoder) -> None:
        """Add what the matrices have learnt to the weights, and take them out."""
        from peft.tuners.lora import LoraLayer

        for backbone in encoder.backbones():
            for name, module in [*backbone.named_modules()]:
                if isinstance(module, LoraLayer):
                    module.merge()
                    parent, _, last = name.rpartition(".")
                    setattr(backbone.get_submodule(parent), last, module.get_base_layer())
            backbone.requires_grad_(True)


def _below(backbone: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Parameter]:
    """Yield what comes before the first layer: the modules that are registered before the one that holds it."""
    inside = {id(parameter) for parameter in layers.parameters()}
    for parameter in backbone.parameters():
        if id(parameter) in inside:
            return
        yield parameter


def _checkpoint(encoder: Encoder) -> None:
    able = [backbone for backbone in encoder.backbones() if getattr(backbone, "supports_gradient_checkpointing", False)]
    if not able:
        raise ModelError(
            "tuning.gradient_checkpointing=true: this model cannot compute its layers again one by one.",
            "Leave it false; engine.activation_mb=0 computes whole micro-batches again.",
        )
    for backbone in able:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})


def _examples(names: Sequence[str]) -> str:
    return ", ".join([*names[:1], *names[len(names) // 2 : len(names) // 2 + 1]])

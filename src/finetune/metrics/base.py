"""The base class of all metrics that are a mean over cases."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from finetune.errors import FinetuneError


class PerCaseMetric(Metric):
    """A metric that is the mean of one value for each case: a query, a pair, an item.

    A subclass has list states, which are concatenated over the processes, and defines `values`, which returns the
    values of all cases in the states. `label` is the name of the metric in reports, by default that of the class.
    Additional keyword arguments are those of `torchmetrics.Metric`.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    label: ClassVar[str] = ""

    @abstractmethod
    def values(self) -> Tensor:
        """Return the values `(N,)` of the N cases in the states of this process."""

    def compute(self) -> Tensor:
        """Return the mean over the cases of all processes, NaN without any case."""
        return self.values().mean()

    def per_case(self) -> Tensor:
        """Return the values `(N,)` of the N cases of all processes: those of the first process first."""
        synced = self._is_synced
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute and not synced, should_unsync=not synced
        ):
            return self.values()

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; a process without any case takes part with empty states."""
        for name in self._defaults:
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                # torchmetrics would send an empty float32 tensor, whose type differs from that of the others.
                setattr(self, name, [self.to_floats([])])
        super().sync(*args, **kwargs)

    def to_floats(self, values: Any) -> Tensor:
        """Return numbers as a tensor on the metric's device: float64, or float32 on devices without float64 (MPS).

        Raises:
            FinetuneError: they are not numbers, or the rows differ in length.
        """
        device = torch.device(self.device)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if isinstance(values, Tensor):
            return values.detach().to(device, dtype)
        try:
            return torch.as_tensor(values, device=device).to(dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise FinetuneError(
                f"{type(self).__name__}: expected numbers, found {values!r:.80} ({error}).",
                "Give tensors, arrays or lists of numbers, with rows of equal length.",
            ) from error

    def to_row(self, values: Any, name: str) -> Tensor:
        """Return numbers `(N,)` as a tensor, see `to_floats`.

        Raises:
            FinetuneError: they have more than one dimension.
        """
        row = self.to_floats(values)
        if row.ndim != 1:
            raise FinetuneError(
                f"{type(self).__name__}: {name} has the shape {tuple(row.shape)}, and one dimension is expected.",
                "Give one number for each case.",
            )
        return row

    def to_rows(self, **arguments: Any) -> list[Tensor]:
        """Return the named arguments of `update` as tensors `(N,)`, see `to_row`.

        Raises:
            FinetuneError: one has more than one dimension, or their numbers of cases differ.
        """
        rows = {name: self.to_row(values, name) for name, values in arguments.items()}
        self.check_lengths(**{name: len(row) for name, row in rows.items()})
        return list(rows.values())

    def check_lengths(self, **sizes: int) -> None:
        """Raise a FinetuneError if the named arguments of `update` have different numbers of cases."""
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
            raise FinetuneError(
                f"{type(self).__name__}: the arguments are of different numbers of cases: {listed}.",
                "Give as many of each.",
            )


def concatenated(state: list[Tensor] | Tensor, empty: Tensor) -> Tensor:
    """Return a list state as one tensor, `empty` without any update; a synchronized state is a tensor already."""
    if isinstance(state, Tensor):
        return state
    return torch.cat([empty, *state])

"""One training step, from a batch to the gradients. Together with `encoding/engine.py` this is all of it.

1. A `Batch` (`data/batching/`) has the token ids of its N distinct texts in one row, without padding, and its B
   relations as integers: which item is the anchor, which one is right for it.
2. `training_step` has `Engine.encode` compute the embeddings `(N, D)`, each item once, in micro-batches.
3. The loss (`losses/`) compares the embeddings of the items that the relations name: one number.
4. `backward` computes the gradients through the loss and all micro-batches, as one autograd graph.
5. Lightning clips the gradients, and `optimizer_step` updates the weights.

Shapes: N distinct items of the batch, B relations, D width, W processes, n items of one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule, seed_everything
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from finetune import devices
from finetune.config.build import build_offered
from finetune.console import say
from finetune.data.arrays import Ints
from finetune.encoding import memory
from finetune.encoding.collectives import Collectives
from finetune.encoding.engine import Engine
from finetune.encoding.sharding import shard
from finetune.errors import FinetuneError
from finetune.losses.loss import local_loss, local_loss_from_scores, own_learning_rates, total_weight
from finetune.models.encoder import Encoder
from finetune.models.packing import upload
from finetune.runs.failure_causes import is_out_of_memory
from finetune.training.accumulation import Accumulation
from finetune.training.callbacks.order import ends_step
from finetune.training.fsdp import Fsdp
from finetune.training.non_finite_loss import LossMonitor
from finetune.training.optimizers import hidden_weights, parameter_groups
from finetune.training.preserve_state import random_state, set_random_state
from finetune.training.resume import fix_progress
from finetune.training.schedules import Constant
from finetune.training.step_timer import StepTimer

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.batching.batch import Batch


class EmbeddingModule(LightningModule):
    """An encoder and a loss over its embeddings, trained by Lightning's automatic optimization.

    `losses` is one loss for all batches, or one for each of several sources, in their order. `optimizer` is the config
    node, from which the optimizer is built here, so that no object has to be stored in a checkpoint. `total_steps` are
    optimizer steps, for the schedule. `rates` are factors on the learning rates of some weights.
    """

    def __init__(
        self,
        encoder: Encoder,
        losses: nn.ModuleList,
        engine: Engine,
        optimizer: DictConfig,
        schedule: Constant,
        total_steps: int,
        rates: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.losses = losses
        self.engine = engine
        self.total_steps = total_steps
        self._optimizer = optimizer
        self._rates = dict(rates or {})
        self._schedule = schedule
        self._random_states: list[dict[str, Any]] = []  # of each process, from a checkpoint
        self._loss_monitor = LossMonitor()
        self._timer = StepTimer()
        self._accumulation = Accumulation()
        self._batch_idx = 0
        self.last_loss = torch.zeros(())  # of the rows of this process, on its device
        self._graph: list[Tensor] = []  # the loss of the current batch, until its backward pass
        # Of the batches of the current optimizer step: the position in the epoch, and the loss without its graph.
        self._forwards: list[tuple[int, Tensor]] = []
        self._random_before: dict[str, Tensor] = {}  # random states before the first of them
        self._is_updating = False  # whether the optimizer is changing the weights
        self.seconds_per_evaluation = 0.0  # of the whole evaluation before the training, to estimate the time left
        self.seconds_per_training_evaluation = 0.0  # of its part that is repeated during the training
        self.seconds_evaluated = 0.0  # in evaluations during the training so far
        self._rate = 0.0  # the learning rate of the current step; at its end the optimizer has that of the next one
        self.items_seen = 0  # distinct items of all batches of this process's training
        self.tokens_seen = 0  # and their tokens, without padding
        self._updates = 0  # of the weights by this process
        self.skipped_steps = 0  # without an update: in fp16 a gradient was not finite, and its scale is reduced

    # ---- one step, in the order in which Lightning calls these methods

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Start to time the batch; the first batch of an optimizer step resets the accumulation."""
        self._batch_idx, self._rate = batch_idx, self.trainer.optimizers[0].param_groups[0]["lr"]
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._accumulation.start_step()
            self._forwards = []
        self._timer.start_step(self.device)
        self._timer.end_stage("data")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy a batch to the device while this still computes the step before."""
        return devices.of(device).copy(batch)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch, weighted for gradient accumulation."""
        factor = self._accumulation_factor(batch)
        if self.trainer.world_size > 1:
            # The others would have to repeat their part of the step too: only `encode` repeats, for which they wait.
            return self._loss(batch) * factor
        if not self._forwards:
            self._random_before = devices.of(self.device).random_state()
        loss = self.engine.retry(partial(self._loss, batch), self.device)
        # Lightning keeps a reference to the loss it gets, and with it the graph, which has to be freed when memory runs
        # out. So it gets the value without the graph, and `backward` continues with the graph.
        value = loss.detach().requires_grad_()
        self._graph = [loss]
        self._forwards.append((self._loader_state()["position"] - 1, value))
        return value * factor

    def _accumulation_factor(self, batch: Batch) -> float | Tensor:
        if self.trainer.accumulate_grad_batches == 1:
            return 1.0
        return self._accumulation.add(len(batch), total_weight(self._loss_of(batch), batch))

    def _loss_of(self, batch: Batch) -> nn.Module:
        return self.losses[batch.source or 0]

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, as this process contributes it to the mean over the processes."""
        emb_ND = self.embed(batch)
        self._timer.end_stage("encode")
        score = local_loss if batch.pair_Bk is None else local_loss_from_scores
        # bf16 has three digits, and the loss divides by a small temperature: it is computed in fp32.
        with torch.autocast(self.device.type, enabled=False):
            loss = score(self._loss_of(batch), emb_ND.float(), batch, self.global_rank, self.trainer.world_size)
            # Gathering sums the gradients over the processes, and DDP averages them: the factor makes up for it.
            loss = loss * self.trainer.world_size
        self._timer.end_stage("loss")
        self.last_loss = loss.detach()
        return loss

    def embed(self, batch: Batch) -> Tensor:
        """Return the embeddings `(N, D)` of the batch's distinct items.

        With several processes, all have the same batch. Each encodes a share of the items, with about the same number
        of tokens, and receives the embeddings of the other shares. In the backward pass the gradients of all processes
        with respect to a share are summed in the process that encoded it.
        """
        lengths_N = np.array(batch.lengths_cpu, np.int64)
        if self.trainer.world_size == 1:
            return self.engine.encode(self.encoder, batch.ids_T, lengths_N, None, batch.other_M)
        items = len(lengths_N) if batch.other_M is None else len(batch.items_N)
        items_Wn = _split_items(lengths_N, items, self.trainer.world_size)
        in_step = None
        if isinstance(self.trainer.strategy, Fsdp):
            # Each micro-batch gathers weights, so that all processes need the same number of micro-batches.
            in_step = Collectives.from_trainer(self.trainer)
        emb_nD = self.engine.encode(
            self.encoder, batch.ids_T, lengths_N, items_Wn[self.global_rank], batch.other_M, in_step
        )
        emb_WnD = cast(Tensor, self.all_gather(emb_nD, sync_grads=True))
        first_N = np.unique(items_Wn.ravel(), return_index=True)[1]  # back in the order of the items, each once
        return emb_WnD.flatten(0, 1)[upload(first_N, self.device)]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients; if memory runs out, those of the whole step again, with smaller micro-batches.

        `loss` is what Lightning made of the return value of `training_step`: scaled for fp16, and divided by the number
        of accumulated batches.
        """
        super().backward(loss, *args, **kwargs)
        if self._graph:
            graph, self._graph = self._graph, []
            self._backward_through_graph(graph)
        if self.trainer.accumulate_grad_batches > 1 and ends_step(self.trainer, self._batch_idx):
            self._accumulation.correct(self.parameters(), self.trainer.accumulate_grad_batches)

    def _backward_through_graph(self, graph: list[Tensor]) -> None:
        """Continue the backward pass from the detached loss, whose gradient Lightning has just computed.

        `graph` has the loss with its graph, as the only reference to it.
        """

        def compute() -> None:
            if graph:
                _, value = self._forwards[-1]
                graph.pop().backward(value.grad)  # type: ignore[no-untyped-call]
            else:
                self._repeat_step()

        self.engine.retry(compute, self.device)

    def _repeat_step(self) -> None:
        """Compute the gradients of all batches of this optimizer step again.

        The backward pass that failed may have added some of its gradients to those of the batches before.
        """
        for parameter in self.parameters():
            parameter.grad = None
        devices.set_random_state(self._random_before)
        for position, value in self._forwards:
            with self.trainer.precision_plugin.forward_context():
                loss = self._loss(self._batch_at(position))
            loss.backward(value.grad)  # type: ignore[no-untyped-call]

    def _batch_at(self, position: int) -> Batch:
        """Return a batch of this epoch again, on the device."""
        loader: Any = self.trainer.train_dataloader
        batch = self.trainer.precision_plugin.convert_input(loader.batch_at(position))
        return cast("Batch", self.trainer.strategy.batch_to_device(batch))

    def on_after_backward(self) -> None:
        """Pass the loss on to its monitor and to the schedule."""
        self._timer.end_stage("backward")
        self._loss_monitor.add(self.global_step + 1, self._loader_state(), self.last_loss)
        self._schedule.watch(lambda: self._mean(self.last_loss), self.global_step, self.total_steps)

    def _loader_state(self) -> dict[str, int]:
        loader: Any = self.trainer.train_dataloader
        return dict(loader.state_dict())

    def _mean(self, loss: Tensor) -> Tensor:
        """Return the mean of a loss over all processes."""
        return cast(Tensor, self.trainer.strategy.reduce(loss, reduce_op="mean"))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, for fused optimizers in bf16-mixed too.

        Lightning refuses fused optimizers in mixed precision because fp16 gradients are still scaled at this point;
        bf16 has no scaler.
        """
        plugin = self.trainer.precision_plugin
        if not gradient_clip_val or not isinstance(plugin, MixedPrecision) or plugin.scaler is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_algorithm == "value":
            plugin.clip_grad_by_value(optimizer, gradient_clip_val)
        else:
            plugin.clip_grad_by_norm(optimizer, gradient_clip_val)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Remember that the gradients are complete, and that all that follows changes the weights."""
        self._is_updating = True

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, by the closure among the arguments, and update the weights.

        Raises:
            MemoryRanOut: in the update. It is not repeated: nothing of the step is left to free, and a part of the
                weights may have changed.
        """
        self._is_updating, updates = False, self._updates
        try:
            super().optimizer_step(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if self._is_updating and is_out_of_memory(error):
                raise memory.ran_out_in_update(self.global_step + 1) from error
            raise
        if self._updates == updates and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            self.skipped_steps += 1
        self._timer.end_stage("optimizer")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log loss and speed, and raise if the loss is not finite; only in steps that are logged, as it waits."""
        self._timer.end_stage("callbacks")
        self.items_seen += len(batch.items_N)
        self.tokens_seen += sum(batch.lengths_cpu)
        is_due = self.global_step % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        is_end = self.global_step >= self.total_steps or self.trainer.should_stop
        if not (is_due or is_end) or not ends_step(self.trainer, batch_idx):
            return
        # Not `self.log`, which copies every number to the device and back, and waits for it each time.
        numbers = {"loss": self.check_loss(), "learning_rate": self._rate, **self._speed(batch)}
        for logger in self.trainer.loggers:
            logger.log_metrics({**numbers, "epoch": self.current_epoch}, step=self.global_step - 1)

    def check_loss(self) -> float:
        """Return the loss of the last batch; waits for the device.

        Raises:
            NonFiniteLossError: the loss of a batch since the last call is not finite.
        """
        return self._loss_monitor.check(self._mean)

    def _speed(self, batch: Batch) -> dict[str, float]:
        lengths_N, items = np.array(batch.lengths_cpu, np.int64), len(batch.items_N)
        seconds = self._timer.seconds()
        elapsed = sum(seconds.values())
        return {
            "items_per_second": items / elapsed,
            "tokens_per_second": float(lengths_N.sum()) / elapsed,
            "padding_share": self.engine.padding_share(lengths_N, self.encoder),
            "repeats_share": 1 - items / max(1, batch.uses),
            "recomputed_share": self.engine.recomputed_share,
            "token_budget": float(self.engine.budget(self.encoder).tokens),
            "peak_memory_mb": devices.of(self.device).peak() / memory.MB,
            **{f"seconds/{stage}": spent for stage, spent in seconds.items()},
        }

    # ---- before the first step

    def configure_model(self) -> None:
        """Shard the weights over the processes with `strategy=fsdp`; `rates` then refer to the sharded weights."""
        if not isinstance(self.trainer.strategy, Fsdp):
            return
        names = {weight: name for name, weight in self.encoder.named_parameters()}
        shard(self.encoder, self.losses, self.trainer.strategy.device_mesh["data_parallel"])
        weights = dict(self.encoder.named_parameters())
        self._rates = {weights[names[weight]]: rate for weight, rate in self._rates.items()}

    def configure_optimizers(self) -> Any:
        """Build the optimizer, and the schedule that sets the learning rate for every optimizer step."""
        settings, plugin = self._optimizer.copy(), self.trainer.precision_plugin
        if "fused" in settings and isinstance(plugin, MixedPrecision) and plugin.scaler:
            settings.fused = False  # fp16 gradients must be unscaled before they are clipped
        scaled = {weight: self._optimizer.lr * rate for weight, rate in self._rates.items() if rate != 1}
        groups = parameter_groups(self.parameters(), scaled | own_learning_rates(self.losses))
        try:
            offered = {"hidden": hidden_weights(self.encoder)}
            optimizer = build_offered(settings, "optimizer", offered, params=groups)
        except (ValueError, TypeError) as error:  # e.g. LBFGS, which supports no parameter groups
            raise FinetuneError(f"optimizer: {settings['_target_']} cannot be used here: {error}") from error

        def count(*_: Any) -> None:
            self._updates += 1

        def factor(step: int) -> float:
            return self._schedule.factor(min(step, self.total_steps - 1), self.total_steps)

        optimizer.register_step_post_hook(count)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set train mode, as `from_pretrained` and an evaluation leave eval mode, and the random states."""
        self.train()
        processes = self.trainer.world_size
        if self.global_rank < len(self._random_states):
            set_random_state(self._random_states[self.global_rank])
        elif self.global_rank:
            # All processes were seeded alike, and would use the same dropout masks for different items.
            seed_everything(torch.initial_seed() + self.global_rank, verbose=False)
        if self._random_states and len(self._random_states) != processes:
            before = len(self._random_states)
            what = "dropout draws other numbers than it would have."
            say(f"saved by {before} and resumed by {processes} processes: {what}")

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the random states, so that dropout continues exactly, and the states of schedule and engine."""
        batches = int(self.trainer.num_training_batches)
        fix_progress(checkpoint["loops"], self._loader_state(), batches, self.global_step)
        checkpoint["schedule"] = self._schedule.state_dict()
        checkpoint["engine"] = self.engine.state_dict()
        checkpoint["random_states"] = Collectives.from_trainer(self.trainer).all_gather(random_state(self.device))
        # The metrics of this step are logged after the checkpoint, and the process may be killed between the two.
        metrics = checkpoint.setdefault("metrics", {})
        metrics.update(loss=self.check_loss(), learning_rate=self._rate)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the states; the random states are set in `on_train_start`, after everything else that draws."""
        self._random_states = checkpoint["random_states"]
        self._schedule.load_state_dict(checkpoint["schedule"])
        self.engine.load_state_dict(checkpoint["engine"])


def _split_items(lengths_N: Ints, items: int, world: int) -> Ints:
    """Return which items each process encodes, `(W, n)`: texts of all lengths, and a part of the items after them.

    Some items are repeated so that all processes have equally many.
    """
    order_N = np.concatenate([np.argsort(lengths_N, kind="stable"), np.arange(len(lengths_N), items)])
    per_process = -(-len(order_N) // world)  # rounded up
    return np.resize(order_N, (per_process, world)).T

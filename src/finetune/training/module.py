"""One training step: encode, loss, log.

Shapes: N distinct items of the batch, B relations, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule, seed_everything
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from finetune.config.build import build_offered
from finetune.console import say
from finetune.encoding import memory
from finetune.encoding.collectives import Collectives
from finetune.encoding.engine import Engine
from finetune.errors import FinetuneError
from finetune.losses.loss import local_loss, own_rates, share_scores, total_weight
from finetune.models.encoder import Encoder
from finetune.models.packing import upload
from finetune.runs.failure_causes import is_out_of_memory
from finetune.training.accumulation import Accumulation
from finetune.training.callbacks.order import ends_step
from finetune.training.fsdp import Fsdp, shard
from finetune.training.loop_progress import fix_progress
from finetune.training.non_finite_loss import Watch
from finetune.training.optimizers import hidden_weights
from finetune.training.preserve_state import random_state, set_random_state
from finetune.training.schedules import Constant
from finetune.training.step_timer import StepTimer

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from finetune.data.batching.batches import Batch


class EmbeddingModule(LightningModule):
    """An encoder and a loss over its embeddings, trained by Lightning's automatic optimization.

    `losses` is one loss for all batches, or one for each of several sources, in their order.
    `optimizer` is the config node, built here so that no built object has to live in a checkpoint.
    `total_steps` are optimizer steps, for the schedule. `rates` are what the learning rate of some weights is
    multiplied by.
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
        self._random_states: list[dict[str, Any]] = []  # where each process goes on, of a checkpoint
        self._watch = Watch()
        self._pace = StepTimer()
        self._accumulation = Accumulation()
        self._batch_idx = 0
        self.last_loss = torch.zeros(())  # of the rows of this process, on its device
        self._graph: tuple[Batch, Tensor, Tensor] | None = None  # of the step under way: batch, loss, and its value
        self.seconds_of_evaluation = 0.0  # of the whole evaluation before the training, to estimate the time left
        self.seconds_in_training = 0.0  # of the part of it that is repeated during the training
        self.seconds_looked = 0.0  # by callbacks that measure in the midst of the training
        self.items_seen = 0  # distinct items of the batches since this process started, for the pace
        self.tokens_seen = 0  # and their tokens, without padding

    def configure_model(self) -> None:
        """Share the weights out over the processes, if the trainer is to; what is known of a weight goes with it."""
        if not isinstance(self.trainer.strategy, Fsdp):
            return
        names = {weight: name for name, weight in self.encoder.named_parameters()}
        shard(self.encoder, self.losses, self.trainer.strategy.device_mesh["data_parallel"])
        weights = dict(self.encoder.named_parameters())
        self._rates = {weights[names[weight]]: rate for weight, rate in self._rates.items()}

    def on_train_start(self) -> None:
        """Put the encoder in train mode: it comes from `from_pretrained` and from an evaluation without dropout."""
        self.train()
        if self.global_rank < len(self._random_states):
            set_random_state(self._random_states[self.global_rank])
        elif self.global_rank:
            # All processes began with one seed, and would leave out the same of different items.
            seed_everything(torch.initial_seed() + self.global_rank, verbose=False)
        if self._random_states and len(self._random_states) != self.trainer.world_size:
            then, now = len(self._random_states), self.trainer.world_size
            say(f"saved by {then} and gone on with by {now} processes: dropout draws other numbers than it would have.")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin to measure where the time of this batch goes; the first batch of a step starts a new accumulation."""
        self._batch_idx = batch_idx
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._accumulation.start_step()
        self._pace.begin(self.device)
        self._pace.mark("data")

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch: `(N, D)` embeddings of its distinct items, scored by its relations."""
        loss = self._loss(batch)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        factor = self._factor(batch)
        if self.trainer.world_size > 1:
            return loss * factor
        # Lightning holds on to the loss it is given, and a graph that is held cannot be let go when memory runs out:
        # it gets the value alone, and `backward` goes on from there.
        value = loss.detach().requires_grad_()
        self._graph = batch, loss, value
        return value * factor

    def _factor(self, batch: Batch) -> float | Tensor:
        """Return what the loss of this batch is multiplied by; without accumulation a batch is a step of its own."""
        if self.trainer.accumulate_grad_batches == 1:
            return 1.0
        loss = self.losses[batch.source or 0]
        return self._accumulation.add(len(batch), total_weight(loss, batch))

    def _loss(self, batch: Batch) -> Tensor:
        emb_ND = self.embed(batch)
        self._pace.mark("encode")
        loss, rank, world = self.losses[batch.source or 0], self.global_rank, self.trainer.world_size
        # bf16 has three digits, and the loss divides by a small temperature: it is computed in fp32.
        with torch.autocast(self.device.type, enabled=False):
            # Gathering sums the gradients over the processes, and DDP takes their mean: together the whole.
            scored = local_loss if batch.pair_Bk is None else share_scores
            value = scored(loss, emb_ND.float(), batch, rank, world) * world
        self._pace.mark("loss")
        self.last_loss = value.detach()
        return value

    def embed(self, batch: Batch) -> Tensor:
        """Return the embeddings `(N, D)` of the batch's distinct items, shared out over the processes of the run.

        All processes have the same batch; each encodes its part of the items, of about as many tokens as the others',
        and gets the rest with its gradients: what the other processes' losses say to its part is added to its own.
        """
        lengths_N, other_M, world = np.array(batch.lengths_cpu, np.int64), batch.other_M, self.trainer.world_size
        if world == 1:
            return self.engine.encode(self.encoder, batch.ids_T, lengths_N, None, other_M)
        # One row a process, filled up to equal length by encoding some items twice.
        order_N = np.argsort(lengths_N, kind="stable")
        if other_M is not None:
            order_N = np.concatenate([order_N, np.arange(len(lengths_N), len(batch.items_N))])
        shares_Wn = np.resize(order_N, (-(-len(order_N) // world), world)).T
        mine = shares_Wn[self.global_rank]
        # Where the weights are gathered for each micro-batch, all processes have to make as many.
        step = Collectives.of(self.trainer) if isinstance(self.trainer.strategy, Fsdp) else None
        part = self.engine.encode(self.encoder, batch.ids_T, lengths_N, mine, other_M, step)
        gathered = cast(Tensor, self.all_gather(part, sync_grads=True)).flatten(0, 1)
        first_N = np.unique(shares_Wn.ravel(), return_index=True)[1]
        return gathered[upload(first_N, self.device)]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the gradients; again with less computed at once if memory runs out.

        `loss` is what Lightning makes of the value it was given: scaled for fp16, a part of several that accumulate.
        """
        super().backward(loss, *args, **kwargs)
        if self._graph is not None:
            self._backward_of_graph()
        if self.trainer.accumulate_grad_batches > 1 and ends_step(self.trainer, self._batch_idx):
            self._accumulation.correct(self.parameters(), self.trainer.accumulate_grad_batches)

    def _backward_of_graph(self) -> None:
        assert self._graph is not None
        batch, graph, value = self._graph
        self._graph = None
        before = self._gradient_versions()
        while True:
            try:
                graph.backward(value.grad)  # type: ignore[no-untyped-call]
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._forget_gradients(before):
                    raise
                del graph  # and with it what was kept
                self.engine.halve(error)
            with self.trainer.precision_plugin.forward_context():
                graph = self._loss(batch)

    def _gradient_versions(self) -> list[int]:
        return [-1 if p.grad is None else p.grad._version for p in self.parameters()]

    def _forget_gradients(self, before: list[int]) -> bool:
        """Undo a backward pass that ended halfway; `False` if it has already added to what other batches left."""
        for parameter, version in zip(self.parameters(), before, strict=True):
            if version < 0:
                parameter.grad = None
            elif parameter.grad is None or parameter.grad._version != version:
                return False
        return True

    def on_after_backward(self) -> None:
        """Say that the gradients are there, and to the schedule what the loss was."""
        self._pace.mark("backward")
        self._watch.add(self.global_step + 1, self._place(), self.last_loss)
        self._schedule.watch(lambda: self._mean(self.last_loss), self.global_step, self.total_steps)

    def _place(self) -> dict[str, int]:
        """Return where the loader stands."""
        loader: Any = self.trainer.train_dataloader
        return dict(loader.state_dict())

    def check_loss(self) -> float:
        """Return the loss of the last batch; waits for the device.

        Raises:
            NoNumber: the loss of a batch since the last call was no number.
        """
        return self._watch.check(self._mean)

    def _mean(self, loss: Tensor) -> Tensor:
        """Return a loss over all processes; each has its share of it."""
        return cast(Tensor, self.trainer.strategy.reduce(loss, reduce_op="mean"))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and measure it."""
        super().optimizer_step(*args, **kwargs)
        self._pace.mark("optimizer")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log loss and speed, and stop on a loss that is no number; only where lines are written, so no step waits."""
        self._pace.mark("callbacks")
        self.items_seen += len(batch.items_N)
        self.tokens_seen += sum(batch.lengths_cpu)
        is_due = self.global_step % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        # Once the training stops, Lightning writes a line by itself. Of a planned end it knows nothing.
        is_end = self.global_step >= self.total_steps and ends_step(self.trainer, batch_idx)
        if not (is_due or is_end or self.trainer.should_stop):
            return
        numbers = {"loss": self.check_loss(), **self._speed(batch)}
        if is_due or self.trainer.should_stop:
            self.log_dict(numbers, batch_size=len(batch))
            return
        numbers["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.trainer.loggers:
            logger.log_metrics({**numbers, "epoch": self.current_epoch}, step=self.global_step - 1)

    def _speed(self, batch: Batch) -> dict[str, float]:
        lengths, items, seconds = np.array(batch.lengths_cpu, np.int64), len(batch.items_N), self._pace.seconds()
        elapsed = sum(seconds.values())
        return {
            "items_per_second": items / elapsed,
            "tokens_per_second": float(lengths.sum()) / elapsed,
            "padding_share": self.engine.padding_share(lengths, self.encoder),
            "repeats_share": 1 - items / max(1, batch.uses),
            "recomputed_share": self.engine.recomputed_share,
            "token_budget": float(self.engine.budget(self.encoder).tokens),
            "peak_memory_mb": memory.peak(self.device) / memory.MB,
            **{f"seconds/{stage}": spent for stage, spent in seconds.items()},
        }

    def configure_optimizers(self) -> Any:
        """Build the optimizer over decayed and undecayed weights, and the schedule that steps with every step."""
        settings, plugin = self._optimizer.copy(), self.trainer.precision_plugin
        if "fused" in settings and isinstance(plugin, MixedPrecision) and plugin.scaler:
            settings.fused = False  # fp16 gradients must be unscaled before they are clipped
        try:
            offered = {"hidden": hidden_weights(self.encoder)}
            optimizer = build_offered(settings, "optimizer", offered, params=self._parameter_groups())
        except (ValueError, TypeError) as error:  # LBFGS, say, takes no groups
            raise FinetuneError(f"optimizer: {settings['_target_']} cannot be used here: {error}") from error
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self._schedule.factor(min(step, self.total_steps - 1), self.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip also where Lightning refuses to.

        It refuses all fused optimizers in mixed precision because fp16 gradients are still scaled; bf16 has no scaler.
        """
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            by_value = gradient_clip_algorithm == "value"
            clip = plugin.clip_grad_by_value if by_value else plugin.clip_grad_by_norm
            clip(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        slower = {p: self._optimizer.lr * rate for p, rate in self._rates.items() if rate != 1}
        rates = slower | own_rates(self.losses)
        # Norm weights and biases are the vectors; shrinking them towards zero helps nothing.
        return [
            {"params": some} | ({} if decays else {"weight_decay": 0.0}) | ({} if lr is None else {"lr": lr})
            for lr in [None, *sorted({*rates.values()})]
            for decays in (True, False)
            if (some := [p for p in trained if rates.get(p) == lr and (p.ndim > 1) == decays])
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states, so that dropout goes on where it was, and what the schedule and the engine know."""
        batches = int(self.trainer.num_training_batches)
        fix_progress(checkpoint["loops"], self._place(), batches, self.global_step)
        checkpoint["schedule"] = self._schedule.state_dict()
        checkpoint["engine"] = self.engine.state_dict()
        checkpoint["random_states"] = Collectives.of(self.trainer).all_gather(random_state(self.device))
        # The line of this step is written after the checkpoint, and between the two the process may be killed.
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        checkpoint.setdefault("metrics", {}).update(loss=self.check_loss(), learning_rate=rate)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back; the random states are set when training starts, after everything else that draws numbers."""
        self._random_states = checkpoint["random_states"]
        self._schedule.load_state_dict(checkpoint["schedule"])
        self.engine.load_state_dict(checkpoint["engine"])

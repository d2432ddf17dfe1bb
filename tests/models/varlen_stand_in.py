"""A stand-in, on a CPU, for the two CUDA kernels below `torch.nn.attention.varlen`.

All of torch above the kernels is real: `varlen_attn` with its signature and its own errors, its autograd formula, and
its fake implementation, which `torch.compile` uses. Only `aten::_flash_attention_forward` and its backward, which exist
for CUDA alone, are computed here, from their documentation and the checks in flash_api.cpp of torch 2.13.

The stand-in is stricter than a GPU: it raises where a kernel would read or write at wrong places, and what a kernel
leaves uninitialized is NaN.

Shapes: T tokens of all sequences in a row, H heads, K heads of keys and values, d width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from finetune.models import varlen
from finetune.models.packing import Packing

HALF = (torch.float16, torch.bfloat16)
_LITTLE_SHARED_MEMORY = ((8, 6), (8, 9), (12, 0), (12, 1))


@dataclass
class Call:
    """What one call of the forward kernel was given."""

    shapes: list[tuple[int, ...]]
    dtype: torch.dtype
    bounds: list[int]
    longest: int
    window: tuple[int, int]
    scale: float | None
    dropout: float


class _Dropout:
    """Factors of attention weights, 0 or 1 / (1 - p): the same in both passes, by the state that the first returns."""

    def __init__(self, share: float, rng_state: Tensor) -> None:
        self._share = share
        self._generator = torch.Generator().manual_seed(int(rng_state[0]))

    def next_like(self, weights: Tensor) -> Tensor:
        if not self._share:
            return torch.ones_like(weights)
        kept = torch.rand(weights.shape, generator=self._generator) >= self._share
        return kept.to(weights) / (1 - self._share)


@dataclass
class StandIn:
    """The kernels of a GPU of this compute capability; `dtypes` may have more than those of a GPU, for comparisons."""

    dtypes: tuple[torch.dtype, ...] = HALF
    capability: tuple[int, int] = (8, 0)
    max_sequences: int = 65_535
    calls: list[Call] = field(default_factory=list)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cum_seq_q: Tensor,
        cum_seq_k: Tensor,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        return_debug_mask: bool,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
        seqused_k: Tensor | None = None,
        alibi_slopes: Tensor | None = None,
        block_table: Tensor | None = None,
        num_splits: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the output `(T, H, d)`, the logarithm of the sum of exponentials `(H, T)`, and what is unused."""
        if any(each is not None for each in (seqused_k, alibi_slopes, block_table)) or return_debug_mask:
            raise NotImplementedError("this stand-in has no cache and no bias")
        self._check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k)
        window = _window(is_causal, window_size_left, window_size_right)
        bounds = cum_seq_q.tolist()
        shapes = [query.shape, key.shape, value.shape]
        self.calls.append(Call(shapes, query.dtype, bounds, max_q, window, scale, dropout_p))
        rng_state = torch.zeros(2, dtype=torch.uint64)
        if dropout_p:
            rng_state[0] = torch.randint(2**31, ()).to(torch.uint64)
        factors = _Dropout(dropout_p, rng_state)
        out_THd = torch.full_like(query, torch.nan)
        sums_HT = query.new_full((query.shape[1], len(query)), torch.nan, dtype=torch.float32)
        for rows, key_rows in _sequences(cum_seq_q, cum_seq_k):
            logits = _logits(query[rows], key[key_rows], scale, window)
            sums = logits.logsumexp(-1)
            weights = torch.where(sums.isinf().unsqueeze(-1), 0, (logits - sums.unsqueeze(-1)).exp())
            weights = weights * factors.next_like(weights)
            values = _repeated(value[key_rows], query.shape[1]).transpose(0, 1)
            out_THd[rows] = _product(weights.to(query.dtype), values).transpose(0, 1).to(query.dtype)
            sums_HT[:, rows] = sums.float()
        unused = query.new_empty(0)
        return out_THd, sums_HT, rng_state, unused, unused.clone()

    def backward(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        cum_seq_q: Tensor,
        cum_seq_k: Tensor,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        rng_state: Tensor,
        unused: Tensor,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values."""
        self._check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k)
        _require(grad_out.dtype == out.dtype == query.dtype, "query and dout must have the same dtype")
        _require(grad_out.shape == out.shape == query.shape, "dout must have the shape of query")
        _require(logsumexp.shape == (query.shape[1], len(query)), "softmax_lse must have shape (heads, total_q)")
        if self.capability in _LITTLE_SHARED_MEMORY and 192 < query.shape[-1] <= 224:
            raise RuntimeError("invalid argument: too much shared memory for this GPU")
        window = _window(is_causal, window_size_left, window_size_right)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        grads = [torch.full_like(each, torch.nan) for each in (query, key, value)]
        heads = query.shape[1]
        factors = _Dropout(dropout_p, rng_state)
        for rows, key_rows in _sequences(cum_seq_q, cum_seq_k):
            logits = _logits(query[rows], key[key_rows], scale, window)
            # Again from the logits: `logsumexp` is fp32, too little for a comparison in fp64.
            weights = torch.where(logits.logsumexp(-1, keepdim=True).isinf(), 0, logits.softmax(-1))
            keys, values = (_repeated(each[key_rows], heads).transpose(0, 1) for each in (key, value))
            grad, queries, attended = (each[rows].transpose(0, 1) for each in (grad_out, query, out))
            inner = (grad.to(logits) * attended.to(logits)).sum(-1, keepdim=True)
            kept = factors.next_like(weights)
            grad_logits = (weights * (_product(grad, values.mT) * kept - inner) * factor).to(query.dtype)
            grad_key = _product(grad_logits.mT, queries)
            grad_value = _product((weights * kept).to(query.dtype).mT, grad)
            grads[0][rows] = _product(grad_logits, keys).transpose(0, 1).to(query.dtype)
            for each, expanded in zip(grads[1:], (grad_key, grad_value), strict=True):
                summed = expanded.unflatten(0, (key.shape[1], -1)).sum(1)
                each[key_rows] = summed.transpose(0, 1).to(query.dtype)
        return grads[0], grads[1], grads[2]

    def _check(
        self, query: Tensor, key: Tensor, value: Tensor, bounds_q: Tensor, bounds_k: Tensor, max_q: int, max_k: int
    ) -> None:
        """Raise for what the kernels refuse, and for what they would compute wrongly."""
        _require(self.capability >= (8, 0), "FlashAttention only supports Ampere GPUs or newer.")
        _require(query.dtype in self.dtypes, "FlashAttention only support fp16 and bf16 data type")
        _require(key.dtype == query.dtype, "query and key must have the same dtype")
        _require(value.dtype == query.dtype, "query and value must have the same dtype")
        heads, width = query.shape[1:]
        key_heads = key.shape[1]
        for each in (query, key, value):
            _require(each.stride(-1) == 1, "Input tensor must have contiguous last dimension")
        _require(width <= 256, "FlashAttention forward only supports head dimension at most 256")
        _require(heads % key_heads == 0, "Number of heads in key/value must divide number of heads in query")
        _require(width % 8 == 0, "head_size must be a multiple of 8, this is ensured by padding!")
        _require(key.shape == value.shape, "v must have shape (total_k, num_heads_k, head_size)")
        _require(key.shape[-1] == width, "k must have shape (total_k, num_heads_k, head_size)")
        for bounds, name, longest, rows in (
            (bounds_q, "cu_seqlens_q", max_q, len(query)),
            (bounds_k, "cu_seqlens_k", max_k, len(key)),
        ):
            _require(bounds.dtype == torch.int32, f"{name} must have dtype int32")
            _require(bounds.is_contiguous(), f"{name} must be contiguous")
            _require(bounds.shape == (len(bounds_q),), f"{name} must have shape (batch_size + 1)")
            _require(len(bounds) - 1 <= self.max_sequences, "invalid configuration argument: too many sequences")
            _check_bounds(bounds, name, longest, rows)
        for each in (query, key, value):
            steps = [*each.stride()[:-1], each.storage_offset()]
            _require(not any(step % 8 for step in steps), "misaligned address: a row is not at a multiple of 16 bytes")


def _check_bounds(bounds: Tensor, name: str, longest: int, rows: int) -> None:
    """Raise where the bounds of sequences would let a kernel read or write at wrong places."""
    _require(len(bounds) > 1, "batch size must be positive")
    lengths = bounds.diff()
    _require(bounds[0] == 0 and bool((lengths >= 0).all()), f"{name} does not increase from 0")
    _require(int(bounds[-1]) <= rows, f"{name} ends after the last row")
    _require(int(lengths.max()) <= longest, f"a sequence of {name} is longer than the given maximum")


def _require(condition: bool | Tensor, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def _window(is_causal: bool, left: int | None, right: int | None) -> tuple[int, int]:
    return -1 if left is None else left, 0 if is_causal else -1 if right is None else right


def _sequences(bounds_q: Tensor, bounds_k: Tensor) -> Iterator[tuple[slice, slice]]:
    for q, k in zip(bounds_q.unfold(0, 2, 1).tolist(), bounds_k.unfold(0, 2, 1).tolist(), strict=True):
        yield slice(*q), slice(*k)


def _repeated(states: Tensor, heads: int) -> Tensor:
    return states.repeat_interleave(heads // states.shape[1], 1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product, accumulated and returned in fp32 as by tensor cores, or in fp64."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide) @ b.to(wide)


def _logits(query: Tensor, key: Tensor, scale: float | None, window: tuple[int, int]) -> Tensor:
    """Return the scaled products `(H, q, k)` of a sequence, -inf outside of the window."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    keys = _repeated(key, query.shape[1])
    logits = _product(query.transpose(0, 1), keys.permute(1, 2, 0)) * factor
    place = torch.arange(len(query)).unsqueeze(1) + len(key) - len(query)
    distance = torch.arange(len(key)) - place
    left, right = (each if each >= 0 else len(key) + len(query) for each in window)
    return logits.masked_fill((distance < -left) | (distance > right), -torch.inf)


@contextlib.contextmanager
def kernels(stand_in: StandIn) -> Iterator[StandIn]:
    """Compute `varlen_attn` of tensors on a CPU with the stand-in."""
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("_flash_attention_forward", stand_in.forward)
    library.impl("_flash_attention_backward", stand_in.backward)
    try:
        yield stand_in
    finally:
        library._destroy()


@contextlib.contextmanager
def gpu(*more: torch.dtype, capability: tuple[int, int] = (8, 0), max_sequences: int = 65_535) -> Iterator[StandIn]:
    """Compute packed texts on a CPU as on such a GPU, whose kernels also have the dtypes `more`."""
    stand_in = StandIn((*HALF, *more), capability, max_sequences)
    with pytest.MonkeyPatch.context() as patch, kernels(stand_in):
        patch.setattr(Packing, "on_cpu", False)
        patch.setattr(varlen, "device_refusal", lambda device: None)
        patch.setattr(varlen, "DTYPES", stand_in.dtypes)
        yield stand_in

"""A BERT layer as one autograd operation on a CPU: few memory passes, few casts, few saved tensors.

transformers computes such a layer in about sixty operations of autograd, each with its own output tensor. Here query,
key and value are one matrix product, every tensor is cast once, elementwise operations are in place, and the backward
pass is handwritten. The values are those of the original layer, up to rounding.

Shapes: T tokens of all sequences in a row (followed by rows of padding), D width, F width of the feed-forward part,
H heads, d = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.attention_without_grad import attend
from finetune.models.dropout import keep_, keep_mask
from finetune.models.group_attention import GroupAttention, put_rows
from finetune.models.linear import FastLinear, linear
from finetune.models.packing import Group, Packing
from finetune.models.shared_grad import has_hooks

_DTYPES = (torch.float32, torch.bfloat16)
_FUSED: dict[type[nn.Module], type[nn.Module]] = {}


def fuse_layers(backbone: nn.Module) -> None:
    """Switch all BERT layers below `backbone` to the fused computation.

    Only their class changes, so weights, names, hooks and copies of the model are as before. A layer that is not on a
    CPU, has other linear layers (LoRA), or is called without a packing falls back to the original computation.
    """
    layers = [module for module in backbone.modules() if _is_bert_layer(module)]
    for layer in layers:
        layer.__class__ = _fused_class(type(layer))


def separate_layers(backbone: nn.Module) -> None:
    """Undo `fuse_layers`."""
    for module in backbone.modules():
        if isinstance(module, FusedLayer):
            module.__class__ = type(module).__mro__[2]


class FusedLayer(nn.Module):
    """The mixin of a fused layer; the next class in the method resolution order is the original one."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states `(1, T, D)` after the layer."""
        packing, token_embedding = kwargs.get("packing"), kwargs.get("token_embedding")
        if packing is None or token_embedding is None or not _can_fuse(self, hidden_states, packing):
            return super().forward(hidden_states, *args, **kwargs)
        dtype = hidden_states.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        weights = token_embedding.prepare_once(self, lambda: _weights(self, dtype))
        settings = _Settings.of(self, packing)
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() or settings.drops:
                computed_TD = _Layer.apply(hidden_states[0], *weights, settings)  # type: ignore[no-untyped-call]
            else:
                computed_TD = _infer(hidden_states[0], weights, settings, packing)
        return computed_TD.unsqueeze(0)


def _fused_class(original: type[nn.Module]) -> Any:
    """Return the fused class for a class of layers; cached, because code that counts layers compares their classes."""
    if original not in _FUSED:
        _FUSED[original] = type(f"Fused{original.__name__}", (FusedLayer, original), {"__module__": __name__})
    return _FUSED[original]


def _is_bert_layer(module: Any) -> bool:
    """Whether a module is an encoder layer with post-norm and an exact GELU, as in BERT and RoBERTa."""
    try:
        linears, norms = _linears(module), _norms(module)
        activation = module.intermediate.intermediate_act_fn
        drops = [module.attention.self.dropout, module.attention.output.dropout, module.output.dropout]
    except AttributeError:
        return False
    return (
        not getattr(module, "is_decoder", False)
        and not hasattr(module, "crossattention")
        and not isinstance(module, FusedLayer)
        and type(activation).__name__ == "GELUActivation"
        and all(type(norm) is nn.LayerNorm and norm.elementwise_affine for norm in norms)
        and all(type(linear) is nn.Linear and linear.bias is not None for linear in linears)
        and all(isinstance(drop, nn.Dropout) for drop in drops)
    )


def _linears(layer: Any) -> tuple[nn.Linear, ...]:
    attention = layer.attention
    heads = (attention.self.query, attention.self.key, attention.self.value)
    return (*heads, attention.output.dense, layer.intermediate.dense, layer.output.dense)


def _norms(layer: Any) -> tuple[nn.LayerNorm, ...]:
    return layer.attention.output.LayerNorm, layer.output.LayerNorm


def _skipped_modules(layer: Any) -> tuple[nn.Module, ...]:
    """Return the modules without weights, which are not called when the layer is fused."""
    attention, middle, output = layer.attention, layer.intermediate, layer.output
    drops = (attention.self.dropout, attention.output.dropout, output.dropout)
    return (attention, attention.self, attention.output, middle, middle.intermediate_act_fn, output, *drops)


def _can_fuse(layer: nn.Module, hidden_1TD: Tensor, packing: Packing) -> bool:
    if not packing.on_cpu or hidden_1TD.dtype not in _DTYPES or torch.compiler.is_compiling():
        return False
    # LoRA, pruned, quantized or hooked layers compute something else.
    parts = [*_linears(layer), *_norms(layer)]
    if any(
        type(part) not in (nn.Linear, FastLinear, nn.LayerNorm) or type(part.weight) is not nn.Parameter
        for part in parts
    ):
        return False
    return not any(has_hooks(module) for module in [*parts, *_skipped_modules(layer)])


def _weights(layer: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the weights in the order of `_Layer.forward`; matrices and their biases in `dtype`."""
    *heads, out, up, down = _linears(layer)
    first, second = _norms(layer)
    qkv = [torch.cat([linear.weight for linear in heads]), torch.cat([linear.bias for linear in heads])]
    matrices = [*qkv, out.weight, out.bias, up.weight, up.bias, down.weight, down.bias]
    norms = (first.weight, first.bias, second.weight, second.bias)
    return *(weight.to(dtype) for weight in matrices), *norms


@dataclass(frozen=True)
class _Settings:
    """The settings of a layer: attention, dropout of the hidden states, epsilon of the norms."""

    attention: GroupAttention
    dropout: tuple[float, float]
    epsilon: tuple[float, float]

    @property
    def drops(self) -> bool:
        """Whether anything is dropped."""
        return bool(self.attention.dropout or any(self.dropout))

    @classmethod
    def of(cls, layer: Any, packing: Packing) -> _Settings:
        own, first, second = layer.attention.self, layer.attention.output, layer.output
        dropout = own.dropout.p if own.training else 0.0
        attention = GroupAttention.of(packing, own.num_attention_heads, own.scaling, dropout, (-1, -1))
        first_dropout = first.dropout.p if first.training else 0.0
        second_dropout = second.dropout.p if second.training else 0.0
        return cls(attention, (first_dropout, second_dropout), (first.LayerNorm.eps, second.LayerNorm.eps))


def _infer(x_TD: Tensor, weights: Sequence[Tensor], settings: _Settings, packing: Packing) -> Tensor:
    """Return the same as `_Layer` without dropout, with tensors freed or overwritten as soon as they are used."""
    qkv, qkv_bias, out, out_bias, up, up_bias, down, down_bias, norm1, shift1, norm2, shift2 = weights
    width = x_TD.shape[1:]
    qkv_TW = linear(x_TD.to(qkv.dtype), qkv, qkv_bias)
    parts_TPHd = qkv_TW.view(len(qkv_TW), 3, settings.attention.heads, -1)
    attended_TD = attend(parts_TPHd, packing, settings.attention.scale).flatten(1)
    del qkv_TW, parts_TPHd
    sum_TD = linear(attended_TD, out, out_bias).to(x_TD.dtype).add_(x_TD)
    x1_TD = nn.functional.layer_norm(sum_TD, width, norm1, shift1, settings.epsilon[0])
    up_TF = linear(x1_TD.to(up.dtype), up, up_bias)
    sum_TD = linear(torch.ops.aten.gelu_(up_TF), down, down_bias).to(x_TD.dtype).add_(x1_TD)
    return nn.functional.layer_norm(sum_TD, width, norm2, shift2, settings.epsilon[1])


class _Layer(torch.autograd.Function):
    """`x1 = norm(x + drop(attend(x)))`, then `norm(x1 + drop(gelu(x1 @ up) @ down))`.

    The hidden states keep their dtype; matrix products and attention have that of the weights. Source: Vaswani et al.
    2017, https://arxiv.org/abs/1706.03762, with the GELU of Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        qkv: Tensor,
        qkv_bias: Tensor,
        out: Tensor,
        out_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        down: Tensor,
        down_bias: Tensor,
        norm1: Tensor,
        shift1: Tensor,
        norm2: Tensor,
        shift2: Tensor,
        settings: _Settings,
    ) -> Tensor:
        attention, dtype, width = settings.attention, qkv.dtype, x_TD.shape[1]
        # Attention
        input_TD = x_TD.to(dtype)
        qkv_TW = torch.addmm(qkv_bias, input_TD, qkv.t())
        like_THd = input_TD.view(len(x_TD), attention.heads, -1)
        attended_THd, saved = attention.forward(_take_from(qkv_TW, attention.heads), like_THd)
        attended_TD = attended_THd.view(-1, width)
        mixed_TD = torch.addmm(out_bias, attended_TD, out.t())
        sum1_TD, mask1, scale1 = _drop_and_add(x_TD, mixed_TD, settings.dropout[0])
        x1_TD, mean1, rstd1 = torch.native_layer_norm(sum1_TD, (width,), norm1, shift1, settings.epsilon[0])
        # Feed-forward
        middle_TD = x1_TD.to(dtype)
        up_TF = torch.addmm(up_bias, middle_TD, up.t())
        active_TF = nn.functional.gelu(up_TF)
        lowered_TD = torch.addmm(down_bias, active_TF, down.t())
        sum2_TD, mask2, scale2 = _drop_and_add(x1_TD, lowered_TD, settings.dropout[1])
        x2_TD, mean2, rstd2 = torch.native_layer_norm(sum2_TD, (width,), norm2, shift2, settings.epsilon[1])
        weights = (qkv, out, up, down, norm1, shift1, norm2, shift2)
        first = (input_TD, qkv_TW, attended_TD, mask1, sum1_TD, mean1, rstd1)
        second = (middle_TD, up_TF, active_TF, mask2, sum2_TD, mean2, rstd2)
        ctx.save_for_backward(*weights, *first, *second, *saved.tensors)
        ctx.settings, ctx.saved, ctx.scales = settings, saved.without_tensors(), (scale1, scale2)
        return x2_TD

    @staticmethod
    def backward(ctx: Any, gradient_TD: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # only read once: with recomputation every read would compute them again
        qkv, out, up, down, norm1, shift1, norm2, shift2 = tensors[:8]
        input_TD, qkv_TW, attended_TD, mask1, sum1_TD, mean1, rstd1 = tensors[8:15]
        middle_TD, up_TF, active_TF, mask2, sum2_TD, mean2, rstd2 = tensors[15:22]
        attention, (scale1, scale2) = ctx.settings.attention, ctx.scales
        needed = ctx.needs_input_grad
        # Feed-forward
        d_sum2_TD, *d_norm2 = _norm_backward(gradient_TD, sum2_TD, mean2, rstd2, norm2, shift2, needed[11:13])
        d_lowered_TD = _drop_backward(d_sum2_TD, down.dtype, mask2, scale2)
        d_up_TF = torch.ops.aten.gelu_backward(torch.mm(d_lowered_TD, down), up_TF)
        d_down = _linear_backward(d_lowered_TD, active_TF, needed[7:9])
        d_up = _linear_backward(d_up_TF, middle_TD, needed[5:7])
        # In place: d_lowered may share its memory, and is not needed any more.
        d_x1_TD = d_sum2_TD.add_(torch.mm(d_up_TF, up))
        # Attention
        d_sum1_TD, *d_norm1 = _norm_backward(d_x1_TD, sum1_TD, mean1, rstd1, norm1, shift1, needed[9:11])
        d_mixed_TD = _drop_backward(d_sum1_TD, out.dtype, mask1, scale1)
        d_out = _linear_backward(d_mixed_TD, attended_TD, needed[3:5])
        d_attended_TD = torch.mm(d_mixed_TD, out)
        d_qkv_TW = torch.empty_like(qkv_TW)
        d_qkv_TPHd = d_qkv_TW.view(len(qkv_TW), 3, attention.heads, -1)

        def put(group: Group, padded_3btd: Tensor) -> None:
            put_rows(d_qkv_TPHd, group, padded_3btd, group.scatter_index(attention.heads, 3))

        d_attended_THd, attended_THd = (
            each.view(len(each), attention.heads, -1) for each in (d_attended_TD, attended_TD)
        )
        saved = ctx.saved.with_tensors(tensors[22:])
        attention.backward(_take_from(qkv_TW, attention.heads), put, d_attended_THd, attended_THd, saved)
        d_qkv_TW[attention.tokens :] = 0
        d_qkv = _linear_backward(d_qkv_TW, input_TD, needed[1:3])
        d_x_TD = None
        if needed[0]:
            d_x_TD = d_sum1_TD.add_(torch.mm(d_qkv_TW, qkv))
        return d_x_TD, *d_qkv, *d_out, *d_up, *d_down, *d_norm1, *d_norm2, None


def _take_from(qkv_TW: Tensor, heads: int) -> Callable[[Group], Sequence[Tensor]]:
    """Return a function that returns the padded queries, keys and values of a group, `(b, t, d)` each."""
    rows_Rd = qkv_TW.view(len(qkv_TW) * 3 * heads, -1)

    def take(group: Group) -> Sequence[Tensor]:
        padded = rows_Rd.index_select(0, group.gather_index(heads, 3))
        return padded.view(3, -1, group.longest, rows_Rd.shape[1]).unbind()

    return take


def _drop_and_add(x_TD: Tensor, change_TD: Tensor, p: float) -> tuple[Tensor, Tensor | None, float]:
    """Return `x + dropout(change)`, the mask of kept elements, and their scale; `change` is overwritten."""
    if not p:
        return x_TD + change_TD, None, 1.0
    mask, scale = keep_mask(change_TD.shape, p)
    return torch.add(x_TD, keep_(change_TD, mask), alpha=scale), mask, scale


def _drop_backward(gradient_TD: Tensor, dtype: torch.dtype, mask: Tensor | None, scale: float) -> Tensor:
    if mask is None:
        return gradient_TD.to(dtype)
    return keep_(gradient_TD.to(dtype, copy=True), mask).mul_(scale)


def _norm_backward(
    gradient_TD: Tensor,
    sum_TD: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of the normalized tensor, and of weight and bias if needed."""
    gradients: tuple[Tensor, Tensor | None, Tensor | None] = torch.ops.aten.native_layer_norm_backward(
        gradient_TD.contiguous(), sum_TD, list(weight.shape), mean, rstd, weight, bias, [True, *needed]
    )
    return gradients


def _linear_backward(gradient: Tensor, values: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a matrix and its bias, each if needed."""
    d_weight = torch.mm(gradient.t(), values) if needed[0] else None
    d_bias = gradient.sum(0) if needed[1] else None
    return d_weight, d_bias

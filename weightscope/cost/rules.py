"""What each operator costs: a dictionary that a user extends by adding an entry."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeAlias

import torch
from torch import nn

from weightscope.adapters import pytree
from weightscope.adapters.schemas import is_mutable, is_pointwise, returns_views_only, schema_name

Rule: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any], Any], int]


def _convolution(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Positions x kernel weights that each touches.

    A convolution applies its whole kernel at every output position; a transposed one at every
    input position. Grouping is in the weight's shape already.
    """
    given, weight, transposed = args[0], args[1], args[6]
    places = given if transposed else out
    return int(places.shape[0] * prod(places.shape[2:]) * weight.numel())


def _mm(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[1].shape[-1])


def _attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Scores (B H Nq Nk D) and their product with the values (B H Nq Nk Dv); softmax is free."""
    query, key, value = args[:3]
    pairs = prod(query.shape[:-1]) * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


def _multi_head_attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    query, key, value, width = args[:4]
    batch, length = query.shape[0], query.shape[1]
    projections = batch * width * width * (2 * length + key.shape[1] + value.shape[1])
    return int(projections + 2 * batch * length * key.shape[1] * width)


def _encoder_layer(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    source, width = args[0], args[1]
    batch, length = source.shape[0], source.shape[1]
    weights = sum(t.numel() for t in args if isinstance(t, nn.Parameter) and t.dim() == 2)
    return int(batch * length * weights + 2 * batch * length * length * width)


def _recurrent(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Every weight matrix once per step and sample."""
    steps = args[0].shape[0] * args[0].shape[1]
    weights = pytree.tree_leaves(args[1:])
    matrices = [t for t in weights if isinstance(t, nn.Parameter) and t.dim() == 2]
    return int(steps * sum(t.numel() for t in matrices))


def _all(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(args[0].numel())


def _second(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(args[1].numel())


_RULES: Mapping[str, Rule] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "mm": _mm,
    "addmm": _addmm,
    "bmm": _mm,
    "baddbmm": _addmm,
    "mv": _all,
    "addmv": _second,
    "dot": _all,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_native_multi_head_attention": _multi_head_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _recurrent,
}
MAC_RULES: Mapping[Any, Rule] = types.MappingProxyType(
    {getattr(torch.ops.aten, name): rule for name, rule in _RULES.items()}
)
"""Multiply-accumulates by operator: ``rule(args, kwargs, out) -> int`` sees the operator's
arguments and result (tensors without numbers) as the dispatcher does. Keys are operators
(``torch.ops.aten.convolution``) or their overloads (``torch.ops.aten.add.Tensor``)."""

_MOVEMENT = """
    _assert_async _assert_scalar _assert_tensor_metadata _local_scalar_dense _reshape_alias _to_copy
    _unsafe_index _unsafe_view argsort as_strided bucketize cat channel_shuffle clone col2im
    constant_pad_nd copy diff embedding equal flip gather im2col index index_add index_copy
    index_fill index_put index_select is_same_size item lift_fresh lift_fresh_copy masked_fill
    masked_scatter masked_select meshgrid native_channel_shuffle nonzero pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize roll rot90 scatter scatter_add
    scatter_reduce searchsorted select_scatter set slice_scatter sort split_with_sizes squeeze stack
    t transpose tril triu unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze detach
    where _unique2 unique_dim
"""
_CREATION = """
    arange bernoulli empty empty_like empty_permuted empty_strided eye fill full full_like linspace
    multinomial new_empty new_empty_strided new_full new_ones new_zeros normal one_hot ones
    ones_like rand rand_like randint randn randn_like randperm scalar_tensor tril_indices
    triu_indices uniform zero zeros zeros_like
"""
_REDUCTION = """
    _log_softmax _safe_softmax _softmax all amax amin any argmax argmin bincount count_nonzero
    cummax cummin cumprod cumsum linalg_vector_norm logcumsumexp logsumexp max mean median min mode
    norm prod std std_mean sum topk var var_mean
"""
_POOLING_AND_NORMALISATION = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _batch_norm_with_update
    _fused_dropout _fused_rms_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _prelu_kernel _weight_norm_interface adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d cudnn_batch_norm fractional_max_pool2d fractional_max_pool3d
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d miopen_batch_norm
    native_batch_norm native_dropout native_group_norm native_layer_norm rrelu_with_noise
"""
_RESAMPLING = """
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
FREE = frozenset(
    " ".join((_MOVEMENT, _CREATION, _REDUCTION, _POOLING_AND_NORMALISATION, _RESAMPLING)).split()
)
"""Operators without a matrix product; like pointwise operators they count 0 in MACs."""


def is_free(operator: Any) -> bool:
    """Whether an operator without a rule costs nothing by convention."""
    namespace, _, name = schema_name(operator).partition("::")
    if namespace in ("prim", "prims"):
        return True
    if namespace != "aten":
        return False
    if returns_views_only(operator):
        return True
    plain = name.removesuffix("_") if is_mutable(operator) else name
    return plain in FREE or is_pointwise(f"aten::{plain}")

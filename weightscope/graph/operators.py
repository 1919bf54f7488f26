"""What operators do: the one table that levels, stages, receptive fields, re-cuts and costs read.

A row says, for every operator of one name, with how its result relates to its inputs:

- ``layout``: where the channels of its result lie, where the operator itself says so;
- ``raises``: whether its result has more positions than its input, by its purpose;
- ``kernel``: whether it multiplies an image by weights, as a layer with a kernel does;
- ``mode``: which argument follows the ``train()``/``eval()`` flag of the module that calls it;
- ``view``: how far one value of its result looks (``receptive_field.py`` has the arithmetic);
- ``channels``: how a changed number of channels passes through it
  (``truncation/channels.py`` has the arithmetic);
- ``macs``: what it costs when it runs (``cost/rules.py`` has the formulas).

Names are those of the operators' schemas, without the underscore of those that work in place. What
torch tags as pointwise needs no row. An operator without a row has the level of its input and an
unknown view, refuses a change of channels, and is reported as not counted.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from weightscope.adapters.schemas import is_pointwise

Layout = Literal["channels_first", "channels_last"]
View = Literal[
    "same",  # one value sees what the values at its place see
    "none",  # makes something new that sees nothing
    "window",  # slides a kernel, that of a pooling or of patches
    "convolution",  # slides its weights; spreads them, where it is transposed
    "spread",  # adds up windows that lie on a grid: col2im
    "unpool",  # puts values where a pooling found them
    "adaptive",  # divides the image into as many windows as the result is large
    "resize",  # interpolates
    "shuffle",  # channels to positions
    "unshuffle",  # positions to channels
    "slice",
    "pad",
    "roll",
    "cat",
    "permute",
    "reshape",
    "unfold",  # windows along one axis, laid out along a new last one
    "scatter",  # writes one tensor into a slice of another
    "after",  # shows a tensor after something was written into it, or into a slice of it
    "along",  # mixes the values along some dimensions: a mean, a softmax, a sum so far
    "linear",  # mixes the last dimension
    "product",  # mixes all positions where both factors come from the image
    "whole",  # every value may see the whole image
]
Channels = Literal[
    "convolution",
    "linear",
    "norm",
    "layer_norm",
    "prelu",
    "cat",
    "permute",
    "reshape",
    "positions",
    "reduction",
    "pointwise",
]
Macs = Literal[
    "free",
    "convolution",
    "matrix product",
    "matrix product of the second",
    "first elements",
    "second elements",
    "attention",
    "multi-head attention",
    "encoder layer",
    "recurrent",
]


@dataclass(frozen=True)
class Operator:
    """One row of the table; see the module for the meaning of each column.

    Attributes:
        layout: None where the result's layout is that of its input.
        raises: Whether it raises the resolution.
        kernel: Whether it multiplies by weights.
        mode: Name of the argument that follows the train flag.
        view: None where it is not known.
        channels: None where a change of channels cannot pass.
        macs: None where its cost is not known; what is composed of other operators runs as these.
        spectrum: ``half`` where it makes the spectrum of real numbers, which has half of their
            positions, ``back`` where it makes numbers of one.
    """

    layout: Layout | None = None
    raises: bool = False
    kernel: bool = False
    mode: str | None = None
    view: View | None = None
    channels: Channels | None = None
    macs: Macs | None = None
    spectrum: Literal["half", "back"] | None = None


_FIRST: Layout = "channels_first"
_LAST: Layout = "channels_last"
POINTWISE = Operator(view="same", channels="pointwise", macs="free")

_ROWS: tuple[tuple[str, Operator], ...] = (
    # --- layers ---------------------------------------------------------------------------------
    (
        "conv1d conv2d conv3d",
        Operator(_FIRST, kernel=True, view="convolution", channels="convolution"),
    ),
    (
        "convolution _convolution",
        Operator(_FIRST, kernel=True, view="convolution", macs="convolution"),
    ),
    (
        "conv_transpose1d conv_transpose2d conv_transpose3d",
        Operator(_FIRST, raises=True, kernel=True, view="convolution", channels="convolution"),
    ),
    ("torchvision::deform_conv2d", Operator(_FIRST, kernel=True, view="whole")),
    ("linear", Operator(_LAST, kernel=True, view="linear", channels="linear")),
    ("mm bmm _scaled_mm", Operator(kernel=True, view="product", macs="matrix product")),
    (
        "addmm baddbmm addbmm",
        Operator(kernel=True, view="product", macs="matrix product of the second"),
    ),
    ("matmul einsum tensordot inner chain_matmul", Operator(kernel=True, view="product")),
    ("mv dot vdot", Operator(kernel=True, view="product", macs="first elements")),
    ("addmv", Operator(kernel=True, view="product", macs="second elements")),
    ("embedding", Operator(view="same", macs="free")),
    # --- normalisation, whose statistics are not part of a view -----------------------------------
    (
        "batch_norm",
        Operator(_FIRST, mode="training", view="same", channels="norm", macs="free"),
    ),
    (
        "instance_norm",
        Operator(_FIRST, mode="use_input_stats", view="same", channels="norm", macs="free"),
    ),
    ("group_norm", Operator(_FIRST, view="same", channels="norm", macs="free")),
    (
        "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit"
        " _native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update"
        " native_group_norm",
        Operator(_FIRST, view="same", macs="free"),
    ),
    (
        "layer_norm rms_norm",
        Operator(_LAST, view="same", channels="layer_norm", macs="free"),
    ),
    ("native_layer_norm _fused_rms_norm", Operator(_LAST, view="same", macs="free")),
    ("_weight_norm_interface _weight_norm", Operator(view="same", macs="free")),
    (
        "prelu _prelu_kernel",
        Operator(_FIRST, view="same", channels="prelu", macs="free"),
    ),
    # --- activation and dropout that torch does not tag as pointwise -----------------------------
    ("leaky_relu", POINTWISE),  # torch 2.9 does not
    (
        "hardswish type_as to _to_copy contiguous alias lift_fresh_copy lift_fresh real",
        POINTWISE,
    ),
    ("detach detach_copy", POINTWISE),
    ("rrelu rrelu_with_noise", Operator(view="same", mode="training", macs="free")),
    (
        "dropout feature_dropout alpha_dropout feature_alpha_dropout",
        Operator(mode="train", view="same", channels="pointwise", macs="free"),
    ),
    ("native_dropout _fused_dropout", Operator(view="same", macs="free")),
    ("glu", Operator(view="same", macs="free")),
    # --- pooling and resampling -------------------------------------------------------------------
    (
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices"
        " max_pool3d_with_indices max_pool1d_with_indices",
        Operator(_FIRST, view="window", channels="pointwise", macs="free"),
    ),
    (
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d"
        " adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d"
        " weightscope::fitted_average weightscope::fitted_maximum",
        Operator(_FIRST, view="adaptive", channels="pointwise", macs="free"),
    ),
    ("fractional_max_pool2d fractional_max_pool3d", Operator(_FIRST, macs="free")),
    (
        "max_unpool2d max_unpool3d",
        Operator(_FIRST, raises=True, view="unpool", macs="free"),
    ),
    (
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d"
        " _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d"
        " upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
        " weightscope::resized",
        Operator(_FIRST, raises=True, view="resize", channels="pointwise", macs="free"),
    ),
    (
        "grid_sampler grid_sampler_2d grid_sampler_3d",
        Operator(_FIRST, raises=True, view="whole", macs="free"),
    ),
    ("pixel_shuffle", Operator(_FIRST, raises=True, view="shuffle", macs="free")),
    ("pixel_unshuffle", Operator(_FIRST, view="unshuffle", macs="free")),
    ("im2col", Operator(_FIRST, view="window", macs="free")),
    ("col2im", Operator(_FIRST, raises=True, view="spread", macs="free")),
    ("channel_shuffle native_channel_shuffle", Operator(_FIRST, view="same", macs="free")),
    # --- moving values --------------------------------------------------------------------------
    ("cat concat concatenate", Operator(view="cat", channels="cat", macs="free")),
    ("stack hstack vstack dstack meshgrid broadcast_tensors", Operator(view="same", macs="free")),
    (
        "permute transpose movedim swapaxes swapdims t numpy_T mT adjoint",
        Operator(view="permute", channels="permute", macs="free"),
    ),
    (
        "flatten unflatten view reshape _unsafe_view _reshape_alias view_as reshape_as resize",
        Operator(view="reshape", channels="reshape", macs="free"),
    ),
    (
        "squeeze unsqueeze select expand expand_as repeat tile repeat_interleave unbind"
        " broadcast_to atleast_1d atleast_2d atleast_3d",
        Operator(view="reshape", macs="free"),
    ),
    ("unfold", Operator(view="unfold", macs="free")),
    ("slice", Operator(view="slice", channels="positions", macs="free")),
    ("narrow", Operator(view="slice")),
    (
        "split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split"
        " unsafe_split_with_sizes",
        Operator(view="same", macs="free"),
    ),
    ("pad constant_pad_nd", Operator(view="pad", channels="positions", macs="free")),
    (
        "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d"
        " replication_pad3d",
        Operator(view="pad", macs="free"),
    ),
    ("roll", Operator(view="roll", macs="free")),
    ("slice_scatter select_scatter", Operator(view="scatter", macs="free")),
    ("copy", Operator(view="same", macs="free")),
    (
        "flip rot90 gather scatter scatter_add scatter_reduce index index_add index_copy index_fill"
        " index_put index_select masked_scatter masked_select take take_along_dim _unsafe_index"
        " as_strided fft_fft2 fft_ifft2",
        Operator(view="whole", macs="free"),
    ),
    ("fft_rfft2", Operator(view="whole", macs="free", spectrum="half")),
    ("fft_irfft2", Operator(view="whole", macs="free", spectrum="back")),
    ("diff tril triu searchsorted bucketize one_hot", Operator(view="whole", macs="free")),
    # --- reductions -----------------------------------------------------------------------------
    (
        "mean sum amax amin var std linalg_vector_norm norm",
        Operator(view="along", channels="reduction", macs="free"),
    ),
    (
        "max min median mode prod logsumexp argmax argmin all any count_nonzero var_mean std_mean"
        " softmax log_softmax _softmax _log_softmax _safe_softmax cumsum cumprod cummax"
        " cummin logcumsumexp topk sort argsort nanmean nansum aminmax",
        Operator(view="along", macs="free"),
    ),
    ("bincount histc _unique2 unique_dim nonzero", Operator(view="whole", macs="free")),
    (
        "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy"
        " binary_cross_entropy_with_logits nll_loss_forward nll_loss2d_forward kl_div",
        Operator(view="whole", macs="free"),
    ),
    # --- attention, recurrence, transforms -----------------------------------------------------
    ("scaled_dot_product_attention", Operator(view="whole")),
    (
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"
        " _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
        " _scaled_dot_product_fused_attention_overrideable",
        Operator(view="whole", macs="attention"),
    ),
    ("_native_multi_head_attention", Operator(view="whole", macs="multi-head attention")),
    ("_transformer_encoder_layer_fwd", Operator(view="whole", macs="encoder layer")),
    ("lstm gru rnn_tanh rnn_relu", Operator(view="whole")),
    (
        "weightscope::lstm weightscope::gru weightscope::rnn_tanh weightscope::rnn_relu",
        Operator(kernel=True, mode="train", view="whole", macs="recurrent"),
    ),
    ("mkldnn_rnn_layer _cudnn_rnn", Operator(view="whole", macs="recurrent")),
    (
        "fft_fft fft_ifft fft_fftn fft_ifftn fft_fftshift fft_ifftshift _fft_c2c stft istft"
        " weightscope::istft",
        Operator(view="whole"),
    ),
    ("fft_rfft fft_rfftn _fft_r2c", Operator(view="whole", spectrum="half")),
    ("fft_irfft fft_irfftn _fft_c2r", Operator(view="whole", spectrum="back")),
    ("complex imag log_sigmoid log_sigmoid_forward", POINTWISE),
    ("view_as_real view_as_complex", Operator(view="same", macs="free")),
    # --- what makes tensors from nothing, asks, or asserts ---------------------------------------
    (
        "arange bernoulli empty empty_like empty_permuted empty_strided eye fill full full_like"
        " linspace weightscope::linspace weightscope::numpy_linspace multinomial new_empty"
        " new_empty_strided new_full new_ones new_zeros normal ones ones_like rand rand_like"
        " randint randn randn_like randperm"
        " scalar_tensor tril_indices triu_indices uniform zero zeros zeros_like set",
        Operator(view="none", macs="free"),
    ),
    (
        "sym_size sym_numel sym_stride sym_storage_offset _assert_async _assert_scalar item equal"
        " _local_scalar_dense _assert_tensor_metadata is_same_size sym_constrain_range"
        " sym_constrain_range_for_size",
        Operator(view="none", macs="free"),
    ),
    (
        "weightscope::average weightscope::maximum",
        Operator(_FIRST, view="window", channels="pointwise", macs="free"),
    ),
    ("weightscope::boundary", POINTWISE),
    ("weightscope::after", Operator(view="after")),
)


ATTENDS = ("product", "whole")
"""Views of operators by which queries attend to keys and values."""

RESHAPES = ("aten::reshape", "aten::view", "aten::_unsafe_view")
"""Give a tensor other axes in the same order of its numbers."""

SAMPLES = ("aten::grid_sampler", "aten::grid_sampler_2d", "aten::grid_sampler_3d")
"""Take of a map what lies at given places."""

BACK_TO_SAMPLES = ("aten::istft", "weightscope::istft")
"""Make a signal of the spectra of its pieces, which overlap."""

REARRANGES = (
    *("aten::reshape", "aten::view", "aten::flatten", "aten::unflatten"),
    *("aten::permute", "aten::transpose", "aten::contiguous", "aten::clone"),
)
"""Give a tensor other axes, or its numbers another order."""


def _named(names: str, row: Operator) -> Mapping[str, Operator]:
    return {name if "::" in name else f"aten::{name}": row for name in names.split()}


OPERATORS: Mapping[str, Operator] = types.MappingProxyType(
    {name: row for names, row in _ROWS for name, row in _named(names, row).items()}
)
"""The row of each operator by its name, ``"aten::conv2d"``."""

UNKNOWN = Operator()
"""Stands for an operator without a row: nothing is known."""


def facts(name: str) -> Operator:
    """The row of an operator, or ``UNKNOWN``.

    Args:
        name: Namespace and name, without the underscore of what works in place.
    """
    row = OPERATORS.get(name)
    if row is None:
        row = POINTWISE if is_pointwise(name) else UNKNOWN
    return row

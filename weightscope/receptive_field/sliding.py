"""Operators whose result sees a window of their input, or is resized from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

from torch import Tensor, fx

from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.graph.nodes import arguments, first_tensor, operator_of, tensor_of
from weightscope.receptive_field import spans
from weightscope.receptive_field.seen import (
    Call,
    Seen,
    counted,
    in_order,
    listed,
    placed,
    rank_of,
    sizes,
)
from weightscope.receptive_field.spans import UNKNOWN, WHOLE, Resizing


def window(call: Call) -> Seen:
    """Pooling and the layout of patches."""
    seen = counted(call)
    n = len(seen.views)
    if rank_of(call) != n:
        return seen.all(WHOLE)  # it slides over folded dimensions: frames of a film, channels
    if any(_grows(call, kernel) for kernel in listed(call.args["kernel_size"])):
        return placed(call, seen.all(WHOLE))
    kernel = call.each("kernel_size", n)
    stride = call.each("stride", n) if call.args.get("stride") else kernel
    dilation = call.each("dilation", n) if "dilation" in call.args else (1,) * n
    padding = call.each("padding", n) if "padding" in call.args else (0,) * n
    settings = (kernel, stride, dilation, padding)
    patches = replace(seen, patches=tuple(in_order(seen, setting) for setting in settings))
    is_layout = operator_of(call.node) == "aten::im2col"
    return placed(call, patches if is_layout else patches.mixed())


def _grows(call: Call, kernel: Any) -> bool:
    """Whether a window is as large as the image, or follows its size."""
    value = kernel.meta["val"] if isinstance(kernel, fx.Node) else kernel
    if is_symbolic(value):
        return True
    sizes = [hint(s) for s in cast(Tensor, tensor_of(call.main)).shape[2:]]
    whole = call.args["kernel_size"]
    numbers = [call.number(v) for v in listed(whole)]
    return call.number(kernel) > 1 and numbers in (sizes, sizes[:1] if len(set(sizes)) == 1 else [])


def convolution(call: Call) -> Seen:
    """A convolution or a transposed one."""
    weight = first_tensor(call.args["weight"])
    assert weight is not None
    seen = counted(call)
    kernel = tuple(int(s) for s in weight.shape[2:])
    n = len(seen.views)
    if len(kernel) != n:  # a convolution over tokens or over folded dimensions
        return placed(call, seen.all(WHOLE) if any(k > 1 for k in kernel) else seen)
    name = operator_of(call.node)
    transposed = "transpose" in name or call.args.get("transposed", False)
    dilation = call.each("dilation", n)
    same = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    named = {"same": same, "valid": (0,) * n}
    padding = call.args["padding"]
    pads = named[padding] if isinstance(padding, str) else call.each("padding", n)
    slide = spans.spread if transposed else spans.window
    settings = [in_order(seen, s) for s in (kernel, call.each("stride", n), dilation, pads)]
    views = tuple(slide(*setting) for setting in zip(seen.views, *settings, strict=True))
    return placed(call, replace(seen, views=views))


def spread(call: Call) -> Seen:
    """Patches that are added up where they came from (a fold)."""
    seen = call.together
    n = len(seen.views)
    if n != 2:
        return seen.all(WHOLE)
    names = ("kernel_size", "stride", "dilation", "padding")
    settings = tuple(call.each(name, n) for name in names)
    if settings == seen.patches:  # every value goes back to where it was
        return placed(call, replace(seen, patches=()))
    views = tuple(
        spans.spread(*setting) for setting in zip(seen.mixed().views, *settings, strict=True)
    )
    return placed(call, replace(seen, views=views, patches=()))


def unpool(call: Call) -> Seen:
    """Values come back to where the pooling found them, anywhere in its window."""
    pool = call.args["indices"]
    while isinstance(pool, fx.Node) and pool.all_input_nodes and not _is_pool(pool):
        pool = pool.all_input_nodes[0]
    seen = counted(call)
    if not _is_pool(pool):
        return placed(call, seen.all(UNKNOWN))
    n = len(seen.views)
    settings = Call(pool, arguments(pool), call.given)
    kernel = settings.each("kernel_size", n)
    stride = settings.each("stride", n) if settings.args["stride"] else kernel
    rest = (stride, settings.each("dilation", n), settings.each("padding", n))
    every = zip(seen.views, kernel, *rest, strict=True)
    return placed(call, replace(seen, views=tuple(spans.spread(*setting) for setting in every)))


def _is_pool(node: Any) -> bool:
    return isinstance(node, fx.Node) and "max_pool" in operator_of(node)


def adaptive(call: Call) -> Seen:
    """Pooling to a fixed size sees the whole; to a share of the input's size, a window."""
    seen = counted(call)
    views = []
    for view, before, after in sizes(call, seen):
        if hint(before) == hint(after):
            views.append(view)
        elif not is_symbolic(after):
            views.append(WHOLE)
        else:
            ratio = Resizing.of(view, hint(before), hint(after)).ratio
            views.append(spans.read(view, ratio, _share(ratio)))
    return placed(call, replace(seen, views=tuple(views)))


def _share(ratio: Fraction) -> Callable[[int], Iterable[int]]:
    return lambda i: range(math.floor(i * ratio), math.ceil((i + 1) * ratio))


def resize(call: Call) -> Seen:
    """Interpolation to another size."""
    seen = counted(call)
    if rank_of(call) != len(seen.views):
        return seen.all(WHOLE)
    name = operator_of(call.node)
    views = []
    for view, before, after in sizes(call, seen):
        if not is_symbolic(after) and is_symbolic(before):
            views.append(WHOLE)  # to a fixed size, from any
            continue
        if hint(before) == hint(after) or not view.is_finite:
            views.append(view)
            continue
        resizing = Resizing.of(view, hint(before), hint(after))
        views.append(spans.read(view, resizing.ratio, _neighbours(name, resizing)))
    return placed(call, replace(seen, views=tuple(views)))


def _neighbours(name: str, resizing: Resizing) -> Callable[[int], Iterable[int]]:
    """The values that an interpolation reads, with the pixels' centres at half a pixel.

    Where corners are aligned instead, the same holds at the image's centre, and nothing larger
    elsewhere.
    """
    half, ratio, place = Fraction(1, 2), resizing.ratio, resizing.place
    if "exact" in name:
        return lambda i: (math.floor(place(i) + half),)
    if "nearest" in name:
        return lambda i: (math.floor(i * ratio + resizing.drift),)
    reach = 2 if "cubic" in name else 1
    if name.endswith("_aa") and ratio > 1:
        support = reach * ratio

        def antialiased(i: int) -> Iterable[int]:
            centre = (i + half) * ratio
            return range(math.floor(centre - support + half), math.floor(centre + support + half))

        return antialiased

    def reads(i: int) -> Iterable[int]:
        first = math.floor(place(i))
        return (first,) if place(i) == first else range(first + 1 - reach, first + 1 + reach)

    return reads


def shuffle(call: Call) -> Seen:
    """Channels that become positions."""
    factor = call.number(call.args["upscale_factor"])
    seen = counted(call)
    views = tuple(spans.repeated(v, factor) for v in seen.views)
    return placed(call, replace(seen, views=views) if len(views) == 2 else seen.all(WHOLE))


def unshuffle(call: Call) -> Seen:
    """Positions that become channels."""
    factor = call.number(call.args["downscale_factor"])
    seen = counted(call)
    views = tuple(spans.window(v, factor, factor) for v in seen.views)
    return placed(call, replace(seen, views=views) if len(views) == 2 else seen.all(WHOLE))

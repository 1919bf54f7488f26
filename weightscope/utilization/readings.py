"""What a network's outputs and the targets are: classes or numbers, logits or probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.adapters.symbols import hint
from weightscope.batches import Batch, first_image, split_images
from weightscope.calls import (
    device_of,
    forward_errors,
    own_arguments,
    to_device,
    undisturbed,
)
from weightscope.errors import InputError, keyword
from weightscope.graph.nodes import operator_of, tensor_of
from weightscope.graph.structure import Structure
from weightscope.utilization.answers import ChannelRange
from weightscope.utilization.targets import (
    by_channel,
    is_mask,
    is_prediction,
    marked,
    marks_in,
    matching,
)
from weightscope.utilization.values import ValueMetric, on_device

SHARING = ("aten::sigmoid", "aten::hardsigmoid", "aten::softmax", "aten::_softmax")
"""Operators whose results are probabilities."""

STEEPNESS = (1.0, 4.0, 16.0)
"""Logits of a right answer that are tried: labels that are smoothed want no large ones."""


def are_classes(targets: Sequence[Any], dimensions: int, answer: Any) -> bool:
    """Whether targets are classes: masks, or class numbers, in one channel or without any.

    Whole numbers are class numbers only where the network answers with a channel for each class.
    Where it gives one number for each of theirs, they are counts, ranks or grey values.

    Args:
        targets: For each batch, a tensor or a container of tensors.
        dimensions: Number of spatial dimensions of the images.
        answer: What the network returned for the first image.
    """
    leaves, predictions = pytree.tree_tensors(targets), _predictions(answer)
    axes = max((_extended(p) for p in predictions), default=0)
    channels = max((hint(p.shape[1]) for p in predictions if p.dim() > 1), default=0)
    return bool(leaves) and all(
        is_mask(leaf) or (_are_class_numbers(leaf, dimensions, channels) and _extended(leaf) < axes)
        for leaf in leaves
    )


def _are_class_numbers(target: Tensor, dimensions: int, channels: int) -> bool:
    """Whether numbers may be those of classes; floats only in one channel, as loaders yield them.

    Args:
        target: (images, *sizes), or with a channel of one.
        dimensions: How many sizes.
        channels: Of the network's answer; a float must be the number of one of them, or a mark.
    """
    if target.dim() == dimensions + 1:
        return not target.is_floating_point()
    in_one = target.dim() == dimensions + 2 and target.shape[1] == 1 and not target.is_complex()
    if not in_one or channels < 2:
        return False
    known = target[~marked(target)]
    named = (known == known.round()) & (known >= 0) & (known < channels)
    return not target.is_floating_point() or bool(named.all())


def drowns_what_is_rare(
    structure: Structure, batches: Sequence[Batch], metric: Callable[[Any, Any], Any]
) -> bool:
    """Whether a callable seems to be a mean over pixels of classes.

    Args:
        structure: The network.
        batches: ``(inputs, targets)`` pairs, of which the first is looked at.
        metric: The callable.
    """
    targets = [target for _, target in batches]
    asked, outputs = ValueMetric(metric), _answer(structure, batches[0][0])
    if not are_classes(targets, structure.inputs.dimensions, outputs):
        return False
    with asked.kept():
        return is_mean_over_pixels(
            asked, outputs, on_device(targets[0], device_of(structure.model))
        )


def is_mean_over_pixels(metric: ValueMetric, outputs: Any, targets: Any) -> bool:
    """Whether a metric seems to be a mean over pixels, in which a rare class drowns.

    That of a whole image is then the mean of those of its halves. A share of counts (Dice, a mean
    over classes) is not, and has no value where there is nothing to count. In doubt, as where it
    takes no half images, it is one.

    Args:
        metric: What is asked.
        outputs: For a batch.
        targets: Of it.
    """
    without = False
    for one, true in zip(split_images(outputs), split_images(targets), strict=True):
        parts = [
            pytree.tree_map(partial(_part_of, part=part), (one, true)) for part in (0, 1, None)
        ]
        try:
            left, right, both = (metric.value(a, b, "half an image") for a, b in parts)
        except InputError:
            return True
        if not math.isfinite(left + right + both):
            without = True  # as a share of what there is in a half
        elif abs(left - right) > 1e-3 * abs(both):  # what is alike everywhere tells nothing
            # a share of counts of halves that are much alike is nearly their mean, too
            return abs(both - (left + right) / 2.0) < 2e-3 * abs(left - right)
    return not without


def _part_of(value: Any, part: int | None) -> Any:
    """One half of an image along its last axis, or both of one length."""
    if not isinstance(value, Tensor) or value.dim() < 3:
        return value
    half = value.shape[-1] // 2
    return value[..., : 2 * half] if part is None else value[..., part * half : (part + 1) * half]


def are_constant(targets: Sequence[Any], dimensions: int, ignored: Collection[Any] = ()) -> bool:
    """Whether all targets are the same everywhere, channel by channel: a constant answers them.

    Args:
        targets: For each batch, a tensor or a container of tensors.
        dimensions: Number of spatial dimensions of the images.
        ignored: Values that do not count; nan never does.
    """
    seen: dict[tuple[int, int], float] = {}
    for target in targets:
        for place, leaf in enumerate(pytree.tree_tensors(target)):
            if leaf.is_complex():
                return False
            channels = leaf.dim() == 2 or leaf.dim() == dimensions + 2
            for channel, row in enumerate(by_channel(leaf) if channels else leaf.reshape(1, -1)):
                counts = ~row.isnan() if row.is_floating_point() else torch.ones_like(row).bool()
                for value in ignored:
                    counts &= row != value
                if not bool(counts.any()):
                    continue
                ends = row[counts].to(row.dtype if row.dtype != torch.bool else torch.uint8)
                least, most = float(ends.min()), float(ends.max())
                if least != most or seen.setdefault((place, channel), least) != least:
                    return False
    return bool(seen)


def ends_in_shares(structure: Structure) -> bool:
    """Whether each output comes from a sigmoid or a softmax, through nothing that adds to it."""
    *_, output = structure.program.graph.nodes
    ends = [node for node in output.all_input_nodes if tensor_of(node) is not None]
    for node in ends:
        before = [node]
        while len(before) == 1 and operator_of(before[0]) not in SHARING:
            before = [n for n in before[0].all_input_nodes if tensor_of(n) is not None]
        if len(before) != 1:
            return False
    return bool(ends)


def logits_note(structure: Structure, batches: Sequence[Batch], judge: object, name: str) -> str:
    """What `note_on_logits` says of a loss or a metric, where the network ends in probabilities.

    Args:
        structure: The network.
        batches: ``(inputs, targets)`` pairs.
        judge: What judges them; names are none.
        name: Of the argument that it was given as.
    """
    if not callable(judge) or not ends_in_shares(structure):
        return ""
    targets = split_images(batches[0][1])[0]
    return note_on_logits(judge, first_answer(structure, batches), targets, name)


def first_answer(structure: Structure, batches: Sequence[Batch]) -> Any:
    """What the network returns for the first image of the batches."""
    return _answer(structure, first_image(batches))


def _answer(structure: Structure, inputs: Any) -> Any:
    """What the network returns for inputs of the first batch."""
    model = structure.model
    inputs = to_device(inputs, model)
    args, kwargs = own_arguments(inputs, model)
    with undisturbed(model), torch.no_grad(), forward_errors(model, inputs, "batch 0"):
        return model(*args, **kwargs)


def note_on_logits(
    judge: Callable[[Any, Any], Any], answer: Any, targets: Any, name: str = "loss"
) -> str:
    """What must be said where outputs are probabilities and the loss takes them for logits.

    Asked of the loss itself, so that any function will do: by a loss of probabilities the right
    answer, written as probabilities, costs nothing; by a loss of logits it costs a good part of
    what the wrong answer does, and less if it is written as logits. By a metric of which more is
    better the right answer is worth more than the wrong one; of those nothing is said.

    Args:
        judge: ``loss(outputs, targets)``, a function, a loss or a metric object; left as it was.
        answer: What the network returned for an image.
        targets: Of that image.
        name: Of the argument that it was given as.

    Returns:
        A sentence; empty where nothing is wrong, or where the loss does not tell.
    """
    # not on a graphics card, where a loss that refuses its input ends the process
    answer, targets = (on_device(tree, torch.device("cpu")) for tree in (answer, targets))
    found = _predictions(answer)
    if not found or not all(_are_shares(leaf) for leaf in found):
        return ""
    leaves, spec = pytree.tree_flatten(answer)
    right = [right_answer(leaf, targets) if is_prediction(leaf) else None for leaf in leaves]
    if any(r is None and is_prediction(leaf) for r, leaf in zip(right, leaves, strict=True)):
        return ""

    def cost(read: Callable[[Tensor], Tensor]) -> float:
        made = [None if r is None else read(r) for r in right]
        return _cost(metric, leaves, made, spec, targets, name)

    try:
        metric = ValueMetric(judge)
        with torch.no_grad(), metric.kept():
            as_shares, wrong = cost(lambda r: r), cost(lambda r: 1.0 - r)
            if not 0.01 * wrong < as_shares < wrong:
                return ""
            as_logits = min(cost(lambda r, s=s: s * (2.0 * r - 1.0)) for s in STEEPNESS)  # type: ignore[misc]
    except Exception:  # noqa: BLE001 - a foreign loss may refuse what is no answer of the network
        return ""
    if not 0.0 <= as_logits < 0.8 * as_shares:
        return ""
    return (
        f"The model returns probabilities, and {keyword(name)} takes them for logits: by it even "
        f"the right answer costs {as_shares:.2g}. Give a loss of probabilities (torch.nn.BCELoss, "
        "or torch.nn.NLLLoss of their logarithms), or a model that returns logits."
    )


def reads_marks(judge: Callable[[Any, Any], Any], answer: Any, targets: Iterable[Any]) -> bool:
    """Whether a loss takes for numbers what marks positions that do not count, such as 255.

    Asked of the loss itself: what it leaves out does not change with the outputs there.

    Args:
        judge: ``loss(outputs, targets)``; left as it was.
        answer: What the network returned for an image.
        targets: Of each image.
    """
    answer = on_device(answer, torch.device("cpu"))
    leaves, spec = pytree.tree_flatten(answer)
    shares = all(map(_are_shares, _predictions(answer)))
    middle, *ends = (0.5, 0.999, 0.001) if shares else (0.0, 100.0, -100.0)
    for target in targets:
        target = on_device(target, torch.device("cpu"))
        given = [matching(target, x.shape) if is_prediction(x) else None for x in leaves]
        if not marks_in([t for t in given if t is not None]):
            continue
        answers = [
            [
                None
                if t is None
                else torch.full_like(x, middle).masked_fill(marked(t) | t.isnan(), level)
                for x, t in zip(leaves, given, strict=True)
            ]
            for level in (middle, *ends)
        ]
        metric = ValueMetric(judge)
        try:
            with torch.no_grad(), metric.kept():
                values = [_cost(metric, leaves, one, spec, target, "loss") for one in answers]
        except Exception:  # noqa: BLE001 - a foreign loss may refuse what is no answer of the network
            return False
        return len(set(values)) != 1
    return False


def _cost(
    metric: ValueMetric,
    leaves: Sequence[Any],
    made: Sequence[Tensor | None],
    spec: Any,
    targets: Any,
    name: str,
) -> float:
    """What a metric makes of an answer in which some tensors are others."""
    answer = [leaf if one is None else one for leaf, one in zip(leaves, made, strict=True)]
    return metric.value(pytree.tree_unflatten(answer, spec), targets, name)


def right_answer(output: Tensor, targets: Any) -> Tensor | None:
    """The targets as probabilities in the shape of an output; None if they are no classes of it."""
    for target in pytree.tree_leaves(targets):
        if not isinstance(target, Tensor):
            continue
        if target.numel() == output.numel():
            given = target.reshape(output.shape).to(output)
            return given.nan_to_num(0.0).clamp(0.0, 1.0) if is_mask(target) else None
        channels = output.shape[1] if output.dim() > 1 else 1
        if target.numel() * channels == output.numel() and not target.is_floating_point():
            numbers = target.reshape(output.shape[0], 1, *output.shape[2:])
            classes = torch.arange(channels, device="cpu").to(target.device)
            return (numbers == classes.view(1, -1, *[1] * (output.dim() - 2))).to(output)
    return None


def _predictions(answer: Any) -> list[Tensor]:
    """The tensors of an answer that predict something."""
    return [leaf for leaf in pytree.tree_leaves(answer) if is_prediction(leaf)]


def _extended(leaf: Tensor) -> int:
    """Number of axes of an image along which there is more than one number."""
    return sum(hint(size) > 1 for size in leaf.shape[1:])


def _are_shares(leaf: Tensor) -> bool:
    """Whether all numbers lie within 0 and 1."""
    seen = ChannelRange()
    seen.add(leaf)
    return seen.within

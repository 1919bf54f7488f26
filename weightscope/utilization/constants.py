"""The constant for each channel that suits the targets best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.batches import split_images
from weightscope.errors import InputError, keyword
from weightscope.utilization.answers import (
    TINY,
    Answer,
    Constant,
    Fitted,
    Images,
    as_number,
)
from weightscope.utilization.metrics import FloatArray
from weightscope.utilization.targets import CLASSES, by_channel, is_prediction, marked, matching
from weightscope.utilization.values import ValueMetric, mean_squared_error

SATURATED = (8.0, 30.0)
"""Logits of constants that are as good as certain; the second for losses over all pixels, such as
Dice's, that a thousand small shares still disturb."""


def require_least(images: Images) -> None:
    """Refuse targets on which a loss falls without end, as a cross entropy of a label beyond 1.

    Asked of the loss itself: outputs are made large where the targets lie outside 0 and 1, or
    where they are more than 0 if none does.

    Raises:
        InputError: It does; no answer is the best one then.
    """
    for batch, chosen in images.chosen():
        ranges, leaves = images.outputs.ranges, images.outputs.leaves[batch]
        middle = {i: torch.zeros_like(own.mean) for i, own in ranges.items()}
        answers = split_images(images.outputs.constant(batch, middle))
        targets = split_images(images.targets(batch))
        known = [ranges.get(i) for i in range(len(leaves))]
        bounded = [None if own is None or own.directions else own.bounded for own in known]
        for image in chosen:
            number = falls_for(images.metric, answers[image], targets[image], bounded)
            if number is not None and 0 < number <= 1:
                raise InputError(
                    f"{images.metric.name} falls below zero without end where the outputs are large"
                    f" and the targets hold {number:g}, so that no answer is the best: it is called"
                    " with (outputs, targets); does it take them in the other order?"
                )
            if number is not None:
                raise InputError(
                    f"the targets hold {number:g}, which {images.metric.name} takes for a number: "
                    "it falls below zero where the outputs there are large, so that no answer is "
                    f"the best. Give masks as 0 and 1 (divide those of 0 and 255 by 255). If "
                    f"{number:g} marks what does not count, give a loss that leaves it out, or "
                    f"{keyword('metric')} with {keyword('ignore_index', f'{number:g}')}"
                )


def falls_for(
    metric: ValueMetric, answer: Any, target: Any, bounded: Sequence[bool | None]
) -> float | None:
    """The number in the targets of an image for which a loss falls without end; None for none.

    Args:
        metric: The loss.
        answer: Outputs that leave everything open.
        target: The targets.
        bounded: Whether each tensor of the answer holds probabilities. Their logarithms end
            somewhere, so that for these a mark that brings the loss below zero is enough. None of
            what cannot be large.
    """
    leaves, spec = pytree.tree_flatten(answer)
    for place, leaf in enumerate(leaves):
        given = matching(target, leaf.shape) if is_prediction(leaf) else None
        if given is None or bounded[place] is None:
            continue
        beyond = marked(given) if bounded[place] else (given < 0) | (given > 1)
        usual = not bounded[place] and not bool(beyond.any())
        if usual:
            beyond = given > 0  # of a loss whose arguments were given in the other order
        if not bool(beyond.any()):
            continue
        levels = (0.5, 0.999, 0.001) if bounded[place] else (0.0, 1e2, 1e3, -1e2, -1e3)
        made = [leaf.clone().masked_fill(beyond, level) for level in levels]
        try:
            with torch.no_grad():
                middle, *ends = [
                    float(
                        as_number(metric(_with(leaves, place, one, spec), target)).double().mean()
                    )
                    for one in made
                ]
        except Exception:  # noqa: BLE001 - a foreign loss may refuse what is no answer of the network
            continue
        if bounded[place]:
            fallen = min(ends) < min(0.0, middle)
        else:
            pairs = zip(ends[::2], ends[1::2], strict=True)
            fallen = any(
                far < 0.0 and _is_linear(near - middle, far - middle) for near, far in pairs
            )
        if fallen and (middle > 0.0 or not usual):  # a quality, such as -L1, is below zero before
            return float(given[beyond][given[beyond].abs().argmax()])
    return None


def _is_linear(near: float, far: float) -> bool:
    """Whether what outputs ten times as large change is a fall, and ten times as large.

    What only comes nearer to its best value there, such as a negative PSNR, falls by less, and a
    negative squared error, a quality that was taken for a loss, by more.
    """
    return near < 0.0 and 5.0 < far / near < 20.0


def _with(leaves: Sequence[Any], place: int, one: Tensor, spec: Any) -> Any:
    """The answer with one tensor in place of another."""
    return pytree.tree_unflatten([*leaves[:place], one, *leaves[place + 1 :]], spec)


def fitted_constant(images: Images) -> Fitted | None:
    """The best constant; None where the metric gives no values for constants."""
    return _fitted(images, starts(images), images.outputs.constant)


def filled_in(images: Images) -> Fitted | None:
    """What the network makes of the best constants in the place of its levels.

    None where that is a constant, too, or the metric gives no values for it.
    """
    count, answer = images.outputs.fills, images.outputs.made_of
    if not count:
        return None
    zeros = {0: torch.zeros(count, dtype=torch.float64, device="cpu")}
    differing = {0: 1.0 + torch.arange(count, device="cpu") / count}
    if loss_of(images, zeros, answer) == loss_of(images, differing, answer):
        return None  # what is judged is no work of a level
    errors = _judged_by(images, ValueMetric(mean_squared_error, False))
    return _fitted(images, [zeros, refined(errors, zeros, answer)], answer)


def _judged_by(images: Images, metric: ValueMetric) -> Images:
    """The same images, judged by an error."""
    given = images.batches, images.outputs, images.device
    return Images(metric, *given, -1.0, images.arrange)


def _fitted(images: Images, tried: Iterable[Constant], answer: Answer) -> Fitted | None:
    """The best numbers for an answer, near those that are best to start from."""
    found = [
        (loss, numbers)
        for numbers in tried
        if math.isfinite(loss := loss_of(images, numbers, answer))
    ]
    found.sort(key=lambda pair: pair[0])
    for _, numbers in found[:2]:
        better = refined(images, numbers, answer)
        if math.isfinite(loss := loss_of(images, better, answer)):
            found.append((loss, better))
    found.sort(key=lambda pair: pair[0])
    for _, numbers in found:
        values = images.values(lambda batch, own=numbers: answer(batch, own))  # type: ignore[misc]
        if values is not None:
            return Fitted(values, numbers)
    return None


def loss_of(images: Images, numbers: Constant, answer: Answer | None = None) -> float:
    """The loss as a number; nan where the metric raises."""
    try:
        with torch.no_grad():
            return float(images.loss(numbers, answer))
    except Exception:  # noqa: BLE001 - a foreign metric may refuse a constant in any way
        return math.nan


def starts(images: Images) -> Iterator[Constant]:
    """Constants to start from, in the unbounded numbers of `ChannelRange.link`."""
    ranges = images.outputs.ranges
    means = {i: r.unlink(r.mean) for i, r in ranges.items()}
    yield means
    yield {i: torch.zeros_like(mean) for i, mean in means.items()}
    if len(ranges) != 1:
        return
    ((position, own),) = ranges.items()
    for middle in _target_middles(images, position):
        yield {position: own.unlink(middle)}
        if not own.bounded and bool(((middle >= 0) & (middle <= 1)).all()):
            yield {position: middle.clamp(TINY, 1 - TINY).logit()}
    channels = len(own.mean)
    shares = _class_shares(images, position, channels)
    if shares is not None:
        yield {position: own.unlink(shares) if own.bounded and not own.logarithms else shares.log()}
    for logit in SATURATED:
        certain = torch.full_like(own.mean, -logit)
        if channels == 1:
            yield {position: certain}
            yield {position: -certain}
        elif channels <= CLASSES:
            for channel in range(channels):
                one = torch.eye(channels, device="cpu").to(certain)[channel]
                yield {position: certain + 2 * logit * one}


def _class_shares(images: Images, position: int, channels: int) -> Tensor | None:
    """How often each of several classes is the target, where they are numbered or one-hot."""
    if channels < 2:
        return None
    counts = torch.zeros(channels, dtype=torch.float64, device="cpu")
    for batch, leaves in enumerate(images.outputs.leaves):
        shape, targets = leaves[position].shape, images.targets(batch)
        one_hot = matching(targets, shape)
        numbers = matching(targets, torch.Size((shape[0], 1, *shape[2:])))
        if one_hot is not None and bool((one_hot >= 0).all()):
            counts += by_channel(one_hot.cpu().double()).nansum(1)
        elif numbers is not None and not numbers.is_floating_point():
            known = numbers[(numbers >= 0) & (numbers < channels)].cpu().long()
            counts += known.bincount(minlength=channels)
        else:
            return None
    return (counts / counts.sum()).clamp_min(TINY) if float(counts.sum()) > 0.0 else None


def _target_middles(images: Images, position: int) -> Iterator[Tensor]:
    """Mean and median over the targets of each channel, where they are a regression."""
    rows = []
    for batch, leaves in enumerate(images.outputs.leaves):
        target = matching(images.targets(batch), leaves[position].shape)
        if target is None:
            return
        rows.append(by_channel(target.cpu().double()))
    every = torch.cat(rows, 1)
    yield every.nanmean(1)
    yield every.nanmedian(1).values


def refined(images: Images, start: Constant, answer: Answer | None = None) -> Constant:
    """The best constant near a start: by its gradient if it has one, else by a simplex.

    Or the best numbers of another answer, as of `Images.loss`.
    """
    names = list(start)
    free = [start[name].clone().requires_grad_() for name in names]
    with torch.enable_grad():
        try:
            loss = images.loss(dict(zip(names, free, strict=True)), answer)
            differentiable = loss.requires_grad
        except Exception:  # noqa: BLE001 - as of `.numpy()` on what has a gradient; see loss_of
            differentiable = False
        if not differentiable:
            return _by_simplex(images, start, answer)
        optimizer = torch.optim.LBFGS(free, max_iter=50, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = images.loss(dict(zip(names, free, strict=True)), answer)
            torch.autograd.backward(loss, inputs=free)
            return loss

        try:
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        except Exception:  # noqa: BLE001 - see loss_of
            return _by_simplex(images, start, answer)
    return {name: value.detach() for name, value in zip(names, free, strict=True)}


def _by_simplex(images: Images, start: Constant, answer: Answer | None) -> Constant:
    """Nelder and Mead's search, for a few channels; of many the start is all there is."""
    from scipy import optimize

    sizes = [value.numel() for value in start.values()]
    if sum(sizes) > 8 or not math.isfinite(loss_of(images, start, answer)):
        return start

    def unpacked(numbers: FloatArray) -> Constant:
        parts = torch.split(torch.as_tensor(numbers, device="cpu"), sizes)
        return {i: part.to(v) for (i, v), part in zip(start.items(), parts, strict=True)}

    def loss(numbers: FloatArray) -> float:
        return finite(loss_of(images, unpacked(numbers), answer))

    packed = torch.cat([value.flatten() for value in start.values()]).double().cpu().numpy()
    found = optimize.minimize(
        loss, packed, method="Nelder-Mead", options={"maxfev": 40 * sum(sizes)}
    )
    return unpacked(found.x)


def finite(loss: float) -> float:
    """A loss by which what has none comes last."""
    return loss if math.isfinite(loss) else math.inf

"""What to say of a network beside its structure: what was held, left out or not followed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import fx

from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.calls import say
from weightscope.errors import keyword
from weightscope.graph.capture import Capture, Turned, frames_read, images_read
from weightscope.graph.growing import image_inputs, image_sizes
from weightscope.graph.layouts import images_of
from weightscope.graph.levels import Levels
from weightscope.graph.nodes import operator_of, raises, tensor_of
from weightscope.graph.operators import facts
from weightscope.graph.scaling import (
    OTHER_SIZES,
    at_another_size,
    twofold,
    with_each_twice,
    with_more_frames,
)
from weightscope.graph.structure import ExampleInputs
from weightscope.graph.trial import Trial
from weightscope.graph.values import line_of, where_read
from weightscope.showing import counted

_SHOWN = 6


def fixed_note(
    trial: Trial, captured: Capture, inputs: ExampleInputs, turned: Turned, stopped: str
) -> str:
    """What to say where the graph holds at one size though the model takes others.

    Args:
        trial: Runs the model.
        captured: What was read.
        inputs: How the model is called.
        turned: Numbers that the forward made of free sizes, as in ``Capture``.
        stopped: Where a trace with free sizes ended, as there.
    """
    free = [is_symbolic(size) for size in image_sizes(captured)]
    if free and all(free) and not captured.unit:
        return ""
    held = [side for side, is_free in zip(inputs.space, free, strict=False) if not is_free]
    sides = [None, *([side] for side in held)]  # all together, and one alone
    others = (at_another_size(inputs, n, along=side) for side in sides for n in OTHER_SIZES)
    if all(trial.error(other.args, other.kwargs) is not None for other in others):
        return ""
    given = [images_of(inputs)[0].shape[axis] for axis in inputs.space]
    size = "x".join(map(str, captured.unit or given))
    if captured.square:
        size = f"squares of multiples of {captured.unit[0]}"
    elif captured.unit:
        size = f"multiples of {size}"
    elif any(free):
        pairs = zip(free, given, strict=True)
        size = " x ".join("any" if is_free else str(n) for is_free, n in pairs)
    why = "the forward turns sizes into numbers or works at sizes of its own"
    # of what else may be free, frames and the number of images, only other numbers are made
    lines = [line for number, line, as_given in turned if not as_given or number in given]
    if stopped:
        why = f"the forward could not be followed at other sizes{stopped}"
    elif lines:
        why = f"the forward turns sizes into numbers in {line_of(*lines[0])}"
    if captured.too_complex or captured.unit:
        why = "the forward computes with its sizes in more steps than are followed"
    if captured.square:
        why = "the forward takes the root of the number of its positions for both sides"
    return (
        f"read at {size} only: {why}. A variant refuses other sizes; pass"
        f" {keyword('example_inputs')} of the size that you use"
    )


def ways_note(trial: Trial, inputs: ExampleInputs, refuses: Callable[[ExampleInputs], bool]) -> str:
    """What to say where the model takes a size at which its forward takes another way.

    Args:
        trial: Runs the model.
        inputs: How the model is called.
        refuses: Whether what was read refuses a call for its sizes.
    """
    others = [at_another_size(inputs, factor) for factor in OTHER_SIZES]
    others += [at_another_size(inputs, along=(side,)) for side in inputs.space]  # of another aspect
    for other in others:
        if refuses(other) and trial.error(other.args, other.kwargs) is None:
            size = "x".join(str(images_of(other)[0].shape[axis]) for axis in inputs.space)
            return (
                f"the forward takes another way at some sizes, as at {size}, than at the example's."
                f" A variant refuses these; pass {keyword('example_inputs')} of the size that you"
                " use"
            )
    return ""


def channels_note(captured: Capture) -> str:
    """What to say where the number of channels is held though the model takes others."""
    held = [image for image in image_inputs(captured) if "channels" in image.meta]
    if not held:
        return ""
    number = counted(int(held[0].meta["val"].shape[held[0].meta["channels"]]), "channel")
    return (
        f"read with {number} only, though the forward takes others. A variant refuses them; pass"
        f" {keyword('example_inputs')} with as many as you use, or {keyword('layout')} with T in"
        " the place of C where each is an image of its own"
    )


def frames_note(trial: Trial, captured: Capture, inputs: ExampleInputs) -> str:
    """What to say where the number of frames is held though the model takes others."""
    frames = frames_read(captured)
    if frames is None:
        return ""
    why = "frames become one below, and a bottleneck does that of one number"
    if not inputs.holds_frames:
        longer = with_more_frames(inputs)
        if trial.error(longer.args, longer.kwargs) is not None:
            return ""
        why = "the forward goes through them one by one, or decides by their number"
    return (
        f"read with {counted(frames, 'frame')} a clip only: {why}. A variant refuses others; pass"
        f" {keyword('example_inputs')} with as many as you use"
    )


def counted_note(levels: Levels) -> str:
    """What to say where levels are counted from something else than the input."""
    size = "x".join(map(str, levels.whole))
    if levels.counted_from == "maps":
        return (
            "the forward makes maps of its signals before any layer sees them (a spectrogram,"
            f" frames), of {size} for the example; levels are counted along the sides of these"
        )
    if levels.counted_from == "resized":
        return (
            f"the forward resizes its images to {size} before anything else;"
            " levels are counted from there"
        )
    return ""


def finer_note(levels: Levels) -> str:
    """What to say of a level that is finer than the image, where nothing is seen to enlarge."""
    finest = levels.reductions[0]
    if math.prod(finest) >= 1 or any(not own and raises(n) for n, own in levels.level.items()):
        return ""
    if any(map(_spreads, levels.level)):  # repeated pixels, by whatever name
        return ""
    shown = "x".join(f"{side:.3g}" for side in finest)
    return (
        f"the finest level is finer than the image (reduction {shown}), and no operation was seen"
        " that enlarges it: the axes may be others than was read, or pieces of the image may lie in"
        f" the batch. Compare the levels with what you know of the network, and pass"
        f" {keyword('layout')} where its axes are not batch, channels, sizes"
    )


def _spreads(node: fx.Node) -> bool:
    """Whether an operation makes more numbers of what it is given, and is no kernel."""
    given = [value for n in node.all_input_nodes if (value := tensor_of(n)) is not None]
    made = tensor_of(node)
    if made is None or not given or facts(operator_of(node)).kernel:
        return False
    return _numbers(made) >= 2 * sum(map(_numbers, given))


def _numbers(value: torch.Tensor) -> int:
    return math.prod(map(hint, value.shape))


def batch_note(trial: Trial, captured: Capture, inputs: ExampleInputs) -> str:
    """What to say where the graph holds for one number of images though the model takes others."""
    images = images_read(captured)
    if images is None:
        return ""
    other = with_each_twice(inputs, twofold)
    if trial.error(other.args, other.kwargs) is not None:
        return ""
    return (
        f"read at {counted(images, 'image')} a batch only: the forward decides by their number, or"
        " turns it into a number. A variant refuses other batches; pass"
        f" {keyword('example_inputs')} with as many as you use"
    )


def read_in_training(trial: Trial, pair: ExampleInputs) -> str:
    """Where values of tensors are read in train mode alone; empty where none are."""
    error = trial.error(pair.args, pair.kwargs, training=True)
    return where_read(error) if error else ""


def modes_note(trial: Trial, modes_agree: bool | None, pair: ExampleInputs) -> str:
    """What to say where train mode does something else, or could not be tried."""
    if modes_agree is None and (where := read_in_training(trial, pair)):
        return (
            f"in train mode the forward reads values of tensors{where}, which cannot be followed;"
            " what is read, cut and built is what it does in eval mode, so a variant does and"
            " trains that alone. What lives in training only is not seen, so no parameter is called"
            " dead that it reads, however those values decide"
        )
    if modes_agree is None:
        error = trial.error(pair.args, pair.kwargs, training=True)
        return (
            "in train mode the forward raises at this size"
            f" ({say(error) if error else 'unknown'}); what lives in training only is not seen, so"
            f" no parameter is called dead. Pass {keyword('example_inputs')} of a size and batch"
            " that it trains on"
        )
    if modes_agree is False and trial.refuses_to_train(pair):
        return (
            "in train mode the forward raises NotImplementedError: it is not made to train; what is"
            " read, cut and built is what it does in eval mode, so a variant does and trains that"
            " alone"
        )
    if modes_agree is False:
        return (
            "in train mode the forward does something else than in eval mode (deep supervision, a"
            " loss, noise); what is read, cut and built is what it does in eval mode, so a variant"
            " does and trains that alone"
        )
    return ""


def memory_note(left: Sequence[str], used: Sequence[str]) -> str:
    """What to say of a forward that keeps what it computed in attributes of its modules."""
    if used:
        return (
            f"what the forward returns depends on what earlier calls left in {some(used)}; read,"
            " cut and built is one call in the state that the model is in now, so a variant"
            " remembers nothing. Hand that state to the forward as an argument and return it, and a"
            " variant does too"
        )
    if left:
        return (
            f"the forward leaves tensors in {some(left)}; a variant returns the same and leaves"
            " none. Let the forward return what you need of them"
        )
    return ""


def gradients_note(lost: Sequence[str]) -> str:
    """What to say of a backward of its own that the graph does not hold."""
    if not lost:
        return ""
    return (
        f"{some([*dict.fromkeys(lost)])} changes gradients in a forward that is taken apart, and"
        " is given more than tensors and numbers; a variant returns the same, and its gradients are"
        " those of the operations in the forward, in training and in recover. Call it in a module"
        " of its own that has no other inside, and a variant keeps it"
    )


def checks_note(where: str) -> str:
    """What to say of checks of values, which a trace without values passes."""
    if not where:
        return ""
    return (
        f"the forward checks values ({where}); read, cut and built is what it does where they pass,"
        " and a variant does not check them"
    )


def hooks_note(setters: Sequence[str], hooked: Sequence[str]) -> str:
    """What to say of hooks on gradients that are in no module that is called as it is."""
    what = [f"Tensor.{name} in a forward that is taken apart" for name in setters]
    named = [name or "the model" for name in hooked]
    what += [f"a backward hook of {some(named)}"] if named else []
    if not what:
        return ""
    return (
        f"{' and '.join(what)} sets a hook on gradients that a variant does not have, in training"
        " and in recover. Set it in a module of its own that has no other inside, and a variant"
        " keeps it"
    )


def shared_note(layers: Sequence[str]) -> str:
    """What to say of modules that are called at several levels."""
    if not layers:
        return ""
    many = len(layers) > 1
    layers = [name or "a weight of the network's own" for name in layers]
    return (
        f"{some(layers)} {'are' if many else 'is'} used at several levels; the tables count "
        f"{'them' if many else 'it'} in the stage of the first use alone, and a cut keeps "
        f"{'them' if many else 'it'} whole for the uses that stay"
    )


def some(names: Sequence[str]) -> str:
    """The first names of a list, as a text."""
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")


def arguments_note(trial: Trial, inputs: ExampleInputs) -> str:
    """What to say of a forward that changes the lists and dictionaries that it is given."""
    changed = trial.changed_arguments(inputs)
    if not changed:
        return ""
    return (
        f"the forward changes what it is given ({some(changed)}: taken out, put in or replaced). A"
        " variant leaves lists and dictionaries as they are; where the code around it relies on"
        " the change, make it there"
    )


def parts_note(parts: Sequence[str], part: str | None) -> str:
    """What to say of networks inside of the network."""
    if part:
        return f"levels, stages and cuts are those of {part}; what is around it stays"
    if not parts:
        return ""
    many = len(parts) > 1
    return (
        f"{some(parts)} {'go' if many else 'goes'} down and {'come' if many else 'comes'} back up"
        f" on {'their' if many else 'its'} own; {keyword('part', repr(parts[0]))} reads and cuts"
        " that one alone"
    )

"""Find an example input: number of dimensions, channels, and a size that runs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import modules, pytree
from weightscope.calls import called, checked_arguments, plain, say, shapes, undisturbed
from weightscope.errors import ForwardError, InputError, in_python, keyword
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.guesses import (
    Arguments,
    Call,
    Draw,
    arguments_of,
    calls_with,
    calls_with_shares,
    declared_sizes,
    declared_windows,
    few_of_each,
    frames_beside,
    likely_shapes,
    noise,
    odd_shapes,
    unwritten,
    with_optional,
)
from weightscope.graph.layouts import (
    arranged,
    beside_a_memory,
    better_layout,
    check_rank,
    dimensions_of,
    has_batch_elsewhere,
    holds_ids,
    images_of,
    infer_layout,
    is_one_image,
    layout_of_ids,
    letters_of,
    of_flow,
    of_segments,
    of_single_channels,
    of_views,
    parse_layout,
    usual,
)
from weightscope.graph.scaling import two_images, twofold
from weightscope.graph.structure import ExampleInputs
from weightscope.graph.trial import Trial
from weightscope.graph.values import cannot_follow
from weightscope.showing import counted

_OTHER_LAYOUTS = ("NHWC", "NHW", "NL", "NDHWC", "NLC", "NDCHW")
_OF_CLIPS = ("NTCHW", "NCTHW")
_TRIALS_OF_A_LAYOUT = 4
_TRIALS_OF_OPTIONAL = 8  # sizes at which an argument is given that may be left out
_MAX_CALLS_A_SHAPE = 12
# bytes of the largest tensor that one image makes: several such are held at once, for six images
# where a response is measured; at their usual guess the networks of the matrix make up to 134 MB
_MUCH_MEMORY, _TOO_MUCH_MEMORY = 2**28, 2**30
_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))  # that images have
_FRAMES = 8  # of a clip
_SIZES_OF = {1: "1-D sizes (samples)", 2: "2-D sizes", 3: "3-D sizes"}
_TRIALS_FOR_MORE = 6  # failures after which no second size is looked for
_TRIALS_BESIDE = 40  # failures among the sizes between: eight sizes of five numbers of channels
_TRIALS_TO_TRAIN = 12  # sizes after which none is looked for that runs in train mode too


def find_inputs(
    trial: Trial, example_inputs: Any = None, layout: str | None = None
) -> Iterator[ExampleInputs]:
    """Yield the user's example, or every one found that the model's forward accepts.

    Args:
        trial: The model on fake tensors.
        example_inputs: A tensor, a tuple of positional arguments, a dict of keyword arguments, or
            None to find one (of one image).
        layout: What the image's axes are, ``"NHWC"``; read from the first layer where None.

    Raises:
        InputError: ``example_inputs`` is none of these, or does not fit ``layout``.
        ForwardError: The forward raises on the example, or on everything that was tried.
    """
    letters = None if layout is None else parse_layout(layout)
    whole = None if layout is None else letters_of(layout)
    if isinstance(example_inputs, ExampleInputs):
        call = plain((example_inputs.args, dict(example_inputs.kwargs)))
        example = replace(example_inputs, args=call[0], kwargs=call[1])
        yield _laid_out(trial, example, letters or example_inputs.layout or None)
    elif example_inputs is None:
        yield from _search_any_layout(trial) if whole is None else _search_in(trial, whole)
    else:
        args, kwargs = plain(checked_arguments(example_inputs, "example_inputs"))
        dimensions = _dimensions((args, kwargs))
        if whole is not None:
            check_rank(whole, [v.dim() for v in pytree.tree_tensors((args, kwargs))])
        error = trial.error(args, kwargs)
        if error is not None:
            if (read := cannot_follow(error, trial.original)) is not None:
                raise read from error
            given = shapes((args, kwargs))
            fits = whole and _other_layout(trial, whole)
            lying = (
                f", or give {keyword('layout', repr(fits))}, of which images run" if fits else ""
            )
            raise ForwardError(
                f"the forward of {trial.name} raised on {keyword('example_inputs')} ({given}): "
                f"{say(error)}. Pass {keyword('example_inputs')} as the forward takes "
                f"them{_unbatched(trial, dimensions)}{_listed(trial, args)}{lying}.{_of_one_size()}"
            ) from error
        example = ExampleInputs(args, kwargs, dimensions, guessed=False)
        if _unbatched(trial, dimensions) and _is_one_image(trial, example):
            raise InputError(
                f"{keyword('example_inputs')} ({shapes((args, kwargs))}) is one image without a "
                "batch axis; cuts are read of batches, which the forward takes too: give the image "
                "as image[None]"
            )
        yield _laid_out(trial, example, letters)


def _of_one_size() -> str:
    """A hint where one image of the user's batches was tried, which a fixed export refuses."""
    if keyword("example_inputs") not in (keyword("batches"), keyword("images")):
        return ""
    return (
        " It was tried on one image: where it takes only so many at once, give example_inputs of "
        "as many."
    )


def _unbatched(trial: Trial, dimensions: int) -> str:
    """A hint where an example has one axis less than a batch for the model's convolutions."""
    kinds = enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1)
    own = list(trial.original.modules())
    wanted = [d for d, kind in kinds if any(isinstance(module, kind) for module in own)]
    if wanted and dimensions == wanted[0] - 1:
        return ", with the images of a batch first: a single one as image[None]"
    return ""


def _is_one_image(trial: Trial, example: ExampleInputs) -> bool:
    """Whether a forward that takes batches too was given one image without that axis.

    The first layer is then given the image as the only one, is given the same for a batch of this
    image, and not two images for twice as many along the first axis.
    """
    rank = example.dimensions + 2
    image = next(v for v in pytree.tree_tensors((example.args, example.kwargs)) if v.dim() == rank)
    seen = _given(trial, example, rank, lambda value: value)
    one = len(seen) == rank + 1 and seen[0] == 1 and sorted(seen[1:]) == sorted(image.shape)
    return (
        one
        and _given(trial, example, rank, lambda value: value[None]) == seen
        and _given(trial, example, rank, twofold)[:1] != [2]
    )


def _given(
    trial: Trial, example: ExampleInputs, rank: int, change: Callable[[Tensor], Tensor]
) -> list[int]:
    """What the first layer is given of changed images, with a batch; nothing where none runs."""

    def changed(value: Any) -> Any:
        is_image = isinstance(value, Tensor) and value.dim() == rank
        return change(value) if is_image else value

    args, kwargs = pytree.tree_map(changed, (example.args, dict(example.kwargs)))
    if trial.error(args, kwargs) is not None:
        return []
    shape, dimensions = trial.first_layer(replace(example, args=args, kwargs=kwargs)) or ((), 0)
    return [1, *shape] if len(shape) == dimensions + 1 else [*shape]


def _frame_by_frame(
    trial: Trial, inputs: ExampleInputs, image: Tensor, first: tuple[tuple[int, ...], int] | None
) -> str:
    """The layout of a clip whose frames join a memory one by one; empty where they do not.

    The first convolution is then given the same of a clip with one frame more.
    """
    for layout in beside_a_memory(image.shape, first):
        longer = partial(_one_more, layout.index("T"))
        if first is not None and _given(trial, inputs, image.dim(), longer) == [*first[0]]:
            return layout
    return ""


def _each_channel_apart(
    trial: Trial, inputs: ExampleInputs, image: Tensor, first: tuple[tuple[int, ...], int] | None
) -> str:
    """The layout of images each of whose channels, or views, is one of its own; else empty.

    The forward then takes one more of them. It takes no more where only a fixed kernel is laid
    over each, as for a gradient, before layers take them together.
    """
    layout = of_single_channels(image.shape, first) or of_views(image.shape, first)
    if not layout:
        return ""
    more = _given(trial, inputs, image.dim(), partial(_one_more, layout.index("T")))
    return layout if more else ""


def _of_signals(
    trial: Trial, inputs: ExampleInputs, image: Tensor, first: tuple[tuple[int, ...], int] | None
) -> str:
    """The layout of signals without channels that become spectra; empty where a table holds none.

    Of signals twice as long the first layer is given twice as much along one of its axes, and of
    twice as many a batch of twice as many.
    """
    if image.dim() != 2 or not image.is_floating_point() or first is None:
        return ""
    batch, *axes = first[0]
    more = _given(trial, inputs, 2, twofold) == [2 * batch, *axes]
    longer = _given(trial, inputs, 2, lambda value: torch.cat([value, value], 1))
    if not more or longer[:1] != [batch] or len(longer) != len(first[0]):
        return ""
    *same, grown = sorted(after / before for before, after in zip(axes, longer[1:], strict=True))
    return "NL" if 1.75 < grown < 2.25 and {*same} == {1.0} else ""


def _of_slices(image: Tensor, given: tuple[tuple[int, ...], int] | None) -> str:
    """The layout of volumes whose slices the first layer is given; empty where it is the usual one.

    Channels may lie behind the slices, as they do in clips.
    """
    if given is None or image.shape[1] == given[0][1]:
        return ""
    layout = infer_layout(image.shape, given)
    # of several axes of them, or the last one, no layer strides over the slices of a volume
    return "" if "D" in layout or layout.endswith("T") else layout.replace("T", "D")


def _told_apart(trial: Trial, inputs: ExampleInputs, image: Tensor, layout: str) -> str:
    """The layout of a clip whose frames and channels may be told: of these no forward takes more.

    There may be as many of both, or of one as layers are given of several of the other.
    """
    frames, channels = layout.find("T"), layout.find("C")
    if min(frames, channels) < 0:
        return layout
    as_laid_out, turned = (
        _given(trial, inputs, image.dim(), partial(_one_more, axis)) for axis in (frames, channels)
    )
    turns = turned and not as_laid_out
    return layout.translate(str.maketrans("TC", "CT")) if turns else layout


def _one_more(axis: int, value: Tensor) -> Tensor:
    return torch.cat([value, value.narrow(axis, 0, 1)], axis)


def _listed(trial: Trial, args: tuple[Any, ...]) -> str:
    """A hint where an example has more than the forward takes, as arguments or in one of them."""
    inner = args[0] if len(args) == 1 else None
    if isinstance(inner, list | tuple) and len(inner) > 1:
        alone = trial.error((inner[0],), {}) is None
        return f": the first of the {len(inner)} alone, which it takes" if alone else ""
    parameters = inspect.signature(trial.original.forward).parameters.values()
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(args) <= len(taken)
    if more or not taken:
        return ""
    return (
        "; a list or tuple holds positional arguments, so that one argument that is a list itself"
        f" goes by its name, {{{taken[0].name!r}: [...]}}, or into a tuple, ([...],)"
    )


def _laid_out(trial: Trial, inputs: ExampleInputs, layout: str | None) -> ExampleInputs:
    """The inputs with their layout: the given one, or what the first convolution shows."""
    ranked = pytree.tree_tensors((inputs.args, dict(inputs.kwargs)))
    if layout is not None:
        _check_layout(trial, inputs, usual(layout, inputs.dimensions), ranked)
    else:
        image = next((v for v in ranked if v.dim() > 2), None)
        image = next(v for v in ranked if v.dim() == 2) if image is None else image
        ids = trial.ids(inputs) if holds_ids(image) else None
        first = trial.first_layer(inputs)
        layout = layout_of_ids(image, ids) or infer_layout(image.shape, first)
        if not layout and first is not None and not first[1]:
            layout = infer_layout(image.shape, trial.first_convolution(inputs))
        layout = _told_apart(trial, inputs, image, layout or of_flow(image.shape, first))
        layout = layout or _frame_by_frame(trial, inputs, image, first)
        layout = layout or _each_channel_apart(trial, inputs, image, first)
        layout = layout or of_segments(image.shape, first)
        layout = layout or _of_signals(trial, inputs, image, first)
        layout = layout or (_of_slices(image, trial.slices(inputs)) if first is None else "")
        if not layout and has_batch_elsewhere(image.shape, first):
            raise InputError(
                f"the first convolution of {trial.name} takes another axis of"
                f" {keyword('example_inputs')} ({shapes(image)}) for the batch than the first;"
                " images are counted along the first here. Pass a module that is given batches"
                " so and turns their axes before it calls this one"
            )
        if not layout and is_one_image(image.shape, first):
            raise InputError(
                f"{trial.name} takes {keyword('example_inputs')} ({shapes(image)}) as one image"
                " without a batch axis, its channels last; images are counted along the first axis"
                " here. Pass a module that is given a batch of one image, and calls this one with"
                " its first"
            )
    dimensions = dimensions_of(layout) if layout else inputs.dimensions
    if not dimensions:
        raise _no_image()
    return replace(inputs, layout=layout, dimensions=dimensions)


def _check_layout(
    trial: Trial, inputs: ExampleInputs, layout: str, tensors: Sequence[Tensor]
) -> None:
    """Refuse a layout by which the first convolution would be given something else.

    Raises:
        InputError: It names the one by which it is given what it is.
    """
    image = next((tensor for tensor in tensors if tensor.dim() == len(layout)), None)
    first = None if image is None else trial.first_layer(inputs)
    if image is None or first is None or not (fits := better_layout(layout, image.shape, first)):
        return
    axes = ", ".join(f"{axis}={size}" for axis, size in zip(layout, image.shape, strict=True))
    _, channels, *sizes = first[0]
    raise InputError(
        f"by {keyword('layout', repr(layout))} the axes of {keyword('example_inputs')} are {axes},"
        f" but the first convolution of {trial.name} is given {counted(channels, 'channel')} of"
        f" {_by(sizes)} of it: give {keyword('layout', repr(fits))}, or leave it out"
    )


def passing(trial: Trial, inputs: ExampleInputs) -> ExampleInputs:
    """A guessed call whose images have values that the forward's own checks let pass, if found."""
    if not (inputs.guessed and trial.checks):
        return inputs
    for within in (None, *_RANGES):
        call = (inputs.args, dict(inputs.kwargs))
        args, kwargs = pytree.tree_map(partial(_brought, within), call) if within else call
        model = throwaway_copy(trial.original)
        try:
            with torch.no_grad(), undisturbed(model):
                called(model, args, kwargs)
        except Exception:  # noqa: BLE001 - a foreign forward may raise anything
            continue
        return replace(inputs, args=args, kwargs=kwargs)
    return inputs


def _brought(within: tuple[float, float], value: Any) -> Any:
    """Noise as numbers of a range."""
    if not isinstance(value, Tensor) or value.dim() < 3 or not value.is_floating_point():
        return value
    low, high = within
    return low + (high - low) * value.sigmoid()


def _dimensions(call: Any) -> int:
    """Number of spatial dimensions of an image as (batch, channels, *sizes).

    0 where there are only tables, one of which may hold signals without channels.
    """
    ranks = [v.dim() for v in pytree.tree_tensors(call)]
    rank = next((r for r in ranks if r > 2), 2 if 2 in ranks else None)
    if rank is None:
        raise _no_image()
    return rank - 2


def _no_image() -> InputError:
    return InputError(
        f"{keyword('example_inputs')} holds no image: a tensor (batch, channels, sizes...) of at "
        f"least three dimensions is needed, or {keyword('layout', repr('NL'))} where it is a batch "
        "of signals without channels. Of a network that makes an image of a vector, analyse the "
        "module that works on the image, with an image as its example; of one that takes a single "
        "image (height, width), a module that is given a batch of one, and calls it with its first"
    )


def _search_in(trial: Trial, layout: str) -> Iterator[ExampleInputs]:
    """Try images of a layout, given by all its letters.

    Raises:
        InputError: None runs, but one of another layout does.
        ForwardError: No image runs.
    """
    try:
        yield from _search(trial, parse_layout(layout), wanted=dimensions_of(layout))
    except ForwardError as error:
        if fits := _other_layout(trial, layout):
            raise InputError(
                f"no image of {keyword('layout', repr(layout))} runs in {trial.name}, but one of"
                f" {keyword('layout', repr(fits))} does: give this, or leave it out"
            ) from error
        raise


def _other_layout(trial: Trial, layout: str) -> str:
    """All letters of another layout of which an image runs; empty where none is found."""
    with suppress(ForwardError):
        found = next(_search_any_layout(trial))
        fits = usual(found.layout, found.dimensions)
        return "" if fits == layout else fits
    return ""


def _search_any_layout(trial: Trial) -> Iterator[ExampleInputs]:
    """Try images as (batch, channels, *sizes); where none runs, in other layouts."""
    search = _search(trial)
    try:
        first = next(search)
        if (clip := _clip_instead(trial, first)) is not None:
            yield clip
    except ForwardError:
        given = arguments_of(trial.original)
        for layout in _OTHER_LAYOUTS if given.others else (*_OTHER_LAYOUTS, *_OF_CLIPS):
            found = next(_search(trial, layout, _TRIALS_OF_A_LAYOUT), None)
            if found is not None and _laid_out(trial, replace(found, layout=""), None) == found:
                yield found
                return
        odd_ones = _odd_ones(trial, given)
        errors: list[Exception] = []
        calls = (_first_call(trial, given, shape, errors, "") for shape in odd_ones)
        odd = next((call for call in calls if call and not _is_one_image(trial, call)), None)
        if odd is None:
            _require_followed(trial, errors)
            raise
        yield odd
        return
    yield first
    yield from search


def _odd_ones(trial: Trial, arguments: Arguments) -> Iterator[tuple[int, ...]]:
    """Shapes that are tried last, where nothing but the image is required."""
    return iter(()) if arguments.others else odd_shapes(trial.original)


def _clip_instead(trial: Trial, image: ExampleInputs) -> ExampleInputs | None:
    """A clip, where a forward takes images too and calls more of its layers with clips."""
    if image.dimensions != 2:
        return None
    called = trial.called(image)
    own = {path for path, module in trial.original.named_modules() if modules.parameters(module)}
    if own <= called:
        return None

    def frames(value: Any) -> Any:
        is_image = isinstance(value, Tensor) and value.dim() == 4
        return value[:, :, None].expand(-1, -1, _FRAMES, -1, -1) if is_image else value

    args, kwargs = pytree.tree_map(frames, (image.args, dict(image.kwargs)))
    if trial.error(args, kwargs) or trial.largest(args, kwargs) > _MUCH_MEMORY:
        return None
    clip = _laid_out(trial, replace(image, args=args, kwargs=kwargs, dimensions=3), None)
    return clip if own & called < own & trial.called(clip) else None


def _search(
    trial: Trial, layout: str = "", limit: int | None = None, wanted: int = 0
) -> Iterator[ExampleInputs]:
    """Try plausible images, then plausible values of the other required arguments.

    What runs in train mode too comes first, what takes much memory last.

    Args:
        trial: The model on fake tensors.
        layout: Of the images.
        limit: Number of images to try; nothing is raised then where none runs.
        wanted: Number of spatial dimensions; 0: any.
    """
    model = trial.original
    arguments = arguments_of(model)
    errors: list[Exception] = []
    tried: list[tuple[int, ...]] = []
    set_aside: list[ExampleInputs] = []
    large: list[ExampleInputs] = []
    failures = found = 0
    wanted = wanted or dimensions_of(layout)
    letters = usual(layout, wanted) if wanted else "C"
    candidates = _candidates(model, wanted, letters, limit)
    for shape in candidates:
        tried.append(shape)
        inputs = _first_call(trial, arguments, shape, errors, layout)
        if inputs is None:
            failures += 1
            runs = found or set_aside or large
            if failures > (_TRIALS_FOR_MORE if found else _TRIALS_BESIDE) and runs:
                break
            stuck = failures == _TRIALS_BESIDE and limit is None and not runs
            if stuck and _with_shares(trial, arguments, candidates, layout)[0]:
                break  # other sizes would fail as these do
        elif trial.largest(inputs.args, inputs.kwargs) > _MUCH_MEMORY:
            large.append(inputs)
        elif _trains(trial, inputs):
            found += 1
            yield inputs
        else:
            set_aside.append(inputs)
            if len(set_aside) > _TRIALS_TO_TRAIN or _the_same(trial, set_aside):
                break
    yield from (*set_aside, *large)
    if not (found or set_aside or large) and limit is None:
        joined, of_shares = _with_shares(trial, arguments, candidates, layout)
        calls = itertools.chain(
            () if joined is None else (joined,),
            _with_optional(trial, arguments, candidates, layout),
        )
        first = next(calls, None)
        if first is None:
            tried += () if wanted else _odd_ones(trial, arguments)
            met = [*errors, *of_shares]
            shares, alone = len(of_shares), "C" not in letters
            raise _nothing_found(trial, arguments, tried, met, shares=shares, alone=alone)
        yield first
        yield from calls


def _candidates(
    model: nn.Module, wanted: int, letters: str, limit: int | None
) -> list[tuple[int, ...]]:
    """(channels, *sizes) of the images to try, in all or as many as a limit says."""
    if limit is None:
        return likely_shapes(model, wanted, with_channels="C" in letters)
    likely = [shape for shape in likely_shapes(model) if wanted in (0, len(shape) - 1)]
    # how many channels clips have, no convolution says
    return few_of_each(likely, limit) if "T" in letters else likely[:limit]


def _with_shares(
    trial: Trial,
    arguments: Arguments,
    candidates: Sequence[tuple[int, ...]],
    layout: str,
) -> tuple[ExampleInputs | None, list[Exception]]:
    """The first call with images that are joined, each of channels of its own; what others met."""
    errors: list[Exception] = []
    if layout:
        return None, errors
    sizes = next((shape[1:] for shape in candidates), ())
    calls = partial(calls_with_shares, trial.original, arguments, sizes)
    return _first_of(trial, calls, None, errors, len(sizes), ""), errors


def _with_optional(
    trial: Trial, arguments: Arguments, candidates: Sequence[tuple[int, ...]], layout: str
) -> Iterator[ExampleInputs]:
    """Calls with arguments that the signature lets out, where the forward needs them."""
    found = False
    for more in with_optional(trial.original, arguments):
        for shape in few_of_each(candidates, _TRIALS_OF_OPTIONAL):
            inputs = _first_call(trial, more, shape, [], layout)
            if inputs is not None and not found:
                more = _needed(trial, arguments, more, shape, layout)
                inputs = _first_call(trial, more, shape, [], layout)
            if inputs is not None:
                found = True
                yield inputs
        if found:
            return


def _needed(
    trial: Trial, required: Arguments, given: Arguments, shape: tuple[int, ...], layout: str
) -> Arguments:
    """What is given without all that may be left out and the forward does not need."""
    for name in given.others[len(required.others) :]:
        fewer = replace(given, others=tuple(other for other in given.others if other != name))
        if _first_call(trial, fewer, shape, [], layout) is not None:
            given = fewer
    return given


def _the_same(trial: Trial, inputs: Sequence[ExampleInputs]) -> bool:
    """Whether train mode raises the same at several sizes: another size is no remedy."""
    pairs = [two_images(trial, given) for given in inputs]
    texts = {str(trial.error(p.args, p.kwargs, training=True)) for p in pairs}
    return len(pairs) >= 3 and len(texts) == 1


def _trains(trial: Trial, inputs: ExampleInputs) -> bool:
    pair = two_images(trial, inputs)
    return trial.error(pair.args, pair.kwargs, training=True) is None


def _first_call(
    trial: Trial,
    arguments: Arguments,
    shape: tuple[int, ...],
    errors: list[Exception],
    layout: str,
) -> ExampleInputs | None:
    """The first call with a picture of one shape that the forward takes."""

    def calls(draw: Draw) -> Iterator[Call]:
        frames = frames_beside(trial.original, shape[0]) if "T" in layout else 1
        picture = arranged(draw(trial.original, (1, *shape), 0), layout, frames)
        return calls_with(trial.original, arguments, picture, draw)

    return _first_of(trial, calls, _MAX_CALLS_A_SHAPE, errors, len(shape) - 1, layout)


def _first_of(
    trial: Trial,
    calls: Callable[[Draw], Iterator[Call]],
    most: int | None,
    errors: list[Exception],
    dimensions: int,
    layout: str,
) -> ExampleInputs | None:
    """The first of some calls that the forward takes; they are tried without numbers.

    Of those with other arguments the first that it takes with two images: a vector that is too
    short for its image (a number for each, where a map of one position is meant) fits one alone.
    """
    forward = trial.original.forward
    alone: ExampleInputs | None = None
    for place, call in enumerate(itertools.islice(calls(unwritten), most)):
        args, kwargs = _in_one_way(forward, *call)  # as it is tried from here on
        error = trial.error(args, kwargs) or _memory_error(trial, args, kwargs)
        if error is None:
            args, kwargs = next(itertools.islice(calls(noise), place, None))
            args, kwargs = _in_one_way(forward, args, kwargs)
            found = ExampleInputs(args, kwargs, dimensions, guessed=True, layout=layout)
            if len(pytree.tree_tensors(call)) == 1 or two_images(trial, found) is not found:
                return found
            alone = alone or found
        else:
            errors.append(error)
    return alone


def _memory_error(
    trial: Trial, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> MemoryError | None:
    """Why a guess that runs is none: what the network makes of it is too large; None if it is not.

    Sizes alone decide, so that every machine guesses alike.
    """
    needed = trial.largest(args, kwargs)
    if needed <= _TOO_MUCH_MEMORY:
        return None
    return MemoryError(f"one tensor of {needed / 2**30:.1f} GiB, made of {shapes((args, kwargs))}")


def takes_no_more(trial: Trial, example: ExampleInputs, inputs: ExampleInputs) -> bool:
    """Whether a call takes little memory, or no more than that of the example."""
    pairs = zip(images_of(example), images_of(inputs), strict=True)
    if all(a <= b for old, new in pairs for a, b in zip(new.shape, old.shape, strict=True)):
        return True  # without a trial, which costs as much as the call
    given, needed = (trial.largest(call.args, call.kwargs) for call in (example, inputs))
    return needed <= max(_MUCH_MEMORY, given)


def _in_one_way(
    forward: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All by place where the forward allows it, else all by name: as users give batches."""
    if not (args and kwargs):
        return args, kwargs
    try:
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except TypeError:  # the forward says so itself
        return args, kwargs
    if not bound.kwargs:
        return bound.args, {}
    kinds = [bound.signature.parameters[name].kind for name in bound.arguments]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return ((), dict(bound.arguments)) if all(k in named for k in kinds) else (args, kwargs)


def _nothing_found(
    trial: Trial,
    arguments: Arguments,
    tried: Sequence[tuple[int, ...]],
    errors: Sequence[Exception],
    *,
    shares: int,
    alone: bool,
) -> ForwardError:
    """Say in one line each what was tried, what it met, and what to pass.

    Args:
        trial: The model on fake tensors.
        arguments: What its forward requires.
        tried: (channels, *sizes) of all images.
        errors: What was met with them, in order.
        shares: Number of calls with images of channels of their own.
        alone: Whether the layout that was asked for has no channels.
    """
    _require_followed(trial, errors)
    kinds: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for channels, *sizes in tried:
        kinds.setdefault((len(sizes), channels), []).append(tuple(sizes))
    shown = "; ".join(
        ("no channels" if alone else counted(channels, "channel"))
        + f", {len(sizes)} {_SIZES_OF[dimensions]} from {_by(min(sizes))} to {_by(max(sizes))}"
        for (dimensions, channels), sizes in kinds.items()
    )
    if shares:
        shown += f"; and images of channels of their own in {shares} ways"
    others = ", ".join(map(repr, arguments.others))
    needs = f" Its forward requires {others} besides the image." if others else ""
    types = in_python(" (a tensor, a tuple of arguments or a dict of keyword arguments)")
    found = ForwardError(
        f"no example input was found that {trial.name} takes; tried images of {shown}. The first"
        f" trial raised {say(errors[0])}.{needs} Pass {keyword('example_inputs')}{types}, or"
        f" {keyword('layout')} where the axes are not batch, channels, sizes."
    )
    found.__cause__ = errors[0]
    return found


def _require_followed(trial: Trial, errors: Sequence[Exception]) -> None:
    """Raise what says why no example can run, where the forward does what no trace follows."""
    for error in errors:
        if (read := cannot_follow(error, trial.original)) is not None:
            raise read from error


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def declared_inputs(
    trial: Trial, inputs: ExampleInputs, layout: str | None = None
) -> ExampleInputs | None:
    """A call at a size that the model carries in an attribute, in place of one that was guessed.

    None where it carries none, or was called at it.
    """
    sizes = declared_sizes(trial.original, inputs.dimensions) if inputs.guessed else []
    if not sizes or _size(inputs) in sizes:
        return None
    likeliest = itertools.islice(find_inputs(trial, None, layout), 1 + len(sizes))
    return next((found for found in likeliest if _size(found) in sizes), None)


def is_one_window(trial: Trial, inputs: ExampleInputs) -> bool:
    """Whether a signal is as long as the windows that the model cuts signals into."""
    return _size(inputs) in declared_windows(trial.original, inputs.dimensions)


def _size(inputs: ExampleInputs) -> tuple[int, ...]:
    image = images_of(inputs)[0]
    return tuple(image.shape[axis] for axis in inputs.space)

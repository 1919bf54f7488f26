"""Plausible calls of a model that came without an example input."""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

# moderate sizes that many downsampling steps divide come first, odd demands last
_SIZES: Mapping[int, tuple[tuple[int, ...], ...]] = {
    1: tuple(
        (n,)
        for n in (
            512,
            256,
            1024,
            2048,
            64,
            4096,
            8192,
            16384,
            16000,
            5184,
            44100,
            22050,
            32000,
            65536,
        )
    ),
    2: (
        *((n, n) for n in (256, 128, 224, 512, 384, 64, 96, 192, 320, 32, 572, 1024, 28, 518)),
        *((n, n) for n in (288, 216, 240)),  # strides of 3 and 5
        # spectrograms: time by frequency, with the bins of usual transforms
        *((128, n) for n in (161, 257, 80, 64, 513, 40)),
        *((n, 128) for n in (161, 257, 80, 513)),
    ),
    3: (*((n,) * 3 for n in (64, 96, 128, 32, 48, 72)), (8, 64, 64), (16, 112, 112)),
}
# every remainder of a power of two: of networks that pad nothing, or join what has to fit
_REMAINDERS = {1: range(4096, 4160), 2: range(188, 252), 3: range(92, 108)}
_POSITIONS = 8  # of signals, at the deepest level
# volumes of fewer slices than rows, as networks of one size are made for
_FLAT = (
    *((16, 64, 64), (32, 64, 64), (64, 128, 128), (32, 128, 128), (16, 128, 128)),
    *((16, 160, 160), (32, 192, 192), (20, 256, 256)),
)
_SLICES = 32  # of a volume that goes down along two axes only
_SIZE_NAMES = (
    "img_size",
    "image_size",
    "input_size",
    "sample_size",
    "input_shape",
    "spatial_size",
    "input_image_size",
    "resolution",
    "input_resolution",
    "in_size",
    "seq_len",
    "segment_length",
    "input_length",
)
# of signals that are cut into windows: several in one example may be answered one by one
_WINDOW_NAMES = ("n_times", "_n_times", "in_samples")
# of spectrograms, which a forward may crop and pad to so many
_BIN_NAMES = ("output_bin", "n_bins", "num_bins", "n_freqs", "num_freqs", "freq_bins")
_CHANNEL_NAMES = (
    "in_channels",
    "num_channels",
    "in_chans",
    "input_channels",
    "n_channels",
    "latent_channels",
    "channels",
    "audio_channels",
    "nb_channels",
)
_STEP_NAMES = (
    "timestep",
    "timesteps",
    "time",
    "t",
    "step",
    "steps",
    "noise_labels",
    "sigma",
    "sigmas",
    "noise",
    "noise_level",
    "time_step",
    "time_steps",
    "ts",
)
# of noise, whose level may be multiplied with the image or laid beside it
_NOISE_NAMES = ("sigma", "sigmas", "noise", "noise_level")
# within longer names; "noise" and "t" are left out, which images are named by too (noisy_t, x_t)
_STEP_WORDS = ("time", "times", "timestep", "timesteps", "step", "steps", "sigma", "sigmas")
# what conditions an image without being one
_CONDITION_NAMES = (
    *_STEP_NAMES,
    "encoder_hidden_states",
    "context",
    "cond",
    "condition",
    "conditioning",
    "class_labels",
    "labels",
    "label",
    "text",
    "emb",
    "embedding",
    "time_emb",
    "temb",
)
_WIDTH_NAMES = ("cross_attention_dim", "context_dim", "cond_dim", "emb_dim", "embed_dim")
_SOLID = (nn.BatchNorm3d, nn.InstanceNorm3d, nn.MaxPool3d, nn.AvgPool3d)
_MOST_OPTIONAL = 4  # arguments that may be left out which are tried alone
_LIKELIEST = 8  # sizes that are tried before other channels are
_MAX_SHAPES = 90
_KINDS_AT_ODD_SIZES = 2
_SAMPLES = (16384, 44100)  # of signals that the forward makes spectrograms of
_FRAMES_OF_BINS = 128
_SHARES = (3, 1, 2, 4, 6)  # channels of images that are joined, the usual ones first
_MOST_SHARES = 160  # calls with these
_MOST_SHARING = 4
_FRAMES = (15, 9, 21)  # channels of frames side by side that a forward takes apart


Draw = Callable[[nn.Module, tuple[int, ...], int], torch.Tensor]
"""Makes a picture of a shape, by a seed."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Arguments:
    """What a forward requires.

    Attributes:
        image: Name of the image argument; None: the first positional one.
        others: Names of the other required arguments.
        positional: All required ones in order, where they are passed by position.
    """

    image: str | None
    others: tuple[str, ...]
    positional: tuple[str, ...] = ()


def arguments_of(model: nn.Module) -> Arguments:
    """Tell the image from what conditions it, which may come first."""
    parameters = _parameters(model)
    required = [p.name for p in parameters if p.default is p.empty]
    names = [p.name for p in parameters]
    if "pixel_values" in names:
        return Arguments("pixel_values", tuple(n for n in required if n != "pixel_values"))
    by_name = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if required and required[0] in _CONDITION_NAMES:
        image = next((n for n in required if n not in _CONDITION_NAMES), None)
        if image is not None:
            others = tuple(n for n in required if n != image)
            by_position = by_name.isdisjoint(required)
            return Arguments(image, others, tuple(required) if by_position else ())
    if required and required[0] in by_name:
        return Arguments(required[0], tuple(required[1:]))
    return Arguments(None, tuple(required[1:]))


def with_optional(model: nn.Module, arguments: Arguments) -> Iterator[Arguments]:
    """The same with some that the signature lets out and the forward may need all the same."""
    names = [p.name for p in _parameters(model)[1:] if p.default is None]
    conditions = tuple(name for name in names if name in _CONDITION_NAMES)
    ways = [conditions, *((name,) for name in names[:_MOST_OPTIONAL])]
    for more in dict.fromkeys(way for way in ways if way):
        yield replace(arguments, others=(*arguments.others, *more))


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]


def calls_with(
    model: nn.Module, arguments: Arguments, picture: torch.Tensor, draw: Draw
) -> Iterator[Call]:
    """Calls with one picture: every other required argument filled by its name, then by trying."""
    others = arguments.others
    choices = [
        list(_values(model, name, draw(model, tuple(picture.shape), seed), draw))
        for seed, name in enumerate(others, start=1)
    ]
    # first all with their likeliest value, then all with their second, then every mixture
    even = zip(*choices, strict=False) if choices else [()]
    shortest = min(map(len, choices), default=0)
    mixed = itertools.product(*map(range, map(len, choices)))
    mixtures = (
        tuple(values[place] for values, place in zip(choices, places, strict=True))
        for places in mixed
        if min(places, default=shortest) != max(places, default=0) or places[0] >= shortest
    )
    for chosen in itertools.chain(even, mixtures if len(others) > 1 else ()):
        yield _call(arguments, picture, chosen)


def calls_with_shares(
    model: nn.Module, arguments: Arguments, sizes: Sequence[int], draw: Draw
) -> Iterator[Call]:
    """Calls with several images, some of which are together what the first convolution takes.

    Last, frames of colours with maps of one channel, as of the noise.
    """
    joined = next((count for d, count in _kernels(model) if d == len(sizes)), 0)
    images = [name for name in arguments.others if name not in _CONDITION_NAMES]
    if not joined or not 0 < len(images) < _MOST_SHARING:
        return
    frames = [(many, *(1 for _ in images)) for many in _FRAMES]
    for counts in (*_shares(1 + len(images), joined), *frames):
        picture, *more = (draw(model, (1, n, *sizes), seed) for seed, n in enumerate(counts))
        of_image = dict(zip(images, more, strict=True))
        chosen = [
            of_image[name] if name in of_image else next(_values(model, name, picture, draw))
            for name in arguments.others
        ]
        yield _call(arguments, picture, chosen)


def _shares(images: int, joined: int) -> list[tuple[int, ...]]:
    """Channels of each image, of which some come to a number together; the likeliest first.

    Few channels are unusual then, and few images are not among what is joined.
    """
    unlikely = {}
    for counts in itertools.product(_SHARES, repeat=images):
        apart = (
            out
            for out in range(images)
            if joined in map(sum, itertools.combinations(counts, images - out))
        )
        if (out := next(apart, None)) is not None:
            unlikely[counts] = out + sum(map(_SHARES.index, counts))
    return sorted(unlikely, key=unlikely.__getitem__)[:_MOST_SHARES]


def _call(arguments: Arguments, picture: torch.Tensor, chosen: Sequence[Any]) -> Call:
    """The call with a picture, and with what is chosen for the others."""
    named = dict(zip(arguments.others, chosen, strict=True))
    if arguments.image is None:
        return (picture,), named
    named = {arguments.image: picture, **named}
    by_position = tuple(named.pop(name) for name in arguments.positional)
    return by_position, named


def _values(model: nn.Module, name: str, picture: torch.Tensor, draw: Draw) -> Iterator[Any]:
    """Plausible values of a required argument, the likeliest first."""
    blank = picture.new_empty if draw is unwritten else picture.new_zeros
    batch, channels = picture.shape[:2]
    steps = torch.arange(1, batch + 1, device=picture.device)
    widths = dict.fromkeys(
        width
        for holder in (model, _config(model))
        for attribute in _WIDTH_NAMES
        if isinstance(width := _attribute(holder, attribute), int)
    )
    sequences = [blank(batch, 8, width) for width in dict.fromkeys([*widths, *_attended(model)])]
    others = [
        blank(batch, count, *picture.shape[2:])
        for dimensions, count in _channels(model)
        if dimensions == picture.dim() - 2 and count != channels
    ]
    as_map = steps.to(picture.dtype).reshape(batch, *[1] * (picture.dim() - 1))
    of_time = [steps, steps.to(picture.dtype), steps[:, None].to(picture.dtype)]
    first = _first_linear(model)
    vectors = [blank(batch, first)] if first else []
    if _is_of_time(name):
        yield from (*of_time, *([as_map] if name in _NOISE_NAMES else ()), picture, *vectors)
    elif name in _CONDITION_NAMES:
        yield from (*sequences, *(s[:, 0] for s in sequences), *of_time, picture, *vectors, *others)
    else:
        yield from (picture, *of_time, *others[:3], *sequences, *vectors)


def _is_of_time(name: str) -> bool:
    """Whether an argument is named by a step, alone or beside other words (``time_cond``)."""
    if name in _CONDITION_NAMES:
        return name in _STEP_NAMES
    return any(word in _STEP_WORDS for word in name.split("_"))


def likely_shapes(
    model: nn.Module, dimensions: int = 0, *, with_channels: bool = True
) -> list[tuple[int, ...]]:
    """Plausible (channels, *sizes), the likeliest first.

    The usual sizes with the likeliest channels, then all channels in turn at each size: wrong
    channels fail alike at every size. Every size is among them with the likeliest channels.

    Args:
        model: Whose kernels and attributes say what is likely.
        dimensions: Number of sizes; by default what its kernels take.
        with_channels: Whether there is an axis of channels; there is one of them if not.
    """
    by_kind, kinds = [], _kinds(model, dimensions, with_channels=with_channels)
    for dimensions, channels in kinds:
        usual = _long_enough(model) if dimensions == 1 else _SIZES[dimensions]
        if dimensions == 3 > kinds[0][0]:  # frames or slices, few of which say as much as many
            usual = tuple(sorted(usual, key=lambda size: len(set(size)) == 1))
        windows = declared_windows(model, dimensions)
        declared = declared_sizes(model, dimensions)
        if dimensions == 2:
            bins = [n for n, _ in declared_sizes(model, 2, _BIN_NAMES)]
            declared += [
                size for n in bins for size in ((n, _FRAMES_OF_BINS), (_FRAMES_OF_BINS, n))
            ]
        sizes = dict.fromkeys([*windows, usual[0], *declared, *usual[1:]])
        by_kind.append([(channels, *size) for size in sizes])
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind))
    found = dict.fromkeys([*by_kind[0][:_LIKELIEST], *(s for s in in_turn if s is not None)])
    return list(dict.fromkeys([*list(found)[:_MAX_SHAPES], *by_kind[0]]))


def _kinds(model: nn.Module, wanted: int, *, with_channels: bool) -> list[tuple[int, int]]:
    """(dimensions, channels) to try; of a number of dimensions where one is wanted."""
    kinds = _channels(model)
    # a forward may make maps of signals, of which no kernel says
    found = [kind for kind in kinds if kind[0] == wanted] or [(wanted, n) for _, n in kinds]
    found = found if wanted else kinds
    return list(dict.fromkeys(found if with_channels else [(d, 1) for d, _ in found]))


def _long_enough(model: nn.Module) -> list[tuple[int, ...]]:
    """Numbers of samples, those first of which some positions are left at the deepest level."""
    strides = [m.stride[0] for m in model.modules() if type(m) is nn.Conv1d]
    needed = _POSITIONS * math.prod(strides)
    return sorted(_SIZES[1], key=lambda size: size[0] < needed <= _SIZES[1][-1][0])


def few_of_each(shapes: Sequence[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """The likeliest shapes, and of the other channels and dimensions as many together."""
    counts: Counter[tuple[int, int]] = Counter()
    found = []
    for shape in shapes:
        kind = len(shape), shape[0]
        counts[kind] += 1
        if counts[kind] <= (most if kind == (len(shapes[0]), shapes[0][0]) else most // 4):
            found.append(shape)
    return found


def frames_beside(model: nn.Module, channels: int) -> int:
    """Frames of a clip: as many as are together what the first convolution takes, else two."""
    joined = next((count for _, count in _kernels(model)), 0)
    return joined // channels if joined > channels and joined % channels == 0 else 2


def odd_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """(channels, *sizes) where no usual one runs: frames, samples, bins, then each remainder."""
    kernels = _kernels(model)
    counts = list(dict.fromkeys([*_declared(model), 2, 1]))
    if kernels and kernels[0][0] == 2:
        yield from ((frames, *_SIZES[2][0]) for frames in _FRAMES)
        yield from itertools.product(counts, _SAMPLES)
    elif not kernels and (first := _first_linear(model)):
        for count in counts:
            if first % count == 0:
                yield count, first // count, _FRAMES_OF_BINS
                yield count, _FRAMES_OF_BINS, first // count
    for dimensions, channels in _channels(model)[:_KINDS_AT_ODD_SIZES]:
        yield from ((channels, *size) for size in _FLAT if dimensions == 3)
        for size in _REMAINDERS[dimensions]:
            if dimensions == 3:
                yield channels, _SLICES, size, size
            yield (channels, *(size,) * dimensions)


def _channels(model: nn.Module) -> list[tuple[int, int]]:
    """(dimensions, channels) that the first convolutions take, then plain guesses."""
    found, pointwise = _kernels(model), _starts_pointwise(model)
    dimensions = found[0][0] if found else 2
    declared = [(dimensions, count) for count in _declared(model)]
    small = [kind for kind in found if kind[1] <= 4]
    guesses = [(dimensions, 3), (dimensions, 1)]
    # real and imaginary parts, two images, or an image and its mask, that the forward takes apart
    pairs = [(d, count) for d, channels in found[:1] for count in (2 * channels, channels + 1)]
    # kernels of one position may work on flattened images
    flat = [(2, count) for d, count in (*declared, *found[:1]) if d == 1 and pointwise]
    # images that the forward takes for clips of one frame
    clips = [(2, count) for d, count in found[:1] if d == 3]
    # volumes that are taken slice by slice at first, or by kernels of slices along each axis; three
    # slices side by side may be the channels of an image
    solid = any(d == 3 for d, _ in found) or any(isinstance(m, _SOLID) for m in model.modules())
    volumes = [(3, n) for d, count in found[:1] if d == 2 and solid for n in (count, 1)]
    kinds = [
        *found[:1],
        *declared,
        *small[:2],
        *volumes,
        *flat,
        *guesses,
        *pairs,
        *clips,
        *found[1:3],
    ]
    return list(dict.fromkeys(kinds))


def _kernels(model: nn.Module) -> list[tuple[int, int]]:
    """(dimensions, channels) that each kernel takes, in order."""
    found = []
    for module in model.modules():
        weight, channels = _weight(module), _attribute(module, "in_channels")
        if weight is not None and weight.dim() in (3, 4, 5):
            count = channels if isinstance(channels, int) else weight.shape[1]
            found.append((weight.dim() - 2, int(count)))
    return found


def _starts_pointwise(model: nn.Module) -> bool:
    """Whether the first kernel is of one position."""
    weights = (weight for module in model.modules() if (weight := _weight(module)) is not None)
    first = next((weight for weight in weights if weight.dim() in (3, 4, 5)), None)
    return first is not None and math.prod(first.shape[2:]) == 1


def _declared(model: nn.Module) -> list[int]:
    """Numbers of channels that the model carries in an attribute."""
    return [
        value
        for holder in (model, _config(model))
        for name in _CHANNEL_NAMES
        if isinstance(value := _attribute(holder, name), int)
    ]


def _first_linear(model: nn.Module) -> int:
    """How many numbers the first linear layer takes; 0 where there is none."""
    return next((m.in_features for m in model.modules() if isinstance(m, nn.Linear)), 0)


def _attended(model: nn.Module) -> dict[int, None]:
    """Widths of what is attended to beside the image: keys are made of them, and no queries."""
    found: dict[int, None] = {}
    for module in model.modules():
        taken: dict[str, set[int]] = {"q": set(), "k": set()}
        for name, layer in module.named_children():
            letter = name.removeprefix("to_")[:1]
            if isinstance(layer, nn.Linear) and letter in taken:
                taken[letter].add(layer.in_features)
        if taken["q"]:
            found |= dict.fromkeys(sorted(taken["k"] - taken["q"]))
    return found


def _weight(module: nn.Module) -> torch.Tensor | None:
    """A module's kernel as it is stored: a parametrization computes it, and may change on that."""
    own = dict(module.named_parameters(recurse=False))
    # normalised in the old way, a kernel is stored under another name
    stored = next(
        (own[name] for name in ("weight", "weight_v", "weight_orig") if name in own), None
    )
    if stored is None and parametrize.is_parametrized(module, "weight"):
        of_weight = module.get_submodule("parametrizations.weight")
        originals = list(of_weight.parameters(recurse=False))
        stored = max(originals, key=lambda p: p.dim(), default=None)
    return stored


def declared_sizes(
    model: nn.Module, dimensions: int, names: Sequence[str] = _SIZE_NAMES
) -> list[tuple[int, ...]]:
    """Sizes that the model or its parts carry in an attribute."""
    found: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            continue  # their input_size counts channels
        for holder in (module, _config(module)):
            for name in names:
                value = _attribute(holder, name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 8:
                    found.append((value,) * dimensions)
                elif (
                    isinstance(value, tuple | list)
                    and len(value) == dimensions
                    and all(isinstance(v, int) and v > 0 for v in value)
                ):
                    found.append(tuple(value))
    return list(dict.fromkeys(found))[:3]


def declared_windows(model: nn.Module, dimensions: int) -> list[tuple[int, ...]]:
    """Sizes of the windows that signals are cut into, each with an answer of its own."""
    return declared_sizes(model, 1, _WINDOW_NAMES) if dimensions == 1 else []


def _attribute(holder: object, name: str) -> Any:
    """An attribute as it is stored: a property of a foreign class may warn or compute."""
    return getattr(holder, "__dict__", {}).get(name)


def _config(module: nn.Module) -> Any:
    """The configuration object that transformers and diffusers models carry."""
    stored = _attribute(module, "config") or _attribute(module, "_internal_dict")
    return stored


def unwritten(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """What takes the place of noise where numbers do not count.

    The errors of a search hold what was tried, and memory that nobody touches costs nothing.
    """
    like = _like(model)
    if like is None:
        return torch.empty(shape, device="cpu")
    return torch.empty(shape, device=like.device, dtype=like.dtype)


def noise(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A picture of noise from a generator of its own, on the model's device and of its type."""
    like = _like(model)
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    return picture if like is None else picture.to(like.device, like.dtype)


def _like(model: nn.Module) -> torch.Tensor | None:
    return next((p for p in model.parameters() if p.is_floating_point()), None)

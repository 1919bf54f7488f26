"""Find an example input: number of dimensions, channels, and a size that runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from weightscope.errors import ForwardError, InputError
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.structure import ExampleInputs

BATCH = 2
# moderate sizes that many downsampling steps divide come first, odd demands last
_SIZES = {
    1: (512, 256, 1024, 2048, 64),
    2: (256, 128, 224, 512, 384, 64, 96, 192, 320, 32, 572, 1024),
    3: (64, 96, 128, 32, 48),
}
_SIZE_NAMES = ("img_size", "image_size", "input_size", "sample_size", "input_shape", "spatial_size")
_CHANNEL_NAMES = ("in_channels", "num_channels", "in_chans", "input_channels", "n_channels")
_STEP_NAMES = (
    "timestep",
    "timesteps",
    "time",
    "t",
    "noise_labels",
    "sigma",
    "sigmas",
    "noise_level",
)
_MAX_TRIALS = 40


def check_model(model: object) -> nn.Module:
    """Refuse what is no model with values in its parameters.

    Raises:
        InputError: Not a Module, no parameters, or parameters without values.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(f"expected a torch.nn.Module (an instance), received {kind}")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name} of {type(model).__name__} is not initialised yet (a lazy module); run the"
                " model once on an example before passing it"
            )
        if parameter.is_meta:
            raise InputError(
                f"{name} of {type(model).__name__} lies on the meta device and has no values; load"
                " the weights, or use to_empty(device='cpu') and initialise them"
            )
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters; there is nothing to analyse")
    return model


def find_inputs(model: nn.Module, example_inputs: Any = None) -> ExampleInputs:
    """Take the user's example, or find one that the model's forward accepts.

    Trials run on fake tensors over a throw-away copy: nothing is computed, nothing is changed.

    Args:
        model: The model.
        example_inputs: A tensor, a tuple of positional arguments, a dict of keyword arguments, or
            None to find one.

    Raises:
        InputError: ``example_inputs`` is none of these.
        ForwardError: The forward raises on the example, or on everything that was tried.
    """
    if isinstance(example_inputs, ExampleInputs):
        return example_inputs
    trial = _Trial(model)
    if example_inputs is not None:
        args, kwargs = _as_call(example_inputs)
        error = trial.error(args, kwargs)
        if error is not None:
            shapes = ", ".join(_shapes((args, kwargs)))
            raise ForwardError(
                f"the forward of {type(model).__name__} raised on example_inputs ({shapes}):"
                f" {_say(error)}. Pass example_inputs= as the forward takes them."
            ) from error
        return ExampleInputs(args, kwargs, _dimensions((args, kwargs)), guessed=False)
    return _search(model, trial)


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise InputError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword"
        f" arguments, not {type(example).__name__}"
    )


def _dimensions(call: Any) -> int:
    ranks = [v.dim() for v in pytree.tree_leaves(call) if isinstance(v, torch.Tensor)]
    rank = next((r for r in ranks if r > 2), None)
    if rank is None:
        raise InputError(
            "example_inputs hold no image: a tensor (batch, channels, sizes...) of at least three"
            " dimensions is needed"
        )
    return rank - 2


def _shapes(call: Any) -> list[str]:
    return [
        "x".join(map(str, v.shape)) if isinstance(v, torch.Tensor) else repr(v)
        for v in pytree.tree_leaves(call)
    ]


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().rstrip(".")


class _Trial:
    """Calls the model's forward on fake tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        tensors = {id(t): self.mode.from_tensor(t) for t in [*model.parameters(), *model.buffers()]}
        self.model = throwaway_copy(model, tensors).eval()

    def error(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception | None:
        """What the forward raises, or None where it runs."""

        def fake(value: Any) -> Any:
            return self.mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        args, kwargs = pytree.tree_map(fake, (args, dict(kwargs)))
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), self.mode:
                self.model(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a foreign forward may raise anything
            return error
        return None


def _search(model: nn.Module, trial: _Trial) -> ExampleInputs:
    """Try plausible images, then plausible values of the other required arguments."""
    first: Exception | None = None
    tried: list[str] = []
    image, others = _arguments(model)
    for shape in _candidates(model):
        picture = _noise(model, (BATCH, *shape))
        for args, kwargs in _calls(model, image, others, picture):
            error = trial.error(args, kwargs)
            if error is None:
                return ExampleInputs(args, kwargs, len(shape) - 1, guessed=True)
            first = first or error
            tried.append("x".join(map(str, (BATCH, *shape))))
    needs = (
        f" Its forward requires {', '.join(map(repr, others))} besides the image." if others else ""
    )
    raise ForwardError(
        f"no example input was found that {type(model).__name__} takes; tried"
        f" {', '.join(dict.fromkeys(tried))}. The first trial raised"
        f" {_say(first) if first else 'nothing'}.{needs} Pass example_inputs= (a tensor, a tuple of"
        " arguments or a dict of keyword arguments)."
    ) from first


def _arguments(model: nn.Module) -> tuple[str | None, list[str]]:
    """Name of the image argument (None: the first positional), and the other required arguments."""
    parameters = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    names = [p.name for p in parameters]
    if "pixel_values" in names:
        return "pixel_values", [n for n in required if n != "pixel_values"]
    return None, required[1:]


def _calls(
    model: nn.Module, image: str | None, others: Sequence[str], picture: torch.Tensor
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Calls with one picture: every other required argument filled by its name, then by trying."""
    args: tuple[Any, ...] = () if image else (picture,)
    base = {image: picture} if image else {}
    choices = [list(_values(model, name, picture)) for name in others]
    for index in range(max((len(c) for c in choices), default=1)):
        yield (
            args,
            {
                **base,
                **{n: c[min(index, len(c) - 1)] for n, c in zip(others, choices, strict=True)},
            },
        )


def _values(model: nn.Module, name: str, picture: torch.Tensor) -> Iterator[Any]:
    """Plausible values of a required argument, the likeliest first."""
    batch = picture.shape[0]
    steps = torch.arange(1, batch + 1, device=picture.device)
    if name == "encoder_hidden_states":
        width = getattr(getattr(model, "config", None), "cross_attention_dim", None)
        if isinstance(width, int):
            yield torch.zeros(batch, 8, width, device=picture.device, dtype=picture.dtype)
    if name in _STEP_NAMES:
        yield steps
        yield steps.to(picture.dtype)
        yield picture
    else:
        yield picture
        yield steps
        yield steps.to(picture.dtype)


def _candidates(model: nn.Module) -> list[tuple[int, ...]]:
    """Plausible (channels, *sizes), the likeliest first."""
    kinds = _channels(model)
    shapes: list[tuple[int, ...]] = []
    for dimensions, channels in kinds:
        for size in [*_declared_sizes(model, dimensions), *_squares(dimensions)]:
            if (channels, *size) not in shapes:
                shapes.append((channels, *size))
    likeliest = [s for s in shapes if (len(s) - 1, s[0]) == kinds[0]]
    return [*likeliest, *(s for s in shapes if s not in likeliest)][:_MAX_TRIALS]


def _squares(dimensions: int) -> list[tuple[int, ...]]:
    return [(size,) * dimensions for size in _SIZES[dimensions]]


def _channels(model: nn.Module) -> list[tuple[int, int]]:
    """(dimensions, channels) that the first convolutions take, then plain guesses."""
    found: list[tuple[int, int]] = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        channels = getattr(module, "in_channels", None)
        if isinstance(weight, torch.Tensor) and weight.dim() in (3, 4, 5):
            count = channels if isinstance(channels, int) else weight.shape[1]
            found.append((weight.dim() - 2, int(count)))
    dimensions = found[0][0] if found else 2
    declared = [
        (dimensions, value)
        for holder in (model, getattr(model, "config", None))
        for name in _CHANNEL_NAMES
        if isinstance(value := getattr(holder, name, None), int)
    ]
    small = [kind for kind in found if kind[1] <= 4]
    guesses = [(dimensions, 3), (dimensions, 1)]
    return list(dict.fromkeys([*found[:1], *declared, *small[:2], *guesses, *found[1:3]]))


def _declared_sizes(model: nn.Module, dimensions: int) -> list[tuple[int, ...]]:
    """Sizes that the model or its parts carry in an attribute."""
    found: list[tuple[int, ...]] = []
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name in _SIZE_NAMES:
                value = getattr(holder, name, None)
                if isinstance(value, int) and not isinstance(value, bool) and value > 8:
                    found.append((value,) * dimensions)
                elif (
                    isinstance(value, tuple | list)
                    and len(value) == dimensions
                    and all(isinstance(v, int) and v > 0 for v in value)
                ):
                    found.append(tuple(value))
    return list(dict.fromkeys(found))[:3]


def _noise(model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """A picture of noise from a generator of its own, on the model's device and of its type."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(shape, generator=generator)
    return picture if like is None else picture.to(like.device, like.dtype)

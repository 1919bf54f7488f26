"""Whether a graph that was read answers as the model does, on numbers, call after call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.symbols import hint
from weightscope.calls import called, fresh, random_state, random_states, seed_all, undisturbed
from weightscope.copies import deep_copy
from weightscope.errors import InputError
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.fixed import fixed_in
from weightscope.graph.layouts import images_of, sides_of, steps_of
from weightscope.graph.memory import advance, changed, state_of
from weightscope.graph.nodes import tensor_of
from weightscope.graph.running import GraphRun, SameDraws
from weightscope.graph.structure import ExampleInputs, Structure

_ROUNDINGS = 100  # in a deep network few are as large; a wrong setting is orders above
_SMALLEST = 32  # pixels along each side of what is called to compare answers
_AT_THE_DEEPEST = 2  # pixels there: of a single one, some normalisations leave nothing
_CALLS = 6  # in a row, of a forward that counts them
_ELSEWHERE = "what is outside of its modules"


@dataclass(frozen=True)
class Comparison:
    """How the answers of a graph compare with those of the model that it was read from.

    Attributes:
        wrong: Which output differs, though the model answers the same call alike; empty if none.
        remembers: Names of the attributes and buffers through which earlier calls decide what the
            model returns, where those of the graph do not.
        repeatable: Whether the model answers the same call alike when all that hangs on it is put
            back.
        draws: Whether its forward draws at random in evaluation mode, or seems to.
    """

    wrong: str = ""
    remembers: tuple[str, ...] = ()
    repeatable: bool = True
    draws: bool = False


def differs(structure: Structure, inputs: ExampleInputs | None = None) -> str:
    """Which output of the graph is not what the model's own forward returns; empty if none is.

    Nothing is said of a forward that answers the same call differently.

    Args:
        structure: The network.
        inputs: The call; by default that of the example.
    """
    runs = _Runs(structure, inputs or structure.inputs)
    expected = runs.model(runs.once)
    if _difference(expected, runs.model(runs.once)):
        return ""  # it draws from generators of its own
    return _difference(expected, runs.graph(runs.once))


def differs_elsewhere(
    structure: Structure, takes: Callable[[ExampleInputs], bool], *, copies: bool = False
) -> bool:
    """Whether the graph answers as the model does where it was read, and not at another size.

    It is called at a size that nothing divides; where the model takes none, or another way, at a
    multiple of what the deepest level stands for. Nothing is said where it takes no other size.

    Args:
        structure: The network, read with free sizes.
        takes: Whether a call takes so little memory that it may be run.
        copies: Whether the forward leaves something in weights: copies of them are used then.
    """
    held = fixed_in(structure.graph)
    for sizes in () if _without_numbers(structure.model) else _elsewhere(structure):
        inputs = resized(structure.inputs, sizes)
        try:
            held.in_order(inputs.args, inputs.kwargs)
        except InputError:
            continue
        holds = _holds(structure, inputs, copies) if takes(inputs) else None
        if holds is not None:
            return not holds and _same_where_read(structure, copies)
    return False


def settles(structure: Structure) -> bool:
    """Whether a forward that writes into its weights leaves them as its first call made them.

    So does what keeps them in bounds: a clamp, a largest norm.

    Args:
        structure: The network. Nothing is known of one without numbers, or that does not run.
    """
    if _without_numbers(structure.model):
        return False
    for inputs in _from_small_to_given(structure):
        model = deep_copy(structure.model).eval()
        with torch.no_grad(), random_state(model):
            states = []
            try:
                for given in (inputs, _turned(inputs)):
                    called(model, given.args, given.kwargs)
                    states.append([weight.clone() for weight in model.parameters()])
            except Exception:  # noqa: BLE001 - the forward refuses that size
                continue
            return all(map(torch.equal, *states))
    return False


def holds_where_shown(
    structure: Structure, alike: Callable[[ExampleInputs], bool], *, copies: bool = False
) -> bool:
    """Whether the graph runs at the example, and answers as the model does if that runs on it.

    It is called at the smallest size at which the model does what it does at the example.

    Args:
        structure: The network, read at another size than its example's.
        alike: Whether the model does at a call what it does at the example.
        copies: Whether the forward leaves something in weights: copies of them are used then.
    """
    if _without_numbers(structure.model):
        return False
    return _shown(structure, alike, copies) is not False


def differs_where_shown(
    structure: Structure, alike: Callable[[ExampleInputs], bool], *, copies: bool = False
) -> bool:
    """Whether the graph answers the example otherwise than the model does, or does not run on it.

    Nothing is said of a model without numbers; for the arguments see `holds_where_shown`.
    """
    return not _without_numbers(structure.model) and _shown(structure, alike, copies) is False


def _shown(
    structure: Structure, alike: Callable[[ExampleInputs], bool], copies: bool
) -> bool | None:
    """Whether the graph answers the example as the model does; None where that does not run."""
    found = (
        _holds(structure, inputs, copies)
        for inputs in _from_small_to_given(structure)
        if inputs is structure.inputs or alike(inputs)
    )
    return next((holds for holds in found if holds is not None), None)


def read_elsewhere(structure: Structure) -> bool:
    """Whether a network was traced with images of other sizes than the example's."""
    first = structure.graph.find_nodes(op="placeholder")
    pairs = zip(first, in_order(structure), strict=False)
    return any(
        hint(traced.shape[axis]) != value.shape[axis]
        for node, value in pairs
        if (traced := tensor_of(node)) is not None and isinstance(value, Tensor)
        for axis in sides_of(value, structure.inputs)
    )


def holds_at_size(
    structure: Structure,
    sizes: Sequence[int],
    takes: Callable[[ExampleInputs], bool],
    *,
    copies: bool = False,
) -> bool:
    """Whether the model runs at some size of its images, and the graph answers as it does.

    Args:
        structure: The network.
        sizes: Of the images.
        takes: Whether a call takes so little memory that it may be run.
        copies: Whether the forward leaves something in weights: copies of them are used then.
    """
    if _without_numbers(structure.model):
        return False
    inputs = resized(structure.inputs, sizes)
    return takes(inputs) and bool(_holds(structure, inputs, copies))


def holds_at(
    structure: Structure,
    other: Callable[[ExampleInputs], ExampleInputs],
    *,
    copies: bool = False,
) -> bool:
    """Whether the graph answers another call as the model does; not where that has no numbers.

    Args:
        structure: The network.
        other: Makes the call of one at the example's size or a smaller one.
        copies: Whether the forward leaves something in weights: copies of them are used then.
    """
    if _without_numbers(structure.model):
        return False
    calls = map(other, _from_small_to_given(structure))
    found = (_holds(structure, inputs, copies) for inputs in calls)
    return bool(next((holds for holds in found if holds is not None), False))


def holds_for_one_image(structure: Structure, *, copies: bool = False) -> bool:
    """Whether the graph of a network that was read with several images answers for one as it does.

    Args:
        structure: The network.
        copies: Whether the forward leaves something in weights: copies of them are used then.
    """
    if _without_numbers(structure.model):
        return False
    inputs = next(_from_small_to_given(structure))
    images = len(images_of(inputs)[0])

    def first(value: Any) -> Any:
        of_batch = isinstance(value, Tensor) and value.dim() and len(value) == images
        return value[:1] if of_batch else value

    args, kwargs = pytree.tree_map(first, (inputs.args, dict(inputs.kwargs)))
    return bool(_holds(structure, replace(inputs, args=args, kwargs=kwargs), copies))


def _holds(structure: Structure, inputs: ExampleInputs, copies: bool) -> bool | None:
    """Whether the graph answers a call as the model does; None where the model does not run."""
    runs = _Runs(structure, inputs, copies)
    try:
        expected = runs.model(runs.once)
    except Exception:  # noqa: BLE001 - the forward refuses that size
        return None
    try:
        return not _difference(expected, runs.graph(runs.once))
    except Exception:  # noqa: BLE001 - what it does not run at, it does not hold at
        return False


def _same_where_read(structure: Structure, copies: bool) -> bool:
    runs = _Runs(structure, structure.inputs, copies)
    return not _difference(runs.model(runs.once), runs.graph(runs.once))


def _elsewhere(structure: Structure) -> Iterator[list[int]]:
    """A small size that nothing divides, then one of the deepest level's multiples."""
    image, *others = images_of(structure.inputs)
    if any(other.shape[1:] != image.shape[1:] for other in others):
        return  # images of several sizes belong together in a way that is not known
    deepest = [max(1, int(step)) for step in steps_of(structure)]
    small = [max(_SMALLEST, _AT_THE_DEEPEST * reduction) for reduction in deepest]
    yield [n + 5 + 4 * axis for axis, n in enumerate(small)]
    yield [*small[:-1], (small[-1] // deepest[-1] + 1) * deepest[-1]]


def _without_numbers(model: nn.Module) -> bool:
    return any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def compare(structure: Structure, *, copies: bool = False) -> Comparison:
    """Call the model and the graph, at a small size, and once more after another image.

    Args:
        structure: The network.
        copies: Whether the forward leaves something in weights: copies of them are used then.

    Returns:
        How the answers compare. Nothing is found where the model has no numbers, or where its
        forward does not run on them.
    """
    if _without_numbers(structure.model):
        return Comparison()
    for inputs in _from_small_to_given(structure):
        runs = _Runs(structure, inputs, copies)
        try:
            again = runs.model(runs.after_another)
        except Exception:  # noqa: BLE001 - the forward refuses that size
            continue
        found = _compared(runs, again)
        elsewhere = not found.repeatable or not GENERATORS.isdisjoint(found.remembers)
        return replace(found, draws=runs.draws or elsewhere)
    return Comparison()


def _compared(runs: _Runs, again: list[Tensor]) -> Comparison:
    found = runs.graph(runs.once)
    remembers: list[str] = []
    if _difference(again, found) and _difference(again, runs.graph(runs.after_another)):
        if drawn := [name for name in _generators() if name in runs.left]:
            return Comparison(remembers=tuple(drawn))
        expected = runs.model(runs.once)
        if _difference(expected, runs.model(runs.once)):
            return Comparison(repeatable=False)
        if wrong := _difference(expected, found):
            return Comparison(wrong)
        remembers = runs.left or [""]
    elif runs.counts:
        late = runs.model(runs.late)
        alike = again * (len(late) // max(len(again), 1))
        if _difference(late, alike) and _difference(late, runs.graph(runs.late)):
            remembers = runs.counts
    return Comparison(remembers=tuple(remembers))


_Call = Callable[[nn.Module, ExampleInputs], Any]
_Calls = Callable[[nn.Module, Callable[[ExampleInputs], Any]], Any]


class _Runs:
    """Calls of a model and of its graph on the same arguments, each from the model as it is.

    Args:
        structure: The network.
        inputs: The arguments.
        copies: Whether weights are copied, too.

    Attributes:
        left: What a call left otherwise in the model, by name, after `after_another` was run.
        counts: What of that each of two calls changed, and is a number or a few.
        draws: Whether a call of the model drew at random.
    """

    def __init__(self, structure: Structure, inputs: ExampleInputs, copies: bool = False) -> None:
        self._structure, self._copies = structure, copies
        self._inputs = inputs
        self._another = _turned(inputs)
        self.left: list[str] = []
        self.counts: list[str] = []
        self.draws = False

    def model(self, calls: _Calls) -> list[Tensor]:
        """What the model returns in the last of some calls."""

        def call(model: nn.Module, inputs: ExampleInputs) -> Any:
            return pytree.opened(called(model, inputs.args, inputs.kwargs))

        made, states = self._run(calls, call)
        if calls == self.after_another:
            before, between, after = states
            self.left = changed(before, between)
            self.counts = [name for name in changed(between, after) if name in self.left]
        return made

    def graph(self, calls: _Calls) -> list[Tensor]:
        """What the graph returns in the last of some calls."""

        def call(model: nn.Module, inputs: ExampleInputs) -> Any:
            structure = replace(self._structure, model=model)
            return list(GraphRun(structure, {}).run(*fresh(*in_order(structure, inputs))))

        return self._run(calls, call)[0]

    def _run(self, calls: _Calls, call: _Call) -> tuple[list[Tensor], list[dict[str, Any]]]:
        model = self._structure.model
        # what functions that the model holds count outside of it is put back by no one
        model = deep_copy(model) if self._copies else throwaway_copy(model)
        with torch.no_grad(), undisturbed(model), SameDraws() as drawn:
            seed_all()
            made, states = calls(model, functools.partial(call, model))
            self.draws |= drawn.any
            return pytree.tree_tensors(made), states

    def once(self, model: nn.Module, call: Any) -> Any:
        """One call."""
        return call(self._inputs), []

    def after_another(self, model: nn.Module, call: Any) -> Any:
        """A call after one on another image, and the states before, between and after."""
        states = [_state(model)]
        for inputs in (self._another, self._inputs):
            made = call(inputs)
            states.append(_state(model))
        return made, states

    def late(self, model: nn.Module, call: Any) -> Any:
        """Some calls in a row, and one after many, as far as what counts them says."""
        made = []
        for _ in range(_CALLS):
            before = state_of(model)
            made.append(call(self._inputs))
        advance(model, before, state_of(model))
        return [*made, call(self._inputs)], []


def _state(model: nn.Module) -> dict[str, Any]:
    """What hangs on a model, and where the generators are that are not torch's."""
    return state_of(model) | _generators()


def _generators() -> dict[str, Any]:
    return {name: state for name, state in random_states().items() if name != "torch"}


GENERATORS = frozenset(_generators())
"""Names of the generators that are not torch's."""


def _difference(expected: list[Tensor], found: list[Tensor]) -> str:
    """Which of some tensors is another one; empty if none is."""
    if len(expected) != len(found):
        return f"{len(found)} tensors are returned where the original returns {len(expected)}"
    for position, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not _close(a, b):
            return f"tensor {position} of the outputs differs from what the original returns"
    return ""


def _close(a: Tensor, b: Tensor) -> bool:
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    if a.shape != b.shape or not (a.is_floating_point() or a.is_complex()):
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    size = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    rounding = _ROUNDINGS * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=rounding, atol=rounding * size, equal_nan=True)


def in_order(structure: Structure, inputs: ExampleInputs | None = None) -> list[Any]:
    """The arguments in the order of the graph's placeholders."""
    inputs = inputs or structure.inputs
    names = [node.target for node in structure.graph.nodes if node.op == "placeholder"]
    given = list(inputs.args)
    rest = names[len(given) :]
    return [*given, *(inputs.kwargs[str(name)] for name in rest)]


def _from_small_to_given(structure: Structure) -> Iterator[ExampleInputs]:
    """The example in sizes that were read alike, the smallest first."""
    inputs, held = structure.inputs, fixed_in(structure.graph)
    least = [max(_SMALLEST, _AT_THE_DEEPEST * int(step)) for step in steps_of(structure)]
    sizes = [images_of(inputs)[0].shape[axis] for axis in inputs.space]
    halvings = 0
    while all(
        (n >> halvings) % 2 == 0 and n >> (halvings + 1) >= m
        for n, m in zip(sizes, least, strict=True)
    ):
        halvings += 1
    for halved in range(halvings, 0, -1):
        small = _halved(inputs, halved)
        try:
            held.in_order(small.args, small.kwargs)
        except InputError:
            continue
        yield small
    yield inputs


def _halved(inputs: ExampleInputs, times: int) -> ExampleInputs:
    """The same call with the first corner of every image."""

    def corner(image: Tensor, sides: tuple[int, ...]) -> Tensor:
        for axis in sides:
            image = image.narrow(axis, 0, image.shape[axis] >> times)
        return image.contiguous()

    return _along_sides(inputs, corner)


def resized(inputs: ExampleInputs, sizes: Sequence[int]) -> ExampleInputs:
    """The same call with every image cropped, or repeated, to some sizes."""
    along = dict(zip(inputs.space, sizes, strict=True))

    def cut(image: Tensor, sides: tuple[int, ...]) -> Tensor:
        for axis, size in ((axis, along[axis]) for axis in sides):
            positions = torch.arange(size, device=image.device) % image.shape[axis]
            image = image.index_select(axis, positions)
        return image

    return _along_sides(inputs, cut)


def _turned(inputs: ExampleInputs) -> ExampleInputs:
    """The same call with every image upside down."""
    return _along_sides(inputs, lambda image, sides: image.flip(sides))


def _along_sides(
    inputs: ExampleInputs, change: Callable[[Tensor, tuple[int, ...]], Tensor]
) -> ExampleInputs:
    """The same call with everything changed that has the image's positions along some sides."""

    def changed_one(value: Any) -> Any:
        sides = sides_of(value, inputs)
        return change(value, sides) if sides else value

    args, kwargs = pytree.tree_map(changed_one, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)

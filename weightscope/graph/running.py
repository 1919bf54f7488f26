"""Run a network's coarse graph on data, with some of its tensors replaced on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from weightscope.adapters import pytree
from weightscope.adapters.dispatch import TorchDispatchMode
from weightscope.adapters.regions import entered, region_of
from weightscope.calls import own_arguments, random_states
from weightscope.errors import InputError, keyword
from weightscope.graph.base import computed_without_weights, last_of_weights
from weightscope.graph.fixed import fixed_in
from weightscope.graph.nodes import operator_of
from weightscope.graph.structure import Cut, Site, Structure


class SameDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets every operator that draws at random do so from one seed.

    What dropout takes out, in a network that goes on with it in evaluation mode, then follows from
    the shape alone, and not from how often was drawn before.

    Attributes:
        any: Whether anything was drawn.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed, self.any = seed, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        torch.manual_seed(self.seed)
        if self.any:
            return func(*args, **(kwargs or {}))
        before = random_states()
        made = func(*args, **(kwargs or {}))
        # dropout of evaluation mode has the tag, too, and draws nothing
        self.any = random_states() != before
        return made


def same_draws(structure: Structure, seed: int = 0) -> AbstractContextManager[Any]:
    """Draws from one seed, where the forward draws at random in evaluation mode at all."""
    return SameDraws(seed) if structure.draws else nullcontext()


class GraphRun(fx.Interpreter):
    """Runs a coarse graph over the user's own modules, changing some of its tensors on the way.

    Args:
        structure: The network.
        change: For node names, what to make of the computed value.
        needed: Names of the nodes to compute; the others are None. All by default.
    """

    def __init__(
        self,
        structure: Structure,
        change: Mapping[str, Callable[[Any], Any]],
        needed: frozenset[str] | None = None,
    ) -> None:
        super().__init__(structure.model, graph=structure.graph)
        self.structure = structure
        self.change = change
        self.needed = needed

    def fetch_attr(self, target: str) -> Any:
        """Look a name up among the graph's constants, then in the model."""
        if target in self.structure.constants:
            return self.structure.constants[target]
        return super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and change its value where that was asked for."""
        if self.needed is not None and n.name not in self.needed:
            return None
        with entered(region_of(n)):
            value = super().run_node(n)
        return self.change[n.name](value) if n.name in self.change else value

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """The arguments of a node, in lists and dicts that a module may change."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(map(_changeable, args)), {key: _changeable(v) for key, v in kwargs.items()}

    def predict(self, inputs: Any) -> Any:
        """Return what the model returns for the inputs of one batch."""
        args, kwargs = own_arguments(inputs, self.structure.model)
        try:
            given = fixed_in(self.structure.graph).in_order(args, kwargs)
        except TypeError as error:
            raise InputError(
                f"a batch does not hold what the forward takes ({error}); give each batch as"
                f" {keyword('example_inputs')} is, a tuple or a dict of all arguments"
            ) from None
        return self.folded(self.run(*given))

    def folded(self, outputs: Any) -> Any:
        """The graph's flat outputs as the model returns them; None where they were not needed."""
        if outputs is None:
            return None
        return pytree.tree_unflatten(list(outputs), self.structure.output_spec)


class CutRuns:
    """Runs a network whole, and with the exits of each cut replaced; what is the same runs once.

    What the forward draws at random is the same for a batch with and without a level, or every
    level would seem to change the output. Without a level only what its exits feed is run again:
    the decoder above.

    Args:
        structure: The network and its cuts.
        counted: Places of the outputs that are replaced, too, where a cut removes what computes
            them.

    Attributes:
        replaced: For each cut what is replaced, by its number of levels.
    """

    def __init__(self, structure: Structure, counted: Collection[str] = ()) -> None:
        self.structure = structure
        self._batches = 0
        self.replaced = {
            cut.keep_levels: _replaced(structure, cut, counted) for cut in structure.cuts
        }
        self._nodes = {node.name: node for node in structure.graph.nodes}
        self._again = {
            keep: _fed_by({site.node for site in sites}, structure.graph)
            for keep, sites in self.replaced.items()
        }
        self._last, self._adds = last_of_weights(structure)
        self._beside = _fed_by(self._last, structure.graph)
        self._kept = {site.node for sites in self.replaced.values() for site in sites}.union(
            *(sources for _, sources in self._again.values())
        )
        if self._last:
            self._kept |= self._last | self._beside[1]
        self._computed = computed_without_weights(structure)
        self._kept |= set(self._computed)

    @property
    def composes(self) -> bool:
        """Whether more than what its last weights give goes into what the network returns."""
        return bool(self._last and self._beside[1])

    @property
    def sites(self) -> dict[str, Site]:
        """All that is replaced by some cut, by the names of the nodes."""
        return {site.node: site for sites in self.replaced.values() for site in sites}

    def whole(self, inputs: Any) -> tuple[Any, dict[str, Any]]:
        """Run the network on one batch.

        Returns:
            What the model returns, and the values by node name that `without` needs.
        """
        values: dict[str, Any] = {}

        def keeper(name: str) -> Callable[[Any], Any]:
            def keep(value: Any) -> Any:
                values[name] = _copied(value)
                return value

            return keep

        run = GraphRun(self.structure, {name: keeper(name) for name in self._kept})
        self._batches += 1
        with same_draws(self.structure, self._batches):
            return run.predict(inputs), values

    def without(
        self, cut: Cut, values: Mapping[str, Any], fill: Callable[[Site, Tensor], Tensor]
    ) -> Any:
        """Return what the model returns for the same batch when a cut's exits are replaced.

        An output that is computed in what the cut removes is replaced in the same way.

        Args:
            cut: One of the structure's cuts.
            values: From the last call of `whole`.
            fill: What to put in an exit's place, from the exit and its value.
        """
        filled = {
            site.node: fill(site, values[site.node]).contiguous()
            for site in self.replaced[cut.keep_levels]
        }
        return self._run_again(self._again[cut.keep_levels], values, filled)

    def without_weights(self, tail: Tail | None) -> Any:
        """Return what a residual network adds to for a batch, in the place of its outputs.

        Args:
            tail: From `tail`.

        Returns:
            None where it adds to nothing, see `last_of_weights`, or cannot be run with zeros.
        """
        return tail(tail.zeros) if tail is not None and self._adds else None

    def tail(self, values: Mapping[str, Any]) -> Tail | None:
        """What the network makes of constants in the place of its levels, for the same batch.

        Args:
            values: From the last call of `whole`.

        Returns:
            None if the network cannot be run so.
        """
        if not self._last:
            return None
        sources = {name: values[name] for name in self._beside[1]}
        shapes = {name: values[name].new_empty(()).expand_as(values[name]) for name in self._last}
        run = partial(self._run_again, self._beside)
        tail = Tail(run, sources, shapes, {n: self._channel_axis(n) for n in self._last})
        return tail if tail.runs(tail.zeros) else None

    def _channel_axis(self, name: str) -> int:
        """Which axis of a node's value holds channels: the last one behind what works along it."""
        node = self._nodes[name]
        along = operator_of(node) in ("aten::linear", "aten::layer_norm")
        if node.op == "call_module":
            layer = self.structure.model.get_submodule(str(node.target))
            along = isinstance(layer, nn.Linear | nn.LayerNorm)
        return -1 if along else 1

    def computed(self, values: Mapping[str, Any]) -> list[Tensor]:
        """Return what the network computes of its input without weights, shaped like an input.

        Args:
            values: From the last call of `whole`.
        """
        return [values[name] for name in self._computed]

    def _run_again(
        self,
        fed: tuple[frozenset[str], frozenset[str]],
        values: Mapping[str, Any],
        filled: Mapping[str, Tensor],
    ) -> Any:
        again, sources = fed
        known = {self._nodes[name]: _copied(values[name]) for name in sources}
        known |= {self._nodes[name]: value for name, value in filled.items()}
        run = GraphRun(self.structure, {}, again)
        with same_draws(self.structure, self._batches):
            return run.folded(run.run(initial_env=known))


def _changeable(value: Any) -> Any:
    """Lists and dicts of a graph, which cannot be changed, as ordinary ones."""
    if isinstance(value, list):
        return [_changeable(item) for item in value]
    if isinstance(value, dict):
        return {key: _changeable(item) for key, item in value.items()}
    return tuple(map(_changeable, value)) if type(value) is tuple else value


def _copied(value: Any) -> Any:
    """Copies of the tensors: an in-place operation further on would reach the next run."""
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)


def _replaced(structure: Structure, cut: Cut, counted: Collection[str]) -> list[Site]:
    """The exits of a cut, and the outputs that are lost by it: those of several numbers."""
    sites = {site.node: site for site in cut.exits}
    for place in structure.lost_outputs(cut.keep_levels):
        node = structure.outputs[place]
        value = node.meta["val"]
        if place in counted and node.name not in sites and value.dim():
            axis = min(1, value.dim() - 1)
            sites[node.name] = Site(
                node.name, value.shape[axis], "channels_first", cut.keep_levels, value.is_complex()
            )
    return list(sites.values())


def _fed_by(exits: Collection[str], graph: fx.Graph) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the nodes that run again without a cut, and of those whose values they need."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        if any(source in fed or source.name in exits for source in node.all_input_nodes):
            fed.add(node)
    (output,) = graph.find_nodes(op="output")
    again, sources, waiting = {output}, set(), [output]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source.name in exits or source in again:
                continue
            if source in fed:
                again.add(source)
                waiting.append(source)
            else:
                sources.add(source.name)
    return frozenset(node.name for node in again), frozenset(sources)


def needed_for(graph: fx.Graph, names: Iterable[str]) -> frozenset[str]:
    """Names of the nodes that some nodes are computed from, these and all inputs included."""
    wanted = set(names)
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(source.name for source in node.all_input_nodes)
    return frozenset(wanted) | {node.name for node in graph.find_nodes(op="placeholder")}


class Tail:
    """What a network makes of one batch, with constants where its weights enter last.

    Args:
        run: Runs what follows them, from the values that it needs and those in their place.
        sources: Values that the tail needs, by node name; held in the computer's memory.
        shapes: Of what the constants stand for, as empty tensors.
        axes: Which axis of each holds its channels.
    """

    def __init__(
        self,
        run: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Any],
        sources: Mapping[str, Any],
        shapes: Mapping[str, Tensor],
        axes: Mapping[str, int],
    ) -> None:
        self._run, self._shapes, self._axes = run, shapes, axes
        self._devices = {n: _device_of(value) for n, value in sources.items()}
        self._sources = {n: _moved(value, torch.device("cpu")) for n, value in sources.items()}
        sizes = {n: x.shape[axes[n]] if x.dim() > 1 else 1 for n, x in shapes.items()}
        self._sizes = dict(sorted(sizes.items()))

    @property
    def numbers(self) -> int:
        """How many constants there are: one for each channel."""
        return sum(self._sizes.values())

    @property
    def zeros(self) -> Tensor:
        """No constants at all."""
        return torch.zeros(self.numbers, device="cpu")

    @property
    def differing(self) -> Tensor:
        """Constants of which no two are alike, and none is 0."""
        return 1.0 + torch.arange(self.numbers, device="cpu") / max(1, self.numbers)

    def runs(self, numbers: Tensor) -> bool:
        """Whether it can be run for some constants; the inverse of a matrix takes no zeros."""
        try:
            self(numbers)
        except RuntimeError:
            return False
        return True

    def __call__(self, numbers: Tensor) -> Any:
        """What the network returns for some constants, (numbers,); they may have a gradient."""
        parts = torch.split(numbers, list(self._sizes.values()))
        filled = {}
        for (name, size), part in zip(self._sizes.items(), parts, strict=True):
            like = self._shapes[name]
            shape = [1] * like.dim()
            if like.dim() > 1:
                shape[self._axes[name]] = size
            filled[name] = part.to(like.device, like.dtype).view(shape).expand(like.shape)
        sources = {n: _moved(x, self._devices[n]) for n, x in self._sources.items()}
        return self._run(sources, {n: x.contiguous() for n, x in filled.items()})


def _device_of(value: Any) -> torch.device:
    return next((x.device for x in pytree.tree_tensors(value)), torch.device("cpu"))


def _moved(value: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, value)


class MeanActivation:
    """Running mean of a tensor over images and positions, channel by channel."""

    def __init__(self, axes: Collection[int]) -> None:
        self.axes = axes
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, value: Tensor) -> Tensor:
        """Add one batch, and return it as it is."""
        over = self._over(value)
        kind = torch.promote_types(value.dtype, torch.float64)
        self.total = self.total + value.detach().sum(over, keepdim=True, dtype=kind)
        self.count += math.prod(value.shape[axis] for axis in over)
        return value

    def replace(self, value: Tensor) -> Tensor:
        """The mean in the shape and type of ``value``; of whole numbers the nearest one."""
        mean: Tensor = self.total / self.count  # type: ignore[assignment]
        if not (value.is_floating_point() or value.is_complex()):
            mean = mean.round()
        return mean.to(value.dtype).expand_as(value)

    def _over(self, value: Tensor) -> list[int]:
        """All axes but the channels'; one number of each image is one channel."""
        rank = value.dim()
        own = {axis % rank for axis in self.axes} if rank > 1 else ()
        return [axis for axis in range(rank) if axis not in own]

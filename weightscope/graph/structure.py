"""The records that describe a network: where every operation lies, and where it can be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from weightscope.showing import OnOneScreen

if TYPE_CHECKING:
    import torch
    from torch import fx, nn
    from torch.export import ExportedProgram

    from weightscope.adapters.pytree import TreeSpec

Role = Literal["encoder", "bottleneck", "decoder", "skip", "head"]
Layout = Literal["channels_first", "channels_last", "tokens_last", "tokens_first", "vector"]
Sizes = Literal["symbolic", "batch", "fixed"]
"""Which sizes of the inputs were free while the model was traced: all, the batch's only, none."""


SPATIAL = "DHWL"
"""Letters of a layout that stand for spatial sizes."""


@dataclass(frozen=True)
class ExampleInputs:
    """What the model is called with: real tensors on the model's device.

    Attributes:
        args: Positional arguments of ``model.forward``.
        kwargs: Keyword arguments of ``model.forward``.
        dimensions: Number of spatial dimensions of the image input (1, 2 or 3).
        guessed: False where the user gave the inputs.
        layout: What the axes of the image input are, one letter each (``"NHWC"``: batch, height,
            width, channels; ``T`` frames, ``D`` depth, ``L`` length); empty where they are batch,
            channels, sizes.
        holds_frames: Whether clips are read with the example's number of frames alone, and volumes
            with its number of slices.
        holds: Axes of other sides along which images are read at the example's size alone.
        holds_others: Whether what is given beside the images is read at the example's sizes alone.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dimensions: int
    guessed: bool
    layout: str = ""
    holds_frames: bool = False
    holds: tuple[int, ...] = ()
    holds_others: bool = False

    @property
    def rank(self) -> int:
        """Number of axes of the image input."""
        return len(self.layout) or self.dimensions + 2

    @property
    def space(self) -> tuple[int, ...]:
        """Axes of the image input along which it is large."""
        if not self.layout:
            return tuple(range(2, self.dimensions + 2))
        letters = [letter for letter in SPATIAL if letter in self.layout]
        return tuple(self.layout.index(letter) for letter in letters)

    @property
    def frames(self) -> int | None:
        """Axis of a clip's frames; None of images."""
        axis = self.layout.find("T")
        return None if axis < 0 else axis

    @property
    def held(self) -> int | None:
        """Axis along which images are read at the example's size alone."""
        slices = self.space[0] if self.dimensions == 3 else None
        return (slices if self.frames is None else self.frames) if self.holds_frames else None

    @property
    def channels(self) -> int | None:
        """Axis of the image input's channels; None where it has none."""
        axis = self.layout.find("C") if self.layout else 1
        return None if axis < 0 else axis


@dataclass(frozen=True)
class Stage:
    """Layers that share a role and a level.

    Attributes:
        name: Role and level, ``"encoder 1"``; ``"head"`` for the head.
        role: One of encoder, bottleneck, decoder, skip, head.
        level: 0 is full resolution.
        reduction: Input size / feature size, one figure for each spatial dimension.
        layers: Qualified names of the weighted leaf modules (the owner's name for bare parameters),
            in the order in which the forward reaches them.
    """

    name: str
    role: Role
    level: int
    reduction: tuple[float, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where one node of the coarse graph lies."""

    level: int
    role: Role


@dataclass(frozen=True)
class Site:
    """A tensor that crosses a cut.

    Attributes:
        node: Name of the node in ``Structure.graph`` that produces it.
        channels: Number of channels.
        layout: ``channels_first`` (B, C, *S), ``channels_last`` (B, *S, C), ``tokens_last``
            (B, N, C), ``tokens_first`` (B, C, N) or, of what leaves, a ``vector`` (B, C), as large
            for every image.
        level: Level at which it lies.
        is_complex: Whether it holds complex numbers.
        images: Of what enters, images of its batch for each image of what leaves the cut: 2 where
            pairs lie in the batch and are put side by side below. Of what leaves, how many are made
            of each image that enters: 5 where each of five queries has a map of its own.
        in_turn: Whether these follow each other in the batch; else all first ones come first.
        single: Further axes of length 1 (an image as a clip of one frame), in ascending order; its
            layout is the one without them.
        parts: Lengths of its axes that hold channels, where these are several (frames and channels
            of a clip, shifts along both sides), from axis 1.
        lacks: Of what leaves, the side of volumes that a map of their two others has none of.
    """

    node: str
    channels: int
    layout: Layout
    level: int
    is_complex: bool = False
    images: int = 1
    in_turn: bool = False
    single: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    lacks: int | None = None

    @property
    def real_channels(self) -> int:
        """Channels of its real and imaginary parts together, of all images that become one.

        Or are made of one.
        """
        return self.channels * (1 + self.is_complex) * self.images

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Which axes hold its channels."""
        if self.layout in ("channels_last", "tokens_last"):
            return (-1,)
        if self.parts:
            return tuple(range(1, len(self.parts) + 1))
        return (next(axis for axis in count(1) if axis not in self.single),)

    def sizes(self, shape: Sequence[Any]) -> tuple[Any, ...]:
        """Its spatial sizes, of its shape; none of vectors, and of tokens, whose do not show."""
        kept = [size for axis, size in enumerate(shape) if axis not in self.single]
        if self.layout == "channels_first":
            return tuple(kept[len(self.channel_axes) + 1 :])
        return tuple(kept[1:-1]) if self.layout == "channels_last" else ()


@dataclass(frozen=True)
class Cut:
    """One legal place to cut: levels ``0 .. keep_levels - 1`` stay, what is deeper goes.

    Attributes:
        keep_levels: Number of the network's own levels that stay.
        removed: Names of the coarse nodes that lie deeper.
        entries: Tensors that feed the removed region from above (the deepest of them).
        exits: Tensors of the removed region that are used outside it.
        times: How often the removed region is run, each time on tensors of its own; these lie in
            equal shares among the entries and exits, one run after the other.
    """

    keep_levels: int
    removed: frozenset[str]
    entries: tuple[Site, ...]
    exits: tuple[Site, ...]
    times: int = 1

    @property
    def runs(self) -> tuple[tuple[tuple[Site, ...], tuple[Site, ...]], ...]:
        """What enters and what leaves each run of the removed region."""
        given, made = len(self.entries) // self.times, len(self.exits) // self.times
        return tuple(
            (self.entries[i * given : (i + 1) * given], self.exits[i * made : (i + 1) * made])
            for i in range(self.times)
        )


@dataclass(frozen=True)
class Refusal:
    """A depth at which the network cannot be cut, and why."""

    keep_levels: int
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Structure(OnOneScreen):
    """A network read as a dataflow graph with levels and stages.

    Attributes:
        model: The user's own model, by reference; never changed.
        inputs: How it is called.
        graph: Coarse dataflow graph: calls of the model's own submodules (by qualified name) plus
            glue functions. Every node that makes a tensor has ``meta["val"]`` (a fake tensor with
            symbolic sizes) and ``meta["fine"]`` (name of the node of ``program`` that makes it).
        constants: Tensors that the graph reads by name and the model does not own.
        output_spec: How the graph's flat outputs fold back into what the model returns.
        program: The exported fine graph (aten operators) that costs and receptive fields read.
        places: Level and role of each coarse node that makes a tensor, by node name.
        reductions: Reduction of each level, one figure for each spatial dimension.
        stages: All stages, from input to output.
        dead_parameters: Qualified names of parameters that no forward reaches.
        cuts: The legal cuts, from the shallowest.
        refusals: The depths that cannot be cut, with the reason.
        sizes: Which sizes were free while the model was traced; the graph holds at other sizes of
            those only.
        notes: What a reader of any result must know: wrappers that were taken off, sizes that are
            fixed, a train mode that could not be tried.
        modes_agree: False where the forward returns another structure in train mode than in eval
            mode (deep supervision); the graph then holds what it does in eval mode.
        parts: Names of the modules that are networks of their own among others.
        part: The one whose levels, stages and cuts these are; empty for the whole network.
        whole: The size, at the example, that reductions are counted from: the image's own, that
            which the forward resizes it to first, or that of the maps that it makes of a signal.
        draws: Whether the forward draws at random in evaluation mode, or seems to.
    """

    model: nn.Module
    inputs: ExampleInputs
    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]
    output_spec: TreeSpec
    program: ExportedProgram
    places: Mapping[str, Place]
    reductions: tuple[tuple[float, ...], ...]
    stages: tuple[Stage, ...]
    dead_parameters: tuple[str, ...]
    cuts: tuple[Cut, ...]
    refusals: tuple[Refusal, ...]
    sizes: Sizes
    notes: tuple[str, ...]
    modes_agree: bool
    parts: tuple[str, ...]
    part: str
    whole: tuple[int, ...]
    draws: bool = False

    def _facts(self) -> dict[str, object]:
        return {
            "of": f"{type(self.model).__name__}{f', {self.part}' if self.part else ''}",
            "levels": self.depth,
            "stages": len(self.stages),
            "legal cuts": ", ".join(str(cut.keep_levels) for cut in self.cuts) or "none",
        }

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.reductions)

    @cached_property
    def returned(self) -> Any:
        """What the model returns, with fake tensors."""
        from weightscope.adapters import pytree

        made = [getattr(result, "meta", {}).get("val", result) for result in self._results]
        return pytree.tree_unflatten(made, self.output_spec)

    @cached_property
    def outputs(self) -> Mapping[str, fx.Node]:
        """The tensors that the model returns, by what gets at them (``['seg']``, ``[0]``)."""
        import torch

        from weightscope.calls import leaves_by_place

        places = leaves_by_place(self.returned)
        return {
            place: result
            for (place, value), result in zip(places.items(), self._results, strict=True)
            if isinstance(value, torch.Tensor)
        }

    @property
    def _results(self) -> list[Any]:
        """The flat outputs of the graph."""
        (end,) = self.graph.find_nodes(op="output")
        return list(end.args[0])

    def lost_outputs(self, keep_levels: int) -> tuple[str, ...]:
        """Outputs that are computed in what a cut removes: without it they are None."""
        (cut,) = (cut for cut in self.cuts if cut.keep_levels == keep_levels)
        return tuple(place for place, node in self.outputs.items() if node.name in cut.removed)

    @cached_property
    def stage_of(self) -> Mapping[str, Stage]:
        """The stage of each layer, by qualified layer name."""
        return {layer: stage for stage in self.stages for layer in stage.layers}

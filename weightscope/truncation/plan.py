"""What rebuilds a smaller network from the original's own code: the recipe, as a record."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from weightscope.adapters import pytree
from weightscope.errors import InputError, RecipeError, TruncationError, keyword, shown
from weightscope.graph.structure import Cut, ExampleInputs, Structure
from weightscope.truncation.bottleneck import BottleneckFactory
from weightscope.truncation.channels import Recut

FORMAT = 4
"""Newest version of the recipe. Earlier ones say the same without ``thinned`` (since 3) and
``reach`` (since 4) and are read. What needs neither is written as format 2, so that earlier
versions read it too."""

FARTHEST = 4
"""Largest reach that is chosen. 2 and 4 were compared on five cuts of four networks: with 4 one
regained .13 more of its skill, the others from .03 less to .02 more. Further was never tried."""

Choice = Literal["light", "pool"]
Kind = Literal["light", "pool", "custom", "none"]


@dataclass(frozen=True)
class Plan:
    """Every decision about a smaller network. With the original's code it rebuilds the network.

    Attributes:
        keep_levels: Number of the original's own levels that stay.
        bottleneck: What takes the place of the others: ``light``, ``pool`` or ``custom``; ``none``
            where all levels stay.
        width: Channels of the light bottleneck; None for the other kinds.
        exit_channels: Channels of each tensor that leaves the bottleneck.
        reach: Dilation of the second convolution of the light bottleneck.
        thinned: The channels that stay, in each tensor of the cut network that lost some.
    """

    keep_levels: int
    bottleneck: Kind
    width: int | None
    exit_channels: tuple[int, ...]
    thinned: tuple[Recut, ...] = ()
    reach: int = 1

    @property
    def format(self) -> int:
        """The oldest version of the recipe that can say this."""
        if self.reach > 1:
            return 4
        return 3 if self.thinned or self.bottleneck == "none" else 2

    def to_json(self) -> dict[str, Any]:
        """The plan as values that JSON can hold."""
        return {
            "keep_levels": self.keep_levels,
            "bottleneck": self.bottleneck,
            "width": self.width,
            "exit_channels": list(self.exit_channels),
            "reach": self.reach,
            "thinned": [[r.tensor, r.dimension, list(r.source)] for r in self.thinned],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The reverse of ``to_json``; keys that are no part of a plan are left alone.

        Raises:
            RecipeError: A value is missing or of another kind.
        """
        channels = values.get("exit_channels")
        thinned = values.get("thinned", [])
        plan = cls(
            keep_levels=values.get("keep_levels", 0),
            bottleneck=values.get("bottleneck", ""),
            width=values.get("width"),
            exit_channels=tuple(channels) if isinstance(channels, list | tuple) else (),
            thinned=tuple(map(_read_recut, thinned)) if isinstance(thinned, list) else (),
            reach=values.get("reach", 1),
        )
        numbers = [plan.keep_levels, plan.reach, *plan.exit_channels]
        numbers += [] if plan.width is None else [plan.width]
        if (
            plan.bottleneck not in ("light", "pool", "custom", "none")
            or (plan.bottleneck == "light") != (plan.width is not None)
            or (plan.bottleneck == "none") != (not plan.exit_channels)
            or (plan.bottleneck != "light" and plan.reach != 1)
            or any(type(n) is not int or n < 1 for n in numbers)
            or not isinstance(thinned, list)
        ):
            raise RecipeError(
                f"the recipe does not say how the network was cut: it holds {plan}; save the "
                "variant again with this version of weightscope"
            )
        return plan


def _read_recut(row: Any) -> Recut:
    """One row of ``thinned``: a tensor, a dimension, and indices that rise.

    Raises:
        RecipeError: It is something else.
    """
    match row:
        case [str(tensor), int(dimension), [int(first), *rest]] if (
            type(dimension) is int
            and dimension >= 0 <= first
            and all(type(i) is int for i in (first, *rest))
            and all(a < b for a, b in pairwise([first, *rest]))
        ):
            return Recut(tensor, dimension, (first, *rest))
    raise RecipeError(
        "the recipe does not say which channels stay; save the variant again with this version of "
        "weightscope"
    )


def make_plan(
    structure: Structure,
    cut: Cut,
    bottleneck: Choice | nn.Module | BottleneckFactory = "light",
    width: int | None = None,
    exit_channels: int | Sequence[int] | None = None,
    reach: int | None = None,
) -> Plan:
    """Turn the options of a build into a plan.

    Args:
        structure: The network.
        cut: Where to cut.
        bottleneck: As in ``Proposal.build``.
        width: As in ``Proposal.build``; None leaves the width of the light bottleneck open.
        exit_channels: As in ``Proposal.build``.
        reach: As in ``Proposal.build``.

    Raises:
        InputError: Options that contradict each other.
    """
    kind = bottleneck if isinstance(bottleneck, str) else "custom"
    for name, value in (("reach", reach), ("width", width)):
        if value is not None and kind != "light":
            raise InputError(f"{keyword(name, value)} is for bottleneck='light'; leave it out")
        if value is not None and value < 1:
            raise InputError(f"{keyword(name, value)}; give a whole number from 1")
    # numpy's whole numbers would not go into a recipe
    reach, width = (None if value is None else int(value) for value in (reach, width))
    if reach is not None and reach > (largest := farthest_reach(structure.inputs)):
        raise InputError(
            f"{keyword('reach', reach)} is longer than the image that the network was read with; "
            f"give at most {largest}"
        )
    if kind == "pool" and exit_channels is not None:
        raise InputError(
            f"{keyword('exit_channels')} is for a bottleneck with weights; 'pool' hands on what "
            "enters"
        )
    if kind not in ("light", "pool", "custom"):
        raise InputError(f"bottleneck is {kind!r}; expected 'light', 'pool', a module or a factory")
    if kind == "pool":
        entries, exits = cut.runs[0]
        entering = sum(site.real_channels for site in entries)
        leaving = tuple(max(1, entering // (1 + site.is_complex) // site.images) for site in exits)
        return Plan(cut.keep_levels, "pool", None, leaving)
    leaving = _exit_channels(cut, exit_channels)
    if kind == "light":
        if reach is None:
            reach = reach_of_removed(structure, cut)
        return Plan(cut.keep_levels, "light", width, leaving, reach=reach)
    return Plan(cut.keep_levels, "custom", None, leaving)


def farthest_reach(inputs: ExampleInputs) -> int:
    """The largest size of a tensor that a network is called with: no dilation needs to be more."""
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    return max(FARTHEST, *(size for v in leaves if isinstance(v, Tensor) for size in v.shape))


def reach_of_removed(structure: Structure, cut: Cut) -> int:
    """How many positions of the finest removed level one step at the deepest level is, at most 4.

    A 3x3 convolution with this dilation reaches as far as one at the deepest level.
    """
    finest, deepest = structure.reductions[cut.keep_levels], structure.reductions[-1]
    steps = max(b / a for a, b in zip(finest, deepest, strict=True))
    return max(1, min(FARTHEST, round(steps)))


def _exit_channels(cut: Cut, wanted: int | Sequence[int] | None) -> tuple[int, ...]:
    _, exits = cut.runs[0]
    if wanted is None:
        return tuple(site.channels for site in exits)
    listed = wanted if isinstance(wanted, Sequence) else [wanted] * len(exits)
    given = tuple(map(int, listed))
    if len(given) != len(exits) or any(c < 1 for c in given):
        raise InputError(
            f"{keyword('exit_channels')} is {list(given)}; this cut has {len(exits)} exits of "
            f"{[site.channels for site in exits]} channels: give one number, or one for each"
        )
    return given


def find_cut(structure: Structure, keep_levels: int) -> Cut:
    """The cut that keeps some levels.

    Raises:
        TruncationError: There is none; the text says why.
    """
    for cut in structure.cuts:
        if cut.keep_levels == keep_levels:
            return cut
    reasons = {refusal.keep_levels: refusal.reason for refusal in structure.refusals}
    reason = reasons.get(keep_levels, f"the network has {structure.depth}")
    raise TruncationError(f"keeping {keep_levels} levels is refused: {reason}")


def cut_of(structure: Structure, plan: Plan) -> Cut:
    """The cut of a plan; earlier versions put all runs of what is removed into one bottleneck.

    Raises:
        TruncationError: There is none; the text says why.
    """
    cut = find_cut(structure, plan.keep_levels)
    return replace(cut, times=1) if len(plan.exit_channels) == len(cut.exits) else cut


def exits_of(structure: Structure, plan: Plan) -> tuple[str, ...]:
    """Names of the tensors that a plan's bottleneck returns; none where all levels stay."""
    if plan.bottleneck == "none":
        return ()
    return tuple(site.node for site in cut_of(structure, plan).exits)


# --- the original, as far as a recipe must know it --------------------------------------------


def describe(structure: Structure) -> dict[str, Any]:
    """How the original was read, so that it is read in the same way before it is cut again."""
    return {
        "model": type(structure.model).__name__,
        "original": fingerprint(structure.model),
        "inputs": encode([tuple(structure.inputs.args), dict(structure.inputs.kwargs)]),
        "dimensions": structure.inputs.dimensions,
        "layout": structure.inputs.layout,
        "sizes": structure.sizes,
        "part": structure.part,
        "notes": list(structure.notes),
        "stages": {stage.name: list(stage.layers) for stage in structure.stages},
        "operators": {
            "by": tracer(structure.model),
            "counts": operators(structure),
            "wiring": wiring(structure),
        },
    }


def fingerprint(model: nn.Module, floats: torch.dtype | None = None) -> str:
    """A digest of the names, shapes and types of a model's state.

    Args:
        model: The model.
        floats: Where given, as if its floating-point numbers were of this type.
    """
    rows = [
        [name, list(value.shape), str((value.is_floating_point() and floats) or value.dtype)]
        for name, value in sorted(model.state_dict().items())
        if isinstance(value, Tensor)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def tracer(model: nn.Module) -> str:
    """What decides, beside a model, by which operators its forward is written down."""
    home = next((p.device.type for p in model.parameters()), "cpu")
    return f"weightscope {version('weightscope')}, torch {torch.__version__}, {home}"


def operators(structure: Structure) -> dict[str, int]:
    """How often each operator of torch, or of another library, is in a forward; no numbers."""
    counts = Counter(
        str(node.target)
        for node in structure.program.graph.nodes
        if getattr(node.target, "namespace", "weightscope")
        != "weightscope"  # marks, and no operator
        and isinstance(node.meta.get("val"), Tensor | tuple | list)
    )
    return dict(sorted(counts.items()))


def wiring(structure: Structure) -> str:
    """A digest of which operator takes which tensors, in which order; no numbers.

    Two networks of one state and the same operators may hand these on in another order.
    """
    program = structure.program
    signature = program.graph_signature
    owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    known: dict[fx.Node, str] = {}
    for index, node in enumerate(program.graph.nodes):
        sources = [known[n] for n in _taken(node)]
        if node.op == "placeholder":
            own = [owned.get(node.name, str(index))]
        elif getattr(node.target, "namespace", "") == "weightscope":  # a mark, and no operator
            known[node] = sources[0] if sources else ""
            continue
        else:
            # no address, as the text of a function has: it is another in every process
            own = [getattr(node.target, "__name__", node.op), *sources]
        known[node] = hashlib.sha256("\n".join(own).encode("utf-8", "replace")).hexdigest()
    return known[next(iter(program.graph.find_nodes(op="output")))]


def _taken(node: fx.Node) -> list[fx.Node]:
    """What a node takes, as often and in the order that it does."""
    taken: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), taken.append)
    return taken


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of a text and of the names, shapes, types and numbers of tensors."""
    found = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        line = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        found.update(line.encode("utf-8", "surrogatepass"))
        found.update(tensor.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """A digest of the parameters of a model, of which those without numbers are left out.

    Statistics of normalisations are left out too: a forward in train mode changes them.
    """
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not parameter.is_meta and parameter.layout is torch.strided
    }
    return digest("", parameters)


def encode(value: Any) -> Any:
    """Turn a forward's arguments into JSON; of tensors only shape and type."""
    if isinstance(value, Tensor) and value.dtype in NUMBER_TYPES.values():
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"tuple": [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, Mapping):
        return {"dict": [[key, encode(v)] for key, v in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"unsaved": type(value).__name__}


def unsaved(encoded: Any) -> str | None:
    """The class of something in encoded arguments that JSON cannot hold; None of nothing such."""
    if isinstance(encoded, dict):
        return str(encoded["unsaved"]) if "unsaved" in encoded else unsaved([*encoded.values()])
    found = (unsaved(v) for v in encoded) if isinstance(encoded, list | tuple) else ()
    return next((kind for kind in found if kind is not None), None)


NUMBER_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.complex64, torch.complex128,
    )
}  # fmt: skip
"""What a recipe may ask for: what is in a file names these and nothing else of torch."""


def decode(value: Any) -> Any:
    """The reverse of ``encode``; tensors are zeros.

    Raises:
        RecipeError: It is nothing that ``encode`` writes.
    """
    match value:
        case list():
            return [decode(v) for v in value]
        case {"tensor": [*sizes], "dtype": str(name)} if name in NUMBER_TYPES:
            if all(type(size) is int and size >= 0 for size in sizes):
                return _zeros(sizes, NUMBER_TYPES[name])
        case {"tuple": [*members]}:
            return tuple(decode(v) for v in members)
        case {"dict": [*rows]}:
            if all(isinstance(row, list) and len(row) == 2 for row in rows):
                return {key: decode(v) for key, v in rows}
        case None | bool() | int() | float() | str():
            return value
    raise RecipeError(f"the recipe calls the network with {shown(value)[:80]}; save it again")


def _zeros(sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before somebody writes into them, unlike those of torch."""
    if math.prod(sizes) == 0:
        return torch.zeros(tuple(sizes), dtype=dtype, device="cpu")
    size = math.prod(sizes) * torch.empty((), dtype=dtype, device="cpu").element_size()
    return torch.from_numpy(np.zeros(size, np.uint8)).view(dtype).reshape(tuple(sizes))

"""From the fine graph to a graph of the model's own modules and the glue between them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind

from weightscope.adapters import pytree
from weightscope.adapters.boundary import AFTER, BOUNDARY
from weightscope.adapters.regions import region_of
from weightscope.adapters.symbols import SizeWriter, is_symbolic, key, read_size
from weightscope.errors import StructureError
from weightscope.graph.capture import Call, Capture
from weightscope.graph.fixed import note_inside, note_signature, note_values, nth
from weightscope.graph.folding import fold_picked
from weightscope.graph.nodes import (
    argument,
    arguments,
    has_effect,
    is_check,
    operator_of,
    owner_of,
    root,
    tensor_of,
)
from weightscope.graph.operators import facts
from weightscope.graph.pools import PLAIN
from weightscope.graph.recurrence import PLAIN_RECURRENCE
from weightscope.graph.stages import HIDDEN_REGION, Placement
from weightscope.graph.states import follow_settings
from weightscope.graph.structure import ExampleInputs, Place
from weightscope.graph.writes import after

_CONSTANTS = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout)


@dataclass(frozen=True)
class Coarse:
    """The coarse graph.

    Attributes:
        graph: Calls of the model's own submodules, and glue functions.
        places: Level and role of each node that makes a tensor, by node name.
        reached: Names of the nodes that the image reaches.
        constants: Tensors that the graph reads by name and the model does not own.
        lost: Names of the functions whose own backward is not in the graph.
    """

    graph: fx.Graph
    places: Mapping[str, Place]
    reached: frozenset[str]
    constants: Mapping[str, torch.Tensor]
    lost: tuple[str, ...]


def coarsen(
    capture: Capture, placement: Placement, model: nn.Module, inputs: ExampleInputs
) -> Coarse:
    """Build the coarse graph.

    The largest module calls whose inside lies at one level and in one role, which tensors enter
    only as arguments and leave only as results, and which the module would do alone, become calls
    of the original modules; everything else stays a function.

    Raises:
        StructureError: A size follows the values of a tensor, or a part cannot be seen.
    """
    whole = _whole_calls(capture, placement, model)
    return _Builder(capture, placement, model, inputs, whole).build()


def _whole_calls(capture: Capture, placement: Placement, model: nn.Module) -> dict[int, Call]:
    """The calls that stay whole, by the position of their first node."""
    position = {node: index for index, node in enumerate(capture.nodes)}
    apart = follow_settings(capture)
    taken: dict[int, Call] = {}
    end = -1
    for call in sorted((*capture.calls, *capture.functions), key=lambda c: (c.first, -c.last)):
        if call.first <= end or (call.function is None and call.module in apart):
            continue
        if not _closed(call, capture.nodes, position) or _holds_unused(call, placement):
            continue
        inside = _inside(call, capture.nodes, position, placement)
        places = {placement.places[n] for n in inside}
        leaf = _holds_no_call(call, capture, model)
        if len(places) <= 1 or leaf:
            taken[call.first] = call
            end = call.last
    return taken


def _holds_no_call(call: Call, capture: Capture, model: nn.Module) -> bool:
    if call.function is not None:
        return not any(call.first <= other.first <= call.last for other in capture.calls)
    return next(model.get_submodule(call.module).children(), None) is None


def _closed(call: Call, nodes: Sequence[fx.Node], position: Mapping[fx.Node, int]) -> bool:
    """Whether things enter a call only as arguments and leave it only as results."""
    if call.changes or not all(_is_argument(value) for value in call.arguments):
        return False
    results = set(call.exits.values())
    for node in nodes[call.first : call.last + 1]:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            continue
        if node not in results and any(
            not call.first <= position[user] <= call.last for user in node.users
        ):
            return False
        if node.target is not BOUNDARY and any(
            position[source] < call.first
            and source.op == "call_function"
            and not isinstance(source.meta.get("val"), torch.SymInt | torch.SymFloat)
            for source in node.all_input_nodes
        ):
            return False
    return True


def _holds_unused(call: Call, placement: Placement) -> bool:
    """Whether a list or a dict among the arguments holds a tensor that the call does not use.

    A call kept whole would make what is deeper feed it: one state is handed to all modules.
    """
    args, kwargs = pytree.tree_unflatten(range(len(call.arguments)), call.arguments_spec)
    direct = {value for value in (*args, *kwargs.values()) if isinstance(value, int)}
    held = [node for index, node in call.entries.items() if index not in direct]
    return any(node not in placement.live for node in held) and any(
        node in placement.live for node in call.exits.values()
    )


def _is_argument(value: Any) -> bool:
    if isinstance(value, torch.Size):
        return True
    return isinstance(value, (torch.Tensor, torch.SymInt, torch.SymFloat, *_CONSTANTS))


def _inside(
    call: Call, nodes: Sequence[fx.Node], position: Mapping[fx.Node, int], placement: Placement
) -> list[fx.Node]:
    """The placed nodes of a call, without the tensors that it is given."""
    inside = [
        node
        for node in nodes[call.first : call.last + 1]
        if node in placement.places
        and node in placement.live
        and not (node.target is BOUNDARY and position[root(node)] < call.first)
    ]
    return inside or [node for node in call.exits.values() if node in placement.places]


class _Builder:
    """Writes the coarse graph, one fine node or one whole call at a time."""

    def __init__(
        self,
        capture: Capture,
        placement: Placement,
        model: nn.Module,
        inputs: ExampleInputs,
        whole: Mapping[int, Call],
    ) -> None:
        self.capture = capture
        self.placement = placement
        self.model = model
        self.inputs = inputs
        self.whole = whole
        self.position = {node: index for index, node in enumerate(capture.nodes)}
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.owned: dict[fx.Node, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.placed: dict[fx.Node, Place] = {}

    def build(self) -> Coarse:
        self.sizes = SizeWriter(self.graph, self._sizes(self._inputs()))
        self._own_tensors()
        nodes = self.capture.nodes
        index = 0
        while index < len(nodes):
            if index in self.whole:
                self._call(self.whole[index])
                index = self.whole[index].last + 1
            else:
                self._node(nodes[index])
                index += 1
        self.graph.eliminate_dead_code(is_impure_node=has_effect)
        self.constants |= fold_picked(self.graph, self.constants)
        self.graph.lint()
        remaining = set(self.graph.nodes)
        reached = frozenset(node.name for node in self.placed if node in remaining)
        return Coarse(self.graph, self._places(), reached, self.constants, self._lost())

    def _inputs(self) -> list[fx.Node]:
        """Make placeholders under the names of the forward's arguments, and read the leaves."""
        specs = self.capture.program.graph_signature.input_specs
        fine = [node for node in self.capture.nodes if node.op == "placeholder"]
        leaves, _ = pytree.tree_flatten_with_path((self.inputs.args, dict(self.inputs.kwargs)))
        users = [
            node
            for node, spec in zip(fine, specs, strict=True)
            if spec.kind is InputKind.USER_INPUT
        ]
        names = _argument_names(self.model, len(self.inputs.args))
        held = dict(zip(names, self.inputs.args, strict=True)) | dict(self.inputs.kwargs)
        ordered = [*names, *_as_declared(self.model, self.inputs.kwargs)]
        heads = {name: self.graph.placeholder(name) for name in ordered}
        for name, head in heads.items():
            note_values(self.model, head, held[name])
        note_signature(self.model, [*heads.values()], self.inputs)
        next(iter(heads.values())).meta["decisions"] = self.capture.decisions
        for node, (path, _) in zip(users, leaves, strict=True):
            where = path[1]
            by_position = isinstance(where, pytree.SequenceKey)
            self.made[node] = heads[names[where.idx] if by_position else _index(where)]
        for node, (path, value) in zip(users, leaves, strict=True):
            head = new = self.made[node]
            for step in path[2:]:
                new = (
                    self.graph.call_function(getattr, (new, step.name))
                    if isinstance(step, pytree.GetAttrKey)
                    else self.graph.call_function(
                        operator.getitem,
                        (new, _index(step)),
                    )
                )
            if isinstance(value, torch.Tensor):
                self._know(node, new)
                note_inside(head, path[2:], new)
            else:
                self.made[node] = new
        return users

    def _sizes(self, inputs: list[fx.Node]) -> dict[str, fx.Node]:
        """A node for each size of the inputs that may change."""
        sizes: dict[str, fx.Node] = {}
        for node in inputs:
            tensor = tensor_of(node)
            if tensor is None:
                continue
            for dimension, size in enumerate(tensor.shape):
                if is_symbolic(size) and key(size) not in sizes:
                    sizes |= read_size(self.graph, self.made[node], dimension, size)
        return sizes

    def _own_tensors(self) -> None:
        """Note which nodes are parameters, buffers and constants of the model."""
        signature = self.capture.program.graph_signature
        owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in self.capture.nodes:
            if node.op != "placeholder":
                continue
            if node.name in owned:
                self.owned[node] = owned[node.name]
            elif node.name in signature.inputs_to_lifted_tensor_constants:
                name = f"_constant_{len(self.constants)}"
                source = signature.inputs_to_lifted_tensor_constants[node.name]
                value = self.capture.program.constants[source]
                if not isinstance(value, torch.Tensor):
                    raise StructureError(
                        f"the forward uses {source}, which is no tensor; keep it out of the forward"
                    )
                self.constants[name] = value.detach()
                self.owned[node] = name

    def _know(self, fine: fx.Node, new: fx.Node) -> None:
        self.made[fine] = new
        new.meta["val"] = fine.meta.get("val")
        new.meta["fine"] = root(fine).name
        new.meta["space"] = fine.meta.get("space", ())
        new.meta["frames"] = fine.meta.get("frames")
        new.meta["channels"] = fine.meta.get("channels")
        new.meta["counts"] = fine.meta.get("counts", False)
        if region := region_of(fine):
            new.meta["region"] = region
        if fine in self.placement.places:
            self.placed[new] = self.placement.places[fine]

    def _value(self, fine: fx.Node) -> Any:
        """What stands for a fine node in the coarse graph."""
        value = fine.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat):
            return self._size(value)
        while fine not in self.made and fine.target is BOUNDARY:
            fine = fine.args[0]  # type: ignore[assignment]
        if fine in self.owned:
            new = self.graph.get_attr(self.owned[fine])
            new.meta["val"] = value
            return new
        return self.made[fine]

    def _size(self, value: Any) -> Any:
        if isinstance(value, torch.Size | tuple):
            return tuple(self._size(size) for size in value)
        if isinstance(value, torch.SymInt | torch.SymFloat):
            if not self.sizes.can_write(value):
                raise StructureError(
                    "a number that the forward reads out of a tensor (.item()) is computed with,"
                    " and cannot be followed; compute it of sizes as numbers"
                    " (x.shape[2] ** 0.5), or in __init__ where it follows no input"
                    if isinstance(value, torch.SymFloat)
                    else "a size follows the values of a tensor, not the input's size; do with a"
                    " mask what the forward does by picking, or pick outside of it"
                )
            return self.sizes.write(value)
        return value

    def _call(self, call: Call) -> None:
        flat = [self._size(value) for value in call.arguments]
        for index, node in call.entries.items():
            flat[index] = self._value(node.args[0])  # type: ignore[arg-type]
        args, kwargs = pytree.tree_unflatten(flat, call.arguments_spec)
        if call.function is None:
            new = self.graph.call_module(call.module, tuple(args), dict(kwargs))
        else:
            new = self.graph.call_function(applied(call.function), tuple(args))
        inside = _inside(call, self.capture.nodes, self.position, self.placement)
        places = {self.placement.places[node] for node in inside}
        region = region_of(next(iter(call.entries.values())))
        if call.results_spec.is_leaf():
            self._know(call.exits[0], new)
            new.meta["region"] = region
            self._settle(new, places)
            return
        new.meta["region"] = region
        leaves = self.graph.call_function(pytree.tree_leaves, (new,))
        for index, node in call.exits.items():
            item = self.graph.call_function(operator.getitem, (leaves, index))
            self._know(node, item)
            self._settle(item, places)

    def _lost(self) -> tuple[str, ...]:
        spans = [(call.first, call.last) for call in self.whole.values()]
        return tuple(
            call.module
            for call in self.capture.functions
            if not any(first <= call.first and call.last <= last for first, last in spans)
        )

    def _settle(self, new: fx.Node, places: set[Place]) -> None:
        if places:
            self.placed[new] = max(places, key=lambda where: where.level)

    def _node(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if node.op == "output":
            self._output(node)
        elif node.op == "placeholder" or node.target is BOUNDARY:
            return  # seen through where they are used
        elif node.op == "get_attr":
            raise StructureError(HIDDEN_REGION.format(_owner(node)))
        elif isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return  # written where it is used
        elif is_check(node):
            return
        else:
            self._glue(node)

    def _glue(self, node: fx.Node) -> None:
        target: Any = {**PLAIN, **PLAIN_RECURRENCE, AFTER: after}.get(node.target, node.target)
        args = list(fx.map_arg(node.args, self._value))
        kwargs = dict(fx.map_arg(node.kwargs, self._value))
        mode = facts(operator_of(node)).mode
        if mode is not None and argument(node, mode) is False:
            owner = owner_of(node)
            flag = self.graph.get_attr(f"{owner}.training" if owner else "training")
            position = list(arguments(node)).index(mode)
            if position < len(args):
                args[position] = flag
            else:
                kwargs[mode] = flag
        self._know(node, self.graph.call_function(target, tuple(args), kwargs))

    def _output(self, node: fx.Node) -> None:
        signature = self.capture.program.graph_signature
        count = len(signature.user_outputs)
        results = cast(tuple[Any, ...], node.args[0])[-count:] if count else ()
        constants = [
            spec.arg.value if isinstance(spec.arg, ConstantArgument) else None
            for spec in signature.output_specs[-len(results) :]
        ]
        self.graph.output(
            tuple(
                self._value(result) if isinstance(result, fx.Node) else constant
                for result, constant in zip(results, constants, strict=True)
            )
        )

    def _places(self) -> dict[str, Place]:
        """Places by node name; what the image does not reach lies with its shallowest user."""
        places: dict[fx.Node, Place] = {}
        for node in reversed(self.graph.nodes):
            if node in self.placed:
                places[node] = self.placed[node]
                continue
            users = [places[user] for user in node.users if user in places]
            if users:
                places[node] = min(users, key=lambda where: where.level)
        for node in self.graph.nodes:  # what changes a tensor in place has no users
            feeds = [places[feed] for feed in node.all_input_nodes if feed in places]
            if node not in places and feeds:
                places[node] = feeds[0]
        return {
            node.name: places.get(node, Place(0, "encoder"))
            for node in self.graph.nodes
            if isinstance(node.meta.get("val"), torch.Tensor)
        }


def applied(function: Any) -> Callable[..., Any]:
    """What applies a ``torch.autograd.Function``, under a name that a graph's code can hold."""

    def apply(*args: Any) -> Any:
        return function.apply(*args)

    apply.__name__ = apply.__qualname__ = function.__name__
    return apply


def _as_declared(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Names of keyword arguments in the order in which the forward declares them."""
    declared = list(inspect.signature(model.forward).parameters)
    return sorted(names, key=lambda n: declared.index(n) if n in declared else len(declared))


def _argument_names(model: nn.Module, count: int) -> list[str]:
    """Names of the positional arguments."""
    names: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            names += [nth(parameter.name, i) for i in range(count - len(names))]
    return names[:count]


def _index(step: pytree.KeyEntry) -> Any:
    if isinstance(step, pytree.SequenceKey):
        return step.idx
    return cast(pytree.MappingKey[Any, Any], step).key


def _owner(node: fx.Node) -> str:
    return owner_of(node) or "the model's own forward"

"""Encoder, bottleneck, decoder, skip, head: the role of every operation, and the stages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from torch import fx, nn
from torch.export import ExportedProgram

from weightscope.adapters.modules import layer_of
from weightscope.adapters.symbols import hint
from weightscope.errors import InputError, StructureError, UnknownLayerError, keyword
from weightscope.graph.capture import Capture
from weightscope.graph.growing import works_on_pieces
from weightscope.graph.levels import Levels, live_nodes
from weightscope.graph.nodes import is_size, numbers_in, operator_of, raises, tensor_of
from weightscope.graph.operators import SAMPLES, facts
from weightscope.graph.structure import Place, Role, Stage
from weightscope.showing import counted

HIDDEN_REGION = (
    "the forward of {} holds a region that cannot be taken apart (a branch of torch.cond, a loop as"
    " one operator, or one that switches autograd or autocast). Choose between values with"
    " torch.where instead; switch outside the model (requires_grad_(False) freezes a part just as"
    " well)"
)


@dataclass(frozen=True)
class Placement:
    """Where every fine node lies.

    Attributes:
        places: Level and role of each node that the image reaches.
        parameters: Name of the parameter behind each parameter placeholder.
        live: Nodes that an output depends on.
    """

    places: Mapping[fx.Node, Place]
    parameters: Mapping[fx.Node, str]
    live: frozenset[fx.Node]


def parameter_nodes(program: ExportedProgram, model: nn.Module) -> dict[fx.Node, str]:
    """Name of the parameter behind each parameter placeholder, the first of its aliases."""
    names = program.graph_signature.inputs_to_parameters
    canonical = {id(p): name for name, p in model.named_parameters()}
    return {
        node: canonical[id(model.get_parameter(names[node.name]))]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    }


def place(capture: Capture, levels: Levels, model: nn.Module) -> Placement:
    """Give every operation that the image reaches its role.

    bottleneck: the deepest level, and that of a part that goes down and comes back up on its own
    beside something deeper (an encoder of a style). decoder: has a deeper ancestor. encoder: has
    none, but feeds something deeper that has none either. skip: neither. head: the last kernels
    before the outputs and what follows them, unless these kernels upsample or lie in the encoder.
    """
    live = live_nodes(capture.nodes)
    parameters = parameter_nodes(capture.program, model)
    places = _by_ancestry(capture, levels.level)
    for node in _deepest_of_parts(places, levels):
        places[node] = Place(places[node].level, "bottleneck")
    for node in _head(capture, places, parameters, live):
        places[node] = Place(places[node].level, "head")
    return Placement(places, parameters, live)


def _by_ancestry(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, Place]:
    """Places without a head: what is deeper before and after each operation tells its role.

    An input of low resolution, or the image shrunk and enlarged again, makes no decoder of what
    reads it; nor does what gives its size alone (a skip that is brought to what comes from below),
    or where the image itself is sampled (a spatial transformer before the network).
    """
    deepest = max(level.values())
    above: dict[fx.Node, int] = {}
    untouched: set[fx.Node] = set()  # inputs, and what no kernel has seen of them
    for node in capture.nodes:
        feeds = [n for n in node.all_input_nodes if not is_size(n)]
        if operator_of(node) in SAMPLES and feeds[0] in untouched:
            feeds = feeds[:1]
        if (
            node in level
            and all(n in untouched for n in feeds if n in level)
            and not facts(operator_of(node)).kernel
        ):
            untouched.add(node)
        own = (-1 if n in untouched else level.get(n, -1) for n in feeds)
        above[node] = max(map(max, own, map(above.__getitem__, feeds)), default=-1)
    feeds_deeper: dict[fx.Node, int] = {}
    for node in reversed(capture.nodes):
        down = [
            max(feeds_deeper[u], level[u])
            for u in node.users
            if u in level and above[u] <= level[u]
        ]
        feeds_deeper[node] = max(down, default=-1)
    places: dict[fx.Node, Place] = {}
    for node, where in level.items():
        role: Role = "skip"
        if where == deepest:
            role = "bottleneck"
        elif above[node] > where:
            role = "decoder"
        elif feeds_deeper[node] > where or node.op == "placeholder":
            role = "encoder"
        places[node] = Place(where, role)
    return places


def _deepest_of_parts(places: Mapping[fx.Node, Place], levels: Levels) -> list[fx.Node]:
    """What lies deepest in a part that goes down and comes up on its own, where others go deeper.

    Nothing leads deeper from there, nor comes from deeper, as of a skip.
    """
    found: list[fx.Node] = []
    for part in levels.parts.values():
        inside = {node: places[node] for node in part.level if node in places}
        ends, deepest = (of(where.level for where in inside.values()) for of in (min, max))
        if ends < deepest:
            at_bottom = (node for node, where in inside.items() if where.level == deepest)
            found += [node for node in at_bottom if places[node].role == "skip"]
    return found


def require_shape(capture: Capture, placement: Placement, levels: Levels) -> None:
    """Refuse a network that does not go down in resolution and come back.

    Raises:
        StructureError: One level only, no decoder, or a part that the tracer cannot see into.
    """
    for index, node in enumerate(capture.nodes):
        if node.op == "get_attr" and not any(c.first < index < c.last for c in capture.calls):
            raise StructureError(HIDDEN_REGION.format("the model"))
    deepest = len(levels.reductions) - 1
    dimensions = len(levels.reductions[0])
    if more := _made_of_a_vector(capture, dimensions):
        raise StructureError(
            f"the input has {counted(dimensions, 'dimension')}, and the network makes a vector of"
            f" it and of the vector maps of {more}: these have no place on the input's axes, so"
            " there are no levels that go down and come back up. If a part of it does, pass that"
            " part as a module of its own"
        )
    if deepest == 0 and (other := _other_dimensions(capture, dimensions)):
        raise StructureError(
            f"the input has {counted(dimensions, 'dimension')} and the convolutions behind it have"
            f" {other}: the whole has no levels that can be read. Pass the part that works in"
            f" {other}, as a module of its own, or say with {keyword('layout')} which axis holds"
            " frames ('NCTHW')."
        )
    if deepest == 0 and works_on_pieces(capture, dimensions):
        raise StructureError(
            "the forward takes its input apart in pieces of a fixed size (frames of a clip, some at"
            " a time), and its layers work on them one by one: how their sizes follow the input's"
            " cannot be read. Pass the part that works on one piece as a module of its own, with"
            f" {keyword('example_inputs')} of such a piece"
        )
    if deepest == 0:
        raise StructureError(
            "every operation lies at the input's resolution (one level), so there is no"
            " encoder-decoder shape to read. Pass a network that goes down and comes back up"
        )
    images = [n for n in capture.nodes if n.op == "placeholder" and n in levels.level]
    if all(levels.level[image] == deepest for image in images) and not (
        all(r < 1 for r in levels.reductions[0])
        and _goes_down(placement)
        and _enlarges_first(capture, placement)
    ):
        raise StructureError(
            "nothing lies below the input's own resolution; the network only comes up from it"
            f" (reductions {_written(levels.reductions)}), as a super-resolution network or a bare"
            " decoder does. Pass the whole encoder-decoder; where the axes of its input are not"
            f" batch, channels, sizes, say them with {keyword('layout')} ('NHWC')."
        )
    lies = {p for node, p in placement.places.items() if node in placement.live}
    if not any(p.role == "decoder" for p in lies):
        reductions = _written(levels.reductions)
        if {p.level for p in lies if p.role == "head"} > {len(levels.reductions) - 1}:
            raise StructureError(
                "what the deepest level makes is only resized after it (reductions"
                f" {reductions}), and at most joined to what other levels make: there is no decoder"
                " with weights to keep. Give it one: layers with weights after the first resize"
            )
        raise StructureError(
            "nothing comes back up from a deeper level: the network only goes down (reductions"
            f" {reductions}), as a classifier or a bare encoder does. Pass the whole"
            f" encoder-decoder, or name its parts with {keyword('stages')}."
        )


def _goes_down(placement: Placement) -> bool:
    """Whether kernels go down, as from an image that was enlarged before the first one saw it."""
    return any(
        place.role == "encoder" and node in placement.live and facts(operator_of(node)).kernel
        for node, place in placement.places.items()
    )


def _enlarges_first(capture: Capture, placement: Placement) -> bool:
    """Whether something makes more of the image before a kernel sees it."""
    for node in capture.nodes:
        if node not in placement.places:
            continue
        if facts(operator_of(node)).kernel:
            return raises(node)
        given = [numbers_in(n) for n in node.all_input_nodes]
        if raises(node) or numbers_in(node) > max(given, default=numbers_in(node)):
            return True
    return False


def _other_dimensions(capture: Capture, dimensions: int) -> int | None:
    """Dimensions in which convolutions work, where they are fewer or more than the input's."""
    for node in capture.nodes:
        if operator_of(node) in ("aten::conv1d", "aten::conv2d", "aten::conv3d"):
            weight = tensor_of(node.all_input_nodes[1])
            if weight is not None and weight.dim() - 2 != dimensions:
                return weight.dim() - 2
    return None


def _made_of_a_vector(capture: Capture, dimensions: int) -> int | None:
    """Dimensions of maps that kernels make of a vector, where they are more than the input's."""
    for node in capture.nodes:
        if not operator_of(node).startswith("aten::conv"):
            continue
        taken, kernel = node.all_input_nodes[:2]
        weight = tensor_of(kernel)
        if weight is not None and weight.dim() - 2 > dimensions and _only_laid_out(taken):
            return weight.dim() - 2
    return None


def _only_laid_out(node: fx.Node) -> bool:
    """Whether a map holds what a table that kernels made does, brought to another shape."""
    while (value := tensor_of(node)) is not None and value.dim() > 2:
        sources = [n for n in node.all_input_nodes if tensor_of(n) is not None]
        if len(sources) != 1 or numbers_in(sources[0]) != numbers_in(node):
            return False
        node = sources[0]
    return value is not None and _has_kernel(node)


def _has_kernel(node: fx.Node) -> bool:
    """Whether a kernel is on the way to an operation, or is that operation."""
    left, seen = [node], {node}
    while left:
        one = left.pop()
        if facts(operator_of(one)).kernel:
            return True
        left.extend(n for n in one.all_input_nodes if n not in seen)
        seen.update(one.all_input_nodes)
    return False


def _written(reductions: Iterable[tuple[float, ...]]) -> str:
    return ", ".join("x".join(f"{r:g}" for r in step) for step in reductions)


def _kernels(
    capture: Capture, places: Mapping[fx.Node, Place], parameters: Mapping[fx.Node, str]
) -> set[fx.Node]:
    """Operations that multiply the image by weights, parametrized ones too."""
    weights: set[fx.Node] = set()
    kernels: set[fx.Node] = set()
    for node in capture.nodes:
        if node in parameters:
            weights.add(node)
        elif node not in places:
            if any(n in weights for n in node.all_input_nodes):
                weights.add(node)
        elif facts(operator_of(node)).kernel and any(
            n in weights and (value := tensor_of(n)) is not None and value.dim() >= 2
            for n in node.all_input_nodes
        ):
            kernels.add(node)
    return kernels


def _head(
    capture: Capture,
    places: Mapping[fx.Node, Place],
    parameters: Mapping[fx.Node, str],
    live: frozenset[fx.Node],
) -> set[fx.Node]:
    """The last kernels on the way to the outputs, and what follows them.

    What tells something of a returned map (its quality, its loss) leads to no other map.
    """
    kernels = _kernels(capture, places, parameters) & live
    to_maps = _on_the_way_to_maps(capture, live)
    before_any = _before(capture, kernels, live)
    before_maps = _before(capture, kernels & to_maps, live)
    followed = (before_any - to_maps) | (before_maps & to_maps)
    head: set[fx.Node] = set()
    for node in capture.nodes:
        if node not in places or node in followed or node not in live:
            continue
        if node in kernels:
            if not raises(node) and places[node].role != "encoder":
                head.add(node)
        elif any(n in head for n in node.all_input_nodes):
            head.add(node)
    return head


def _before(
    capture: Capture, kernels: Collection[fx.Node], live: Collection[fx.Node]
) -> set[fx.Node]:
    """What some kernels follow."""
    found: set[fx.Node] = set()
    for node in reversed(capture.nodes):
        if any(u in found or u in kernels for u in node.users if u in live):
            found.add(node)
    return found


def _on_the_way_to_maps(capture: Capture, live: Collection[fx.Node]) -> set[fx.Node]:
    """What an output with positions is made of, and what that is."""
    found: set[fx.Node] = set()
    for node in reversed(capture.nodes):
        value = tensor_of(node)
        is_map = value is not None and any(hint(size) > 1 for size in value.shape[2:])
        returned = is_map and any(user.op == "output" for user in node.users)
        if returned or any(user in found for user in node.users if user in live):
            found.add(node)
    return found


def inside_part(
    capture: Capture, whole: Placement, levels: Levels, model: nn.Module, part: str
) -> Placement:
    """Give the operations of one part their role among themselves; all others have none.

    Raises:
        UnknownLayerError: No module of that name is a network of its own.
    """
    if part not in levels.parts:
        names = ", ".join(map(repr, levels.parts)) or "no module does"
        raise UnknownLayerError(
            f"{keyword('part', repr(part))} is no module that goes down and comes back up on its "
            f"own, beside others as deep; of this {type(model).__name__}: {names}"
        )
    places = {
        node: Place(where.level, "head") if whole.places[node].role == "head" else where
        for node, where in _by_ancestry(capture, levels.parts[part].level).items()
    }
    order = {node: index for index, node in enumerate(capture.nodes)}
    spans = [(call.first, call.last) for call in capture.calls if call.module == part]
    own = {
        weight: name
        for weight, name in whole.parameters.items()
        if any(first <= order[user] <= last for first, last in spans for user in weight.users)
    }
    return Placement(places, own, whole.live)


def layer_places(
    capture: Capture, placement: Placement, model: nn.Module
) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Place of each weighted leaf layer in forward order, and the parameters no output depends on.

    A layer lies where the first operation lies that reads one of its parameters; a layer of a side
    branch that the image does not reach (a time embedding) where its result first meets the image.
    One for several maps of a level (the last norm of a transformer, of whose blocks four are read)
    is encoder where it is for one that goes deeper.
    """
    order = {node: index for index, node in enumerate(capture.nodes)}
    found: dict[str, tuple[int, Place]] = {}
    dead = {name for name, _ in model.named_parameters()}
    for node, name in placement.parameters.items():
        if node not in placement.live:
            continue
        dead.discard(name)
        use = _first_use(node, placement, order)
        if use is None:
            continue
        layer = layer_of(model, name)
        reached = min(order[user] for user in node.users)
        if layer not in found or reached < found[layer][0]:
            found[layer] = (reached, _on_the_way_down(node, placement, placement.places[use]))
    ordered = sorted(found.items(), key=lambda item: item[1][0])
    return {layer: where for layer, (_, where) in ordered}, tuple(
        name for name, _ in model.named_parameters() if name in dead
    )


def _on_the_way_down(weight: fx.Node, placement: Placement, first: Place) -> Place:
    """Encoder in the place of skip, where a weight of a skip is used there too."""
    encoder = Place(first.level, "encoder")
    uses = (placement.places[node] for node in weight.users if node in placement.places)
    return encoder if first.role == "skip" and encoder in uses else first


def shared_layers(placement: Placement, model: nn.Module, nodes: Iterable[fx.Node]) -> list[str]:
    """Layers whose weights are read at several levels: modules that are called there again."""
    order = {node: index for index, node in enumerate(nodes)}
    levels: dict[str, set[int]] = {}
    for weight, name in placement.parameters.items():
        for user in weight.users:
            found = user if user in placement.places else _first_use(user, placement, order)
            if user in placement.live and found is not None:
                levels.setdefault(name, set()).add(placement.places[found].level)
    shared = (layer_of(model, name) for name, where in levels.items() if len(where) > 1)
    return list(dict.fromkeys(shared))


def _first_use(node: fx.Node, placement: Placement, order: Mapping[fx.Node, int]) -> fx.Node | None:
    """The first placed node downstream."""
    seen: set[fx.Node] = set()
    front = [node]
    best: fx.Node | None = None
    while front:
        current = front.pop()
        for user in current.users:
            if user in seen or user not in placement.live:
                continue
            seen.add(user)
            if user in placement.places:
                if best is None or order[user] < order[best]:
                    best = user
            else:
                front.append(user)
    return best


def stage_name(where: Place, deepest: int) -> str:
    """``"encoder 1"``; the head has no number, nor has the bottleneck of the deepest level."""
    if where.role == "head" or (where.role == "bottleneck" and where.level == deepest):
        return where.role
    return f"{where.role} {where.level}"


def stages(
    layers: Mapping[str, Place], reductions: tuple[tuple[float, ...], ...]
) -> tuple[Stage, ...]:
    """Group layers that share a role and a level, from input to output."""
    groups: dict[str, list[str]] = {}
    wheres: dict[str, Place] = {}
    for layer, where in layers.items():
        name = stage_name(where, len(reductions) - 1)
        groups.setdefault(name, []).append(layer)
        if name not in wheres or where.level < wheres[name].level:
            wheres[name] = where

    def position(name: str) -> tuple[int, int, int]:
        where = wheres[name]
        side = 0 if where.role == "skip" else 1
        up = (2, -where.level, side)
        down = {"encoder": (0, where.level), "bottleneck": (1, -where.level), "head": (3, 0)}
        return (*down[where.role], 0) if where.role in down else up

    return tuple(
        Stage(
            name=name,
            role=wheres[name].role,
            level=wheres[name].level,
            reduction=reductions[wheres[name].level],
            layers=tuple(groups[name]),
        )
        for name in sorted(groups, key=position)
    )


def override(
    capture: Capture,
    placement: Placement,
    wanted: Mapping[str, str | Iterable[str]],
    model: nn.Module,
    depth: int,
) -> Placement:
    """Put module calls, and operations that read single parameters, where the user says.

    Args:
        capture: The captured program.
        placement: What was read.
        wanted: Prefixes of module or parameter names for each stage name. A module that is called
            moves with all that it does; of one that is not, and of a parameter, the operations
            move that read the weights.
        model: The user's model.
        depth: Number of levels.

    Raises:
        InputError: A stage name is malformed, or one module is claimed twice.
        UnknownLayerError: A prefix or a level that the model does not have.
    """
    claims = _claims(wanted, model, depth)
    places = dict(placement.places)
    reached: set[str] = set()
    for call in sorted(capture.calls, key=lambda c: c.first - c.last):
        prefix = _longest(call.module, claims)
        if prefix is None:
            continue
        reached.add(prefix)
        role, level = claims[prefix]
        given = set(call.entries.values())
        for node in capture.nodes[call.first : call.last + 1]:
            if node in places and node not in given:
                places[node] = Place(places[node].level if level is None else level, role)
    uncalled = {prefix: claim for prefix, claim in claims.items() if prefix not in reached}
    for weight, name in placement.parameters.items():
        prefix = _longest(name, uncalled)
        if prefix is None:
            continue
        reached.add(prefix)
        role, level = claims[prefix]
        for node in _readers(weight, places):
            places[node] = Place(places[node].level if level is None else level, role)
    for prefix in claims.keys() - reached:
        raise InputError(f"{keyword('stages')} names {prefix!r}, but no forward reaches it")
    return Placement(places, placement.parameters, placement.live)


def _readers(weight: fx.Node, places: Mapping[fx.Node, Place]) -> set[fx.Node]:
    """The placed operations that read a weight, as it is or computed from others."""
    found: set[fx.Node] = set()
    waiting = list(weight.users)
    while waiting:
        node = waiting.pop()
        if node in places:
            found.add(node)
        else:
            waiting.extend(node.users)
    return found


def _longest(module: str, claims: Mapping[str, object]) -> str | None:
    fits = [p for p in claims if module == p or module.startswith(p + ".")]
    return max(fits, key=len) if fits else None


def _claims(
    wanted: Mapping[str, str | Iterable[str]], model: nn.Module, depth: int
) -> dict[str, tuple[Role, int | None]]:
    known = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    known |= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    claims: dict[str, tuple[Role, int | None]] = {}
    for stage, prefixes in wanted.items():
        role, level = _parse(stage, depth)
        for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
            if prefix not in known:
                near = difflib.get_close_matches(prefix, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UnknownLayerError(
                    f"{keyword('stages')} names {prefix!r}, no module or parameter of the "
                    f"model{hint}"
                )
            if prefix in claims and claims[prefix] != (role, level):
                raise InputError(f"{keyword('stages')} puts {prefix!r} in two stages")
            claims[prefix] = (role, level)
    return claims


def _parse(stage: str, depth: int) -> tuple[Role, int | None]:
    match = re.fullmatch(r"(encoder|decoder|skip|bottleneck) (\d+)|(bottleneck)|(head)", stage)
    if match is None:
        raise InputError(
            f"{keyword('stages')} has {stage!r}; expected 'encoder N', 'decoder N', 'skip N', "
            "'bottleneck', 'bottleneck N' or 'head', with N = 0 at full resolution"
        )
    if match[3]:
        return "bottleneck", depth - 1
    if match[4]:
        return "head", None
    level = int(match[2])
    if level >= depth:
        raise UnknownLayerError(
            f"{keyword('stages')} has {stage!r}, but the network has the levels 0 to {depth - 1}"
        )
    roles: Mapping[str, Role] = {role: role for role in get_args(Role)}
    return roles[match[1]], level

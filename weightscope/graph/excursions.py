"""What leaves its level for a moment: merged tokens, pyramid poolings, nested U-Nets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from torch import fx

from weightscope.adapters.symbols import is_symbolic
from weightscope.graph.capture import Call, Capture
from weightscope.graph.nodes import argument, first_tensor, operator_of, raises, root, tensor_of
from weightscope.graph.operators import ATTENDS, facts
from weightscope.graph.pieces import ancestors
from weightscope.graph.positions import Positions


def without_sequences(
    level: Mapping[fx.Node, int], factor: Mapping[fx.Node, float], reader: Positions
) -> dict[fx.Node, int]:
    """Give merged tokens, which never lie as an image, the next finer level.

    They are made of a sequence of all tokens of that level; patches of an image, or of tokens that
    lie as one, are made of that, and their level is one even where no operation shows it so. In a
    network of signals, or of images of which rows are made, sequences are what others have images
    for.
    """
    if reader.dimensions == 1 or (reader.dimensions == 2 and reader.slices):
        return dict(level)
    finer = {where: where for where in set(level.values())}
    for where in sorted(finer)[1:]:
        nodes = [node for node, own in level.items() if own == where]
        if not any(reader.is_image(node, factor[node]) for node in nodes):
            given = [
                n for node in nodes for n in node.all_input_nodes if level.get(n, where) < where
            ]
            if _from_a_sequence(given, factor, reader):
                finer[where] = finer[where - 1]
    return {node: finer[where] for node, where in level.items()}


def _from_a_sequence(
    given: Sequence[fx.Node], factor: Mapping[fx.Node, float], reader: Positions
) -> bool:
    """Whether what is given was a sequence of all positions last, since the last kernel."""
    seen: set[fx.Node] = set()
    waiting = list(given)
    while waiting:
        node = waiting.pop()
        if node in seen or node not in factor:
            continue
        seen.add(node)
        if reader.is_sequence(node, factor[node]):
            return True
        lies_so = reader.is_image(node, factor[node]) or reader.is_in_blocks(node)
        if not facts(operator_of(node)).kernel and not lies_so:
            waiting.extend(node.all_input_nodes)
    return False


def without_pyramids(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Give windows of several sizes beside each other, and large ones, the level that they pool.

    A pyramid pooling looks at its level's surroundings: nothing there convolves or attends at a
    coarser resolution, each branch pools, mixes channels and is resized back. A U-Net's own levels
    hold kernels that look around.
    """
    flat = dict(level)
    for own in sorted(set(level.values())):
        branches: dict[fx.Node, list[set[fx.Node]]] = {}
        for branch in _branches(capture, flat, own):
            sources = {
                root(n) for node in branch for n in node.all_input_nodes if n in flat
            } - branch
            if len(sources) == 1 and not any(_looks_around(n, branch, flat) for n in branch):
                branches.setdefault(sources.pop(), []).append(branch)
        for source, beside in branches.items():
            nodes = {node for branch in beside for node in branch}
            several = len({flat[node] for node in nodes}) > 1
            if flat[source] == own and (several or any(map(_overlaps, nodes))):
                flat.update(dict.fromkeys(nodes, own))
    return flat


def without_coarse_answers(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Give what is pooled behind the way up, and only returned, the level that it pools.

    A network that came back up may answer for each of some positions together (an epoch of a
    recording, a bin of a sequence): nothing there looks around, and nothing comes up again.
    """

    def answers(branch: set[fx.Node], flat: Mapping[fx.Node, int], own: int) -> bool:
        sources = {n for node in branch for n in node.all_input_nodes if n in flat} - branch
        return (
            all(user.op == "output" for user in _exits(branch))
            and not any(_looks_around(n, branch, flat) for n in branch)
            and all(flat[n] == own for n in sources)
            and all(any(flat.get(m, own) > own for m in ancestors(n)) for n in sources)
        )

    return _without_branches(capture, level, answers)


def without_fewer_keys(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Give what attention looks up at fewer positions the level of what asks.

    Keys and values are made of patches there (reduced attention), and lead nowhere else: nothing
    that looks around works at the coarser resolution.
    """

    def is_looked_up(branch: set[fx.Node], flat: Mapping[fx.Node, int], own: int) -> bool:
        around = (n for n in branch if not _takes_patches(n))
        asked = all(facts(operator_of(user)).view in ATTENDS for user in _exits(branch))
        return asked and not any(_looks_around(n, branch, flat) for n in around)

    return _without_branches(capture, level, is_looked_up)


def _without_branches(
    capture: Capture,
    level: Mapping[fx.Node, int],
    strays: Callable[[set[fx.Node], Mapping[fx.Node, int], int], bool],
) -> dict[fx.Node, int]:
    """Give what hangs together below a level that level, where it only strays from it.

    Args:
        capture: The exported program.
        level: Level of each node.
        strays: Whether a branch does, with the levels so far and that which it hangs below.
    """
    flat = dict(level)
    for own in sorted(set(level.values())):
        for branch in _branches(capture, flat, own):
            if _exits(branch) and strays(branch, flat, own):
                flat.update(dict.fromkeys(branch, own))
    return flat


def _exits(branch: set[fx.Node]) -> set[fx.Node]:
    """What is given something of a branch, and is none of it."""
    return {user for node in branch for user in node.users} - branch


def _takes_patches(node: fx.Node) -> bool:
    """Whether a convolution makes one position of each patch, and patches do not overlap."""
    if facts(operator_of(node)).view != "convolution" or raises(node):
        return False
    weight, stride = first_tensor(argument(node, "weight")), argument(node, "stride")
    return weight is not None and tuple(weight.shape[2:]) == tuple(stride)


def _overlaps(node: fx.Node) -> bool:
    """Whether a pooling gives each position to more than two windows along every side.

    What goes on at fewer positions is pooled by windows of at most two steps: 2/2, 3/2, 4/2. What
    pools at every position mixes those of one level.
    """
    if facts(operator_of(node)).view != "window":
        return False
    sizes = [argument(node, name) for name in ("kernel_size", "stride")]
    windows, steps = ([n] if isinstance(n, int) else [*(n or ())] for n in sizes)
    each = zip(windows * len(steps), steps * len(windows), strict=True)
    return bool(steps) and all(window > 2 * step > 2 for window, step in each)


def _branches(capture: Capture, level: Mapping[fx.Node, int], own: int) -> list[set[fx.Node]]:
    """What hangs together below a level."""
    found: list[set[fx.Node]] = []
    seen: set[fx.Node] = set()
    for node in capture.nodes:
        if level.get(node, -1) <= own or node in seen:
            continue
        front, branch = [node], set()
        while front:
            current = front.pop()
            if current not in branch and level.get(current, -1) > own:
                branch.add(current)
                front += [*current.all_input_nodes, *current.users]
        seen |= branch
        found.append(branch)
    return found


def _looks_around(node: fx.Node, branch: set[fx.Node], level: Mapping[fx.Node, int]) -> bool:
    """Whether one result of an operator sees several positions of its branch."""
    row = facts(operator_of(node))
    view = row.view
    if row.layout == "channels_last":  # of positions that a reshape made channels of
        return any(level.get(n, level[node]) < level[node] for n in node.all_input_nodes)
    if view == "convolution":
        weight = first_tensor(argument(node, "weight"))
        return weight is None or any(size > 1 for size in weight.shape[2:])
    if view in ("window", "adaptive"):
        return False  # pools, perhaps what is pooled already
    if view == "product":
        return sum(n in branch for n in node.all_input_nodes) > 1
    if view == "along":
        return _mixes_positions(node)
    return view in ("whole", "unfold", "spread", "unpool", "roll")


def _mixes_positions(node: fx.Node) -> bool:
    """Whether what goes along some axes goes along one that may be a side of the image.

    An axis of one size beside others that follow the image holds channels (scores of classes).
    """
    given = next((value for n in node.all_input_nodes if (value := tensor_of(n)) is not None), None)
    dim = argument(node, "dim")
    if given is None or dim is None or not any(map(is_symbolic, given.shape[1:])):
        return True
    return any(is_symbolic(given.shape[d]) for d in ([dim] if isinstance(dim, int) else dim))


def without_excursions(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Give a call that enters and leaves at one level that level, where its inside strays.

    Reduced attention, window padding and the small U-Nets of a U-2-Net leave their block's level
    for a moment; a nested U-Net, which alone reaches its depth, does not. Where U-Nets in a row
    would all count as excursions and nothing remained at the deepest level, those that reach it do
    not; nor do the shallower ones beside them, where all that goes down is in such U-Nets. Nor
    does one beside an encoder as deep (a classifier, the code of a style), without which nothing
    would come back up to an output.
    """
    strays = [stray for call in capture.calls if (stray := _stray(call, capture, level))]
    strays.sort(key=lambda stray: len(stray[0]))  # the outermost call has the last word
    flat = _flattened(level, strays)
    deepest = max(level.values())
    if deepest in flat.values():
        return flat | _only_ways_up(capture, level, flat)
    nets = [stray for stray in strays if any(raises(n) for n in stray[0])]
    inside = {node for nodes, _ in nets for node in nodes}
    if any(level[n] and n not in inside and facts(operator_of(n)).kernel for n in level):
        nets = [net for net in nets if any(level[n] == deepest for n in net[0])]
    return _flattened(level, [stray for stray in strays if stray not in nets])


def _only_ways_up(
    capture: Capture, level: Mapping[fx.Node, int], flat: Mapping[fx.Node, int]
) -> dict[fx.Node, int]:
    """Levels of what is in the U-Nets by which alone a network comes back up to an output.

    Args:
        capture: The exported program with its module calls.
        level: The levels as they were read.
        flat: Those with every such U-Net at the level of its ends.
    """
    last = [flat[root(n)] for n in capture.nodes[-1].all_input_nodes if root(n) in flat]
    nets = parts_of(capture, level)
    inside = {node for nodes in nets.values() for node in nodes}
    others = {node for node in flat.keys() - inside if raises(node)}
    if min(last, default=0) == max(flat.values()) or _comes_up(others, inside):
        return {}
    found: dict[fx.Node, int] = {}
    for nodes in nets.values():
        if min(nodes.values()) in last:  # not what a classifier looks at in passing
            found |= without_excursions(capture, nodes)
    return found


def _comes_up(raising: set[fx.Node], inside: Collection[fx.Node]) -> bool:
    """Whether what is raised outside of U-Nets meets kernels or an output before one of these.

    What does not (a code that is enlarged, and given to a U-Net beside noise) is only handed to it.
    """
    seen, waiting = {*raising}, [*raising]
    while waiting:
        for user in waiting.pop().users:
            if user.op == "output" or (facts(operator_of(user)).kernel and user not in inside):
                return True
            if user not in seen and user not in inside:
                seen.add(user)
                waiting.append(user)
    return False


def parts_of(capture: Capture, level: Mapping[fx.Node, int]) -> dict[str, dict[fx.Node, int]]:
    """Levels inside each module that is a network of its own, with what its calls are given.

    Such a module enters and leaves at one level, goes deeper inside, comes back by an operation
    that raises, and is not alone in going that deep. Of modules within each other the outermost
    counts. Where one is called at several scales, levels are counted from the ends of each call.
    """
    found: dict[str, list[tuple[int, dict[fx.Node, int]]]] = {}
    for call in sorted(capture.calls, key=lambda call: call.first - call.last):
        stray = _stray(call, capture, level)
        if stray is None or any(call.module.startswith(f"{name}.") for name in found):
            continue
        inside, own = stray
        if any(level[n] > own and facts(operator_of(n)).kernel for n in inside) and any(
            raises(n) for n in inside
        ):
            given = [root(n) for n in call.entries.values() if root(n) in level]
            nodes = {n: level[n] for n in (*inside, *given)}
            found.setdefault(call.module, []).append((own, nodes))
    image = min((own for node, own in level.items() if node.op == "placeholder"), default=0)
    return {name: _counted_from_its_ends(calls, image) for name, calls in found.items()}


def _counted_from_its_ends(
    calls: Sequence[tuple[int, dict[fx.Node, int]]], image: int
) -> dict[fx.Node, int]:
    """Levels of all calls of a module, the call first whose ends lie nearest to the image."""
    found: dict[fx.Node, int] = {}
    scales = {own for own, _ in calls}
    for _, nodes in sorted(calls, key=lambda call: abs(call[0] - image)):
        own = sorted(set(nodes.values()))
        ranks = {where: rank if len(scales) > 1 else where for rank, where in enumerate(own)}
        found |= {n: ranks[where] for n, where in nodes.items() if n not in found}
    return found


def _stray(
    call: Call, capture: Capture, level: Mapping[fx.Node, int]
) -> tuple[list[fx.Node], int] | None:
    """The nodes of a call that strays from the one level of its ends, and that level.

    What a hook or an attribute takes out of it leaves as well as what it returns.
    """
    span = set(capture.nodes[call.first : call.last + 1])
    inside = [n for n in capture.nodes[call.first : call.last + 1] if n in level]
    ends = {level[root(n)] for n in call.entries.values() if root(n) in level}
    ends |= {
        level[n]
        for n in inside
        if any(u not in span and (u in level or u.op == "output") for u in n.users)
    }
    if len(ends) != 1 or all(level[n] in ends for n in inside):
        return None
    own = ends.pop()
    members = set(inside)

    # an input of low resolution, only resized outside, does not make the call one of several; what
    # is only laid out otherwise, and has no kernels there, makes no level
    def goes_deeper(nodes: Iterable[fx.Node]) -> bool:
        return any(level[n] > own and facts(operator_of(n)).kernel for n in nodes)

    if goes_deeper(inside) and not goes_deeper(n for n in level if n not in members):
        return None
    return inside, own


def _flattened(
    level: Mapping[fx.Node, int], strays: Sequence[tuple[list[fx.Node], int]]
) -> dict[fx.Node, int]:
    flat = dict(level)
    for inside, own in strays:
        flat.update(dict.fromkeys(inside, own))
    return flat

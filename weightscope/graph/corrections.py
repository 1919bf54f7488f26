"""Where the number of an operation's positions misleads about the level that it lies at.

Each function here says P_input / P of some operations anew, from what lies around them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence, Set

from torch import Tensor, fx

from weightscope.adapters.symbols import free_symbols, key
from weightscope.graph.growing import space_of
from weightscope.graph.nodes import argument, first_tensor, operator_of, raises, tensor_of
from weightscope.graph.operators import ATTENDS, RESHAPES, facts
from weightscope.graph.pieces import JOINS, ONE_OF, SPLITS, ancestors, tiles_in_columns
from weightscope.graph.positions import Positions, elements
from weightscope.graph.writes import writes_into_new
from weightscope.thresholds import LEVEL_RATIO

_STACKS = ("aten::stack",)
_RESHAPES = (*RESHAPES, "aten::flatten", "aten::unflatten")


def corrected(
    factor: Mapping[fx.Node, float],
    told: Set[fx.Node],
    images: Sequence[fx.Node],
    reader: Positions,
    vectors: Collection[fx.Node],
    weights: Set[str],
) -> dict[fx.Node, float]:
    """P_input / P of every operation, with what its number of positions misleads about.

    Args:
        factor: P_input / P of each node, in the graph's order, by the number of its positions.
        told: Those whose operation tells it; all others have that of what they are made from.
        images: The inputs.
        reader: Counts positions.
        vectors: What queries say, which has none.
        weights: Names of the nodes that hold weights.
    """
    found = {**factor, **_where_weights_are_shared(images, factor, weights)}
    found |= _where_resized_to(images[1:], found, told, reader)
    found |= _where_queries_lie(factor, told)
    found |= _where_sides_grow_in_turn(factor, told, reader, weights)
    found |= _where_columns_are_tiles(factor, told, reader)
    found |= _where_learned_tokens_join(found, told)
    found |= _where_parts_are_written(factor, told)
    found |= _where_activations_are_finer(factor, told)
    laid = {node: own for node, own in found.items() if node not in vectors}
    return found | _where_images_lie_together(laid, told, images, reader)


def _where_weights_are_shared(
    images: Sequence[fx.Node], factor: Mapping[fx.Node, float], weights: Set[str]
) -> dict[fx.Node, float]:
    """P_input / P of what is made of one image whose first layers are the largest one's: its own.

    A template beside a search region, or a style beside an image, may have any size. Where maps of
    several are brought to the size of one (an image at several sizes), that is the one whose sides
    they follow.

    Args:
        images: The inputs, the largest first.
        factor: P_input / P of each node.
        weights: Names of the nodes that hold weights.
    """
    others = [image for image in images if factor[image] != factor[images[0]]]
    first = _first_layers(images[0], weights) if others else {}
    others = [image for image in others if _are_called_apart(first, _first_layers(image, weights))]
    of_one: dict[fx.Node, fx.Node | None] = {image: image for image in images}
    sides = {image: free_symbols(space_of(image)) for image in images if others}
    for node in factor if others else ():
        value = first_tensor(node)
        own = free_symbols(() if value is None else value.shape[1:])
        followed = [image for image, of in sides.items() if own & of]
        if len(followed) == 1:
            of_one.setdefault(node, followed[0])
        given = {of_one.get(n) for n in node.all_input_nodes if n in factor}
        of_one.setdefault(node, given.pop() if len(given) == 1 else None)
    return {
        node: own / factor[image]
        for node, own in factor.items()
        if (image := of_one.get(node)) is not None and image in others
    }


def _first_layers(image: fx.Node, weights: Set[str]) -> dict[str, set[fx.Node]]:
    """What an image meets first on its ways that has weights, by their names."""
    found: dict[str, set[fx.Node]] = {}
    seen, waiting = {image}, [image]
    while waiting:
        for user in waiting.pop().users:
            if user not in seen:
                seen.add(user)
                own = weights & {n.name for n in user.all_input_nodes}
                for name in own:
                    found.setdefault(name, set()).add(user)
                waiting += [] if own else [user]
    return found


def _are_called_apart(one: Mapping[str, set[fx.Node]], other: Mapping[str, set[fx.Node]]) -> bool:
    """Whether the same weights are used for each of two images, and not for both joined."""
    return any(one[name].isdisjoint(other[name]) for name in one.keys() & other.keys())


def _where_resized_to(
    images: Sequence[fx.Node],
    factor: Mapping[fx.Node, float],
    told: Set[fx.Node],
    reader: Positions,
) -> dict[fx.Node, float]:
    """P_input / P of what a forward does to an image before it only resizes it: that behind.

    A coarse field that is laid beside a fine map makes no level of its own, nor does a kernel of an
    unknown blur that is padded to the image's size, to be multiplied in the Fourier domain.
    """
    found: dict[fx.Node, float] = {}
    for image in images:
        before, behind, padded, waiting = {image}, set(), set[fx.Node](), [image]
        while waiting:
            for user in waiting.pop().users:
                if user not in factor or user in before:
                    continue
                row = facts(operator_of(user))
                if row.view in ("resize", "adaptive") or writes_into_new(user):
                    behind.add(factor[user])
                elif row.view == "pad" and reader.has_all_sides(user):
                    behind.add(1.0)
                    padded |= _first_that_tell(user, factor, told)[0]
                elif row.kernel or row.layout or factor[user] != factor[image]:
                    behind.add(math.nan)
                else:
                    before.add(user)
                    waiting.append(user)
        if len(behind) == 1 and not math.isnan(own := behind.pop()):
            found |= dict.fromkeys(before | padded, own)
    return found


def _where_queries_lie(
    factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> dict[fx.Node, float]:
    """P_input / P of attention between two levels: that of its queries, though its keys be larger.

    The layers behind tell which that is.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
    """
    found: dict[fx.Node, float] = {}
    for node in factor:
        given = [factor[n] for n in node.all_input_nodes if n in factor]
        attends = node not in told and facts(operator_of(node)).view in ATTENDS
        if not attends or not given or _alike(given):
            continue
        between, behind = _up_to_what_tells(node, factor, told)
        if behind and _alike(behind) and any(_alike([own, *behind]) for own in given):
            found |= dict.fromkeys(between, behind[0])
    return found


def _where_parts_are_written(
    factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> dict[fx.Node, float]:
    """P_input / P of what makes one part of a map that is written part by part: that of the map.

    The first frames of a clip, which have others repeated before them, have a layer's call alone.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
    """
    found: dict[fx.Node, float] = {}
    for node, own in factor.items():
        waiting = [*node.all_input_nodes] if node in told and writes_into_new(node) else []
        while waiting:
            part = waiting.pop()
            if part in factor and not writes_into_new(part) and len(part.users) == 1:
                found[part] = factor[part] if _alike([factor[part], own]) else own
                tells = part in told or facts(operator_of(part)).kernel
                waiting += [] if tells else part.all_input_nodes
    return found


def _where_activations_are_finer(
    factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> dict[fx.Node, float]:
    """P_input / P where a map is enlarged for a function of each number alone, and reduced again.

    So an activation makes no frequencies that its map cannot hold (convolutional neural operators,
    StyleGAN3). No kernel sees the finer map: it lies with what it is made from.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
    """
    found: dict[fx.Node, float] = {}
    for node in factor:
        given = node.all_input_nodes[0] if node.all_input_nodes else node
        enlarges = node in told and facts(operator_of(node)).view == "resize"
        if not enlarges or given not in factor or not factor[node] < factor[given]:
            continue
        between, behind = _first_that_tell(node, factor, told)
        returned = any(user.op == "output" for n in between for user in n.users)
        reduced = all(
            facts(operator_of(n)).view == "resize" and factor[n] > factor[node] for n in behind
        )
        if behind and reduced and not returned:
            found |= dict.fromkeys(between, found.get(given, factor[given]))
    return found


def _where_learned_tokens_join(
    factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> dict[fx.Node, float]:
    """P_input / P where learned tokens join what there is (a place for each patch that is missing).

    There are more positions then, of which the layers behind tell how many.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
    """
    found: dict[fx.Node, float] = {}
    for node, own in factor.items():
        learned = any(n not in factor and tensor_of(n) is not None for n in node.all_input_nodes)
        if node in told or not learned or operator_of(node) != "aten::cat":
            continue
        between, behind = _up_to_what_tells(node, factor, told)
        if behind and _alike(behind) and behind[0] < own and not _alike([own, *behind]):
            found |= dict.fromkeys(between, behind[0])
    return found


def _up_to_what_tells(
    node: fx.Node, factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> tuple[set[fx.Node], list[float]]:
    """What follows a node up to layers that tell their P_input / P, and what these tell.

    What comes back up tells nothing about what it is given.
    """
    between, behind = _first_that_tell(node, factor, told)
    return between, [factor[n] for n in behind if not raises(n)]


def _first_that_tell(
    node: fx.Node, factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> tuple[set[fx.Node], list[fx.Node]]:
    """What follows a node up to the first that tell their P_input / P, and these."""
    between, waiting, behind = {node}, [node], list[fx.Node]()
    while waiting:
        for user in waiting.pop().users:
            if user in told:
                behind.append(user)
            elif user in factor and user not in between:
                between.add(user)
                waiting.append(user)
    return between, behind


def _where_sides_grow_in_turn(
    factor: Mapping[fx.Node, float],
    told: Collection[fx.Node],
    reader: Positions,
    weights: Set[str],
) -> dict[fx.Node, float]:
    """P_input / P where one side of a map grows, and the other right behind it: as before.

    A map that is finer along one side only is on its way, and no level (an inverse transform by
    wavelets, rows first), where no weights make it.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
        reader: Counts positions.
        weights: Names of the nodes that hold weights.
    """
    found: dict[fx.Node, float] = {}
    for node in factor:
        if node not in told or not _grows_without_weights(node, weights):
            continue
        given = node.all_input_nodes[0]
        before = found.get(given, factor[given])
        between, behind = _first_that_tell(node, factor, told)
        finer = [factor[n] < factor[node] for n in behind]
        in_turn = factor[node] < before and finer and all(finer)
        if in_turn and all(_grows_otherwise(node, n, reader) for n in behind):
            found |= dict.fromkeys(between, before)
    return found


def _grows_without_weights(node: fx.Node, weights: Set[str]) -> bool:
    """Whether a map may get larger here, by its layout or by fixed filters."""
    weight = argument(node, "weight") if raises(node) else None
    if weight is None:
        return operator_of(node) in _RESHAPES or facts(operator_of(node)).view == "resize"
    return weights.isdisjoint(n.name for n in ancestors(weight))


def _grows_otherwise(node: fx.Node, behind: fx.Node, reader: Positions) -> bool:
    """Whether what follows a map that grew grows along other sides."""
    if operator_of(node) in _RESHAPES and operator_of(behind) in _RESHAPES:
        return True
    given = node.all_input_nodes[0]
    while (before := reader.growth_of_map(given)) is None and given.all_input_nodes:
        given = given.all_input_nodes[0]
    between, after = reader.growth_of_map(node), reader.growth_of_map(behind)
    if before is None or between is None or after is None:
        return False
    first, second = (
        {side for side, (a, b) in enumerate(zip(*pair, strict=True)) if a > LEVEL_RATIO * b}
        for pair in ((before, between), (between, after))
    )
    return bool(first and second) and first.isdisjoint(second)


def _where_columns_are_tiles(
    factor: Mapping[fx.Node, float], told: Collection[fx.Node], reader: Positions
) -> dict[fx.Node, float]:
    """P_input / P of the columns that tiles are taken in, before they are maps: that of the image.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
        reader: Counts positions.
    """
    found: dict[fx.Node, float] = {}
    for made, tiles, whole in tiles_in_columns([*factor], reader.dimensions):
        own = factor.get(whole, 1.0)
        for tile in tiles:
            columns = ancestors(tile) - ancestors(whole)
            columns |= _first_that_tell(tile, factor, told)[0]
            found |= dict.fromkeys((n for n in columns if n in factor), own)
        waiting = [made]
        while waiting:  # and of those that are laid back
            node = waiting.pop()
            found[node] = own
            given = [n for n in node.all_input_nodes if n in factor and n not in found]
            waiting += [n for n in given if n not in tiles and _only_lays_out(n, told)]
    return found


def _only_lays_out(node: fx.Node, told: Collection[fx.Node]) -> bool:
    return node not in told or operator_of(node) in _RESHAPES


def _alike(factors: Collection[float]) -> bool:
    """Whether positions are of one level."""
    return max(factors) / min(factors) < LEVEL_RATIO


def _where_images_lie_together(
    factor: Mapping[fx.Node, float],
    told: Collection[fx.Node],
    images: Sequence[fx.Node],
    reader: Positions,
) -> dict[fx.Node, float]:
    """P_input / P where maps or tokens of several images lie together: that of one of them.

    So many times as many positions are no finer level, also where layers go down from there and
    come back up, until the images are taken apart again.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
        images: The inputs.
        reader: Counts positions.
    """
    found: dict[fx.Node, float] = {}
    numbers: dict[fx.Node, int] = {}
    beside: dict[fx.Node, list[fx.Node]] = {}
    for node in factor:
        beside[node] = _side_by_side(node, factor, told, reader)
        laid_out = _laid_out_of_the_batch(node, reader)
        numbers[node] = sum(numbers[n] for n in beside[node]) or laid_out
    for node in reversed(numbers):  # what joins joined images counts all of them
        joined, number = beside[node], numbers[node]
        if number < 2 or any(user in found for user in node.users):
            continue
        if not _is_told(node, number, factor, told) and not _is_along_a_side(node, told, reader):
            continue
        value = first_tensor(node)
        tokens = operator_of(node) in JOINS and value is not None and value.dim() == 3
        tokens &= reader.dimensions > 1  # a sequence is the image there, of two parts perhaps
        if not joined or tokens or _of_different_images(joined, images):
            found |= _of_one_image(node, number, factor, told, reader)
    return found


def _side_by_side(
    node: fx.Node, factor: Mapping[fx.Node, float], told: Collection[fx.Node], reader: Positions
) -> list[fx.Node]:
    """What an operation lays side by side, where all of it has one size and one level.

    A stack whose new axis lies behind a side interleaves: rows or columns of a larger map.
    """
    name = operator_of(node)
    if name not in (*JOINS, *_STACKS):
        return []
    joined = [n for n in argument(node, "tensors") if n in factor]
    values = [value for n in joined if (value := tensor_of(n)) is not None]
    shapes = {reader.large.shape(value) for value in values}
    one_level = len(shapes) == 1 and _alike([factor[n] for n in joined])
    if not one_level or len(joined) != len(argument(node, "tensors")):
        return []
    axis = argument(node, "dim") % (values[0].dim() + 1)
    behind = 2 if _are_maps(joined[0], told, reader) else 1
    return [] if name in _STACKS and axis > behind else joined


def _are_maps(node: fx.Node, told: Collection[fx.Node], reader: Positions) -> bool:
    """Whether channels lie before sizes, as of the last layer that tells."""
    value = tensor_of(node)
    while node not in told and node.all_input_nodes:
        node = node.all_input_nodes[0]
    maps = value is not None and value.dim() == reader.dimensions + 2
    return maps and facts(operator_of(node)).layout == "channels_first"


def _laid_out_of_the_batch(node: fx.Node, reader: Positions) -> int:
    """How many images of a batch a reshape lays along an axis of their own; 1 of all else."""
    before, value = _reshaped(node)
    if value is None or before is None or value.dim() < 3:
        return 1
    images, *first = (reader.large.size(v) for v in (before.shape[0], *value.shape[:2]))
    split = images == math.prod(first) and value.dim() == before.dim() + 1
    batch = key(reader.shape[0])
    number = [n for n, axis in zip(first, value.shape, strict=False) if key(axis) != batch]
    return number[0] if split and len(number) == 1 else 1


def _reshaped(node: fx.Node) -> tuple[Tensor | None, Tensor | None]:
    """What a reshape is given, and what it makes; nothing of all else."""
    if operator_of(node) not in _RESHAPES or not isinstance(node.args[0], fx.Node):
        return None, None
    return tensor_of(node.args[0]), tensor_of(node)


def _is_told(
    start: fx.Node, number: int, factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> bool:
    """Whether a first layer behind is told the positions of so many images together."""
    _, behind = _up_to_what_tells(start, factor, told)
    return any(_alike([own * number, factor[start]]) for own in behind)


def _is_along_a_side(node: fx.Node, told: Collection[fx.Node], reader: Positions) -> bool:
    """Whether maps are joined along a side."""
    if operator_of(node) not in JOINS or not _are_maps(node, told, reader):
        return False
    return bool(argument(node, "dim") % (reader.dimensions + 2) > 1)


def _of_one_image(
    start: fx.Node,
    number: int,
    factor: Mapping[fx.Node, float],
    told: Collection[fx.Node],
    reader: Positions,
) -> dict[fx.Node, float]:
    """P_input / P of all that follows while so many images lie together, and until layers tell."""
    found, together = {start: factor[start]}, {start: number}
    for node in factor:
        given = [n for n in node.all_input_nodes if n in found]
        if not given or node in found:
            continue
        many = max(together[n] for n in given)
        if operator_of(node) in _STACKS or _is_along_a_side(node, told, reader):
            many = min(number, sum(together[n] for n in given))  # taken apart, and joined again
        left = many // _taken_apart(node, many, reader)
        if node not in told:
            # as where positions were counted, it lies where the largest that it is given lies
            feeds = [n for n in node.all_input_nodes if n in factor]
            largest = max(feeds, key=lambda n: elements(n, reader.large))
            found[node], together[node] = found.get(largest, factor[largest]), left
            continue
        is_layer = facts(operator_of(node)).layout is not None and not raises(node)
        if is_layer and left == 1 and _alike([factor[node] * number, found[given[0]]]):
            left = number  # what was taken apart were no images: queries, keys and values
        if left > 1:
            found[node], together[node] = factor[node] * left, left
    return found


def _taken_apart(node: fx.Node, many: int, reader: Positions) -> int:
    """Into how many shares of its images a node takes what lies together apart; 1 of all else."""
    made = node.args[0] if node.target is operator.getitem else node
    assert isinstance(made, fx.Node)
    before, value = _reshaped(made)
    if before is not None and value is not None and value.dim():
        shares = reader.large.size(value.shape[0]) / max(1, reader.large.size(before.shape[0]))
    elif _takes_a_part(made) or facts(operator_of(made)).view == "along":
        source = made.all_input_nodes[0]
        shares = elements(source, reader.large) / max(1, elements(node, reader.large))
    else:
        return 1
    return int(shares) if shares > 1 and many % shares == 0 else 1


def _of_different_images(joined: Sequence[fx.Node], images: Sequence[fx.Node]) -> bool:
    """Whether no two are made of one image, or of one piece of it: frames, images as channels."""
    users = ((user, image) for image in images for user in image.users)
    taken = {user for user, image in users if _takes_a_part(user) and not _of_a_side(user, image)}
    lists = {user for user in taken if tensor_of(user) is None}
    pieces = (taken - lists) | {part for several in lists for part in several.users}
    seen: set[fx.Node] = set()
    for node in joined:
        behind = ancestors(node)
        own = (behind & pieces) or (behind & set(images))
        if not own or own & seen:
            return False
        seen |= own
    return True


def _takes_a_part(node: fx.Node) -> bool:
    return operator_of(node) in (*SPLITS, *ONE_OF, "aten::slice", "aten::narrow")


def _of_a_side(node: fx.Node, image: fx.Node) -> bool:
    """Whether a part is one of a side of an image: a tile, every other row."""
    value, axis = tensor_of(image), argument(node, "dim")
    assert value is not None
    return isinstance(axis, int) and axis % value.dim() in image.meta.get("space", ())

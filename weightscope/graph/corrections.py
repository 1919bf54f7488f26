"""Where the number of an operation's positions misleads about the level that it lies at.

Each function here says P_input / P of some operations anew, from what lies around them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence

from torch import fx

from weightscope.graph.nodes import argument, first_tensor, operator_of, raises, tensor_of
from weightscope.graph.operators import facts
from weightscope.graph.pieces import JOINS, SPLITS, ancestors
from weightscope.graph.positions import Positions, elements
from weightscope.thresholds import LEVEL_RATIO

_ATTENDS = ("product", "whole")  # queries to keys and values
_STACKS = ("aten::stack",)
_ONE_OF = ("aten::select", "aten::unbind")


def corrected(
    factor: Mapping[fx.Node, float],
    told: Collection[fx.Node],
    images: Sequence[fx.Node],
    reader: Positions,
) -> dict[fx.Node, float]:
    """P_input / P of every operation, with what its number of positions misleads about.

    Args:
        factor: P_input / P of each node, in the graph's order, by the number of its positions.
        told: Those whose operation tells it; all others have that of what they are made from.
        images: The inputs.
        reader: Counts positions.
    """
    found = {**factor, **_where_resized_to(images[1:], factor)}
    found |= _where_queries_lie(factor, told)
    found |= _where_learned_tokens_join(found, told)
    return found | _where_images_lie_together(found, told, images, reader)


def _where_resized_to(
    images: Sequence[fx.Node], factor: Mapping[fx.Node, float]
) -> dict[fx.Node, float]:
    """P_input / P of what a forward does to an image before it only resizes it: that behind.

    A coarse field that is laid beside a fine map makes no level of its own.
    """
    found: dict[fx.Node, float] = {}
    for image in images:
        before, behind, waiting = {image}, set(), [image]
        while waiting:
            for user in waiting.pop().users:
                if user not in factor or user in before:
                    continue
                row = facts(operator_of(user))
                if row.view in ("resize", "adaptive"):
                    behind.add(factor[user])
                elif row.kernel or row.layout or factor[user] != factor[image]:
                    behind.add(math.nan)
                else:
                    before.add(user)
                    waiting.append(user)
        if len(behind) == 1 and not math.isnan(own := behind.pop()):
            found |= dict.fromkeys(before, own)
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
        attends = node not in told and facts(operator_of(node)).view in _ATTENDS
        if not attends or not given or _alike(given):
            continue
        between, behind = _up_to_what_tells(node, factor, told)
        if behind and _alike(behind) and any(_alike([own, *behind]) for own in given):
            found |= dict.fromkeys(between, behind[0])
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
    between, waiting, behind = {node}, [node], list[float]()
    while waiting:
        for user in waiting.pop().users:
            if user in told:
                behind += [] if raises(user) else [factor[user]]
            elif user in factor and user not in between:
                between.add(user)
                waiting.append(user)
    return between, behind


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

    So many times as many positions are no finer level. Other layers that are told as many
    positions than one image has there, until one comes back up, are those of all together.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
        images: The inputs.
        reader: Counts positions.
    """
    found: dict[fx.Node, float] = {}
    if reader.dimensions == 1:
        return found  # a sequence is the image there, and two of them are a longer one
    for node, own in factor.items():
        joined = _alike_in_size(node, factor, reader)
        if len(joined) < 2 or node in found:
            continue
        together = _up_to_one_alone(node, own, len(joined), factor, told, reader)
        value = first_tensor(node)
        tokens = operator_of(node) in JOINS and value is not None and value.dim() == 3
        finer = any(n in told for n in together)
        if finer and (tokens or _of_different_images(joined, images)):
            found |= dict.fromkeys(together, own)
    return found


def _alike_in_size(
    node: fx.Node, factor: Mapping[fx.Node, float], reader: Positions
) -> list[fx.Node]:
    """What an operation lays side by side, where all of it has one size and one level."""
    if operator_of(node) not in (*JOINS, *_STACKS):
        return []
    joined = [n for n in argument(node, "tensors") if n in factor]
    values = [value for n in joined if (value := tensor_of(n)) is not None]
    shapes = {reader.large.shape(value) for value in values}
    one_level = len(shapes) == 1 and _alike([factor[n] for n in joined])
    return joined if one_level and len(joined) == len(argument(node, "tensors")) else []


def _up_to_one_alone(
    start: fx.Node,
    own: float,
    number: int,
    factor: Mapping[fx.Node, float],
    told: Collection[fx.Node],
    reader: Positions,
) -> set[fx.Node]:
    """What follows a node as long as it is told positions of so many images, or is told none."""
    together, alone, waiting = {start}, set[fx.Node](), [start]
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if user in together or user not in factor:
                continue
            all_of_them = _alike([factor[user] * number, own]) and not raises(user)
            if user in told:
                is_layer = facts(operator_of(user)).layout is not None
                goes_on = all_of_them and (is_layer or node in together)
                ends = False
            else:
                goes_on = all_of_them or _alike([factor[user], own])
                ends = node in alone or _is_one_of(user, number, reader)
            if goes_on and not (ends and user in alone):
                (alone if ends else together).add(user)
                waiting.append(user)
    return together | alone


def _is_one_of(node: fx.Node, number: int, reader: Positions) -> bool:
    """Whether a node takes one of so many that lie together, or the mean of them."""
    made = node.args[0] if node.target is operator.getitem else node
    assert isinstance(made, fx.Node)
    if not _takes_a_part(made) and facts(operator_of(made)).view != "along":
        return False
    source = made.all_input_nodes[0]
    return elements(source, reader.large) == number * elements(node, reader.large)


def _of_different_images(joined: Sequence[fx.Node], images: Sequence[fx.Node]) -> bool:
    """Whether no two are made of one image, or of one piece of it: frames, images as channels."""
    taken = {user for image in images for user in image.users if _takes_a_part(user)}
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
    return operator_of(node) in (*SPLITS, *_ONE_OF, "aten::slice", "aten::narrow")

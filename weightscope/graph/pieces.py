"""Pieces of an image that are worked on one by one and joined again (strips, tiles), and copies."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from weightscope.adapters.symbols import grows, hint, is_symbolic, key
from weightscope.graph.nodes import argument, numbers_in, operator_of, root, tensor_of
from weightscope.graph.operators import REARRANGES, RESHAPES, facts

SPLITS = tuple(
    f"aten::{name}"
    for name in (
        *("split", "split_with_sizes", "chunk", "tensor_split"),
        *("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"),
    )
)
ONE_OF = ("aten::select", "aten::unbind")
JOINS = ("aten::cat", "aten::concat", "aten::concatenate")
_LAID_OUT = (*REARRANGES, "aten::_unsafe_view", "aten::squeeze", "aten::unsqueeze")
_AS_THEY_ARE = ("aten::clone", "aten::contiguous")


def joined_pieces(
    nodes: Sequence[fx.Node], dimensions: int
) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, fx.Node]]:
    """Find images that are taken apart along a side and joined along the same side.

    Args:
        nodes: All nodes of the exported program, in order.
        dimensions: Number of spatial dimensions of the image.

    Returns:
        The image that each piece was cut from; and for each join the image whose pieces it joins.
    """
    cut = {
        node: found
        for node in nodes
        if (found := _cut_from(node)) is not None and not _are_channels(*found)
    }
    pieces: dict[fx.Node, fx.Node] = {}
    joins: dict[fx.Node, fx.Node] = {}
    for node in nodes if cut else ():
        axis = _axis_of(node) if operator_of(node) in JOINS else None
        if axis is None or not _is_a_side(node, axis, dimensions):
            continue
        behind = [
            {n for n in ancestors(given) if n in cut and cut[n][1] == axis}
            for given in argument(node, "tensors")
        ]
        before = set.intersection(*behind)  # all of it was cut from the same piece of more
        if all(those - before for those in behind):
            behind = [those - before for those in behind]
        for base in {_uncut(n, cut) for n in behind[0]}:
            seen: set[fx.Node] = set()
            own = []
            for those in behind:
                new = {n for n in those if _uncut(n, cut) is base} - seen
                seen |= new
                own.append(new)
            if len(own) > 1 and all(own):
                pieces.update({n: cut[n][0] for n in seen})
                joins[node] = cut[min(own[0], key=lambda n: n.name)][0]
    for made, tiles, whole in tiles_in_columns(nodes, dimensions):
        pieces.update(dict.fromkeys(tiles, whole))
        joins[made] = whole
    for node, made_whole, whole in _windows_laid_back(nodes, dimensions):
        pieces[node] = whole
        joins |= dict.fromkeys(made_whole, whole)
    for node, backs, whole in _laid_over(nodes):
        pieces[node] = whole
        joins |= dict.fromkeys(backs, whole)
    return pieces, joins


def _laid_over(nodes: Sequence[fx.Node]) -> Iterator[tuple[fx.Node, list[fx.Node], fx.Node]]:
    """Chunks that lie over each other by half: what joins both halves, what parts them, the whole.

    Two slices of one tensor, one shifted against the other, are laid out in chunks side by side;
    of what is made of these, slices take each half again.
    """
    for node in nodes:
        wholes = [_cut_below(given) for given in _joined_by(node)]
        if len(wholes) < 2 or wholes[0] is None or len(set(wholes)) > 1:
            continue
        inside, backs = {node}, list[fx.Node]()
        for user in nodes:
            given = next((n for n in user.all_input_nodes if n in inside), None)
            if given is None:
                continue
            halves = operator_of(user) in ("aten::slice", "aten::narrow")
            times = numbers_in(given) / max(1, numbers_in(user))
            if halves and abs(times - len(wholes)) < _ROUGHLY:
                backs.append(user)
            else:
                inside.add(user)
        yield node, backs, wholes[0]


_ROUGHLY = 0.1  # of halves, beyond what padding leaves over


def _joined_by(node: fx.Node) -> Sequence[fx.Node]:
    given: Any = argument(node, "tensors") if operator_of(node) in JOINS else ()
    return given if len(set(given)) == len(given) else ()


def _cut_below(node: fx.Node) -> fx.Node | None:
    """The tensor of which a node lays out most along a side that follows the input, in chunks."""
    made = root(node)
    while operator_of(made) in (*_LAID_OUT, *_AS_THEY_ARE):
        made = root(made.all_input_nodes[0])
    cut = _cut_from(made) if made is not root(node) else None
    source = None if cut is None else made.all_input_nodes[0]
    most = source is not None and 1 < 2 * numbers_in(made) / max(1, numbers_in(source)) < 2
    if source is None or not most or not grows(_side(source, cut)):
        return None
    whole = root(source)
    while (given := _cut_from(whole)) is not None and numbers_in(given[0]) == numbers_in(whole):
        whole = given[0]  # ``x[:, :, a:b]`` takes all along the first axes
    return whole


def _side(node: fx.Node, cut: tuple[fx.Node, int] | None) -> Any:
    value = tensor_of(node)
    return value.shape[cut[1]] if value is not None and cut is not None else 1


def parts_of_batches(
    nodes: Sequence[fx.Node], dimensions: int
) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, fx.Node]]:
    """Find batches that are worked on some at a time and joined again.

    Args:
        nodes: All nodes of the exported program, in order.
        dimensions: Number of spatial dimensions of the image.

    Returns:
        The batch that each part was taken of; and for what joins parts the batch that they are of.
    """
    of: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        value, batch = tensor_of(node), batch_of(node)
        if value is not None and value.dim() == dimensions + 2 and batch is not None:
            of.setdefault(batch, []).append(node)
    parts: dict[fx.Node, fx.Node] = {}
    joins: dict[fx.Node, fx.Node] = {}
    for batch, some in of.items():
        if made := _laid_back(nodes, some, batch, like=(0,)):
            parts |= dict.fromkeys(some, batch)
            joins |= dict.fromkeys(made, batch)
    return parts, joins


def batch_of(node: fx.Node) -> fx.Node | None:
    """The batch that a node is some of, or one of, laid out as a batch again."""
    if parts_batches(node):
        cut = _cut_from(node)
        return cut[0] if cut else None
    if operator_of(node) not in (*RESHAPES, "aten::unsqueeze"):
        return None
    one = root(node.all_input_nodes[0])
    taken = one.all_input_nodes[0] if one.target is operator.getitem else one
    is_one = operator_of(taken) in ONE_OF and argument(taken, "dim") == 0
    return root(taken.all_input_nodes[0]) if is_one else None


def _windows_laid_back(
    nodes: Sequence[fx.Node], dimensions: int
) -> Iterator[tuple[fx.Node, list[fx.Node], fx.Node]]:
    """What lays windows of an image into the batch, what lays them back, and the image."""
    for node in nodes:
        whole = _of_windows(node, dimensions)
        axes = (0, *range(2, dimensions + 2))
        if whole is not None and (made := _laid_back(nodes, [node], whole, like=axes)):
            yield node, made, whole


def _of_windows(node: fx.Node, dimensions: int) -> fx.Node | None:
    """The image of which a node lays windows that ``Tensor.unfold`` takes into the batch."""
    made, sizes, given = tensor_of(node), dict[int, int](), node
    if made is None or made.dim() != dimensions + 2 or operator_of(node) not in _LAID_OUT:
        return None
    while operator_of(given) in (*_LAID_OUT, "aten::unfold"):
        if operator_of(given) == "aten::unfold":
            sizes[argument(given, "dimension")] = argument(given, "size")
        given = root(given.all_input_nodes[0])
    whole = tensor_of(given)
    if not sizes or whole is None or whole.dim() != made.dim():
        return None
    wanted = [sizes.get(axis, size) for axis, size in enumerate(whole.shape)]
    several = not _equal(made.shape[:1], whole.shape[:1])
    return given if several and _equal(made.shape[1:], wanted[1:]) else None


def _laid_back(
    nodes: Sequence[fx.Node], pieces: Sequence[fx.Node], whole: fx.Node, like: Sequence[int]
) -> list[fx.Node]:
    """What first has the sizes of the whole again, of what is made of its pieces.

    Nothing where layers leave pieces at another size than they had: none is laid back.

    Args:
        nodes: All nodes of the exported program, in order.
        pieces: Where they begin.
        whole: What they are taken of.
        like: The axes that tell both apart, that of the batch first.
    """

    def size(node: fx.Node) -> tuple[str, ...]:
        value = tensor_of(node)
        laid_out = value is not None and value.dim() > max(like)
        return (
            tuple(key(value.shape[axis]) for axis in like) if value is not None and laid_out else ()
        )

    before, own = size(whole), set(map(size, pieces))
    sides = {of_piece[1:] for of_piece in own}
    inside, found = dict.fromkeys(pieces, True), list[fx.Node]()
    for node in nodes if before not in own else ():
        given = [n for n in node.all_input_nodes if n in inside]
        row = facts(operator_of(node))
        if not given or node in inside:
            continue
        if row.layout is not None and row.view != "spread":
            inside[node] = size(node)[1:] in sides
        elif size(node) == before and any(inside[n] for n in given):
            found.append(node)
        else:
            inside[node] = any(inside[n] for n in given)
    return found


def tiles_in_columns(
    nodes: Sequence[fx.Node], dimensions: int
) -> Iterator[tuple[fx.Node, list[fx.Node], fx.Node]]:
    """Tiles that ``F.unfold`` takes of an image, laid out, and that ``F.fold`` lays back.

    They are maps, or have an axis of their own for what is in each. They may lie over each other.

    Yields:
        What lays them back, what lays them out, and the image.
    """
    taken = [node for node in nodes if operator_of(node) == "aten::im2col"]
    for node in nodes if taken else ():
        if operator_of(node) != "aten::col2im":
            continue
        behind = ancestors(node)
        for columns in taken:
            kernel = argument(columns, "kernel_size")
            if columns not in behind or kernel != argument(node, "kernel_size"):
                continue
            tiles = [
                n
                for n in behind
                if operator_of(n) in RESHAPES
                and columns in ancestors(n)
                and (_lies_in(tensor_of(n), kernel, dimensions) or _takes_apart(n, columns))
                and _holds_as_many(n, columns)
            ]
            if tiles:
                yield node, tiles, root(columns.all_input_nodes[0])


def _lies_in(value: Tensor | None, kernel: Sequence[int], dimensions: int) -> bool:
    return value is not None and value.dim() == dimensions + 2 and [*value.shape[2:]] == [*kernel]


def _takes_apart(node: fx.Node, columns: fx.Node) -> bool:
    """Whether a reshape of columns, (B, C K, N), gives what is in each an axis: (B, C, K, N)."""
    made, kernel = tensor_of(node), argument(columns, "kernel_size")
    if made is None or root(node.all_input_nodes[0]) is not columns or made.dim() < 4:
        return False
    inside = [hint(size) for size in made.shape[2:-1]]
    return inside in ([math.prod(kernel)], [*kernel])


def _holds_as_many(node: fx.Node, columns: fx.Node) -> bool:
    return numbers_in(node) == numbers_in(columns)


def windows(nodes: Sequence[fx.Node], side: str) -> set[tuple[int, int]]:
    """Start and length of the windows of fixed length that slices take of a free side.

    Args:
        nodes: All nodes of the exported program.
        side: The side's size, as a text.
    """
    found: set[tuple[int, int]] = set()
    for node in nodes:
        made = tensor_of(node)
        if made is None or operator_of(node) not in ("aten::slice", "aten::narrow"):
            continue
        source, axis, start = node.args[0], _axis_of(node), argument(node, "start") or 0
        whole = tensor_of(source) if isinstance(source, fx.Node) else None
        if whole is None or axis is None or key(whole.shape[axis]) != side:
            continue
        length = made.shape[axis]
        if isinstance(length, int) and isinstance(start, int):
            found.add((start, length))
    return found


def _cut_from(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The image that a node is a piece of, and along which axis; None of what is none."""
    made = node
    if node.target is operator.getitem and operator_of(node.args[0]) in SPLITS:  # type: ignore[arg-type]
        made = node.args[0]  # type: ignore[assignment]
    elif operator_of(node) not in ("aten::slice", "aten::narrow"):
        return None
    if argument(made, "step") not in (None, 1):
        return None
    source = made.args[0]
    axis = _axis_of(made)
    if not isinstance(source, fx.Node) or tensor_of(source) is None or axis is None:
        return None
    return root(source), axis


def _axis_of(node: fx.Node) -> int | None:
    """The axis along which a tensor is cut or joined, counted from the front."""
    first = argument(node, "tensors")
    given = first[0] if isinstance(first, list | tuple) else node.args[0]
    value = tensor_of(given) if isinstance(given, fx.Node) else None
    axis = argument(node, "dim")
    if value is None or not isinstance(axis, int):
        return None
    return axis % value.dim() if value.dim() else None


def _is_a_side(node: fx.Node, axis: int, dimensions: int) -> bool:
    """Whether an axis is a side of an image and not its channels: it follows the input's size.

    Of fixed sizes those between the first two axes and the last are sides. A volume's slices, or
    frames, may lie in the batch.
    """
    value = tensor_of(node)
    if value is None:
        return False
    if axis == 0:
        return 3 < value.dim() == dimensions + 1
    if any(map(is_symbolic, value.shape[1:])):
        return grows(value.shape[axis])
    return 2 <= axis < value.dim() - 1


def _are_channels(node: fx.Node, axis: int) -> bool:
    """Whether an axis is none of the sides of an image that has free ones."""
    value = tensor_of(node)
    assert value is not None
    return axis > 0 and any(map(is_symbolic, value.shape[1:])) and not grows(value.shape[axis])


def ancestors(node: fx.Node) -> set[fx.Node]:
    """What a node is made from; of pieces side by side in the batch, what its own part is."""
    found: set[tuple[fx.Node, tuple[int, int] | None]] = set()
    waiting: list[tuple[fx.Node, tuple[int, int] | None]] = [(node, None)]
    while waiting:
        current, part = waiting.pop()
        if (current, part) in found:
            continue
        found.add((current, part))
        own = _part_of_batch(current)
        joined: Any = argument(current, "tensors") if joins_batches(current) else ()
        if part is not None and len(joined) == part[1]:
            waiting.append((joined[part[0]], None))
        else:
            waiting.extend((given, own or part) for given in current.all_input_nodes)
    return {node for node, _ in found}


def _part_of_batch(node: fx.Node) -> tuple[int, int] | None:
    """Which of how many parts of a batch a node takes; None of all else."""
    source = node.args[0] if node.target is operator.getitem else None
    if not isinstance(source, fx.Node) or operator_of(source) not in SPLITS:
        return None
    parts: Any = source.meta.get("val")
    several = isinstance(parts, list | tuple) and argument(source, "dim") == 0
    index = node.args[1]
    return (index, len(parts)) if several and isinstance(index, int) else None


def joins_batches(node: fx.Node) -> bool:
    """Whether an operation lays tensors side by side in the batch."""
    return operator_of(node) in JOINS and argument(node, "dim") == 0


def parts_batches(node: fx.Node) -> bool:
    """Whether an operation takes some of the tensors that lie side by side in a batch."""
    if node.target is operator.getitem:
        return _part_of_batch(node) is not None
    return operator_of(node) in ("aten::slice", "aten::narrow") and argument(node, "dim") == 0


def lays_copies(node: fx.Node) -> bool:
    """Whether an operation lays each image of a batch into it several times: once for each query.

    These are no further positions.
    """
    name, value = operator_of(node), tensor_of(node)
    if value is None:
        return False
    if name == "aten::repeat":
        times, *others = argument(node, "repeats")
        return len(others) == value.dim() - 1 and times != 1 and {*others} == {1}
    if name == "aten::repeat_interleave":
        return bool(argument(node, "dim") == 0)
    if joins_batches(node):
        return _is_one(argument(node, "tensors"))
    made = _given(node) if name in (*RESHAPES, "aten::flatten") else None
    while made is not None and operator_of(made) in _AS_THEY_ARE:
        made = _given(made)
    before = tensor_of(made) if made is not None else None
    if made is None or before is None or _axis_of_copies(made, before) not in (0, 1):
        return False
    return before.dim() == value.dim() + 1 and _equal(before.shape[2:], value.shape[1:])


def lays_channels(node: fx.Node) -> bool:
    """Whether a reshape lays channels of each image into the batch: one image for each speaker."""
    given, made = _given(node), tensor_of(node)
    before = tensor_of(given) if given is not None else None
    if operator_of(node) not in RESHAPES or made is None or before is None:
        return False
    alike = before.dim() == made.dim() > 2 and _equal(before.shape[2:], made.shape[2:])
    return alike and hint(made.shape[0]) > hint(before.shape[0])


def _given(node: fx.Node) -> fx.Node | None:
    given = node.args[0] if node.args else None
    return root(given) if isinstance(given, fx.Node) else None


def _axis_of_copies(node: fx.Node, made: Tensor) -> int | None:
    """The axis along which all places of a tensor are copies of one."""
    name, given = operator_of(node), _given(node)
    if name == "aten::stack" and _is_one(argument(node, "tensors")):
        return int(argument(node, "dim"))
    spreads = name in ("aten::expand", "aten::repeat")  # of one place along an axis
    value = tensor_of(given) if given is not None and spreads else None
    if value is None or value.dim() < made.dim():
        return 0 if value is not None else None
    grown = [
        axis
        for axis, (before, after) in enumerate(zip(value.shape, made.shape, strict=True))
        if not is_symbolic(before) and hint(before) == 1 and hint(after) != 1
    ]
    return grown[0] if len(grown) == 1 else None


def _is_one(tensors: Sequence[fx.Node]) -> bool:
    return len(tensors) > 1 and len({root(tensor) for tensor in tensors}) == 1


def _equal(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    return [*map(key, sizes)] == [*map(key, others)]


def _uncut(node: fx.Node, cut: dict[fx.Node, tuple[fx.Node, int]]) -> fx.Node:
    """The image behind cuts along several sides."""
    while node in cut:
        node = cut[node][0]
    return node

"""Whether a network returns its images by a formula that is made for a range of them.

A curve of brightness, ``x + a x (1 - x)``, is one for images between 0 and 1: of others its powers
are all that is left, whatever the levels answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.graph.running import CutRuns
from weightscope.graph.structure import Structure

BENT = 1e-3
"""Least bend that is one, as a share of what is returned: single precision leaves some 1e-6 of a
straight line, and what a curve bends is of the size of its images."""


def is_bent(structure: Structure, inputs: Iterable[Any]) -> bool:
    """Whether what a network makes of its images behind its last weights is no straight line.

    With f(t) for what it returns for t times the images, and constants in the place of what its
    weights give, f(1) - 2 f(1/2) + f(0) is 0 of a line.

    Args:
        structure: The network.
        inputs: What to call it with for the images, half of them, and zeros.

    Returns:
        Also False where nothing of the images is used there, or zeros make no number.
    """
    runs = CutRuns(structure)
    if not runs.composes:
        return False
    found = []
    with torch.no_grad():
        for given in inputs:
            _, values = runs.whole(given)
            tail = runs.tail(values)
            if tail is None or not tail.runs(tail.differing):
                return False
            leaves = pytree.tree_leaves(tail(tail.differing))
            numbers = [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
            found.append([x.double() for x in numbers])
    return any(map(_bends, *found))


def _bends(whole: Tensor, half: Tensor, none: Tensor) -> bool:
    """Whether three values of a function at equal distances lie on no line."""
    if not whole.numel():
        return False
    bend = (whole - 2.0 * half + none).abs().amax()
    size = torch.stack([x.abs().amax() for x in (whole, half, none)]).amax()
    return bool(bend.isfinite()) and bool(bend > BENT * size)

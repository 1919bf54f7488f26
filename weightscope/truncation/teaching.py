"""The two networks of a recovery: the original that answers, the smaller one that learns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modules import BatchNorm
from weightscope.calls import device_of, forward_errors, leaves_by_place, own_arguments, unchanged
from weightscope.errors import InputError, keyword
from weightscope.graph.running import GraphRun
from weightscope.graph.structure import Structure
from weightscope.restoring import finished
from weightscope.showing import counted
from weightscope.truncation.images import Part, Pool

ANSWER_BYTES = 1 << 29
"""The original's answers are kept up to this size, so that each is computed once."""


class Teacher:
    """The original: its answers, and what left the part that was removed."""

    def __init__(self, structure: Structure, exits: Sequence[str]) -> None:
        self.model, self.exits = structure.model, exits
        self.left: dict[str, Tensor] = {}
        self.places = list(leaves_by_place(structure.returned))
        self.run = GraphRun(structure, {name: self._keeper(name) for name in self.exits})

    def _keeper(self, name: str) -> Callable[[Tensor], Tensor]:
        def keep(value: Tensor) -> Tensor:
            self.left[name] = value.detach().clone()  # the decoder may write into it
            return value

        return keep

    @torch.no_grad()
    def answers(self, inputs: Any) -> list[Any]:
        """Flat outputs, each part's from the states that the original was given with."""
        kept = unchanged(self.model, parameters=False)
        with kept, forward_errors(self.model, inputs, f"a batch of {keyword('images')}"):
            return [in_float(x) for x in flat(self.run.predict(inputs))]


class Goals:
    """The original's answers to parts of the images, kept while there is room."""

    def __init__(self, teacher: Teacher, pool: Pool) -> None:
        self.teacher, self.pool = teacher, pool
        self.kept: dict[Part, list[Any]] = {}
        self.room = ANSWER_BYTES

    def of(self, part: Part) -> list[Any]:
        """Flat outputs of the original; the same numbers whether they are kept or not."""
        if part in self.kept:
            return self.kept[part]
        found = self.teacher.answers(self.pool.inputs(part))
        size = sum(x.numel() * x.element_size() for x in found if isinstance(x, Tensor))
        if size <= self.room:
            self.room -= size
            self.kept[part] = found
        return found


_HALVES = (torch.bfloat16, torch.float16)


def in_float(x: Any) -> Any:
    """Numbers of 16 bits in float32, everything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.dtype in _HALVES else x


def is_answer(x: Any) -> bool:
    """Whether an output holds floating-point numbers, which can be matched."""
    return isinstance(x, Tensor) and x.is_floating_point()


class Student:
    """The smaller network while it learns, in evaluation mode throughout.

    Its normalisations keep their statistics, the new ones those of the start: with few images a
    step the statistics of a step are noise, and without it as much or more was regained.
    """

    def __init__(
        self,
        module: nn.Module,
        new: Sequence[str],
        deployed: bool,
        half: torch.dtype | None = None,
    ) -> None:
        self.module, self.half, fresh = module, half, set(new)
        for part in module.modules():
            part.training = False
        able = [(n, p) for n, p in module.named_parameters() if _is_able(p)]
        self.new = [p for n, p in able if n in fresh]
        kept = [(n, p) for n, p in able if n not in fresh]
        self.kept = [p for _, p in kept if p.requires_grad or deployed]
        self.frozen = tuple(n for n, p in kept if not (p.requires_grad or deployed))
        if not self.new and not self.kept:
            raise InputError(
                "nothing of the smaller network is left to teach: requires_grad is False on all "
                f"{counted(len(self.frozen), 'parameter')} that it has; call requires_grad_(True) "
                "on the variant's module, or on those parts of it that may learn"
            )
        for parameter in (*self.new, *self.kept):
            parameter.requires_grad_(True)
        self.new_modules = [
            m
            for name, m in module.named_modules()
            if m.state_dict() and all(f"{name}.{key}" in fresh for key in m.state_dict())
        ]

    def predict(self, inputs: Any) -> Any:
        """What the smaller network returns, in the modes that its modules have."""
        args, kwargs = own_arguments(inputs, self.module)
        args, kwargs = pytree.tree_map(in_float, (args, kwargs))
        with _mixed_precision(device_of(self.module), self.half):
            return self.module(*args, **kwargs)

    @torch.no_grad()
    def settle(self, parts: Iterable[Any]) -> None:
        """Give the new normalisations the statistics of some images."""
        norms = [
            m for m in self.new_modules if isinstance(m, BatchNorm) and m.running_var is not None
        ]
        with unchanged(self.module, parameters=False):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # the mean over all batches
            for part in parts if norms else ():
                with forward_errors(self.module, part, f"a batch of {keyword('images')}"):
                    self.predict(part)
            settled = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in norms]
        for norm, state in zip(norms, settled, strict=True):
            norm.load_state_dict(state)

    def answers(self, inputs: Any) -> list[Any]:
        """Flat outputs in evaluation mode, which leave nothing behind."""
        with torch.no_grad(), unchanged(self.module, parameters=False):
            return flat(self.predict(inputs))


def _is_able(parameter: Tensor) -> bool:
    """Whether a parameter can have a gradient."""
    return parameter.is_floating_point() or parameter.is_complex()


def flat(outputs: Any) -> list[Any]:
    """The leaves of what a network returns, None where an output is gone."""
    return pytree.tree_leaves(outputs)


def asked_for(structure: Structure) -> torch.dtype | None:
    """The format of 16 bits that a forward brings numbers to itself, beside weights of 16 bits.

    It does so too where these weights are in float32 for the time of a training.
    """
    if not any(p.dtype in _HALVES for p in structure.model.parameters()):
        return None
    given = (v for n in structure.program.graph.nodes for v in (*n.args, *n.kwargs.values()))
    return next((v for v in given if isinstance(v, torch.dtype) and v in _HALVES), None)


def _mixed_precision(device: torch.device, half: torch.dtype | None) -> Any:
    """Half the bits where the forward asks for them or a graphics card has them; else float32."""
    if half is not None:
        return torch.autocast(device.type, half)
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """Train a network of fewer bits in float32, and give each tensor its own format back."""
    tensors = [*module.parameters(), *module.buffers()]
    formats = [(t, t.dtype) for t in tensors if t.dtype in _HALVES]
    try:
        for tensor, _ in formats:
            _give_format(tensor, torch.float32)
        yield
    finally:
        finished(*(partial(_give_format, tensor, dtype) for tensor, dtype in formats))


def _give_format(tensor: Tensor, dtype: torch.dtype) -> None:
    tensor.grad = None
    tensor.data = tensor.data.to(dtype)

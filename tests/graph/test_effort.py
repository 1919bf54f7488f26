"""What a reading leaves out because it would find nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch
import torch._prims_common as common
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.adapters import leftovers, tracing
from weightscope.errors import ForwardError
from weightscope.graph import ExampleInputs, capturing, read_structure
from weightscope.graph.inputs import find_inputs, takes_no_more
from weightscope.graph.trial import Trial


class Net(nn.Module):
    """Two levels; images of odd sides are padded."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = self.below(F.max_pool2d(top, 2))
        deep = F.interpolate(deep, scale_factor=2.0)
        high, wide = (a - b for a, b in zip(top.shape[2:], deep.shape[2:], strict=True))
        if high != 0 or wide != 0:
            deep = F.pad(deep, (0, wide, 0, high))
        return self.out(F.relu(self.up(torch.cat([deep, top], 1))))

    def below(self, x: Tensor) -> Tensor:
        """The lower level."""
        return F.relu(self.deep(x))


class Regimes(Net):
    """Does more at large sizes, and less at small ones: the way of 64 is that of few others."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, : x.shape[2] // 8 * 8, : x.shape[3] // 8 * 8])

    def below(self, x: Tensor) -> Tensor:
        times = 2 if x.shape[-1] < 24 else 3 if x.shape[-1] < 48 else 4
        for _ in range(times):
            x = F.relu(self.deep(x)[:, :4])
        return self.deep(x)


def test_numbers_run_at_a_small_size_though_the_example_is_large() -> None:
    sides: set[int] = set()
    noted = torch.nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if isinstance(module, Net) and type(args[0]) is Tensor:
            sides.add(args[0].shape[-1])
        return noted(module, *args, **kwargs)

    with mock.patch.object(Net, "__call__", call):
        structure = read_structure(Net())
    assert structure.inputs.args[0].shape[-1] >= 128
    assert "pad" in str(structure.graph)  # read at odd sizes, which the example has not
    assert sides
    assert max(sides) < 64


def _captures(model: nn.Module, example: Tensor) -> list[dict[str, Any]]:
    asked = []
    original = capturing.capture

    def capture(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return original(*args, **kwargs)

    with mock.patch.object(capturing, "capture", capture):
        structure = read_structure(model, example)
    assert structure.sizes == "batch"
    return asked


def test_no_capture_is_tried_that_other_sizes_leave() -> None:
    asked = _captures(Regimes(), torch.zeros(1, 3, 64, 64))
    assert not [kwargs for kwargs in asked if kwargs.get("numbers")]


def test_a_way_is_told_by_what_is_called() -> None:
    trial = Trial(Regimes())

    def at(side: int) -> ExampleInputs:
        return ExampleInputs((torch.zeros(1, 3, side, side),), {}, 2, guessed=False)

    assert capturing.goes_the_same_way(trial, at(64), at(72))
    assert not capturing.goes_the_same_way(trial, at(64), at(128))
    assert capturing.goes_the_same_way(trial, at(64), at(0))  # raises, and before anything differs


def test_a_smaller_call_is_not_tried_for_its_memory() -> None:
    trial = Trial(Net())
    small, large = (
        ExampleInputs((torch.zeros(1, 3, side, side),), {}, 2, guessed=False) for side in (16, 32)
    )
    with mock.patch.object(trial, "largest", side_effect=[0, 1]) as largest:
        assert takes_no_more(trial, large, small)
        assert not largest.called
        assert takes_no_more(trial, small, large)
        assert largest.call_count == 2


def test_how_tensors_lie_is_asked_once_in_a_trace() -> None:
    asked: Counter[Any] = Counter()
    original = common.is_contiguous

    def count(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(size, torch.SymInt) for size in tensor.shape):
            mode = tensor.fake_mode.shape_env
            lies = tuple(map(str, (*tensor.shape, *tensor.stride())))
            asked[id(mode), lies, args, *kwargs.values()] += 1
        return original(tensor, *args, **kwargs)

    class Turned(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 2).transpose(2, 3).relu())

    with mock.patch.object(common, "is_contiguous", count):
        read_structure(Turned(), torch.zeros(1, 3, 32, 32))
    assert asked
    assert max(asked.values()) == 1
    assert common.is_contiguous is original
    assert not [name for name in tracing._CONTIGUITY if not hasattr(common, name)]


class Refusing(nn.Module):
    """Takes no image at all."""

    def forward(self, x: Tensor) -> Tensor:
        """Refuse it."""
        raise ValueError(f"not of {tuple(x.shape)}")


def test_a_search_looks_once_around_the_model_for_what_it_may_leave_there() -> None:
    looks, look = [], leftovers._shared
    with mock.patch.object(leftovers, "_shared", lambda m: looks.append(m) or look(m)):
        trial = Trial(Refusing())
        with pytest.raises(ForwardError):
            next(find_inputs(trial))
    assert len(looks) == 1 < len(trial._known)

"""Networks whose sizes take too much arithmetic, unless they are multiples of one size."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightscope as ws
from weightscope.adapters import tracing
from weightscope.errors import InputError
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.truncation.checks import verify


def in_windows(layer: nn.Module, x: Tensor, side: int) -> Tensor:
    """Apply a layer window by window, as transformers with shifted windows do."""
    images, channels, *sizes = x.shape
    x = F.pad(x, [n for size in reversed(sizes) for n in (0, (side - size % side) % side)])
    counts = [n // side for n in x.shape[2:]]
    x = x.view(images, channels, counts[0], side, counts[1], side).permute(0, 2, 4, 1, 3, 5)
    x = layer(x.reshape(-1, channels, side, side))
    x = x.view(images, *counts, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    x = x.reshape(images, channels, *(n * side for n in counts))
    return x[:, :, : sizes[0], : sizes[1]]


class Windows(nn.Module):
    """Three levels of convolutions in windows."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.side = side
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.top, self.last = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.middle, self.low = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.down, self.lower = nn.Conv2d(4, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)
        self.raised, self.up = nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.first(x)
        top = top + in_windows(self.top, top, self.side)
        middle = self.down(top)
        middle = middle + in_windows(self.middle, middle, self.side)
        low = self.lower(middle)
        low = low + in_windows(self.low, low, self.side)
        x = self.up(self.raised(low) + middle) + top
        return self.head(x + in_windows(self.last, x, self.side))


def test_windows_are_read_at_multiples_of_a_size_and_follow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MOST_QUESTIONS", 30)
    torch.manual_seed(0)
    model = Windows().eval()
    analysis = ws.analyze(model, response=False)
    structure = analysis.structure
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    (note,) = structure.notes
    assert note.startswith("read at multiples of 32x32 only: the forward computes with its sizes")
    images = [torch.randn(2, 3, *size) for size in ((64, 64), (128, 192), (64, 320))]
    graph = rebuild(structure)
    for image in images:
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    for proposal in analysis.proposals:
        variant = proposal.build()
        assert verify(variant, sizes=images, export=proposal.keep_levels == 1).failures == ()
        with pytest.raises(InputError, match=r"x is 100x96, .* was read at multiples of 32x32"):
            variant.module(torch.randn(1, 3, 100, 96))
    ws.save(variant, tmp_path / "small.safetensors")
    loaded = ws.load(tmp_path / "small.safetensors", Windows)
    for image in images:
        expected = variant.module.eval()(image)
        torch.testing.assert_close(loaded.module.eval()(image), expected, rtol=0, atol=0)


class Resized(Windows):
    """Halves its maps by a factor that is no whole number."""

    def forward(self, x: Tensor) -> Tensor:
        top = self.first(x)
        top = top + in_windows(self.top, top, self.side)
        middle = F.interpolate(self.down(F.interpolate(top, scale_factor=2.0)), scale_factor=0.5)
        low = F.interpolate(middle, scale_factor=0.5, mode="bilinear")
        low = low + in_windows(self.low, low, self.side)
        x = F.interpolate(self.raised(low), middle.shape[2:]) + middle
        x = F.interpolate(self.up(x), x.shape[2:]) + F.interpolate(top, scale_factor=0.5)
        return self.head(x + in_windows(self.last, x, self.side))


class Turned(Windows):
    """Its windows are of maps whose axes were turned, so that they lie otherwise in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


class OnlyWhereItDoesNotFit(Windows):
    """Pads to a multiple by a quotient that is rounded up, if the size is none."""

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        if all(size % 4 == 0 for size in sizes):
            return super().forward(x)
        more = [int(np.ceil(size / 4) * 4 - size) for size in sizes]
        x = F.pad(x, (0, more[1], 0, more[0]), mode="replicate")
        return super().forward(x)[..., : sizes[0], : sizes[1]]


@cache
def read(network: type[Windows]) -> Structure:
    """The structure of a network at the size that is guessed."""
    torch.manual_seed(0)
    return read_structure(network().eval())


@pytest.mark.sample(1)
@pytest.mark.parametrize("network", [Windows, Resized, Turned, OnlyWhereItDoesNotFit])
def test_windows_follow_every_size(network: type[Windows]) -> None:
    structure = read(network)
    model = structure.model
    assert structure.sizes == "symbolic"
    assert structure.notes == ()
    graph = rebuild(structure)
    for size in ((64, 64), (128, 192), (72, 80), (256, 256)):
        image = torch.randn(3, 3, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(74, 97), (75, 64)])
def test_windows_that_pad_follow_sizes_that_do_not_fit(size: tuple[int, int]) -> None:
    structure = read(OnlyWhereItDoesNotFit)
    image = torch.randn(1, 3, *size)
    expected = structure.model(image)
    torch.testing.assert_close(rebuild(structure)(image), expected, rtol=0, atol=0)


@pytest.mark.slow
def test_windows_that_do_not_divide_the_unit_are_read_rightly_or_at_one_size() -> None:
    torch.manual_seed(1)
    model = Windows(side=7).eval()
    graph = rebuild(read_structure(model))
    read = []
    for size in ((256, 256), (64, 64), (128, 192), (320, 64)):
        image = torch.randn(1, 3, *size)
        with contextlib.suppress(InputError):
            read.append((size, graph(image), model(image)))
    assert read[0][0] == (256, 256)  # the guess
    for _, found, expected in read:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_example_says_where_multiples_are_read() -> None:
    model = Windows().eval()
    structure = read_structure(model, torch.randn(1, 3, 48, 48))
    image = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(rebuild(structure)(image), model(image), rtol=0, atol=0)
    for note in structure.notes:
        assert "48x48" in note


class Wide(Windows):
    """Takes another way for images that are larger than those that are guessed."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 256:
            x = x + in_windows(nn.Identity(), x, self.side)
        return super().forward(x)


def test_what_is_read_of_multiples_holds_at_the_size_of_the_example() -> None:
    torch.manual_seed(2)
    model = Wide().eval()
    image = torch.randn(1, 3, 256, 256)
    torch.testing.assert_close(rebuild(read_structure(model))(image), model(image), rtol=0, atol=0)


def of_math(positions: int) -> int:
    return int(math.sqrt(positions))


def of_a_power(positions: int) -> int:
    return int(positions**0.5)


def of_numpy(positions: int) -> int:
    return int(np.sqrt(positions))


class Squares(nn.Module):
    """Turns a list of positions into a map whose sides are the root of their number."""

    def __init__(self, root: Callable[[int], int]) -> None:
        super().__init__()
        self.root = root
        self.first, self.top = nn.Linear(3, 4), nn.Conv2d(4, 4, 3, padding=1)
        self.down, self.deep = nn.Conv2d(4, 8, 2, 2), nn.Linear(8, 8)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Linear(8, 1)

    def on_a_map(self, layer: nn.Module, tokens: Tensor) -> Tensor:
        side = self.root(tokens.shape[1])
        x: Tensor = layer(tokens.transpose(1, 2).reshape(len(tokens), -1, side, side))
        return x.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x.flatten(2).transpose(1, 2))
        top = F.gelu(self.on_a_map(self.top, tokens))
        deep = F.gelu(self.deep(self.on_a_map(self.down, top)))
        tokens = self.head(torch.cat([self.on_a_map(self.up, deep), top], 2))
        return tokens.transpose(1, 2).reshape(len(x), 1, *[self.root(tokens.shape[1])] * 2)


@pytest.mark.parametrize("root", [pytest.param(of_math, marks=pytest.mark.slow), of_numpy])
def test_squares_are_read_at_many_sizes(root: Callable[[int], int]) -> None:
    torch.manual_seed(0)
    model = Squares(root).eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.depth) == ("symbolic", 2)
    assert "read at squares of multiples of 32 only" in structure.notes[0]
    graph = rebuild(structure)
    for side in (32, 64, 96, 256):
        image = torch.randn(2, 3, side, side)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    with pytest.raises(InputError, match="multiples of 32x32"):
        graph(torch.randn(1, 3, 40, 40))
    with pytest.raises(InputError, match="takes another way"):
        graph(torch.randn(1, 3, 64, 96))
    assert not hasattr(torch.SymInt, "sqrt")
    (variant,) = (proposal.build() for proposal in ws.analyze(model).proposals)
    assert verify(variant, sizes=[torch.randn(1, 3, 64, 64)], export=True).failures == ()


def test_squares_are_read_at_every_size_of_which_a_power_is_taken() -> None:
    torch.manual_seed(0)
    model = Squares(of_a_power).eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    graph = rebuild(structure)
    for side in (32, 40, 96):
        image = torch.randn(2, 3, side, side)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)

"""What a network was read with and computes with: other values of it are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope import analyze
from weightscope.errors import InputError
from weightscope.graph import read_structure, rebuild
from weightscope.truncation import verify

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 32, 3, padding=1)
        self.up, self.out = nn.Conv2d(36, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        return self.out(F.relu(self.up(torch.cat([deep, top], 1))))


class Options(Plain):
    """Takes numbers, texts, booleans and lists of them besides its image."""

    def forward(
        self,
        x: Tensor,
        scale: Any = 1.0,
        mode: str = "a",
        flip: bool = False,
        weights: Any = (1, 2),
        mask: Tensor | None = None,
        extra: Any = None,
    ) -> Tensor:
        y = super().forward(x) * scale * weights[1] + (mode == "b")
        y = y if extra is None else y + extra["shift"] * extra["image"].mean()
        return -y if flip else y


GIVEN: dict[str, Any] = {
    "x": IMAGE, "scale": 1.0, "mode": "a", "flip": False, "weights": [1, 2], "mask": None
}  # fmt: skip


def test_values_that_are_no_tensors_are_noted() -> None:
    (note,) = read_structure(Options(), GIVEN).notes
    assert "read with scale=1.0, mode='a', flip=False, weights[0]=1, weights[1]=2 only" in note
    assert "mask" not in note
    assert read_structure(Options(), IMAGE).notes == ()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"scale": 2.0}, "scale is 2.0, and this network was read with 1.0"),
        ({"scale": torch.tensor(2.0)}, r"scale is tensor\(2.\), .* 1.0"),
        ({"scale": torch.ones(1, 1, 1, 2)}, r"scale is a tensor of shape \(1, 1, 1, 2\)"),
        ({"scale": None}, "scale is None"),
        ({"mode": "b"}, "mode is 'b', and this network was read with 'a'"),
        ({"flip": True}, "flip is True"),
        ({"weights": (1, 3)}, r"weights\[1\] is 3, and this network was read with 2"),
        (
            {"weights": [1, 2, 3]},
            r"weights is \[1, 2, 3\], and this network was read with \[1, 2\]",
        ),
        ({"weights": 3}, "weights is 3"),
        ({"mask": IMAGE}, "mask is a tensor"),
    ],
)
def test_other_values_are_refused(other: dict[str, Any], told: str) -> None:
    graph = rebuild(read_structure(Options(), GIVEN))
    with pytest.raises(InputError, match=f"{told}.*example_inputs= of the value that you use"):
        graph(**{**GIVEN, **other})


def test_the_same_values_are_taken_and_those_left_out_are_the_forwards_own() -> None:
    model = Options().eval()
    graph = rebuild(read_structure(model, GIVEN))
    expected = model(IMAGE)
    same = {"scale": torch.tensor(1), "weights": (1.0, 2)}
    for call in ((IMAGE,), (IMAGE, 1), (IMAGE, 1.0, "a", False, (1, 2), None)):
        torch.testing.assert_close(graph(*call), expected, rtol=0, atol=0)
    torch.testing.assert_close(graph(x=IMAGE, **same), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(graph)(IMAGE), expected, rtol=0, atol=0)


def test_another_value_than_the_default_is_asked_for() -> None:
    model = Options().eval()
    graph = rebuild(read_structure(model, {"scale": 2.0, "x": IMAGE}))
    with pytest.raises(TypeError, match="scale"):
        graph(IMAGE)
    torch.testing.assert_close(graph(IMAGE, 2.0), model(IMAGE, 2.0), rtol=0, atol=0)


def test_a_number_beside_a_tensor() -> None:
    model = Options().eval()
    structure = read_structure(model, {"x": IMAGE, "extra": {"image": IMAGE, "shift": 3}})
    assert "extra['shift']=3" in structure.notes[0]
    graph, other = rebuild(structure), 2 * IMAGE
    found = graph(x=other, extra={"image": other, "shift": 3})
    expected = model(other, extra={"image": other, "shift": 3})
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"extra\['shift'\] is 4"):
        graph(x=IMAGE, extra={"image": IMAGE, "shift": 4})


def test_batches_with_other_values_are_refused_and_with_the_same_they_are_taken() -> None:
    model, target = Options().eval(), torch.rand(2, 1, 16, 16).round()
    images = torch.randn(2, 3, 16, 16)
    example = {"scale": 1.0, "x": IMAGE}
    found = analyze(model, example_inputs=example, batches=[(images, target)] * 2, metric="dice")
    variant = found.proposals[0].build()
    assert verify(variant, export=False).passed
    other = {"x": images, "scale": 2.0}
    with pytest.raises(InputError, match=r"scale is 2\.0"):
        analyze(model, example_inputs=example, batches=[(other, target)] * 2, metric="dice")
    variant.recover([{"x": images, "scale": 1}] * 4, steps=1, progress=False)
    with pytest.raises(InputError, match=r"scale is 2\.0"):
        variant.recover([other] * 4, steps=1, progress=False)
    assert "scale=1.0" in variant.recipe["notes"][0]

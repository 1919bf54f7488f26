"""What a network was read with and computes with: other values of it are refused."""

from __future__ import annotations

import copy
import functools
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from networks import Small
from torch import Tensor, nn

from weightscope import analyze
from weightscope.cost import count_costs
from weightscope.errors import InputError
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.graph.inputs import find_inputs
from weightscope.graph.scaling import at_another_size
from weightscope.graph.trial import Trial
from weightscope.truncation import load, save, verify
from weightscope.truncation.building import build, whole
from weightscope.truncation.images import make_pool, together
from weightscope.truncation.plan import make_plan
from weightscope.truncation.recovery import forwards

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


@pytest.mark.sample(2)
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
    with pytest.raises(InputError, match=r"scale is left out, .* read with 2\.0 .*; give scale"):
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


# the number of images ----------------------------------------------------------------------------


class Counting(Plain):
    """Turns the number of images into a number in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.token = way, nn.Parameter(torch.rand(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "iterates":
            return torch.stack([super(Counting, self).forward(image[None])[0] for image in x])
        y = super().forward(x)
        if self.way == "ones":
            return y * torch.ones(int(x.shape[0]), 1, 1, 1)
        if self.way == "range":
            return torch.stack([y[b] / (y[b].abs().amax() + 1e-3) for b in range(x.size(0))])
        if self.way == "odd":
            return 2 * y if len(x) % 2 else y
        return y + self.token.expand(len(x), 1, *x.shape[2:])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("way", "images"),
    [("iterates", 1), ("iterates", 3), ("range", 1), ("range", 3), ("odd", 1)],
)
def test_a_number_of_images_that_became_a_number_is_told_and_kept(way: str, images: int) -> None:
    model, x = Counting(way).eval(), torch.randn(images, 3, 16, 16)
    structure = read_structure(model, x)
    assert any(f"read at {images} image" in note for note in structure.notes)
    graph = rebuild(structure)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    for other in (2, 8):
        with pytest.raises(InputError, match=f"x holds {other} images.*read at {images} image"):
            graph(torch.randn(other, 3, 16, 16))


@pytest.mark.sample(1)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("way", ["", "ones", "length"])
def test_any_number_of_images_stays_free(way: str, images: int) -> None:
    model = Counting(way).eval() if way else Plain().eval()
    structure = read_structure(model, torch.randn(images, 3, 16, 16))
    assert structure.notes == ()
    graph = rebuild(structure)
    for number in (1, 2, 8):
        x = torch.randn(number, 3, 16, 16)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-6)


def test_a_length_that_decides_refuses_other_ways() -> None:
    model = Counting("odd").eval()
    graph = rebuild(read_structure(model, torch.randn(3, 3, 16, 16)))
    for number in (3, 5):
        x = torch.randn(number, 3, 16, 16)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="takes another way"):
        graph(torch.randn(8, 3, 16, 16))


@pytest.mark.slow
def test_batches_of_a_network_that_was_read_at_one_number_of_images() -> None:
    model, images = Counting("range").eval(), torch.randn(6, 3, 16, 16)
    pair = (images[:3], torch.rand(3, 1, 16, 16).round())
    found = analyze(model, example_inputs=images[:3], batches=[pair] * 2, metric="dice")
    variant = found.proposals[0].build()
    assert verify(variant, export=False).passed
    with pytest.raises(InputError, match=r"x holds 3 images.*read at 1 image a batch"):
        analyze(model, example_inputs=images[:1], batches=[pair] * 2, metric="dice")
    with pytest.raises(InputError, match="1 part of as many images"):
        variant.recover(images[:5], steps=1, progress=False)
    assert variant.recover(images, steps=1, progress=False).images == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_recovery_takes_as_many_images_as_the_network_does(number: int) -> None:
    """And its budget counts them; what is left over in a batch is not used."""
    torch.manual_seed(0)  # a recovery that gains nothing any more ends before its budget
    taken: list[int] = []
    structure = read_structure(Counting("range").eval(), torch.randn(number, 3, 16, 16))
    images = [torch.randn(count, 3, 16, 16) for count in (9, 8, 2)]
    pool = make_pool(images, seed=0, together=together(structure))
    parts = [*pool.training, *pool.held_back]
    assert {len(part.rows) for part in parts} == {number}
    assert len(parts) == sum(len(batch) // number for batch in images)
    found = analyze(structure.model, example_inputs=images[0][:number], response=False)
    variant = found.proposals[0].build()
    variant.module.register_forward_pre_hook(lambda _, args: taken.append(len(args[0])))
    steps = 20
    course = variant.recover(images, steps=steps, progress=False)
    assert set(taken) == {number}
    assert course.images == len(parts) * number
    _, smaller = forwards(structure, images, steps)
    assert sum(taken) + 2 * steps * number == smaller


class Retries(Plain):
    """Handles what an operator raises."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = torch.mm(x.flatten(1), x.flatten(1))
        except RuntimeError:
            x = x * 2
        return super().forward(x)


def test_what_a_forward_handles_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert read_structure(Retries(), IMAGE).cuts
    assert "failed while attempting" not in caplog.text


class Crops(Plain):
    """Computes in a tensor how much to cut off."""

    def forward(self, x: Tensor) -> Tensor:
        wanted = torch.tensor(x.shape[2:]) // 4 * 4
        return super().forward(x[..., : int(wanted[0]), : int(wanted[1])])


def test_the_tracer_prints_no_graph(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert read_structure(Crops(), IMAGE).cuts
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert capfd.readouterr() == ("", "")


class Enhancer(nn.Module):
    """Works on the spectrogram of a signal; its window may follow how loud that is."""

    def __init__(self, follows: bool = False) -> None:
        super().__init__()
        self.unet, self.window = Plain(), nn.Buffer(torch.hann_window(62))
        self.follows = follows

    def forward(self, x: Tensor) -> Tensor:
        window = self.window * (1 + x.abs().max()) if self.follows else self.window
        found = torch.stft(x, 62, 16, window=window, return_complex=True)[..., :64]
        mask = self.unet(found.abs()[:, None].repeat(1, 3, 1, 1))[:, 0]
        return torch.istft(found * mask, 62, 16, window=window)


@pytest.mark.parametrize("follows", [False, True])
def test_levels_of_what_works_on_spectrograms_are_those_of_its_part(follows: bool) -> None:
    found = read_structure(Enhancer(follows), torch.rand(1, 2048), layout="NL")
    part = read_structure(Enhancer().unet, torch.rand(1, 3, 32, 64))
    assert found.reductions == part.reductions
    kept = [[cut.keep_levels for cut in structure.cuts] for structure in (found, part)]
    assert kept[0] == kept[1] != []
    assert any("maps of its signals" in note and "of 32x64" in note for note in found.notes)


class TwoBranches(nn.Module):
    """A U-Net of samples, and layers of their spectra, which join it at the bottom and the end."""

    def __init__(self, length: bool) -> None:
        super().__init__()
        self.length = length
        self.top, self.down = nn.Conv1d(1, 4, 8, 4, 2), nn.Conv1d(4, 8, 8, 4, 2)
        self.bins, self.back = nn.Conv1d(34, 8, 3, padding=1), nn.Conv1d(8, 34, 3, padding=1)
        self.up1, self.up0 = nn.ConvTranspose1d(8, 4, 4, 4), nn.ConvTranspose1d(4, 1, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(32)
        spectra = torch.stft(x[:, 0], 32, 16, window=window, return_complex=True)
        seen = self.bins(torch.view_as_real(spectra).permute(0, 3, 1, 2).flatten(1, 2))
        top = self.top(x).relu()
        deep = self.down(top).relu() + seen[..., :-1]
        parts = self.back(F.pad(deep, (0, 1))).unflatten(1, (2, 17)).permute(0, 2, 3, 1)
        made = torch.view_as_complex(parts.contiguous())
        length = x.shape[-1] if self.length else None
        return (
            self.up0(self.up1(deep) + top)
            + torch.istft(made, 32, 16, window=window, length=length)[:, None]
        )


@pytest.mark.parametrize("length", [False, True])
def test_an_inverse_transform_follows_the_length_of_its_signal(length: bool) -> None:
    torch.manual_seed(0)
    model = TwoBranches(length).eval()
    structure = read_structure(model, torch.rand(2, 1, 320))
    assert structure.reductions == ((1,), (4,), (16,))
    assert structure.notes == ()
    x = torch.rand(3, 1, 512)
    torch.testing.assert_close(rebuild(structure)(x), model(x))
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module(x).shape == x.shape


def test_a_number_in_a_tensor_stays_free_and_leaves_sizes_free() -> None:
    model = Options().eval()
    structure = read_structure(model, {"x": IMAGE, "scale": torch.tensor(1.0)})
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    call = (torch.randn(3, 3, 32, 32), torch.tensor(2.0))
    torch.testing.assert_close(rebuild(structure)(*call), model(*call), rtol=0, atol=0)


def test_arguments_that_the_example_left_out_are_named() -> None:
    structure = read_structure(Options(), IMAGE)
    graph = rebuild(structure)
    expected = structure.model(IMAGE)
    assert torch.equal(graph(IMAGE, 1.0, "a"), expected)  # what it was read with
    assert torch.equal(graph(IMAGE, mask=None), expected)
    for call in (lambda: graph(IMAGE, 2.0), lambda: graph(IMAGE, scale=2.0)):
        with pytest.raises(InputError, match=r"scale was not among .* default, 1\.0; .*hold scale"):
            call()
    with pytest.raises(InputError, match=r"hold scale, a tensor where its values vary$"):
        graph(IMAGE, scale=torch.tensor(2.0))
    for flag in ("b", True):
        with pytest.raises(InputError, match=rf"example_inputs= that hold mode={flag!r}$"):
            graph(IMAGE, mode=flag)
    with pytest.raises(TypeError, match="other"):
        graph(IMAGE, other=1)
    with pytest.raises(TypeError, match="positional"):
        graph(IMAGE, 1.0, "a", False, (1, 2), None, None, 0)


class Optional(Plain):
    """Adds what it is given, each argument with another factor."""

    def added(self, x: Tensor, *given: Any) -> Tensor:
        y = super().forward(x)
        factors = range(1, 1 + len(given))
        return y + sum(f * v for f, v in zip(factors, given, strict=True) if v is not None)


class Four(Optional):
    def forward(
        self, x: Tensor, a: Any = None, b: Any = None, c: Any = None, *, d: Any = None
    ) -> Tensor:
        return self.added(x, a, b, c, d)


class Scaled(Optional):
    def forward(self, x: Tensor, /, a: Any = 3.0, *more: Tensor, d: Any = 0.5, **named: Any) -> Any:
        return self.added(x, a, d, named.get("e"), *more)


T, U = torch.tensor([[[[2.0]]]]), torch.tensor([[[[7.0]]]])
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (args, named)
    for args in (
        (), (T,), (T, U), (None, T), (T, None, U), (None, None, T), (T, U, T), (3.0,), (3.0, T, U)
    )
    for named in ({}, {"d": T}, {"d": 0.5}, {"d": None}, {"b": U}, {"c": U, "a": T}, {"e": U})
]  # fmt: skip


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (Four, {"x": IMAGE, "b": T}),
        (Four, {"c": T, "a": T, "x": IMAGE}),
        (Four, (IMAGE, None, T)),
        (Four, {"x": IMAGE, "d": T}),
        (Four, {"x": IMAGE, "a": None, "c": T, "d": T}),
        (Scaled, (IMAGE,)),
        (Scaled, (IMAGE, T)),
        (Scaled, (IMAGE, 3.0, T, U)),
    ],
)
def test_arguments_are_placed_as_the_forward_places_them(kind: Any, example: Any) -> None:
    model = kind().eval()
    structure = read_structure(model, example)
    rebuilt = rebuild(structure)
    variant = rebuild(structure, copy.deepcopy(rebuilt))
    accepted = 0
    for args, named in CALLS:
        try:
            expected = model(IMAGE, *args, **named)
        except TypeError:
            for graph in (rebuilt, variant):
                with pytest.raises(TypeError):
                    graph(IMAGE, *args, **named)
            continue
        for graph in (rebuilt, variant):
            try:
                found = graph(IMAGE, *args, **named)
            except InputError as error:
                assert re.match(r"(a|b|c|d|e|more_\d) (is|was)", str(error))  # noqa: PT017
                assert "example_inputs=" in str(error)  # noqa: PT017
            else:
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
                accepted += 1
    assert accepted >= 2


def test_arguments_that_were_read_as_tensors_stay_tensors() -> None:
    graph = rebuild(read_structure(Four(), {"x": IMAGE, "b": T}))
    for call in ({}, {"b": None}, {"b": 2.0}, {"b": [T]}, {"b": T.numpy()}):
        with pytest.raises(InputError, match=r"^b(\[0\])? is .* was read with a tensor"):
            graph(IMAGE, **call)
    with pytest.raises(InputError, match="a was not among the arguments"):
        graph(IMAGE, T)


class Listed(Plain):
    def forward(self, x: Tensor, extra: Any) -> Tensor:
        return super().forward(x) + sum(extra)


def test_a_list_of_another_length_is_refused() -> None:
    graph = rebuild(read_structure(Listed(), (IMAGE, [T, U])))
    assert torch.equal(graph(IMAGE, (T, U)), graph(IMAGE, [T, U]))
    for extra in ([T], [T, U, T]):
        with pytest.raises(InputError, match=r"extra is .*read with 2 tensors"):
            graph(IMAGE, extra)


def test_a_variant_places_arguments_after_all_that_is_done_with_it(tmp_path: Path) -> None:
    model, named = Four().eval(), {"x": IMAGE, "b": T}
    variant = whole(read_structure(model, named))
    save(variant, tmp_path / "v.safetensors")
    loaded = load(tmp_path / "v.safetensors", lambda: copy.deepcopy(model))
    exported = torch.export.export(variant.module, (IMAGE,), {"b": T}).module()
    expected = model(IMAGE, b=T)
    torch.testing.assert_close(exported(IMAGE, b=T), expected)
    modules = [v.module for v in (variant, loaded, copy.deepcopy(variant))]
    for module in [*modules, copy.copy(loaded.module)]:
        torch.testing.assert_close(module(IMAGE, None, T), expected)
        with pytest.raises(InputError, match="a was not among the arguments"):
            module(IMAGE, T)


class Remembering(Plain):
    """Looks a table up by the sizes of its image, which must be numbers for that."""

    def forward(self, x: Tensor) -> Tensor:
        tables = {tuple(map(int, IMAGE.shape[2:])): 2.0}
        y = super().forward(x) * tables.get(tuple(x.shape[2:]), 3.0)
        return y + hash((x.shape[0], 1)) % 7


@pytest.mark.sample(1)
@pytest.mark.parametrize("images", [1, 2])
def test_sizes_that_are_keys_are_those_of_the_example(images: int) -> None:
    model, example = Remembering().eval(), IMAGE.expand(images, -1, -1, -1).clone()
    structure = read_structure(model, example)
    assert vars(example) == {}  # the tracer's marks would free sizes in a later trace
    assert f"read at {images} image" in " ".join(structure.notes)
    graph = rebuild(structure)
    assert torch.equal(graph(example), model(example))
    with pytest.raises(InputError, match=f"x holds 3 images, .* read at {images} image"):
        graph(IMAGE.expand(3, -1, -1, -1))
    with pytest.raises(InputError, match=r"x is 32x32, .* read at 16x16"):
        graph(torch.zeros(images, 3, 32, 32))


class Ways(Plain):
    """What it does depends on the sizes of its image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.kind == "divides" and height % 8:
            return 0.5 * super().forward(x)
        if self.kind == "larger" and width > 20:
            return 0.5 * super().forward(x)
        if self.kind == "square" and height != width:
            return 0.5 * super().forward(x)
        if self.kind == "of several numbers" and height in (24, 36):
            return 0.5 * super().forward(x)
        if self.kind == "assertion":
            assert height % 8 == 0
        if self.kind == "many images" and len(x) > 2:
            return 0.5 * super().forward(x)
        if self.kind == "what an operator refuses":
            try:
                x.unflatten(2, (-1, 5))
            except RuntimeError:
                return 0.5 * super().forward(x)
        if self.kind == "what cannot be added":
            try:
                return super().forward(x) + torch.ones(24, 1)
            except RuntimeError:
                pass
        if self.kind == "smallest of three":
            return super().forward(x) * min(height, width, 500)
        if self.kind == "parts":
            return super().forward(x) * len(x.split(6, 3))
        if self.kind == "steps":
            return sum(super(Ways, self).forward(x) * s for s in range(0, width, 16))
        return super().forward(x)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("divides", (20, 16)),
        ("larger", (16, 24)),
        ("square", (16, 24)),
        ("of several numbers", (24, 16)),
        ("assertion", (20, 16)),
        ("many images", (16, 16)),
        ("what an operator refuses", (20, 16)),
        ("what cannot be added", (24, 16)),
        ("smallest of three", (24, 16)),
        ("parts", (16, 24)),
        ("steps", (16, 40)),
    ],
)
def test_sizes_at_which_the_forward_takes_another_way_are_refused(
    kind: str, other: tuple[int, int]
) -> None:
    model = Ways(kind).eval()
    graph = rebuild(read_structure(model, IMAGE))
    torch.testing.assert_close(graph(IMAGE), model(IMAGE), rtol=0, atol=0)
    there = torch.randn(3, 3, *other)
    told = r"takes another way|computes with that (size|number)"
    with pytest.raises(InputError, match=told):
        graph(there)
    if kind != "assertion":  # what the error asks for
        again = rebuild(read_structure(model, there))
        torch.testing.assert_close(again(there), model(there), rtol=0, atol=0)


def test_what_torch_asks_for_itself_refuses_no_size() -> None:
    def alike(model: nn.Module, shape: tuple[int, ...]) -> None:
        x = torch.randn(shape)
        torch.testing.assert_close(rebuild(read_structure(model))(x), model(x), rtol=0, atol=0)

    model = Plain().eval()
    for shape in ((1, 3, 16, 16), (2, 3, 2, 2), (3, 3, 20, 40), (1, 3, 6, 256)):
        alike(model, shape)
    alike(Ways("divides").eval(), (3, 3, 24, 30))
    alike(Ways("larger").eval(), (3, 3, 22, 30))


class Asked(Plain):
    """Lets operators ask of their layouts whether there is one image, or asks by itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.codes, self.gate = nn.Embedding(8, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        last = top.permute(0, 2, 3, 1)
        if self.kind == "codes":
            flat = last.contiguous().view(-1, 4)
            nearest = torch.argmin(torch.cdist(flat, self.codes.weight), dim=1)
            top = self.codes(nearest).view(last.shape).permute(0, 3, 1, 2).contiguous()
        if self.kind == "reshaped":
            top = last.reshape(-1, 4).softmax(1).reshape(last.shape).permute(0, 3, 1, 2)
        if self.kind == "squeezed":
            top = top + self.gate(top.mean((2, 3), True).squeeze((2, 3)))[..., None, None]
        if self.kind == "expanded":
            top = top + top.mean(0, keepdim=True).expand(x.shape[0], -1, -1, -1).contiguous()
        if self.kind == "squeezed, then reshaped":
            top = top + top.mean((1, 2, 3)).squeeze().view(-1, 1, 1, 1)
        if self.kind == "by itself" and x.shape[0] == 1:
            top = 2 * top
        if self.kind == "by its length" and len(x) == 1:
            top = 2 * top
        if self.kind == "by all sizes" and x.numel() == 3 * x.shape[2] * x.shape[3]:
            top = 2 * top
        if self.kind == "by a caught error":
            try:
                top.view(1, 4, *top.shape[2:])
                top = 2 * top
            except RuntimeError:
                pass
        if self.kind == "as many at one size":
            top = top.view(len(x), 4, 16, 16)
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        out = self.out(F.relu(self.up(torch.cat([deep, top], 1))))
        return torch.sigmoid(out).squeeze() if self.kind == "squeezed at last" else out


def _answers_alike(model: nn.Module, structure: Structure, images: Sequence[int]) -> None:
    graph = rebuild(structure)
    for number in images:
        x = torch.randn(number, 3, 16, 16)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "kind",
    [
        *("codes", "reshaped", "squeezed", "squeezed at last", "squeezed, then reshaped"),
        *("expanded", "as many at one size"),
    ],
)
def test_what_operators_ask_of_the_number_of_images_is_not_the_forward(kind: str) -> None:
    model = Asked(kind).eval()
    structure = read_structure(model, IMAGE)
    assert "image" not in " ".join(structure.notes)
    _answers_alike(model, structure, [1, 2, 3])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "kind", ["by itself", "by its length", "by all sizes", "by a caught error"]
)
def test_what_a_forward_asks_of_the_number_of_images_is_told(kind: str) -> None:
    model = Asked(kind).eval()
    structure = read_structure(model, IMAGE)
    assert "read at 1 image a batch only" in " ".join(structure.notes)
    _answers_alike(model, structure, [1])
    with pytest.raises(InputError, match="holds 2 images"):
        rebuild(structure)(torch.randn(2, 3, 16, 16))


class Looking(Plain):
    """Looks something up by a size of its image, in text or as it is."""

    TABLE: ClassVar[dict[Any, float]] = {"16": 2.0, "16x24": 3.0, 24: 4.0, "torch.Size([24])": 5.0}

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scales = nn.ParameterDict({"16": nn.Parameter(torch.tensor(2.0))})
        self.scale_16 = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale(*x.shape[2:], x.shape[-1:])

    def scale(self, height: int, width: int, last: torch.Size) -> Any:
        if self.kind == "str":
            return self.TABLE.get(str(width), 1.0)
        if self.kind == "text of two":
            return self.TABLE.get(f"{height}x{width}", 1.0)
        if self.kind == "joined":
            return self.TABLE.get("x".join(map(str, (height, width))), 1.0)
        if self.kind == "text of sizes":
            return self.TABLE.get(str(last), 1.0)
        if self.kind == "parameters":
            return self.scales.get(str(width), 1.0)
        if self.kind == "attribute":
            return getattr(self, f"scale_{width}", 1.0)
        if self.kind == "length of a text":
            return len(str(width))
        return self.TABLE.get(width, 1.0)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "kind",
    ["str", "text of two", "joined", "text of sizes", "parameters", "attribute", "itself"],
)
def test_sizes_that_something_is_looked_up_by_are_held(kind: str) -> None:
    model = Looking(kind).eval()
    structure = read_structure(model, torch.randn(1, 3, 64, 64))
    assert re.search(r"read at (64x|any x )64 only", " ".join(structure.notes))
    graph = rebuild(structure)
    for size in ((16, 16), (16, 24), (64, 16), (64, 24)):
        with pytest.raises(InputError, match="computes with that size"):
            graph(torch.randn(1, 3, *size))


def test_the_length_of_a_text_holds_a_size() -> None:
    graph = rebuild(read_structure(Looking("length of a text").eval(), IMAGE))
    with pytest.raises(InputError, match="x is 128, and this network was read at 16"):
        graph(torch.randn(1, 3, 16, 128))


GRIDS: dict[Any, Tensor] = {}


@functools.cache
def _columns(width: int) -> Tensor:
    return torch.linspace(0, 1, width)


def _cached(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator of somebody's own, which turns to a cached function where it is not compiled."""
    kept = functools.lru_cache(maxsize=32)(function)

    @functools.wraps(function)
    def call(*args: Any) -> Tensor:
        return function(*args) if torch.compiler.is_dynamo_compiling() else kept(*args)

    return call


@_cached
def _spread(width: int) -> Tensor:
    return torch.linspace(0, 1, width)


class Table:
    """Grids by their width, as an object of its own keeps them."""

    def __init__(self) -> None:
        self.grids: dict[Any, Tensor] = {}

    def get(self, width: int) -> Tensor:
        if width not in self.grids:
            self.grids[width] = torch.linspace(0, 1, width)
        return self.grids[width]


TABLE = Table()


class Keeping(Plain):
    """Keeps a grid for each size of its image, and says which it was given."""

    GRIDS: ClassVar[dict[Any, Tensor]] = {}
    GRID: ClassVar[Tensor | None] = None

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.grids = kind, {}

    def forward(self, x: Tensor) -> Tensor:
        logging.getLogger("weightscope.tests").info("%s %s", *x.shape[2:])
        torch._assert(x.shape[2] > 1, f"{x.shape} is small")
        return super().forward(x) * getattr(self, self.kind)(x)

    def of_the_file(self, x: Tensor) -> Tensor:
        key = (str(x.device), str(x.size()))
        if key not in GRIDS:
            GRIDS[key] = torch.linspace(0, 1, x.shape[-1])
        return GRIDS[key]

    def of_the_class(self, x: Tensor) -> Tensor:
        if x.shape[2:] not in self.GRIDS:
            self.GRIDS[x.shape[2:]] = torch.linspace(0, 1, x.shape[-1])
        return self.GRIDS[x.shape[2:]]

    def of_the_class_alone(self, x: Tensor) -> Tensor:
        if Keeping.GRID is None or Keeping.GRID.shape[-1] != x.shape[-1]:
            Keeping.GRID = torch.linspace(0, 1, x.shape[-1])
        return Keeping.GRID

    def of_the_module(self, x: Tensor) -> Tensor:
        grid = self.grids.get((x.shape[-1], x.device))
        if grid is None:
            grid = self.grids[(x.shape[-1], x.device)] = torch.linspace(0, 1, x.shape[-1])
        return grid

    def as_a_buffer(self, x: Tensor) -> Tensor:
        name = f"grid_{x.shape[-1]}"
        if not hasattr(self, name):
            self.register_buffer(name, torch.linspace(0, 1, x.shape[-1]))
        return getattr(self, name)

    def of_a_function(self, x: Tensor) -> Tensor:
        return _columns(x.shape[-1])

    def of_a_decorated_function(self, x: Tensor) -> Tensor:
        return _spread(x.shape[-1])

    def of_an_object(self, x: Tensor) -> Tensor:
        return TABLE.get(x.shape[-1])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "kind",
    [
        "of_the_file",
        "of_the_class",
        "of_the_class_alone",
        "of_the_module",
        "as_a_buffer",
        "of_a_function",
        "of_a_decorated_function",
        "of_an_object",
    ],
)
@pytest.mark.parametrize("first", ["read", "called", "counted"])
def test_what_is_kept_by_sizes_follows_them_and_no_tensor_without_numbers_is_left(
    kind: str, first: str
) -> None:
    Keeping.GRID = None  # one that fits is what the network computes with
    model, own = Keeping(kind).eval(), Plain().eval()
    own.load_state_dict(model.state_dict())
    if first == "called":
        model(IMAGE.repeat(1, 1, 2, 2))
    if first == "counted":
        count_costs(model, IMAGE)
    for _ in range(2):
        graph = rebuild(read_structure(model, IMAGE))
    for size in ((16, 16), (24, 20), (8, 40)):
        x = torch.randn(2, 3, *size)
        expected = own(x) * torch.linspace(0, 1, size[1])
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(graph(x), expected)


class OwnTable(nn.Module):
    """Adds a table of numbers, as it is to images of its own size, resized to others."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 16, 8))
        self.patch, self.deep = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 16, 3, 2, 1)
        self.deeper, self.out = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(24, 1, 1)

    def positions(self, count, width, height):
        if count == 16 and width == height:
            return self.table
        table = self.table.reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(width // 8, height // 8), mode="bilinear")
        return table.flatten(2).transpose(1, 2)

    def forward(self, x):
        width, height = x.shape[2:]
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions(tokens.shape[1], width, height)
        x = tokens.transpose(1, 2).reshape(x.shape[0], 8, width // 8, height // 8)
        below = F.relu(self.deeper(F.relu(self.deep(x))))
        x = torch.cat([x, F.interpolate(below, size=x.shape[2:])], 1)
        return F.interpolate(self.out(x), size=(width, height))


@pytest.mark.sample(1)
@pytest.mark.parametrize("side", [32, 48])
def test_a_table_for_squares_of_its_own_size_is_resized_for_others(side: int) -> None:
    model = OwnTable().eval()
    example = torch.randn(1, 3, side, side)
    analysis = analyze(model, example_inputs=example, response=False)
    variant = next(p for p in analysis.proposals if p.refusal is None).build()
    graph = rebuild(analysis.structure)
    for sizes in ((32, 32), (48, 48), (64, 64), (48, 32)):
        x = torch.randn(2, 3, *sizes)
        torch.testing.assert_close(graph(x), model(x))
        assert variant.module(x).shape == (2, 1, *sizes)


class TableOfColumns(Plain):
    """Adds a number to each column, and takes images that are no wider than they are high."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < x.shape[3]:
            raise ValueError("too wide")
        table = self.table
        if x.shape[3] != table.shape[3]:
            table = F.interpolate(table, size=(1, x.shape[3]), mode="bilinear")
        return super().forward(x + table)


def test_a_table_of_one_side_is_resized_at_its_own_size_of_that_side() -> None:
    model = TableOfColumns().eval()
    structure = read_structure(model, torch.randn(1, 3, 32, 32))
    for sizes in ((32, 32), (24, 16), (48, 40)):
        x = torch.randn(2, 3, *sizes)
        torch.testing.assert_close(rebuild(structure)(x), model(x))


class TextOfSize(Plain):
    """Multiplies by a number that no arithmetic makes of the image's size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * len(str(x.shape[2]))


class Packed(nn.Module):
    """Takes its image inside of a dictionary, or of a tuple."""

    def __init__(self, network: nn.Module, place: Any) -> None:
        super().__init__()
        self.network, self.place = network, place

    def forward(self, batch: Any) -> Tensor:
        return self.network(batch[self.place])


@pytest.mark.sample(2)
@pytest.mark.parametrize("place", ["image", 0])
@pytest.mark.parametrize(
    ("network", "other", "told"),
    [
        (TextOfSize(), (1, 3, 32, 32), r" is 32, .* read at 16 "),
        (Ways("larger"), (1, 3, 16, 24), r" is 16x24, where the forward takes another way"),
        (Counting("odd"), (2, 3, 16, 16), r" holds 2 images, .* read at 1 image"),
    ],
)
def test_sizes_inside_an_argument_are_held_as_those_of_an_argument(
    place: Any, network: nn.Module, other: tuple[int, ...], told: str
) -> None:
    def packed(x: Tensor) -> Any:
        return {"image": x} if place == "image" else (x,)

    model = Packed(network.eval(), place)
    graph = rebuild(read_structure(model, (packed(IMAGE),)))
    torch.testing.assert_close(graph(packed(IMAGE)), network(IMAGE), rtol=0, atol=0)
    with pytest.raises(InputError, match=rf"^batch\[{place!r}\]" + told):
        graph(packed(torch.randn(other)))


class Noisy(Plain):
    """Takes a noise level of each image, or one for all of them."""

    def __init__(self, otherwise: bool) -> None:
        super().__init__()
        self.otherwise = otherwise

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.shape[0] == 1:
            sigma = sigma.expand(len(x)) + float(self.otherwise)
        elif sigma.shape[0] != x.shape[0]:
            raise ValueError("one level for each image")
        return super().forward(x) * sigma.view(-1, 1, 1, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "given", [None, (IMAGE, torch.rand(1)), {"x": IMAGE, "sigma": torch.rand(1)}]
)
def test_one_image_holds_no_other_number_of_them(given: Any) -> None:
    model = Noisy(otherwise=False).eval()
    structure = read_structure(model, given)
    assert structure.notes == ()
    if given is not None:
        passed = structure.inputs.args or tuple(structure.inputs.kwargs.values())
        assert all(map(torch.equal, passed, given if structure.inputs.args else given.values()))
    graph = rebuild(structure)
    for images in (1, 2, 3):
        call = torch.randn(images, 3, 16, 16), torch.rand(images)
        torch.testing.assert_close(graph(*call), model(*call), rtol=0, atol=0)


def test_an_example_of_one_image_that_takes_another_way_is_what_is_read() -> None:
    model, call = Noisy(otherwise=True).eval(), (IMAGE, torch.rand(1))
    graph = rebuild(read_structure(model, call))
    torch.testing.assert_close(graph(*call), model(*call), rtol=0, atol=0)
    with pytest.raises(InputError, match="read at 1 image"):
        graph(torch.randn(3, 3, 16, 16), torch.rand(3))


def test_one_image_is_refused_where_it_takes_another_way() -> None:
    graph = rebuild(read_structure(Noisy(otherwise=True)))
    graph(torch.randn(3, 3, 16, 16), torch.rand(3))
    with pytest.raises(InputError, match="takes another way"):
        graph(torch.randn(1, 3, 16, 16), torch.rand(1))


@pytest.mark.parametrize("other", [16, 64])
def test_a_size_is_said_to_be_held_where_the_model_takes_a_smaller_or_a_larger(other: int) -> None:
    class LookedUp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Small(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x * {32: 1.0, other: 2.0}[x.shape[3]])

    (note,) = read_structure(LookedUp().eval(), torch.rand(1, 1, 32, 32)).notes
    assert "read at 32x32 only" in note
    assert re.search(r"in test_fixed\.py, line \d+: `return .*2\.0}\[x\.shape\[3\]\]", note)


@pytest.mark.parametrize("wide", [False, True])
def test_another_way_at_other_sizes_is_said(wide: bool) -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.extra = Small(1, 1), nn.Conv2d(1, 1, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            height, width = x.shape[2:]
            return self.net(self.extra(x) if (width > height if wide else width > 24) else x)

    (note,) = read_structure(Choosing().eval(), torch.rand(1, 1, 32, 32)).notes
    other = "32x64" if wide else "16x16"
    assert note.startswith(f"the forward takes another way at some sizes, as at {other}")


def test_the_note_of_a_held_size_names_the_line_that_makes_a_number_of_it() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Small(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            rows = [float(row) for row in range(x.shape[2])]
            return self.net(x + torch.tensor(rows)[:, None])

    (note,) = read_structure(Counted().eval(), torch.rand(1, 1, 16, 16)).notes
    assert "read at 16 x any only" in note
    assert re.search(r"in test_fixed\.py, line \d+: `rows = .*range\(x\.shape\[2\]\)", note)


class WindowsOfOneSize(nn.Module):
    """Counts its images by its windows, at the one size that it takes (nnFormer)."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.mix, self.up = nn.Linear(16, 16), nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        below = self.deep(top).relu()
        count, wide, height, width = below.shape
        assert (height, width) == (16, 16), "of another size"
        windows = below.permute(0, 2, 3, 1).reshape(count, 4, 4, 4, 4, wide).transpose(2, 3)
        windows = self.mix(windows.reshape(-1, 16, wide))
        images = int(windows.shape[0] / (height * width / 4 / 4))
        below = windows.view(images, 4, 4, 4, 4, -1).transpose(2, 3)
        below = below.reshape(images, height, width, -1).permute(0, 3, 1, 2)
        return self.up(torch.cat([top, F.interpolate(below, scale_factor=2.0)], 1))


def test_images_counted_by_windows_stay_free_at_one_size() -> None:
    torch.manual_seed(0)
    model = WindowsOfOneSize().eval()
    structure = read_structure(model, torch.randn(1, 3, 32, 32))
    assert structure.reductions == ((1, 1), (2, 2))
    graph = rebuild(structure)
    for count in (1, 2, 3):
        x = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(graph(x), model(x))


class AtItsOwnSize(nn.Module):
    """Makes numbers of its sizes; what makes an example ready is no way that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = Plain()

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        wide = int(x.shape[-1] * 1.0)
        return self.unet(F.interpolate(x, size=(x.shape[-2], wide))) + hint


def test_ways_are_compared_without_what_makes_an_example_ready() -> None:
    trial = Trial(AtItsOwnSize().eval())
    example = torch.randn(2, 3, 32, 32), torch.randn(2, 1, 32, 32)
    inputs = next(find_inputs(trial, example))
    other = at_another_size(inputs)
    assert trial.functions(inputs) == trial.functions(other)
    assert trial.functions(inputs)[0] == "interpolate"

"""Levels of what stands beside a U-Net: costs of disparities, an encoder as deep, bursts, clips."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import Small
from torch import Tensor, nn

import weightscope as ws
from weightscope.errors import StructureError
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.truncation import verify
from weightscope.truncation.bottleneck import Bottleneck, Entry
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan


def stage_of(structure: Structure, layer: str) -> str:
    return next(stage.name for stage in structure.stages if layer in stage.layers)


def concatenated(left: Tensor, right: Tensor) -> Tensor:
    images, channels, height, width = left.shape
    costs = left.new_zeros(images, 2 * channels, 4, height, width)
    costs[:, :channels, 0], costs[:, channels:, 0] = left, right
    for d in range(1, 4):
        costs[:, :channels, d, :, d:] = left[..., d:]
        costs[:, channels:, d, :, d:] = right[..., :-d]
    return costs


def in_groups(left: Tensor, right: Tensor) -> Tensor:
    moved = [F.pad(right, (d, 0))[..., : left.shape[-1]] for d in range(4)]
    each = [(left * other).unflatten(1, (2, 2)).mean(2) for other in moved]
    return torch.stack(each, 2)


class Stereo(nn.Module):
    """Maps of two images, their costs at four disparities, and a network over these."""

    def __init__(
        self, costs: Callable[[Tensor, Tensor], Tensor], channels: int, pairs: bool
    ) -> None:
        super().__init__()
        self.costs, self.pairs = costs, pairs
        self.feature = nn.Conv2d(3, 4, 3, 2, 1)
        self.first, self.down = nn.Conv3d(channels, 4, 3, padding=1), nn.Conv3d(4, 8, 3, 2, 1)
        self.up, self.last = nn.ConvTranspose3d(8, 4, 4, 2, 1), nn.Conv3d(4, 1, 3, padding=1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if self.pairs:
            one, other = self.feature(torch.cat([left, right])).relu().chunk(2)
        else:
            one, other = self.feature(left).relu(), self.feature(right).relu()
        top = self.first(self.costs(one, other)).relu()
        costs = self.last((self.up(self.down(top).relu()) + top).relu())
        return F.interpolate(costs[:, 0].softmax(1), scale_factor=2)


@pytest.mark.sample(1)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("costs", "channels"), [(concatenated, 8), (in_groups, 2)])
def test_disparities_are_no_side_of_the_image(
    costs: Callable[[Tensor, Tensor], Tensor], channels: int, pairs: bool
) -> None:
    torch.manual_seed(0)
    model = Stereo(costs, channels, pairs).eval()
    example = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    analysis = ws.analyze(model, example_inputs=example, response=False)
    structure = analysis.structure
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert [stage_of(structure, n) for n in ("feature", "first", "down")] == [
        "encoder 1",
        "encoder 1",
        "bottleneck",
    ]
    assert [cut.keep_levels for cut in structure.cuts] == [2]
    other = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48)
    variant = next(p for p in analysis.proposals if p.refusal is None).build()
    assert verify(variant, sizes=[other], export=False).failures == ()


class Beside(nn.Module):
    """A U-Net as a module, and an encoder that goes down alone."""

    def __init__(self, strides: int, joined: bool = False) -> None:
        super().__init__()
        self.net, self.joined = Small(), joined
        steps = [nn.Conv2d(4 if i else 1, 4, 3, 2, 1) for i in range(strides)]
        self.code = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        self.mix = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        made, code = self.net(x), self.code(x)
        if not self.joined:
            return made, code
        spread = code[:, :, None, None].expand(-1, -1, *made.shape[2:])
        return self.mix(torch.cat([made, spread], 1))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_unet_beside_an_encoder_as_deep_keeps_its_levels(strides: int, joined: bool) -> None:
    structure = read_structure(Beside(strides, joined).eval())
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))[: strides + 1]
    deep = "bottleneck" if strides == 1 else "bottleneck 1"
    last = "decoder 0" if joined else "head"
    layers = ("net.top", "net.deep", "net.up", "net.out")
    up = "decoder 0"
    assert [stage_of(structure, n) for n in layers] == ["encoder 0", deep, up, last]
    legal = [1, 2] if joined else [1]  # the code is an output of its own, or joins above
    assert [cut.keep_levels for cut in structure.cuts] == legal[:strides]


def test_a_small_unet_inside_a_classifier_is_no_way_up() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.down = Small(1, 1), nn.Conv2d(1, 4, 3, 2, 1)
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.down(x * self.net(x).sigmoid()).relu().mean((2, 3)))

    with pytest.raises(StructureError):
        read_structure(Classifier())


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _number(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


TOGETHER: dict[str, Callable[[list[Tensor], nn.Module], tuple[Tensor, Tensor]]] = {
    "one behind the other": lambda maps, mix: (
        mix(torch.cat([*map(_tokens, maps)], 1)).split(_number(maps[0]), 1)
    ),
    "stacked": lambda maps, mix: (
        mix(torch.stack([*map(_tokens, maps)], 1).flatten(1, 2))
        .unflatten(1, (2, _number(maps[0])))
        .unbind(1)
    ),
    "stacked in the batch": lambda maps, mix: (
        mix(torch.stack([*map(_tokens, maps)], 0).flatten(0, 1))
        .unflatten(0, (2, maps[0].shape[0]))
        .unbind(0)
    ),
    "maps beside each other": lambda maps, mix: (
        mix(_tokens(torch.cat(maps, 3)))
        .unflatten(1, (maps[0].shape[2], 2 * maps[0].shape[3]))
        .split(maps[0].shape[3], 2)
    ),
    "maps stacked": lambda maps, mix: (
        mix(_tokens(torch.stack(maps, 2)))
        .unflatten(1, (2, _number(maps[0])))
        .unbind(1)
    ),
}  # fmt: skip


class Together(nn.Module):
    """A transformer over the deepest tokens of two images at once, which are taken apart again."""

    def __init__(self, how: str, frames: bool = False) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.mix = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.up, self.out = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.lay, self.frames = TOGETHER[how], frames

    def forward(self, *images: Tensor) -> Tensor:
        both = images[0].chunk(2, 1) if self.frames else images
        tops = [self.top(x).relu() for x in both]
        maps = [self.deep(x).relu() for x in tops]
        one, other = self.lay(maps, self.mix)
        changed = (one - other).flatten(1, -2).transpose(1, 2).reshape(maps[0].shape)
        joined = torch.cat([*tops, F.interpolate(changed, scale_factor=2)], 1)
        return self.out(self.up(joined).relu())


@pytest.mark.sample(1)
@pytest.mark.parametrize("frames", [False, True], ids=["two images", "channels"])
@pytest.mark.parametrize("how", TOGETHER)
def test_tokens_of_two_images_together_make_no_level(how: str, frames: bool) -> None:
    model = Together(how, frames).eval()
    given = [torch.rand(1, 2, 16, 16)] if frames else [torch.rand(1, 1, 16, 16) for _ in range(2)]
    structure = read_structure(model, tuple(given))
    assert structure.reductions == ((1, 1), (2, 2))
    layers = ("deep", "mix.linear1", "up")
    assert [stage_of(structure, n) for n in layers] == ["bottleneck", "bottleneck", "decoder 0"]
    call = [torch.rand(2, x.shape[1], 24, 16) for x in given]
    torch.testing.assert_close(rebuild(structure)(*call), model(*call))


def _encoded_as_a_batch(images: list[Tensor], down: nn.Module) -> tuple[Tensor, int]:
    return down(torch.cat(images)), len(images[0])


def paired_in_the_batch(images: list[Tensor], down: nn.Module, deep: nn.Module) -> Tensor:
    maps, number = _encoded_as_a_batch(images, down)
    _, channels, height, width = maps.shape
    wide = maps.view(2, number, channels, height, width).permute(1, 2, 3, 0, 4)
    wide = deep(wide.reshape(number, channels, height, 2 * width))
    back = wide.view(number, channels, height, 2, width).permute(3, 0, 1, 2, 4)
    one, other = back.reshape(maps.shape).chunk(2)
    return one - other


def joined_and_deeper(images: list[Tensor], down: nn.Module, deep: nn.Module) -> Tensor:
    wide = torch.cat([down(x) for x in images], 3)
    wide = F.interpolate(deep(F.max_pool2d(wide, 2)), scale_factor=2)
    one, other = wide.chunk(2, 3)
    return one - other


def interleaved(images: list[Tensor], down: nn.Module, deep: nn.Module) -> Tensor:
    columns = torch.stack([down(x) for x in images], -1).flatten(-2)
    return deep(columns)[..., ::2]


class Joined(nn.Module):
    """Deepest maps of two images are laid together, worked on and taken apart."""

    def __init__(self, lay: Callable[[list[Tensor], nn.Module, nn.Module], Tensor]) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.down, self.out = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(12, 1, 3, padding=1)
        self.lay = lay

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        below = F.interpolate(self.lay([before, after], self.down, self.deep), scale_factor=2)
        return self.out(torch.cat([self.top(before), below], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("lay", "levels"),
    [
        (paired_in_the_batch, [(1, 1), (2, 2)]),
        (joined_and_deeper, [(1, 1), (2, 2), (4, 4)]),
        (interleaved, [(1, 1), (2, 1), (2, 2)]),
    ],
)
def test_images_that_lie_together_make_no_level_and_interleaved_ones_do(
    lay: Callable[[list[Tensor], nn.Module, nn.Module], Tensor], levels: list[tuple[int, int]]
) -> None:
    structure = read_structure(Joined(lay).eval(), tuple(torch.rand(1, 1, 16, 16) for _ in "ab"))
    assert list(structure.reductions) == levels
    deepest = 1 if lay is interleaved else len(levels) - 1
    layers = next(stage.level for stage in structure.stages if "deep" in stage.layers)
    assert layers == deepest


class LooksAtBoth(nn.Module):
    """Two images beside each other, pooled, taken apart, joined again for attention, resized."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.keys, self.values = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.mix, self.how = nn.Conv2d(16, 4, 1), how

    def looked(self, both: Tensor) -> Tensor:
        maps, (high, wide) = F.avg_pool2d(both, 2), both.shape[2:]
        half = maps.shape[3] // 2

        def joined(made: Tensor) -> Tensor:
            parts = made[..., :half], made[..., half:]
            return (torch.stack(parts, 4) if self.how == "stacked" else torch.cat(parts, 3)) * 2

        keys, values = joined(self.keys(maps)), joined(self.values(maps))
        flat = keys.flatten(2)
        seen = values.flatten(2) @ (flat.transpose(1, 2) @ flat).softmax(-1).transpose(1, 2)
        seen = seen.view(values.shape)
        if self.how == "stacked":
            seen = torch.cat([seen[..., 0], seen[..., 1]], 3)
        return F.interpolate(seen, (high, wide))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        def seen(image: Tensor) -> Tensor:
            top = self.top(image)
            return top + F.interpolate(self.down(top), scale_factor=2)

        one, two = map(seen, (before, after))
        both = torch.cat([one, two], 3)
        made = self.mix(torch.cat([both, self.looked(both)], 1))
        wide = one.shape[3]
        return F.interpolate((made[..., :wide] - made[..., wide:]).abs(), scale_factor=2)


@pytest.mark.parametrize("how", ["stacked", "joined"])
def test_images_that_are_taken_apart_and_joined_again_still_lie_together(how: str) -> None:
    structure = read_structure(
        LooksAtBoth(how).eval(), tuple(torch.rand(1, 1, 16, 24) for _ in "ab")
    )
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert stage_of(structure, "mix") == "head"
    assert stage_of(structure, "keys") == stage_of(structure, "values")


class Mosaic(nn.Module):
    """Maps of four images beside and below each other."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.top, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(12, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        one, two, three, four = (self.down(x) for x in images.chunk(4, 1))
        whole = torch.cat([torch.cat([one, two], 3), torch.cat([three, four], 3)], 2)
        below = self.deep(whole)[:, :, : one.shape[2], : one.shape[3]]
        return self.out(torch.cat([self.top(images), F.interpolate(below, scale_factor=2)], 1))


def test_a_mosaic_of_four_images_makes_no_level() -> None:
    structure = read_structure(Mosaic().eval(), torch.rand(1, 4, 16, 16))
    assert structure.reductions == ((1, 1), (2, 2))
    assert stage_of(structure, "deep") == "bottleneck"


def test_four_parts_of_one_image_that_are_stacked_make_a_finer_level() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
            self.deep = nn.ModuleList(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            top = self.top(x).relu()
            parts = torch.stack([deep(top) for deep in self.deep], 2).unflatten(2, (2, 2))
            whole = parts.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
            return self.out(top + whole)

    structure = read_structure(Parts().eval(), torch.rand(1, 1, 16, 16))
    assert structure.reductions == ((1, 1), (2, 2))
    assert stage_of(structure, "out") in ("decoder 0", "head")


class Burst(nn.Module):
    """Kernels for each pixel of each frame, and the frames' patches that they weigh."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(4, 4 * 9)

    def forward(self, burst: Tensor) -> Tensor:
        images, frames, height, width = burst.shape
        kernels = self.net(burst).view(images, frames, 9, height, width).softmax(2)
        patches = F.unfold(burst.reshape(images * frames, 1, height, width), 3, padding=1)
        patches = patches.view(images, frames, 9, height, width)
        return (patches * kernels).sum(2).mean(1, keepdim=True)


def test_patches_of_frames_that_were_channels_are_no_finer_level() -> None:
    model = Burst().eval()
    structure = read_structure(model, torch.rand(1, 4, 16, 16))
    assert structure.reductions == ((1, 1), (2, 2))
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    call = torch.rand(2, 4, 24, 16)
    torch.testing.assert_close(rebuild(structure)(call), model(call))


@pytest.mark.sample(1)
@pytest.mark.parametrize("window", [{"stride": 4}, {"stride": 2, "padding": 1}])
def test_patches_that_fold_back_show_where_they_lie(window: dict[str, int]) -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
            self.into, self.back = nn.Linear(64, 16), nn.Linear(16, 64)

        def forward(self, x: Tensor) -> Tensor:
            top = self.top(x).relu()
            tokens = F.unfold(top, 4, **window).transpose(1, 2)
            tokens = self.back(self.into(tokens).relu()).transpose(1, 2)
            return self.out(torch.cat([top, F.fold(tokens, top.shape[2:], 4, **window)], 1))

    analysis = ws.analyze(Patches().eval(), example_inputs=torch.rand(1, 1, 32, 32), response=False)
    assert [p.refusal for p in analysis.proposals] == [None]
    variant = analysis.proposals[0].build()
    assert verify(variant, sizes=[torch.rand(2, 1, 32, 48)], export=False).failures == ()


class Moving(nn.Module):
    """A clip (batch, frames, channels, height, width): what moved, and each frame."""

    def __init__(self, one_by_one: bool) -> None:
        super().__init__()
        self.net, self.one_by_one = Small(), one_by_one

    def forward(self, clip: Tensor) -> Tensor:
        images, frames = clip.shape[:2]
        moved = torch.cat([clip[:, :1], clip[:, 1:] - clip[:, :-1]], 1)
        if self.one_by_one:
            return torch.stack([self.net(moved[:, i]) for i in range(frames)], 1)
        return self.net(moved.flatten(0, 1)).unflatten(0, (images, frames))


def test_a_guessed_clip_holds_no_number_of_frames() -> None:
    model = Moving(one_by_one=False).eval()
    structure = read_structure(model, layout="NTCHW")
    assert structure.notes == ()
    for frames in (3, 6):
        call = torch.rand(2, frames, 1, 16, 16)
        torch.testing.assert_close(rebuild(structure)(call), model(call))


def test_frames_that_are_held_are_told() -> None:
    structure = read_structure(Moving(one_by_one=True).eval(), torch.rand(1, 3, 1, 16, 16))
    assert any("read with 3 frames a clip only" in note for note in structure.notes)


class Sized(nn.Module):
    """Computes with its image's sizes in a tensor, or with a grid of that size."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = Small(), how

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        made = self.net(x)
        if self.how == "grid":
            still = torch.eye(2, 3)[None].expand(len(x), -1, -1)
            grid = F.affine_grid(still, list(x.shape), align_corners=False)
            return F.grid_sample(made, grid, align_corners=False)
        make = torch.Tensor if self.how == "numbers of the default type" else x.new_tensor
        sizes = make([width, height])
        return made + (made.expand(-1, 2, -1, -1).permute(0, 2, 3, 1) / sizes).sum(-1)[:, None]


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["grid", "tensor", "numbers of the default type"])
def test_sizes_that_torch_makes_numbers_of_stay_free(how: str) -> None:
    model = Sized(how).eval()
    structure = read_structure(model)
    assert structure.notes == ()
    call = torch.rand(2, 1, 24, 40)
    torch.testing.assert_close(rebuild(structure)(call), model(call))


@pytest.mark.parametrize("exchanged", [False, True])
def test_what_makes_tensors_is_as_it_was(exchanged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if exchanged:  # by another library
        own = staticmethod(torch.Tensor.__new__)
        monkeypatch.setattr(torch.Tensor, "__new__", own, raising=False)
    before = vars(torch.Tensor).get("__new__")
    read_structure(Sized("numbers of the default type").eval())
    assert vars(torch.Tensor).get("__new__") is before


class Scan(nn.Module):
    """Goes through the rows of its deep map one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.mix = Small(), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rows, state = [], torch.zeros_like(x[:, :, 0])
        for row in range(x.shape[2]):
            state = 0.5 * state + x[:, :, row]
            rows.append(state.tanh())
        return self.net(self.mix(torch.stack(rows, 2)))


@pytest.mark.slow
def test_a_loop_over_positions_is_read_at_a_small_guess() -> None:
    structure = read_structure(Scan().eval())
    assert structure.inputs.args[0].shape[2:] == (64, 64)
    assert structure.reductions == ((1, 1), (2, 2))


def test_heads_that_feed_what_runs_without_autograd_need_no_gradient() -> None:
    class Taught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = Small(), Small().requires_grad_(False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                wanted = self.teacher(x)
            return self.student(x), wanted

    analysis = ws.analyze(Taught().eval(), example_inputs=torch.rand(1, 1, 32, 32), response=False)
    variant = analysis.proposals[0].build()
    assert verify(variant, export=False).failures == ()


class Queried(nn.Module):
    """Three queries have a map of their own each, of images that are laid in the batch again."""

    def __init__(self, laid: Callable[[Tensor, int], Tensor], in_turn: bool) -> None:
        super().__init__()
        self.laid, self.in_turn = laid, in_turn
        self.top, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.deep, self.each = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.query = nn.Linear(8, 24)
        self.up1, self.up0 = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        mid = self.mid(F.max_pool2d(top, 2)).relu()
        deep = self.deep(F.max_pool2d(mid, 2)).relu()
        queries = self.query(deep.mean((2, 3))).unflatten(1, (3, 8))
        queries = (queries if self.in_turn else queries.transpose(0, 1)).flatten(0, 1)
        y = self.each(self.laid(deep, 3) * queries[:, :, None, None]).relu()
        for layer, skip in ((self.up1, mid), (self.up0, top)):
            y = torch.cat([F.interpolate(y, scale_factor=2), self.laid(skip, 3)], 1)
            y = layer(y).relu()
        return self.out(y)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("laid", "in_turn"),
    [
        (lambda x, n: x.unsqueeze(1).expand(-1, n, -1, -1, -1).flatten(0, 1), True),
        (lambda x, n: x.expand(n, *x.shape).contiguous().view(-1, *x.shape[1:]), False),
        (lambda x, n: x.unsqueeze(1).repeat(1, n, 1, 1, 1).flatten(0, 1), True),
        (lambda x, n: x.repeat(n, 1, 1, 1, 1).flatten(0, 1), False),
        (lambda x, n: x.repeat_interleave(n, 0), True),
        (lambda x, n: x.repeat(n, 1, 1, 1), False),
        (lambda x, n: torch.stack([x] * n, 1).flatten(0, 1), True),
        (lambda x, n: torch.cat([x] * n), False),
    ],
)
def test_images_laid_in_the_batch_again_are_no_positions(
    laid: Callable[[Tensor, int], Tensor], in_turn: bool
) -> None:
    model = Queried(laid, in_turn).eval()
    structure = read_structure(model)
    assert [each[0] for each in structure.reductions] == pytest.approx([1, 2, 4])
    assert stage_of(structure, "each") == "bottleneck"
    assert (stage_of(structure, "up1"), stage_of(structure, "up0")) == ("decoder 1", "decoder 0")
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    exits = structure.cuts[1].exits
    assert [(site.images, site.in_turn, site.channels) for site in exits] == [(3, in_turn, 8)]


@pytest.mark.sample(1)
@pytest.mark.parametrize("in_turn", [False, True])
def test_a_bottleneck_makes_several_images_of_one(in_turn: bool) -> None:
    def laid(x: Tensor, number: int) -> Tensor:
        return x.repeat_interleave(number, 0) if in_turn else x.repeat(number, 1, 1, 1)

    structure = read_structure(Queried(laid, in_turn).eval())
    cut = find_cut(structure, 2)
    for kind, width in (("light", 8), ("pool", None)):
        plan = make_plan(structure, cut, kind, width)
        assert not verify(build(structure, plan), sizes=[(24, 40)]).failures
    variant = build(structure, make_plan(structure, cut, "light", 16))
    assert variant.recover(torch.randn(8, 3, 16, 16), steps=2, progress=False).start == "ridge"
    exits = variant.module.new_bottleneck.exits
    handing = Bottleneck(2, [Entry(24, "channels_first", (1, 1), False, True)], exits, *_NOTHING)
    x = torch.randn(2, 24, 4, 4)
    (made,) = handing([x], [[4, 4]], [4, 4], [[4, 4]])
    each = x.unflatten(1, (3, 8))
    assert torch.equal(made, (each if in_turn else each.transpose(0, 1)).flatten(0, 1))


_NOTHING = nn.Identity(), 24


class Denoised(nn.Module):
    """An image is encoded, its code enlarged, and noise denoised beside that, in two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.code, self.net = nn.Conv2d(8, 4, 3, 2, 1), Small(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        code = self.code(self.mid(self.top(x).relu()).relu())
        code, y = F.interpolate(code, scale_factor=4), torch.ones_like(x)
        for _ in range(2):
            y = self.net(torch.cat([y, code], 1))
        return y


def test_a_u_net_that_is_handed_an_enlarged_code_keeps_its_levels() -> None:
    model = Denoised().eval()
    structure = read_structure(model)
    assert [each[0] for each in structure.reductions] == pytest.approx([1, 2, 4])
    assert stage_of(structure, "net.top") == "decoder 0"
    assert stage_of(structure, "net.deep") == "decoder 1"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Canvas(nn.Module):
    """An image below a prompt, and beside both what is to be seen, twice; made for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.shown = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.deep, self.up = nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1)
        self.places, self.out = nn.Parameter(torch.zeros(8, 16, 8)), nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
        top = self.top(torch.cat([prompt, image], 2)).relu()
        shown = self.shown(torch.cat([mask, mask], 2)).relu()
        deep = self.up(self.deep(top) + self.deep(shown) + self.places).relu()
        return self.out(top + F.interpolate(deep, scale_factor=2))


def test_images_laid_below_each_other_at_one_size_are_the_whole() -> None:
    images = tuple(torch.randn(2, 3, 16, 16) for _ in range(3))
    structure = read_structure(Canvas().eval(), images)
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert (stage_of(structure, "top"), stage_of(structure, "shown")) == ("encoder 0",) * 2
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Asked(nn.Module):
    """Queries look at the deepest level; masks are what they say of the finest."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.deep = Small(1, 8), nn.Conv2d(1, 8, 3, 4, 1)
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.ask = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.say = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.deep(x).flatten(2).transpose(1, 2)
        said = self.ask(self.queries.expand(len(x), -1, -1), tokens)
        return torch.einsum("bqc,bchw->bqhw", self.say(said), self.net(x))


@pytest.mark.slow
def test_as_many_queries_as_the_deepest_level_has_positions_are_no_positions() -> None:
    model = Asked().eval()
    model.queries = nn.Parameter(torch.randn(64, 8))
    analysis = ws.analyze(model, example_inputs=torch.rand(1, 1, 32, 32), response=False)
    variant = next(p for p in analysis.proposals if p.keep_levels == 2).build(width=2)
    call = torch.rand(2, 1, 48, 32)
    assert variant.module(call).shape == model(call).shape == (2, 64, 48, 32)


def test_what_queries_say_leaves_a_cut_as_vectors() -> None:
    model = Asked().eval()
    analysis = ws.analyze(model, example_inputs=torch.rand(1, 1, 32, 32), response=False)
    assert analysis.structure.reductions == ((1, 1), (2, 2), (4, 4))
    cut = next(cut for cut in analysis.structure.cuts if cut.keep_levels == 2)
    vectors = [site for site in cut.exits if site.layout == "vector"]
    assert [(site.channels, site.parts) for site in vectors] == [(40, (5, 8))]
    variant = next(p for p in analysis.proposals if p.keep_levels == 2).build()
    call = torch.rand(2, 1, 32, 48)
    assert verify(variant, sizes=[call], export=False).failures == ()
    assert variant.module(call).shape == model(call).shape
    found = variant.recover(torch.rand(12, 1, 32, 32), steps=4, progress=False)
    assert found.after.explained >= found.before.explained


class Placed(Asked):
    """The same for images of one size: 64 positions at its deepest level."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, 8))
        self.place = nn.Parameter(torch.zeros(1, 1, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.place)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("queries", "leave"), [(5, True), (65, False)])
def test_vectors_of_a_network_of_one_size_are_no_positions(queries: int, leave: bool) -> None:
    structure = read_structure(Placed(queries).eval(), torch.rand(1, 1, 32, 32))
    legal = [cut.keep_levels for cut in structure.cuts]
    assert (2 in legal) == leave


class Told(nn.Module):
    """A vector is laid beside the deepest features, as so many channels of one value each."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.say, self.up = nn.Linear(3, 2), nn.ConvTranspose2d(10, 4, 2, 2)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = self.deep(top).relu()
        said = self.say(vector)[:, :, None, None].expand(-1, -1, *deep.shape[2:])
        return self.out(torch.cat([top, self.up(torch.cat([deep, said], 1))], 1))


def test_a_vector_beside_the_deepest_features_lies_there() -> None:
    structure = read_structure(Told().eval(), (torch.rand(1, 1, 16, 16), torch.rand(1, 3)))
    assert [stage_of(structure, n) for n in ("deep", "say")] == ["bottleneck", "bottleneck"]
    assert stage_of(structure, "up") == "decoder 0"


class Weighing(Placed):
    """Attention that tells its weights, which is two products."""

    def __init__(self) -> None:
        super().__init__(5)
        self.ask = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place
        tokens = self.deep(x).flatten(2).transpose(1, 2)
        said, _ = self.ask(self.queries.expand(len(x), -1, -1), tokens, tokens)
        return torch.einsum("bqc,bchw->bqhw", self.say(said), self.net(x))


def test_queries_of_a_network_of_one_size_make_no_level() -> None:
    structure = read_structure(Weighing().eval(), torch.rand(1, 1, 32, 32))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert [stage_of(structure, n) for n in ("deep", "say")] == ["bottleneck", "head"]


class EachNumber(nn.Module):
    """Layers work on each number of two maps, whose channels stay an axis; or on chunks of one."""

    def __init__(self, chunks: bool) -> None:
        super().__init__()
        self.chunks = chunks
        self.top, self.low = nn.Conv1d(3, 8, 3, 2, 1), nn.Conv1d(8, 8, 3, 2, 1)
        self.deep = nn.Conv1d(8, 8, 3, 2, 1)
        self.each = nn.Sequential(
            nn.Linear(8 if chunks else 2, 6), nn.Linear(6, 8 if chunks else 1)
        )
        self.up, self.out = nn.ConvTranspose1d(8, 8, 4, 4), nn.Conv1d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(self.top(x).relu())
        deep = F.interpolate(self.deep(low.relu()), scale_factor=2.0)
        if self.chunks:
            made = self.each((low + deep).unflatten(2, (-1, 4)).permute(0, 3, 2, 1))
            return self.out(self.up(made.permute(0, 3, 2, 1).flatten(2)))
        return self.out(self.up(self.each(torch.stack((low, deep), -1))[..., 0]))


@pytest.mark.parametrize("chunks", [False, True])
def test_channels_beside_features_of_each_number_are_no_positions(chunks: bool) -> None:
    structure = read_structure(EachNumber(chunks).eval(), torch.rand(1, 3, 64))
    assert structure.reductions == ((1,), (2,), (4,), (8,))
    assert stage_of(structure, "each.0") == stage_of(structure, "each.1") == "decoder 2"


class Straightened(nn.Module):
    """A spatial transformer turns the image before the network sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(1, 4, 7, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.turn, self.net = nn.Linear(16, 6), Small(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        angles = self.turn(self.locate(x).flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(angles, list(x.shape), align_corners=False)
        out: Tensor = self.net(F.grid_sample(x, grid, align_corners=False))
        return out


def test_an_image_that_is_turned_first_comes_down_in_the_encoder() -> None:
    structure = read_structure(Straightened().eval(), torch.rand(1, 1, 32, 32))
    plain = read_structure(Small(1, 1).eval(), torch.rand(1, 1, 32, 32))
    stages = {f"net.{layer}": stage.name for stage in plain.stages for layer in stage.layers}
    found = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    encoder = [layer for layer, stage in stages.items() if stage.startswith("encoder")]
    assert encoder
    assert {layer: found[layer] for layer in encoder} == {n: stages[n] for n in encoder}

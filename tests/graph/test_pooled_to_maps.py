"""Maps brought to the size of another one, rows of one pixel, and stages that nothing uses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

from weightscope.graph import read_structure, rebuild
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAXIMA = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
AVERAGES = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


class Remembers(nn.Module):
    """Two halvings; the deepest map is joined with the first one, pooled to its size."""

    def __init__(self, dimensions: int, *, averages: bool = False, keeps_a_side: bool = False):
        super().__init__()
        conv = CONVOLUTIONS[dimensions - 1]
        self.pool = (AVERAGES if averages else MAXIMA)[dimensions - 1]
        self.keeps_a_side = keeps_a_side
        self.first = conv(3, 4, 3, padding=1)
        self.down1, self.down2 = conv(4, 4, 3, 2, 1), conv(4, 8, 3, 2, 1)
        self.remember, self.mix = conv(4, 8, 1), conv(16, 8, 3, padding=1)
        self.up1, self.up0, self.out = conv(12, 4, 1), conv(8, 4, 1), conv(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.first(x))
        middle = F.relu(self.down1(top))
        deep = F.relu(self.down2(middle))
        sides = list(deep.shape[2:])
        pooled = top
        if self.keeps_a_side:
            pooled, sides = self.pool(pooled, [*sides[:-1], top.shape[-1]]), [None, sides[-1]]
        pooled = self.remember(self.pool(pooled, sides))
        deep = F.relu(self.mix(torch.cat([deep, pooled], 1)))
        up = self.up1(torch.cat([F.interpolate(deep, size=middle.shape[2:]), middle], 1))
        return self.out(self.up0(torch.cat([F.interpolate(up, size=top.shape[2:]), top], 1)))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "model",
    [
        *(Remembers(dimensions) for dimensions in (1, 2)),
        pytest.param(Remembers(3), marks=pytest.mark.slow),
        *(Remembers(dimensions, averages=True) for dimensions in (1, 2)),
        Remembers(2, keeps_a_side=True),
    ],
    ids=["signals", "images", "volumes", "averages of signals", "averages", "side by side"],
)
def test_a_map_pooled_to_the_size_of_another_lies_there_at_every_size(model: Remembers) -> None:
    structure = read_structure(model.eval())
    dimensions = model.first.weight.dim() - 2
    assert structure.sizes == "symbolic"
    assert not structure.notes
    assert structure.reductions == tuple((float(r),) * dimensions for r in (1, 2, 4))
    assert places(structure)["remember"] == "bottleneck"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    graph = rebuild(structure)
    for size in ((32, 48, 32)[:dimensions], (20, 36, 28)[:dimensions], (19, 22, 25)[:dimensions]):
        x = torch.rand(2, 3, *size)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    for cut in structure.cuts:
        assert not verify(build(structure, make_plan(structure, cut, "pool"))).failures


class Waves(nn.Module):
    """Signals as images of some rows; samples become channels and channels samples."""

    def __init__(self) -> None:
        super().__init__()
        kernel, padding = (1, 3), (0, 1)
        self.first = nn.Conv2d(2, 4, kernel, padding=padding)
        self.down = nn.Conv2d(16, 8, 1)
        self.up = nn.Conv2d(8, 16, 1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.heads = nn.Linear(8, 8)
        self.out = nn.Conv2d(4, 1, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.down(x.unflatten(3, (-1, 4)).permute(0, 1, 4, 2, 3).flatten(1, 2)))
        # heads of an attention have sides of a fixed size too, and are no map
        keys = self.heads(x.flatten(2).mT).mT.unflatten(1, (2, 4)).flatten(0, 0)
        x = x + (keys.softmax(-1) * keys).flatten(1, 2).unflatten(2, x.shape[2:])
        x = self.up(x).unflatten(1, (4, 4)).permute(0, 1, 3, 4, 2).flatten(3, 4)
        return self.out(x * self.scale)


@pytest.mark.sample(1)
@pytest.mark.parametrize("rows", [1, 3])
def test_samples_made_of_channels_lie_above_where_an_image_has_one_row(rows: int) -> None:
    model = Waves().eval()
    structure = read_structure(model, torch.rand(2, 2, rows, 256))
    assert [reduction[-1] for reduction in structure.reductions] == [1, 4]
    found = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert found == {
        "first": "encoder 0",
        "down": "bottleneck",
        "heads": "bottleneck",
        "up": "bottleneck",
        "": "decoder 0",
        "out": "head",
    }
    x = torch.rand(3, 2, rows, 128)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


class Norm(nn.Module):
    """Asks for its mode in a forward of its own, as norms of libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean
        if self.training:
            mean = x.mean((0, 2, 3))
            self.mean.lerp_(mean.detach(), 0.1)
        return (x - mean[:, None, None]) * self.weight[:, None, None]


class Backbone(nn.Module):
    """Its last stage is called, and nothing uses what it gives but a loss in training."""

    def __init__(self, *, used_in_training: bool) -> None:
        super().__init__()
        self.used = used_in_training
        self.first, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.deeper = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), Norm())
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.first(x))
        deep = F.relu(self.down(top))
        deeper = self.deeper(deep)
        made: Tensor = self.out(torch.cat([top, F.interpolate(deep, scale_factor=2.0)], 1))
        return made + deeper.mean() if self.used and self.training else made


def test_a_stage_that_is_called_and_not_used_is_dead_whatever_its_norms_do() -> None:
    structure = read_structure(Backbone(used_in_training=False).eval())
    assert structure.modes_agree
    assert structure.dead_parameters == ("deeper.0.weight", "deeper.0.bias", "deeper.1.weight")
    used = read_structure(Backbone(used_in_training=True).eval())
    assert not used.modes_agree
    assert used.dead_parameters == ()


class Styled(nn.Module):
    """Takes a number of a step under a longer name, and a code; both are required."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.time = nn.Linear(12, 8), nn.Linear(1, 8)
        self.first, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.out = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor, time_cond: Tensor, z: Tensor) -> Tensor:
        assert time_cond.dim() == 1
        top = F.relu(self.first(x))
        code = self.style(z) + self.time(time_cond[:, None].float())
        deep = self.deep(F.max_pool2d(top, 2)) * code[:, :, None, None]
        return self.out(torch.cat([top, F.interpolate(deep, scale_factor=2.0)], 1))


class Noised(nn.Module):
    """Takes a second image of which the name holds the word for noise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.out = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor, noise_map: Tensor) -> Tensor:
        top = F.relu(self.first(x + noise_map))
        deep = self.deep(F.max_pool2d(top, 2))
        return self.out(torch.cat([top, F.interpolate(deep, scale_factor=2.0)], 1))


def test_a_step_is_known_by_a_word_of_its_name() -> None:
    structure = read_structure(Styled().eval())
    image, step, code = structure.inputs.args
    assert (image.dim(), step.shape, code.shape) == (4, (1,), (1, 12))
    image, noise = read_structure(Noised().eval()).inputs.args
    assert noise.shape == image.shape

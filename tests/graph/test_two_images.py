"""Two images of sizes that do not follow each other, which the same layers look at."""

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

from weightscope.graph import read_structure
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        top = self.top(x).relu()
        down = self.down(top).relu()
        return [top, down, self.deep(down).relu()]


class Transfer(nn.Module):
    """Gives the deepest features of an image the mean of another image's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.up1, self.up0 = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        deep, other = self.encoder(image)[2], self.encoder(style)[2]
        x = deep - deep.mean((2, 3), keepdim=True) + other.mean((2, 3), keepdim=True)
        x = self.up1(F.interpolate(x, scale_factor=2.0)).relu()
        return self.up0(F.interpolate(x, scale_factor=2.0))


class Tracking(nn.Module):
    """Filters the deepest features of a search region with those of a template."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.up1, self.up0 = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor, template: Tensor) -> Tensor:
        (top, down, deep), (*_, kernels) = self.encoder(image), self.encoder(template)
        batch, channels, *sides = kernels.shape
        maps = F.pad(deep, (sides[1] // 2, sides[1] - 1 - sides[1] // 2) * 2)
        maps = maps.reshape(1, batch * channels, *maps.shape[2:])
        found = F.conv2d(maps, kernels.reshape(-1, 1, *sides), groups=batch * channels)
        x = found.reshape(batch, channels, *found.shape[2:])
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2.0), down], 1)).relu()
        return self.up0(torch.cat([F.interpolate(x, scale_factor=2.0), top], 1))


@pytest.mark.parametrize(
    ("kind", "size"),
    [(Transfer, (64, 64)), (Transfer, (32, 48)), (Tracking, (32, 32))],
)
def test_two_images_have_the_levels_of_their_own_sizes(
    kind: type[nn.Module], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    structure = read_structure(model, (torch.rand(2, 3, 64, 64), torch.rand(2, 3, *size)))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    stages = places(structure)
    assert stages["encoder.top"] == "encoder 0"
    assert stages["encoder.deep"] == "bottleneck"
    for keep in (1, 2):
        small = build(structure, make_plan(structure, find_cut(structure, keep), width=4)).module
        for other in ((32, 32), (64, 64)):
            call = torch.rand(3, 3, 96, 64), torch.rand(3, 3, *other)
            assert small(*call).shape == model(*call).shape


class ThreeSizes(nn.Module):
    """One encoder looks at an image at three sizes; maps are brought to those of the middle one."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.merge, self.join = nn.Conv2d(18, 6, 1), nn.Conv2d(12, 4, 3, 1, 1)
        self.beside, self.out = nn.Conv2d(12, 6, 1), nn.Conv2d(4, 1, 1)

    def forward(self, small: Tensor, image: Tensor, large: Tensor) -> Tensor:
        maps = []
        for x in (small, image, large):
            top = self.top(x).relu()
            maps.append((top, self.deep(top).relu()))
        tops, deeps = zip(*maps, strict=True)
        sizes = [of[1].shape[2:] for of in (tops, deeps)]
        top, deep = (
            torch.cat([F.interpolate(a, size=size), b, F.adaptive_max_pool2d(c, size)], 1)
            for (a, b, c), size in zip((tops, deeps), sizes, strict=True)
        )
        up = F.interpolate(self.merge(deep).relu(), scale_factor=2)
        return self.out(self.join(torch.cat([up, self.beside(top)], 1)).relu())


def test_an_image_at_three_sizes_has_the_levels_of_that_which_others_are_brought_to() -> None:
    example = tuple(torch.randn(2, 3, side, side) for side in (16, 32, 48))
    structure = read_structure(ThreeSizes().eval(), example)
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    stage = places(structure)
    assert [stage[name] for name in ("top", "deep", "merge", "beside", "join")] == [
        *("encoder 1", "bottleneck", "bottleneck", "skip 1", "decoder 1")
    ]
    assert [cut.keep_levels for cut in structure.cuts] == [2]

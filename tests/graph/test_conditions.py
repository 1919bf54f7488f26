"""Vectors beside the image that have an image's axes: noise levels, exposures, styles."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Small, places
from torch import Tensor, nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import synthetic_inputs
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan


class Exposed(nn.Module):
    """An image and by how much it is to be brightened, one number for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(3, 1)

    def forward(self, image: Tensor, ratio: Tensor) -> Tensor:
        return self.net(image * ratio)


class Noisy(nn.Module):
    """The noise level comes first, and is laid beside the image as a map."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(4, 1)

    def forward(self, sigma: Tensor, image: Tensor) -> Tensor:
        maps = sigma.expand(len(image), 1, *image.shape[2:])
        return self.net(torch.cat([image, maps], 1))


class Styled(nn.Module):
    """A style that layers with weights turn into one shift for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(3, 1)
        self.style = nn.Sequential(nn.Conv2d(5, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        return self.net(image + self.style(code))


CALLS = {
    "exposed": (Exposed, ((2, 3, 32, 48), (2, 1, 1, 1)), ((3, 3, 64, 32), (3, 1, 1, 1))),
    "one for all": (Exposed, ((2, 3, 32, 48), (1, 1, 1, 1)), ((3, 3, 64, 32), (1, 1, 1, 1))),
    "one image": (Exposed, ((1, 3, 32, 48), (1, 1, 1, 1)), ((3, 3, 64, 32), (3, 1, 1, 1))),
    "noisy": (Noisy, ((2, 1, 1, 1), (2, 3, 32, 48)), ((3, 1, 1, 1), (3, 3, 64, 32))),
    "styled": (Styled, ((2, 3, 32, 48), (2, 5, 1, 1)), ((3, 3, 64, 32), (3, 5, 1, 1))),
}


@pytest.mark.parametrize("how", list(CALLS))
def test_a_vector_with_the_axes_of_an_image_is_no_image(how: str) -> None:
    kind, shapes, others = CALLS[how]
    torch.manual_seed(0)
    model = kind().eval()
    structure = read_structure(model, tuple(map(torch.rand, shapes)))
    assert structure.reductions == ((1, 1), (2, 2))
    assert structure.notes == ()
    stages = places(structure)
    assert stages["net.top"] == "encoder 0"
    assert _small(structure)(*map(torch.rand, others)).shape == (3, 1, 64, 32)


def _small(structure: Structure) -> nn.Module:
    return build(structure, make_plan(structure, find_cut(structure, 1), width=4)).module


def test_a_vector_with_the_axes_of_an_image_is_not_painted() -> None:
    structure = read_structure(Exposed().eval(), (torch.rand(2, 3, 32, 48), torch.ones(2, 1, 1, 1)))

    def paint(images: int, channels: int, sizes: Any, seed: int) -> Tensor:
        return torch.zeros(images, channels, *sizes)

    image, ratio = synthetic_inputs(structure, paint, 4, seed=0)
    assert image.shape[:2] == (4, 3)
    torch.testing.assert_close(ratio, torch.ones(4, 1, 1, 1))


@pytest.mark.parametrize("kind", [Exposed, Noisy])
def test_a_guessed_noise_level_fits_several_images(kind: type[nn.Module]) -> None:
    class Named(kind):  # type: ignore[misc, valid-type]
        def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
            given = (sigma, image) if kind is Noisy else (image, sigma)
            made: Tensor = super().forward(*given)
            return made

    analysis = ws.analyze(Named())
    small = analysis.proposals[0].build().module
    assert small(torch.rand(3, 3, 64, 32), torch.rand(3, 1, 1, 1)).shape == (3, 1, 64, 32)


class Undersampled(nn.Module):
    """An image, and which of its columns were measured: one row for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(4, 1)

    def forward(self, image: Tensor, columns: Tensor) -> Tensor:
        maps = columns.expand(-1, -1, image.shape[2], -1)
        return self.net(torch.cat([image * columns, maps], 1))


def test_a_mask_of_columns_is_no_image_and_follows_its_size() -> None:
    torch.manual_seed(0)
    example = torch.rand(2, 3, 32, 48), (torch.rand(2, 1, 1, 48) > 0.5).float()
    structure = read_structure(Undersampled().eval(), example)
    assert structure.reductions == ((1, 1), (2, 2))
    assert _small(structure)(torch.rand(3, 3, 64, 32), torch.ones(3, 1, 1, 32)).shape[2:] == (
        64,
        32,
    )

    def paint(images: int, channels: int, sizes: Any, seed: int) -> Tensor:
        return torch.zeros(images, channels, *sizes)

    image, columns = synthetic_inputs(structure, paint, 4, seed=0, scale=2.0)
    assert columns.shape == (4, 1, 1, image.shape[3])
    assert set(columns.unique().tolist()) <= {0.0, 1.0}


class Deblurring(nn.Module):
    """An image and the kernel that blurred it, which is laid into a map of the image's size."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.written = written
        self.net = Small(1)

    def laid(self, kernel: Tensor, height: int, width: int) -> Tensor:
        own_height, own_width = kernel.shape[2:]
        if self.written:
            made = kernel.new_zeros(*kernel.shape[:2], height, width)
            made[..., :own_height, :own_width].copy_(kernel)
        else:
            made = F.pad(kernel, (0, width - own_width, 0, height - own_height))
        return torch.roll(made, (-(own_height // 2), -(own_width // 2)), (2, 3))

    def forward(self, image: Tensor, kernel: Tensor) -> Tensor:
        blur = torch.fft.rfft2(self.laid(kernel, *image.shape[2:]))
        found = blur.conj() * torch.fft.rfft2(image) / (blur.abs() ** 2 + 0.1)
        return self.net(torch.fft.irfft2(found, s=image.shape[2:]))


@pytest.mark.parametrize("written", [False, True], ids=["padded", "written"])
def test_a_kernel_that_is_laid_into_a_map_makes_no_level(written: bool) -> None:
    torch.manual_seed(0)
    structure = read_structure(
        Deblurring(written).eval(), (torch.rand(2, 1, 32, 48), torch.rand(2, 1, 5, 5))
    )
    assert structure.reductions == ((1, 1), (2, 2))
    stages = places(structure)
    assert stages["net.top"] == "encoder 0"
    assert stages["net.deep"] == "bottleneck"
    assert _small(structure)(torch.rand(3, 1, 64, 32), torch.rand(3, 1, 7, 5)).shape == (
        3,
        1,
        64,
        32,
    )

"""What of the inputs an output may be a restored form of."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.probing.nearest import Nearest, like_outputs
from weightscope.probing.response import measure_response

NOISE = torch.Generator().manual_seed(0)


def noise(*sizes):
    return torch.randn(*sizes, generator=NOISE)


IMAGE = noise(4, 1, 8, 8)
SMALL = F.avg_pool2d(IMAGE, 2)


@pytest.mark.parametrize(
    ("outputs", "inputs", "wanted"),
    [
        (IMAGE + 0.1, [torch.cat([noise(4, 2, 8, 8), IMAGE], 1)], IMAGE),
        (-IMAGE, [noise(4, 2, 8, 8), torch.cat([3 * IMAGE, noise(4, 1, 8, 8)], 1)], 3 * IMAGE),
        (SMALL, [torch.cat([IMAGE, noise(4, 1, 8, 8)], 1)], SMALL),
        (SMALL.flatten(2), [IMAGE], SMALL.flatten(2)),
        (2 * IMAGE[..., 2:-2, 1:-1], [IMAGE], IMAGE[..., 2:-2, 1:-1]),
        (IMAGE[..., 1:-2, 1:-2], [IMAGE], IMAGE[..., 1:-2, 1:-2]),
        (IMAGE[..., 2:-1, 2:-1], [IMAGE], IMAGE[..., 2:-1, 2:-1]),
        (IMAGE[..., 3:, :], [IMAGE], IMAGE[..., 3:, :]),
        (IMAGE[..., :-3, :-1], [IMAGE], IMAGE[..., :-3, :-1]),
        (IMAGE[:, :, 3, 4:], [IMAGE[:, :, 3]], IMAGE[:, :, 3, 4:]),
        (torch.cat([IMAGE, IMAGE], 1), [IMAGE], torch.cat([IMAGE, IMAGE], 1)),
        (IMAGE.where(IMAGE > 0, torch.nan), [torch.cat([noise(4, 1, 8, 8), IMAGE], 1)], IMAGE),
    ],
)  # fmt: skip
def test_the_channel_that_an_output_follows_is_found(outputs, inputs, wanted):
    (found,) = like_outputs([outputs], [inputs])
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("first", [IMAGE, 1 - IMAGE, 7 * IMAGE + 3])
def test_of_images_that_are_lines_of_each_other_the_first_is_taken(first):
    outputs = IMAGE + 0.1 * noise(4, 1, 8, 8)
    others = [1 - first, 0.3 * first, first / 255 - 1]
    nearest = Nearest().with_batch(outputs, [noise(4, 1, 8, 8), first, *others])
    assert nearest.channels == [1]
    nearest = Nearest().with_batch(outputs, [first, outputs])
    assert nearest.channels == [1]


def test_an_input_of_the_same_shape_is_taken_and_what_cannot_be_laid_beside_is_left():
    other = noise(4, 1, 8, 8)
    assert like_outputs([IMAGE], [[noise(4, 2, 8, 8), other, IMAGE]])[0] is other
    assert like_outputs([noise(4, 5)], [[IMAGE]]) == [None]
    assert like_outputs([noise(4, 3, 7)], [[IMAGE]]) == [None]
    assert like_outputs([noise(3, 2, 8, 8)], [[IMAGE]]) == [None]


class Burst(nn.Module):
    """Adds half of what lies at half the resolution to the mean of its frames."""

    def __init__(self, gain):
        super().__init__()
        self.deep, self.up = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.deep.weight.fill_(1.0)
            self.up.weight.fill_(gain)
            for layer in (self.deep, self.up):
                layer.bias.zero_()

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        deep = F.interpolate(self.deep(F.avg_pool2d(mean, 2)), scale_factor=2.0)
        return mean + self.up(deep * deep)


def test_what_a_network_adds_to_is_no_answer_of_its_own():
    images = [noise(24, 8, 16, 16)]
    alone, beside = (
        measure_response(read_structure(Burst(gain).eval(), images[0]), [images], "images")
        for gain in (1.0, 0.05)
    )
    # however little is added, all that is added comes from below
    assert alone.cuts[0].low > 0.9
    assert beside.cuts[0].low > 0.9


def test_all_batches_choose_together():
    nearest = Nearest()
    batches = [(IMAGE + 2.0 * noise(4, 1, 8, 8), torch.cat([noise(4, 1, 8, 8), IMAGE], 1))] * 6
    batches += [(noise(4, 1, 8, 8), noise(4, 2, 8, 8)) for _ in range(2)]
    for outputs, inputs in batches:
        nearest = nearest.with_batch(outputs, [inputs])
    assert nearest.channels == [1]


class Denoiser(nn.Module):
    """Smooths an image by half of what lies at half the resolution, wherever the image is given."""

    def __init__(self, image=lambda x: x):
        super().__init__()
        self.image = image
        self.first, self.below, self.last = (
            nn.Conv2d(1, 1, 1),
            nn.Conv2d(1, 1, 1),
            nn.Conv2d(2, 1, 1),
        )
        with torch.no_grad():
            for layer, weight in ((self.first, 1.0), (self.below, 1.0), (self.last, 0.5)):
                layer.weight.fill_(weight)
                layer.bias.zero_()

    def forward(self, *inputs):
        x = self.first(self.image(*inputs))
        below = F.interpolate(self.below(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return self.last(torch.cat([x, below], 1))


class Permuted(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


CLEAN = F.interpolate(noise(24, 1, 8, 8), scale_factor=4.0)
NOISY, LEVEL = CLEAN + 0.3 * noise(24, 1, 32, 32), torch.full((24, 1, 32, 32), 0.3)
GIVEN = [
    (NOISY, lambda x: x),
    ((NOISY, LEVEL), lambda x, level: x + 0.0 * level),
    (torch.cat([NOISY, LEVEL], 1), lambda x: x[:, :1]),
    (torch.cat([LEVEL, NOISY], 1), lambda x: x[:, 1:]),
    (torch.stack([LEVEL, NOISY, LEVEL], 1), lambda x: x[:, 1]),  # frames, then channels
    (torch.cat([NOISY, LEVEL], 1).movedim(1, -1), lambda x: x[..., :1].movedim(-1, 1), "NHWC"),
    (NOISY[:, 0], lambda x: x[:, None]),
]


def with_layout(given):
    return given if len(given) == 3 else (*given, None)


@pytest.mark.parametrize("metric", ["mse", pytest.param("psnr", marks=pytest.mark.slow)])
def test_a_denoiser_has_to_beat_its_image_wherever_that_is_given(metric):
    found = [
        ws.ablate(Denoiser(image), [(inputs, CLEAN)], metric, layout=layout, progress=False)
        for inputs, image, layout in map(with_layout, GIVEN)
    ]
    bare = nn.Sequential(Denoiser(), nn.Flatten(1, 2))  # no axis of channels
    found.append(ws.ablate(bare, [(NOISY, CLEAN[:, 0])], metric, progress=False))
    for inputs, image, layout in map(with_layout, GIVEN[5:6]):  # channels last, targets without
        last = nn.Sequential(Denoiser(image), Permuted(0, 2, 3, 1))
        found.append(
            ws.ablate(last, [(inputs, CLEAN[:, 0])], metric, layout=layout, progress=False)
        )
    for name in ("chance", "share_lost"):
        (first, *others) = (list(frame[name]) for frame in found)
        assert [other == pytest.approx(first, rel=1e-4) for other in others] == [True] * len(others)
    assert found[0].share_lost[0] > 0.5


def test_the_response_of_a_denoiser_does_not_hang_on_where_its_image_is_given():
    found = []
    for inputs, image, layout in map(with_layout, GIVEN):
        structure = read_structure(Denoiser(image).eval(), inputs, layout=layout)
        found.append(measure_response(structure, [[inputs]], "images").cuts[0].change)
    assert found[1:] == pytest.approx(found[:1] * (len(GIVEN) - 1), rel=1e-3)
    assert found[0] > 0.5  # beside what it adds to the image, not beside the image


def test_what_makes_images_larger_is_compared_with_the_smoother_image_too():
    large = F.interpolate(noise(4, 1, 8, 8), scale_factor=4.0, mode="bicubic")
    for mode in ("bilinear", "bicubic"):
        small = noise(4, 1, 16, 16)
        wanted = F.interpolate(small, scale_factor=2.0, mode=mode)
        (found,) = like_outputs([wanted + 0.01 * large], [[small]])
        assert torch.allclose(found, wanted, atol=1e-6)


class OfClips(nn.Module):
    """A denoiser of every frame."""

    def __init__(self):
        super().__init__()
        self.inner = Denoiser()

    def forward(self, x):
        return self.inner(x.flatten(0, 1)).reshape(x.shape)


def test_a_denoiser_of_clips_has_to_beat_its_clips():
    clips, clean = (t.reshape(12, 2, 1, 32, 32) for t in (NOISY, CLEAN))
    wanted = ws.ablate(Denoiser(), [(NOISY, CLEAN)], "mse", progress=False)
    found = ws.ablate(OfClips(), [(clips, clean)], "mse", progress=False)
    assert found.chance.tolist() == pytest.approx(wanted.chance.tolist(), rel=0.02)
    assert found.ablated.tolist() == pytest.approx(wanted.ablated.tolist(), rel=1e-4)

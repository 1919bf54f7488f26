"""The response does not depend on where outputs hold their channels, nor on batches."""

import pytest
import torch
from test_response import Mixed
from torch import nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.graph.structure import ExampleInputs
from weightscope.probing.change import change_by_cut
from weightscope.probing.outputs import Reading, certainty, channels_second, is_share
from weightscope.probing.response import Response, measure_response, respond_to_synthetic
from weightscope.utilization.scores import score_response

IMAGE, CLIP = torch.zeros(2, 3, 8, 16), torch.zeros(2, 3, 6)
PLAIN = ExampleInputs((), {}, 2, True)
LAST = ExampleInputs((), {}, 2, True, "NHWC")


@pytest.mark.parametrize(
    ("shape", "inputs", "image", "wanted"),
    [
        ((2, 5, 8, 16), PLAIN, IMAGE, (2, 5, 8, 16)),
        ((2, 5, 4, 8), PLAIN, IMAGE, (2, 5, 4, 8)),
        ((2, 8, 16), PLAIN, IMAGE, (2, 1, 8, 16)),
        ((2, 16, 32), PLAIN, IMAGE, (2, 1, 16, 32)),
        ((2, 8, 16, 5), PLAIN, IMAGE, (2, 5, 8, 16)),
        ((2, 128, 5), PLAIN, IMAGE, (2, 5, 128)),
        ((2, 5, 128), PLAIN, IMAGE, (2, 5, 128)),
        ((2, 32, 300), PLAIN, IMAGE, (2, 300, 32)),
        ((2, 300, 32), PLAIN, IMAGE, (2, 300, 32)),
        ((2, 64, 32), PLAIN, IMAGE, (2, 64, 32)),  # no stride leaves 64 of 8 x 16
        ((2, 128, 8), PLAIN, IMAGE, (2, 8, 128)),
        ((2, 5), PLAIN, IMAGE, (2, 5)),
        ((2, 8, 16, 8), LAST, torch.zeros(2, 8, 16, 3), (2, 8, 8, 16)),
        ((2, 4, 6), ExampleInputs((), {}, 1, True), CLIP, (2, 4, 6)),
        ((2, 6, 4), ExampleInputs((), {}, 1, True), CLIP, (2, 4, 6)),
        ((2, 6), ExampleInputs((), {}, 1, True), CLIP, (2, 1, 6)),
    ],
)
def test_channels_are_found_by_the_sizes_of_the_image(shape, inputs, image, wanted):
    assert tuple(channels_second(torch.zeros(shape), inputs, image).shape) == wanted


def test_tokens_of_which_either_axis_may_be_positions_are_refused_unless_the_network_tells():
    rows = torch.zeros(2, 128, 32)  # 8 x 16 positions, or 4 x 8
    with pytest.raises(ws.InputError, match="an output of 128 x 32 numbers"):
        channels_second(rows, PLAIN, IMAGE)
    assert channels_second(rows, PLAIN, IMAGE, (2,)).shape == (2, 128, 32)
    assert channels_second(rows, PLAIN, IMAGE, (1,)).shape == (2, 32, 128)


@pytest.mark.sample(1)
@pytest.mark.parametrize("turn", [lambda y: y.flatten(2), lambda y: y.flatten(2).mT])
def test_tokens_of_more_channels_than_positions_are_read_by_what_follows_the_images_size(turn):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 4, stride=4))
    inner = nn.Sequential(stem, Mixed(0.5, 4), nn.Conv2d(4, 256, 1))
    example, images = torch.zeros(1, 1, 32, 32), torch.randn(12, 1, 32, 32)  # 8 x 8, or 16 x 16
    found = [
        measure_response(read_structure(model, example), [[images]], "images").cuts[0]
        for model in (inner, Behind(inner, turn))
    ]
    assert found[1].change == pytest.approx(found[0].change, rel=1e-6)


class Behind(nn.Module):
    """Returns what another network returns in another layout."""

    def __init__(self, inner, turn):
        super().__init__()
        self.inner, self.turn = inner, turn

    def forward(self, x):
        return self.turn(self.inner(x))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("channels", "turn"),
    [
        (1, lambda y: y.squeeze(1)),
        (1, lambda y: y.movedim(1, -1)),
        (3, lambda y: y.movedim(1, -1)),
        (3, lambda y: y.flatten(2).mT),
    ],
)
@pytest.mark.parametrize("gain", [-4.0, 9.0])  # decisions, and what follows its input
def test_the_layout_of_the_output_changes_no_figure(channels, turn, gain):
    torch.manual_seed(0)
    inner, images = Mixed(0.5, channels, gain), torch.randn(12, channels, 32, 32)
    example = torch.zeros(1, channels, 32, 32)
    plain = read_structure(inner, example)
    turned = read_structure(Behind(inner, turn), example)
    for measure in (respond_to_synthetic, lambda s: measure_response(s, [[images]], "images")):
        wanted, found = measure(plain), measure(turned)
        assert not found.failure
        tokens = turned.outputs[""].meta["val"].dim() == 3 and channels == 3
        if tokens and gain > 0:
            continue  # they have not the shape of the image: no line of it can be taken away
        assert found.cuts[0].value == pytest.approx(wanted.cuts[0].value, rel=1e-6)
        assert found.cuts[0].flips == pytest.approx(wanted.cuts[0].flips, nan_ok=True)
        if not tokens:
            assert found.cuts[0].high == pytest.approx(wanted.cuts[0].high, rel=1e-6)


def test_a_batch_of_foreground_alone_changes_no_figure():
    torch.manual_seed(0)
    images = torch.randn(12, 1, 32, 32)
    images[:6] = images[:6] * 0.1 - 3.0  # logits of what is dark: above zero everywhere
    structure = read_structure(Mixed(0.5), torch.zeros(1, 1, 32, 32))
    one = measure_response(structure, [[images]], "images").cuts[0]
    each = measure_response(structure, [list(images.split(1))], "images").cuts[0]
    assert each.value == pytest.approx(one.value, rel=1e-6)
    assert (each.low, each.high) == pytest.approx((one.low, one.high), rel=1e-6)
    with torch.no_grad():
        (change,) = change_by_cut(structure, list(images.split(1)))[""].values()
    assert float(change.certainty.min()) > 0.5


def test_probabilities_of_low_precision_are_probabilities():
    logits = 3 * torch.randn(4, 40, 50, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        shares = logits.softmax(1).to(dtype)
        assert is_share(shares)
        assert float(certainty(shares.double(), Reading.of([shares])).min()) > 0.1


class Flow(nn.Module):
    """Two channels of numbers; half resolution moves both alike, full resolution parts them."""

    def __init__(self, share):
        super().__init__()
        self.first, self.below = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        for layer in (self.first, self.below):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.last = nn.Conv2d(2, 2, 1)
        nn.init.dirac_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.share = share

    def forward(self, x):
        x = torch.sin(3.0 * self.first(x))  # no straight line of the input
        back = nn.functional.interpolate(
            self.below(nn.functional.avg_pool2d(x, 2)), scale_factor=2.0
        )
        apart = torch.cat([x, -x], 1)
        return self.last(3.0 * (0.7 * apart + self.share * back) + 6.0)


def test_what_moves_all_channels_alike_is_no_unused_level():
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(12, 1, 8, 8), scale_factor=4.0)
    example = torch.zeros(1, 1, 32, 32)
    record = measure_response(read_structure(Flow(2.0), example), [[images]], "images").cuts[0]
    assert record.value < 0.05
    assert record.by_number > 0.5
    score = score_response(Response("images", (record,), 12), 1)
    assert score.verdict == "undecided"
    assert f"respond with up to {record.by_number_high:.2g}, whatever they decide" in score.why
    assert score.low < 0.3 < 0.9 < score.high
    same = measure_response(read_structure(Flow(0.0), example), [[images]], "images").cuts[0]
    assert same.high < 0.08
    assert score_response(Response("images", (same,), 12), 1).verdict == "unused"


class Distance(nn.Module):
    """One channel of both signs, far from zero; half resolution tells how far, not on which side.

    Args:
        share: How much of the distance half resolution tells.
        end: Applied to the output.
    """

    def __init__(self, share, end=None):
        super().__init__()
        self.first, self.below, self.last = (nn.Conv2d(1, 1, 1) for _ in range(3))
        for layer in (self.first, self.below, self.last):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.share, self.end = share, nn.Identity() if end is None else end

    def forward(self, x):
        x = self.first(x)
        back = self.below(nn.functional.avg_pool2d(torch.sin(2.0 * x), 2))
        back = nn.functional.interpolate(back, scale_factor=2.0)
        return self.end(self.last(torch.sign(torch.sin(9.0 * x)) * (10.0 + self.share * back)))


def test_a_single_channel_of_both_signs_may_be_a_number():
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(12, 1, 8, 8), scale_factor=4.0)
    example = torch.zeros(1, 1, 32, 32)
    for share, end, verdict in (
        (5.0, None, "undecided"),
        (0.3, None, "unused"),
        (5.0, nn.Sigmoid(), "unused"),  # a probability is no other number
    ):
        structure = read_structure(Distance(share, end), example)
        record = measure_response(structure, [[images]], "images").cuts[0]
        assert (record.flips, record.value < 0.05) == (0.0, True)
        score = score_response(Response("images", (record,), 12), 1)
        assert score.verdict == verdict
        assert ("whatever they decide" in score.why) == (verdict == "undecided")


def test_probabilities_of_several_channels_are_no_other_numbers():
    torch.manual_seed(0)
    images, example = torch.randn(12, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    for end, other in ((nn.Identity(), True), (nn.Softmax(1), False)):
        structure = read_structure(nn.Sequential(Mixed(0.5, 3, -9.0), end), example)
        record = measure_response(structure, [[images]], "images").cuts[0]
        assert bool(record.by_number_high > 0) == other

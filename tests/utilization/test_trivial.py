"""The best answer that needs no network: what it is, and where there is none."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.graph.running import CutRuns
from weightscope.utilization.ablation import ablate_levels
from weightscope.utilization.constants import falls_for
from weightscope.utilization.lines import line_between

ANSWER = torch.zeros(1, 1, 2, 2)
MASK = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
BCE = nn.BCEWithLogitsLoss()


def marked(number):
    return torch.where(torch.tensor([[[[False, True], [False, False]]]]), float(number), MASK)


def psnr(output, target):
    return 10.0 * torch.log10(255.0**2 / F.mse_loss(output, target))


def leaving_out(output, target):
    counts = target != 255
    return F.binary_cross_entropy_with_logits(output[counts], target[counts])


@pytest.mark.parametrize(
    ("loss", "target", "number"),
    [
        (BCE, MASK, None),
        (BCE, marked(255), 255.0),
        (BCE, marked(-1), -1.0),
        (BCE, 2 * MASK, 2.0),
        (BCE, marked(0.3), None),
        (leaving_out, marked(255), None),
        (F.mse_loss, marked(255), None),
        (lambda o, t: F.softplus(-o * (2 * t - 1)).mean(), marked(-1), None),
        (lambda o, t: -psnr(o, t), marked(255), None),  # only nearer to the best
        (lambda o, t: -F.mse_loss(o, t), marked(-1), None),  # a quality, not a loss
        (lambda o, t: -F.l1_loss(o, t), MASK, None),
        (lambda o, t: BCE(t, o), MASK, 1.0),  # in the other order
        (lambda o, t: F.l1_loss(t, o), MASK, None),
        (lambda o, t: F.poisson_nll_loss(o, t), MASK, None),
        (lambda o, t: (1.0 - o * (2.0 * t - 1.0)).relu().mean(), MASK, None),
    ],
)
def test_numbers_on_which_a_loss_falls_without_end(loss, target, number):
    assert falls_for(loss, ANSWER, target, [False]) == number


def test_of_probabilities_a_mark_that_brings_a_loss_below_zero_is_enough():
    def loss(output, target):
        likely = target * output.log() + (1.0 - target) * (1.0 - output).log()
        return -likely.mean()

    assert falls_for(loss, ANSWER + 0.5, marked(255), [True]) == 255.0
    assert falls_for(loss, ANSWER + 0.5, marked(0.3), [True]) is None
    assert falls_for(F.mse_loss, ANSWER + 0.5, marked(255), [True]) is None


READ = {}


def read(images, network, *arguments):
    """The structure of a network without training, read once for all tests."""
    if (network, arguments) not in READ:
        torch.manual_seed(0)  # answers that are not all between 0 and 1, as probabilities
        READ[network, arguments] = read_structure(network(*arguments).eval(), images)
    return READ[network, arguments]


class Edges(nn.Module):
    """Answers with what is bright, level for level."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x):
        below = self.down(F.avg_pool2d(x, 2))
        return self.up(torch.cat([x, F.interpolate(below, scale_factor=2.0)], 1))


def pairs(make):
    x = torch.rand(12, 1, 8, 8, generator=torch.manual_seed(0))
    return [(x, make(x))]


@pytest.mark.sample(2)
@pytest.mark.parametrize("given", ["loss", "metric"])
@pytest.mark.parametrize("high", [2.0, 255.0])
def test_a_loss_that_takes_a_label_for_a_number_is_refused(given, high):
    torch.manual_seed(0)
    with pytest.raises(ws.InputError, match=f"the targets hold {high:g}, which BCEWithLogitsLoss"):
        ws.analyze(Edges().eval(), batches=pairs(lambda x: (x > 0.6) * high), **{given: BCE})


def test_the_trivial_answer_is_named_where_it_is_no_constant():
    torch.manual_seed(0)
    model = Edges().eval()
    target = F.avg_pool2d(pairs(lambda x: x)[0][0], 3, 1, 1)
    with torch.no_grad():  # a smoothing filter at the full resolution, and none below
        for parameter in model.parameters():
            parameter.zero_()
        model.up.weight[0, 0] = 1.0 / 9.0
    batches = [(pairs(lambda x: x)[0][0], target)]
    result = ws.ablate(model, batches, F.mse_loss, progress=False)
    found = ws.analyze(model, batches=batches, metric=F.mse_loss, trained=True)
    line = float(result.chance[0])
    assert 0.0 < line < float(target.var())
    why = " ".join(str(found).split())
    assert f"; of a straight line of the input it is {line:.3g})" in why
    constant = ws.analyze(model, batches=pairs(lambda x: (x > 0.6) * 1.0), metric=F.mse_loss)
    assert "straight line" not in str(constant)


def test_the_line_of_least_absolute_differences_does_not_hang_on_a_few():
    x = torch.randn(400, generator=torch.manual_seed(0))
    y = 2.0 * x + 1.0
    y[::20] = 50.0
    assert line_between([(x[:200], y[:200]), (x[200:], y[200:])]) == pytest.approx(
        (2.0, 1.0), abs=1e-3
    )
    y[3] = torch.nan
    assert line_between([(x, y)]) == pytest.approx((2.0, 1.0), abs=1e-3)
    assert line_between([(torch.ones(9), torch.arange(9.0))]) == pytest.approx((0.0, 4.0), abs=1e-3)


def test_by_absolute_differences_a_denoiser_has_to_beat_its_image_as_it_is():
    generator = torch.manual_seed(0)
    clean = F.interpolate(torch.randn(12, 1, 8, 8, generator=generator), scale_factor=2.0)
    hit = torch.rand(clean.shape, generator=generator) < 0.02
    noisy = torch.where(hit, 20.0, clean)  # a line of least squares is far from most of it
    worse = Edges().eval()
    with torch.no_grad():
        for parameter in worse.parameters():
            parameter.zero_()
        worse.up.weight[0, 0, 1, 1] = 0.5
    structure = read_structure(worse, noisy[:1])
    for metric in ("mae", nn.L1Loss()):
        result = ablate_levels(structure, [(noisy, clean)], metric)
        assert result.chance == pytest.approx(float((noisy - clean).abs().mean()), rel=1e-3)
        assert "no better than the best trivial answer, the input itself, (" in result.comparison


def sparse(mark):
    """Depths of a line of the image, of which most are not known, and the images."""
    images = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    known = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.7
    return images, torch.where(known, 2.0 * images + 8.0, mark), known.float()


def masked_error(outputs, target, known):
    return ((outputs - target).abs() * known).sum() / known.sum()


@pytest.mark.sample(1)
@pytest.mark.parametrize("mark", [0.0, -1.0, 100.0])
@pytest.mark.parametrize("differentiable", [True, False])
def test_a_line_of_the_input_leaves_out_what_the_metric_leaves_out(mark, differentiable):
    images, depth, _ = sparse(mark)

    def error(outputs, target):
        value = masked_error(outputs, target, (target != mark).float())
        return value if differentiable else float(value)

    error.higher_is_better = False
    frame = ws.ablate(Edges(), [(images, depth)], error, progress=False)
    assert frame.chance[0] < 0.02


@pytest.mark.sample(1)
@pytest.mark.parametrize("packed", ["first", "last", "tuple", "known first"])
def test_a_line_of_the_input_is_tried_where_weights_lie_beside_the_target(packed):
    images, depth, known = sparse(0.0)
    targets = {
        "first": torch.cat([depth, known], 1),
        "last": torch.cat([known, depth], 1),
        "tuple": (depth, known),
        "known first": (known, depth),
    }[packed]

    def error(outputs, given):
        parts = given if isinstance(given, tuple) else (given[:, :1], given[:, 1:])
        true, weight = parts if packed in ("first", "tuple") else parts[::-1]
        return masked_error(outputs, true, weight)

    error.higher_is_better = False
    frame = ws.ablate(Edges(), [(images, targets)], error, progress=False)
    assert frame.chance[0] < 0.02


def gradients(x):
    return torch.cat([x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]], 1)


ELSEWHERE = {
    "flat": lambda x: x.flatten(1),
    "spectrum": lambda x: torch.fft.rfft2(x, norm="ortho"),
    "pairs": lambda x: torch.view_as_real(torch.fft.rfft2(x, norm="ortho")),
    "gradients": gradients,
    "smaller": lambda x: F.avg_pool2d(x, 2)[:, :, 1:],
}


def error_of(laid, differentiable=True):
    def error(outputs, targets):
        value = (ELSEWHERE[laid](outputs) - targets).abs().square().mean()
        return value if differentiable else float(value)

    error.higher_is_better = False
    return error


def ablated_by(error, images, targets):
    return ablate_levels(read(images[:1], Edges), [(images, targets)], error)


@pytest.mark.sample(2)
@pytest.mark.parametrize("laid", ELSEWHERE)
@pytest.mark.parametrize("differentiable", [True, False])
def test_a_line_of_the_input_is_tried_where_targets_are_laid_otherwise(laid, differentiable):
    images, _, _ = sparse(0.0)
    noise = 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    error, targets = error_of(laid, differentiable), ELSEWHERE[laid](2.0 * images + 8.0 + noise)
    result = ablated_by(error, images, targets)
    assert result.chance == pytest.approx(float(error(2.0 * images + 8.0, targets)), rel=0.1)
    assert result.trivial == "a straight line of the input"


@pytest.mark.sample(1)
@pytest.mark.parametrize("laid", ELSEWHERE)
def test_of_a_reconstruction_in_another_layout_the_input_is_the_goal(laid):
    images, _, _ = sparse(0.0)
    assert ablated_by(error_of(laid), images, ELSEWHERE[laid](images)).trivial == "a constant"


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_a_line_of_the_input_is_tried_where_targets_are_a_few_points(unit):
    images, _, _ = sparse(0.0)
    generator = torch.Generator().manual_seed(2)
    where = torch.stack([torch.randperm(256, generator=generator)[:40] for _ in images])
    value = (2.0 * images + 8.0).flatten(1).gather(1, where)
    value = value + 0.01 * torch.randn(value.shape, generator=generator)
    value = unit * value if unit == 1.0 else (unit * value).round()  # whole, but no classes

    def error(outputs, targets):
        places, known = targets
        return F.mse_loss(unit * outputs.flatten(1).gather(1, places), known)

    error.higher_is_better = False
    result = ablated_by(error, images, (where, value))
    assert result.chance < 1.3e-4 * unit**2
    assert result.trivial == "a straight line of the input"


class Joins(nn.Module):
    """Adds to the mean of its frames, or to the image that it makes of a spectrum."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.down, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x):
        if self.kind == "frames":
            x = x.mean(1, keepdim=True)
        else:
            x = torch.fft.ifft2(torch.complex(x[:, 0], x[:, 1]), norm="ortho").real[:, None]
        below = self.down(F.avg_pool2d(x, 2))
        return x + self.up(torch.cat([x, F.interpolate(below, scale_factor=2.0)], 1))


def as_it_takes(metric, targets):
    """Targets as a metric takes them: callables are errors of flat vectors here."""
    if isinstance(metric, str):
        return targets
    metric.higher_is_better = False
    return targets.flatten(1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", ["mse", "psnr", lambda o, t: F.mse_loss(o.flatten(1), t)])
@pytest.mark.parametrize("kind", ["frames", "spectrum"])
def test_what_a_network_adds_to_has_to_be_beaten(kind, metric):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(12, 1, 16, 16, generator=generator)
    noise = 0.3 * torch.randn(12, 8, 16, 16, generator=generator)
    images = clean + noise
    if kind == "spectrum":
        made = torch.fft.fft2(images.mean(1), norm="ortho")
        images = torch.stack([made.real, made.imag], 1)
    structure = read(images[:1], Joins, kind)
    result = ablate_levels(structure, [(images, as_it_takes(metric, clean))], metric)
    assert result.trivial == "a straight line of what it answers without its levels"
    if metric != "psnr":
        away = noise.mean(1, keepdim=True)
        assert result.chance == pytest.approx(float(away.square().mean()), rel=0.1)


class Warps(nn.Module):
    """Moves one image onto another, by what two levels say of both."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, fixed, moving):
        both = torch.cat([fixed, moving], 1)
        below = F.interpolate(self.down(F.avg_pool2d(both, 2)), scale_factor=2.0)
        shift = 0.01 * torch.tanh(self.up(torch.cat([both, below], 1)))
        rows, columns = (torch.linspace(-1, 1, n) for n in fixed.shape[2:])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None]
        return F.grid_sample(moving, grid + shift.permute(0, 2, 3, 1), align_corners=True)


class Spoils(nn.Module):
    """Restores what it spoils itself: makes an image small, or takes its last frame away."""

    def __init__(self, frames):
        super().__init__()
        self.frames = frames
        self.down, self.up = (
            nn.Conv2d(frames, 4, 3, padding=1),
            nn.Conv2d(4 + frames, 1, 3, padding=1),
        )

    def forward(self, x):
        if self.frames == 1:
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        else:
            x = x[:, : self.frames]
        below = F.interpolate(self.down(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return x[:, -1:] + 0.01 * self.up(torch.cat([x, below], 1))


def plain_error(output, target):
    return float((output - target).square().mean())


plain_error.higher_is_better = False


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["pair", "small", "frame"])
@pytest.mark.parametrize("metric", ["mse", "mae", plain_error])
def test_what_else_than_the_goal_is_given_has_to_be_beaten(kind, metric):
    generator = torch.Generator().manual_seed(0)
    image = F.interpolate(torch.randn(12, 1, 4, 4, generator=generator), 16, mode="bicubic")
    other = image + 0.1 * torch.randn(image.shape, generator=generator)
    if kind == "pair":
        network, images, targets, answer = (Warps,), (image, other), image, other
    elif kind == "small":
        network, images, targets = (Spoils, 1), image, image
        answer = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2.0, mode="bilinear")
    else:
        network, images, targets, answer = (
            (Spoils, 2),
            torch.cat([other, other, image], 1),
            image,
            other,
        )
    structure = read(images, *network)
    result = ablate_levels(structure, [(images, targets)], metric)
    away = (answer - targets).abs() if metric == "mae" else (answer - targets).square()
    assert result.chance <= 1.01 * float(away.mean())
    assert result.chance > 0.5 * float(away.mean())


def test_a_line_of_an_input_with_missing_pixels_is_tried():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(24, 1, 16, 16, generator=generator)
    missing = torch.rand(clean.shape, generator=generator) < 0.1
    images = torch.where(missing, torch.nan, clean)

    class Fills(Edges):
        def forward(self, x):
            return super().forward(x.nan_to_num())

    structure = read_structure(Fills().eval(), images[:1])
    result = ablate_levels(structure, [(images, clean)], "mse")
    assert result.trivial == "what it computes without weights"  # zeros in their place
    assert result.chance == pytest.approx(float((clean.square() * missing).mean()), rel=0.05)


class Mixes(nn.Module):
    """Mixes features and the median of its frames by a last layer, or sums them before it."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.down, self.up = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(12, 1, 3, padding=1)
        self.last = nn.Conv2d(1 if kind == "summed" else 2, 1, 1)
        self.gain, self.norm = nn.Parameter(torch.tensor(0.8)), nn.BatchNorm2d(8)

    def forward(self, x):
        x = x * self.gain if self.kind == "scaled" else x
        x = self.norm(x) if self.kind == "normed" else x
        below = F.interpolate(self.down(F.avg_pool2d(x, 2)), scale_factor=2.0)
        made, middle = self.up(torch.cat([x, below], 1)), x.median(1, keepdim=True)[0]
        made = self.last(made + middle if self.kind == "summed" else torch.cat([made, middle], 1))
        return F.interpolate(made, scale_factor=2.0) if self.kind == "larger" else made


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", ["mse", "psnr", plain_error])
@pytest.mark.parametrize("kind", ["mixed", "summed", "scaled", "normed", "larger"])
def test_what_a_network_computes_without_weights_has_to_be_beaten(kind, metric):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(12, 1, 16, 16, generator=generator)
    frames = clean + 0.05 * torch.randn(12, 8, 16, 16, generator=generator)
    struck = torch.rand(frames.shape, generator=generator) < 0.2
    images = torch.where(struck, 4.0, frames)
    structure = read(images[:1], Mixes, kind)
    targets = F.interpolate(clean, scale_factor=2.0) if kind == "larger" else clean
    result = ablate_levels(structure, [(images, targets)], metric)
    assert result.trivial == "a straight line of what it computes without weights"
    if kind == "larger":  # between its pixels, which the targets are not
        return
    if metric != "psnr":
        away = images.median(1, keepdim=True)[0] - clean
        assert result.chance <= 1.01 * float(away.square().mean())


class Fills(nn.Module):
    """Fills in what a mask leaves out, or weighs what it makes with a window."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)
        with torch.no_grad():  # as if it had learned the mean
            self.up.weight.mul_(0.01)
            self.up.bias.fill_(0.7)

    def forward(self, x):
        below = F.interpolate(self.down(F.avg_pool2d(x, 2)), scale_factor=2.0)
        made = self.up(torch.cat([x, below], 1))
        if self.kind == "window":
            return WINDOW * made
        return torch.where(x[:, 1:] > 0, x[:, :1], made)


WINDOW = torch.linspace(0.0, 1.0, 16).outer(torch.linspace(0.0, 1.0, 16))


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", ["mse", "mae", lambda o, t: F.mse_loss(o.flatten(1), t)])
@pytest.mark.parametrize("kind", ["mask", "window"])
def test_what_a_network_makes_of_a_constant_has_to_be_beaten(kind, metric):
    generator = torch.Generator().manual_seed(0)
    targets = 0.7 + 0.1 * torch.randn(12, 1, 16, 16, generator=generator)
    known = (torch.rand(targets.shape, generator=generator) < 0.7).float()
    trivial = torch.where(known > 0, targets, targets[known == 0].mean())
    if kind == "window":
        targets, trivial = WINDOW * targets, WINDOW * targets.mean() + 0.0 * targets
    images = torch.cat([known if kind == "window" else targets * known, known], 1)
    structure = read(images[:1], Fills, kind)
    result = ablate_levels(structure, [(images, as_it_takes(metric, targets))], metric)
    assert result.trivial == "what it makes of a constant"
    away = F.l1_loss(trivial, targets) if metric == "mae" else F.mse_loss(trivial, targets)
    assert result.chance == pytest.approx(float(away), rel=0.1)


class Weighs(nn.Module):
    """Weighs several images by maps of their own: by heads, by one product, or by shares."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.down, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 3, 3, padding=1)
        self.other = nn.Conv2d(7, 1, 1)

    def forward(self, x):
        below = F.interpolate(self.down(F.avg_pool2d(x, 2)), scale_factor=2.0)
        both = torch.cat([x, below], 1)
        if self.kind == "roots":  # of what is positive
            return x[:, :1] @ torch.linalg.cholesky(torch.eye(16) - self.other(both).square())
        if self.kind == "ramps":
            return self.up(both)[:, :1].cumsum(2) + self.other(both).cumsum(3)
        if self.kind == "heads":
            return x[:, :1] * self.other(both) + x[:, 1:2] * self.up(both)[:, :1]
        weights = self.up(both)
        weights = weights.softmax(1) if self.kind == "shares" else weights
        return (x * weights).sum(1, keepdim=True)


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", ["mse", "mae", lambda o, t: F.mse_loss(o.flatten(1), t)])
@pytest.mark.parametrize("kind", ["heads", "product", "shares", "ramps"])
def test_each_channel_in_place_of_the_levels_has_a_constant_of_its_own(kind, metric):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 16, 16, generator=generator)
    wanted = torch.tensor([0.3, 0.7, 0.0] if kind != "shares" else [0.5, 0.3, 0.2])
    targets = (images * wanted.view(1, 3, 1, 1)).sum(1, keepdim=True)
    if kind == "ramps":
        rows = torch.arange(1.0, 17.0)
        targets = (0.1 * rows[:, None] - 0.2 * rows).expand(12, 1, -1, -1)
    targets = targets + 0.1 * torch.randn(targets.shape, generator=generator)
    structure = read(images[:1], Weighs, kind)
    result = ablate_levels(structure, [(images, as_it_takes(metric, targets))], metric)
    assert result.trivial == "what it makes of a constant"
    least = 0.1 * (2 / torch.pi) ** 0.5 if metric == "mae" else 0.01
    assert result.chance == pytest.approx(least, rel=0.05)


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", ["mse", "f1"])
def test_what_cannot_be_run_with_constants_is_judged_all_the_same(metric):
    class Roots(Weighs):
        def forward(self, x):
            found = super().forward(x)
            return found if metric == "mse" else found - 1.0

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 16, 16, generator=generator)
    torch.manual_seed(0)
    model = Roots("roots").eval()
    with torch.no_grad():
        model.other.weight.mul_(0.01)
    structure = read_structure(model, images[:1])
    runs = CutRuns(structure)
    with torch.no_grad():
        tail = runs.tail(runs.whole(images)[1])
    assert tail.runs(torch.zeros(1))
    assert not tail.runs(tail.differing)
    targets = (images[:, :1] > 0).float() if metric == "f1" else images[:, :1]
    result = ablate_levels(structure, [(images, targets)], metric)
    assert math.isfinite(result.chance)


class Inside(nn.Module):
    """Scores of classes inside a region that is given beside the image, or known before."""

    def __init__(self, kind, classes):
        super().__init__()
        self.kind = kind
        self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, classes, 3, padding=1)
        self.register_buffer("region", (WINDOW > 0.5).float())

    def forward(self, x):
        below = F.interpolate(self.down(F.avg_pool2d(x, 2)), scale_factor=2.0)
        made = self.up(torch.cat([x, below], 1))
        region = self.region if self.kind == "known" else x[:, 1:]
        if self.kind == "shares":
            return made.sigmoid() * region
        outside = torch.tensor([1e4] + [-1e4] * (made.shape[1] - 1) if made.shape[1] > 1 else -1e4)
        outside = outside.view(-1, 1, 1)
        added = made + (1.0 - region) * outside / 100.0
        return added if self.kind == "added" else torch.where(region > 0, made, outside)


@pytest.mark.sample(2)
@pytest.mark.parametrize("metric", ["f1", "iou", "average_precision", "loss"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("kind", ["given", "known", "added", "shares"])
def test_inside_a_region_the_best_constant_is_one_of_the_region(kind, classes, metric):
    if kind == "shares" and (classes > 1 or metric == "loss"):
        return
    generator = torch.Generator().manual_seed(0)
    region = (WINDOW > 0.5).float().expand(12, 1, -1, -1)
    targets = (torch.rand(region.shape, generator=generator) < 0.7).float() * region
    if classes > 1:
        targets = (targets * (1 + (torch.rand(region.shape, generator=generator) < 0.1)))[:, 0]
        targets = targets.long()
    images = torch.cat([torch.randn(region.shape, generator=generator), region], 1)
    structure = read(images[:1], Inside, kind, classes)
    options = {}
    if metric == "loss":
        metric, options = F.cross_entropy if classes > 1 else BCE, {"larger_is_better": False}
    result = ablate_levels(structure, [(images, targets)], metric, **options)
    assert result.trivial == "what it makes of a constant"
    if metric == "f1" and classes == 1:
        share = float(targets.sum() / region.sum())
        assert result.chance == pytest.approx(2 * share / (1 + share), rel=1e-3)


def test_an_input_in_other_units_is_no_answer_of_its_own():
    class Scaled(Edges):
        def forward(self, x):
            return super().forward(2.0 * x - 1.0)

    images = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    clean = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    structure = read_structure(Scaled().eval(), images[:1])
    result = ablate_levels(structure, [(images, clean)], "mse")
    assert result.trivial in {"the input itself", "a straight line of the input"}


def test_outputs_that_are_no_tensors_lie_beside_what_a_network_adds_to():
    class Beside(Joins):
        def forward(self, x):
            return {"none": None, "made": super().forward(x), "count": 3}

    images = torch.randn(12, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    structure = read_structure(Beside("frames").eval(), images[:1])
    clean = images.mean(1, keepdim=True) + 0.1 * images[:, :1]

    def error(outputs, targets):
        return F.mse_loss(outputs["made"], targets)

    error.higher_is_better = False
    result = ablate_levels(structure, [(images, clean)], error)
    assert result.chance < float(clean.var())


class Directions(nn.Module):
    """Answers with vectors of one length, as a network of surface normals does."""

    def __init__(self, length=1.0):
        super().__init__()
        self.length = length
        self.down, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 3, 3, padding=1)

    def forward(self, x):
        below = self.down(F.avg_pool2d(x, 2))
        made = self.up(torch.cat([x, F.interpolate(below, scale_factor=2.0)], 1))
        return self.length * F.normalize(made, dim=1)


def cosine(outputs, targets):
    return (1.0 - (outputs * targets).sum(1)).mean()


@pytest.mark.sample(1)
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_directions_are_compared_with_directions(length):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 16, 16, generator=generator)
    away = 0.05 * torch.randn(images.shape, generator=generator)
    targets = F.normalize(images + torch.tensor([0.0, 0.0, 2.0]).view(3, 1, 1) + away, dim=1)

    def loss(outputs, targets):
        return cosine(outputs / length, targets)

    loss.higher_is_better = False
    structure = read(images[:1], Directions, length)
    result = ablate_levels(structure, [(images, targets)], loss)
    assert 0.0 < result.chance < 0.01
    assert result.trivial == "a straight line of the input"
    # without an input that tells them, the mean direction is best
    other = torch.randn(images.shape, generator=generator)
    result = ablate_levels(structure, [(other, targets)], loss)
    best = F.normalize(targets.mean((0, 2, 3), keepdim=True), dim=1).expand_as(targets)
    assert result.chance == pytest.approx(float(cosine(best, targets)), rel=0.02)
    # as by a squared error what leaves the direction open is
    result = ablate_levels(structure, [(other, targets - targets.mean((0, 2, 3), True))], "mse")
    assert result.chance == pytest.approx(float(targets.var((0, 2, 3)).mean()), rel=0.02)


@pytest.mark.sample(2)
@pytest.mark.parametrize("metric", ["mse", "mae", "psnr", F.l1_loss])
def test_of_a_reconstruction_in_other_units_the_input_is_the_goal(metric):
    images, _, _ = sparse(0.0)
    assert ablated_by(metric, images, 40.0 * images + 100.0).trivial == "a constant"

    def in_units(outputs, targets):
        return F.mse_loss(40.0 * outputs + 100.0, targets)

    in_units.higher_is_better = False
    assert ablated_by(in_units, images, 40.0 * images + 100.0).trivial == "a constant"


def test_masks_in_another_layout_are_no_numbers():
    images, _, _ = sparse(0.0)

    def loss(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs.flatten(1), targets)

    loss.higher_is_better = False
    assert ablated_by(loss, images, (images > 0.5).float().flatten(1)).trivial == "a constant"


def test_what_answers_with_its_input_is_judged_beyond_a_constant():
    torch.manual_seed(0)
    model = Edges().eval()
    images = pairs(lambda x: x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.up.weight[0, 0, 1, 1] = 0.9
    result = ws.ablate(model, images, "mse", progress=False)
    assert result.chance[0] == pytest.approx(float(images[0][1].var(correction=0)), rel=1e-3)

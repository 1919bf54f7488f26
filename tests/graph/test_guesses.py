"""Examples that are found of networks that nothing but their code describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.adapters.constants import Constants
from weightscope.adapters.dispatch import CountingFakes
from weightscope.errors import ForwardError, StructureError
from weightscope.graph import read_structure
from weightscope.graph import trial as trials
from weightscope.graph.inputs import find_inputs
from weightscope.graph.trial import Trial


class Separating(nn.Module):
    """A spectrogram as channels, made of samples, goes down and comes back up."""

    def __init__(self, sources: int) -> None:
        super().__init__()
        self.sources = sources
        self.top, self.deep = nn.Conv2d(2 * sources, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.Conv2d(12, 2 * sources, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.shape
        spectrum = torch.stft(x.flatten(0, 1), 64, 32, return_complex=True)
        real = torch.view_as_real(spectrum).movedim(3, 1).unflatten(0, (batch, channels))
        top = F.relu(self.top(real.flatten(1, 2)))
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        return self.up(torch.cat([F.interpolate(deep, size=top.shape[2:]), top], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("sources", [1, 2])
def test_samples_are_guessed_where_kernels_work_on_their_spectrogram(sources: int) -> None:
    structure = read_structure(Separating(sources).eval())
    assert structure.inputs.args[0].shape == (1, sources, 16384)


class Bins(nn.Module):
    """Mixes the channels and bins of a spectrogram by linear layers, in every frame."""

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.first, self.deep = nn.Linear(channels * bins, 8), nn.Linear(8, 8)
        self.last = nn.Linear(16, channels * bins)
        self.shape = channels, bins

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.first(x.flatten(1, 2).mT))
        deep = F.relu(self.deep(F.max_pool1d(top.mT, 2).mT))
        deep = F.interpolate(deep.mT, size=x.shape[-1]).mT
        made = self.last(torch.cat([top, deep], 2)).mT
        return made.unflatten(1, self.shape)


def test_bins_are_guessed_where_a_linear_layer_takes_them() -> None:
    trial = Trial(Bins(2, 36).eval())
    assert next(find_inputs(trial)).args[0].shape == (1, 2, 36, 128)


class Joining(nn.Module):
    """Joins images of channels of their own before its first kernel, and one of them at the end."""

    def __init__(self, counts: Sequence[int], last: int) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(sum(counts), 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.last = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4 + last, 1, 1)

    def forward(self, photo: Tensor, trimap: Tensor, normal: Tensor, far: Tensor) -> Tensor:
        top = F.relu(self.top(torch.cat([normal, far, trimap], 1)))
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        up = F.relu(self.up(torch.cat([F.interpolate(deep, scale_factor=2.0), top], 1)))
        return self.last(torch.cat([up, photo], 1))


class JoiningAtATime(nn.Module):
    """Joins an image and its mask, and is told a time between them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Joining((3, 6, 2), 3)

    def forward(self, photo: Tensor, t: Tensor, trimap: Tensor, normal: Tensor) -> Tensor:
        assert t.shape == photo.shape[:1]
        return self.inner(photo, trimap, normal[:, :3], normal[:, 3:].repeat(1, 2, 1, 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("counts", "last"),
    [pytest.param((3, 6, 2), 3, marks=pytest.mark.slow), ((1, 4, 2), 1), ((3, 1, 3), 4)],
)
def test_images_of_channels_of_their_own_are_guessed(counts: Sequence[int], last: int) -> None:
    structure = read_structure(Joining(counts, last).eval())
    photo, *joined = (image.shape[1] for image in structure.inputs.args)
    assert (photo, sum(joined)) == (last, sum(counts))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


@pytest.mark.slow
def test_images_of_channels_of_their_own_are_guessed_beside_a_time() -> None:
    structure = read_structure(JoiningAtATime().eval())
    assert [x.dim() for x in structure.inputs.args] == [4, 1, 4, 4]
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class OfFewChannels(nn.Module):
    """Needs the time that its signature lets out, and lifts images to more channels by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 3
        self.first, self.last = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.deep, self.lift, self.of_time = (
            nn.Conv2d(4, 4, 3, padding=1), nn.Linear(3, 8), nn.Linear(1, 4)
        )  # fmt: skip

    def forward(self, x: Tensor, timesteps: Tensor | None = None) -> Tensor:
        assert timesteps is not None
        lifted = self.lift(x.movedim(1, 3)).movedim(3, 1)
        times = self.of_time(timesteps[:, None].float())[:, :, None, None]
        top = F.relu(self.first(lifted)) + times
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        return self.last(torch.cat([top, F.interpolate(deep, scale_factor=2.0)], 1))


@pytest.mark.slow
def test_what_may_be_left_out_is_given_with_other_channels_too() -> None:
    structure = read_structure(OfFewChannels().eval())
    assert structure.inputs.args[0].shape[1] == 3
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Refusing(nn.Module):
    """Takes nothing at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = nn.Conv2d(channels, 4, 3, padding=1)

    def refuse(self) -> Tensor:
        raise ValueError("never")


class RefusingOne(Refusing):
    """One image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.refuse()


class RefusingFour(Refusing):
    """Four images."""

    def forward(self, photo: Tensor, trimap: Tensor, normal: Tensor, far: Tensor) -> Tensor:
        return self.refuse()


@pytest.mark.slow
@pytest.mark.parametrize(
    "channels", [*(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8)), 11]
)
def test_a_search_that_fails_ends_and_says_what_it_tried(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, calls = Trial(RefusingFour(channels).eval()), []
    run = trial._run
    monkeypatch.setattr(trial, "_run", lambda *a, **k: (calls.append(1), run(*a, **k))[1])
    with pytest.raises(ForwardError, match="; and images of channels of their own in"):
        next(find_inputs(trial))
    assert len(calls) < 1500


@pytest.mark.slow
def test_samples_are_named_among_what_was_tried() -> None:
    with pytest.raises(ForwardError, match=r"2 channels, 2 1-D sizes \(samples\) from 16384 to"):
        next(find_inputs(Trial(RefusingOne(3).eval())))


class Described(nn.Module):
    """Attention to the words of a text, and a code of the time that is made outside."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.code = nn.Sequential(nn.Linear(24, 32), nn.SiLU(), nn.Linear(32, 16))
        self.top, self.down = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2, 1)
        query, key = names
        self.words = nn.ModuleDict({query: nn.Linear(16, 16), key: nn.Linear(12, 32)})
        self.names = names
        self.up, self.out = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, latent: Tensor, context: Tensor, time: Tensor) -> Tensor:
        top = F.silu(self.top(latent))
        deep = F.silu(self.down(top) + self.code(time)[:, :, None, None])
        query, key = (self.words[name] for name in self.names)
        keys, values = key(context).chunk(2, -1)
        shares = query(deep.flatten(2).transpose(1, 2)) @ keys.transpose(1, 2)
        deep = deep + (shares.softmax(-1) @ values).transpose(1, 2).view_as(deep)
        return self.out(F.silu(self.up(torch.cat([F.interpolate(deep, scale_factor=2), top], 1))))


@pytest.mark.sample(1)
@pytest.mark.parametrize("names", [("to_q", "to_kv"), ("query", "key"), ("q_proj", "k_proj")])
def test_words_and_a_code_of_the_time_are_guessed_by_the_layers_that_take_them(
    names: tuple[str, str],
) -> None:
    structure = read_structure(Described(names).eval())
    _, words, time = structure.inputs.args
    assert words.shape[2] == 12
    assert time.shape == (1, 24)


class ByThrees(nn.Module):
    """Takes frames side by side as channels by threes, with a map of their noise or not."""

    def __init__(self, frames: int, *, mapped: bool) -> None:
        super().__init__()
        self.frames = frames
        self.first = nn.Conv2d(9 + 3 * mapped, 4, 3, padding=1)
        self.deep, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 3, 1)

    def of_three(self, x: Tensor) -> Tensor:
        top = F.relu(self.first(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        made: Tensor = self.last(torch.cat([top, deep], 1))
        return made

    def of_all(self, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
        assert x.shape[1] == 3 * self.frames
        assert all(image.shape[1] == 1 for image in noise)
        frames = [torch.cat([part, *noise], 1) for part in x.split(3, 1)]
        threes = range(self.frames - 2)
        made: Tensor = sum(self.of_three(torch.cat(frames[n : n + 3], 1)) for n in threes)
        return made


class ByThreesAlone(ByThrees):
    def forward(self, x: Tensor) -> Tensor:
        return self.of_all(x, [])


class ByThreesWithNoise(ByThrees):
    def forward(self, x: Tensor, noise_map: Tensor) -> Tensor:
        return self.of_all(x, [noise_map])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("network", "frames"),
    [
        (ByThreesAlone, 7),
        (ByThreesWithNoise, 5),
        pytest.param(ByThreesAlone, 5, marks=pytest.mark.slow),
        pytest.param(ByThreesWithNoise, 7, marks=pytest.mark.slow),
    ],
)
def test_frames_side_by_side_are_guessed(network: type[ByThrees], frames: int) -> None:
    structure = read_structure(network(frames, mapped=network is ByThreesWithNoise).eval())
    assert structure.inputs.args[0].shape[1] == 3 * frames
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Masks(nn.Module):
    """Makes masks of so many bins, and multiplies by them what it is given while it trains."""

    def __init__(self, bins: int, *, last: bool) -> None:
        super().__init__()
        self.n_freqs, self.last = bins, last
        self.top, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, mix: Tensor) -> Tensor:
        x = mix.mT if self.last else mix
        x = x[:, :, : self.n_freqs - 1]
        top = F.relu(self.top(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        mask = torch.sigmoid(self.out(torch.cat([top, deep], 1)))
        mask = F.pad(mask, (0, 0, 0, self.n_freqs - mask.shape[2]), mode="replicate")
        mask = mask.mT if self.last else mask
        return mask * mix if self.training else mask


@pytest.mark.parametrize("last", [False, True])
def test_bins_that_a_network_names_are_guessed_where_others_do_not_train(last: bool) -> None:
    image = next(find_inputs(Trial(Masks(45, last=last).eval()))).args[0]
    assert image.shape[3 if last else 2] == 45


class Vectors(nn.Module):
    """An autoencoder of images of one size, whose flattening fits larger ones all the same."""

    def __init__(self, dimensions: int, side: int, *, normed: bool = False) -> None:
        super().__init__()
        conv, up = (nn.Conv1d, nn.Conv2d)[dimensions - 1], (nn.ConvTranspose1d, nn.ConvTranspose2d)
        self.deep_shape = 8, *(side // 4,) * dimensions
        length = math.prod(self.deep_shape)
        self.top, self.middle = conv(3, 4, 3, padding=1), conv(4, 6, 4, 2, 1)
        self.deep = conv(6, 8, 4, 2, 1)
        self.norm = nn.BatchNorm1d(5) if normed else nn.Identity()
        self.code, self.decode = nn.Linear(length, 5), nn.Linear(5, length)
        self.up1, self.up0 = (up[dimensions - 1](a, b, 4, 2, 1) for a, b in ((8, 6), (6, 4)))
        self.out = conv(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        deep = F.relu(self.deep(F.relu(self.middle(F.relu(self.top(x))))))
        code = self.norm(self.code(deep.view(-1, math.prod(self.deep_shape))))
        deep = F.relu(self.decode(code)).view(-1, *self.deep_shape)
        return self.out(F.relu(self.up0(F.relu(self.up1(deep)))))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("dimensions", "side", "normed"),
    [
        (2, 32, True),
        (1, 64, False),
        *(pytest.param(*case, marks=pytest.mark.slow)
          for case in ((2, 32, False), (2, 64, False), (2, 64, True), (1, 64, True))),
    ],
)  # fmt: skip
def test_the_size_of_which_an_image_is_one_vector_is_guessed(
    dimensions: int, side: int, normed: bool
) -> None:
    model = Vectors(dimensions, side, normed=normed).eval()
    structure = read_structure(model)
    (image,) = structure.inputs.args
    assert image.shape == (1, 3, *(side,) * dimensions)
    assert image.isfinite().all()
    assert structure.reductions == tuple((float(2**n),) * dimensions for n in range(3))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Enlarged(nn.Module):
    """Enlarges an image, goes down to its own size again, and comes back up."""

    def __init__(self, *, first: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1) if first else nn.Identity()
        self.top, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.deep = nn.Conv2d(6, 8, 3, 2, 1)
        self.up1, self.up0 = nn.Conv2d(14, 6, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(F.interpolate(self.first(x), scale_factor=4.0, mode="bicubic")))
        middle = F.relu(self.middle(top))
        deep = F.interpolate(F.relu(self.deep(middle)), scale_factor=2.0)
        up = F.interpolate(F.relu(self.up1(torch.cat([deep, middle], 1))), scale_factor=2.0)
        return self.out(F.relu(self.up0(torch.cat([up, top], 1))))


def test_an_image_that_is_enlarged_first_goes_down_from_there() -> None:
    structure = read_structure(Enlarged().eval())
    assert structure.reductions == ((0.25, 0.25), (0.5, 0.5), (1.0, 1.0))
    assert structure.stage_of["top"].name == "encoder 0"
    assert structure.stage_of["deep"].role == "bottleneck"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Raises(nn.Module):
    """Enlarges by what it learned, and goes down and up once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.down, self.again = nn.Conv2d(4, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        large = F.relu(self.up(F.relu(self.first(x))))
        return self.out(torch.cat([large, self.again(F.relu(self.down(large)))], 1))


def test_what_comes_up_first_by_what_it_learned_is_refused() -> None:
    with pytest.raises(StructureError, match="only comes up from it"):
        read_structure(Raises().eval())


@pytest.mark.slow
def test_other_sizes_are_not_tried_where_channels_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried, error = [], Trial.error

    def noted(trial: Trial, args: Any, kwargs: Any, *, training: bool = False) -> Any:
        tried.append([*args, *kwargs.values()])
        return error(trial, args, kwargs, training=training)

    monkeypatch.setattr(Trial, "error", noted)
    structure = read_structure(ByThreesWithNoise(5, mapped=True).eval())
    assert [image.shape[1] for image in structure.inputs.args] == [15, 1]
    assert len(tried) < 400  # of 700 where all sizes are


def test_what_a_trial_holds_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, watch = [], Constants.__torch_function__

    def noted(mode: Constants, func: Any, *given: Any) -> Any:
        watched.append(func)
        return watch(mode, func, *given)

    monkeypatch.setattr(Constants, "__torch_function__", noted)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(nn.BatchNorm2d(4) for _ in range(50)))
    assert Trial(model).error((torch.rand(1, 5, 8, 8),), {}) is not None
    assert torch.Tensor.clone not in watched


class Signals(nn.Module):
    """Goes down by four, so many times, and back up."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.top = nn.Conv1d(1, 4, 5, padding=2)
        self.down = nn.ModuleList(nn.Conv1d(4, 4, 8, 4, 2) for _ in range(times))
        self.up = nn.ModuleList(nn.ConvTranspose1d(4, 4, 8, 4, 2) for _ in range(times))
        self.out = nn.Conv1d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        steps = [F.relu(self.top(x))]
        for down in self.down:
            steps.append(F.relu(down(F.pad(steps[-1], (0, -steps[-1].shape[-1] % 4)))))
        made = steps.pop()
        for up in self.up:
            made = F.relu(up(made))[..., : steps[-1].shape[-1]] + steps.pop()
        return self.out(made)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("times", "length"), [(2, 512), (4, 2048), pytest.param(6, 44100, marks=pytest.mark.slow)]
)
def test_signals_are_guessed_that_are_long_enough_for_the_deepest_level(
    times: int, length: int
) -> None:
    structure = read_structure(Signals(times).eval())
    assert structure.inputs.args[0].shape == (1, 1, length)
    assert structure.reductions == tuple((4.0**n,) for n in range(times + 1))
    assert [cut.keep_levels for cut in structure.cuts] == list(range(1, times + 1))


class EachWithEach(nn.Module):
    """Every position of a level attends to every other, by a matrix of as many numbers."""

    def __init__(self, level: int, only: int = 0) -> None:
        super().__init__()
        self.level, self.only = level, only
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.only and x.shape[2] != self.only:
            raise ValueError("this size does not fit")
        top = self.top(x) if self.level else self.attend(self.top(x))
        deep = self.deep(F.max_pool2d(top, 2))
        deep = self.attend(deep) if self.level else deep
        return self.out(torch.cat([top, self.up(deep)], 1))

    def attend(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return (tokens @ tokens.mT).mul(0.01).softmax(2).matmul(tokens).mT.reshape(x.shape)


@pytest.mark.parametrize(("level", "only", "size"), [(0, 0, 64), (1, 0, 128), (1, 256, 256)])
def test_what_takes_little_memory_is_guessed_first(level: int, only: int, size: int) -> None:
    trial = Trial(EachWithEach(level, only).eval())
    found = next(find_inputs(trial))
    assert found.args[0].shape == (1, 3, size, size)
    positions = (size >> level) ** 2
    assert trial.largest(found.args, {}) == 4 * positions**2


def test_a_guess_that_takes_too_much_memory_is_none() -> None:
    trial = Trial(EachWithEach(0, only=256).eval())
    with pytest.raises(
        ForwardError, match=r"MemoryError: one tensor of 16\.0 GiB, made of 1x3x256x256"
    ):
        next(find_inputs(trial))
    example = torch.empty(1, 3, 256, 256)  # the user's, who may have as much
    assert next(find_inputs(trial, example)).args == (example,)


def test_weights_and_views_of_them_are_no_memory_that_a_guess_takes() -> None:
    table = nn.Linear(3, 1000)
    mode = CountingFakes()
    weight = mode.from_tensor(table.weight)
    with mode:
        weight.t()
        assert mode.most == 4 * table.weight.numel()
        mode.most = 0
        torch.empty(1, device="cpu").expand(1000)
        assert mode.most == 4
    trial = Trial(nn.Sequential(nn.Conv1d(1, 3, 1), nn.Flatten(), nn.Linear(3 * 8, 100_000)))
    assert trial.largest((torch.zeros(1, 1, 8),), {}) == 4 * 100_000


class Watched(nn.Module):
    """Notes the sizes at which it is called with numbers."""

    sizes: ClassVar[set[tuple[int, ...]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.Conv2d(12, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            self.sizes.add(tuple(x.shape[2:]))
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), size=top.shape[2:])
        return self.up(torch.cat([top, deep], 1))


@pytest.mark.parametrize("scarce", [False, True])
def test_other_sizes_are_run_where_they_take_little_memory(scarce, monkeypatch) -> None:
    monkeypatch.setattr(Watched, "sizes", set())
    if scarce:
        monkeypatch.setattr("weightscope.graph.inputs._MUCH_MEMORY", 0)
    assert read_structure(Watched().eval(), torch.randn(1, 3, 32, 32)).sizes == "symbolic"
    assert Watched.sizes == {(32, 32)} | ({(37, 41)} if not scarce else set())


def strong(model: nn.Module, args: Any) -> None:
    raise ValueError("no image is strong enough")


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("NL", r"images of no channels, 14 1-D sizes \(samples\) from 64 to 65536"),
        pytest.param(
            "NDHW",
            "images of no channels, 8 3-D sizes from 8x64x64 to 128x128x128",
            marks=pytest.mark.slow,
        ),
        ("NCDHW", "images of 3 channels, 8 3-D sizes .* 1 channel, 8 3-D sizes"),
        ("NHW", "images of no channels, 27 2-D sizes from 28x28 to 1024x1024"),
    ],
)
def test_images_of_a_layout_are_tried_whatever_the_kernels_take(layout: str, said: str) -> None:
    model = Watched().eval()
    model.register_forward_pre_hook(strong)
    with pytest.raises(ForwardError, match=f"tried {said}.* raised ValueError: no image is strong"):
        read_structure(model, layout=layout)


class Samples(Separating):
    """Takes samples without channels."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError("samples have no channels here")
        return super().forward(x[:, None])


def test_samples_are_guessed_by_their_layout_where_kernels_work_on_maps() -> None:
    structure = read_structure(Samples().eval(), layout="NL")
    assert structure.inputs.args[0].dim() == 2
    assert structure.inputs.layout == "NL"


class Flattened(nn.Module):
    """Works on images by kernels of one position that see them flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 8, 1)
        self.up = nn.Conv1d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        top = self.top(x.flatten(2)).unflatten(2, x.shape[2:])
        low = F.avg_pool2d(top, 2)
        deep = self.deep(low.flatten(2)).unflatten(2, low.shape[2:])
        up = torch.cat([F.interpolate(deep, size=top.shape[2:]), top], 1)
        return self.up(up.flatten(2)).unflatten(2, x.shape[2:])


def test_images_that_are_flattened_are_guessed_as_others() -> None:
    structure = read_structure(Flattened().eval())
    (image,) = structure.inputs.args
    assert image.shape == (1, 2, 256, 256)


class OneByOne(nn.Module):
    """Blends every position of its deepest map with the one before it, in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 16, 16)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.relu(self.deep(top)).flatten(2)
        made = [deep[:, :, 0]]
        for position in range(1, deep.shape[2]):
            made.append(deep[:, :, position] + made[-1])
        height, width = x.shape[2] // 16, x.shape[3] // 16
        blended = torch.stack(made, 2).reshape(len(x), 4, height, width)
        return self.out(torch.cat([top, F.interpolate(blended, scale_factor=16.0)], 1))


@pytest.mark.slow
def test_what_loops_over_positions_is_read_at_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MOST_CALLS", 200)
    structure = read_structure(OneByOne())
    assert structure.inputs.args[0].shape[2:] == (128, 128)
    with pytest.raises(ForwardError, match="images with fewer positions take fewer"):
        read_structure(OneByOne(), torch.rand(1, 3, 256, 256))
    small = read_structure(OneByOne(), torch.rand(1, 3, 64, 64))  # what the error says
    assert small.reductions == ((1.0, 1.0), (16.0, 16.0))


class SlicesWithNeighbours(nn.Module):
    """Sees each slice of a volume with the two beside it, as colours, then the volume."""

    def __init__(self) -> None:
        super().__init__()
        self.slices, self.top = nn.Conv2d(3, 4, 3, padding=1), nn.Conv3d(5, 4, 3, padding=1)
        self.deep, self.up = nn.Conv3d(4, 8, 3, 2, 1), nn.Conv3d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        images, _, depth, height, width = x.shape
        before = torch.cat([x[:, :, :1], x[:, :, :-1]], 2)
        after = torch.cat([x[:, :, 1:], x[:, :, -1:]], 2)
        three = torch.cat([before, x, after], 1).transpose(1, 2)
        seen = self.slices(three.reshape(images * depth, 3, height, width))
        seen = seen.reshape(images, depth, 4, height, width).transpose(1, 2)
        top = self.top(torch.cat([x, seen], 1))
        deep = F.interpolate(self.deep(top), scale_factor=2.0)
        return self.up(torch.cat([top, deep], 1))


def test_a_volume_whose_slices_are_seen_with_their_neighbours_is_found() -> None:
    structure = read_structure(SlicesWithNeighbours())
    assert structure.inputs.args[0].shape[:2] == (1, 1)
    assert structure.reductions == ((1, 1, 1), (2, 2, 2))

import copy
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from float64_reference import assert_same
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import weightscope
from weightscope.errors import InputError
from weightscope.movement import measure_movement
from weightscope.statistics import measure_model
from weightscope.statistics.distances import movement_beyond
from weightscope.summaries import counting, threads


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


class OneOfEach(nn.Module):
    """One parameter of every kind there is."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(4, 6, 3)
        self.conv2 = nn.Conv2d(6, 8, (3, 5), bias=False)
        self.batch_norm = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv3d(2, 4, 3)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.up = nn.ConvTranspose2d(12, 10, 2, 2)
        self.grouped_up = nn.ConvTranspose2d(12, 10, 2, 2, groups=2)
        self.linear = nn.Linear(5, 7)
        self.bilinear = nn.Bilinear(3, 4, 5)
        self.layer_norm = nn.LayerNorm(7)
        self.group_norm = nn.GroupNorm(2, 8)
        self.embedding = nn.Embedding(11, 6)
        self.tied = nn.Linear(6, 11, bias=False)
        self.tied.weight = self.embedding.weight
        self.attention = nn.MultiheadAttention(8, 2)
        self.lstm = nn.LSTM(5, 6)
        self.spectral = parametrizations.spectral_norm(nn.Linear(6, 9))
        self.weight_norm = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.doubled = nn.Linear(3, 4)
        parametrize.register_parametrization(self.doubled, "weight", Double())
        self.prelu = nn.PReLU()
        self.bare = nn.Parameter(torch.randn(3, 5, 2))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.small = nn.Linear(4, 4, dtype=torch.float16)
        self.brainy = nn.Linear(4, 4, dtype=torch.bfloat16)
        self.large = nn.Linear(4, 4, dtype=torch.float64)


KINDS = {
    "conv1.weight": "conv1d", "conv2.weight": "conv2d", "conv3.weight": "conv3d",
    "grouped.weight": "conv2d grouped", "depthwise.weight": "conv2d depthwise",
    "up.weight": "conv_transpose2d", "grouped_up.weight": "conv_transpose2d grouped",
    "linear.weight": "linear", "bilinear.weight": "linear", "layer_norm.weight": "norm",
    "group_norm.bias": "norm", "batch_norm.weight": "norm", "embedding.weight": "embedding",
    "attention.in_proj_weight": "attention", "attention.out_proj.weight": "linear",
    "lstm.weight_hh_l0": "recurrent", "spectral.weight": "linear parametrized",
    "weight_norm.weight": "conv2d parametrized", "doubled.weight": "linear parametrized",
    "prelu.weight": "parameter", "bare": "parameter", "small.weight": "linear",
}  # fmt: skip
FANS = {
    "conv2.weight": (6 * 15, 8 * 15), "grouped.weight": (2 * 9, 3 * 9),
    "depthwise.weight": (9, 2 * 9), "up.weight": (12 * 4, 10 * 4),
    "grouped_up.weight": (6 * 4, 5 * 4), "linear.weight": (5, 7), "linear.bias": (0, 0),
    "embedding.weight": (0, 0),
}  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OneOfEach()


def used_tensor(model, name):
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute)


def test_every_kind_is_covered_and_equals_the_reference(model):
    statistics = measure_model(model)
    assert statistics.coverage == 1.0
    assert statistics.skipped == ()
    names = [p.parameter for p in statistics.parameters]
    assert len(names) == len(set(names))
    plain = {n for n, _ in model.named_parameters() if "parametrizations" not in n}
    assert set(names) == plain | {"spectral.weight", "weight_norm.weight", "doubled.weight"}
    for record in statistics.parameters:
        with torch.no_grad():
            tensor = used_tensor(copy.deepcopy(model).eval(), record.parameter)
        assert_same(record.summary, tensor)
        assert record.shape == tuple(tensor.shape)
        assert record.dtype == str(tensor.dtype).removeprefix("torch.")
    found = {p.parameter: p for p in statistics.parameters}
    assert {n: found[n].kind for n in KINDS} == KINDS
    assert {n: (found[n].fan_in, found[n].fan_out) for n in FANS} == FANS
    assert found["bare"].layer == ""
    assert found["attention.out_proj.weight"].layer == "attention.out_proj"
    assert found["embedding.weight"].shared_with == ("tied.weight",)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_older_norms_are_measured_as_the_weight_that_the_layer_uses(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older way is deprecated
        model = nn.Sequential(getattr(nn.utils, kind)(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(3.0)
    model.eval()(torch.zeros(1, 3, 9, 9))  # sets model[0].weight to what the parameters make
    used = model[0].weight.detach()
    model.train()
    before = copy.deepcopy(model.state_dict())
    statistics = measure_model(model)
    assert all(torch.equal(before[name], after) for name, after in model.state_dict().items())
    found = {p.parameter: p for p in statistics.parameters}
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert found["0.weight"].kind == "conv2d parametrized"
    assert_same(found["0.weight"].summary, used)
    assert statistics.coverage == 1


def test_what_training_does_not_move_is_marked(model):
    for name in ("conv2.weight", "linear.bias"):
        used_tensor(model, name).requires_grad_(False)
    model.doubled.parametrizations.weight.original.requires_grad_(False)
    found = {p.parameter: p.requires_grad for p in measure_model(model).parameters}
    frozen = {name for name, moves in found.items() if not moves}
    assert frozen == {"frozen", "conv2.weight", "linear.bias", "doubled.weight"}


def test_filters_lie_on_the_right_axis(model):
    with torch.no_grad():
        model.up.weight[:, 3] = 0
        model.conv2.weight[:4] = 0
    found = {p.parameter: p.summary for p in measure_model(model).parameters}
    assert found["up.weight"].dead_filters == 0.1
    assert found["conv2.weight"].dead_filters == 0.5
    assert found["grouped_up.weight"].filter_norms.shape == (5,)
    assert found["linear.bias"].filter_norms is None


def test_order_is_that_of_named_parameters(model):
    names = [p.parameter for p in measure_model(model).parameters]
    plain = [n for n, _ in model.named_parameters() if "parametrizations" not in n]
    assert [n for n in names if n in plain] == plain


def test_the_model_is_left_alone(model):
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    measure_model(model, spectra=True, initial=lambda: copy.deepcopy(model))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_skipped_tensors_are_named_and_lower_the_coverage():
    model = nn.Sequential(
        nn.Linear(4, 4, bias=False),
        nn.Linear(4, 4, bias=False, device="meta"),
        nn.LazyLinear(3),
    )
    model.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    statistics = measure_model(model)
    reasons = {s.name: s.reason for s in statistics.skipped}
    assert set(reasons) == {"1.weight", "2.weight", "2.bias", "phase"}
    assert "load the weights" in reasons["1.weight"]
    assert "run the model once" in reasons["2.bias"]
    assert statistics.coverage == pytest.approx(16 / 34)


def test_warnings_say_what_is_wrong():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
        model[1].weight.zero_()
        model[2].weight.fill_(0.5)
        model[3].weight[1] = 0
    found = {p.parameter: p.warning for p in measure_model(model).parameters}
    assert found["0.weight"] == "1 NaN and 0 infinite values left out"
    assert found["1.weight"] == "all weights are zero"
    assert found["2.weight"] == "all weights are equal"
    assert found["3.weight"] == "25.0% of the filters are zero"
    assert found["3.bias"] == ""


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(threads, "RANGE", 50_000)
    monkeypatch.setattr(threads, "_HUGE", 100_000)
    model = nn.Sequential(*[nn.Linear(n, 300) for n in (10, 200, 300, 400)])
    one = measure_model(model, threads=1)
    four = measure_model(model, threads=4)
    for a, b in zip(one.parameters, four.parameters, strict=True):
        assert (a.parameter, a.summary.mean, a.summary.kurtosis, a.null.label) == (
            b.parameter, b.summary.mean, b.summary.kurtosis, b.null.label)  # fmt: skip
        assert a.summary.quantiles == b.summary.quantiles
        assert a.comparison == b.comparison


def test_folded_spread_is_that_of_the_fused_convolution(model):
    norm = model.batch_norm
    with torch.no_grad():
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
    found = {p.parameter: p for p in measure_model(model).parameters}
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    fused = (model.conv2.weight * scale[:, None, None, None]).detach().double()
    assert found["conv2.weight"].folded_std == pytest.approx(
        float(fused.std(correction=0)), rel=1e-6
    )
    assert found["conv1.weight"].folded_std is None
    up = nn.Sequential(nn.ConvTranspose2d(6, 4, 2), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        up[1].weight.uniform_(0.5, 2)
    fused = up[0].weight * (up[1].weight / (1 + up[1].eps) ** 0.5)[:, None, None]
    fused = fused.detach().double()
    record = measure_model(up).parameters[0]
    assert record.folded_std == pytest.approx(float(fused.std(correction=0)), rel=1e-6)


def test_progress_bar_counts_weights(capsys):
    measure_model(nn.Linear(10, 10), progress=True)
    assert "110/110" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "initial", "words"),
    [
        ("unet", None, "torch.nn.Module, got str"),
        (nn.ReLU(), None, "ReLU has no parameters"),
        (nn.Linear(2, 2), {"other": torch.zeros(1)}, "names none"),
        (nn.Linear(2, 2), {"weight": torch.zeros(3, 2)}, r"shape \(3, 2\)"),
        (nn.Linear(2, 2), lambda: 3, "got int"),
        (
            nn.Sequential(nn.Linear(2, 2)),
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)).state_dict(),
            "has '1.weight', '2.weight', which Sequential does not have: .* another network",
        ),
    ],
)
def test_wrong_arguments(model, initial, words):
    with pytest.raises(InputError, match=words):
        measure_model(model, initial=initial)


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import weightscope.statistics;"
        "print([m for m in ('numba', 'scipy', 'pandas', 'tqdm') "
        "if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_same_without_numba(model, monkeypatch):
    with_numba = measure_model(model)
    monkeypatch.setattr(counting, "_kernels", False)
    without = measure_model(model)
    for a, b in zip(with_numba.parameters, without.parameters, strict=True):
        assert a.summary.quantiles == b.summary.quantiles
        np.testing.assert_allclose(a.summary.std, b.summary.std, rtol=1e-12)


@pytest.mark.slow
def test_numba_without_a_folder_to_keep_code_in(tmp_path):
    package = tmp_path / "weightscope"
    shutil.copytree(
        Path(weightscope.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    # a file stands where each folder would be made, which stops root too
    (package / "summaries" / "__pycache__").touch()
    home = tmp_path / "home"
    home.touch()
    code = (
        "import torch, weightscope.summaries as s; from weightscope.summaries import kernels;"
        "print(kernels.__file__, s.summarize(torch.arange(100_000.0)).quantiles[0.5])"
    )
    places = {"HOME": home, "XDG_CACHE_HOME": home, "PYTHONPATH": tmp_path, "USERPROFILE": home}
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {name: str(place) for name, place in places.items()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(package / "summaries" / "kernels.py"), "49999.5"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("moved", [2, 20])
def test_weights_beyond_the_edge_are_counted_in_any_format(dtype, moved):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 500))
    with torch.no_grad():
        model[0].weight[0, :moved] = 0.25  # the edge is 0.0447
    for layer in model[::2]:
        layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    record = measure_model(model).parameters[0]
    assert record.null.source == "matched"
    expected = movement_beyond(moved, 250_000 * record.null.edge_density)
    assert (record.comparison.excess, record.comparison.error) == expected


def test_a_start_without_numbers_is_refused_by_name():
    model = nn.Linear(30, 20)
    start = {**model.state_dict(), "bias": torch.full((20,), math.nan)}
    with pytest.raises(InputError, match="no finite number in 'bias'"):
        measure_model(model, initial=start)


def test_an_empty_parameter_has_no_start():
    model = nn.ParameterDict({"full": nn.Parameter(torch.randn(9)), "empty": torch.zeros(0, 3)})
    empty, full = measure_model(model, initial=model.state_dict()).parameters
    assert (empty.summary.count, full.null.source) == (0, "given")
    assert empty.null is None or empty.null.source != "given"
    only_empty = nn.ParameterList([torch.zeros(0)])
    assert measure_model(only_empty, initial=only_empty.state_dict()).coverage == 1.0


def test_a_start_may_be_a_network_or_what_draws_one_and_the_random_state_stays():
    model, fresh = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    random = torch.get_rng_state()
    drawn = measure_model(model, initial=lambda: nn.Conv2d(3, 4, 3))
    assert torch.equal(torch.get_rng_state(), random)
    given = measure_model(model, initial=fresh)
    by_state = measure_model(model, initial=fresh.state_dict())
    assert drawn.parameters[0].comparison is not None
    assert given.parameters[0].comparison == by_state.parameters[0].comparison


@pytest.mark.parametrize("again", [False, True])
def test_a_pruned_or_parametrized_kernel_finds_its_start(again):
    """Pruning and parametrizations rename a kernel; it is the same one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune.l1_unstructured(model[0], "weight", 0.5)
    parametrizations.spectral_norm(model[1])
    found = measure_model(model, initial=(lambda: dict(start)) if again else start)
    sources = {p.parameter: p.null.source for p in found.parameters if p.is_kernel}
    assert set(sources.values()) == {"given"}, sources
    assert len(sources) == 3


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize(
    "normed",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        torch.nn.utils.spectral_norm,
        pytest.param(
            torch.nn.utils.weight_norm,
            marks=pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
        ),
    ],
)
def test_a_start_holds_what_parametrized_tensors_are_made_of(normed, vectors):
    torch.manual_seed(4)
    model = nn.Sequential(normed(nn.Conv2d(8, 16, 3)), nn.ReLU())
    run(model, 50)  # the vectors of spectral norm come to rest
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.std())
    run(model, 50)
    kept = {name for name, _ in model.named_parameters()}
    given = {n: t for n, t in start.items() if vectors or n in kept}
    found = measure_model(model.eval(), initial=given)
    record = next(p for p in found.parameters if p.parameter == "0.weight")
    final = used_tensor(model, "0.weight").detach()
    expected = measure_movement(final, before)
    assert record.since_given.moved == pytest.approx(expected.moved, rel=1e-3)
    assert record.since_given.shrinkage == pytest.approx(expected.shrinkage, rel=1e-3)
    assert record.null.source == "given"


@torch.no_grad()
def run(model: nn.Module, times: int) -> None:
    for _ in range(times):
        model(torch.zeros(1, 8, 4, 4))

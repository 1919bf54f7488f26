"""`analyze` as its users meet it: nothing but the model, and the model left as it was."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mpseg_models
import weightscope as ws
from tests.networks import UNet
from weightscope.cost import count_costs

NARROW: dict[str, dict[str, Any]] = {
    "unet": {"width": 4},
    "half_unet": {"width": 4},
    "multiresunet": {"width": 6},
    "half_multiresunet": {"width": 6},
    "quarter_multiresunet": {"width": 6},
}


@pytest.fixture(scope="module")
def analysis() -> ws.Analysis:
    return ws.analyze(mpseg_models.create_model("half_unet", width=4))


def everything(model: nn.Module) -> dict[str, Any]:
    """All of a model's state that a user could see change."""
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "identity": {k: v.data_ptr() for k, v in model.state_dict().items()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "gradients": {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None},
        "trains": {k: p.requires_grad for k, p in model.named_parameters()},
        "hooks": {
            k: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for k, m in model.named_modules()
        },
        "attributes": {k: sorted(vars(m)) for k, m in model.named_modules()},
        "random": torch.get_rng_state(),
    }


def assert_same(before: Any, after: Any) -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    else:
        assert before == after


REST = {"unet", "multiresunet", "half_multiresunet"}
"""Of the same blocks as the others."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in REST else ())
        for name in mpseg_models.list_models()
    ],
)
def test_an_untrained_network_of_the_zoo_supports_no_conclusion(name: str) -> None:
    model = mpseg_models.create_model(name, **NARROW[name])
    found = ws.analyze(model)
    assert found.assessment.state == "untrained"
    assert set(found.stages["verdict"]) == {"undecided"}
    assert "nothing can be concluded" in " ".join(str(found).split())
    assert found.layers["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert found.stages["parameters"].sum() == found.layers["parameters"].sum()
    assert found.statistics.coverage == 1.0
    assert found.skipped == ()
    assert max(map(len, str(found).splitlines())) <= 100


def test_the_model_is_left_as_it_was() -> None:
    model = mpseg_models.create_model("half_unet", width=4).train()
    model.get_submodule("encoder").eval()
    images, masks = torch.rand(4, 3, 32, 32), (torch.rand(4, 1, 32, 32) > 0.5).float()
    loss = nn.BCEWithLogitsLoss()
    loss(model(images), masks).backward()
    next(model.parameters()).requires_grad_(False)
    before = everything(model)
    found = ws.analyze(
        model,
        batches=[(images[:2], masks[:2]), (images[2:], masks[2:])],
        loss=loss,
        metric="average_precision",
        spectra=True,
    )
    found.proposals[0].build()
    assert_same(before, everything(model))


def test_broken_weights_are_named_first_whatever_is_given() -> None:
    model = mpseg_models.create_model("half_unet", width=4)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    images, masks = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    found = ws.analyze(model, batches=[(images, masks)], metric="f1", images=[images])
    assert found.assessment.state == "broken"
    assert found.conclusion.startswith("1 weight is NaN or infinite")
    assert found.data is None
    assert found.images is None


@pytest.mark.sample(2)
@pytest.mark.parametrize("given", [{}, {"images": 1}, {"batches": 1, "metric": "f1"}])
def test_running_statistics_that_overflew_are_named(given: dict[str, Any]) -> None:
    model = UNet((4, 6))
    name, variance = next((n, b) for n, b in model.named_buffers() if n.endswith("running_var"))
    variance[1] = torch.inf
    images, masks = torch.rand(2, 3, 32, 32), torch.ones(2, 6, 32, 32)
    pairs = {"images": [images], "batches": [(images, masks)]}
    found = ws.analyze(model, **{key: pairs.get(key, value) for key, value in given.items()})
    assert found.assessment.state == "broken"
    assert found.conclusion.startswith(f"1 running statistic is NaN or infinite ({name})")


def test_a_mask_of_infinities_is_no_broken_weight() -> None:
    model = mpseg_models.create_model("half_unet", width=4)
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    images, masks = torch.rand(12, 3, 32, 32), (torch.rand(12, 1, 32, 32) > 0.5).float()
    found = ws.analyze(model, batches=[(images, masks)], metric="f1")
    assert found.assessment.state != "broken"
    assert found.data is not None


def test_the_model_is_left_as_it_was_when_something_fails() -> None:
    model = mpseg_models.create_model("half_unet", width=4).train()
    batches = [(torch.rand(2, 3, 32, 32), torch.zeros(2))]
    before = everything(model)

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("no such class")

    with pytest.raises(ws.InputError, match="no such class"):
        ws.analyze(model, batches=batches, loss=broken)
    assert_same(before, everything(model))


def test_frames_have_the_columns_that_people_rely_on(analysis: ws.Analysis) -> None:
    assert {
        *("layer", "kind", "stage", "shape", "fan_in", "parameters", "mean", "std", "std_initial"),
        *("spread_ratio", "near_zero_1e-3", "near_zero_1e-2", "near_zero_relative", "kurtosis"),
        *("q01", "q05", "q25", "q50", "q75", "q95", "q99", "dead_filters", "ks_initial", "macs"),
        "warning",
    } <= set(analysis.layers.columns)
    assert {
        *("stage", "role", "level", "reduction", "parameters", "macs", "receptive_field"),
        *("utilization", "verdict", "evidence", "why"),
    } <= set(analysis.stages.columns)
    assert list(analysis.histograms.columns) == [
        *("layer", "bin_left", "bin_right", "count", "null_count")
    ]


def test_statistics_are_those_of_the_weights(analysis: ws.Analysis) -> None:
    state = analysis.structure.model.state_dict()
    for row in analysis.layers.itertuples():
        weight = state[f"{row.layer}.weight"].double().numpy()
        assert row.std == pytest.approx(weight.std(), rel=1e-9)
        assert row.q05 == pytest.approx(np.quantile(weight, 0.05), rel=1e-6)
        counted = analysis.histograms.query("layer == @row.layer")["count"].sum()
        assert counted == weight.size


def test_a_trained_stage_shows_against_the_exact_start() -> None:
    model = mpseg_models.create_model("half_unet", width=4)
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("bottleneck") and parameter.dim() == 4:
                parameter.mul_(0.01)
            elif parameter.dim() == 4:
                parameter.add_(0.3 * torch.randn_like(parameter))
    # a few steps at a high rate would move it as far
    found = ws.analyze(model, initial=start, trained=True)
    verdicts = dict(zip(found.stages["stage"], found.stages["verdict"], strict=True))
    assert found.assessment.state == "trained"
    assert verdicts["bottleneck"] == "unused"
    assert found.proposals[0].keep_levels == 2
    assert found.proposals[0].evidence.startswith("supported")


@pytest.fixture
def watched(tmp_path: Path) -> tuple[nn.Module, Any, Path]:
    """A model trained for some steps, its history, and the file of its starting weights."""
    torch.manual_seed(0)
    model = mpseg_models.create_model("half_unet", width=4, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images = torch.rand(2, 3, 32, 32)
    store = tmp_path / "start.safetensors"
    with ws.watch(model, optimizer, every=2, store=store) as history:
        for _ in range(12):
            optimizer.zero_grad()
            (model(images) - images[:, :1]).square().mean().backward()
            optimizer.step()
    return model, history, store


def test_a_history_brings_the_start_along(watched: Any) -> None:
    model, history, _ = watched
    layers = ws.analyze(model, history=history).layers.set_index("layer")
    assert (layers["null"] == "given initial weights").any()
    kernel = layers.loc[layers["shape"].map(len) == 4].iloc[0]
    assert 0.0 < kernel["moved"] < 0.1
    assert kernel["shrinkage"] == pytest.approx(1.0, abs=0.1)


def test_a_stage_put_back_after_a_watched_training_is_said(watched: Any) -> None:
    model, history, _ = watched
    start = history.initial()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("bottleneck"):
                parameter.copy_(start[name])
    analysis = ws.analyze(model, history=history)
    assert analysis.assessment.state == "trained"
    scores = analysis.scores.set_index(["stage", "grade"])
    assert "not moved since its start" in scores.loc[("bottleneck", "weights"), "why"]
    assert "not as the recorded training left it" in scores.loc[("bottleneck", "history"), "why"]


def test_a_history_without_its_file_still_counts(watched: Any) -> None:
    model, history, store = watched
    store.unlink()
    with pytest.warns(UserWarning, match="starting weights in is gone"):
        analysis = ws.analyze(model, history=history)
    assert "history" in set(analysis.stages["evidence"])


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "f1"}, "need batches="),
        ({"batches": [1]}, "needs loss="),
        ({"example_inputs": torch.zeros(1, 3, 63, 64)}, "multiples of 4"),
        ({"initial": {}}, "initial="),
        ({"initial": {"module.a": torch.zeros(1)}}, "they begin with 'module.a': .*fit_weights"),
        ({"initial": "start.pt"}, "got str; weightscope.read_weights reads a file"),
        ({"history": "history.json"}, r"history= is a str; .*read_history"),
        ({"images": [torch.zeros(3, 32, 32)]}, "raised on images= "),
        ({"stages": {"encoder 9": ["nowhere"]}}, "nowhere|encoder 9"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ws.InputError, match=message):
        ws.analyze(mpseg_models.create_model("half_unet", width=4), **arguments)


def test_the_report_is_one_file(analysis: ws.Analysis, tmp_path: Path) -> None:
    path = analysis.to_html(tmp_path / "report.html")
    page = path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    assert "nothing can be concluded" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_an_image_without_a_batch_is_told_what_is_missing() -> None:
    with pytest.raises(ws.ForwardError, match=r"a single one as image\[None\]"):
        ws.analyze(
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)),
            example_inputs=torch.zeros(3, 32, 32),
        )


def test_costs_are_of_the_size_of_the_images_that_are_given() -> None:
    model = mpseg_models.create_model("half_unet", width=4, seed=0)
    given = iter([torch.rand(2, 3, 48, 32), (torch.rand(1, 3, 32, 32), "a label")])  # read once
    found = ws.analyze(model, images=given, response=False)
    assert found.costs == count_costs(model, torch.zeros(1, 3, 48, 32))
    assert not found.structure.inputs.guessed
    assert found.images is not None
    assert found.images.images == 3
    one = [torch.rand(1, 3, 32, 32)]
    example = torch.zeros(1, 3, 64, 64)
    other = ws.analyze(model, images=one, example_inputs=example, response=False)
    assert other.costs == count_costs(model, example)
    pairs = [(example, torch.ones(1, 1, 64, 64))]
    other = ws.analyze(model, images=one, batches=pairs, metric="f1", response=False)
    assert other.costs == count_costs(model, example)


def test_parts_of_a_tuple_that_were_taken_for_no_inputs_are_told() -> None:
    class Timed(UNet):
        """Takes a time that it does not call for by its signature."""

        def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            assert t is not None
            return super().forward(x) * t.view(-1, 1, 1, 1)

    model = Timed((4, 6))
    images, times = torch.randn(10, 3, 16, 16), torch.rand(10)
    with pytest.raises(
        ws.ForwardError, match=r"2 parts.*1 was taken.*\{'x': \.\.\., 't': "
    ) as said:
        ws.analyze(model, images=[(images, times)])
    assert "images=" in str(said.value)
    found = ws.analyze(model, images=[{"x": images, "t": times}])  # as it says
    assert found.images is not None
    with pytest.raises(ws.ForwardError) as said:
        ws.analyze(model, images=[images])
    assert "parts" not in str(said.value)


def test_a_single_image_among_images_is_named() -> None:
    model = mpseg_models.create_model("half_unet", width=4, seed=0)
    with pytest.raises(ws.ForwardError, match=r"raised on images=.*a single one as image\[N"):
        ws.analyze(model, images=[torch.rand(3, 32, 32)], response=False)

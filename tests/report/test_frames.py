import csv

import numpy as np
import pandas as pd
import pytest
import torch

import mpseg_models
import weightscope as ws
from weightscope.files import write_csv
from weightscope.frames import (
    histograms_frame,
    layers_frame,
    parameters_frame,
    proposals_frame,
    scores_frame,
    stages_frame,
)


def test_layers_come_in_forward_order_with_their_totals(structure, statistics, costs):
    frame = layers_frame(structure, statistics, costs)
    assert list(frame["layer"]) == ["top", "down", "down.norm", "head", "unused"]
    assert list(frame["stage"]) == ["encoder 0", "bottleneck 1", "bottleneck 1", "head", ""]
    assert frame["parameters"].sum() == sum(t.count for t in statistics.parameters)
    assert frame.set_index("layer").loc["down", "parameters"] == 8 * 4 * 9 + 8
    assert frame["macs"].sum() == 442_368 + 294_912 + 16_384


def test_a_layer_shows_the_figures_of_its_kernel(structure, statistics, costs):
    row = layers_frame(structure, statistics, costs).set_index("layer").loc["down"]
    assert row["shape"] == (8, 4, 3, 3)
    assert row["std_initial"] == 0.5
    assert row["near_zero_1e-3"] == 0.1
    assert row["near_zero_1e-2"] == 0.2
    assert row["near_zero_relative"] == 0.25
    assert (row["q01"], row["q50"], row["q99"]) == (-0.9, 0.0, 0.9)


def test_layers_have_the_columns_that_people_rely_on(structure, statistics, costs):
    promised = (
        "layer kind stage shape fan_in parameters mean std std_initial spread_ratio near_zero_1e-3"
        " near_zero_1e-2 near_zero_relative kurtosis q01 q99 dead_filters ks_initial macs warning"
    )
    assert set(promised.split()) <= set(layers_frame(structure, statistics, costs).columns)


def test_a_layer_that_is_never_reached_says_so(structure, statistics, costs):
    row = layers_frame(structure, statistics, costs).set_index("layer").loc["unused"]
    assert row["warning"] == "no forward reaches it"


def test_a_checkpoint_without_a_network_has_layers_too(statistics):
    frame = layers_frame(None, statistics, None)
    assert list(frame["layer"]) == ["head", "down", "down.norm", "top", "unused"]
    assert set(frame["stage"]) == {""}


def test_parameters_hold_one_row_per_tensor(structure, statistics):
    frame = parameters_frame(structure, statistics)
    assert list(frame["parameter"]) == [t.parameter for t in statistics.parameters]
    assert frame["parameters"].sum() == sum(t.count for t in statistics.parameters)


def test_histograms_are_long_and_hold_every_weight_once(structure, statistics):
    frame = histograms_frame(structure, statistics)
    assert list(frame.columns) == ["layer", "bin_left", "bin_right", "count", "null_count"]
    assert list(frame["layer"].unique()) == ["top", "down", "down.norm", "head", "unused"]
    down = frame[frame["layer"] == "down"]
    assert down["count"].sum() == 288
    assert down["null_count"].sum() == pytest.approx(288)
    assert np.all(down["bin_right"].to_numpy()[:-1] == down["bin_left"].to_numpy()[1:])
    assert frame.loc[frame["layer"] == "down.norm", "null_count"].isna().all()


def test_the_null_of_a_collapsed_layer_is_whole(structure, statistics):
    tensor = statistics.parameters[2]
    tensor.summary.histogram.edges = np.linspace(-1e-6, 1e-6, 5)
    frame = histograms_frame(structure, statistics)
    down = frame[frame["layer"] == "down"]
    assert len(down) == 4 + 2 * 32
    assert down["count"].sum() == 288
    assert down["null_count"].sum() == pytest.approx(288, rel=1.1e-3)
    assert np.all(np.diff(down["bin_left"]) > 0)


def test_stages_keep_the_ranking_and_add_up(structure, costs, receptive_fields, assessment):
    frame = stages_frame(structure, costs, receptive_fields, assessment)
    assert list(frame["stage"]) == ["bottleneck 1", "head", "encoder 0"]
    assert frame["parameters"].sum() == 108 + 296 + 8 + 4
    # The attention product has no weights of its own; it counts where its neighbours lie.
    assert list(frame["macs"]) == [294_912 + 1_000, 16_384, 442_368]
    assert list(frame["reduction"]) == [2.0, 1.0, 1.0]
    assert list(frame["receptive_field"]) == [8, 10, 3]
    assert frame.loc[0, "utilization_low"] == 0.025


def test_anisotropic_figures_stay_whole(structure, costs, receptive_fields, assessment):
    frame = stages_frame(structure, costs, {**receptive_fields, "head": (10, 20)}, assessment)
    assert list(frame["receptive_field"]) == [(8, 8), (10, 20), (3, 3)]


def test_scores_hold_every_grade(assessment):
    frame = scores_frame(assessment)
    assert list(frame.columns) == [
        "stage",
        "grade",
        "utilization",
        "low",
        "high",
        "verdict",
        "why",
    ]
    assert len(frame) == 3


def test_proposals_show_shares_and_refusals(proposals, costs):
    frame = proposals_frame(proposals, costs)
    assert frame.loc[0, "parameters_share"] == 150 / 420
    assert frame.loc[0, "macs_share"] == 500_000 / costs.macs
    assert list(frame["refusal"]) == ["", "nothing lies deeper"]
    assert list(frame["kept"]) == [2, 0]


def test_empty_inputs_make_empty_frames(statistics, costs):
    statistics.parameters = ()
    for frame in (
        layers_frame(None, statistics, None),
        parameters_frame(None, statistics),
        histograms_frame(None, statistics),
        proposals_frame((), costs),
    ):
        assert isinstance(frame, pd.DataFrame)
        assert frame.empty
        assert len(frame.columns)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formulas(tmp_path, start):
    hostile = f'{start}HYPERLINK("http://x")'
    frame = pd.DataFrame({"layer": [hostile, "conv"], "mean": [-1.5, 2.0]})
    write_csv(frame, tmp_path / "layers.csv")
    with (tmp_path / "layers.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    defused = "\\" + "r" + hostile[1:] if start == "\r" else "'" + hostile
    assert rows == [["layer", "mean"], [defused, "-1.5"], ["conv", "2.0"]]


def test_a_carriage_return_begins_no_row_of_a_table(tmp_path):
    names = ["x\r=1+1", "\r=1", "two\nlines"]
    write_csv(pd.DataFrame({"name": names}), tmp_path / "names.csv")
    with (tmp_path / "names.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name"], ["x\\r=1+1"], ["\\r=1"], ["two\nlines"]]


def test_the_scales_of_a_weight_norm_are_parameters_of_their_layer():
    torch.manual_seed(0)
    model = mpseg_models.create_model("half_unet", width=4)
    plain = ws.analyze(model, response=False).layers.set_index("layer").parameters
    for module in list(model.modules()):
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.utils.parametrizations.weight_norm(module)
    analysis = ws.analyze(model, response=False)
    count = sum(p.numel() for p in model.parameters())
    assert analysis.layers.parameters.sum() == analysis.stages.parameters.sum() == count
    assert (analysis.layers.set_index("layer").parameters >= plain).all()

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import weightscope as ws
from weightscope.report import (
    plot_ablation,
    plot_layer_histograms,
    plot_overlaid_histograms,
    plot_proposals,
    plot_search,
    plot_spread_ratio,
    plot_stage_histograms,
    plot_utilization,
    render_checkpoint,
    render_html,
    write_html,
    write_page,
)

HOSTILE = "$\\frac$_<b>"


def network(layers=4, weights=1000):
    """Layers of a two-level network with normal weights and their exact null."""
    generator = np.random.default_rng(0)
    names = [f"_block.{i}.conv" for i in range(layers)]
    stages = ["encoder 0"] * (layers // 2) + ["bottleneck"] * (layers - layers // 2)
    rows = []
    for index, name in enumerate(names):
        edges = np.linspace(-0.5, 0.5, 65) * (index + 1)
        counts, _ = np.histogram(generator.normal(0, 0.1 * (index + 1), weights), edges)
        rows.append(
            pd.DataFrame(
                {
                    "layer": name,
                    "bin_left": edges[:-1],
                    "bin_right": edges[1:],
                    "count": counts,
                    "null_count": weights / 64,
                }
            )
        )
    frame = pd.DataFrame(
        {
            "layer": names,
            "stage": stages,
            "std_initial": 0.1 * (1 + np.arange(layers)),
            "spread_ratio": np.linspace(0.5, 2, layers),
        }
    )
    return pd.concat(rows, ignore_index=True), frame


def stages_of(count=5):
    verdicts = ["unused", "undecided", "used"]
    utilization = np.linspace(0, 1, count)
    return pd.DataFrame(
        {
            "stage": [f"encoder {i}" for i in range(count)],
            "utilization": utilization,
            "utilization_low": np.clip(utilization - 0.1, 0, 1),
            "utilization_high": np.clip(utilization + 0.1, 0, 1),
            "verdict": [verdicts[i % 3] for i in range(count)],
        }
    )


def drawn(result):
    """Draw as a file would be drawn, and give the figure."""
    figure = result if isinstance(result, Figure) else result.get_figure(root=True)
    FigureCanvasAgg(figure).draw()
    return figure


def overlapping(labels, renderer):
    boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
    return [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1
    ]


def test_functions_draw_where_they_are_told():
    histograms, layers = network()
    figure = Figure()
    for draw in (
        lambda ax: plot_layer_histograms(histograms, layers, ax=ax),
        lambda ax: plot_stage_histograms(histograms, layers, "bottleneck", ax=ax),
        lambda ax: plot_spread_ratio(layers, ax=ax),
        lambda ax: plot_utilization(stages_of(), ax=ax),
    ):
        ax = figure.add_subplot()
        assert draw(ax) is ax


def test_a_new_figure_is_unknown_to_pyplot():
    import matplotlib.pyplot as plt

    histograms, layers = network()
    assert isinstance(plot_layer_histograms(histograms, layers), Axes)
    assert plt.get_fignums() == []


def test_a_row_is_filled_by_the_higher_of_weights_and_null():
    histograms, layers = network(layers=2)
    ax = plot_layer_histograms(histograms, layers)
    fills = [patch for patch in ax.patches if patch.get_fill()]
    outlines = [patch for patch in ax.patches if not patch.get_fill()]
    assert len(fills) == len(outlines) == 2
    for base, fill, outline in zip((1, 0), fills, outlines, strict=True):
        heights = np.concatenate([fill.get_data().values, outline.get_data().values])
        assert np.nanmax(heights) == pytest.approx(base + 0.92)
        assert np.nanmin(heights) >= base


def test_relative_histograms_share_one_null_width():
    histograms, layers = network(layers=3)
    ax = plot_layer_histograms(histograms, layers, relative=True)
    edges = [p.get_data().edges for p in ax.patches if not p.get_fill()]
    assert [float(e[-1]) for e in edges] == pytest.approx([5.0, 5.0, 5.0])


def test_merging_bins_for_the_eye_keeps_every_weight():
    histograms, layers = network(layers=1, weights=60)
    ax = plot_stage_histograms(histograms, layers, "bottleneck")
    steps = ax.patches[0].get_data()
    assert len(steps.values) < 64
    assert np.sum(steps.values * np.diff(steps.edges)) == pytest.approx(1.0)


@pytest.mark.parametrize("relative", [False, True])
def test_sixty_layers_stay_legible(relative):
    histograms, layers = network(layers=60)
    ax = plot_layer_histograms(histograms, layers, relative=relative)
    figure = drawn(ax)
    assert not overlapping(ax.get_yticklabels(), figure.canvas.get_renderer())


@pytest.mark.parametrize("lengths", [[4] * 15, [17, 17, 17, 17, 1, 1, 1, 1, 1], [1, 1, 1, 60]])
def test_many_stages_stay_legible(lengths):
    _, layers = network(layers=sum(lengths))
    names = [f"decoder {i}" for i in range(len(lengths))]
    layers["stage"] = np.repeat(names, lengths)
    ax = plot_spread_ratio(layers)
    figure = drawn(ax)
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == names
    if len(lengths) <= 5:
        assert not overlapping(labels, figure.canvas.get_renderer())
        return
    # Slanted lines of text are apart if their starts are a line's height apart across the slant.
    starts = [ax.transData.transform((label.get_position()[0], 1))[0] for label in labels]
    height = 8 / 72 * figure.dpi
    assert min(np.diff(starts)) * np.sin(np.radians(60)) >= height


def test_names_are_shown_as_they_are():
    histograms, layers = network(layers=2)
    for frame in (histograms, layers):
        frame["layer"] = frame["layer"].str.replace("conv", HOSTILE)
    ax = plot_stage_histograms(histograms, layers, "bottleneck")
    drawn(ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"_block.1.{HOSTILE}"]
    drawn(plot_layer_histograms(histograms, layers))


def test_every_stage_has_a_panel_in_forward_order():
    histograms, layers = network(layers=6)
    figure = plot_overlaid_histograms(histograms, layers)
    assert [ax.get_title() for ax in figure.axes] == ["encoder 0", "bottleneck"]


def test_constant_starts_are_left_out_of_the_rows():
    histograms, layers = network(layers=3)
    layers.loc[1, "std_initial"] = 0.0
    ax = plot_layer_histograms(histograms, layers)
    assert [label.get_text().split()[0] for label in ax.get_yticklabels()] == [
        "_block.0.conv",
        "_block.2.conv",
    ]


def test_verdicts_differ_in_shape_as_well_as_in_colour():
    ax = plot_utilization(stages_of(3))
    markers = [line.get_marker() for line in ax.lines if line.get_marker() != "None"]
    colors = {line.get_color() for line in ax.lines}
    assert len(set(markers)) == len(colors) == 3


def test_a_stage_without_a_measurement_says_so():
    stages = stages_of(3)
    stages.loc[0, ["utilization", "utilization_low", "utilization_high"]] = np.nan
    ax = plot_utilization(stages)
    drawn(ax)
    assert [text.get_text() for text in ax.texts] == ["not measurable"]


def test_proposals_leave_refused_depths_out():
    proposals = pd.DataFrame(
        {
            "keep_levels": [2, 1, 3],
            "parameters_share": [0.1, 0.01, np.nan],
            "macs_share": [0.6, 0.4, np.nan],
            "refusal": ["", "", "no"],
        }
    )
    ax = plot_proposals(proposals)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 level kept", "2 levels kept"]
    assert [text.get_text() for text in ax.texts] == ["1 %", "10 %", "40 %", "60 %"]


def test_an_ablation_that_costs_nothing_is_hollow():
    drops = pd.DataFrame(
        {"keep_levels": [1, 2], "drop": [0.4, 0.0], "low": [0.3, -0.1], "high": [0.5, 0.1]}
    )
    ax = plot_ablation(drops)
    marks = [line for line in ax.lines if line.get_marker() == "o"]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, True]


def test_empty_frames_give_empty_axes():
    histograms, layers = network(layers=1)
    drawn(plot_layer_histograms(histograms[:0], layers[:0]))
    drawn(plot_overlaid_histograms(histograms[:0], layers[:0]))
    drawn(plot_spread_ratio(layers[:0]))
    drawn(plot_utilization(stages_of(3)[:0]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _: render_html(None), "analysis= is None; give what weightscope.analyze returned"),
        (lambda path: write_html(3, path), "analysis=3; give what weightscope.analyze returned"),
        (lambda _: render_checkpoint("a", {}), "statistics= is a dict; give what weightscope.scan"),
        (lambda path: write_page(None, path), "page= is None; give the page as text"),
    ],
)
def test_pages_name_what_they_take(call, words, tmp_path):
    with pytest.raises(ws.InputError, match=words):
        call(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_plots_name_what_they_take():
    histograms, layers = network()
    stages = pd.DataFrame({"stage": ["encoder 0"], "verdict": ["used"], "utilization": [0.5]})
    stages = stages.assign(utilization_low=0.4, utilization_high=0.6)
    drops = pd.DataFrame({"keep_levels": [1], "drop": [0.1], "low": [0.0], "high": [0.2]})
    proposals = pd.DataFrame(
        {"keep_levels": [1], "refusal": [""], "parameters_share": [0.5], "macs_share": [0.5]}
    )
    search = pd.DataFrame(
        {
            "keep_levels": [2], "thinned": [False], "macs": [9], "cut": [0.9], "quality": [0.9],
            "unit": ["f1"], "random": [0.9], "pareto": [True], "chosen": [False],
        }
    )  # fmt: skip
    calls = {
        plot_layer_histograms: {"histograms": histograms, "layers": layers, "relative": False},
        plot_stage_histograms: {
            "histograms": histograms, "layers": layers, "stage": "encoder 0",
        },
        plot_overlaid_histograms: {"histograms": histograms, "layers": layers, "columns": 3},
        plot_utilization: {"stages": stages},
        plot_spread_ratio: {"layers": layers},
        plot_proposals: {"proposals": proposals},
        plot_search: {"frame": search},
        plot_ablation: {"drops": drops},
    }  # fmt: skip
    odd = [None, 3.5, "text", object(), (), [], {}, pd.DataFrame({"a": [1]}), pd.Series([1])]
    panels = Figure().subplots(1, 2)
    for plot, given in calls.items():
        plot(**given)
        own = {} if plot is plot_overlaid_histograms else {"ax": None}
        for name in given | own:
            for value in [*odd, panels, panels[0].figure]:
                taken = {"ax": (type(None),), "relative": (type(None), float), "stage": (str,)}
                if not isinstance(value, taken.get(name, ())):
                    with pytest.raises(ws.InputError, match=f"{name}=.*; give ") as caught:
                        plot(**given | own | {name: value})
                    assert len(str(caught.value)) < 160
    for remedy, call in (
        ("Search.frame", lambda: plot_search(search.iloc[:0])),
        ("Search.frame", lambda: plot_search(stages)),
        ("proposals_frame", lambda: plot_proposals(())),
        ("Analysis.stages", lambda: plot_utilization(layers)),
        ("there are those of encoder 0", lambda: plot_stage_histograms(histograms, layers, "deep")),
    ):
        with pytest.raises(ws.InputError, match=remedy):
            call()

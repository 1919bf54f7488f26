"""Records of the rooms -> data frames. Every column is documented where it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from weightscope.cost import Costs
    from weightscope.graph import Structure
    from weightscope.statistics import ModelStatistics, Null, ParameterStatistics
    from weightscope.summaries import Histogram
    from weightscope.truncation import Proposal
    from weightscope.utilization import Assessment

NOT_REACHED = "no forward reaches it"
_TAIL = 5e-4
_MOST_OUTSIDE = 32


def layers_frame(
    structure: Structure | None, statistics: ModelStatistics, costs: Costs | None
) -> pd.DataFrame:
    """One row per layer that has parameters, in the order in which the forward reaches them.

    The statistics are those of the layer's weight (its kernel; the largest tensor of a layer
    without one); `parameters` and `macs` are those of the whole layer, so that both columns add up
    to the network's totals as far as its weighted layers go. A tensor that several layers share
    counts once, where it is met first.

    Args:
        structure: Gives `stage` and the order; None for a bare checkpoint (stages are then empty).
        statistics: Statistics of every parameter tensor.
        costs: Gives `macs`; None for a bare checkpoint (MACs are then 0).

    Returns:
        Columns layer, kind, stage, shape, fan_in, parameters, requires_grad (of the tensor shown:
        whether training moves it; None in a file, which does not say), mean, std, std_initial,
        spread_ratio, near_zero_T (share of abs(w) <= T for each threshold T),
        near_zero_relative (T = a tenth of std_initial), minimum, maximum, mean_abs, skewness,
        kurtosis (excess), q01 ... q99, dead_filters (share, 0..1), folded_std (std with the batch
        norm behind the kernel folded in; NaN where none follows), ks_initial,
        wasserstein_initial, near_zero_initial_T (the null's own mass), moved and shrinkage (since
        a given start; NaN without), null, distinguishable, macs, warning.
    """
    import pandas as pd

    known = costs.layers if costs else {}
    rows = [
        {
            "layer": layer,
            "kind": tensors[0].kind,
            "stage": stage_name(structure, layer),
            "shape": tensors[0].shape,
            "fan_in": tensors[0].fan_in,
            # a weight norm's scales are the layer's, and no tensor of it
            "parameters": known[layer].parameters
            if layer in known
            else sum(tensor.count for tensor in tensors),
            "requires_grad": tensors[0].requires_grad,
            **_figures(tensors[0]),
            "macs": known[layer].macs if layer in known else 0,
            "warning": _warnings(structure, tensors),
        }
        for layer, tensors in _by_layer(structure, statistics).items()
    ]
    return pd.DataFrame(rows, columns=None if rows else ["layer", "parameters", "macs"])


def parameters_frame(structure: Structure | None, statistics: ModelStatistics) -> pd.DataFrame:
    """One row per parameter tensor, in the model's own order.

    Args:
        structure: Gives `stage`; None for a bare checkpoint.
        statistics: Statistics of every parameter tensor.

    Returns:
        Columns parameter (full name), layer, kind, stage, shape, fan_in, fan_out, parameters (its
        elements), requires_grad, the figures of `layers_frame`, finite, nan, inf, zero (counts),
        shared_with, warning; with spectra also stable_rank and effective_rank.
    """
    import pandas as pd

    rows = [
        {
            "parameter": tensor.parameter,
            "layer": tensor.layer,
            "kind": tensor.kind,
            "stage": stage_name(structure, tensor.layer),
            "shape": tensor.shape,
            "fan_in": tensor.fan_in,
            "fan_out": tensor.fan_out,
            "parameters": tensor.count,
            "requires_grad": tensor.requires_grad,
            **_figures(tensor),
            "finite": tensor.summary.finite,
            "nan": tensor.summary.nan,
            "inf": tensor.summary.inf,
            "zero": tensor.summary.zero,
            "shared_with": ", ".join(tensor.shared_with),
            "warning": _warnings(structure, (tensor,)),
        }
        for tensor in statistics.parameters
    ]
    return pd.DataFrame(rows, columns=None if rows else ["parameter", "layer", "parameters"])


def histograms_frame(structure: Structure | None, statistics: ModelStatistics) -> pd.DataFrame:
    """The histogram of each layer's weight and that of its initialisation null.

    Args:
        structure: Gives the order of the layers; None for a bare checkpoint.
        statistics: Statistics of every parameter tensor.

    Returns:
        Long frame: layer, bin_left, bin_right, count (weights in the bin), null_count (weights the
        null expects there; NaN where the layer has no null). Layers in forward order; the tensor
        is the one whose figures `layers_frame` shows. Where the null reaches beyond the weights,
        empty bins on either side hold its share, so that both columns have the same sum but for a
        thousandth of the null.
    """
    import numpy as np
    import pandas as pd

    columns = ["layer", "bin_left", "bin_right", "count", "null_count"]
    parts = []
    for layer, tensors in _by_layer(structure, statistics).items():
        tensor = tensors[0]
        edges, counts = _reaching(tensor.summary.histogram, tensor.null)
        expected = (
            np.full(len(counts), np.nan)
            if tensor.null is None
            else np.asarray(tensor.null.bin_counts(edges, tensor.count), dtype=float)
        )
        parts.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "bin_left": edges[:-1],
                    "bin_right": edges[1:],
                    "count": counts,
                    "null_count": expected,
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def stages_frame(
    structure: Structure,
    costs: Costs,
    receptive_fields: Mapping[str, tuple[int | float | None, ...]],
    assessment: Assessment,
) -> pd.DataFrame:
    """One row per stage, from the least to the most used.

    Then come those that only history ranks, those that only weights rank, each in the same order,
    and those not measured.

    Args:
        structure: The stages.
        costs: Parameters and MACs of each layer.
        receptive_fields: Receptive field of each stage in input pixels per spatial dimension.
        assessment: Utilization and verdict of each stage.

    Returns:
        Columns stage, role, level, reduction, parameters, macs, receptive_field, utilization
        (0..1), utilization_low, utilization_high (its interval), verdict, evidence, why.
        `reduction` and `receptive_field` are numbers where every stage has the same figure in all
        dimensions, and tuples otherwise. `macs` includes operations without weights that run
        inside a stage's blocks (attention products, for one).
    """
    import pandas as pd

    stages = {stage.name: stage for stage in structure.stages}
    macs = _macs_by_stage(structure, costs)
    reductions = _plain([stage.reduction for stage in structure.stages])
    fields = _plain([receptive_fields.get(stage.name) for stage in structure.stages])
    reduction_of = dict(zip(stages, reductions, strict=True))
    field_of = dict(zip(stages, fields, strict=True))
    rows = []
    for verdict in assessment.verdicts:
        stage = stages[verdict.stage]
        score = next((s for s in verdict.scores if s.grade == verdict.evidence), None)
        rows.append(
            {
                "stage": stage.name,
                "role": stage.role,
                "level": stage.level,
                "reduction": reduction_of[stage.name],
                "parameters": sum(
                    costs.layers[layer].parameters
                    for layer in stage.layers
                    if layer in costs.layers
                ),
                "macs": macs[stage.name],
                "receptive_field": field_of[stage.name],
                "utilization": verdict.utilization,
                "utilization_low": score.low if score else float("nan"),
                "utilization_high": score.high if score else float("nan"),
                "verdict": verdict.verdict,
                "evidence": verdict.evidence,
                "why": verdict.why,
            }
        )
    return pd.DataFrame(rows)


def scores_frame(assessment: Assessment) -> pd.DataFrame:
    """One row per stage and grade of evidence, so that disagreement between grades shows.

    Args:
        assessment: Scores of each stage.

    Returns:
        Columns stage, grade, utilization, low, high, verdict, why.
    """
    import pandas as pd

    columns = ["stage", "grade", "utilization", "low", "high", "verdict", "why"]
    rows = [
        (
            verdict.stage,
            score.grade,
            score.utilization,
            score.low,
            score.high,
            score.verdict,
            score.why,
        )
        for verdict in assessment.verdicts
        for score in verdict.scores
    ]
    return pd.DataFrame(rows, columns=columns)


def proposals_frame(proposals: Iterable[Proposal], costs: Costs) -> pd.DataFrame:
    """One row per depth, the one to try first on top, refused ones last.

    Args:
        proposals: The proposals, in their order.
        costs: Costs of the whole network, for the shares.

    Returns:
        Columns keep_levels, parameters, parameters_share, macs, macs_share (of the whole
        network's), activation_bytes, receptive_field, kept, reinitialized, dropped (numbers of
        tensors), evidence, refusal (empty where the depth can be built).
    """
    import pandas as pd

    proposals = tuple(proposals)
    fields = _plain([proposal.receptive_field for proposal in proposals])
    rows = [
        {
            "keep_levels": proposal.keep_levels,
            "parameters": proposal.parameters,
            "parameters_share": _share(proposal.parameters, costs.parameters),
            "macs": proposal.macs,
            "macs_share": _share(proposal.macs, costs.macs),
            "activation_bytes": proposal.activation_bytes,
            "receptive_field": field,
            "kept": len(proposal.kept),
            "reinitialized": len(proposal.reinitialized),
            "dropped": len(proposal.dropped),
            "evidence": proposal.evidence,
            "refusal": proposal.refusal or "",
        }
        for proposal, field in zip(proposals, fields, strict=True)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["keep_levels", "refusal"])


def stage_name(structure: Structure | None, layer: str) -> str:
    """Name of the stage of a layer, or "" where it has none."""
    stage = structure.stage_of.get(layer) if structure else None
    return stage.name if stage else ""


def threshold_label(threshold: float) -> str:
    """Short name of a threshold.

    Example:
        >>> threshold_label(0.001), threshold_label(0.025)
        ('1e-3', '2.5e-2')
    """
    mantissa, exponent = f"{threshold:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _by_layer(
    structure: Structure | None, statistics: ModelStatistics
) -> dict[str, tuple[ParameterStatistics, ...]]:
    """The tensors of each layer, its weight first; layers in forward order, unreached ones last."""
    layers: dict[str, list[ParameterStatistics]] = {}
    for tensor in statistics.parameters:
        layers.setdefault(tensor.layer, []).append(tensor)
    forward = [name for stage in structure.stages for name in stage.layers] if structure else []
    position = {name: index for index, name in enumerate(forward)}
    ordered = sorted(layers, key=lambda name: position.get(name, len(position)))
    return {
        name: tuple(sorted(layers[name], key=lambda t: (not t.is_kernel, -t.count)))
        for name in ordered
    }


def _reaching(
    histogram: Histogram, null: Null | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The histogram with empty bins on either side as far as the null reaches."""
    import numpy as np

    edges, counts = histogram.edges, histogram.counts
    if null is None or not null.std > 0 or len(counts) == 0:
        return edges, counts
    low, high = (float(null.quantile(p)) for p in (_TAIL, 1 - _TAIL))
    width = float(edges[-1] - edges[0]) / len(counts)

    def outside(gap: float) -> int:
        return 0 if gap <= 0 else min(_MOST_OUTSIDE, math.ceil(gap / width))

    before, behind = outside(edges[0] - low), outside(high - edges[-1])
    return (
        np.concatenate(
            [
                np.linspace(low, edges[0], before, endpoint=False),
                edges,
                np.linspace(edges[-1], high, behind + 1)[1:],
            ]
        ),
        np.pad(counts, (before, behind)),
    )


def _figures(tensor: ParameterStatistics) -> dict[str, Any]:
    summary, comparison, spectrum = tensor.summary, tensor.comparison, tensor.spectrum
    movement = comparison.movement if comparison else None
    figures: dict[str, Any] = {
        "mean": summary.mean,
        "std": summary.std,
        "std_initial": comparison.std_initial if comparison else float("nan"),
        "spread_ratio": comparison.spread_ratio if comparison else float("nan"),
        **{f"near_zero_{threshold_label(t)}": mass for t, mass in summary.near_zero.items()},
        "near_zero_relative": tensor.near_zero_relative,
        "minimum": summary.minimum,
        "maximum": summary.maximum,
        "mean_abs": summary.mean_abs,
        "skewness": summary.skewness,
        "kurtosis": summary.kurtosis,
        **{f"q{round(100 * p):02d}": value for p, value in summary.quantiles.items()},
        "dead_filters": summary.dead_filters,
        "folded_std": float("nan") if tensor.folded_std is None else tensor.folded_std,
        "ks_initial": comparison.ks_initial if comparison else float("nan"),
        "wasserstein_initial": comparison.wasserstein_initial if comparison else float("nan"),
        **{
            f"near_zero_initial_{threshold_label(t)}": mass
            for t, mass in (comparison.near_zero_initial.items() if comparison else ())
        },
        "moved": movement.moved if movement else float("nan"),
        "shrinkage": movement.shrinkage if movement else float("nan"),
        "null": tensor.null.label if tensor.null else "",
        "distinguishable": bool(comparison.distinguishable) if comparison else False,
    }
    if spectrum is not None:
        figures["stable_rank"] = spectrum.stable_rank
        figures["effective_rank"] = spectrum.effective_rank
    return figures


def _warnings(structure: Structure | None, tensors: Iterable[ParameterStatistics]) -> str:
    dead = set(structure.dead_parameters) if structure else set()
    texts = [tensor.warning for tensor in tensors]
    texts += [
        f"{tensor.parameter} is also {', '.join(tensor.shared_with)}"
        for tensor in tensors
        if tensor.shared_with
    ]
    texts += [NOT_REACHED for tensor in tensors if tensor.parameter in dead]
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _macs_by_stage(structure: Structure, costs: Costs) -> dict[str, int]:
    """MACs of each stage; what runs in a module without weights goes to the stage around it."""
    beneath: dict[str, set[str]] = {}
    for layer, stage in structure.stage_of.items():
        parts = layer.split(".")
        for length in range(len(parts) + 1):
            beneath.setdefault(".".join(parts[:length]), set()).add(stage.name)
    totals = {stage.name: 0 for stage in structure.stages}
    for name, cost in costs.layers.items():
        parts = name.split(".")
        for length in range(len(parts), -1, -1):
            owners = beneath.get(".".join(parts[:length]), set())
            if owners:
                if len(owners) == 1:
                    totals[next(iter(owners))] += cost.macs
                break
    return totals


def _plain(figures: list[tuple[Any, ...] | None]) -> list[Any]:
    """Numbers where every tuple repeats one figure, the tuples otherwise.

    The whole input (None) becomes infinite; what there is no figure for becomes nan.
    """
    known = [
        tuple(math.inf if part is None else part for part in figure) if figure else (math.nan,)
        for figure in figures
    ]
    if all(len(set(figure)) == 1 for figure in known):
        return [figure[0] for figure in known]
    return known


def _share(part: int | None, whole: int) -> float:
    return part / whole if part is not None and whole else float("nan")

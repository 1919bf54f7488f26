"""What batches of data say: the importance of every weight, and the ablation of every level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters.modules import layer_of
from weightscope.batches import Batch, split_images, which_image
from weightscope.calls import (
    forward_errors,
    fresh,
    gradient_errors,
    own_arguments,
    say,
    shapes,
    to_device,
    unchanged,
    undisturbed,
)
from weightscope.errors import InputError, keyword, kind
from weightscope.graph.structure import Structure
from weightscope.probing.response import Response, measure_response
from weightscope.progress import bar
from weightscope.thresholds import (
    CONFIDENCE,
    LOSS_THAT_COUNTS,
    MINIMUM_IMAGES,
    NEGLIGIBLE_IMPORTANCE,
    NEGLIGIBLE_LOSS,
    RESPONSE_BORDER,
)
from weightscope.utilization.ablated import AblationResult, LevelAblation
from weightscope.utilization.ablation import (
    ablate_levels,
    ablate_outputs,
    refuse_broken_weights,
)
from weightscope.utilization.channels import part_named
from weightscope.utilization.judging import Metric, Metrics
from weightscope.utilization.readings import (
    are_classes,
    drowns_what_is_rare,
    first_answer,
    logits_note,
    reads_marks,
)
from weightscope.utilization.records import NO_CUT, Score, Verdict
from weightscope.utilization.scores import (
    describe_lost,
    describe_other,
    describe_part,
    skill_lost,
    unseen,
    utilization,
)
from weightscope.utilization.trivial import CONSTANT
from weightscope.utilization.values import why_no_number


@dataclass(frozen=True)
class Importance:
    """First-order importance of a stage: the sum over its weights of ``|w * dL/dw|``.

    The loss would change by about that much, at most, if the weights were taken away one by one
    (Molchanov et al. 2019, eq. 8 without the square).

    Attributes:
        value: Mean over batches.
        margin: Half-width of its 95 % interval over batches (Student's); inf for a single batch.
    """

    value: float
    margin: float


@dataclass(frozen=True)
class DataEvidence:
    """What the batches said of a network.

    Attributes:
        importances: Taylor importance of each stage, by stage name; empty without a loss.
        ablation: Quality lost at each cut, by the metric or else by the loss; None without either.
        skilled: Whether the network is better than the best trivial answer; None if that was not
            measured, or if images and targets cannot tell.
        levels: Level of each stage, by stage name.
        responses: Of the output on these images at each cut, where quality is a mean over pixels,
            in which a rare class drowns, or is that of one of several outputs; else None.
        of_pixels: Whether quality is a mean over pixels.
        summed: Whether quality is of several outputs together, of which each may be a small part.
        notes: What must be known of what was given.
        beside: The same of further outputs, each by a metric of its own.
    """

    importances: Mapping[str, Importance]
    ablation: AblationResult | None
    skilled: bool | None
    levels: Mapping[str, int]
    responses: Response | None = None
    of_pixels: bool = True
    summed: bool = False
    notes: tuple[str, ...] = ()
    beside: tuple[DataEvidence, ...] = ()

    @property
    def masters(self) -> bool:
        """Whether the network has most of the skill that there is to have, of a bounded quality."""
        found = self.ablation
        if found is None or not found.larger_is_better or not 0.0 <= found.chance < 1.0:
            return False
        return bool(self.skilled) and found.quality <= 1.0 and found.skill > (1 - found.chance) / 2

    def score(self, stage: str) -> Score:
        """Score one stage; of several judged outputs by the one that uses it most."""
        return _decisive([one._score(stage) for one in (self, *self.beside)])

    def _score(self, stage: str) -> Score:
        """Score one stage by one output: by ablation where a cut removes it, else by importance.

        For ablation ``m`` is the share of the skill that is lost by the cut that removes the stage
        and least else, ``n`` a negligible share. For importance ``m`` is the stage's share of the
        largest importance in the network.
        """
        level = self.levels[stage]
        cuts = [] if self.ablation is None else self.ablation.levels
        removing = [cut for cut in cuts if cut.keep_levels <= level]
        if self.ablation is not None and removing:
            least = max(removing, key=lambda cut: cut.keep_levels)
            score = _score_ablation(self.ablation, least, level)
            return score if score.verdict == "used" else self._doubted(score, least)
        largest = max((i.value for i in self.importances.values()), default=0.0)
        if stage in self.importances and largest > 0.0:
            score = _score_importance(self.importances[stage], largest)
            doubt = "" if self.ablation is None else self.ablation.doubt
            return replace(score, verdict="undecided", why=doubt) if doubt else score
        nan = float("nan")
        why = NO_CUT if self.ablation is not None else "no gradient reaches it"
        return Score("data", nan, nan, nan, "undecided", why)

    def _doubted(self, score: Score, cut: LevelAblation) -> Score:
        """Condemn nothing that an output which was not judged hangs on, or one class of several."""
        if self.responses is None or self.ablation is None or math.isnan(score.utilization):
            return score
        if self.responses.failure:
            return score.guarded_by(f"its response was not measured: {self.responses.failure}")
        same = next(c for c in self.responses.cuts if c.keep_levels == cut.keep_levels)
        others = self.ablation.unjudged
        if self.summed and cut.worst_kind not in ("channel", "output"):
            others = tuple(same.outputs)
            # of which the others may be coarser versions
            if not others and same.high > RESPONSE_BORDER:
                first = f"the first output of the network responds with up to {same.high:.2g}"
                return score.guarded_by(first)
        _, most = same.loudest(others)
        if most > RESPONSE_BORDER:
            return score.guarded_by(describe_other(same, others))
        if not self.of_pixels:
            return score
        # labels may be read as numbers; one channel of true numbers may be of little worth
        of_classes = self.ablation.recalibrated or self.ablation.larger_is_better
        # numbers may look like decisions, unless each channel's own error was measured
        decides = math.isfinite(same.flips) and cut.worst_kind not in ("channel", "output")
        # of two decisions both respond as the whole does
        if same.worst > max(same.borders[1], 1.01 * same.value) and (of_classes or decides):
            return score.guarded_by(describe_part(same))
        if score.verdict != "unused":
            return score
        return replace(score, why=f"{score.why}; {unseen(classes=of_classes)}")


def _decisive(scores: Sequence[Score]) -> Score:
    """What is used for any output is used, and unused is only what is so for all."""
    order = ("unused", "undecided", "used")
    measured = [s for s in scores if math.isfinite(s.utilization)]
    if not measured:
        return scores[0]
    most = max(measured, key=lambda s: (order.index(s.verdict), s.utilization))
    unmeasured = [s for s in scores if s not in measured]
    if most.verdict != "used" and unmeasured:
        return most.guarded_by(unmeasured[0].why)
    return replace(most, guarded=any(s.guarded for s in measured))


def _verdict(low: float, high: float, used: float = 0.5) -> Verdict:
    """Used above a border, unused below one half, undecided where the interval holds either."""
    if high < 0.5:
        return "unused"
    return "used" if low > used else "undecided"


def _change(result: AblationResult, cut: LevelAblation, share: float) -> str:
    """The quality before and after, and that of the trivial answer where it says more."""
    change = f"{result.metric} {cut.quality:.3g} to {cut.ablated:.3g}"
    trivial = f"{result.chance:.3g}"
    if result.trivial != CONSTANT:
        return f"{change}; of {result.trivial} it is {trivial}"
    # one figure is not worse than itself
    worse = share > 1.0 and trivial != f"{cut.ablated:.3g}"
    return f"{change}, worse than the trivial {trivial}" if worse else change


def _score_ablation(result: AblationResult, cut: LevelAblation, level: int) -> Score:
    """Score a stage by the cut that removes it and least else."""
    nan = float("nan")
    if result.undecided:
        known = result.skill > 0 and not result.constant_targets
        share = utilization(cut.drop / result.skill, NEGLIGIBLE_LOSS) if known else nan
        return Score("data", share, 0.0, 1.0, "undecided", result.doubt)
    if not result.skilled:
        return Score(
            "data",
            nan,
            nan,
            nan,
            "undecided",
            f"on these images the network is {result.comparison}",
        )
    if not cut.images:
        why = (
            f"without levels {cut.keep_levels} and deeper no image has a value, so that what they "
            f"are worth by {result.metric} cannot be said"
        )
        return Score("data", nan, nan, nan, "undecided", why, guarded=True)
    value, low, high = (
        utilization(loss / result.skill, NEGLIGIBLE_LOSS) for loss in (cut.drop, cut.low, cut.high)
    )
    exact = cut.keep_levels == level
    share = max(cut.drop, 0.0) / result.skill
    caveat = _threshold_caveat(result, cut)
    change = _change(result, cut, share)
    change += f", {caveat}" if caveat else ""
    change += f"; {describe_lost(cut.lost)}" if cut.lost else ""
    why = f"without levels {cut.keep_levels} and deeper {skill_lost(share)} ({change})"
    alone = f"by {result.judged_outputs} alone" if result.judged else ""
    one_class = _describe_worst(cut, share)
    why += one_class and f"; {one_class}"
    hidden, remedy = _describe_hidden(result, cut)
    why += hidden and f"; {hidden}; {remedy}"
    caveat = ", ".join(filter(None, (alone, one_class, hidden, caveat)))
    border = LOSS_THAT_COUNTS if result.recalibrated else NEGLIGIBLE_LOSS
    verdict = _verdict(low, high, utilization(border, NEGLIGIBLE_LOSS))
    if verdict == "undecided":
        shares = " to ".join(f"{loss / result.skill:.1%}" for loss in (cut.low, cut.high))
        least = f"{NEGLIGIBLE_LOSS:.0%}"
        one = border == NEGLIGIBLE_LOSS
        two = f"is not below {least} nor above {border:.0%}"
        why += f"; {shares} " + (f"lies on both sides of {least}" if one else two)
    # a mean over many classes hides what one of them loses, a sum of losses an output
    guarded = cut.worst_low > LOSS_THAT_COUNTS or bool(cut.lost or cut.hidden) or cut.silenced > 0
    if verdict == "unused" and guarded:
        verdict = "undecided"
    if 0 <= cut.images < MINIMUM_IMAGES:
        verdict, low, high, guarded = "undecided", 0.0, 1.0, True
        have = "1 image has" if cut.images == 1 else f"{cut.images} images have"
        why += f"; but {have} a value both with and without them, {MINIMUM_IMAGES} are needed"
    if cut.silenced:
        # such as a precision where nothing is found any more: no value may be worse than a bad one
        have = "image has" if cut.silenced == 1 else "images have"
        why += f"; {cut.silenced} more {have} no value without them, which this leaves out"
    if not exact and verdict == "used":
        verdict, why = "undecided", f"{why}, but the cut also removes shallower levels"
    return Score("data", value, low, high, verdict, why, share, caveat, guarded=guarded)


def _describe_worst(cut: LevelAblation, share: float) -> str:
    """What one class, channel or output loses of its own skill; empty where the whole loses more.

    Args:
        cut: The cut.
        share: Of the whole skill that is lost.
    """
    if not cut.worst > max(LOSS_THAT_COUNTS, share):
        return ""
    own = "all" if cut.worst > 1.0 else f"{cut.worst:.1%}"
    by = f" by {cut.worst_metric}" if cut.worst_metric else ""
    lost = f"{_the_worst(cut)} alone loses {own} of its own skill{by}"
    if cut.worst_class < 0 and by:
        lost = f"{own} of the skill{by} is lost"
    return lost + (", surely more than a tenth" if cut.worst_low > LOSS_THAT_COUNTS else "")


def _the_worst(cut: LevelAblation) -> str:
    """Which class, channel or output loses most of its own skill, in words."""
    if cut.worst_kind in ("channel", "output"):
        return part_named(cut.worst_output, cut.worst_class)
    of = " of the metric" if cut.worst_kind == "number" else ""
    return f"{cut.worst_kind} {cut.worst_class}{of}"


def _describe_hidden(result: AblationResult, cut: LevelAblation) -> tuple[str, str]:
    """That the metric cannot see what a channel or output is worth, and what helps, in words."""
    if not cut.hidden:
        return "", ""
    names = ", ".join(cut.hidden)
    s, it, is_ = ("s", "it", "it is") if len(cut.hidden) == 1 else ("", "each", "each of them is")
    return (
        f"{names} change{s}, and {result.metric} cannot resolve what {is_} worth beside the rest",
        f"give outputs and targets in units of one size, or judge {it} alone",
    )


def _threshold_caveat(result: AblationResult, cut: LevelAblation) -> str:
    """What the quality would be as the outputs are, or at the whole network's threshold."""
    if cut.unadjusted is None:
        return ""
    figure = f"{cut.unadjusted:.3g}"
    # it may be the better one by a little, where not every threshold was tried
    better = cut.unadjusted > cut.ablated
    if figure == f"{cut.ablated:.3g}" or better is not result.recalibrated:
        return ""
    if result.recalibrated:
        return f"without a new scale and offset it is {figure}"
    return f"each at its best threshold; at that of the whole network {result.metric} is {figure}"


def _score_importance(importance: Importance, largest: float) -> Score:
    """Score a stage by its importance relative to the most important stage."""
    value, low, high = (
        utilization(
            max(importance.value + sign * importance.margin, 0.0) / largest, NEGLIGIBLE_IMPORTANCE
        )
        for sign in (0.0, -1.0, 1.0)
    )
    if not math.isfinite(importance.margin):
        low, high = 0.0, 1.0
    share = importance.value / largest
    why = f"Taylor importance {share:.1%} of the most important stage's"
    return Score("data", value, low, high, _verdict(low, high), why)


def gather_data(
    structure: Structure,
    batches: Sequence[Batch],
    loss: Callable[[Any, Any], Tensor] | None = None,
    metric: Metric | Metrics | None = None,
    *,
    ignore_index: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> DataEvidence:
    """Collect evidence from batches of data; the model is left as it was.

    Args:
        structure: The network.
        batches: ``(inputs, targets)`` pairs, see `read_batches`.
        loss: ``loss(outputs, targets)``, a scalar tensor, for Taylor importance; also for the
            ablation where no metric is given, then asked for one image at a time.
        metric: For ablation, see `ablate`; or one for each of several outputs.
        ignore_index: See `ablate`.
        resamples: Bootstrap resamples over images.
        seed: Of the bootstrap.
        progress: Show bars.

    Raises:
        InputError: The batches, the loss or the metric cannot be used.
        ForwardError: The model's forward raises on a batch.
    """
    refuse_broken_weights(structure.model)
    refuse_no_loss(loss)
    importances: Mapping[str, Importance] = {}
    classes = False
    if loss is not None:
        importances = measure_importance(structure, batches, loss, progress=progress)
        answer = first_answer(structure, batches)
        targets = [target for _, target in batches]
        classes = are_classes(targets, structure.inputs.dimensions, answer)
        if classes and metric is None:
            images = (one for target in targets for one in split_images(target))
            classes = not reads_marks(loss, answer, images)
    levels = {stage.name: stage.level for stage in structure.stages}
    if isinstance(metric, Mapping):
        results = ablate_outputs(
            structure,
            batches,
            metric,
            ignore_index=ignore_index,
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
        first, *others = (DataEvidence({}, r, _is_skilled(r), levels) for r in results)
        unsaid = map(_unsaid, results) if first.skilled else ()  # else all are
        told = tuple(filter(None, (logits_note(structure, batches, loss, "loss"), *unsaid)))
        return replace(first, importances=importances, notes=told, beside=tuple(others))
    judged_by = loss if metric is None else metric
    result = None
    if judged_by is not None:
        result = ablate_levels(
            structure,
            batches,
            judged_by,
            larger_is_better=False if metric is None else None,
            ignore_index=ignore_index,
            recalibrate=metric is None and classes,
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
    given = (("loss", loss), ("metric", metric))
    notes = tuple(filter(None, (logits_note(structure, batches, by, name) for name, by in given)))
    if result is not None and result.on_versions:
        notes += (result.on_versions,)
    found = DataEvidence(importances, result, _is_skilled(result), levels, notes=notes)
    if all(found.score(stage).verdict != "unused" for stage in levels):
        return found
    of_pixels = metric is None or metric == "accuracy"
    if metric is not None and not isinstance(metric, str):
        of_pixels = drowns_what_is_rare(structure, batches, metric)
    summed = result is not None and len(structure.outputs) > 1 and len(result.judged) != 1
    if not of_pixels and not summed and not (result and result.unjudged):
        return found
    responses = measure_response(structure, [[inputs for inputs, _ in batches]], "images")
    return replace(found, responses=responses, of_pixels=of_pixels, summed=summed)


def _unsaid(result: AblationResult) -> str:
    """That nothing is said of one of several outputs, in words; empty where something is."""
    cause = result.doubt or ("" if result.skilled else f"the network is {result.comparison}")
    remedy = f": {result.remedy}" if result.undecided else ""
    return cause and f"Of {result.judged_outputs} nothing is said by data, as {cause}{remedy}."


def _is_skilled(result: AblationResult | None) -> bool | None:
    """Whether there is skill; None where that was not measured, or the images cannot tell."""
    return None if result is None or result.undecided else result.skilled


def refuse_no_loss(loss: object) -> None:
    """Refuse what is no function of outputs and targets, with what to give instead.

    Raises:
        InputError: The loss is a name, a class, or cannot be called.
    """
    if isinstance(loss, type):
        raise InputError(
            f"{keyword('loss', loss.__name__)} is a class; give an object of it, {loss.__name__}()"
        )
    if isinstance(loss, str):
        raise InputError(
            f"{keyword('loss', repr(loss))} is a text; names are for {keyword('metric')}, a loss "
            "is a function such as torch.nn.functional.cross_entropy"
        )
    if loss is not None and not callable(loss):
        raise InputError(
            f"{keyword('loss')} is a {type(loss).__name__}; give a function of outputs and targets"
        )


def measure_importance(
    structure: Structure,
    batches: Sequence[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    progress: bool = False,
) -> Mapping[str, Importance]:
    """Measure Taylor importance of every stage, by stage name.

    Gradients are taken of copies that share the parameters' storage, so that the model's own
    ``.grad`` and ``requires_grad`` are not touched.

    Raises:
        InputError: The loss is no finite scalar tensor that depends on the weights.
    """
    model = structure.model
    watched = {
        name: parameter.detach().requires_grad_()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
    }
    stage_of = {name: structure.stage_of.get(layer_of(model, name)) for name in watched}
    images = iter(which_image([inputs for inputs, _ in batches]))
    held = [frozenset(islice(images, len(split_images(inputs)))) for inputs, _ in batches]
    # copies of a batch make nothing surer
    once = {which: index for index, which in reversed([*enumerate(held)])}.values()
    rows: list[dict[str, float]] = []
    kept = unchanged(loss) if isinstance(loss, nn.Module) else nullcontext()
    counted = bar(len(once), "importance", shown=progress, unit="batch")
    with undisturbed(model), kept, torch.enable_grad(), counted as advance:
        for index in sorted(once):
            inputs, targets = batches[index]
            args, kwargs = own_arguments(inputs, model)
            with forward_errors(model, inputs, f"batch {index}"):
                outputs = torch.func.functional_call(model, watched, args, kwargs)
            value = _loss_of(loss, outputs, to_device(targets, model), index)
            what = f"the function given as {keyword('loss')}"
            with gradient_errors(model, inputs, what, f"leave {keyword('loss')} out"):
                gradients = torch.autograd.grad(
                    value, list(watched.values()), allow_unused=True, retain_graph=False
                )
            row = dict.fromkeys((stage.name for stage in structure.stages), 0.0)
            for (name, weight), gradient in zip(watched.items(), gradients, strict=True):
                stage = stage_of[name]
                if stage is not None and gradient is not None:
                    row[stage.name] += float((weight.detach() * gradient).abs().sum())
            rows.append(row)
            advance(1)
    return {
        stage.name: Importance(*_mean_and_margin([row[stage.name] for row in rows]))
        for stage in structure.stages
    }


def _loss_of(loss: Callable[[Any, Any], Tensor], outputs: Any, targets: Any, index: int) -> Tensor:
    """The loss of a batch; refuse what is no differentiable finite scalar."""
    try:
        value = loss(*fresh(outputs, targets))
    except Exception as error:
        raise InputError(
            f"the loss raised on batch {index} (outputs {shapes(outputs)}, targets "
            f"{shapes(targets)}): {say(error)}. It is called as loss(outputs, targets)"
            f"{_how_to_pick(outputs)}."
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        several = isinstance(value, Tensor) and value.numel() > 1
        what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else kind(value)
        mean = "; give its mean: lambda outputs, targets: loss(outputs, targets).mean()"
        raise InputError(
            f"loss(outputs, targets) returned {what}; expected a scalar tensor that depends on the "
            f"outputs{mean if several else ''}"
        )
    if not bool(torch.isfinite(value)):
        cause = why_no_number(outputs, targets)
        raise InputError(f"the loss of batch {index} is {float(value.detach())}{cause}")
    return value


def _how_to_pick(outputs: Any) -> str:
    """How a loss gets at one of several outputs, in words; empty where there is one."""
    if isinstance(outputs, Mapping) and outputs:
        place = repr(next(iter(outputs)))
    elif isinstance(outputs, list | tuple):
        place = "0"
    else:
        return ""
    return (
        f"; the model returns a {type(outputs).__name__}, so give one that picks from it, such as "
        f"lambda outputs, targets: loss(outputs[{place}], targets)"
    )


def _mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its interval; nothing is known of the spread of a single value."""
    from scipy import special

    mean, count = sum(values) / len(values), len(values)
    if count < 2:
        return mean, math.inf
    variance = sum((v - mean) ** 2 for v in values) / (count - 1)
    quantile = float(special.stdtrit(count - 1, 0.5 + CONFIDENCE / 2.0))
    return mean, quantile * math.sqrt(variance / count)

"""Several outputs: one that a cut removes is lost by it, and is never spared without a word."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

import weightscope as ws
from tests.networks import ClassBeside, classed_images
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.probing import respond_to_images, respond_to_synthetic
from weightscope.probing.outputs import CoarserOutputs, Concordance
from weightscope.utilization import gather_data
from weightscope.utilization.ablation import ablate_levels, coarser_outputs
from weightscope.utilization.judging import one_metric, one_of_several, refuse_unnamed_outputs
from weightscope.utilization.scores import describe_lost, score_response

IMAGES, TARGETS = classed_images()
GIVEN = [(IMAGES, TARGETS)]


def structure_of(**options):
    return read_structure(ClassBeside(**options).eval(), IMAGES[:2])


@pytest.fixture(scope="module")
def structure():
    return structure_of()


def hits(outputs, targets):
    return float((outputs.argmax(1) == targets).float().mean())


def test_an_output_of_what_is_removed_is_lost_at_every_cut_above_it(structure):
    assert [structure.lost_outputs(cut.keep_levels) for cut in structure.cuts] == [("['cls']",)] * 2
    half = structure_of(coarse="other")
    assert [half.lost_outputs(cut.keep_levels) for cut in half.cuts] == [("['half']",), ()]


@pytest.mark.parametrize("own", [True, False])
def test_no_level_is_unused_by_response_without_which_an_output_is_lost(structure, own):
    found = respond_to_images(structure, [IMAGES]) if own else respond_to_synthetic(structure)
    for cut in found.cuts:
        assert (cut.value, cut.outputs["['cls']"], cut.lost) == (0.0, 1.0, ("['cls']",))
    for level in (1, 2):
        score = score_response(found, level)
        assert score.verdict == "undecided"
        assert score.why.endswith("but outputs['cls'] of the network is computed there and lost")
        assert score.high > 0.9


def test_all_of_the_skill_of_a_lost_output_is_lost(structure):
    found = gather_data(structure, GIVEN, metric={"seg": "f1", "cls": hits})
    (first, second) = found.ablation, found.beside[0].ablation
    assert [level.drop for level in first.levels] == [0.0, 0.0]
    assert [(level.ablated, level.drop, level.lost) for level in second.levels] == [
        (0.5, 0.5, ("['cls']",))
    ] * 2
    for stage in ("bottleneck", "encoder 1"):
        score = found.score(stage)
        assert (score.verdict, score.loss) == ("used", 1.0)
        assert "outputs['cls'] of the network is computed there and lost" in score.why


def joint(outputs, targets):
    lost = F.binary_cross_entropy_with_logits(outputs["seg"], targets["seg"])
    return lost + 0.01 * F.cross_entropy(outputs["cls"], targets["cls"])


def by_class(outputs, targets):
    return hits(outputs["cls"], targets["cls"])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("given", "verdict", "lost"),
    [
        ({"metric": by_class}, "used", 1.0),
        ({"loss": joint}, "undecided", None),
        ({"metric": {"seg": "f1", "cls": None}}, "unused", 0.0),
    ],
)
def test_what_a_callable_reads_counts_and_what_has_no_metric_does_not(
    structure, given, verdict, lost
):
    found = gather_data(structure, GIVEN, **given)
    for stage in ("bottleneck", "encoder 1"):
        score = found.score(stage)
        assert score.verdict == verdict
        assert lost is None or score.loss == lost
        assert ("computed there and lost" in score.why) == (verdict != "unused")


def test_a_lost_output_that_is_not_judged_is_doubt(structure):
    found = gather_data(structure, [(IMAGES, TARGETS["seg"])], metric="f1")
    for stage in ("bottleneck", "encoder 1"):
        score = found.score(stage)
        assert score.verdict == "undecided"
        assert score.why.endswith("but outputs['cls'] of the network is computed there and lost")


@pytest.mark.sample(1)
@pytest.mark.parametrize("fill", ["mean", "zero", "shuffle"])
def test_a_lost_output_is_filled_as_the_exits_are(structure, fill):
    result = ablate_levels(
        structure, GIVEN, lambda o, y: float(o["cls"].std() + o["seg"].std()), fill=fill,
        larger_is_better=True, resamples=10,
    )  # fmt: skip
    assert all(level.lost == ("['cls']",) for level in result.levels)


def test_an_output_deeper_within_is_named_by_its_place():
    outputs = (IMAGES, {"aux": TARGETS["seg"], "rest": [IMAGES]})
    assert one_of_several(outputs, 0, "outputs") is IMAGES
    assert one_of_several(outputs, "[1]['aux']", "outputs") is TARGETS["seg"]
    places = ["[0]", "[1]['aux']", "[1]['rest'][0]"]
    refuse_unnamed_outputs(dict.fromkeys(places, "f1"), outputs, places)
    refuse_unnamed_outputs({0: "f1", 1: None}, outputs, places)  # nothing in the second counts
    with pytest.raises(
        InputError, match=r"holds none for outputs\[1\]\['aux'\].*as \"\[1\]\['aux'\]"
    ):
        refuse_unnamed_outputs({0: "f1"}, outputs, places)
    with pytest.raises(InputError, match=r"by its name or place, such as \"\[1\]\['rest'\]\[0\]\""):
        one_of_several(outputs, "aux", "outputs")


def test_another_quantity_at_fewer_positions_is_an_output_of_its_own():
    version, other = structure_of(coarse="version"), structure_of(coarse="other")
    assert coarser_outputs(version, GIVEN) == {"['half']"}
    assert coarser_outputs(other, GIVEN) == set()
    targets = {"seg": TARGETS["seg"], "half": F.avg_pool2d(IMAGES, 2)}
    assert (
        gather_data(version, [(IMAGES, targets)], metric={"seg": "f1"}).score("bottleneck").verdict
        == "unused"
    )
    with pytest.raises(InputError, match=r"holds none for outputs\['half'\]"):
        gather_data(other, [(IMAGES, targets)], metric={"seg": "f1"})
    assert not respond_to_images(version, [IMAGES]).cuts[0].outputs
    assert respond_to_images(other, [IMAGES]).cuts[0].lost == ("['half']",)


def test_a_coarser_version_has_the_probabilities_of_the_first_output():
    torch.manual_seed(0)
    logits = F.interpolate(3 * torch.randn(4, 1, 4, 4), scale_factor=2.0)
    small = F.avg_pool2d(logits, 2)
    for answer, expected in (
        (2 * small, 0.97), (small.sigmoid(), 1.0), (-small, -1.0), (small.abs(), 0.0),
        (0 * small, 0.0),
    ):  # fmt: skip
        concordance = Concordance()
        for i in range(4):
            concordance.add(answer[i : i + 1], logits[i : i + 1])
        assert concordance.value == pytest.approx(expected, abs=0.25)


def test_a_network_of_one_output_is_not_run_to_look_for_coarser_ones(structure, monkeypatch):
    found = CoarserOutputs(structure)
    monkeypatch.setattr("weightscope.probing.outputs.GraphRun", None)
    found.add(IMAGES)
    assert found.counted == ("['seg']", "['cls']")


def test_what_a_smaller_network_does_not_return_is_said():
    found = ws.analyze(ClassBeside().eval(), example_inputs=IMAGES[:2], response=False)
    for proposal in found.proposals:
        assert (
            "; it does not return outputs['cls'], computed in what is removed" in proposal.evidence
        )
    smaller = found.proposals[0].build()
    assert smaller.module(IMAGES)["cls"] is None
    assert "does not return outputs['cls']" in repr(smaller)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, False),
        ({"batches": [(IMAGES, TARGETS["seg"])], "metric": "f1"}, False),
        ({"batches": GIVEN, "metric": by_class}, False),
        ({"batches": GIVEN, "metric": {"seg": "f1", "cls": None}}, True),
    ],
)
def test_no_search_prefers_a_network_without_an_output_unless_told_so(given, chosen):
    found = ws.shrink(
        ClassBeside().eval(), images=IMAGES, tolerance=0.9, steps=0, repeats=2, random=False,
        progress=False, **given,
    )  # fmt: skip
    reasons = [c.refusal for c in found.candidates if "outputs['cls'] is computed in" in c.refusal]
    assert (found.chosen is not None, len(reasons)) == ((True, 0) if chosen else (False, 2))


def test_a_search_goes_by_one_metric():
    assert one_metric("f1") == (None, "f1")
    assert one_metric({"a": "f1", "b": None}) == ("a", "f1")
    with pytest.raises(InputError, match="holds one for 2 outputs"):
        one_metric({"a": "f1", "b": "mse"})


def test_an_unknown_name_is_not_given_as_advice(structure):
    with pytest.raises(InputError, match=r"outputs\['dept'\], and there are .*'cls'") as refused:
        gather_data(structure, GIVEN, metric={"seg": "f1", "dept": "mse"})
    assert str(refused.value).count("dept") == 1


@dataclass
class Answer:
    seg: torch.Tensor
    cls: torch.Tensor


class Pair(NamedTuple):
    seg: torch.Tensor
    cls: torch.Tensor


@dataclass
class Listed(OrderedDict):
    """As transformers' ModelOutput: a dict, a dataclass, and indexed by numbers."""

    seg: torch.Tensor | None = None
    cls: torch.Tensor | None = None

    def __post_init__(self):
        for name in ("seg", "cls"):
            super().__setitem__(name, getattr(self, name))

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class As(ClassBeside):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind(**super().forward(x))


KINDS = [dict, Answer, Pair]


def _first_metric(found):
    return found.ablation.metric, found.beside[0].ablation.metric


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [*KINDS, Listed])
def test_outputs_and_targets_of_any_container_go_by_their_names(kind, targets):
    model = As(kind).eval()
    structure = read_structure(model, IMAGES[:2])
    given = [(IMAGES, targets(**TARGETS))]
    found = gather_data(structure, given, metric={"seg": "f1", "cls": hits})
    plain = gather_data(structure_of(), GIVEN, metric={"seg": "f1", "cls": hits})
    places = ["f1 of outputs.seg", "hits of outputs.cls"]
    if kind is not Pair:
        places = ["f1 of outputs['seg']", "hits of outputs['cls']"]
    assert list(_first_metric(found)) == places
    levels = [one.ablation.levels for one in (found, found.beside[0])]
    expected = [one.ablation.levels for one in (plain, plain.beside[0])]
    for own, other in zip(levels, expected, strict=True):
        assert [level.drop for level in own] == [level.drop for level in other]
    # what is printed may be given back, in full or without what all begin with
    for cut in (0, len("outputs")):
        names = [place.partition(" of ")[2][cut:] for place in places]
        again = gather_data(structure, given, metric=dict(zip(names, ("f1", hits), strict=True)))
        assert list(_first_metric(again)) == places


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [Answer, Pair, lambda seg, cls: (seg, cls)])
def test_outputs_in_order_go_by_numbers_too(kind):
    structure = read_structure(As(kind).eval(), IMAGES[:2])
    given = [(IMAGES, (TARGETS["seg"], TARGETS["cls"]))]
    found = gather_data(structure, given, metric={0: "f1", 1: hits})
    assert [one.ablation.quality for one in (found, found.beside[0])] == [1.0, 1.0]


def test_targets_that_bear_no_names_are_told_what_helps():
    structure = read_structure(As(Answer).eval(), IMAGES[:2])
    given = [(IMAGES, (TARGETS["seg"], TARGETS["cls"]))]
    text = r"targets\['seg'\], and there are targets\[0\], targets\[1\]; .*\{'seg': ...\}"
    with pytest.raises(InputError, match=text):
        gather_data(structure, given, metric={"seg": "f1", "cls": hits})
    found = gather_data(structure, [(IMAGES, TARGETS)], metric={"seg": "f1", "cls": hits})
    assert found.ablation is not None


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_is_judged_by_the_target_of_another_name(kind):
    structure = read_structure(As(kind).eval(), IMAGES[:2])
    wrong = {"other": TARGETS["cls"], "seg": TARGETS["seg"]}
    with pytest.raises(InputError, match=r"would be judged by targets\['other'\].*\['seg'\]"):
        gather_data(structure, [(IMAGES, wrong)], metric="f1")


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["seg", "['seg']", "outputs['seg']", 0])
def test_a_search_takes_the_same_names(name):
    found = ws.shrink(
        As(Answer).eval(), batches=[(IMAGES, Answer(**TARGETS))],
        metric={name: "f1", "cls": None}, tolerance=0.9, steps=0, repeats=2, random=False,
        progress=False,
    )  # fmt: skip
    assert found.chosen is not None


def test_several_lost_outputs_are_named():
    assert describe_lost(["[1]", "[2]"]) == (
        "outputs[1] and outputs[2] of the network are computed there and lost"
    )


def test_an_output_of_which_nothing_is_said_is_named(structure):
    wrong = {**TARGETS, "cls": torch.arange(len(IMAGES)) // 2 % 2}  # right for every other image
    metrics = {"seg": "f1", "cls": hits}
    found = gather_data(structure, [(IMAGES, wrong)], metric=metrics)
    (note,) = found.notes
    assert note.startswith("Of outputs['cls'] nothing is said by data, as the network is ")
    assert gather_data(structure, GIVEN, metric=metrics).notes == ()


def halves(outputs, targets):
    fine = F.binary_cross_entropy_with_logits(outputs["seg"], targets["seg"])
    return 0.3 * fine + F.binary_cross_entropy_with_logits(outputs["half"], targets["half"])


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["loss", "metric"])
def test_a_coarser_version_that_a_callable_reads_is_judged_and_lost(way):
    structure = structure_of(coarse="version")
    mask = (F.avg_pool2d(IMAGES, 2) > 0).float()
    targets = {"seg": TARGETS["seg"], "half": mask}
    found = gather_data(structure, [(IMAGES, targets)], **{way: halves})
    first, second = found.ablation.levels
    assert (first.lost, second.lost) == (("['half']",), ())
    assert first.drop > 0.5 * found.ablation.skill
    score = found.score("encoder 1")
    assert score.verdict == "used"
    assert "outputs['half'] of the network is computed there and lost" in score.why
    assert found.score("bottleneck").verdict == "unused"
    (note,) = found.notes
    assert note.startswith("halves reads outputs['half'], a coarser version of the first output")

    def of_the_first(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs["seg"], targets["seg"])

    alone = gather_data(structure, [(IMAGES, targets)], **{way: of_the_first})
    assert (alone.ablation.levels[0].lost, alone.notes) == ((), ())
    assert alone.score("encoder 1").verdict == "unused"


class Unequal(torch.nn.Module):
    """Two masks of bright blocks: the first one comes from half resolution, the second does not."""

    def __init__(self, share):
        super().__init__()
        self.top, self.low = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)
        self.head = torch.nn.Conv2d(2, 2, 1, bias=False)
        for layer in (self.top, self.low):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        kernel = torch.tensor([[1 - share, share], [1.0, 0.0]])
        self.head.weight.data = 8 * kernel.view(2, 2, 1, 1)

    def forward(self, x):
        top = self.top(x)
        back = F.interpolate(self.low(F.avg_pool2d(top, 2)), scale_factor=2.0)
        made = self.head(torch.cat([top, back], 1))
        return {"small": made[:, :1], "large": made[:, 1:]}


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["loss", "metric"])
def test_a_sum_of_classes_hides_no_small_output(way):
    def weighed(outputs, targets):
        small, large = (
            F.binary_cross_entropy_with_logits(outputs[n], targets) for n in ("small", "large")
        )
        return 1e-4 * small + large

    verdicts = {}
    for share in (0.8, 0.0):
        structure = read_structure(Unequal(share).eval(), IMAGES[:2])
        found = gather_data(structure, [(IMAGES, TARGETS["seg"])], **{way: weighed})
        verdicts[share] = found.score("bottleneck")
        assert found.ablation.levels[0].drop < 0.05 * found.ablation.skill
    assert [score.verdict for score in verdicts.values()] == ["undecided", "unused"]
    assert "outputs['small'] of the network responds with up to" in verdicts[0.8].why

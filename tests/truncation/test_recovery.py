"""A cut network learns to answer as the original: with and without labels, resumed, on failure."""

import copy
import math
import re
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from toys import Pyramid, Short, assessment, image

import weightscope as ws
from weightscope.cost import count_costs
from weightscope.errors import ForwardError, InputError
from weightscope.graph import read_structure
from weightscope.truncation import (
    course,
    images,
    load,
    propose,
    recovery,
    save,
    teaching,
    verify,
    whole,
)
from weightscope.truncation import start as ridge
from weightscope.truncation.likeness import read_likeness


def needs_its_levels(factory=Short, example=None, seed=0):
    """A random network whose output hangs on its deep part: the path from below is turned up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("up.0.0") and parameter.dim() > 1:
                    parameter[:, 4:] *= 4
    structure = read_structure(model.eval(), image(2, 1, 32, 32) if example is None else example)
    costs = count_costs(model, structure.inputs)
    return {p.keep_levels: p for p in propose(structure, assessment(), costs)}


@pytest.fixture(scope="module")
def proposals_in_need():
    proposals = needs_its_levels()
    model = proposals[1].structure.model
    with torch.no_grad():  # a classifier: of the raw head all answers are one class, and unsure
        bias = model.head.bias
        bias -= model(IMAGES).mean((0, 2, 3))
        for parameter in model.head.parameters():
            parameter *= 200
    return proposals


IMAGES = torch.randn(48, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_most_of_what_was_lost_is_regained_and_the_original_is_untouched(proposals_in_need):
    proposal = proposals_in_need[1]
    model = proposal.structure.model
    model.train()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    variant = proposal.build()
    kept_modes = [m.training for m in variant.module.modules()]
    random = torch.get_rng_state()
    found = variant.recover(IMAGES, steps=60, progress=False)
    assert found.start == "ridge"
    assert found.before.explained < 0.7
    assert 1 - found.after.explained < 0.4 * (1 - found.before.explained)
    assert found.after.decisions >= found.before.decisions
    assert found.images == 48
    assert [m.training for m in model.modules()] == modes
    assert [m.training for m in variant.module.modules()] == kept_modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in [*model.parameters(), *variant.module.parameters()])
    assert all(p.requires_grad for p in variant.module.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    model.eval()


def test_a_course_begins_at_the_better_start_and_ends_at_its_best_check(proposals_in_need):
    variant = proposals_in_need[1].build()
    found = variant.recover(IMAGES, steps=40, progress=False)
    best = max(found.course, key=lambda check: -check.loss)
    assert [check.trained for check in found.course][:2] == ["start", "new"]
    assert found.course[-1].trained == "all"
    assert found.after.explained == pytest.approx(best.explained, abs=1e-4)


class Rounded(nn.Module):
    """Rounds in steps of the largest values that it has seen, as a network made for few bits."""

    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.ones(1))

    def forward(self, x):
        self.largest.lerp_(x.detach().abs().max(), 0.3)  # in evaluation mode too, as torch's own
        step = self.largest.clone() / 32
        return x + ((x / step).round() * step - x).detach()


def rounding():
    model = Short()
    model.down[0].append(Rounded())
    return model


@pytest.mark.sample(1)
@pytest.mark.parametrize("steps", [0, 12])
def test_what_moves_with_every_forward_stays_while_it_is_taught(steps):
    variant = needs_its_levels(rounding)[1].build()
    buffers = dict(variant.module.named_buffers())
    largest = next(b for name, b in buffers.items() if name.endswith("largest"))
    seen = largest.clone()
    found = variant.recover(IMAGES, steps=steps, progress=False)
    again = variant.recover(IMAGES, steps=0, progress=False)
    assert torch.equal(largest, seen)
    assert found.after.explained >= found.before.explained
    assert again.before == found.after


def test_new_weights_are_trained_first(proposals_in_need, monkeypatch):
    monkeypatch.setattr(course, "NEW_SHARE", 1.0)
    variant = proposals_in_need[1].build()
    before, moved, step = (
        copy.deepcopy(variant.module.state_dict()),
        set[str](),
        course.Course._step,
    )

    def noted(self: course.Course, *given: Any) -> None:
        step(self, *given)
        weights = self.module.named_parameters()
        moved.update(name for name, weight in weights if not torch.equal(weight, before[name]))

    monkeypatch.setattr(course.Course, "_step", noted)  # the best of them may be the start
    variant.recover(IMAGES, steps=5, progress=False)
    assert moved
    assert moved <= set(variant.reinitialized)


def test_one_seed_gives_one_result(proposals_in_need):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        variant = proposals_in_need[1].build()
        variant.recover(IMAGES, steps=4, seed=seed, progress=False)
        states.append(torch.cat([v.flatten() for v in variant.module.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def _negated(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()


def test_a_file_of_another_recovery_is_refused(tmp_path):
    path = tmp_path / "course.pt"
    batches = [(IMAGES[:8], IMAGES[:8, :1] > 0), (IMAGES[8:], IMAGES[8:, :1] > 0)]

    def bce(outputs, wanted):
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, :1], wanted)

    proposal = needs_its_levels()[1]

    def taught(loss=lambda y, t: bce(y, t.float()), labels=batches, **plan):
        torch.manual_seed(0)
        variant = proposal.build(**plan)
        return variant, variant.recover(
            IMAGES, steps=2, batches=labels, loss=loss, progress=False, resume=path
        )

    variant, first = taught()
    assert taught()[1] == first
    inverted = [(x, ~y) for x, y in batches]
    for others in (
        {"labels": inverted},
        {"loss": lambda y, t: -bce(y, t.float())},
        {"reach": 2},
    ):
        with pytest.raises(InputError, match="belongs to another recovery"):
            taught(**others)
    again = variant.recover(
        IMAGES, steps=2, batches=batches, loss=lambda y, t: bce(y, t.float()), progress=False,
        resume=path,
    )  # fmt: skip
    assert again == first  # it holds what the course came to
    _negated(variant.module)
    with pytest.raises(InputError, match="other weights"):
        variant.recover(
            IMAGES, steps=2, batches=batches, loss=lambda y, t: bce(y, t.float()), progress=False,
            resume=path,
        )  # fmt: skip
    _negated(proposal.structure.model)
    with pytest.raises(InputError, match="belongs to another recovery"):
        taught()


def test_a_loss_leaves_no_gradient_on_what_it_reads():
    proposal = needs_its_levels()[1]
    model = proposal.structure.model
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    gauge = nn.Linear(1, 1)

    class Distance(nn.Module):
        def __init__(self):
            super().__init__()
            self.gauge = gauge

        def forward(self, outputs, targets):
            return (outputs * self.gauge.weight).square().mean() + weight.square().sum()

    batches = [(IMAGES, IMAGES)]
    proposal.build().recover(None, steps=2, batches=batches, loss=Distance(), progress=False)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    others = [*list(model.parameters())[1:], *gauge.parameters()]
    assert all(parameter.grad is None for parameter in others)


def test_a_batch_that_does_not_fit_is_named_wherever_it_lies(proposals_in_need):
    variant = proposals_in_need[1].build()
    others = IMAGES[:8].expand(-1, 3, -1, -1)
    for given in ([IMAGES[8:], others], [others, IMAGES[8:]]):
        with pytest.raises(ForwardError, match="a batch of images"):
            variant.recover(given, steps=2, progress=False)


def test_a_file_belongs_to_one_build_one_network_and_its_images(tmp_path):
    def leaky():
        model = Short()
        for name, part in list(model.named_modules()):
            if isinstance(part, nn.ReLU):
                model.get_submodule(name.rpartition(".")[0])[int(name[-1])] = nn.LeakyReLU(0.1)
        return model

    path = tmp_path / "course.pt"
    proposal = needs_its_levels()[1]
    first = proposal.build(seed=0).recover(IMAGES, steps=2, progress=False, resume=path)
    again = proposal.build(seed=0).recover(IMAGES, steps=2, progress=False, resume=path)
    assert again == first
    learned = images.make_pool([IMAGES], 0).training[0].rows[0]
    one_less = IMAGES.clone()
    one_less[learned] = 0  # none that is held back
    for another, shown in (
        (proposal.build(seed=1), IMAGES),
        (proposal.build(seed=0), one_less),
        (needs_its_levels(seed=1)[1].build(seed=0), IMAGES),
        (needs_its_levels(leaky)[1].build(seed=0), IMAGES),
    ):
        with pytest.raises(InputError, match=r"belongs to another recovery.*build\(seed=0\)"):
            another.recover(shown, steps=2, progress=False, resume=path)


@pytest.mark.sample(1)
@pytest.mark.parametrize("rate", [1e-3, 0.03])  # with the second it falls back
def test_a_course_that_was_broken_off_goes_on(rate, proposals_in_need, tmp_path, monkeypatch):
    monkeypatch.setattr(course, "ALL_RATE", rate)
    path = tmp_path / "course.pt"
    torch.manual_seed(0)
    whole = proposals_in_need[1].build()
    expected = whole.recover(IMAGES, steps=40, progress=False)
    torch.manual_seed(0)
    broken = proposals_in_need[1].build()
    start = copy.deepcopy(broken.module.state_dict())
    step = course.Course._step

    def stop(self, number, eased):
        if number == 13:
            raise KeyboardInterrupt
        step(self, number, eased)

    monkeypatch.setattr(course.Course, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.recover(IMAGES, steps=40, progress=False, resume=path)
    assert all(torch.equal(v, start[k]) for k, v in broken.module.state_dict().items())
    assert all(p.requires_grad for p in broken.module.parameters())
    monkeypatch.setattr(course.Course, "_step", step)
    assert broken.recover(IMAGES, steps=40, progress=False, resume=path) == expected
    assert all(
        torch.equal(v, whole.module.state_dict()[k]) for k, v in broken.module.state_dict().items()
    )
    with pytest.raises(InputError, match="belongs to another recovery"):
        broken.recover(IMAGES, steps=41, progress=False, resume=path)
    path.write_bytes(b"not a course")
    with pytest.raises(InputError, match="cannot be read as a broken-off recovery"):
        broken.recover(IMAGES, steps=40, progress=False, resume=path)


def interrupted(monkeypatch, owner, name):
    """Let a function finish its first call and then raise as if somebody had pressed a key."""
    function, times = getattr(owner, name), []

    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        times.append(0)
        if len(times) == 1:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, call)
    return times


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("half", "owner", "name"),
    [
        (False, recovery, "_give_gradient"), (False, nn.Module, "load_state_dict"),
        (True, teaching, "_give_format"), (False, teaching.Student, "predict"),
    ],
)  # fmt: skip
def test_what_lands_while_a_recovery_is_undone_leaves_nothing_behind(
    proposals_in_need, monkeypatch, half, owner, name
):
    module = proposals_in_need[1].build().module
    if half:
        module.half()
    state = copy.deepcopy(module.state_dict())
    held = [(m, {**vars(m)}) for m in module.modules()]
    tensors = [(p, p.grad, p.requires_grad, p.dtype) for p in module.parameters()]
    variant = replace(proposals_in_need[1].build(), module=module)
    interrupted(monkeypatch, owner, name)
    with pytest.raises(KeyboardInterrupt):
        variant.recover(IMAGES, steps=3, progress=False)
    monkeypatch.undo()
    after = module.state_dict()
    assert all(torch.equal(v, after[k]) and v.dtype == after[k].dtype for k, v in state.items())
    assert [(p, p.grad, p.requires_grad, p.dtype) for p in module.parameters()] == tensors
    for part, before in held:
        assert {k: v for k, v in vars(part).items() if k[0] != "_"} == {
            k: v for k, v in before.items() if k[0] != "_"
        }
        assert not part._forward_pre_hooks


def test_settling_puts_the_momenta_back(monkeypatch):
    norm = nn.BatchNorm2d(2, momentum=0.3).eval()
    student = teaching.Student(
        nn.Sequential(norm), [f"0.{name}" for name in norm.state_dict()], False
    )
    student.settle([torch.randn(3, 2, 4, 4)])
    assert (norm.momentum, norm.training) == (0.3, False)
    interrupted(monkeypatch, teaching.Student, "predict")
    with pytest.raises(KeyboardInterrupt):
        student.settle([torch.randn(3, 2, 4, 4)])
    assert (norm.momentum, norm.training) == (0.3, False)


@pytest.mark.slow
def test_a_broken_off_course_is_read_by_the_reader_that_runs_nothing(proposals_in_need, tmp_path):
    path = tmp_path / "course.pt"
    variant = proposals_in_need[1].build()
    variant.recover(IMAGES, steps=1, progress=False, resume=path)
    content = torch.load(path, weights_only=True)
    for hostile in (
        {**content, "unit": print},
        {**content, "best": torch.ones(1).expand(10**12)},
        {**content, "before": [[]] * 3_000_000},
        [content],
    ):
        torch.save(hostile, path)
        with pytest.raises(InputError, match="cannot be read as a broken-off recovery"):
            variant.recover(IMAGES, steps=1, progress=False, resume=path)


def test_a_rate_that_is_too_high_falls_until_there_is_a_gain(proposals_in_need, monkeypatch):
    monkeypatch.setattr(course, "ALL_RATE", 0.3)
    rates, step = [], course.Course._step

    def note(self, number, eased):
        rates.append(eased)
        step(self, number, eased)

    monkeypatch.setattr(course.Course, "_step", note)
    torch.manual_seed(0)
    found = proposals_in_need[1].build().recover(IMAGES, steps=60, progress=False)
    shares = [1 - check.explained for check in found.course]
    assert shares[2] > 100 * shares[0]  # it was too high
    assert rates[0] == 1
    assert rates[-1] < 1 / 2
    assert rates == sorted(rates, reverse=True)
    assert found.steps == 60
    assert shares[-1] < 0.8 * shares[0]


def test_the_original_answers_each_image_once_and_kept_answers_change_nothing(
    proposals_in_need, monkeypatch
):
    asked, taken, states = [], [], []
    answers, predict = teaching.Teacher.answers, teaching.Student.predict

    def counted(self, inputs):
        asked[-1] += len(inputs)
        return answers(self, inputs)

    def learning(self, inputs):
        taken[-1] += len(inputs) * (3 if torch.is_grad_enabled() else 1)
        return predict(self, inputs)

    monkeypatch.setattr(teaching.Teacher, "answers", counted)
    monkeypatch.setattr(teaching.Student, "predict", learning)
    monkeypatch.setattr(course, "PATIENCE", 100)  # go through all steps
    for size in (teaching.ANSWER_BYTES, 0):
        monkeypatch.setattr(teaching, "ANSWER_BYTES", size)
        torch.manual_seed(0)
        variant = proposals_in_need[1].build()
        asked.append(0)
        taken.append(0)
        variant.recover(IMAGES[:12], steps=12, progress=False)
        states.append(torch.cat([v.flatten() for v in variant.module.state_dict().values()]))
    assert asked[0] == 12 + 10  # all of them, and those of the closed-form start once more
    assert asked[1] > 2 * asked[0]
    structure = proposals_in_need[1].structure
    assert recovery.forwards(structure, IMAGES[:12], steps=12) == (asked[0], taken[0])
    assert torch.equal(*states)


def test_few_images_are_held_back_and_each_other_one_has_its_turn():
    pool = images.make_pool([torch.zeros(300, 1), torch.zeros(101, 1)], seed=0)
    held = [row for part in pool.held_back for row in part.rows]
    assert len(held) == images.MOST_HELD_BACK
    assert pool.images == 401
    count = len(pool.training)
    for turn in (0, 1):
        drawn = {pool.draw(turn * count + step, seed=0) for step in range(count)}
        assert drawn == set(pool.training)
    assert max(len(part.rows) for part in pool.training) == images.BATCH


def likeness(outputs, inputs):
    pool = images.make_pool([inputs], seed=0)
    goals = SimpleNamespace(pool=pool, of=lambda part: [outputs[list(part.rows)]])
    return read_likeness(goals, ())


DRAWN = torch.Generator().manual_seed(2)
COLOURS = torch.rand(20, 3, 16, 16, generator=DRAWN) * 1.2 - 0.1
NOISE = torch.randn(20, 3, 16, 16, generator=DRAWN)


@pytest.mark.parametrize(
    ("outputs", "inputs"),
    [
        (COLOURS, COLOURS + 0.2 * NOISE),
        (COLOURS, IMAGES[:20]),
        (255 * COLOURS, 255 * COLOURS + 50 * NOISE),  # follows its input
        (255 * COLOURS, {"noise": IMAGES[:20], "image": 255 * COLOURS + 50 * NOISE}),
        (9 + NOISE, IMAGES[:20]),  # never negative
        (1000 * NOISE, IMAGES[:20]),  # too large for logits
        (0.1 * NOISE[:, :1], NOISE),
        (0.1 * NOISE[:, 0, 0, 0], NOISE),
    ],
)
def test_no_channel_of_a_regression_is_a_class(outputs, inputs):
    like, other = likeness(outputs, inputs), outputs * 0.9
    shares = (other - outputs).square().reshape(20, -1).mean(1) / like.variances[0]
    torch.testing.assert_close(like.loss([other], [outputs]), shares.sqrt().mean())
    assert math.isnan(like.decided_alike([other], [outputs]))


@pytest.mark.parametrize("channels", [1, 3])
def test_of_classes_the_probabilities_are_matched_too(channels):
    outputs = 4 * NOISE[:, :channels]
    like, other = likeness(outputs, IMAGES[:20]), outputs * 0.9
    a, b = (t.softmax(1) if channels > 1 else t.sigmoid() for t in (other, outputs))
    plain = (other - outputs).square().mean() / like.variances[0]
    sure = (a - b).square().mean() / like.chances[0]
    torch.testing.assert_close(like.loss([other], [outputs]), plain + sure)
    assert like.decided_alike([other], [outputs]) == 1.0
    shares = likeness(b, IMAGES[:20])  # probabilities already
    assert torch.equal(shares.loss([a], [b]), (a - b).square().mean() / shares.variances[0])
    assert shares.decided_alike([a], [b]) == 1.0


def test_labels_are_mixed_in(proposals_in_need):
    """The truth is what the original says, and a little more: with labels the variant learns it."""
    with torch.no_grad():
        answers = proposals_in_need[1].structure.model(IMAGES)
    target = answers + answers.std((0, 2, 3), keepdim=True)
    batches = list(zip(IMAGES.split(16), target.split(16), strict=True))
    distances = []
    for labelled in ({}, {"batches": batches, "loss": nn.functional.mse_loss}):
        torch.manual_seed(0)
        variant = proposals_in_need[1].build()
        variant.recover(IMAGES, steps=40, progress=False, **labelled)
        with torch.no_grad():
            distances.append(float((variant.module.eval()(IMAGES) - target).square().mean()))
    assert distances[1] < distances[0]
    variant = proposals_in_need[1].build()
    found = variant.recover(batches=batches, loss=nn.functional.mse_loss, steps=2, progress=False)
    assert found.images == 48  # nothing else was given: their inputs serve as images


def test_a_loss_may_write_into_what_it_is_given(proposals_in_need):
    with torch.no_grad():
        target = proposals_in_need[1].structure.model(IMAGES)
    batches = list(zip(IMAGES.split(16), target.clone().split(16), strict=True))

    def writing(outputs, targets):
        cost = nn.functional.mse_loss(outputs.tanh_(), targets.tanh_().clone())
        targets.zero_()
        return cost

    def careful(outputs, targets):
        return writing(outputs.clone(), targets.clone())

    courses = []
    for loss in (writing, careful):
        torch.manual_seed(0)
        variant = proposals_in_need[1].build()
        courses.append(variant.recover(batches=batches, loss=loss, steps=2, progress=False).course)
        assert torch.equal(torch.cat([y for _, y in batches]), target)
    assert courses[0] == courses[1]


def test_outputs_of_any_structure_and_those_that_are_gone():
    variant = needs_its_levels(Pyramid)[1].build()
    found = variant.recover([IMAGES[:8], (IMAGES[8:20], "a label")], steps=6, progress=False)
    assert variant.dropped_outputs == (1,)
    assert found.images == 20
    assert found.after.explained >= found.before.explained


@pytest.mark.parametrize(
    "kind",
    [
        torch.float16,
        *(pytest.param(k, marks=pytest.mark.slow) for k in (torch.bfloat16, torch.float64)),
    ],
)
def test_a_finished_course_is_known_to_the_variant_that_it_came_to(kind, tmp_path):
    proposals = ws.analyze(
        Short().eval().to(kind), example_inputs=IMAGES[:1].to(kind), response=False
    ).proposals
    variant = proposals[0].build(seed=0)
    shown, path = IMAGES.to(kind), tmp_path / "course.pt"
    first = variant.recover(shown, steps=2, progress=False, resume=path)
    assert variant.recover(shown, steps=2, progress=False, resume=path) == first


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
def test_number_formats_are_put_back(dtype):
    proposal = needs_its_levels(lambda: Short().to(dtype), image(2, 1, 32, 32).to(dtype))[1]
    variant = proposal.build()
    found = variant.recover(IMAGES, steps=10, progress=False)
    assert found.after.explained > found.before.explained
    assert {v.dtype for v in variant.module.parameters()} == {dtype}


class SeveralFormats(nn.Module):
    """Brings its features from one number format to another, each in its own way."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.top, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.down, self.up = nn.Conv2d(4, 8, 3, padding=1), nn.ConvTranspose2d(8, 4, 2, 2)
        if way == "parts":
            self.top.bfloat16(), self.down.bfloat16()
        if way == "all":
            self.bfloat16()

    def forward(self, x):
        autocast = self.way == "autocast"
        half = torch.float32 if autocast else torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            top = self.top(x.to(half))
            deep = self.down(nn.functional.max_pool2d(top, 2).relu().to(half))
        if self.way != "all":
            top, deep = top.float(), deep.float()
        return self.head(torch.cat([top, self.up(deep)], 1))


class WithClass(Short):
    """A class beside the map, which one image held back does not let vary."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Linear(2, 3)

    def forward(self, x):
        found = super().forward(x)
        return found, self.classes(found.mean((2, 3)))


def test_an_output_that_does_not_vary_outweighs_no_other():
    variant = needs_its_levels(WithClass)[1].build()
    found = variant.recover(IMAGES[:5], steps=20, progress=False)
    assert -10 < found.before.explained < found.after.explained <= 1
    assert found.after.explained > 0.2


@pytest.mark.slow
def test_after_recovery_only_kept_tensors_fail_to_verify_and_why_is_said(tmp_path):
    variant = needs_its_levels()[1].build()
    assert verify(variant, export=False).passed
    variant.recover(IMAGES, steps=30, progress=False)

    def failed(variant):
        return {c.name: c.detail for c in verify(variant, export=False, factory=Short).failures}

    (found,) = failed(variant).items()
    assert found[0] == "kept"
    assert "verify compares with the network as it was built: after recover" in found[1]
    path = save(variant, tmp_path / "small.safetensors")
    original = variant.structure.model
    (found,) = failed(load(path, lambda: original)).items()
    assert "as it was built" in found[1]
    (found,) = failed(load(path, Short)).items()
    assert found[0] == "kept"
    assert "load(path, lambda: model)" in found[1]


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["autocast", "parts", "all"])
def test_networks_of_several_number_formats_are_recovered(way, tmp_path):
    def build():
        torch.manual_seed(0)
        return SeveralFormats(way).eval()

    model = build()
    structure = read_structure(model, IMAGES[:2])
    (proposal,) = propose(structure, assessment(), count_costs(model, structure.inputs))
    variant = proposal.build()
    assert verify(variant, export=False).failures == ()
    found = variant.recover(IMAGES, steps=20, progress=False)
    assert found.after.explained > found.before.explained
    formats = {n: p.dtype for n, p in model.named_parameters()}
    kept = {n: p.dtype for n, p in variant.module.named_parameters()}
    assert {n: d for n, d in kept.items() if n in formats} == {n: formats[n] for n in variant.kept}
    loaded = load(save(variant, tmp_path / "small.safetensors"), build)
    assert torch.equal(loaded.module.eval()(IMAGES), variant.module.eval()(IMAGES))


def test_a_recovered_variant_is_saved_and_loaded(proposals_in_need, tmp_path):
    variant = proposals_in_need[1].build()
    variant.recover(IMAGES, steps=5, progress=False)
    loaded = load(save(variant, tmp_path / "small.safetensors"), Short)
    assert torch.equal(loaded.module.eval()(IMAGES), variant.module.eval()(IMAGES))


def test_the_ridge_regression_finds_slope_and_offset_of_data_far_from_zero():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) + 5.0
    y = x @ torch.tensor([[2.0, 0.0], [0.0, -1.0], [1.0, 1.0]]) + torch.tensor([1.0, -4.0])
    slope, offset = ridge._ridge(x, y)
    torch.testing.assert_close(x @ slope + offset, y, rtol=0.0, atol=0.1)


def test_the_random_start_stays_where_the_regression_is_worse(proposals_in_need, monkeypatch):
    def spoil(bottleneck, *_):
        with torch.no_grad():
            bottleneck.trunk[4].bias.fill_(1e3)

    monkeypatch.setattr(course, "ridge_start", spoil)
    variant = proposals_in_need[1].build()
    found = variant.recover(IMAGES, steps=0, progress=False)
    assert found.start == "given"
    assert variant.module.new_bottleneck.trunk[4].bias.detach().abs().max() < 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", [{"bottleneck": "pool"}, {"exit_channels": 5}])
def test_other_bottlenecks_recover_too(how, proposals_in_need):
    variant = proposals_in_need[1].build(**how)
    found = variant.recover(IMAGES, steps=30, progress=False)
    assert found.after.explained > found.before.explained


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, InputError, "needs images="),
        ({"images": IMAGES[:1]}, InputError, "holds 1 image; recovery needs at least 2"),
        (
            {"images": IMAGES.index_fill(0, torch.tensor(3), math.nan)},
            InputError,
            "^batch 0 of images= holds nan or inf",
        ),
        ({"images": [IMAGES[:4], IMAGES[:4] / 0.0]}, InputError, "^batch 1 of images= "),
        ({"images": IMAGES, "steps": -1}, InputError, "steps=-1; give a whole number from 0"),
        ({"images": IMAGES, "batches": []}, InputError, "belong together"),
        ({"batches": [], "loss": nn.functional.mse_loss}, InputError, "batches= is empty"),
        (
            {
                "images": IMAGES,
                "batches": [(IMAGES[:2].repeat(1, 2, 1, 1), IMAGES[:2])],
                "loss": nn.functional.mse_loss,
            },
            ForwardError,
            "raised on a batch of batches= .2x",
        ),
        ({"batches": [IMAGES], "loss": nn.functional.mse_loss}, InputError, "expected a pair"),
        ({"images": IMAGES.repeat(1, 2, 1, 1)}, ForwardError, "a batch of images="),
    ],
)
def test_errors_name_the_argument(given, error, text, proposals_in_need):
    with pytest.raises(error, match=text):
        proposals_in_need[1].build().recover(**given, progress=False)


class Masked(Short):
    """Takes a mask, which need not be given."""

    def forward(self, x, mask=None):
        return super().forward(x if mask is None else x * mask)


@pytest.mark.slow
def test_what_a_pair_of_images_means_hangs_on_what_was_read():
    mask = (IMAGES > 0).float()
    proposal = needs_its_levels(Masked)[1]
    alone = proposal.build()
    with pytest.warns(UserWarning, match="if it is mask, .*yield the inputs alone"):
        pair = alone.recover([(IMAGES, mask)], steps=0, progress=False)
    again = proposal.build().recover(IMAGES, steps=0, progress=False)
    assert pair.after.explained == again.after.explained
    proposal = needs_its_levels(Masked, (IMAGES[:2], mask[:2]))[1]
    both = proposal.build()
    two = both.recover([(IMAGES, mask, mask)], steps=0, progress=False)
    assert two.after.explained != again.after.explained
    by_name = proposal.build()
    named = by_name.recover([{"mask": mask, "x": IMAGES}], steps=0, progress=False)
    assert named.after.explained == two.after.explained


def test_keys_say_what_of_labelled_batches_is_learned_from(proposals_in_need):
    batch = {"scan": IMAGES[:8], "truth": IMAGES[:8].repeat(1, 2, 1, 1)}
    given = {"loss": nn.functional.mse_loss, "steps": 2, "progress": False}
    small = proposals_in_need[1].build()
    with pytest.raises(InputError, match="keys="):
        small.recover(batches=[batch], **given)
    assert small.recover(batches=[batch], keys=("scan", "truth"), **given).images == 8


@pytest.mark.slow
def test_a_diffusion_network_is_cut_recovered_and_saved(tmp_path):
    """Its images come with the noise level at which they are denoised."""
    diffusers = pytest.importorskip("diffusers")

    def factory():
        return diffusers.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = factory().eval()
    example = (image(2, 1, 16, 16), torch.tensor([3, 5]))
    structure = read_structure(model, example)
    costs = count_costs(model, structure.inputs)
    variant = {p.keep_levels: p for p in propose(structure, assessment(), costs)}[1].build()
    generator = torch.Generator().manual_seed(2)
    batches = [
        (torch.randn(8, 1, 16, 16, generator=generator), torch.randint(0, 99, (8,))) for _ in "abc"
    ]
    found = variant.recover(batches, steps=10, progress=False)
    assert found.images == 24
    assert found.after.explained > found.before.explained
    loaded = load(save(variant, tmp_path / "diffusion.safetensors"), factory)
    with torch.no_grad():
        expected = variant.module.eval()(*example)
        assert torch.equal(loaded.module.eval()(*example)["sample"], expected["sample"])


def test_a_start_from_features_of_fewer_bits(monkeypatch, proposals_in_need):
    """On a graphics card the networks run in bfloat16, and the regression in float32."""
    monkeypatch.setattr(
        teaching, "_mixed_precision", lambda *_: torch.autocast("cpu", torch.bfloat16)
    )
    found = proposals_in_need[1].build().recover(IMAGES, steps=20, progress=False)
    assert found.start == "ridge"
    assert found.after.explained > found.before.explained


def built(proposals, how):
    torch.manual_seed(0)
    if how == "thin":
        return whole(proposals[1].structure).thin(0.5)
    return proposals[1].build(how)


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["light", pytest.param("pool", marks=pytest.mark.slow), "thin"])
def test_a_network_that_is_frozen_as_a_whole_teaches_all_of_its_variant(how):
    states = []
    for frozen in (False, True):
        proposals = needs_its_levels(lambda frozen=frozen: Short().requires_grad_(not frozen))
        variant = built(proposals, how)
        flags = [p.requires_grad for p in variant.module.parameters()]
        found = variant.recover(IMAGES[:12], steps=10, progress=False)
        assert found.frozen == ()
        assert [p.requires_grad for p in variant.module.parameters()] == flags
        original = proposals[1].structure.model
        assert all(p.requires_grad is not frozen for p in original.parameters())
        states.append(variant.module.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_part_that_is_frozen_stays_so_and_the_result_names_it():
    def factory():
        model = Short()
        model.down.requires_grad_(False)
        return model

    variant = built(needs_its_levels(factory), "light")
    before = copy.deepcopy(variant.module.state_dict())
    found = variant.recover(IMAGES[:12], steps=20, progress=False)
    own = dict(variant.module.named_parameters())
    assert found.frozen == tuple(k for k in own if k.startswith("down."))
    assert f"frozen {len(found.frozen)} parameters" in repr(found)
    for name, parameter in own.items():
        assert torch.equal(parameter, before[name]) == (name in found.frozen), name
        assert parameter.requires_grad == (name not in found.frozen)


def test_where_a_part_is_frozen_new_numbers_are_taught_all_the_same():
    """A re-cut layer has numbers that nothing has trained."""

    def factory():
        model = Short()
        model.up.requires_grad_(False)
        return model

    torch.manual_seed(0)
    variant = needs_its_levels(factory)[1].build(exit_channels=5)
    before = copy.deepcopy(variant.module.state_dict())
    found = variant.recover(IMAGES[:12], steps=20, progress=False)
    (name,) = (k for k in variant.recut if k.startswith("up.") and k.endswith("weight"))
    assert not torch.equal(variant.module.state_dict()[name], before[name])
    assert name not in found.frozen
    assert not dict(variant.module.named_parameters())[name].requires_grad


def test_where_all_that_stays_is_frozen_the_remedy_works():
    model = needs_its_levels()[1].structure.model
    variant = whole(read_structure(model, image(2, 1, 32, 32))).thin(0.5)
    variant.module.requires_grad_(False)
    count = len(list(variant.module.parameters()))
    with pytest.raises(InputError, match=f"is False on all {count} parameters"):
        variant.recover(IMAGES[:12], steps=2, progress=False)
    variant.module.requires_grad_(True)
    assert variant.recover(IMAGES[:12], steps=2, progress=False).frozen == ()


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, _: outputs.detach().mean(),
        lambda *_: torch.tensor(1.0),
        lambda outputs, targets: (outputs.argmax(1) != targets.argmax(1)).float().mean(),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss, proposals_in_need):
    variant = proposals_in_need[1].build()
    before = copy.deepcopy(variant.module.state_dict())
    with pytest.raises(InputError, match="loss= returned a number without a gradient"):
        variant.recover(batches=[(IMAGES[:8], IMAGES[:8])], loss=loss, steps=4, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in variant.module.state_dict().items())


def test_a_loss_that_raises_on_its_way_back_is_named(proposals_in_need):
    variant = proposals_in_need[1].build()
    before = copy.deepcopy(variant.module.state_dict())
    given = {"steps": 2, "progress": False, "batches": [(IMAGES[:8], IMAGES[:8])]}
    with pytest.raises(InputError, match=r"loss= raised NotImplementedError: no backw.* leave bat"):
        variant.recover(IMAGES[:8], loss=lambda y, _: Refuses.apply(y).mean(), **given)
    assert all(torch.equal(v, before[k]) for k, v in variant.module.state_dict().items())


def test_a_bottleneck_that_raises_on_its_way_back_is_named(proposals_in_need):
    class Own(nn.Conv2d):
        def forward(self, x):
            return Refuses.apply(super().forward(x))

    variant = proposals_in_need[1].build(lambda i, o, d: Own(i, o, 1))
    with pytest.raises(InputError, match=r"the smaller network raised NotImpl.* with steps=0"):
        variant.recover(IMAGES[:8], steps=2, progress=False)
    variant.recover(IMAGES[:8], steps=0, progress=False)


def test_a_loss_of_old_weights_alone_is_accepted():
    """While only the new weights are trained such a loss has no gradient."""
    batches = [(IMAGES[:1], IMAGES[:1]), (IMAGES[1:8], IMAGES[1:8])]

    def loss(outputs, _):
        return outputs[0].square().mean()

    variant = needs_its_levels(Sides)[1].build()
    found = variant.recover(IMAGES[:12], batches=batches, loss=loss, steps=20, progress=False)
    assert {check.trained for check in found.course} == {"start", "new", "all"}


class Sides(Short):
    """A second output that hangs on the first level alone."""

    def __init__(self):
        super().__init__()
        self.side = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.side(self.down[0](x)), super().forward(x)


def one_by_one(images):
    yield from images.split(1)


def endless(images):
    while True:
        yield from images.split(4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("given", [lambda x: list(x.split(1)), one_by_one, lambda x: [x.numpy()]])
def test_a_start_without_steps_uses_all_the_images_that_there_are(given, proposals_in_need):
    agreements = []
    for images_ in (IMAGES[:12], given(IMAGES[:12])):
        torch.manual_seed(0)
        found = proposals_in_need[1].build().recover(images_, steps=0, progress=False)
        assert (found.start, found.images, found.used) == ("ridge", 12, 12)
        assert "images 12," in f"{found!r},".replace(">", "")
        agreements.append(found.after.explained)
    assert agreements[1] == pytest.approx(agreements[0], abs=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("given", "read", "there", "said"),
    [
        (lambda x: endless(x), 16, None, "64 (of the first 16 batches)"),
        (lambda x: ({"image": v.numpy()} for v in endless(x)), 16, None, "first 16 batches)"),
        (lambda x: list(x.repeat(3, 1, 1, 1).split(4)), 16, 36, "(of the first 16 of 36 batches)"),
        (lambda x: list(x[:40].split(4)), 10, 10, "images 40>"),
        (lambda x: x.repeat(3, 1, 1, 1), 1, 1, "images 61 of 144>"),
    ],
)
def test_what_is_not_read_or_not_used_is_said(given, read, there, said, proposals_in_need):
    found = proposals_in_need[1].build().recover(given(IMAGES), steps=0, progress=False)
    assert (found.batches, found.given) == (read, there)
    assert said in repr(found)


def test_a_start_takes_the_usual_size_of_images_of_several(proposals_in_need, monkeypatch):
    taken = []
    monkeypatch.setattr(course, "ridge_start", lambda _, entering, *rest: taken.append(entering))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0)).tolist()
    first = order[3]  # of the 13, three are held back
    odd = IMAGES[:1, ..., :16, :16]
    given = [*IMAGES[:first].split(1), odd, *IMAGES[first:12].split(1)]
    proposals_in_need[1].build().recover(given, steps=0, progress=False)
    assert [len(entering) for entering in taken] == [9]


class Refuses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("no backward")


def written_over(y):
    y = y.relu()
    y.mul_(1.5)
    return y


class Undifferentiable(Short):
    """Runs, and no gradient goes through it."""

    def __init__(self, top, head=lambda y: y):
        super().__init__()
        self.write, self.end = top, head

    def forward(self, x):
        top = self.write(self.down[0](x))
        deep = nn.functional.interpolate(
            self.down[1](nn.functional.max_pool2d(top, 2)), scale_factor=2
        )
        return self.end(self.head(self.up[0](torch.cat([top, deep], 1))))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("top", "head", "reason"),
    [
        (written_over, lambda y: y, r"RuntimeError: .* inplace operation: .*`y = y.relu\(\)` retu"),
        (Refuses.apply, lambda y: y, "NotImplementedError: no backward"),
        (lambda y: y, torch.Tensor.detach, "none of its outputs has one"),
    ],
)
def test_an_original_without_a_gradient_is_named(top, head, reason):
    variant = needs_its_levels(lambda: Undifferentiable(top, head), IMAGES[:1])[1].build()
    found = {check.name: check.detail for check in verify(variant, export=False).failures}
    assert found.keys() == {"runs", "alive"}
    own = rf"no gradient goes through the original's own forward: {reason}"
    assert all(re.search(own, detail) for detail in found.values())
    before = copy.deepcopy(variant.module.state_dict())
    with pytest.raises(ForwardError, match=rf"no gradient .* own forward: {reason}.* with steps=0"):
        variant.recover(IMAGES[:8], steps=2, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in variant.module.state_dict().items())
    assert not torch.is_anomaly_enabled()
    found = variant.recover(IMAGES[:8], steps=0, progress=False)
    assert found.after.explained >= found.before.explained
    mended = needs_its_levels(lambda: Undifferentiable(lambda y: y.relu() * 1.5), IMAGES[:1])
    mended[1].build().recover(IMAGES[:8], steps=1, progress=False)


@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_statistics_that_are_not_finite_are_named_and_other_buffers_are_nobody_s(value):
    torch.manual_seed(0)
    model = Short().eval()
    model.register_buffer("spare", torch.tensor([value]))
    small = (
        ws.analyze(model, example_inputs=image(1, 1, 32, 32), response=False).proposals[0].build()
    )
    small.recover(image(4, 1, 32, 32), steps=1, progress=False)
    model.down[0].append(nn.BatchNorm2d(4).eval())
    model.down[0][-1].running_var[1] = value
    broken = ws.analyze(model, example_inputs=image(1, 1, 32, 32)).proposals[0]
    assert "weights or running statistics are NaN" in broken.evidence
    with pytest.raises(ws.WeightscopeError, match=r"nan or infinite \(down\.0\..*running_var"):
        broken.build().recover(image(4, 1, 32, 32), steps=1, progress=False)
    with pytest.raises(ws.WeightscopeError, match=r"nan or infinite \(down\.0\..*running_var"):
        ws.shrink(model, images=image(4, 1, 32, 32), steps=1, progress=False)


@pytest.mark.sample(1)
@pytest.mark.parametrize("whose", ["original", "smaller"])
def test_weights_that_are_not_finite_are_named(whose):
    torch.manual_seed(0)
    model = Short().eval()
    small = (
        ws.analyze(model, example_inputs=image(1, 1, 32, 32), response=False).proposals[0].build()
    )
    broken = model if whose == "original" else small.module
    name, parameter = next(iter(broken.named_parameters()))
    with torch.no_grad():
        parameter.flatten()[0] = math.nan if whose == "original" else math.inf
    before = {key: value.clone() for key, value in small.module.state_dict().items()}
    with pytest.raises(ws.WeightscopeError, match=rf"{whose}.* nan or infinite \({name}"):
        small.recover(image(4, 1, 32, 32), steps=2, progress=False)
    with torch.no_grad():  # the remedy
        for part in (model, small.module):
            for parameter in part.parameters():
                parameter.nan_to_num_(0.0, 0.0, 0.0)
    assert math.isfinite(
        small.recover(image(4, 1, 32, 32), steps=2, progress=False).after.explained
    )
    assert before.keys() == small.module.state_dict().keys()


def test_answers_that_are_not_finite_are_named():
    torch.manual_seed(0)

    class Rooted(Short):
        def forward(self, x):
            return {"score": super().forward(x).log()}

    example = image(1, 1, 32, 32)
    small = ws.analyze(Rooted().eval(), example_inputs=example, response=False).proposals[0].build()
    before = {key: value.clone() for key, value in small.module.state_dict().items()}
    with pytest.raises(ws.WeightscopeError, match=r"nan or infinite values \(outputs\['score'\]\)"):
        small.recover(image(4, 1, 32, 32), steps=2, progress=False)
    for key, value in small.module.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)

"""Save, load, and every way in which a file and a factory may not fit."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from toys import TOYS, Plain, Short, Signal, assessment, image

from weightscope.cost import count_costs
from weightscope.errors import InputError, RecipeError
from weightscope.graph import read_structure
from weightscope.truncation import load, propose, save, verify, whole
from weightscope.truncation.plan import digest


@pytest.fixture
def saved(proposals, tmp_path):
    variant = proposals("plain")[1].build(exit_channels=5)
    return variant, save(variant, tmp_path / "variant.safetensors")


def rewrite(path, change):
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(metadata, tensors)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "keep", "how"),
    [("plain", 1, {"exit_channels": 5}), ("signal", 1, {}), ("strided", 1, {"bottleneck": "pool"})],
)
def test_a_loaded_variant_is_the_saved_one(name, keep, how, proposals, tmp_path):
    variant = proposals(name)[keep].build(**how)
    with torch.no_grad():
        for parameter in variant.module.parameters():
            parameter.add_(0.01)  # as after training
    save(variant, tmp_path / "variant.safetensors")
    loaded = load(tmp_path / "variant.safetensors", TOYS[name][0])
    for example in TOYS[name][1:3]:
        assert torch.equal(loaded.module.eval()(example), variant.module.eval()(example))
    assert dict(loaded.recipe) == dict(variant.recipe)
    assert loaded.costs == variant.costs
    assert loaded.plan == variant.plan
    assert loaded.module.state_dict().keys() == variant.module.state_dict().keys()


def test_own_bottleneck_is_asked_for(proposals, tmp_path):
    own = nn.Conv2d(4, 8, 1)
    variant = proposals("plain")[1].build(own)
    path = save(variant, tmp_path / "variant.safetensors")
    with pytest.raises(RecipeError, match="pass it again as bottleneck="):
        load(path, Plain)
    loaded = load(path, Plain, bottleneck=lambda i, o, d: nn.Conv2d(i, o, 1))
    assert torch.equal(loaded.module.new_bottleneck.trunk.weight, own.weight)
    with pytest.raises(RecipeError, match="does not rebuild"):
        load(path, Plain, bottleneck=lambda i, o, d: nn.Conv2d(i, o, 3, padding=1))


def test_the_file_is_plain_safetensors(saved):
    variant, path = saved
    with safe_open(path, framework="pt") as file:
        recipe = json.loads(file.metadata()["weightscope_recipe"])
        assert set(file.keys()) == set(variant.module.state_dict())
    assert recipe["keep_levels"] == 1
    assert recipe["exit_channels"] == [5]


def test_another_factory(saved):
    with pytest.raises(RecipeError, match="cut from a Plain whose state has other names"):
        load(saved[1], lambda: Plain(width=6))
    with pytest.raises(RecipeError, match="than the Signal"):
        load(saved[1], Signal)
    with pytest.raises(RecipeError, match="returned an int"):
        load(saved[1], lambda: 3)


@pytest.mark.parametrize("floats", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_named_with_what_to_do(floats, saved):
    with pytest.raises(RecipeError, match=r"Plain in torch.float32, .*\(\)\.to\(torch.float32\)"):
        load(saved[1], lambda: Plain().to(floats))


def test_missing_damaged_and_foreign_files(saved, tmp_path):
    path = saved[1]
    with pytest.raises(RecipeError, match="no file"):
        load(tmp_path / "nothing.safetensors", Plain)
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecipeError, match="damaged"):
        load(short, Plain)
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(RecipeError, match="no recipe"):
        load(tmp_path / "plain.safetensors", Plain)


def test_what_is_no_variant_and_no_factory_is_named(saved, tmp_path):
    variant, path = saved
    for other in (variant.module, variant.structure, None):
        with pytest.raises(InputError, match=r"expected a Variant, got .*proposal\.build"):
            save(other, tmp_path / "other.safetensors")
    for factory in (Plain(), "plain", None):
        with pytest.raises(InputError, match="give a function without arguments"):
            load(path, factory)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_checkpoint_in_place_of_a_variant_is_named(tmp_path):
    torch.save(Plain().state_dict(), tmp_path / "last.pt")
    with pytest.raises(RecipeError, match="it is a checkpoint; fit_weights"):
        load(tmp_path / "last.pt", Plain)


def test_altered_tensors_and_recipes(saved):
    path = saved[1]

    def tensor(metadata, tensors):
        tensors["head.bias"] += 1

    def recipe(metadata, tensors):
        text = metadata["weightscope_recipe"]
        metadata["weightscope_recipe"] = text.replace('"keep_levels": 1', '"keep_levels": 2')

    whole = path.read_bytes()
    for change in (tensor, recipe):
        path.write_bytes(whole)
        rewrite(path, change)
        with pytest.raises(RecipeError, match="altered after it was saved"):
            load(path, Plain)


def set_format(number):
    """Change a file's recipe and its digest with it, as another version would have written it."""

    def change(metadata, tensors):
        recipe = json.loads(metadata["weightscope_recipe"])
        recipe = number(recipe) if callable(number) else recipe | {"format": number}
        metadata["weightscope_recipe"] = text = json.dumps(recipe, sort_keys=True)
        metadata["weightscope_sha256"] = digest(text, tensors)

    return change


def test_a_newer_format(saved):
    rewrite(saved[1], set_format(99))
    with pytest.raises(RecipeError, match="format 99, this version reads up to 4; update"):
        load(saved[1], Plain)


def test_a_file_of_the_first_format_still_loads(saved):
    """It listed the tensors' origins too, which are found again when the network is cut."""
    variant, path = saved
    extra = {"format": 1, "reinitialized": list(variant.reinitialized), "dropped_outputs": []}
    rewrite(path, set_format(lambda recipe: recipe | extra))
    loaded = load(path, Plain)
    assert loaded.plan == variant.plan
    assert torch.equal(
        loaded.module.eval()(image(2, 1, 32, 32)), variant.module.eval()(image(2, 1, 32, 32))
    )


@pytest.mark.parametrize(
    "change",
    [
        {"keep_levels": 0},
        {"keep_levels": "1"},
        {"bottleneck": "heavy"},
        {"width": None},
        {"width": True},
        {"exit_channels": []},
        {"exit_channels": [-5]},
    ],
)
def test_a_recipe_that_says_nothing_sensible_is_refused(change, saved):
    rewrite(saved[1], set_format(lambda recipe: recipe | change))
    with pytest.raises(RecipeError, match="does not say how the network was cut"):
        load(saved[1], Plain)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keep_levels": 9}, "keeping 9 levels is refused: the network has 3"),
        ({"exit_channels": [5, 5]}, "2 exits and this cut has 1"),
        ({"exit_channels": [6]}, "size mismatch"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change, text, saved):
    rewrite(saved[1], set_format(lambda recipe: recipe | change))
    with pytest.raises(RecipeError, match=text):
        load(saved[1], Plain)


def test_unwritable_places(saved, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        save(saved[0], tmp_path / "no" / "variant.safetensors")
    with pytest.raises(InputError, match=r"says \.pt; give '.*b\.safetensors'"):
        save(saved[0], tmp_path / "b.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["variant.safetensors"]
    assert save(saved[0], tmp_path / "small-0.5").exists()


def test_arguments_that_a_recipe_cannot_hold(saved, tmp_path):
    variant, _ = saved
    inputs = replace(variant.structure.inputs, kwargs={"scheduler": SimpleNamespace()})
    odd = replace(variant, structure=replace(variant.structure, inputs=inputs))
    with pytest.raises(RecipeError, match=r"SimpleNamespace.* pass example_inputs="):
        save(odd, tmp_path / "odd.safetensors")
    assert not (tmp_path / "odd.safetensors").exists()


def test_networks_called_by_keyword_with_several_inputs_and_named_stages(tmp_path):
    """Whatever read the network the first time is in the recipe: arguments, and stages=."""

    class Gated(Short):
        def forward(self, *, picture, gain=1.0, extra=None):
            return super().forward(picture * gain + extra["shift"])

    stages = {"skip 0": ["head"]}
    inputs = {"picture": image(2, 1, 32, 32), "gain": 2.0, "extra": {"shift": image(1)}}
    structure = read_structure(Gated(), inputs, stages=stages)
    assert "head" in {s.name: s.layers for s in structure.stages}["skip 0"]
    costs = count_costs(structure.model, structure.inputs)
    variant = propose(structure, assessment(), costs)[0].build()
    assert verify(variant, export=False).failures == ()
    loaded = load(save(variant, tmp_path / "gated.safetensors"), Gated)
    assert loaded.structure.stages == structure.stages
    assert torch.equal(loaded.module.eval()(**inputs), variant.module.eval()(**inputs))


def test_a_guessed_argument_beside_the_image(tmp_path):
    """A timestep is found by its name, and passed by its place as the image is."""

    class Timed(Short):
        def forward(self, picture, timestep):
            return super().forward(picture * timestep.to(picture.dtype)[:, None, None, None])

    structure = read_structure(Timed())
    assert len(structure.inputs.args) == 2
    assert not structure.inputs.kwargs
    costs = count_costs(structure.model, structure.inputs)
    variant = propose(structure, assessment(), costs)[0].build()
    loaded = load(save(variant, tmp_path / "timed.safetensors"), Timed)
    picture = image(2, 1, 32, 32)
    steps = torch.tensor([3, 5])
    assert torch.equal(loaded.module.eval()(picture, steps), variant.module.eval()(picture, steps))


def test_the_digest_knows_names_shapes_and_formats():
    one = torch.ones(2, 3)
    same = {digest("", {name: tensor}) for name, tensor in (
        ("a", one), ("b", one), ("a", one.T.contiguous()), ("a", one.int()),
    )}  # fmt: skip
    assert len(same) == 4


@pytest.mark.parametrize("fits", [True, False])
def test_a_factory_draws_without_moving_the_random_state(fits, saved):
    random = torch.get_rng_state()
    if fits:
        load(saved[1], TOYS["plain"][0])
    else:
        with pytest.raises(RecipeError):
            load(saved[1], TOYS["signal"][0])
    assert torch.equal(torch.get_rng_state(), random)


IMAGES = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_loaded_variant_learns_from_the_original_alone(tmp_path):
    model = Short().eval()
    structure = read_structure(model, image(2, 1, 32, 32))
    costs = count_costs(model, structure.inputs)
    variant = {p.keep_levels: p for p in propose(structure, assessment(), costs)}[1].build()
    save(variant, tmp_path / "variant.safetensors")
    # what only has the architecture may be cut further and saved, but teaches nothing
    astray = load(tmp_path / "variant.safetensors", Short)
    save(astray, tmp_path / "again.safetensors")
    before = {name: value.clone() for name, value in astray.module.state_dict().items()}
    for stray in (astray, astray.thin(0.5), load(tmp_path / "again.safetensors", Short)):
        with pytest.raises(RecipeError, match=r"other weights.*load\(path, lambda: model\)"):
            stray.recover(IMAGES, steps=2, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in astray.module.state_dict().items())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load(tmp_path / "again.safetensors", lambda: model)
    course = loaded.recover(IMAGES, steps=2, progress=False)
    assert course == variant.recover(IMAGES, steps=2, progress=False)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    for name, value in variant.module.state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[name])


def test_a_file_that_does_not_know_the_original_warns_before_it_is_taught(saved):
    path = saved[1]
    without = ("weights", "operators")
    rewrite(path, set_format(lambda r: {k: v for k, v in r.items() if k not in without}))
    with warnings.catch_warnings(action="ignore"):  # nor by which operators it was written down
        loaded = load(path, Plain)
    with pytest.warns(UserWarning, match="does not say which weights the original had") as told:
        loaded.recover(IMAGES, steps=1, progress=False)
    assert told[0].filename == __file__


class Leaky(Plain):
    """The same state as its parent's, and other rectifiers."""

    def __init__(self):
        super().__init__()
        for stage in (*self.down, *self.up):
            stage[2] = nn.LeakyReLU()


class Added(Plain):
    """The same state as its parent's, and a sum."""

    def forward(self, x):
        return super().forward(x) + x


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("factory", "operator"),
    [
        (Leaky, r"aten\.leaky_relu\.default 0 times, now 5"),
        (Added, r"aten\.add\.Tensor 0 times, now 1"),
    ],
)
def test_a_factory_whose_forward_does_something_else_is_refused(factory, operator, saved):
    path = saved[1]
    with pytest.raises(
        RecipeError, match=rf"does other operations than the original's.*{operator}"
    ):
        load(path, factory)

    def elsewhere(recipe):
        return recipe | {"operators": recipe["operators"] | {"by": "torch 1.0"}}

    rewrite(path, set_format(elsewhere))  # another tracer may name the same by other operators
    with pytest.warns(UserWarning, match="was not compared") as told:
        load(path, factory)
    assert told[0].filename == __file__


class Skipped(nn.Module):
    """Two levels that are concatenated in one of two orders, by convolutions of one shape."""

    def __init__(self, deep_first):
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.out, self.deep_first = nn.Conv2d(8, 1, 3, padding=1), deep_first

    def forward(self, x):
        top = self.top(x).relu()
        both = [top, F.interpolate(self.deep(F.max_pool2d(top, 2)).relu(), scale_factor=2.0)]
        return self.out(torch.cat(both[::-1] if self.deep_first else both, 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("deep_first", [True, False])
def test_a_factory_that_is_wired_in_another_order_is_refused(deep_first, tmp_path):
    structure = read_structure(Skipped(deep_first), image(1, 1, 32, 32))
    costs = count_costs(structure.model, structure.inputs)
    path = save(propose(structure, assessment(), costs)[0].build(), tmp_path / "x.safetensors")
    load(path, lambda: Skipped(deep_first))
    with pytest.raises(RecipeError, match="takes these in another order"):
        load(path, lambda: Skipped(not deep_first))

    def before_it_was_kept(recipe):
        kept = {k: v for k, v in recipe["operators"].items() if k != "wiring"}
        return recipe | {"operators": kept}

    rewrite(path, set_format(before_it_was_kept))
    with pytest.warns(UserWarning, match="was not compared"):
        load(path, lambda: Skipped(deep_first))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "factory",
    [
        lambda: Plain().train().requires_grad_(False),
        lambda: nn.DataParallel(Plain().eval()),
    ],
)
def test_a_factory_in_another_state_is_the_same_network(factory, saved):
    load(saved[1], factory)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": 3}, {"operators": []}, {"operators": {"by": "a"}},
        {"operators": {"by": "a", "counts": {"\x1b[2J": 1}}},
    ],
)  # fmt: skip
def test_what_save_does_not_write_about_the_original_is_refused(change, saved):
    rewrite(saved[1], set_format(lambda recipe: recipe | change))
    with pytest.raises(RecipeError, match=r"no recipe that weightscope\.save writes"):
        load(saved[1], Plain)


class Tied(Short):
    """Two layers of one kernel, or of a kernel each."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(super().forward(self.first(x))[:, :1])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("tied", "told"),
    [
        (True, "'first.weight' were one tensor and are two now; tie them in the factory"),
        (False, "'first.weight' were two tensors and are one now; untie them in the factory"),
    ],
)
def test_a_factory_that_ties_other_weights_is_refused(tmp_path, tied, told):
    torch.manual_seed(0)
    structure = read_structure(Tied(tied).eval(), image(1, 1, 32, 32))
    small, path = whole(structure), tmp_path / "v.safetensors"
    save(small, path)
    with pytest.raises(RecipeError, match=f"second.weight and {told}"):
        load(path, lambda: Tied(not tied))
    again = load(path, lambda: Tied(tied)).module.eval()
    assert torch.equal(again(image(1, 1, 32, 32)), small.module.eval()(image(1, 1, 32, 32)))
    assert (again.first.weight is again.second.weight) is tied


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("floats", "told"),
    [(torch.float64, "would be lost"), (torch.bfloat16, r"would be torch\.float32 again")],
)
def test_numbers_of_another_type_are_refused_where_they_are_saved(tmp_path, floats, told):
    """The original's code rebuilds the network, and would take them as its own."""
    structure = read_structure(Short(), image(1, 1, 32, 32))
    costs = count_costs(structure.model, structure.inputs)
    variant = propose(structure, assessment(), costs)[0].build()
    variant.module.to(floats)
    with pytest.raises(RecipeError, match=rf"{told}.*variant\.module\.to\(torch\.float32\)"):
        save(variant, tmp_path / "wide.safetensors")
    assert not list(tmp_path.iterdir())
    variant.module.to(torch.float32)
    new = variant.module.get_submodule(variant.reinitialized[0].split(".")[0])
    new.to(floats)  # the new layers alone, of which the original's state says nothing
    with pytest.raises(RecipeError, match=f"'{variant.reinitialized[0]}' is {floats}.*{told}"):
        save(variant, tmp_path / "wide.safetensors")
    new.to(torch.float32)
    load(save(variant, tmp_path / "now.safetensors"), Short)

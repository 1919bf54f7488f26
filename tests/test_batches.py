"""Batches as loaders yield them."""

from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from weightscope.batches import (
    each_batch,
    example_in,
    first_image,
    read_batches,
    read_inputs,
    split_images,
)
from weightscope.errors import InputError

MODEL = nn.Conv2d(3, 1, 1)
X, Y = torch.rand(4, 3, 8, 8), (torch.rand(4, 1, 8, 8) > 0.5).float()
Named = namedtuple("Named", ["image", "mask"])


class Pair(nn.Module):
    """Takes two images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, before, after):
        return self.conv(before + after)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(x, y) for x, y in zip(X, Y, strict=True)])


class Unending(Dataset):
    """Has a length, and answers beyond it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": X[index % 4].numpy(), "mask": Y[index % 4].numpy(), "name": "a.png"}


@pytest.mark.parametrize(
    "batches",
    [
        [(X, Y)],
        [[X, Y]],
        iter([(X, Y)]),
        [(X, Y, torch.ones(4))],
        [(X, Y, ["a", "b", "c", "d"], 7)],
        [Named(X, Y)],
        [{"image": X, "mask": Y, "path": "a"}],
        [{"pixel_values": X, "labels": Y}],
        [UserDict(input=X, target=Y)],
        [(X.numpy(), Y.numpy())],
        [(X.double(), Y.double())],
        [(X.double().numpy(), Y.numpy().astype(">f8"))],
        [(X.numpy()[:, :, ::-1][:, :, ::-1], Y.numpy())],
        [(X.clone().requires_grad_(), Y)],
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=2),
        Stream(),
        Unending(),
    ],
)
def test_whatever_a_loader_yields_is_read(batches):
    pairs = read_batches(batches, MODEL)
    inputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)
    assert inputs.dtype == targets.dtype == torch.float32
    assert not inputs.requires_grad


@pytest.mark.parametrize(
    ("batch", "keys"),
    [
        ({"a": X, "b": Y, "image": 3}, ("a", "b")),
        ((1, Y, X), (2, 1)),
        ((1, Y, X), [2, 1]),
        (Named(X, Y), ("image", "mask")),
    ],
)
def test_keys_say_where_inputs_and_targets_are(batch, keys):
    ((inputs, targets),) = read_batches([batch], MODEL, keys)
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)


def test_keys_can_name_several():
    ((inputs, targets),) = read_batches(
        [{"a": X, "b": X + 1, "m": Y, "w": Y}], Pair(), (("a", "b"), ("m", "w"))
    )
    assert [torch.equal(i, x) for i, x in zip(inputs, (X, X + 1), strict=True)] == [True, True]
    assert len(targets) == 2
    ((inputs, _),) = read_batches([((X, X), Y)], Pair())
    assert len(inputs) == 2


def test_numbers_get_the_types_that_models_and_losses_take():
    half = nn.Conv2d(3, 1, 1).to(torch.bfloat16)
    steps = torch.arange(4)
    targets = Y.numpy().astype(np.uint16)
    ((inputs, found),) = read_batches([((X, steps), targets)], half)
    assert [v.dtype for v in inputs] == [torch.bfloat16, torch.int64]
    assert found.dtype == torch.int64
    ((_, mask),) = read_batches([(X, Y.bool())], MODEL)
    assert mask.dtype == torch.bool
    ((pair, _),) = read_batches([((X, X > 0), Y)], Pair())  # a mask beside an image
    assert [v.dtype for v in pair] == [torch.float32, torch.bool]


def test_black_and_white_images_are_images():
    with pytest.warns(UserWarning, match=r"images of torch.bool from [01] to 1"):
        ((inputs, _),) = read_batches([(X > 0, Y)], MODEL)
    assert torch.equal(inputs, (X > 0).float())


def test_images_of_integers_are_passed_on_and_said():
    images = (255 * X.detach()).to(torch.uint8)
    with pytest.warns(UserWarning, match="images of torch.uint8 from \\d to 25"):
        ((inputs, _),) = read_batches([(images, Y)], MODEL)
    assert torch.equal(inputs, images.float())


def test_keys_name_the_inputs_of_a_forward():
    ((inputs, targets),) = read_batches(
        [{"photo": X, "truth": Y}], MODEL, keys=({"x": "photo"}, "truth")
    )
    assert list(inputs) == ["x"]
    assert torch.equal(inputs["x"], X)
    assert torch.equal(targets, Y)


def test_reading_a_loader_draws_nothing():
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)
    before = torch.get_rng_state()
    read_batches(loader, MODEL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("batches", "options", "text"),
    [
        ([], {}, "empty"),
        ((X, Y), {}, "single batch; put it in a list"),
        (X, {}, "single batch"),
        ({"image": X, "mask": Y}, {}, "single batch"),
        ([X], {}, "batch 0 is a Tensor, expected a pair"),
        ([(X,)], {}, "batch 0 is a tuple of 1"),
        ([(X, Y), None], {}, "batch 1 is None"),
        ([{"photo": X, "truth": Y}], {}, r"'photo', 'truth'.*keys=\('photo', 'truth'\)"),
        ([{"image": X, "mask": Y, "label": Y}], {}, "which are the inputs"),
        ([{"a": X}], {"keys": ("a", "b")}, "batch 0 has no 'b'; it is a dict with 'a'"),
        ([(X, Y)], {"keys": (0, 2)}, "batch 0 has no 2; it is a tuple of 2 with 2 parts"),
        ([(X, Y)], {"keys": "image"}, "keys= is 'image', expected two"),
        (
            [(X, Y[:2])],
            {},
            "batch 0 holds 4 images and 2 targets",
        ),
        ([(X, Y), (X[:0], Y[:0])], {}, "batch 1 holds no images"),
        ([("a.png", Y)], {}, "batch 0 holds no images"),
        ([(X, np.array(["a"] * 4))], {}, "batch 0 holds an array of <U1"),
        ([(X, X, Y)], {"model": Pair()}, r"takes 2 inputs; .* keys=\(\(0, 1\), 2\)"),
        ([(X, Y)], {"model": nn.Conv2d}, "received the class Conv2d; call it"),
        ([(X, Y)], {"model": MODEL.state_dict()}, "OrderedDict; build the network and load"),
        ([(X, Y)], {"model": "net.pt"}, r"the path 'net\.pt'; build the network.*fit_weights"),
        ("photos", {}, "expected batches of images, got 'photos'; read the files first"),
        (3, {}, "expected batches of images, got 3"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_remedy(batches, options, text):
    options = {"model": MODEL, **options}
    with pytest.raises(InputError, match=text):
        read_batches(batches, **options)


def test_the_first_image_is_the_example():
    assert torch.equal(first_image([((X, torch.arange(4)), Y)])[0], X[:1])


def test_batches_without_tensors_cannot_be_split():
    with pytest.raises(InputError, match="holds no tensor"):
        split_images({"a": 3})


@pytest.mark.parametrize(
    "batches",
    [
        X,
        X.numpy(),
        {"image": X},
        [X.double()],
        [X.numpy()],
        [(X, Y)],
        [(X,)],
        [{"image": X, "mask": Y}],
        TensorDataset(X, Y),
        TensorDataset(X),
        Unending(),
        DataLoader(TensorDataset(X), batch_size=2),
    ],
)
def test_inputs_are_read_with_or_without_targets(batches):
    found = torch.cat(read_inputs(batches, MODEL))
    assert torch.equal(found, X)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("batches", "index"),
    [([X[:0], X], 0), ([X, (X[:0], Y[:0])], 1), ([{"image": X.numpy()[:0]}], 0), (X[:0], 0)],
)
def test_a_batch_without_images_is_named(batches, index):
    with pytest.raises(InputError, match=f"batch {index} holds no images; leave empty ones out"):
        read_inputs(batches, MODEL)
    if index == 0:  # of which the example is taken
        with pytest.raises(InputError, match="batch 0 holds no images; leave empty ones out"):
            example_in(batches if isinstance(batches, torch.Tensor) else batches[0], MODEL)


def test_inputs_by_position_and_by_name():
    ((_, second),) = read_inputs([(X, X + 1, Y)], Pair(), count=2)
    assert torch.equal(second, X + 1)
    (named,) = read_inputs([{"after": X, "before": X, "mask": Y}], Pair(), 2, ("before", "after"))
    assert list(named) == ["before", "after"]


def test_of_labelled_pairs_all_inputs_are_read():
    ((_, second),) = read_inputs([((X, X + 1), Y)], Pair(), count=2)
    assert torch.equal(second, X + 1)


@pytest.mark.parametrize(
    ("container", "batch"),
    [
        ([X, Y], [X, Y]),
        ([X, Y], ([X, Y],)),
        ((X, Y), [[X, Y.numpy()], torch.zeros(4)]),
        ({"image": X, "sizes": [8, 8]}, {"image": X, "sizes": [8, 8], "mask": Y}),
        ({"image": X}, ({"image": X, "name": "a"}, Y)),
    ],
)
def test_one_argument_that_is_a_container_stays_one(container, batch):
    ((found,),) = read_inputs([batch], MODEL, container=container)
    assert type(found) is type(container)
    assert len(found) == len(container)
    first = found["image"] if isinstance(found, dict) else found[0]
    assert torch.equal(first, X)


def test_what_does_not_fit_the_container_is_read_as_ever():
    (found,) = read_inputs([(X, Y, Y)], MODEL, container=[X, Y])
    assert torch.equal(found, X)


class Optional(nn.Module):
    def forward(self, image, depth=None, mask=None):
        return image


class Keywords(nn.Module):
    def forward(self, **kwargs):
        return kwargs["image"]


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (MODEL, X, X[:1]),
        (MODEL, (X.numpy() * 2, Y), 2 * X[:1]),
        (MODEL, {"image": X, "mask": Y, "name": list("abcd")}, X[:1]),
        (MODEL, [[X, Y], Y], ([X[:1], Y[:1]],)),
        (MODEL, [{"rgb": X}, Y], ({"rgb": X[:1]},)),
        (MODEL, [{"input": X}, Y], {"input": X[:1]}),
        (Pair(), (X, X, Y), (X[:1], X[:1])),
        (Pair(), ((X, X), Y), (X[:1], X[:1])),
        (Pair(), {"after": X, "before": X, "mask": Y}, {"before": X[:1], "after": X[:1]}),
        (Optional(), {"image": X, "depth": Y, "mask": Y}, {"image": X[:1], "depth": Y[:1]}),
        (Keywords(), {"image": X, "mask": Y}, {"image": X[:1]}),
    ],
)
def test_an_example_is_what_the_forward_takes(model, batch, expected):
    found = example_in(batch, model)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert type(found) is type(expected)


def test_an_example_of_whole_numbers_has_the_type_of_the_weights():
    assert example_in((X * 255).to(torch.uint8), MODEL).dtype == torch.float32


@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([], "images= is empty"),
        ("photos", "expected batches of images, got 'photos'"),
        ([{"photo": X}], "batch 0 of images= is a mapping with 'photo'"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(images, text):
    with pytest.raises(InputError, match=text):
        read_inputs(images, MODEL)


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (X.to_sparse(), "sparse_coo"),
        (X[0].to_sparse(), "sparse_coo"),
    ],
)
def test_tensors_that_are_not_dense_are_named_with_the_remedy(images, kind):
    for read in (
        lambda: read_inputs([images], MODEL),
        lambda: read_batches([(X, images)], MODEL),
    ):
        with pytest.raises(InputError, match=rf"batch 0 holds a {kind} tensor; give dense ones"):
            read()


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_without_a_batch_dimension_are_named_with_the_remedy(channels):
    model = nn.Conv2d(channels, 1, 3)
    samples = [(torch.zeros(channels, 8, 8), torch.zeros(1, 8, 8))] * 12
    with pytest.raises(InputError, match=r"batch 0 is one sample.*DataLoader.*image\[None\]"):
        read_batches(samples, model)
    assert read_batches([(x[None], y[None]) for x, y in samples], model)[0][0].dim() == 4


@pytest.mark.parametrize(("workers", "said"), [(2, True), (0, False), (None, False)])
def test_a_worker_that_is_gone(workers, said):
    """Of one that was killed one learns that a connection broke off."""

    class Loader:
        num_workers = workers

        def __iter__(self):
            yield torch.ones(1, 1, 8, 8)
            raise ConnectionResetError("Connection reset by peer")

    with pytest.raises(InputError, match=r"batch 1 .* ConnectionResetError") as told:
        list(each_batch(Loader()))
    assert ("num_workers=0 shows the error itself" in str(told.value)) is said


class Optional(Pair):
    """Takes an image, and what need not be given."""

    def forward(self, x, mask=None, t=None, *, flip=False, labels=None):
        return self.conv(x if mask is None else x * mask)


class Supervised(Pair):
    def forward(self, x, labels=None):
        return self.conv(x)


@pytest.mark.parametrize(
    ("batch", "count", "name"),
    [((X, Y), 1, "mask"), ((X, X, Y), 2, "t"), ({"x": X, "mask": Y}, 1, "mask")],
)
def test_what_might_be_an_argument_and_is_left_out_is_said(batch, count, name):
    with pytest.warns(UserWarning, match=f"if it is {name}, .*example_inputs= that hold {name}"):
        (found,) = read_inputs([batch, batch][:1], Optional(), count, ("x",))
    kept = found["x"] if isinstance(found, dict) else found[0] if count > 1 else found
    assert torch.equal(kept, X)


@pytest.mark.parametrize(
    ("model", "batch", "count"),
    [
        (Optional(), (X, Y), 2),  # all of it is taken
        (Optional(), (X, "a name"), 1),
        (Optional(), ((X, X), Y), 2),
        (Optional(), {"x": X, "labels": Y}, 1),
        (Supervised(), (X, Y), 1),
        (MODEL, (X, Y), 1),
    ],
)
def test_targets_are_left_out_without_a_word(model, batch, count):
    read_inputs([batch], model, count, ("x",))  # a warning is an error


def test_what_a_mapping_holds_for_the_forward_goes_to_it():
    (found,) = read_inputs([{"x": X, "t": Y, "labels": Y, "other": Y}], Optional(), 1, ("x",))
    assert list(found) == ["x", "t"]


def test_three_parts_may_be_two_inputs():
    batch = (X, X[:, :1], Y)
    with pytest.raises(
        InputError, match=r"mask may be left out.*\(0, 1\), or keys=\(\(0, 1\), 2\)"
    ):
        read_batches([batch], Optional())
    for keys, inputs in (((0, 2), X), (((0, 1), 2), batch[:2])):
        ((found, target),) = read_batches([batch], Optional(), keys)
        assert torch.equal(target, Y)
        for one, same in zip(found, inputs, strict=True):
            assert torch.equal(one, same)
    assert len(read_batches([(X, Y, ["names"] * 4)], Optional())) == 1
    assert len(read_batches([batch], MODEL)) == 1

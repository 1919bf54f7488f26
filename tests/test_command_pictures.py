"""Folders of images and masks as the command reads them."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from weightscope.cli.pictures import cropping, images_in, labelled_in
from weightscope.errors import ForwardError, InputError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
TAKES = {channels: nn.Conv2d(channels, 1, 3) for channels in (1, 3, 4)}


def saved(folder, name, pixels, mode=None, **more):
    folder.mkdir(exist_ok=True, parents=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image = image.convert(mode) if mode else image
    image.save(folder / name, **more)


def only(folder, channels=3, **more):
    (image,) = images_in(str(folder), TAKES[channels], **more)
    assert image.dtype == torch.float32
    return image[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_colours_come_as_three_planes_in_0_to_1(tmp_path, mode):
    saved(tmp_path, "a.tif" if mode == "CMYK" else "a.png", COLOURS, mode)
    found = only(tmp_path)
    assert found.shape == (3, 6, 4)
    assert torch.allclose(found, torch.from_numpy(COLOURS).permute(2, 0, 1) / 255, atol=1e-6)


def test_channels_are_those_of_the_first_convolution(tmp_path):
    saved(tmp_path / "grey", "a.png", GREY)
    saved(tmp_path / "colours", "a.png", COLOURS)
    wanted = torch.from_numpy(GREY) / 255
    assert torch.equal(only(tmp_path / "grey"), wanted.expand(3, 6, 4))
    assert torch.equal(only(tmp_path / "grey", 1), wanted[None])
    assert only(tmp_path / "colours", 1).shape == (1, 6, 4)
    assert only(tmp_path / "colours", 4).shape == (3, 6, 4)  # the forward refuses them by name


@pytest.mark.parametrize(("kind", "named"), [(nn.Conv1d, 0), (nn.Conv2d, 1), (nn.Conv3d, 0)])
def test_a_crop_is_named_to_models_of_pictures_alone(kind, named, tmp_path):
    options = argparse.Namespace(images=str(tmp_path), data=None, crop=None, input=None)
    with pytest.raises(ForwardError) as raised, cropping(options, kind(1, 1, 3)):
        raise ForwardError("it raised.")
    assert str(raised.value).count("--crop N takes the middle") == named


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.fromarray(COLOURS).quantize(8)
    saved(tmp_path, "a.png", image)
    assert torch.allclose(
        only(tmp_path), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    )


def test_sixteen_bits_have_their_own_white(tmp_path):
    saved(tmp_path, "a.png", np.full((4, 4), 65535, np.uint16))
    assert only(tmp_path, 1).max() == 1.0
    saved(tmp_path, "a.png", np.full((4, 4), 256, np.uint16))
    assert only(tmp_path, 1).max() == pytest.approx(256 / 65535)


def test_black_and_white_of_one_bit(tmp_path):
    saved(tmp_path, "a.png", GREY, "1")
    assert set(only(tmp_path, 1).unique().tolist()) == {0.0, 1.0}


def test_a_camera_held_sideways_is_turned_up(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path, "a.jpg", COLOURS, exif=exif)
    assert only(tmp_path).shape == (3, 4, 6)


def test_arrays_come_as_they_are(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 5, 6), -3.0, np.float32))
    assert torch.equal(only(tmp_path), torch.full((4, 5, 6), -3.0))


def test_the_middle_is_cropped_of_images_and_masks_alike(tmp_path):
    saved(tmp_path / "images", "a.png", GREY)
    saved(tmp_path / "masks", "a.png", GREY)
    ((image, mask),) = labelled_in(str(tmp_path), TAKES[1], crop=2)
    assert torch.equal(mask[0], torch.from_numpy(GREY[2:4, 1:3].astype(np.int64)))
    assert torch.equal(image[0, 0], torch.from_numpy(GREY[2:4, 1:3]) / 255)
    with pytest.raises(InputError, match=r"--crop 5 does not fit into .*a\.png of 6 x 4 pixels"):
        list(images_in(str(tmp_path / "images"), TAKES[1], crop=5))


def test_images_and_masks_of_yes_and_no_are_brought_to_the_layout(tmp_path):
    saved(tmp_path / "images", "a.png", COLOURS)
    saved(tmp_path / "masks", "a.png", (GREY > 99) * np.uint8(255))
    ((image, mask),) = labelled_in(str(tmp_path), TAKES[3], layout="NHWC")
    assert torch.equal(image[0], torch.from_numpy(COLOURS) / 255)
    assert torch.equal(mask[0, ..., 0] > 0, torch.from_numpy(GREY > 99))


YES = np.array([[0, 255], [255, 0]], np.uint8)
CLASSES = np.array([[0, 1], [2, 255]], np.uint8)


def mask_of(tmp_path, pixels, mode=None, name="a.png"):
    saved(tmp_path / "images", "a.png", COLOURS[:2, :2])
    if name.endswith(".npy"):
        (tmp_path / "masks").mkdir()
        np.save(tmp_path / "masks" / name, pixels)
    else:
        saved(tmp_path / "masks", name, pixels, mode)
    ((_, mask),) = labelled_in(str(tmp_path), TAKES[3])
    return mask


@pytest.mark.parametrize("mode", [None, "RGB", "1", "RGBA"])
def test_a_mask_of_yes_and_no_has_a_channel_of_0_and_1(tmp_path, mode):
    mask = mask_of(tmp_path, YES, mode)
    assert mask.dtype == torch.float32
    assert torch.equal(mask[0, 0], torch.from_numpy(YES / 255.0).float())


def test_other_masks_are_numbers_of_classes(tmp_path):
    mask = mask_of(tmp_path, CLASSES)
    assert mask.dtype == torch.int64
    assert torch.equal(mask[0], torch.from_numpy(CLASSES.astype(np.int64)))


def test_of_a_palette_the_indices_are_the_classes(tmp_path):
    image = Image.fromarray(np.minimum(CLASSES, 3), mode=None).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata(np.minimum(CLASSES, 3).ravel().tolist())
    assert mask_of(tmp_path, image)[0].tolist() == [[0, 1], [2, 3]]


def test_masks_may_be_arrays(tmp_path):
    assert mask_of(tmp_path, CLASSES[None], name="a.npy")[0].tolist() == CLASSES.tolist()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda at: (at / "masks" / "a.png").rename(at / "masks" / "b.png"), "first is 'a.png'"),
        (lambda at: saved(at / "masks", "a.tif", YES), "several files called 'a'"),
        (lambda at: saved(at / "masks", "a.png", GREY), "size 2 x 2, its mask 6 x 4"),
        (lambda at: saved(at / "masks", "a.png", COLOURS[:2, :2]), "a mask in colours"),
        (lambda at: saved(at / "masks", "a.tif", YES / np.float32(7)), "several files"),
        (lambda at: (at / "masks" / "a.png").unlink(), "holds no image"),
        (lambda at: (at / "masks" / "a.png").write_bytes(b"text"), "cannot be read as an image"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(tmp_path, spoil, message):
    mask_of(tmp_path, YES)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        list(labelled_in(str(tmp_path), TAKES[3]))


def test_values_between_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="between the numbers of classes"):
        mask_of(tmp_path, (YES / np.float32(7)), name="a.npy")


@pytest.mark.parametrize("top", [1, 255])
def test_masks_of_several_labels_are_arrays_of_0_and_1(tmp_path, top):
    labels = np.eye(5, 4, dtype=np.uint8).reshape(5, 2, 2)
    found = mask_of(tmp_path, top * labels, name="a.npy")
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(labels)[None].float())


def test_several_labels_of_which_each_is_a_number_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.npy holds several labels, and other values than 0"):
        mask_of(tmp_path, np.arange(8).reshape(2, 2, 2), name="a.npy")


def test_an_array_runs_no_pickle(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as an array"):
        list(images_in(str(tmp_path), TAKES[3]))

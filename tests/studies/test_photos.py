import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from studies.sand.photos import contact_sheet, digest_files, find_photos, read_photos, survey
from weightscope.errors import InputError

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
IDS = np.zeros((64, 64), np.uint8)
IDS[10:20, 10:20] = 1  # 100 pixels of plastic in every case
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759


def save(array, mode=None):
    return lambda path: Image.fromarray(array, mode).save(path)


def tiff(array, **options):
    return lambda path: tifffile.imwrite(path.with_suffix(".tif"), array, **options)


def jpeg(array, **options):
    return lambda path: Image.fromarray(array).save(path.with_suffix(".jpg"), **options)


def palette(array, colours):
    def write(path):
        image = Image.fromarray(array)
        image.putpalette(colours)
        image.save(path)

    return write


def rgb(array, colour):
    return (array[..., None] * np.array(colour)).astype(np.uint8)


def opacity(array, colour=(255, 255, 255)):
    return np.dstack([np.broadcast_to(np.uint8(colour), (64, 64, 3)), array * 255])


def brush(path):
    """Painted with a soft brush in red, at four times the size."""
    image = Image.new("RGB", (256, 256))
    ImageDraw.Draw(image).rectangle((40, 40, 79, 79), fill=(230, 20, 30))
    image.resize((64, 64), Image.Resampling.BICUBIC).save(path)


def folder(root, pairs):
    for part in ("images", "masks"):
        (root / part).mkdir()
    for index, (photo, mask) in enumerate(pairs):
        photo(root / "images" / f"p{index}.png")
        mask(root / "masks" / f"p{index}.png")
    return root


white = save(IDS * 255)
MASKS = {
    "0 and 255": white,
    "0 and 1": save(IDS),
    "one bit": save(IDS.astype(bool)),
    "palette in VOC colours": palette(IDS, VOC),
    "palette that starts with plastic": palette(1 - IDS, [200, 0, 0, 0, 0, 0] + [0] * 762),
    "red on black": save(rgb(IDS, (255, 0, 0))),
    "green on white": save(np.where(IDS[..., None] > 0, np.uint8([0, 160, 0]), np.uint8(255))),
    "class 2 of 0 and 2": save(IDS * 2),
    "alpha of white": save(opacity(IDS)),
    "red on a transparent layer": save(opacity(IDS, (255, 0, 0))),
    "grey with alpha": save(np.dstack([IDS * 0 + 255, IDS * 255])),
    "opaque with alpha": save(np.dstack([rgb(IDS, (255, 255, 255)), IDS * 0 + 255])),
    "16 bits": save(IDS.astype(np.uint16) * 65535),
    "16 bits, classes": save(IDS.astype(np.uint16)),
    "float": tiff(IDS.astype(np.float32)),
    "JPEG": jpeg(IDS * 255, quality=75),
    "red JPEG": jpeg(rgb(IDS, (255, 0, 0)), quality=90, subsampling=0),
    "soft red brush": brush,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind_are_understood(tmp_path, name):
    found = survey(folder(tmp_path, [(save(PHOTO), MASKS[name])]), 32)
    image, mask = next(read_photos(found))
    assert np.array_equal(image, PHOTO)
    assert np.array_equal(mask, IDS)
    assert found.plastic == (100,)


classes = IDS.copy()
classes[40:50, 40:60] = 2  # another class, larger


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (save(classes), {"mask_value": 1}),
        (palette(classes, VOC), {"mask_value": 1}),
        (palette(classes, VOC), {"mask_colour": "#800000"}),
        (
            save(rgb(classes == 1, (255, 0, 0)) + rgb(classes == 2, (0, 0, 255))),
            {"mask_colour": "ff0000"},
        ),
        (save(1 - IDS), {"mask_value": 0}),
        (
            save(np.where(classes == 1, 255, 128 * (classes == 2)).astype(np.uint8)),
            {"mask_value": 255},
        ),
    ],
)
def test_several_classes_ask_which_is_plastic(tmp_path, mask, options):
    root = folder(tmp_path, [(save(PHOTO), mask)])
    if "mask_value" not in options or options["mask_value"] != 0:
        with pytest.raises(InputError, match=r"more than two classes.*--mask-(value|color)"):
            survey(root, 32)
    _, read = next(read_photos(survey(root, 32, **options)))
    assert np.array_equal(read, IDS)


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
PHOTOS = {
    "grey, 8 bits": save((RAMP * 255).round().astype(np.uint8)),
    "grey, 16 bits": save((RAMP * 65535).astype(np.uint16)),
    "grey TIFF, 12 bits": tiff((RAMP * 4095).astype(np.uint16)),
    "colour TIFF, 16 bits": tiff(
        np.dstack([RAMP * 65535] * 3).astype(np.uint16), photometric="rgb"
    ),
    "float TIFF, 0..1": tiff(RAMP.astype(np.float32)),
    "float TIFF, 0..255": tiff((RAMP * 255).astype(np.float32)),
    "colour float TIFF": tiff(np.dstack([RAMP] * 3).astype(np.float32), photometric="rgb"),
    "grey with alpha": save(np.dstack([(RAMP * 255).round(), RAMP * 0 + 255]).astype(np.uint8)),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_of_every_depth_keep_their_brightness(tmp_path, name):
    image, mask = next(read_photos(survey(folder(tmp_path, [(PHOTOS[name], white)]), 32)))
    assert image.shape == (64, 64, 3)
    np.testing.assert_allclose(image[..., 0], RAMP * 255, atol=1)
    assert mask.sum() == 100


def test_a_dark_photograph_stays_dark_among_others(tmp_path):
    bright, dark = (save((RAMP * top).astype(np.uint16)) for top in (65535, 3000))
    found = survey(folder(tmp_path, [(bright, white), (dark, white)]), 32)
    assert found.white == 65535
    assert [image.max() for image, _ in read_photos(found)] == [255, 12]


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_photographs_turned_by_the_camera_are_turned_upright(tmp_path, orientation):
    stored = PHOTO[:, :48]
    exif = Image.Exif()
    exif[0x0112] = orientation

    def turned(path):
        Image.fromarray(stored).save(path.with_suffix(".png"), exif=exif)

    sideways = orientation >= 5
    mask = IDS[:48] if sideways else IDS[:, :48]  # painted as the photograph is shown
    image, read = next(read_photos(survey(folder(tmp_path, [(turned, save(mask * 255))]), 32)))
    assert image.shape == ((48, 64, 3) if sideways else (64, 48, 3))
    assert read.sum() == 100
    expected = {1: stored, 3: stored[::-1, ::-1], 6: np.rot90(stored, -1), 8: np.rot90(stored)}
    if orientation in expected:
        assert np.array_equal(image, expected[orientation])


def test_masks_without_plastic_are_refused_with_what_they_hold(tmp_path):
    root = folder(tmp_path, [(save(PHOTO), save(IDS * 0))] * 2)
    with pytest.raises(InputError, match=r"no mask has any plastic.*they hold 0 \(100.00%\)"):
        survey(root, 32)
    with pytest.raises(InputError, match=r"no mask has any plastic \(value 7\)"):
        survey(root, 32, mask_value=7)
    with pytest.raises(InputError, match="not both"):
        survey(root, 32, mask_value=7, mask_colour="#ff0000")
    with pytest.raises(InputError, match="is no colour such as #ff0000"):
        survey(root, 32, mask_colour="red")


@pytest.mark.parametrize("empty", [save(IDS * 0), save(rgb(IDS * 0, (1, 1, 1)))])
def test_some_masks_may_be_empty(tmp_path, empty):
    painted = save(rgb(IDS, (255, 0, 0)))
    found = survey(folder(tmp_path, [(save(PHOTO), empty), (save(PHOTO), painted)]), 32)
    assert found.plastic == (0, 100)


def test_an_empty_layer_may_be_transparent(tmp_path):
    layers = [save(opacity(part, (255, 0, 0))) for part in (IDS * 0, IDS)]
    found = survey(folder(tmp_path, [(save(PHOTO), layer) for layer in layers]), 32)
    assert found.plastic == (0, 100)


def test_masks_of_different_kinds_are_refused(tmp_path):
    root = folder(tmp_path, [(save(PHOTO), white), (save(PHOTO), save(opacity(IDS)))])
    with pytest.raises(InputError, match="save all of them in the same way"):
        survey(root, 32)


def test_masks_the_other_way_round_are_pointed_out(tmp_path):
    found = survey(folder(tmp_path, [(save(PHOTO), save((1 - IDS) * 255))]), 32)
    assert "More than half is plastic" in str(found)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (tiff((RAMP - 0.5).astype(np.float32)), "negative, infinite or missing"),
        (tiff(np.full((64, 64), np.nan, np.float32)), "negative, infinite or missing"),
        (tiff((RAMP * 1e6).astype(np.float32)), "values up to 1e\\+06"),
        (tiff(np.zeros((3, 64, 64), np.float64), photometric="minisblack"), "3 pages"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path, photo, message):
    with pytest.raises(InputError, match=message):
        survey(folder(tmp_path, [(photo, white)]), 32)


def test_the_contact_sheet_shows_what_was_understood(tmp_path):
    pairs = [(save(PHOTO), save(IDS * 0))] * 2 + [(save(PHOTO // 2), white)]
    found = survey(folder(tmp_path, pairs), 32)
    sheet = np.asarray(Image.open(contact_sheet(found, tmp_path / "sheet.png", side=64)))
    magenta = (sheet == (255, 0, 255)).all(-1)
    assert magenta.sum() == 44  # the line around ten by ten pixels
    assert np.nonzero(magenta)[1].max() < 64 + 8  # the photograph with plastic comes first


def test_changed_photographs_are_another_study(tmp_path):
    root = folder(tmp_path, [(save(PHOTO), white)])
    found = survey(root, 32)
    before = digest_files(found)
    assert digest_files(survey(root, 32)) == before
    save(PHOTO // 2)(root / "images" / "p0.png")
    assert digest_files(survey(root, 32)) != before


# --- names and sizes


@pytest.fixture
def two(tmp_path):
    return folder(tmp_path, [(jpeg(PHOTO[:40, :50]), save(IDS[:40, :50] * 255))] * 2)


def test_photos_are_paired_with_masks(two):
    pairs = find_photos(two, tile=32)
    assert [(p.name, m.name) for p, m in pairs] == [("p0.jpg", "p0.png"), ("p1.jpg", "p1.png")]


def test_wrong_folder_is_named_with_what_is_expected(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere.*images"):
        find_photos(tmp_path / "nowhere", 32)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"there is no folder .*masks"):
        find_photos(tmp_path, 32)
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"no photographs in .*images.*\.png"):
        find_photos(tmp_path, 32)


def test_missing_mask_is_named(two):
    (two / "masks" / "p1.png").unlink()
    with pytest.raises(InputError, match=r"1 photographs have no mask .*p1\.jpg.*p1\.png"):
        find_photos(two, 32)


def test_two_masks_of_one_name_are_refused(two):
    save(IDS[:40, :50])(two / "masks" / "p1.bmp")
    with pytest.raises(InputError, match="several files are called 'p1'"):
        find_photos(two, 32)


def test_mask_of_another_size_is_named(two):
    Image.fromarray(np.zeros((40, 51), np.uint8)).save(two / "masks" / "p1.png")
    with pytest.raises(
        InputError, match=r"mask 'p1\.png' is 51 x 40 px, but .*'p1\.jpg' is 50 x 40"
    ):
        find_photos(two, 32)


def test_unreadable_image_is_named(two):
    (two / "images" / "p0.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"p0\.jpg' is not a readable image"):
        find_photos(two, 32)


def test_image_that_breaks_off_is_named(two):
    path = two / "images" / "p0.jpg"
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(InputError, match=r"p0\.jpg' is not a readable image .*truncated"):
        survey(two, 32)


def test_photo_smaller_than_a_tile_is_named(two):
    with pytest.raises(InputError, match=r"'p0\.jpg' is 50 x 40 px, smaller than a tile of 64 px"):
        find_photos(two, 64)

import struct
import unicodedata
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw
from scipy import ndimage

from studies.sand.masks import Named
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


layered = save(
    np.dstack(
        [rgb(classes == 1, (255, 0, 0)) + rgb(classes == 2, (0, 0, 255)), (classes > 0) * 255]
    ).astype(np.uint8)
)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (save(classes), Named(value=1)),
        (palette(classes, VOC), Named(value=1)),
        (palette(classes, VOC), Named(colour="#800000")),
        (
            save(rgb(classes == 1, (255, 0, 0)) + rgb(classes == 2, (0, 0, 255))),
            Named(colour="ff0000"),
        ),
        (save(1 - IDS), Named(value=0)),
        (
            save(np.where(classes == 1, 255, 128 * (classes == 2)).astype(np.uint8)),
            Named(value=255),
        ),
        (save(np.where(classes == 1, 1, 255 * (classes == 2)).astype(np.uint8)), Named(value=1)),
        (save(IDS * 200 + (classes == 2)), Named(above=100)),
        (layered, Named(colour="#ff0000")),
        (tiff((IDS + 0.5 * (classes == 2)).astype(np.float32)), Named(above=0.7)),
        (tiff((IDS * 0.5 + (classes == 2)).astype(np.float32)), Named(value=0.5)),
    ],
)
def test_several_classes_ask_which_is_plastic(tmp_path, mask, named):
    root = folder(tmp_path, [(save(PHOTO), mask)])
    if named.value != 0:
        with pytest.raises(
            InputError, match=r"(two classes|several colours).*--mask-(value|color)"
        ):
            survey(root, 32)
    _, read = next(read_photos(survey(root, 32, named)))
    assert np.array_equal(read, IDS)


# --- soft edges, compression, painted photographs


SPOTS = [(20, 30, 3.0), (50, 20, 1.6), (48, 60, 5.2), (75, 75, 2.2), (30, 70, 9.5), (70, 45, 4.1)]


def discs(detail, spots=SPOTS, side=96):
    """Coverage of every pixel by discs, drawn at so many times the size, as programs do."""
    axis = (np.arange(side * detail) + 0.5) / detail
    drawn = np.zeros((side * detail,) * 2)
    for row, column, radius in spots:
        near = (axis[:, None] - row) ** 2 + (axis - column) ** 2
        drawn = np.maximum(drawn, near <= radius**2)
    return drawn.reshape(side, detail, side, detail).mean((1, 3))


def blend(share, paint, ground):
    share = share[..., None] if np.ndim(paint) else share
    return np.round(share * np.asarray(paint) + (1 - share) * np.asarray(ground)).astype(np.uint8)


def feathered(width):
    return ndimage.gaussian_filter(discs(4), width)


def on_layer(share, colour=(0, 200, 0)):
    return np.dstack([np.broadcast_to(np.uint8(colour), (*share.shape, 3)), blend(share, 255, 0)])


TEXTURE = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(96, 96, 3)), (1, 1, 0))
SCENE = np.clip(150 + 90 * TEXTURE, 0, 255).astype(np.uint8)

SOFT = {
    "white, two samples": save(blend(discs(2), 255, 0)),
    "white, eight samples": save(blend(discs(8), 255, 0)),
    "grey paint": save(blend(discs(4), 200, 0)),
    "red": save(blend(discs(4), (255, 0, 0), (0, 0, 0))),
    "red on white": save(blend(discs(4), (220, 30, 30), (255, 255, 255))),
    "red, floating-point": tiff(
        np.dstack([discs(4), discs(4) * 0, discs(4) * 0]).astype(np.float32), photometric="rgb"
    ),
    "red, 16 bits": tiff(
        np.dstack([discs(4) * 65535, discs(4) * 0, discs(4) * 0]).astype(np.uint16),
        photometric="rgb",
    ),
    "on a layer": save(on_layer(discs(4))),
    "16 bits": save((discs(4) * 65535).astype(np.uint16)),
    "float": tiff(discs(4).astype(np.float32)),
    "JPEG of quality 60": jpeg(blend(discs(4), 255, 0), quality=60),
    "hard edges, JPEG": jpeg(blend(discs(1), 255, 0), quality=75),
    "red, JPEG with halved colours": jpeg(blend(discs(4), (255, 0, 0), (0, 0, 0)), quality=80),
    "lossy WebP": lambda path: Image.fromarray(blend(discs(4), (255, 0, 0), (0, 0, 0))).save(
        path.with_suffix(".webp"), quality=75
    ),
    "PNG of a JPEG": lambda path: again(path, blend(discs(4), 255, 0)),
}


def again(path, array):
    Image.fromarray(array).save(path.with_suffix(".jpg"), quality=75)
    Image.open(path.with_suffix(".jpg")).save(path)
    path.with_suffix(".jpg").unlink()


@pytest.mark.parametrize("name", SOFT)
def test_soft_edges_count_from_the_middle_on(tmp_path, name):
    found = survey(folder(tmp_path, [(save(SCENE), SOFT[name])]), 32)
    _, mask = next(read_photos(found))
    truth = discs(8) > 0.5
    border = ndimage.binary_dilation(truth) ^ ndimage.binary_erosion(truth)
    assert not (mask != truth)[~border].any()
    assert (mask != truth).sum() <= 0.08 * truth.sum()
    assert "at the middle" in str(found)


def test_what_is_soft_is_said(tmp_path):
    found = survey(folder(tmp_path, [(save(SCENE), save(blend(feathered(1.2), 255, 0)))]), 32)
    said = str(found)
    assert "neither ground nor full paint, and counts as plastic from the middle on" in said
    assert "1 of " in said
    assert "nowhere near the full 255" in said


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (blend(1 - discs(4), 255, 0), Named(value=0)),
        (blend(discs(4), (0, 0, 0), (255, 255, 0)), Named(colour="#000000")),
    ],
)
def test_soft_masks_the_other_way_round_can_be_named(tmp_path, mask, named):
    found = survey(folder(tmp_path, [(save(SCENE), save(mask))]), 32, named)
    assert found.plastic[0] == pytest.approx((discs(8) > 0.5).sum(), rel=0.05)


big, small = discs(4, SPOTS[::2]), discs(4, SPOTS[1::2])
wide = discs(4, [(30, 30, 14.0), (70, 60, 18.5)])
tiny = discs(1, [(r + 0.5, c + 0.5, 0.8) for r in range(10, 90, 20) for c in range(10, 90, 20)])


@pytest.mark.parametrize(
    "mask",
    [
        blend(big, 255, 0) // 2 + blend(small, 255, 0),  # two classes with soft edges
        blend(big, (255, 0, 0), (0, 0, 0)) + blend(small, (0, 0, 255), (0, 0, 0)),
        blend(wide, 255, 0) // 2 + blend(ndimage.grey_erosion(wide, 9), 127, 0),  # a soft rim
        np.where(discs(1) > 0, 255, 127 * ndimage.binary_dilation(discs(1))),  # a hard one, of 1 px
        np.maximum(blend(big, 255, 0), blend(tiny, 120, 0)),  # of no more than one pixel each
        ndimage.label(discs(1))[0].astype(np.uint8) * 40,  # numbered particles
        np.where(discs(1, SPOTS[:3]) > 0, 1, blend(discs(1, SPOTS[3:]), 255, 0)),  # 255: ignore
        np.where(ndimage.label(discs(1))[0] == 1, 255, ndimage.label(discs(1))[0]),
    ],
)
def test_other_classes_are_not_taken_for_soft_edges(tmp_path, mask):
    root = folder(tmp_path, [(save(SCENE), save(mask.astype(np.uint8)))])
    with pytest.raises(InputError, match="more than two classes"):
        survey(root, 32)
    if mask.ndim == 2:
        assert survey(root, 32, Named(above=0)).plastic == ((mask > 0).sum(),)


def test_compressed_classes_cannot_be_named_by_value(tmp_path):
    mask = jpeg(blend(big, 128, 0) + blend(small, 255, 0), quality=70)
    root = folder(tmp_path, [(save(SCENE), mask)])
    with pytest.raises(InputError, match=r"lie close to it.*save them as PNG"):
        survey(root, 32, Named(value=128))


PAINTED = blend(discs(4), (255, 0, 0), SCENE)


@pytest.mark.parametrize("write", [save(PAINTED), jpeg(PAINTED, quality=90, subsampling=0)])
def test_painted_photographs_are_recognised_and_the_paint_is_named(tmp_path, write):
    root = folder(tmp_path, [(save(SCENE), write)])
    with pytest.raises(InputError, match=r"painted layer alone, or give --mask-color '#f[\da-f]0"):
        survey(root, 32)
    found = survey(root, 32, Named(colour="#ff0000"))
    assert found.plastic[0] == pytest.approx((discs(8) > 0.5).sum(), rel=0.25)
    assert "give or take 32" in str(found)


@pytest.mark.parametrize(
    ("subsampling", "quality", "lost"), [(0, 75, False), (2, 75, True), (2, 95, True)]
)
def test_paint_that_compression_took_away_is_counted(tmp_path, subsampling, quality, lost):
    write = jpeg(PAINTED, quality=quality, subsampling=subsampling)
    found = survey(folder(tmp_path, [(save(SCENE), write)]), 32, Named(colour="#ff0000"))
    pixels = np.asarray(Image.open(tmp_path / "masks" / "p0.jpg")).astype(float)
    away = np.linalg.norm(pixels - (255, 0, 0), axis=-1)
    taken, near = (away <= 32).sum(), ((away > 32) & (away <= 64)).sum()
    said = (
        f"{near} px nearly have the colour that was named (colour #ff0000, give or take 64) and "
        f"are left out, beside {taken} px"
    )
    assert (said in str(found)) == lost
    assert ("nearly have" in str(found)) == lost


def test_a_paint_that_the_photograph_has_too_is_not_named(tmp_path):
    beach = SCENE.copy()
    beach[60:] = (240, 10, 10)  # a red bucket
    painted = blend(discs(4, SPOTS[:1] + SPOTS[4:5]), (255, 0, 0), beach)
    root = folder(tmp_path, [(save(beach), save(painted))])
    with pytest.raises(InputError, match="save the painted layer alone") as error:
        survey(root, 32)
    assert "--mask-color" not in str(error.value)


@pytest.mark.parametrize(
    "mask",
    [SCENE, blend(discs(4) / 2, (255, 0, 0), SCENE), SCENE[..., 0]],
    ids=["not painted", "half transparent", "grey"],
)
def test_photographs_without_one_paint_are_refused_too(tmp_path, mask):
    with pytest.raises(InputError, match="save the painted layer alone") as error:
        survey(folder(tmp_path, [(save(SCENE), save(mask))]), 32)
    assert "--mask-color" not in str(error.value)


def test_what_was_cut_out_of_the_photograph_is_a_mask(tmp_path):
    cut_out = np.dstack([SCENE, blend(discs(4), 255, 0)])
    found = survey(folder(tmp_path, [(save(SCENE), save(cut_out))]), 32)
    assert found.plastic[0] == pytest.approx((discs(8) > 0.5).sum(), rel=0.05)


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def png_of_16_bits(array):
    """Colours of 16 bits, which no library at hand writes."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    def write(path):
        height, width = array.shape[:2]
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
        header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)

    return write


PHOTOS = {
    "grey, 8 bits": save((RAMP * 255).round().astype(np.uint8)),
    "grey, 16 bits": save((RAMP * 65535).astype(np.uint16)),
    "grey TIFF, 12 bits": tiff((RAMP * 4095).astype(np.uint16)),
    "colour TIFF, 16 bits": tiff(
        np.dstack([RAMP * 65535] * 3).astype(np.uint16), photometric="rgb"
    ),
    "colour TIFF, 12 bits of 16": tiff(
        np.dstack([RAMP * 4095] * 3).astype(np.uint16), photometric="rgb"
    ),
    "colour PNG, 16 bits": png_of_16_bits(np.dstack([RAMP * 65535] * 3)),
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


def test_colours_of_16_bits_are_named(tmp_path):
    photo = png_of_16_bits(np.dstack([RAMP * 65535, RAMP * 65535, RAMP * 0]))
    found = survey(folder(tmp_path, [(photo, white)]), 32)
    assert "more than 8 bits, brought to 8 bits with white at 65535: 'p0.png'" in str(found)


def test_a_dark_photograph_stays_dark_among_others(tmp_path):
    bright, dark = (save((RAMP * top).astype(np.uint16)) for top in (65535, 3000))
    found = survey(folder(tmp_path, [(bright, white), (dark, white)]), 32)
    assert found.whites == (65535, 65535)
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
        survey(root, 32, Named(value=7))
    with pytest.raises(InputError, match="not several"):
        survey(root, 32, Named(value=7, colour="#ff0000"))
    with pytest.raises(InputError, match="is no colour such as #ff0000"):
        survey(root, 32, Named(colour="red"))


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
    assert "more than half is plastic in 1 of 1 masks, 'p0.png'" in str(found)
    assert survey(tmp_path, 32, Named(value=0)).plastic == (100,)


def test_single_masks_the_other_way_round_are_named(tmp_path):
    masks = [white, white, save((1 - IDS) * 255)]
    found = survey(folder(tmp_path, [(save(PHOTO), mask) for mask in masks]), 32)
    assert "more than half is plastic in 1 of 3 masks, 'p2.png'" in str(found)


def test_paints_of_several_shades_can_be_named_together(tmp_path):
    masks = [save(rgb(IDS, shade)) for shade in ((255, 0, 0), (237, 28, 36), (136, 0, 21))]
    root = folder(tmp_path, [(save(PHOTO), mask) for mask in masks])
    with pytest.raises(InputError, match="--mask-above 0"):
        survey(root, 32)
    assert survey(root, 32, Named(above=0)).plastic == (100, 100, 100)


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


def test_unusual_photographs_and_copies_are_named(tmp_path):
    grey = save(PHOTO[..., 0])
    deep = tiff(np.dstack([RAMP * 4000] * 3).astype(np.uint16), photometric="rgb")
    floats = tiff(np.dstack([RAMP, RAMP, 1 - RAMP]).astype(np.float32), photometric="rgb")
    root = folder(tmp_path, [(p, white) for p in (save(PHOTO), grey, deep, floats, save(PHOTO))])
    Image.fromarray(PHOTO).save(root / "images" / "p5.bmp")  # the same in another format
    white(root / "masks" / "p5.png")
    found = survey(root, 32)
    assert found.whites == (255, 255, 4095, 1, 255, 255)
    assert [photo.max() for photo, _ in read_photos(found)][2:4] == [249, 255]
    said = str(found)
    assert "Note: photographs without colours: 'p1.png', 'p2.tif'" in said
    assert "more than 8 bits, brought to 8 bits with white at 4095: 'p2.tif'" in said
    assert "floating-point values, brought to 8 bits with white at 1: 'p3.tif'" in said
    assert "one picture under several names, 'p0.png', 'p4.png', 'p5.bmp'" in said


def test_floats_of_two_scales_are_refused(tmp_path):
    photos = [tiff((RAMP * top).astype(np.float32)) for top in (1, 255)]
    with pytest.raises(InputError, match=r"up to 1, .*up to 255: what is white cannot be told"):
        survey(folder(tmp_path, [(photo, white) for photo in photos]), 32)


# --- names and sizes


@pytest.fixture
def two(tmp_path):
    return folder(tmp_path, [(jpeg(PHOTO[:40, :50]), save(IDS[:40, :50] * 255))] * 2)


def test_photos_are_paired_with_masks(two):
    pairs, notes = find_photos(two, tile=32)
    assert notes == ()
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


def paired(root, made):
    """Photographs and masks of these names."""
    for photo, mask in made.items():
        for part, name in (("images", f"{photo}.jpg"), ("masks", mask)):
            (root / part).mkdir(exist_ok=True)
            Image.fromarray(PHOTO if part == "images" else IDS).save(root / part / name)
    return root


def test_photographs_called_masks_and_words_in_brackets_are_paired(tmp_path):
    made = {"mask_photo": "mask_photo_mask.png", "seg_2": "label_seg_2.png", "b_mask": "b_mask.png"}
    made |= {"IMG_7": "IMG_7 (mask).png", "IMG_8": "(Mask) IMG_8.png", "IMG_9": "IMG_9[seg].png"}
    made |= {"photo": "photo_mask.png", "b": "b_seg.png"}
    pairs, notes = find_photos(paired(tmp_path, made), 32)
    assert {photo.stem: mask.name for photo, mask in pairs} == made
    assert notes == ()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_are_the_same_however_a_system_writes_them(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    photos = [unicodedata.normalize(form, name) for name in ("Düne", "Plage_été", "plain")]
    made = {name: unicodedata.normalize(other, f"{name}_mask.png") for name in photos}
    made[photos[1]] = unicodedata.normalize(other, "PLAGE_ÉTÉ.jpg.png")
    pairs, notes = find_photos(paired(tmp_path, made), 32)
    assert {photo.stem: mask.name for photo, mask in pairs} == made
    assert notes == ()
    Image.fromarray(PHOTO).save(tmp_path / "images" / unicodedata.normalize(other, "Düne.jpg"))
    with pytest.raises(InputError, match="several files are called"):
        find_photos(tmp_path, 32)


def test_folders_that_are_not_read_are_named(tmp_path):
    root = paired(tmp_path, {"a": "a.png", "b": "b.png"})
    for name in ("images/second day", "masks/old", "Photos", "labels", "images/__MACOSX"):
        (root / name).mkdir()
    _, notes = find_photos(root, 32)
    assert notes == (
        "'images/second day' is a folder; only 'images' itself is read",
        "'masks/old' is a folder; only 'masks' itself is read",
        "only 'images' is read, not 'Photos' beside it",
        "only 'masks' is read, not 'labels' beside it",
    )
    (root / "masks" / "a.png").rename(root / "masks" / "old" / "a.png")
    with pytest.raises(
        InputError, match=r"have no mask .*'masks/old' is a folder.*not 'labels' beside it"
    ):
        find_photos(root, 32)
    for name in ("a.jpg", "b.jpg"):
        (root / "images" / name).rename(root / "images" / "second day" / name)
    with pytest.raises(
        InputError, match=r"no photographs .*'images/second day' is a folder.*not 'Photos'"
    ):
        find_photos(root, 32)


def test_names_that_programs_make_are_paired_and_litter_is_left_out(tmp_path):
    images, masks = tmp_path / "Photos", tmp_path / "MASKS"
    for part in (images, masks):
        part.mkdir()
    made = {"IMG_1": "IMG_1_mask.png", "IMG_2": "mask-IMG_2.PNG", "a_mask": "a_mask.png"}
    made |= {"IMG_3": "IMG_3.jpg.png", "IMG_4": "img_4 Mask.tif", "a": "a.bmp"}
    for photo, mask in made.items():
        Image.fromarray(PHOTO).save(images / f"{photo}.jpg")
        Image.fromarray(IDS * 255).save(masks / mask)
    for name in (".DS_Store", "Thumbs.db", "._IMG_1.jpg"):
        (images / name).write_bytes(b"no picture")
    pairs, notes = find_photos(tmp_path, 32)
    assert {photo.stem: mask.name for photo, mask in pairs} == made
    assert notes == ()
    (images / "counts.csv").write_text("1,2")
    (masks / "IMG_9.xcf").write_text("a project")
    Image.fromarray(IDS).save(masks / "IMG_8_mask.png")
    _, notes = find_photos(tmp_path, 32)
    assert notes == (
        "left out, of no kind that is read here: 'counts.csv', 'IMG_9.xcf'",
        "masks without a photograph: 'IMG_8_mask.png'",
    )
    Image.fromarray(PHOTO).save(images / "IMG_9.jpg")
    with pytest.raises(InputError, match=r"no mask .*IMG_9\.jpg.*left out.*'IMG_9\.xcf'"):
        find_photos(tmp_path, 32)
    (masks / "IMG_9.xcf").unlink()
    for name in ("IMG_9.png", "IMG_9_mask.png"):
        Image.fromarray(IDS).save(masks / name)
    with pytest.raises(InputError, match="several files are called 'IMG_9'"):
        find_photos(tmp_path, 32)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.sand.tiles import (
    count_tiles,
    cut_tiles,
    draw_photos,
    split_photos,
    store_tiles,
    tile_origins,
)
from weightscope.errors import InputError


@given(length=st.integers(1, 400), size=st.integers(1, 100), overlap=st.integers(0, 99))
def test_tiles_cover_every_pixel_and_overlap_enough(length, size, overlap):
    if overlap >= size or length < size:
        with pytest.raises(InputError):
            tile_origins(length, size, overlap)
        return
    origins = tile_origins(length, size, overlap)
    covered = np.zeros(length, bool)
    for origin in origins:
        assert 0 <= origin <= length - size
        covered[origin : origin + size] = True
    assert covered.all()
    gaps = np.diff(origins)
    assert (gaps > 0).all()
    assert (size - gaps >= overlap).all()


def test_sixteen_tiles_of_each_photo_make_the_papers_6176():
    assert count_tiles((1440, 1440), 512, 100) == 16
    assert 386 * 16 == 6176


def test_tiles_are_windows_of_the_photo():
    image = np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3)
    mask = np.eye(50, 40, dtype=np.uint8)
    tiles = list(cut_tiles((image, mask), 20, 5))
    assert len(tiles) == count_tiles((50, 40), 20, 5) == 9
    assert np.array_equal(tiles[-1][0], image[30:, 20:])
    assert np.array_equal(tiles[-1][1], mask[30:, 20:])


def test_stored_tiles_come_back_and_are_not_made_twice(tmp_path):
    photos = list(draw_photos(3, 48, seed=1))
    shapes = [image.shape[:2] for image, _ in photos]
    tiles = store_tiles(tmp_path, photos, shapes, 32, 8, {"seed": 1})
    expected = [tile for photo in photos for tile in cut_tiles(photo, 32, 8)]
    assert np.array_equal(tiles.images, [image for image, _ in expected])
    assert np.array_equal(tiles.masks, [mask for _, mask in expected])
    assert tiles.photos.tolist() == [0] * 4 + [1] * 4 + [2] * 4

    def never():
        raise AssertionError("read again")
        yield

    again = store_tiles(tmp_path, never(), shapes, 32, 8, {"seed": 1})
    assert np.array_equal(again.images, tiles.images)
    with pytest.raises(AssertionError, match="read again"):
        store_tiles(tmp_path, never(), shapes, 32, 8, {"seed": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npy", "masks.npy", "tiles.json"]


def test_batch_is_scaled_and_channels_first(tmp_path):
    photos = list(draw_photos(1, 40, seed=1))
    tiles = store_tiles(tmp_path, photos, [(40, 40)], 32, 4, "x")
    images, masks = tiles.batch(np.array([1, 0]))
    assert images.shape == (2, 3, 32, 32)
    assert masks.shape == (2, 1, 32, 32)
    assert images[0, 2, 5, 6].item() == pytest.approx(tiles.images[1, 5, 6, 2] / 255)
    expected = tiles.images[:2].reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(tiles.mean_pixel(np.array([0, 1])), expected, rtol=1e-5)


def test_splits_keep_photos_apart_and_follow_the_papers_shares():
    photos = np.repeat(np.arange(100), 16)
    tested = []
    for fold in range(5):
        split = split_photos(photos, fold, 5, seed=0)
        parts = [set(photos[part]) for part in (split.train, split.validation, split.test)]
        assert [len(part) for part in parts] == [72, 8, 20]
        assert len(set.union(*parts)) == 100
        tested += sorted(parts[2])
    assert sorted(tested) == list(range(100))


def test_too_few_photos_are_refused():
    with pytest.raises(InputError, match=r"2 photographs cannot be split into 5 folds.*at least 5"):
        split_photos(np.array([0, 1]), 0, 5, seed=0)

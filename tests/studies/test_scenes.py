import numpy as np
import pytest
from scipy import ndimage

from studies.sand.scenes import SceneSettings, make_scene


def test_same_seed_and_size_give_the_same_scene():
    first, second = make_scene(64, 96, seed=3), make_scene(64, 96, seed=3)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.image, make_scene(64, 96, seed=4).image)


def test_scene_has_the_promised_shapes():
    scene = make_scene(40, 56, seed=0)
    assert scene.image.shape == (40, 56, 3)
    assert scene.mask.shape == (40, 56)
    assert scene.image.dtype == scene.mask.dtype == np.uint8
    assert set(np.unique(scene.mask)) == {0, 1}


def test_plastic_is_small_and_rare():
    masks = [make_scene(256, 256, seed=[1, i]).mask for i in range(4)]
    assert 0.002 < np.mean(masks) < 0.01
    sides = [
        max(part.stop - part.start for part in window)
        for mask in masks
        for window in ndimage.find_objects(ndimage.label(mask, np.ones((3, 3)))[0])
    ]
    assert 3 <= np.median(sides) <= 10
    assert np.quantile(sides, 0.9) <= 14  # touching particles and fibres are longer


def test_settings_change_how_much_plastic_there_is():
    few = make_scene(256, 256, seed=0, settings=SceneSettings(plastic=3e-5)).mask.mean()
    many = make_scene(256, 256, seed=0, settings=SceneSettings(plastic=1e-3)).mask.mean()
    assert few < 0.003 < 0.01 < many


def test_tiny_scenes_are_refused():
    with pytest.raises(ValueError, match="at least 32 x 32 px, received 16 x 64"):
        make_scene(16, 64, seed=0)

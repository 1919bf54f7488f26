import torch

from studies.sand.augmentation import Augmentation, augment

FILL = torch.tensor([0.1, 0.5, 0.9])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(batch=16, size=24):
    images = torch.rand(batch, 3, size, size, generator=generator(1))
    masks = torch.zeros(batch, 1, size, size)
    masks[:, :, 10:13, 5:9] = 1
    return images, masks


def test_no_movement_leaves_tiles_as_they_are():
    images, masks = sample()
    still = Augmentation(shift=0.0, degrees=0.0, flips=False)
    moved, truth = augment(images, masks, FILL, generator(), still)
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(truth, masks)


def test_flips_only_mirror():
    images, masks = sample()
    moved, truth = augment(
        images, masks, FILL, generator(), Augmentation(shift=0.0, degrees=0.0, flips=True)
    )
    ways = set()
    for image, mask, new, new_mask in zip(images, masks, moved, truth, strict=True):
        fits = [
            axes
            for axes in ([], [1], [2], [1, 2])
            if torch.allclose(image.flip(axes), new, atol=1e-5)
            and torch.equal(mask.flip(axes), new_mask)
        ]
        assert len(fits) == 1
        ways.add(tuple(fits[0]))
    assert len(ways) == 4


def test_the_gap_is_the_mean_colour_and_no_plastic():
    images, masks = torch.zeros(8, 3, 20, 20), torch.ones(8, 1, 20, 20)
    moved, truth = augment(
        images, masks, FILL, generator(), Augmentation(shift=0.2, degrees=45.0, flips=False)
    )
    outside = truth[:, 0] == 0
    assert outside.any()
    deep = moved.permute(0, 2, 3, 1)[outside]
    # bilinear borders mix; most of the gap is the fill itself
    assert (deep - FILL).abs().amax(1).lt(1e-5).float().mean() > 0.5
    assert set(truth.unique().tolist()) == {0.0, 1.0}


def test_image_and_mask_move_together():
    _, masks = sample()
    images = masks.expand(-1, 3, -1, -1)
    moved, truth = augment(images.clone(), masks, torch.zeros(3), generator(), Augmentation())
    agree = ((moved[:, :1] > 0.5) == (truth > 0.5)).float().mean()
    assert agree > 0.98


def test_shift_stays_within_its_limit():
    masks = torch.zeros(64, 1, 40, 40)
    masks[:, :, 20, 20] = 1
    images = masks.expand(-1, 3, -1, -1).clone()
    only_shift = Augmentation(shift=0.2, degrees=0.0, flips=False)
    _, truth = augment(images, masks, FILL, generator(), only_shift)
    rows, columns = truth[:, 0].nonzero()[:, 1:].T
    assert (rows - 20).abs().max() <= 8
    assert (columns - 20).abs().max() <= 8
    assert (rows - 20).abs().max() >= 6


def test_the_generator_alone_decides():
    images, masks = sample()
    first = augment(images, masks, FILL, generator(5), Augmentation())
    second = augment(images, masks, FILL, generator(5), Augmentation())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])

"""A denoiser of two inputs, without normalisation: cut, recovered, thinned, saved, loaded."""

import numpy as np
import pytest
import torch

from studies.denoiser import Denoiser, drawn, noisy, psnr
from weightscope import analyze, load, save


def test_the_map_says_what_noise_there_is():
    clean = torch.full((3, 3, 64, 64), 0.5)
    sigma = torch.tensor([0.02, 0.1, 0.4])
    batch = noisy(clean, sigma, torch.Generator().manual_seed(0))
    spread = (batch["image"] - clean).flatten(1).std(1)
    assert torch.allclose(spread, sigma, rtol=0.05)
    assert torch.equal(batch["noise"][:, 0, 5, 7], sigma)
    levels = drawn(2000, torch.Generator().manual_seed(0))
    assert 0.02 <= levels.min() < levels.max() <= 0.4
    assert float(levels.median()) == pytest.approx(np.sqrt(0.02 * 0.4), rel=0.05)


def test_psnr_of_what_changes_nothing_is_that_of_the_noise():
    class Nothing(torch.nn.Module):
        def forward(self, image, noise):
            return image

    assert psnr(Nothing(), torch.rand(4, 3, 64, 64), 0.1) == pytest.approx(20.0, abs=0.3)


@pytest.mark.slow
def test_cut_recovered_thinned_and_loaded(tmp_path):
    torch.manual_seed(0)
    model, generator = Denoiser(4, 3).eval(), torch.Generator().manual_seed(0)
    batch = noisy(torch.rand(6, 3, 32, 32), drawn(6, generator), generator)
    proposals = analyze(model, example_inputs=batch, response=False).proposals
    assert sorted(p.keep_levels for p in proposals if p.refusal is None) == [1, 2]
    small = next(p for p in proposals if p.keep_levels == 1).build()
    small = small.thin(0.75)
    course = small.recover([batch], steps=2, progress=False)
    assert course.after.explained >= course.before.explained
    loaded = load(save(small, tmp_path / "small.safetensors"), lambda: Denoiser(4, 3))
    assert torch.equal(loaded.module.eval()(**batch), small.module.eval()(**batch))

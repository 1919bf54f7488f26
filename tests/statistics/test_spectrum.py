import numpy as np
import pytest
import torch
from torch import nn

from weightscope.statistics import measure_model
from weightscope.statistics.spectrum import measure_spectrum


def reference(blocks):
    values = np.concatenate([np.linalg.svd(b, compute_uv=False) for b in blocks])
    shares = values / values.sum()
    shares = shares[shares > 0]
    return {
        "largest": values.max(),
        "stable_rank": (values**2).sum() / values.max() ** 2,
        "effective_rank": np.exp(-(shares * np.log(shares)).sum()),
    }


def assert_close(spectrum, blocks, tolerance=1e-6):
    for name, value in reference(np.asarray(blocks, dtype=np.float64)).items():
        assert getattr(spectrum, name) == pytest.approx(value, rel=tolerance)


@pytest.mark.parametrize("shape", [(40, 30), (20, 10, 3, 3), (300, 40, 3, 3), (700, 290)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_equals_svd(shape, scale):
    weight = torch.randn(shape) * scale
    spectrum = measure_spectrum(weight)
    assert spectrum.shape == (shape[0], weight[0].numel())
    assert_close(spectrum, [weight.flatten(1).double().numpy()])


def test_transposed_and_grouped_kernels_are_matrices_of_filters():
    weight = torch.randn(12, 5, 2, 2)
    blocks = [part.transpose(0, 1).flatten(1).numpy() for part in weight.chunk(3)]
    assert_close(measure_spectrum(weight, groups=3, transposed=True), blocks)
    weight = torch.randn(12, 4, 3, 3)
    blocks = [part.flatten(1).numpy() for part in weight.chunk(3)]
    assert_close(measure_spectrum(weight, groups=3), blocks)


def test_depthwise_singular_values_are_filter_norms():
    layer = nn.Conv2d(8, 8, 3, groups=8)
    record = measure_model(layer, spectra=True).parameters[0]
    assert record.spectrum.largest == pytest.approx(record.summary.filter_norms.max(), rel=1e-6)


def test_low_rank_shows_even_where_float32_would_blur_it():
    torch.manual_seed(0)
    weight = torch.randn(400, 3, dtype=torch.float64) @ torch.randn(3, 500, dtype=torch.float64)
    spectrum = measure_spectrum(weight.float())
    assert_close(spectrum, [weight.numpy()], tolerance=1e-4)
    assert spectrum.effective_rank < 3.01


def test_what_has_no_spectrum():
    assert measure_spectrum(torch.full((2, 2), torch.nan)) is None
    assert measure_spectrum(torch.zeros(0, 3)) is None
    zero = measure_spectrum(torch.zeros(3, 4))
    assert zero.largest == 0
    assert np.isnan([zero.stable_rank, zero.effective_rank]).all()


def test_spectra_only_on_request_and_only_of_kernels():
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))
    assert all(p.spectrum is None for p in measure_model(model).parameters)
    found = {p.parameter: p.spectrum for p in measure_model(model, spectra=True).parameters}
    assert [name for name, spectrum in found.items() if spectrum] == ["0.weight"]


def test_falls_back_to_svd(monkeypatch):
    def fail(_):
        raise torch.linalg.LinAlgError("did not converge")

    weight = torch.randn(20, 30)
    monkeypatch.setattr(torch.linalg, "eigvalsh", fail)
    spectrum = measure_spectrum(weight)
    assert spectrum.method == "svd"
    assert_close(spectrum, [weight.numpy()])

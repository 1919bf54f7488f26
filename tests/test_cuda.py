"""The same answers on a graphics card: run by ``make cuda`` on a machine that has one."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import weightscope as ws
from mpseg_models import create_model
from weightscope.cost import count_costs, measure_latency, measure_peak_memory
from weightscope.summaries import summarize

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"


def trained():
    return create_model("half_unet", weights="sand").eval()


def photographs(count=8, size=64, seed=0):
    """Grey noise with bright discs, and where the discs are."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = 0.45 + 0.05 * torch.randn(count, 3, size, size, generator=generator)
    masks = torch.zeros(count, 1, size, size)
    for image, mask in zip(images, masks, strict=True):
        for top, left in torch.randint(6, size - 6, (4, 2), generator=generator):
            disc = (y - top) ** 2 + (x - left) ** 2 < 9
            image[:, disc] = torch.tensor([0.9, 0.2, 0.2])[:, None]
            mask[0, disc] = 1
    return images.clamp(0, 1), masks


def smaller(analysis):
    return next(p for p in analysis.proposals if p.refusal is None).build()


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model, before):
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == DEVICE, name
        assert torch.equal(tensor, before[name]), name


@pytest.fixture(scope="module")
def twins():
    model = trained()
    return model, copy.deepcopy(model).to(DEVICE)


def test_the_same_structure_costs_and_verdicts(twins):
    here, there = twins
    before, random = state_of(there), torch.cuda.get_rng_state()
    first, second = ws.analyze(here), ws.analyze(there)
    assert_untouched(there, before)
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert first.whole.structure.stages == second.whole.structure.stages
    assert count_costs(here, torch.zeros(1, 3, 64, 64)) == count_costs(
        there, torch.zeros(1, 3, 64, 64, device=DEVICE)
    )
    ours, theirs = ([cut.value for cut in a.response.cuts] for a in (first, second))
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    assert [v.verdict for v in first.assessment.verdicts] == [
        v.verdict for v in second.assessment.verdicts
    ]
    assert [p.keep_levels for p in first.proposals] == [p.keep_levels for p in second.proposals]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_same_statistics(dtype):
    values = torch.randn(200_001, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[:3] = torch.tensor([float("nan"), float("inf"), 0.0])
    here, there = summarize(values), summarize(values.to(DEVICE))
    assert repr(here) == repr(there)
    assert here.quantiles == there.quantiles


def test_layers_of_a_model_on_the_card_read_as_on_the_processor(twins):
    first, second = (ws.analyze(model, response=False) for model in twins)
    assert first.layers.equals(second.layers)


@pytest.mark.parametrize("where", ["cpu", DEVICE])
def test_batches_of_either_device_are_taken(twins, where):
    images, masks = (part.to(where) for part in photographs())
    batches = list(zip(images.split(4), masks.split(4), strict=True))
    here = ws.ablate(twins[0], [(i.cpu(), m.cpu()) for i, m in batches], "f1", progress=False)
    before = state_of(twins[1])
    there = ws.ablate(twins[1], batches, "f1", progress=False)
    assert_untouched(twins[1], before)
    numbers = here.select_dtypes("number").columns
    np.testing.assert_allclose(here[numbers], there[numbers], atol=0.02)
    analysis = ws.analyze(twins[1], images=images.split(4), batches=batches, metric="f1")
    assert {"images", "data"} <= {s.grade for v in analysis.assessment.verdicts for s in v.scores}


def test_a_variant_is_built_saved_loaded_and_recovered_there(twins, tmp_path):
    images, masks = photographs(16)
    before = state_of(twins[1])
    variant = smaller(ws.analyze(twins[1]))
    assert {p.device.type for p in variant.module.parameters()} == {DEVICE}
    found = variant.recover(images, steps=30, progress=False)
    assert found.after.explained >= found.before.explained
    with_labels = smaller(ws.analyze(twins[1])).recover(
        images,
        steps=10,
        batches=[(images[:8], masks[:8])],
        loss=nn.functional.binary_cross_entropy_with_logits,
        progress=False,
    )
    assert with_labels.steps > 0
    assert_untouched(twins[1], before)
    loaded = ws.load(ws.save(variant, tmp_path / "small.safetensors"), trained)
    with torch.no_grad():
        one = variant.module(images[:2].to(DEVICE)).cpu()
        other = loaded.module(images[:2])
    torch.testing.assert_close(one, other, atol=2e-2, rtol=1e-2)  # TF32 against float32


def test_shrink_measures_latency_and_memory_on_the_card(twins):
    images, masks = photographs(16)
    search = ws.shrink(
        twins[1],
        images=images,
        batches=[(images[:8], masks[:8]), (images[8:], masks[8:])],
        metric="f1",
        tolerance=0.9,
        steps=10,
        repeats=3,
        progress=False,
    )
    assert search.whole.latency.device.startswith(DEVICE)
    assert search.chosen is not None
    thinner = search.chosen.variant.thin(0.5)
    assert {p.device.type for p in thinner.module.parameters()} == {DEVICE}


def test_latency_and_memory(twins):
    image = torch.rand(1, 3, 256, 256, device=DEVICE)
    (latency,) = measure_latency([twins[1]], image, repeats=5)
    assert latency.device.startswith(DEVICE)
    assert 0 < latency.low <= latency.median
    measured = smaller(ws.analyze(twins[1])).measure(repeats=3)
    assert measured.peak_memory_before > 0
    assert measured.latency_after.device.startswith(DEVICE)
    peak = measure_peak_memory(twins[1], image)
    on_processor = measure_peak_memory(twins[0], image.cpu())
    assert 0.5 * on_processor < peak < 8 * on_processor


def test_watch_records_what_it_records_on_the_processor():
    images, masks = photographs(4, 32)
    recorded = {}
    for device in ("cpu", DEVICE):
        model = create_model("half_unet", width=4, seed=1).to(device)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        with ws.watch(model, optimizer, every=2) as history:
            for _ in range(6):
                loss = nn.functional.binary_cross_entropy_with_logits(
                    model(images.to(device)), masks.to(device)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        recorded[device] = history
    here, there = recorded["cpu"], recorded[DEVICE]
    assert here.steps == there.steps
    analysis = ws.analyze(model, history=there)
    assert "history" in {s.grade for v in analysis.assessment.verdicts for s in v.scores}


def test_nothing_stays_on_the_card(twins):
    images, masks = photographs()
    torch.cuda.synchronize()
    ws.analyze(twins[1])  # libraries and workspaces
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    analysis = ws.analyze(twins[1], batches=[(images, masks)], metric="f1")
    del analysis
    ws.ablate(twins[1], [(images, masks)], "f1", progress=False)
    assert torch.cuda.memory_allocated() - before < 2**20


@pytest.mark.filterwarnings("default:.*script_method:DeprecationWarning")  # in torch.compile
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_come_off(twins, wrap):
    analysis = ws.analyze(wrap(copy.deepcopy(twins[1])), response=False)
    assert len(analysis.stages) == len(ws.analyze(twins[1], response=False).stages)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_are_read_and_cut(dtype):
    model = trained().to(DEVICE, dtype)
    images = photographs(4)[0].to(DEVICE, dtype)
    out = smaller(ws.analyze(model)).module(images)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


def test_three_dimensional_and_token_networks_of_a_library():
    monai = pytest.importorskip("monai.networks.nets")
    model = monai.UNet(3, 1, 2, (4, 8, 16), (2, 2)).to(DEVICE).eval()
    analysis = ws.analyze(model, example_inputs=torch.zeros(1, 1, 32, 32, 32, device=DEVICE))
    assert analysis.assessment.state != "trained"
    assert {p.device.type for p in smaller(analysis).module.parameters()} == {DEVICE}


def test_weights_on_two_devices_are_told():
    model = create_model("half_unet", width=4)
    next(model.children()).to(DEVICE)
    analysis = ws.analyze(model, example_inputs=torch.zeros(1, 3, 64, 64))
    assert "torch.cuda.FloatTensor" in analysis.response.failure

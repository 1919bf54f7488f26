"""Draw the pictures of the docs that no study draws: ``python docs/pictures.py [NAME...]``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import weightscope as ws
from mpseg_models import create_model, load_samples
from mpseg_models.photographs import FOLDER as SAMPLES
from studies.sand.scenes import make_scene
from weightscope.frames import proposals_frame
from weightscope.report import (
    plot_ablation,
    plot_layer_histograms,
    plot_proposals,
    plot_search,
)

DOCS = Path(__file__).parent
USED, SOFT, UNUSED = "#0173b2", "#767676", "#d55e00"


def samples() -> None:
    """Write the labelled photographs of `mpseg_models.load_samples`.

    The study's scenes have seeds of the form ``[seed, number]``, so these are none of them.
    """
    for number in range(12):
        scene = make_scene(128, 128, seed=900 + number)
        for kind, pixels in (("images", scene.image), ("masks", scene.mask * np.uint8(255))):
            path = SAMPLES / "sand" / kind / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, optimize=True)


def untrained_unet() -> Figure:
    """Histograms of a U-net as it was drawn."""
    analysis = ws.analyze(create_model("unet", seed=0))
    return _figure(plot_layer_histograms(analysis.histograms, analysis.layers))


def too_deep() -> Figure:
    """F1 lost without the deeper levels."""
    photos, masks = load_samples("sand")
    return _figure(plot_ablation(ws.ablate(_half(), [(photos, masks)], "f1", progress=False)))


def frozen() -> Figure:
    """Movement of each layer after a training with a frozen encoder."""
    model = create_model("quarter_multiresunet", weights="sand")
    photos, masks = load_samples("sand")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("stem", "encoder")))
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(3):
        optimizer.zero_grad()
        loss(model(photos[:2]), masks[:2]).backward()
        optimizer.step()
    layers = ws.analyze(model, initial=start, response=False).layers
    ax = Figure(figsize=(7, 4.2), layout="constrained").subplots()
    places = np.arange(len(layers))
    ax.barh(places, layers["moved"], color=USED)
    still = layers.index[~layers["requires_grad"].astype(bool)]
    ax.barh(still, layers["moved"].max(), color="#d9dee5", height=1.0)
    for place in still:
        ax.text(layers["moved"].max() / 2, place, "frozen", ha="center", va="center", color="0.35")
    ax.set_yticks(places, layers["layer"])
    ax.invert_yaxis()
    ax.set_xlabel("moved since the start (rms, units of the weights)")
    return _bare(ax)


def checkpoint() -> Figure:
    """Spread of every kernel in a file over its fan-in."""
    folder = DOCS.parent / "mpseg_models" / "trained" / "sand"
    found = ws.scan(folder / "half_multiresunet.safetensors")
    kernels = [p for p in found.parameters if len(p.shape) == 4]
    fans = np.array([np.prod(p.shape[1:]) for p in kernels], dtype=float)
    ax = Figure(figsize=(7, 3.8), layout="constrained").subplots()
    ax.plot(fans, [p.summary.std for p in kernels], "o", color=USED)
    line = np.sort(fans)
    ax.plot(line, np.sqrt(2 / line), color="0.15", linewidth=1)
    ax.annotate("He", (line[-1], np.sqrt(2 / line[-1])), xytext=(0, 8), textcoords="offset points")
    ax.set(xscale="log", yscale="log", xlabel="fan-in", ylabel="standard deviation of a kernel")
    for axis, ticks in ((ax.xaxis, (32, 64, 128, 256, 512)), (ax.yaxis, (0.05, 0.1, 0.2))):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    return _bare(ax)


def trained() -> Figure:
    """One kernel before and after training."""
    figure = Figure(figsize=(7, 2.9), layout="constrained")
    names = {"as drawn": None, "trained": "sand"}
    for ax, (title, weights) in zip(
        figure.subplots(1, 2, sharey=True, sharex=True), names.items(), strict=True
    ):
        width = {} if weights else {"width": 32, "seed": 0}
        model = create_model("quarter_multiresunet", weights=weights, **width)
        kernel = model.get_parameter("decoder.0.conv2.weight").detach().flatten().numpy()
        rows, columns = model.get_submodule("decoder.0.conv2").weight.shape[:2]
        bound = float(np.sqrt(6 / (9 * (rows + columns))))
        bins = np.linspace(-0.3, 0.3, 49)
        ax.hist(kernel, bins, density=True, color=USED if weights else SOFT)
        ax.plot([-bound, -bound, bound, bound], [0, *[1 / (2 * bound)] * 2, 0], color="0.15")
        ax.set(title=f"{title}: std {kernel.std():.4f}", xlabel="weight", yticks=[])
        _bare(ax)
    return figure


def labels() -> Figure:
    """F1 lost without the deepest level, by number of labelled photographs."""
    photos, masks = load_samples("sand")
    ax = Figure(figsize=(7, 3.2), layout="constrained").subplots()
    for count in (2, 4, 6, 8, 10, 12):
        found = ws.ablate(_half(), [(photos[:count], masks[:count])], "f1", progress=False)
        (row,) = found[found["keep_levels"] == 2].itertuples()
        colour = SOFT if count < 10 else USED
        ax.plot([count, count], [row.low, row.high], color=colour, linewidth=5, alpha=0.5)
        ax.plot(count, row.drop, "o", color=colour)
    ax.axhline(0, color="0.15", linewidth=0.8)
    ax.axvline(9, color="0.6", linewidth=0.8, linestyle=":")
    ax.text(8.9, ax.get_ylim()[1], "nothing is decided ", ha="right", va="top", color="0.35")
    ax.set(xlabel="labelled photographs", ylabel="F1 lost")
    return _bare(ax)


def tiles() -> Figure:
    """Difference between tiles and the whole, by the margin."""
    model = create_model("quarter_multiresunet", weights="sand").eval()
    photos, _ = load_samples("sand")
    photo = torch.cat([torch.cat(list(photos[:2]), -1), torch.cat(list(photos[2:4]), -1)], -2)[None]
    margins, seams = range(0, 21, 2), []
    with torch.no_grad():
        whole = torch.sigmoid(model(photo))[..., 64:128, 64:128]
        for margin in margins:
            part = photo[..., 64 - margin : 128 + margin, 64 - margin : 128 + margin]
            found = torch.sigmoid(model(part))[..., margin : margin + 64, margin : margin + 64]
            seams.append(float((found - whole).abs().max()))
    ax = Figure(figsize=(7, 3.4), layout="constrained").subplots()
    ax.plot(margins, seams, "o-", color=USED)
    ax.axvline(14, color=UNUSED, linewidth=1)
    ax.text(14.2, 0.2, "margin named by field", color=UNUSED)
    ax.set_xticks(margins)
    ax.set(yscale="log", xlabel="margin in pixels", ylabel="largest difference in probability")
    return _bare(ax)


def memory() -> Figure:
    """Shares of parameters, operations and activations by level."""
    analysis = ws.analyze(create_model("unet", width=16), response=False)
    costs = analysis.costs.layers
    rows = [
        {
            "level": stage.level,
            "parameters": costs[layer].parameters,
            "MACs": costs[layer].macs,
            "activations": costs[layer].activation_bytes,
        }
        for stage in analysis.structure.stages
        for layer in stage.layers
    ]
    levels = pd.DataFrame(rows).groupby("level").sum()
    ax = Figure(figsize=(7, 3.4), layout="constrained").subplots()
    for index, (name, colour) in enumerate(
        zip(levels.columns, (UNUSED, SOFT, USED), strict=True), start=-1
    ):
        share = 100 * levels[name] / levels[name].sum()
        ax.bar(levels.index + 0.27 * index, share, width=0.25, color=colour, label=name)
    ax.set(xlabel="level", ylabel="per cent of the network")
    ax.legend(frameon=False)
    return _bare(ax)


def nnunet() -> Figure:
    """What every depth of an nnU-Net keeps."""
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    model = DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        filters=[8, 16, 32, 64],
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3,
        deep_supervision=True,
        deep_supr_num=1,
    )
    return _proposals(model, torch.zeros(1, 1, 64, 64))


def diffusion() -> Figure:
    """What every depth of a diffusion U-Net keeps."""
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    example = {"sample": torch.zeros(1, 3, 32, 32), "timestep": torch.tensor([10])}
    return _proposals(model, example)


def volumes() -> Figure:
    """Receptive fields of a 3-D network, between slices and within one."""
    from monai.networks.nets import DynUNet

    model = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        filters=[8, 16, 32, 32],
        kernel_size=[[1, 3, 3], 3, 3, 3],
        strides=[1, [1, 2, 2], 2, 2],
        upsample_kernel_size=[[1, 2, 2], 2, 2],
    )
    found = ws.analyze(model, example_inputs=torch.zeros(1, 1, 8, 32, 32), response=False)
    names = [stage.name for stage in found.structure.stages]
    sizes = np.array([found.receptive_fields[name] for name in names])
    ax = Figure(figsize=(7, 3.4), layout="constrained").subplots()
    places = np.arange(len(names))
    ax.barh(places - 0.2, sizes[:, 1], height=0.38, color=USED, label="within a slice")
    ax.barh(places + 0.2, sizes[:, 0], height=0.38, color=UNUSED, label="between slices")
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.set_xlabel("voxels that one output of the stage sees")
    ax.legend(frameon=False)
    return _bare(ax)


def lightning() -> Figure:
    """Quality and operations of every depth, cut and fitted."""
    photos, masks = load_samples("sand")
    batches = [(photos[i : i + 1], masks[i : i + 1]) for i in range(len(photos))]
    found = ws.shrink(
        _half(),
        images=photos,
        batches=batches,
        metric="f1",
        tolerance=0.02,
        steps=0,
        progress=False,
    )
    return _figure(plot_search(found.frame))


def _half() -> nn.Module:
    return create_model("half_multiresunet", weights="sand")


def _proposals(model: nn.Module, example: Any) -> Figure:
    analysis = ws.analyze(model, example_inputs=example, response=False)
    return _figure(plot_proposals(proposals_frame(analysis.proposals, analysis.costs)))


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _bare(ax: Axes) -> Figure:
    ax.spines[["top", "right"]].set_visible(False)
    return _figure(ax)


GALLERY: tuple[Callable[[], Figure], ...] = (
    *(too_deep, frozen, checkpoint, trained, labels, tiles),
    *(memory, nnunet, diffusion, volumes, lightning),
)


def main(names: list[str]) -> None:
    """Write the pictures of these names, or all; the seeds make them the same on each run."""
    mpl.use("agg")
    targets = {draw.__name__: DOCS / "gallery" / "pictures" for draw in GALLERY}
    draws = {draw.__name__: draw for draw in GALLERY}
    if not names or "samples" in names:
        samples()
    if not names or "untrained_unet" in names:
        untrained_unet().savefig(DOCS / "pictures" / "untrained-unet.png", dpi=110)
    for name in names or draws:
        if name in draws:
            targets[name].mkdir(parents=True, exist_ok=True)
            draws[name]().savefig(targets[name] / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])

"""A fourteenth list: twenty networks of twenty packages, drawn by a rule and not by taste.

The names are those of a list of the packages of PyPI with a line about each (October 2026). First
those whose *name* holds one of `WORDS` and whose name or line holds "torch", sorted, in the order
of ``random.Random(14).sample(names, len(names))``. Twelve networks came of these 73, so those whose
*line* does were drawn the same way, until there were twenty. A package is skipped only for a reason
of `SKIPPED`; of every other the main network is taken (what its README or docstring shows first,
else its default), at a small width. None was taken out for what the reader says of it, and none was
read before this was written down, from its source and from the shapes that plain hooks see.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matrix.more import ALL, Entry, network_of
from matrix.truth import HALVES, Truth, resnet, widening

WORDS = (
    *("unet", "u-net", "segformer", "autoencoder", "auto-encoder", "denois", "vnet", "v-net"),
    *("hrnet", "deeplab", "superres", "super-res", "diffusion", "segment", "vae", "restor"),
    *("inpaint", "matting", "depth", "upscal", "deblur", "saliency", "reconstruct"),
)
SKIPPED: Mapping[str, int] = {
    "holds no network, or only losses, data or tools": 40,
    "networks of vectors, words or points, or of one resolution; classifiers, detectors": 31,
    "is handed its encoder and decoder": 4,
    "a copy or a wrapper of what a list holds already": 20,
    "in a list already": 24,
    "does not install, or needs a compiled extra or a GPU": 7,
    "does not load with the versions here, or clashes with the name of another": 7,
    "its own network fails when it is built or called": 4,
}
"""How many were skipped, and why: of all 73 drawn by name, and of the first 84 by their line.

What a line alone says (a loss, a data set, a fork) was not opened.
"""

_TWO, _THREE, _FOUR, _FIVE = (1, 2), (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels


# drawn by name -----------------------------------------------------------------------------------
def _skull() -> nn.Module:
    """Its file of networks alone: what is beside it does not load with the numpy of today."""
    name = "ctunet.pytorch.models"
    if name not in sys.modules:
        package = util.find_spec("ctunet")
        assert package is not None
        assert package.submodule_search_locations is not None
        file = Path(package.submodule_search_locations[0]) / "pytorch" / "models.py"
        spec = util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
    model: nn.Module = sys.modules[name].UNet(i_size=4)
    return model.train()


# what the block at the bottom gives is thrown away: the pooled map goes up as it is
_SKULL = {
    **{f"d_blocks.{i}": f"encoder {i}" for i in range(4)},
    "cblock": "dead",
    **{f"u_blocks.{i}": f"decoder {3 - i}" for i in range(4)},
    "last_conv": "head",
}
_TIMED = {
    "init_conv": "encoder 0",
    "time_mlp": _VECTOR,
    **{f"downs.{i}": f"encoder {i}" for i in range(3)},
    **{f"downs.{i}.3": f"encoder {i + 1}" for i in range(2)},
    **dict.fromkeys(("downs.2.3", "downs.3"), "bottleneck"),
    **dict.fromkeys(("mid_block1", "mid_attn", "mid_block2", "ups.0"), "bottleneck"),
    "ups.0.3": "decoder 2",
    "ups.1": "decoder 2",
    "ups.1.3": "decoder 1",
    "ups.2": "decoder 1",
    "ups.2.3": "decoder 0",
    "final_conv.0": "decoder 0",
    "final_conv.1": "head",
}
_MEDICAL = {
    "inc": "encoder 0",
    **{f"down_blocks.{i}": f"encoder {i + 1}" for i in range(2)},
    "down_blocks.2": "bottleneck",
    **{f"up_blocks.{i}": f"decoder {2 - i}" for i in range(3)},
    "outc": "head",
}


def _stable() -> nn.Module:
    """The package's U-net has no settings: its own blocks as it joins them, a tenth as wide."""
    package = import_module("stable_diffusion_pytorch.diffusion")
    sequential, upsample = package.SwitchSequential, package.Upsample

    def residual(channels: int, out: int) -> nn.Module:
        block: nn.Module = package.ResidualBlock(channels, out, n_time=128)
        return block

    def attention(channels: int) -> nn.Module:
        block: nn.Module = package.AttentionBlock(8, channels // 8, d_context=24)
        return block

    def down(channels: int) -> nn.Module:
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    unet = package.UNet.__new__(package.UNet)
    nn.Module.__init__(unet)
    a, b, c = 32, 64, 128
    encoders: tuple[tuple[nn.Module, ...], ...] = (
        (nn.Conv2d(4, a, 3, padding=1),),
        *((residual(a, a), attention(a)) for _ in range(2)),
        (down(a),),
        (residual(a, b), attention(b)),
        (residual(b, b), attention(b)),
        (down(b),),
        (residual(b, c), attention(c)),
        (residual(c, c), attention(c)),
        (down(c),),
        (residual(c, c),),
        (residual(c, c),),
    )
    decoders: tuple[tuple[nn.Module, ...], ...] = (
        (residual(2 * c, c),),
        (residual(2 * c, c),),
        (residual(2 * c, c), upsample(c)),
        (residual(2 * c, c), attention(c)),
        (residual(2 * c, c), attention(c)),
        (residual(b + c, c), attention(c), upsample(c)),
        (residual(b + c, b), attention(b)),
        (residual(2 * b, b), attention(b)),
        (residual(a + b, b), attention(b), upsample(b)),
        (residual(a + b, a), attention(a)),
        (residual(2 * a, a), attention(a)),
        (residual(2 * a, a), attention(a)),
    )
    unet.encoders = nn.ModuleList(sequential(*layers) for layers in encoders)
    unet.bottleneck = sequential(residual(c, c), attention(c), residual(c, c))
    unet.decoders = nn.ModuleList(sequential(*layers) for layers in decoders)
    model: nn.Module = package.Diffusion.__new__(package.Diffusion)
    nn.Module.__init__(model)
    model.time_embedding = package.TimeEmbedding(a)
    model.unet, model.final = unet, package.FinalLayer(a, 4)
    return model.train()


_STABLE = {
    "time_embedding": _VECTOR,
    **{f"unet.encoders.{i}": f"encoder {i // 3}" for i in range(9)},
    **{f"unet.encoders.{i}": "bottleneck" for i in range(9, 12)},
    "unet.bottleneck": "bottleneck",
    **{f"unet.decoders.{i}": "bottleneck" for i in range(3)},
    **{f"unet.decoders.{i}": f"decoder {3 - i // 3}" for i in range(3, 12)},
    # the last of three comes up
    "unet.decoders.2.1": "decoder 2",
    "unet.decoders.5.2": "decoder 1",
    "unet.decoders.8.2": "decoder 0",
    "final.groupnorm": "decoder 0",
    "final.conv": "head",
}
# patches of four samples become channels after the first block, and samples before the last
_AUDIO = {
    **dict.fromkeys(("to_mapping", "to_time"), _VECTOR),
    "to_in": "encoder 0",
    **{f"downsamples.{i}": f"encoder {i + 2}" for i in range(2)},
    "downsamples.2": "bottleneck",
    "bottleneck": "bottleneck",
    "upsamples.0": "bottleneck",
    "upsamples.0.upsample": "decoder 3",
    "upsamples.1": "decoder 3",
    "upsamples.1.upsample": "decoder 2",
    "upsamples.2": "decoder 2",
    "upsamples.2.upsample": "decoder 1",
    "to_out": "decoder 0",
    "to_out.block.block2.project": "head",
    "to_out.block.to_out": "head",
}
# channels become pixels behind a kernel at the deeper level
_YET_ANOTHER = {
    **{f"down.{i}": f"encoder {i}" for i in range(4)},
    "mid": "bottleneck",
    **{f"up.{i}": f"decoder {3 - i}" for i in range(4)},
    "up.0.upsample": "bottleneck",
    **{f"up.{i}.upsample": f"decoder {4 - i}" for i in (1, 2, 3)},
    "proj_out": "head",
}
_PLAIN = {
    "in_conv": "encoder 0",
    **{f"down{i}": f"encoder {i}" for i in (1, 2, 3)},
    "down4": "bottleneck",
    **{f"up{i}": f"decoder {4 - i}" for i in (1, 2, 3, 4)},
    "out_conv": "head",
}
_UNNORMALISED = {
    **{f"down_convolution_{i + 1}": f"encoder {i}" for i in range(4)},
    "down_convolution_5": "bottleneck",
    **{
        f"up_{kind}_{i}": f"decoder {4 - i}"
        for kind in ("transpose", "convolution")
        for i in range(1, 5)
    },
    "out": "head",
}
# pixels become channels before a kernel, at the deeper level; what is at the bottom is an output
_AUTOENCODER = {
    "encoder.init_conv": "encoder 0",
    **{f"encoder.down_stages.{i}": f"encoder {i}" for i in range(4)},
    **{f"encoder.down_stages.{i}.2": f"encoder {i + 1}" for i in range(3)},
    "encoder.down_stages.3.2": "bottleneck",
    "encoder.mid_block1": "bottleneck | head",
    "decoder.mid_block1": "bottleneck",
    "decoder.up_stages.0": "bottleneck",
    **{f"decoder.up_stages.{i}": f"decoder {4 - i}" for i in (1, 2, 3)},
    **{f"decoder.up_stages.{i}.2": f"decoder {3 - i}" for i in range(4)},
    "decoder.final_res_block": "decoder 0",
    "decoder.final_conv": "head",
}
_VARIATIONAL = {
    **_AUTOENCODER,
    "encoder.mid_block1": "bottleneck",
    "encoder.mu_logvar_out": "bottleneck | head",
    "decoder.z_in": "bottleneck",
}


def _quantized() -> nn.Module:
    package = import_module("vqvae")
    model: nn.Module = package.VQVAE(
        package.sequential_encoder(3, 16, 32),
        package.sequential_decoder(16, 3, 32),
        beta=0.25,
        latent_size=32,
        embedding_size=16,
        opt=torch.optim.Adam,
    )
    return model.train()


# kernels of four that nothing pads; codes are looked up by a function with a backward of its own
_QUANTIZED = {
    "": "bottleneck | head",  # the codes
    **dict.fromkeys(("encoder.0", "encoder.1"), "encoder 1"),
    **{f"encoder.{i}": "bottleneck" for i in (3, 4, 6, 7)},
    "encoder.8": "bottleneck | head",
    **dict.fromkeys(("decoder.0", "decoder.1"), "bottleneck"),
    **dict.fromkeys(("decoder.2", "decoder.3"), "decoder 1"),
    **dict.fromkeys(("decoder.5", "decoder.6"), "decoder 0"),
    "decoder.8": "head",
}
# its attention takes the columns of a volume for channels, all of it at the deeper level
_CODED = {
    **dict.fromkeys(("encoder", "post_vq_conv", "decoder.res_stack"), "bottleneck"),
    "pre_vq_conv": "bottleneck | head",
    "decoder.convts": "decoder 0 | head",
}


# drawn by their line -----------------------------------------------------------------------------
# complex samples; its norms are of the weights
_RADIO = {
    **dict.fromkeys(("encoder.model.0", "encoder.model.1"), "encoder 0"),
    **{f"encoder.model.{i}": f"encoder {i // 3}" for i in (3, 4, 6, 7, 9, 10)},
    **{f"encoder.model.{i}": "bottleneck" for i in (12, 13, 15)},
    "quantizer": "bottleneck",
    **dict.fromkeys(("decoder.model.0", "decoder.model.1"), "bottleneck"),
    **{f"decoder.model.{i}": f"decoder {4 - i // 3}" for i in (3, 4, 6, 7, 9, 10, 12, 13)},
    "decoder.model.15": "head",
}
# one layer comes up twice, first from a 32nd; the last one by eight
_SCORES = {
    **{f"features.{i}": "encoder 0" for i in (0, 1, 3, 4)},
    **{f"features.{i}": "encoder 1" for i in (7, 8, 10, 11)},
    **{f"features.{i}": "encoder 2" for i in (14, 15, 17, 18, 20, 21)},
    **{f"features.{i}": "encoder 3" for i in (24, 25, 27, 28, 30, 31)},
    **{f"features.{i}": "encoder 4" for i in (34, 35, 37, 38, 40, 41)},
    "classifier": "bottleneck",
    "score_pool3": "skip 3",
    "score_pool4": "skip 4",
    "upsampling2": "decoder 4",
    "upsampling8": "decoder 0 | head",
}
_TWO_PATHS = {
    **resnet("backbone"),
    "spatial_path.0": "encoder 1",
    "spatial_path.1": "encoder 2",
    **dict.fromkeys(("spatial_path.2", "spatial_path.3"), "skip 3"),
    "context_path_stage.arm_16x": "skip 4",
    "context_path_stage.arm_32x": "bottleneck",
    "context_path_stage.conv_global": "bottleneck",
    "context_path_stage.conv_32x": "decoder 4",
    "context_path_stage.conv_16x": "decoder 3",
    "ffm": "decoder 3",
    "head.0": "decoder 3",
    "head.1": "head",
}


def _plants() -> nn.Module:
    """The package's own network, without the weights that it fetches for its ResNet."""
    package = import_module("romiseg.models.unet")
    fetching = package.models.resnet101
    package.models.resnet101 = lambda weights: fetching(weights=None)
    try:
        model: nn.Module = package.ResNetUNet(2)
    finally:
        package.models.resnet101 = fetching
    return model.train()


_PLANTS = {
    **resnet("base_model"),
    **widening("base_model.layer2.0", ("conv1", "bn1"), "encoder 2", "encoder 3"),
    **widening("base_model.layer3.0", ("conv1", "bn1"), "encoder 3", "encoder 4"),
    **widening("base_model.layer4.0", ("conv1", "bn1"), "encoder 4", "bottleneck"),
    "base_model.fc": "dead",
    **{f"layer{i}_1x1": f"skip {i + 1}" for i in range(4)},
    "layer4_1x1": "bottleneck",
    **{f"conv_up{i}": f"decoder {i + 1}" for i in range(4)},
    **dict.fromkeys(("conv_original_size0", "conv_original_size1"), "skip 0"),
    "conv_original_size2": "decoder 0",
    "conv_last": "head",
}
# without a context its attention has nothing to do
_CONDITIONED = {
    "conv_in": "encoder 0",
    "time_mlp": _VECTOR,
    "encoder.0": "encoder 0",
    "encoder.0.downsample": "encoder 1",
    "encoder.1": "encoder 1",
    "encoder.1.downsample": "bottleneck",
    "middle": "bottleneck",
    "decoder.0": "decoder 1",
    "decoder.1": "decoder 0",
    **dict.fromkeys(
        ("encoder.0.block.attention", "middle.0.attention", "decoder.0.block.attention"), "dead"
    ),
    "conv_out.0": "decoder 0",
    "conv_out.2": "head",
}


def _scenes() -> nn.Module:
    """What its `ModelBuilder` builds, without the weights that it fetches."""
    models = import_module("mit_semseg.models")
    parts = import_module("mit_semseg.models.models")
    model: nn.Module = models.SegmentationModule(
        parts.ResnetDilated(parts.resnet.resnet18(pretrained=False)),
        models.ModelBuilder.build_decoder("ppm_deepsup", fc_dim=512, use_softmax=True),
        nn.NLLLoss(ignore_index=-1),
    )
    return model.train()


def _ordered() -> nn.Module:
    """With pooled maps, a vector of them and maps again, as its docstring shows."""
    model: nn.Module = import_module("diresa_torch.arch.models").Diresa.from_hyper_param(
        input_shape=(3, 64, 64), stack=(2, 1), stack_filters=(16, 8), dense_units=(32, 8)
    )
    return model.train()


# no kernel lies at the deepest level, only what makes a vector of it and positions again
_ORDERED = {
    "base_encoder.cnn_encoder.cnn_layer.0": "encoder 0",
    "base_encoder.cnn_encoder.cnn_layer.1": "encoder 1",
    "base_encoder.ffn_encoder.network.0": "bottleneck",
    "base_encoder.ffn_encoder.network.2": "bottleneck | head",  # the vector is an output
    "base_decoder.ffn_decoder": "bottleneck",
    "base_decoder.cnn_decoder.cnn_layer.0": "decoder 1",
    "base_decoder.cnn_decoder.cnn_layer.1.block.1": "decoder 0",
    "base_decoder.cnn_decoder.cnn_layer.1.block.3": "head",
}


def _times(batch: int) -> Mapping[str, Any]:
    return {"time": torch.linspace(0.1, 0.9, batch)}


def _steps(batch: int) -> Mapping[str, Any]:
    return {"t": torch.linspace(1, 9, batch)}


def _texts(batch: int) -> Mapping[str, Any]:
    """A code for each word of a text, and a code of the time."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(batch, 7, 24, generator=generator)
    return {"context": words, "time": torch.randn(batch, 32, generator=generator)}


def _samples(image: Tensor) -> Tensor:
    """Complex samples (B, L)."""
    return torch.view_as_complex(image.movedim(1, -1).contiguous())


def _feed(image: Tensor) -> tuple[Mapping[str, Tensor]]:
    """What its module calls a feed."""
    return ({"img_data": image},)


HELD_BACK_FOURTEENTH: Mapping[str, Entry] = {
    "ctunet UNet": Entry(
        "ctunet",
        _skull,
        Truth(_FIVE, _SKULL, (1, 2, 3, 4)),
        {"channels": 1, "size": (32, 32, 32), "other": (48, 32, 32)},
    ),
    "torchmanager-diffusion UNet": Entry(
        "diffusion",
        network_of("diffusion.networks", "build_unet_small", 3),
        Truth(_FOUR, _TIMED, (1, 2, 3)),
        {"extra": _times},
    ),
    "medvision-segmentation UNet": Entry(
        "medvision",
        network_of("medvision.models.unet", "UNet", 1, 1, [8, 16, 32, 64], 0.1),
        Truth(_FOUR, _MEDICAL, (1, 2, 3)),
        {"channels": 1},
    ),
    "stable-diffusion-pytorch Diffusion": Entry(
        "stable_diffusion_pytorch",
        _stable,
        Truth(_FOUR, _STABLE, (1, 2, 3)),
        {"channels": 4, "size": (32, 32), "other": (48, 64), "extra": _texts},
    ),
    "audio-diffusion-pytorch-fork UNet1d": Entry(
        "audio_diffusion_pytorch_fork",
        network_of(
            "audio_diffusion_pytorch_fork",
            "UNet1d",
            in_channels=2,
            channels=16,
            patch_size=4,
            multipliers=[1, 2, 4, 4],
            factors=[4, 2, 2],
            num_blocks=[2, 2, 2],
            attentions=[0, 1, 1, 1],
            attention_heads=2,
            attention_features=8,
            attention_multiplier=2,
        ),
        Truth((1, 4, 16, 32, 64), _AUDIO, (1, 2, 3, 4)),
        {"channels": 2, "size": (512,), "other": (768,), "extra": _times},
    ),
    "yaunet UNet": Entry(
        "yaunet",
        network_of(
            "yaunet",
            "UNet",
            3,
            2,
            down_widths=(8, 16, 24, 32),
            down_depths=(1, 1, 1, 2),
            mid_width=48,
            mid_depth=1,
            up_widths=(32, 24, 16, 8),
            up_depths=(1, 1, 1, 1),
        ),
        Truth(_FIVE, _YET_ANOTHER, (1, 2, 3, 4)),
    ),
    "unet-pytorch UNet": Entry(
        "unet_pytorch",
        network_of("unet_pytorch.model", "UNet"),
        Truth(_FIVE, _PLAIN, (1, 2, 3, 4)),
        {"channels": 1},
    ),
    "torch-segment UNet": Entry(
        "torch_segment",
        network_of("torch_segment.models.unet", "UNet", 2),
        Truth(_FIVE, _UNNORMALISED, (1, 2, 3, 4)),
    ),
    "variational-autoencoder-pytorch-lib VariationalAutoEncoder": Entry(
        "variational_autoencoder_pytorch_lib",
        network_of(
            "variational_autoencoder_pytorch_lib", "VariationalAutoEncoder", dim=8, dim_latent=8
        ),
        Truth(_FIVE, _VARIATIONAL, (1, 2, 3, 4)),
    ),
    "convolutional-autoencoder-pytorch AutoEncoder": Entry(
        "convolutional_autoencoder_pytorch",
        network_of("convolutional_autoencoder_pytorch", "AutoEncoder", dim=8, dim_latent=8),
        Truth(_FIVE, _AUTOENCODER, (1, 2, 3, 4)),
    ),
    "vqvae VQVAE": Entry("vqvae", _quantized, Truth(_THREE, _QUANTIZED, (1, 2))),
    # of its clips every side is halved once; its codes start from the first batch
    "nd-vq-vae NDimVQVAE": Entry(
        "nd_vq_vae",
        network_of(
            "nd_vq_vae",
            "NDimVQVAE",
            embedding_dim=8,
            n_codes=16,
            n_dims=3,
            downsample=[2, 2, 2],
            n_hiddens=16,
            n_res_layers=2,
            codebook_beta=0.1,
            input_shape=(3, 4, 32, 32),
        ),
        Truth(_TWO, _CODED, (1,)),
        {"size": (4, 32, 32), "other": (4, 48, 64)},
    ),
    "glaucus GlaucusRVQVAE": Entry(
        "glaucus",
        network_of(
            "glaucus",
            "GlaucusRVQVAE",
            conv_filters=4,
            embed_dim=8,
            num_quantizers=2,
            num_embed=16,
            quantize_dropout=True,
        ),
        Truth((1, 2, 4, 16, 128), _RADIO, (1, 2, 3, 4)),
        {"channels": 2, "size": (1024,), "other": (1536,), "arrange": _samples, "given": True}
        | {"layout": "NL"},
    ),
    "seg-torch fcn8_vgg16": Entry(
        "segmentation",
        network_of("segmentation.models.fcn8", "fcn8_vgg16", 2, 2),
        Truth(HALVES, _SCORES, ALL),
    ),
    # a vector of the image becomes a volume: nothing of it lies on the image's two axes
    "fusion-threed Diffusion3DGenerator": Entry(
        "fusion_threed",
        network_of("fusion_threed.model", "Diffusion3DGenerator", 64, 32, 100, hidden_dim=8),
        Truth((), {}, (), refusal=("dimension", "axes", "volume", "vector")),
        {"other": None, "extra": lambda batch: {"t": torch.arange(batch)}},
    ),
    "pixseg bisenet_resnet18": Entry(
        "pixseg",
        network_of("pixseg.models.bisenet", "bisenet_resnet18", 2, weights_backbone=None),
        Truth(HALVES, _TWO_PATHS, (4, 5)),
    ),
    "romiseg ResNetUNet": Entry("romiseg", _plants, Truth(HALVES, _PLANTS, ALL)),
    "torchdiff DiffusionNetwork": Entry(
        "torchdiff",
        network_of(
            "torchdiff.utils",
            "DiffusionNetwork",
            in_channels=3,
            down_channels=[16, 32, 64],
            mid_channels=[64, 64],
            up_channels=[64, 32, 16],
            down_sampling=[True, True],
            time_embed_dim=32,
            y_embed_dim=32,
            num_down_blocks=2,
            num_mid_blocks=2,
            num_up_blocks=2,
            cont_time=False,
        ),
        Truth(_THREE, _CONDITIONED, (1, 2)),
        {"extra": _steps},
    ),
    # dilated from an eighth on, and resized at the end
    "mit-semseg SegmentationModule": Entry(
        "mit_semseg",
        _scenes,
        Truth((), {}, (), refusal=("head", "decoder")),
        {
            "other": None,
            "arrange": _feed,
            "extra": lambda batch: {"segSize": (64, 64)},
            "given": True,
        },
    ),
    # its batch is shuffled to compare pairs of it
    "diresa-torch Diresa": Entry(
        "diresa_torch", _ordered, Truth(_THREE, _ORDERED, (1, 2)), {"other": None}
    ),
}
"""All of them, by name."""

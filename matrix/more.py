"""More networks of the libraries: other encoders under known decoders, autoencoders, diffusion.

Their truth is put together from the parts of ``matrix.truth``, and was written down before any of
them was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from matrix.truth import (
    BASICUNET,
    DEEPLABV3PLUS,
    HALVES,
    LINKNET,
    MANET,
    QUARTER_FIRST,
    SEGFORMER_RESNET,
    UNETPP,
    Truth,
    convnext,
    efficientnet_b0,
    fpn,
    mit,
    mobilenet_v2,
    nnunet,
    resnet,
    unet_decoder,
    upernet,
    widening,
)


@dataclass(frozen=True)
class Entry:
    """A network of a library: where it comes from, how to build and call it, what is right."""

    requires: str
    build: Callable[[], nn.Module]
    truth: Truth
    settings: Mapping[str, Any] = field(default_factory=dict)


def network_of(module: str, name: str, *settings: Any, **named: Any) -> Callable[[], nn.Module]:
    """A network of a module, with fresh weights, in training mode."""

    def build() -> nn.Module:
        factory: Callable[..., nn.Module] = getattr(import_module(module), name)
        return factory(*settings, **named).train()

    return build


def two_images(image: Tensor) -> tuple[Tensor, Tensor]:
    """Two images of one channel, where an entry's image holds them side by side."""
    return image[:, :1], image[:, 1:]


# segmentation-models-pytorch ---------------------------------------------------------------------
def smp_net(architecture: str, encoder: str, **settings: Any) -> Callable[[], nn.Module]:
    """A network of segmentation_models_pytorch with fresh weights."""

    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        factory: Callable[..., nn.Module] = getattr(smp, architecture)
        return factory(encoder, encoder_weights=None, classes=2, **settings)

    return build


def _smp(architecture: str, encoder: str, truth: Truth, **settings: Any) -> Entry:
    build = smp_net(architecture, encoder, **settings)
    channels = {"channels": settings["in_channels"]} if "in_channels" in settings else {}
    return Entry("segmentation_models_pytorch", build, truth, channels)


ALL, FROM_QUARTER = (1, 2, 3, 4, 5), (3, 4, 5)
# torchvision strides in conv2 of a stage's first bottleneck block
RESNET50 = {
    **resnet(),
    **widening("encoder.layer2.0", ("conv1", "bn1"), "encoder 2", "encoder 3"),
    **widening("encoder.layer3.0", ("conv1", "bn1"), "encoder 3", "encoder 4"),
    **widening("encoder.layer4.0", ("conv1", "bn1"), "encoder 4", "bottleneck"),
}
# the stem is a module of its own, and the first 1x1 convolution of a stage strides
SE_RESNET50 = {
    "encoder.layer0": "encoder 1",
    "encoder.layer1": "encoder 2",
    "encoder.layer2": "encoder 3",
    "encoder.layer3": "encoder 4",
    "encoder.layer4": "bottleneck",
}
# pooling after 2, 2, 2, 2 and 2 convolutions; the last pooled map enters a centre block
VGG11 = {
    **{f"encoder.features.{i}": "encoder 0" for i in (0, 1)},
    **{f"encoder.features.{i}": "encoder 1" for i in (4, 5)},
    **{f"encoder.features.{i}": "encoder 2" for i in (8, 9, 11, 12)},
    **{f"encoder.features.{i}": "encoder 3" for i in (15, 16, 18, 19)},
    **{f"encoder.features.{i}": "encoder 4" for i in (22, 23, 25, 26)},
    "decoder.center": "bottleneck",
}
# a transition normalises and narrows before it pools
DENSENET121 = {
    "encoder.features.conv0": "encoder 1",
    "encoder.features.norm0": "encoder 1",
    **{f"encoder.features.denseblock{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    **{f"encoder.features.transition{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    "encoder.features.denseblock4": "bottleneck",
    "encoder.features.norm5": "bottleneck",
}


def _five(*parts: Mapping[str, str]) -> Truth:
    """A decoder that comes back to full resolution."""
    return Truth(HALVES, {k: v for part in parts for k, v in part.items()}, ALL)


def _quarter(*parts: Mapping[str, str]) -> Truth:
    """A head at a quarter under an encoder with a level at one half."""
    return Truth(HALVES, {k: v for part in parts for k, v in part.items()}, FROM_QUARTER)


def _first_quarter(*parts: Mapping[str, str]) -> Truth:
    """A head at a quarter under an encoder that starts there."""
    return Truth(QUARTER_FIRST, {k: v for part in parts for k, v in part.items()}, (2, 3, 4))


_UNET = unet_decoder(6)
SMP = {
    "Unet resnet34": _smp("Unet", "resnet34", _five(resnet(), _UNET)),
    "Unet resnext50": _smp("Unet", "resnext50_32x4d", _five(RESNET50, _UNET)),
    "Unet se_resnet50": _smp("Unet", "se_resnet50", _five(SE_RESNET50, _UNET)),
    "Unet vgg11_bn": _smp("Unet", "vgg11_bn", _five(VGG11, _UNET)),
    "Unet densenet121": _smp("Unet", "densenet121", _five(DENSENET121, _UNET)),
    "Unet mit_b1": _smp("Unet", "mit_b1", _five(mit(2), _UNET)),
    "Unet resnet18 four channels": _smp("Unet", "resnet18", _five(resnet(), _UNET), in_channels=4),
    "Unet resnet18 depth 4": _smp(
        "Unet",
        "resnet18",
        Truth(
            HALVES[:5],
            {
                **resnet(),
                "encoder.layer3": "bottleneck",
                "encoder.layer4": "dead",
                **unet_decoder(5),
            },
            (1, 2, 3, 4),
        ),
        encoder_depth=4,
        decoder_channels=(128, 64, 32, 16),
    ),
    "Unet resnet18 with a label": _smp(
        "Unet",
        "resnet18",
        # predicted from the deepest map, and gone with it
        _five(resnet(), _UNET, {"classification_head": "head | bottleneck"}),
        aux_params={"classes": 3},
    ),
    "UnetPlusPlus resnet34": _smp("UnetPlusPlus", "resnet34", _five(resnet(), UNETPP)),
    "UnetPlusPlus mobilenet_v2": _smp(
        "UnetPlusPlus", "mobilenet_v2", _five(mobilenet_v2(), UNETPP)
    ),
    "UnetPlusPlus resnet50": _smp("UnetPlusPlus", "resnet50", _five(RESNET50, UNETPP)),
    "Linknet resnet34": _smp("Linknet", "resnet34", _five(resnet(), LINKNET)),
    "Linknet resnet50": _smp("Linknet", "resnet50", _five(RESNET50, LINKNET)),
    "Linknet efficientnet-b0": _smp(
        "Linknet", "efficientnet-b0", _five(efficientnet_b0(), LINKNET)
    ),
    "MAnet resnet34": _smp("MAnet", "resnet34", _five(resnet(), MANET)),
    "MAnet mobilenet_v2": _smp("MAnet", "mobilenet_v2", _five(mobilenet_v2(), MANET)),
    "MAnet resnet50": _smp("MAnet", "resnet50", _five(RESNET50, MANET)),
    "FPN resnet34": _smp("FPN", "resnet34", _quarter(resnet(), fpn(2))),
    "FPN resnet50": _smp("FPN", "resnet50", _quarter(RESNET50, fpn(2))),
    "FPN efficientnet-b0": _smp("FPN", "efficientnet-b0", _quarter(efficientnet_b0(), fpn(2))),
    "FPN densenet121": _smp("FPN", "densenet121", _quarter(DENSENET121, fpn(2))),
    "FPN convnext": _smp("FPN", "tu-convnext_atto", _first_quarter(convnext(1), fpn(1))),
    "FPN mit_b1": _smp("FPN", "mit_b1", _first_quarter(mit(1), fpn(1))),
    "UPerNet resnet34": _smp("UPerNet", "resnet34", _quarter(resnet(), upernet(2))),
    "UPerNet resnet50": _smp("UPerNet", "resnet50", _quarter(RESNET50, upernet(2))),
    "UPerNet mobilenet_v2": _smp("UPerNet", "mobilenet_v2", _quarter(mobilenet_v2(), upernet(2))),
    "UPerNet efficientnet-b0": _smp(
        "UPerNet", "efficientnet-b0", _quarter(efficientnet_b0(), upernet(2))
    ),
    "Segformer resnet34": _smp("Segformer", "resnet34", _quarter(resnet(), SEGFORMER_RESNET)),
    "Segformer mobilenet_v2": _smp(
        "Segformer", "mobilenet_v2", _quarter(mobilenet_v2(), SEGFORMER_RESNET)
    ),
    "DeepLabV3Plus resnet34": _smp(
        "DeepLabV3Plus",
        "resnet34",
        Truth(
            (1, 2, 4, 8, 16),
            {**resnet(), "encoder.layer3": "bottleneck", **DEEPLABV3PLUS},
            (3, 4),
        ),
    ),
}


# MONAI -------------------------------------------------------------------------------------------
def _monai(
    architecture: str,
    *arguments: Any,
    truth: Truth,
    sizes: Mapping[str, Any] | None = None,
    **more: Any,
) -> Entry:
    def build() -> nn.Module:
        from monai.networks import nets

        factory: Callable[..., nn.Module] = getattr(nets, architecture)
        return factory(*arguments, **more)

    return Entry("monai", build, truth, {"channels": 1, **(sizes or {})})


_DIFFUSION = {
    "conv_in": "encoder 0",
    # one vector for all levels
    "time_embed": "encoder 0 | none",
    "down_blocks.0": "encoder 0",
    "down_blocks.0.downsampler": "encoder 1",
    "down_blocks.1": "encoder 1",
    "down_blocks.1.downsampler": "bottleneck",
    "down_blocks.2": "bottleneck",
    "middle_block": "bottleneck",
    "up_blocks.0": "bottleneck",
    "up_blocks.0.upsampler": "decoder 1",
    "up_blocks.1": "decoder 1",
    "up_blocks.1.upsampler": "decoder 0",
    "up_blocks.2": "decoder 0",
    "out.0": "decoder 0 | head",
    "out.2": "head",
}
MONAI = {
    "BasicUNet 1-D": _monai(
        "BasicUNet",
        1,
        1,
        2,
        (8, 8, 16, 24, 32, 8),
        truth=Truth((1, 2, 4, 8, 16), BASICUNET, (1, 2, 3, 4)),
        sizes={"size": (256,), "other": (320,)},
    ),
    "BasicUNetPlusPlus 2-D": _monai(
        "BasicUNetPlusPlus",
        2,
        1,
        2,
        (8, 8, 16, 24, 32, 8),
        truth=Truth(
            (1, 2, 4, 8, 16),
            {
                **{f"conv_{i}_0": f"encoder {i}" for i in range(4)},
                "conv_4_0": "bottleneck",
                **{f"upcat_{i}_{j}": f"decoder {i}" for i in range(4) for j in range(1, 5 - i)},
                # called, and used with deep supervision only
                **{f"final_conv_0_{i}": "dead" for i in (1, 2, 3)},
                "final_conv_0_4": "head",
            },
            (1, 2, 3, 4),
        ),
    ),
    "HighResNet": _monai("HighResNet", 2, 1, 2, truth=Truth((), {}, (), refusal=("one level",))),
    "DiffusionModelUNet 2-D": _monai(
        "DiffusionModelUNet",
        2,
        1,
        1,
        truth=Truth((1, 2, 4), _DIFFUSION, (1, 2)),
        sizes={"extra": lambda batch: {"timesteps": torch.arange(1, batch + 1)}},
        channels=(16, 16, 32),
        attention_levels=(False, False, True),
        num_res_blocks=1,
        num_head_channels=16,
        norm_num_groups=8,
    ),
}


# dynamic-network-architectures -------------------------------------------------------------------
def nnunet_builder(architecture: str, dimensions: int, **settings: Any) -> Callable[[], nn.Module]:
    """What builds a small network of nnU-Net's library."""

    def build() -> nn.Module:
        from dynamic_network_architectures.architectures import unet

        factory: Callable[..., nn.Module] = getattr(unet, architecture)
        norms = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
        per_stage = "n_conv_per_stage" if "Plain" in architecture else "n_blocks_per_stage"
        return factory(
            1,
            conv_op={1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions],
            num_classes=2,
            n_conv_per_stage_decoder=1,
            conv_bias=True,
            norm_op=norms[dimensions],
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            **{per_stage: 1},
            **settings,
        )

    return build


def _nnunet(architecture: str, dimensions: int, stages: int, truth: Truth, **sizes: Any) -> Entry:
    build = nnunet_builder(
        architecture,
        dimensions,
        n_stages=stages,
        features_per_stage=[8 * (i + 1) for i in range(stages)],
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
    )
    return Entry("dynamic_network_architectures", build, truth, {"channels": 1, **sizes})


_CUBES = {"size": (32, 32, 32), "other": (32, 64, 32)}
NNUNET = {
    "PlainConvUNet 2-D six stages": _nnunet(
        "PlainConvUNet", 2, 6, Truth(HALVES, nnunet(6, False, False), ALL)
    ),
    "PlainConvUNet 3-D": _nnunet(
        "PlainConvUNet", 3, 4, Truth((1, 2, 4, 8), nnunet(4, False, False), (1, 2, 3)), **_CUBES
    ),
    "ResidualEncoderUNet 3-D": _nnunet(
        "ResidualEncoderUNet",
        3,
        4,
        Truth((1, 2, 4, 8), nnunet(4, False, True), (1, 2, 3)),
        **_CUBES,
    ),
}


# diffusers, torchvision --------------------------------------------------------------------------
def _autoencoder_kl() -> nn.Module:
    from diffusers import AutoencoderKL

    model: nn.Module = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    return model


def _conditioned() -> nn.Module:
    from diffusers import UNet2DConditionModel

    model: nn.Module = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return model


_AUTOENCODER = {
    "encoder.conv_in": "encoder 0",
    "encoder.down_blocks.0": "encoder 0",
    "encoder.down_blocks.0.downsamplers": "bottleneck",
    "encoder.down_blocks.1": "bottleneck",
    "encoder.mid_block": "bottleneck",
    "encoder.conv_norm_out": "bottleneck",
    "encoder.conv_out": "bottleneck",
    "quant_conv": "bottleneck",
    "post_quant_conv": "bottleneck",
    "decoder.conv_in": "bottleneck",
    "decoder.mid_block": "bottleneck",
    "decoder.up_blocks.0": "bottleneck",
    "decoder.up_blocks.0.upsamplers": "decoder 0",
    "decoder.up_blocks.1": "decoder 0",
    "decoder.conv_norm_out": "decoder 0 | head",
    "decoder.conv_out": "head",
}
_CONDITIONED = {
    "conv_in": "encoder 0",
    "time_embedding": "encoder 0 | none",
    "down_blocks.0": "encoder 0",
    "down_blocks.0.downsamplers": "bottleneck",
    "down_blocks.1": "bottleneck",
    "mid_block": "bottleneck",
    "up_blocks.0": "bottleneck",
    "up_blocks.0.upsamplers": "decoder 0",
    "up_blocks.1": "decoder 0",
    "conv_norm_out": "decoder 0 | head",
    "conv_out": "head",
}


def _torchvision(architecture: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        if hasattr(models, architecture):
            return getattr(models, architecture)(weights=None, num_classes=2)
        factory: Callable[..., nn.Module] = getattr(models.segmentation, architecture)
        return factory(weights=None, weights_backbone=None, num_classes=2)

    return build


_REFUSED = Truth((), {}, (), refusal=("head", "decoder", "only goes down"))
OTHERS = {
    "diffusers AutoencoderKL": Entry(
        "diffusers", _autoencoder_kl, Truth((1, 2), _AUTOENCODER, (1,))
    ),
    "diffusers UNet2DConditionModel": Entry(
        "diffusers",
        _conditioned,
        Truth((1, 2), _CONDITIONED, (1,)),
        {
            "channels": 4,
            "extra": lambda batch: {
                "timestep": torch.arange(1, batch + 1),
                "encoder_hidden_states": torch.ones(batch, 8, 24),
            },
        },
    ),
    "torchvision resnet18, a classifier": Entry("torchvision", _torchvision("resnet18"), _REFUSED),
    "torchvision deeplabv3_resnet50": Entry(
        "torchvision", _torchvision("deeplabv3_resnet50"), _REFUSED
    ),
}

MORE: Mapping[str, Entry] = {
    **{f"smp {name}": entry for name, entry in SMP.items()},
    **{f"monai {name}": entry for name, entry in MONAI.items()},
    **{f"nnU-Net {name}": entry for name, entry in NNUNET.items()},
    **OTHERS,
}
"""The networks by name."""

"""What each network of the matrix is, written by hand from its library's own source.

Nothing here was copied from weightscope's output: the levels come from the strides, poolings and
interpolations that the library's code writes down, the roles from its forward, by the project's
definitions:

- a layer's level is the resolution of its output; level 0 is the image's own;
- bottleneck: the deepest level; decoder: has a deeper ancestor; encoder: has none, but feeds
  something deeper that has none either; skip: neither; head: the last weighted layers before an
  output;
- a depth may be cut if the kept part still holds a head, and something removed leads back to it.

A pattern is a qualified module name or the beginning of one, ``*`` stands for one part of the name,
and of several that match the longest (then the one with fewest ``*``) counts. The place is a stage
name; ``dead`` is a parameter that never changes an output; ``a | b`` accepts either, and is used
only where the definitions leave it open:

- the widening 1x1 convolution of a strided block computes at the finer level and belongs to the
  block of the coarser one (MobileNet, EfficientNet, ResNet-50, ConvNeXt's downsampling norm);
- a library's head module whose first layers are not the last ones;
- what works on one vector for the whole image and feeds another level than the one it comes from;
- a last layer that itself upsamples, which is decoder and head at once;
- a lateral layer from an encoder level straight down to a coarser decoder level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Reduction = float | tuple[float, ...]


@dataclass(frozen=True)
class Truth:
    """What is right about one network.

    Attributes:
        reductions: Of each level, one figure, or one for each spatial dimension.
        places: Stage name (or ``dead``, or alternatives) by pattern of module names.
        legal: The ``keep_levels`` at which the network can be cut; every other depth from 1 to the
            number of levels - 1 is to be refused.
        refusal: Where the whole network may be refused: words of which one is in the reason.
    """

    reductions: tuple[Reduction, ...]
    places: Mapping[str, str]
    legal: tuple[int, ...]
    refusal: tuple[str, ...] = ()

    def expected(self, layer: str) -> frozenset[str]:
        """Return the accepted places of a layer; empty where no pattern matches."""
        parts = layer.split(".")
        best: tuple[int, int, str] | None = None
        for pattern, place in self.places.items():
            wanted = pattern.split(".")
            if len(wanted) <= len(parts) and all(
                want in ("*", part) for want, part in zip(wanted, parts, strict=False)
            ):
                rank = (len(wanted), -wanted.count("*"), place)
                best = max(best, rank) if best else rank
        return frozenset(place.strip() for place in best[2].split("|")) if best else frozenset()


HALVES = (1, 2, 4, 8, 16, 32)
QUARTER_FIRST = (1, 4, 8, 16, 32)


# Encoders of segmentation-models-pytorch, by the level of their first feature map ---------------
def resnet(prefix: str = "encoder", layer4: str = "bottleneck") -> dict[str, str]:
    """conv1 halves, maxpool halves, layer2, layer3 and layer4 halve in their first convolution."""
    return {
        f"{prefix}.conv1": "encoder 1",
        f"{prefix}.bn1": "encoder 1",
        f"{prefix}.layer1": "encoder 2",
        f"{prefix}.layer2": "encoder 3",
        f"{prefix}.layer3": "encoder 4",
        f"{prefix}.layer4": layer4,
    }


def widening(block: str, layers: tuple[str, ...], above: str, below: str) -> dict[str, str]:
    """A strided block: its first layers compute at the finer level, the others at the coarser."""
    return {block: below, **{f"{block}.{layer}": f"{above} | {below}" for layer in layers}}


def mobilenet_v2(deepest: int = 5) -> dict[str, str]:
    """Inverted residuals: features.2, 4, 7 and 14 have stride 2 in their depthwise convolution.

    With an output stride of 16 (deepest = 4) features.14 keeps the resolution.
    """
    role = {level: f"encoder {level}" for level in range(1, deepest)} | {deepest: "bottleneck"}
    starts = {0: 1, 2: 2, 4: 3, 7: 4, 14: min(5, deepest)}
    places: dict[str, str] = {}
    level = 0
    for index in range(19):
        before, level = level, starts.get(index, level)
        places[f"encoder.features.{index}"] = role[level]
        if index and before != level:
            places |= widening(f"encoder.features.{index}", ("conv.0",), role[before], role[level])
    return places


def efficientnet_b0() -> dict[str, str]:
    """Stem halves; MBConv blocks 1, 3, 5 and 11 have stride 2; head convolution is never called."""
    role = {level: f"encoder {level}" for level in range(1, 5)} | {5: "bottleneck"}
    starts = {0: 1, 1: 2, 3: 3, 5: 4, 11: 5}
    places = {
        "encoder._conv_stem": "encoder 1",
        "encoder._bn0": "encoder 1",
        "encoder._conv_head": "dead",
        "encoder._bn1": "dead",
    }
    level = 1
    for index in range(16):
        before, level = level, starts.get(index, level)
        places[f"encoder._blocks.{index}"] = role[level]
        if before != level:
            places |= widening(
                f"encoder._blocks.{index}", ("_expand_conv", "_bn0"), role[before], role[level]
            )
    return places


def convnext(first: int) -> dict[str, str]:
    """ConvNeXt of timm: the stem divides by 4, each later stage halves after a norm."""
    places = {
        "encoder.model.stem_0": f"encoder {first}",
        "encoder.model.stem_1": f"encoder {first}",
        "encoder.model.stages_0": f"encoder {first}",
    }
    for stage in (1, 2, 3):
        above = f"encoder {first + stage - 1}"
        below = f"encoder {first + stage}" if stage < 3 else "bottleneck"
        places |= widening(f"encoder.model.stages_{stage}", ("downsample.0",), above, below)
    return places


def mit(first: int) -> dict[str, str]:
    """Mix transformer: patch_embed1 divides by 4, the others by 2; norms end each stage.

    The strided convolution on keys and values (attn.sr) is inside the block of its stage.
    """
    roles = [f"encoder {first + stage}" for stage in range(3)] + ["bottleneck"]
    return {
        f"encoder.{part}{stage}": role
        for stage, role in enumerate(roles, start=1)
        for part in ("patch_embed", "block", "norm")
    }


def unet_decoder(levels: int) -> dict[str, str]:
    """Block i interpolates to level (levels - 2 - i) before its convolutions."""
    blocks = {f"decoder.blocks.{i}": f"decoder {levels - 2 - i}" for i in range(levels - 1)}
    return blocks | {"segmentation_head.0": "head"}


# the way up of three resolutions, as denoising-diffusion-pytorch and its kin build it
THREE_UPS = {
    "ups.0": "bottleneck",
    "ups.0.3": "decoder 1",
    "ups.1": "decoder 1",
    "ups.1.3": "decoder 0",
    "ups.2": "decoder 0",
    "final_res_block": "decoder 0",
    "final_conv": "head",
}

UNETPP = {
    # x_d_l takes feature l + 1 from the bottom as its skip, so l alone says the level
    **{f"decoder.blocks.x_{d}_{i}": f"decoder {4 - i}" for i in range(4) for d in range(i + 1)},
    "decoder.blocks.x_0_4": "decoder 0",
    "segmentation_head.0": "head",
}

LINKNET = {
    # 1x1 at the incoming resolution, transposed convolution, 1x1
    **{f"decoder.blocks.{i}": f"decoder {4 - i}" for i in range(5)},
    "decoder.blocks.0.block.0": "bottleneck",
    **{f"decoder.blocks.{i}.block.0": f"decoder {5 - i}" for i in range(1, 5)},
    "segmentation_head.0": "head",
}

MANET = {
    "decoder.center": "bottleneck",
    # hl_conv comes before the interpolation, SE_ll squeezes the skip alone
    **{f"decoder.blocks.{i}": f"decoder {4 - i}" for i in range(5)},
    "decoder.blocks.0.hl_conv": "bottleneck",
    **{f"decoder.blocks.{i}.hl_conv": f"decoder {5 - i}" for i in range(1, 4)},
    **{f"decoder.blocks.{i}.SE_ll": f"skip {4 - i}" for i in range(4)},
    "segmentation_head.0": "head",
}


def fpn(top: int) -> dict[str, str]:
    """Pyramid from the deepest level to ``top``; the head predicts at ``top``, then x4."""
    five, four, three = top + 3, top + 2, top + 1
    return {
        "decoder.p5": "bottleneck",
        "decoder.p4.skip_conv": f"skip {four}",
        "decoder.p3.skip_conv": f"skip {three}",
        "decoder.p2.skip_conv": f"skip {top}",
        # each Conv3x3GNReLU convolves first and interpolates afterwards
        "decoder.seg_blocks.0.block.0": "bottleneck",
        "decoder.seg_blocks.0.block.1": f"decoder {five - 1}",
        "decoder.seg_blocks.0.block.2": f"decoder {five - 2}",
        "decoder.seg_blocks.1.block.0": f"decoder {four}",
        "decoder.seg_blocks.1.block.1": f"decoder {four - 1}",
        "decoder.seg_blocks.2.block.0": f"decoder {three}",
        "decoder.seg_blocks.3.block.0": f"decoder {top}",
        "segmentation_head.0": "head",
    }


def upernet(top: int) -> dict[str, str]:
    """Norms on every feature from 1/4 down, pyramid pooling, laterals, fusion and head at 1/4."""
    return {
        **{f"decoder.feature_norms.{i}": f"skip {top + i}" for i in range(3)},
        "decoder.feature_norms.3": "bottleneck",
        "decoder.psp": "bottleneck",
        **{f"decoder.fpn_lateral_blocks.{i}": f"skip {top + 2 - i}" for i in range(3)},
        **{f"decoder.fpn_conv_blocks.{i}": f"decoder {top + 2 - i}" for i in range(3)},
        "decoder.fusion_block": f"decoder {top}",
        "segmentation_head.0": "head",
    }


DEEPLABV3PLUS = {
    "decoder.aspp": "bottleneck",
    "decoder.block1": "skip 2",
    "decoder.block2": "decoder 2",
    "segmentation_head.0": "head",
}

SEGFORMER_RESNET = {
    "decoder.mlp_stage.0": "bottleneck",
    "decoder.mlp_stage.1": "skip 4",
    "decoder.mlp_stage.2": "skip 3",
    "decoder.mlp_stage.3": "skip 2",
    # on the feature at 1/2, which is then interpolated down to the decoder at 1/4
    "decoder.mlp_stage.4": "skip 1 | encoder 1",
    "decoder.fuse_stage": "decoder 2",
    "segmentation_head.0": "head",
}

_SMP: dict[str, Truth] = {
    "Unet resnet18": Truth(HALVES, resnet() | unet_decoder(6), (1, 2, 3, 4, 5)),
    "Unet resnet34 depth 3": Truth(
        (1, 2, 4, 8),
        resnet()
        | {"encoder.layer2": "bottleneck", "encoder.layer3": "dead", "encoder.layer4": "dead"}
        | unet_decoder(4),
        (1, 2, 3),
    ),
    "Unet resnet50": Truth(
        HALVES,
        # torchvision strides in conv2 of a stage's first bottleneck block
        resnet()
        | widening("encoder.layer2.0", ("conv1", "bn1"), "encoder 2", "encoder 3")
        | widening("encoder.layer3.0", ("conv1", "bn1"), "encoder 3", "encoder 4")
        | widening("encoder.layer4.0", ("conv1", "bn1"), "encoder 4", "bottleneck")
        | unet_decoder(6),
        (1, 2, 3, 4, 5),
    ),
    "Unet resnet18 scse": Truth(
        HALVES,
        # the first attention of a block is for what it got from a skip, and the last gets none
        resnet() | unet_decoder(6) | {"decoder.blocks.4.attention1": "dead"},
        (1, 2, 3, 4, 5),
    ),
    "Unet mobilenet_v2": Truth(HALVES, mobilenet_v2() | unet_decoder(6), (1, 2, 3, 4, 5)),
    "Unet efficientnet-b0": Truth(HALVES, efficientnet_b0() | unet_decoder(6), (1, 2, 3, 4, 5)),
    # nothing of the encoder is at 1/2, but the decoder passes it
    "Unet convnext": Truth(HALVES, convnext(2) | unet_decoder(6), (1, 2, 3, 4, 5)),
    "Unet mit_b0": Truth(HALVES, mit(2) | unet_decoder(6), (1, 2, 3, 4, 5)),
    "UnetPlusPlus resnet18": Truth(HALVES, resnet() | UNETPP, (1, 2, 3, 4, 5)),
    "UnetPlusPlus efficientnet-b0": Truth(HALVES, efficientnet_b0() | UNETPP, (1, 2, 3, 4, 5)),
    "Linknet resnet18": Truth(HALVES, resnet() | LINKNET, (1, 2, 3, 4, 5)),
    "Linknet mobilenet_v2": Truth(HALVES, mobilenet_v2() | LINKNET, (1, 2, 3, 4, 5)),
    "MAnet resnet18": Truth(HALVES, resnet() | MANET, (1, 2, 3, 4, 5)),
    "MAnet efficientnet-b0": Truth(HALVES, efficientnet_b0() | MANET, (1, 2, 3, 4, 5)),
    # heads at 1/4: cutting above it would remove the head
    "FPN resnet18": Truth(HALVES, resnet() | fpn(2), (3, 4, 5)),
    "FPN mobilenet_v2": Truth(HALVES, mobilenet_v2() | fpn(2), (3, 4, 5)),
    "FPN mit_b0": Truth(QUARTER_FIRST, mit(1) | fpn(1), (2, 3, 4)),
    "PAN resnet18": Truth(
        # layer4 is dilated (output stride 16); the pyramid attention pools 1/16 three times more
        (1, 2, 4, 8, 16, 32, 64, 128),
        resnet(layer4="encoder 4")
        | {
            "decoder.fpa.branch1": "skip 4",
            "decoder.fpa.mid": "skip 4",
            "decoder.fpa.down1": "encoder 5",
            "decoder.fpa.down2": "encoder 6",
            "decoder.fpa.down3": "bottleneck",
            "decoder.fpa.conv2": "skip 6",
            "decoder.fpa.conv1": "skip 5",
            # conv1 of a GAU turns the deeper map into one vector that scales the finer one
            "decoder.gau3.conv1": "decoder 4",
            "decoder.gau3.conv2": "skip 4",
            "decoder.gau2.conv1": "decoder 4 | decoder 3",
            "decoder.gau2.conv2": "skip 3",
            "decoder.gau1.conv1": "decoder 3 | decoder 2",
            "decoder.gau1.conv2": "skip 2",
            "segmentation_head.0": "head",
        },
        (3, 4, 5, 6, 7),
    ),
    "UPerNet resnet18": Truth(HALVES, resnet() | upernet(2), (3, 4, 5)),
    "UPerNet mit_b0": Truth(QUARTER_FIRST, mit(1) | upernet(1), (2, 3, 4)),
    "UPerNet convnext": Truth(QUARTER_FIRST, convnext(1) | upernet(1), (2, 3, 4)),
    # output stride 16: layer3 and the dilated layer4 are both at 1/16
    "DeepLabV3Plus resnet18": Truth(
        (1, 2, 4, 8, 16),
        resnet() | {"encoder.layer3": "bottleneck"} | DEEPLABV3PLUS,
        (3, 4),
    ),
    "DeepLabV3Plus mobilenet_v2": Truth(
        (1, 2, 4, 8, 16), mobilenet_v2(deepest=4) | DEEPLABV3PLUS, (3, 4)
    ),
    "Segformer mit_b0": Truth(
        QUARTER_FIRST,
        mit(1)
        | {
            "decoder.mlp_stage.0": "bottleneck",
            "decoder.mlp_stage.1": "skip 3",
            "decoder.mlp_stage.2": "skip 2",
            "decoder.mlp_stage.3": "skip 1",
            "decoder.fuse_stage": "decoder 1",
            "segmentation_head.0": "head",
        },
        (2, 3, 4),
    ),
    "Segformer resnet18": Truth(HALVES, resnet() | SEGFORMER_RESNET, (3, 4, 5)),
    "DPT vit": Truth(
        # the transformer works at 1/16; its four outputs are brought to 1/4, 1/8, 1/16 and 1/32
        HALVES,
        {
            "encoder.model": "encoder 4",
            "encoder.model.norm": "dead",
            "encoder.model.head": "dead",
            "decoder.projection_blocks.0": "skip 4",
            "decoder.projection_blocks.1": "skip 4",
            "decoder.projection_blocks.2": "skip 4",
            "decoder.projection_blocks.3": "encoder 4",
            "decoder.reassemble_blocks.0": "decoder 2",
            "decoder.reassemble_blocks.0.project_to_out_channel": "skip 4",
            "decoder.reassemble_blocks.1": "decoder 3",
            "decoder.reassemble_blocks.1.project_to_out_channel": "skip 4",
            "decoder.reassemble_blocks.2": "skip 4",
            "decoder.reassemble_blocks.3": "bottleneck",
            "decoder.reassemble_blocks.3.project_to_out_channel": "encoder 4",
            # residual_conv_block1 sees one feature alone, block2 the sum; project follows x2
            "decoder.fusion_blocks.0": "bottleneck",
            "decoder.fusion_blocks.0.project": "decoder 4",
            "decoder.fusion_blocks.1.residual_conv_block1": "skip 4",
            "decoder.fusion_blocks.1.residual_conv_block2": "decoder 4",
            "decoder.fusion_blocks.1.project": "decoder 3",
            "decoder.fusion_blocks.2": "decoder 3",
            "decoder.fusion_blocks.2.project": "decoder 2",
            "decoder.fusion_blocks.3": "decoder 2",
            "decoder.fusion_blocks.3.project": "decoder 1",
            "segmentation_head.head.0": "decoder 1 | head",
            "segmentation_head.head.1": "decoder 1 | head",
            "segmentation_head.head.4": "head",
        },
        (2, 3, 4, 5),
    ),
}


# MONAI -------------------------------------------------------------------------------------------
_DYNUNET = {
    "input_block": "encoder 0",
    "downsamples.0": "encoder 1",
    "downsamples.1": "encoder 2",
    "bottleneck": "bottleneck",
    "upsamples.0": "decoder 2",
    "upsamples.1": "decoder 1",
    "upsamples.2": "decoder 0",
    "output_block": "head",
}

BASICUNET = {
    "conv_0": "encoder 0",
    "down_1": "encoder 1",
    "down_2": "encoder 2",
    "down_3": "encoder 3",
    "down_4": "bottleneck",
    "upcat_4": "decoder 3",
    "upcat_3": "decoder 2",
    "upcat_2": "decoder 1",
    "upcat_1": "decoder 0",
    "final_conv": "head",
}

_ATTENTION_UNET = {
    "model.0": "encoder 0",
    # W_x is applied to the skip alone, W_g to what comes from below
    "model.1": "decoder 0",
    "model.1.attention.W_x": "skip 0",
    "model.1.submodule.0": "encoder 1",
    "model.1.submodule.1": "decoder 1",
    "model.1.submodule.1.attention.W_x": "skip 1",
    "model.1.submodule.1.submodule": "bottleneck",
    "model.2": "head",
}

_UNETR = {
    # patches of 16; what the library calls encoder2-4 are chains of transposed convolutions
    "vit": "bottleneck",
    # made in every block, called only with cross attention
    "vit.blocks.*.norm_cross_attn": "dead",
    "encoder1": "skip 0",
    "encoder2.transp_conv_init": "decoder 3",
    "encoder2.blocks.0": "decoder 2",
    "encoder2.blocks.1": "decoder 1",
    "encoder3.transp_conv_init": "decoder 3",
    "encoder3.blocks.0": "decoder 2",
    "encoder4.transp_conv_init": "decoder 3",
    "decoder5": "decoder 3",
    "decoder4": "decoder 2",
    "decoder3": "decoder 1",
    "decoder2": "decoder 0",
    "out": "head",
}

_SWINUNETR = {
    # encoder1 works on the image itself, encoder2-4 on hidden states: both only feed the decoder
    "encoder1": "skip 0",
    "encoder2": "skip 1",
    "encoder3": "skip 2",
    "encoder4": "skip 3",
    "encoder10": "bottleneck",
    "swinViT.patch_embed": "encoder 1",
    # patch merging takes every second position before its norm and its linear layer
    "swinViT.layers1.0.blocks": "encoder 1",
    "swinViT.layers1.0.downsample": "encoder 2",
    "swinViT.layers2.0.blocks": "encoder 2",
    "swinViT.layers2.0.downsample": "encoder 3",
    "swinViT.layers3.0.blocks": "encoder 3",
    "swinViT.layers3.0.downsample": "encoder 4",
    "swinViT.layers4.0.blocks": "encoder 4",
    "swinViT.layers4.0.downsample": "bottleneck",
    "decoder5": "decoder 4",
    "decoder4": "decoder 3",
    "decoder3": "decoder 2",
    "decoder2": "decoder 1",
    "decoder1": "decoder 0",
    "out": "head",
}

_MONAI: dict[str, Truth] = {
    "UNet 2-D": Truth(
        # every down layer has stride 2, the first one too; the bottom layer keeps the size
        (1, 2, 4, 8),
        {
            "model.0": "encoder 1",
            "model.1.submodule.0": "encoder 2",
            "model.1.submodule.1.submodule.0": "bottleneck",
            "model.1.submodule.1.submodule.1.submodule": "bottleneck",
            "model.1.submodule.1.submodule.2": "decoder 2",
            "model.1.submodule.2": "decoder 1",
            "model.2.0": "decoder 0",
            "model.2.1": "head",
        },
        (1, 2, 3),
    ),
    "UNet 3-D anisotropic": Truth(
        ((1, 1, 1), (1, 2, 2), (2, 4, 4)),
        {
            "model.0": "encoder 1",
            "model.1.submodule.0": "bottleneck",
            "model.1.submodule.1.submodule": "bottleneck",
            "model.1.submodule.2": "decoder 1",
            # without residual units the last transposed convolution is the prediction
            "model.2": "decoder 0 | head",
        },
        (1, 2),
    ),
    "BasicUNet 2-D": Truth((1, 2, 4, 8, 16), BASICUNET, (1, 2, 3, 4)),
    "BasicUNet 3-D": Truth((1, 2, 4, 8, 16), BASICUNET, (1, 2, 3, 4)),
    "AttentionUnet 2-D": Truth((1, 2, 4), _ATTENTION_UNET, (1, 2)),
    "AttentionUnet 3-D": Truth((1, 2, 4), _ATTENTION_UNET, (1, 2)),
    "SegResNet 2-D": Truth(
        (1, 2, 4, 8),
        {
            "convInit": "encoder 0",
            "down_layers.0": "encoder 0",
            "down_layers.1": "encoder 1",
            "down_layers.2": "encoder 2",
            "down_layers.3": "bottleneck",
            # 1x1 convolution first, interpolation without weights second
            "up_samples.0": "bottleneck",
            "up_samples.1": "decoder 2",
            "up_samples.2": "decoder 1",
            "up_layers.0": "decoder 2",
            "up_layers.1": "decoder 1",
            "up_layers.2": "decoder 0",
            "conv_final.0": "decoder 0 | head",
            "conv_final.2": "head",
        },
        (1, 2, 3),
    ),
    "SegResNet 3-D": Truth(
        (1, 2, 4),
        {
            "convInit": "encoder 0",
            "down_layers.0": "encoder 0",
            "down_layers.1": "encoder 1",
            "down_layers.2": "bottleneck",
            "up_samples.0.0": "bottleneck",
            "up_samples.0.1": "decoder 1",
            "up_samples.1.0": "decoder 1",
            "up_samples.1.1": "decoder 0",
            "up_layers.0": "decoder 1",
            "up_layers.1": "decoder 0",
            "conv_final.0": "decoder 0 | head",
            "conv_final.2": "head",
        },
        (1, 2),
    ),
    "DynUNet 2-D": Truth((1, 2, 4, 8), _DYNUNET, (1, 2, 3)),
    "DynUNet 3-D anisotropic residual": Truth(
        ((1, 1, 1), (1, 2, 2), (2, 4, 4)),
        {
            "input_block": "encoder 0",
            "downsamples.0": "encoder 1",
            "bottleneck": "bottleneck",
            "upsamples.0": "decoder 1",
            "upsamples.1": "decoder 0",
            "output_block": "head",
        },
        (1, 2),
    ),
    # in train mode the forward stacks all supervision heads, in eval mode it returns one output
    "DynUNet 2-D deep supervision": Truth(
        (1, 2, 4, 8),
        # in eval mode no output depends on these heads
        _DYNUNET | {"deep_supervision_heads": "head | dead | none"},
        (1, 2, 3),
        refusal=("train", "eval"),
    ),
    "VNet 2-D": Truth(
        (1, 2, 4, 8, 16),
        {
            "in_tr": "encoder 0",
            "down_tr32": "encoder 1",
            "down_tr64": "encoder 2",
            "down_tr128": "encoder 3",
            "down_tr256": "bottleneck",
            "up_tr256": "decoder 3",
            "up_tr128": "decoder 2",
            "up_tr64": "decoder 1",
            "up_tr32": "decoder 0",
            "out_tr.conv_block": "decoder 0 | head",
            "out_tr.conv2": "head",
        },
        (1, 2, 3, 4),
    ),
    "UNETR 2-D": Truth((1, 2, 4, 8, 16), _UNETR, (1, 2, 3, 4)),
    "UNETR 3-D": Truth((1, 2, 4, 8, 16), _UNETR, (1, 2, 3, 4)),
    "SwinUNETR 2-D": Truth(HALVES, _SWINUNETR, (1, 2, 3, 4, 5)),
    "SwinUNETR 3-D": Truth(HALVES, _SWINUNETR, (1, 2, 3, 4, 5)),
}


# dynamic-network-architectures -------------------------------------------------------------------
def nnunet(stages: int, deep_supervision: bool, stem: bool) -> dict[str, str]:
    """The seg_layers of coarser stages are called only with deep supervision."""
    last = stages - 1
    places = {f"encoder.stages.{level}": f"encoder {level}" for level in range(last)}
    places[f"encoder.stages.{last}"] = "bottleneck"
    for index in range(last):
        places[f"decoder.transpconvs.{index}"] = f"decoder {last - 1 - index}"
        places[f"decoder.stages.{index}"] = f"decoder {last - 1 - index}"
        called = deep_supervision or index == last - 1
        places[f"decoder.seg_layers.{index}"] = "head" if called else "dead"
    return places | ({"encoder.stem": "encoder 0"} if stem else {})


_THICK_SLICES = ((1, 1, 1), (1, 2, 2), (2, 4, 4))
_NNUNET: dict[str, Truth] = {
    "PlainConvUNet 2-D": Truth((1, 2, 4, 8), nnunet(4, False, False), (1, 2, 3)),
    "PlainConvUNet 3-D anisotropic": Truth(_THICK_SLICES, nnunet(3, False, False), (1, 2)),
    "PlainConvUNet 2-D deep supervision": Truth((1, 2, 4, 8), nnunet(4, True, False), (1, 2, 3)),
    "ResidualEncoderUNet 2-D": Truth((1, 2, 4, 8), nnunet(4, False, True), (1, 2, 3)),
    "ResidualEncoderUNet 3-D anisotropic deep supervision": Truth(
        _THICK_SLICES, nnunet(3, True, True), (1, 2)
    ),
}


# torchvision -------------------------------------------------------------------------------------
def _mobilenet_v3(deepest_from: int = 7) -> dict[str, str]:
    """features.0, 2, 4 and 7 halve; features.13 is dilated instead; block.0 widens."""
    starts = {0: "encoder 1", 2: "encoder 2", 4: "encoder 3", deepest_from: "bottleneck"}
    places: dict[str, str] = {}
    role = ""
    for index in range(17):
        before, role = role, starts.get(index, role)
        places[f"backbone.{index}"] = role
        if index and before != role:
            places |= widening(f"backbone.{index}", ("block.0",), before, role)
    return places


_TORCHVISION: dict[str, Truth] = {
    # dilation keeps layer3 and layer4 at 1/8, and the classifier predicts there: no decoder
    "fcn_resnet50": Truth(
        (1, 2, 4, 8),
        resnet("backbone")
        | {
            "backbone.layer2": "bottleneck",
            "backbone.layer2.0.conv1": "encoder 2 | bottleneck",
            "backbone.layer2.0.bn1": "encoder 2 | bottleneck",
            "backbone.layer3": "bottleneck",
            "classifier": "bottleneck",
            "classifier.4": "head",
        },
        (),
        refusal=("head", "decoder"),
    ),
    "deeplabv3_mobilenet_v3": Truth(
        (1, 2, 4, 8, 16),
        _mobilenet_v3() | {"classifier": "bottleneck", "classifier.4": "head"},
        (),
        refusal=("head", "decoder"),
    ),
    # two classifiers at 1/8 are added: one on the skip, one on the upsampled 1/16
    "lraspp_mobilenet_v3": Truth(
        (1, 2, 4, 8, 16),
        _mobilenet_v3()
        | {
            "classifier.cbr": "bottleneck",
            "classifier.scale": "bottleneck",
            "classifier.low_classifier": "head",
            "classifier.high_classifier": "head",
        },
        (4,),
    ),
}


# this project's own ------------------------------------------------------------------------------
def _zoo(depth: int, respaths: bool) -> Truth:
    last = depth - 1
    places = {"bottleneck": "bottleneck", "head": "head"}
    if respaths:
        places["stem"] = "encoder 0"
    for level in range(last):
        places[f"encoder.{level}"] = f"encoder {level}"
        places[f"decoder.{level}"] = f"decoder {level}"
        if respaths:
            places[f"skips.{level}"] = f"skip {level}"
    return Truth(tuple(2**level for level in range(depth)), places, tuple(range(1, depth)))


_OTHERS: dict[str, Truth] = {
    "transformers Segformer": Truth(
        # logits stay at 1/4; nothing but the image is at full resolution
        QUARTER_FIRST,
        {
            **{f"segformer.stages.{i}": f"encoder {i + 1}" for i in range(3)},
            "segformer.stages.3": "bottleneck",
            **{f"decode_head.linear_projections.{i}": f"skip {i + 1}" for i in range(3)},
            "decode_head.linear_projections.3": "bottleneck",
            "decode_head.linear_fuse": "decoder 1",
            "decode_head.batch_norm": "decoder 1",
            "decode_head.classifier": "head",
        },
        (2, 3, 4),
    ),
    "transformers UperNet convnext": Truth(
        QUARTER_FIRST,
        {
            "backbone.embeddings": "encoder 1",
            "backbone.encoder.stages.0": "encoder 1",
            **widening(
                "backbone.encoder.stages.1", ("downsampling_layer.0",), "encoder 1", "encoder 2"
            ),
            **widening(
                "backbone.encoder.stages.2", ("downsampling_layer.0",), "encoder 2", "encoder 3"
            ),
            **widening(
                "backbone.encoder.stages.3", ("downsampling_layer.0",), "encoder 3", "bottleneck"
            ),
            # norms on the features that leave the backbone, not on what the next stage gets
            **{f"backbone.hidden_states_norms.stage{i}": f"skip {i}" for i in (1, 2, 3)},
            "backbone.hidden_states_norms.stage4": "bottleneck",
            "decode_head.psp_modules": "bottleneck",
            "decode_head.bottleneck": "bottleneck",
            **{f"decode_head.lateral_convs.{i}": f"skip {i + 1}" for i in range(3)},
            **{f"decode_head.fpn_convs.{i}": f"decoder {i + 1}" for i in range(3)},
            "decode_head.fpn_bottleneck": "decoder 1",
            "decode_head.classifier": "head",
            # computed in every forward, but used for a loss only, which needs labels
            "auxiliary_head": "dead",
        },
        (2, 3, 4),
    ),
    "diffusers UNet2DModel": Truth(
        (1, 2, 4),
        {
            "conv_in": "encoder 0",
            # one vector for all levels
            "time_embedding": "encoder 0 | none",
            "down_blocks.0": "encoder 0",
            "down_blocks.0.downsamplers": "encoder 1",
            "down_blocks.1": "encoder 1",
            "down_blocks.1.downsamplers": "bottleneck",
            "down_blocks.2": "bottleneck",
            "mid_block": "bottleneck",
            "up_blocks.0": "bottleneck",
            "up_blocks.0.upsamplers": "decoder 1",
            "up_blocks.1": "decoder 1",
            "up_blocks.1.upsamplers": "decoder 0",
            "up_blocks.2": "decoder 0",
            "conv_norm_out": "decoder 0 | head",
            "conv_out": "head",
        },
        (1, 2),
    ),
    "by hand: F.pad of dynamic size": Truth(
        (1, 2, 4, 8),
        {
            "inc": "encoder 0",
            "down1": "encoder 1",
            "down2": "encoder 2",
            "down3": "bottleneck",
            "up1": "decoder 2",
            "up2": "decoder 1",
            "up3": "decoder 0",
            "outc": "head",
        },
        (1, 2, 3),
    ),
    "by hand: nested Sequential": Truth(
        (1, 2, 4),
        {
            "0": "encoder 0",
            "1.inside.1": "encoder 1",
            "1.inside.2": "bottleneck",
            "1.inside.3": "decoder 1",
            "2": "decoder 0",
            "3": "head",
        },
        (1, 2),
    ),
    "by hand: shared weights": Truth(
        # one block at three levels has three places; any of them names its stage
        (1, 2, 4, 8),
        {
            "stem": "encoder 0",
            "encode": "encoder 1 | encoder 2 | bottleneck",
            "decode": "decoder 2 | decoder 1 | decoder 0",
            "head": "head",
        },
        (1, 2, 3),
    ),
    "zoo unet": _zoo(5, respaths=False),
    "zoo half_unet": _zoo(3, respaths=False),
    "zoo multiresunet": _zoo(5, respaths=True),
    "zoo half_multiresunet": _zoo(3, respaths=True),
    "zoo quarter_multiresunet": _zoo(2, respaths=True),
}

TRUTH: Mapping[str, Truth] = {
    **{f"smp {name}": truth for name, truth in _SMP.items()},
    **{f"monai {name}": truth for name, truth in _MONAI.items()},
    **{f"nnU-Net {name}": truth for name, truth in _NNUNET.items()},
    **{f"torchvision {name}": truth for name, truth in _TORCHVISION.items()},
    **_OTHERS,
}
"""The truth about every network of ``matrix.networks.NETWORKS``."""

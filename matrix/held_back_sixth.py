"""A sixth twenty, of sixteen packages that were never read here, written down before the first run.

What came out at the first reading stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from matrix.more import Entry, network_of, two_images
from matrix.truth import HALVES, Truth, resnet

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_SIXTY_FOURTH = (*HALVES, 64)


# restoration -------------------------------------------------------------------------------------
_UFORMER = {
    "project_in": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.1": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.1": "bottleneck",
    "mid": "bottleneck",
    # as many as stages, the deepest last
    "ups.1": "decoder 1",
    "ups.0": "decoder 0",
    "project_out": "head",
}
_JIN = {
    "Conv1": "encoder 0",
    "Conv2": "encoder 1",
    "Conv3": "bottleneck",
    "Up3": "decoder 1",
    "Up_conv3": "decoder 1",
    "Up2": "decoder 0",
    "Up_conv2": "decoder 0",
    "Conv_1x1": "head",
}
# a block that goes down or up normalises before it resizes
_NCSNPP = {
    "map_layer0": "encoder 0",
    "map_layer1": "encoder 0",
    "enc.32x32_conv": "encoder 0",
    "enc.32x32_block0": "encoder 0",
    "enc.16x16_down": "encoder 1",
    "enc.16x16_down.norm0": "encoder 0",
    "enc.16x16_aux_residual": "encoder 1",
    "enc.16x16_block0": "encoder 1",
    "enc.8x8_down": "bottleneck",
    "enc.8x8_down.norm0": "encoder 1",
    "enc.8x8_aux_residual": "bottleneck",
    "enc.8x8_block0": "bottleneck",
    **dict.fromkeys(("dec.8x8_in0", "dec.8x8_in1"), "bottleneck"),
    **dict.fromkeys(("dec.8x8_block0", "dec.8x8_block1"), "bottleneck"),
    "dec.16x16_up": "decoder 1",
    "dec.16x16_up.norm0": "bottleneck",
    **dict.fromkeys(("dec.16x16_block0", "dec.16x16_block1"), "decoder 1"),
    "dec.32x32_up": "decoder 0",
    "dec.32x32_up.norm0": "decoder 1",
    **dict.fromkeys(("dec.32x32_block0", "dec.32x32_block1"), "decoder 0"),
    "dec.32x32_aux_norm": "decoder 0",
    "dec.32x32_aux_conv": "head",
}
_SPEECHBRAIN = {
    "time_embed": "encoder 0",
    "input_blocks.0": "encoder 0",
    "input_blocks.1": "encoder 0",
    "input_blocks.2": "encoder 1",
    "input_blocks.2.0.in_layers.0": "encoder 0",
    "input_blocks.3": "encoder 1",
    "input_blocks.4": "bottleneck",
    "input_blocks.4.0.in_layers.0": "encoder 1",
    "input_blocks.5": "bottleneck",
    "middle_block": "bottleneck",
    "output_blocks.0": "bottleneck",
    "output_blocks.1": "bottleneck",
    # after a block, and attention where there is any, one that goes up
    "output_blocks.1.1": "decoder 1",
    "output_blocks.1.1.in_layers.0": "bottleneck",
    "output_blocks.2": "decoder 1",
    "output_blocks.3": "decoder 1",
    "output_blocks.3.2": "decoder 0",
    "output_blocks.3.2.in_layers.0": "decoder 1",
    "output_blocks.4": "decoder 0",
    "output_blocks.5": "decoder 0",
    "out.0": "decoder 0 | head",
    "out.2": "head",
}
_VIDEO = {
    "init_conv": "encoder 0",
    "init_temporal_attn": "encoder 0",
    # made of parameters alone, for every attention over time
    "init_temporal_attn.fn.fn.fn.rotary_emb": "encoder 0 | none",
    "time_rel_pos_bias": "encoder 0 | none",
    "time_mlp": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.4": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.4": "bottleneck",
    "downs.2": "bottleneck",
    "mid_block1": "bottleneck",
    "mid_spatial_attn": "bottleneck",
    "mid_temporal_attn": "bottleneck",
    "mid_block2": "bottleneck",
    "ups.0": "bottleneck",
    "ups.0.4": "decoder 1",
    "ups.1": "decoder 1",
    "ups.1.4": "decoder 0",
    "ups.2": "decoder 0",
    "final_conv.0": "decoder 0",
    "final_conv.1": "head",
}


def _sigma(batch: int) -> Mapping[str, Any]:
    return {"sigma": torch.linspace(0.1, 0.9, batch)}


def _timesteps(batch: int) -> Mapping[str, Any]:
    return {"timesteps": torch.arange(1, batch + 1)}


def _time(batch: int) -> Mapping[str, Any]:
    return {"time": torch.arange(1, batch + 1)}


# cells and volumes -------------------------------------------------------------------------------
def _twice(first: int, place: str) -> dict[str, str]:
    """Two convolutions that are numbered through."""
    return {f"encode{first}": place, f"encode{first + 1}": place}


def _raised(step: int, place: str) -> dict[str, str]:
    """A transposed convolution and the two behind it."""
    return {
        f"up{step}": place,
        f"decode{2 * step - 1}": place,
        f"decode{2 * step}": place,
    }


_SIAMESE = {
    **_twice(1, "encoder 0"),
    **_twice(3, "encoder 1"),
    **_twice(5, "encoder 2"),
    **_twice(7, "encoder 3"),
    "conv_concat": "bottleneck",
    "middle_conv1": "bottleneck",
    "middle_conv2": "bottleneck",
    **_raised(1, "decoder 3"),
    **_raised(2, "decoder 2"),
    **_raised(3, "decoder 1"),
    **_raised(4, "decoder 0"),
    "final": "head",
}
_NESTED = {
    **{f"conv{level}_0": f"encoder {level}" for level in range(4)},
    "conv4_0": "bottleneck",
    **{f"conv{level}_{i}": f"decoder {level}" for level in range(4) for i in range(1, 5 - level)},
    "output_layers": "head",
}


def _styled(block: int, level: int) -> dict[str, str]:
    """A block on the way up; the vector of the deepest map is added in three of its layers."""
    path = f"upsample.up.res_up_{block}"
    places = {path: f"decoder {level}"}
    for layer in (1, 2, 3):
        places[f"{path}.conv.conv_{layer}.full"] = f"decoder {level} | bottleneck"
    return places


_CELLPOSE = {
    # sizes of cells, which the forward does not read
    "": "dead",
    "downsample.down.res_down_0": "encoder 0",
    "downsample.down.res_down_1": "encoder 1",
    "downsample.down.res_down_2": "encoder 2",
    "downsample.down.res_down_3": "bottleneck",
    "upsample.up.res_up_3": "bottleneck",
    **_styled(2, 2),
    **_styled(1, 1),
    **_styled(0, 0),
    "output.0": "decoder 0 | head",
    "output.2": "head",
}
_INSTANSEG = {
    "encoder.0": "encoder 0",
    "encoder.1": "encoder 1",
    "encoder.2": "encoder 2",
    "encoder.3": "bottleneck",
    # resized first; one layer of each block is for the skip alone
    **{f"decoders.*.decoder.{i}": f"decoder {2 - i}" for i in range(3)},
    **{f"decoders.*.decoder.{i}.conv_skip": f"skip {2 - i}" for i in range(3)},
    # a convolution and its norm
    "decoders.*.final_block.*.0": "decoder 0 | head",
    "decoders.*.final_block.*.1": "head",
}
_WOLNY = {
    "encoders.0": "encoder 0",
    "encoders.1": "encoder 1",
    "encoders.2": "bottleneck",
    # a transposed convolution one pixel short, then resized to the skip
    "decoders.0": "decoder 1",
    "decoders.1": "decoder 0",
    "final_conv": "head",
}
# the gate of a skip works one level below it, on what comes up, and is resized to the skip
_GATED = {
    **{f"layers_downsample.conv_enc_{i}_{j}": f"encoder {i}" for i in (0, 1) for j in (1, 2)},
    **{f"layers_downsample.batchnorm_enc_{i}": f"encoder {i}" for i in (0, 1)},
    **{f"layers_downsample.conv_enc_2_{j}": "bottleneck" for j in (1, 2)},
    "layers_downsample.batchnorm_enc_2": "bottleneck",
    "gating": "bottleneck",
    "attention.attention_0": "bottleneck",
    "attention.attention_0.gate_block_1.W": "decoder 1",
    "attention.attention_0.combine_gates": "decoder 1",
    "attention.attention_1": "decoder 1",
    "attention.attention_1.gate_block_1.theta": "skip 1",
    "attention.attention_1.gate_block_1.W": "decoder 0",
    "attention.attention_1.combine_gates": "decoder 0",
    **{
        f"layers_upsample.{layer}": f"decoder {1 - i}"
        for i in (0, 1)
        for layer in (f"upconv_dec_{i}", f"conv_dec_{i}_1", f"conv_dec_{i}_2", f"batchnorm_dec_{i}")
    },
    "layers_upsample.conv_dec_1_3": "decoder 0",
    "layers_upsample.conv_out": "head",
}
_FIDUCIALS = {
    "base_layer": "encoder 0",
    "down1": "encoder 1",
    "down2": "encoder 2",
    "down3": "encoder 3",
    "down4": "bottleneck",
    "flat_conv": "bottleneck",
    **{f"up{i}": f"decoder {i - 1}" for i in range(1, 5)},
    "out_conv": "head",
}
# what resamples is an orthogonal matrix made of a parameter
_INVERTIBLE = {
    "encoder_modules.0": "encoder 0",
    "downsampling_layers.0": "encoder 1",
    "encoder_modules.1": "encoder 1",
    "downsampling_layers.1": "bottleneck",
    "encoder_modules.2": "bottleneck",
    "decoder_modules.2": "bottleneck",
    "upsampling_layers.1": "decoder 1",
    "decoder_modules.1": "decoder 1",
    "upsampling_layers.0": "decoder 0",
    "decoder_modules.0.0": "decoder 0",
    "decoder_modules.0.1": "head",
}


# from above, and motion --------------------------------------------------------------------------
def _farseg(prefix: str) -> dict[str, str]:
    """A pyramid, of which every map is weighted by how much it is like the whole scene."""
    roles = {0: "decoder 2", 1: "decoder 3", 2: "decoder 4", 3: "bottleneck"}
    places = {
        **resnet(f"{prefix}backbone", "bottleneck"),
        f"{prefix}backbone.fc": "dead",
        **{f"{prefix}fpn.inner_blocks.{i}": f"skip {i + 2}" for i in range(3)},
        f"{prefix}fpn.inner_blocks.3": "bottleneck",
        f"{prefix}decoder.blocks.0": "decoder 2",
        # each convolves first and is resized afterwards
        f"{prefix}decoder.blocks.1.0": "decoder 3",
        f"{prefix}decoder.blocks.2.0": "decoder 4",
        f"{prefix}decoder.blocks.2.1": "decoder 3",
        f"{prefix}decoder.blocks.3.0": "bottleneck",
        f"{prefix}decoder.blocks.3.1": "decoder 4",
        f"{prefix}decoder.blocks.3.2": "decoder 3",
    }
    for i, role in roles.items():
        places[f"{prefix}fpn.layer_blocks.{i}"] = role
        places[f"{prefix}fsr.content_encoders.{i}"] = role
        places[f"{prefix}fsr.feature_reencoders.{i}"] = role
        # of the vector of the deepest map
        places[f"{prefix}fsr.scene_encoder.{i}"] = f"{role} | bottleneck"
    return places


_CHANGES = {
    **_farseg("dense_feature_extractor."),
    "seg_classifier": "head",
    **{f"changemixin.convs.{i}": "decoder 2" for i in range(4)},
    "changemixin.convs.4": "head",
}
_FLOWNET = {
    **{f"conv{i}": f"encoder {i}" for i in range(1, 6)},
    **{f"conv{i}_1": f"encoder {i}" for i in range(3, 6)},
    "conv6": "bottleneck",
    "conv6_1": "bottleneck",
    "predict_flow6": "bottleneck",
    **{f"deconv{i}": f"decoder {i}" for i in range(2, 6)},
    **{f"predict_flow{i}": f"decoder {i}" for i in range(3, 6)},
    **{f"upsampled_flow{i + 1}_to_{i}": f"decoder {i}" for i in range(2, 6)},
    "predict_flow2": "head",
}
_PWCNET = {
    **{f"conv{i}{j}": f"encoder {i}" for i in range(1, 6) for j in ("a", "aa", "b")},
    **{f"conv6{j}": "bottleneck" for j in ("aa", "a", "b")},
    **{f"conv6_{j}": "bottleneck" for j in range(5)},
    "predict_flow6": "bottleneck",
    **{f"conv{i}_{j}": f"decoder {i}" for i in range(2, 6) for j in range(5)},
    **{f"predict_flow{i}": f"decoder {i}" for i in range(3, 6)},
    **{f"deconv{i}": f"decoder {i - 1}" for i in range(3, 7)},
    **{f"upfeat{i}": f"decoder {i - 1}" for i in range(3, 7)},
    "predict_flow2": "head",
}


def _pair(image: Tensor) -> Tensor:
    """Two images one behind the other: (B, 2, 3, H, W)."""
    return image.unflatten(1, (2, 3))


def _pair_by_name(image: Tensor) -> tuple[Mapping[str, Tensor]]:
    return ({"images": _pair(image)},)


# operators and sound -----------------------------------------------------------------------------
def _fourier(block: int, here: str, there: str) -> dict[str, str]:
    """A block whose spectrum is resized; its two shortcuts are weighted before they are."""
    path = f"fno_blocks.{block}"
    return {
        path: there,
        f"{path}.convs.0.weight": f"{here} | {there}",
        f"{path}.fno_skips": here,
        f"{path}.channel_mlp_skips": here,
    }


_UNO = {
    "lifting": "encoder 0",
    **_fourier(0, "encoder 0", "encoder 1"),
    **_fourier(1, "encoder 1", "bottleneck"),
    **_fourier(2, "bottleneck", "bottleneck"),
    **_fourier(3, "bottleneck", "decoder 1"),
    **_fourier(4, "decoder 1", "decoder 0"),
    "horizontal_skips.0": "skip 1",
    "horizontal_skips.1": "bottleneck",
    "projection.fcs.0": "decoder 0",
    "projection.fcs.1": "head",
}
# a residual block, an activation, and what strides, twice; recurrence; one more
_ENCODEC = {
    "encoder.model.0": "encoder 0",
    "encoder.model.1": "encoder 0",
    "encoder.model.3": "encoder 1",
    "encoder.model.4": "encoder 1",
    "encoder.model.6": "bottleneck",
    "encoder.model.7": "bottleneck",
    "encoder.model.9": "bottleneck",
    "decoder.model.0": "bottleneck",
    "decoder.model.1": "bottleneck",
    "decoder.model.3": "decoder 1",
    "decoder.model.4": "decoder 1",
    "decoder.model.6": "decoder 0",
    "decoder.model.7": "decoder 0",
    "decoder.model.9": "head",
}


def _encodec() -> nn.Module:
    """What ``EncodecModel`` builds from a name, small, without looking for weights."""
    modules = import_module("encodec.modules")
    quantization, model = import_module("encodec.quantization"), import_module("encodec.model")
    settings: dict[str, Any] = {"dimension": 8, "n_filters": 4, "ratios": [4, 2], "lstm": 1}
    net: nn.Module = model.EncodecModel(
        modules.SEANetEncoder(**settings),
        modules.SEANetDecoder(**settings),
        quantization.ResidualVectorQuantizer(dimension=8, n_q=2, bins=16),
        target_bandwidths=[1.0],
        sample_rate=8000,
        channels=1,
    )
    return net


# groups of channels are networks of their own, one beside the other
_CAREAMICS = {
    "encoder.encoder_blocks.0": "encoder 0",
    # every second one pools
    "encoder.encoder_blocks.2": "encoder 1",
    "decoder.bottleneck": "bottleneck",
    "decoder.decoder_blocks.1": "decoder 1",
    "decoder.decoder_blocks.3": "decoder 0",
    "final_conv": "head",
}
_HEADS: Mapping[str, Mapping[str, Any]] = {
    "mask": {"channels": 1, "activation": "sigmoid"},
    "distance": {"channels": 1, "activation": None},
}

HELD_BACK_SIXTH: Mapping[str, Entry] = {
    # keys and values of what comes up and of the skip: twice the batch
    "uformer-pytorch Uformer": Entry(
        "uformer_pytorch",
        network_of(
            "uformer_pytorch",
            "Uformer",
            dim=8,
            stages=2,
            num_blocks=1,
            dim_head=8,
            heads=2,
            window_size=4,
        ),
        Truth(_THREE, _UFORMER, (1, 2)),
    ),
    # norms without an offset; sizes that do not divide are padded
    "deepinv UNet": Entry(
        "deepinv",
        network_of(
            "deepinv.models",
            "UNet",
            in_channels=3,
            out_channels=3,
            circular_padding=True,
            bias=False,
            batch_norm="biasfree",
            channels_per_scale=[8, 16, 24],
        ),
        Truth(_THREE, _JIN, (1, 2)),
        {"other": (75, 97)},
    ),
    # resized by the buffer of a filter
    "deepinv NCSN++": Entry(
        "deepinv",
        network_of(
            "deepinv.models",
            "NCSNpp",
            img_resolution=32,
            augment_dim=0,
            model_channels=32,
            channel_mult=(1, 2, 2),
            num_blocks=1,
            attn_resolutions=(16,),
            pretrained=None,
        ),
        Truth(_THREE, _NCSNPP, (1, 2)),
        {"size": (32, 32), "other": (48, 64), "extra": _sigma},
    ),
    "speechbrain UNetModel": Entry(
        "speechbrain",
        network_of(
            "speechbrain.nnet.unet",
            "UNetModel",
            in_channels=1,
            model_channels=8,
            out_channels=1,
            num_res_blocks=1,
            attention_resolutions=[2],
            channel_mult=(1, 2, 2),
            norm_num_groups=4,
            resblock_updown=True,
        ),
        Truth(_THREE, _SPEECHBRAIN, (1, 2)),
        {"channels": 1, "size": (32, 64), "other": (48, 32), "extra": _timesteps},
    ),
    # only space is reduced; who looks at the present alone is asked of a mask of nothing
    "video-diffusion-pytorch Unet3D": Entry(
        "video_diffusion_pytorch",
        network_of(
            "video_diffusion_pytorch",
            "Unet3D",
            dim=8,
            dim_mults=(1, 2, 4),
            channels=1,
            attn_heads=2,
            attn_dim_head=8,
        ),
        Truth(((1, 1, 1), (1, 2, 2), (1, 4, 4)), _VIDEO, (1, 2)),
        {"channels": 1, "size": (4, 32, 32), "other": (6, 48, 32), "extra": _time},
    ),
    # the same layers for this frame and the one before
    "bio-image-unet Siam_UNet": Entry(
        "bio_image_unet",
        network_of("bio_image_unet.siam_unet", "Siam_UNet", n_filter=4),
        Truth(_FIVE, _SIAMESE, (1, 2, 3, 4)),
        {"channels": 2, "arrange": two_images},
    ),
    # two maps by name, of every depth, the last one twice
    "bio-image-unet MultiOutputNestedUNet": Entry(
        "bio_image_unet",
        network_of(
            "bio_image_unet.multi_output_unet.multi_output_nested_unet",
            "MultiOutputNestedUNet",
            output_heads=_HEADS,
            n_filter=4,
            deep_supervision=True,
        ),
        Truth(_FIVE, _NESTED, (1, 2, 3, 4)),
        {"channels": 1},
    ),
    # returns its features and the vector as well
    "cellpose CPnet": Entry(
        "cellpose",
        network_of("cellpose.resnet_torch", "CPnet", nbase=[2, 8, 16, 24, 32], nout=3, sz=3),
        Truth(_FOUR, _CELLPOSE, (1, 2, 3)),
        {"channels": 2},
    ),
    "instanseg-torch InstanSeg_UNet": Entry(
        "instanseg",
        network_of(
            "instanseg.utils.models.InstanSeg_UNet",
            "InstanSeg_UNet",
            in_channels=3,
            out_channels=[[2, 1], [2, 2]],
            layers=[32, 24, 16, 8],
        ),
        Truth(_FOUR, _INSTANSEG, (1, 2, 3)),
    ),
    "pytorch3dunet ResidualUNetSE3D": Entry(
        "pytorch3dunet",
        network_of(
            "pytorch3dunet.unet3d.model",
            "ResidualUNetSE3D",
            in_channels=1,
            out_channels=2,
            f_maps=[8, 16, 24],
            num_groups=4,
        ),
        Truth(_THREE, _WOLNY, (1, 2)),
        {"channels": 1, "size": (16, 16, 16), "other": (24, 16, 16)},
    ),
    "segment-torch AttentionUNet": Entry(
        "segment_torch",
        network_of(
            "segment_torch.attention_unet",
            "AttentionUNet",
            in_channels=3,
            out_channels=2,
            hiddens=[8, 16, 32],
            device="cpu",
        ),
        Truth(_THREE, _GATED, (1, 2)),
    ),
    # a LightningModule
    "torch-segment-fiducials-2d ResidualUNet18": Entry(
        "torch_segment_fiducials_2d",
        network_of("torch_segment_fiducials_2d.model.model", "ResidualUNet18"),
        Truth(_FIVE, _FIDUCIALS, (1, 2, 3, 4)),
        {"channels": 1},
    ),
    "careamics UNet": Entry(
        "careamics",
        network_of(
            "careamics.models.unet",
            "UNet",
            conv_dims=2,
            num_classes=2,
            in_channels=2,
            depth=2,
            num_channels_init=4,
        ),
        Truth(_THREE, _CAREAMICS, (1, 2)),
        {"channels": 2},
    ),
    # a gradient of its own, which computes the input again from the output
    "iunets iUNet": Entry(
        "iunets",
        network_of("iunets", "iUNet", in_channels=4, architecture=(1, 1, 1), dim=2, verbose=0),
        Truth(_THREE, _INVERTIBLE, (1, 2)),
        {"channels": 4},
    ),
    "torchgeo FarSeg": Entry(
        "torchgeo",
        network_of(
            "torchgeo.models", "FarSeg", backbone="resnet18", classes=2, backbone_pretrained=False
        ),
        Truth(HALVES, {**_farseg(""), "decoder.classifier": "head"}, (3, 4, 5)),
    ),
    # two dates in one tensor; more comes out while training
    "torchgeo ChangeStarFarSeg": Entry(
        "torchgeo",
        network_of(
            "torchgeo.models",
            "ChangeStarFarSeg",
            backbone="resnet18",
            classes=2,
            backbone_pretrained=False,
        ),
        Truth(HALVES, _CHANGES, (3, 4, 5)),
        {"channels": 6, "given": True, "arrange": _pair},
    ),
    # a dictionary of a pair of frames; maps of every level while training
    "ptlflow FlowNetS": Entry(
        "ptlflow",
        network_of("ptlflow.models.flownet.flownets", "FlowNetS"),
        Truth(_SIXTY_FOURTH, _FLOWNET, (3, 4, 5, 6)),
        {"channels": 6, "other": (128, 192), "given": True, "arrange": _pair_by_name},
    ),
    # moved by the flow so far, and compared at every shift
    "ptlflow PWCNet": Entry(
        "ptlflow",
        network_of("ptlflow.models.pwcnet.pwcnet", "PWCNet", md=1),
        Truth(_SIXTY_FOURTH, _PWCNET, (3, 4, 5, 6)),
        {"channels": 6, "size": (128, 128), "other": (128, 192), "given": True}
        | {"arrange": _pair_by_name},
    ),
    "neuraloperator UNO": Entry(
        "neuralop",
        network_of(
            "neuralop.models",
            "UNO",
            in_channels=1,
            out_channels=1,
            hidden_channels=8,
            lifting_channels=8,
            projection_channels=8,
            channel_mlp_skip="linear",
            n_layers=5,
            uno_out_channels=[8, 16, 16, 16, 8],
            uno_n_modes=[[8, 8], [4, 4], [4, 4], [4, 4], [8, 8]],
            uno_scalings=[[0.5, 0.5], [0.5, 0.5], [1, 1], [2, 2], [2, 2]],
        ),
        Truth(_THREE, _UNO, (1, 2)),
        {"channels": 1},
    ),
    # codes in the middle
    "encodec EncodecModel": Entry(
        "encodec",
        _encodec,
        Truth((1, 2, 8), _ENCODEC, (1, 2)),
        {"channels": 1, "size": (512,), "other": (1024,)},
    ),
}
"""All of them, by name."""

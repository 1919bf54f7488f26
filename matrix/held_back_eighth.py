"""An eighth list: twenty networks of twenty packages, of which none was read here before.

This was written down, from their source, before the first run. What came out at the first reading
stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor, nn

from matrix.more import Entry, network_of
from matrix.truth import HALVES, THREE_UPS, Truth, resnet, widening

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels


def _two(image: Tensor) -> tuple[Tensor, Tensor]:
    """All channels but the last one, and that one."""
    return image[:, :-1], image[:, -1:]


def _times(batch: int) -> Tensor:
    return torch.linspace(0.1, 0.9, batch)


# a ladder of convolutions with normalised weights, for cosmic rays
_COSMIC = {
    "inc": "encoder 0",
    "down1": "encoder 1",
    "down2": "bottleneck",
    "up7": "decoder 1",
    "up8": "decoder 0",
    "outc": "head",
}
# strided convolutions and the pooled map in one sum; the image itself is the topmost skip
_REGISTER = {
    "downConvs.0": "encoder 1",
    "downConvs.1": "encoder 2",
    "downConvs.2": "bottleneck",
    **{f"upConvs.{i}": f"decoder {i}" for i in range(3)},
    **{f"batchNorms.{i}": f"decoder {i}" for i in range(3)},
    "lastConv": "head",
}
# a stage ends with what comes up, which has no weights
_AZULA = {
    "descent.0": "encoder 0",
    "descent.1": "encoder 1",
    "descent.2": "bottleneck",
    "ascent.0": "bottleneck",
    "ascent.1": "decoder 1",
    "ascent.2": "decoder 0",
    "ascent.2.2": "head",
}
_FLOWS = {
    "time_embed": _VECTOR,
    **{f"input_blocks.{i}": "encoder 0" for i in (0, 1)},
    **{f"input_blocks.{i}": "encoder 1" for i in (2, 3)},
    **{f"input_blocks.{i}": "bottleneck" for i in (4, 5)},
    "middle_block": "bottleneck",
    **{f"output_blocks.{i}": "bottleneck" for i in (0, 1)},
    # after a block and its attention
    "output_blocks.1.2": "decoder 1",
    **{f"output_blocks.{i}": "decoder 1" for i in (2, 3)},
    "output_blocks.3.1": "decoder 0",
    **{f"output_blocks.{i}": "decoder 0" for i in (4, 5)},
    "out.0": "decoder 0 | head",
    "out.2": "head",
}


def _lesions() -> dict[str, str]:
    """The image goes down beside the mask; spectra of the mask say what counts of the image."""
    roles = ["encoder 0", "encoder 1", "bottleneck"]
    places = {"time_mlp": _VECTOR, "init_conv": roles[0], "cond_init_conv": roles[0]}
    for i, role in enumerate(roles):
        for path in (f"downs.{i}", f"cond_downs.{i}", f"conditioners.{i}"):
            places[path] = role
        for path in (f"downs.{i}.3", f"cond_downs.{i}.3"):
            places[path] = roles[min(i + 1, 2)]
    places |= {
        "mid_block1": "bottleneck",
        "cond_mid_block1": "bottleneck",
        "mid_transformer": "bottleneck",
        "mid_block2": "bottleneck",
        **THREE_UPS,
    }
    return places


def _mask_time_image(four: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return four[:, :1], _times(len(four)), four[:, 1:]


# pixels become channels on the way down, and channels pixels on the way up
_CLIPS = {
    "to_timestep_cond": _VECTOR,
    "conv_in": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.3": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.3": "bottleneck",
    "mid_block1": "bottleneck",
    "mid_attn": "bottleneck",
    "mid_block2": "bottleneck",
    "ups.1": "decoder 1",
    "ups.1.3": "bottleneck",
    "ups.0": "decoder 0",
    "ups.0.3": "decoder 1",
    # computed from the sizes alone
    **{
        f"{path}.{which}_rel_pos_bias": f"{place} | none"
        for path, place in (
            ("downs.1.2", "encoder 1"),
            ("mid_attn", "bottleneck"),
            ("ups.1.2", "decoder 1 | skip 1"),
        )
        for which in ("spatial", "temporal")
    },
    "conv_out.spatial_conv": "decoder 0 | head",
    "conv_out.temporal_conv": "head",
}
# every level is brought to the image's size at once, and summed in place
_HALF = {
    **{f"encoder{i + 1}": f"encoder {i}" for i in range(4)},
    "encoder5": "bottleneck",
    "decoder": "decoder 0",
    "outconv": "head",
}
# norms before what strides and before what comes up; nothing goes across at the top
_WELL = {
    "in_proj": "encoder 0",
    "encoder.0": "encoder 0",
    "encoder.0.resample.block.1": "encoder 1",
    "encoder.1": "encoder 1",
    "encoder.1.resample.block.1": "bottleneck",
    "neck": "bottleneck",
    "decoder.0": "bottleneck",
    "decoder.0.resample.block.1": "decoder 1",
    "decoder.1": "decoder 1",
    "decoder.1.resample.block.1": "decoder 0",
    "out_proj": "head",
}
# one encoder, and the decoders of U-Net and of UNet 3+ for one patch size
_TOMOGRAMS = {
    "encoder.0": "encoder 0",
    "encoder.1": "encoder 1",
    "encoder.2": "bottleneck",
    "decoder_unet.0": "decoder 1",
    "decoder_unet.1": "decoder 0",
    "decoder_3plus.0.deconv": "decoder 1",
    "decoder_3plus.0.encoder_feature_conv.0": "skip 1",
    "decoder_3plus.0.encoder_feature_conv.1": "skip 1 | encoder 1",
    "decoder_3plus.1.deconv": "decoder 0",
    "decoder_3plus.1.encoder_feature_conv.0": "skip 0",
    # made for an option that is off
    "decoder_3plus.0.attn_conv": "dead",
    "decoder_3plus.1.attn_conv": "dead",
    "unet_conv_layer": "decoder 0",
    "unet3plus_conv_layer": "decoder 0",
    "final_conv_layer": "head",
}
_NEURITES = {
    "down_convs.0": "encoder 0",
    "down_convs.1": "encoder 1",
    "down_convs.2": "bottleneck",
    "up_convs.0": "decoder 1",
    "up_convs.1": "decoder 0",
    "conv_final": "head",
}
# a convolution is called twice in its residual block; coarser answers are added to the last one
_CORD = {
    **{f"conv3d_c1_{i}": "encoder 0" for i in (1, 2)},
    "lrelu_conv_c1": "encoder 0",
    **{f"conv3d_c{i + 1}": f"encoder {i}" for i in (1, 2, 3)},
    **{f"norm_lrelu_conv_c{i + 1}": f"encoder {i}" for i in (1, 2, 3)},
    "conv3d_c5": "bottleneck",
    "norm_lrelu_conv_c5": "bottleneck",
    **{f"norm_lrelu_upscale_conv_norm_lrelu_l{i}": f"decoder {3 - i}" for i in range(4)},
    "conv3d_l0": "decoder 3",
    **{f"conv_norm_lrelu_l{i}": f"decoder {4 - i}" for i in range(1, 5)},
    **{f"conv3d_l{i}": f"decoder {4 - i}" for i in range(1, 4)},
    "conv3d_l4": "head",
    "ds2_1x1_conv3d": "decoder 2 | head",
    "ds3_1x1_conv3d": "decoder 1 | head",
}
# more is returned where gradients are on
_YUCCA = {
    "in_conv": "encoder 0",
    **{f"encoder_conv{i}": f"encoder {i}" for i in (1, 2, 3)},
    "encoder_conv4": "bottleneck",
    **{f"upsample{i}": f"decoder {4 - i}" for i in range(1, 5)},
    **{f"decoder_conv{i}": f"decoder {4 - i}" for i in range(1, 5)},
    "out_conv": "head",
    **{f"ds_out_conv{i}": "head | dead | none" for i in range(4)},
}
_WORDS = {
    **resnet("feat_extractor"),
    # 1x1 where it comes from, transposed convolution, 1x1
    "fpn.decoders.3": "decoder 4",
    **{f"fpn.decoders.3.{i}": "bottleneck" for i in (0, 1)},
    "fpn.decoders.2": "decoder 3",
    **{f"fpn.decoders.2.{i}": "decoder 4" for i in (0, 1)},
    "fpn.decoders.1": "decoder 2",
    **{f"fpn.decoders.1.{i}": "decoder 3" for i in (0, 1)},
    "fpn.decoders.0": "decoder 2",
    "classifier": "decoder 1",
    # itself comes up to the image
    "classifier.6": "head | decoder 0",
}
# the same network three times, each on what the one before answered
_MASKS = {
    **{f"feats.{layer}": "encoder 1 | decoder 1" for layer in ("conv1", "bn1")},
    "feats.layer1": "encoder 2 | decoder 2",
    **widening("feats.layer2.0", ("conv1", "bn1"), "encoder 2 | decoder 2", "bottleneck"),
    **{f"feats.layer{i}": "bottleneck" for i in (2, 3, 4)},
    "psp": "bottleneck",
    "final_28.0": "bottleneck",
    "final_28.2": "bottleneck | head",
    "up_1": "decoder 2",
    "final_56.0": "decoder 2",
    "final_56.2": "decoder 2 | head",
    "up_2": "decoder 1",
    "up_3": "decoder 0",
    "final_11": "decoder 0",
    "final_21": "head",
}
_LINES = {
    "model0": "encoder 0",
    "model1.0": "encoder 1",
    "model1.3": "bottleneck",
    "model2": "bottleneck",
    "model3.0": "decoder 1",
    "model3.3": "decoder 0",
    "model4": "head",
}
# pools windows as large as those of its training; pads to what divides
_NAF = {
    "intro": "encoder 0",
    "encoders.0": "encoder 0",
    "downs.0": "encoder 1",
    "encoders.1": "encoder 1",
    "downs.1": "bottleneck",
    "middle_blks": "bottleneck",
    "ups.0": "bottleneck",
    "decoders.0": "decoder 1",
    "ups.1": "decoder 1",
    "decoders.1": "decoder 0",
    "ending": "head",
}
# slices one by one at the two topmost levels
_SLICES = {
    **{f"encoder.block{i}": f"encoder {i}" for i in range(4)},
    "encoder.block4": "bottleneck",
    **{f"decoder.up{i}.conv": f"decoder {4 - i}" for i in range(1, 5)},
    "decoder.up1.conv1x1": "bottleneck",
    **{f"decoder.up{i}.conv1x1": f"decoder {5 - i}" for i in range(2, 5)},
    "decoder.out_conv": "head",
}
# the maps of all levels are returned
_SPOTS = {
    "down_blocks.0": "encoder 0",
    "down_blocks.1": "encoder 1",
    "middle": "bottleneck",
    "middle.1": "bottleneck | head",
    "up_blocks.1": "decoder 1",
    "up_blocks.1.1": "decoder 1 | head",
    "up_blocks.0": "decoder 0",
    "up_blocks.0.1": "decoder 0 | head",
}
# down and up by a filter that is no layer
_KATHERINE = {
    "mapping": _VECTOR,
    "proj_in": "encoder 0",
    "u_net.d_blocks.0": "encoder 0",
    "u_net.d_blocks.1": "encoder 1",
    "u_net.d_blocks.2": "bottleneck",
    "u_net.u_blocks.0": "bottleneck",
    "u_net.u_blocks.1": "decoder 1",
    "u_net.u_blocks.2": "decoder 0",
    "proj_out": "head",
}
# what the deepest level is pooled to is not used
_TISSUE = {
    "backbone.blocks.0": "encoder 0",
    "backbone.blocks.1": "encoder 1",
    "backbone.blocks.2": "bottleneck",
    "conv1x1": "bottleneck",
    "uplist.0": "decoder 1",
    "uplist.1": "decoder 0",
    "clf": "head",
}


def _halved() -> nn.Module:
    module = import_module("mfai.pytorch.models.half_unet")
    settings = module.HalfUNetSettings(num_filters=8)
    network: nn.Module = module.HalfUNet(3, 2, (64, 64), settings)
    return network.train()


_MEDICAL = {"in_chns": 1, "class_num": 2, "feature_chns": [4, 8, 8, 16, 16], "dropout": [0.0] * 5}

HELD_BACK_EIGHTH: Mapping[str, Entry] = {
    "deepCR UNet3": Entry(
        "deepCR",
        network_of("deepCR.unet", "UNet3", 1, 1, hidden=8),
        Truth(_THREE, _COSMIC, (1, 2)),
        {"channels": 1},
    ),
    # crops where a size is odd
    "icon-registration UNet2": Entry(
        "icon_registration",
        network_of("icon_registration.networks", "UNet2", 3, [[2, 8, 8, 16], [8, 8, 16]], 2),
        Truth(_FOUR, _REGISTER, (1, 2, 3)),
        {"channels": 2, "other": (75, 97), "arrange": _two},
    ),
    "azula UNet": Entry(
        "azula",
        network_of(
            "azula.nn.unet",
            "UNet",
            3,
            3,
            hid_channels=(8, 16, 16),
            hid_blocks=(1, 1, 1),
            mod_features=16,
        ),
        Truth(_THREE, _AZULA, (1, 2)),
        {"extra": lambda batch: {"mod": torch.linspace(-1, 1, 16 * batch).view(batch, 16)}},
    ),
    # the time comes before the image
    "torchcfm UNetModelWrapper": Entry(
        "torchcfm",
        network_of(
            "torchcfm.models.unet.unet",
            "UNetModelWrapper",
            dim=(3, 32, 32),
            num_channels=32,
            num_res_blocks=1,
            channel_mult=(1, 1, 2),
            attention_resolutions="8",
        ),
        Truth(_THREE, _FLOWS, (1, 2)),
        {"arrange": lambda image: (_times(len(image)), image)},
    ),
    # built for one size
    "med-seg-diff-pytorch Unet": Entry(
        "med_seg_diff_pytorch",
        network_of(
            "med_seg_diff_pytorch",
            "Unet",
            dim=16,
            image_size=32,
            dim_mults=(1, 2, 4),
            full_self_attn=(False, False, True),
        ),
        Truth(_THREE, _lesions(), (1, 2)),
        {"channels": 4, "size": (32, 32), "other": None, "arrange": _mask_time_image},
    ),
    "make-a-video-pytorch SpaceTimeUnet": Entry(
        "make_a_video_pytorch",
        network_of(
            "make_a_video_pytorch",
            "SpaceTimeUnet",
            dim=8,
            dim_mult=(1, 2),
            self_attns=(False, True),
            temporal_compression=(False, False),
            resnet_block_depths=(1, 1),
            attn_dim_head=8,
            attn_heads=2,
        ),
        Truth(((1, 1, 1), (1, 2, 2), (1, 4, 4)), _CLIPS, (1, 2)),
        {"size": (4, 32, 32), "other": (6, 48, 32)}
        | {"extra": lambda batch: {"timestep": _times(batch)}},
    ),
    "mfai HalfUNet": Entry("mfai", _halved, Truth(_FIVE, _HALF, (1, 2, 3, 4))),
    "the-well UNetConvNext": Entry(
        "the_well",
        network_of(
            "the_well.benchmark.models.unet_convnext",
            "UNetConvNext",
            dim_in=3,
            dim_out=2,
            n_spatial_dims=2,
            spatial_resolution=(64, 64),
            stages=2,
            init_features=8,
        ),
        Truth(_THREE, _WELL, (1, 2)),
    ),
    "tardis-em FNet": Entry(
        "tardis_em",
        network_of(
            "tardis_em.cnn.utils.build_cnn",
            "FNet",
            num_conv_layer=3,
            conv_layer_scaler=8,
            layer_components="2gcl",
            num_group=4,
            prediction=True,
        ),
        Truth(_THREE, _TOMOGRAMS, (1, 2)),
        {"channels": 1, "other": None},
    ),
    # planar at the top; crops by a scripted function
    "elektronn3 UNet": Entry(
        "elektronn3",
        network_of("elektronn3.models.unet", "UNet", start_filts=8, planar_blocks=(0,)),
        Truth(((1, 1, 1), (1, 2, 2), (2, 4, 4)), _NEURITES, (1, 2)),
        {"channels": 1, "size": (16, 32, 32), "other": (8, 48, 32)},
    ),
    "ivadomed Modified3DUNet": Entry(
        "ivadomed",
        network_of("ivadomed.models", "Modified3DUNet", 1, 1, n_filters=4),
        Truth(_FIVE, _CORD, (1, 2, 3, 4)),
        {"channels": 1, "size": (32, 32, 32), "other": (32, 48, 32)},
    ),
    "yucca UNet": Entry(
        "yucca",
        network_of(
            "yucca.modules.networks.networks.UNet",
            "UNet",
            1,
            2,
            starting_filters=8,
            deep_supervision=True,
        ),
        Truth(_FIVE, _YUCCA, (1, 2, 3, 4)),
        {"channels": 1, "gradients": False},
    ),
    "python-doctr linknet_resnet18": Entry(
        "doctr",
        network_of(
            "doctr.models.detection.linknet.pytorch",
            "linknet_resnet18",
            pretrained_backbone=False,
            exportable=True,
        ),
        Truth(HALVES, _WORDS, (1, 2, 3, 4, 5)),
    ),
    # an image and a mask
    "segmentation-refinement RefinementModule": Entry(
        "segmentation_refinement",
        network_of("segmentation_refinement.models.psp.pspnet", "RefinementModule"),
        Truth(_FOUR, _MASKS, (1, 2, 3)),
        {"channels": 4, "arrange": _two},
    ),
    "controlnet-aux lineart Generator": Entry(
        "controlnet_aux",
        network_of("controlnet_aux.lineart", "Generator", 3, 1, n_residual_blocks=2),
        Truth(_THREE, _LINES, (1, 2)),
    ),
    "nafnetlib NAFNetLocal": Entry(
        "nafnetlib",
        network_of(
            "nafnetlib.models.nafnet",
            "NAFNetLocal",
            width=8,
            enc_blk_nums=[1, 1],
            dec_blk_nums=[1, 1],
        ),
        Truth(_THREE, _NAF, (1, 2)),
        {"other": (75, 97)},
    ),
    "PyMIC UNet2D5": Entry(
        "pymic",
        network_of("pymic.net.net3d.unet2d5", "UNet2D5", _MEDICAL),
        Truth(
            ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)),
            _SLICES,
            (1, 2, 3, 4),
        ),
        {"channels": 1, "size": (8, 32, 32), "other": (12, 48, 32)},
    ),
    "spotiflow UNetBackbone": Entry(
        "spotiflow",
        network_of(
            "spotiflow.model.backbones.unet",
            "UNetBackbone",
            1,
            8,
            kernel_sizes=((3, 3), (3, 3)),
            padding="same",
            batch_norm=True,
        ),
        Truth(_THREE, _SPOTS, (1, 2)),
        {"channels": 1},
    ),
    "k-diffusion ImageDenoiserModelV1": Entry(
        "k_diffusion",
        network_of(
            "k_diffusion.models.image_v1",
            "ImageDenoiserModelV1",
            3,
            16,
            (1, 1, 1),
            (8, 16, 16),
            (False, False, True),
        ),
        Truth(_THREE, _KATHERINE, (1, 2)),
        {"extra": lambda batch: {"sigma": _times(batch)}},
    ),
    "tiatoolbox UNetModel": Entry(
        "tiatoolbox",
        network_of(
            "tiatoolbox.models.architecture.unet",
            "UNetModel",
            3,
            2,
            encoder="unet",
            encoder_levels=[4, 8, 16],
            decoder_block=(3,),
        ),
        Truth(_THREE, _TISSUE, (1, 2)),
    ),
}
"""All of them, by name."""

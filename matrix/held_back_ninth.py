"""A ninth list: twenty networks of twenty packages, of which none was read here before.

This was written down, from their source, before the first run. What came out at the first reading
stands in ``docs/matrix_reading.md`` as it was. Some places were faults of what was written, and are
corrected since: a last layer that itself comes up is decoder and head at once (CleanUNet, Demucs,
PatchGAN); a vector may lie where it is used first (``film_encoder``); lateral layers are skips that
feed what goes down only after it came up (empanada).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor, nn

from matrix.more import Entry, network_of
from matrix.truth import HALVES, LINKNET, Truth, resnet, widening

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels


def _two(image: Tensor) -> tuple[Tensor, Tensor]:
    """A time for each image, and the images."""
    return torch.linspace(0.1, 0.9, len(image)), image


# residual blocks after a strided convolution, for cosmic rays
_RAYS = {
    "inc": "encoder 0",
    "down1": "encoder 1",
    "down2": "encoder 2",
    "down3": "bottleneck",
    "up3": "decoder 2",
    "up2": "decoder 1",
    "up1": "decoder 0",
    "outc": "head",
}
# a stack of slices becomes one on its way across: kernels as deep as the stack, without padding
_STACKS = {
    **{f"down_conv_block_{i}": f"encoder {i}" for i in range(3)},
    "bottom_transition_block": "bottleneck",
    **{f"skip_conv_layer_{i}": f"skip {i}" for i in range(3)},
    **{f"up_conv_block_{i}": f"decoder {2 - i}" for i in range(3)},
    # made for an option that is off
    **{f"{path}_conv_block_{i}.resid_conv": "dead" for path in ("down", "up") for i in range(3)},
    "terminal_block": "decoder 0 | head",
    "terminal_block.batch_norm_0": "head",
    "terminal_block.resid_conv": "dead",
}
# strides without padding, a length that is padded to what fits, self-attention below
_CLEAN = {
    "encoder.0": "encoder 1",
    "encoder.1": "encoder 2",
    "encoder.2": "encoder 3",
    "encoder.3": "bottleneck",
    "tsfm_conv1": "bottleneck",
    "tsfm_encoder": "bottleneck",
    "tsfm_conv2": "bottleneck",
    "decoder.0": "bottleneck",
    **{f"decoder.{i}": f"decoder {4 - i}" for i in (1, 2, 3)},
    **{f"decoder.{i}.2": f"decoder {3 - i}" for i in (0, 1, 2)},
    "decoder.3.2": "decoder 0 | head",
}
# a waveform denoiser with an LSTM that goes one way
_DENOISER = {
    "encoder.0": "encoder 1",
    "encoder.1": "encoder 2",
    "encoder.2": "bottleneck",
    "lstm": "bottleneck",
    "decoder.0": "bottleneck",
    **{f"decoder.{i}": f"decoder {3 - i}" for i in (1, 2)},
    **{f"decoder.{i}.2": f"decoder {2 - i}" for i in (0, 1)},
    "decoder.2.2": "decoder 0 | head",
}
# what its encoder makes is taken by hooks that are set in the forward; resized to fixed sizes
_HOOKS = {
    "encoder.conv1": "encoder 1",
    "encoder.bn1": "encoder 1",
    "encoder.layer1": "encoder 2",
    "encoder.layer2": "encoder 3",
    "encoder.layer3": "encoder 4",
    "encoder.layer4": "bottleneck",
    # each ends with a kernel of two without padding, and comes up after it
    "decoder.0": "bottleneck",
    **{f"decoder.{i}": f"decoder {5 - i}" for i in (1, 2, 3, 4)},
    "decoder.4.4": "decoder 0",
    "decoder.4.5": "decoder 0 | head",
    "decoder.4.5.bn_layer": "head",
}
# two small U-nets, one after the other, without skips of weights; features of a filterbank
_BLOCKS = {
    "ln": "encoder 0",
    "bottleneck": "encoder 0",
    "sm.0.proj_1x1": "encoder 0",
    "sm.0.spp_dw.0": "encoder 0",
    "sm.0.spp_dw.1": "encoder 1",
    "sm.0.spp_dw.2": "bottleneck",
    "sm.0.final_norm": "decoder 0",
    "sm.0.res_conv": "decoder 0",
    "sm.1": "decoder 0",
    "sm.1.spp_dw.1": "decoder 1",
    "sm.1.spp_dw.2": "bottleneck",
    "mask_net.0": "decoder 0 | head",
    "mask_net.1": "head",
}
# one list of modules; the time comes before the image
_SCORES = {
    **{f"all_modules.{i}": _VECTOR for i in (0, 1, 2)},
    **{f"all_modules.{i}": "encoder 0" for i in (3, 4)},
    **{f"all_modules.{i}": "encoder 1" for i in (5, 6)},
    **{f"all_modules.{i}": "bottleneck" for i in range(7, 14)},
    **{f"all_modules.{i}": "decoder 1" for i in (14, 15, 16)},
    **{f"all_modules.{i}": "decoder 0" for i in (17, 18, 19)},
    "all_modules.20": "decoder 0 | head",
    "all_modules.21": "head",
}
# codes of several rates: the first codebook works on means of two, which are repeated after it
_CODES = {
    "encoder.block.0": "encoder 0",
    "encoder.block.1": "encoder 0",
    "encoder.block.1.block.4": "encoder 1",
    "encoder.block.2": "encoder 1",
    "encoder.block.2.block.4": "encoder 2",
    "encoder.block.3": "encoder 2",
    "encoder.block.3.block.4": "encoder 3",
    **{f"encoder.block.{i}": "encoder 3" for i in (4, 5)},
    # the codes are returned too
    "quantizer.quantizers.0": "bottleneck | head",
    "quantizer.quantizers.0.out_proj": "bottleneck",
    "quantizer.quantizers.1": "decoder 3 | head",
    "quantizer.quantizers.1.out_proj": "decoder 3",
    **{f"decoder.model.{i}": "decoder 3" for i in (0, 1, 2)},
    **{f"decoder.model.{i}": f"decoder {5 - i}" for i in (3, 4, 5)},
    **{f"decoder.model.{i}.block.0": f"decoder {6 - i}" for i in (3, 4, 5)},
    "decoder.model.6": "decoder 0 | head",
    "decoder.model.7": "head",
}
# a pyramid of which only the finest map is used, then up to the image
_SATELLITE = {
    **resnet("backbone.resnet"),
    **widening("backbone.resnet.layer2.0", ("conv1", "bn1"), "encoder 2", "encoder 3"),
    **widening("backbone.resnet.layer3.0", ("conv1", "bn1"), "encoder 3", "encoder 4"),
    **widening("backbone.resnet.layer4.0", ("conv1", "bn1"), "encoder 4", "bottleneck"),
    "backbone.resnet.fc": "dead",
    **{f"fpn.fpn.inner_blocks.{i}": f"skip {i + 2}" for i in (0, 1, 2)},
    "fpn.fpn.inner_blocks.3": "bottleneck",
    "fpn.fpn.layer_blocks.0": "decoder 2",
    **{f"fpn.fpn.layer_blocks.{i}": "dead" for i in (1, 2, 3)},
    "upsample.layers.0.0": "decoder 2",
    "upsample.layers.0.2": "decoder 1",
    "upsample.layers.1.0": "decoder 1",
    "upsample.layers.1.2": "decoder 0",
    "head.layers.0": "decoder 0 | head",
    "head.layers.1": "head",
}


def _poses() -> dict[str, str]:
    """The maps of both decoder blocks are returned, by name, and so is what they start from."""
    encoder, decoder = "encoders.0.encoder_stack", "decoders.0.decoder_stack"
    return {
        **{f"{encoder}.{i}": f"encoder {i}" for i in (0, 1, 2)},
        "middle_blocks.0": "bottleneck",
        "middle_blocks.1": "bottleneck | head",
        f"{decoder}.0": "decoder 2",
        f"{decoder}.0.blocks.stack0_dec0_s8_to_s4_refine_conv1": "decoder 2 | head",
        f"{decoder}.1": "decoder 1",
        f"{decoder}.1.blocks.stack0_dec1_s4_to_s2_refine_conv1": "decoder 1 | head",
    }


# a vector is laid beside the deepest map, and scales what comes up
_CONDITIONED = {
    "stem": "encoder 0",
    "encoder_stages.0": "encoder 1",
    "encoder_stages.1": "bottleneck",
    "injector": "bottleneck | encoder 0 | none",
    "film_encoder": f"decoder 1 | {_VECTOR}",
    **{f"film_layers.{i}": f"decoder {1 - i}" for i in (0, 1)},
    **{f"decoder_stages.{i}": f"decoder {1 - i}" for i in (0, 1)},
    "head": "head",
}
_BRAIN = {
    **{f"down{i}": f"encoder {i - 1}" for i in (1, 2, 3)},
    "bottleneck": "bottleneck",
    **{f"up{i}": f"decoder {i - 1}" for i in (3, 2)},
    "up1.block": "decoder 0",
    "up1.conv": "head",
}
# places of maxima go across; modules are run by their forward, not called
_LAYERS = {
    **{f"encode{i}": f"encoder {i - 1}" for i in (1, 2, 3)},
    "bottleneck": "bottleneck",
    **{f"decode{i}": f"decoder {3 - i}" for i in (1, 2, 3)},
    "classifier": "head",
}
# dense blocks; a transition before the first one
_TIRAMISU = {
    "conv_init": "encoder 0",
    "early_transition_down": "encoder 0",
    **{f"layers_down.layers_down_{i}": f"encoder {i + 1}" for i in (0, 1)},
    **{f"transitions_down.transition_down_{i}": f"encoder {i + 1}" for i in (0, 1)},
    "bottleneck": "bottleneck",
    "transitions_up.transition_up_0": "decoder 2",
    "layers_up.layers_up_0": "decoder 2",
    "transitions_up.transition_up_last": "decoder 1",
    "layers_up.layers_up_last": "decoder 1",
    "early_transition_up": "decoder 0",
    "conv_final": "head",
}
# one encoder, and a decoder for the mask as for the field
_FIELDS = {
    **{f"backbone.Encoder_{i}": f"encoder {i}" for i in (0, 1, 2)},
    "backbone.Middle": "bottleneck",
    **{f"head_{k}.decoder_{i}": f"decoder {2 - i}" for k in (0, 1) for i in (0, 1, 2)},
    **{f"final_{k}": "decoder 0 | head" for k in (0, 1)},
    **{f"final_{k}.2": "head" for k in (0, 1)},
}
# seven times down; norms come after what they should norm, and have no weights
_PATCHES = {
    **{f"encoder.{i}": f"encoder {i + 1}" for i in range(6)},
    "encoder.6": "bottleneck",
    **{f"decoder.{i}": f"decoder {6 - i}" for i in range(6)},
    "decoder.6": "decoder 0 | head",
}
# unpools into one place; one block is called at two levels, and another never
_UNPOOLED = {
    "input_conv": "encoder 0",
    "conv_block_1": "encoder 0",
    "conv_block_2": "encoder 1",
    "conv_block_3": "encoder 2",
    "conv1d_block_1": "encoder 2",
    "conv1d_block_2": "bottleneck",
    "conv_up_block1": "bottleneck | decoder 2",
    "conv_up_block2": "dead",
    **{f"conv_up_block{i}": f"decoder {4 - i}" for i in (3, 4)},
    "conv1d_upscale1": "bottleneck",
    **{f"conv1d_upscale{i}": f"decoder {4 - i}" for i in (2, 3, 4)},
    "output_conv": "head",
}


def _features() -> dict[str, str]:
    """A pyramid that goes up and down again, with two levels below its encoder's deepest one.

    Its blocks are one module each, called at every level.
    """
    up, down = (f"semantic_fpn.bifpns.0.{which}_fpn" for which in ("top_down", "bottom_up"))
    upward = " | ".join(f"decoder {level}" for level in (3, 4, 5, 6))
    downward = " | ".join(["bottleneck", *(f"decoder {level}" for level in (4, 5, 6))])
    places = resnet(layer4="encoder 5") | {
        "p2_resample": "skip 2",
        "semantic_fpn.p6_resample": "encoder 5",
        # a few numbers, which weigh what is summed
        up: f"{upward} | encoder 5 | encoder 4 | encoder 3 | encoder 6 | bottleneck | none",
        down: f"{downward} | decoder 3 | encoder 4 | encoder 5 | none",
        **{f"{up}.resamplings.{i}": f"skip {6 - i}" for i in (1, 2, 3)},
        **{f"{down}.resamplings.{i}": f"skip {i + 4}" for i in (0, 1)},
        f"{up}.after_combines": upward,
        f"{down}.after_combines": downward,
        **{f"semantic_decoder.upsamplings.{i}": f"decoder {6 - i}" for i in range(5)},
        "semantic_decoder.fusion": "decoder 2",
    }
    for head in ("semantic_head", "ins_center", "ins_xy"):
        places |= {f"{head}.head.0": "decoder 2 | head", f"{head}.head.1": "head"}
    return places


# an encoder of timm
_BACKBONE = {
    **resnet(),
    **{f"decoder.blocks.{i}": f"decoder {4 - i}" for i in range(5)},
    "decoder.final_conv": "head",
}


def _satellite() -> nn.Module:
    settings = import_module("satlaspretrain_models.utils")
    factory = import_module("satlaspretrain_models.model").Model
    network: nn.Module = factory(
        backbone=settings.Backbone.RESNET50,
        fpn=True,
        head=settings.Head.SEGMENT,
        num_categories=2,
    )
    return network.train()


def _hooked() -> nn.Module:
    encoder = import_module("dynamic_unet.encoder").resnet18(pretrained=False)
    network: nn.Module = import_module("dynamic_unet.unet").DynamicUNet(
        encoder, input_size=(128, 128), num_output_channels=2
    )
    return network.train()


def _layers() -> nn.Module:
    settings = {"num_channels": 1, "num_filters": 64, "kernel_h": 7, "kernel_w": 3, "kernel_c": 1}
    settings |= {"stride_conv": 1, "pool": 2, "stride_pool": 2, "num_class": 2}
    network: nn.Module = import_module("relaynet_pytorch.relay_net").ReLayNet(settings)
    return network.train()


HELD_BACK_NINTH: Mapping[str, Entry] = {
    "cosmic-conn UNet": Entry(
        "cosmic_conn",
        network_of(
            "cosmic_conn.dl_framework.unet",
            "UNet_module",
            1,
            1,
            8,
            "group",
            (4, 0, False),
            "resnet",
            "stride",
            "upscale",
            True,
        ),
        Truth(_FOUR, _RAYS, (1, 2, 3)),
        {"channels": 1},
    ),
    "viscy Unet25d": Entry(
        "viscy",
        network_of(
            "viscy.unet.networks.Unet25D", "Unet25d", num_blocks=3, num_filters=[4, 8, 8, 16]
        ),
        Truth(((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)), _STACKS, (1, 2, 3)),
        {"channels": 1, "size": (5, 32, 32), "other": (9, 48, 32)},
    ),
    "cleanunet CleanUNet": Entry(
        "cleanunet",
        network_of(
            "cleanunet",
            "CleanUNet",
            channels_H=8,
            max_H=16,
            encoder_n_layers=4,
            tsfm_n_layers=1,
            tsfm_n_head=2,
            tsfm_d_model=16,
            tsfm_d_inner=32,
        ),
        Truth(_FIVE, _CLEAN, (1, 2, 3, 4)),
        {"channels": 1, "size": (2048,), "other": (3000,)},
    ),
    "denoiser Demucs": Entry(
        "denoiser",
        network_of("denoiser.demucs", "Demucs", hidden=8, depth=3, resample=1),
        Truth((1, 4, 16, 64), _DENOISER, (1, 2, 3)),
        {"channels": 1, "size": (2048,), "other": (3000,)},
    ),
    # built for one size
    "dynamic-unet DynamicUNet": Entry(
        "dynamic_unet",
        _hooked,
        Truth(HALVES, _HOOKS, (1, 2, 3, 4, 5)),
        {"size": (128, 128), "other": None},
    ),
    "asteroid SuDORMRFImproved": Entry(
        "asteroid",
        network_of(
            "asteroid.masknn.convolutional",
            "SuDORMRFImproved",
            8,
            2,
            bn_chan=8,
            num_blocks=2,
            upsampling_depth=3,
        ),
        Truth(_THREE, _BLOCKS, (1, 2)),
        {"channels": 8, "size": (256,), "other": (404,)},
    ),
    "score-models DDPM": Entry(
        "score_models",
        network_of(
            "score_models.architectures.ddpm",
            "DDPM",
            channels=3,
            nf=16,
            ch_mult=(1, 1, 2),
            num_res_blocks=1,
        ),
        Truth(_THREE, _SCORES, (1, 2)),
        {"arrange": _two},
    ),
    # pads to what fits; adds noise
    "snac SNAC": Entry(
        "snac",
        network_of(
            "snac",
            "SNAC",
            encoder_dim=8,
            encoder_rates=[2, 2, 4],
            decoder_dim=64,
            decoder_rates=[4, 2, 2],
            attn_window_size=4,
            codebook_size=16,
            codebook_dim=4,
            vq_strides=[2, 1],
        ),
        Truth((1, 2, 4, 16, 32), _CODES, (1, 2, 3, 4)),
        {"channels": 1, "size": (1024,), "other": (1500,)},
    ),
    "satlaspretrain-models Model": Entry(
        "satlaspretrain_models", _satellite, Truth(HALVES, _SATELLITE, (1, 2, 3, 4, 5))
    ),
    # its finest map is at one half
    "sleap-nn UNet": Entry(
        "sleap_nn",
        network_of(
            "sleap_nn.architectures.unet",
            "UNet",
            output_stride=2,
            in_channels=1,
            filters=8,
            filters_rate=2,
            down_blocks=3,
            up_blocks=2,
        ),
        Truth(_FOUR, _poses(), (2, 3)),
        {"channels": 1},
    ),
    "modulaic ConditionalUNetGenerator": Entry(
        "modulaic",
        network_of(
            "modulaic.models.generator",
            "ConditionalUNetGenerator",
            3,
            3,
            condition_dim=4,
            depth=3,
            base_channels=8,
        ),
        Truth(_THREE, _CONDITIONED, (1, 2)),
        {
            "other": (75, 97),
            "extra": lambda batch: {"condition": torch.linspace(-1, 1, 4 * batch).view(batch, 4)},
        },
    ),
    "neuroimaging UNet3D": Entry(
        "neuroimaging_models",
        network_of("neuroimaging_models.unet3d", "UNet3D", 1, 2, [4, 8, 16], 32),
        Truth(_FOUR, _BRAIN, (1, 2, 3)),
        {"channels": 1, "size": (16, 32, 16), "other": (24, 16, 32)},
    ),
    "relaynet-pytorch ReLayNet": Entry(
        "relaynet_pytorch",
        _layers,
        Truth(_FOUR, _LAYERS, (1, 2, 3)),
        {"channels": 1},
    ),
    "octopytorch Tiramisu": Entry(
        "models",
        network_of(
            "models.tiramisu",
            "Tiramisu",
            3,
            2,
            init_conv_filters=8,
            structure=([2, 2], 2, [2, 2]),
            growth_rate=4,
            early_transition=True,
        ),
        Truth(_FOUR, _TIRAMISU, (1, 2, 3)),
        {"other": (75, 97)},
    ),
    "torchvf H2Model": Entry(
        "torchvf",
        network_of("torchvf.models.models", "H2Model", 1),
        Truth(_FOUR, _FIELDS, (1, 2, 3)),
        {"channels": 1},
    ),
    "patchgan UNet": Entry(
        "patchgan",
        network_of("patchgan.unet", "UNet", 3, 2, nf=4),
        Truth((1, 2, 4, 8, 16, 32, 64, 128), _PATCHES, (1, 2, 3, 4, 5, 6, 7)),
        {"size": (256, 256), "other": (384, 256)},
    ),
    "tnet-segmentation TNet": Entry(
        "TNet_Segmentation",
        network_of("TNet_Segmentation.net", "TNet", emb_size=16),
        Truth(_FOUR, _UNPOOLED, (1, 2, 3)),
    ),
    "segmentation-models-pytorch-3d Linknet": Entry(
        "segmentation_models_pytorch_3d",
        network_of(
            "segmentation_models_pytorch_3d",
            "Linknet",
            "resnet18",
            encoder_weights=None,
            in_channels=1,
            classes=2,
        ),
        Truth(HALVES, resnet() | LINKNET, (1, 2, 3, 4, 5)),
        {"channels": 1, "size": (32, 32, 32), "other": (64, 32, 32)},
    ),
    "pretrained-backbones-unet Unet": Entry(
        "backbones_unet",
        network_of(
            "backbones_unet.model.unet",
            "Unet",
            backbone="resnet18",
            pretrained=False,
            in_channels=3,
            num_classes=2,
        ),
        Truth(HALVES, _BACKBONE, (1, 2, 3, 4, 5)),
    ),
    # its heads are at a quarter
    "empanada-dl PanopticBiFPN": Entry(
        "empanada",
        network_of(
            "empanada.models.panoptic_bifpn",
            "PanopticBiFPN",
            "resnet18",
            num_classes=1,
            fpn_dim=16,
            fpn_layers=1,
        ),
        Truth((1, 2, 4, 8, 16, 32, 64, 128), _features(), (3, 4, 5, 6, 7)),
        {"channels": 1, "size": (128, 128), "other": (256, 128)},
    ),
}
"""All of them, by name."""

"""Eight more, of libraries, written down when the reader was frozen once more, read after that.

What came out at the first reading stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from matrix.held_back import monai_net
from matrix.more import Entry, smp_net
from matrix.truth import HALVES, Truth, unet_decoder

_SIDES = ("encoder", "decoder")


def _noisy_signals() -> nn.Module:
    from diffusers import UNet1DModel

    # the time has 64 channels, which are joined to the two of the signal
    model: nn.Module = UNet1DModel(sample_size=256, extra_in_channels=64)
    return model


def _deep_compression() -> nn.Module:
    from diffusers import AutoencoderDC

    model: nn.Module = AutoencoderDC(
        latent_channels=8,
        **{f"{side}_block_out_channels": (16, 32, 32) for side in _SIDES},
        **{f"{side}_layers_per_block": (1, 1, 1) for side in _SIDES},
        **{f"{side}_qkv_multiscales": ((), (), ()) for side in _SIDES},
    )
    return model


def _temporal_decoder() -> nn.Module:
    from diffusers import AutoencoderKLTemporalDecoder

    model: nn.Module = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32)
    )
    return model


def _dense_prediction() -> nn.Module:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
    )
    return DPTForDepthEstimation(config)


# a block pools after its separable convolutions; the 1x1 convolution beside them strides
_BESIDE = ("skip", "skipbn")
_XCEPTION = {
    **{f"encoder.{name}": "encoder 1" for name in ("conv1", "bn1", "conv2", "bn2")},
    **{f"encoder.block{i}": f"encoder {i}" for i in (1, 2, 3)},
    **{f"encoder.block{i}.{name}": f"encoder {i + 1}" for i in (1, 2, 3) for name in _BESIDE},
    **{f"encoder.block{i}": "encoder 4" for i in range(4, 13)},
    **{f"encoder.block12.{name}": "bottleneck" for name in _BESIDE},
    **{f"encoder.{name}": "bottleneck" for name in ("conv3", "bn3", "conv4", "bn4")},
}
_LOCALNET = {
    "encode_convs.0": "encoder 0",
    "encode_convs.1": "encoder 1",
    "bottom_block": "bottleneck",
    # a transposed convolution beside a resized copy
    "decode_deconvs.0": "decoder 1",
    "decode_convs.0": "decoder 1",
    "decode_deconvs.1": "decoder 0",
    "decode_convs.1": "decoder 0",
    # one for each level that is extracted
    "output_block": "head",
}
# a map of labels, resized to each level, says how features are scaled and shifted
_LABELS = ("mlp_shared", "mlp_gamma", "mlp_beta")
_SPADE = {
    "encoder.blocks": "bottleneck",
    "encoder.blocks.0": "encoder 0",
    "encoder.blocks.1": "encoder 0",
    # two outputs on the way
    "quant_conv_mu": "bottleneck | head",
    "quant_conv_log_sigma": "bottleneck | head",
    "post_quant_conv": "bottleneck",
    "decoder.blocks": "bottleneck",
    "decoder.blocks.5": "decoder 0",
    "decoder.blocks.6": "decoder 0",
    **{f"decoder.blocks.6.norm{i}.{name}": "skip 0" for i in (1, 2) for name in _LABELS},
    "decoder.blocks.7": "decoder 0 | head",
    "decoder.blocks.8": "head",
}
_SIGNALS = {
    # one vector for all positions
    "time_proj": "encoder 0 | none",
    "down_blocks.0": "encoder 0",
    # a block filters and strides before its layers, with fixed numbers
    "down_blocks.1": "encoder 1",
    "down_blocks.2": "encoder 2",
    "mid_block": "bottleneck",
    "up_blocks.0": "decoder 2",
    "up_blocks.1": "decoder 1",
    "up_blocks.2": "decoder 0",
    "up_blocks.2.resnets.2.conv_2": "head",
    "up_blocks.2.resnets.2.conv_skip": "head",
}
_COMPRESSION = {
    "encoder.conv_in": "encoder 0",
    # pixels become channels after the convolution
    "encoder.down_blocks.0": "encoder 0",
    "encoder.down_blocks.1": "encoder 1",
    "encoder.down_blocks.2": "bottleneck",
    "encoder.conv_out": "bottleneck",
    "decoder.conv_in": "bottleneck",
    "decoder.up_blocks.2": "bottleneck",
    # channels become pixels after the first convolution of a block
    "decoder.up_blocks.1.0": "bottleneck",
    "decoder.up_blocks.1.1": "decoder 1",
    "decoder.up_blocks.0.0": "decoder 1",
    "decoder.up_blocks.0.1": "decoder 0",
    "decoder.norm_out": "decoder 0 | head",
    "decoder.conv_out": "head",
}
_TEMPORAL = {
    "encoder.conv_in": "encoder 0",
    "encoder.down_blocks.0": "encoder 0",
    "encoder.down_blocks.0.downsamplers": "bottleneck",
    "encoder.down_blocks.1": "bottleneck",
    "encoder.mid_block": "bottleneck",
    "encoder.conv_norm_out": "bottleneck",
    "encoder.conv_out": "bottleneck",
    "quant_conv": "bottleneck",
    "decoder.conv_in": "bottleneck",
    "decoder.mid_block": "bottleneck",
    # called between two layers of a block, of which there is one
    "decoder.mid_block.attentions": "dead",
    "decoder.up_blocks.0": "bottleneck",
    "decoder.up_blocks.0.upsamplers": "decoder 0",
    "decoder.up_blocks.1": "decoder 0",
    "decoder.conv_norm_out": "decoder 0",
    "decoder.conv_out": "decoder 0",
    # over frames, last of all
    "decoder.time_conv_out": "head",
}
_REASSEMBLE, _FUSION = "neck.reassemble_stage", "neck.fusion_stage.layers"
# the transformer works at 1/16; its four outputs are brought to 1/4, 1/8, 1/16 and 1/32
_DPT = {
    "dpt": "encoder 4",
    "dpt.layernorm": "dead",
    **{f"{_REASSEMBLE}.readout_projects.{i}": "skip 4" for i in range(3)},
    f"{_REASSEMBLE}.readout_projects.3": "encoder 4",
    **{f"{_REASSEMBLE}.layers.{i}.projection": "skip 4" for i in range(3)},
    f"{_REASSEMBLE}.layers.3.projection": "encoder 4",
    f"{_REASSEMBLE}.layers.0.resize": "decoder 2",
    f"{_REASSEMBLE}.layers.1.resize": "decoder 3",
    f"{_REASSEMBLE}.layers.3.resize": "bottleneck",
    "neck.convs.0": "decoder 2",
    "neck.convs.1": "decoder 3",
    "neck.convs.2": "skip 4",
    "neck.convs.3": "bottleneck",
    # the first layer sees the sum, the second one feature alone; a projection follows x2
    f"{_FUSION}.0.residual_layer1": "dead",
    f"{_FUSION}.0.residual_layer2": "bottleneck",
    f"{_FUSION}.0.projection": "decoder 4",
    f"{_FUSION}.1.residual_layer1": "skip 4",
    f"{_FUSION}.1.residual_layer2": "decoder 4",
    f"{_FUSION}.1.projection": "decoder 3",
    f"{_FUSION}.2": "decoder 3",
    f"{_FUSION}.2.projection": "decoder 2",
    f"{_FUSION}.3": "decoder 2",
    f"{_FUSION}.3.projection": "decoder 1",
    "head.head.0": "decoder 1",
    "head.head.2": "decoder 0",
    "head.head.4": "head",
}

HELD_BACK_FOURTH: Mapping[str, Entry] = {
    # pyramid pooling at an eighth, and a resize
    "smp PSPNet resnet18": Entry(
        "segmentation_models_pytorch",
        smp_net("PSPNet", "resnet18"),
        Truth((), {}, (), refusal=("deepest level",)),
    ),
    "smp Unet xception": Entry(
        "segmentation_models_pytorch",
        smp_net("Unet", "xception"),
        Truth(HALVES, {**_XCEPTION, **unet_decoder(6)}, (1, 2, 3, 4, 5)),
    ),
    "monai LocalNet 2-D": Entry(
        "monai",
        monai_net("LocalNet", 2, 1, 8, (0, 1, 2), out_channels=2),
        Truth((1, 2, 4), _LOCALNET, (1, 2)),
        {"channels": 1},
    ),
    "monai SPADEAutoencoderKL 2-D": Entry(
        "monai",
        monai_net(
            "SPADEAutoencoderKL",
            2,
            1,
            num_res_blocks=(1, 1),
            channels=(8, 16),
            attention_levels=(False, False),
            norm_num_groups=4,
            spade_intermediate_channels=8,
        ),
        Truth((1, 2), _SPADE, (1,)),
        {"channels": 1, "arrange": lambda x: (x, x.flip(-1))},
    ),
    "diffusers UNet1DModel": Entry(
        "diffusers",
        _noisy_signals,
        Truth((1, 2, 4, 8), _SIGNALS, (1, 2, 3)),
        {
            "channels": 2,
            "size": (256,),
            "other": (320,),
            "extra": lambda batch: {"timestep": torch.arange(1, batch + 1)},
        },
    ),
    "diffusers AutoencoderDC": Entry(
        "diffusers", _deep_compression, Truth((1, 2, 4), _COMPRESSION, (1, 2))
    ),
    "diffusers AutoencoderKLTemporalDecoder": Entry(
        "diffusers", _temporal_decoder, Truth((1, 2), _TEMPORAL, (1,))
    ),
    "transformers DPT": Entry(
        "transformers",
        _dense_prediction,
        Truth(HALVES, _DPT, (1, 2, 3, 4, 5)),
        {"other": (96, 96)},  # the side is the root of the number of tokens
    ),
}
"""All of them, by name."""

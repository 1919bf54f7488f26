"""A nineteenth list: the next twenty classes of the draw of the sixteenth to the eighteenth.

The universe, the rule and the order are those of `matrix.held_back_sixteenth`: listed anew, it has
402 names as before, and the sixty of the three lists before are among its first 261 in their order.
This list goes on at the 262nd name: at most four of one library, and none that a list or the matrix
holds. 114 more were drawn, to the 375th; a class is skipped only for a reason of `SKIPPED`. Of each
the network is taken at a small width where its settings have one. The sizes are such as a user
would give: frames of optical flow are no multiples of the strides, clips are shorter than the
pieces that a long one is cut into. None was taken out for what the reader says of it, and none was
read before this was written down, from its source and from the shapes that plain hooks see.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from matrix.drawn import FIVE, NO_DECODER, SIXTY_FOURTH, pair
from matrix.more import ALL, Entry, network_of
from matrix.truth import HALVES, QUARTER_FIRST, Truth, widening

SKIPPED: Mapping[str, int] = {
    "another encoder or another end of one that is held, with the same forward; a copy": 28,
    "in a list or the matrix already": 18,
    "a fifth of its library": 13,
    "optical flow that is refined at the deepest level and raised without a decoder": 7,
    "is handed its network": 7,
    "a part of a network, a layer or a loss": 6,
    "returns a list of objects (a detector)": 6,
    "of one resolution, or of vectors": 4,
    "has no forward, or one that only encodes": 4,
    "no network: a dictionary, a mixture or a solver": 1,
}
"""How many were skipped, and why."""

_THREE, _FOUR = (1, 2, 4), (1, 2, 4, 8)


# networks with settings of several parts ---------------------------------------------------------
def _tasked() -> nn.Module:
    package = import_module("transformers")
    backbone = package.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = package.OneFormerConfig(
        backbone_config=backbone,
        num_queries=6,
        task_seq_len=8,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=64,
        query_dec_layers=1,
        num_labels=3,
    )
    model: nn.Module = package.OneFormerForUniversalSegmentation(config)
    return model.train()


def _heard_twice() -> nn.Module:
    package = import_module("transformers")
    sound = package.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[8, 5, 4, 2], decoder_hidden_size=32
    )
    words = package.HubertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
    )
    config = package.XcodecConfig(
        acoustic_model_config=sound,
        semantic_model_config=words,
        target_bandwidths=(0.2, 0.4),
        codebook_size=16,
    )
    model: nn.Module = package.XcodecModel(config)
    for part in model.modules():  # codebooks are zero until they are trained
        if type(part).__name__ == "XcodecEuclideanCodebook":
            part.embed.normal_()
    return model.train()


def _canopy() -> nn.Module:
    package = import_module("transformers")
    backbone = package.DINOv3ViTConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=True,
        apply_layernorm=True,
        return_class_token=True,
    )
    config = package.CHMv2Config(
        backbone_config=backbone,
        post_process_channels=[8, 16, 24, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
        number_output_channels=8,
    )
    model: nn.Module = package.CHMv2ForDepthEstimation(config)
    return model.train()


def _dilated() -> nn.Module:
    package = import_module("transformers")
    config = package.MobileNetV2Config(depth_multiplier=0.35, num_labels=3)
    model: nn.Module = package.MobileNetV2ForSemanticSegmentation(config)
    return model.train()


# optical flow ------------------------------------------------------------------------------------
# the image is pooled to every level, and brought straight to an eighth again at the end
_POOLED = {
    **{f"backbone.block1_{i}": "encoder 3" for i in (1, 2, 3, 4)},
    "backbone.block1_dd": "encoder 3",
    **{f"backbone.block{part}": "bottleneck" for part in ("1_ds", "2", "2_dd")},
    **dict.fromkeys(("cross_attn_s16", "flow_attn_s16"), "bottleneck"),
    **dict.fromkeys(("merge_s8", "refine_s8", "upsample_s1"), "decoder 3"),
    "conv_s8": "skip 3",
    "upsample_s1.conv3": "head",
}
# the same estimators at every level, the deepest first, both ways; occlusions go on to full
# resolution
_BOTH_WAYS = {
    **{f"feature_pyramid_extractor.convs.{i}": f"encoder {i + 1}" for i in range(5)},
    **dict.fromkeys(("feature_pyramid_extractor.convs.5", "conv_1x1.0"), "bottleneck"),
    **dict.fromkeys(
        ("flow_and_occ_estimators", "context_networks", "refine_flow", "refine_occ"), "bottleneck"
    ),
    **{f"conv_1x1.{i}": f"skip {6 - i}" for i in (1, 2, 3)},
    "conv_1x1_time": "dead",  # what it says goes to the next pair of frames
    "conv_1x1_1": "skip 1",
    "occ_shuffle_upsample": "decoder 1",
}
# three U-nets in a row
_FIRST, _SECOND, _THIRD = "flownetc", "flownets_1", "flownets_2"
_ROW = {
    **{f"{_FIRST}.conv{i}": f"encoder {i}" for i in range(1, 6)},
    **{f"{_FIRST}.{part}": "encoder 3" for part in ("conv_redir", "conv3_1")},
    **{f"{_FIRST}.conv{i}_1": f"encoder {i}" for i in (4, 5)},
    **{f"{net}.conv{i}": f"decoder {i}" for net in (_SECOND, _THIRD) for i in range(1, 6)},
    **{f"{net}.conv{i}_1": f"decoder {i}" for net in (_SECOND, _THIRD) for i in (3, 4, 5)},
    **{
        f"{net}.{part}": "bottleneck"
        for net in (_FIRST, _SECOND, _THIRD)
        for part in ("conv6", "conv6_1", "predict_flow6")
    },
    **{
        f"{net}.{part}{i}": f"decoder {i}"
        for net in (_FIRST, _SECOND, _THIRD)
        for part in ("deconv", "predict_flow")
        for i in (2, 3, 4, 5)
    },
    **{
        f"{net}.upsampled_flow{i + 1}_to_{i}": f"decoder {i}"
        for net in (_FIRST, _SECOND, _THIRD)
        for i in (2, 3, 4, 5)
    },
    f"{_THIRD}.predict_flow2": "head",
}
# no kernel follows the last two predictions
_WARPED = {
    **{f"conv{i}{part}": f"encoder {i}" for i in range(1, 6) for part in ("a", "aa", "b")},
    **{f"conv6{part}": "bottleneck" for part in ("a", "aa", "b")},
    **{f"conv6_{j}": "bottleneck" for j in range(5)},
    "predict_flow6": "bottleneck",
    **{f"conv{i}_{j}": f"decoder {i}" for i in (2, 3, 4, 5) for j in range(5)},
    **{f"{part}{i + 1}": f"decoder {i}" for part in ("deconv", "upfeat") for i in (2, 3, 4, 5)},
    **{f"predict_flow{i}": f"decoder {i}" for i in (3, 4, 5)},
    "predict_flow2": "head",
    **{f"dc_conv{i}": "decoder 2" for i in range(1, 7)},
    "dc_conv7": "head",
}

# clips -------------------------------------------------------------------------------------------
# a clip of one piece; sides are halved before time, and time is doubled before them
_CLIPS = (
    *((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 4, 4), (2, 4, 4), (4, 4, 4), (2, 8, 8), (4, 8, 8)),
)
_ENDS = ("encoder.mid", "encoder.norm_out", "encoder.conv_out", "decoder.conv_in", "decoder.mid")
_PIECES = {
    **dict.fromkeys(("encoder.conv_in", "encoder.down.0"), "encoder 0"),
    "encoder.down.0.downsample": "encoder 2",
    "encoder.down.0.downsample.spatial_conv": "encoder 1",
    "encoder.down.1": "encoder 2",
    "encoder.down.1.downsample": "encoder 5",
    "encoder.down.1.downsample.spatial_conv": "encoder 4",
    "encoder.down.2": "encoder 5",
    **dict.fromkeys(("encoder.down.2.downsample", "encoder.down.3", *_ENDS), "bottleneck"),
    "decoder.up.3": "bottleneck",
    "decoder.up.3.upsample": "decoder 4",
    "decoder.up.3.upsample.temporal_conv": "decoder 6",
    "decoder.up.2": "decoder 4",
    "decoder.up.2.upsample": "decoder 1",
    "decoder.up.2.upsample.temporal_conv": "decoder 3",
    "decoder.up.1": "decoder 1",
    **dict.fromkeys(("decoder.up.1.upsample", "decoder.up.0", "decoder.norm_out"), "decoder 0"),
    "decoder.conv_out": "head",
}
# time is halved at the second level and the third, and doubled there
_SEGMENTS = {
    **dict.fromkeys(("encoder.conv_in", "encoder.down.0"), "encoder 0"),
    **dict.fromkeys(("encoder.down.0.downsample", "encoder.down.1"), "encoder 1"),
    "encoder.down.1.downsample": "encoder 4",
    **{
        f"encoder.down.1.downsample.{part}": "encoder 3"
        for part in ("spatial_conv", "temporal_conv.0")
    },
    "encoder.down.2": "encoder 4",
    "encoder.down.2.downsample": "bottleneck",
    **{
        f"encoder.down.2.downsample.{part}": "encoder 6"
        for part in ("spatial_conv", "temporal_conv.0")
    },
    **dict.fromkeys(("encoder.down.3", "decoder.up.3", *_ENDS), "bottleneck"),
    **dict.fromkeys(("decoder.up.3.upsample", "decoder.up.2"), "decoder 5"),
    "decoder.up.2.upsample": "decoder 2",
    "decoder.up.2.upsample.temporal_conv": "decoder 4",
    "decoder.up.1": "decoder 2",
    "decoder.up.1.upsample": "decoder 0",
    "decoder.up.1.upsample.temporal_conv": "decoder 1",
    **dict.fromkeys(("decoder.up.0", "decoder.norm_out"), "decoder 0"),
    "decoder.conv_out": "head",
}
# the last two of three halve time too on the way down, and the last two double it on the way up
_CAUSAL_AT = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 8, 8))
_CAUSAL = {
    **dict.fromkeys(("encoder.conv_in", "encoder.down_blocks.0"), "encoder 0"),
    **dict.fromkeys(("encoder.down_blocks.0.downsamplers", "encoder.down_blocks.1"), "encoder 1"),
    **dict.fromkeys(("encoder.down_blocks.1.downsamplers", "encoder.down_blocks.2"), "encoder 3"),
    **dict.fromkeys(
        (
            *("encoder.down_blocks.2.downsamplers", "encoder.down_blocks.3", "encoder.mid_block"),
            *("encoder.conv_norm_out", "encoder.conv_out", "quant_conv", "post_quant_conv"),
            *("decoder.conv_in", "decoder.mid_block", "decoder.up_blocks.0"),
        ),
        "bottleneck",
    ),
    **dict.fromkeys(("decoder.up_blocks.0.upsamplers", "decoder.up_blocks.1"), "decoder 4"),
    **dict.fromkeys(("decoder.up_blocks.1.upsamplers", "decoder.up_blocks.2"), "decoder 2"),
    **dict.fromkeys(
        (
            *("decoder.up_blocks.2.upsamplers", "decoder.up_blocks.3"),
            "decoder.conv_norm_out",
        ),
        "decoder 0",
    ),
    "decoder.conv_out": "head",
}
_VOLUME = {
    "in_tr": "encoder 0",
    **{f"down_tr{32 * 2**i}": f"encoder {i + 1}" for i in range(3)},
    "down_tr256": "bottleneck",
    **{f"up_tr{32 * 2**i}": f"decoder {i}" for i in range(4)},
    "out_tr": "head",
}

# sound -------------------------------------------------------------------------------------------
# samples become a spectrogram, which comes back
_MEL = {
    **dict.fromkeys(("vae.encoder.conv_in", "vae.encoder.down.0"), "encoder 1"),
    # its own is a factor of its last kernel
    **dict.fromkeys(("vae.encoder", "vae.encoder.down.0.downsample.conv2"), "bottleneck"),
    "vae.decoder": "decoder 1 | head",
    **{f"vae.decoder.{part}": "bottleneck" for part in ("conv_in", "mid", "up.1", "up.2")},
    **dict.fromkeys(("vae.decoder.up.1.upsample", "vae.decoder.up.0"), "decoder 1"),
    "vae.decoder.conv_out": "head",
}
_HUBERT = "semantic_model.feature_extractor.conv_layers"
# two encoders; the one for words strides by other numbers
_TWICE = {
    **dict.fromkeys(("acoustic_encoder.conv1", "acoustic_encoder.block.0"), "encoder 0"),
    **{f"acoustic_encoder.block.{i}": f"encoder {2 * i}" for i in (1, 2, 3)},
    **{f"acoustic_encoder.block.{i}.conv1": f"encoder {2 * i + 2}" for i in (0, 1, 2)},
    **dict.fromkeys(
        (
            *("acoustic_encoder.block.3.conv1", "acoustic_encoder.snake1"),
            *("acoustic_encoder.conv2", "encoder_semantic", "fc", "fc2", "acoustic_decoder.conv1"),
            *("acoustic_decoder.block.0.snake1", f"{_HUBERT}.6"),
            *("semantic_model.feature_projection", "semantic_model.encoder"),
        ),
        "bottleneck",
    ),
    **{f"{_HUBERT}.{i}": f"encoder {i + 1}" for i in range(6)},
    # it stands for masked frames; the others are for a loss
    **dict.fromkeys(("semantic_model", "decoder_semantic", "fc1"), "dead"),
    **{f"acoustic_decoder.block.{i}": f"decoder {6 - 2 * i}" for i in range(4)},
    **{f"acoustic_decoder.block.{i}.snake1": f"decoder {8 - 2 * i}" for i in (1, 2, 3)},
    "acoustic_decoder.snake1": "decoder 0",
    "acoustic_decoder.conv2": "head",
}
_STRIDED = ("conv2", "bn2")
# a spectrogram of real and imaginary parts
_DENOISED = {
    **dict.fromkeys(("inc", "in_bn"), "encoder 0"),
    **{f"down_conv_blocks.{i}": f"encoder {i}" for i in range(5)},
    **{f"down_conv_blocks.{i}.{part}": f"encoder {i + 1}" for i in range(4) for part in _STRIDED},
    **{f"down_conv_blocks.4.{part}": "bottleneck" for part in _STRIDED},
    **dict.fromkeys(("conv5", "bn5"), "bottleneck"),
    **{f"up_conv_blocks.{i}": f"decoder {4 - i}" for i in range(5)},
    "outc": "head",
}

# images ------------------------------------------------------------------------------------------
_PIXELS = "model.pixel_level_module"
_SWIN = f"{_PIXELS}.encoder.swin"
_ASKING = "model.transformer_module"
# tokens of three levels in one sequence, which are asked one level after the other by vectors that
# were made of a finer map; masks say where to look next
_VECTORS = "bottleneck | decoder 1 | decoder 2 | decoder 3"
_TASKED = {
    # for images alone, and for a loss
    **dict.fromkeys((f"{_SWIN}.layernorm", "criterion"), "dead"),
    f"{_SWIN}.embeddings": "encoder 1",
    **{f"{_SWIN}.encoder.layers.{i}": f"encoder {i + 1}" for i in range(3)},
    **{f"{_SWIN}.encoder.layers.{i}.downsample": f"encoder {i + 2}" for i in (0, 1)},
    **dict.fromkeys(
        (f"{_SWIN}.encoder.layers.2.downsample", f"{_SWIN}.encoder.layers.3"), "bottleneck"
    ),
    # behind vectors that ask the deepest level
    f"{_PIXELS}.encoder.hidden_states_norms.stage1": "skip 1 | encoder 1",
    f"{_PIXELS}.decoder.adapter_1": "skip 1 | encoder 1",
    # tokens of the deepest level are taken out of the sequence again
    **{f"{_PIXELS}.encoder.hidden_states_norms.stage{i}": f"encoder {i}" for i in (2, 3)},
    f"{_PIXELS}.encoder.hidden_states_norms.stage4": "bottleneck",
    f"{_PIXELS}.decoder": "decoder 2",
    **{f"{_PIXELS}.decoder.input_projections.{i}": f"encoder {4 - i}" for i in (1, 2)},
    f"{_PIXELS}.decoder.input_projections.0": "bottleneck",
    f"{_PIXELS}.decoder.layer_1": "decoder 1",
    f"{_PIXELS}.decoder.mask_projection": "decoder 1 | head",
    f"{_ASKING}.level_embed": "bottleneck",
    # made without the image
    **dict.fromkeys(
        (f"{_ASKING}.queries_embedder", "model.task_encoder", f"{_ASKING}.decoder.decoder_norm"),
        f"{_VECTORS} | none",
    ),
    f"{_ASKING}.decoder.query_transformer": f"{_VECTORS} | none",
    f"{_ASKING}.decoder.query_input_projection": "decoder 1",
    f"{_ASKING}.decoder.layers": _VECTORS,
    f"{_ASKING}.decoder.mask_embed": f"{_VECTORS} | head",
    f"{_ASKING}.decoder.class_embed": "head",
}
_ZOOM, _FUSION = "head.reassemble_stage", "head.fusion_layers"
# a transformer's four outputs are brought to four sizes, as in DPT
_DENSE = {
    "backbone": "encoder 4",
    **{f"{_ZOOM}.readout_projects.{i}": "skip 4" for i in range(3)},
    f"{_ZOOM}.readout_projects.3": "encoder 4",
    **{f"{_ZOOM}.layers.{i}.projection": "skip 4" for i in range(3)},
    f"{_ZOOM}.layers.3.projection": "encoder 4",
    f"{_ZOOM}.layers.0.resize": "decoder 2",
    f"{_ZOOM}.layers.1.resize": "decoder 3",
    f"{_ZOOM}.layers.3.resize": "bottleneck",
    "head.convs.0": "decoder 2",
    "head.convs.1": "decoder 3",
    "head.convs.2": "skip 4",
    "head.convs.3": "bottleneck",
    f"{_FUSION}.0": "bottleneck",
    f"{_FUSION}.0.projection": "decoder 4",
    f"{_FUSION}.1.residual_layer1": "skip 4",
    f"{_FUSION}.1.residual_layer2": "decoder 4",
    f"{_FUSION}.1.projection": "decoder 3",
    f"{_FUSION}.2": "decoder 3",
    f"{_FUSION}.2.projection": "decoder 2",
    f"{_FUSION}.3": "decoder 2",
    f"{_FUSION}.3.projection": "decoder 1",
    "head.conv_depth.head.0": "decoder 1",
    "head.conv_depth.head.2": "decoder 0",
    "head.conv_depth.head.4": "head",
}
_LAYER = "mobilenet_v2.layer"
_EVEN = {
    "mobilenet_v2.conv_stem": "encoder 1",
    **{f"{_LAYER}.{i}": "encoder 2" for i in (0, 1)},
    **{f"{_LAYER}.{i}": "encoder 3" for i in (2, 3, 4)},
    **{f"{_LAYER}.{i}": "encoder 4" for i in range(5, 12)},
    **{f"{_LAYER}.{i}": "bottleneck" for i in range(12, 16)},
    **widening(f"{_LAYER}.0", ("expand_1x1",), "encoder 1", "encoder 2"),
    **widening(f"{_LAYER}.2", ("expand_1x1",), "encoder 2", "encoder 3"),
    **widening(f"{_LAYER}.5", ("expand_1x1",), "encoder 3", "encoder 4"),
    **widening(f"{_LAYER}.12", ("expand_1x1",), "encoder 4", "bottleneck"),
    "mobilenet_v2.conv_1x1": "dead",  # for a classifier
    "segmentation_head": "bottleneck",
    "segmentation_head.classifier": "head",
}
# metadata scale and shift one level; the vector hangs on no image, and meets it there
_SCALED = {
    **{f"encoder.down_path.{3 * i}": f"encoder {i}" for i in range(4)},
    "encoder.down_path.4": "encoder 1",
    "encoder.conv_bottom": "bottleneck",
    **{f"decoder.up_path.{2 * i}": f"decoder {3 - i}" for i in range(4)},
    "decoder.last_conv": "head",
}
# one encoder for each contrast; mean and variance of those that are there, as a mask says
_CONTRASTS = {
    **{
        f"Encoder_mod.Encoder_{name}.down_path.{3 * i}": f"encoder {i}"
        for name in ("T1w", "T2w")
        for i in range(3)
    },
    **{f"Encoder_mod.Encoder_{name}.conv_bottom": "bottleneck" for name in ("T1w", "T2w")},
    **{f"decoder.up_path.{2 * i}": f"decoder {2 - i}" for i in range(3)},
    "decoder.last_conv": "head",
}
_CODED = {
    **{f"g_a.{i}": f"encoder {1 + i // 2}" for i in range(6)},
    **dict.fromkeys(("g_a.6", "h_a.0"), "encoder 4"),
    "h_a.2": "encoder 5",
    "h_a.4": "bottleneck",
    "entropy_bottleneck": "bottleneck | head",
    "h_s.0": "decoder 5",
    **dict.fromkeys(("h_s.2", "h_s.4", "QuantABCD"), "decoder 4"),
    **{f"g_s.{i}": f"decoder {3 - i // 2}" for i in range(6)},
    "g_s.6": "decoder 0 | head",
}
# a factor of what is coded, before anything comes up to it
_RATE = {**_CODED, "": "skip 4"}
# a factor of what is coded less what comes up
_RATE_LESS_MEAN = {**_CODED, "": "decoder 4"}
_PLAIN = {
    "stem": "encoder 0",
    **{f"hg.down_seq.down{i}": f"encoder {i}" for i in (1, 2, 3)},
    "hg.down_seq.down4": "bottleneck",
    # each convolves first and comes up then; the first has no weights
    **{f"hg.up_seq.up{i}": f"decoder {5 - i}" for i in (2, 3, 4)},
    "head.conv1": "decoder 0",
    "head.conv2": "head",
}
_SAMPLED = {
    **{f"encoder.blocks.{i}": "encoder 0" for i in (0, 1)},
    **{f"encoder.blocks.{i}": "encoder 1" for i in (2, 3)},
    **{f"encoder.blocks.{i}": "bottleneck" for i in range(4, 12)},
    # two outputs on the way
    **dict.fromkeys(("quant_conv_mu", "quant_conv_log_sigma"), "bottleneck | head"),
    "post_quant_conv": "bottleneck",
    **{f"decoder.blocks.{i}": "bottleneck" for i in range(6)},
    **{f"decoder.blocks.{i}": "decoder 1" for i in (6, 7)},
    **{f"decoder.blocks.{i}": "decoder 0" for i in (8, 9, 10)},
    "decoder.blocks.11": "head",
}


def _image_and_task(image: Tensor) -> tuple[Tensor, Tensor]:
    """The image, and eight numbers of the words that name the task."""
    return image, torch.arange(8.0).repeat(len(image), 1)


def _image_and_facts(image: Tensor) -> tuple[Tensor, Tensor]:
    """The image, and three numbers about how it was taken."""
    return image, torch.arange(3.0).repeat(len(image), 1)


def _contrasts(image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Two images of one body, and which of them are there."""
    return [image[:, :1], image[:, 1:]], torch.ones(len(image), 2, dtype=torch.bool)


def _samples(sound: Tensor) -> Tensor:
    """Samples without an axis of channels."""
    return sound[:, 0]


_FRAMES: Mapping[str, Any] = {
    "channels": 6,
    "size": (120, 160),
    "other": (136, 200),
    "given": True,
    "arrange": pair,
}
# the number of frames is four times any, and one
_CLIP: Mapping[str, Any] = {"size": (9, 32, 32), "other": (13, 48, 32), "given": True}

HELD_BACK_NINETEENTH: Mapping[str, Entry] = {
    "ptlflow NeuFlow": Entry(
        "ptlflow",
        network_of("ptlflow.models.neuflow.neuflow", "NeuFlow", feature_dim=32),
        Truth(FIVE, _POOLED, (4,)),
        _FRAMES,
    ),
    # it is not made to train, and refuses to; a pair of frames, though it takes more
    "ptlflow StarFlow": Entry(
        "ptlflow",
        network_of("ptlflow.models.starflow.starflow", "StarFlow", search_range=1),
        Truth(SIXTY_FOURTH, _BOTH_WAYS, (1, 2, 3, 4, 5, 6)),
        _FRAMES,
    ),
    "diffusers AutoencoderKLKVAEVideo": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLKVAEVideo",
            ch=32,
            ch_mult=(1, 1, 2, 2),
            num_res_blocks=1,
            z_channels=4,
        ),
        Truth(_CLIPS, _PIECES, (1, 2, 3, 4, 5, 6, 7)),
        _CLIP,
    ),
    "diffusers Kandinsky6SRVAE": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "Kandinsky6SRVAE",
            latent_channels=4,
            encoder_block_out_channels=(8, 16, 16, 32),
            decoder_block_out_channels=(8, 16, 32, 32),
            layers_per_block=1,
        ),
        Truth(_CLIPS, _SEGMENTS, (1, 2, 3, 4, 5, 6, 7)),
        _CLIP,
    ),
    # queries of which a mask leaves nothing to look at are found by their number
    "transformers OneFormerForUniversalSegmentation": Entry(
        "transformers",
        _tasked,
        Truth(QUARTER_FIRST, _TASKED, (2, 3, 4), refusal=("values",)),
        {"size": (96, 96), "other": (128, 160), "given": True, "arrange": _image_and_task},
    ),
    # made for windows of 3,000 samples, and so documented: 31 frequencies at 201 times
    "seisbench DeepDenoiser": Entry(
        "seisbench",
        network_of("seisbench.models", "DeepDenoiser"),
        Truth(HALVES, _DENOISED, ALL),
        {"channels": 2, "size": (31, 201), "other": None},
    ),
    "ivadomed FiLMedUnet": Entry(
        "ivadomed",
        network_of(
            "ivadomed.models",
            "FiLMedUnet",
            depth=4,
            n_metadata=3,
            film_layers=[0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            n_filters=8,
        ),
        Truth(FIVE, _SCALED, (1, 2, 3, 4)),
        {"channels": 1, "given": True, "arrange": _image_and_facts},
    ),
    "compressai ScaleHyperpriorVbr": Entry(
        "compressai",
        network_of("compressai.models", "ScaleHyperpriorVbr", 8, 12),
        Truth(SIXTY_FOURTH, _RATE, (1, 2, 3, 4, 5, 6)),
        {"other": (128, 192)},
    ),
    "diffusers AutoencoderKLHunyuanVideo": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLHunyuanVideo",
            latent_channels=4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        Truth(_CAUSAL_AT, _CAUSAL, (1, 2, 3, 4, 5)),
        _CLIP,
    ),
    # the codes are returned as well
    "transformers XcodecModel": Entry(
        "transformers",
        _heard_twice,
        Truth((1, 5, 10, 20, 40, 80, 160, 320), _TWICE, (1, 2, 3, 4, 5, 6, 7)),
        {"channels": 1, "size": (6400,), "other": (9600,), "given": True},
    ),
    # nothing with weights works on the samples
    "diffusers MMAudioVAE": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "MMAudioVAE",
            mel_bins=16,
            latent_channels=4,
            hidden_channels=16,
            layers_per_block=1,
            n_fft=256,
            hop_length=64,
        ),
        Truth((1, 64, 128), _MEL, (2,)),
        {"channels": 1, "size": (4096,), "other": (6144,), "given": True, "arrange": _samples},
    ),
    "monai AutoencoderKL": Entry(
        "monai",
        network_of(
            "monai.networks.nets",
            "AutoencoderKL",
            2,
            1,
            1,
            num_res_blocks=1,
            channels=(8, 16, 16),
            attention_levels=(False, False, True),
            norm_num_groups=4,
        ),
        Truth(_THREE, _SAMPLED, (1, 2)),
        {"channels": 1},
    ),
    "transformers CHMv2ForDepthEstimation": Entry(
        "transformers",
        _canopy,
        Truth(HALVES, _DENSE, ALL),
        {"size": (96, 96), "other": (128, 160)},
    ),
    # its normalisations move their statistics whenever they are called
    "elektronn3 VNet": Entry(
        "elektronn3",
        network_of("elektronn3.models.vnet", "VNet"),
        Truth(FIVE, _VOLUME, (1, 2, 3, 4)),
        {"channels": 1, "size": (32, 32, 32), "other": (32, 64, 48)},
    ),
    "transformers MobileNetV2ForSemanticSegmentation": Entry(
        "transformers",
        _dilated,
        Truth(HALVES, _EVEN, (), refusal=NO_DECODER),
        {"size": (65, 65), "other": (129, 129)},
    ),
    "pytorchcv UNet": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.unet", "UNet", [[16, 32, 64, 64], [64, 32, 16, 8]], 8),
        Truth(FIVE, _PLAIN, (1, 2, 3, 4)),
    ),
    "compressai MeanScaleHyperpriorVbr": Entry(
        "compressai",
        network_of("compressai.models", "MeanScaleHyperpriorVbr", 8, 12),
        Truth(SIXTY_FOURTH, _RATE_LESS_MEAN, (1, 2, 3, 4, 5, 6)),
        {"other": (128, 192)},
    ),
    # it has one width
    "ptlflow FlowNetCSS": Entry(
        "ptlflow",
        network_of("ptlflow.models.flownet.flownetcss", "FlowNetCSS"),
        Truth(SIXTY_FOURTH, _ROW, (3, 4, 5, 6)),
        _FRAMES,
    ),
    # it has one width; a mask picks images, and the batch is worked on one by one
    "ivadomed HeMISUnet": Entry(
        "ivadomed",
        network_of("ivadomed.models", "HeMISUnet", ["T1w", "T2w"], depth=3),
        Truth(_FOUR, _CONTRASTS, (1, 2, 3), refusal=("values",)),
        {"channels": 2, "given": True, "arrange": _contrasts},
    ),
    "ptlflow PWCDCNet": Entry(
        "ptlflow",
        network_of("ptlflow.models.pwcnet.pwcnet", "PWCDCNet", md=1),
        Truth(SIXTY_FOURTH, _WARPED, (3, 4, 5, 6)),
        _FRAMES,
    ),
}
"""All of them, by name."""

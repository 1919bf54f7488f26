"""A sixteenth list: twenty classes of the large libraries, drawn by a rule and not by taste.

The lists before were drawn from packages by their names; these are networks that users of large
libraries take. Of 25 libraries (transformers, diffusers, monai, segmentation_models_pytorch,
torchvision, kornia, torchaudio, dynamic_network_architectures, neuralop, deepinv, speechbrain,
torchseg, compressai, ptlflow, torchgeo, seisbench, pytorchcv, spandrel, tiatoolbox, celldetection,
elektronn3, ivadomed, asteroid, the_well, fastmri) all public classes of networks in their packages
of models were listed, of transformers those that inherit directly from one of its
``PreTrainedModel`` classes. The universe is those whose name holds one of `WORDS` and does not end
in one of `PARTS` (402). Their names with the library's before them, sorted, in the order of
``random.Random(16).sample(names, len(names))``: at most four of one library, and none that a list
or the matrix holds. 68 were drawn; a class is skipped only for a reason of `SKIPPED`. Of each the
network is taken at a small width where its settings have one. None was taken out for what the
reader says of it, and none was read before this was written down, from its source and from the
shapes that plain hooks see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from matrix.drawn import FRAMES, SIXTY_FOURTH, SLICES, TIME
from matrix.more import ALL, Entry, network_of
from matrix.truth import HALVES, TRUTH, Truth, widening

WORDS = (
    *("u_?net", "v_?net", "auto_?enc", "vae", "vq", "segm", "depth", "image_?to_?image"),
    *("super_?res", "matting", "codec", "dac", "tokenizer", "masked_?image", "pose", "fcn", "fpn"),
    *("deep_?lab", "link_?net", "psp", "flow", "pwc", "glass", "denois", "restor", "diffusion"),
    *("prior", "control_?net"),
)
"""Patterns that a name holds, whatever the case of its letters."""
PARTS = (
    *("Block", "Layer", "Layers", "Encoder", "Decoder", "Head", "Loss", "Bottleneck", "Conv"),
    *("Stage", "Module", "Output", "Attention", "Norm", "Base", "Mixin", "Embedding", "Embeddings"),
    *("Unit", "Upsample", "Downsample", "Wrapper", "Branch", "Pooling", "Stem", "Neck"),
    *("PreTrainedModel", "Discriminator", "Adapter", "Detector", "Extractor"),
)
"""Ends of names, with "2D" and the like behind them, that say a part (but for AutoEncoder)."""
SKIPPED: Mapping[str, int] = {
    "in a list or the matrix already": 10,
    "a fifth of its library": 9,
    "another encoder or another end of one that is held, with the same forward; a copy": 6,
    "returns a list of objects (a detector)": 5,
    "a part of a network, a layer or a loss": 5,
    "optical flow that is refined at the deepest level and raised without a decoder": 5,
    "of one resolution, or of vectors": 3,
    "has no forward, or one that only encodes": 2,
    "is handed its network": 1,
    "fails when it is called with a batch of two": 1,
    "sees an image at its own size and at a fixed one, so that its levels are not defined": 1,
}
"""How many were skipped, and why."""

_THREE = (1, 2, 4)
_PATCHES = (1, 1.75, 3.5, 7, 14, 28)


# networks with settings of several parts ---------------------------------------------------------
def _sapiens() -> nn.Module:
    package = import_module("transformers")
    config = package.Sapiens2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        num_labels=4,
        head_config={"upsample_out_channels": [16, 16, 8, 8], "conv_out_channels": [8]},
    )
    model: nn.Module = package.Sapiens2ForImageMatting(config)
    return model.train()


def _queries() -> nn.Module:
    package = import_module("transformers")
    config = package.EomtDinov3Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        num_queries=5,
        num_blocks=1,
        num_labels=3,
        num_upscale_blocks=2,
    )
    model: nn.Module = package.EomtDinov3ForUniversalSegmentation(config)
    return model.train()


def _prompted() -> nn.Module:
    package = import_module("transformers")
    backbone = package.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = package.PromptDepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 32, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    model: nn.Module = package.PromptDepthAnythingForDepthEstimation(config)
    return model.train()


def _metric() -> nn.Module:
    package = import_module("transformers")
    backbone = package.BeitConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
        use_shared_relative_position_bias=False,
        use_absolute_position_embeddings=False,
    )
    config = package.ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 16, 32, 32],
        fusion_hidden_size=16,
        bottleneck_features=16,
        num_relative_features=8,
        bin_embedding_dim=16,
        add_projection=False,
    )
    model: nn.Module = package.ZoeDepthForDepthEstimation(config)
    return model.train()


def _cunet(name: str) -> Callable[[], nn.Module]:
    return network_of("spandrel.architectures.RealCUGAN.__arch.upcunet_v3", name)


# optical flow ------------------------------------------------------------------------------------
# deformed by the flow so far; masks and flows come up by a filter without weights, and no kernel
# follows the last two predictions
_MASKED = {
    **{f"conv{i}{j}": f"encoder {i}" for i in range(1, 6) for j in "abc"},
    **{f"conv6{j}": "bottleneck" for j in "abc"},
    **{f"conv6_{j}": "bottleneck" for j in range(5)},
    **dict.fromkeys(("pred_flow6", "pred_mask6"), "bottleneck"),
    **{f"conv{i}_{j}": f"decoder {i}" for i in range(2, 6) for j in range(5)},
    **{f"{part}{i}": f"decoder {i}" for part in ("upfeat", "deform") for i in range(2, 6)},
    **{f"conv{i}f": f"decoder {i}" for i in range(2, 6)},
    **{f"pred_{what}{i}": f"decoder {i}" for what in ("flow", "mask") for i in (3, 4, 5)},
    "pred_flow2": "head",
    **{f"dc_conv{i}": "decoder 2" for i in range(1, 7)},
    "dc_conv7": "head",
}
# the same estimators at every level, the deepest first
_ITERATED = {
    **{f"feature_pyramid_extractor.convs.{i}": f"encoder {i + 1}" for i in range(5)},
    **dict.fromkeys(
        ("feature_pyramid_extractor.convs.5", "flow_estimators", "context_networks", "conv_1x1.0"),
        "bottleneck",
    ),
    **{f"conv_1x1.{i}": f"skip {6 - i}" for i in (1, 2, 3, 4)},
}
# occlusions go on to full resolution
_SHARED = {
    **_ITERATED,
    **dict.fromkeys(
        ("occ_estimators", "occ_context_networks", "refine_flow", "refine_occ"), "bottleneck"
    ),
    "conv_1x1_1": "skip 1",
    "occ_shuffle_upsample": "decoder 1",
}

# clips -------------------------------------------------------------------------------------------
_CLIPS = ((1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8), (4, 16, 16))
# encoded by convolutions; tokens of the deepest level become all pixels by the last layer
_TOKENS = {
    "encoder": "bottleneck",
    "encoder.conv_in": "encoder 0",
    **{f"encoder.down_blocks.{i}": f"encoder {i}" for i in range(4)},
    **{f"encoder.down_blocks.{i}.downsamplers": f"encoder {i + 1}" for i in range(3)},
    **dict.fromkeys(
        (
            *("encoder.down_blocks.3.downsamplers", "encoder.down_blocks.4"),
            *("encoder.down_blocks.5", "quant_conv", "post_quant_conv", "decoder"),
        ),
        "bottleneck",
    ),
    "decoder.proj_out": "head",
}
_WAN = ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 4, 4), (2, 8, 8), (4, 8, 8))
# the first frame alone, then four at a time; time is halved behind a kernel that halves the sides
_STREAMED = {
    **dict.fromkeys(("encoder.conv_in", "encoder.down_blocks.0"), "encoder 0"),
    **dict.fromkeys(("encoder.down_blocks.1", "encoder.down_blocks.2"), "encoder 1"),
    "encoder.down_blocks.3.resample": "encoder 2",
    **dict.fromkeys(("encoder.down_blocks.3.time_conv", "encoder.down_blocks.4"), "encoder 3"),
    "encoder.down_blocks.5.resample": "encoder 4",
    **dict.fromkeys(
        (
            *("encoder.down_blocks.5.time_conv", "encoder.down_blocks.6", "encoder.mid_block"),
            *("encoder.norm_out", "encoder.conv_out", "quant_conv", "post_quant_conv"),
            *("decoder.conv_in", "decoder.mid_block", "decoder.up_blocks.0"),
        ),
        "bottleneck",
    ),
    "decoder.up_blocks.0.upsamplers.0.resample": "decoder 3",
    "decoder.up_blocks.1": "decoder 3",
    "decoder.up_blocks.1.upsamplers.0.resample": "decoder 1",
    "decoder.up_blocks.2": "decoder 1",
    "decoder.up_blocks.2.upsamplers": "decoder 0",
    **dict.fromkeys(("decoder.up_blocks.3", "decoder.norm_out"), "decoder 0"),
    "decoder.conv_out": "head",
}
_LTX = ((1, 1, 1), (1, 4, 4), (1, 8, 8), (2, 8, 8), (4, 16, 16), (8, 32, 32))
# pixels become channels behind the kernels of a level, and channels pixels
_FOLDED = {
    "encoder.conv_in": "encoder 1",
    **{f"encoder.down_blocks.{i}": f"encoder {i + 1}" for i in range(4)},
    **dict.fromkeys(
        (
            *("encoder.mid_block", "encoder.conv_out", "decoder.conv_in", "decoder.mid_block"),
            "decoder.up_blocks.0",
        ),
        "bottleneck",
    ),
    "decoder.up_blocks.0.resnets": "decoder 4",
    "decoder.up_blocks.1": "decoder 4",
    "decoder.up_blocks.1.resnets": "decoder 3",
    "decoder.up_blocks.2": "decoder 3",
    "decoder.up_blocks.2.resnets": "decoder 1",
    "decoder.conv_out": "head",
}

# images ------------------------------------------------------------------------------------------
# the coarsest map is pooled once more, and returned: a level without weights
_PYRAMID = {
    "body.0": "encoder 1",
    **widening("body.1", ("0.0",), "encoder 1", "encoder 2"),
    **widening("body.2", ("0.0",), "encoder 2", "encoder 3"),
    **widening("body.3", ("0.0",), "encoder 3", "encoder 4"),
    **{f"fpn.inner_blocks.{i}": f"skip {i + 1}" for i in range(3)},
    "fpn.inner_blocks.3": "encoder 4",
    **{f"fpn.layer_blocks.{i}": "head" for i in range(3)},
    "fpn.layer_blocks.3": "encoder 4 | head",
}
_BRIDGED = {
    "body.0": "encoder 2",
    **widening("body.1", ("0.0",), "encoder 2", "encoder 3"),
    **widening("body.2", ("0.0",), "encoder 3", "encoder 4"),
    **widening("body.3", ("0.0",), "encoder 4", "bottleneck"),
    **{f"unet.inner_blocks.{i}": f"decoder {i}" for i in (1, 2, 3)},
    **{f"unet.layer_blocks.{i}": f"decoder {i}" for i in range(5)},
    "unet.out_layer": "head",
}
_DREAM = {
    "conv_in": "encoder 0",
    "time_embedding": TIME,
    "down_blocks.0": "encoder 0",
    **dict.fromkeys(("down_blocks.0.downsamplers", "down_blocks.1"), "encoder 1"),
    **dict.fromkeys(
        ("down_blocks.1.downsamplers", "down_blocks.2", "mid_block", "up_blocks.0"), "bottleneck"
    ),
    **dict.fromkeys(("up_blocks.0.upsamplers", "up_blocks.1"), "decoder 1"),
    **dict.fromkeys(("up_blocks.1.upsamplers", "up_blocks.2"), "decoder 0"),
    "conv_norm_out": "decoder 0 | head",
    "conv_out": "head",
}
_UNPADDED = {
    **{f"conv{i}": f"encoder {i // 2}" for i in range(6)},
    **dict.fromkeys(("conv6", "conv7"), "bottleneck"),
    **{f"upconv{i}": f"decoder {2 - i}" for i in range(3)},
    **{f"mconv{i}": f"decoder {2 - i // 2}" for i in range(6)},
    "conv_final": "head",
}
# one value after the other is quantised, by what was before it and by what comes up
_CONTEXT = "skip 4 | decoder 4"
_CODED = {
    **{f"g_a.{i}": f"encoder {1 + i // 2}" for i in range(6)},
    **dict.fromkeys(("g_a.6", "h_a.0"), "encoder 4"),
    "h_a.2": "encoder 5",
    "h_a.4": "bottleneck",
    "entropy_bottleneck": "bottleneck | head",
    "h_s.0": "decoder 5",
    **dict.fromkeys(("h_s.2", "h_s.4", "entropy_parameters", "QuantABCD"), "decoder 4"),
    **dict.fromkeys(("", "context_prediction", "scale_to_context"), _CONTEXT),
    **{f"g_s.{i}": f"decoder {3 - i // 2}" for i in range(6)},
    "g_s.6": "decoder 0 | head",
}
_MATTING = {
    "model": "bottleneck",
    **{f"decode_head.upsample_layers.{i}": f"decoder {3 - i}" for i in range(4)},
    "decode_head.conv_layers": "decoder 0",
    "decode_head.predictor": "head",
}
# the second U-net leaves the level of its input for a moment, and goes no deeper than the first
_TWICE = {
    "unet1.conv1": "encoder 2",
    **dict.fromkeys(("unet1.conv1_down", "unet1.conv2"), "bottleneck"),
    **dict.fromkeys(("unet1.conv2_up", "unet1.conv3"), "decoder 2"),
    **dict.fromkeys(("unet1.conv_bottom", "unet2"), "decoder 1"),
    "conv_final": "head",
}
# a norm comes before the filter that halves or doubles, a kernel after it
_ADM = {
    **dict.fromkeys(("map_layer0", "map_layer1"), TIME),
    **dict.fromkeys(("enc.32x32_conv", "enc.32x32_block0"), "encoder 0"),
    "enc.16x16_down": "encoder 1",
    "enc.16x16_down.norm0": "encoder 0",
    "enc.16x16_block0": "encoder 1",
    "enc.8x8_down": "bottleneck",
    "enc.8x8_down.norm0": "encoder 1",
    **dict.fromkeys(
        ("enc.8x8_block0", *(f"dec.8x8_{part}{i}" for part in ("in", "block") for i in (0, 1))),
        "bottleneck",
    ),
    **dict.fromkeys(("dec.16x16_up", "dec.16x16_block0", "dec.16x16_block1"), "decoder 1"),
    "dec.16x16_up.norm0": "bottleneck",
    **dict.fromkeys(("dec.32x32_up", "dec.32x32_block0", "dec.32x32_block1"), "decoder 0"),
    "dec.32x32_up.norm0": "decoder 1",
    "out_norm": "decoder 0",
    "out_conv": "head",
}
# queries join the tokens; the masks made of both tell the last block where to look, so that
# layers are called twice, and lie where they are called first
_ASKED = {
    **dict.fromkeys(("embeddings", "layernorm", "query", "layers"), "bottleneck"),
    "upscale_block.block.0": "decoder 2",
    "upscale_block.block.1": "decoder 1",
    "mask_head": "bottleneck | decoder 1",
    "class_predictor": "head",
}
_ZOOM, _FUSION = "neck.reassemble_stage", "neck.fusion_stage.layers"
# a transformer's four outputs are brought to four sizes, as in DPT
_DENSE = {
    "backbone": "encoder 4",
    **{f"{_ZOOM}.layers.{i}.projection": "skip 4" for i in range(3)},
    f"{_ZOOM}.layers.3.projection": "encoder 4",
    f"{_ZOOM}.layers.0.resize": "decoder 2",
    f"{_ZOOM}.layers.1.resize": "decoder 3",
    f"{_ZOOM}.layers.3.resize": "bottleneck",
    "neck.convs.0": "decoder 2",
    "neck.convs.1": "decoder 3",
    "neck.convs.2": "skip 4",
    "neck.convs.3": "bottleneck",
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
}
# the depths that are known are resized to every level
_KNOWN = {
    **_DENSE,
    f"{_FUSION}.0.prompt_depth_layer": "bottleneck",
    **{f"{_FUSION}.{i}.prompt_depth_layer": f"skip {5 - i}" for i in (1, 2, 3)},
    "head.conv1": "decoder 1",
    "head.conv2": "decoder 0",
    "head.conv3": "head",
}
# bins of depths are moved at every level, and no kernel follows what moves them
_BINS = {
    **_DENSE,
    **{f"{_ZOOM}.readout_projects.{i}": "skip 4" for i in range(3)},
    f"{_ZOOM}.readout_projects.3": "encoder 4",
    "relative_head.conv1": "decoder 1",
    **dict.fromkeys(("relative_head.conv2", "relative_head.conv3"), "decoder 0"),
    **dict.fromkeys(
        ("metric_head.conv2", "metric_head.seed_bin_regressor", "metric_head.seed_projector"),
        "bottleneck",
    ),
    "metric_head.seed_bin_regressor.conv2": "head",
    **{f"metric_head.projectors.{i}": f"decoder {4 - i}" for i in range(4)},
    **{f"metric_head.attractors.{i}": f"decoder {4 - i}" for i in range(4)},
    **{f"metric_head.attractors.{i}.conv2": "head" for i in range(4)},
    "metric_head.conditional_log_binomial.mlp.0": "decoder 0",
    "metric_head.conditional_log_binomial.mlp.2": "head",
}
# the best places are looked up in the forward, number by number
_POSES = {
    **{f"backbone.{i}": f"encoder {i + 1}" for i in range(4)},
    "backbone.4": "bottleneck",
    **dict.fromkeys(("decoder.init_block", "decoder.unit1"), "bottleneck"),
    "decoder.unit2": "decoder 4",
    "decoder.unit3": "decoder 3",
    "decoder.final_block": "head",
}


def _image_and_depths(image: Tensor) -> tuple[Tensor, Tensor]:
    return image[:, :3], image[:, 3:]


def _sigmas(batch: int) -> Mapping[str, Any]:
    return {"sigma": torch.linspace(0.1, 0.9, batch)}


def _words(batch: int) -> Mapping[str, Any]:
    """Numbers of steps, and seven words of a text."""
    return {
        "timestep": torch.arange(1, batch + 1),
        "encoder_hidden_states": torch.ones(batch, 7, 32),
    }


HELD_BACK_SIXTEENTH: Mapping[str, Entry] = {
    # all maps of the encoder are returned as well
    "ptlflow MaskFlownet_S": Entry(
        "ptlflow",
        network_of("ptlflow.models.maskflownet.maskflownet", "MaskFlownet_S", md=1),
        Truth(SIXTY_FOURTH, _MASKED, (3, 4, 5, 6)),
        FRAMES,
    ),
    "diffusers AutoencoderKLMiniMaxH3": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLMiniMaxH3",
            latent_channels=4,
            block_out_channels=(8, 8, 16, 16, 16, 16),
            layers_per_block=1,
            norm_num_groups=4,
            decoder_num_layers=2,
            decoder_num_attention_heads=2,
            decoder_attention_head_dim=16,
            latents_mean=(0.0,) * 4,
            latents_std=(1.0,) * 4,
        ),
        Truth(
            _CLIPS,
            _TOKENS,
            (),
            refusal=("deepest level", "only goes down", "nothing with weights remains"),
        ),
        # 17 frames are encoded at a time, and the number of frames is 17 times any, and 5
        {"size": (22, 32, 32), "other": (22, 48, 32), "given": True},
    ),
    # images are asked to lie between 0 and 1
    "celldetection ConvNeXtBaseFPN": Entry(
        "celldetection",
        network_of("celldetection.models", "ConvNeXtBaseFPN", 3, fpn_channels=16),
        Truth((1, 4, 8, 16, 32, 64), _PYRAMID, (2, 3, 4)),
        {"arrange": torch.sigmoid},
    ),
    "diffusers DreamLiteUNetModel": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "DreamLiteUNetModel",
            block_out_channels=(32, 64, 64),
            cross_attention_dim=32,
            attention_head_dim=16,
            norm_num_groups=8,
            layers_per_block=1,
        ),
        Truth(_THREE, _DREAM, (1, 2)),
        {"channels": 4, "size": (32, 32), "other": (48, 64), "extra": _words},
    ),
    "diffusers AutoencoderKLWan": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLWan",
            base_dim=8,
            z_dim=4,
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        Truth(_WAN, _STREAMED, (1, 2, 3, 4, 5)),
        # the number of frames is four times any, and one
        {"size": (5, 32, 32), "other": (5, 48, 32), "given": True},
    ),
    "diffusers AutoencoderKLLTX2Video": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLLTX2Video",
            latent_channels=16,
            block_out_channels=(16, 32, 64, 128),
            decoder_block_out_channels=(16, 32, 64),
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 4,
        ),
        Truth(_LTX, _FOLDED, (2, 3, 4, 5)),
        # the number of frames is eight times any, and one
        {"size": (9, 64, 64), "other": (17, 64, 96), "given": True},
    ),
    "celldetection ConvNeXtLargeUNet": Entry(
        "celldetection",
        network_of("celldetection.models", "ConvNeXtLargeUNet", 3, 2, pretrained=False),
        Truth(HALVES, _BRIDGED, ALL),
        {"arrange": torch.sigmoid},
    ),
    # made for one size, and so documented
    "elektronn3 UNet3dLite": Entry(
        "elektronn3",
        network_of("elektronn3.models.unet3d_lite", "UNet3dLite"),
        Truth(SLICES, _UNPADDED, (1, 2, 3)),
        {"channels": 1, "size": (22, 140, 140), "other": None, "given": True},
    ),
    "compressai JointAutoregressiveHierarchicalPriorsVbr": Entry(
        "compressai",
        network_of("compressai.models", "JointAutoregressiveHierarchicalPriorsVbr", 8, 12),
        Truth(SIXTY_FOURTH, _CODED, (1, 2, 3, 4, 5, 6)),
        {"other": None},
    ),
    "transformers Sapiens2ForImageMatting": Entry(
        "transformers", _sapiens, Truth((1, 2, 4, 8, 16), _MATTING, (1, 2, 3, 4))
    ),
    # doubles the image twice; nothing at the level that only an image at its size lies at
    "spandrel UpCunet4x": Entry(
        "spandrel", _cunet("UpCunet4x"), Truth((0.25, 0.5, 1, 2), _TWICE, (2, 3))
    ),
    "deepinv ADMUNet": Entry(
        "deepinv",
        network_of(
            "deepinv.models",
            "ADMUNet",
            img_resolution=32,
            model_channels=32,
            channel_mult=(1, 2, 2),
            num_blocks=1,
            attn_resolutions=(8,),
            pretrained=None,
        ),
        Truth(_THREE, _ADM, (1, 2)),
        {"extra": _sigmas},
    ),
    "ptlflow IRRPWC": Entry(
        "ptlflow",
        network_of("ptlflow.models.irr.irr_pwc", "IRRPWC", search_range=1),
        Truth(SIXTY_FOURTH, _SHARED, (1, 2, 3, 4, 5, 6)),
        FRAMES,
    ),
    "spandrel UpCunet2x_fast": Entry(
        "spandrel", _cunet("UpCunet2x_fast"), Truth((0.5, 1, 2, 4), _TWICE, (2, 3))
    ),
    # what the queries say comes up as vectors, beside the map that they are multiplied with: when
    # this was written down, and first read, no depth could be cut for that
    "transformers EomtDinov3ForUniversalSegmentation": Entry(
        "transformers",
        _queries,
        Truth((1, 4, 8, 16), _ASKED, (2, 3)),
        {"other": None},
    ),
    "transformers PromptDepthAnythingForDepthEstimation": Entry(
        "transformers",
        _prompted,
        Truth(_PATCHES, _KNOWN, ALL),
        {"channels": 4, "size": (112, 112), "other": (168, 224), "given": True}
        | {"arrange": _image_and_depths},
    ),
    "transformers ZoeDepthForDepthEstimation": Entry(
        "transformers", _metric, Truth(HALVES, _BINS, ALL)
    ),
    "pytorchcv SimplePoseMobile": Entry(
        "pytorchcv",
        network_of(
            "pytorchcv.models.simpleposemobile_coco",
            "simplepose_mobile_resnet18_coco",
            pretrained_backbone=False,
        ),
        Truth(HALVES, _POSES, (3, 4, 5), refusal=("values",)),
    ),
    "monai HyenaNDUNETR": Entry(
        "nvsubquadratic",
        network_of(
            "monai.networks.nets",
            "HyenaNDUNETR",
            1,
            2,
            (True, True, False, False),
            feature_size=12,
            depths=(1, 1, 1, 1),
            spatial_dims=2,
        ),
        Truth(HALVES, TRUTH["monai SwinUNETR 2-D"].places, ALL),
        {"channels": 1},
    ),
    "ptlflow IRRPWCNetIRR": Entry(
        "ptlflow",
        network_of("ptlflow.models.irr.pwcnet_irr", "IRRPWCNetIRR", search_range=1),
        Truth(SIXTY_FOURTH, _ITERATED, (3, 4, 5, 6)),
        FRAMES,
    ),
}
"""All of them, by name."""

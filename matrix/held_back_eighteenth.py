"""An eighteenth list: the next twenty classes of the draw of the sixteenth and the seventeenth.

The universe, the rule and the order are those of `matrix.held_back_sixteenth`: listed anew, it has
402 names as before, and the forty of the two lists before are among its first 168 in their order.
This list goes on at the 169th name: at most four of one library, and none that a list or the matrix
holds. 93 more were drawn, to the 261st; a class is skipped only for a reason of `SKIPPED`. Of each
the network is taken at a small width where its settings have one. None was taken out for what the
reader says of it, and none was read before this was written down, from its source and from the
shapes that plain hooks see.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor, nn

from matrix.drawn import FIVE, FRAMES, NO_DECODER, SIXTY_FOURTH, TIME
from matrix.more import ALL, Entry, network_of
from matrix.truth import HALVES, QUARTER_FIRST, Truth

SKIPPED: Mapping[str, int] = {
    "a fifth of its library": 18,
    "another encoder or another end of one that is held, with the same forward; a copy": 11,
    "in a list or the matrix already": 10,
    "is handed its network": 9,
    "of one resolution, or of vectors": 6,
    "returns a list of objects (a detector)": 6,
    "optical flow that is refined at the deepest level and raised without a decoder": 6,
    "a part of a network, a layer or a loss": 3,
    "no network: a dictionary, a mixture or a solver": 3,
    "has no forward, or one that only encodes": 1,
}
"""How many were skipped, and why."""

_THREE, _FOUR = (1, 2, 4), (1, 2, 4, 8)


# networks with settings of several parts ---------------------------------------------------------
def _asked() -> nn.Module:
    package = import_module("transformers")
    backbone = package.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = package.DetrConfig(
        backbone_config=backbone,
        backbone=None,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        num_queries=5,
        encoder_layers=1,
        encoder_ffn_dim=64,
        encoder_attention_heads=8,
        decoder_layers=1,
        decoder_ffn_dim=64,
        decoder_attention_heads=4,
        d_model=128,
    )
    model: nn.Module = package.DetrForSegmentation(config)
    return model.train()


def _named() -> nn.Module:
    package = import_module("transformers")
    words = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    image = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    config = package.CLIPSegConfig(
        text_config=words,
        vision_config=image,
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    model: nn.Module = package.CLIPSegForImageSegmentation(config)
    return model.train()


def _pooled() -> nn.Module:
    package = import_module("transformers")
    config = package.Data2VecVisionConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        out_indices=[2, 3, 4, 5],
        num_labels=3,
        auxiliary_channels=16,
        use_relative_position_bias=True,
    )
    model: nn.Module = package.Data2VecVisionForSemanticSegmentation(config)
    return model.train()


def _shown() -> nn.Module:
    package = import_module("transformers")
    config = package.SegGptConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=[128, 64],
        patch_size=16,
        mlp_dim=64,
        pretrain_image_size=64,
        decoder_hidden_size=8,
        intermediate_hidden_state_indices=[1, 2, 3],
        merge_index=1,
    )
    model: nn.Module = package.SegGptForImageSegmentation(config)
    return model.train()


# optical flow ------------------------------------------------------------------------------------
# estimators of their own at every level; all but the last flow have kernels behind them
_ESTIMATED = {
    **{f"feature_pyramid_extractor.convs.{i}": f"encoder {i + 1}" for i in range(5)},
    **dict.fromkeys(("feature_pyramid_extractor.convs.5", "flow_estimators.0"), "bottleneck"),
    **{f"flow_estimators.{i}": f"decoder {6 - i}" for i in (1, 2, 3, 4)},
    "context_networks": "decoder 2",
    "context_networks.convs.6": "head",
}
_FIRST = "MaskFlownet_S"
# a second encoder for the first image, beside zeros of a mask's size, and for the other, moved by
# the flow of the first network
_TURNS = {i: f"encoder {i} | decoder {i}" for i in range(1, 6)} | {6: "bottleneck"}
_REFINED = {
    **{f"{_FIRST}.conv{i}{j}": f"encoder {i}" for i in range(1, 6) for j in "abc"},
    **{f"{_FIRST}.conv6{j}": "bottleneck" for j in "abc"},
    **{f"{_FIRST}.pred_{what}6": "bottleneck" for what in ("flow", "mask")},
    **{f"{_FIRST}.pred_{what}{i}": f"decoder {i}" for what in ("flow", "mask") for i in (3, 4, 5)},
    f"{_FIRST}.pred_flow2": "decoder 2",
    **{f"{_FIRST}.{part}{i}": f"decoder {i}" for part in ("upfeat", "deform") for i in range(2, 6)},
    **{f"{_FIRST}.conv{i}f": f"decoder {i}" for i in range(2, 6)},
    **{f"conv{i}{j}": _TURNS[i] for i in range(1, 7) for j in "xyz"},
    **dict.fromkeys(("pred_flow6", "deform6"), "bottleneck"),
    **{f"{part}{i}": f"decoder {i}" for part in ("upfeat", "deform") for i in range(2, 6)},
    **{f"pred_flow{i}": f"decoder {i}" for i in (3, 4, 5)},
    "pred_flow2": "head",
    **{
        f"{network}conv{i}_{j}": "bottleneck" if i == 6 else f"decoder {i}"
        for network in ("", f"{_FIRST}.")
        for i in range(2, 7)
        for j in range(5)
    },
    **{f"{network}dc_conv{i}": "decoder 2" for network in ("", f"{_FIRST}.") for i in range(1, 8)},
    "dc_conv7": "head",
}

# sound -------------------------------------------------------------------------------------------
# a block is three residual units, an activation and what strides; or an activation, what strides
# and three units
_SAMPLES = {
    "encoder.layers.0": "encoder 0",
    **{f"encoder.layers.{i}": f"encoder {i - 1}" for i in (1, 2, 3)},
    **{f"encoder.layers.{i}.layers.4": f"encoder {i}" for i in (1, 2)},
    **dict.fromkeys(
        (
            *("encoder.layers.3.layers.4", "encoder.layers.4", "decoder.layers.0"),
            "decoder.layers.1.layers.0",
        ),
        "bottleneck",
    ),
    **{f"decoder.layers.{i}": f"decoder {3 - i}" for i in (1, 2, 3)},
    **{f"decoder.layers.{i}.layers.0": f"decoder {4 - i}" for i in (2, 3)},
    "decoder.layers.4": "decoder 0",
    "decoder.layers.5": "head",
}

# clips -------------------------------------------------------------------------------------------
# images one by one, and attention over the frames at every place
_MOVING = {
    "conv_in": "encoder 0",
    "time_embedding": TIME,
    "down_blocks.0": "encoder 0",
    **dict.fromkeys(("down_blocks.0.downsamplers", "down_blocks.1"), "encoder 1"),
    **dict.fromkeys(
        ("down_blocks.1.downsamplers", "down_blocks.2", "mid_block", "up_blocks.0"), "bottleneck"
    ),
    **dict.fromkeys(("up_blocks.0.upsamplers", "up_blocks.1"), "decoder 1"),
    **dict.fromkeys(
        ("up_blocks.1.upsamplers", "up_blocks.2", "conv_norm_out"),
        "decoder 0",
    ),
    "conv_out": "head",
}

# images ------------------------------------------------------------------------------------------
# the deepest map comes up to every norm of the decoder
_LATENT = {
    "encoder.conv_in": "encoder 0",
    **{f"encoder.down.{i}": f"encoder {i}" for i in range(3)},
    **{f"encoder.down.{i}.downsample": f"encoder {i + 1}" for i in range(2)},
    **dict.fromkeys(
        (
            *("encoder.down.2.downsample", "encoder.down.3", "encoder.mid", "encoder.norm_out"),
            *("encoder.conv_out", "decoder.conv_in", "decoder.mid", "decoder.up.3"),
        ),
        "bottleneck",
    ),
    **{f"decoder.up.{i}": f"decoder {i}" for i in range(3)},
    **{f"decoder.up.{i}.upsample": f"decoder {i - 1}" for i in (1, 2, 3)},
    "decoder.norm_out": "decoder 0",
    "decoder.conv_out": "head",
}
_STAGE = "detr.model.backbone.model.encoder.stages"
# every query has a mask of its own, in a batch as many times as large
_QUERIES = {
    "detr.model": "bottleneck",
    "detr.model.backbone.model.embedder": "encoder 1",
    **{f"{_STAGE}.{i}": f"encoder {i + 2}" for i in range(3)},
    f"{_STAGE}.3": "bottleneck",
    "detr.class_labels_classifier": "head",
    "detr.bbox_predictor": "bottleneck",
    "detr.bbox_predictor.layers.2": "head",
    **dict.fromkeys(("bbox_attention", "mask_head.conv1", "mask_head.conv2"), "bottleneck"),
    **{f"mask_head.fpn_stages.{i}.fpn_adapter": f"skip {4 - i}" for i in range(3)},
    **{f"mask_head.fpn_stages.{i}.refine": f"decoder {4 - i}" for i in range(3)},
    "mask_head.output_conv": "head",
}
_POSES = {
    **dict.fromkeys(("encoder.backbone.init_block", "encoder.backbone.stage1"), "encoder 1"),
    "encoder.backbone.stage2": "encoder 2",
    **dict.fromkeys(("encoder.backbone.stage3", "encoder.final_block", "decoder"), "bottleneck"),
    **{f"decoder.unit1.{bend}_bend.conv2": "head" for bend in ("heatmap", "paf")},
}
_UNET = "decoder_unet"
# a U-net after what is encoded was enlarged, twice in a row; the blocks that halve or double have
# their first norm before it
_CONSISTENT = {
    **dict.fromkeys(("encoder.conv_in", "encoder.down_blocks.0"), "encoder 0"),
    **{f"encoder.down_blocks.{i}": f"encoder {i}" for i in (1, 2)},
    **{f"encoder.down_blocks.{i}.downsamplers": f"encoder {i + 1}" for i in (0, 1)},
    **dict.fromkeys(
        (
            *("encoder.down_blocks.2.downsamplers", "encoder.down_blocks.3", "encoder.mid_block"),
            *("encoder.conv_norm_out", "encoder.conv_out", "quant_conv"),
        ),
        "bottleneck",
    ),
    # numbers of steps that do not hang on the image
    **dict.fromkeys((f"{_UNET}.time_proj", f"{_UNET}.time_embedding"), "decoder 0 | none"),
    f"{_UNET}.conv_in": "decoder 0",
    **{f"{_UNET}.down_blocks.{i}": f"decoder {i}" for i in range(3)},
    **{f"{_UNET}.down_blocks.{i}.downsamplers": f"decoder {i + 1}" for i in range(2)},
    **{f"{_UNET}.down_blocks.{i}.downsamplers.0.norm1": f"decoder {i}" for i in range(3)},
    **dict.fromkeys(
        (
            *(f"{_UNET}.down_blocks.2.downsamplers", f"{_UNET}.down_blocks.3"),
            *(f"{_UNET}.mid_block", f"{_UNET}.up_blocks.0"),
            f"{_UNET}.up_blocks.0.upsamplers.0.norm1",
        ),
        "bottleneck",
    ),
    **{f"{_UNET}.up_blocks.{i}": f"decoder {3 - i}" for i in (1, 2, 3)},
    **{f"{_UNET}.up_blocks.{i}.upsamplers": f"decoder {2 - i}" for i in range(3)},
    **{f"{_UNET}.up_blocks.{i}.upsamplers.0.norm1": f"decoder {3 - i}" for i in (1, 2)},
    # where it is called first there are kernels behind it
    **dict.fromkeys((f"{_UNET}.conv_norm_out", f"{_UNET}.conv_out"), "decoder 0"),
}
_WORDS = "bottleneck | none"
# words say what to look for; one vector of the image is returned as well
_PROMPTED = {
    "clip": "dead",  # a temperature
    "clip.vision_model": "bottleneck",
    "clip.visual_projection": "head",
    **dict.fromkeys(("clip.text_model", "clip.text_projection"), _WORDS),
    "decoder": "bottleneck",
    "decoder.transposed_convolution": "decoder 0 | head",
}
_TRUNK = "data2vec_vision"
# a transformer's four outputs are brought to four sizes
_BROUGHT = {
    _TRUNK: "encoder 3",
    "fpn1": "decoder 2",
    "fpn1.3": "decoder 1",
    "fpn2": "decoder 2",
    **{f"decode_head.{part}": "bottleneck" for part in ("psp_modules", "psp_bottleneck")},
    **{f"decode_head.lateral_convs.{i}": f"decoder {i + 1}" for i in (0, 1)},
    "decode_head.lateral_convs.2": "skip 3",
    **{f"decode_head.fpn_convs.{i}": f"decoder {i + 1}" for i in range(3)},
    "decode_head.fpn_bottleneck": "decoder 1",
    "decode_head.classifier": "head",
    "auxiliary_head": "dead",  # for a loss only, which needs labels
}
_LABELS = ("mlp_shared", "mlp_gamma", "mlp_beta")
_LABELLED = {
    **dict.fromkeys(("conv_in", "down_blocks.0"), "encoder 0"),
    "time_embed": TIME,
    **dict.fromkeys(("down_blocks.0.downsampler", "down_blocks.1"), "encoder 1"),
    **dict.fromkeys(
        ("down_blocks.1.downsampler", "down_blocks.2", "middle_block", "up_blocks.0"), "bottleneck"
    ),
    **dict.fromkeys(("up_blocks.0.upsampler", "up_blocks.1"), "decoder 1"),
    **dict.fromkeys(("up_blocks.1.upsampler", "up_blocks.2", "out.0"), "decoder 0"),
    # labels are resized to every level
    **{
        f"up_blocks.{i}.resnets.*.norm{j}.{name}": f"skip {2 - i}"
        for i in (1, 2)
        for j in (1, 2)
        for name in _LABELS
    },
    "out.2": "head",
}
_CANVAS = {
    **dict.fromkeys(("model", "decoder.decoder_embed"), "bottleneck"),
    "decoder.decoder_pred": "decoder 0",
    "decoder.decoder_pred.head": "head",
}
# hourglasses in a row
_STACKED = {
    **dict.fromkeys(("backbone.conv1", "backbone.res1"), "encoder 1"),
    **dict.fromkeys(("backbone.res2", "backbone.dilation_branch"), "encoder 2"),
    "decoder.pass1.hg.down_seq.down1": "encoder 3",
    "decoder.pass1.hg.down_seq.down2": "encoder 4",
    **{f"decoder.pass1.hg.skip_seq.skip{i}": f"skip {i + 1}" for i in (1, 2, 3)},
    "decoder.pass2.hg.down_seq.down1": "decoder 3",
    "decoder.pass2.hg.down_seq.down2": "decoder 4",
    **{f"decoder.pass2.hg.skip_seq.skip{i}": f"decoder {i + 1}" for i in (1, 2, 3)},
    **{
        f"decoder.pass{i}.hg.{part}": "bottleneck"
        for i in (1, 2)
        for part in ("down_seq.down3", "skip_seq.skip4", "up_seq.up3.res")
    },
    **{f"decoder.pass{i}.hg.up_seq.up{j}.res": f"decoder {j + 2}" for i in (1, 2) for j in (1, 2)},
    **{
        f"decoder.pass{i}.hg.up_seq.up{j}.conv": f"decoder {j + 1}"
        for i in (1, 2)
        for j in (1, 2, 3)
    },
    **{
        f"decoder.pass{i}.{part}": "decoder 2"
        for i in (1, 2)
        for part in ("pre_block", "post_block")
    },
    **{f"decoder.pass1.{part}_merge_block": "decoder 2" for part in ("pre", "post")},
    "decoder.pass2.post_block": "head",
}
# kernels are weighted by a vector of noise
_STYLED = {
    **dict.fromkeys(("style_network", "style_to_conv_modulations"), "encoder 2 | none"),
    **dict.fromkeys(("init_conv", "downs.0"), "encoder 2"),
    **dict.fromkeys(("downs.0.1.1", "downs.1"), "encoder 3"),
    **dict.fromkeys(("downs.1.1.1", "mid_block1", "mid_attn", "mid_block2"), "bottleneck"),
    **{f"ups.{i}": f"decoder {3 - i}" for i in range(4)},
    "final_res_block": "decoder 0",
    "final_to_rgb": "head",
    # a factor that attention at once does not use
    **{f"{attention}.layers.0.0.attend": "dead" for attention in ("mid_attn", "ups.0.1.1")},
}
# the last stage comes up without a stride, and the head by four
_LINKED = {
    "stem": "encoder 1",
    **{f"hg.down_seq.down{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    **dict.fromkeys(("hg.down_seq.down4", "hg.up_seq.up1.conv1"), "bottleneck"),
    **{f"hg.up_seq.up{i}": f"decoder {5 - i}" for i in (1, 2, 3)},
    **{f"hg.up_seq.up{i}.conv1": f"decoder {6 - i}" for i in (2, 3)},
    "hg.up_seq.up4": "decoder 2",
    **dict.fromkeys(("head.conv1", "head.conv2"), "decoder 1"),
    "head.conv3": "decoder 0 | head",
}
_MEASURED = {
    **{f"unet.down_sample_layers.{i}": f"encoder {i}" for i in range(4)},
    "unet.conv": "bottleneck",
    **{
        f"unet.{part}.{i}": f"decoder {3 - i}"
        for part in ("up_transpose_conv", "up_conv")
        for i in range(4)
    },
    "unet.up_conv.3.1": "head",
}
_CLASSIC = {
    **{f"encoder{i}": f"encoder {i - 1}" for i in (1, 2, 3, 4)},
    "bottleneck": "bottleneck",
    **{f"{part}{i}": f"decoder {i - 1}" for part in ("upconv", "decoder") for i in (1, 2, 3, 4)},
    "conv": "head",
}
# the deepest map becomes two vectors, and a map again
_VECTORS = {
    **{f"encode.encode_{i}": f"encoder {i + 1}" for i in (0, 1)},
    **dict.fromkeys(("encode.encode_2", "mu", "logvar", "decodeL"), "bottleneck"),
    **{f"decode.decode_{i}": f"decoder {2 - i}" for i in (0, 1)},
    "decode.decode_2": "decoder 0 | head",
}
_PLAIN = {
    **{f"encoder.down_path.{3 * i}": f"encoder {i}" for i in range(3)},
    "encoder.conv_bottom": "bottleneck",
    **{f"decoder.up_path.{2 * i}": f"decoder {2 - i}" for i in range(3)},
    "decoder.last_conv": "head",
}


def _seven_words(image: Tensor) -> tuple[Tensor, Tensor]:
    """The words that say what to look for, the last one their end, and the image."""
    words = torch.tensor([[1, 5, 6, 7, 8, 9, 2]]).repeat(len(image), 1)
    return words, image


def _noise_and_labels(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return image[:, :3], torch.arange(1, len(image) + 1), image[:, 3:]


def _three_images(image: Tensor) -> tuple[Tensor, ...]:
    """An image, another one, and what is to be seen on that."""
    return image.split(3, 1)


def _noise_and_words(clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, numbers of steps, and seven words for every frame."""
    batch, frames = len(clip), clip.shape[2]
    return clip, torch.arange(1, batch + 1), torch.ones(batch * frames, 7, 32)


def _complex(image: Tensor) -> Tensor:
    """Real and imaginary parts as the last axis: (B, 1, H, W, 2)."""
    return image[:, None].movedim(2, -1)


HELD_BACK_EIGHTEENTH: Mapping[str, Entry] = {
    "diffusers AutoencoderKLKVAE": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLKVAE",
            channels=32,
            num_enc_blocks=1,
            num_dec_blocks=1,
            z_channels=4,
            ch_mult=(1, 1, 2, 2),
        ),
        Truth(_FOUR, _LATENT, (1, 2, 3)),
    ),
    "transformers DetrForSegmentation": Entry(
        "transformers", _asked, Truth(HALVES, _QUERIES, (3, 4, 5))
    ),
    "pytorchcv LwOpenPose": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.lwopenpose_cmupan", "lwopenpose2d_mobilenet_cmupan_coco"),
        Truth(_FOUR, _POSES, (), refusal=NO_DECODER),
    ),
    "diffusers ConsistencyDecoderVAE": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "ConsistencyDecoderVAE",
            encoder_block_out_channels=(8, 16, 16, 16),
            encoder_layers_per_block=1,
            encoder_norm_num_groups=4,
            decoder_block_out_channels=(16, 16, 32, 32),
            decoder_layers_per_block=1,
            decoder_norm_num_groups=4,
        ),
        Truth(_FOUR, _CONSISTENT, (1, 2, 3)),
    ),
    # it takes the image to be square
    "transformers CLIPSegForImageSegmentation": Entry(
        "transformers",
        _named,
        Truth((1, 16), _PROMPTED, (1,)),
        {"other": (128, 128), "given": True, "arrange": _seven_words},
    ),
    "ptlflow IRRPWCNet": Entry(
        "ptlflow",
        network_of("ptlflow.models.irr.pwcnet", "IRRPWCNet", search_range=1),
        Truth(SIXTY_FOURTH, _ESTIMATED, (3, 4, 5, 6)),
        FRAMES,
    ),
    # made for one size
    "transformers Data2VecVisionForSemanticSegmentation": Entry(
        "transformers", _pooled, Truth(QUARTER_FIRST, _BROUGHT, (2, 3, 4)), {"other": None}
    ),
    "ptlflow MaskFlownet": Entry(
        "ptlflow",
        network_of("ptlflow.models.maskflownet.maskflownet", "MaskFlownet", md=1, md2=1),
        Truth(SIXTY_FOURTH, _REFINED, (3, 4, 5, 6)),
        FRAMES,
    ),
    "diffusers LongCatAudioDiTVae": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "LongCatAudioDiTVae",
            channels=8,
            c_mults=[1, 2, 4],
            strides=[2, 4, 8],
            latent_dim=8,
            encoder_latent_dim=16,
        ),
        Truth((1, 2, 8, 64), _SAMPLES, (1, 2, 3)),
        {"channels": 1, "size": (512,), "other": (768,)},
    ),
    "monai SPADEDiffusionModelUNet": Entry(
        "monai",
        network_of(
            "monai.networks.nets",
            "SPADEDiffusionModelUNet",
            2,
            3,
            3,
            4,
            num_res_blocks=1,
            channels=(16, 32, 32),
            attention_levels=(False, False, True),
            norm_num_groups=8,
            spade_intermediate_channels=8,
        ),
        Truth(_THREE, _LABELLED, (1, 2)),
        {"channels": 7, "given": True, "arrange": _noise_and_labels},
    ),
    # the image below another one: twice as high as it comes in, where nothing else is as large as
    # it is; made for one size
    "transformers SegGptForImageSegmentation": Entry(
        "transformers",
        _shown,
        Truth(((0.5, 1), (1, 1), (8, 16)), _CANVAS, (1, 2)),
        {"channels": 9, "other": None, "given": True, "arrange": _three_images},
    ),
    # its U-net works on spectrograms that it makes of samples, and returns samples
    "asteroid DCUNet": Entry(
        "asteroid",
        network_of(
            "asteroid.models",
            "DCUNet",
            "DCUNet-10",
            stft_n_filters=64,
            stft_kernel_size=64,
            stft_stride=16,
            fix_length_mode="pad",
        ),
        Truth((), {}, (), refusal=("spectrogram",)),
        {"channels": 1, "size": (1024,), "other": (1536,)},
    ),
    "diffusers UNetMotionModel": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "UNetMotionModel",
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            num_attention_heads=4,
            motion_num_attention_heads=2,
            down_block_types=(
                *("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
            ),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
            motion_max_seq_length=8,
        ),
        Truth(_THREE, _MOVING, (1, 2)),
        {"channels": 4, "size": (5, 32, 32), "other": (6, 48, 64), "given": True}
        | {"arrange": _noise_and_words},
    ),
    "pytorchcv IbpPose": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.ibppose_coco", "IbpPose", 2, 32, 10, 3, 16, True),
        Truth(HALVES, _STACKED, (3, 4, 5)),
    ),
    # four times as large as the image
    "spandrel UnetUpsampler": Entry(
        "spandrel",
        network_of(
            "spandrel.architectures.AuraSR.__arch.aura_sr",
            "UnetUpsampler",
            dim=8,
            image_size=256,
            input_image_size=64,
            style_network={"dim_in": 16, "dim_out": 16, "depth": 2},
            up_dim_mults=(1, 2, 4, 4),
            down_dim_mults=(4, 4),
            full_attn=(False, False, False, True),
            attn_depths=(1, 1, 1, 1),
            mid_attn_depth=1,
            self_attn_dim_head=8,
            self_attn_heads=2,
        ),
        Truth((0.25, 0.5, 1, 2, 4), _STYLED, (1, 2, 3, 4)),
    ),
    "pytorchcv LinkNet": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.linknet", "linknet_cityscapes"),
        Truth(HALVES, _LINKED, ALL),
    ),
    # complex numbers, and padded to a multiple of 16
    "fastmri NormUnet": Entry(
        "fastmri",
        network_of("fastmri.models.varnet", "NormUnet", 8, 4),
        Truth(FIVE, _MEASURED, (1, 2, 3, 4)),
        {"channels": 2, "given": True, "arrange": _complex},
    ),
    "the_well UNetClassic": Entry(
        "the_well",
        network_of("the_well.benchmark.models", "UNetClassic", 3, 2, 2, (64, 64), init_features=8),
        Truth(FIVE, _CLASSIC, (1, 2, 3, 4)),
    ),
    # made for one size
    "monai VarAutoEncoder": Entry(
        "monai",
        network_of(
            "monai.networks.nets",
            "VarAutoEncoder",
            2,
            (3, 64, 64),
            2,
            16,
            (8, 16, 32),
            (2, 2, 2),
        ),
        Truth(_FOUR, _VECTORS, (1, 2, 3)),
        {"other": None},
    ),
    "ivadomed Unet": Entry(
        "ivadomed",
        network_of("ivadomed.models", "Unet", in_channel=3, out_channel=2, depth=3, n_filters=8),
        Truth(_FOUR, _PLAIN, (1, 2, 3)),
    ),
}
"""All of them, by name."""

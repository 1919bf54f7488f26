"""A seventeenth list: the next twenty classes of the draw of the sixteenth.

The universe, the rule and the order are those of `matrix.held_back_sixteenth`: listed anew, it has
402 names as before, and the twenty of the sixteenth are among its first 68 in their order. This
list goes on at the 69th name: at most four of one library, and none that a list or the matrix
holds. 100 more were drawn, to the 168th; a class is skipped only for a reason of `SKIPPED`. Of each
the network is taken at a small width where its settings have one. None was taken out for what the
reader says of it, and none was read before this was written down, from its source and from the
shapes that plain hooks see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from matrix.drawn import FIVE, FRAMES, NO_DECODER, SIXTY_FOURTH, SLICES, TIME
from matrix.more import ALL, Entry, network_of
from matrix.truth import HALVES, Truth, efficientnet_b0, unet_decoder

SKIPPED: Mapping[str, int] = {
    "a fifth of its library": 25,
    "in a list or the matrix already": 18,
    "another encoder or another end of one that is held, with the same forward; a copy": 18,
    "returns a list of objects (a detector)": 9,
    "is handed its network": 4,
    "has no forward, or one that only encodes": 3,
    "optical flow that is refined at the deepest level and raised without a decoder": 2,
    "of one resolution, or of vectors": 1,
}
"""How many were skipped, and why."""


# networks with settings of several parts ---------------------------------------------------------
def _codec(name: str) -> Callable[[], nn.Module]:
    """An audio codec that hears words by a second encoder."""

    def build() -> nn.Module:
        package = import_module("transformers")
        words = package.Wav2Vec2BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            feature_projection_input_dim=8,
            output_hidden_size=16,
            apply_spec_augment=False,
        )
        config = getattr(package, f"{name}Config")(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            encoder_hidden_size=4,
            semantic_model_config=words,
            quantization_dim=48,
            quantization_levels=(4, 4, 4, 4),
        )
        model: nn.Module = getattr(package, f"{name}Model")(config)
        return model.train()

    return build


def _frames_asked() -> nn.Module:
    package = import_module("transformers")
    config = package.VideomtConfig(
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
    model: nn.Module = package.VideomtForUniversalSegmentation(config)
    return model.train()


def _masked() -> nn.Module:
    package = import_module("transformers")
    config = package.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=2,
        encoder_stride=32,
    )
    model: nn.Module = package.SwinForMaskedImageModeling(config)
    return model.train()


# optical flow ------------------------------------------------------------------------------------
# one kernel makes the maps of both levels, with a stride of one first; both are matched by the same
# transformer, the deepest first
_MATCHED = {
    **dict.fromkeys(("backbone.conv1", "backbone.layer1"), "encoder 1"),
    **dict.fromkeys(("backbone.layer2", "backbone.layer3", "backbone.conv2"), "encoder 2"),
    "backbone.trident_conv": "skip 2",
    **dict.fromkeys(("transformer", "feature_flow_attn"), "bottleneck"),
    "upsampler.0": "decoder 2",
    "upsampler.2": "head",
}
# confidences are predicted beside flows, and all but the last flow have kernels behind them
_CONFIDENT = {
    **{f"feature_net.convs.{i}": f"encoder {i}" for i in range(5)},
    "feature_net.convs.5": "bottleneck",
    **{f"{part}_nets.0": "bottleneck" for part in ("matching", "subpixel", "regularization")},
    **{
        f"{part}_nets.{i}": f"decoder {5 - i}"
        for part in ("matching", "subpixel", "regularization")
        for i in (1, 2, 3)
    },
    **{f"regularization_nets.{i}.feat_conv": f"skip {5 - i}" for i in (2, 3)},
    **{
        f"{part}_nets.{i}": f"decoder {4 - i}"
        for part in ("deformation", "modulation")
        for i in range(3)
    },
    "up_flow": "decoder 0 | head",
}
# the image is pooled to every level; another kernel brings it straight to an eighth at the end
_POOLED = {
    **{f"backbone.block_{name}": "encoder 3" for name in ("8_1", "8_2", "cat_8")},
    **{f"backbone.block_{name}": "bottleneck" for name in ("16_1", "8_16", "cat_16")},
    **dict.fromkeys(("cross_attn_s16", "refine_s16"), "bottleneck"),
    **dict.fromkeys(("merge_s8", "context_merge_s8", "refine_s8"), "decoder 3"),
    "conv_s8": "skip 3",
    **{f"upsample_s8.conv{i}": "decoder 3" for i in (1, 2)},
    "upsample_s8.conv3": "head",
}
# one stage halves three times and one block refines three times, the deepest first; the mask of the
# last flow is made once when it does not train
_RECURRENT = {
    **{f"{net}.stem": "encoder 1" for net in ("fnet", "cnet")},
    **{f"{net}.rec_stage": "encoder 2" for net in ("fnet", "cnet")},
    **{f"{net}.rec_stage.downsample.0": "encoder 1 | encoder 2" for net in ("fnet", "cnet")},
    **{f"{net}.out_layer": "bottleneck" for net in ("fnet", "cnet")},
    "update_block": "bottleneck",
    "upnet_layer": "decoder 3",
    "update_block.mask.0": "decoder 2",
    "update_block.mask.2": "head",
}

# sound -------------------------------------------------------------------------------------------
# the deepest level is turned back into samples by a Fourier transform alone
_HEARD = {
    **dict.fromkeys(("semantic_adapter", "fc_encoder", "quantizer"), "bottleneck"),
    **dict.fromkeys(("acoustic_encoder.snake1", "acoustic_encoder.conv2"), "bottleneck"),
    "semantic_encoder": "dead",  # what it holds itself stands for masked frames
    **{f"semantic_encoder.{part}": "bottleneck" for part in ("feature_projection", "encoder")},
    "acoustic_encoder.conv1": "encoder 0",
    **{f"acoustic_encoder.block.{i}": f"encoder {i}" for i in range(5)},
    **{f"acoustic_encoder.block.{i}.conv1": f"encoder {i + 1}" for i in range(4)},
    "acoustic_encoder.block.4.conv1": "bottleneck",
    "acoustic_decoder": "bottleneck",
    "acoustic_decoder.head.linear": "head",
}
_HEARD_AS = Truth(
    (1, 2, 4, 16, 64, 320),
    _HEARD,
    (),
    refusal=(*NO_DECODER, "only goes down", "nothing with weights remains"),
)
# a token joins every sixteen and stays alone; sixteen join every token and stay
_GATHERED = {
    "encoder.blocks.0": "encoder 1",
    **dict.fromkeys(("encoder.proj", "bottleneck", "decoder.proj"), "bottleneck"),
    "decoder.blocks.0": "decoder 1 | bottleneck",  # the tokens that join
    "decoder.blocks.0.transformers": "decoder 1",
    "decoder.blocks.0.mapping": "head",
}
# what goes in is a spectrogram, and samples come out
_SUNG = {
    **dict.fromkeys(("encoder.layers.0", "encoder.layers.1"), "encoder 1"),
    **dict.fromkeys(("encoder.layers.2", "encoder.layers.3"), "encoder 2"),
    **dict.fromkeys(("encoder.layers.4", "encoder.layers.5", "decoder.conv1"), "bottleneck"),
    **{f"decoder.block.{i}": f"decoder {2 - i}" for i in range(3)},
    "decoder.block.0.snake1": "bottleneck",
    "decoder.block.1.snake1": "decoder 2",
    "decoder.block.2.snake1": "decoder 1",
    "decoder.snake1": "decoder 0",
    "decoder.conv2": "head",
}

# clips -------------------------------------------------------------------------------------------
_THIRDS = ((1, 1, 1), (1, 2, 2), (2, 4, 4), (6, 8, 8))
# channels become pixels and frames behind the last kernel of a level
_UNFOLDED = {
    **dict.fromkeys(("encoder.proj_in", "encoder.block_in"), "encoder 0"),
    "encoder.down_blocks.0": "encoder 1",
    "encoder.down_blocks.1": "encoder 2",
    **dict.fromkeys(
        (
            *("encoder.down_blocks.2", "encoder.block_out", "encoder.norm_out"),
            *("encoder.proj_out", "decoder.conv_in", "decoder.block_in", "decoder.up_blocks.0"),
        ),
        "bottleneck",
    ),
    "decoder.up_blocks.1": "decoder 2",
    "decoder.up_blocks.2": "decoder 1",
    "decoder.block_out": "decoder 0",
    "decoder.proj_out": "head",
}
# queries go on from frame to frame
_ASKED = {
    **dict.fromkeys(("embeddings", "layernorm", "query", "query_updater", "layers"), "bottleneck"),
    "upscale_block.block.0": "decoder 2",
    "upscale_block.block.1": "decoder 1",
    "mask_head": "bottleneck | decoder 1",
    "class_predictor": "head",
}


def _told(block: str, place: str, image: str) -> dict[str, str]:
    """A block, whose cross-attention asks keys and values that the first frame made as well."""
    asked = f"{block}.attentions.*.transformer_blocks.*.attn2"
    return {block: place, **{f"{asked}.{part}": f"{place} | {image}" for part in ("to_k", "to_v")}}


# the first frame is pooled to a fixed size, and every attention asks what comes of it
_SHOWN = {
    **dict.fromkeys(("time_embedding", "fps_embedding", "context_embedding"), TIME),
    **dict.fromkeys(
        (
            *("image_latents_proj_in", "image_latents_temporal_encoder", "conv_in"),
            *("image_latents_context_embedding", "transformer_in", "down_blocks.0"),
        ),
        "encoder 0",
    ),
    "down_blocks.0.downsamplers": "encoder 1",
    **_told("down_blocks.1", "encoder 1", "encoder 0"),
    "down_blocks.1.downsamplers": "encoder 2",
    **_told("down_blocks.2", "encoder 2", "encoder 0"),
    **dict.fromkeys(("down_blocks.2.downsamplers", "down_blocks.3", "up_blocks.0"), "bottleneck"),
    **_told("mid_block", "bottleneck", "encoder 0"),
    "up_blocks.0.upsamplers": "decoder 2",
    **_told("up_blocks.1", "decoder 2", "skip 0"),
    "up_blocks.1.upsamplers": "decoder 1",
    **_told("up_blocks.2", "decoder 1", "skip 0"),
    "up_blocks.2.upsamplers": "decoder 0",
    **_told("up_blocks.3", "decoder 0", "skip 0"),
    "conv_norm_out": "decoder 0",
    "conv_out": "head",
}
# three-dimensional kernels on the way down, frames one after the other at the deepest level, and
# each frame alone on the way up
_COMPLETED = {
    **dict.fromkeys(("hg.down_seq.down1", "hg.down_seq.down2.block1"), "encoder 1"),
    **dict.fromkeys(("hg.down_seq.down2.block2", "hg.down_seq.down3.block1"), "encoder 2"),
    **dict.fromkeys(("hg.down_seq.down3.block2", "hg.skip_seq.skip4"), "bottleneck"),
    "hg.up_seq.up3.conv1": "bottleneck",
    **dict.fromkeys(("hg.up_seq.up3.conv2", "hg.up_seq.up2.conv1"), "decoder 2"),
    **dict.fromkeys(("hg.up_seq.up2.conv2", "hg.up_seq.up1.conv1"), "decoder 1"),
    "hg.up_seq.up1.conv2": "head",
    "edgeDetector": "dead",
}

# images ------------------------------------------------------------------------------------------
_DOWN, _UP = "input_blocks", "output_blocks"
# a block that halves or doubles has its first norm before it
_GUIDED = {
    "time_embed": TIME,
    **{f"{_DOWN}.{i}": f"encoder {i // 2}" for i in range(10)},
    **{f"{_DOWN}.{i}.0.in_layers.0": f"encoder {i // 2 - 1}" for i in (2, 4, 6, 8, 10)},
    **dict.fromkeys((f"{_DOWN}.10", f"{_DOWN}.11", "middle_block"), "bottleneck"),
    **dict.fromkeys((f"{_UP}.0", f"{_UP}.1", f"{_UP}.1.1.in_layers.0"), "bottleneck"),
    "out.0": "decoder 0",
    "out.2": "head",
    **{f"{_UP}.{i}": f"decoder {5 - i // 2}" for i in range(2, 12)},
    "output_blocks.1.1": "decoder 4",
    **{f"{_UP}.{i}.{1 + (i == 3)}": f"decoder {4 - i // 2}" for i in (3, 5, 7, 9)},
    **{f"{_UP}.{i}.{1 + (i == 3)}.in_layers.0": f"decoder {5 - i // 2}" for i in (3, 5, 7, 9)},
    "output_blocks.3.1": "decoder 4",
}
_CODED = {
    **{f"g_a.{i}": f"encoder {1 + i // 2}" for i in range(6)},
    **dict.fromkeys(("g_a.6", "h_a.0"), "encoder 4"),
    "h_a.2": "encoder 5",
    "h_a.4": "bottleneck",
    "entropy_bottleneck": "bottleneck | head",
    "h_s.0": "decoder 5",
    **dict.fromkeys(("h_s.2", "h_s.4"), "decoder 4"),
    **{f"g_s.{i}": f"decoder {3 - i // 2}" for i in range(6)},
    "g_s.6": "decoder 0 | head",
}
# what comes up from below only says how likely the values are
_RATED = {**_CODED, "h_s.4": "head"}
_DILATED = {
    "backbone.0": "encoder 1",
    "backbone.1": "encoder 2",
    **dict.fromkeys(("backbone.2", "backbone.3", "backbone.4", "pool"), "bottleneck"),
    "backbone.2.unit1.body.conv1": "encoder 2 | bottleneck",
    **dict.fromkeys(("final_block", "aux_block"), "bottleneck"),
    **dict.fromkeys(("final_block.conv2", "aux_block.conv2"), "head"),
}
_TISSUE = efficientnet_b0() | unet_decoder(6)
_WINDOWS = {
    "swin.embeddings": "dead",  # a token that stands for masked patches
    **dict.fromkeys(("swin.embeddings.patch_embeddings", "swin.embeddings.norm"), "encoder 1"),
    **{f"swin.encoder.layers.{i}": f"encoder {i + 1}" for i in range(3)},
    **{f"swin.encoder.layers.{i}.downsample": f"encoder {i + 2}" for i in range(2)},
    **dict.fromkeys(
        ("swin.encoder.layers.2.downsample", "swin.encoder.layers.3", "swin.layernorm"),
        "bottleneck",
    ),
    "decoder.0": "bottleneck | head",
}
# every attention of the decoder asks the encoder's map; those of the encoder ask their own
_RESTORED = {
    "encoder.conv_in": "encoder 0",
    **{f"encoder.down.{i}": f"encoder {i}" for i in range(5)},
    **{f"encoder.down.{i}.downsample": f"encoder {i + 1}" for i in range(4)},
    **dict.fromkeys(
        (
            *("encoder.down.4.downsample", "encoder.down.5", "encoder.mid", "encoder.norm_out"),
            *("encoder.conv_out", "quant_conv", "quantize", "post_quant_conv"),
            *("decoder.conv_in", "decoder.mid", "decoder.up.5"),
        ),
        "bottleneck",
    ),
    **dict.fromkeys(("encoder.down.5.attn.*.norm2", "encoder.mid.attn_1.norm2"), "dead"),
    **{f"decoder.up.{i}": f"decoder {i}" for i in range(5)},
    **{f"decoder.up.{i}.upsample": f"decoder {i - 1}" for i in range(1, 6)},
    "decoder.norm_out": "decoder 0",
    "decoder.conv_out": "head",
}


def _sound_and_features(sound: Tensor) -> tuple[Tensor, Tensor]:
    """Samples, and eight features of every 320 of them: (B, L / 320, 8)."""
    return sound, sound[:, 0, ::320, None].repeat(1, 1, 8)


def _frames_first(clip: Tensor) -> Tensor:
    return clip.transpose(1, 2)


def _flows_and_masks(clip: Tensor) -> tuple[Tensor, Tensor]:
    frames = clip.transpose(1, 2)
    return frames[:, :, :2], frames[:, :, 2:]


def _noise_and_frames(clip: Tensor) -> tuple[Tensor, ...]:
    """Noise, numbers of steps, rates, latent frames, an image as a vector, and seven words."""
    batch = len(clip)
    steps, rates = torch.arange(1, batch + 1), torch.full((batch,), 8)
    return (
        clip[:, :4],
        steps,
        rates,
        clip[:, 4:],
        torch.ones(batch, 1, 32),
        torch.ones(batch, 7, 32),
    )


def _sigmas(batch: int) -> Mapping[str, Any]:
    return {"t": torch.linspace(0.1, 0.9, batch)}


_SOUND = {"channels": 1, "size": (640,), "other": (960,), "given": True} | {
    "arrange": _sound_and_features
}

HELD_BACK_SEVENTEENTH: Mapping[str, Entry] = {
    "ptlflow GMFlowWithRefinement": Entry(
        "ptlflow",
        network_of(
            "ptlflow.models.gmflow.gmflow",
            "GMFlowWithRefinement",
            feature_channels=32,
            num_transformer_layers=2,
        ),
        Truth((1, 2, 4, 8), _MATCHED, (3,)),
        FRAMES,
    ),
    # it has two widths; this is the smaller
    "deepinv DiffUNet": Entry(
        "deepinv",
        network_of("deepinv.models", "DiffUNet", pretrained=None),
        Truth(HALVES, _GUIDED, ALL),
        {"extra": _sigmas},
    ),
    "transformers Xcodec2Model": Entry("transformers", _codec("Xcodec2"), _HEARD_AS, _SOUND),
    "ptlflow LiteFlowNet3S": Entry(
        "ptlflow",
        network_of("ptlflow.models.liteflownet.liteflownet3", "LiteFlowNet3S"),
        Truth(HALVES, _CONFIDENT, ALL),
        FRAMES,
    ),
    "ptlflow NeuFlow2": Entry(
        "ptlflow",
        network_of(
            "ptlflow.models.neuflow2.neuflow2",
            "NeuFlow2",
            feature_dim_s16=32,
            context_dim_s16=16,
            iter_context_dim_s16=16,
            feature_dim_s8=32,
            context_dim_s8=16,
            iter_context_dim_s8=16,
            feature_dim_s1=32,
            iters_s8=2,
        ),
        Truth(FIVE, _POOLED, (4,)),
        FRAMES,
    ),
    # how likely the values are is returned as well
    "compressai MeanScaleHyperprior": Entry(
        "compressai",
        network_of("compressai.models", "MeanScaleHyperprior", 8, 12),
        Truth(SIXTY_FOURTH, _CODED, (1, 2, 3, 4, 5, 6)),
        {"other": (128, 192)},
    ),
    "diffusers AutoencoderKLMochi": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderKLMochi",
            encoder_block_out_channels=(32, 32, 64, 64),
            decoder_block_out_channels=(64, 64, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            latent_channels=4,
            latents_mean=(0.0,) * 4,
            latents_std=(1.0,) * 4,
        ),
        Truth(_THIRDS, _UNFOLDED, (1, 2, 3)),
        # the number of frames is six times any, and one
        {"size": (7, 32, 32), "other": (13, 48, 32), "given": True},
    ),
    "pytorchcv DeepLabv3": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.deeplabv3", "deeplabv3_resnetd50b_voc", fixed_size=False),
        Truth((1, 2, 4, 8), _DILATED, (), refusal=NO_DECODER),
    ),
    "ptlflow RAPIDFlow_it3": Entry(
        "ptlflow",
        network_of(
            "ptlflow.models.rapidflow.rapidflow",
            "RAPIDFlow_it3",
            enc_hidden_chs=16,
            enc_out_chs=32,
            dec_net_chs=16,
            dec_inp_chs=16,
            dec_motion_chs=32,
        ),
        Truth((1, 4, 8, 16, 32), _RECURRENT, (3, 4)),
        FRAMES,
    ),
    # what the queries say comes up as vectors, beside the map that they are multiplied with: when
    # this was written down, and first read, no depth could be cut for that; made for one size
    "transformers VideomtForUniversalSegmentation": Entry(
        "transformers",
        _frames_asked,
        Truth((1, 4, 8, 16), _ASKED, (2, 3)),
        {"size": (2, 64, 64), "other": None, "given": True, "arrange": _frames_first},
    ),
    "pytorchcv FCN8sd": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.fcn8sd", "fcn8sd_resnetd50b_voc", fixed_size=False),
        Truth((1, 2, 4, 8), _DILATED, (), refusal=NO_DECODER),
    ),
    "tiatoolbox EfficientUNetTissueMaskModel": Entry(
        "tiatoolbox",
        network_of(
            "tiatoolbox.models.architecture.efficientunet_tissue_mask_model",
            "EfficientUNetTissueMaskModel",
        ),
        Truth(HALVES, _TISSUE, ALL),
    ),
    "diffusers AutoencoderSAME": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "AutoencoderSAME",
            patch_size=16,
            encoder_channels=8,
            encoder_c_mults=(2,),
            encoder_transformer_depths=(2,),
            latent_dim=8,
            dim_heads=8,
        ),
        Truth((1, 16, 256), _GATHERED, (2,)),
        {"channels": 2, "size": (1024,), "other": (1536,), "given": True},
    ),
    # half as many samples again come out as go in
    "transformers NeuCodecModel": Entry("transformers", _codec("NeuCodec"), _HEARD_AS, _SOUND),
    "diffusers Cosmos3AVAEAudioTokenizer": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "Cosmos3AVAEAudioTokenizer",
            vocoder_input_dim=8,
            dec_dim=8,
            dec_c_mults=(1, 2, 4),
            dec_strides=(4, 6, 8),
            enc_dim=8,
            enc_num_blocks=1,
            enc_n_fft=16,
            enc_hop_length=4,
            enc_latent_dim=16,
            enc_c_mults=(1, 2),
            enc_strides=(6, 8),
        ),
        Truth((1, 4, 24, 192), _SUNG, (1, 2, 3)),
        {"channels": 2, "size": (768,), "other": (1152,), "given": True},
    ),
    # it takes the image to be square
    "transformers SwinForMaskedImageModeling": Entry(
        "transformers",
        _masked,
        Truth((1, 4, 8, 16, 32), _WINDOWS, (), refusal=NO_DECODER),
        {"other": (128, 128)},
    ),
    "compressai ScaleHyperprior": Entry(
        "compressai",
        network_of("compressai.models", "ScaleHyperprior", 8, 12),
        Truth(SIXTY_FOURTH, _RATED, (1, 2, 3, 4, 5, 6)),
        {"other": (128, 192)},
    ),
    "diffusers I2VGenXLUNet": Entry(
        "diffusers",
        network_of(
            "diffusers",
            "I2VGenXLUNet",
            block_out_channels=(32, 64, 64, 64),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=16,
        ),
        Truth(SLICES, _SHOWN, (1, 2, 3)),
        {"channels": 8, "size": (4, 32, 32), "other": (5, 48, 32), "given": True}
        | {"arrange": _noise_and_frames},
    ),
    "spandrel RestoreFormer": Entry(
        "spandrel",
        network_of(
            "spandrel.architectures.RestoreFormer.__arch.restoreformer_arch",
            "RestoreFormer",
            n_embed=16,
            embed_dim=32,
            ch=32,
            ch_mult=(1, 1, 1, 1, 2, 2),
            num_res_blocks=1,
            z_channels=32,
        ),
        Truth(HALVES, _RESTORED, ALL),
    ),
    "pytorchcv PPRecurrentFlowComplete": Entry(
        "pytorchcv",
        network_of("pytorchcv.models.propainter_rfc", "PPRecurrentFlowComplete"),
        Truth(SLICES, _COMPLETED, (1, 2, 3)),
        {"size": (4, 32, 32), "other": (5, 48, 64), "given": True, "arrange": _flows_and_masks},
    ),
}
"""All of them, by name."""

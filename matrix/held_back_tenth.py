"""A tenth list: twenty networks of twenty packages, of which none was read here before.

This was written down, from their source, before the first run. What came out at the first reading
stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import nn

from matrix.more import Entry, network_of
from matrix.truth import QUARTER_FIRST, Truth, widening

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels


_PLAIN = {
    **{f"conv{i}": f"encoder {i - 1}" for i in (1, 2, 3)},
    "conv4": "bottleneck",
    **{f"up{i}": f"decoder {3 - i}" for i in (1, 2, 3)},
    "conv9": "head",
}
# strided and transposed convolutions between residual blocks, for volumes
_VOLUMES = {
    "block_one": "encoder 0",
    "block_one_dw": "encoder 1",
    "block_two": "encoder 1",
    "block_two_dw": "encoder 2",
    "block_three": "encoder 2",
    "block_three_dw": "encoder 3",
    "block_four": "encoder 3",
    "block_four_dw": "bottleneck",
    "block_five": "bottleneck",
    "block_five_up": "decoder 3",
    "block_six": "decoder 3",
    "block_six_up": "decoder 2",
    "block_seven": "decoder 2",
    "block_seven_up": "decoder 1",
    "block_eight": "decoder 1",
    "block_eight_up": "decoder 0",
    "block_nine": "decoder 0",
    "out_conv": "head",
}
# patches by unfolding; their number is turned into the height of the map
_UNFOLDED = {
    **{f"mit.stages.{i}": f"encoder {i + 1}" for i in (0, 1, 2)},
    "mit.stages.3": "bottleneck",
    **{f"to_fused.{i}": f"skip {i + 1}" for i in (0, 1, 2)},
    "to_fused.3": "bottleneck",
    "to_segmentation.0": "decoder 1",
    "to_segmentation.1": "head",
}
# a transformer between strided blocks and resized maps; it knows one size
_TOKENS = {
    "init_conv": "encoder 1",
    **widening("conv1", ("conv1", "bn1"), "encoder 1", "encoder 2"),
    **widening("conv2", ("conv1", "bn1"), "encoder 2", "encoder 3"),
    **widening("conv3", ("conv1", "bn1"), "encoder 3", "bottleneck"),
    "vit": "bottleneck",
    "vit.mlp_head": "dead",  # of an option that is off
    "vit_conv": "bottleneck",
    **{f"dec{i}": f"decoder {4 - i}" for i in (1, 2, 3, 4)},
    "conv1x1": "head",
}
_WAVES = {
    "encoder.to_in": "encoder 0",
    "encoder.downsamples.0": "encoder 1",
    "encoder.downsamples.1": "bottleneck",
    "decoder.upsamples.0.blocks": "bottleneck",
    "decoder.upsamples.0.upsample": "decoder 1",
    "decoder.upsamples.1.blocks": "decoder 1",
    "decoder.upsamples.1.upsample": "decoder 0",
    "decoder.to_out": "decoder 0",
    # the last block's sum is returned
    "decoder.to_out.block.block2.project": "head",
    "decoder.to_out.block.to_out": "head",
}


def _documents() -> dict[str, str]:
    """A block convolves at its level, and comes up at its end."""
    places = {f"dilated_block{i}": f"encoder {i - 1}" for i in (1, 2, 3)}
    places |= {"dilated_block4": "bottleneck", "conv_block1": "bottleneck", "last_conv": "head"}
    for i in (1, 2, 3):
        if i > 1:
            places[f"conv_block{i}"] = f"decoder {4 - i}"
        places |= {f"conv_block{i}.{part}": f"decoder {3 - i}" for part in (4, 5)}
    return places


# the time may be left out, says the signature, and the forward does not
_NOISE = {
    "temb": _VECTOR,
    "conv_in": "encoder 0",
    "down.0": "encoder 0",
    "down.0.downsample": "encoder 1",
    "down.1": "encoder 1",
    "down.1.downsample": "bottleneck",
    "down.2": "bottleneck",
    "mid": "bottleneck",
    "up.2": "bottleneck",
    "up.2.upsample": "decoder 1",
    "up.1": "decoder 1",
    "up.1.upsample": "decoder 0",
    "up.0": "decoder 0",
    "norm_out": "decoder 0 | head",
    "conv_out": "head",
}
# codes without a table
_BITS = {
    "enc_dec.encoders.0": "encoder 0",
    "enc_dec.encoders.1": "encoder 1",
    "enc_dec.encoders.2": "bottleneck",
    "enc_dec.encoders.3": "bottleneck",
    "quantizer": "bottleneck",
    "enc_dec.decoders.0": "bottleneck",
    "enc_dec.decoders.1": "decoder 1",
    "enc_dec.decoders.2": "decoder 0",
    "enc_dec.decoders.3": "head",
}
# kernels of images, a third along each axis; what is pooled last is only resized
_VIEWS = {"enc1": "encoder 0", "enc2": "encoder 1", "dec1": "decoder 1", "final": "head"}
# codes between two recurrent layers, the first of which goes both ways
_SPEECH = {
    **{f"encoder.model.{i}": "encoder 0" for i in (0, 1)},
    **{f"encoder.model.{i}": "encoder 1" for i in (3, 4)},
    **{f"encoder.model.{i}": "bottleneck" for i in (6, 7, 9)},
    "transform": "head | bottleneck",  # the first code is returned
    **{f"decoder.model.{i}": "bottleneck" for i in (0, 1)},
    **{f"decoder.model.{i}": "decoder 1" for i in (3, 4)},
    **{f"decoder.model.{i}": "decoder 0" for i in (6, 7)},
    "decoder.model.9": "head",
}
# a message, drawn at the first call and kept, is added below
_MARKS = _SPEECH | {"msg_processor": f"bottleneck | {_VECTOR}"}


def _chests() -> dict[str, str]:
    """Strides of six below strides of two; the deepest map is returned too."""
    first = ("0.conv1", "0.bn1")
    places = {"conv1": "encoder 1", "bn1": "encoder 1", "layer1": "encoder 2"}
    places |= widening("layer2", first, "encoder 2", "encoder 3")
    places |= widening("layer3", first, "encoder 3", "encoder 4")
    places |= widening("layer4", first, "encoder 4", "bottleneck")
    last = ("0.conv3", "0.bn3", "0.downsample")
    places |= {f"layer4.{part}": "bottleneck | head" for part in last}
    blocks = {f"uplayer{i}.0": 5 - i for i in (1, 2, 3, 4)} | {"uplayer_top": 0}
    for block, level in blocks.items():
        below = "bottleneck" if level == 4 else f"decoder {level + 1}"
        places |= {block: f"decoder {level}", f"{block}.conv1": below, f"{block}.bn1": below}
    return places | {"conv1_1": "head"}


# what stays beside the hourglass at each level, and what goes down
_FACES = {
    "conv1": "encoder 1",
    "bn1": "encoder 1",
    "conv2": "encoder 1",
    "conv3": "encoder 2",
    "conv4": "encoder 2",
    **{f"m0.b1_{i}": f"skip {6 - i}" for i in (4, 3, 2, 1)},
    **{f"m0.b2_{i}": f"encoder {7 - i}" for i in (4, 3, 2)},
    "m0.b2_1": "bottleneck",
    "m0.b2_plus_1": "bottleneck",
    "m0.b3_1": "bottleneck",
    **{f"m0.b3_{i}": f"decoder {7 - i}" for i in (2, 3, 4)},
    "top_m_0": "decoder 2",
    "conv_last0": "decoder 2",
    "bn_end0": "decoder 2",
    "l0": "head",
}
# normalised by what lies beside each other; the likelihood of the codes is returned too
_CODES = {
    **{f"g_a.{i}": f"encoder {1 + i // 2}" for i in range(6)},
    "g_a.6": "bottleneck",
    "entropy_bottleneck": "bottleneck | head",
    **{f"g_s.{i}": f"decoder {3 - i // 2}" for i in range(6)},
    "g_s.6": "decoder 0 | head",
}
# names with spaces; what crosses is kept in a dict of the module
_TUNED = {
    **{f"Encode_{i}": f"encoder {i}" for i in (0, 1, 2)},
    "Final_layer_3": "bottleneck",
    **{f"Step Up {i}": f"decoder {i}" for i in (0, 1, 2)},
    **{f"Decode_{i}": f"decoder {i}" for i in (0, 1, 2)},
    "Decode_0.6": "head",
}
# each block has a shortcut for an option that is off
_LUNGS = {
    **{f"down_path.{i}": f"encoder {i}" for i in (0, 1, 2)},
    "down_path.3": "bottleneck",
    **{f"up_path.{i}": f"decoder {2 - i}" for i in (0, 1, 2)},
    **{
        f"{path}.residual_{part}": "dead"
        for path in ("down_path.*", "up_path.*", "up_path.*.conv_block")
        for part in ("input_conv", "batchnorm")
    },
    "last": "head",
}
_ATOMS = {
    "c1": "encoder 0",
    "c2": "encoder 1",
    "bn": "bottleneck",
    "upsample_block1": "decoder 1",
    "c3": "decoder 1",
    "upsample_block2": "decoder 0",
    "c4": "decoder 0",
    "px": "head",
}
# squeezed below a strided stem; the last layer comes up
_SQUEEZED = {
    "stem": "encoder 1",
    **{f"hg.skip_seq.skip{i}": f"skip {i}" for i in (1, 2, 3)},
    "hg.down_seq.down1": "encoder 2",
    "hg.down_seq.down2": "encoder 3",
    "hg.down_seq.down3": "bottleneck",
    "hg.up_seq.up1.conv": "bottleneck",
    "hg.up_seq.up1.deconv": "decoder 3",
    "hg.up_seq.up2.conv": "decoder 3",
    "hg.up_seq.up2.deconv": "decoder 2",
    "hg.up_seq.up3.conv": "decoder 2",
    "hg.up_seq.up3.deconv": "decoder 1",
    "head.conv": "decoder 1",
    "head.deconv": "decoder 0 | head",
}


def _speech() -> nn.Module:
    settings = {"n_filters": 4, "dimension": 8, "semantic_dimension": 6, "strides": [4, 2]}
    settings |= {"lstm_layers": 1, "bidirectional": True, "dilation_base": 2, "activation": "ELU"}
    settings |= {"residual_kernel_size": 3, "n_residual_layers": 1, "sample_rate": 16000}
    settings |= {"n_q": 2, "codebook_size": 16}
    network: nn.Module = import_module("speechtokenizer.model").SpeechTokenizer(settings)
    return network.train()


def _marks() -> nn.Module:
    settings = import_module("audioseal.builder")
    places = {"channels": 1, "dimension": 8, "n_filters": 4, "n_residual_layers": 1}
    places |= {"ratios": [4, 2], "activation": "ELU", "activation_params": {"alpha": 1.0}}
    places |= {"norm": "none", "norm_params": {}, "kernel_size": 7, "last_kernel_size": 7}
    places |= {"residual_kernel_size": 3, "dilation_base": 2, "causal": False, "compress": 2}
    places |= {"pad_mode": "constant", "true_skip": True, "lstm": 1, "disable_norm_outer_blocks": 0}
    decoder = settings.DecoderConfig(None, None, 1.0)
    config = settings.AudioSealWMConfig(4, settings.SEANetConfig(**places), decoder)
    network: nn.Module = settings.create_generator(config)
    return network.train()


def _chest() -> nn.Module:
    module = import_module("torchxrayvision.autoencoders")
    network: nn.Module = module._ResNetAE(
        module.Bottleneck, module.DeconvBottleneck, [1, 1, 1, 1], 1
    )
    return network.train()


_ONE_LEVEL = Truth((), {}, (), refusal=("one level",))
_ONLY_UP = Truth((), {}, (), refusal=("only comes up", "one level"))

HELD_BACK_TENTH: Mapping[str, Entry] = {
    "medicaltorch Unet": Entry(
        "medicaltorch",
        network_of("medicaltorch.models", "Unet"),
        Truth(_FOUR, _PLAIN, (1, 2, 3)),
        {"channels": 1},
    ),
    "eisen VNet": Entry(
        "eisen",
        network_of(
            "eisen.models.segmentation", "VNet", 1, 2, n_filters=4, normalization="batchnorm"
        ),
        Truth(_FIVE, _VOLUMES, (1, 2, 3, 4)),
        {"channels": 1, "size": (32, 32, 32), "other": (32, 64, 32)},
    ),
    # its answer is at a quarter
    "segformer-pytorch Segformer": Entry(
        "segformer_pytorch",
        network_of(
            "segformer_pytorch",
            "Segformer",
            dims=(16, 32, 40, 64),
            heads=(1, 2, 5, 8),
            ff_expansion=2,
            num_layers=1,
            decoder_dim=32,
        ),
        Truth(QUARTER_FIRST, _UNFOLDED, (2, 3, 4)),
    ),
    "self-attention-cv TransUnet": Entry(
        "self_attention_cv",
        network_of(
            "self_attention_cv.transunet",
            "TransUnet",
            img_dim=64,
            in_channels=3,
            classes=2,
            vit_blocks=1,
            vit_heads=2,
            vit_dim_linear_mhsa_block=32,
        ),
        Truth(_FIVE, _TOKENS, (1, 2, 3, 4)),
        {"other": None},
    ),
    "audio-encoders-pytorch AutoEncoder1d": Entry(
        "audio_encoders_pytorch",
        network_of(
            "audio_encoders_pytorch",
            "AutoEncoder1d",
            in_channels=2,
            channels=8,
            multipliers=[1, 2, 2],
            factors=[4, 4],
            num_blocks=[1, 1],
        ),
        Truth((1, 4, 16), _WAVES, (1, 2)),
        {"channels": 2, "size": (512,), "other": (1024,)},
    ),
    "doc-ufcn DocUFCNModel": Entry(
        "doc_ufcn",
        network_of("doc_ufcn.model", "DocUFCNModel", 4),
        Truth(_FOUR, _documents(), (1, 2, 3)),
    ),
    "taming-transformers Model": Entry(
        "taming",
        network_of(
            "taming.modules.diffusionmodules.model",
            "Model",
            ch=32,
            out_ch=3,
            ch_mult=(1, 2, 2),
            num_res_blocks=1,
            attn_resolutions=(16,),
            in_channels=3,
            resolution=64,
        ),
        Truth(_THREE, _NOISE, (1, 2)),
        {"extra": lambda batch: {"t": torch.linspace(1, 9, batch)}},
    ),
    "muse-maskgit-pytorch VQGanVAE": Entry(
        "muse_maskgit_pytorch",
        network_of(
            "muse_maskgit_pytorch",
            "VQGanVAE",
            dim=16,
            layers=2,
            codebook_size=256,
            use_vgg_and_gan=False,
        ),
        Truth(_THREE, _BITS, (1, 2)),
    ),
    "ACSConv ACSUNet": Entry(
        "acsconv",
        network_of("acsconv.models", "ACSUNet", 2),
        Truth(_THREE, _VIEWS, (1, 2)),
        {"channels": 1, "size": (16, 16, 16), "other": (16, 24, 16)},
    ),
    "speechtokenizer SpeechTokenizer": Entry(
        "speechtokenizer",
        _speech,
        Truth((1, 2, 8), _SPEECH, (1, 2)),
        {"channels": 1, "size": (512,), "other": (1024,)},
    ),
    "audioseal AudioSealWM": Entry(
        "audioseal",
        _marks,
        Truth((1, 2, 8), _MARKS, (1, 2)),
        {"channels": 1, "size": (512,), "other": (1024,)},
    ),
    # the sides that fit are 32 more than multiples of 96
    "torchxrayvision ResNetAE": Entry(
        "torchxrayvision",
        _chest,
        Truth((1, 2, 4, 8, 16, 96), _chests(), (1, 2, 3, 4, 5)),
        {"channels": 1, "size": (224, 224), "other": (128, 224)},
    ),
    # its answer is at a quarter
    "face-alignment FAN": Entry(
        "face_alignment",
        network_of("face_alignment.models", "FAN", 1),
        Truth((1, 2, 4, 8, 16, 32, 64), _FACES, (3, 4, 5, 6)),
        {"size": (128, 128), "other": (256, 128)},
    ),
    # a spectrogram's frames, one after the other
    "openunmix OpenUnmix": Entry(
        "openunmix",
        network_of("openunmix.model", "OpenUnmix", nb_bins=64, nb_channels=2, hidden_size=16),
        _ONE_LEVEL,
        {"channels": 2, "size": (64, 32), "other": (64, 48)},
    ),
    "torchsr NinaSR": Entry("torchsr", network_of("torchsr.models", "ninasr_b0", 2), _ONLY_UP),
    "compressai FactorizedPrior": Entry(
        "compressai",
        network_of("compressai.models", "FactorizedPrior", 8, 12),
        Truth(_FIVE, _CODES, (1, 2, 3, 4)),
    ),
    "dlsia TUNet": Entry(
        "dlsia",
        network_of("dlsia.core.networks.tunet", "TUNet", (64, 64), 1, 2, 4, 4),
        Truth(_FOUR, _TUNED, (1, 2, 3)),
        {"channels": 1},
    ),
    "lungmask UNet": Entry(
        "lungmask",
        network_of(
            "lungmask.resunet",
            "UNet",
            n_classes=2,
            depth=4,
            wf=3,
            padding=True,
            batch_norm=True,
            up_mode="upsample",
        ),
        Truth(_FOUR, _LUNGS, (1, 2, 3)),
        {"channels": 1},
    ),
    "atomai SegResNet": Entry(
        "atomai",
        network_of("atomai.nets", "SegResNet", nb_classes=2, nb_filters=4),
        Truth(_THREE, _ATOMS, (1, 2)),
        {"channels": 1},
    ),
    "pytorchcv SQNet": Entry(
        "pytorchcv",
        network_of(
            "pytorchcv.models.sqnet",
            "SQNet",
            channels=[[16, 24, 32], [24, 16, 8]],
            init_block_channels=8,
            layers=[1, 1, 1],
            num_classes=2,
        ),
        Truth(_FIVE, _SQUEEZED, (1, 2, 3, 4)),
    ),
}
"""All of them, by name."""

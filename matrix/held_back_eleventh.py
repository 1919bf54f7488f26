"""An eleventh list: ten networks of ten packages, of which none was read here before.

This was written down, from their source, before the first run. What came out at the first reading
stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from matrix.more import Entry, network_of
from matrix.truth import HALVES, THREE_UPS, Truth, resnet, unet_decoder

_THREE, _FIVE = (1, 2, 4), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels

_CROPPED = {
    **{f"down_conv.{i}": f"encoder {i}" for i in range(4)},
    "middle_conv": "bottleneck",
    **{f"{path}.{i}": f"decoder {3 - i}" for path in ("up_sample", "up_conv") for i in range(4)},
    "final_conv": "head",
}
# thick slices without padding; what the decoder makes at two coarser levels comes up at once
_CELLS = {
    "ec1": "encoder 0",
    "ec2": "encoder 1",
    "ec3": "encoder 2",
    "ec4": "bottleneck",
    **{f"{path}{i}": f"decoder {i - 1}" for path in ("up", "dc") for i in (1, 2, 3)},
    "dc0": "head",
    **{f"{path}{i}a": "decoder 0" for path in ("up", "conv") for i in (1, 2)},
    **{f"predict{i}a": "head" for i in (1, 2)},
}
# tokens, looked up for ids; every other one is left out, twice
_TOKENS = {
    "token_emb": "encoder 0",
    "pos_emb": "encoder 0 | none",  # the same for every image
    "transformer.pre_transformer": "encoder 0",
    "transformer.valley_transformer.pre_transformer": "encoder 1",
    "transformer.valley_transformer.valley_transformer": "bottleneck",
    "transformer.valley_transformer.post_transformer": "decoder 1",
    "transformer.post_transformer": "decoder 0",
    "transformer.norm_out": "decoder 0 | head",
    "to_logits": "head",
}
_CODED = {
    **{f"encoder.blocks.{i}": "encoder 1" for i in (0, 1)},
    **{f"encoder.blocks.{i}": "bottleneck" for i in (2, 3, 4)},
    "quantizer": "bottleneck",
    **{f"decoder.blocks.{i}": "bottleneck" for i in (0, 1)},
    **{f"decoder.blocks.{i}": "decoder 1" for i in (2, 3)},
    "decoder.blocks.4": "decoder 0 | head",
}


def _quantized(prefix: str) -> dict[str, str]:
    """A convolution, two strided ones, attention at the bottom, and the way back."""
    encoders = ("encoder 0", "encoder 1", "bottleneck", "bottleneck", "bottleneck")
    decoders = ("bottleneck", "bottleneck", "decoder 1", "decoder 0", "head")
    places = {f"{prefix}encoders.{i}": place for i, place in enumerate(encoders)}
    places |= {f"{prefix}decoders.{i}": place for i, place in enumerate(decoders)}
    return places | {"vq": "bottleneck"}


def _letters() -> dict[str, str]:
    """VGG; pools lie inside its slices. The answer is at half, and the maps below it, too."""
    first = {1: (0, 1), 2: (14, 15, 17, 18), 3: (20, 21), 4: (30, 31)}
    pooled = {1: (7, 8, 10, 11), 3: (24, 25, 27, 28), 4: (34, 35, 37, 38)}
    places = {f"basenet.slice1.{i}": "encoder 0" for i in (*first[1], 3, 4)}
    places |= {f"basenet.slice1.{i}": "encoder 1" for i in pooled[1]}
    places |= {f"basenet.slice2.{i}": "encoder 2" for i in first[2]}
    places |= {f"basenet.slice3.{i}": "encoder 2" for i in first[3]}
    places |= {f"basenet.slice3.{i}": "encoder 3" for i in pooled[3]}
    places |= {f"basenet.slice4.{i}": "encoder 3" for i in first[4]}
    places |= {f"basenet.slice4.{i}": "bottleneck" for i in pooled[4]}
    places |= {"basenet.slice5": "bottleneck", "upconv1": "bottleneck"}
    places |= {"upconv2": "decoder 3", "upconv3": "decoder 2", "upconv4": "decoder 1"}
    places |= {f"upconv4.conv.{i}": "decoder 1 | head" for i in (3, 4)}
    return places | {"conv_cls": "decoder 1 | head", "conv_cls.8": "head"}


_NUCLEI = {
    "body.0": "encoder 0",
    "body.1": "encoder 1",
    "body.2": "bottleneck",
    **{
        f"unet.{path}.{i}": f"decoder {i}"
        for path in ("inner_blocks", "layer_blocks")
        for i in (0, 1)
    },
    "unet.out_layer": "head",
}
# bits as channels, beside as many of an answer before, which may be left out
_BITS = {
    "time_mlp": _VECTOR,
    "init_conv": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.3": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.3": "bottleneck",
    "downs.2": "bottleneck",
    **{f"mid_{part}": "bottleneck" for part in ("block1", "attn", "block2")},
    **THREE_UPS,
}
_CODES = {
    "vq_codebook_dim": 16,
    "vq_codebook_size": 32,
    "vq_kmeans_init": False,
    "use_vgg_and_gan": False,
}

HELD_BACK_ELEVENTH: Mapping[str, Entry] = {
    "labml-nn UNet": Entry(
        "labml_nn",
        network_of("labml_nn.unet", "UNet", 1, 2),
        Truth(_FIVE, _CROPPED, (1, 2, 3, 4)),
        {"channels": 1},
    ),
    "aicsmlsegment UNet3D": Entry(
        "aicsmlsegment",
        network_of("aicsmlsegment.Net3D.unet_xy", "UNet3D", 1, [2, 2, 2]),
        Truth(((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)), _CELLS, (1, 2, 3)),
        {"channels": 1, "size": (30, 92, 92), "other": (32, 92, 100)},
    ),
    "torchseg Unet": Entry(
        "torchseg",
        network_of(
            "torchseg",
            "Unet",
            "resnet18",
            encoder_weights=None,
            decoder_channels=(64, 32, 16, 8, 8),
        ),
        Truth(HALVES, {**resnet("encoder.model"), **unet_decoder(6)}, (1, 2, 3, 4, 5)),
    ),
    # texts of up to 64 letters
    "hourglass-transformer-pytorch HourglassTransformerLM": Entry(
        "hourglass_transformer_pytorch",
        network_of(
            "hourglass_transformer_pytorch",
            "HourglassTransformerLM",
            num_tokens=32,
            dim=16,
            max_seq_len=64,
            depth=(1, (1, 1, 1), 1),
            shorten_factor=(2, 2),
            heads=2,
            dim_head=8,
            attn_resampling=False,
            causal=False,
        ),
        Truth(_THREE, _TOKENS, (1, 2)),
        {
            "channels": 1,
            "size": (64,),
            "other": (32,),
            "given": True,
            "arrange": lambda signal: (9 * signal[:, 0]).long() % 32,
        },
    ),
    "monai-generative VQVAE": Entry(
        "generative",
        network_of(
            "generative.networks.nets",
            "VQVAE",
            2,
            1,
            1,
            num_channels=(8, 16),
            num_res_layers=1,
            num_res_channels=8,
            downsample_parameters=((2, 4, 1, 1),) * 2,
            upsample_parameters=((2, 4, 1, 1, 0),) * 2,
            num_embeddings=16,
            embedding_dim=8,
        ),
        Truth(_THREE, _CODED, (1, 2)),
        {"channels": 1},
    ),
    # built for one size
    "dalle2-pytorch VQGanVAE": Entry(
        "dalle2_pytorch",
        network_of(
            "dalle2_pytorch.vqgan_vae", "VQGanVAE", dim=16, image_size=64, layers=2, **_CODES
        ),
        Truth(_THREE, _quantized("enc_dec."), (1, 2)),
        {"other": None},
    ),
    "nuwa-pytorch VQGanVAE": Entry(
        "nuwa_pytorch",
        network_of(
            "nuwa_pytorch.vqgan_vae", "VQGanVAE", dim=16, image_size=64, num_layers=2, **_CODES
        ),
        Truth(_THREE, _quantized(""), (1, 2)),
        {"other": None},
    ),
    # its answer is at half
    "easyocr CRAFT": Entry(
        "easyocr",
        network_of("easyocr.craft", "CRAFT"),
        Truth(_FIVE, _letters(), (2, 3, 4)),
    ),
    # images between 0 and 1, which it asserts
    "celldetection U12": Entry(
        "celldetection",
        network_of("celldetection.models.unet", "U12", 3, 2),
        Truth(_THREE, _NUCLEI, (1, 2)),
        {"arrange": torch.sigmoid},
    ),
    "bit-diffusion Unet": Entry(
        "bit_diffusion",
        network_of(
            "bit_diffusion.bit_diffusion", "Unet", 16, dim_mults=(1, 2, 4), channels=1, bits=4
        ),
        Truth(_THREE, _BITS, (1, 2)),
        {"channels": 4, "extra": lambda batch: {"time": torch.linspace(0.1, 0.9, batch)}},
    ),
}
"""All of them, by name."""

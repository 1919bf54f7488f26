"""A fifth twenty, of seven libraries that were never read here, written down before the first run.

What came out at the first reading stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from matrix.more import Entry
from matrix.truth import THREE_UPS, Truth

_THREE, _FOUR = (1, 2, 4), (1, 2, 4, 8)


def _of(module: str, name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A network of a module, with fresh weights."""

    def build() -> nn.Module:
        factory: Callable[..., nn.Module] = getattr(import_module(module), name)
        return factory(**settings)

    return build


def _restoring(architecture: str, name: str, truth: Truth, **settings: Any) -> Entry:
    return Entry("spandrel", _of(f"spandrel.architectures.{architecture}", name, **settings), truth)


# image restoration -------------------------------------------------------------------------------
# blocks, then the convolution that strides; on the way up it comes first
_DRUNET = {
    "m_head": "encoder 0",
    "m_down1.0": "encoder 0",
    "m_down1.1": "encoder 1",
    "m_down2.0": "encoder 1",
    "m_down2.1": "encoder 2",
    "m_down3.0": "encoder 2",
    "m_down3.1": "bottleneck",
    "m_body": "bottleneck",
    "m_up3": "decoder 2",
    "m_up2": "decoder 1",
    "m_up1": "decoder 0",
    "m_tail": "head",
}
# two blocks before the first stride, one before the others
_SCUNET = {**_DRUNET, "m_down1.1": "encoder 0", "m_down1.2": "encoder 1"}
_UFORMER = {
    "input_proj": "encoder 0",
    **{f"encoderlayer_{level}": f"encoder {level}" for level in range(4)},
    **{f"dowsample_{level}": f"encoder {level + 1}" for level in range(3)},
    "dowsample_3": "bottleneck",
    "conv": "bottleneck",
    **{f"upsample_{3 - level}": f"decoder {level}" for level in range(4)},
    **{f"decoderlayer_{3 - level}": f"decoder {level}" for level in range(4)},
    "output_proj": "head",
}
_DENOISER = {
    "embedding": "encoder 0",
    # attention, and what strides the features and the map of the light
    "encoder_layers.0.0": "encoder 0",
    "encoder_layers.0.1": "encoder 1",
    "encoder_layers.0.2": "encoder 1",
    "encoder_layers.1.0": "encoder 1",
    "encoder_layers.1.1": "bottleneck",
    "encoder_layers.1.2": "bottleneck",
    "bottleneck": "bottleneck",
    "decoder_layers.0": "decoder 1",
    "decoder_layers.1": "decoder 0",
}
# two stages one behind the other: all of the second comes after something deeper
_RETINEX = {
    "body.0.estimator": "encoder 0",
    **{f"body.0.denoiser.{layer}": place for layer, place in _DENOISER.items()},
    "body.0.denoiser.mapping": "decoder 0",
    "body.1.estimator": "decoder 0",
    **{
        f"body.1.denoiser.{layer}": place.replace("encoder", "decoder")
        for layer, place in _DENOISER.items()
    },
    "body.1.denoiser.mapping": "head",
}
_FFTFORMER = {
    "patch_embed": "encoder 0",
    "encoder_level1": "encoder 0",
    "down1_2": "encoder 1",
    "encoder_level2": "encoder 1",
    "down2_3": "bottleneck",
    "encoder_level3": "bottleneck",
    "decoder_level3": "bottleneck",
    "up3_2": "decoder 1",
    "fuse2": "decoder 1",
    "decoder_level2": "decoder 1",
    "up2_1": "decoder 0",
    "fuse1": "decoder 0",
    "decoder_level1": "decoder 0",
    "refinement": "decoder 0",
    "output": "head",
    # built, and never called
    "reduce_chan_level2": "dead",
}
_KBNET = {
    "intro": "encoder 0",
    "encoders.0": "encoder 0",
    "downs.0": "encoder 1",
    "encoders.1": "encoder 1",
    "downs.1": "bottleneck",
    "middle_blks": "bottleneck",
    # a 1x1 convolution, then channels become pixels
    "ups.0": "bottleneck",
    "decoders.0": "decoder 1",
    "ups.1": "decoder 1",
    "decoders.1": "decoder 0",
    "ending": "head",
}
_MIXDEHAZE = {
    "patch_embed": "encoder 0",
    "layer1": "encoder 0",
    "skip1": "skip 0",
    "patch_merge1": "encoder 1",
    "layer2": "encoder 1",
    "skip2": "skip 1",
    "patch_merge2": "bottleneck",
    "layer3": "bottleneck",
    "patch_split1": "bottleneck",
    "fusion1": "decoder 1",
    "layer4": "decoder 1",
    "patch_split2": "decoder 1",
    "fusion2": "decoder 0",
    "layer5": "decoder 0",
    "patch_unembed": "head",
}

# segmentation ------------------------------------------------------------------------------------
_FEPEGAR = {
    "encoder.encoding_blocks.0": "encoder 0",
    "encoder.encoding_blocks.1": "encoder 1",
    "bottom_block": "bottleneck",
    "decoder.decoding_blocks.0": "decoder 1",
    "decoder.decoding_blocks.1": "decoder 0",
    "classifier": "head",
}

# diffusion ---------------------------------------------------------------------------------------
# a stage ends in what strides; the deepest one in a convolution that does not
_DENOISING = {
    "init_conv": "encoder 0",
    "time_mlp": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.3": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.3": "bottleneck",
    "downs.2": "bottleneck",
    "mid_block1": "bottleneck",
    "mid_attn": "bottleneck",
    "mid_block2": "bottleneck",
    **THREE_UPS,
}
_GUIDED = {
    **_DENOISING,
    # its own parameter: the class that stands for none
    "": "encoder 0",
    "classes_emb": "encoder 0",
    "classes_mlp": "encoder 0",
}
# one block a stage; a block that goes down or up resizes first
_KARRAS = {
    "input_block": "encoder 0",
    "to_time_emb": "encoder 0",
    "downs.0": "encoder 0",
    "downs.1": "encoder 1",
    "downs.2": "encoder 1",
    "downs.3": "bottleneck",
    "downs.4": "bottleneck",
    "mids": "bottleneck",
    "ups.0": "bottleneck",
    "ups.1": "bottleneck",
    **{f"ups.{i}": "decoder 1" for i in (2, 3, 4)},
    **{f"ups.{i}": "decoder 0" for i in (5, 6, 7)},
    "output_block": "head",
}
_UVIT = {
    "init_conv": "encoder 0",
    "time_mlp": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.3": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.3": "bottleneck",
    "vit": "bottleneck",
    # a 1x1 convolution, then channels become pixels
    "ups.0.0": "bottleneck",
    "ups.0": "decoder 1",
    "ups.1.0": "decoder 1",
    "ups.1": "decoder 0",
    "final_res_block": "decoder 0",
    "final_conv": "head",
}
_XUNET = {
    "init_conv": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.3": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.3": "bottleneck",
    "mid": "bottleneck",
    "mid_attn": "bottleneck",
    "mid_after": "bottleneck",
    "mid_upsample": "decoder 1",
    "ups.0": "decoder 1",
    "ups.0.3": "decoder 0",
    # of every level on the way up, resized to the image first
    "consolidator": "decoder 0",
    "final_conv.0": "decoder 0",
    "final_conv.1": "head",
}


def _time(batch: int) -> Mapping[str, Any]:
    return {"time": torch.linspace(0.1, 0.9, batch)}


def _time_and_class(batch: int) -> Mapping[str, Any]:
    return {**_time(batch), "classes": torch.arange(batch) % 4}


# sound -------------------------------------------------------------------------------------------
def _nested_blocks() -> nn.Module:
    apex = import_module("a_unet.apex")
    net: nn.Module = apex.XUNet(
        dim=1,
        in_channels=2,
        blocks=[
            apex.XBlock(channels=8, factor=2, items=[apex.ResnetItem]),
            apex.XBlock(channels=16, factor=2, items=[apex.ResnetItem, apex.AttentionItem]),
            apex.XBlock(channels=16, factor=2, items=[apex.ResnetItem]),
        ],
        skip_t=apex.SkipCat,
        resnet_groups=4,
        attention_features=8,
        attention_heads=2,
    )
    return net


_SECOND = "net.block.blocks.2"
_THIRD = f"{_SECOND}.block.blocks.3"
# a block strides, works, holds the next one, works, and resizes; a 1x1 convolution joins
_NESTED = {
    "net.block.blocks.0": "encoder 1",
    "net.block.blocks.1": "encoder 1",
    f"{_SECOND}.block.blocks.0": "encoder 2",
    f"{_SECOND}.block.blocks.1": "encoder 2",
    f"{_SECOND}.block.blocks.2": "encoder 2",
    f"{_THIRD}.block.blocks.0": "bottleneck",
    f"{_THIRD}.block.blocks.1": "bottleneck",
    f"{_THIRD}.block.blocks.2": "bottleneck",
    f"{_THIRD}.block.blocks.3": "decoder 2",
    f"{_THIRD}.skip": "decoder 2",
    f"{_SECOND}.block.blocks.4": "decoder 2",
    f"{_SECOND}.block.blocks.5": "decoder 2",
    f"{_SECOND}.block.blocks.6": "decoder 1",
    f"{_SECOND}.skip": "decoder 1",
    "net.block.blocks.3": "decoder 1",
    "net.block.blocks.4": "decoder 0",
    "net.skip": "head",
}
_DEMUCS = {
    "encoder.0": "encoder 1",
    "encoder.1": "encoder 2",
    "encoder.2": "bottleneck",
    # a convolution, then the transposed one, which the norm follows
    "decoder.0": "bottleneck",
    "decoder.0.3": "decoder 2",
    "decoder.0.4": "decoder 2",
    "decoder.1": "decoder 2",
    "decoder.1.3": "decoder 1",
    "decoder.2": "decoder 1",
    "decoder.2.3": "decoder 0 | head",
}

# points and edges --------------------------------------------------------------------------------
_DISK = {
    "path_down.0": "encoder 0",
    "path_down.1": "encoder 1",
    "path_down.2": "bottleneck",
    "path_up.0": "decoder 1",
    "path_up.1": "decoder 0",
    "path_up.1.conv.3": "head",
}


def _raised(block: int, level: int) -> dict[str, str]:
    """A 1x1 convolution and a transposed one, again and again, up to the image."""
    first = "bottleneck" if level == 4 else f"skip {level}"
    places = {f"up_block_{block}.features.0": first}
    for step in range(level):
        above = f"decoder {level - 1 - step}"
        places[f"up_block_{block}.features.{3 * step + 2}"] = above
        places[f"up_block_{block}.features.{3 * step + 3}"] = above
    return places


_DEXINED = {
    "block_1": "encoder 1",
    "block_2": "encoder 1",
    "side_1": "encoder 2",
    "pre_dense_3": "encoder 2",
    "dblock_3": "encoder 2",
    "side_2": "encoder 3",
    "pre_dense_2": "encoder 3",
    "pre_dense_4": "encoder 3",
    "dblock_4": "encoder 3",
    **dict.fromkeys(("side_3", "side_4", "pre_dense_5", "pre_dense_6"), "bottleneck"),
    **dict.fromkeys(("dblock_5", "dblock_6"), "bottleneck"),
    **_raised(1, 1),
    **_raised(2, 1),
    **_raised(3, 2),
    **_raised(4, 3),
    **_raised(5, 4),
    **_raised(6, 4),
    "block_cat.conv": "head",
    # built, and never called
    "side_5": "dead",
    "block_cat.bn": "dead",
}

_ONES = [1] * 9

HELD_BACK_FIFTH: Mapping[str, Entry] = {
    "spandrel DRUNet": _restoring(
        "DRUNet",
        "DRUNet",
        Truth(_FOUR, _DRUNET, (1, 2, 3)),
        in_nc=3,
        out_nc=3,
        nc=[8, 16, 24, 32],
        nb=1,
    ),
    "spandrel SCUNet": _restoring(
        "SCUNet", "SCUNet", Truth(_FOUR, _SCUNET, (1, 2, 3)), config=[2, 1, 1, 1, 1, 1, 1]
    ),
    # a side is the root of the number of tokens
    "spandrel Uformer": Entry(
        "spandrel",
        _of(
            "spandrel.architectures.Uformer",
            "Uformer",
            img_size=64,
            embed_dim=8,
            depths=_ONES,
            num_heads=_ONES,
            win_size=4,
            drop_path_rate=0.0,
        ),
        Truth((1, 2, 4, 8, 16), _UFORMER, (1, 2, 3, 4)),
        {"size": (64, 64), "other": (128, 128)},
    ),
    "spandrel RetinexFormer": _restoring(
        "RetinexFormer",
        "RetinexFormer",
        Truth(_THREE, _RETINEX, (1, 2)),
        n_feat=8,
        stage=2,
    ),
    # spectra of patches of eight
    "spandrel FFTformer": _restoring(
        "FFTformer",
        "FFTformer",
        Truth(_THREE, _FFTFORMER, (1, 2)),
        dim=8,
        num_blocks=[1, 1, 1],
        num_refinement_blocks=1,
    ),
    # a gradient of its own
    "spandrel KBNet": _restoring(
        "KBNet",
        "KBNet_s",
        Truth(_THREE, _KBNET, (1, 2)),
        width=8,
        middle_blk_num=1,
        enc_blk_nums=[1, 1],
        dec_blk_nums=[1, 1],
    ),
    # writes where the largest colour is, and reads a parameter as a number
    "spandrel HVI-CIDNet": _restoring(
        "HVICIDNet.__arch.cidnet",
        "CIDNet",
        Truth((), {}, (), refusal=("reads values",)),
        channels=[8, 8, 16, 32],
    ),
    "spandrel MixDehazeNet": _restoring(
        "MixDehazeNet",
        "MixDehazeNet",
        Truth(_THREE, _MIXDEHAZE, (1, 2)),
        embed_dims=[8, 16, 24, 16, 8],
        depths=[1, 1, 1, 1, 1],
    ),
    # without padding: what is joined is cropped
    "unet UNet2D": Entry(
        "unet",
        _of(
            "unet",
            "UNet2D",
            num_encoding_blocks=3,
            out_channels_first_layer=8,
            normalization="batch",
        ),
        Truth(_THREE, _FEPEGAR, (1, 2)),
        {"channels": 1},
    ),
    "unet UNet3D residual": Entry(
        "unet",
        _of(
            "unet",
            "UNet3D",
            num_encoding_blocks=3,
            out_channels_first_layer=4,
            upsampling_type="linear",
            preactivation=True,
            residual=True,
        ),
        Truth(_THREE, _FEPEGAR, (1, 2)),
        {"channels": 1, "size": (16, 16, 16), "other": (24, 16, 16)},
    ),
    "denoising-diffusion-pytorch Unet": Entry(
        "denoising_diffusion_pytorch",
        _of("denoising_diffusion_pytorch", "Unet", dim=8, dim_mults=(1, 2, 4)),
        Truth(_THREE, _DENOISING, (1, 2)),
        {"extra": _time},
    ),
    "denoising-diffusion-pytorch Unet1D": Entry(
        "denoising_diffusion_pytorch",
        _of("denoising_diffusion_pytorch", "Unet1D", dim=8, dim_mults=(1, 2, 4)),
        Truth(_THREE, _DENOISING, (1, 2)),
        {"size": (64,), "other": (96,), "extra": _time},
    ),
    # of one size; weights are normalised in place while training, and a gain begins at nothing
    "denoising-diffusion-pytorch KarrasUnet": Entry(
        "denoising_diffusion_pytorch",
        _of(
            "denoising_diffusion_pytorch",
            "KarrasUnet",
            image_size=32,
            dim=8,
            dim_max=32,
            num_downsamples=2,
            num_blocks_per_stage=1,
            attn_res=(8,),
        ),
        Truth(_THREE, _KARRAS, (1, 2)),
        {"channels": 4, "size": (32, 32), "other": None, "extra": _time},
    ),
    # forgets the class of an image by chance
    "denoising-diffusion-pytorch classifier-free": Entry(
        "denoising_diffusion_pytorch",
        _of(
            "denoising_diffusion_pytorch.classifier_free_guidance",
            "Unet",
            dim=8,
            num_classes=4,
            dim_mults=(1, 2, 4),
        ),
        Truth(_THREE, _GUIDED, (1, 2)),
        {"extra": _time_and_class},
    ),
    "denoising-diffusion-pytorch UViT": Entry(
        "denoising_diffusion_pytorch",
        _of(
            "denoising_diffusion_pytorch.simple_diffusion",
            "UViT",
            dim=8,
            dim_mults=(1, 2),
            vit_depth=1,
        ),
        Truth(_THREE, _UVIT, (1, 2)),
        {"extra": _time},
    ),
    # images are clips of one frame
    "x-unet XUnet": Entry(
        "x_unet",
        _of(
            "x_unet",
            "XUnet",
            dim=8,
            dim_mults=(1, 2),
            num_blocks_per_stage=(1, 1),
            num_self_attn_per_stage=(0, 1),
            nested_unet_depths=(0, 0),
            weight_standardize=True,
        ),
        Truth(_THREE, _XUNET, (1, 2)),
    ),
    # functions that hold modules
    "a-unet XUNet 1-D": Entry(
        "a_unet",
        _nested_blocks,
        Truth(_FOUR, _NESTED, (1, 2, 3)),
        {"channels": 2, "size": (64,), "other": (96,)},
    ),
    "demucs Demucs": Entry(
        "demucs",
        _of(
            "demucs.demucs",
            "Demucs",
            sources=["drums", "voice"],
            channels=8,
            depth=3,
            norm_starts=2,
            dconv_attn=2,
            dconv_lstm=9,
            resample=False,
        ),
        Truth((1, 4, 16, 64), _DEMUCS, (1, 2, 3)),
        {"channels": 2, "size": (1024,), "other": (1500,)},
    ),
    "kornia DISK U-net": Entry(
        "kornia",
        _of(
            "kornia.feature.disk._unets", "Unet", in_features=3, size=3, up=[8, 8], down=[8, 16, 16]
        ),
        Truth(_THREE, _DISK, (1, 2)),
    ),
    "kornia DexiNed": Entry(
        "kornia",
        _of("kornia.models.dexined", "DexiNed", pretrained=False),
        Truth((1, 2, 4, 8, 16), _DEXINED, (1, 2, 3, 4)),
    ),
}
"""All of them, by name."""

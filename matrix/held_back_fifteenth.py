"""A fifteenth list: twenty networks of twenty packages, drawn by a rule and not by taste.

The names are those of the list of packages that the fourteenth was drawn from (October 2026), less
what that drew. First those whose *name* holds one of `WORDS` and whose name or line holds "torch",
sorted, in the order of ``random.Random(15).sample(names, len(names))`` (67, four networks); then
those whose *line* does (102, seven); then those whose name does, without the word "torch", where
the line speaks of deep learning, a neural network or a CNN (130 of 135, eight); then those of a
U-net, an autoencoder or an encoder-decoder (2 of 94, one). Words like "tensorflow", "workflow" and
"point cloud" do not count for "flow" and "cloud", nor "single cell" for "cell". A package is
skipped only for a reason of `SKIPPED`; of every other the main network is taken (what its README
or docstring shows first, else its default), at a small width where it has one. None was taken out
for what the reader says of it, and none was read before this was written down, from its source and
from the shapes that plain hooks see.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from matrix.held_back_fourteenth import WORDS as FOURTEENTH
from matrix.more import ALL, Entry, network_of, two_images
from matrix.truth import HALVES, THREE_UPS, Truth, resnet, widening

WORDS = (
    *FOURTEENTH,
    *("monai", "pix2pix", "cyclegan", "colori", "fno", "neural-operator", "flow", "stereo"),
    *("dehaz", "derain", "weather", "radar", "cloud", "crack", "retina", "cell", "nuclei"),
    *("tumor", "lesion", "satellite", "seism"),
)
SKIPPED: Mapping[str, int] = {
    "holds no network, or only losses, data or tools": 149,
    "networks of vectors, words or points, or of one resolution; classifiers, detectors": 87,
    "is handed its encoder and decoder": 1,
    "a copy or a wrapper of what a list holds already": 14,
    "in a list already": 10,
    "not of PyTorch": 13,
    "does not install, or needs a compiled extra or a GPU": 4,
    "does not load with the versions here, or clashes with the name of another": 1,
    "its own network fails when it is built or called": 2,
}
"""How many were skipped, and why.

What a line alone says (a loss, a data set, a fork) was not opened.
"""

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_QUARTERS = (1, 4, 16, 64, 256)


def _alone(*names: str) -> None:
    """Import packages without what their ``__init__`` imports, which does not load here."""
    for name in names:
        if name in sys.modules:
            continue
        parent, _, last = name.rpartition(".")
        if parent:
            places = [str(Path(place) / last) for place in sys.modules[parent].__path__]
        else:
            spec = util.find_spec(name)
            assert spec is not None
            places = list(spec.submodule_search_locations or ())
        module = ModuleType(name)
        module.__path__ = places
        sys.modules[name] = module


def _song() -> nn.Module:
    package = import_module("rectified_flow.models.unet")
    model: nn.Module = package.SongUNet(
        package.SongUNetConfig(
            img_resolution=32,
            in_channels=3,
            out_channels=3,
            model_channels=16,
            channel_mult=[1, 2, 2],
            num_blocks=1,
        )
    )
    return model.train()


def _gandlf() -> nn.Module:
    model: nn.Module = import_module("GANDLF.models.unet").unet(
        {
            "model": {
                "architecture": "unet",
                "dimension": 3,
                "num_channels": 1,
                "class_list": [0, 1],
                "base_filters": 8,
                "norm_type": "batch",
                "amp": False,
                "final_layer": "softmax",
            },
            "patch_size": [32, 32, 32],
            "batch_size": 1,
        }
    )
    return model.train()


def _quick() -> nn.Module:
    model: nn.Module = import_module("quickNat_pytorch.quickNAT").quickNAT(
        {
            "num_channels": 1,
            "num_filters": 64,
            "kernel_h": 5,
            "kernel_w": 5,
            "kernel_c": 1,
            "stride_conv": 1,
            "pool": 2,
            "stride_pool": 2,
            "num_class": 4,
        }
    )
    return model.train()


def _atrous() -> nn.Module:
    """The network of its learner, without the weights that it fetches."""
    package = import_module("semtorch.models.archs.deeplabv3_plus")
    config = import_module("semtorch.models.config").cfg
    fetches = config.TRAIN.BACKBONE_PRETRAINED
    config.TRAIN.BACKBONE_PRETRAINED = False
    try:
        model: nn.Module = package.DeepLabV3Plus("resnet50", 2)
    finally:
        config.TRAIN.BACKBONE_PRETRAINED = fetches
    return model.train()


def _cells() -> nn.Module:
    _alone("bidcell")
    model: nn.Module = import_module("bidcell.model.model.model").SegmentationModel(n_channels=8)
    return model.train()


def _robots() -> nn.Module:
    """Its BiSeNet alone, without the weights that it fetches for its ResNets."""
    segmentation = "opendr.perception.semantic_segmentation"
    import_module("opendr.perception")
    _alone(segmentation, f"{segmentation}.bisenet")
    package = import_module(f"{segmentation}.bisenet.algorithm.model.build_BiSeNet")
    models = import_module(f"{segmentation}.bisenet.algorithm.model.build_contextpath").models
    fetching = models.resnet18, models.resnet101
    models.resnet18 = lambda pretrained: fetching[0](weights=None)
    models.resnet101 = lambda pretrained: fetching[1](weights=None)
    try:
        model: nn.Module = package.BiSeNet(2, "resnet18")
    finally:
        models.resnet18, models.resnet101 = fetching
    return model.train()


def _speech() -> nn.Module:
    settings = {"encoder_channels": [8, 16, 32, 64], "bottleneck_channels": 128}
    model: nn.Module = import_module("speech_denoiser.model").UNet({"model": settings})
    return model.train()


def _spectra() -> nn.Module:
    model: nn.Module = import_module("nmrdenoise.core").AE_denoise.Autoencoder()
    return model.train()


# drawn by name -----------------------------------------------------------------------------------
# the encoder goes on to a 32nd, which nothing uses; a vector of the bottom is added to every map
_CELLPOSE = {
    **dict.fromkeys(("conv_stem", "bn1", "blocks.0"), "encoder 1"),
    **widening("blocks.1.0", ("conv_pw", "bn1"), "encoder 1", "encoder 2"),
    "blocks.1": "encoder 2",
    **widening("blocks.2.0", ("conv_pw", "bn1"), "encoder 2", "encoder 3"),
    "blocks.2": "encoder 3",
    **widening("blocks.3.0", ("conv_pw", "bn1"), "encoder 3", "bottleneck"),
    **dict.fromkeys(("blocks.3", "blocks.4"), "bottleneck"),
    **dict.fromkeys(("blocks.5", "blocks.6", "conv_head", "bn2", "classifier"), "dead"),
}
_STAGES = {
    "decoder.make_style": "bottleneck",
    **{f"decoder.type_decoder.decoder_stage{i}": f"decoder {4 - i}" for i in (1, 2, 3, 4)},
    **{f"decoder.type_decoder.decoder_stage{i}.skip": f"skip {4 - i}" for i in (1, 2, 3)},
    **{
        f"decoder.type_decoder.decoder_stage{i}.conv_layers.*.*.add_style": (
            f"decoder {4 - i} | bottleneck"
        )
        for i in (1, 2, 3, 4)
    },
    **{f"decoder.type-{kind}_head": "head" for kind in ("nuc_cellpose", "nuc_type")},
}
# a norm comes before the filter that halves or doubles, a kernel after it
_SONG = {
    **dict.fromkeys(("map_layer0", "map_layer1"), "encoder 0 | none"),
    **dict.fromkeys(("enc.32x32_conv", "enc.32x32_block0"), "encoder 0"),
    **widening("enc.16x16_down", ("norm0",), "encoder 0", "encoder 1"),
    "enc.16x16_block0": "encoder 1",
    **widening("enc.8x8_down", ("norm0",), "encoder 1", "bottleneck"),
    **dict.fromkeys(
        ("enc.8x8_block0", "dec.8x8_in0", "dec.8x8_in1", "dec.8x8_block0", "dec.8x8_block1"),
        "bottleneck",
    ),
    "dec.16x16_up": "decoder 1",
    "dec.16x16_up.norm0": "bottleneck",
    **dict.fromkeys(("dec.16x16_block0", "dec.16x16_block1"), "decoder 1"),
    "dec.32x32_up": "decoder 0",
    "dec.32x32_up.norm0": "decoder 1",
    **dict.fromkeys(("dec.32x32_block0", "dec.32x32_block1", "dec.32x32_aux_norm"), "decoder 0"),
    "dec.32x32_aux_conv": "head",
}
# every map attends to all maps before it, which are pooled or raised to its size; the first to
# none. What takes the time is left out with it
_ATTENDED = {
    "init_conv": "encoder 0",
    "time_mlp": "dead",
    "downs.0": "encoder 0",
    "downs.0.3": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.3": "bottleneck",
    "downs.2": "bottleneck",
    **dict.fromkeys(("mid_block1", "mid_attn", "mid_block2"), "bottleneck"),
    **THREE_UPS,
    **dict.fromkeys(("downs.*.*.branch.mlp", "ups.*.*.branch.mlp"), "dead"),
    **{f"{block}.branch.mlp": "dead" for block in ("mid_block1", "mid_block2", "final_res_block")},
    "down_xattnres.0": "dead",
    "down_xattnres.1": "encoder 1",
    **dict.fromkeys(("down_xattnres.2", "mid_xattnres", "up_xattnres.0"), "bottleneck"),
    "up_xattnres.1": "decoder 1",
    "up_xattnres.1.norm": "skip 1 | decoder 1",
    **{
        f"up_xattnres.1.{part}.{i}": "skip 1"
        for part in ("projs", "norms_in", "loras")
        for i in (0, 1)
    },
    "up_xattnres.2": "decoder 0",
    "up_xattnres.2.norm": "skip 0 | decoder 0",
    **{f"up_xattnres.2.{part}.0": "skip 0" for part in ("projs", "norms_in", "loras")},
}
_EQUATIONS = {
    "time_embed": "encoder 0 | none",
    **{f"encoder_blocks.{i}": f"encoder {i}" for i in range(4)},
    **{f"time_projs_encoder.{i}": f"encoder {i}" for i in range(4)},
    **dict.fromkeys(("bottleneck", "time_proj_bottleneck", "bottleneck_attn"), "bottleneck"),
    **{
        f"{part}.{i}": f"decoder {3 - i}"
        for part in ("upsamples", "decoder_blocks", "time_projs_decoder")
        for i in range(4)
    },
    "output_conv": "head",
}


# drawn by their line -----------------------------------------------------------------------------
# a norm comes before the kernel that halves
_GENERAL = {
    "ins": "encoder 0",
    **{
        layer: place
        for i in range(4)
        for layer, place in widening(
            f"ds_{i}", ("in_0",), f"encoder {i}", f"encoder {i + 1}" if i < 3 else "bottleneck"
        ).items()
    },
    **{f"en_{i}": f"encoder {i}" for i in (1, 2, 3)},
    "en_4": "bottleneck",
    **{f"{part}_{i}": f"decoder {i}" for part in ("us", "de") for i in range(4)},
    "out.in_0": "decoder 0",
    "out.conv0": "head",
}
# samples become channels before a kernel and channels samples behind one, both at the deeper level
_PHASES = {
    **dict.fromkeys(("backbone.init_conv", "backbone.init_resnet_block"), "encoder 0"),
    **{f"backbone.downs.{i}": f"encoder {i + 1}" for i in range(3)},
    "backbone.downs.3": "bottleneck",
    **{f"backbone.mid_{part}": "bottleneck" for part in ("block1", "attn", "block2")},
    "backbone.ups.0": "bottleneck",
    **{f"backbone.ups.{i}": f"decoder {4 - i}" for i in (1, 2, 3)},
    "backbone.final_res_block": "decoder 0",
    "backbone.phase_head": "head",
}
# filters without weights halve behind a kernel, and double before one
_BRIDGE = {
    **dict.fromkeys(("model.1", "model.4"), "encoder 0"),
    "model.8": "encoder 1",
    **dict.fromkeys(("model_res", "z_transform", "time_embed"), "bottleneck"),
    "model_upsample.1": "decoder 1",
    "model_upsample.5": "decoder 0",
    "model_upsample.9": "head",
}
_QUICK = {
    **{f"encode{i}": f"encoder {i - 1}" for i in (1, 2, 3, 4)},
    "bottleneck": "bottleneck",
    "decode4": "decoder 3",
    **{f"decode{i}": f"decoder {3 - i}" for i in (1, 2, 3)},
    "classifier": "head",
}
# the last map is pooled once more, and raised before a kernel sees it
_CENTRE = {
    **resnet("encoder", "encoder 5"),
    "encoder.fc": "dead",
    "center": "decoder 5",
    **{f"dec{i}": f"decoder {i - 1}" for i in (1, 2, 3, 4, 5)},
    "dec0": "decoder 0",
    "final": "head",
}
_ATROUS = {
    **resnet("backbone"),
    "backbone.layer3": "bottleneck",
    **widening("backbone.layer2.0", ("conv1", "bn1"), "encoder 2", "encoder 3"),
    **widening("backbone.layer3.0", ("conv1", "bn1"), "encoder 3", "bottleneck"),
    "backbone.fc": "dead",
    "head.aspp": "bottleneck",
    "head.c1_block": "skip 2",
    "head.block": "decoder 2",
    "head.block.2": "head",
}
# one block is called again and again at a sixth, and its last layer comes up
_RECURSIVE = {
    **dict.fromkeys(("in_conv", "reduce_ch_conv", "sd_conv"), "bottleneck"),
    "out_conv": "decoder 0 | head",
}


# drawn without the word --------------------------------------------------------------------------
_SPEECH = {
    "inc": "encoder 0",
    **{f"down{i}": f"encoder {i}" for i in (1, 2, 3)},
    **dict.fromkeys(("down4", "attention"), "bottleneck"),
    **{f"up{i}": f"decoder {4 - i}" for i in (1, 2, 3, 4)},
    "outc": "head",
}
_PADDED = {
    **{f"down{i}": f"encoder {i - 1}" for i in (1, 2, 3, 4)},
    "center": "bottleneck",
    **{f"up{i}": f"decoder {i - 1}" for i in (1, 2, 3, 4)},
    "final": "head",
}
# its last kernel is not padded, and two samples are lost
_SPECTRA = {
    "encoder.0": "encoder 0",
    "encoder.2": "encoder 1",
    "encoder.4": "encoder 2",
    "encoder.6": "bottleneck",
    "decoder.0": "decoder 2",
    "decoder.2": "decoder 1",
    **dict.fromkeys(("decoder.4", "decoder.6"), "decoder 0"),
    "decoder.8": "head",
}
# UNet 3+: a level of the decoder reads every finer encoder level pooled, every deeper one raised
_EVERY = {
    **{f"conv{i}": f"encoder {i - 1}" for i in (1, 2, 3, 4)},
    "conv5": "bottleneck",
    **{
        f"h{i}_{'PT' if i < to else 'Cat'}_hd{to}_{of}": f"skip {to - 1}"
        for to in (1, 2, 3, 4)
        for i in range(1, to + 1)
        for of in ("conv", "bn")
    },
    **{
        f"hd{i}_UT_hd{to}_{of}": f"decoder {to - 1}"
        for to in (1, 2, 3, 4)
        for i in range(to + 1, 6)
        for of in ("conv", "bn")
    },
    **{f"{of}{i}d_1": f"decoder {i - 1}" for of in ("conv", "bn") for i in (1, 2, 3, 4)},
    "outconv_seg": "head",
}
_REPLICATED = {
    "in_layer": "encoder 0",
    **{f"encoder_layers.{i}": f"encoder {i + 1}" for i in (0, 1)},
    "encoder_layers.2": "bottleneck",
    **{f"decoder_layers.{i}": f"decoder {2 - i}" for i in range(3)},
    "out_layer": "head",
}
# strides of four; what comes up is cropped
_WAVES = {
    **dict.fromkeys(("inc", "in_bn"), "encoder 0"),
    **{f"down_branch.{i}": f"encoder {i}" for i in range(4)},
    **{f"down_branch.{i}.{j}": f"encoder {i + 1}" for i in range(3) for j in (2, 3)},
    **{f"down_branch.3.{j}": "bottleneck" for j in (2, 3)},
    "down_branch.4": "bottleneck",
    **{f"up_branch.{i}": f"decoder {3 - i}" for i in range(4)},
    "out": "head",
}
# the last kernel follows the last resizing; norms of the refinements are made and never called
_ROBOTS = {
    "saptial_path.convblock1": "encoder 1",
    "saptial_path.convblock2": "encoder 2",
    "saptial_path.convblock3": "skip 3",
    **resnet("context_path.features"),
    "context_path.features.fc": "dead",
    "attention_refinement_module1": "skip 4",
    "attention_refinement_module2": "bottleneck",
    **{f"attention_refinement_module{i}.bn": "dead" for i in (1, 2)},
    # called in training alone
    **dict.fromkeys(("supervision1", "supervision2"), "none"),
    "feature_fusion_module": "decoder 3",
    "conv": "head",
}
# halved seven times
_SEVEN = {
    "inc": "encoder 0",
    **{f"enc_block.{i}": f"encoder {i + 1}" for i in range(6)},
    "enc_block.6": "bottleneck",
    **{f"dec_block.{i}": f"decoder {6 - i}" for i in range(7)},
    "outc": "head",
}


def _times(batch: int) -> Mapping[str, Any]:
    return {"time": torch.linspace(0.1, 0.9, batch)}


def _short_times(batch: int) -> Mapping[str, Any]:
    return {"t": torch.linspace(0.1, 0.9, batch)}


def _noise(batch: int) -> Mapping[str, Any]:
    """Numbers of steps, and a code of noise."""
    generator = torch.Generator().manual_seed(1)
    return {
        "time_cond": torch.arange(batch),
        "z": torch.randn(batch, 64, generator=generator),
    }


def _feed(image: Tensor) -> tuple[Mapping[str, Tensor]]:
    """What its module calls a batch."""
    return ({"data": image},)


HELD_BACK_FIFTEENTH: Mapping[str, Entry] = {
    "flowpde UNet": Entry(
        "flowpde",
        # the state, the condition and the time; what comes out is one vector
        network_of("flowpde.models.unet", "UNet", 2, 64, base_channels=8),
        Truth(_FIVE, _EQUATIONS, (1, 2, 3, 4)),
        {"channels": 2, "arrange": two_images, "extra": _short_times},
    ),
    "rectified-flow SongUNet": Entry(
        "rectified_flow", _song, Truth(_THREE, _SONG, (1, 2)), {"extra": _times}
    ),
    "cellseg-models-pytorch CellPoseUnet": Entry(
        "cellseg_models_pytorch",
        network_of(
            "cellseg_models_pytorch.models.cellpose.cellpose_unet",
            "cellpose_nuclei",
            3,
            enc_name="efficientnet_b0",
            enc_pretrain=False,
            out_channels=(32, 24, 16, 8),
            style_channels=16,
        ),
        Truth(
            _FIVE,
            {
                **{f"efficientnet_b0.encoder.encoder.{k}": v for k, v in _CELLPOSE.items()},
                **_STAGES,
            },
            (1, 2, 3, 4),
        ),
    ),
    "rectified-flow-pytorch Unet": Entry(
        "rectified_flow_pytorch",
        network_of(
            "rectified_flow_pytorch.rectified_flow",
            "Unet",
            16,
            dim_mults=(1, 2, 4),
            attn_dim_head=8,
            attn_heads=2,
        ),
        Truth(_THREE, _ATTENDED, (1, 2)),
    ),
    "torchsat unet34": Entry(
        "torchsat",
        network_of("torchsat.models.segmentation.unet", "unet34", 2, num_filters=8),
        Truth((*HALVES, 64), _CENTRE, (1, 2, 3, 4, 5, 6)),
        {"size": (128, 128), "other": (128, 192)},
    ),
    "phasenet PhaseNet": Entry(
        "phasenet",
        network_of("phasenet.models.phasenet", "build_model"),
        Truth(tuple((1, r) for r in _QUARTERS), _PHASES, (1, 2, 3, 4)),
        {"size": (1, 1024), "other": (1, 2048), "arrange": _feed, "given": True},
    ),
    "quicknat-pytorch quickNAT": Entry(
        "quickNat_pytorch", _quick, Truth(_FIVE, _QUICK, (1, 2, 3, 4)), {"channels": 1}
    ),
    "gandlf unet": Entry(
        "GANDLF",
        _gandlf,
        Truth(_FIVE, _GENERAL, (1, 2, 3, 4)),
        {"channels": 1, "size": (32, 32, 32), "other": (48, 32, 32)},
    ),
    "pytorch-rdc-net RDCNet": Entry(
        "pytorch_rdc_net",
        network_of(
            "pytorch_rdc_net.generic_model",
            "RDCNet",
            2,
            channels_per_group=8,
            n_groups=2,
            steps=3,
        ),
        Truth((1, 6), _RECURSIVE, (1,)),
        {"channels": 1, "size": (48, 48), "other": (72, 96)},
    ),
    "pytorch-image-translation-models UNSBGenerator": Entry(
        "src",
        network_of("src.models.unsb", "UNSBGenerator", ngf=16, n_blocks=2),
        Truth(_THREE, _BRIDGE, (1, 2)),
        {"extra": _noise},
    ),
    "semtorch DeepLabV3Plus": Entry("semtorch", _atrous, Truth(_FIVE, _ATROUS, (3, 4))),
    "speech-denoiser UNet": Entry(
        "speech_denoiser", _speech, Truth(_FIVE, _SPEECH, (1, 2, 3, 4)), {"channels": 2}
    ),
    "pathflowai UNet": Entry(
        "pathflowai",
        network_of("pathflowai.unet", "UNet", 3, 2),
        Truth(_FIVE, {k: v for k, v in _SPEECH.items() if k != "attention"}, (1, 2, 3, 4)),
    ),
    "jcell unetpad": Entry(
        "jcell",
        network_of("jcell.evaluation.src.models.unetpad", "unetpad", n_classes=2),
        Truth(_FIVE, _PADDED, (1, 2, 3, 4)),
    ),
    "nmrdenoise Autoencoder": Entry(
        "nmrdenoise",
        _spectra,
        Truth(_FOUR, _SPECTRA, (1, 2, 3)),
        {"channels": 1, "size": (256,), "other": (384,)},
    ),
    "bidcell SegmentationModel": Entry(
        "bidcell", _cells, Truth(_FIVE, _EVERY, (1, 2, 3, 4)), {"channels": 8}
    ),
    "auto-denoise UNet": Entry(
        "autoden",
        network_of("autoden.models.unet", "UNet", 1, 1, n_features=8),
        Truth(_FOUR, _REPLICATED, (1, 2, 3)),
        {"channels": 1},
    ),
    "opendr-toolkit-semantic-segmentation BiSeNet": Entry(
        "opendr", _robots, Truth(HALVES, _ROBOTS, ALL)
    ),
    "wavedenoiser PNet": Entry(
        "wavedenoiser",
        network_of("wavedenoiser.wavedenoiser", "PNet", filters_root=8),
        Truth(_QUARTERS, _WAVES, (1, 2, 3, 4)),
        {"size": (2048,), "other": (3072,)},
    ),
    "aisegcell UNet_rec": Entry(
        "aisegcell",
        network_of("aisegcell.models.unet", "UNet_rec", base_filters=8),
        Truth((*HALVES, 64, 128), _SEVEN, (1, 2, 3, 4, 5, 6, 7)),
        {"channels": 1, "size": (256, 256), "other": (256, 384)},
    ),
}
"""All of them, by name."""

"""Factories of encoder-decoder networks that people use, small, random and without downloads.

Libraries are imported inside the factories: what is not installed only takes its own networks
out of the matrix.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from matrix import (
    handwritten,
    held_back,
    held_back_again,
    held_back_eighteenth,
    held_back_eighth,
    held_back_eleventh,
    held_back_fifteenth,
    held_back_fifth,
    held_back_fourteenth,
    held_back_fourth,
    held_back_nineteenth,
    held_back_ninth,
    held_back_seventeenth,
    held_back_seventh,
    held_back_sixteenth,
    held_back_sixth,
    held_back_tenth,
    held_back_third,
    held_back_thirteenth,
    held_back_twelfth,
    held_back_twentieth,
    held_back_twentyfirst,
)
from matrix.kinds import KINDS
from matrix.more import MORE, nnunet_builder
from matrix.truth import TRUTH, Truth


@dataclass(frozen=True)
class Network:
    """One network of the matrix.

    Attributes:
        name: Unique; the row's name in the report.
        requires: Import name of the library it comes from; empty where nothing is needed.
        build: Makes a new instance with random weights.
        channels: Channels of the image.
        size: A spatial size that its documentation allows.
        other: Another one; None where the network is built for one size only.
        extra: Arguments beside the image that the forward requires, made for a batch size.
        given: Whether the reader is given an example of ``size``, and nothing but the model if not.
        arrange: What the forward takes, made of a (B, C, *S) image: a tensor or a tuple of
            positional arguments; None: the image itself.
        gradients: Whether its graph is compared with gradients on; not where the forward asks for
            them, and is read without.
        layout: The image's axes, where the reader asks for them.
    """

    name: str
    requires: str
    build: Callable[[], nn.Module]
    channels: int
    size: tuple[int, ...]
    other: tuple[int, ...] | None
    extra: Callable[[int], Mapping[str, Any]] | None = None
    given: bool = False
    arrange: Callable[[torch.Tensor], Any] | None = None
    gradients: bool = True
    layout: str | None = None

    @property
    def installed(self) -> bool:
        """Whether its library can be imported here."""
        return not self.requires or importlib.util.find_spec(self.requires) is not None

    def inputs(
        self, batch: int = 2, size: tuple[int, ...] | None = None, seed: int = 0
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make positional and keyword arguments for a call.

        Args:
            batch: Number of images.
            size: Spatial size; None takes ``self.size``.
            seed: Of the random image.
        """
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(batch, self.channels, *(size or self.size), generator=generator)
        taken = self.arrange(image) if self.arrange else image
        args = taken if isinstance(taken, tuple) else (taken,)
        return args, dict(self.extra(batch)) if self.extra else {}


@dataclass
class _Registry:
    """Collects the networks in the order in which they are written down."""

    networks: dict[str, Network] = field(default_factory=dict)

    def add(
        self,
        name: str,
        requires: str,
        build: Callable[[], nn.Module],
        *,
        channels: int = 3,
        size: tuple[int, ...] = (64, 64),
        other: tuple[int, ...] | None = (96, 128),
        **more: Any,
    ) -> None:
        """Add one network; its name must be new."""
        if name in self.networks:
            raise ValueError(f"two networks are called {name!r}")
        self.networks[name] = Network(name, requires, build, channels, size, other, **more)


_registry = _Registry()


# segmentation-models-pytorch ---------------------------------------------------------------------
def _smp(architecture: str, encoder: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        factory = getattr(smp, architecture)
        return factory(encoder, encoder_weights=None, classes=2, **settings)

    return build


def _add_smp(name: str, architecture: str, encoder: str, **settings: Any) -> None:
    sizes = {key: settings.pop(key) for key in ("size", "other") if key in settings}
    _registry.add(
        f"smp {name}",
        "segmentation_models_pytorch",
        _smp(architecture, encoder, **settings),
        **sizes,
    )


_add_smp("Unet resnet18", "Unet", "resnet18")
_add_smp(
    "Unet resnet34 depth 3", "Unet", "resnet34", encoder_depth=3, decoder_channels=(256, 128, 64)
)
_add_smp("Unet resnet50", "Unet", "resnet50", decoder_channels=(64, 32, 16, 16, 16))
_add_smp("Unet resnet18 scse", "Unet", "resnet18", decoder_attention_type="scse")
_add_smp("Unet mobilenet_v2", "Unet", "mobilenet_v2")
_add_smp("Unet efficientnet-b0", "Unet", "efficientnet-b0")
_add_smp("Unet convnext", "Unet", "tu-convnext_atto")
_add_smp("Unet mit_b0", "Unet", "mit_b0")
_add_smp("UnetPlusPlus resnet18", "UnetPlusPlus", "resnet18")
_add_smp("UnetPlusPlus efficientnet-b0", "UnetPlusPlus", "efficientnet-b0")
_add_smp("Linknet resnet18", "Linknet", "resnet18")
_add_smp("Linknet mobilenet_v2", "Linknet", "mobilenet_v2")
_add_smp("MAnet resnet18", "MAnet", "resnet18")
_add_smp("MAnet efficientnet-b0", "MAnet", "efficientnet-b0")
_add_smp("FPN resnet18", "FPN", "resnet18")
_add_smp("FPN mit_b0", "FPN", "mit_b0")
_add_smp("FPN mobilenet_v2", "FPN", "mobilenet_v2")
_add_smp("PAN resnet18", "PAN", "resnet18", size=(256, 256), other=(128, 384))
_add_smp("UPerNet resnet18", "UPerNet", "resnet18", size=(64, 64))
_add_smp("UPerNet convnext", "UPerNet", "tu-convnext_atto")
_add_smp("UPerNet mit_b0", "UPerNet", "mit_b0")
_add_smp("DeepLabV3Plus resnet18", "DeepLabV3Plus", "resnet18")
_add_smp("DeepLabV3Plus mobilenet_v2", "DeepLabV3Plus", "mobilenet_v2")
_add_smp("Segformer mit_b0", "Segformer", "mit_b0")
_add_smp("Segformer resnet18", "Segformer", "resnet18")
_add_smp(
    "DPT vit",
    "DPT",
    "tu-vit_tiny_patch16_224",
    decoder_intermediate_channels=(16, 32, 48, 48),
    decoder_fusion_channels=16,
    dynamic_img_size=True,
    embed_dim=48,
)


# MONAI -------------------------------------------------------------------------------------------
def _monai(architecture: str, *arguments: Any, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from monai.networks import nets

        factory: Callable[..., nn.Module] = getattr(nets, architecture)
        return factory(*arguments, **settings)

    return build


_CUBE, _OTHER_CUBE = (32, 32, 32), (32, 64, 32)
_registry.add(
    "monai UNet 2-D",
    "monai",
    _monai("UNet", 2, 1, 2, (8, 16, 24, 32), (2, 2, 2), num_res_units=2),
    channels=1,
)
_registry.add(
    "monai UNet 3-D anisotropic",
    "monai",
    _monai("UNet", 3, 1, 2, (8, 16, 24), ((1, 2, 2), (2, 2, 2))),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)
_registry.add(
    "monai BasicUNet 2-D",
    "monai",
    _monai("BasicUNet", 2, 1, 2, (8, 8, 16, 24, 32, 8)),
    channels=1,
)
_registry.add(
    "monai BasicUNet 3-D",
    "monai",
    _monai("BasicUNet", 3, 1, 2, (4, 4, 8, 16, 32, 4)),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)
_registry.add(
    "monai AttentionUnet 2-D",
    "monai",
    _monai("AttentionUnet", 2, 1, 2, (8, 16, 24), (2, 2)),
    channels=1,
)
_registry.add(
    "monai AttentionUnet 3-D",
    "monai",
    _monai("AttentionUnet", 3, 1, 2, (4, 8, 12), (2, 2)),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)
_registry.add(
    "monai SegResNet 2-D",
    "monai",
    _monai("SegResNet", 2, 8, 1, 2, blocks_down=(1, 1, 1, 2)),
    channels=1,
)
_registry.add(
    "monai SegResNet 3-D",
    "monai",
    _monai(
        "SegResNet", 3, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1), upsample_mode="deconv"
    ),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)
_registry.add(
    "monai DynUNet 2-D",
    "monai",
    _monai("DynUNet", 2, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[8, 16, 24, 32]),
    channels=1,
)
_registry.add(
    "monai DynUNet 3-D anisotropic residual",
    "monai",
    _monai(
        "DynUNet",
        3,
        1,
        2,
        [(1, 3, 3), 3, 3],
        [1, (1, 2, 2), 2],
        [(1, 2, 2), 2],
        filters=[8, 16, 24],
        res_block=True,
    ),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)
_registry.add(
    "monai DynUNet 2-D deep supervision",
    "monai",
    _monai(
        "DynUNet",
        2,
        1,
        2,
        [3] * 4,
        [1, 2, 2, 2],
        [2, 2, 2],
        filters=[8, 16, 24, 32],
        deep_supervision=True,
        deep_supr_num=2,
    ),
    channels=1,
)
_registry.add(
    "monai VNet 2-D",
    "monai",
    _monai("VNet", spatial_dims=2, in_channels=1, out_channels=2, dropout_dim=2),
    channels=1,
)
_registry.add(
    "monai UNETR 2-D",
    "monai",
    _monai(
        "UNETR",
        1,
        2,
        64,
        feature_size=4,
        hidden_size=24,
        mlp_dim=48,
        num_heads=2,
        spatial_dims=2,
    ),
    channels=1,
    other=None,
)
_registry.add(
    "monai UNETR 3-D",
    "monai",
    _monai("UNETR", 1, 2, 32, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2),
    channels=1,
    size=_CUBE,
    other=None,
)
# its forward turns the sizes into numbers (np.ceil, np.array): it can be read for one size only
_registry.add(
    "monai SwinUNETR 2-D",
    "monai",
    _monai("SwinUNETR", 1, 2, depths=(2, 1, 1, 1), feature_size=12, spatial_dims=2),
    channels=1,
    other=None,
    given=True,
)
_registry.add(
    "monai SwinUNETR 3-D",
    "monai",
    _monai("SwinUNETR", 1, 2, depths=(2, 1, 1, 1), feature_size=12, window_size=4),
    channels=1,
    size=(64, 32, 32),
    other=None,
    given=True,
)


# dynamic-network-architectures (nnU-Net) ---------------------------------------------------------
_FLAT: dict[str, Any] = {
    "n_stages": 4,
    "features_per_stage": [8, 16, 24, 32],
    "kernel_sizes": 3,
    "strides": [1, 2, 2, 2],
}
_ANISOTROPIC: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [8, 16, 24],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}
_DNA = "dynamic_network_architectures"
_registry.add(
    "nnU-Net PlainConvUNet 2-D", _DNA, nnunet_builder("PlainConvUNet", 2, **_FLAT), channels=1
)
_registry.add(
    "nnU-Net PlainConvUNet 3-D anisotropic",
    _DNA,
    nnunet_builder("PlainConvUNet", 3, **_ANISOTROPIC),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)
_registry.add(
    "nnU-Net PlainConvUNet 2-D deep supervision",
    _DNA,
    nnunet_builder("PlainConvUNet", 2, **_FLAT, deep_supervision=True),
    channels=1,
)
_registry.add(
    "nnU-Net ResidualEncoderUNet 2-D",
    _DNA,
    nnunet_builder("ResidualEncoderUNet", 2, **_FLAT),
    channels=1,
)
_registry.add(
    "nnU-Net ResidualEncoderUNet 3-D anisotropic deep supervision",
    _DNA,
    nnunet_builder("ResidualEncoderUNet", 3, **_ANISOTROPIC, deep_supervision=True),
    channels=1,
    size=_CUBE,
    other=_OTHER_CUBE,
)


# transformers, diffusers, torchvision ------------------------------------------------------------
def _hf_segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 40, 64],
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=32,
        num_labels=2,
    )
    return SegformerForSemanticSegmentation(config)


def _hf_upernet() -> nn.Module:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 24, 32, 40],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=16, num_labels=2
    )
    return UperNetForSemanticSegmentation(config)


def _diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    model: nn.Module = UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
    return model


def _torchvision(architecture: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import segmentation

        factory: Callable[..., nn.Module] = getattr(segmentation, architecture)
        return factory(weights=None, weights_backbone=None, num_classes=2)

    return build


_registry.add("transformers Segformer", "transformers", _hf_segformer)
_registry.add("transformers UperNet convnext", "transformers", _hf_upernet)
_registry.add(
    "diffusers UNet2DModel",
    "diffusers",
    _diffusers_unet,
    extra=lambda batch: {"timestep": torch.arange(1, batch + 1)},
)
_registry.add("torchvision fcn_resnet50", "torchvision", _torchvision("fcn_resnet50"))
_registry.add(
    "torchvision deeplabv3_mobilenet_v3",
    "torchvision",
    _torchvision("deeplabv3_mobilenet_v3_large"),
)
_registry.add(
    "torchvision lraspp_mobilenet_v3", "torchvision", _torchvision("lraspp_mobilenet_v3_large")
)


# written by hand, and this project's own ---------------------------------------------------------
_registry.add("by hand: F.pad of dynamic size", "", handwritten.PadUNet, other=(97, 75))
_registry.add("by hand: nested Sequential", "", handwritten.nested_sequential)
_registry.add("by hand: shared weights", "", handwritten.SharedUNet)


def _zoo(name: str, width: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from mpseg_models.registry import create_model

        return create_model(name, width=width, seed=0)

    return build


for _name, _width in (
    ("unet", 8),
    ("half_unet", 8),
    ("multiresunet", 12),
    ("half_multiresunet", 12),
    ("quarter_multiresunet", 12),
):
    _registry.add(f"zoo {_name}", "mpseg_models", _zoo(_name, _width))

for _name, _kind in {
    **KINDS,
    **held_back.BY_HAND,
    **held_back_again.BY_HAND,
    **held_back_third.BY_HAND,
}.items():
    _registry.add(_name, "", _kind.build, **_kind.settings)
for _name, _entry in {
    **MORE,
    **held_back.LIBRARIES,
    **held_back_again.LIBRARIES,
    **held_back_third.LIBRARIES,
    **held_back_fourth.HELD_BACK_FOURTH,
    **held_back_fifth.HELD_BACK_FIFTH,
    **held_back_sixth.HELD_BACK_SIXTH,
    **held_back_seventh.HELD_BACK_SEVENTH,
    **held_back_eighth.HELD_BACK_EIGHTH,
    **held_back_ninth.HELD_BACK_NINTH,
    **held_back_tenth.HELD_BACK_TENTH,
    **held_back_eleventh.HELD_BACK_ELEVENTH,
    **held_back_twelfth.HELD_BACK_TWELFTH,
    **held_back_thirteenth.HELD_BACK_THIRTEENTH,
    **held_back_fourteenth.HELD_BACK_FOURTEENTH,
    **held_back_fifteenth.HELD_BACK_FIFTEENTH,
    **held_back_sixteenth.HELD_BACK_SIXTEENTH,
    **held_back_seventeenth.HELD_BACK_SEVENTEENTH,
    **held_back_eighteenth.HELD_BACK_EIGHTEENTH,
    **held_back_nineteenth.HELD_BACK_NINETEENTH,
    **held_back_twentieth.HELD_BACK_TWENTIETH,
    **held_back_twentyfirst.HELD_BACK_TWENTYFIRST,
}.items():
    _registry.add(_name, _entry.requires, _entry.build, **_entry.settings)

NETWORKS: Mapping[str, Network] = _registry.networks
"""Every network by name."""

TRUTHS: Mapping[str, Truth] = {
    **TRUTH,
    **{name: kind.truth for name, kind in KINDS.items()},
    **{name: entry.truth for name, entry in MORE.items()},
    **{name: network.truth for name, network in held_back.HELD_BACK.items()},
    **{name: network.truth for name, network in held_back_again.HELD_BACK_AGAIN.items()},
    **{name: network.truth for name, network in held_back_third.HELD_BACK_THIRD.items()},
    **{name: network.truth for name, network in held_back_fourth.HELD_BACK_FOURTH.items()},
    **{name: network.truth for name, network in held_back_fifth.HELD_BACK_FIFTH.items()},
    **{name: network.truth for name, network in held_back_sixth.HELD_BACK_SIXTH.items()},
    **{name: network.truth for name, network in held_back_seventh.HELD_BACK_SEVENTH.items()},
    **{name: network.truth for name, network in held_back_eighth.HELD_BACK_EIGHTH.items()},
    **{name: network.truth for name, network in held_back_ninth.HELD_BACK_NINTH.items()},
    **{name: network.truth for name, network in held_back_tenth.HELD_BACK_TENTH.items()},
    **{name: entry.truth for name, entry in held_back_eleventh.HELD_BACK_ELEVENTH.items()},
    **{name: entry.truth for name, entry in held_back_twelfth.HELD_BACK_TWELFTH.items()},
    **{name: entry.truth for name, entry in held_back_thirteenth.HELD_BACK_THIRTEENTH.items()},
    **{name: entry.truth for name, entry in held_back_fourteenth.HELD_BACK_FOURTEENTH.items()},
    **{name: entry.truth for name, entry in held_back_fifteenth.HELD_BACK_FIFTEENTH.items()},
    **{name: entry.truth for name, entry in held_back_sixteenth.HELD_BACK_SIXTEENTH.items()},
    **{name: entry.truth for name, entry in held_back_seventeenth.HELD_BACK_SEVENTEENTH.items()},
    **{name: entry.truth for name, entry in held_back_eighteenth.HELD_BACK_EIGHTEENTH.items()},
    **{name: entry.truth for name, entry in held_back_nineteenth.HELD_BACK_NINETEENTH.items()},
    **{name: entry.truth for name, entry in held_back_twentieth.HELD_BACK_TWENTIETH.items()},
    **{name: entry.truth for name, entry in held_back_twentyfirst.HELD_BACK_TWENTYFIRST.items()},
}
"""The truth about every network, by name."""

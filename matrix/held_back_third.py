"""A third twenty, written down when the reader was frozen again, read after that.

Eleven are of designs that the matrix did not hold, two others are to be refused, and seven are of
libraries. What came out at the first reading stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.held_back import monai_net
from matrix.kinds import UNET, Kind, UNet, conv, up
from matrix.more import Entry, nnunet_builder
from matrix.truth import HALVES, TRUTH, Truth, nnunet

_THREE = (1, 2, 4)


# written by hand ---------------------------------------------------------------------------------
class LargeKernels(nn.Module):
    """Separable kernels of 7 beside each level, in place of a classifier, as in GCN."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = conv(3, 8), conv(8, 16), conv(16, 32)
        for level, width in enumerate((8, 16, 32)):
            tall, wide = ((7, 1), (3, 0)), ((1, 7), (0, 3))
            for name, (first, second) in {"left": (tall, wide), "right": (wide, tall)}.items():
                layers = nn.Conv2d(width, 4, *_kernel(first)), nn.Conv2d(4, 4, *_kernel(second))
                self.add_module(f"{name}{level}", nn.Sequential(*layers))
            self.add_module(
                f"refine{level}",
                nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)),
            )

    def _around(self, level: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"left{level}")(x) + self.get_submodule(f"right{level}")(x)

    def _refined(self, level: int, x: Tensor) -> Tensor:
        return x + self.get_submodule(f"refine{level}")(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 4, H, W)."""
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        y = self._refined(2, self._around(2, self.deep(F.max_pool2d(middle, 2))))
        y = self._refined(1, up(y) + self._around(1, middle))
        return self._refined(0, up(y) + self._around(0, top))


def _kernel(sizes: tuple[tuple[int, int], tuple[int, int]]) -> tuple[Any, ...]:
    return sizes[0], 1, sizes[1]


class Shuffled(UNet):
    """Comes back up by pixel shuffling."""

    def __init__(self) -> None:
        super().__init__()
        self.rise1, self.rise0 = nn.Conv2d(32, 64, 3, 1, 1), nn.Conv2d(16, 32, 3, 1, 1)
        self.up1, self.up0 = conv(32, 16), conv(16, 8)

    def decode(self, top: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Features at full resolution."""
        x = self.up1(torch.cat([F.pixel_shuffle(self.rise1(deep), 2), middle], 1))
        return self.up0(torch.cat([F.pixel_shuffle(self.rise0(x), 2), top], 1))


class PositionAttention(nn.Module):
    """Every position attends to all, with a weight that begins at nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 4, 1)
        self.value, self.gamma = nn.Conv2d(width, width, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, H, W)."""
        alike = torch.bmm(self.query(x).flatten(2).transpose(1, 2), self.key(x).flatten(2))
        y = torch.bmm(self.value(x).flatten(2), alike.softmax(-1).transpose(1, 2))
        return x + self.gamma * y.view_as(x)


class ChannelAttention(nn.Module):
    """Every channel attends to all."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, H, W)."""
        flat = x.flatten(2)
        alike = torch.bmm(flat, flat.transpose(1, 2))
        weights = (alike.amax(-1, keepdim=True) - alike).softmax(-1)
        return x + self.gamma * torch.bmm(weights, flat).view_as(x)


class DualAttention(UNet):
    """Attention over positions and over channels of the deepest features, summed, as in DANet."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.channels = PositionAttention(32), ChannelAttention()
        self.fuse = conv(32, 32)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top, middle, deep = super().encode(x)
        return top, middle, self.fuse(self.positions(deep) + self.channels(deep))


class Noise2Noise(UNet):
    """Joins what was pooled, and at full resolution the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.up0 = conv(40, 16), conv(19, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        pooled = F.max_pool2d(self.top(x), 2)
        deep = self.deep(F.max_pool2d(self.middle(pooled), 2))
        y = self.up1(torch.cat([F.interpolate(deep, scale_factor=2.0), pooled], 1))
        return self.out(self.up0(torch.cat([F.interpolate(y, scale_factor=2.0), x], 1)))


class HalfNormal(nn.Module):
    """Half of the channels are normalised, beside a shortcut, as in HINet."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, out, 3, 1, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.norm, self.beside = (
            nn.InstanceNorm2d(out // 2, affine=True),
            nn.Conv2d(channels, out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        one, other = self.first(x).chunk(2, 1)
        y = F.leaky_relu(torch.cat([self.norm(one), other], 1), 0.2)
        return F.leaky_relu(self.second(y), 0.2) + self.beside(x)


class HINet(UNet):
    """A U-net of such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = HalfNormal(3, 8), HalfNormal(8, 16), HalfNormal(16, 32)
        self.up1, self.up0 = HalfNormal(48, 16), HalfNormal(24, 8)


class PartialConv(nn.Module):
    """Convolves what is known, rescaled by how much of it is, and spreads the mask."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.register_buffer("ones", torch.ones(1, 1, 3, 3))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, channels, H, W) and (B, 1, H, W) to features and a mask."""
        known = F.conv2d(mask, self.ones, padding=1)
        spread = (known > 0).to(x.dtype)
        return F.relu(self.conv(x * mask) * (9 / known.clamp(min=1)) * spread), spread


class Inpainting(nn.Module):
    """A U-net of partial convolutions; the fourth channel is the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = (
            PartialConv(3, 8),
            PartialConv(8, 16),
            PartialConv(16, 32),
        )
        self.up1, self.up0, self.out = PartialConv(48, 16), PartialConv(24, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 4, H, W) to (B, 3, H, W)."""
        top, mask0 = self.top(x[:, :3], (x[:, 3:] > 0).to(x.dtype))
        middle, mask1 = self.middle(F.max_pool2d(top, 2), F.max_pool2d(mask0, 2))
        y, mask = self.deep(F.max_pool2d(middle, 2), F.max_pool2d(mask1, 2))
        y, mask = F.interpolate(y, scale_factor=2.0), F.interpolate(mask, scale_factor=2.0)
        y, mask = self.up1(torch.cat([y, middle], 1), torch.maximum(mask, mask1))
        y, mask = F.interpolate(y, scale_factor=2.0), F.interpolate(mask, scale_factor=2.0)
        return self.out(self.up0(torch.cat([y, top], 1), torch.maximum(mask, mask0))[0])


class Mixed(nn.Module):
    """A convolution whose kernel is mixed of four, for each image its own."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.route = nn.Linear(channels, 4)
        self.weight = nn.Parameter(torch.randn(4, out, channels, 3, 3) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        b, c, h, w = x.shape
        shares = torch.sigmoid(self.route(x.mean((2, 3))))
        kernels = (shares @ self.weight.flatten(1)).view(-1, c, 3, 3)
        y = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
        return F.relu(y.view(b, -1, h, w))


class ConditionalConvolutions(UNet):
    """Its deepest convolution is mixed for each image, as in CondConv."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = Mixed(16, 32)


class KernelPredicting(UNet):
    """Predicts for every pixel the 3x3 kernel that filters the image there."""

    def __init__(self) -> None:
        super().__init__(3, 9)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        kernels = self.out(self.decode(*self.encode(x))).softmax(1)
        patches = F.unfold(x, 3, padding=1).view(x.shape[0], 3, 9, *x.shape[2:])
        return (patches * kernels[:, None]).sum(2)


class ImagePrior(nn.Module):
    """Strides down at once; thin skip connections from what enters each level."""

    def __init__(self) -> None:
        super().__init__()
        self.skip0, self.skip1 = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)
        self.down0, self.same0, self.down1 = conv(3, 8, 2), conv(8, 8), conv(8, 16, 2)
        self.same1, self.up1, self.up0 = conv(16, 16), conv(20, 8), conv(12, 8)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        half = self.same0(self.down0(x))
        deep = self.same1(self.down1(half))
        y = self.up1(torch.cat([up(deep), self.skip1(half)], 1))
        return torch.sigmoid(self.out(self.up0(torch.cat([up(y), self.skip0(x)], 1))))


class Unpadded(UNet):
    """As the first U-net: no padding, and the skip connections are cropped."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("top", "middle", "deep", "up1", "up0"):
            self.get_submodule(f"{name}.0").padding = (0, 0)

    def decode(self, top: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Features, smaller than the image."""
        x = self.up1(_cropped(up(deep), middle))
        return self.up0(_cropped(up(x), top))


def _cropped(x: Tensor, skip: Tensor) -> Tensor:
    rows, columns = ((skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
    skip = skip[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]
    return torch.cat([x, skip], 1)


class Downsampler(nn.Module):
    """A convolution with stride beside a pooling, as in ERFNet."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, out - channels, 3, 2, 1), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H/2, W/2)."""
        return F.relu(self.norm(torch.cat([self.conv(x), F.max_pool2d(x, 2)], 1)))


class Factorised(nn.Module):
    """3x1 and 1x3 convolutions, twice, beside a shortcut."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        d = dilation
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
            nn.ReLU(),
            nn.Conv2d(width, width, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, (3, 1), padding=(d, 0), dilation=(d, 1)),
            nn.ReLU(),
            nn.Conv2d(width, width, (1, 3), padding=(0, d), dilation=(1, d)),
            nn.BatchNorm2d(width),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        return F.relu(x + self.layers(x))


class ERFNet(nn.Sequential):
    """Goes down by three, and comes back by transposed convolutions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.down2, self.body2 = Downsampler(3, 8), Downsampler(8, 16), Factorised(16)
        self.down3, self.body3 = Downsampler(16, 32), Factorised(32, 2)
        self.rise2 = nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1)
        self.late2, self.rise1 = Factorised(16), nn.ConvTranspose2d(16, 8, 3, 2, 1, 1)
        self.late1, self.out = Factorised(8), nn.ConvTranspose2d(8, 2, 2, 2)


class DLinkNet(nn.Module):
    """Dilated convolutions in a row at the bottom, all summed, and thin transposed decoders."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)
        self.centre = nn.ModuleList(
            nn.Conv2d(32, 32, 3, padding=dilation, dilation=dilation) for dilation in (1, 2, 4)
        )
        for level, (width, out) in {1: (32, 16), 0: (16, 8)}.items():
            self.add_module(f"thin{level}", nn.Conv2d(width, width // 4, 1))
            rise = nn.ConvTranspose2d(width // 4, width // 4, 3, 2, 1, 1)
            self.add_module(f"rise{level}", rise)
            self.add_module(f"wide{level}", nn.Conv2d(width // 4, out, 1))
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def _decode(self, level: int, x: Tensor) -> Tensor:
        x = F.relu(self.get_submodule(f"rise{level}")(self.get_submodule(f"thin{level}")(x)))
        return F.relu(self.get_submodule(f"wide{level}")(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1, H, W)."""
        top = self.top(x)
        middle = self.middle(top)
        deep = y = self.deep(middle)
        for layer in self.centre:
            y = F.relu(layer(y))
            deep = deep + y
        y = self._decode(1, deep) + middle
        return torch.sigmoid(self.out(self._decode(0, y) + top))


class EDSR(nn.Module):
    """Super-resolution: residual blocks at one resolution, then twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
            for _ in range(2)
        )
        self.rise = nn.Sequential(nn.Conv2d(8, 32, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, 2 H, 2 W)."""
        x = self.first(x)
        y = x
        for block in self.blocks:
            y = y + block(y)
        return self.last(self.rise(x + y))


_KERNELS = {
    "top": "encoder 0",
    "middle": "encoder 1",
    "deep": "bottleneck",
    **{f"{side}{level}": f"skip {level}" for side in ("left", "right") for level in (0, 1)},
    "left2": "bottleneck",
    "right2": "bottleneck",
    "refine2": "bottleneck",
    "refine1": "decoder 1",
    "refine0": "decoder 0",
    "refine0.2": "head",
}
_PRIOR = {
    "skip0": "skip 0",
    "down0": "encoder 1",
    "same0": "encoder 1",
    "skip1": "skip 1",
    "down1": "bottleneck",
    "same1": "bottleneck",
    "up1": "decoder 1",
    "up0": "decoder 0",
    "out": "head",
}
_ERFNET = {
    "start": "encoder 1",
    "down2": "encoder 2",
    "body2": "encoder 2",
    "down3": "bottleneck",
    "body3": "bottleneck",
    "rise2": "decoder 2",
    "late2": "decoder 2",
    "rise1": "decoder 1",
    "late1": "decoder 1",
    "out": "decoder 0 | head",
}
_DLINK = {
    "top": "encoder 0",
    "middle": "encoder 1",
    "deep": "bottleneck",
    "centre": "bottleneck",
    "thin1": "bottleneck",
    "rise1": "decoder 1",
    "wide1": "decoder 1",
    "thin0": "decoder 1",
    "rise0": "decoder 0",
    "wide0": "decoder 0",
    "out": "head",
}


def _kind(build: type[nn.Module], places: Mapping[str, str], **settings: Any) -> Kind:
    return Kind(build, Truth(_THREE, places, (1, 2)), settings)


BY_HAND: Mapping[str, Kind] = {
    "by hand: large separable kernels": _kind(LargeKernels, _KERNELS),
    "by hand: pixels shuffled on the way up": _kind(
        Shuffled, {**UNET, "rise1": "bottleneck", "rise0": "decoder 1"}
    ),
    "by hand: attention over positions and channels": _kind(
        DualAttention,
        {**UNET, "positions": "bottleneck", "channels": "bottleneck", "fuse": "bottleneck"},
    ),
    "by hand: the image joins at the end": _kind(Noise2Noise, UNET),
    "by hand: half of the channels normalised": _kind(HINet, UNET),
    "by hand: partial convolutions": _kind(Inpainting, UNET, channels=4),
    "by hand: kernels mixed for each image": _kind(ConditionalConvolutions, UNET),
    "by hand: kernels predicted for each pixel": _kind(KernelPredicting, UNET),
    "by hand: deep image prior": _kind(ImagePrior, _PRIOR),
    "by hand: no padding": _kind(Unpadded, UNET),
    "by hand: ERFNet": Kind(ERFNet, Truth((1, 2, 4, 8), _ERFNET, (1, 2, 3)), {}),
    "by hand: D-LinkNet": _kind(DLinkNet, _DLINK),
    "by hand: EDSR": Kind(EDSR, Truth((), {}, (), refusal=("only comes up",)), {}),
}
"""Networks written by hand, by name."""


# of libraries ------------------------------------------------------------------------------------
def _inpainting_autoencoder() -> nn.Module:
    from diffusers import AsymmetricAutoencoderKL

    model: nn.Module = AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(16, 32),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(16, 32),
        norm_num_groups=8,
    )
    return model


def _mobilevit() -> nn.Module:
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    config = MobileViTConfig(
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
        aspp_out_channels=16,
        num_labels=2,
    )
    return MobileViTForSemanticSegmentation(config)


def _swin2sr() -> nn.Module:
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    config = Swin2SRConfig(
        image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, upscale=2
    )
    return Swin2SRForImageSuperResolution(config)


class ExtractedPyramid(nn.Module):
    """torchvision's feature pyramid over a network that torch.fx took apart."""

    def __init__(self) -> None:
        from torchvision.models import resnet18
        from torchvision.models.feature_extraction import create_feature_extractor
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        layers = {f"layer{i}": str(i) for i in range(1, 5)}
        self.body = create_feature_extractor(resnet18(weights=None), layers)
        self.pyramid = FeaturePyramidNetwork([64, 128, 256, 512], 16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        return up(self.out(self.pyramid(self.body(x))["1"]), 4.0)


_REGISTERED = {
    "encode_convs.0": "encoder 0",
    "encode_convs.1": "encoder 1",
    "bottom_block": "bottleneck",
    "decode_deconvs.0": "decoder 1",
    "decode_convs.0": "decoder 1",
    "decode_deconvs.1": "decoder 0",
    "decode_convs.1": "decoder 0",
    # one for each level that is extracted
    "output_block": "head",
}
# called in train mode only, and there fc2 only where the spread is estimated
_VAE = {
    **TRUTH["monai SegResNet 2-D"].places,
    **{f"vae_{name}": "none" for name in ("down", "fc1", "fc3", "fc_up_sample", "conv_final")},
    "vae_fc2": "dead | none",
}
_INPAINTING = {
    "encoder.conv_in": "encoder 0",
    "encoder.down_blocks.0": "encoder 0",
    "encoder.down_blocks.0.downsamplers": "bottleneck",
    "encoder.down_blocks.1": "bottleneck",
    "encoder.mid_block": "bottleneck",
    "encoder.conv_norm_out": "bottleneck",
    "encoder.conv_out": "bottleneck",
    "quant_conv": "bottleneck",
    "post_quant_conv": "bottleneck",
    "decoder.conv_in": "bottleneck",
    "decoder.mid_block": "bottleneck",
    "decoder.up_blocks.0": "bottleneck",
    "decoder.up_blocks.0.upsamplers": "decoder 0",
    "decoder.up_blocks.1": "decoder 0",
    # called with a mask only
    "decoder.condition_encoder": "dead",
    "decoder.conv_norm_out": "decoder 0 | head",
    "decoder.conv_out": "head",
}
_EXTRACTED = {
    "body.conv1": "encoder 1",
    "body.bn1": "encoder 1",
    "body.layer1": "encoder 2",
    "body.layer2": "encoder 3",
    "body.layer3": "encoder 4",
    "body.layer4": "bottleneck",
    **{f"pyramid.inner_blocks.{i}": f"skip {i + 2}" for i in range(3)},
    "pyramid.inner_blocks.3": "bottleneck",
    "pyramid.layer_blocks.0": "decoder 2",
    **{f"pyramid.layer_blocks.{i}": "dead" for i in range(1, 4)},
    "out": "head",
}

LIBRARIES: Mapping[str, Entry] = {
    "monai RegUNet 2-D": Entry(
        "monai",
        monai_net("RegUNet", 2, 1, 8, 2, out_channels=2, extract_levels=(0, 1, 2)),
        Truth(_THREE, _REGISTERED, (1, 2)),
        {"channels": 1},
    ),
    "monai SegResNetVAE 2-D": Entry(
        "monai",
        monai_net("SegResNetVAE", (64, 64), spatial_dims=2, vae_nz=16),
        Truth((1, 2, 4, 8), _VAE, (1, 2, 3)),
        {"channels": 1, "other": None},
    ),
    "nnU-Net PlainConvUNet 1-D": Entry(
        "dynamic_network_architectures",
        nnunet_builder(
            "PlainConvUNet",
            1,
            n_stages=4,
            features_per_stage=[8, 16, 24, 32],
            kernel_sizes=3,
            strides=[1, 2, 2, 2],
        ),
        Truth((1, 2, 4, 8), nnunet(4, False, False), (1, 2, 3)),
        {"channels": 1, "size": (128,), "other": (192,)},
    ),
    "diffusers AsymmetricAutoencoderKL": Entry(
        "diffusers", _inpainting_autoencoder, Truth((1, 2), _INPAINTING, (1,))
    ),
    # the map stays at the encoder's resolution
    "transformers MobileViT": Entry(
        "transformers", _mobilevit, Truth((), {}, (), refusal=("only goes down", "deepest level"))
    ),
    "transformers Swin2SR": Entry(
        "transformers", _swin2sr, Truth((), {}, (), refusal=("only comes up", "one level"))
    ),
    "torchvision feature pyramid of an extractor": Entry(
        "torchvision", ExtractedPyramid, Truth(HALVES, _EXTRACTED, (3, 4, 5))
    ),
}

HELD_BACK_THIRD: Mapping[str, Entry | Kind] = {**LIBRARIES, **BY_HAND}
"""All of them, by name."""

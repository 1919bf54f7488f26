"""A thirteenth list: twenty networks, fifteen of packages that the matrix did not hold.

Five are written by hand as their papers describe them. None was read here before, and this was
written down, from their source, before the first run. What came out at the first reading stands in
``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.more import ALL, Entry, network_of, two_images
from matrix.truth import HALVES, Truth, resnet, widening

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels


# of new packages ---------------------------------------------------------------------------------
# two images of cells, a moment apart
_TRACKED = {
    **dict.fromkeys(("res1", "res2"), "encoder 0"),
    "res3": "encoder 1",
    "res4": "bottleneck",
    "res5": "decoder 1",
    "res6": "decoder 0",
    "conv3": "head",
}
# nothing is padded, and the mosaic is cropped by what numpy says of the sizes
_MOSAIC = {
    "main_processor": "bottleneck",
    "residual_predictor": "bottleneck",
    "upsampler": "decoder 0",
    "fullres_processor.post_conv": "decoder 0",
    "fullres_processor.output": "head",
}


def _spots() -> dict[str, str]:
    """A pyramid whose every level climbs to the top, each with the style of the deepest map."""
    places = {
        "fpn.encoder.stem": "encoder 0",
        **{f"fpn.encoder.blocks.{i}": f"encoder {i}" for i in range(3)},
        "fpn.encoder.blocks.3": "bottleneck",
        "fpn.decoder.up_blocks.0": "bottleneck",
        "fpn.output.conv.0": "decoder 0 | head",
        "fpn.output.conv.2": "head",
    }
    climbing = {f"up_blocks.{i}": 3 - i for i in (1, 2, 3)}
    climbing |= {f"resize_up_blocks.{i}.{j}": 2 - i - j for i in range(3) for j in range(3 - i)}
    for block, level in climbing.items():
        places[f"fpn.decoder.{block}"] = f"decoder {level}"
        places[f"fpn.decoder.{block}.*.dense"] = f"decoder {level} | bottleneck"
    return places


_STAINED = {
    "conv": "encoder 0",
    "down.0": "encoder 1",
    "down.3": "bottleneck",
    "trans": "bottleneck",
    "up.1": "decoder 1",
    "up.5": "decoder 0",
    "out": "head",
}
# a block's memory is of one level, and pixels are shuffled down and up after it
_RAIN = {
    **{f"encoder.blocks.{i}": f"encoder {i}" for i in range(3)},
    "decoder.blocks.0": "bottleneck",
    "decoder.blocks.1": "decoder 2",
    "decoder.blocks.2": "head | decoder 1",  # what the last step gives, and all before it
}
_EVOLUTION = {
    "inc": "encoder 0",
    **{f"down{i}": f"encoder {i}" for i in (1, 2, 3)},
    "down4": "bottleneck",
    **{f"up{i}{of}": f"decoder {4 - i}" for i in (1, 2, 3, 4) for of in ("", "_v")},
    **dict.fromkeys(("outc", "outc_v"), "head"),
    "": "head",  # gamma
}
# a ResNet-50 that dilates from an eighth on; the weights are normalised where they lie
_MATTE = {
    "encoder.conv1": "encoder 1",
    "encoder.bn1": "encoder 1",
    "encoder.layer1": "encoder 2",
    "encoder.layer2": "bottleneck",
    **widening("encoder.layer2.0", ("conv1", "bn1"), "encoder 2", "bottleneck"),
    **dict.fromkeys(("encoder.layer3", "encoder.layer4"), "bottleneck"),
    "decoder.ppm": "bottleneck",
    "decoder.conv_up1": "bottleneck",
    "decoder.conv_up2": "decoder 2",
    "decoder.conv_up3": "decoder 1",
    "decoder.conv_up4": "decoder 0",
    "decoder.conv_up4.4": "head",
}
_ROOFS = {
    "mfrn.encoder.conv0": "encoder 0",
    **{
        f"mfrn.encoder.{layer}{i + 1}": f"{role} {i}"
        for layer, role in (("denseblock", "encoder"), ("transition", "encoder"), ("skip", "skip"))
        for i in range(5)
    },
    "mfrn.bottle_neck": "bottleneck",
    **{
        f"mfrn.decoder.decoder{layer}{i}": f"decoder {5 - i}"
        for layer in ("transition", "denseblock")
        for i in range(1, 6)
    },
    "final_layer": "head",
}
_NOISE = {
    "model.in_conv": "encoder 0",
    **{f"model.encoder_layers.{i}": f"encoder {i + 1}" for i in (0, 1)},
    "model.encoder_layers.2": "bottleneck",
    "model.middle": "bottleneck",
    **{f"model.decoder_layers.{i}": f"decoder {2 - i}" for i in range(3)},
    "model.out_conv": "head",
}
# its head is at half, and resized; gates weigh what comes from the encoder
_GATED = {
    **dict.fromkeys(("encoder.encoder.0", "encoder.encoder.1"), "encoder 1"),
    **{f"encoder.encoder.{i}": f"encoder {i - 2}" for i in (4, 5, 6)},
    "encoder.encoder.7": "bottleneck",
    **{f"up_blocks.{i}": f"decoder {4 - i}" for i in range(4)},
    **{f"up_blocks.{i}.attention.W_x": f"skip {4 - i}" for i in range(4)},
    "seg_head": "head",
}
_SKELETONS = {
    "backbone.init_stage": "encoder 0",
    "backbone.downsample_layers.0": "encoder 1",
    "backbone.downsample_layers.1.0": "encoder 1 | encoder 2",
    "backbone.downsample_layers.1.1": "encoder 2",
    "backbone.downsample_layers.2.0": "encoder 2 | bottleneck",
    "backbone.downsample_layers.2.1": "bottleneck",
    **{
        f"backbone.{kind}.{i}": ("encoder 1", "encoder 2", "bottleneck")[i]
        for kind in ("down_stages", "down_norms")
        for i in range(3)
    },
    **{
        f"backbone.{kind}.{i}": f"decoder {2 - i}"
        for kind in ("upsample_layers", "up_stages", "up_norms", "concat")
        for i in (0, 1)
    },
    **dict.fromkeys(
        ("backbone.upscale_out", "backbone.final_concat", "backbone.out_conv"), "decoder 0"
    ),
    **dict.fromkeys(("out_embed", "out_prob", "out_skeleton"), "head"),
}
# hooks keep what the layers of a VGG give, beside the model; its last pool is of no use
_SALIENT = {
    **{f"vgg16.{i}": "encoder 0" for i in (0, 2)},
    **{f"vgg16.{i}": "encoder 1" for i in (5, 7)},
    **{f"vgg16.{i}": "encoder 2" for i in (10, 12, 14)},
    **{f"vgg16.{i}": "encoder 3" for i in (17, 19, 21)},
    **{f"vgg16.{i}": "bottleneck" for i in (24, 26, 28)},
    "cpfe_conv3_3": "skip 2",
    "cpfe_conv4_3": "skip 3",
    "cpfe_conv5_3": "bottleneck",
    **dict.fromkeys(("cha_att", "hl_conv1", "hl_bn1"), "decoder 2"),
    **dict.fromkeys(("ll_conv_1", "ll_bn_1"), "skip 0"),
    **dict.fromkeys(("ll_conv_2", "ll_bn_2"), "skip 1"),
    **dict.fromkeys(("ll_conv_3", "ll_bn_3", "spa_att"), "decoder 0"),
    "ff_conv_1": "head",
}
_IMAGINED = {
    "init_conv": "encoder 0",
    **dict.fromkeys(("to_time_hiddens", "to_time_cond", "to_time_tokens", "norm_cond"), _VECTOR),
    "": "dead",  # of texts, and none is given
    "downs.0": "encoder 0",
    "downs.0.4": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.4": "bottleneck",
    "downs.2": "bottleneck",
    **dict.fromkeys(("mid_block1", "mid_attn", "mid_block2"), "bottleneck"),
    "ups.0": "bottleneck",
    "ups.1": "decoder 1",
    "ups.2": "decoder 0",
    "final_res_block": "decoder 0",
    "final_conv": "head",
}


def _refined() -> dict[str, str]:
    """A U-net with a mask at every level, and one that refines the last of them."""
    places = {
        **dict.fromkeys(("inconv", "inbn", "encoder1"), "encoder 0"),
        **{f"encoder{i}": f"encoder {i - 1}" for i in (2, 3, 4)},
        **{f"resb5_{i}": "encoder 4" for i in (1, 2, 3)},
        **{f"resb6_{i}": "bottleneck" for i in (1, 2, 3)},
        **{f"{layer}bg_{i}": "bottleneck" for layer in ("conv", "bn") for i in "1m2"},
        **{f"outconv{i}": "head" for i in "b65432"},
        "outconv1": "decoder 0 | head",  # a mask, which is also refined
        **dict.fromkeys(("refunet.conv0", "refunet.conv1", "refunet.bn1"), "decoder 0"),
        "refunet.conv_d0": "head",
    }
    for layer in ("conv", "bn"):
        for i in range(1, 7):
            place = f"decoder {i - 1}" if i < 6 else "bottleneck"
            places |= {f"{layer}{i}d_{part}": place for part in "1m2"}
        places |= {f"refunet.{layer}{i}": f"decoder {i - 1}" for i in (2, 3, 4, 5)}
        places |= {f"refunet.{layer}_d{i}": f"decoder {i - 1}" for i in (1, 2, 3, 4)}
    return places


def _bands() -> dict[str, str]:
    """U-nets for the lower and the upper half of a spectrogram, twice, and one for the whole."""
    first = {f"enc{i + 1}": f"encoder {i}" for i in range(4)}
    later = {layer: place.replace("encoder", "decoder") for layer, place in first.items()}
    both = {
        **dict.fromkeys(("enc5", "aspp"), "bottleneck"),
        **{f"dec{i + 1}": f"decoder {i}" for i in range(4)},
        "lstm_dec2": "decoder 1",
    }
    nets = {
        "stg1_low_band_net.0": first,
        "stg1_high_band_net": first,
        "stg2_low_band_net.0": later,
        "stg2_high_band_net": later,
        "stg3_full_band_net": later,
    }
    return {
        **{
            f"{net}.{layer}": place
            for net, ways in nets.items()
            for layer, place in {**ways, **both}.items()
        },
        **dict.fromkeys(("stg1_low_band_net.1", "stg2_low_band_net.1"), "decoder 0"),
        "out": "head",
        "aux_out": "head | dead | none",  # while training
    }


def _matting() -> nn.Module:
    models = import_module("FBA_Matting.networks.models")
    model: nn.Module = models.MattingModule(models.fba_encoder(), models.fba_decoder())
    return model.train()


def _denoiser() -> nn.Module:
    denoisers = import_module("denoisers")
    config = denoisers.WaveUNetConfig(in_channels=(8, 12, 16, 20))
    model: nn.Module = denoisers.WaveUNetModel(config)
    return model.train()


def _gated() -> nn.Module:
    encoder = import_module("mindglow.seg2d.models.encoders.resnet").ResNetEncoder
    model: nn.Module = import_module("mindglow.seg2d").UNet(
        encoder("resnet18", pretrained=False),
        decoder_channels=(64, 48, 32, 16),
        out_channels=2,
        attention=True,
    )
    return model


def _skeletons() -> nn.Module:
    backbone = import_module("bism.models.unext").UNeXT_3D(
        1, 8, dims=[8, 16, 24, 16, 8], depths=[1, 1, 1, 1, 1], kernel_size=3
    )
    model: nn.Module = import_module("bism.models.spatial_embedding").SpatialEmbedding(backbone)
    return model


def _salient() -> nn.Module:
    """The package's own network, without the weights that it fetches for its VGG."""
    package = import_module("saldet.models.models.pfan")
    fetching = package.models.vgg16
    package.models.vgg16 = lambda weights: fetching(weights=None)
    try:
        model: nn.Module = package.PFAN()
    finally:
        package.models.vgg16 = fetching
    return model


def _imagined() -> nn.Module:
    """The U-net without texts; the package asks for the size of a text's code when it is loaded."""
    config = import_module("transformers").T5Config
    fetching = config.from_pretrained
    config.from_pretrained = lambda name: config()
    try:
        unet = import_module("imagen_pytorch.imagen_pytorch").Unet
    finally:
        config.from_pretrained = fetching
    model: nn.Module = unet(
        dim=16,
        dim_mults=(1, 2, 4),
        layer_attns=(False, True, True),
        layer_cross_attns=(False, True, True),
        attn_heads=2,
        attn_dim_head=8,
        cond_on_text=False,
        attn_pool_text=False,
    )
    return model


# written by hand ---------------------------------------------------------------------------------
def _convs(channels: int, out: int) -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class BandsOfTwoSizes(nn.Module):
    """Bands of a satellite at 10 and at 20 metres a pixel, each where it fits (Sentinel-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = _convs(4, 8), _convs(6, 16)
        self.merge, self.deep = _convs(24, 16), _convs(16, 32)
        self.rise1, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), _convs(32, 16)
        self.rise0, self.up0 = nn.ConvTranspose2d(16, 8, 2, 2), _convs(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, ten: Tensor, twenty: Tensor) -> Tensor:
        """Map (B, 4, H, W) and (B, 6, H / 2, W / 2) to (B, 2, H, W)."""
        fine = self.fine(ten)
        merged = self.merge(torch.cat([F.max_pool2d(fine, 2), self.coarse(twenty)], 1))
        x = self.deep(F.max_pool2d(merged, 2))
        x = self.up1(torch.cat([self.rise1(x), merged], 1))
        return self.out(self.up0(torch.cat([self.rise0(x), fine], 1)))


_SATELLITE = {
    "fine": "encoder 0",
    "coarse": "encoder 1",
    "merge": "encoder 1",
    "deep": "bottleneck",
    "rise1": "decoder 1",
    "up1": "decoder 1",
    "rise0": "decoder 0",
    "up0": "decoder 0",
    "out": "head",
}


class TemporalAttention(nn.Module):
    """One learned question for each head to the dates of every position."""

    def __init__(self, width: int, heads: int = 4, keys: int = 4) -> None:
        super().__init__()
        self.heads, self.keys = heads, keys
        self.norm, self.key = nn.GroupNorm(heads, width), nn.Linear(width, heads * keys)
        self.question = nn.Parameter(torch.randn(heads, keys))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, C, H, W) to (B, C, H, W) and weights (B, heads, T, H, W)."""
        images, dates, width, high, wide = x.shape
        tokens = x.permute(0, 3, 4, 1, 2).contiguous().view(images * high * wide, dates, width)
        tokens = self.norm(tokens.transpose(1, 2)).transpose(1, 2)
        keys = self.key(tokens).view(-1, dates, self.heads, self.keys)
        weights = torch.einsum("ndhk,hk->nhd", keys, self.question) / self.keys**0.5
        weights = weights.softmax(-1)
        parts = tokens.view(-1, dates, self.heads, width // self.heads)
        seen = torch.einsum("nhd,ndhc->nhc", weights, parts).reshape(-1, width)
        seen = self.mlp(seen).view(images, high, wide, width).permute(0, 3, 1, 2)
        weights = weights.view(images, high, wide, self.heads, dates)
        return seen, weights.permute(0, 3, 4, 1, 2)


class TimeSeries(nn.Module):
    """A season of images becomes one map of crops (Garnot and Landrieu, 2021).

    The dates are weighed at the deepest level, and the same weights, enlarged, weigh the skips.
    """

    def __init__(self) -> None:
        super().__init__()
        self.top = _convs(4, 8)
        self.down1, self.middle = nn.Conv2d(8, 8, 4, 2, 1), _convs(8, 16)
        self.down2, self.deep = nn.Conv2d(16, 16, 4, 2, 1), _convs(16, 32)
        self.attention = TemporalAttention(32)
        self.rise1, self.skip1 = nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.Conv2d(16, 16, 1)
        self.up1 = _convs(32, 16)
        self.rise0, self.skip0 = nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Conv2d(8, 8, 1)
        self.up0, self.out = _convs(16, 8), nn.Conv2d(8, 3, 1)

    @staticmethod
    def over_time(x: Tensor, weights: Tensor) -> Tensor:
        """Add up the dates of (B, T, C, H, W), each group of channels with its head's weights."""
        images, heads, dates = weights.shape[:3]
        weights = F.interpolate(weights.flatten(1, 2), size=x.shape[-2:], mode="bilinear")
        weights = weights.view(images, heads, dates, 1, *x.shape[-2:])
        groups = torch.stack(x.chunk(heads, dim=2), 1)
        return (weights * groups).sum(2).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, 4, H, W) to (B, 3, H, W)."""
        images, dates = x.shape[:2]
        top = self.top(x.flatten(0, 1))
        middle = self.middle(self.down1(top))
        deep = self.deep(self.down2(middle))
        top, middle, deep = (y.view(images, dates, *y.shape[1:]) for y in (top, middle, deep))
        y, weights = self.attention(deep)
        skip = self.skip1(self.over_time(middle, weights))
        y = self.up1(torch.cat([self.rise1(y), skip], 1))
        skip = self.skip0(self.over_time(top, weights))
        return self.out(self.up0(torch.cat([self.rise0(y), skip], 1)))


# the skips are weighed by what comes from below, so that they have a deeper ancestor
_SEASON = {
    "top": "encoder 0",
    "down1": "encoder 1",
    "middle": "encoder 1",
    "down2": "bottleneck",
    "deep": "bottleneck",
    "attention": "bottleneck",
    **{f"{layer}{i}": f"decoder {i}" for layer in ("rise", "skip", "up") for i in (1, 0)},
    "out": "head",
}


class Small(nn.Module):
    """A U-net of three levels for an image of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = _convs(2, 8), _convs(8, 16), _convs(16, 32)
        self.up1, self.up0, self.out = _convs(48, 16), _convs(24, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, 2, H, W)."""
        top = self.top(x)
        middle = self.middle(F.avg_pool2d(top, 2))
        x = self.deep(F.avg_pool2d(middle, 2))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.up1(torch.cat([x, middle], 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(self.up0(torch.cat([x, top], 1)))


class Unrolled(nn.Module):
    """MRI by turns of a network and of what was measured (Schlemper and others, 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList(Small() for _ in range(2))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map (B, 2, H, W), real and imaginary, and the columns that were measured to the same."""
        measured = self.spectrum(image) * mask
        x = image
        for network in self.networks:
            expected = self.spectrum(x + network(x))
            known = measured + (1 - mask) * expected
            found = torch.fft.ifft2(known, norm="ortho")
            x = torch.view_as_real(found).permute(0, 3, 1, 2).contiguous()
        return x

    @staticmethod
    def spectrum(x: Tensor) -> Tensor:
        """Of (B, 2, H, W) as complex (B, H, W)."""
        as_complex = torch.view_as_complex(x.permute(0, 2, 3, 1).contiguous())
        return torch.fft.fft2(as_complex, norm="ortho")


_TURNS = {
    "networks.0.top": "encoder 0",
    "networks.0.middle": "encoder 1",
    "networks.1.top": "decoder 0",
    "networks.1.middle": "decoder 1",
    **{f"networks.{i}.deep": "bottleneck" for i in (0, 1)},
    **{f"networks.{i}.up{level}": f"decoder {level}" for i in (0, 1) for level in (1, 0)},
    "networks.0.out": "decoder 0",
    "networks.1.out": "head",
}


class Planes(nn.Module):
    """Each position predicts a plane, which gives the depths of its window of pixels."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.reduce, self.times = nn.Conv2d(channels, 3, 1), times

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to depths (B, 1, H * times, W * times)."""
        theta, phi, distance = torch.sigmoid(self.reduce(x)).split(1, 1)
        theta, phi = theta * torch.pi / 3, phi * torch.pi * 2
        planes = torch.cat(
            [theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos(), 10 * distance], 1
        )
        times = self.times
        planes = planes.repeat_interleave(times, 2).repeat_interleave(times, 3)
        inside = (torch.arange(times, dtype=x.dtype, device=x.device) - (times - 1) / 2) / times
        across = inside.view(1, 1, times).repeat(x.shape[0], x.shape[2] * times, x.shape[3])
        down = inside.view(1, times, 1).repeat(x.shape[0], x.shape[2], x.shape[3] * times)
        away = planes[:, 0] * across + planes[:, 1] * down + planes[:, 2]
        return (planes[:, 3] / away).unsqueeze(1)


class PlanarGuidance(nn.Module):
    """Depths by planes at three levels over a ResNet (Lee and others, 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = import_module("torchvision.models").resnet18(weights=None)
        self.up4, self.fuse4 = self._conv(512, 64), self._conv(64 + 256, 64)
        self.up3, self.fuse3 = self._conv(64, 48), self._conv(48 + 128, 48)
        self.planes3 = Planes(48, 8)
        self.up2, self.fuse2 = self._conv(48, 32), self._conv(32 + 64 + 1, 32)
        self.planes2 = Planes(32, 4)
        self.up1, self.fuse1 = self._conv(32, 16), self._conv(16 + 64 + 1, 16)
        self.planes1 = Planes(16, 2)
        self.up0, self.fuse0 = self._conv(16, 16), self._conv(16 + 3, 16)
        self.depth = nn.Conv2d(16, 1, 3, padding=1)

    @staticmethod
    def _conv(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.ELU())

    @staticmethod
    def _twice(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) to the depths of three levels of planes and the last (B, 1, H, W)."""
        net = self.encoder
        maps = [net.relu(net.bn1(net.conv1(x)))]
        maps.append(net.layer1(net.maxpool(maps[-1])))
        for layer in (net.layer2, net.layer3, net.layer4):
            maps.append(layer(maps[-1]))
        x = self.fuse4(torch.cat([self.up4(self._twice(maps[4])), maps[3]], 1))
        x = self.fuse3(torch.cat([self.up3(self._twice(x)), maps[2]], 1))
        eighth = self.planes3(x)
        small = F.interpolate(eighth, scale_factor=0.25, mode="nearest")
        x = self.fuse2(torch.cat([self.up2(self._twice(x)), maps[1], small], 1))
        quarter = self.planes2(x)
        small = F.interpolate(quarter, scale_factor=0.5, mode="nearest")
        x = self.fuse1(torch.cat([self.up1(self._twice(x)), maps[0], small], 1))
        half = self.planes1(x)
        x = self.fuse0(torch.cat([self.up0(self._twice(x)), half, quarter, eighth], 1))
        return eighth, quarter, half, torch.sigmoid(self.depth(x)) * 10


# a plane's depths are also an output, with nothing that has weights after them
_PLANES = {
    **resnet(),
    "encoder.fc": "dead",
    **{f"{layer}{i}": f"decoder {i}" for layer in ("up", "fuse") for i in range(5)},
    **{f"planes{i}": f"decoder {i} | head" for i in (1, 2, 3)},
    "depth": "head",
}


class Aligned(nn.Module):
    """Five frames of a film, aligned to the one between by kernels for each pixel, are cleaned.

    A pyramid of each frame is compared with that of the middle one from the deepest level up, as
    in EDVR (Wang and others, 2019), with ``torchvision``'s deformable convolution.
    """

    def __init__(self, width: int = 16, frames: int = 5) -> None:
        super().__init__()
        deform = import_module("torchvision.ops").DeformConv2d
        self.width, self.frames = width, frames
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, width, 3, 2, 1)
        self.down2 = nn.Conv2d(width, width, 3, 2, 1)
        self.offset2 = nn.Conv2d(2 * width, 18, 3, padding=1)
        self.align2 = deform(width, width, 3, padding=1)
        self.offset1 = nn.Conv2d(2 * width + 18, 18, 3, padding=1)
        self.align1 = deform(width, width, 3, padding=1)
        self.blend1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.offset0 = nn.Conv2d(2 * width + 18, 18, 3, padding=1)
        self.align0 = deform(width, width, 3, padding=1)
        self.blend0 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.fuse = nn.Conv2d(frames * width, width, 1)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def align(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        """Bring the maps of one frame to where they are in another."""
        offsets = self.offset2(torch.cat([one[2], other[2]], 1))
        x = F.leaky_relu(self.align2(one[2], offsets), 0.1)
        offsets = 2 * F.interpolate(offsets, scale_factor=2, mode="bilinear")
        offsets = self.offset1(torch.cat([one[1], other[1], offsets], 1))
        up = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = F.leaky_relu(self.blend1(torch.cat([self.align1(one[1], offsets), up], 1)), 0.1)
        offsets = 2 * F.interpolate(offsets, scale_factor=2, mode="bilinear")
        offsets = self.offset0(torch.cat([one[0], other[0], offsets], 1))
        up = F.interpolate(x, scale_factor=2, mode="bilinear")
        return self.blend0(torch.cat([self.align0(one[0], offsets), up], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 5, 3, H, W) to (B, 3, H, W)."""
        images, frames, channels, high, wide = x.size()
        top = F.leaky_relu(self.first(x.view(-1, channels, high, wide)), 0.1)
        maps = [top, F.leaky_relu(self.down1(top), 0.1)]
        maps.append(F.leaky_relu(self.down2(maps[-1]), 0.1))
        maps = [y.view(images, frames, self.width, *y.shape[2:]) for y in maps]
        middle = [y[:, frames // 2].clone() for y in maps]
        aligned = [self.align([y[:, i].clone() for y in maps], middle) for i in range(frames)]
        fused = F.leaky_relu(self.fuse(torch.stack(aligned, 1).view(images, -1, high, wide)), 0.1)
        return x[:, frames // 2] + self.out(fused)


_FILM = {
    "first": "encoder 0",
    "down1": "encoder 1",
    "down2": "bottleneck",
    "offset2": "bottleneck",
    "align2": "bottleneck",
    **{f"{layer}{i}": f"decoder {i}" for layer in ("offset", "align", "blend") for i in (1, 0)},
    "fuse": "decoder 0",
    "out": "head",
}


def _clip(image: Tensor) -> tuple[Tensor, int]:
    """Frames of one channel, and how many to foretell."""
    return image.unsqueeze(2), 3


def _trimap(image: Tensor) -> tuple[Tensor, ...]:
    """An image, a trimap of two channels, the image normalised, and distances in the trimap."""
    return image[:, :3], image[:, 3:5], image[:, 5:8], image[:, 8:]


def _two_sizes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Four bands, and six of half the size."""
    return image[:, :4], F.avg_pool2d(image[:, 4:], 2)


def _season(image: Tensor) -> Tensor:
    """Five dates of four bands."""
    return image.unflatten(1, (5, 4))


def _film(image: Tensor) -> Tensor:
    """Five frames of three colours."""
    return image.unflatten(1, (5, 3))


def _measured(image: Tensor) -> tuple[Tensor, Tensor]:
    """An image, and every other column of its spectrum."""
    columns = (torch.arange(image.shape[-1]) % 2).to(image.dtype)
    return image, columns.view(1, 1, -1).repeat(image.shape[0], 1, 1)


def _times(batch: int) -> Mapping[str, Any]:
    return {"time": torch.linspace(0.1, 0.9, batch)}


HELD_BACK_THIRTEENTH: Mapping[str, Entry] = {
    "deepsea DeepSeaTracker": Entry(
        "deepsea",
        network_of("deepsea.model", "DeepSeaTracker", 1, 2),
        Truth(_THREE, _TRACKED, (1, 2)),
        {"channels": 2, "arrange": two_images},
    ),
    "demosaicnet BayerDemosaick": Entry(
        "demosaicnet",
        network_of("demosaicnet", "BayerDemosaick", depth=3, width=8, pretrained=False),
        Truth((1, 2), _MOSAIC, (1,)),
    ),
    "piscis SpotsModel": Entry(
        "piscis",
        network_of("piscis.models.spots", "SpotsModel"),
        Truth(_FOUR, _spots(), (1, 2, 3)),
        {"channels": 1},
    ),
    "pcm-spaghetti GeneratorResNet": Entry(
        "spaghetti",
        network_of("spaghetti._spaghetti_modules", "GeneratorResNet", 1, num_residual_blocks=2),
        Truth(_THREE, _STAINED, (1, 2)),
        {"channels": 1},
    ),
    # the steps to foretell are a number without a default
    "mlcast ConvGruModel": Entry(
        "mlcast",
        network_of("mlcast.models", "ConvGruModel", num_blocks=3),
        Truth(_FOUR, _RAIN, (2, 3)),
        {"channels": 4, "arrange": _clip, "given": True},
    ),
    "nowcastnet EvolutionNetwork": Entry(
        "nowcastnet",
        network_of(
            "nowcastnet.model.modules.evolution.evolution_network",
            "EvolutionNetwork",
            in_channels=4,
            n_classes=3,
            base_channels=8,
            bilinear=True,
        ),
        Truth(_FIVE, _EVOLUTION, (1, 2, 3, 4)),
        {"channels": 4},
    ),
    "fba-matting MattingModule": Entry(
        "FBA_Matting",
        _matting,
        Truth(_FOUR, _MATTE, (1, 2, 3)),
        {"channels": 14, "arrange": _trimap},
    ),
    "building-footprint-segmentation MFRN": Entry(
        "building_footprint_segmentation",
        network_of("building_footprint_segmentation.seg.binary.models", "MFRN"),
        Truth(HALVES, _ROOFS, ALL),
    ),
    "denoisers WaveUNetModel": Entry(
        "denoisers",
        _denoiser,
        Truth(_FOUR, _NOISE, (1, 2, 3)),
        {"channels": 1, "size": (512,), "other": (700,)},
    ),
    "mindglow UNet": Entry("mindglow", _gated, Truth(HALVES, _GATED, (2, 3, 4, 5))),
    "bism UNeXT_3D": Entry(
        "bism",
        _skeletons,
        Truth(_FOUR, _SKELETONS, (1, 2, 3)),
        {"channels": 1, "size": (32, 32, 32), "other": (48, 32, 32)},
    ),
    "saldet PFAN": Entry("saldet", _salient, Truth(_FIVE, _SALIENT, (1, 2, 3, 4))),
    "imagen-pytorch Unet": Entry(
        "imagen_pytorch",
        _imagined,
        Truth(_THREE, _IMAGINED, (1, 2)),
        {"size": (32, 32), "other": (48, 64), "extra": _times},
    ),
    "carvekit BASNet": Entry(
        "carvekit",
        network_of("carvekit.ml.arch.basnet.basnet", "BASNet", 3, 1),
        Truth(HALVES, _refined(), ALL),
    ),
    # 129 frequencies, the last of which is left out, and any number of frames
    "pymss-core CascadedNet": Entry(
        "pymss_core",
        network_of(
            "pymss_core.modules.vocal_remover.uvr_lib_v5.vr_network.nets_new",
            "CascadedNet",
            256,
            nout=16,
            nout_lstm=16,
        ),
        Truth(_FIVE, _bands(), (1, 2, 3, 4), refusal=("train", "eval")),
        {"channels": 2, "size": (129, 64), "other": (129, 96)},
    ),
    "by hand: bands of two sizes": Entry(
        "",
        BandsOfTwoSizes,
        Truth(_THREE, _SATELLITE, (1, 2)),
        {"channels": 10, "arrange": _two_sizes, "given": True},
    ),
    "by hand: a season of images": Entry(
        "",
        TimeSeries,
        Truth(_THREE, _SEASON, (1, 2)),
        {"channels": 20, "arrange": _season, "given": True},
    ),
    "by hand: turns of a network and of measurements": Entry(
        "",
        Unrolled,
        Truth(_THREE, _TURNS, (1, 2)),
        {"channels": 2, "arrange": _measured, "given": True},
    ),
    "by hand: planes that guide depths": Entry(
        "torchvision", PlanarGuidance, Truth(HALVES, _PLANES, ALL)
    ),
    "by hand: frames aligned by kernels": Entry(
        "torchvision",
        Aligned,
        Truth(_THREE, _FILM, (1, 2)),
        {"channels": 15, "arrange": _film, "given": True},
    ),
}
"""All of them, by name."""

"""A twenty-first list: twenty published networks, written by hand from what is known of their code.

Names of published networks of all fields were listed, and drawn in the order that a seed gives.
The first twenty of that order that can be used stand here, of 38 names; a name is skipped only for
a reason of `SKIPPED`. Each is written anew, small and with few blocks, with the reshapes, loops,
flags and paddings of its public code. None was taken out for what the reader says of it, and none
was read before this was written down, by the definitions and from the shapes that plain hooks see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.drawn import FIVE, SIXTY_FOURTH, TIME
from matrix.more import ALL, Entry
from matrix.truth import HALVES, Truth

# of MT-UNet, four calls merge windows to tokens deeper than its deepest level, as images and with
# weights: whether several calls are "the only place that deep" is left open
SKIPPED: Mapping[str, int] = {
    "in a list or the matrix already": 17,
    "no encoder-decoder (a classifier, one resolution, vectors)": 0,
    "the definitions leave its levels open": 1,
}
"""How many were skipped, and why."""

_THREE, _FOUR = (1, 2, 4), (1, 2, 4, 8)


def _normed(channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def _last(image: Tensor) -> Tensor:
    """Channels behind the sides."""
    return image.movedim(1, -1).contiguous()


# tumours -----------------------------------------------------------------------------------------
class CBR(nn.Module):
    """A convolution of volumes with batch norm and PReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, kernel, stride, (kernel - 1) // 2, bias=False)
        self.bn, self.act = nn.BatchNorm3d(out, eps=1e-3), nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, D, H, W) to (B, out, D, H, W)."""
        return self.act(self.bn(self.conv(x)))


class ParallelBlock(nn.Module):
    """Reduce, split by dilations, add up in steps, and join."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        n = out // 4
        self.c1 = CBR(channels, n, 1, 1)
        for name, dilated in (("d1", 1), ("d2", 1), ("d4", 2), ("d8", 2)):
            wide = out - 3 * n if name == "d1" else n
            layer = nn.Conv3d(n, wide, 3, stride, dilated, dilated, bias=False)
            self.add_module(name, layer)
        self.bn, self.act = nn.BatchNorm3d(out, eps=1e-3), nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size, or halve it."""
        output1 = self.c1(x)
        d1, add1 = self.d1(output1), self.d2(output1)
        add2 = add1 + self.d4(output1)
        add3 = add2 + self.d8(output1)
        combine = torch.cat([d1, add1, add2, add3], 1)
        if x.size() == combine.size():
            combine = x + combine
        return self.act(self.bn(combine))


class UpSampler(nn.Module):
    """A convolution, and twice the size."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = CBR(channels, out, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Double the sides."""
        return F.interpolate(self.up(x), mode="trilinear", scale_factor=2.0, align_corners=True)


class PSPDec(nn.Module):
    """A map at a share of its size."""

    def __init__(self, channels: int, out: int, scale: float) -> None:
        super().__init__()
        self.scale, self.features = scale, CBR(channels, out, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size."""
        sides = x.size()[2:]
        small = tuple(int(side * self.scale) for side in sides)
        x_down = F.adaptive_avg_pool3d(x, output_size=small)
        return F.interpolate(
            self.features(x_down), size=sides, mode="trilinear", align_corners=True
        )


class ESPNet3D(nn.Module):
    """Spatial pyramids of dilated kernels in volumes (Nuechterlein and Mehta, 2018)."""

    def __init__(self, channels: int = 4, classes: int = 4) -> None:
        super().__init__()
        initial, config, reps = 4, (8, 12, 16), (2, 2, 2)
        self.level0 = CBR(channels, initial, 7, 2)
        self.level1 = nn.ModuleList()
        for i in range(reps[0]):
            self.level1.append(ParallelBlock(config[0] if i else initial, config[0]))
        self.level2 = ParallelBlock(config[0], config[1], stride=2)
        self.level_2 = nn.ModuleList(ParallelBlock(config[1], config[1]) for _ in range(reps[1]))
        self.level3_0 = ParallelBlock(config[1], config[2], stride=2)
        self.level_3 = nn.ModuleList(ParallelBlock(config[2], config[2]) for _ in range(reps[2]))
        self.up_l3_l2 = UpSampler(config[2], config[1])
        self.merge_l2 = ParallelBlock(2 * config[1], config[1])
        self.dec_l2 = nn.ModuleList([ParallelBlock(config[1], config[1])])
        self.up_l2_l1 = UpSampler(config[1], config[0])
        self.merge_l1 = ParallelBlock(2 * config[0], config[0])
        self.dec_l1 = nn.ModuleList([ParallelBlock(config[0], config[0])])
        self.pspModules = nn.ModuleList()
        scales = (0.2, 0.4, 0.6, 0.8)
        for scale in scales:
            self.pspModules.append(PSPDec(config[0], config[0], scale))
        self.classifier = nn.Sequential(
            CBR((len(scales) + 1) * config[0], config[0], 3, 1),
            ParallelBlock(config[0], config[0]),
            nn.Upsample(scale_factor=2),
            CBR(config[0], 4, 3, 1),
            nn.Conv3d(4, classes, 1, bias=False),
        )

    def forward(self, input1: Tensor, inp_res: tuple[int, int, int] = (64, 64, 64)) -> Tensor:
        """Map (B, channels, D, H, W) to (B, classes, D, H, W)."""
        sides = input1.size()[2:]
        if self.training:
            input1 = F.adaptive_avg_pool3d(input1, output_size=inp_res)
        out_l1 = self.level0(input1)
        for layer in self.level1:
            out_l1 = layer(out_l1)
        out_l2 = self.level2(out_l1)
        for layer in self.level_2:
            out_l2 = layer(out_l2)
        out_l3 = self.level3_0(out_l2)
        for layer in self.level_3:
            out_l3 = layer(out_l3)
        dec_l2 = self.merge_l2(torch.cat([self.up_l3_l2(out_l3), out_l2], 1))
        for layer in self.dec_l2:
            dec_l2 = layer(dec_l2)
        dec_l1 = self.merge_l1(torch.cat([self.up_l2_l1(dec_l2), out_l1], 1))
        for layer in self.dec_l1:
            dec_l1 = layer(dec_l1)
        psp_outs = dec_l1.clone()
        for layer in self.pspModules:
            psp_outs = torch.cat([psp_outs, layer(dec_l1)], 1)
        decoded = self.classifier(psp_outs)
        return F.interpolate(decoded, size=sides, mode="trilinear", align_corners=True)


# a fifth of a half is deeper than an eighth, and only one module goes there
_TUMOURS = {
    **dict.fromkeys(("level0", "level1", "level2.c1"), "encoder 1"),
    **dict.fromkeys(("level2", "level_2", "level3_0.c1"), "encoder 2"),
    # what lies deepest comes behind the way back up: the pyramid of the last module
    **dict.fromkeys(("level3_0", "level_3", "up_l3_l2"), "skip 3"),
    **dict.fromkeys(("merge_l2", "dec_l2", "up_l2_l1"), "decoder 2"),
    **dict.fromkeys(("merge_l1", "dec_l1", "pspModules"), "decoder 1"),
    "pspModules.0": "bottleneck",
    **dict.fromkeys(("classifier.0", "classifier.1"), "decoder 1"),
    "classifier.3": "decoder 0",
    "classifier.4": "head",
}


# flows in the ground -----------------------------------------------------------------------------
class SpectralConv3d(nn.Module):
    """Weights for the lowest modes."""

    def __init__(self, channels: int, out: int, modes: tuple[int, int, int]) -> None:
        super().__init__()
        self.out, self.modes = out, modes
        scale = 1 / (channels * out)
        for i in range(1, 5):
            made = scale * torch.rand(channels, out, *modes, dtype=torch.cfloat)
            self.register_parameter(f"weights{i}", nn.Parameter(made))

    def compl_mul3d(self, given: Tensor, weights: Tensor) -> Tensor:
        """Mix channels, for each mode on its own."""
        return torch.einsum("bixyz,ioxyz->boxyz", given, weights)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, X, Y, T) to (B, out, X, Y, T)."""
        m1, m2, m3 = self.modes
        x_ft = torch.fft.rfftn(x, dim=[-3, -2, -1])
        out_ft = torch.zeros(
            *(x.shape[0], self.out, x.size(-3), x.size(-2), x.size(-1) // 2 + 1),
            dtype=torch.cfloat,
            device=x.device,
        )
        out_ft[:, :, :m1, :m2, :m3] = self.compl_mul3d(x_ft[:, :, :m1, :m2, :m3], self.weights1)
        out_ft[:, :, -m1:, :m2, :m3] = self.compl_mul3d(x_ft[:, :, -m1:, :m2, :m3], self.weights2)
        out_ft[:, :, :m1, -m2:, :m3] = self.compl_mul3d(x_ft[:, :, :m1, -m2:, :m3], self.weights3)
        out_ft[:, :, -m1:, -m2:, :m3] = self.compl_mul3d(x_ft[:, :, -m1:, -m2:, :m3], self.weights4)
        return torch.fft.irfftn(out_ft, s=(x.size(-3), x.size(-2), x.size(-1)))


class PlainUNet(nn.Module):
    """The U-net of U-FNO, of two or three dimensions."""

    def __init__(self, width: int, dimensions: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dimensions, self.dropout = dimensions, dropout
        self.conv1 = self.conv(width, width, 3, 2)
        self.conv2 = self.conv(width, width, 3, 2)
        self.conv2_1 = self.conv(width, width, 3, 1)
        self.conv3 = self.conv(width, width, 3, 2)
        self.conv3_1 = self.conv(width, width, 3, 1)
        self.deconv2 = self.deconv(width, width)
        self.deconv1 = self.deconv(2 * width, width)
        self.deconv0 = self.deconv(2 * width, width)
        kind = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.output_layer = kind(2 * width, width, 3, 1, 1)

    def conv(self, channels: int, out: int, kernel: int, stride: int) -> nn.Sequential:
        """A convolution with a norm."""
        kind, norm = (
            (nn.Conv3d, nn.BatchNorm3d) if self.dimensions == 3 else (nn.Conv2d, nn.BatchNorm2d)
        )
        return nn.Sequential(
            kind(channels, out, kernel, stride, (kernel - 1) // 2, bias=False),
            *(norm(out), nn.LeakyReLU(0.1, inplace=True), nn.Dropout(self.dropout)),
        )

    def deconv(self, channels: int, out: int) -> nn.Sequential:
        """Twice the size."""
        kind = nn.ConvTranspose3d if self.dimensions == 3 else nn.ConvTranspose2d
        return nn.Sequential(kind(channels, out, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size."""
        out_conv1 = self.conv1(x)
        out_conv2 = self.conv2_1(self.conv2(out_conv1))
        out_conv3 = self.conv3_1(self.conv3(out_conv2))
        out_deconv2 = self.deconv2(out_conv3)
        out_deconv1 = self.deconv1(torch.cat((out_conv2, out_deconv2), 1))
        out_deconv0 = self.deconv0(torch.cat((out_conv1, out_deconv1), 1))
        return self.output_layer(torch.cat((x, out_deconv0), 1))


class SimpleBlock3d(nn.Module):
    """Layers of modes, the last ones with a U-net beside them."""

    def __init__(self, modes: tuple[int, int, int], width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.fc0 = nn.Linear(channels, width)
        for i in range(4):
            self.add_module(f"conv{i}", SpectralConv3d(width, width, modes))
            self.add_module(f"w{i}", nn.Conv1d(width, width, 1))
        self.unet2, self.unet3 = PlainUNet(width, 3), PlainUNet(width, 3)
        self.fc1, self.fc2 = nn.Linear(width, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, T, channels) to (B, X, Y, T, 1)."""
        batch, size_x, size_y, size_z = x.shape[:4]
        x = self.fc0(x).permute(0, 4, 1, 2, 3)
        for i in range(4):
            x1 = getattr(self, f"conv{i}")(x)
            flat = getattr(self, f"w{i}")(x.reshape(batch, self.width, -1))
            x2 = flat.view(batch, self.width, size_x, size_y, size_z)
            x = x1 + x2 if i < 2 else x1 + x2 + getattr(self, f"unet{i}")(x)
            x = F.relu(x)
        x = F.relu(self.fc1(x.permute(0, 2, 3, 4, 1)))
        return self.fc2(x)


class UFNO(nn.Module):
    """Fourier layers with U-nets, for gas in rock (Wen and others, 2022)."""

    def __init__(self, channels: int = 4, width: int = 4) -> None:
        super().__init__()
        self.conv1 = SimpleBlock3d((4, 4, 3), width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, T, channels) to (B, X, Y, T)."""
        batch, size_x, size_y, size_z = x.shape[:4]
        x = F.pad(x.permute(0, 4, 1, 2, 3), (0, 8, 0, 8, 0, 0), "replicate").permute(0, 2, 3, 4, 1)
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, 8), "constant", 0)
        x = self.conv1(x)
        x = x.view(batch, size_x + 8, size_y + 8, size_z + 8, 1)[..., :-8, :-8, :-8, :]
        return x.squeeze()


def _unet(path: str, first: bool) -> dict[str, str]:
    """The second of two has something deeper before its way down."""
    role = "encoder" if first else "decoder"
    return {
        f"{path}.conv1": f"{role} 1",
        **dict.fromkeys((f"{path}.conv2", f"{path}.conv2_1"), f"{role} 2"),
        **dict.fromkeys((f"{path}.conv3", f"{path}.conv3_1"), "bottleneck"),
        **{f"{path}.deconv{i}": f"decoder {i}" for i in range(3)},
        f"{path}.output_layer": "decoder 0",
    }


# what is beside the first U-net meets what came back up, and leads down only behind that
_GROUND = {
    "conv1.fc0": "encoder 0",
    **{f"conv1.{part}{i}": "encoder 0" for part in ("conv", "w") for i in range(2)},
    **{f"conv1.{part}2": "skip 0" for part in ("conv", "w")},
    **_unet("conv1.unet2", True),
    **dict.fromkeys(("conv1.conv3", "conv1.w3"), "decoder 0"),
    **_unet("conv1.unet3", False),
    "conv1.fc1": "decoder 0",
    "conv1.fc2": "head",
}


class UDeepONet(nn.Module):
    """A U-net as the branch of a DeepONet, and times in its trunk (Diab and others, 2024)."""

    def __init__(self, channels: int = 3, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.fc0 = nn.Linear(channels, width)
        self.unet, self.w = PlainUNet(width, 2), nn.Conv1d(width, width, 1)
        self.fc1 = nn.Linear(width, width)
        widths = [1] + [width] * layers
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map (B, H, W, channels) and (T, 1) to (B, H, W, T)."""
        batch, high, wide = x.shape[:3]
        x = self.fc0(x).permute(0, 3, 1, 2)
        x2 = self.w(x.reshape(batch, self.width, -1)).view(batch, self.width, high, wide)
        x = F.relu(self.unet(x) + x2)
        x = self.fc1(x.permute(0, 2, 3, 1))
        for layer in self.trunk:
            t = torch.tanh(layer(t))
        return torch.einsum("bxyc,tc->bxyt", x, t) + self.bias


_BRANCH = {
    "fc0": "encoder 0",
    "w": "skip 0",
    **_unet("unet", True),
    # that the vectors of the times are weights of a last kernel is left open
    "fc1": "head | decoder 0",
    # no image reaches the times; their vectors meet the map behind its last layer
    "trunk": "decoder 0 | head | none",
    "": "head",  # the bias behind them
}


def _with_times(image: Tensor) -> tuple[Tensor, Tensor]:
    """Fields with channels last, and five times."""
    return _last(image), torch.linspace(0, 1, 5)[:, None]


# two eyes ----------------------------------------------------------------------------------------
class ThreeDConv(nn.Module):
    """Three convolutions of a volume of costs."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 3, stride, 1)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, 1, 1), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, width, 3, 1, 1), nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)))


class BasicBlock(nn.Module):
    """Two convolutions and what went in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += x
        return F.relu(out)


class GCNet(nn.Module):
    """A volume of both images at every disparity, down and up again (Kendall and others, 2017)."""

    def __init__(self, height: int = 64, width: int = 96, maxdisp: int = 32, f: int = 4) -> None:
        super().__init__()
        self.height, self.width, self.maxdisp, self.f = height, width, maxdisp // 2, f
        self.conv0, self.bn0 = nn.Conv2d(3, f, 5, 2, 2), nn.BatchNorm2d(f)
        self.res_block = nn.Sequential(BasicBlock(f), BasicBlock(f))
        self.conv1 = nn.Conv2d(f, f, 3, 1, 1)
        self.conv3d_1, self.bn3d_1 = nn.Conv3d(2 * f, f, 3, 1, 1), nn.BatchNorm3d(f)
        self.conv3d_2, self.bn3d_2 = nn.Conv3d(f, f, 3, 1, 1), nn.BatchNorm3d(f)
        self.block_3d_1 = ThreeDConv(2 * f, 2 * f, 2)
        self.block_3d_2 = ThreeDConv(2 * f, 2 * f, 2)
        self.block_3d_3 = ThreeDConv(2 * f, 2 * f, 2)
        self.block_3d_4 = ThreeDConv(2 * f, 4 * f, 2)
        widths = (4 * f, 2 * f, 2 * f, 2 * f, f)
        for i in range(1, 5):
            rise = nn.ConvTranspose3d(widths[i - 1], widths[i], 3, 2, 1, 1)
            self.add_module(f"deconv{i}", rise)
            self.add_module(f"debn{i}", nn.BatchNorm3d(widths[i]))
        self.deconv5 = nn.ConvTranspose3d(f, 1, 3, 2, 1, 1)

    def cost_volume(self, left: Tensor, right: Tensor) -> Tensor:
        """Both images' maps, the right one moved by every disparity."""
        found = []
        x_left = F.pad(left, (0, self.maxdisp, 0, 0))
        for d in range(self.maxdisp):
            x_right = F.pad(right, (d, self.maxdisp - d, 0, 0))
            found.append(torch.cat((x_left, x_right), 1))
        high, wide = self.height // 2, self.width // 2
        xx = torch.cat(found, 1)
        xx = xx.view(len(left), self.maxdisp, 2 * self.f, high, wide + self.maxdisp)
        return xx.permute(0, 2, 1, 3, 4)[:, :, :, :, :wide]

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Map two (B, 3, H, W) to disparities (B, H, W)."""
        maps = []
        for image in (left, right):
            seen = self.res_block(F.relu(self.bn0(self.conv0(image))))
            maps.append(self.conv1(seen))
        cost_volum = self.cost_volume(*maps)
        out = F.relu(self.bn3d_1(self.conv3d_1(cost_volum)))
        out = F.relu(self.bn3d_2(self.conv3d_2(out)))
        block_1 = self.block_3d_1(cost_volum)
        block_2 = self.block_3d_2(block_1)
        block_3 = self.block_3d_3(block_2)
        deconv = self.block_3d_4(block_3)
        for i, kept in enumerate((block_3, block_2, block_1, out), 1):
            rise = getattr(self, f"debn{i}")(getattr(self, f"deconv{i}")(deconv))
            deconv = F.relu(rise + kept)
        out = self.deconv5(deconv)
        out = out.view(len(left), self.maxdisp * 2, self.height, self.width)
        prob = F.softmax(-out, 1)
        disparities = torch.arange(self.maxdisp * 2.0, device=prob.device)[None, :, None, None]
        return torch.sum(prob * disparities, 1)


# the volume's third side is no side of the image
_EYES = {
    **dict.fromkeys(("conv0", "bn0", "res_block", "conv1"), "encoder 1"),
    **dict.fromkeys(("conv3d_1", "bn3d_1", "conv3d_2", "bn3d_2"), "skip 1"),
    **{f"block_3d_{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    "block_3d_4": "bottleneck",
    **{f"{part}{i}": f"decoder {5 - i}" for part in ("deconv", "debn") for i in range(1, 5)},
    # a last layer that comes up itself
    "deconv5": "decoder 0",
}


def _two(image: Tensor) -> tuple[Tensor, Tensor]:
    """Two images of three channels."""
    return image[:, :3], image[:, 3:]


# organs ------------------------------------------------------------------------------------------
class ChannelNorm(nn.Module):
    """A norm of channels, behind or before the sides."""

    def __init__(self, width: int, data_format: str = "channels_last") -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.data_format, self.normalized_shape = data_format, (width,)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size."""
        if self.data_format == "channels_last":
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, 1e-6)
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None, None] * x + self.bias[:, None, None, None]


class UXBlock(nn.Module):
    """Large kernels of one channel, then each channel widened on its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(width, width, 7, padding=3, groups=width)
        self.norm = ChannelNorm(width)
        self.pwconv1 = nn.Conv3d(width, 4 * width, 1, groups=width)
        self.act = nn.GELU()
        self.pwconv2 = nn.Conv3d(4 * width, width, 1, groups=width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width), requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, D, H, W)."""
        given = x
        x = self.dwconv(x).permute(0, 2, 3, 4, 1)
        x = self.norm(x).permute(0, 4, 1, 2, 3)
        x = self.pwconv2(self.act(self.pwconv1(x))).permute(0, 2, 3, 4, 1)
        if self.gamma is not None:
            x = self.gamma * x
        return given + x.permute(0, 4, 1, 2, 3)


class UXEncoder(nn.Module):
    """Four stages, each with a norm of what is handed on."""

    def __init__(self, channels: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList()
        self.downsample_layers.append(
            nn.Sequential(nn.Conv3d(channels, dims[0], 7, stride=2, padding=3))
        )
        for i in range(3):
            self.downsample_layers.append(
                nn.Sequential(
                    ChannelNorm(dims[i], "channels_first"),
                    nn.Conv3d(dims[i], dims[i + 1], 2, stride=2),
                )
            )
        self.stages = nn.ModuleList(nn.Sequential(UXBlock(dim)) for dim in dims)
        for i in range(4):
            self.add_module(f"norm{i}", ChannelNorm(dims[i], "channels_first"))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (B, channels, D, H, W) to four maps."""
        outs = []
        for i in range(4):
            x = self.downsample_layers[i](x)
            x = self.stages[i](x)
            outs.append(getattr(self, f"norm{i}")(x))
        return tuple(outs)


class ResBlock3d(nn.Module):
    """Two convolutions, and a third beside them where channels change."""

    def __init__(self, channels: int, out: int, norm: type[nn.Module] = nn.InstanceNorm3d) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(out, out, 3, padding=1, bias=False)
        self.norm1, self.norm2 = norm(out), norm(out)
        self.lrelu = nn.LeakyReLU(0.01, inplace=True)
        self.downsample = channels != out
        if self.downsample:
            self.conv3 = nn.Conv3d(channels, out, 1, bias=False)
            self.norm3 = norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, D, H, W) to (B, out, D, H, W)."""
        residual = x
        out = self.lrelu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if hasattr(self, "conv3"):
            residual = self.conv3(residual)
        if hasattr(self, "norm3"):
            residual = self.norm3(residual)
        out += residual
        return self.lrelu(out)


class UpBlock3d(nn.Module):
    """Up, joined with what lies there."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.transp_conv = nn.ConvTranspose3d(channels, out, 2, 2, bias=False)
        self.conv_block = ResBlock3d(2 * out, out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Double the sides."""
        return self.conv_block(torch.cat((self.transp_conv(x), skip), dim=1))


class UXNet(nn.Module):
    """Large kernels in place of windows, in volumes (Lee and others, 2022)."""

    def __init__(self, channels: int = 1, classes: int = 3) -> None:
        super().__init__()
        feat, hidden = (4, 8, 12, 16), 20
        self.uxnet_3d = UXEncoder(channels, feat)
        self.encoder1 = ResBlock3d(channels, feat[0])
        for i in range(3):
            self.add_module(f"encoder{i + 2}", ResBlock3d(feat[i], feat[i + 1]))
        self.encoder5 = ResBlock3d(feat[3], hidden)
        widths = (*feat, hidden)
        for i in (5, 4, 3, 2):
            self.add_module(f"decoder{i}", UpBlock3d(widths[i - 1], widths[i - 2]))
        self.decoder1 = ResBlock3d(feat[0], feat[0])
        self.out = nn.Conv3d(feat[0], classes, 1)

    def forward(self, x_in: Tensor) -> Tensor:
        """Map (B, channels, D, H, W) to (B, classes, D, H, W)."""
        outs = self.uxnet_3d(x_in)
        enc1 = self.encoder1(x_in)
        enc2, enc3 = self.encoder2(outs[0]), self.encoder3(outs[1])
        enc4 = self.encoder4(outs[2])
        enc_hidden = self.encoder5(outs[3])
        dec3 = self.decoder5(enc_hidden, enc4)
        dec2 = self.decoder4(dec3, enc3)
        dec1 = self.decoder3(dec2, enc2)
        dec0 = self.decoder2(dec1, enc1)
        return self.out(self.decoder1(dec0))


_ORGANS = {
    "uxnet_3d.downsample_layers.0": "encoder 1",
    "uxnet_3d.downsample_layers.1": "encoder 2",
    "uxnet_3d.downsample_layers.1.0": "encoder 1",
    "uxnet_3d.downsample_layers.2": "encoder 3",
    "uxnet_3d.downsample_layers.2.0": "encoder 2",
    "uxnet_3d.downsample_layers.3": "bottleneck",
    "uxnet_3d.downsample_layers.3.0": "encoder 3",
    **{f"uxnet_3d.stages.{i}": f"encoder {i + 1}" for i in range(3)},
    "uxnet_3d.stages.3": "bottleneck",
    # a norm of its own for what goes across
    **{f"uxnet_3d.norm{i}": f"skip {i + 1}" for i in range(3)},
    "uxnet_3d.norm3": "bottleneck",
    **{f"encoder{i + 1}": f"skip {i}" for i in range(4)},
    "encoder5": "bottleneck",
    **{f"decoder{i + 2}": f"decoder {i}" for i in range(4)},
    "decoder1": "decoder 0",
    "out": "head",
}


class EPA(nn.Module):
    """Attention to channels and to places, with the same queries and keys."""

    def __init__(self, input_size: int, width: int, proj_size: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.temperature2 = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkvv = nn.Linear(width, 4 * width, bias=False)
        self.E = self.F = nn.Linear(input_size, proj_size)
        self.attn_drop, self.attn_drop_2 = nn.Dropout(0.1), nn.Dropout(0.1)
        self.out_proj = nn.Linear(width, width // 2)
        self.out_proj2 = nn.Linear(width, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, N, width)."""
        b, n, c = x.shape
        qkvv = self.qkvv(x).reshape(b, n, 4, self.num_heads, c // self.num_heads)
        qkvv = qkvv.permute(2, 0, 3, 1, 4)
        q, k, v_ca, v_sa = (part.transpose(-2, -1) for part in qkvv)
        k_projected, v_projected = self.E(k), self.F(v_sa)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attn_ca = self.attn_drop(((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1))
        x_ca = (attn_ca @ v_ca).permute(0, 3, 1, 2).reshape(b, n, c)
        attn_sa = (q.permute(0, 1, 3, 2) @ k_projected) * self.temperature2
        attn_sa = self.attn_drop_2(attn_sa.softmax(dim=-1))
        x_sa = (attn_sa @ v_projected.transpose(-2, -1)).permute(0, 3, 1, 2).reshape(b, n, c)
        return torch.cat((self.out_proj(x_sa), self.out_proj2(x_ca)), dim=-1)


class EPABlock(nn.Module):
    """Attention on tokens, then convolutions on the volume."""

    def __init__(self, input_size: int, width: int, proj_size: int, pos_embed: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width), requires_grad=True)
        self.epa_block = EPA(input_size, width, proj_size, 2)
        self.conv51 = ResBlock3d(width, width, nn.BatchNorm3d)
        self.conv8 = nn.Sequential(nn.Dropout3d(0.1, False), nn.Conv3d(width, width, 1))
        self.pos_embed = None
        if pos_embed:
            self.pos_embed = nn.Parameter(torch.zeros(1, input_size, width))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W, D)."""
        b, c, h, w, d = x.shape
        x = x.reshape(b, c, h * w * d).permute(0, 2, 1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        attn = x + self.gamma * self.epa_block(self.norm(x))
        attn_skip = attn.reshape(b, h, w, d, c).permute(0, 4, 1, 2, 3)
        return attn_skip + self.conv8(self.conv51(attn_skip))


class EPAEncoder(nn.Module):
    """Four stages."""

    def __init__(self, sizes: list[int], dims: tuple[int, ...], proj: tuple[int, ...]) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList()
        before, kernel = 1, (2, 4, 4)
        for dim in dims:
            conv = nn.Conv3d(before, dim, kernel, kernel, bias=False)
            self.downsample_layers.append(nn.Sequential(conv, nn.GroupNorm(before, dim)))
            before, kernel = dim, (2, 2, 2)
        self.stages = nn.ModuleList()
        for i in range(4):
            blocks = [EPABlock(sizes[i], dims[i], proj[i], True) for _ in range(1)]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map (B, 1, H, W, D) to three maps, and the deepest one's tokens."""
        hidden_states = []
        for i in range(4):
            x = self.stages[i](self.downsample_layers[i](x))
            if i == 3:
                x = x.flatten(2).transpose(1, 2)
            hidden_states.append(x)
        return x, hidden_states


class EPAUp(nn.Module):
    """Up, added to what lies there."""

    def __init__(
        self, channels: int, out: int, rate: tuple[int, ...], size: int, conv: bool = False
    ) -> None:
        super().__init__()
        self.transp_conv = nn.ConvTranspose3d(channels, out, rate, rate, bias=False)
        self.decoder_block = nn.ModuleList()
        if conv:
            self.decoder_block.append(ResBlock3d(out, out, nn.BatchNorm3d))
        else:
            self.decoder_block.append(nn.Sequential(EPABlock(size, out, 4, True)))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Raise the sides."""
        return self.decoder_block[0](self.transp_conv(x) + skip)


class UNETRPlus(nn.Module):
    """UNETR++: paired attention in volumes of one size (Shaker and others, 2022)."""

    def __init__(self, classes: int = 3, do_ds: bool = True) -> None:
        super().__init__()
        dims, self.do_ds, self.feat_size = (4, 8, 16, 32), do_ds, (1, 2, 2)
        sizes = [8 * 16 * 16, 4 * 8 * 8, 2 * 4 * 4, 1 * 2 * 2]
        self.hidden_size = dims[3]
        self.unetr_pp_encoder = EPAEncoder(sizes, dims, (4, 4, 4, 2))
        self.encoder1 = ResBlock3d(1, 4, nn.BatchNorm3d)
        self.decoder5 = EPAUp(dims[3], dims[2], (2, 2, 2), sizes[2])
        self.decoder4 = EPAUp(dims[2], dims[1], (2, 2, 2), sizes[1])
        self.decoder3 = EPAUp(dims[1], dims[0], (2, 2, 2), sizes[0])
        self.decoder2 = EPAUp(dims[0], 4, (2, 4, 4), 16 * 64 * 64, conv=True)
        self.out1 = nn.Conv3d(4, classes, 1)
        if self.do_ds:
            self.out2, self.out3 = nn.Conv3d(4, classes, 1), nn.Conv3d(8, classes, 1)

    def proj_feat(self, x: Tensor) -> Tensor:
        """Tokens as a volume."""
        x = x.view(x.size(0), *self.feat_size, self.hidden_size)
        return x.permute(0, 4, 1, 2, 3).contiguous()

    def forward(self, x_in: Tensor) -> Tensor | list[Tensor]:
        """Map (B, 1, 16, 64, 64) to classes at three sizes."""
        _, hidden_states = self.unetr_pp_encoder(x_in)
        conv_block = self.encoder1(x_in)
        enc1, enc2, enc3 = hidden_states[:3]
        enc4 = self.proj_feat(hidden_states[3])
        dec4 = self.decoder5(enc4, enc3)
        dec3 = self.decoder4(dec4, enc2)
        dec2 = self.decoder3(dec3, enc1)
        dec1 = self.decoder2(dec2, conv_block)
        if self.do_ds:
            return [self.out1(dec1), self.out2(dec2), self.out3(dec3)]
        return self.out1(dec1)


_PAIRED = {
    **{f"unetr_pp_encoder.downsample_layers.{i}": f"encoder {i + 1}" for i in range(3)},
    **{f"unetr_pp_encoder.stages.{i}": f"encoder {i + 1}" for i in range(3)},
    "unetr_pp_encoder.downsample_layers.3": "bottleneck",
    "unetr_pp_encoder.stages.3": "bottleneck",
    "encoder1": "skip 0",
    **{f"decoder{i + 2}": f"decoder {i}" for i in range(4)},
    **dict.fromkeys(("out1", "out2", "out3"), "head"),
}


# land from above ---------------------------------------------------------------------------------
class NormedConv(nn.Module):
    """A convolution, then its norm."""

    def __init__(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        pad = kernel // 2
        self.conv = nn.Conv2d(channels, out, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        return self.bn(self.conv(x))


class ResBlockA(nn.Module):
    """Branches of several dilations, added to what went in."""

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, d, d)),
                *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, d, d)),
            )
            for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        out = x
        for branch in self.branches:
            out = out + branch(x)
        return out


class PSPPooling(nn.Module):
    """Maxima over the whole, halves, quarters and eighths of the sides."""

    def __init__(self, width: int, depth: int = 4) -> None:
        super().__init__()
        self.depth = depth
        self.convs = nn.ModuleList(NormedConv(width, width // 4) for _ in range(depth))
        self.conv_norm_final = NormedConv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        sides = x.shape[2:]
        found = [x]
        for i in range(self.depth):
            scale = (sides[0] // 2**i, sides[1] // 2**i)
            pooled = self.convs[i](F.max_pool2d(x, kernel_size=scale, stride=scale))
            found.append(F.interpolate(pooled, size=sides, mode="nearest"))
        return self.conv_norm_final(torch.cat(found, dim=1))


class Combine(nn.Module):
    """Two maps of one size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_norm = NormedConv(2 * width, width)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Map two (B, width, H, W) to one."""
        return self.conv_norm(torch.cat((F.relu(low), high), dim=1))


class ResUNetA(nn.Module):
    """Atrous residual blocks, and tasks that know of each other (Diakogiannis and others, 2019)."""

    def __init__(self, width: int = 4, classes: int = 4, levels: int = 5) -> None:
        super().__init__()
        dilations = ((1, 3, 15, 31), (1, 3, 15, 31), (1, 3, 15), (1, 3), (1,))
        w = [width * 2**i for i in range(levels)]
        self.conv_first = NormedConv(3, width)
        self.dn = nn.ModuleList(ResBlockA(w[i], dilations[i]) for i in range(levels))
        self.down = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 1, 2) for i in range(levels - 1))
        self.middle = PSPPooling(w[-1])
        self.up = nn.ModuleList(NormedConv(w[i + 1], w[i]) for i in range(levels - 1))
        self.join = nn.ModuleList(Combine(w[i]) for i in range(levels - 1))
        self.upconv = nn.ModuleList(ResBlockA(w[i], dilations[i]) for i in range(levels - 1))
        self.final_join, self.psp_last = Combine(width), PSPPooling(width)

        def logits(channels: int, out: int) -> nn.Sequential:
            first = (NormedConv(channels, width, 3), nn.ReLU())
            return nn.Sequential(*first, nn.Conv2d(width, out, 1))

        self.dist_logits = logits(width, classes)
        self.dist_equalizer = nn.Conv2d(classes, width, 1)
        self.bound_logits = logits(2 * width, classes)
        self.bound_equalizer = nn.Conv2d(classes, width, 1)
        self.color = nn.Sequential(nn.Conv2d(width, 3, 1), nn.Sigmoid())
        self.comb = Combine(width)
        self.final_logits = logits(2 * width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map (B, 3, H, W) to classes, borders, distances and colours."""
        conv_first = x = F.relu(self.conv_first(x))
        kept = []
        for i, block in enumerate(self.dn):
            x = block(x if i == 0 else self.down[i - 1](x))
            kept.append(x)
        x = F.relu(self.middle(x))
        for i in reversed(range(len(self.up))):
            x = self.up[i](F.interpolate(x, scale_factor=2, mode="nearest"))
            x = self.upconv[i](self.join[i](x, kept[i]))
        convl = self.final_join(x, conv_first)
        conv = F.relu(self.psp_last(convl))
        dist = torch.softmax(self.dist_logits(convl), dim=1)
        dist_eq = F.relu(self.dist_equalizer(dist))
        bound = torch.sigmoid(self.bound_logits(torch.cat([conv, dist_eq], dim=1)))
        bound_eq = F.relu(self.bound_equalizer(bound))
        color = self.color(convl)
        comb = self.comb(bound_eq, dist_eq)
        segm = torch.softmax(self.final_logits(torch.cat([comb, conv], dim=1)), dim=1)
        return segm, bound, dist, color


_LAND = {
    "conv_first": "encoder 0",
    **{f"dn.{i}": f"encoder {i}" for i in range(4)},
    **{f"down.{i}": f"encoder {i + 1}" for i in range(3)},
    **dict.fromkeys(("dn.4", "down.3", "middle"), "bottleneck"),
    **{f"{part}.{i}": f"decoder {i}" for part in ("up", "join", "upconv") for i in range(4)},
    **dict.fromkeys(("final_join", "psp_last", "dist_logits.0"), "decoder 0"),
    # outputs that other outputs are made of: head, and on the way to another head
    "dist_logits.2": "decoder 0",  # returned, and what the other outputs are made of
    **dict.fromkeys(
        ("dist_equalizer", "bound_logits", "bound_equalizer", "comb", "final_logits.0"),
        "decoder 0 | head",
    ),
    **dict.fromkeys(("color", "final_logits.2"), "head"),
}


# long distances ----------------------------------------------------------------------------------
class DoubleConv(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)),
            *(nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        return self.conv(x)


class ORMLP(nn.Module):
    """Parts of the channels rolled along one side, then along the other, each before a layer."""

    def __init__(self, width: int, shift: int = 5) -> None:
        super().__init__()
        self.shift_size, self.pad = shift, shift // 2
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
        self.act, self.drop = nn.GELU(), nn.Dropout(0.1)

    def rolled(self, x: Tensor, h: int, w: int, side: int) -> Tensor:
        """Tokens of the rolled map."""
        b, _, c = x.shape
        xn = x.transpose(1, 2).view(b, c, h, w).contiguous()
        xn = F.pad(xn, (self.pad, self.pad, self.pad, self.pad), "constant", 0)
        parts = torch.chunk(xn, self.shift_size, 1)
        steps = range(-self.pad, self.pad + 1)
        moved = [torch.roll(part, step, side) for part, step in zip(parts, steps, strict=False)]
        x_cat = torch.narrow(torch.cat(moved, 1), 2, self.pad, h)
        x_s = torch.narrow(x_cat, 3, self.pad, w)
        return x_s.reshape(b, c, h * w).contiguous().transpose(1, 2)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, N, width)."""
        x = self.drop(self.act(self.fc1(self.rolled(x, h, w, 2))))
        return self.drop(self.fc2(self.rolled(x, h, w, 3)))


class Lo2Block(nn.Module):
    """Long distances beside near ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.dor_mlp = ORMLP(width)
        self.dw = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU()),
            nn.Conv2d(width, width, 1),
        )
        self.norm2 = nn.LayerNorm(2 * width)
        self.fuse = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, N, width)."""
        b, _, c = x.shape
        y = self.norm1(x)
        far = self.dor_mlp(y, h, w)
        near = self.dw(y.transpose(1, 2).view(b, c, h, w)).flatten(2).transpose(1, 2)
        return x + self.fuse(self.norm2(torch.cat([far, near], dim=2)))


class FeatureIncentive(nn.Module):
    """Tokens of a map."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 3, 1, 1)
        self.bn, self.norm = nn.BatchNorm2d(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Map (B, channels, H, W) to (B, N, width) and sides."""
        x = F.relu(self.bn(self.proj(x)))
        _, _, h, w = x.shape
        return self.norm(x.flatten(2).transpose(1, 2)), h, w


class RollingUNet(nn.Module):
    """A U-net with rolled layers at depth (Liu and others, 2024)."""

    def __init__(self, classes: int = 2, width: int = 8) -> None:
        super().__init__()
        w = [width, 2 * width, 3 * width, 4 * width, 5 * width]
        self.conv1, self.conv2 = DoubleConv(3, w[0]), DoubleConv(w[0], w[1])
        self.conv3 = DoubleConv(w[1], w[2])
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.pool3, self.pool4 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.FIBlock1, self.FIBlock2 = FeatureIncentive(w[2], w[3]), FeatureIncentive(w[3], w[4])
        self.FIBlock3 = FeatureIncentive(w[4], w[3])
        self.block1 = nn.ModuleList([Lo2Block(w[3])])
        self.block2 = nn.ModuleList([Lo2Block(w[4])])
        self.block3 = nn.ModuleList([Lo2Block(w[3])])
        self.norm1, self.norm2 = nn.LayerNorm(w[3]), nn.LayerNorm(w[4])
        self.norm3 = nn.LayerNorm(w[3])
        self.decoder1, self.decoder2 = DoubleConv(w[3], w[2]), DoubleConv(w[2], w[1])
        self.decoder3 = DoubleConv(w[1], w[0])
        self.final = nn.Conv2d(w[0], classes, 1)

    @staticmethod
    def mixed(x: Tensor, embed: nn.Module, blocks: nn.ModuleList, norm: nn.Module) -> Tensor:
        """Tokens, blocks, and a map again."""
        b = x.shape[0]
        out, h, w = embed(x)
        for block in blocks:
            out = block(out, h, w)
        return norm(out).reshape(b, h, w, -1).permute(0, 3, 1, 2).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H, W)."""
        t1 = self.conv1(x)
        t2 = self.conv2(self.pool1(t1))
        t3 = self.conv3(self.pool2(t2))
        t4 = self.mixed(self.pool3(t3), self.FIBlock1, self.block1, self.norm1)
        out = self.mixed(self.pool4(t4), self.FIBlock2, self.block2, self.norm2)
        out = F.interpolate(out, scale_factor=(2, 2), mode="bilinear")
        out = self.mixed(out, self.FIBlock3, self.block3, self.norm3)
        out = torch.add(out, t4)
        for layer, kept in ((self.decoder1, t3), (self.decoder2, t2), (self.decoder3, t1)):
            out = layer(F.interpolate(out, scale_factor=(2, 2), mode="bilinear"))
            out = torch.add(out, kept)
        return self.final(out)


_ROLLED = {
    **{f"conv{i + 1}": f"encoder {i}" for i in range(3)},
    **dict.fromkeys(("FIBlock1", "block1", "norm1"), "encoder 3"),
    **dict.fromkeys(("FIBlock2", "block2", "norm2"), "bottleneck"),
    **dict.fromkeys(("FIBlock3", "block3", "norm3"), "decoder 3"),
    **{f"decoder{i + 1}": f"decoder {2 - i}" for i in range(3)},
    "final": "head",
}


# equations ---------------------------------------------------------------------------------------
class NeuralSpectralBlock2d(nn.Module):
    """Learned tokens ask each patch, are put in a basis, and answer."""

    def __init__(self, width: int, num_basis: int, patch: tuple[int, int], num_token: int) -> None:
        super().__init__()
        self.patch_size, self.width, self.num_token, self.head = patch, width, num_token, 4
        self.register_buffer("modes_list", (1.0 / num_basis) * torch.arange(num_basis).float())
        self.weights = nn.Parameter(1 / width**2 * torch.rand(width, num_basis * 2))
        self.encoder_attn = nn.Conv2d(width, 2 * width, 1)
        self.decoder_attn = nn.Conv2d(width, width, 1)
        self.softmax = nn.Softmax(dim=-1)
        made = 1 / width**2 * torch.rand(self.head, num_token, width // self.head)
        self.latent = nn.Parameter(made)

    def self_attn(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention."""
        return self.softmax(torch.einsum("bhlc,bhsc->bhls", q, k)) @ v

    def latent_encoder_attn(self, x: Tensor) -> Tensor:
        """What the tokens find."""
        b, c, h, w = x.shape
        long = h * w
        latent = self.latent[None].repeat(b, 1, 1, 1)
        x_tmp = self.encoder_attn(x).view(b, c * 2, -1).permute(0, 2, 1).contiguous()
        x_tmp = x_tmp.view(b, long, self.head, c // self.head, 2).permute(4, 0, 2, 1, 3)
        latent = self.self_attn(latent, x_tmp[0], x_tmp[1]) + latent
        return latent.permute(0, 1, 3, 2).contiguous().view(b, c, self.num_token)

    def latent_decoder_attn(self, x: Tensor, latent: Tensor) -> Tensor:
        """What the map takes from the tokens."""
        b, c, h, w = x.shape
        latent = latent.view(b, self.head, c // self.head, self.num_token).permute(0, 1, 3, 2)
        x_tmp = self.decoder_attn(x).view(b, c, -1).permute(0, 2, 1).contiguous()
        x_tmp = x_tmp.view(b, h * w, self.head, c // self.head).permute(0, 2, 1, 3).contiguous()
        out = self.self_attn(x_tmp, latent, latent)
        return out.permute(0, 1, 3, 2).contiguous().view(b, c, h, w) + x

    def get_basis(self, x: Tensor) -> Tensor:
        """Sines and cosines of the tokens."""
        modes = self.get_buffer("modes_list")[None, None, None, :] * x[:, :, :, None] * math.pi
        return torch.cat([torch.sin(modes), torch.cos(modes)], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        b, c, h, w = x.shape
        p, q = self.patch_size
        x = x.view(b, c, h // p, p, w // q, q).contiguous().permute(0, 2, 4, 1, 3, 5).contiguous()
        x = x.view(b * (h // p) * (w // q), c, p, q)
        latent = self.latent_encoder_attn(x)
        modes = self.get_basis(latent)
        latent = torch.einsum("bilm,im->bil", modes, self.weights) + latent
        x = self.latent_decoder_attn(x, latent)
        x = x.view(b, h // p, w // q, c, p, q).permute(0, 3, 1, 4, 2, 5).contiguous()
        return x.view(b, c, h, w).contiguous()


class LSMDown(nn.Module):
    """Pool, then two convolutions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        return self.maxpool_conv(x)


class LSMUp(nn.Module):
    """Up, joined, two convolutions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = DoubleConv(channels, out)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Double the sides."""
        x1 = self.up(x1)
        diff_y, diff_x = x2.size()[2] - x1.size()[2], x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class LSM(nn.Module):
    """Spectral blocks across a U-net, for equations (Wu and others, 2023)."""

    def __init__(self, width: int = 8, channels: int = 1) -> None:
        super().__init__()
        w = (width, 2 * width, 2 * width, 4 * width, 4 * width)
        self.inc = DoubleConv(width, width)
        for i in range(1, 5):
            self.add_module(f"down{i}", LSMDown(w[i - 1], w[i]))
            self.add_module(f"up{i}", LSMUp(w[5 - i] + w[4 - i], w[4 - i]))
        self.outc = nn.Conv2d(width, width, 1)
        for i in range(5):
            self.add_module(f"process{i + 1}", NeuralSpectralBlock2d(w[i], 6, (4, 4), 4))
        self.fc0 = nn.Linear(channels + 2, width)
        self.fc1, self.fc2 = nn.Linear(width, 16), nn.Linear(16, 1)

    @staticmethod
    def get_grid(x: Tensor) -> Tensor:
        """Where each position is."""
        batch, high, wide = x.shape[:3]
        gridx = torch.tensor(np.linspace(0, 1, high), dtype=torch.float).reshape(1, high, 1, 1)
        gridy = torch.tensor(np.linspace(0, 1, wide), dtype=torch.float).reshape(1, 1, wide, 1)
        gridx, gridy = gridx.repeat([batch, 1, wide, 1]), gridy.repeat([batch, high, 1, 1])
        return torch.cat((gridx, gridy), dim=-1).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, channels) to (B, H, W, 1)."""
        x = torch.cat((x, self.get_grid(x)), dim=-1)
        x1 = self.inc(self.fc0(x).permute(0, 3, 1, 2))
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(self.process5(x5), self.process4(x4))
        x = self.up2(x, self.process3(x3))
        x = self.up3(x, self.process2(x2))
        x = self.up4(x, self.process1(x1))
        x = self.outc(x).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(self.fc1(x)))


_EQUATIONS = {
    **dict.fromkeys(("fc0", "inc"), "encoder 0"),
    **{f"down{i}": f"encoder {i}" for i in (1, 2, 3)},
    **{f"process{i + 1}": f"skip {i}" for i in range(4)},
    **dict.fromkeys(("down4", "process5"), "bottleneck"),
    **{f"up{i}": f"decoder {4 - i}" for i in range(1, 5)},
    **dict.fromkeys(("outc", "fc1"), "decoder 0"),
    "fc2": "head",
}


# patches of sixteen ------------------------------------------------------------------------------
class ViTLayer(nn.Module):
    """Attention, then two layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, N, width)."""
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        x = x + self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norm2(x))


class SETR(nn.Module):
    """A transformer on patches, and a decoder that doubles four times (Zheng and others, 2021)."""

    def __init__(self, classes: int = 4, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.projection, side = nn.Conv2d(3, width, 16, 16), 4
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, width))
        self.side = side
        self.layers = nn.ModuleList(ViTLayer(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.up_convs = nn.ModuleList()
        for i in range(4):
            self.up_convs.append(
                nn.Sequential(
                    _normed(16 if i else width, 16),
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                )
            )
        self.dropout, self.conv_seg = nn.Dropout2d(0.1), nn.Conv2d(16, classes, 1)

    def resized(self, high: int, wide: int) -> Tensor:
        """Places for other sides."""
        if (high, wide) == (self.side, self.side):
            return self.pos_embed
        cls_weight, weight = self.pos_embed[:, 0:1], self.pos_embed[:, 1:]
        weight = weight.reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        weight = F.interpolate(weight, size=(high, wide), mode="bicubic", align_corners=False)
        return torch.cat((cls_weight, torch.flatten(weight, 2).transpose(1, 2)), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H, W)."""
        x = self.projection(image)
        high, wide = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.resized(high, wide)
        for layer in self.layers:
            x = layer(x)
        x = x[:, 1:]
        b, _, c = x.shape
        x = x.reshape(b, high * wide, c).transpose(2, 1)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2).reshape(b, c, high, wide).contiguous()
        for up_conv in self.up_convs:
            x = up_conv(x)
        out = self.conv_seg(self.dropout(x))
        return F.interpolate(out, size=image.shape[2:], mode="bilinear", align_corners=False)


# nothing lies between the image and its patches on the way down; the token of a class is dropped
_PATCHED = {
    "": "bottleneck",  # places, and the token
    **dict.fromkeys(("projection", "layers", "norm", "up_convs.0"), "bottleneck"),
    **{f"up_convs.{i}": f"decoder {4 - i}" for i in (1, 2, 3)},
    "conv_seg": "head",
}


# restored by frequencies -------------------------------------------------------------------------
class BasicConv(nn.Module):
    """A convolution, strided, plain or transposed."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int,
        relu: bool = True,
        transpose: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel // 2
        layers: list[nn.Module] = []
        if transpose:
            padding = kernel // 2 - 1
            layers.append(nn.ConvTranspose2d(channels, out, kernel, stride, padding))
        else:
            layers.append(nn.Conv2d(channels, out, kernel, stride, padding))
        if relu:
            layers.append(nn.GELU())
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.main(x)


class SFConv(nn.Module):
    """Low and high frequencies, weighed for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(width, max(width // 2, 4), 1)
        self.fcs = nn.ModuleList(nn.Conv2d(max(width // 2, 4), width, 1) for _ in range(2))
        self.softmax, self.gap = nn.Softmax(dim=1), nn.AdaptiveAvgPool2d(1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Join two (B, width, H, W)."""
        fea_z = self.fc(self.gap(low + high))
        high_att, low_att = self.fcs[0](fea_z), self.fcs[1](fea_z)
        vectors = self.softmax(torch.cat([high_att, low_att], dim=1))
        high_att, low_att = torch.chunk(vectors, 2, dim=1)
        return self.out(high * high_att + low * low_att)


class DynamicFilter(nn.Module):
    """A low pass of kernels that the image makes itself."""

    def __init__(self, width: int, kernel: int = 3, group: int = 2) -> None:
        super().__init__()
        self.kernel_size, self.group = kernel, group
        self.conv = nn.Conv2d(width, group * kernel**2, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(group * kernel**2), nn.Softmax(dim=-2)
        self.pad, self.ap = nn.ReflectionPad2d(kernel // 2), nn.AdaptiveAvgPool2d((1, 1))
        self.modulate = SFConv(width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        identity = x
        low_filter = self.bn(self.conv(self.ap(x)))
        n, c, h, w = x.shape
        k = self.kernel_size
        x = F.unfold(self.pad(x), kernel_size=k)
        x = x.reshape(n, self.group, c // self.group, k**2, h * w)
        n, c1, p, q = low_filter.shape
        low_filter = low_filter.reshape(n, c1 // k**2, k**2, p * q).unsqueeze(2)
        low_part = torch.sum(x * self.act(low_filter), dim=3).reshape(n, c, h, w)
        return self.modulate(low_part, identity - low_part)


class PatchAp(nn.Module):
    """Means at each place of the tiles, and what differs from them."""

    def __init__(self, width: int, patch_size: int = 2) -> None:
        super().__init__()
        self.ap, self.patch_size = nn.AdaptiveAvgPool2d((1, 1)), patch_size
        self.h = nn.Parameter(torch.zeros(width * patch_size**2))
        self.l = nn.Parameter(torch.zeros(width * patch_size**2))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        b, c, h, w = x.shape
        p = self.patch_size
        tiles = x.view(b, c, p, h // p, p, w // p).permute(0, 1, 2, 4, 3, 5)
        tiles = tiles.reshape(b, c * p * p, h // p, w // p)
        low = self.ap(tiles)
        high = (tiles - low) * self.h[None, :, None, None]
        out = high + low * self.l[None, :, None, None]
        return out.view(b, c, p, p, h // p, w // p).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)


class Gap(nn.Module):
    """The mean, and what differs from it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fscale_d = nn.Parameter(torch.zeros(width))
        self.fscale_h = nn.Parameter(torch.zeros(width))
        self.gap = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        x_d = self.gap(x)
        x_h = (x - x_d) * (self.fscale_h[None, :, None, None] + 1.0)
        return x_d * self.fscale_d[None, :, None, None] + x_h


class FSBlock(nn.Module):
    """A residual block with filters."""

    def __init__(self, width: int, filtered: bool = False) -> None:
        super().__init__()
        self.conv1 = BasicConv(width, width, 3, 1)
        self.conv2 = BasicConv(width, width, 3, 1, relu=False)
        self.filter = filtered
        half = width // 2
        self.dyna = DynamicFilter(half) if filtered else nn.Identity()
        self.dyna_2 = DynamicFilter(half, kernel=5) if filtered else nn.Identity()
        self.localap, self.global_ap = PatchAp(half), Gap(half)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        out = self.conv1(x)
        if self.filter:
            k3, k5 = torch.chunk(out, 2, dim=1)
            out = torch.cat((self.dyna(k3), self.dyna_2(k5)), dim=1)
        non_local, local = torch.chunk(out, 2, dim=1)
        out = torch.cat((self.global_ap(non_local), self.localap(local)), dim=1)
        return self.conv2(out) + x


class FSStage(nn.Module):
    """Blocks, of which the last filters."""

    def __init__(self, width: int, blocks: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(FSBlock(width, i == blocks - 1) for i in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        return self.layers(x)


class SCM(nn.Module):
    """A smaller image's own features."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(BasicConv(3, out // 4, 3, 1), BasicConv(out // 4, out // 2, 1, 1)),
            *(BasicConv(out // 2, out // 2, 3, 1), BasicConv(out // 2, out, 1, 1, relu=False)),
            nn.InstanceNorm2d(out, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, out, H, W)."""
        return self.main(x)


class FAM(nn.Module):
    """Two maps of one size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.merge = BasicConv(2 * width, width, 3, 1, relu=False)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Map two (B, width, H, W) to one."""
        return self.merge(torch.cat([x1, x2], dim=1))


class FSNet(nn.Module):
    """Frequencies that are chosen, at three sizes (Cui and others, 2023)."""

    def __init__(self, base: int = 8) -> None:
        super().__init__()
        w = (base, 2 * base, 4 * base)
        self.Encoder = nn.ModuleList(FSStage(width) for width in w)
        self.feat_extract = nn.ModuleList(
            [
                *(BasicConv(3, w[0], 3, 1), BasicConv(w[0], w[1], 3, 2)),
                BasicConv(w[1], w[2], 3, 2),
                BasicConv(w[2], w[1], 4, 2, transpose=True),
                BasicConv(w[1], w[0], 4, 2, transpose=True),
                BasicConv(w[0], 3, 3, 1, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList(FSStage(width) for width in w[::-1])
        self.Convs = nn.ModuleList([BasicConv(w[2], w[1], 1, 1), BasicConv(w[1], w[0], 1, 1)])
        self.ConvsOut = nn.ModuleList(
            [BasicConv(w[2], 3, 3, 1, relu=False), BasicConv(w[1], 3, 3, 1, relu=False)]
        )
        self.FAM1, self.SCM1 = FAM(w[2]), SCM(w[2])
        self.FAM2, self.SCM2 = FAM(w[1]), SCM(w[1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to images of three sizes."""
        x_2 = F.interpolate(x, scale_factor=0.5)
        x_4 = F.interpolate(x_2, scale_factor=0.5)
        z2, z4 = self.SCM2(x_2), self.SCM1(x_4)
        outputs = []
        res1 = self.Encoder[0](self.feat_extract[0](x))
        z = self.FAM2(self.feat_extract[1](res1), z2)
        res2 = self.Encoder[1](z)
        z = self.FAM1(self.feat_extract[2](res2), z4)
        z = self.Decoder[0](self.Encoder[2](z))
        z_ = self.ConvsOut[0](z)
        z = self.feat_extract[3](z)
        outputs.append(z_ + x_4)
        z = self.Decoder[1](self.Convs[0](torch.cat([z, res2], dim=1)))
        z_ = self.ConvsOut[1](z)
        z = self.feat_extract[4](z)
        outputs.append(z_ + x_2)
        z = self.Decoder[2](self.Convs[1](torch.cat([z, res1], dim=1)))
        outputs.append(self.feat_extract[5](z) + x)
        return outputs


# tiles that are joined again where they were cut are the whole map
_CHOSEN = {
    **dict.fromkeys(("feat_extract.0", "Encoder.0"), "encoder 0"),
    **dict.fromkeys(("feat_extract.1", "Encoder.1", "FAM2", "SCM2"), "encoder 1"),
    **dict.fromkeys(("feat_extract.2", "Encoder.2", "FAM1", "SCM1", "Decoder.0"), "bottleneck"),
    # predicted from the deepest map, and gone with it
    "ConvsOut.0": "head | bottleneck",
    **dict.fromkeys(("feat_extract.3", "Convs.0", "Decoder.1"), "decoder 1"),
    "ConvsOut.1": "head",
    **dict.fromkeys(("feat_extract.4", "Convs.1", "Decoder.2"), "decoder 0"),
    "feat_extract.5": "head",
}


# on a phone --------------------------------------------------------------------------------------
class ConvBN(nn.Sequential):
    """A convolution and its norm, by name."""

    def __init__(
        self, channels: int, out: int, ks: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out, ks, stride, ks // 2, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(out))


class InvertedResidual(nn.Module):
    """Widen, look around, narrow."""

    def __init__(self, channels: int, out: int, ks: int, stride: int, rate: int) -> None:
        super().__init__()
        hidden = channels * rate
        self.use_res_connect = stride == 1 and channels == out
        layers: list[nn.Module] = []
        if rate != 1:
            layers += [ConvBN(channels, hidden), nn.ReLU6()]
        layers += [ConvBN(hidden, hidden, ks, stride, hidden), nn.ReLU6(), ConvBN(hidden, out)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size, or halve it."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class AxialPosition(nn.Module):
    """Learned places along a side of sixteen, resized."""

    def __init__(self, width: int, shape: int = 16) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn([1, width, shape]))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, N)."""
        _, _, n = x.shape
        return x + F.interpolate(self.pos_embed, size=n, mode="linear", align_corners=False)


class SeaAttention(nn.Module):
    """Attention along means of rows and of columns, beside kernels that keep the detail."""

    def __init__(self, width: int, key_dim: int, heads: int, ratio: int = 2) -> None:
        super().__init__()
        self.num_heads, self.scale, self.key_dim = heads, key_dim**-0.5, key_dim
        nh_kd, self.dh = key_dim * heads, ratio * key_dim * heads
        self.to_q, self.to_k = ConvBN(width, nh_kd), ConvBN(width, nh_kd)
        self.to_v = ConvBN(width, self.dh)
        self.proj = nn.Sequential(nn.ReLU6(), ConvBN(self.dh, width))
        self.proj_encode_row = nn.Sequential(nn.ReLU6(), ConvBN(self.dh, self.dh))
        self.pos_emb_rowq, self.pos_emb_rowk = AxialPosition(nh_kd), AxialPosition(nh_kd)
        self.proj_encode_column = nn.Sequential(nn.ReLU6(), ConvBN(self.dh, self.dh))
        self.pos_emb_columnq, self.pos_emb_columnk = AxialPosition(nh_kd), AxialPosition(nh_kd)
        joined = self.dh + 2 * nh_kd
        self.dwconv, self.act = ConvBN(joined, joined, 3, groups=joined), nn.ReLU6()
        self.pwconv = ConvBN(joined, width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        b, _, h, w = x.shape
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        qkv = self.pwconv(self.act(self.dwconv(torch.cat([q, k, v], dim=1))))
        heads = self.num_heads
        qrow = self.pos_emb_rowq(q.mean(-1)).reshape(b, heads, -1, h).permute(0, 1, 3, 2)
        krow = self.pos_emb_rowk(k.mean(-1)).reshape(b, heads, -1, h)
        vrow = v.mean(-1).reshape(b, heads, -1, h).permute(0, 1, 3, 2)
        attn_row = (torch.matmul(qrow, krow) * self.scale).softmax(dim=-1)
        xx_row = torch.matmul(attn_row, vrow).permute(0, 1, 3, 2)
        xx_row = self.proj_encode_row(xx_row.reshape(b, self.dh, h, 1))
        qcolumn = self.pos_emb_columnq(q.mean(-2)).reshape(b, heads, -1, w).permute(0, 1, 3, 2)
        kcolumn = self.pos_emb_columnk(k.mean(-2)).reshape(b, heads, -1, w)
        vcolumn = v.mean(-2).reshape(b, heads, -1, w).permute(0, 1, 3, 2)
        attn_column = (torch.matmul(qcolumn, kcolumn) * self.scale).softmax(dim=-1)
        xx_column = torch.matmul(attn_column, vcolumn).permute(0, 1, 3, 2)
        xx_column = self.proj_encode_column(xx_column.reshape(b, self.dh, 1, w))
        xx = self.proj(v.add(xx_row.add(xx_column)))
        return xx.sigmoid() * qkv


class SeaBlock(nn.Module):
    """Attention and a small network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = SeaAttention(width, 4, 2)
        self.mlp = nn.Sequential(
            *(ConvBN(width, 2 * width), nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width)),
            *(nn.ReLU6(), ConvBN(2 * width, width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        x = x + self.attn(x)
        return x + self.mlp(x)


class BasicLayer(nn.Module):
    """Blocks in a row."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(SeaBlock(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        for block in self.transformer_blocks:
            x = block(x)
        return x


class FusionBlock(nn.Module):
    """Detail, let through by what lies deeper."""

    def __init__(self, inp: int, oup: int, embed: int) -> None:
        super().__init__()
        self.local_embedding, self.global_act = ConvBN(inp, embed), ConvBN(oup, embed)
        self.act = nn.Hardsigmoid()

    def forward(self, x_l: Tensor, x_g: Tensor) -> Tensor:
        """Keep the first one's size."""
        local_feat, global_act = self.local_embedding(x_l), self.global_act(x_g)
        gate = F.interpolate(
            self.act(global_act), size=x_l.shape[2:], mode="bilinear", align_corners=False
        )
        return local_feat * gate


class SeaFormer(nn.Module):
    """Axial attention for phones, with a light head (Wan and others, 2023)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        # kernel, rate, channels, stride
        self.cfgs = (
            ((3, 1, 8, 1), (3, 4, 8, 2), (3, 3, 8, 1)),
            ((5, 3, 12, 2), (5, 3, 12, 1)),
            ((3, 3, 16, 2), (3, 3, 16, 1)),
            ((5, 3, 24, 2),),
            ((3, 3, 32, 2),),
        )
        self.depths, before = (1, 1), 8
        for i, cfg in enumerate(self.cfgs, 1):
            layers = []
            for ks, rate, out, stride in cfg:
                layers.append(InvertedResidual(before, out, ks, stride, rate))
                before = out
            stem = [nn.Sequential(ConvBN(3, 8, 3, 2), nn.ReLU6())] if i == 1 else []
            self.add_module(f"smb{i}", nn.Sequential(*stem, *layers))
        for i, depth in enumerate(self.depths, 1):
            self.add_module(f"trans{i}", BasicLayer((24, 32)[i - 1], depth))
        self.fuse1, self.fuse2 = FusionBlock(12, 24, 16), FusionBlock(16, 32, 16)
        self.linear_fuse = nn.Sequential(ConvBN(16, 16, groups=16), nn.ReLU())
        self.dropout, self.conv_seg = nn.Dropout2d(0.1), nn.Conv2d(16, classes, 1)

    def backbone(self, x: Tensor) -> list[Tensor]:
        """An eighth, a 32nd and a 64th."""
        outputs = []
        stages, last = len(self.cfgs), len(self.depths)
        for i in range(stages):
            x = getattr(self, f"smb{i + 1}")(x)
            if i == 1:
                outputs.append(x)
            if last + i >= stages:
                x = getattr(self, f"trans{i + last - stages + 1}")(x)
                outputs.append(x)
        return outputs

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H, W)."""
        xx = self.backbone(image)
        x_detail = xx[0]
        for i in range(2):
            x_detail = getattr(self, f"fuse{i + 1}")(x_detail, xx[i + 1])
        out = self.conv_seg(self.dropout(self.linear_fuse(x_detail)))
        return F.interpolate(out, size=image.shape[2:], mode="bilinear", align_corners=False)


# attention along a side is a call within its level; the first layers of a strided block are finer
_PHONE = {
    **dict.fromkeys(("smb1", "smb1.2.conv.0"), "encoder 1"),
    **dict.fromkeys(("smb1.2", "smb1.3", "smb2.0.conv.0"), "encoder 2"),
    **dict.fromkeys(("smb2", "smb3.0.conv.0"), "encoder 3"),
    **dict.fromkeys(("smb3", "smb4.0.conv.0"), "encoder 4"),
    **dict.fromkeys(("smb4", "trans1", "smb5.0.conv.0"), "encoder 5"),
    **dict.fromkeys(("smb5", "trans2", "fuse2.global_act"), "bottleneck"),
    "fuse1.local_embedding": "skip 3",
    "fuse1.global_act": "skip 5",
    **dict.fromkeys(("fuse2.local_embedding", "linear_fuse"), "decoder 3"),
    "conv_seg": "head",
}


# polyps ------------------------------------------------------------------------------------------
class ConvLayer(nn.Sequential):
    """A convolution with a norm, by name."""

    def __init__(self, channels: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False))
        self.add_module("norm", nn.BatchNorm2d(out))
        self.add_module("relu", nn.ReLU6(True))


class HarDBlock(nn.Module):
    """Layers that take those whose distance is a power of two."""

    def __init__(self, channels: int, growth: int, grmul: float, n_layers: int) -> None:
        super().__init__()
        self.links: list[list[int]] = []
        layers: list[nn.Module] = []
        self.out_channels = 0
        for i in range(n_layers):
            outch, inch, link = self.get_link(i + 1, channels, growth, grmul)
            self.links.append(link)
            layers.append(ConvLayer(inch, outch))
            if i % 2 == 0 or i == n_layers - 1:
                self.out_channels += outch
        self.layers = nn.ModuleList(layers)

    def get_link(
        self, layer: int, base_ch: int, growth: int, grmul: float
    ) -> tuple[int, int, list[int]]:
        """How many channels come out and go in, and from which layers."""
        if layer == 0:
            return base_ch, 0, []
        out_channels, link = float(growth), []
        for i in range(10):
            dv = 2**i
            if layer % dv == 0:
                link.append(layer - dv)
                if i > 0:
                    out_channels *= grmul
        out = int(int(out_channels + 1) / 2) * 2
        return out, sum(self.get_link(i, base_ch, growth, grmul)[0] for i in link), link

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out_channels, H, W)."""
        layers_ = [x]
        for layer, link in enumerate(self.links):
            tin = [layers_[i] for i in link]
            x = torch.cat(tin, 1) if len(tin) > 1 else tin[0]
            layers_.append(self.layers[layer](x))
        t = len(layers_)
        out_ = [layers_[i] for i in range(t) if i == t - 1 or i % 2 == 1]
        return torch.cat(out_, 1)


class HarDNet(nn.Module):
    """The encoder, with the classifier that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        first, ch_list, n_layers = (4, 8), (12, 16, 20, 24, 28), (4, 4, 4, 4, 2)
        down = (1, 0, 1, 1, 0)
        self.base = nn.ModuleList([ConvLayer(3, first[0], 3, 2), ConvLayer(first[0], first[1])])
        self.base.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        ch = first[1]
        for i, out in enumerate(ch_list):
            block = HarDBlock(ch, 4, 1.7, n_layers[i])
            self.base.append(block)
            self.base.append(ConvLayer(block.out_channels, out, 1))
            ch = out
            if down[i] == 1:
                self.base.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.base.append(
            nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(ch, 10))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps."""
        out_branch = []
        for i in range(len(self.base) - 1):
            x = self.base[i](x)
            if i in (4, 9, 12, 15):
                out_branch.append(x)
        return out_branch


class ConvNorm(nn.Module):
    """A convolution and its norm."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, 1, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        return self.bn(self.conv(x))


class RFB(nn.Module):
    """Branches that look ever further."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.relu, self.branch0 = nn.ReLU(True), ConvNorm(channels, out, 1)
        for i, k in enumerate((3, 5, 7), 1):
            branch = nn.Sequential(
                ConvNorm(channels, out, 1),
                ConvNorm(out, out, (1, k), (0, k // 2)),
                ConvNorm(out, out, (k, 1), (k // 2, 0)),
                ConvNorm(out, out, 3, k, k),
            )
            self.add_module(f"branch{i}", branch)
        self.conv_cat, self.conv_res = ConvNorm(4 * out, out, 3, 1), ConvNorm(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        found = [getattr(self, f"branch{i}")(x) for i in range(4)]
        return self.relu(self.conv_cat(torch.cat(found, 1)) + self.conv_res(x))


class Aggregation(nn.Module):
    """Three maps, multiplied and joined."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        for i in range(1, 5):
            self.add_module(f"conv_upsample{i}", ConvNorm(c, c, 3, 1))
        self.conv_upsample5 = ConvNorm(2 * c, 2 * c, 3, 1)
        self.conv_concat2, self.conv_concat3 = (
            ConvNorm(2 * c, 2 * c, 3, 1),
            ConvNorm(3 * c, 3 * c, 3, 1),
        )
        self.conv4, self.conv5 = ConvNorm(3 * c, 3 * c, 3, 1), nn.Conv2d(3 * c, 1, 1)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        """Map three maps, the deepest first, to one of the last one's size."""
        up = self.upsample
        x2_1 = self.conv_upsample1(up(x1)) * x2
        x3_1 = self.conv_upsample2(up(up(x1))) * self.conv_upsample3(up(x2)) * x3
        x2_2 = self.conv_concat2(torch.cat((x2_1, self.conv_upsample4(up(x1))), 1))
        x3_2 = self.conv_concat3(torch.cat((x3_1, self.conv_upsample5(up(x2_2))), 1))
        return self.conv5(self.conv4(x3_2))


class HarDNetMSEG(nn.Module):
    """Polyps, by a harmonic dense encoder (Huang and others, 2021)."""

    def __init__(self, channel: int = 8) -> None:
        super().__init__()
        self.relu = nn.ReLU(True)
        self.rfb2_1, self.rfb3_1 = RFB(20, channel), RFB(24, channel)
        self.rfb4_1, self.agg1 = RFB(28, channel), Aggregation(channel)
        self.hardnet = HarDNet()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1, H, W)."""
        _, x2, x3, x4 = self.hardnet(x)
        x2_rfb, x3_rfb, x4_rfb = self.rfb2_1(x2), self.rfb3_1(x3), self.rfb4_1(x4)
        ra5_feat = self.agg1(x4_rfb, x3_rfb, x2_rfb)
        return F.interpolate(ra5_feat, scale_factor=8, mode="bilinear")


_HARMONIC = {
    **{f"hardnet.base.{i}": "encoder 1" for i in (0, 1)},
    **{f"hardnet.base.{i}": "encoder 2" for i in (3, 4)},
    **{f"hardnet.base.{i}": "encoder 3" for i in (6, 7, 8, 9)},
    **{f"hardnet.base.{i}": "encoder 4" for i in (11, 12)},
    **{f"hardnet.base.{i}": "bottleneck" for i in (14, 15)},
    "hardnet.base.16": "dead",
    "rfb2_1": "skip 3",
    "rfb3_1": "skip 4",
    "rfb4_1": "bottleneck",
    "agg1": "decoder 3",
    **{f"agg1.{part}": "decoder 4" for part in ("conv_upsample1", "conv_upsample4")},
    "agg1.conv_concat2": "decoder 4",
    "agg1.conv5": "head",
}


# vessels -----------------------------------------------------------------------------------------
class DropBlock(nn.Module):
    """Squares of a map left out in training."""

    def __init__(self, block: int = 7, keep: float = 0.85) -> None:
        super().__init__()
        self.block_size, self.keep_prob = block, keep

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size."""
        if not self.training or self.keep_prob == 1:
            return x
        gamma = (1.0 - self.keep_prob) / self.block_size**2
        mask = (torch.rand_like(x[:, :1]) < gamma).float()
        mask = F.max_pool2d(mask, self.block_size, stride=1, padding=self.block_size // 2)
        mask = 1 - mask
        return x * mask * (mask.numel() / mask.sum())


class SAUNet(nn.Module):
    """Spatial attention at the deepest map of a small U-net (Guo and others, 2020)."""

    def __init__(self, width: int = 4, levels: int = 4) -> None:
        super().__init__()
        w = [width * 2**i for i in range(levels)]

        def block(channels: int, out: int) -> nn.Sequential:
            first = (nn.Conv2d(channels, out, 3, padding=1), DropBlock(), nn.BatchNorm2d(out))
            second = (nn.Conv2d(out, out, 3, padding=1), DropBlock(), nn.BatchNorm2d(out))
            return nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU())

        self.encoders = nn.ModuleList(block(w[i - 1] if i else 3, w[i]) for i in range(levels - 1))
        self.pool = nn.MaxPool2d(2)
        self.center1 = nn.Sequential(
            *(nn.Conv2d(w[-2], w[-1], 3, padding=1), DropBlock(), nn.BatchNorm2d(w[-1])), nn.ReLU()
        )
        self.attention = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.center2 = nn.Sequential(
            *(nn.Conv2d(w[-1], w[-1], 3, padding=1), DropBlock(), nn.BatchNorm2d(w[-1])), nn.ReLU()
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(w[i + 1], w[i], 3, 2, 1, output_padding=1) for i in range(levels - 1)
        )
        self.decoders = nn.ModuleList(block(2 * w[i], w[i]) for i in range(levels - 1))
        self.final = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1, H, W)."""
        kept = []
        for encoder in self.encoders:
            kept.append(encoder(x))
            x = self.pool(kept[-1])
        x = self.center1(x)
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        x = self.center2(x * torch.sigmoid(self.attention(pooled)))
        for i in reversed(range(len(self.ups))):
            x = self.decoders[i](torch.cat([self.ups[i](x), kept[i]], dim=1))
        return torch.sigmoid(self.final(x))


_VESSELS = {
    **{f"encoders.{i}": f"encoder {i}" for i in range(3)},
    **dict.fromkeys(("center1", "attention", "center2"), "bottleneck"),
    **{f"{part}.{i}": f"decoder {i}" for part in ("ups", "decoders") for i in range(3)},
    "final": "head",
}


# shadows -----------------------------------------------------------------------------------------
class LeFF(nn.Module):
    """Widen tokens, look around as a map, narrow."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden), nn.GELU())
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, img_size: tuple[int, int]) -> Tensor:
        """Keep (B, N, width)."""
        hh, ww = img_size
        x = self.linear1(x)
        x = x.transpose(1, 2).view(x.shape[0], -1, hh, ww).contiguous()
        x = self.dwconv(x).flatten(2).transpose(1, 2).contiguous()
        return self.linear2(x)


class CAB(nn.Module):
    """Two convolutions, weighed for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.CA = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 2, 1, bias=False)),
            *(nn.ReLU(True), nn.Conv2d(width // 2, width, 1, bias=False), nn.Sigmoid()),
        )
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        res = self.body(x)
        return res * self.CA(res) + x


class ShadowBlock(nn.Module):
    """Attention to channels, or to a window's places on the other side of the shadow's edge."""

    def __init__(self, width: int, cab: bool, win: int = 4, heads: int = 2, shift: int = 0) -> None:
        super().__init__()
        self.cab, self.win_size, self.num_heads, self.shift_size = cab, win, heads, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if cab:
            self.attn_ca = CAB(width)
        else:
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            table = torch.zeros((2 * win - 1) ** 2, heads)
            self.relative_position_bias_table = nn.Parameter(table)
            coords = torch.stack(
                torch.meshgrid(torch.arange(win), torch.arange(win), indexing="ij")
            )
            flat = torch.flatten(coords, 1)
            apart = (flat[:, :, None] - flat[:, None, :]).permute(1, 2, 0) + win - 1
            index = apart[..., 0] * (2 * win - 1) + apart[..., 1]
            self.register_buffer("relative_position_index", index)
            self.w = nn.Parameter(torch.tensor(0.5))
        self.mlp = LeFF(width, 2 * width)

    def windows(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to windows (B', N, C)."""
        b, h, w, c = x.shape
        win = self.win_size
        x = x.view(b, h // win, win, w // win, win, c).permute(0, 1, 3, 2, 4, 5).contiguous()
        return x.view(-1, win * win, c)

    def attend(self, x: Tensor, xm: Tensor) -> Tensor:
        """Attention within windows, weighed by where the shadow lies."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn = (q * (c // self.num_heads) ** -0.5) @ k.transpose(-2, -1)
        index = self.get_buffer("relative_position_index")
        bias = self.relative_position_bias_table[index.view(-1)].view(n, n, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        shadow = (xm > 0.5).to(x.dtype)
        other = (shadow - shadow.transpose(-2, -1)).abs().unsqueeze(1)
        attn = torch.softmax(attn, dim=-1)
        attn = self.w * attn * other + (1 - self.w) * attn * (1 - other)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor, xm: Tensor, img_size: tuple[int, int]) -> Tensor:
        """Keep (B, N, width)."""
        b, _, c = x.shape
        h, w = img_size
        shortcut = x
        x = self.norm1(x).view(b, h, w, c)
        if self.cab:
            x = self.attn_ca(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            mask = xm.permute(0, 2, 3, 1).contiguous()
            if self.shift_size > 0:
                x = torch.roll(x, shifts=(-self.shift_size, -self.shift_size), dims=(1, 2))
                mask = torch.roll(mask, shifts=(-self.shift_size, -self.shift_size), dims=(1, 2))
            win = self.win_size
            found = self.attend(self.windows(x), self.windows(mask))
            found = found.view(b, h // win, w // win, win, win, c).permute(0, 1, 3, 2, 4, 5)
            x = found.contiguous().view(b, h, w, c)
            if self.shift_size > 0:
                x = torch.roll(x, shifts=(self.shift_size, self.shift_size), dims=(1, 2))
        x = shortcut + x.reshape(b, h * w, c)
        return x + self.mlp(self.norm2(x), img_size)


class TokenConv(nn.Module):
    """A convolution of tokens as a map: down by four pixels, or up by two."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, img_size: tuple[int, int]) -> Tensor:
        """Map tokens to tokens."""
        b, _, c = x.shape
        x = x.transpose(1, 2).contiguous().view(b, c, *img_size)
        return self.conv(x).flatten(2).transpose(1, 2).contiguous()


class ShadowFormer(nn.Module):
    """Shadows removed, with the mask beside (Guo and others, 2023)."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        w = (dim, 2 * dim, 4 * dim, 8 * dim)
        self.input_proj = nn.Sequential(nn.Conv2d(4, dim, 3, 1, 1), nn.LeakyReLU())
        self.output_proj = nn.Conv2d(2 * dim, 3, 3, 1, 1)
        for i in range(3):
            self.add_module(f"encoderlayer_{i}", ShadowBlock(w[i], True))
            self.add_module(f"dowsample_{i}", TokenConv(nn.Conv2d(w[i], w[i + 1], 4, 2, 1)))
        self.conv = nn.ModuleList([ShadowBlock(w[3], False, shift=s) for s in (0, 2)])
        before = w[3]
        for i in range(3):
            out = w[2 - i]
            self.add_module(f"upsample_{i}", TokenConv(nn.ConvTranspose2d(before, out, 2, 2)))
            self.add_module(f"decoderlayer_{i}", ShadowBlock(2 * out, True))
            before = 2 * out

    def forward(self, x: Tensor, xm: Tensor) -> Tensor:
        """Map (B, 3, H, W) and where the shadow is (B, 1, H, W) to (B, 3, H, W)."""
        y = self.input_proj(torch.cat((x, xm), dim=1)).flatten(2).transpose(1, 2).contiguous()
        self.img_size = (x.shape[2], x.shape[3])
        kept, masks = [], []
        for i in range(3):
            y = getattr(self, f"encoderlayer_{i}")(y, xm, self.img_size)
            kept.append(y)
            masks.append(xm)
            y = getattr(self, f"dowsample_{i}")(y, self.img_size)
            xm = nn.MaxPool2d(2)(xm)
            self.img_size = (int(self.img_size[0] / 2), int(self.img_size[1] / 2))
        for block in self.conv:
            y = block(y, xm, self.img_size)
        for i in range(3):
            y = getattr(self, f"upsample_{i}")(y, self.img_size)
            self.img_size = (self.img_size[0] * 2, self.img_size[1] * 2)
            y = torch.cat([y, kept[2 - i]], -1)
            y = getattr(self, f"decoderlayer_{i}")(y, masks[2 - i], self.img_size)
        b, _, c = y.shape
        y = self.output_proj(y.transpose(1, 2).view(b, c, *self.img_size))
        return x + y


_SHADOWS = {
    "input_proj": "encoder 0",
    **{f"encoderlayer_{i}": f"encoder {i}" for i in range(3)},
    **{f"dowsample_{i}": f"encoder {i + 1}" for i in range(2)},
    **dict.fromkeys(("dowsample_2", "conv"), "bottleneck"),
    **{
        f"{part}_{i}": f"decoder {2 - i}" for part in ("upsample", "decoderlayer") for i in range(3)
    },
    "output_proj": "head",
}


def _with_mask(image: Tensor) -> tuple[Tensor, Tensor]:
    """An image of three channels, and a mask."""
    return image[:, :3], (image[:, 3:] > 0).to(image.dtype)


# streets -----------------------------------------------------------------------------------------
class ConvX(nn.Module):
    """A convolution with norm and ReLU."""

    def __init__(self, channels: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(out), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        return self.relu(self.bn(self.conv(x)))


class CatBottleneck(nn.Module):
    """Ever narrower layers, joined."""

    def __init__(self, channels: int, out: int, block_num: int = 4, stride: int = 1) -> None:
        super().__init__()
        self.conv_list, self.stride = nn.ModuleList(), stride
        if stride == 2:
            self.avd_layer = nn.Sequential(
                nn.Conv2d(out // 2, out // 2, 3, 2, 1, groups=out // 2, bias=False),
                nn.BatchNorm2d(out // 2),
            )
            self.skip = nn.AvgPool2d(kernel_size=3, stride=2, padding=1)
        for idx in range(block_num):
            if idx == 0:
                self.conv_list.append(ConvX(channels, out // 2, kernel=1))
            elif idx == 1 and block_num > 2:
                self.conv_list.append(ConvX(out // 2, out // 4))
            elif idx < block_num - 1:
                self.conv_list.append(ConvX(out // 2**idx, out // 2 ** (idx + 1)))
            else:
                self.conv_list.append(ConvX(out // 2**idx, out // 2**idx))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size, or halve it."""
        out_list: list[Tensor] = []
        out1 = self.conv_list[0](x)
        out = out1
        for idx, conv in enumerate(self.conv_list[1:]):
            if idx == 0:
                out = conv(self.avd_layer(out1)) if self.stride == 2 else conv(out1)
            else:
                out = conv(out)
            out_list.append(out)
        if self.stride == 2:
            out1 = self.skip(out1)
        out_list.insert(0, out1)
        return torch.cat(out_list, dim=1)


class STDCBackbone(nn.Module):
    """The encoder, whose stages are the same layers under other names."""

    def __init__(self, base: int = 8) -> None:
        super().__init__()
        b = base
        self.features = nn.Sequential(
            *(ConvX(3, b // 2, 3, 2), ConvX(b // 2, b, 3, 2)),
            *(CatBottleneck(b, 4 * b, 4, 2), CatBottleneck(4 * b, 4 * b)),
            *(CatBottleneck(4 * b, 6 * b, 4, 2), CatBottleneck(6 * b, 6 * b)),
            *(CatBottleneck(6 * b, 8 * b, 4, 2), CatBottleneck(8 * b, 8 * b)),
        )
        self.conv_last = ConvX(8 * b, 8 * b, 1, 1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc, self.bn = nn.Linear(8 * b, 8 * b, bias=False), nn.BatchNorm1d(8 * b)
        self.linear = nn.Linear(8 * b, 10)
        self.x2, self.x4 = nn.Sequential(self.features[:1]), nn.Sequential(self.features[1:2])
        self.x8, self.x16 = nn.Sequential(self.features[2:4]), nn.Sequential(self.features[4:6])
        self.x32 = nn.Sequential(self.features[6:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Five maps."""
        feat2 = self.x2(x)
        feat4 = self.x4(feat2)
        feat8 = self.x8(feat4)
        feat16 = self.x16(feat8)
        return feat2, feat4, feat8, feat16, self.x32(feat16)


class Refinement(nn.Module):
    """A map, weighed for each channel."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = ConvX(channels, out)
        self.conv_atten = nn.Conv2d(out, out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        feat = self.conv(x)
        atten = F.avg_pool2d(feat, feat.size()[2:])
        return torch.mul(feat, torch.sigmoid(self.bn_atten(self.conv_atten(atten))))


class ContextPath(nn.Module):
    """The encoder, and what comes back to an eighth."""

    def __init__(self, base: int, width: int) -> None:
        super().__init__()
        self.backbone = STDCBackbone(base)
        self.arm16, self.arm32 = Refinement(6 * base, width), Refinement(8 * base, width)
        self.conv_head32, self.conv_head16 = ConvX(width, width), ConvX(width, width)
        self.conv_avg = ConvX(8 * base, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Four maps of the encoder, and two that came up."""
        feat2, feat4, feat8, feat16, feat32 = self.backbone(x)
        avg = self.conv_avg(F.avg_pool2d(feat32, feat32.size()[2:]))
        avg_up = F.interpolate(avg, feat32.size()[2:], mode="nearest")
        feat32_sum = self.arm32(feat32) + avg_up
        feat32_up = F.interpolate(feat32_sum, feat16.size()[2:], mode="nearest")
        feat32_up = self.conv_head32(feat32_up)
        feat16_sum = self.arm16(feat16) + feat32_up
        feat16_up = F.interpolate(feat16_sum, feat8.size()[2:], mode="nearest")
        return feat2, feat4, feat8, feat16, self.conv_head16(feat16_up), feat32_up


class BiSeNetOutput(nn.Module):
    """Classes of a map."""

    def __init__(self, channels: int, mid: int, classes: int) -> None:
        super().__init__()
        self.conv, self.conv_out = ConvX(channels, mid), nn.Conv2d(mid, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, classes, H, W)."""
        return self.conv_out(self.conv(x))


class FeatureFusion(nn.Module):
    """Two maps of one size."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convblk = ConvX(channels, out, 1)
        self.conv1 = nn.Conv2d(out, out // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(out // 4, out, 1, bias=False)

    def forward(self, fsp: Tensor, fcp: Tensor) -> Tensor:
        """Return (B, out, H, W)."""
        feat = self.convblk(torch.cat([fsp, fcp], dim=1))
        atten = F.avg_pool2d(feat, feat.size()[2:])
        atten = torch.sigmoid(self.conv2(F.relu(self.conv1(atten))))
        return torch.mul(feat, atten) + feat


class STDCSeg(nn.Module):
    """Short-term dense layers, with a map of borders beside (Fan and others, 2021)."""

    def __init__(self, classes: int = 4, base: int = 8, width: int = 8) -> None:
        super().__init__()
        self.use_boundary_2, self.use_boundary_4, self.use_boundary_8 = False, False, True
        self.cp = ContextPath(base, width)
        self.ffm = FeatureFusion(4 * base + width, 2 * width)
        self.conv_out = BiSeNetOutput(2 * width, 2 * width, classes)
        self.conv_out16 = BiSeNetOutput(width, width, classes)
        self.conv_out32 = BiSeNetOutput(width, width, classes)
        self.conv_out_sp16 = BiSeNetOutput(6 * base, width, 1)
        self.conv_out_sp8 = BiSeNetOutput(4 * base, width, 1)
        self.conv_out_sp4 = BiSeNetOutput(base, width, 1)
        self.conv_out_sp2 = BiSeNetOutput(base // 2, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) to classes three times, and to borders at an eighth."""
        sides = x.size()[2:]
        res2, res4, res8, res16, cp8, cp16 = self.cp(x)
        out_sp2, out_sp4 = self.conv_out_sp2(res2), self.conv_out_sp4(res4)
        out_sp8, _ = self.conv_out_sp8(res8), self.conv_out_sp16(res16)
        found = [self.conv_out(self.ffm(res8, cp8)), self.conv_out16(cp8), self.conv_out32(cp16)]
        feat_out, out16, out32 = (
            F.interpolate(out, sides, mode="bilinear", align_corners=True) for out in found
        )
        if self.use_boundary_2 and self.use_boundary_4 and self.use_boundary_8:
            return feat_out, out16, out32, out_sp2, out_sp4, out_sp8
        if self.use_boundary_8:
            return feat_out, out16, out32, out_sp8
        return feat_out, out16, out32


_BACKBONE = "cp.backbone.features"
# borders of other sizes are computed, and not returned
_BORDERS = {
    f"{_BACKBONE}.0": "encoder 1",
    **dict.fromkeys((f"{_BACKBONE}.1", f"{_BACKBONE}.2.conv_list.0"), "encoder 2"),
    **{f"{_BACKBONE}.{i}": "encoder 3" for i in (2, 3)},
    f"{_BACKBONE}.4.conv_list.0": "encoder 3",
    **{f"{_BACKBONE}.{i}": "encoder 4" for i in (4, 5)},
    f"{_BACKBONE}.6.conv_list.0": "encoder 4",
    **{f"{_BACKBONE}.{i}": "bottleneck" for i in (6, 7)},
    **{f"cp.backbone.{part}": "dead" for part in ("conv_last", "fc", "bn", "linear")},
    **dict.fromkeys(("cp.arm32", "cp.conv_avg"), "bottleneck"),
    "cp.arm16": "skip 4",
    "cp.conv_head32": "decoder 4",
    **dict.fromkeys(("cp.conv_head16", "ffm", "conv_out", "conv_out16"), "decoder 3"),
    "conv_out32": "decoder 4",
    "conv_out_sp8": "skip 3",
    **{f"conv_out{part}.conv_out": "head" for part in ("", "16", "32", "_sp8")},
    **{f"conv_out_sp{i}": "dead" for i in (2, 4, 16)},
}


class OpSequential(nn.Module):
    """Layers in a list, by which they are named."""

    def __init__(self, ops: list[nn.Module | None]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList([op for op in ops if op is not None])

    def forward(self, x: Tensor) -> Tensor:
        """Apply them."""
        for op in self.op_list:
            x = op(x)
        return x


class EffConv(nn.Module):
    """A convolution, perhaps with norm and activation."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        pad = kernel // 2
        self.conv = nn.Conv2d(channels, out, kernel, stride, pad, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(out) if norm else None
        self.act = nn.Hardswish() if act else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        x = self.conv(x)
        if self.norm:
            x = self.norm(x)
        return self.act(x) if self.act else x


class MBConv(nn.Module):
    """Widen, look around, narrow."""

    def __init__(self, channels: int, out: int, stride: int = 1, expand: int = 4) -> None:
        super().__init__()
        mid = channels * expand
        self.inverted_conv = EffConv(channels, mid, 1)
        self.depth_conv = EffConv(mid, mid, 3, stride, groups=mid)
        self.point_conv = EffConv(mid, out, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size, or halve it."""
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))


class DSConv(nn.Module):
    """Look around in each channel, then mix them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth_conv = EffConv(width, width, 3, groups=width)
        self.point_conv = EffConv(width, width, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        return self.point_conv(self.depth_conv(x))


class ResidualBlock(nn.Module):
    """What a block makes, added where there is a way around it."""

    def __init__(self, main: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.main(x) if self.shortcut is None else self.main(x) + self.shortcut(x)


class LiteMLA(nn.Module):
    """Linear attention with ReLU, of maps at two scales."""

    def __init__(self, width: int, dim: int = 4, scales: tuple[int, ...] = (5,)) -> None:
        super().__init__()
        heads, self.dim, self.eps = width // dim, dim, 1e-15
        total = heads * dim
        self.qkv = EffConv(width, 3 * total, 1, norm=False, act=False)
        self.aggreg = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 * total, 3 * total, s, padding=s // 2, groups=3 * total, bias=False),
                nn.Conv2d(3 * total, 3 * total, 1, groups=3 * heads, bias=False),
            )
            for s in scales
        )
        self.kernel_func = nn.ReLU(inplace=False)
        self.proj = EffConv(total * (1 + len(scales)), width, 1, act=False)

    def relu_linear_att(self, qkv: Tensor) -> Tensor:
        """Attention without a softmax."""
        b, _, h, w = list(qkv.size())
        if qkv.dtype == torch.float16:
            qkv = qkv.float()
        qkv = torch.reshape(qkv, (b, -1, 3 * self.dim, h * w))
        q, k, v = (qkv[:, :, i * self.dim : (i + 1) * self.dim] for i in range(3))
        q, k = self.kernel_func(q), self.kernel_func(k)
        v = F.pad(v, (0, 0, 0, 1), mode="constant", value=1)
        out = torch.matmul(torch.matmul(v, k.transpose(-1, -2)), q)
        out = out[:, :, :-1] / (out[:, :, -1:] + self.eps)
        return torch.reshape(out, (b, -1, h, w))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        qkv = self.qkv(x)
        multi_scale = [qkv]
        multi_scale.extend(op(qkv) for op in self.aggreg)
        return self.proj(self.relu_linear_att(torch.cat(multi_scale, dim=1)))


class EfficientViTBlock(nn.Module):
    """Attention, then what looks around."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context_module = ResidualBlock(LiteMLA(width), nn.Identity())
        self.local_module = ResidualBlock(MBConv(width, width), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        return self.local_module(self.context_module(x))


class EfficientViTBackbone(nn.Module):
    """A stem and four stages, by name."""

    def __init__(self, w: tuple[int, ...]) -> None:
        super().__init__()
        self.input_stem = OpSequential(
            [EffConv(3, w[0], 3, 2), ResidualBlock(DSConv(w[0]), nn.Identity())]
        )
        stages = []
        for i in range(1, 5):
            first = ResidualBlock(MBConv(w[i - 1], w[i], 2), None)
            if i < 3:
                second: nn.Module = ResidualBlock(MBConv(w[i], w[i]), nn.Identity())
            else:
                second = EfficientViTBlock(w[i])
            stages.append(OpSequential([first, second]))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to five maps by name."""
        output_dict = {"input": x}
        output_dict["stage0"] = x = self.input_stem(x)
        for stage_id, stage in enumerate(self.stages, 1):
            output_dict[f"stage{stage_id}"] = x = stage(x)
        output_dict["stage_final"] = x
        return output_dict


class UpSampleLayer(nn.Module):
    """Larger by a factor."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Raise the sides."""
        sides = [side * self.factor for side in x.shape[-2:]]
        return F.interpolate(x, size=sides, mode="bicubic", align_corners=False)


class SegHead(nn.Module):
    """Maps added up at an eighth."""

    def __init__(
        self, fid_list: list[str], channels: list[int], strides: list[int], width: int, classes: int
    ) -> None:
        super().__init__()
        head_stride, self.input_keys = 8, fid_list
        self.input_ops = nn.ModuleList()
        for channel, stride in zip(channels, strides, strict=True):
            factor = stride // head_stride
            rise = UpSampleLayer(factor) if factor > 1 else None
            self.input_ops.append(OpSequential([EffConv(channel, width, 1, act=False), rise]))
        self.middle = OpSequential([ResidualBlock(MBConv(width, width), nn.Identity())])
        self.output_keys = ["segout"]
        self.output_ops = nn.ModuleList(
            [
                OpSequential(
                    [
                        EffConv(width, 4 * width, 1),
                        EffConv(4 * width, classes, 1, norm=False, act=False, bias=True),
                    ]
                )
            ]
        )

    def forward(self, feature_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add an output to the maps."""
        feat = [
            op(feature_dict[key]) for key, op in zip(self.input_keys, self.input_ops, strict=True)
        ]
        x = feat[0]
        for other in feat[1:]:
            x = x + other
        x = self.middle(x)
        for key, op in zip(self.output_keys, self.output_ops, strict=True):
            feature_dict[key] = op(x)
        return feature_dict


class EfficientViTSeg(nn.Module):
    """Linear attention at two depths, and a head of sums (Cai and others, 2023)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        w = (4, 8, 12, 16, 24)
        self.backbone = EfficientViTBackbone(w)
        self.head = SegHead(["stage4", "stage3", "stage2"], [24, 16, 12], [32, 16, 8], 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H / 8, W / 8)."""
        feed_dict = self.head(self.backbone(x))
        return feed_dict["segout"]


_SUMS = {
    "backbone.input_stem": "encoder 1",
    **{f"backbone.stages.{i}": f"encoder {i + 2}" for i in range(3)},
    "backbone.stages.3": "bottleneck",
    **{f"backbone.stages.{i}.op_list.0.main.inverted_conv": f"encoder {i + 1}" for i in range(4)},
    "head.input_ops.0": "bottleneck",
    "head.input_ops.1": "skip 4",
    "head.input_ops.2": "skip 3",
    **dict.fromkeys(("head.middle", "head.output_ops.0.op_list.0"), "decoder 3"),
    "head.output_ops.0.op_list.1": "head",
}


# clips -------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """Added to what went in."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the size."""
        return self.fn(x, *args, **kwargs) + x


class LayerNorm3d(nn.Module):
    """A norm of the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, dim, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, dim, F, H, W)."""
        var = torch.var(x, dim=1, unbiased=False, keepdim=True)
        return (x - torch.mean(x, dim=1, keepdim=True)) / (var + 1e-5).sqrt() * self.gamma


class PreNorm(nn.Module):
    """A norm in front."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn, self.norm = fn, LayerNorm3d(dim)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Keep the size."""
        return self.fn(self.norm(x), **kwargs)


class RelativePositionBias(nn.Module):
    """One number for each head and distance in time."""

    def __init__(self, heads: int, num_buckets: int = 8, max_distance: int = 16) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.relative_attention_bias = nn.Embedding(num_buckets, heads)

    def forward(self, n: int, device: torch.device) -> Tensor:
        """Return (heads, n, n)."""
        pos = torch.arange(n, dtype=torch.long, device=device)
        apart = -(pos[None, :] - pos[:, None])
        buckets = self.num_buckets // 2
        ret = (apart < 0).long() * buckets
        apart = torch.abs(apart)
        exact = buckets // 2
        far = torch.log(apart.float().clamp(min=1) / exact) / math.log(self.max_distance / exact)
        large = (exact + (far * (buckets - exact)).long()).clamp(max=buckets - 1)
        ret = ret + torch.where(apart < exact, apart, large)
        return self.relative_attention_bias(ret).permute(2, 0, 1)


class FrameAttention(nn.Module):
    """Attention along the last axis but one."""

    def __init__(self, dim: int, heads: int, dim_head: int, rotary: bool = False) -> None:
        super().__init__()
        self.scale, self.heads, self.rotary = dim_head**-0.5, heads, rotary
        hidden = dim_head * heads
        freqs = 1.0 / 10000 ** (torch.arange(0, dim_head, 2).float() / dim_head)
        self.register_buffer("freqs", freqs, persistent=False)
        self.to_qkv = nn.Linear(dim, 3 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, dim, bias=False)

    def rotate(self, t: Tensor) -> Tensor:
        """Turn pairs of channels by where they are."""
        places = torch.arange(t.shape[-2], device=t.device).float()
        angles = (places[:, None] * self.get_buffer("freqs")[None]).repeat_interleave(2, dim=-1)
        x1, x2 = t.unflatten(-1, (-1, 2)).unbind(dim=-1)
        turned = torch.stack((-x2, x1), dim=-1).flatten(-2)
        return t * angles.cos() + turned * angles.sin()

    def forward(
        self, x: Tensor, pos_bias: Tensor | None = None, focus_present_mask: Tensor | None = None
    ) -> Tensor:
        """Keep (B, places, n, dim)."""
        n = x.shape[-2]
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        if focus_present_mask is not None and focus_present_mask.all():
            return self.to_out(qkv[-1])
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for t in qkv)
        q = q * self.scale
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        sim = torch.einsum("...hid,...hjd->...hij", q, k)
        if pos_bias is not None:
            sim = sim + pos_bias
        if focus_present_mask is not None and not (~focus_present_mask).all():
            every = torch.ones((n, n), device=x.device, dtype=torch.bool)
            own = torch.eye(n, device=x.device, dtype=torch.bool)
            mask = torch.where(focus_present_mask[:, None, None, None, None], own, every)
            sim = sim.masked_fill(~mask, -torch.finfo(sim.dtype).max)
        sim = sim - sim.amax(dim=-1, keepdim=True).detach()
        out = torch.einsum("...hij,...hjd->...hid", sim.softmax(dim=-1), v)
        return self.to_out(out.transpose(-2, -3).flatten(-2))


class OverTime(nn.Module):
    """Each place of the frames as a sequence."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Keep (B, C, F, H, W)."""
        b, c, f, h, w = x.shape
        x = x.permute(0, 3, 4, 2, 1).reshape(b, h * w, f, c)
        x = self.fn(x, **kwargs)
        return x.reshape(b, h, w, f, c).permute(0, 4, 3, 1, 2)


class OverSpace(nn.Module):
    """Each frame as a sequence of its places."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Keep (B, C, F, H, W)."""
        b, c, f, h, w = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(b, f, h * w, c)
        x = self.fn(x, **kwargs)
        return x.reshape(b, f, h, w, c).permute(0, 4, 1, 2, 3)


class SpatialLinearAttention(nn.Module):
    """Linear attention of each frame."""

    def __init__(self, dim: int, heads: int, dim_head: int = 4) -> None:
        super().__init__()
        self.scale, self.heads = dim_head**-0.5, heads
        self.to_qkv = nn.Conv2d(dim, 3 * dim_head * heads, 1, bias=False)
        self.to_out = nn.Conv2d(dim_head * heads, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, dim, F, H, W)."""
        b, c, f, h, w = x.shape
        x = x.permute(0, 2, 1, 3, 4).reshape(b * f, c, h, w)
        qkv = self.to_qkv(x).chunk(3, dim=1)
        q, k, v = (t.reshape(b * f, self.heads, -1, h * w) for t in qkv)
        q, k = q.softmax(dim=-2) * self.scale, k.softmax(dim=-1)
        context = torch.einsum("bhdn,bhen->bhde", k, v)
        out = torch.einsum("bhde,bhdn->bhen", context, q)
        out = self.to_out(out.reshape(b * f, -1, h, w))
        return out.reshape(b, f, c, h, w).permute(0, 2, 1, 3, 4)


class VideoBlock(nn.Module):
    """A convolution of each frame, a norm, a scale and a shift."""

    def __init__(self, dim: int, out: int, groups: int = 2) -> None:
        super().__init__()
        self.proj = nn.Conv3d(dim, out, (1, 3, 3), padding=(0, 1, 1))
        self.norm, self.act = nn.GroupNorm(groups, out), nn.SiLU()

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, ...] | None = None) -> Tensor:
        """Map (B, dim, F, H, W) to (B, out, F, H, W)."""
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.act(x)


class VideoResnet(nn.Module):
    """Two of them, told the time."""

    def __init__(self, dim: int, out: int, time_dim: int | None = None) -> None:
        super().__init__()
        self.mlp = None
        if time_dim is not None:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * out))
        self.block1, self.block2 = VideoBlock(dim, out), VideoBlock(out, out)
        self.res_conv = nn.Conv3d(dim, out, 1) if dim != out else nn.Identity()

    def forward(self, x: Tensor, time_emb: Tensor | None = None) -> Tensor:
        """Map (B, dim, F, H, W) to (B, out, F, H, W)."""
        scale_shift = None
        if self.mlp is not None:
            assert time_emb is not None, "time emb must be passed in"
            time_emb = self.mlp(time_emb)[:, :, None, None, None]
            scale_shift = time_emb.chunk(2, dim=1)
        h = self.block2(self.block1(x, scale_shift=scale_shift))
        return h + self.res_conv(x)


class SinusoidalTime(nn.Module):
    """Sines and cosines of a time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,) to (B, dim)."""
        half = self.dim // 2
        emb = torch.exp(torch.arange(half, device=x.device) * -(math.log(10000) / (half - 1)))
        emb = x[:, None] * emb[None, :]
        return torch.cat((emb.sin(), emb.cos()), dim=-1)


class VideoUNet(nn.Module):
    """The U-net of video diffusion: space and time in turns (Ho and others, 2022)."""

    def __init__(self, dim: int = 8, mults: tuple[int, ...] = (1, 2, 4), heads: int = 2) -> None:
        super().__init__()

        def temporal(width: int) -> Residual:
            attention = OverTime(FrameAttention(width, heads, 4, rotary=True))
            return Residual(PreNorm(width, attention))

        self.time_rel_pos_bias = RelativePositionBias(heads)
        self.init_conv = nn.Conv3d(3, dim, (1, 7, 7), padding=(0, 3, 3))
        self.init_temporal_attn = temporal(dim)
        dims = [dim, *(dim * m for m in mults)]
        in_out = list(pairwise(dims))
        time_dim = dim * 4
        self.time_mlp = nn.Sequential(
            *(SinusoidalTime(dim), nn.Linear(dim, time_dim), nn.GELU()),
            nn.Linear(time_dim, time_dim),
        )
        self.downs, self.ups = nn.ModuleList([]), nn.ModuleList([])
        for ind, (dim_in, dim_out) in enumerate(in_out):
            is_last = ind >= len(in_out) - 1
            down = nn.Conv3d(dim_out, dim_out, (1, 4, 4), (1, 2, 2), (0, 1, 1))
            self.downs.append(
                nn.ModuleList(
                    [
                        VideoResnet(dim_in, dim_out, time_dim),
                        VideoResnet(dim_out, dim_out, time_dim),
                        Residual(PreNorm(dim_out, SpatialLinearAttention(dim_out, heads))),
                        temporal(dim_out),
                        nn.Identity() if is_last else down,
                    ]
                )
            )
        mid = dims[-1]
        self.mid_block1 = VideoResnet(mid, mid, time_dim)
        self.mid_spatial_attn = Residual(PreNorm(mid, OverSpace(FrameAttention(mid, heads, 4))))
        self.mid_temporal_attn = temporal(mid)
        self.mid_block2 = VideoResnet(mid, mid, time_dim)
        for ind, (dim_in, dim_out) in enumerate(reversed(in_out)):
            is_last = ind >= len(in_out) - 1
            up = nn.ConvTranspose3d(dim_in, dim_in, (1, 4, 4), (1, 2, 2), (0, 1, 1))
            self.ups.append(
                nn.ModuleList(
                    [
                        VideoResnet(dim_out * 2, dim_in, time_dim),
                        VideoResnet(dim_in, dim_in, time_dim),
                        Residual(PreNorm(dim_in, SpatialLinearAttention(dim_in, heads))),
                        temporal(dim_in),
                        nn.Identity() if is_last else up,
                    ]
                )
            )
        self.final_conv = nn.Sequential(VideoResnet(dim * 2, dim), nn.Conv3d(dim, 3, 1))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        focus_present_mask: Tensor | None = None,
        prob_focus_present: float = 0.0,
    ) -> Tensor:
        """Map (B, 3, F, H, W) and times (B,) to (B, 3, F, H, W)."""
        batch, device = x.shape[0], x.device
        if focus_present_mask is None:
            if prob_focus_present == 0:
                focus_present_mask = torch.zeros((batch,), device=device, dtype=torch.bool)
            else:
                focus_present_mask = torch.rand(batch, device=device) < prob_focus_present
        bias = self.time_rel_pos_bias(x.shape[2], device=device)
        x = self.init_conv(x)
        r = x.clone()
        x = self.init_temporal_attn(x, pos_bias=bias)
        t = self.time_mlp(time)
        h = []
        for block1, block2, spatial, over_time, downsample in self.downs:
            x = spatial(block2(block1(x, t), t))
            x = over_time(x, pos_bias=bias, focus_present_mask=focus_present_mask)
            h.append(x)
            x = downsample(x)
        x = self.mid_spatial_attn(self.mid_block1(x, t))
        x = self.mid_temporal_attn(x, pos_bias=bias, focus_present_mask=focus_present_mask)
        x = self.mid_block2(x, t)
        for block1, block2, spatial, over_time, upsample in self.ups:
            x = torch.cat((x, h.pop()), dim=1)
            x = spatial(block2(block1(x, t), t))
            x = over_time(x, pos_bias=bias, focus_present_mask=focus_present_mask)
            x = upsample(x)
        return self.final_conv(torch.cat((x, r), dim=1))


_VIDEO = {
    **dict.fromkeys(("init_conv", "init_temporal_attn", "downs.0"), "encoder 0"),
    **dict.fromkeys(("time_mlp", "time_rel_pos_bias"), TIME),
    **dict.fromkeys(("downs.0.4", "downs.1"), "encoder 1"),
    **dict.fromkeys(("downs.1.4", "downs.2"), "bottleneck"),
    **{
        f"mid_{part}": "bottleneck"
        for part in ("block1", "spatial_attn", "temporal_attn", "block2")
    },
    "ups.0": "bottleneck",
    **dict.fromkeys(("ups.0.4", "ups.1"), "decoder 1"),
    **dict.fromkeys(("ups.1.4", "ups.2", "final_conv"), "decoder 0"),
    "final_conv.1": "head",
}


# towns from above --------------------------------------------------------------------------------
class EMSA(nn.Module):
    """Attention to fewer keys, mixed over the heads."""

    def __init__(self, dim: int, heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads, self.scale, self.sr_ratio = heads, (dim // heads) ** -0.5, sr_ratio
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio + 1, sr_ratio, sr_ratio // 2, groups=dim)
            self.sr_norm = nn.LayerNorm(dim)
        self.transform_conv = nn.Conv2d(heads, heads, 1)
        self.transform_norm = nn.InstanceNorm2d(heads)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, N, dim)."""
        b, n, c = x.shape
        heads = self.num_heads
        q = self.q(x).reshape(b, n, heads, c // heads).permute(0, 2, 1, 3)
        if self.sr_ratio > 1:
            x_ = self.sr(x.permute(0, 2, 1).reshape(b, c, h, w))
            x = self.sr_norm(x_.reshape(b, c, -1).permute(0, 2, 1))
        k, v = self.kv(x).reshape(b, -1, 2, heads, c // heads).permute(2, 0, 3, 1, 4)
        attn = self.transform_conv((q @ k.transpose(-2, -1)) * self.scale)
        attn = self.transform_norm(attn.softmax(dim=-1))
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class ResTBlock(nn.Module):
    """Attention, then two layers."""

    def __init__(self, dim: int, heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = EMSA(dim, heads, sr_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, N, dim)."""
        x = x + self.attn(self.norm1(x), h, w)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Half the size, and a gate of where each position is."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, out, 3, 2, 1), nn.BatchNorm2d(out)
        self.pa_conv = nn.Conv2d(out, out, 3, padding=1, groups=out)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map (B, channels, H, W) to tokens and sides."""
        x = self.norm(self.conv(x))
        x = x * torch.sigmoid(self.pa_conv(x))
        _, _, h, w = x.shape
        return x.flatten(2).transpose(1, 2), (h, w)


class ResT(nn.Module):
    """The encoder, of which two maps are used."""

    def __init__(self, dims: tuple[int, ...] = (8, 12, 16, 24)) -> None:
        super().__init__()
        half = dims[0] // 2
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(True)),
            *(nn.Conv2d(half, half, 3, 1, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(True)),
            nn.Conv2d(half, dims[0], 3, 2, 1, bias=False),
        )
        self.pa_conv = nn.Conv2d(dims[0], dims[0], 3, padding=1, groups=dims[0])
        for i in range(4):
            if i:
                self.add_module(f"patch_embed_{i + 1}", PatchEmbed(dims[i - 1], dims[i]))
            block = ResTBlock(dims[i], (1, 2, 4, 4)[i], (8, 4, 2, 1)[i])
            self.add_module(f"stage{i + 1}", nn.ModuleList([block]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) to maps of a 16th and a 32nd."""
        x = self.stem(x)
        x = x * torch.sigmoid(self.pa_conv(x))
        b, _, h, w = x.shape
        x = x.flatten(2).permute(0, 2, 1)
        found = []
        for i in range(4):
            if i:
                x, (h, w) = getattr(self, f"patch_embed_{i + 1}")(x)
            for block in getattr(self, f"stage{i + 1}"):
                x = block(x, h, w)
            x = x.permute(0, 2, 1).reshape(b, -1, h, w)
            found.append(x)
        return found[2], found[3]


class AttentionEmbedding(nn.Module):
    """A map, weighed by a vector of the deeper one."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, out, 1), nn.Sigmoid())
        )
        self.conv_attn = _normed(out, out, 1)

    def forward(self, high_feat: Tensor, low_feat: Tensor) -> Tensor:
        """Keep the second one's size."""
        attn = self.conv_attn(low_feat * self.attention(high_feat))
        return low_feat + attn


class LinearAttention(nn.Module):
    """Attention of which the product of keys and values comes first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query_conv = nn.Conv2d(width, width // 4, 1)
        self.key_conv = nn.Conv2d(width, width // 4, 1)
        self.value_conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        b, c, h, w = x.shape
        q = self.query_conv(x).view(b, -1, w * h)
        k, v = self.key_conv(x).view(b, -1, w * h), self.value_conv(x).view(b, -1, w * h)
        q = (q / torch.norm(q, p=2, dim=-2, keepdim=True).clamp(min=1e-6)).permute(0, 2, 1)
        k = k / torch.norm(k, p=2, dim=-2, keepdim=True).clamp(min=1e-6)
        tailor_sum = 1 / (w * h + torch.einsum("bnc,bc->bn", q, torch.sum(k, dim=-1) + 1e-6))
        value_sum = torch.einsum("bcn->bc", v).unsqueeze(-1).expand(-1, c, w * h)
        matrix = torch.einsum("bmn,bcn->bmc", k, v)
        matrix_sum = value_sum + torch.einsum("bnm,bmc->bcn", q, matrix)
        weight_value = torch.einsum("bcn,bn->bcn", matrix_sum, tailor_sum)
        return (x + self.gamma * weight_value.view(b, c, h, w)).contiguous()


class BANet(nn.Module):
    """A path of what depends on what beside one of texture (Wang and others, 2021)."""

    def __init__(self, classes: int = 4, width: int = 8) -> None:
        super().__init__()
        self.ResT = ResT()
        self.AE = AttentionEmbedding(24, 16)
        self.conv_avg, self.up = _normed(16, width, 1), nn.Upsample(scale_factor=2.0)
        self.sp = nn.Sequential(
            *(_normed(3, 4, 7, 2), _normed(4, 4, 3, 2)),
            *(_normed(4, 4, 3, 2), _normed(4, width, 1)),
        )
        self.convblk, self.conv_atten = _normed(2 * width, width, 1), LinearAttention(width)
        self.conv_out = nn.Sequential(_normed(width, width), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H, W)."""
        sides = x.shape[2:]
        e3, e4 = self.ResT(x)
        context = self.up(self.conv_avg(self.AE(e4, e3)))
        feat = self.convblk(torch.cat([self.sp(x), context], dim=1))
        feat = torch.mul(feat, self.conv_atten(feat)) + feat
        return F.interpolate(self.conv_out(feat), sides, mode="bilinear", align_corners=True)


_TOWNS = {
    **{f"ResT.stem.{i}": "encoder 1" for i in (0, 1, 3, 4)},
    **dict.fromkeys(("ResT.stem.6", "ResT.pa_conv", "ResT.stage1"), "encoder 2"),
    **{f"ResT.{part}{i}": f"encoder {i + 1}" for part in ("patch_embed_", "stage") for i in (2, 3)},
    **dict.fromkeys(("ResT.patch_embed_4", "ResT.stage4"), "bottleneck"),
    # one vector of the deepest map, used above it
    "AE.attention": "decoder 4 | bottleneck",
    **dict.fromkeys(("AE.conv_attn", "conv_avg"), "decoder 4"),
    # each but the last two leads down to the next
    **{f"sp.{i}": f"{'encoder' if i < 2 else 'skip'} {min(i + 1, 3)}" for i in range(4)},
    **dict.fromkeys(("convblk", "conv_atten", "conv_out.0"), "decoder 3"),
    "conv_out.1": "head",
}


# images to images --------------------------------------------------------------------------------
class EmbedSequential(nn.Sequential):
    """Layers, some of which are told the noise."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        """Apply them."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, PaletteRes) else layer(x)
        return x


class Resized(nn.Module):
    """Twice the size, or half of it, with a convolution or without."""

    def __init__(self, width: int, up: bool, use_conv: bool) -> None:
        super().__init__()
        self.is_up = up
        self.conv = None
        if use_conv:
            self.conv = nn.Conv2d(width, width, 3, 1 if up else 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Change the size."""
        if self.is_up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            return x if self.conv is None else self.conv(x)
        return F.avg_pool2d(x, 2, 2) if self.conv is None else self.conv(x)


class PaletteRes(nn.Module):
    """A residual block that is told the noise, and may change the size."""

    def __init__(
        self, width: int, emb: int, out: int, up: bool = False, down: bool = False
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1)
        )
        self.updown = up or down
        self.h_upd = Resized(width, up, False) if self.updown else nn.Identity()
        self.x_upd = Resized(width, up, False) if self.updown else nn.Identity()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.out_layers = nn.Sequential(
            *(nn.GroupNorm(4, out), nn.SiLU(), nn.Dropout(0.1)),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if out == width else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, out, H, W)."""
        if self.updown:
            in_rest, in_conv = self.in_layers[:-1], self.in_layers[-1]
            h = in_conv(self.h_upd(in_rest(x)))
            x = self.x_upd(x)
        else:
            h = self.in_layers(x)
        emb_out = self.emb_layers(emb).type(h.dtype)
        while len(emb_out.shape) < len(h.shape):
            emb_out = emb_out[..., None]
        out_norm, out_rest = self.out_layers[0], self.out_layers[1:]
        scale, shift = torch.chunk(emb_out, 2, dim=1)
        h = out_rest(out_norm(h) * (1 + scale) + shift)
        return self.skip_connection(x) + h


class PaletteAttention(nn.Module):
    """All positions look at each other."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.num_heads, self.norm = heads, nn.GroupNorm(4, width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        b, c, *spatial = x.shape
        x = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(x))
        bs, width, length = qkv.shape
        ch = width // (3 * self.num_heads)
        q, k, v = qkv.reshape(bs * self.num_heads, ch * 3, length).split(ch, dim=1)
        scale = 1 / math.sqrt(math.sqrt(ch))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale).float(), dim=-1)
        a = torch.einsum("bts,bcs->bct", weight, v).reshape(bs, -1, length)
        return (x + self.proj_out(a)).reshape(b, c, *spatial)


class Palette(nn.Module):
    """Noise taken off an image, with another one beside it (Saharia and others, 2022)."""

    def __init__(self, inner: int = 8, mults: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        self.inner_channel, emb = inner, 4 * inner
        self.cond_embed = nn.Sequential(nn.Linear(inner, emb), nn.SiLU(), nn.Linear(emb, emb))
        ch = mults[0] * inner
        self.input_blocks = nn.ModuleList([EmbedSequential(nn.Conv2d(6, ch, 3, padding=1))])
        kept, ds = [ch], 1
        for level, mult in enumerate(mults):
            out = mult * inner
            layers: list[nn.Module] = [PaletteRes(ch, emb, out)]
            if ds == 4:
                layers.append(PaletteAttention(out))
            self.input_blocks.append(EmbedSequential(*layers))
            ch = out
            kept.append(ch)
            if level != len(mults) - 1:
                self.input_blocks.append(EmbedSequential(PaletteRes(ch, emb, ch, down=True)))
                kept.append(ch)
                ds *= 2
        self.middle_block = EmbedSequential(
            PaletteRes(ch, emb, ch), PaletteAttention(ch), PaletteRes(ch, emb, ch)
        )
        self.output_blocks = nn.ModuleList([])
        for level, mult in list(enumerate(mults))[::-1]:
            for i in range(2):
                layers = [PaletteRes(ch + kept.pop(), emb, mult * inner)]
                ch = mult * inner
                if ds == 4:
                    layers.append(PaletteAttention(ch))
                if level and i == 1:
                    layers.append(PaletteRes(ch, emb, ch, up=True))
                    ds //= 2
                self.output_blocks.append(EmbedSequential(*layers))
        self.out = nn.Sequential(nn.GroupNorm(4, ch), nn.SiLU(), nn.Conv2d(ch, 3, 3, padding=1))

    @staticmethod
    def gamma_embedding(gammas: Tensor, dim: int, max_period: int = 10000) -> Tensor:
        """Cosines and sines of the noise."""
        half = dim // 2
        freqs = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32) / half)
        args = gammas[:, None].float() * freqs.to(device=gammas.device)[None]
        embedding = torch.cat([torch.cos(args), torch.sin(args)], dim=-1)
        if dim % 2:
            embedding = torch.cat([embedding, torch.zeros_like(embedding[:, :1])], dim=-1)
        return embedding

    def forward(self, x: Tensor, gammas: Tensor) -> Tensor:
        """Map (B, 6, H, W) and (B, 1) to (B, 3, H, W)."""
        hs = []
        gammas = gammas.view(-1)
        emb = self.cond_embed(self.gamma_embedding(gammas, self.inner_channel))
        h = x.type(torch.float32)
        for module in self.input_blocks:
            h = module(h, emb)
            hs.append(h)
        h = self.middle_block(h, emb)
        for module in self.output_blocks:
            h = torch.cat([h, hs.pop()], dim=1)
            h = module(h, emb)
        return self.out(h.type(x.dtype))


# the first norm of a block that changes the size lies before that
_TRANSLATED = {
    "cond_embed": TIME,
    **dict.fromkeys(("input_blocks.0", "input_blocks.1"), "encoder 0"),
    "input_blocks.2": "encoder 1",
    "input_blocks.2.0.in_layers.0": "encoder 0",
    "input_blocks.3": "encoder 1",
    "input_blocks.4": "bottleneck",
    "input_blocks.4.0.in_layers.0": "encoder 1",
    **dict.fromkeys(("input_blocks.5", "middle_block", "output_blocks.0"), "bottleneck"),
    "output_blocks.1": "bottleneck",
    "output_blocks.1.2": "decoder 1",
    "output_blocks.1.2.in_layers.0": "bottleneck",
    **dict.fromkeys(("output_blocks.2", "output_blocks.3"), "decoder 1"),
    "output_blocks.3.1": "decoder 0",
    "output_blocks.3.1.in_layers.0": "decoder 1",
    **dict.fromkeys(("output_blocks.4", "output_blocks.5"), "decoder 0"),
    "out.0": "decoder 0",
    "out.2": "head",
}


_SLICES = ((1, 1, 1), (2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32))

# ResUNet-a, FSNet and STDC norm one vector for each image: in training they take no single image
HELD_BACK_TWENTYFIRST: Mapping[str, Entry] = {
    "by hand: 3D-ESPNet": Entry(
        "",
        ESPNet3D,
        Truth((1, 2, 4, 8, 10), _TUMOURS, (1, 2, 3, 4)),
        {"channels": 4, "size": (64, 64, 64), "other": (64, 64, 96)},
    ),
    "by hand: U-FNO": Entry(
        "",
        UFNO,
        Truth(_FOUR, _GROUND, (1, 2, 3)),
        {"channels": 4, "size": (16, 16, 8), "other": (24, 16, 8), "given": True, "arrange": _last},
    ),
    # sides and disparities are arguments of the network
    "by hand: GC-Net": Entry(
        "",
        GCNet,
        Truth(HALVES, _EYES, ALL),
        {"channels": 6, "size": (64, 96), "other": None, "given": True, "arrange": _two},
    ),
    "by hand: 3D UX-Net": Entry(
        "",
        UXNet,
        Truth(FIVE, _ORGANS, (1, 2, 3, 4)),
        {"channels": 1, "size": (32, 32, 32), "other": (32, 64, 32)},
    ),
    "by hand: ResUNet-a": Entry(
        "",
        ResUNetA,
        Truth(FIVE, _LAND, (1, 2, 3, 4)),
        {"size": (128, 128), "other": (128, 256)},
    ),
    "by hand: Rolling-UNet": Entry("", RollingUNet, Truth(FIVE, _ROLLED, (1, 2, 3, 4))),
    "by hand: LSM": Entry(
        "",
        LSM,
        Truth(FIVE, _EQUATIONS, (1, 2, 3, 4)),
        {"channels": 1, "other": (64, 128), "given": True, "arrange": _last},
    ),
    # tokens of a fixed number
    "by hand: UNETR++": Entry(
        "",
        UNETRPlus,
        Truth(_SLICES, _PAIRED, (1, 2, 3, 4)),
        {"channels": 1, "size": (16, 64, 64), "other": None},
    ),
    "by hand: SETR": Entry("", SETR, Truth(FIVE, _PATCHED, (1, 2, 3, 4))),
    "by hand: FSNet": Entry("", FSNet, Truth(_THREE, _CHOSEN, (1, 2))),
    "by hand: SeaFormer": Entry(
        "",
        SeaFormer,
        Truth(SIXTY_FOURTH, _PHONE, (4, 5, 6)),
        {"size": (128, 128), "other": (128, 192)},
    ),
    "by hand: HarDNet-MSEG": Entry("", HarDNetMSEG, Truth(HALVES, _HARMONIC, (4, 5))),
    "by hand: SA-UNet": Entry("", SAUNet, Truth(_FOUR, _VESSELS, (1, 2, 3))),
    "by hand: ShadowFormer": Entry(
        "",
        ShadowFormer,
        Truth(_FOUR, _SHADOWS, (1, 2, 3)),
        {"channels": 4, "given": True, "arrange": _with_mask},
    ),
    "by hand: STDC": Entry("", STDCSeg, Truth(HALVES, _BORDERS, (4, 5))),
    # times are the same for all fields
    "by hand: U-DeepONet": Entry(
        "",
        UDeepONet,
        Truth(_FOUR, _BRANCH, (1, 2, 3)),
        {"channels": 3, "given": True, "arrange": _with_times},
    ),
    "by hand: video diffusion's U-net": Entry(
        "",
        VideoUNet,
        Truth(((1, 1, 1), (1, 2, 2), (1, 4, 4)), _VIDEO, (1, 2)),
        {
            "size": (4, 32, 32),
            "other": (6, 32, 48),
            "extra": lambda batch: {"time": torch.linspace(1, 9, batch)},
        },
    ),
    "by hand: EfficientViT-Seg": Entry("", EfficientViTSeg, Truth(HALVES, _SUMS, (4, 5))),
    "by hand: BANet": Entry(
        "",
        BANet,
        Truth(HALVES, _TOWNS, (4, 5)),
        {"size": (128, 128), "other": (128, 192)},
    ),
    "by hand: Palette": Entry(
        "",
        Palette,
        Truth(_THREE, _TRANSLATED, (1, 2)),
        {
            "channels": 6,
            "extra": lambda batch: {"gammas": torch.linspace(0.1, 0.9, batch)[:, None]},
        },
    ),
}
"""All of them, by name."""

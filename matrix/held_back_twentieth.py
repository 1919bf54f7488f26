"""A twentieth list: twenty published networks, written by hand from what is known of their code.

215 names of published networks of all fields were listed, and drawn in the order that
``random.Random(20).sample`` gives. The first twenty of that order that can be used stand here, of
31 names; a name is skipped only for a reason of `SKIPPED`. Each is written anew, small and with
few blocks, with the reshapes, loops, flags and paddings of its public code. None was taken out for
what the reader says of it, and none was read before this was written down, by the definitions and
from the shapes that plain hooks see.
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

from matrix.drawn import FIVE, NO_DECODER, SIXTY_FOURTH, TIME
from matrix.more import ALL, Entry
from matrix.truth import HALVES, Truth

SKIPPED: Mapping[str, int] = {
    "in a list or the matrix already": 8,
    "no encoder-decoder (a classifier, one resolution, vectors)": 3,
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


# frames to come ----------------------------------------------------------------------------------
class MAUCell(nn.Module):
    """A unit that looks back at how the last maps moved."""

    def __init__(self, width: int, high: int, wide: int, tau: int) -> None:
        super().__init__()
        self.width, self.tau, self.d = width, tau, width * high * wide
        shape = [width, high, wide]

        def layer(times: int) -> nn.Sequential:
            size = [times * width, high, wide]
            return nn.Sequential(nn.Conv2d(width, size[0], 5, padding=2), nn.LayerNorm(size))

        self.conv_t, self.conv_t_next = (
            layer(3),
            nn.Sequential(nn.Conv2d(width, width, 5, padding=2), nn.LayerNorm(shape)),
        )
        self.conv_s, self.conv_s_next = (
            layer(3),
            nn.Sequential(nn.Conv2d(width, width, 5, padding=2), nn.LayerNorm(shape)),
        )
        self.softmax = nn.Softmax(dim=0)

    def forward(self, t: Tensor, s: Tensor, t_att: Tensor, s_att: Tensor) -> tuple[Tensor, Tensor]:
        """Return what moves and what is seen, both (B, width, H, W)."""
        s_next, t_next = self.conv_s_next(s), self.conv_t_next(t)
        weights = torch.stack(
            [(past * s_next).sum(dim=(1, 2, 3)) / math.sqrt(self.d) for past in s_att], dim=0
        )
        weights = self.softmax(weights.reshape(*weights.shape, 1, 1, 1))
        trend = (t_att * weights).sum(dim=0)
        gate = torch.sigmoid(t_next)
        fused = t * gate + (1 - gate) * trend
        t_g, t_t, t_s = torch.split(self.conv_t(fused), self.width, dim=1)
        s_g, s_t, s_s = torch.split(self.conv_s(s), self.width, dim=1)
        gate_t, gate_s = torch.sigmoid(t_g), torch.sigmoid(s_g)
        return gate_t * t_t + (1 - gate_t) * s_t, gate_s * s_s + (1 - gate_s) * t_s + s


class MAU(nn.Module):
    """Motion-aware units between an encoder and a decoder, frame by frame (Chang, 2021)."""

    def __init__(self, width: int = 8, layers: int = 2, given: int = 3, total: int = 5) -> None:
        super().__init__()
        self.given, self.total, self.tau, self.layers = given, total, 2, layers
        sr_size, side, self.mode = 4, 32, "recall"
        n = int(math.log2(sr_size))
        self.cell_list = nn.ModuleList(
            MAUCell(width, side // sr_size, side // sr_size, self.tau) for _ in range(layers)
        )
        encoders = []
        encoder = nn.Sequential()
        encoder.add_module(name="encoder_t_conv-1", module=nn.Conv2d(1, width, 1))
        encoder.add_module(name="relu_t_-1", module=nn.LeakyReLU(0.2))
        encoders.append(encoder)
        for i in range(n):
            encoder = nn.Sequential()
            encoder.add_module(f"encoder_t{i}", nn.Conv2d(width, width, 3, 2, 1))
            encoder.add_module(f"encoder_t_relu{i}", nn.LeakyReLU(0.2))
            encoders.append(encoder)
        self.encoders = nn.ModuleList(encoders)
        decoders = []
        for i in range(n):
            decoder = nn.Sequential()
            rise = nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1)
            decoder.add_module(f"c_decoder_t{i}", rise)
            if i < n - 1:
                decoder.add_module(f"c_decoder_t_relu{i}", nn.LeakyReLU(0.2))
            decoders.append(decoder)
        self.decoders = nn.ModuleList(decoders)
        self.srcnn = nn.Sequential(nn.Conv2d(width, 1, 1))
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.conv_last_sr = nn.Conv2d(2 * width, width, 1)

    def forward(self, frames: Tensor, mask_true: Tensor) -> Tensor:
        """Map (B, T, 1, H, W) and which frames are shown to the next T - 1 frames."""
        next_frames: list[Tensor] = []
        x_gen, t_now = frames[:, 0], []
        t_pre: list[list[Tensor]] = []
        s_pre: list[list[Tensor]] = []
        for t in range(self.total - 1):
            if t < self.given:
                net = frames[:, t]
            else:
                shown = mask_true[:, t - self.given]
                net = shown * frames[:, t] + (1 - shown) * x_gen
            seen, encoded = net, []
            for encoder in self.encoders:
                seen = encoder(seen)
                encoded.append(seen)
            if t == 0:
                for _ in range(self.layers):
                    zeros = torch.zeros_like(seen)
                    t_now.append(zeros)
                    t_pre.append([zeros] * self.tau)
                    s_pre.append([zeros] * self.tau)
            s = seen
            for i in range(self.layers):
                t_att = torch.stack(t_pre[i][-self.tau :], dim=0)
                s_att = torch.stack(s_pre[i][-self.tau :], dim=0)
                s_pre[i].append(s)
                t_now[i], s = self.cell_list[i](t_now[i], s, t_att, s_att)
                t_pre[i].append(t_now[i])
            out = s
            for i in range(len(self.decoders)):
                out = self.decoders[i](out)
                if self.mode == "recall":
                    out = out + encoded[-2 - i]
            x_gen = self.srcnn(out)
            next_frames.append(x_gen)
        return torch.stack(next_frames, dim=0).permute(1, 0, 2, 3, 4).contiguous()


_MOVING = {
    "encoders.0": "encoder 0",
    "encoders.1": "encoder 1",
    "encoders.2": "bottleneck",
    "cell_list": "bottleneck",
    "decoders.0": "decoder 1",
    "decoders.1": "decoder 0",
    "srcnn": "head",
    **dict.fromkeys(("merge", "conv_last_sr"), "dead"),  # of other modes
}


def _clip(image: Tensor) -> tuple[Tensor, Tensor]:
    """Five frames of one channel, and that the last one is shown."""
    return image.unsqueeze(2), torch.ones(len(image), 1, 1, 1, 1)


# magnetic resonance ------------------------------------------------------------------------------
def _dwt(x: Tensor) -> Tensor:
    """Four bands of half the size, by Haar's wavelet."""
    x01, x02 = x[:, :, 0::2, :] / 2, x[:, :, 1::2, :] / 2
    x1, x2, x3, x4 = x01[..., 0::2], x02[..., 0::2], x01[..., 1::2], x02[..., 1::2]
    bands = (x1 + x2 + x3 + x4, -x1 - x3 + x2 + x4, -x1 + x3 - x2 + x4, x1 - x3 - x2 + x4)
    return torch.cat(bands, 1)


def _iwt(x: Tensor) -> Tensor:
    """Back from four bands."""
    images, channels, high, wide = x.size()
    out = channels // 4
    x1, x2, x3, x4 = (x[:, i * out : (i + 1) * out] / 2 for i in range(4))
    h = torch.zeros([images, out, 2 * high, 2 * wide], dtype=x.dtype, device=x.device)
    h[:, :, 0::2, 0::2] = x1 - x2 - x3 + x4
    h[:, :, 1::2, 0::2] = x1 - x2 + x3 - x4
    h[:, :, 0::2, 1::2] = x1 + x2 - x3 - x4
    h[:, :, 1::2, 1::2] = x1 + x2 + x3 + x4
    return h


class MWCNN(nn.Module):
    """A U-net whose poolings are wavelets, the network on images of XPDNet."""

    def __init__(self, channels: int, out: int, widths: tuple[int, ...] = (8, 12)) -> None:
        super().__init__()
        first = 4
        self.first_conv = nn.Sequential(nn.Conv2d(channels, first, 3, padding=1), nn.ReLU())
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        before = first
        for width in widths:
            self.downs.append(
                nn.Sequential(
                    *(nn.Conv2d(4 * before, width, 3, padding=1), nn.ReLU()),
                    *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
                )
            )
            self.ups.append(
                nn.Sequential(
                    *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
                    *(nn.Conv2d(width, 4 * before, 3, padding=1), nn.ReLU()),
                )
            )
            before = width
        self.last_conv = nn.Conv2d(first, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W), of any size."""
        pads = [(-side) % 2 ** len(self.downs) for side in x.shape[2:]]
        high, wide = x.shape[2:]
        x = self.first_conv(F.pad(x, (0, pads[1], 0, pads[0])))
        kept = [x]
        for down in self.downs:
            x = down(_dwt(x))
            kept.append(x)
        for i in reversed(range(len(self.ups))):
            x = _iwt(self.ups[i](x)) + kept[i]
        return self.last_conv(x)[:, :, :high, :wide]


class XPDNet(nn.Module):
    """Turns of what was measured and of a network on images (Ramzi and others, 2020)."""

    def __init__(self, turns: int = 2, n_primal: int = 3) -> None:
        super().__init__()
        self.n_primal = n_primal
        self.image_net = nn.ModuleList(
            MWCNN(2 * (n_primal + 1), 2 * n_primal) for _ in range(turns)
        )

    def forward(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Map (B, coils, H, W) of complex numbers to an image (B, H, W)."""
        image = self.backward_operator(kspace, mask, smaps)
        buffer = torch.stack([image] * self.n_primal, dim=1)
        for net in self.image_net:
            measured = torch.fft.fft2(buffer[:, :1] * smaps, norm="ortho") * mask
            eval_ = self.backward_operator(measured - kspace * mask, mask, smaps)
            joined = torch.cat([buffer, eval_[:, None]], dim=1)
            real = torch.cat([joined.real, joined.imag], dim=1)
            update = net(real)
            buffer = buffer + torch.complex(*torch.chunk(update, 2, dim=1))
        return torch.abs(buffer[:, 0])

    @staticmethod
    def backward_operator(kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """The image that coils see together."""
        images = torch.fft.ifft2(kspace * mask, norm="ortho")
        return torch.sum(images * torch.conj(smaps), dim=1)


# the second network's way down lies behind the depth of the first
_TURNS = {
    "image_net.0.first_conv": "encoder 0",
    "image_net.0.downs.0": "encoder 1",
    "image_net.1.first_conv": "decoder 0",
    "image_net.1.downs.0": "decoder 1",
    **dict.fromkeys(("image_net.*.downs.1", "image_net.*.ups.1"), "bottleneck"),
    "image_net.*.ups.0": "decoder 1",
    "image_net.0.last_conv": "decoder 0",
    "image_net.1.last_conv": "head",
}


def _scan(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What two coils measured, every second column, and where they see."""
    measured = torch.fft.fft2(torch.complex(image[:, :2], image[:, 2:]), norm="ortho")
    mask = torch.ones(1, 1, 1, image.shape[-1])
    mask[..., 1::2] = 0
    return measured, mask, torch.full_like(measured, 0.7)


# streets -----------------------------------------------------------------------------------------
def _shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups, by turns."""
    images, channels, high, wide = x.data.size()
    x = x.view(images, groups, channels // groups, high, wide)
    return torch.transpose(x, 1, 2).contiguous().view(images, -1, high, wide)


class DownsamplerUnit(nn.Module):
    """A convolution beside a pooling, as in ENet."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out - channels, 3, stride=2, padding=1, bias=True)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        x1, x2 = self.pool(x), self.conv(x)
        apart = [x2.size(2) - x1.size(2), x2.size(3) - x1.size(3)]
        if apart[0] or apart[1]:
            x1 = F.pad(x1, (0, apart[1], 0, apart[0]))
        return F.relu(self.bn(torch.cat([x2, x1], 1)))


class SSnbt(nn.Module):
    """Half of the channels each way, mixed at the end."""

    def __init__(self, width: int, dilated: int) -> None:
        super().__init__()
        half = width // 2
        for side, first in (("l", (3, 1)), ("r", (1, 3))):
            second = first[::-1]
            wide = (
                tuple(dilated * (k // 2) for k in first),
                tuple(dilated * (k // 2) for k in second),
            )
            self.add_module(
                f"conv_1_{side}",
                nn.Conv2d(half, half, first, padding=(first[0] // 2, first[1] // 2)),
            )
            self.add_module(
                f"conv_2_{side}",
                nn.Conv2d(half, half, second, padding=(second[0] // 2, second[1] // 2)),
            )
            self.add_module(f"bn1_{side}", nn.BatchNorm2d(half, eps=1e-3))
            self.add_module(
                f"conv_3_{side}", nn.Conv2d(half, half, first, padding=wide[0], dilation=dilated)
            )
            self.add_module(
                f"conv_4_{side}", nn.Conv2d(half, half, second, padding=wide[1], dilation=dilated)
            )
            self.add_module(f"bn2_{side}", nn.BatchNorm2d(half, eps=1e-3))
        self.dropout = nn.Dropout2d(0.03)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        half = x.shape[1] // 2
        ways = []
        for side, y in (("l", x[:, :half]), ("r", x[:, half:])):
            layer = {name: part for name, part in self.named_children() if name.endswith(side)}
            y = F.relu(layer[f"conv_1_{side}"](y))
            y = F.relu(layer[f"bn1_{side}"](layer[f"conv_2_{side}"](y)))
            y = F.relu(layer[f"conv_3_{side}"](y))
            y = layer[f"bn2_{side}"](layer[f"conv_4_{side}"](y))
            ways.append(self.dropout(y) if self.dropout.p != 0 else y)
        return _shuffled(F.relu(x + torch.cat(ways, 1), inplace=True), 2)


class APN(nn.Module):
    """Attention by a pyramid of one channel."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.branch1 = _normed(channels, out, 1)
        self.mid = _normed(channels, out, 1)
        self.down1 = _normed(channels, 1, 7, 2)
        self.down2 = _normed(1, 1, 5, 2)
        self.down3 = nn.Sequential(_normed(1, 1, 3, 2), _normed(1, 1, 3))
        self.conv2 = _normed(1, 1, 5)
        self.conv1 = _normed(1, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        h, w = x.size()[2], x.size()[3]
        b1, mid = self.branch1(x), self.mid(x)
        x1 = self.down1(x)
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        x3 = F.interpolate(
            x3, size=((h + 3) // 4, (w + 3) // 4), mode="bilinear", align_corners=True
        )
        x = self.conv2(x2) + x3
        x = F.interpolate(x, size=((h + 1) // 2, (w + 1) // 2), mode="bilinear", align_corners=True)
        x = x + self.conv1(x1)
        x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=True)
        return torch.mul(x, mid) + b1


class LEDNet(nn.Module):
    """Split-shuffle blocks, and a pyramid that weighs classes (Wang and others, 2019)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.initial_block = DownsamplerUnit(3, 8)
        self.layers = nn.ModuleList([SSnbt(8, 1), DownsamplerUnit(8, 12), SSnbt(12, 1)])
        self.layers.append(DownsamplerUnit(12, 16))
        for dilated in (1, 2, 5):
            self.layers.append(SSnbt(16, dilated))
        self.apn = APN(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H, W)."""
        output = self.initial_block(x)
        for layer in self.layers:
            output = layer(output)
        return F.interpolate(
            self.apn(output), size=x.shape[2:], mode="bilinear", align_corners=True
        )


# no kernel follows what comes up: each level's last one speaks for itself
_LED = {
    **dict.fromkeys(("initial_block", "layers.0"), "encoder 1"),
    **dict.fromkeys(("layers.1", "layers.2"), "encoder 2"),
    **{f"layers.{i}": "encoder 3" for i in range(3, 7)},
    **dict.fromkeys(("apn.branch1", "apn.mid", "apn.conv1", "apn.conv2"), "head"),
    "apn.down1": "encoder 4",
    "apn.down2": "encoder 5",
    "apn.down3": "bottleneck",
    "apn.down3.1": "bottleneck | head",
}


# images restored ---------------------------------------------------------------------------------
class SKFF(nn.Module):
    """Maps of one size, weighed for each channel."""

    def __init__(self, width: int, height: int = 3) -> None:
        super().__init__()
        small = max(width // 4, 4)
        self.height = height
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(nn.Conv2d(width, small, 1, bias=False), nn.PReLU())
        self.fcs = nn.ModuleList([])
        for _ in range(height):
            self.fcs.append(nn.Conv2d(small, width, 1, bias=False))

    def forward(self, feats: list[Tensor]) -> Tensor:
        """Map several (B, width, H, W) to one."""
        images, width = feats[0].shape[0], feats[0].shape[1]
        x = torch.cat(feats, dim=1)
        x = x.view(images, self.height, width, x.shape[2], x.shape[3])
        z = self.conv_du(self.avg_pool(torch.sum(x, dim=1)))
        vectors = torch.cat([fc(z) for fc in self.fcs], dim=1)
        vectors = torch.softmax(vectors.view(images, self.height, width, 1, 1), dim=1)
        return torch.sum(x * vectors, dim=1)


class SpatialLayer(nn.Module):
    """Where to look, from the maximum and the mean of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh positions."""
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


class ChannelLayer(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(
            *(nn.Conv2d(width, width // 4, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width // 4, width, 1), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh channels."""
        return x * self.conv_du(self.avg_pool(x))


class DAU(nn.Module):
    """Both attentions beside each other."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), act, nn.Conv2d(width, width, 3, padding=1)
        )
        self.SA, self.CA = SpatialLayer(), ChannelLayer(width)
        self.conv1x1 = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        res = self.body(x)
        return self.conv1x1(torch.cat([self.SA(res), self.CA(res)], dim=1)) + x


class Blurred(nn.Module):
    """Every second pixel, behind a filter that is not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d([1, 1, 1, 1])
        a = np.array([1.0, 2.0, 1.0])
        filt = torch.tensor(a[:, None] * a[None, :], dtype=torch.float32)
        self.register_buffer("filt", (filt / filt.sum())[None, None].repeat((width, 1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        filt = self.get_buffer("filt")
        return F.conv2d(self.pad(x), filt, stride=2, groups=x.shape[1])


class ResidualDown(nn.Module):
    """One way down with three convolutions beside one with one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.top = nn.Sequential(
            *(nn.Conv2d(width, width, 1, bias=False), nn.PReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.PReLU()),
            *(Blurred(width), nn.Conv2d(width, 2 * width, 1, bias=False)),
        )
        self.bot = nn.Sequential(Blurred(width), nn.Conv2d(width, 2 * width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        return self.top(x) + self.bot(x)


class ResidualUp(nn.Module):
    """One way up with three convolutions beside one with one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        rise = nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1, bias=False)
        self.top = nn.Sequential(
            *(nn.Conv2d(width, width, 1, bias=False), nn.PReLU()),
            *(rise, nn.PReLU()),
            nn.Conv2d(width, width // 2, 1, bias=False),
        )
        self.bot = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(width, width // 2, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Double the sides."""
        return self.top(x) + self.bot(x)


class Scaled(nn.Module):
    """Several steps down or up."""

    def __init__(self, kind: type[nn.Module], width: int, steps: int) -> None:
        super().__init__()
        down = kind is ResidualDown
        widths = [width * 2**i if down else width // 2**i for i in range(steps)]
        self.body = nn.Sequential(*(kind(w) for w in widths))

    def forward(self, x: Tensor) -> Tensor:
        """Bring a map to another level."""
        return self.body(x)


class MRB(nn.Module):
    """Three sizes beside each other, which exchange what they know."""

    def __init__(self, width: int, act: nn.Module, height: int = 3, columns: int = 2) -> None:
        super().__init__()
        self.height, self.columns = height, columns
        self.blocks = nn.ModuleList(
            nn.ModuleList(DAU(width * 2**j, act) for _ in range(columns)) for j in range(height)
        )
        self.SKFF = nn.ModuleList(SKFF(width * 2**j, height) for j in range(height))
        self.last_up = nn.ModuleDict(
            {str(k): Scaled(ResidualUp, width * 2**k, k) for k in range(1, height)}
        )
        self.down = nn.ModuleDict()
        self.up = nn.ModuleDict()
        for k in range(height):
            for j in range(height):
                if j > k:
                    self.down[f"{k}_{j}"] = Scaled(ResidualDown, width * 2**k, j - k)
                elif j < k:
                    self.up[f"{k}_{j}"] = Scaled(ResidualUp, width * 2**k, k - j)
        self.first_down = nn.ModuleList(ResidualDown(width * 2**j) for j in range(height - 1))
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)

    def select_up_down(self, x: Tensor, j: int, k: int) -> Tensor:
        """Bring what is of size k to size j."""
        if j == k:
            return x
        y: Tensor = self.down[f"{k}_{j}"](x) if j > k else self.up[f"{k}_{j}"](x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        inp = x.clone()
        found: list[Tensor] = []
        for j in range(self.height):
            inp = self.blocks[j][0](inp if j == 0 else self.first_down[j - 1](inp))
            found.append(inp)
        for i in range(1, self.columns):
            mixed = []
            for j in range(self.height):
                maps = [self.select_up_down(found[k], j, k) for k in range(self.height)]
                mixed.append(self.SKFF[j](maps))
            for j in range(self.height):
                found[j] = self.blocks[j][i](mixed[j])
        out = [self.last_up[str(k)](found[k]) if k else found[k] for k in range(self.height)]
        return x + self.conv_out(self.SKFF[0](out))


class RRG(nn.Module):
    """A group of them."""

    def __init__(self, width: int, blocks: int, act: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = [MRB(width, act) for _ in range(blocks)]
        layers.append(nn.Conv2d(width, width, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        res = self.body(x)
        res += x
        return res


class MIRNet(nn.Module):
    """Several resolutions beside each other all the way (Zamir and others, 2020)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        act = nn.PReLU()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[RRG(width, 1, act)])
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        h = self.conv_out(self.body(self.conv_in(x)))
        h += x
        return h


def _beside() -> dict[str, str]:
    """What lies on the way to the deepest map is encoder, and what is mixed above it is decoder."""
    block = "body.0.body.0"
    places = {
        "conv_in": "encoder 0",
        f"{block}.blocks.0.0": "encoder 0",
        f"{block}.blocks.1.0": "encoder 1",
        f"{block}.blocks.2": "bottleneck",
        f"{block}.blocks.0.1": "decoder 0",
        f"{block}.blocks.1.1": "decoder 1",
        f"{block}.SKFF.0": "decoder 0",
        f"{block}.SKFF.1": "decoder 1",
        f"{block}.SKFF.2": "bottleneck",
        f"{block}.conv_out": "decoder 0",
        "body.0.body.1": "decoder 0",
        "conv_out": "head",
    }
    names = ("encoder 0", "encoder 1", "bottleneck")

    def down(path: str, above: str, below: str) -> None:
        places[path] = above
        places[f"{path}.top.5"] = places[f"{path}.bot.1"] = below

    def up(path: str, below: str, above: str) -> None:
        places[path] = above
        places[f"{path}.top.0"] = places[f"{path}.top.1"] = below

    for j in (0, 1):
        down(f"{block}.first_down.{j}", names[j], names[j + 1])
    down(f"{block}.down.0_1.body.0", "skip 0", "skip 1")
    down(f"{block}.down.0_2.body.0", "encoder 0", "encoder 1")
    down(f"{block}.down.0_2.body.1", "encoder 1", "bottleneck")
    down(f"{block}.down.1_2.body.0", "encoder 1", "bottleneck")
    up(f"{block}.up.1_0.body.0", "skip 1", "decoder 0")
    for path in ("up.2_0", "last_up.2"):
        up(f"{block}.{path}.body.0", "bottleneck", "decoder 1")
        up(f"{block}.{path}.body.1", "decoder 1", "decoder 0")
    up(f"{block}.up.2_1.body.0", "bottleneck", "decoder 1")
    up(f"{block}.last_up.1.body.0", "decoder 1", "decoder 0")
    return places


# series ------------------------------------------------------------------------------------------
class Decomposed(nn.Module):
    """What moves slowly, as means over windows, and what is left."""

    def __init__(self, kernels: list[int]) -> None:
        super().__init__()
        self.kernels = kernels
        self.avgs = nn.ModuleList(nn.AvgPool1d(kernel, stride=1, padding=0) for kernel in kernels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split (B, L, C) into two of its size."""
        means = []
        for kernel, avg in zip(self.kernels, self.avgs, strict=True):
            front = x[:, 0:1, :].repeat(1, (kernel - 1) // 2, 1)
            end = x[:, -1:, :].repeat(1, (kernel - 1) // 2, 1)
            padded = torch.cat([front, x, end], dim=1)
            means.append(avg(padded.permute(0, 2, 1)).permute(0, 2, 1))
        mean = sum(means[1:], means[0]) / len(means)
        return x - mean, mean


class SeriesEmbedding(nn.Module):
    """Tokens by a circular convolution, where they are, and what time it is."""

    def __init__(self, channels: int, marks: int, width: int) -> None:
        super().__init__()
        self.tokenConv = nn.Conv1d(
            channels, width, 3, padding=1, padding_mode="circular", bias=False
        )
        self.embed = nn.Linear(marks, width, bias=False)
        pe = torch.zeros(5000, width).float()
        position = torch.arange(0, 5000).float().unsqueeze(1)
        div_term = (torch.arange(0, width, 2).float() * -(math.log(10000.0) / width)).exp()
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div_term), torch.cos(position * div_term)
        self.register_buffer("pe", pe.unsqueeze(0))
        self.dropout = nn.Dropout(p=0.05)

    def forward(self, x: Tensor, x_mark: Tensor) -> Tensor:
        """Map (B, L, channels) to (B, L, width)."""
        tokens = self.tokenConv(x.permute(0, 2, 1)).transpose(1, 2)
        return self.dropout(tokens + self.embed(x_mark) + self.get_buffer("pe")[:, : x.size(1)])


class MIC(nn.Module):
    """Convolutions that stride by whole patterns, and one over all patterns there."""

    def __init__(self, width: int, length: int, conv_kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_kernel = conv_kernel
        counts = [(length + 2 * (k // 2) - k) // k + 1 for k in conv_kernel]
        self.isometric_conv = nn.ModuleList(nn.Conv1d(width, width, n) for n in counts)
        self.conv = nn.ModuleList(
            nn.Conv1d(width, width, k, padding=k // 2, stride=k) for k in conv_kernel
        )
        self.conv_trans = nn.ModuleList(
            nn.ConvTranspose1d(width, width, k, padding=0, stride=k) for k in conv_kernel
        )
        self.decomp = nn.ModuleList(Decomposed([k + 1]) for k in conv_kernel)
        self.merge = nn.Conv2d(width, width, (len(conv_kernel), 1))
        self.conv1 = nn.Conv1d(width, 4 * width, 1)
        self.conv2 = nn.Conv1d(4 * width, width, 1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)
        self.act, self.drop = nn.Tanh(), nn.Dropout(0.05)

    def conv_trans_conv(self, i: int, given: Tensor) -> Tensor:
        """One scale, down and up again."""
        length = given.shape[1]
        x1 = self.drop(self.act(self.conv[i](given.permute(0, 2, 1))))
        zeros = torch.zeros((x1.shape[0], x1.shape[1], x1.shape[2] - 1), device=x1.device)
        x = torch.cat((zeros, x1), dim=-1)
        x = self.drop(self.act(self.isometric_conv[i](x)))
        x = self.norm((x + x1).permute(0, 2, 1)).permute(0, 2, 1)
        x = self.drop(self.act(self.conv_trans[i](x)))
        x = x[:, :, :length]
        return self.norm(x.permute(0, 2, 1) + given)

    def forward(self, src: Tensor) -> Tensor:
        """Keep (B, L, width)."""
        multi = []
        for i in range(len(self.conv_kernel)):
            src_out, _ = self.decomp[i](src)
            multi.append(self.conv_trans_conv(i, src_out))
        mg = torch.tensor([], device=src.device)
        for x in multi:
            mg = torch.cat((mg, x.unsqueeze(1)), dim=1)
        mg = self.merge(mg.permute(0, 3, 1, 2)).squeeze(-2).permute(0, 2, 1)
        y = self.norm1(mg)
        y = self.conv2(self.conv1(y.transpose(-1, 1))).transpose(-1, 1)
        return self.norm2(mg + y)


class MICN(nn.Module):
    """Forecasts by convolutions of several scales (Wang and others, 2023)."""

    def __init__(self, channels: int = 4, width: int = 8, mode: str = "regre") -> None:
        super().__init__()
        self.seq_len, self.pred_len, self.mode = 96, 24, mode
        conv_kernel = (12, 16)
        self.decomp_multi = Decomposed([k + 1 for k in conv_kernel])
        self.regression = nn.Linear(self.seq_len, self.pred_len)
        self.regression.weight = nn.Parameter(
            (1 / self.pred_len) * torch.ones([self.pred_len, self.seq_len])
        )
        self.dec_embedding = SeriesEmbedding(channels, 3, width)
        self.mic = nn.ModuleList(
            MIC(width, self.seq_len + self.pred_len, conv_kernel) for _ in range(2)
        )
        self.projection = nn.Linear(width, channels)

    def forward(
        self, x_enc: Tensor, x_mark_enc: Tensor, x_dec: Tensor, x_mark_dec: Tensor
    ) -> Tensor:
        """Map (B, 96, channels), and times, to (B, 24, channels)."""
        seasonal, trend = self.decomp_multi(x_enc)
        if self.mode == "regre":
            trend = self.regression(trend.permute(0, 2, 1)).permute(0, 2, 1)
        else:
            trend = torch.mean(x_enc, dim=1).unsqueeze(1).repeat(1, self.pred_len, 1)
        zeros = torch.zeros([x_dec.shape[0], self.pred_len, x_dec.shape[2]], device=x_enc.device)
        x = torch.cat([seasonal[:, -self.seq_len :, :], zeros], dim=1)
        x = self.dec_embedding(x, x_mark_dec)
        for layer in self.mic:
            x = layer(x)
        x = self.projection(x)
        return x[:, -self.pred_len :, :] + trend[:, -self.pred_len :, :]


# strides of 12 and 16 are one level
_PATTERNS = {
    "regression": "head",
    "dec_embedding": "encoder 0",
    "mic": "decoder 0",
    **dict.fromkeys(("mic.*.conv", "mic.*.isometric_conv", "mic.*.norm"), "bottleneck"),
    "projection": "head",
}


def _forecast(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A series and times, and those of what is to come behind the last half."""
    series = image.transpose(1, 2)
    long = series.shape[1]
    times = torch.arange(long + 24.0)[:, None] / torch.tensor([7.0, 24.0, 31.0]) % 1 - 0.5
    times = times.repeat(len(series), 1, 1)
    later = torch.cat([series[:, long // 2 :], torch.zeros_like(series[:, :24])], 1)
    return series, times[:, :long], later, times


class ProbAttention(nn.Module):
    """Only queries that look at something in particular look at all."""

    def __init__(self, mask_flag: bool, factor: int = 3) -> None:
        super().__init__()
        self.factor, self.mask_flag = factor, mask_flag
        self.dropout = nn.Dropout(0.05)

    def chosen(self, queries: Tensor, keys: Tensor, sampled: int, top: int) -> Tensor:
        """Which queries, by some keys that are drawn for each."""
        images, heads, long, width = keys.shape
        asked = queries.shape[2]
        expanded = keys.unsqueeze(-3).expand(images, heads, asked, long, width)
        index_sample = torch.randint(long, (asked, sampled))
        sample = expanded[:, :, torch.arange(asked).unsqueeze(1), index_sample, :]
        scores = torch.matmul(queries.unsqueeze(-2), sample.transpose(-2, -1)).squeeze(-2)
        sparsity = scores.max(-1)[0] - torch.div(scores.sum(-1), long)
        return sparsity.topk(top, sorted=False)[1]

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map (B, L, heads, width) to the same."""
        asked, long = queries.shape[1], keys.shape[1]
        q, k, v = (x.transpose(2, 1) for x in (queries, keys, values))
        sampled = min(self.factor * int(np.ceil(np.log(long))), long)
        top = min(self.factor * int(np.ceil(np.log(asked))), asked)
        index = self.chosen(q, k, sampled, top)
        images, heads = q.shape[:2]
        rows = torch.arange(images)[:, None, None], torch.arange(heads)[None, :, None]
        scores = torch.matmul(q[(*rows, index)], k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        if self.mask_flag:
            ahead = torch.ones(asked, long, dtype=torch.bool).triu(1)
            ahead = ahead[None, None, :].expand(images, heads, asked, long)[(*rows, index)]
            scores.masked_fill_(ahead, -np.inf)
            context = v.cumsum(dim=-2)
        else:
            context = v.mean(dim=-2).unsqueeze(-2).expand(images, heads, asked, v.shape[-1]).clone()
        attention = torch.softmax(scores, dim=-1)
        context[(*rows, index)] = torch.matmul(attention, v).type_as(context)
        return context.transpose(2, 1).contiguous()


class FullAttention(nn.Module):
    """All queries look."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map (B, L, heads, width) to the same."""
        scores = torch.einsum("blhe,bshe->bhls", queries, keys)
        attention = torch.softmax(scores / math.sqrt(queries.shape[-1]), dim=-1)
        return torch.einsum("bhls,bshd->blhd", attention, values).contiguous()


class AttentionLayer(nn.Module):
    """Projections about an attention."""

    def __init__(self, attention: nn.Module, width: int, heads: int = 2, mix: bool = False) -> None:
        super().__init__()
        self.inner_attention, self.n_heads, self.mix = attention, heads, mix
        self.query_projection = nn.Linear(width, width)
        self.key_projection = nn.Linear(width, width)
        self.value_projection = nn.Linear(width, width)
        self.out_projection = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map (B, L, width) to the same."""
        images, asked, _ = queries.shape
        _, long, _ = keys.shape
        q = self.query_projection(queries).view(images, asked, self.n_heads, -1)
        k = self.key_projection(keys).view(images, long, self.n_heads, -1)
        v = self.value_projection(values).view(images, long, self.n_heads, -1)
        out = self.inner_attention(q, k, v)
        if self.mix:
            out = out.transpose(2, 1).contiguous()
        return self.out_projection(out.view(images, asked, -1))


class InformerLayer(nn.Module):
    """A layer of the encoder, or of the decoder where it looks across."""

    def __init__(self, width: int, across: bool) -> None:
        super().__init__()
        self.attention = AttentionLayer(ProbAttention(across), width, mix=across)
        self.cross_attention = AttentionLayer(FullAttention(), width) if across else None
        self.conv1, self.conv2 = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(2 * width, width, 1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width) if across else None
        self.dropout = nn.Dropout(0.05)

    def forward(self, x: Tensor, cross: Tensor | None = None) -> Tensor:
        """Keep (B, L, width)."""
        x = self.norm1(x + self.dropout(self.attention(x, x, x)))
        last = self.norm2
        if self.cross_attention is not None and self.norm3 is not None:
            x = self.norm2(x + self.dropout(self.cross_attention(x, cross, cross)))
            last = self.norm3
        y = self.dropout(F.gelu(self.conv1(x.transpose(-1, 1))))
        y = self.dropout(self.conv2(y).transpose(-1, 1))
        return last(x + y)


class Distilling(nn.Module):
    """Half as many tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.downConv = nn.Conv1d(width, width, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm1d(width)
        self.maxPool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, width) to (B, L / 2, width)."""
        x = F.elu(self.norm(self.downConv(x.permute(0, 2, 1))))
        return self.maxPool(x).transpose(1, 2)


class Informer(nn.Module):
    """A transformer whose encoder distils (Zhou and others, 2021)."""

    def __init__(self, channels: int = 4, width: int = 16, distil: bool = True) -> None:
        super().__init__()
        self.pred_len = 24
        self.enc_embedding = SeriesEmbedding(channels, 3, width)
        self.dec_embedding = SeriesEmbedding(channels, 3, width)
        self.attn_layers = nn.ModuleList(InformerLayer(width, False) for _ in range(3))
        self.conv_layers = nn.ModuleList(Distilling(width) for _ in range(2)) if distil else None
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([InformerLayer(width, True)])
        self.dec_norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, channels, bias=True)

    def encoder(self, x: Tensor) -> Tensor:
        """Tokens, a quarter of those that there were."""
        if self.conv_layers is not None:
            for attn_layer, conv_layer in zip(self.attn_layers, self.conv_layers, strict=False):
                x = conv_layer(attn_layer(x))
            x = self.attn_layers[-1](x)
        else:
            for attn_layer in self.attn_layers:
                x = attn_layer(x)
        return self.norm(x)

    def forward(
        self, x_enc: Tensor, x_mark_enc: Tensor, x_dec: Tensor, x_mark_dec: Tensor
    ) -> Tensor:
        """Map (B, 96, channels), and times, to (B, 24, channels)."""
        enc_out = self.encoder(self.enc_embedding(x_enc, x_mark_enc))
        dec_out = self.dec_embedding(x_dec, x_mark_dec)
        for layer in self.layers:
            dec_out = layer(dec_out, cross=enc_out)
        return self.projection(self.dec_norm(dec_out))[:, -self.pred_len :, :]


# what is to come asks the deepest tokens
_DISTILLED = {
    **dict.fromkeys(("enc_embedding", "attn_layers.0", "conv_layers.0"), "encoder 0"),
    **dict.fromkeys(("attn_layers.1", "conv_layers.1"), "encoder 1"),
    **dict.fromkeys(("attn_layers.2", "norm"), "bottleneck"),
    **dict.fromkeys(
        (
            *("dec_embedding", "layers.0.attention", "layers.0.norm1"),
            "layers.0.cross_attention.query_projection",
        ),
        "skip 0",
    ),
    **dict.fromkeys(("layers.0", "dec_norm"), "decoder 0"),
    **{f"layers.0.cross_attention.{part}_projection": "bottleneck" for part in ("key", "value")},
    "projection": "head",
}


def _half_known(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A series and times, and those of its last half and of what is to come."""
    series, times, later, all_times = _forecast(image)
    return series, times, later, all_times[:, series.shape[1] // 2 :]


# sound -------------------------------------------------------------------------------------------
class CausalConv1d(nn.Conv1d):
    """A convolution that looks back only."""

    def __init__(self, *settings: Any, **named: Any) -> None:
        super().__init__(*settings, **named)
        self.causal_padding = self.dilation[0] * (self.kernel_size[0] - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pad before."""
        return self._conv_forward(F.pad(x, [self.causal_padding, 0]), self.weight, self.bias)


class CausalConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution without what would come too early."""

    def __init__(self, *settings: Any, **named: Any) -> None:
        super().__init__(*settings, **named)
        step = self.stride[0]
        self.causal_padding = self.dilation[0] * (self.kernel_size[0] - 1) + 1 - step

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Crop behind."""
        y = F.conv_transpose1d(x, self.weight, self.bias, self.stride)
        return y[..., : -self.causal_padding]


class Unit(nn.Module):
    """A dilated residual unit."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(CausalConv1d(width, width, 7, dilation=dilation), nn.ELU()),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, L)."""
        return x + self.layers(x)


def _coder_block(width: int, stride: int, down: bool) -> nn.Sequential:
    """Units, and a stride behind them or before."""
    small = width // 2 if down else width
    units: list[nn.Module] = []
    for dilation in (1, 3, 9):
        units += [Unit(small, dilation), nn.ELU()]
    if down:
        return nn.Sequential(*units, CausalConv1d(small, width, 2 * stride, stride=stride))
    return nn.Sequential(CausalConvTranspose1d(2 * width, width, 2 * stride, stride=stride), *units)


class ResidualQuantizer(nn.Module):
    """Codes for what the codes before left over; the codebooks follow what they stand for."""

    def __init__(self, width: int, codes: int = 16, books: int = 2) -> None:
        super().__init__()
        self.register_buffer("embed", torch.randn(books, codes, width))
        self.register_buffer("size", torch.ones(books, codes))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, L, width)."""
        embed, size = self.get_buffer("embed"), self.get_buffer("size")
        quantized, residual = torch.zeros_like(x), x
        for i in range(embed.shape[0]):
            flat = residual.reshape(-1, x.shape[-1])
            book = embed[i].clone()
            distances = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ book.t() + book.pow(2).sum(1)
            index = distances.argmin(dim=-1)
            found = F.embedding(index, book).view_as(residual)
            if self.training:
                with torch.no_grad():
                    onehot = F.one_hot(index, book.shape[0]).type(flat.dtype)
                    size[i].mul_(0.99).add_(onehot.sum(0), alpha=0.01)
                    moved = onehot.t() @ flat / onehot.sum(0).clamp(min=1)[:, None]
                    embed[i].mul_(0.99).add_(moved, alpha=0.01)
                found = residual + (found - residual).detach()
            residual = residual - found.detach()
            quantized = quantized + found
        return quantized


class SoundStream(nn.Module):
    """A causal codec (Zeghidour and others, 2021)."""

    def __init__(self, width: int = 4, deep: int = 8) -> None:
        super().__init__()
        strides = (2, 4, 5)
        layers: list[nn.Module] = [CausalConv1d(1, width, 7), nn.ELU()]
        for i, stride in enumerate(strides):
            layers += [_coder_block(2 ** (i + 1) * width, stride, True), nn.ELU()]
        self.encoder = nn.Sequential(*layers, CausalConv1d(8 * width, deep, 3))
        self.quantizer = ResidualQuantizer(deep)
        layers = [CausalConv1d(deep, 8 * width, 7), nn.ELU()]
        for i, stride in reversed(list(enumerate(strides))):
            layers += [_coder_block(2**i * width, stride, False), nn.ELU()]
        self.decoder = nn.Sequential(*layers, CausalConv1d(width, 1, 7))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, L) to (B, 1, L)."""
        e = self.encoder(x)
        quantized = self.quantizer(e.permute(0, 2, 1))
        return self.decoder(quantized.permute(0, 2, 1))


_CODEC = {
    **dict.fromkeys(("encoder.0", "encoder.2"), "encoder 0"),
    **dict.fromkeys(("encoder.2.6", "encoder.4"), "encoder 1"),
    **dict.fromkeys(("encoder.4.6", "encoder.6"), "encoder 2"),
    **dict.fromkeys(("encoder.6.6", "encoder.8", "decoder.0"), "bottleneck"),
    "decoder.2": "decoder 2",
    "decoder.4": "decoder 1",
    "decoder.6": "decoder 0",
    "decoder.8": "head",
}


class ERB(nn.Module):
    """High frequencies by bands, with weights that are not trained."""

    def __init__(self, low: int = 65, bands: int = 64, bins: int = 257) -> None:
        super().__init__()
        self.low = low
        self.erb_fc = nn.Linear(bins - low, bands, bias=False)
        self.ierb_fc = nn.Linear(bands, bins - low, bias=False)
        at = (torch.arange(bins - low) + 0.5) / (bins - low) * bands - 0.5
        filters = (1 - (torch.arange(bands)[:, None] - at[None, :]).abs()).clamp(min=0)
        self.erb_fc.weight = nn.Parameter(filters, requires_grad=False)
        self.ierb_fc.weight = nn.Parameter(filters.T.contiguous(), requires_grad=False)

    def bm(self, x: Tensor) -> Tensor:
        """Map (B, C, T, 257) to bands."""
        return torch.cat([x[..., : self.low], self.erb_fc(x[..., self.low :])], dim=-1)

    def bs(self, x: Tensor) -> Tensor:
        """And back."""
        return torch.cat([x[..., : self.low], self.ierb_fc(x[..., self.low :])], dim=-1)


class SFE(nn.Module):
    """Neighbouring bands as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold = nn.Unfold(kernel_size=(1, 3), stride=(1, 1), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Three times the channels."""
        return self.unfold(x).reshape(x.shape[0], x.shape[1] * 3, x.shape[2], x.shape[3])


class TRA(nn.Module):
    """When to listen: a recurrent layer over how loud each channel is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.att_gru = nn.GRU(width, 2 * width, 1, batch_first=True)
        self.att_fc = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh times."""
        loud = torch.mean(x.pow(2), dim=-1)
        at = self.att_fc(self.att_gru(loud.transpose(1, 2))[0]).transpose(1, 2)
        return x * torch.sigmoid(at)[..., None]


class ConvBlock(nn.Module):
    """A convolution along frequencies, down or up."""

    def __init__(self, channels: int, out: int, groups: int, up: bool, last: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.conv = kind(channels, out, (1, 5), stride=(1, 2), padding=(0, 2), groups=groups)
        self.bn = nn.BatchNorm2d(out)
        self.act = nn.Tanh() if last else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Change the last side."""
        return self.act(self.bn(self.conv(x)))


class GTConvBlock(nn.Module):
    """Half of the channels through time, mixed with the others."""

    def __init__(self, width: int, dilation: int, up: bool) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        half = width // 2
        self.pad_size = 2 * dilation
        self.sfe = SFE()
        self.point_conv1 = kind(3 * half, width, 1)
        self.point_bn1, self.point_act = nn.BatchNorm2d(width), nn.PReLU()
        padding = (2 * dilation, 1) if up else (0, 1)
        self.depth_conv = kind(
            width, width, (3, 3), padding=padding, groups=width, dilation=(dilation, 1)
        )
        self.depth_bn, self.depth_act = nn.BatchNorm2d(width), nn.PReLU()
        self.point_conv2 = kind(width, half, 1)
        self.point_bn2 = nn.BatchNorm2d(half)
        self.tra = TRA(half)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, T, F)."""
        x1, x2 = torch.chunk(x, chunks=2, dim=1)
        h1 = self.point_act(self.point_bn1(self.point_conv1(self.sfe(x1))))
        h1 = F.pad(h1, [0, 0, self.pad_size, 0])
        h1 = self.depth_act(self.depth_bn(self.depth_conv(h1)))
        h1 = self.tra(self.point_bn2(self.point_conv2(h1)))
        x = torch.stack([h1, x2], dim=1).transpose(1, 2).contiguous()
        return x.view(x.shape[0], -1, x.shape[3], x.shape[4])


class DPGRNN(nn.Module):
    """Recurrent layers along frequencies, and then along times."""

    def __init__(self, width: int, bands: int) -> None:
        super().__init__()
        self.intra_rnn = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.intra_fc, self.intra_ln = nn.Linear(width, width), nn.LayerNorm((bands, width))
        self.inter_rnn = nn.GRU(width, width, batch_first=True)
        self.inter_fc, self.inter_ln = nn.Linear(width, width), nn.LayerNorm((bands, width))

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, T, F)."""
        x = x.permute(0, 2, 3, 1)
        images, times, bands, width = x.shape
        intra = self.intra_rnn(x.reshape(images * times, bands, width))[0]
        intra = self.intra_fc(intra).view(images, -1, bands, width)
        out = torch.add(x, self.intra_ln(intra))
        x = out.permute(0, 2, 1, 3)
        inter = self.inter_rnn(x.reshape(images * bands, times, width))[0]
        inter = self.inter_fc(inter).view(images, bands, -1, width).permute(0, 2, 1, 3)
        return torch.add(out, self.inter_ln(inter)).permute(0, 3, 1, 2)


class GTCRN(nn.Module):
    """Speech cleaned with few weights (Rong and others, 2024), on the spectrum."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.erb, self.sfe = ERB(), SFE()
        self.en_convs = nn.ModuleList(
            [ConvBlock(9, width, 1, False), ConvBlock(width, width, 2, False)]
        )
        self.de_convs = nn.ModuleList()
        for dilation in (1, 2, 5):
            self.en_convs.append(GTConvBlock(width, dilation, False))
        for dilation in (5, 2, 1):
            self.de_convs.append(GTConvBlock(width, dilation, True))
        self.de_convs.append(ConvBlock(width, width, 2, True))
        self.de_convs.append(ConvBlock(width, 2, 1, True, last=True))
        self.dpgrnn1, self.dpgrnn2 = DPGRNN(width, 33), DPGRNN(width, 33)

    def forward(self, spec: Tensor) -> Tensor:
        """Map (B, 257, T, 2) to the same."""
        spec_ref = spec
        real, imag = spec[..., 0].permute(0, 2, 1), spec[..., 1].permute(0, 2, 1)
        mag = torch.sqrt(real**2 + imag**2 + 1e-12)
        feat = self.sfe(self.erb.bm(torch.stack([mag, real, imag], dim=1)))
        en_outs = []
        for conv in self.en_convs:
            feat = conv(feat)
            en_outs.append(feat)
        feat = self.dpgrnn2(self.dpgrnn1(feat))
        for i, conv in enumerate(self.de_convs):
            feat = conv(feat + en_outs[len(en_outs) - 1 - i])
        m = self.erb.bs(feat)
        s = spec_ref.permute(0, 3, 2, 1)
        s_real = s[:, 0] * m[:, 0] - s[:, 1] * m[:, 1]
        s_imag = s[:, 1] * m[:, 0] + s[:, 0] * m[:, 1]
        return torch.stack([s_real, s_imag], dim=1).permute(0, 3, 2, 1)


# bands make no level, whatever their number is; what is loud of a channel lies in its block
_SPEECH = {
    "erb.erb_fc": "encoder 0",
    "erb.ierb_fc": "head",
    "en_convs.0": "encoder 1",
    **{f"en_convs.{i}": "bottleneck" for i in range(1, 5)},
    **dict.fromkeys(("dpgrnn1", "dpgrnn2"), "bottleneck"),
    **{f"de_convs.{i}": "bottleneck" for i in range(3)},
    "de_convs.3": "decoder 1",
    "de_convs.4": "decoder 0",
}


def _spectrum(image: Tensor) -> Tensor:
    """Real and imaginary parts along the last axis."""
    return image.permute(0, 2, 3, 1).contiguous()


# volumes -----------------------------------------------------------------------------------------
def _dense_layer(flat: bool, channels: int, growth: int) -> nn.Sequential:
    """Normalised, narrowed and convolved."""
    norm, kernel = (nn.BatchNorm2d, nn.Conv2d) if flat else (nn.BatchNorm3d, nn.Conv3d)
    return nn.Sequential(
        *(norm(channels), nn.ReLU(inplace=True), kernel(channels, 2 * growth, 1, bias=False)),
        *(norm(2 * growth), nn.ReLU(inplace=True)),
        kernel(2 * growth, growth, 3, padding=1, bias=False),
    )


class DenseBlock(nn.Module):
    """Every layer sees all before."""

    def __init__(self, flat: bool, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"dense{i}", _dense_layer(flat, channels + i * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        """Add channels."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class DenseUNet(nn.Module):
    """A dense network that comes back up; in three dimensions its last strides spare the depth."""

    def __init__(self, flat: bool, channels: int, classes: int) -> None:
        super().__init__()
        norm, kernel = (nn.BatchNorm2d, nn.Conv2d) if flat else (nn.BatchNorm3d, nn.Conv3d)
        pool, mean = (nn.MaxPool2d, nn.AvgPool2d) if flat else (nn.MaxPool3d, nn.AvgPool3d)
        last: Any = 2 if flat else (1, 2, 2)
        width, growth = 8, 4
        self.conv1 = kernel(channels, width, 7, stride=2, padding=3, bias=False)
        self.norm1 = norm(width)
        self.pool1 = pool(3, stride=2, padding=1)
        self.block1 = DenseBlock(flat, width, growth, 2)
        self.trans1 = nn.Sequential(norm(16), nn.ReLU(), kernel(16, width, 1), mean(last, last))
        self.block2 = DenseBlock(flat, width, growth, 2)
        self.norm2 = norm(16)
        mode = "nearest" if flat else "trilinear"
        self.rise1 = nn.Upsample(scale_factor=last, mode=mode)
        self.rise2 = nn.Upsample(scale_factor=2, mode=mode)
        self.line1 = kernel(16, 16, 1)
        self.up1 = nn.Sequential(kernel(16, width, 3, padding=1), norm(width), nn.ReLU())
        self.up2 = nn.Sequential(kernel(width, width, 3, padding=1), norm(width), nn.ReLU())
        self.up3 = nn.Sequential(kernel(width, width, 3, padding=1), norm(width), nn.ReLU())
        self.classifier = kernel(width, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and classes at full size."""
        top = F.relu(self.norm1(self.conv1(x)))
        middle = self.block1(self.pool1(top))
        deep = F.relu(self.norm2(self.block2(self.trans1(middle))))
        x = self.up1(self.rise1(self.line1(deep)) + middle)
        x = self.up2(self.rise2(x) + top)
        x = self.up3(self.rise2(x))
        return x, self.classifier(x)


class HDenseUNet(nn.Module):
    """Slices by a dense network, then the volume with what it said (Li and others, 2018)."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.dense2d = DenseUNet(True, 3, classes)
        self.dense3d = DenseUNet(False, 1 + classes, classes)
        self.conv_last = nn.Conv3d(8, 8, 3, padding=1)
        self.norm_last = nn.BatchNorm3d(8)
        self.classifier = nn.Conv3d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, D, H, W) to (B, classes, D, H, W)."""
        images, _, deep, high, wide = x.shape
        before = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)
        after = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
        slices = torch.cat([before, x, after], dim=1).permute(0, 2, 1, 3, 4)
        fea2d, cls2d = self.dense2d(slices.reshape(images * deep, 3, high, wide))
        fea2d, cls2d = (
            y.reshape(images, deep, -1, high, wide).permute(0, 2, 1, 3, 4) for y in (fea2d, cls2d)
        )
        fea3d, _ = self.dense3d(torch.cat([x, cls2d], dim=1))
        final = F.relu(self.norm_last(self.conv_last(fea3d + fea2d)))
        return self.classifier(final)


# the network on slices is a call within full resolution: the other one goes deeper
_SLICED = {
    "dense2d": "encoder 0",
    **dict.fromkeys(("dense3d.conv1", "dense3d.norm1"), "encoder 1"),
    **dict.fromkeys(("dense3d.block1", "dense3d.trans1"), "encoder 2"),
    **dict.fromkeys(("dense3d.block2", "dense3d.norm2", "dense3d.line1"), "bottleneck"),
    "dense3d.up1": "decoder 2",
    "dense3d.up2": "decoder 1",
    "dense3d.up3": "decoder 0",
    "dense3d.classifier": "dead",  # what the volume alone says
    **dict.fromkeys(("conv_last", "norm_last"), "decoder 0"),
    "classifier": "head",
}


def _apart(sides: tuple[int, ...]) -> Tensor:
    """For each two places of a window the number of how they lie to each other."""
    at = torch.stack(torch.meshgrid(*(torch.arange(s) for s in sides), indexing="ij")).flatten(1)
    index = torch.zeros(at.shape[1], at.shape[1], dtype=torch.long)
    for row, side in zip(at, sides, strict=True):
        index = index * (2 * side - 1) + row[:, None] - row[None, :] + side - 1
    return index


class Windowed(nn.Module):
    """Attention with a bias for how places lie to each other; subclasses project."""

    def __init__(self, width: int, sides: tuple[int, ...], heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        count = math.prod(2 * side - 1 for side in sides)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(count, heads))
        self.register_buffer("relative_position_index", _apart(sides))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def split(self, x: Tensor, parts: int) -> Tensor:
        """(windows, tokens, parts * width) to (parts, windows, heads, tokens, width / heads)."""
        windows, tokens, wide = x.shape
        x = x.reshape(windows, tokens, parts, self.heads, wide // parts // self.heads)
        return x.permute(2, 0, 3, 1, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Look, and lay heads together."""
        windows, heads, tokens, _ = q.shape
        attn = q * self.scale @ k.transpose(-2, -1)
        index = self.get_buffer("relative_position_index")
        bias = self.relative_position_bias_table[index.view(-1)].view(tokens, tokens, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            seen = mask.shape[0]
            attn = attn.view(windows // seen, seen, heads, tokens, tokens)
            attn = (attn + mask.unsqueeze(1).unsqueeze(0)).view(-1, heads, tokens, tokens)
        return (attn.softmax(-1) @ v).transpose(1, 2).reshape(windows, tokens, -1)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class OwnAttention(Windowed):
    """Queries, keys and values of the same tokens."""

    def __init__(self, width: int, sides: tuple[int, ...], heads: int) -> None:
        super().__init__(width, sides, heads)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Keep (windows, tokens, width)."""
        q, k, v = self.split(self.qkv(x), 3)
        return self.proj(self.attend(q, k, v, mask))


class SkipAttention(Windowed):
    """Keys and values of the skip; what comes up asks as it is."""

    def __init__(self, width: int, sides: tuple[int, ...], heads: int) -> None:
        super().__init__(width, sides, heads)
        self.kv, self.proj = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, skip: Tensor, x_up: Tensor, mask: Tensor | None) -> Tensor:
        """Keep (windows, tokens, width)."""
        k, v = self.split(self.kv(skip), 2)
        return self.proj(self.attend(self.split(x_up, 1)[0], k, v, mask))


def _cubes(x: Tensor, side: int) -> Tensor:
    """Lay (B, S, H, W, C) out as (windows, side ^ 3, C)."""
    b, s, h, w, c = x.shape
    x = x.view(b, s // side, side, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).contiguous().view(-1, side**3, c)


def _uncubed(windows: Tensor, side: int, s: int, h: int, w: int) -> Tensor:
    b = int(windows.shape[0] / (s * h * w / side / side / side))
    x = windows.view(b, s // side, h // side, w // side, side, side, side, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).contiguous().view(b, s, h, w, -1)


class VolumeBlock(nn.Module):
    """Attention in cubes, shifted in every other block, to a skip in a decoder's first."""

    def __init__(
        self, width: int, resolution: int, side: int, shift: int, across: bool = False
    ) -> None:
        super().__init__()
        self.input_resolution, self.window_size, self.across = resolution, side, across
        self.shift_size = 0 if resolution <= side else shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        kind = SkipAttention if across else OwnAttention
        self.attn = kind(width, (side,) * 3, 2)
        self.mlp = _mlp(width)

    def windows(self, x: Tensor) -> Tensor:
        """The cubes of tokens."""
        side = self.input_resolution
        b, length, c = x.shape
        assert length == side**3, "input feature has wrong size"
        x = x.view(b, side, side, side, c)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(-self.shift_size,) * 3, dims=(1, 2, 3))
        return _cubes(x, self.window_size)

    def forward(
        self, x: Tensor, mask: Tensor, skip: Tensor | None = None, x_up: Tensor | None = None
    ) -> Tensor:
        """Keep (B, S * H * W, width)."""
        b, length, c = x.shape
        shortcut, side = x, self.input_resolution
        seen = mask if self.shift_size > 0 else None
        if skip is not None and x_up is not None:
            skip, x_up = self.norm1(skip), self.norm1(x_up)
            found = self.attn(self.windows(skip), self.windows(x_up), seen)
        else:
            found = self.attn(self.windows(self.norm1(x)), seen)
        x = _uncubed(found.view(-1, self.window_size**3, c), self.window_size, side, side, side)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(self.shift_size,) * 3, dims=(1, 2, 3))
        x = shortcut + x.view(b, length, c)
        return x + self.mlp(self.norm2(x))


class Volumed(nn.Module):
    """An operation on tokens as a volume, behind or before a norm."""

    def __init__(self, layer: nn.Module, norm: int, first: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.first = layer, nn.LayerNorm(norm), first

    def forward(self, x: Tensor, side: int) -> Tensor:
        """Tokens of another size."""
        b, _, c = x.shape
        x = x.view(b, side, side, side, c)
        if self.first:
            x = F.gelu(self.norm(x))
        x = self.layer(x.permute(0, 4, 1, 2, 3).contiguous())
        x = x.flatten(2).transpose(1, 2)
        return x if self.first else self.norm(x)


class VolumeLayer(nn.Module):
    """Blocks of one size, and what leads to the next or comes from the one before."""

    def __init__(self, width: int, resolution: int, side: int, way: str) -> None:
        super().__init__()
        self.resolution, self.window_size, self.way = resolution, side, way
        self.shift_size = side // 2
        self.blocks = nn.ModuleList(
            VolumeBlock(
                width,
                *(resolution, side),
                0 if i % 2 == 0 else side // 2,
                across=way == "up" and i == 0,
            )
            for i in range(2)
        )
        if way == "down":
            self.downsample = Volumed(nn.Conv3d(width, 2 * width, 3, 2, 1), width, True)
        elif way == "up":
            self.upsample = Volumed(nn.ConvTranspose3d(2 * width, width, 2, 2), 2 * width, True)

    def mask(self, x: Tensor) -> Tensor:
        """Which tokens of a shifted window lie together."""
        side, shift = self.window_size, self.shift_size
        regions = torch.zeros((1, *(self.resolution,) * 3, 1), device=x.device)
        parts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
        count = 0
        for s in parts:
            for h in parts:
                for w in parts:
                    regions[:, s, h, w, :] = count
                    count += 1
        flat = _cubes(regions, side).squeeze(-1)
        apart = flat.unsqueeze(1) - flat.unsqueeze(2)
        return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what the blocks make, and that for the next layer."""
        mask = self.mask(x)
        if self.way == "up":
            x = x_up = self.upsample(x, self.resolution // 2)
            x = self.blocks[0](x, mask, skip=skip, x_up=x_up)
            return self.blocks[1](x, mask), x
        for block in self.blocks:
            x = block(x, mask)
        return x, self.downsample(x, self.resolution) if self.way == "down" else x


class Project(nn.Module):
    """Two convolutions with norms over channels, the first with a stride."""

    def __init__(self, channels: int, out: int, last: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out, 3, stride=2, padding=1)
        self.conv2 = nn.Conv3d(out, out, 3, stride=1, padding=1)
        self.norm1 = nn.LayerNorm(out)
        self.norm2 = None if last else nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        x = F.gelu(self.conv1(x))
        ws, wh, ww = x.size(2), x.size(3), x.size(4)
        x = self.norm1(x.flatten(2).transpose(1, 2).contiguous())
        x = x.transpose(1, 2).contiguous().view(-1, x.shape[-1], ws, wh, ww)
        x = self.conv2(x)
        if self.norm2 is not None:
            x = F.gelu(x)
            x = self.norm2(x.flatten(2).transpose(1, 2).contiguous())
            x = x.transpose(1, 2).contiguous().view(-1, x.shape[-1], ws, wh, ww)
        return x


class NNFormer(nn.Module):
    """Transformers in cubes that attend to skips (Zhou and others, 2021)."""

    def __init__(self, crop: int = 32, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self._deep_supervision, self.do_ds = True, False
        self.proj1, self.proj2 = Project(1, width // 2, False), Project(width // 2, width, True)
        self.embed_norm = nn.LayerNorm(width)
        sizes = [(width * 2**i, crop // 4 // 2**i, side) for i, side in enumerate((4, 4, 2))]
        self.down_layers = nn.ModuleList(
            VolumeLayer(*size, "down" if i < 2 else "flat") for i, size in enumerate(sizes)
        )
        for i, size in enumerate(sizes):
            self.add_module(f"norm{i}", nn.LayerNorm(size[0]))
        self.up_layers = nn.ModuleList(VolumeLayer(*size, "up") for size in sizes[1::-1])
        self.final = nn.ModuleList(
            nn.ConvTranspose3d(size[0], classes, 4, stride=4) for size in sizes[1::-1]
        )
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map (B, 1, S, S, S) to (B, classes, S, S, S)."""
        x = self.proj2(self.proj1(x))
        x = self.embed_norm(x.flatten(2).transpose(1, 2))
        skips = []
        for i, layer in enumerate(self.down_layers):
            x_out, x = layer(x)
            skips.append(getattr(self, f"norm{i}")(x_out))
        x, outs = skips[-1], []
        for i, layer in enumerate(self.up_layers):
            x, _ = layer(x, skips[len(self.up_layers) - 1 - i])
            width, side, _ = self.sizes[len(self.up_layers) - 1 - i]
            outs.append(x.view(-1, side, side, side, width).permute(0, 4, 1, 2, 3).contiguous())
        seg_outputs = [final(out) for final, out in zip(self.final, outs, strict=True)]
        if self._deep_supervision and self.do_ds:
            return seg_outputs[::-1]
        return seg_outputs[-1]


# the last layer is a transposed convolution with a stride of four
_CUBED = {
    "proj1": "encoder 1",
    **dict.fromkeys(("proj2", "embed_norm", "down_layers.0"), "encoder 2"),
    "down_layers.0.downsample.layer": "encoder 3",
    "down_layers.1": "encoder 3",
    **dict.fromkeys(("down_layers.1.downsample.layer", "down_layers.2", "norm2"), "bottleneck"),
    "norm0": "skip 2",
    "norm1": "skip 3",
    "up_layers.0": "decoder 3",
    "up_layers.0.upsample.norm": "bottleneck",
    "up_layers.1": "decoder 2",
    "up_layers.1.upsample.norm": "decoder 3",
    # of the skip first, and of what asks it then
    **{
        f"up_layers.{i}.blocks.0.{part}": f"skip {3 - i}"
        for i in (0, 1)
        for part in ("norm1", "attn.kv")
    },
    "final.0": "dead",  # for training with several outputs
    "final.1": "decoder 0",
}


class VoxelAutoencoder(nn.Module):
    """The generator of 3D-GAN behind an encoder that mirrors it (Wu and others, 2016)."""

    def __init__(self, cube_len: int = 32, width: int = 4, z_dim: int = 12) -> None:
        super().__init__()
        self.cube_len, self.bias = cube_len, False
        widths = (1, width, 2 * width, 4 * width)
        encoder: list[nn.Module] = []
        for a, b in pairwise(widths):
            encoder.append(
                nn.Sequential(
                    nn.Conv3d(a, b, 4, stride=2, bias=self.bias, padding=(1, 1, 1)),
                    *(nn.BatchNorm3d(b), nn.LeakyReLU(0.2)),
                )
            )
        self.encoder = nn.ModuleList(encoder)
        self.to_z = nn.Linear(4 * width * (cube_len // 8) ** 3, z_dim)
        self.z_dim = z_dim
        self.layer1 = nn.Sequential(
            nn.ConvTranspose3d(z_dim, 4 * width, 4, stride=1, bias=self.bias),
            *(nn.BatchNorm3d(4 * width), nn.ReLU()),
        )
        self.layer2 = self.rise(4 * width, 2 * width)
        self.layer3 = self.rise(2 * width, width)
        self.layer4 = nn.Sequential(
            nn.ConvTranspose3d(width, 1, 4, stride=2, bias=self.bias, padding=(1, 1, 1)),
            nn.Sigmoid(),
        )

    def rise(self, channels: int, out: int) -> nn.Sequential:
        """Twice the sides."""
        return nn.Sequential(
            nn.ConvTranspose3d(channels, out, 4, stride=2, bias=self.bias, padding=(1, 1, 1)),
            *(nn.BatchNorm3d(out), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, S, S, S) to (B, S, S, S)."""
        out = x.view(-1, 1, self.cube_len, self.cube_len, self.cube_len)
        for layer in self.encoder:
            out = layer(out)
        z = self.to_z(out.view(-1, self.to_z.in_features))
        out = z.view(-1, self.z_dim, 1, 1, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        return torch.squeeze(out, 1)


_VOXELS = {
    "encoder.0": "encoder 1",
    "encoder.1": "encoder 2",
    **dict.fromkeys(("encoder.2", "to_z", "layer1"), "bottleneck"),
    "layer2": "decoder 2",
    "layer3": "decoder 1",
    "layer4": "decoder 0",
}


def _no_channels(image: Tensor) -> Tensor:
    """A volume without an axis of channels."""
    return image[:, 0]


def _solid(channels: int, out: int, dilation: int = 1, layers: int = 2) -> nn.Sequential:
    parts: list[nn.Module] = []
    for i in range(layers):
        first = channels if i == 0 else out
        parts.append(nn.Conv3d(first, out, 3, padding=dilation, dilation=dilation, bias=False))
        parts += [nn.BatchNorm3d(out), nn.ReLU()]
    return nn.Sequential(*parts)


class SurfaceNet(nn.Module):
    """A surface in the voxels that two views colour (Ji and others, 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _solid(6, 4), _solid(4, 8)
        self.conv3, self.conv4 = _solid(8, 12), _solid(12, 12, dilation=2)
        self.pool = nn.MaxPool3d(2, 2)
        self.sides = nn.ModuleDict()
        for name, width in (("s1", 4), ("s2", 8), ("s3", 12), ("s4", 12)):
            side = nn.Sequential(nn.Conv3d(width, 4, 1), nn.BatchNorm3d(4), nn.Sigmoid())
            self.sides[name] = side
        self.conv5 = _solid(16, 8)
        self.out = nn.Conv3d(8, 1, 1)

    def forward(self, cvc: Tensor) -> Tensor:
        """Map (B, 6, D, H, W) to (B, 1, D, H, W)."""
        cvc = cvc - 0.5
        fused, x = [], cvc
        for name, layer in zip(("s1", "s2", "s3", "s4"), ("1", "2", "3", "4"), strict=True):
            if name in ("s2", "s3"):
                x = self.pool(x)
            x = getattr(self, f"conv{layer}")(x)
            side = self.sides[name](x)
            if side.shape[2:] != cvc.shape[2:]:
                side = F.interpolate(side, size=cvc.shape[2:], mode="trilinear")
            fused.append(side)
        return torch.sigmoid(self.out(self.conv5(torch.cat(fused, dim=1))))


_SURFACE = {
    "conv1": "encoder 0",
    "conv2": "encoder 1",
    **dict.fromkeys(("conv3", "conv4", "sides.s3", "sides.s4"), "bottleneck"),
    "sides.s1": "skip 0",
    "sides.s2": "skip 1",
    "conv5": "decoder 0",
    "out": "head",
}


# polyps ------------------------------------------------------------------------------------------
class ReducedAttention(nn.Module):
    """Keys and values of fewer positions."""

    def __init__(self, width: int, heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads, self.sr_ratio = heads, sr_ratio
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(width, width, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, h * w, width)."""
        b, n, c = x.shape
        heads = self.num_heads
        q = self.q(x).reshape(b, n, heads, c // heads).permute(0, 2, 1, 3)
        if self.sr_ratio > 1:
            x_ = x.permute(0, 2, 1).reshape(b, c, h, w)
            x = self.norm(self.sr(x_).reshape(b, c, -1).permute(0, 2, 1))
        kv = self.kv(x).reshape(b, -1, 2, heads, c // heads).permute(2, 0, 3, 1, 4)
        attn = (q @ kv[0].transpose(-2, -1) * (c // heads) ** -0.5).softmax(dim=-1)
        return self.proj((attn @ kv[1]).transpose(1, 2).reshape(b, n, c))


class PyramidBlock(nn.Module):
    """Attention, and two linear layers with a depthwise convolution between them."""

    def __init__(self, width: int, heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = ReducedAttention(width, heads, sr_ratio)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dwconv = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, h * w, width)."""
        x = x + self.attn(self.norm1(x), h, w)
        y = self.fc1(self.norm2(x))
        b, _, c = y.shape
        y = self.dwconv(y.transpose(1, 2).view(b, c, h, w)).flatten(2).transpose(1, 2)
        return x + self.fc2(F.gelu(y))


class OverlapPatchEmbed(nn.Module):
    """Patches that overlap."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        kernel = 7 if stride == 4 else 3
        self.proj = nn.Conv2d(channels, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Return tokens and their rows and columns."""
        x = self.proj(x)
        _, _, h, w = x.shape
        return self.norm(x.flatten(2).transpose(1, 2)), h, w


class RB(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(4, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip: nn.Module = nn.Identity()
        if out != channels:
            self.skip = nn.Conv2d(channels, out, kernel_size=1, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        return self.out_layers(self.in_layers(x)) + self.skip(x)


class FCB(nn.Module):
    """A U-net at all sizes."""

    def __init__(self, width: int = 4, mults: tuple[int, ...] = (1, 1, 2, 2, 4, 4)) -> None:
        super().__init__()
        n_levels, n_rbs = len(mults), 1
        self.enc_blocks = nn.ModuleList([nn.Conv2d(3, width, 3, padding=1)])
        ch, chans = width, [width]
        for level in range(n_levels):
            for _ in range(n_rbs):
                self.enc_blocks.append(nn.Sequential(RB(ch, mults[level] * width)))
                ch = mults[level] * width
                chans.append(ch)
            if level != n_levels - 1:
                self.enc_blocks.append(nn.Sequential(nn.Conv2d(ch, ch, 3, padding=1, stride=2)))
                chans.append(ch)
        self.middle_block = nn.Sequential(RB(ch, ch), RB(ch, ch))
        self.dec_blocks = nn.ModuleList([])
        for level in range(n_levels):
            out = mults[::-1][level] * width
            for block in range(n_rbs + 1):
                layers: list[nn.Module] = [RB(ch + chans.pop(), out)]
                ch = out
                if level < n_levels - 1 and block == n_rbs:
                    rise = nn.Upsample(scale_factor=2, mode="nearest")
                    layers.append(nn.Sequential(rise, nn.Conv2d(ch, ch, 3, padding=1)))
                self.dec_blocks.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, width, H, W)."""
        hs, h = [], x
        for module in self.enc_blocks:
            h = module(h)
            hs.append(h)
        h = self.middle_block(h)
        for module in self.dec_blocks:
            h = module(torch.cat([h, hs.pop()], dim=1))
        return h


class TB(nn.Module):
    """A pyramid of transformers, all of whose maps are brought to a quarter."""

    def __init__(self, size: int, widths: tuple[int, ...] = (8, 8, 16, 16), out: int = 8) -> None:
        super().__init__()
        backbone: list[nn.Module] = []
        before = 3
        for i, width in enumerate(widths):
            backbone.append(OverlapPatchEmbed(before, width, 2 if i else 4))
            backbone.append(nn.ModuleList([PyramidBlock(width, 2, 8 // 2**i)]))
            backbone.append(nn.LayerNorm(width))
            before = width
        self.backbone = nn.ModuleList(backbone)
        self.LE = nn.ModuleList(
            nn.Sequential(RB(width, out), RB(out, out), nn.Upsample(size=size // 4))
            for width in widths
        )
        self.SFA = nn.ModuleList(nn.Sequential(RB(2 * out, out), RB(out, out)) for _ in range(3))

    def get_pyramid(self, x: Tensor) -> list[Tensor]:
        """Maps at a quarter and less."""
        pyramid = []
        h = w = 0
        for i, module in enumerate(self.backbone):
            if i % 3 == 0:
                x, h, w = module(x)
            elif i % 3 == 1:
                for sub_mod in module.children():
                    x = sub_mod(x, h, w)
            else:
                x = module(x)
                x = x.reshape(x.shape[0], h, w, -1).permute(0, 3, 1, 2).contiguous()
                pyramid.append(x)
        return pyramid

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, out, H / 4, W / 4)."""
        pyramid = self.get_pyramid(x)
        pyramid_emph = []
        for i, level in enumerate(pyramid):
            pyramid_emph.append(self.LE[i](level))
        l_i = pyramid_emph[-1]
        for i in range(2, -1, -1):
            l_i = self.SFA[i](torch.cat((pyramid_emph[i], l_i), dim=1))
        return l_i


class FCBFormer(nn.Module):
    """A transformer beside a U-net (Sanderson and Matuszewski, 2022)."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.TB, self.FCB = TB(size), FCB()
        self.PH = nn.Sequential(RB(8 + 4, 8), RB(8, 8), nn.Conv2d(8, 1, kernel_size=1))
        self.up_tosize = nn.Upsample(size=size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, size, size) to (B, 1, size, size)."""
        x1 = self.up_tosize(self.TB(x))
        x2 = self.FCB(x)
        return self.PH(torch.cat((x1, x2), dim=1))


# the transformer comes up to the output, too, and is as deep as the U-net beside it, which is a
# call within full resolution then
_POLYPS = {
    **{f"TB.backbone.{i}": f"encoder {1 + i // 3}" for i in range(9)},
    **{f"TB.backbone.{i}": "bottleneck" for i in (9, 10, 11)},
    **{f"TB.LE.{i}": f"skip {i + 1}" for i in range(3)},
    "TB.LE.3": "bottleneck",
    "TB.SFA": "decoder 1",
    "FCB": "skip 0",
    "PH": "decoder 0",
    "PH.2": "head",
}


# diffusion ---------------------------------------------------------------------------------------
def _timestep_embedding(timesteps: Tensor, dim: int, max_period: int = 10000) -> Tensor:
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(0, half, dtype=torch.float32) / half)
    args = timesteps[:, None].float() * freqs[None].to(device=timesteps.device)
    embedding = torch.cat([torch.cos(args), torch.sin(args)], dim=-1)
    if dim % 2:
        embedding = torch.cat([embedding, torch.zeros_like(embedding[:, :1])], dim=-1)
    return embedding


class GroupNorm32(nn.GroupNorm):
    """In single precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the type."""
        return super().forward(x.float()).type(x.dtype)


class TimestepBlock(nn.Module):
    """What is called with the time as well."""


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """A sequence that hands the time to those who want it."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Call one behind the other."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, TimestepBlock) else layer(x)
        return x


class Resized(nn.Module):
    """Twice or half the sides, without weights."""

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        """Resize."""
        if self.up:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2, 2)


class ResBlock(TimestepBlock):
    """A residual block that may resize behind its first norm."""

    def __init__(
        self, channels: int, emb: int, out: int, up: bool = False, down: bool = False
    ) -> None:
        super().__init__()
        self.updown = up or down
        self.in_layers = nn.Sequential(
            GroupNorm32(4, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.h_upd: nn.Module = Resized(up) if self.updown else nn.Identity()
        self.x_upd: nn.Module = Resized(up) if self.updown else nn.Identity()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.out_layers = nn.Sequential(
            *(GroupNorm32(4, out), nn.SiLU(), nn.Dropout(p=0.0)),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out != channels:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, channels, H, W), and a vector, to (B, out, H, W)."""
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
        return self.skip_connection(x) + out_rest(out_norm(h) * (1 + scale) + shift)


class AttentionBlock(nn.Module):
    """All positions look at all."""

    def __init__(self, channels: int, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm32(4, channels)
        self.qkv, self.proj_out = (
            nn.Conv1d(channels, 3 * channels, 1),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, channels, H, W)."""
        b, c, *spatial = x.shape
        x = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(x))
        ch = c // self.num_heads
        q, k, v = qkv.reshape(b * self.num_heads, ch * 3, -1).split(ch, dim=1)
        scale = 1 / math.sqrt(math.sqrt(ch))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale).float(), dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, x.shape[-1])
        return (x + self.proj_out(h)).reshape(b, c, *spatial)


class SuperResModel(nn.Module):
    """The U-net of guided diffusion that is shown a smaller image (Dhariwal and Nichol, 2021)."""

    def __init__(self, width: int = 8, mults: tuple[int, ...] = (1, 2, 2)) -> None:
        super().__init__()
        self.model_channels, self.dtype = width, torch.float32
        emb = width * 4
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        ch = width
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(nn.Conv2d(6, ch, 3, padding=1))])
        chans, ds = [ch], 1
        for level, mult in enumerate(mults):
            layers: list[nn.Module] = [ResBlock(ch, emb, mult * width)]
            ch = mult * width
            if ds == 4:
                layers.append(AttentionBlock(ch))
            self.input_blocks.append(TimestepEmbedSequential(*layers))
            chans.append(ch)
            if level != len(mults) - 1:
                self.input_blocks.append(TimestepEmbedSequential(ResBlock(ch, emb, ch, down=True)))
                chans.append(ch)
                ds *= 2
        self.middle_block = TimestepEmbedSequential(
            ResBlock(ch, emb, ch), AttentionBlock(ch), ResBlock(ch, emb, ch)
        )
        self.output_blocks = nn.ModuleList([])
        for level, mult in list(enumerate(mults))[::-1]:
            for i in range(2):
                layers = [ResBlock(ch + chans.pop(), emb, width * mult)]
                ch = width * mult
                if ds == 4:
                    layers.append(AttentionBlock(ch))
                if level and i == 1:
                    layers.append(ResBlock(ch, emb, ch, up=True))
                    ds //= 2
                self.output_blocks.append(TimestepEmbedSequential(*layers))
        self.out = nn.Sequential(GroupNorm32(4, ch), nn.SiLU(), nn.Conv2d(ch, 3, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, low_res: Tensor | None = None) -> Tensor:
        """Map (B, 3, H, W), a time and a smaller image to (B, 3, H, W)."""
        assert low_res is not None
        _, _, new_height, new_width = x.shape
        upsampled = F.interpolate(low_res, (new_height, new_width), mode="bilinear")
        x = torch.cat([x, upsampled], dim=1)
        hs: list[Tensor] = []
        emb = self.time_embed(_timestep_embedding(timesteps, self.model_channels))
        h = x.type(self.dtype)
        for module in self.input_blocks:
            h = module(h, emb)
            hs.append(h)
        h = self.middle_block(h, emb)
        for module in self.output_blocks:
            h = module(torch.cat([h, hs.pop()], dim=1), emb)
        return self.out(h.type(x.dtype))


_SHARPENED = {
    "time_embed": TIME,
    **dict.fromkeys(("input_blocks.0", "input_blocks.1"), "encoder 0"),
    # a block that resizes does so behind its first norm
    **dict.fromkeys(("input_blocks.2", "input_blocks.3"), "encoder 1"),
    "input_blocks.2.0.in_layers.0": "encoder 0",
    **dict.fromkeys(("input_blocks.4", "input_blocks.5", "middle_block"), "bottleneck"),
    "input_blocks.4.0.in_layers.0": "encoder 1",
    **dict.fromkeys(("output_blocks.0", "output_blocks.1"), "bottleneck"),
    "output_blocks.1.2": "decoder 1",
    "output_blocks.1.2.in_layers.0": "bottleneck",
    **dict.fromkeys(("output_blocks.2", "output_blocks.3"), "decoder 1"),
    "output_blocks.3.1": "decoder 0",
    "output_blocks.3.1.in_layers.0": "decoder 1",
    **dict.fromkeys(("output_blocks.4", "output_blocks.5", "out"), "decoder 0"),
    "out.2": "head",
}


def _noisy_and_small(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A noisy image, times, and the image at a quarter of its sides."""
    return image, torch.arange(1, len(image) + 1), F.avg_pool2d(image, 4)


class FeatureWiseAffine(nn.Module):
    """The level of noise shifts channels."""

    def __init__(self, emb: int, width: int, use_affine_level: bool = False) -> None:
        super().__init__()
        self.use_affine_level = use_affine_level
        self.noise_func = nn.Sequential(nn.Linear(emb, width * (1 + use_affine_level)))

    def forward(self, x: Tensor, noise_embed: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        batch = x.shape[0]
        if self.use_affine_level:
            gamma, beta = self.noise_func(noise_embed).view(batch, -1, 1, 1).chunk(2, dim=1)
            return (1 + gamma) * x + beta
        return x + self.noise_func(noise_embed).view(batch, -1, 1, 1)


def _swished(channels: int, out: int, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        *(nn.GroupNorm(4, channels), nn.SiLU()),
        nn.Dropout(dropout) if dropout != 0 else nn.Identity(),
        nn.Conv2d(channels, out, 3, padding=1),
    )


class ResnetBlocWithAttn(nn.Module):
    """Two blocks with the level of noise between them, and attention if asked."""

    def __init__(self, channels: int, out: int, emb: int, with_attn: bool) -> None:
        super().__init__()
        self.with_attn = with_attn
        self.noise_func = FeatureWiseAffine(emb, out)
        self.block1, self.block2 = _swished(channels, out), _swished(out, out)
        self.res_conv = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        if with_attn:
            self.attn_norm = nn.GroupNorm(4, out)
            self.attn_qkv = nn.Conv2d(out, 3 * out, 1, bias=False)
            self.attn_out = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor, time_emb: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        h = self.block2(self.noise_func(self.block1(x), time_emb))
        x = h + self.res_conv(x)
        if self.with_attn:
            batch, channel, height, width = x.shape
            qkv = self.attn_qkv(self.attn_norm(x)).view(batch, 1, channel * 3, height, width)
            query, key, value = qkv.chunk(3, dim=2)
            attn = torch.einsum("bnchw, bncyx -> bnhwyx", query, key).contiguous()
            attn = torch.softmax((attn / math.sqrt(channel)).view(batch, 1, height, width, -1), -1)
            attn = attn.view(batch, 1, height, width, height, width)
            out = torch.einsum("bnhwyx, bncyx -> bnchw", attn, value).contiguous()
            x = x + self.attn_out(out.view(batch, channel, height, width))
        return x


class SR3(nn.Module):
    """Super-resolution by refinement, given the level of noise (Saharia and others, 2021)."""

    def __init__(
        self, width: int = 8, mults: tuple[int, ...] = (1, 2, 2), res_blocks: int = 1
    ) -> None:
        super().__init__()
        self.inner_channel = width
        self.noise_level_mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        before, kept = width, [width]
        downs: list[nn.Module] = [nn.Conv2d(6, width, 3, padding=1)]
        for ind, mult in enumerate(mults):
            is_last = ind == len(mults) - 1
            for _ in range(res_blocks):
                downs.append(ResnetBlocWithAttn(before, width * mult, width, with_attn=is_last))
                before = width * mult
                kept.append(before)
            if not is_last:
                downs.append(nn.Conv2d(before, before, 3, 2, 1))
                kept.append(before)
        self.downs = nn.ModuleList(downs)
        self.mid = nn.ModuleList(
            ResnetBlocWithAttn(before, before, width, with_attn=i == 0) for i in range(2)
        )
        ups: list[nn.Module] = []
        for ind in reversed(range(len(mults))):
            for _ in range(res_blocks + 1):
                out = width * mults[ind]
                ups.append(
                    ResnetBlocWithAttn(before + kept.pop(), out, width, ind == len(mults) - 1)
                )
                before = out
            if ind >= 1:
                rise = nn.Upsample(scale_factor=2, mode="nearest")
                ups.append(nn.Sequential(rise, nn.Conv2d(before, before, 3, padding=1)))
        self.ups = nn.ModuleList(ups)
        self.final_conv = _swished(before, 3)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, 6, H, W), the enlarged image and noise, to (B, 3, H, W)."""
        count = self.inner_channel // 2
        step = torch.arange(count, dtype=time.dtype, device=time.device) / count
        encoding = time.unsqueeze(1) * torch.exp(-math.log(1e4) * step.unsqueeze(0))
        encoding = torch.cat([torch.sin(encoding), torch.cos(encoding)], dim=-1)
        t = self.noise_level_mlp(encoding)
        feats = []
        for layer in self.downs:
            x = layer(x, t) if isinstance(layer, ResnetBlocWithAttn) else layer(x)
            feats.append(x)
        for layer in self.mid:
            x = layer(x, t) if isinstance(layer, ResnetBlocWithAttn) else layer(x)
        for layer in self.ups:
            if isinstance(layer, ResnetBlocWithAttn):
                x = layer(torch.cat((x, feats.pop()), dim=1), t)
            else:
                x = layer(x)
        return self.final_conv(x)


_REPEATED = {
    "noise_level_mlp": TIME,
    **{f"downs.{i}": "encoder 0" for i in (0, 1)},
    **{f"downs.{i}": "encoder 1" for i in (2, 3)},
    **{f"downs.{i}": "bottleneck" for i in (4, 5)},
    "mid": "bottleneck",
    **{f"ups.{i}": "bottleneck" for i in (0, 1)},
    **{f"ups.{i}": "decoder 1" for i in (2, 3, 4)},
    **{f"ups.{i}": "decoder 0" for i in (5, 6, 7)},
    "final_conv": "decoder 0",
    "final_conv.3": "head",
}


class ChannelAttention(nn.Module):
    """Channels look at channels, scaled by what is believed of the image."""

    def __init__(self, width: int, heads: int, prior: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.kernel = nn.Sequential(nn.Linear(prior, width * 2, bias=False))
        self.qkv = nn.Conv2d(width, width * 3, kernel_size=1, bias=False)
        self.qkv_dwconv = nn.Conv2d(
            width * 3, width * 3, 3, padding=1, groups=width * 3, bias=False
        )
        self.project_out = nn.Conv2d(width, width, kernel_size=1, bias=False)

    def forward(self, x: Tensor, k_v: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        b, c, h, w = x.shape
        k_v1, k_v2 = self.kernel(k_v).view(-1, c * 2, 1, 1).chunk(2, dim=1)
        x = x * k_v1 + k_v2
        qkv = self.qkv_dwconv(self.qkv(x)).view(b, 3, self.num_heads, c // self.num_heads, h * w)
        q, k, v = qkv.unbind(1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attn = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        return self.project_out((attn @ v).reshape(b, c, h, w))


class GatedFeedForward(nn.Module):
    """Half of the channels opens the other half."""

    def __init__(self, width: int, prior: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.dwconv = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width, bias=False)
        self.project_out = nn.Conv2d(2 * width, width, 1, bias=False)
        self.kernel = nn.Sequential(nn.Linear(prior, width * 2, bias=False))

    def forward(self, x: Tensor, k_v: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        k_v1, k_v2 = self.kernel(k_v).view(-1, x.shape[1] * 2, 1, 1).chunk(2, dim=1)
        x1, x2 = self.dwconv(self.project_in(x * k_v1 + k_v2)).chunk(2, dim=1)
        return self.project_out(F.gelu(x1) * x2)


class PriorBlock(nn.Module):
    """A block of the transformer; it takes a list of the map and the vector."""

    def __init__(self, width: int, heads: int, prior: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = ChannelAttention(width, heads, prior)
        self.ffn = GatedFeedForward(width, prior)

    @staticmethod
    def over_channels(norm: nn.Module, x: Tensor) -> Tensor:
        """Normalise pixels as tokens."""
        h, w = x.shape[-2:]
        tokens = norm(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape[0], -1, h, w)

    def forward(self, y: list[Tensor]) -> list[Tensor]:
        """Keep the list."""
        x, k_v = y
        x = x + self.attn(self.over_channels(self.norm1, x), k_v)
        x = x + self.ffn(self.over_channels(self.norm2, x), k_v)
        return [x, k_v]


class DIRformer(nn.Module):
    """Four levels, all of which are given the vector."""

    def __init__(self, width: int, prior: int) -> None:
        super().__init__()
        heads = (1, 1, 2, 2)

        def blocks(level: int, factor: int = 1) -> nn.Sequential:
            return nn.Sequential(PriorBlock(width * 2**level * factor, heads[level], prior))

        def down(n: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(n, n // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)
            )

        def up(n: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(n, n * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))

        self.patch_embed = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.encoder_level1, self.down1_2 = blocks(0), down(width)
        self.encoder_level2, self.down2_3 = blocks(1), down(2 * width)
        self.encoder_level3, self.down3_4 = blocks(2), down(4 * width)
        self.latent = blocks(3)
        self.up4_3 = up(8 * width)
        self.reduce_chan_level3 = nn.Conv2d(8 * width, 4 * width, kernel_size=1, bias=False)
        self.decoder_level3, self.up3_2 = blocks(2), up(4 * width)
        self.reduce_chan_level2 = nn.Conv2d(4 * width, 2 * width, kernel_size=1, bias=False)
        self.decoder_level2, self.up2_1 = blocks(1), up(2 * width)
        self.decoder_level1, self.refinement = blocks(0, 2), blocks(0, 2)
        self.output = nn.Conv2d(2 * width, 3, 3, padding=1, bias=False)

    def forward(self, inp_img: Tensor, k_v: Tensor) -> Tensor:
        """Map (B, 3, H, W) and a vector to (B, 3, H, W)."""
        enc1, _ = self.encoder_level1([self.patch_embed(inp_img), k_v])
        enc2, _ = self.encoder_level2([self.down1_2(enc1), k_v])
        enc3, _ = self.encoder_level3([self.down2_3(enc2), k_v])
        latent, _ = self.latent([self.down3_4(enc3), k_v])
        x = self.reduce_chan_level3(torch.cat([self.up4_3(latent), enc3], 1))
        x, _ = self.decoder_level3([x, k_v])
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), enc2], 1))
        x, _ = self.decoder_level2([x, k_v])
        x, _ = self.decoder_level1([torch.cat([self.up2_1(x), enc1], 1), k_v])
        x, _ = self.refinement([x, k_v])
        return self.output(x) + inp_img


class CPEN(nn.Module):
    """What is to be believed of an image, as a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.E = nn.Sequential(
            *(nn.Conv2d(48, width, 3, padding=1), nn.LeakyReLU(0.1, True)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.LeakyReLU(0.1, True)),
            *(nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.AdaptiveAvgPool2d(1)),
        )
        self.mlp = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.LeakyReLU(0.1, True))
        self.pixel_unshuffle = nn.PixelUnshuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 4 * width)."""
        fea = self.E(self.pixel_unshuffle(x)).squeeze(-1).squeeze(-1)
        return self.mlp(fea)


class DiffIR(nn.Module):
    """A transformer that is told a vector, which is made by diffusion (Xia and others, 2023)."""

    def __init__(self, width: int = 4, timesteps: int = 3) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.G = DIRformer(width, 4 * width)
        self.condition = CPEN(width)
        self.denoise_fn = nn.Sequential(
            *(nn.Linear(8 * width + 1, 4 * width), nn.LeakyReLU(0.1, True)),
            nn.Linear(4 * width, 4 * width),
        )
        betas = torch.linspace(0.1, 0.99, timesteps)
        self.register_buffer("betas", betas)
        self.register_buffer("alphas_cumprod", torch.cumprod(1.0 - betas, dim=0))

    def diffusion(self, img: Tensor) -> list[Tensor]:
        """All vectors on the way from noise."""
        c = self.condition(img)
        prior, found = torch.randn_like(c), []
        alphas = self.get_buffer("alphas_cumprod")
        for i in reversed(range(self.timesteps)):
            t = torch.full((c.shape[0], 1), i / self.timesteps, device=c.device)
            noise = self.denoise_fn(torch.cat([c, t, prior], dim=1))
            prior = (prior - (1 - alphas[i]).sqrt() * noise) / alphas[i].sqrt().clamp(min=0.1)
            found.append(prior)
        return found

    def forward(self, img: Tensor) -> Any:
        """Map (B, 3, H, W) to (B, 3, H, W); in training with the vectors, for a loss."""
        pred_ipr_list = self.diffusion(img)
        sr = self.G(img, pred_ipr_list[-1])
        if self.training:
            return sr, pred_ipr_list
        return sr


def _told() -> dict[str, str]:
    """The vector is made at a quarter; whether that is before what it scales is left open."""
    open_ = {level: f"encoder {level} | decoder {level}" for level in (0, 1)}
    kernels = ("attn.kernel", "ffn.kernel")
    return {
        "condition": "encoder 2",
        "denoise_fn": "encoder 2",
        "G.patch_embed": "encoder 0",
        **dict.fromkeys(("G.encoder_level1", "G.down1_2"), open_[0]),
        **dict.fromkeys(("G.encoder_level2", "G.down2_3"), open_[1]),
        **dict.fromkeys(("G.encoder_level3", "G.down3_4"), "encoder 2"),
        **dict.fromkeys(("G.latent", "G.up4_3"), "bottleneck"),
        **{f"G.latent.0.{name}": "encoder 2 | bottleneck" for name in kernels},
        **dict.fromkeys(("G.reduce_chan_level3", "G.decoder_level3", "G.up3_2"), "decoder 2"),
        **{f"G.decoder_level3.0.{name}": "skip 2 | encoder 2 | decoder 2" for name in kernels},
        **dict.fromkeys(("G.reduce_chan_level2", "G.decoder_level2", "G.up2_1"), "decoder 1"),
        **{f"G.decoder_level2.0.{name}": "skip 1 | decoder 1" for name in kernels},
        **dict.fromkeys(("G.decoder_level1", "G.refinement"), "decoder 0"),
        **{
            f"G.{path}.0.{name}": "skip 0 | decoder 0"
            for path in ("decoder_level1", "refinement")
            for name in kernels
        },
        "G.output": "head",
    }


# depth -------------------------------------------------------------------------------------------
def _squares(x: Tensor, side: int) -> Tensor:
    """Lay (B, H, W, C) out as (windows, side ^ 2, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side * side, c)


def _unsquared(windows: Tensor, side: int, h: int, w: int) -> Tensor:
    b = int(windows.shape[0] / (h * w / side / side))
    x = windows.view(b, h // side, w // side, side, side, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class FieldAttention(Windowed):
    """Queries and keys of the map, values of what comes up."""

    def __init__(self, width: int, sides: tuple[int, ...], heads: int) -> None:
        super().__init__(width, sides, heads)
        self.qk, self.proj = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Keep (windows, tokens, width)."""
        q, k = self.split(self.qk(x), 2)
        return self.proj(self.attend(q, k, self.split(v, 1)[0], mask))


class FieldBlock(nn.Module):
    """Attention in squares, shifted in every other block, of a map or of a random field."""

    def __init__(self, width: int, shift: int, field: bool, side: int = 4) -> None:
        super().__init__()
        self.window_size, self.shift_size, self.field = side, shift, field
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = (FieldAttention if field else OwnAttention)(width, (side, side), 2)
        self.mlp = _mlp(width)

    def laid(self, x: Tensor, h: int, w: int) -> tuple[Tensor, int, int]:
        """Padded, shifted and cut."""
        side = self.window_size
        x = x.view(x.shape[0], h, w, -1)
        pad_r, pad_b = (side - w % side) % side, (side - h % side) % side
        x = F.pad(x, (0, 0, 0, pad_r, 0, pad_b))
        _, hp, wp, _ = x.shape
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(-self.shift_size, -self.shift_size), dims=(1, 2))
        return _squares(x, side), hp, wp

    def forward(self, x: Tensor, v: Tensor, h: int, w: int, mask_matrix: Tensor) -> Tensor:
        """Keep (B, h * w, width)."""
        b, length, c = x.shape
        assert length == h * w, "input feature has wrong size"
        shortcut = v if self.field else x
        mask = mask_matrix if self.shift_size > 0 else None
        windows, hp, wp = self.laid(self.norm1(x), h, w)
        if self.field:
            found = self.attn(windows, self.laid(v, h, w)[0], mask)
        else:
            found = self.attn(windows, mask)
        side = self.window_size
        x = _unsquared(found.view(-1, side * side, c), side, hp, wp)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(self.shift_size, self.shift_size), dims=(1, 2))
        x = x[:, :h, :w, :].contiguous().view(b, h * w, c)
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class FieldLayer(nn.Module):
    """Two blocks of one size."""

    def __init__(self, width: int, field: bool, side: int = 4) -> None:
        super().__init__()
        self.window_size, self.shift_size = side, side // 2
        self.blocks = nn.ModuleList(
            FieldBlock(width, 0 if i % 2 == 0 else side // 2, field) for i in range(2)
        )

    def forward(self, x: Tensor, v: Tensor, h: int, w: int) -> Tensor:
        """Keep (B, h * w, width)."""
        side, shift = self.window_size, self.shift_size
        hp, wp = int(np.ceil(h / side)) * side, int(np.ceil(w / side)) * side
        img_mask = torch.zeros((1, hp, wp, 1), device=x.device)
        slices = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
        cnt = 0
        for rows in slices:
            for columns in slices:
                img_mask[:, rows, columns, :] = cnt
                cnt += 1
        flat = _squares(img_mask, side).view(-1, side * side)
        attn_mask = flat.unsqueeze(1) - flat.unsqueeze(2)
        attn_mask = attn_mask.masked_fill(attn_mask != 0, -100.0).masked_fill(attn_mask == 0, 0.0)
        for block in self.blocks:
            if block.field:
                v = block(x, v, h, w, attn_mask)
            else:
                x = v = block(x, x, h, w, attn_mask)
        return v


class PatchMerging(nn.Module):
    """Four tokens become one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        """Map (B, h * w, width) to half the sides."""
        b, _, c = x.shape
        x = x.view(b, h, w, c)
        if (h % 2 == 1) or (w % 2 == 1):
            x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1).view(b, -1, 4 * c)))


class NewCRF(nn.Module):
    """A random field in squares over a map, with what comes up as its values."""

    def __init__(self, channels: int, embed: int, v_dim: int) -> None:
        super().__init__()
        self.proj_x = nn.Conv2d(channels, embed, 3, padding=1) if channels != embed else None
        self.proj_v = nn.Conv2d(v_dim, embed, 3, padding=1) if v_dim != embed else None
        self.crf_layer = FieldLayer(embed, True)
        self.norm_crf = nn.LayerNorm(embed)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        """Map two of one size to (B, embed, H, W)."""
        if self.proj_x is not None:
            x = self.proj_x(x)
        if self.proj_v is not None:
            v = self.proj_v(v)
        wh, ww = x.size(2), x.size(3)
        x, v = x.flatten(2).transpose(1, 2), v.transpose(1, 2).transpose(2, 3)
        out = self.norm_crf(self.crf_layer(x, v.flatten(1, 2), wh, ww))
        return out.view(-1, wh, ww, out.shape[-1]).permute(0, 3, 1, 2).contiguous()


class PyramidPooling(nn.Module):
    """The deepest map beside its means over parts of the image."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), nn.Conv2d(channels, out, 1), nn.ReLU())
            for bins in (1, 2, 3, 6)
        )
        self.bottleneck = nn.Sequential(nn.Conv2d(channels + 4 * out, out, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, H, W)."""
        size = x.size()[2:]
        outs = [F.interpolate(ppm(x), size=size, mode="bilinear") for ppm in self.psp_modules]
        return self.bottleneck(torch.cat([x, *outs], dim=1))


class NeWCRFs(nn.Module):
    """Depth by random fields in windows, level by level (Yuan and others, 2022)."""

    def __init__(self, width: int = 8, max_depth: float = 10.0) -> None:
        super().__init__()
        self.max_depth = max_depth
        self.patch_embed = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.embed_norm = nn.LayerNorm(width)
        widths = [width * 2**i for i in range(4)]
        self.layers = nn.ModuleList(FieldLayer(w, False) for w in widths)
        self.merges = nn.ModuleList(PatchMerging(w) for w in widths[:-1])
        for i, w in enumerate(widths):
            self.add_module(f"norm{i}", nn.LayerNorm(w))
        crf_dims, v_dims = (8, 16, 16, 32), (4, 4, 8, 16)
        for i in range(4):
            self.add_module(f"crf{i}", NewCRF(widths[i], crf_dims[i], v_dims[i]))
        self.decoder = PyramidPooling(widths[-1], v_dims[-1])
        self.disp_head1 = nn.Conv2d(crf_dims[0], 1, 3, padding=1)

    def backbone(self, x: Tensor) -> list[Tensor]:
        """Maps at a quarter to a 32nd."""
        x = self.patch_embed(x)
        wh, ww = x.size(2), x.size(3)
        x, outs = self.embed_norm(x.flatten(2).transpose(1, 2)), []
        for i, layer in enumerate(self.layers):
            x = layer(x, x, wh, ww)
            x_out = getattr(self, f"norm{i}")(x)
            outs.append(x_out.view(-1, wh, ww, x_out.shape[-1]).permute(0, 3, 1, 2).contiguous())
            if i < len(self.merges):
                x = self.merges[i](x, wh, ww)
                wh, ww = (wh + 1) // 2, (ww + 1) // 2
        return outs

    def forward(self, imgs: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1, H, W)."""
        feats = self.backbone(imgs)
        e = self.decoder(feats[3])
        for i in (3, 2, 1):
            e = F.pixel_shuffle(getattr(self, f"crf{i}")(feats[i], e), 2)
        e = getattr(self, "crf0")(feats[0], e)  # noqa: B009
        d1 = torch.sigmoid(self.disp_head1(e))
        return F.interpolate(d1, scale_factor=4, mode="bilinear") * self.max_depth


_FIELDS = {
    **dict.fromkeys(("patch_embed", "embed_norm"), "encoder 1"),
    **{f"layers.{i}": f"encoder {i + 1}" for i in range(3)},
    **{f"merges.{i}": f"encoder {i + 2}" for i in range(2)},
    **dict.fromkeys(("layers.3", "merges.2", "norm3", "decoder", "crf3"), "bottleneck"),
    **{f"norm{i}": f"skip {i + 1}" for i in range(3)},
    **{f"crf{i}": f"decoder {i + 1}" for i in range(3)},
    # who looks where is told by the map alone
    **{
        f"crf{i}.{part}": f"skip {i + 1}"
        for i in range(3)
        for part in (
            "proj_x",
            *(f"crf_layer.blocks.*.{name}" for name in ("norm1", "attn", "attn.qk")),
        )
    },
    **{f"crf{i}.crf_layer.blocks.*.attn.proj": f"decoder {i + 1}" for i in range(3)},
    "disp_head1": "head",
}


# what stands out ---------------------------------------------------------------------------------
class Backbone(nn.Module):
    """Five maps, from a half to a 32nd, as of a residual network."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i in range(1, 5):
            layer = _normed(widths[i - 1], widths[i], 3, 1 if i == 1 else 2)
            self.add_module(f"layer{i}", nn.Sequential(layer, _normed(widths[i], widths[i])))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return all five."""
        maps = [self.stem(x)]
        x = self.maxpool(maps[0])
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            maps.append(x)
        return maps


class SIU(nn.Module):
    """One map of those of three sizes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_l_pre_down, self.conv_l_post_down = (
            _normed(width, width, 5),
            _normed(width, width),
        )
        self.conv_m = _normed(width, width)
        self.conv_s_pre_up, self.conv_s_post_up = _normed(width, width), _normed(width, width)
        self.trans = nn.Sequential(
            *(_normed(3 * width, width, 1), _normed(width, width)),
            nn.Conv2d(width, 3, 1),
        )

    def forward(self, l: Tensor, m: Tensor, s: Tensor) -> Tensor:  # noqa: E741
        """Return a map of the size of m."""
        tgt = (m.shape[2], m.shape[3])
        large = self.conv_l_pre_down(l)
        large = F.adaptive_max_pool2d(large, tgt) + F.adaptive_avg_pool2d(large, tgt)
        large, m = self.conv_l_post_down(large), self.conv_m(m)
        small = F.interpolate(self.conv_s_pre_up(s), size=tgt, mode="bilinear")
        small = self.conv_s_post_up(small)
        attn = torch.softmax(self.trans(torch.cat([large, m, small], dim=1)), dim=1)
        attn_l, attn_m, attn_s = torch.chunk(attn, 3, dim=1)
        return attn_l * large + attn_m * m + attn_s * small


class HMU(nn.Module):
    """Groups of channels, one behind the other, and gates for them."""

    def __init__(self, width: int, num_groups: int = 2, hidden: int = 4) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.expand_conv = _normed(width, hidden * num_groups, 1)
        self.gate_genator = nn.Sequential(
            *(nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(num_groups * hidden, hidden, 1)),
            *(nn.ReLU(True), nn.Conv2d(hidden, num_groups * hidden, 1), nn.Softmax(dim=1)),
        )
        self.interact = nn.ModuleDict({"0": _normed(hidden, 3 * hidden)})
        for group_id in range(1, num_groups - 1):
            self.interact[str(group_id)] = _normed(2 * hidden, 3 * hidden)
        self.interact[str(num_groups - 1)] = _normed(2 * hidden, 2 * hidden)
        self.fuse = nn.Sequential(
            nn.Conv2d(num_groups * hidden, width, 3, padding=1), nn.BatchNorm2d(width)
        )
        self.final_relu = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, width, H, W)."""
        xs = self.expand_conv(x).chunk(self.num_groups, dim=1)
        outs, gates = [], []
        branch_out = self.interact["0"](xs[0])
        curr_out, curr_fork, curr_gate = branch_out.chunk(3, dim=1)
        outs.append(curr_out)
        gates.append(curr_gate)
        for group_id in range(1, self.num_groups - 1):
            branch_out = self.interact[str(group_id)](torch.cat([xs[group_id], curr_fork], dim=1))
            curr_out, curr_fork, curr_gate = branch_out.chunk(3, dim=1)
            outs.append(curr_out)
            gates.append(curr_gate)
        last = str(self.num_groups - 1)
        branch_out = self.interact[last](torch.cat([xs[self.num_groups - 1], curr_fork], dim=1))
        curr_out, curr_gate = branch_out.chunk(2, dim=1)
        outs.append(curr_out)
        gates.append(curr_gate)
        out = self.fuse(torch.cat(outs, dim=1) * self.gate_genator(torch.cat(gates, dim=1)))
        return self.final_relu(out + x)


class ZoomNet(nn.Module):
    """What hides is looked at in three sizes (Pang and others, 2022)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        widths = (4, 8, 8, 12, 16)
        self.shared_encoder = Backbone(widths)
        self.translayer = nn.ModuleDict(
            {f"c{i + 1}_down": _normed(w, width, 3) for i, w in enumerate(widths)}
        )
        self.merge_layers = nn.ModuleList(SIU(width) for _ in range(5))
        for i in range(1, 6):
            self.add_module(f"d{i}", nn.Sequential(HMU(width)))
        self.out_layer_00, self.out_layer_01 = _normed(width, 8), nn.Conv2d(8, 1, 1)

    def encoder_translayer(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of one width, the deepest first."""
        maps = self.shared_encoder(x)
        return tuple(self.translayer[f"c{i + 1}_down"](maps[i]) for i in (4, 3, 2, 1, 0))

    def forward(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map an image in three sizes to (B, 1, H, W) of the middle one."""
        l_trans_feats = self.encoder_translayer(data["image1.5"])
        m_trans_feats = self.encoder_translayer(data["image1.0"])
        s_trans_feats = self.encoder_translayer(data["image0.5"])
        feats = []
        trans = zip(l_trans_feats, m_trans_feats, s_trans_feats, self.merge_layers, strict=True)
        for l, m, s, layer in trans:  # noqa: E741
            feats.append(layer(l, m, s))
        x = getattr(self, "d5")(feats[0])  # noqa: B009
        for i, feat in zip((4, 3, 2, 1), feats[1:], strict=True):
            x = F.interpolate(x, size=feat.shape[-2:], mode="bilinear")
            x = getattr(self, f"d{i}")(x + feat)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return {"seg": self.out_layer_01(self.out_layer_00(x))}


# each image has levels of its own size
_ZOOMED = {
    "shared_encoder.stem": "encoder 1",
    **{f"shared_encoder.layer{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    **{f"translayer.c{i}_down": f"skip {i}" for i in range(1, 5)},
    **{f"merge_layers.{5 - i}": f"skip {i}" for i in range(1, 5)},
    **dict.fromkeys(
        ("shared_encoder.layer4", "translayer.c5_down", "merge_layers.0", "d5"), "bottleneck"
    ),
    **{f"d{i}": f"decoder {i}" for i in range(1, 5)},
    "out_layer_00": "decoder 0",
    "out_layer_01": "head",
}


def _three_sizes(image: Tensor) -> tuple[dict[str, Tensor]]:
    """An image, at two thirds and at a third of its sides, by name."""
    sizes = {"image1.5": 1.5, "image1.0": 1.0, "image0.5": 0.5}
    sides = [
        (name, [int(side * size / 1.5) for side in image.shape[2:]]) for name, size in sizes.items()
    ]
    return ({name: F.interpolate(image, size=side, mode="bilinear") for name, side in sides},)


class AIM(nn.Module):
    """A map with those next to it, one finer and one deeper."""

    def __init__(self, mid: int, high: int | None, low: int | None, out: int) -> None:
        super().__init__()
        self.m0 = _normed(mid, out)
        self.h0 = _normed(high, out) if high is not None else None
        self.l0 = _normed(low, out) if low is not None else None
        self.m2m_1 = nn.Conv2d(out, out, 3, padding=1)
        self.h2m_1 = nn.Conv2d(out, out, 3, padding=1) if high is not None else None
        self.l2m_1 = nn.Conv2d(out, out, 3, padding=1) if low is not None else None
        self.bnm_1 = nn.BatchNorm2d(out)
        self.m2m_2, self.bnm_2 = nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out)
        self.identity = nn.Conv2d(mid, out, 1)

    def forward(self, mid: Tensor, high: Tensor | None, low: Tensor | None) -> Tensor:
        """Return (B, out, H, W) of the middle one's size."""
        x = self.m2m_1(self.m0(mid))
        if high is not None and self.h0 is not None and self.h2m_1 is not None:
            x = x + self.h2m_1(F.avg_pool2d(self.h0(high), (2, 2), stride=2))
        if low is not None and self.l0 is not None and self.l2m_1 is not None:
            rise = F.interpolate(self.l0(low), size=mid.shape[2:], mode="nearest")
            x = x + self.l2m_1(rise)
        x = F.relu(self.bnm_1(x))
        return F.relu(self.bnm_2(self.m2m_2(x)) + self.identity(mid))


class SIM(nn.Module):
    """A map with itself at half its size."""

    def __init__(self, h_c: int, l_c: int) -> None:
        super().__init__()
        self.h2l_pool, self.l2h_up = nn.AvgPool2d((2, 2), stride=2), nn.Upsample(scale_factor=2)
        self.h2l_0, self.h2h_0 = nn.Conv2d(h_c, l_c, 3, 1, 1), nn.Conv2d(h_c, h_c, 3, 1, 1)
        self.bnl_0, self.bnh_0 = nn.BatchNorm2d(l_c), nn.BatchNorm2d(h_c)
        self.h2h_1, self.h2l_1 = nn.Conv2d(h_c, h_c, 3, 1, 1), nn.Conv2d(h_c, l_c, 3, 1, 1)
        self.l2h_1, self.l2l_1 = nn.Conv2d(l_c, h_c, 3, 1, 1), nn.Conv2d(l_c, l_c, 3, 1, 1)
        self.bnl_1, self.bnh_1 = nn.BatchNorm2d(l_c), nn.BatchNorm2d(h_c)
        self.h2h_2, self.l2h_2 = nn.Conv2d(h_c, h_c, 3, 1, 1), nn.Conv2d(l_c, h_c, 3, 1, 1)
        self.bnh_2 = nn.BatchNorm2d(h_c)
        self.relu = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, h_c, H, W)."""
        x_h = self.relu(self.bnh_0(self.h2h_0(x)))
        x_l = self.relu(self.bnl_0(self.h2l_0(self.h2l_pool(x))))
        x_h2h, x_h2l = self.h2h_1(x_h), self.h2l_1(self.h2l_pool(x_h))
        x_l2l, x_l2h = self.l2l_1(x_l), self.l2h_1(self.l2h_up(x_l))
        x_h = self.relu(self.bnh_1(x_h2h + x_l2h))
        x_l = self.relu(self.bnl_1(x_l2l + x_h2l))
        return self.relu(self.bnh_2(self.h2h_2(x_h) + self.l2h_2(self.l2h_up(x_l))))


class MINet(nn.Module):
    """Levels that exchange with their neighbours and with themselves (Pang and others, 2020)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = (4, 8, 8, 12, 16)
        self.encoder = Backbone(w)
        self.trans = nn.ModuleList(
            AIM(w[i], w[i - 1] if i else None, w[i + 1] if i < 4 else None, width) for i in range(5)
        )
        for size in (2, 4, 8, 16, 32):
            self.add_module(f"sim{size}", SIM(width, width // 2))
            self.add_module(f"upconv{size}", _normed(width, width))
        self.upconv1, self.classifier = _normed(width, width), nn.Conv2d(width, 1, 1)

    def forward(self, in_data: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1, H, W)."""
        x = self.encoder(in_data)
        maps = [
            aim(x[i], x[i - 1] if i else None, x[i + 1] if i < 4 else None)
            for i, aim in enumerate(self.trans)
        ]
        out: Tensor | None = None
        for size, y in zip((32, 16, 8, 4, 2), maps[::-1], strict=True):
            if out is not None:
                y = F.interpolate(out, size=y.shape[2:], mode="nearest") + y
            out = getattr(self, f"upconv{size}")(getattr(self, f"sim{size}")(y) + y)
        assert out is not None
        x1 = F.interpolate(out, size=in_data.shape[2:], mode="nearest")
        return self.classifier(self.upconv1(x1))


def _exchanged() -> dict[str, str]:
    """The last SIM alone reaches a 64th; in the others half the size is as deep as elsewhere."""
    places = {"encoder.stem": "encoder 1"}
    places |= {f"encoder.layer{i}": f"encoder {i + 1}" for i in range(1, 5)}
    for i in range(4):
        level = i + 1
        places[f"trans.{i}"] = f"decoder {level}"
        for part in ("m0", "m2m_1", "h2m_1", "identity"):
            places[f"trans.{i}.{part}"] = f"skip {level}"
        places[f"trans.{i}.h0"] = f"skip {level - 1}"
        places[f"trans.{i}.l0"] = f"skip {level + 1}"
        for part in ("sim", "upconv"):
            places[f"{part}{2**level}"] = f"decoder {level}"
    places |= {"trans.4": "encoder 5", "trans.4.h0": "encoder 4"}
    places |= {"sim32": "decoder 5", "upconv32": "decoder 5", "sim32.h2h_1": "skip 5"}
    places |= dict.fromkeys(("sim32.h2h_0", "sim32.bnh_0"), "encoder 5")
    deep = ("h2l_0", "bnl_0", "h2l_1", "l2l_1", "bnl_1")
    places |= {f"sim32.{part}": "bottleneck" for part in deep}
    return places | {"upconv1": "decoder 0", "classifier": "head"}


# light -------------------------------------------------------------------------------------------
class DecomNet(nn.Module):
    """What an image shows, and how it is lit."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        w = (width, 2 * width, 4 * width)
        self.conv1, self.pool = nn.Conv2d(3, w[0], 3, padding=1), nn.MaxPool2d(2)
        self.conv2, self.conv3 = (
            nn.Conv2d(w[0], w[1], 3, padding=1),
            nn.Conv2d(w[1], w[2], 3, padding=1),
        )
        self.up8, self.conv8 = (
            nn.ConvTranspose2d(w[2], w[1], 2, 2),
            nn.Conv2d(w[2], w[1], 3, padding=1),
        )
        self.up9, self.conv9 = (
            nn.ConvTranspose2d(w[1], w[0], 2, 2),
            nn.Conv2d(w[1], w[0], 3, padding=1),
        )
        self.conv10 = nn.Conv2d(w[0], 3, 1)
        self.l_conv2 = nn.Conv2d(w[0], w[0], 3, padding=1)
        self.l_conv4 = nn.Conv2d(2 * w[0], 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) to (B, 3, H, W) and (B, 1, H, W)."""
        conv1 = F.leaky_relu(self.conv1(x), 0.2)
        conv2 = F.leaky_relu(self.conv2(self.pool(conv1)), 0.2)
        conv3 = F.leaky_relu(self.conv3(self.pool(conv2)), 0.2)
        conv8 = F.leaky_relu(self.conv8(torch.cat([self.up8(conv3), conv2], 1)), 0.2)
        conv9 = F.leaky_relu(self.conv9(torch.cat([self.up9(conv8), conv1], 1)), 0.2)
        l_conv3 = torch.cat([F.leaky_relu(self.l_conv2(conv1), 0.2), conv9], dim=1)
        return torch.sigmoid(self.conv10(conv9)), torch.sigmoid(self.l_conv4(l_conv3))


def _twice(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(channels, out, 3, padding=1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(out, out, 3, padding=1), nn.LeakyReLU(0.2)),
    )


class RestoreNet(nn.Module):
    """What is shown, without noise."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        w = [width * 2**i for i in range(4)]
        self.pool = nn.MaxPool2d(2)
        for i in range(4):
            self.add_module(f"down{i}", _twice(w[i - 1] if i else 4, w[i]))
        for i in (2, 1, 0):
            self.add_module(f"rise{i}", nn.ConvTranspose2d(w[i + 1], w[i], 2, 2, bias=False))
            self.add_module(f"up{i}", _twice(2 * w[i], w[i]))
        self.conv10 = nn.Conv2d(width, 3, 1)

    def forward(self, r: Tensor, i_low: Tensor) -> Tensor:
        """Map (B, 3, H, W) and (B, 1, H, W) to (B, 3, H, W)."""
        x, kept = torch.cat([r, i_low], dim=1), []
        for i in range(4):
            x = getattr(self, f"down{i}")(self.pool(x) if i else x)
            kept.append(x)
        for i in (2, 1, 0):
            rise = getattr(self, f"rise{i}")(x)
            x = getattr(self, f"up{i}")(torch.cat([rise, kept[i]], 1))
        return torch.sigmoid(self.conv10(x))


class KinD(nn.Module):
    """Light and what is lit, each put right and then multiplied (Zhang and others, 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.decom_net, self.restore_net = DecomNet(), RestoreNet()
        self.illum_net = nn.Sequential(
            *(nn.Conv2d(2, 8, 3, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(8, 1, 1), nn.Sigmoid()),
        )

    def forward(self, low: Tensor, ratio: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 3, H, W) to what is shown, how it is lit, and both together."""
        r_low, i_low = self.decom_net(low)
        r_restored = self.restore_net(r_low, i_low)
        i_ratio = torch.ones_like(i_low) * ratio
        i_adjusted = self.illum_net(torch.cat([i_low, i_ratio], dim=1))
        return r_restored, i_adjusted, r_restored * torch.cat([i_adjusted] * 3, dim=1)


# the first network is a call within full resolution: the second alone goes so deep
_LIT = {
    "decom_net": "encoder 0",
    **{f"restore_net.down{i}": f"encoder {i}" for i in range(3)},
    "restore_net.down3": "bottleneck",
    **{f"restore_net.{part}{i}": f"decoder {i}" for part in ("rise", "up") for i in range(3)},
    "restore_net.conv10": "head",
    "illum_net": "skip 0",
    "illum_net.4": "head",
}


_CUBES: Mapping[str, Any] = {"size": (32, 32, 32), "channels": 1}
_SERIES: Mapping[str, Any] = {"channels": 4, "size": (96,), "given": True}

HELD_BACK_TWENTIETH: Mapping[str, Entry] = {
    # norms over whole maps are made for one size
    "by hand: MAU": Entry(
        "",
        MAU,
        Truth(_THREE, _MOVING, (1, 2)),
        {"channels": 5, "size": (32, 32), "other": None, "given": True, "arrange": _clip},
    ),
    "by hand: XPDNet": Entry(
        "",
        XPDNet,
        Truth(_THREE, _TURNS, (1, 2)),
        {"channels": 4, "given": True, "arrange": _scan},
    ),
    # no kernel follows what comes up, and all that is above an eighth only goes down
    "by hand: LEDNet": Entry(
        "",
        LEDNet,
        Truth(SIXTY_FOURTH, _LED, (), refusal=(*NO_DECODER, "weights")),
        {"size": (128, 128), "other": (128, 256)},
    ),
    "by hand: MIRNet": Entry("", MIRNet, Truth(_THREE, _beside(), (1, 2))),
    # a layer along time fixes the number of steps
    "by hand: MICN": Entry(
        "",
        MICN,
        Truth((1, 12), _PATTERNS, (1,)),
        {**_SERIES, "other": None, "arrange": _forecast},
    ),
    "by hand: SoundStream": Entry(
        "",
        SoundStream,
        Truth((1, 2, 8, 40), _CODEC, (1, 2, 3)),
        {"channels": 1, "size": (640,), "other": (960,)},
    ),
    "by hand: H-DenseUNet": Entry(
        "",
        HDenseUNet,
        Truth(((1, 1, 1), (2, 2, 2), (4, 4, 4), (4, 8, 8)), _SLICED, (1, 2, 3)),
        {"channels": 1, "size": (8, 64, 64), "other": (12, 64, 96)},
    ),
    "by hand: FCBFormer": Entry(
        "", FCBFormer, Truth((1, 4, 8, 16, 32), _POLYPS, (1, 2, 3, 4)), {"other": None}
    ),
    "by hand: guided diffusion, super-resolution": Entry(
        "",
        SuperResModel,
        Truth(_THREE, _SHARPENED, (1, 2)),
        {"given": True, "arrange": _noisy_and_small},
    ),
    "by hand: nnFormer": Entry(
        "", NNFormer, Truth(FIVE, _CUBED, (1, 2, 3, 4)), {**_CUBES, "other": None}
    ),
    "by hand: DiffIR": Entry("", DiffIR, Truth(_FOUR, _told(), (1, 2, 3))),
    "by hand: NeWCRFs": Entry("", NeWCRFs, Truth((1, 4, 8, 16, 32), _FIELDS, (2, 3, 4))),
    "by hand: 3D-GAN, an autoencoder": Entry(
        "",
        VoxelAutoencoder,
        Truth(_FOUR, _VOXELS, (1, 2, 3)),
        {**_CUBES, "other": None, "given": True, "arrange": _no_channels},
    ),
    "by hand: ZoomNet": Entry(
        "",
        ZoomNet,
        Truth(HALVES, _ZOOMED, ALL),
        {"size": (192, 192), "other": (192, 288), "given": True, "arrange": _three_sizes},
    ),
    "by hand: MINet": Entry(
        "",
        MINet,
        Truth(SIXTY_FOURTH, _exchanged(), (1, 2, 3, 4, 5, 6)),
        {"size": (128, 128), "other": (128, 192)},
    ),
    "by hand: SurfaceNet": Entry(
        "",
        SurfaceNet,
        Truth(_THREE, _SURFACE, (1, 2)),
        {"channels": 6, "size": (32, 32, 32), "other": (32, 48, 32)},
    ),
    # 257 frequencies, at any number of times; no stride is along these
    "by hand: GTCRN": Entry(
        "",
        GTCRN,
        Truth(((1, 1), (1, 2), (1, 4)), _SPEECH, (1, 2)),
        {"channels": 2, "size": (257, 40), "other": (257, 64), "given": True, "arrange": _spectrum},
    ),
    "by hand: Informer": Entry(
        "",
        Informer,
        Truth(_THREE, _DISTILLED, (1, 2)),
        {**_SERIES, "other": (128,), "arrange": _half_known},
    ),
    "by hand: KinD": Entry("", KinD, Truth(_FOUR, _LIT, (1, 2, 3))),
    "by hand: SR3": Entry(
        "",
        SR3,
        Truth(_THREE, _REPEATED, (1, 2)),
        {
            "channels": 6,
            "extra": lambda batch: {"time": torch.linspace(0.1, 0.9, batch)[:, None]},
        },
    ),
}
"""All of them, by name."""

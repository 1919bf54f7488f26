"""A seventh list: ten networks of packages, seven written by hand as their papers describe them.

None was read here before, and this was written down before the first run. What came out at the
first reading stands in ``docs/matrix_reading.md`` as it was. Three more that stood here were in the
fifth list already, and were taken out when that was seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.more import Entry, network_of
from matrix.truth import HALVES, Truth

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)


# of packages -------------------------------------------------------------------------------------
# the features of VGG11, named a second time by the network
_TERNAUS = {
    "encoder.0": "encoder 0",
    "encoder.3": "encoder 1",
    **{f"encoder.{i}": "encoder 2" for i in (6, 8)},
    **{f"encoder.{i}": "encoder 3" for i in (11, 13)},
    **{f"encoder.{i}": "encoder 4" for i in (16, 18)},
    "center.block.0": "bottleneck",
    "center.block.1": "decoder 4",
    **{f"dec{i}.block.0": f"decoder {i - 1}" for i in range(2, 6)},
    **{f"dec{i}.block.1": f"decoder {i - 2}" for i in range(2, 6)},
    "dec1": "decoder 0",
    "final": "head",
}
# a block strides in its second convolution and in its shortcut, and comes up in its first
_PARSENET = {
    "encoder.0": "encoder 0",
    "encoder.1": "encoder 1",
    "encoder.1.conv1": "encoder 0",
    "encoder.2": "bottleneck",
    "encoder.2.conv1": "encoder 1",
    "body": "bottleneck",
    "decoder.0": "decoder 1",
    "decoder.1": "decoder 0",
    "out_img_conv": "head",
    "out_mask_conv": "head",
}
_ENHANCE = {
    "input_proj": "encoder 0",
    "encoder_blocks.0": "encoder 0",
    "encoder_blocks.1": "encoder 1",
    "middle_blocks": "bottleneck",
    "decoder_blocks.0": "decoder 1",
    "decoder_blocks.1": "decoder 0",
    "head.0": "decoder 0",
    "head.2": "head",
}
_TOPAZ = {
    **{f"enc{i + 1}": f"encoder {i}" for i in range(5)},
    "enc6": "bottleneck",
    **{f"dec{i + 1}": f"decoder {i}" for i in range(5)},
    "dec1.4": "head",
}
# Fourier convolutions at the bottom
_LAMA = {
    "model.1": "encoder 0",
    "model.2": "encoder 1",
    "model.3": "bottleneck",
    "model.4": "bottleneck",
    "model.6": "decoder 1",
    "model.7": "decoder 1",
    "model.9": "decoder 0",
    "model.10": "decoder 0",
    "model.13": "head",
}
_FASTMRI = {
    **{f"down_sample_layers.{i}": f"encoder {i}" for i in range(3)},
    "conv": "bottleneck",
    **{f"up_transpose_conv.{i}": f"decoder {2 - i}" for i in range(3)},
    **{f"up_conv.{i}": f"decoder {2 - i}" for i in range(3)},
    "up_conv.2.1": "head",
}


def _bands() -> dict[str, str]:
    """Low and high frequencies each have a network; then twice all of them have one."""
    places = {"out": "head", "aux1_out": "head", "aux2_out": "head"}
    places |= {"stg2_bridge": "decoder 0", "stg3_bridge": "decoder 0"}
    for net in ("stg1_low_band_net", "stg1_high_band_net", "stg2_full", "stg3_full"):
        role = "encoder" if net.startswith("stg1") else "decoder"
        path = net if role == "encoder" else f"{net}_band_net"
        for i in range(4):
            deeper = f"{role} {i + 1}" if i < 3 else "bottleneck"
            places |= {
                f"{path}.enc{i + 1}.conv1": f"{role} {i}",
                f"{path}.enc{i + 1}.conv2": deeper,
                f"{path}.dec{i + 1}": f"decoder {i}",
            }
        places[f"{path}.aspp"] = "bottleneck"
    return places


_PHASES = {
    "inc": "encoder 0",
    "in_bn": "encoder 0",
    **{f"down_branch.{i}": f"encoder {i}" for i in range(4)},
    **{f"down_branch.{i}.{j}": f"encoder {i + 1}" for i in range(3) for j in (2, 3)},
    **{f"down_branch.3.{j}": "bottleneck" for j in (2, 3)},
    "down_branch.4": "bottleneck",
    **{f"up_branch.{i}": f"decoder {3 - i}" for i in range(4)},
    "out": "head",
}
_REGISTER = {
    **{f"model.downsampling_conv_blocks.{i}": f"encoder {i}" for i in range(3)},
    "model.lowest_resolution_conv_block": "bottleneck",
    **{f"model.upsampling_conv_blocks.{i}": f"decoder {2 - i}" for i in range(3)},
    "model.out_layer": "decoder 0",
    "flow_layer": "head",
}
_SLEEP = {
    **{f"encoder_blocks.{i}": f"encoder {i}" for i in range(3)},
    "bottom": "bottleneck",
    **{f"decoder_blocks.{i}": f"decoder {2 - i}" for i in range(3)},
    "clf.0": "decoder 0",
    # of one vector for the whole window
    "final_layer.0": "decoder 0 | head",
    "final_layer.2": "head",
}


def _two(image: Tensor) -> tuple[Tensor, Tensor]:
    """All channels but the last one, and that one."""
    return image[:, :-1], image[:, -1:]


# written by hand ---------------------------------------------------------------------------------
_GRIDS: dict[tuple[str, str], Tensor] = {}


def _warp(image: Tensor, flow: Tensor) -> Tensor:
    """Move an image; grids are kept by size, in a dictionary of the module."""
    key = (str(flow.device), str(flow.size()))
    if key not in _GRIDS:
        across = torch.linspace(-1.0, 1.0, flow.shape[3], device=flow.device)
        down = torch.linspace(-1.0, 1.0, flow.shape[2], device=flow.device)
        across = across.view(1, 1, 1, -1).expand(flow.shape[0], -1, flow.shape[2], -1)
        down = down.view(1, 1, -1, 1).expand(flow.shape[0], -1, -1, flow.shape[3])
        _GRIDS[key] = torch.cat([across, down], 1)
    parts = [
        flow[:, 0:1] / ((image.shape[3] - 1.0) / 2.0),
        flow[:, 1:2] / ((image.shape[2] - 1.0) / 2.0),
    ]
    grid = (_GRIDS[key] + torch.cat(parts, 1)).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def _activated(given: int, made: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1), nn.PReLU(made))


class _FlowBlock(nn.Module):
    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(
            _activated(given, width // 2, 2), _activated(width // 2, width, 2)
        )
        self.convblock = nn.Sequential(_activated(width, width), _activated(width, width))
        self.lastconv = nn.ConvTranspose2d(width, 5, 4, 2, 1)

    def forward(self, x: Tensor, flow: Tensor | None, scale: int) -> tuple[Tensor, Tensor]:
        if scale != 1:
            x = F.interpolate(x, scale_factor=1.0 / scale, mode="bilinear")
        if flow is not None:
            small = F.interpolate(flow, scale_factor=1.0 / scale, mode="bilinear") * (1.0 / scale)
            x = torch.cat((x, small), 1)
        x = self.conv0(x)
        x = self.convblock(x) + x
        made = F.interpolate(self.lastconv(x), scale_factor=scale * 2, mode="bilinear")
        return made[:, :4] * scale * 2, made[:, 4:5]


class FrameBetween(nn.Module):
    """IFNet (Huang et al. 2022): the frame between two, by flows refined at three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.block0 = _FlowBlock(6, 8)
        self.block1 = _FlowBlock(13 + 4, 8)
        self.block2 = _FlowBlock(13 + 4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the frame and the flows.

        Args:
            x: Both frames, one behind the other as channels.
        """
        first, second = x[:, :3], x[:, 3:6]
        flow, mask = None, None
        moved, flows = (first, second), []
        for block, scale in ((self.block0, 4), (self.block1, 2), (self.block2, 1)):
            if flow is None or mask is None:
                flow, mask = block(torch.cat((first, second), 1), None, scale)
            else:
                seen = torch.cat((first, second, *moved, mask), 1)
                more, change = block(seen, flow, scale)
                flow, mask = flow + more, mask + change
            flows.append(flow)
            moved = (_warp(first, flow[:, :2]), _warp(second, flow[:, 2:4]))
        assert mask is not None
        share = torch.sigmoid(mask)
        return moved[0] * share + moved[1] * (1 - share), flows


_BETWEEN = {
    "block0.conv0.0": "encoder 3",
    "block0.conv0.1": "bottleneck",
    "block0.convblock": "bottleneck",
    # every flow is returned, and is the sum of those before
    "block0.lastconv": "decoder 3 | head",
    "block1.conv0.0": "decoder 2",
    "block1.conv0.1": "decoder 3",
    "block1.convblock": "decoder 3",
    "block1.lastconv": "decoder 2 | head",
    "block2.conv0.0": "decoder 1",
    "block2.conv0.1": "decoder 2",
    "block2.convblock": "decoder 2",
    "block2.lastconv": "head",
}


def _pairs(given: int, made: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU(True)
    )


class _Denoise(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inc = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=3, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(True),
            _pairs(12, width),
        )
        self.downc0 = nn.Sequential(_pairs(width, 2 * width, 2), _pairs(2 * width, 2 * width))
        self.downc1 = nn.Sequential(_pairs(2 * width, 4 * width, 2), _pairs(4 * width, 4 * width))
        self.upc2 = nn.Sequential(
            _pairs(4 * width, 4 * width),
            nn.Conv2d(4 * width, 8 * width, 3, padding=1, bias=False),
            nn.PixelShuffle(2),
        )
        self.upc1 = nn.Sequential(
            _pairs(2 * width, 2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False),
            nn.PixelShuffle(2),
        )
        self.outc = nn.Sequential(
            _pairs(width, width), nn.Conv2d(width, 3, 3, padding=1, bias=False)
        )

    def forward(self, a: Tensor, b: Tensor, c: Tensor, noise: Tensor) -> Tensor:
        top = self.inc(torch.cat((a, noise, b, noise, c, noise), 1))
        middle = self.downc0(top)
        up = self.upc2(self.downc1(middle))
        out: Tensor = b - self.outc(top + self.upc1(middle + up))
        return out


class FastVideo(nn.Module):
    """FastDVDnet (Tassano et al. 2020): five frames by threes, then the three results."""

    def __init__(self) -> None:
        super().__init__()
        self.temp1 = _Denoise()
        self.temp2 = _Denoise()

    def forward(self, x: Tensor, noise_map: Tensor) -> Tensor:
        """Return the frame in the middle.

        Args:
            x: Five frames, one behind the other as channels.
            noise_map: Strength of the noise at every pixel.
        """
        frames = [x[:, 3 * i : 3 * i + 3] for i in range(5)]
        threes = [self.temp1(*frames[i : i + 3], noise_map) for i in range(3)]
        out: Tensor = self.temp2(*threes, noise_map)
        return out


_VIDEO = {
    **{
        f"temp{i}.{part}": place
        for i, role in ((1, "encoder"), (2, "decoder"))
        for part, place in (
            ("inc", f"{role} 0"),
            ("downc0", f"{role} 1"),
            ("downc1", "bottleneck"),
            ("upc2", "bottleneck"),
            ("upc1", "decoder 1"),
            ("outc", "decoder 0"),
        )
    },
    "temp2.outc.1": "head",
}


class _Separable(nn.Module):
    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(given, given * 2, 3, padding=1, groups=given)
        self.pointwise = nn.Conv2d(given * 2, made, 1)
        self.norm = nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.pointwise(self.depthwise(x))))


class _Attentive(nn.Module):
    """Attention to channels, by their means and maxima, and then to places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width)
        )
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(weight).unsqueeze(2).unsqueeze(3).expand_as(x)
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.norm(self.place(both)))


class SmallAttention(nn.Module):
    """SmaAt-UNet (Trebing et al. 2021) for precipitation: maps handed across are weighted."""

    def __init__(self, widths: tuple[int, ...] = (4, 8, 8)) -> None:
        super().__init__()
        given = (4, *widths)
        self.down = nn.ModuleList(_Separable(a, b) for a, b in zip(given, widths, strict=False))
        self.attention = nn.ModuleList(_Attentive(width) for width in widths)
        self.up = nn.ModuleList((_Separable(16, 4), _Separable(8, 4)))
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next map of the radar.

        Args:
            x: The last four.
        """
        kept = []
        for i, (layer, attention) in enumerate(zip(self.down, self.attention, strict=True)):
            x = layer(F.max_pool2d(x, 2) if i else x)
            kept.append(attention(x))
        x = kept.pop()
        for layer in self.up:
            skip = kept.pop()
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            down, across = skip.size()[2] - x.size()[2], skip.size()[3] - x.size()[3]
            x = F.pad(x, [across // 2, across - across // 2, down // 2, down - down // 2])
            x = layer(torch.cat([skip, x], dim=1))
        out: Tensor = self.out(x)
        return out


_RADAR = {
    "down.0": "encoder 0",
    "down.1": "encoder 1",
    "down.2": "bottleneck",
    "attention.0": "skip 0",
    "attention.1": "skip 1",
    "attention.2": "bottleneck",
    "up.0": "decoder 1",
    "up.1": "decoder 0",
    "out": "head",
}


class Context(nn.Module):
    """CE-Net (Gu et al. 2019): dilated convolutions and pooled pyramids at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _pairs(3, 4, 2)
        self.second = _pairs(4, 8)
        self.third = _pairs(8, 8, 2)
        self.dilated = nn.ModuleList(
            nn.Conv2d(8, 8, 3, padding=rate, dilation=rate) for rate in (1, 3, 5)
        )
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.pyramid = nn.Conv2d(8, 1, 1)
        self.up3 = self._up(11, 8)
        self.up2 = self._up(8, 4)
        self.up1 = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.final = nn.Conv2d(4, 1, 3, padding=1)

    @staticmethod
    def _up(given: int, made: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(given, given // 4, 1),
            nn.BatchNorm2d(given // 4),
            nn.ReLU(),
            nn.ConvTranspose2d(given // 4, given // 4, 3, 2, 1, output_padding=1),
            nn.BatchNorm2d(given // 4),
            nn.ReLU(),
            nn.Conv2d(given // 4, made, 1),
            nn.BatchNorm2d(made),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a probability for every pixel.

        Args:
            x: An image.
        """
        one = self.first(x)
        two = self.second(F.max_pool2d(one, 2))
        x = self.third(two)
        a, b, c = self.dilated
        wide = F.relu(self.pointwise(b(x)))
        wider = F.relu(self.pointwise(b(a(x))))
        widest = F.relu(self.pointwise(c(b(a(x)))))
        x = x + F.relu(a(x)) + wide + wider + widest
        height, width = x.size(2), x.size(3)
        pooled = [
            F.interpolate(
                self.pyramid(F.max_pool2d(x, kernel_size=size, stride=size)),
                size=(height, width),
                mode="bilinear",
                align_corners=False,
            )
            for size in (2, 3, 5)
        ]
        x = self.up3(torch.cat([*pooled, x], 1)) + two
        x = self.up2(x) + one
        return torch.sigmoid(self.final(F.relu(self.up1(x))))


_CONTEXT = {
    "first": "encoder 1",
    "second": "encoder 2",
    "third": "bottleneck",
    "dilated": "bottleneck",
    "pointwise": "bottleneck",
    "pyramid": "bottleneck",
    "up3": "decoder 2",
    **{f"up3.{i}": "bottleneck" for i in (0, 1)},
    "up2": "decoder 1",
    **{f"up2.{i}": "decoder 2" for i in (0, 1)},
    "up1": "decoder 0",
    "final": "head",
}


class BlindDenoiser(nn.Module):
    """CBDNet (Guo et al. 2019): how much noise there is, and then a U-net that takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.ReLU()
        )
        self.inc = _pairs(6, 4)
        self.down1 = nn.Sequential(nn.AvgPool2d(2), _pairs(4, 8))
        self.down2 = nn.Sequential(nn.AvgPool2d(2), _pairs(8, 16))
        self.up1 = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.conv3 = _pairs(8, 8)
        self.up2 = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.conv4 = _pairs(4, 4)
        self.outc = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise of every pixel, and the image without it.

        Args:
            x: An image.
        """
        noise = self.noise(x)
        top = self.inc(torch.cat([x, noise], dim=1))
        middle = self.down1(top)
        up = self.conv3(self._joined(self.up1(self.down2(middle)), middle))
        up = self.conv4(self._joined(self.up2(up), top))
        return noise, self.outc(up) + x

    @staticmethod
    def _joined(up: Tensor, skip: Tensor) -> Tensor:
        down, across = skip.size()[2] - up.size()[2], skip.size()[3] - up.size()[3]
        return skip + F.pad(up, (across // 2, across - across // 2, down // 2, down - down // 2))


_BLIND = {
    "noise.0": "encoder 0",
    # returned, and looked at by all the rest
    "noise.2": "encoder 0 | head",
    "inc": "encoder 0",
    "down1": "encoder 1",
    "down2": "bottleneck",
    "up1": "decoder 1",
    "conv3": "decoder 1",
    "up2": "decoder 0",
    "conv4": "decoder 0",
    "outc": "head",
}


class _Nested(nn.Module):
    """A level of pix2pix with all that is below it inside."""

    def __init__(
        self, outer: int, inner: int, inside: nn.Module | None, given: int | None = None
    ) -> None:
        super().__init__()
        self.outermost = given is not None
        taken = outer if given is None else given
        down: list[nn.Module] = [nn.Conv2d(taken, inner, 4, 2, 1, bias=False)]
        up_given = inner if inside is None else 2 * inner
        up: list[nn.Module] = [
            nn.ReLU(True),
            nn.ConvTranspose2d(up_given, outer, 4, 2, 1, bias=self.outermost),
        ]
        if self.outermost:
            up.append(nn.Tanh())
        else:
            down.insert(0, nn.LeakyReLU(0.2, True))
            if inside is not None:
                down.append(nn.BatchNorm2d(inner))
            up.append(nn.BatchNorm2d(outer))
        middle = [] if inside is None else [inside]
        self.model = nn.Sequential(*down, *middle, *up)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out if self.outermost else torch.cat([x, out], 1)


class Translator(nn.Module):
    """The U-net of pix2pix (Isola et al. 2017), built from the inside out, in place."""

    def __init__(self) -> None:
        super().__init__()
        inside = _Nested(8, 8, None)
        self.model = _Nested(3, 4, _Nested(4, 8, inside), given=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return an image of the other kind.

        Args:
            x: An image.
        """
        out: Tensor = self.model(x)
        return out


_TRANSLATOR = {
    "model.model.0": "encoder 1",
    # a rectifier, what strides, its norm, what is inside
    "model.model.1.model.1": "encoder 2",
    "model.model.1.model.2": "encoder 2",
    "model.model.1.model.3.model.1": "bottleneck",
    "model.model.1.model.3.model.3": "decoder 2",
    "model.model.1.model.3.model.4": "decoder 2",
    "model.model.1.model.5": "decoder 1",
    "model.model.1.model.6": "decoder 1",
    # comes up to the image and is the last one
    "model.model.3": "head | decoder 0",
}


class FastScene(nn.Module):
    """Fast-SCNN (Poudel et al. 2019): the levels down to an eighth serve both branches."""

    def __init__(self) -> None:
        super().__init__()
        self.learn = nn.Sequential(_pairs(3, 4, 2), _pairs(4, 4, 2), _pairs(4, 8, 2))
        self.features = nn.Sequential(_pairs(8, 8, 2), _pairs(8, 16, 2))
        self.pools = nn.ModuleList(nn.Conv2d(16, 4, 1) for _ in (1, 2))
        self.pooled = _pairs(24, 16)
        self.moved = nn.Conv2d(16, 16, 3, padding=4, dilation=4, groups=16)
        self.lower = nn.Conv2d(16, 16, 1)
        self.higher = nn.Conv2d(8, 16, 1)
        self.classifier = nn.Sequential(_pairs(16, 8), nn.Dropout(0.1), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of three classes.

        Args:
            x: An image.
        """
        size = x.size()[2:]
        high = self.learn(x)
        low = self.features(high)
        maps = [low]
        for bins, layer in zip((1, 2), self.pools, strict=True):
            small = layer(F.adaptive_avg_pool2d(low, bins))
            maps.append(F.interpolate(small, low.size()[2:], mode="bilinear", align_corners=True))
        low = self.pooled(torch.cat(maps, 1))
        low = F.interpolate(low, scale_factor=4, mode="bilinear", align_corners=True)
        low = self.lower(F.relu(self.moved(low)))
        x = self.classifier(F.relu(low + self.higher(high)))
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


_SCENE = {
    **{f"learn.{i}": f"encoder {i + 1}" for i in range(3)},
    "features.0": "encoder 4",
    "features.1": "bottleneck",
    "pools": "bottleneck",
    "pooled": "bottleneck",
    "moved": "decoder 3",
    "lower": "decoder 3",
    "higher": "skip 3",
    "classifier": "decoder 3",
    "classifier.2": "head",
}

_PARSING = "facexlib.parsing.parsenet"
_VOCALS = "audio_separator.separator.uvr_lib_v5.vr_network.nets"
_CAPACITY = [(2, 4), (2, 4), (6, 4, 1, 1, 0), (4, 8), (14, 8, 1, 1, 0), (8, 8)]

HELD_BACK_SEVENTH: Mapping[str, Entry] = {
    "ternausnet UNet11": Entry(
        "ternausnet",
        network_of("ternausnet.models", "UNet11", num_filters=32),
        Truth(HALVES, _TERNAUS, (1, 2, 3, 4, 5)),
    ),
    # two outputs
    "facexlib ParseNet": Entry(
        "facexlib",
        network_of(_PARSING, "ParseNet", 64, 64, 16, base_ch=8, res_depth=2, ch_range=[8, 16]),
        Truth(_THREE, _PARSENET, (1, 2)),
    ),
    # of spectrograms; pads to what divides
    "resemble-enhance UNet": Entry(
        "resemble_enhance",
        network_of(
            "resemble_enhance.denoiser.unet", "UNet", 3, 3, num_blocks=2, num_middle_blocks=1
        ),
        Truth(_THREE, _ENHANCE, (1, 2)),
        {"other": (75, 97)},
    ),
    # of micrographs; resized to the size of the skip
    "topaz UDenoiseNet": Entry(
        "topaz",
        network_of("topaz.denoising.models", "UDenoiseNet", nf=4),
        Truth(HALVES, _TOPAZ, (1, 2, 3, 4, 5)),
        {"channels": 1, "other": (75, 97)},
    ),
    # an image and a mask
    "spandrel LaMa": Entry(
        "spandrel",
        network_of("spandrel.architectures.LaMa.__arch.LaMa", "FFCResNetGenerator", 4, 3, 8, 2, 1),
        Truth(_THREE, _LAMA, (1, 2)),
        {"channels": 4, "arrange": _two},
    ),
    # pads where a size is odd
    "fastmri Unet": Entry(
        "fastmri",
        network_of("fastmri.models", "Unet", 1, 1, chans=4, num_pool_layers=3),
        Truth(_FOUR, _FASTMRI, (1, 2, 3)),
        {"channels": 1, "other": (75, 97)},
    ),
    # modules that are called in a way of their own; more comes out while training
    "audio-separator CascadedASPPNet": Entry(
        "audio_separator",
        network_of(
            _VOCALS, "CascadedASPPNet", 128, [*_CAPACITY, (8, 2, 1), (4, 2, 1), (8, 2, 1)], 31191
        ),
        Truth(_FIVE, _bands(), (1, 2, 3, 4)),
        {"channels": 2, "size": (65, 64), "other": (65, 96)},
    ),
    # of seismograms; by four, padded and cropped for one length
    "seisbench PhaseNet": Entry(
        "seisbench",
        network_of("seisbench.models", "PhaseNet"),
        Truth((1, 4, 16, 64, 256), _PHASES, (1, 2, 3, 4)),
        {"channels": 3, "size": (3001,), "other": (3002,)},
    ),
    # two images; the flow is integrated
    "voxelmorph VxmPairwise": Entry(
        "voxelmorph",
        network_of(
            "voxelmorph.nn.models",
            "VxmPairwise",
            ndim=2,
            source_channels=1,
            target_channels=1,
            nb_features=(4, 8, 8),
            integration_steps=3,
        ),
        Truth(_FOUR, _REGISTER, (1, 2, 3)),
        {"channels": 2, "arrange": _two},
    ),
    # of sleep; one answer for a window
    "braindecode USleep": Entry(
        "braindecode",
        network_of(
            "braindecode.models", "USleep", n_chans=2, sfreq=128, depth=3, n_outputs=3, n_times=256
        ),
        Truth(_FOUR, _SLEEP, (1, 2, 3)),
        {"channels": 2, "size": (256,), "other": None},
    ),
    "by hand: the frame between": Entry(
        "",
        FrameBetween,
        Truth(_FIVE, _BETWEEN, (2, 3, 4)),
        {"channels": 6},
    ),
    "by hand: video by threes": Entry(
        "",
        FastVideo,
        Truth(_THREE, _VIDEO, (1, 2)),
        {"channels": 16, "arrange": _two},
    ),
    "by hand: precipitation, weighted skips": Entry(
        "",
        SmallAttention,
        Truth(_THREE, _RADAR, (1, 2)),
        {"channels": 4, "other": (75, 97)},
    ),
    "by hand: context at the bottom": Entry(
        "",
        Context,
        Truth(_FOUR, _CONTEXT, (1, 2, 3)),
    ),
    "by hand: blind denoiser": Entry(
        "",
        BlindDenoiser,
        Truth(_THREE, _BLIND, (1, 2)),
        {"other": (75, 97)},
    ),
    "by hand: pix2pix": Entry(
        "",
        Translator,
        Truth(_FOUR, _TRANSLATOR, (1, 2, 3)),
    ),
    "by hand: fast scenes": Entry(
        "",
        FastScene,
        Truth(HALVES, _SCENE, (4, 5)),
    ),
}
"""All of them, by name."""

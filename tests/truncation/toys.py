"""Small encoder-decoders, each with one thing that makes cutting hard."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


def double(entering, leaving):
    return nn.Sequential(
        nn.Conv2d(entering, leaving, 3, padding=1),
        nn.BatchNorm2d(leaving),
        nn.ReLU(),
        nn.Conv2d(leaving, leaving, 3, padding=1),
        nn.ReLU(),
    )


class Plain(nn.Module):
    """Three levels, any size: pools round down, the decoder resizes to its skip."""

    def __init__(self, width=4):
        super().__init__()
        w = width
        self.down = nn.ModuleList([double(1, w), double(w, 2 * w), double(2 * w, 4 * w)])
        self.up = nn.ModuleList([double(3 * w, w), double(6 * w, 2 * w)])
        self.drop = nn.Dropout(0.2)
        self.head = nn.Conv2d(w, 2, 1)

    def forward(self, x):
        skips = []
        for stage in self.down[:-1]:
            skips.append(stage(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.drop(self.down[-1](x))
        for stage, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear")
            x = stage(torch.cat([skip, x], 1))
        return self.head(x)


class Short(Plain):
    """Its first two levels."""

    def __init__(self, width=4):
        super().__init__(width)
        self.down, self.up = self.down[:2], self.up[:1]


class Small(nn.Module):
    """Two levels and four convolutions, any size: soon read where the network does not matter."""

    def __init__(self, classes=2, width=4):
        super().__init__()
        self.top, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.deep = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up, self.drop = nn.Conv2d(3 * width, width, 3, padding=1), nn.Dropout(0.2)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        skip = self.norm(self.top(x)).relu()
        x = self.drop(self.deep(F.max_pool2d(skip, 2)).relu())
        x = F.interpolate(x, size=skip.shape[2:])
        return self.head(self.up(torch.cat([skip, x], 1)).relu())


class Strided(nn.Module):
    """Strided convolutions round up; addition in place of concatenation; transposed up."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.deep = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), double(16, 16)
        )
        self.up1 = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.up0 = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        a = self.stem(x).relu()
        b = self.down(a).relu()
        c = self.up1(self.deep(b))
        return self.head(
            a + self.up0(b + c[..., : b.shape[2], : b.shape[3]])[..., : a.shape[2], : a.shape[3]]
        )


class Norms(nn.Module):
    """What leaves the cut meets every layer that hands channels on before one mixes them."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = double(4, 8)
        self.group = nn.GroupNorm(4, 12)
        self.batch = nn.BatchNorm2d(12)
        self.instance = nn.InstanceNorm2d(12, affine=True)
        self.prelu = nn.PReLU(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.scale = nn.Parameter(torch.randn(12, 1, 1))
        self.layer = nn.LayerNorm(12)
        self.linear = nn.Linear(12, 6)
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        y = torch.cat([F.interpolate(b, scale_factor=2), a], 1)
        y = self.depthwise(self.prelu(self.instance(self.batch(self.group(y))))) * self.scale
        y = self.linear(self.layer(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.head(F.gelu(y))


class Pyramid(nn.Module):
    """A feature pyramid: several exits at several levels, and outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([double(1, 4), double(4, 6), double(6, 8), double(8, 10)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, 4, 1) for c in (4, 6, 8, 10)])
        self.mix = nn.Conv2d(16, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)
        self.deep_head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        size = x.shape[2:]
        features = []
        for i, stage in enumerate(self.down):
            x = stage(x if i == 0 else F.max_pool2d(x, 2))
            features.append(self.lateral[i](x))
        wide = [F.interpolate(f, size=size, mode="bilinear") for f in features]
        return {
            "mask": self.head(self.mix(torch.cat(wide, 1))),
            "deep": self.deep_head(features[2]),
        }


class Volume(nn.Module):
    """Three dimensions with an anisotropic stride, transposed convolution and instance norm."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU())
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.b = nn.Sequential(
            nn.Conv3d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 16, 3, padding=1)
        )
        self.up = nn.ConvTranspose3d(16, 4, (1, 2, 2), stride=(1, 2, 2))
        self.head = nn.Conv3d(8, 2, 1)

    def forward(self, x):
        a = self.a(x)
        return self.head(torch.cat([a, self.up(self.b(self.pool(a)))], 1))


class Tokens(nn.Module):
    """A transformer with patch merging: tokens, and an image with channels last, cross the cut."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 4, 2, stride=2)
        self.block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.merge = nn.Linear(16, 8)
        self.deep = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True)
        self.project = nn.Linear(8, 4)
        self.mix = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        a = self.embed(x)
        tokens = self.block(a.flatten(2).transpose(1, 2))
        a = tokens.transpose(1, 2).reshape(a.shape)
        b = F.pixel_unshuffle(a, 2).permute(0, 2, 3, 1)
        merged = self.merge(b)
        c = self.project(self.deep(merged.flatten(1, 2)))
        c = c.reshape(*b.shape[:3], 4).permute(0, 3, 1, 2)
        y = self.mix(torch.cat([a, F.interpolate(c, scale_factor=2)], 1))
        return F.interpolate(self.head(y), scale_factor=2)


class Signal(nn.Module):
    """One dimension, weights shared between a kept and a removed layer, a frozen layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(1, 4, 5, padding=2)
        self.mix = nn.Conv1d(4, 4, 3, padding=1)
        self.deep = nn.Sequential(
            nn.Conv1d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(4, 16, 3, padding=1),
            nn.Conv1d(16, 4, 3, padding=1),
        )
        self.deep[0].weight = self.mix.weight
        self.head = nn.Conv1d(8, 1, 1)
        self.a.weight.requires_grad_(False)

    def forward(self, x):
        a = self.mix(self.a(x).relu())
        b = self.deep(F.avg_pool1d(a, 2))
        return self.head(torch.cat([a, F.interpolate(b, scale_factor=2, mode="linear")], 1))


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# name: (factory, example, another size, keep_levels that can be built)
TOYS = {
    "plain": (Plain, image(2, 1, 32, 32), image(2, 1, 45, 38), (1, 2)),
    "strided": (Strided, image(2, 3, 32, 32), image(1, 3, 46, 33), (1, 2)),
    "norms": (Norms, image(2, 1, 16, 16), image(1, 1, 24, 40), (1,)),
    "pyramid": (Pyramid, image(2, 1, 32, 32), image(1, 1, 48, 40), (1, 2, 3)),
    "volume": (Volume, image(2, 1, 8, 16, 16), image(1, 1, 6, 24, 12), (1,)),
    "tokens": (Tokens, image(2, 1, 16, 16), image(1, 1, 24, 16), (2,)),
    "signal": (Signal, image(2, 1, 32), image(3, 1, 48), (1,)),
}


def assessment(state="untrained", **verdicts):
    """An assessment with a verdict, or a verdict and a utilization, for each stage."""
    rows = []
    for stage, given in verdicts.items():
        verdict, utilization = given if isinstance(given, tuple) else (given, float("nan"))
        rows.append(
            SimpleNamespace(
                stage=stage.replace("_", " "),
                verdict=verdict,
                utilization=utilization,
                evidence="response",
                caveat="",
                why="",
                scores=(),
                loss=utilization,
            )
        )
    return SimpleNamespace(verdicts=tuple(rows), state=state, conclusion="")

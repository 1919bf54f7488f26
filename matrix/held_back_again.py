"""Twenty more networks held back: written down when the reader was frozen, read after that.

The first twenty are known by now, and what was wrong about them is mended. These are of libraries'
networks and of kinds that the matrix did not hold. What came out at the first reading stands in
``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.held_back import monai_net
from matrix.kinds import UNET, Kind, UNet, conv, up
from matrix.more import Entry
from matrix.truth import HALVES, Truth

_THREE = (1, 2, 4)
_DOWN = "net.0.1.submodule"
_VOXELMORPH = {
    "net.0.0": "encoder 0",
    f"{_DOWN}.0": "encoder 1",
    # pools, convolves, and is resized back
    f"{_DOWN}.1.submodule": "bottleneck",
    f"{_DOWN}.2": "decoder 1",
    "net.0.2": "decoder 0",
    "net.1.final_conv_0": "decoder 0",
    "net.1.final_conv_out": "head",
}
_VQVAE = {
    "encoder.blocks.0": "encoder 1",
    "encoder.blocks.1": "encoder 1",
    "encoder.blocks.2": "bottleneck",
    "encoder.blocks.3": "bottleneck",
    # the last weights before the commitment loss, which is an output
    "encoder.blocks.4": "bottleneck | head",
    "quantizer": "bottleneck | head",
    "decoder.blocks.0": "bottleneck",
    "decoder.blocks.1": "bottleneck",
    "decoder.blocks.2": "decoder 1",
    "decoder.blocks.3": "decoder 1",
    "decoder.blocks.4": "decoder 0 | head",
}
_OOBLECK = {
    "encoder.conv1": "encoder 0",
    "encoder.block.0": "encoder 0",
    "encoder.block.0.conv1": "encoder 1",
    "encoder.block.1": "encoder 1",
    "encoder.block.1.conv1": "bottleneck",
    "encoder.snake1": "bottleneck",
    "encoder.conv2": "bottleneck",
    "decoder.conv1": "bottleneck",
    "decoder.block.0": "decoder 1",
    "decoder.block.0.snake1": "bottleneck",
    "decoder.block.1": "decoder 0",
    "decoder.block.1.snake1": "decoder 1",
    "decoder.snake1": "decoder 0",
    "decoder.conv2": "head",
}
_UPERNET = {
    "backbone.embedder": "encoder 1",
    "backbone.encoder.stages.0": "encoder 2",
    "backbone.encoder.stages.1": "encoder 3",
    "backbone.encoder.stages.2": "encoder 4",
    "backbone.encoder.stages.3": "bottleneck",
    "decode_head.psp_modules": "bottleneck",
    "decode_head.bottleneck": "bottleneck",
    **{f"decode_head.lateral_convs.{i}": f"skip {i + 2}" for i in range(3)},
    **{f"decode_head.fpn_convs.{i}": f"decoder {i + 2}" for i in range(3)},
    "decode_head.fpn_bottleneck": "decoder 2",
    "decode_head.classifier": "head",
    "auxiliary_head": "dead",
}
_VITMATTE = {
    "backbone": "bottleneck",
    "decoder.convstream.convs.0": "encoder 1",
    "decoder.convstream.convs.1": "encoder 2",
    # feeds nothing deeper but a decoder
    "decoder.convstream.convs.2": "skip 3",
    **{f"decoder.fusion_blocks.{i}": f"decoder {3 - i}" for i in range(4)},
    "decoder.matting_head.matting_convs": "decoder 0",
    "decoder.matting_head.matting_convs.3": "head",
}
_PYRAMID = {
    "body.conv1": "encoder 1",
    "body.bn1": "encoder 1",
    "body.layer1": "encoder 2",
    "body.layer2": "encoder 3",
    "body.layer3": "encoder 4",
    "body.layer4": "bottleneck",
    **{f"lateral.{i}": f"skip {i + 2}" for i in range(3)},
    "lateral.3": "bottleneck",
    "smooth": "decoder 2",
    "out": "head",
}


def _oobleck() -> nn.Module:
    from diffusers import AutoencoderOobleck

    model: nn.Module = AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=4,
        audio_channels=2,
    )
    return model


def _upernet() -> nn.Module:
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 40],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_channels=16, num_labels=2)
    )


def _superpoint() -> nn.Module:
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    return SuperPointForKeypointDetection(
        SuperPointConfig(
            encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=16
        )
    )


def _vitmatte() -> nn.Module:
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting

    backbone = VitDetConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        pretrain_image_size=64,
        patch_size=16,
        num_channels=4,
        out_features=["stage1"],
    )
    config = VitMatteConfig(
        backbone_config=backbone,
        hidden_size=16,
        convstream_hidden_sizes=[8, 8, 8],
        fusion_hidden_sizes=[16, 8, 8, 8],
    )
    return VitMatteForImageMatting(config)


class TimmPyramid(nn.Module):
    """A feature pyramid over what timm's feature extractor returns."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.body = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2, 3, 4))
        self.lateral = nn.ModuleList(nn.Conv2d(n, 16, 1) for n in self.body.feature_info.channels())
        self.smooth, self.out = conv(16, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        found = [layer(f) for layer, f in zip(self.lateral, self.body(x), strict=True)]
        y = found.pop()
        while found:
            y = up(y) + found.pop()
        return up(self.out(self.smooth(y)), 4.0)


class DeformableUNet(UNet):
    """Its middle convolution looks where a plain one tells it to."""

    def __init__(self) -> None:
        from torchvision.ops import DeformConv2d

        super().__init__()
        self.middle = DeformConv2d(8, 16, 3, padding=1)
        self.offset = nn.Conv2d(8, 18, 3, padding=1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top = self.top(x)
        pooled = F.max_pool2d(top, 2)
        middle = F.relu(self.middle(pooled, self.offset(pooled)))
        return top, middle, self.deep(F.max_pool2d(middle, 2))


LIBRARIES: Mapping[str, Entry] = {
    "monai VoxelMorphUNet 2-D": Entry(
        "monai",
        monai_net("VoxelMorphUNet", 2, 2, 8, (8, 8, 16, 16), (8,)),
        Truth(_THREE, _VOXELMORPH, (1, 2)),
        {"channels": 2},
    ),
    "monai VQVAE 2-D": Entry(
        "monai",
        monai_net(
            "VQVAE",
            2,
            1,
            1,
            channels=(8, 16),
            num_res_layers=1,
            num_res_channels=(8, 16),
            downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
            upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            num_embeddings=16,
            embedding_dim=8,
        ),
        Truth(_THREE, _VQVAE, (1, 2)),
        {"channels": 1},
    ),
    "diffusers AutoencoderOobleck": Entry(
        "diffusers",
        _oobleck,
        Truth((1, 2, 8), _OOBLECK, (1, 2)),
        {"channels": 2, "size": (512,), "other": (768,)},
    ),
    "transformers UperNet resnet": Entry(
        "transformers", _upernet, Truth(HALVES, _UPERNET, (3, 4, 5))
    ),
    # keypoints are picked by their values, and nothing comes back up
    "transformers SuperPoint": Entry(
        "transformers", _superpoint, Truth((), {}, (), refusal=("values", "only goes down"))
    ),
    "transformers VitMatte": Entry(
        "transformers", _vitmatte, Truth(HALVES[:5], _VITMATTE, (1, 2, 3, 4)), {"channels": 4}
    ),
    "timm resnet10t, a feature pyramid": Entry(
        "timm", TimmPyramid, Truth(HALVES, _PYRAMID, (3, 4, 5))
    ),
    "torchvision deformable convolution": Entry(
        "torchvision",
        DeformableUNet,
        Truth(_THREE, {**UNET, "offset": "encoder 1"}, (1, 2)),
    ),
}
"""Networks of libraries, by name."""


# written by hand ---------------------------------------------------------------------------------
class ShiftedMLP(UNet):
    """UNeXt: at the bottom, channels are shifted by rows and columns, then mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rows, self.columns = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 32)

    def _shifted(self, x: Tensor, axis: int) -> Tensor:
        parts = x.chunk(4, 1)
        return torch.cat([torch.roll(p, i - 2, axis) for i, p in enumerate(parts)], 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top, middle, deep = super().encode(x)
        height = deep.shape[2]
        tokens = self._shifted(deep, 2).flatten(2).transpose(1, 2)
        y = F.gelu(self.rows(self.norm(tokens))).transpose(1, 2).unflatten(2, (height, -1))
        tokens = self._shifted(y, 3).flatten(2).transpose(1, 2)
        y = self.columns(tokens).transpose(1, 2).unflatten(2, (height, -1))
        return top, middle, deep + y


class Involution(UNet):
    """Every place of the middle level has a kernel of its own, made from its features."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(16, 9, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        batch, channels, height, width = middle.shape
        patches = F.unfold(middle, 3, padding=1).view(batch, channels, 9, height, width)
        middle = (patches * self.kernel(middle).unsqueeze(1)).sum(2)
        return top, middle, self.deep(F.max_pool2d(middle, 2))


class Refinement(nn.Module):
    """The same U-net three times, each time with what it found before."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        found = x.new_zeros(x.shape[0], 2, *x.shape[2:])
        for _ in range(3):
            found = self.net(torch.cat([x, torch.sigmoid(found)], 1))
        return found


class ConvLSTMUNet(UNet):
    """A clip, frame by frame; a convolutional LSTM at the bottom remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(64, 128, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, 3, H, W) to (B, T, 2, H, W)."""
        hidden = cell = None
        found = []
        for frame in x.unbind(1):
            top, middle, deep = self.encode(frame)
            if hidden is None or cell is None:
                hidden, cell = torch.zeros_like(deep), torch.zeros_like(deep)
            keep, forget, new, show = self.gates(torch.cat([deep, hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(keep) * torch.tanh(new)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            found.append(self.out(self.decode(top, middle, hidden)))
        return torch.stack(found, 1)


class ComplexUNet(nn.Module):
    """Complex numbers from a real and an imaginary image, as in magnetic resonance."""

    def __init__(self) -> None:
        super().__init__()

        def layer(*settings: int) -> nn.Conv2d:
            return nn.Conv2d(*settings, dtype=torch.complex64)

        self.top, self.deep = layer(1, 8, 3, 1, 1), layer(8, 16, 3, 2, 1)
        self.rise = nn.ConvTranspose2d(16, 8, 2, 2, dtype=torch.complex64)
        self.join, self.out = layer(16, 8, 3, 1, 1), layer(8, 1, 1)

    def _bent(self, z: Tensor) -> Tensor:
        return torch.complex(F.relu(z.real), F.relu(z.imag))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2, H, W) to (B, 2, H, W)."""
        top = self._bent(self.top(torch.complex(x[:, :1], x[:, 1:])))
        deep = self._bent(self.deep(top))
        z = self.out(self._bent(self.join(torch.cat([self.rise(deep), top], 1))))
        return torch.cat([z.real, z.imag], 1)


class Hypercolumns(UNet):
    """No decoder: every level is resized and one layer looks at all of them."""

    def __init__(self) -> None:
        super().__init__()
        del self.up1, self.up0
        self.out = nn.Conv2d(56, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        top, middle, deep = self.encode(x)
        return self.out(torch.cat([top, up(middle), up(deep, 4.0)], 1))


class FiLM(UNet):
    """A class scales and shifts the deepest features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.film = nn.Embedding(4, 16), nn.Linear(16, 64)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map (B, 3, H, W) and (B,) to (B, 2, H, W)."""
        top, middle, deep = self.encode(x)
        scale, shift = self.film(self.embed(label))[:, :, None, None].chunk(2, 1)
        return self.out(self.decode(top, middle, deep * (1 + scale) + shift))


class ShapeStream(UNet):
    """A stream at full resolution, gated by the deepest features, as in Gated-SCNN."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.squeeze = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(32, 1, 1)
        self.gate, self.refine = nn.Conv2d(9, 1, 1), conv(8, 8)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        top, middle, deep = self.encode(x)
        stream = F.relu(self.shape(top))
        told = up(self.squeeze(deep), 4.0)
        gated = stream * torch.sigmoid(self.gate(torch.cat([stream, told], 1)))
        return self.out(torch.cat([self.decode(top, middle, deep), self.refine(gated)], 1))


class Flips(nn.Module):
    """The mean over an image and its mirror image, through one network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        return (self.net(x) + self.net(x.flip(-1)).flip(-1)) / 2


class Views(UNet):
    """Several views in a list; the largest feature at each place counts."""

    def forward(self, views: list[Tensor]) -> Tensor:
        """Map a list of (B, 3, H, W) to (B, 2, H, W)."""
        levels = zip(*(self.encode(view) for view in views), strict=True)
        return self.out(self.decode(*(torch.stack(level).amax(0) for level in levels)))


class StochasticDepth(UNet):
    """Two residual blocks at the bottom that are left out by chance while training."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([conv(32, 32), conv(32, 32)])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top, middle, deep = super().encode(x)
        for block in self.blocks:
            y = block(deep)
            if self.training:
                y = y * (torch.rand(deep.shape[0], 1, 1, 1, device=deep.device) < 0.8) / 0.8
            deep = deep + y
        return top, middle, deep


class StateSpace(UNet):
    """A scan over the rows of the deepest features: a decaying sum, as in state-space models."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(32, 64), nn.Linear(32, 32)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top, middle, deep = super().encode(x)
        tokens = deep.flatten(2).transpose(1, 2)
        decay, new = self.enter(tokens).chunk(2, -1)
        log = torch.cumsum(F.logsigmoid(decay), 1)
        # sums of logarithms: the plain ones overflow where a row is long
        state = torch.exp(log + torch.logcumsumexp(torch.log(F.softplus(new)) - log, 1))
        y = self.leave(state).transpose(1, 2).reshape(deep.shape)
        return top, middle, deep + y


_COMPLEX = {
    "top": "encoder 0",
    "deep": "bottleneck",
    "rise": "decoder 0",
    "join": "decoder 0",
    "out": "head",
}
_STREAM = {
    **UNET,
    # feeds only what comes after the deepest level
    "shape": "skip 0",
    "squeeze": "bottleneck",
    "gate": "decoder 0",
    "refine": "decoder 0",
}
_REFINED = {
    **{f"net.{name}": place for name, place in UNET.items()},
    # last in its third call, not in its first
    "net.out": "decoder 0 | head",
}


def _kind(build: type[nn.Module], places: Mapping[str, str], **settings: Any) -> Kind:
    return Kind(build, Truth(_THREE, places, (1, 2)), settings)


BY_HAND: Mapping[str, Kind] = {
    "by hand: UNeXt, shifted rows and columns": _kind(
        ShiftedMLP, {**UNET, "norm": "bottleneck", "rows": "bottleneck", "columns": "bottleneck"}
    ),
    "by hand: involution": _kind(Involution, {**UNET, "kernel": "encoder 1"}),
    "by hand: refinement by the same network": _kind(Refinement, _REFINED),
    "by hand: convolutional LSTM": _kind(
        ConvLSTMUNet,
        {**UNET, "gates": "bottleneck"},
        arrange=lambda x: torch.stack([x, -x], 1),
        given=True,
    ),
    "by hand: complex numbers": Kind(ComplexUNet, Truth((1, 2), _COMPLEX, (1,)), {"channels": 2}),
    "by hand: hypercolumns": _kind(
        Hypercolumns,
        {"top": "encoder 0", "middle": "encoder 1", "deep": "bottleneck", "out": "head"},
    ),
    "by hand: a class scales and shifts": _kind(
        FiLM,
        {**UNET, "embed": "bottleneck", "film": "bottleneck"},
        extra=lambda batch: {"label": torch.arange(batch) % 4},
    ),
    "by hand: shape stream": _kind(ShapeStream, _STREAM),
    "by hand: mean over flips": _kind(
        Flips, {f"net.{name}": place for name, place in UNET.items()}
    ),
    "by hand: views in a list": _kind(
        Views, UNET, arrange=lambda x: ([x, x.flip(-1)],), given=True
    ),
    "by hand: stochastic depth": _kind(StochasticDepth, {**UNET, "blocks": "bottleneck"}),
    "by hand: state space": _kind(
        StateSpace, {**UNET, "enter": "bottleneck", "leave": "bottleneck"}
    ),
}
"""Networks written by hand, by name."""

HELD_BACK_AGAIN: Mapping[str, Entry | Kind] = {**LIBRARIES, **BY_HAND}
"""All of them, by name."""

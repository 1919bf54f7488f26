"""Twenty networks held back: written down before the last work on the reader, read after it.

Most figures of a matrix are those of networks that the reader was mended on. These were not: each
was written down with its truth, from its library's source or its kind's paper, and none was read
before that work was done. What came out stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.kinds import UNET, Kind, UNet, conv, up
from matrix.more import Entry, smp_net
from matrix.truth import HALVES, Truth, mobilenet_v2, nnunet, unet_decoder, widening

_ALL = (1, 2, 3, 4, 5)


# MONAI -------------------------------------------------------------------------------------------
def monai_net(architecture: str, *arguments: Any, module: str = "", **settings: Any) -> Any:
    """A factory of one of MONAI's networks."""

    def build() -> nn.Module:
        import importlib

        nets = importlib.import_module(f"monai.networks.nets{module}")
        factory: Callable[..., nn.Module] = getattr(nets, architecture)
        return factory(*arguments, **settings)

    return build


_MEDNEXT = {
    "stem": "encoder 0",
    "enc_stages.0": "encoder 0",
    "enc_stages.1": "encoder 1",
    # their first, depthwise convolution strides
    "down_blocks.0": "encoder 1",
    "down_blocks.1": "bottleneck",
    "bottleneck": "bottleneck",
    # transposed to one row and column less than twice the size, padded at their end
    "up_blocks.0": "decoder 1",
    "up_blocks.1": "decoder 0",
    "dec_stages.0": "decoder 1",
    "dec_stages.1": "decoder 0",
    "out_0": "head",
}
_INNER = ".1.submodule"
_QUICKNAT = {
    # an encoder pools before its convolutions, a decoder unpools after them
    "model.0": "encoder 0",
    f"model{_INNER}.0": "encoder 1",
    f"model{_INNER * 2}.0": "encoder 2",
    f"model{_INNER * 3}.0": "encoder 3",
    f"model{_INNER * 4}": "bottleneck",
    f"model{_INNER * 3}.2": "decoder 3",
    f"model{_INNER * 2}.2": "decoder 2",
    f"model{_INNER}.2": "decoder 1",
    "model.2": "decoder 0",
    "model.3": "head",
}
_FLEXIBLE = {
    "encoder.conv1": "encoder 1",
    "encoder.bn1": "encoder 1",
    "encoder.layer1": "encoder 2",
    "encoder.layer2": "encoder 3",
    "encoder.layer3": "encoder 4",
    "encoder.layer4": "bottleneck",
    **{f"decoder.blocks.{i}": f"decoder {4 - i}" for i in range(5)},
    # a 1x1 convolution before the interpolation
    "decoder.blocks.0.upsample": "bottleneck",
    **{f"decoder.blocks.{i}.upsample": f"decoder {5 - i}" for i in range(1, 5)},
    "segmentation_head.0": "head",
}
_AUTOENCODER = {
    "encode.encode_0": "encoder 1",
    "encode.encode_1": "encoder 2",
    "encode.encode_2": "bottleneck",
    "decode.decode_0": "decoder 2",
    "decode.decode_1": "decoder 1",
    "decode.decode_2": "decoder 0 | head",
}
_RESTORMER = {
    "patch_embed": "encoder 0",
    "encoder_levels.0": "encoder 0",
    "encoder_levels.1": "encoder 1",
    # a convolution, then four pixels become channels; and the other way round
    "downsamples.0": "encoder 0",
    "downsamples.1": "encoder 1",
    "latent": "bottleneck",
    "upsamples.0": "bottleneck",
    "upsamples.1": "decoder 1",
    "reduce_channels.0": "decoder 1",
    "decoder_levels.0": "decoder 1",
    "decoder_levels.1": "decoder 0",
    "refinement": "decoder 0",
    "output": "head",
}
_SEGRESNET_DS = {
    "encoder.conv_init": "encoder 0",
    "encoder.layers.0.blocks": "encoder 0",
    "encoder.layers.0.downsample": "encoder 1",
    "encoder.layers.1.blocks": "encoder 1",
    "encoder.layers.1.downsample": "bottleneck",
    "encoder.layers.2.blocks": "bottleneck",
    "up_layers.0": "decoder 1",
    # called in both modes, returned while training only
    "up_layers.0.head": "head | dead | none",
    "up_layers.1": "decoder 0",
    "up_layers.1.head": "head",
}


# transformers, diffusers -------------------------------------------------------------------------
def _glpn() -> nn.Module:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 40, 64],
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=16,
    )
    return GLPNForDepthEstimation(config)


def _tiny() -> nn.Module:
    from diffusers import AutoencoderTiny

    model: nn.Module = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    return model


def _vq() -> nn.Module:
    from diffusers import VQModel

    model: nn.Module = VQModel(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        num_vq_embeddings=16,
    )
    return model


_GLPN = {
    # patches of 4; the decoder comes back through one half
    **{
        f"glpn.encoder.{part}.{i}": f"encoder {i + 2}"
        for i in range(3)
        for part in ("patch_embeddings", "block", "layer_norm")
    },
    **{
        f"glpn.encoder.{part}.3": "bottleneck"
        for part in ("patch_embeddings", "block", "layer_norm")
    },
    "decoder.stages.0": "bottleneck",
    **{f"decoder.stages.{i}.convolution": f"skip {5 - i}" for i in (1, 2)},
    **{f"decoder.stages.{i}.fusion": f"decoder {5 - i}" for i in (1, 2, 3)},
    "head.head.0": "decoder 0 | head",
    "head.head.2": "head",
}
_TINY = {
    "encoder.layers.0": "encoder 0",
    "encoder.layers.1": "encoder 0",
    "encoder.layers.2": "encoder 1",
    "encoder.layers.3": "encoder 1",
    **{f"encoder.layers.{i}": "bottleneck" for i in (4, 5, 6)},
    **{f"decoder.layers.{i}": "bottleneck" for i in (0, 2)},
    **{f"decoder.layers.{i}": "decoder 1" for i in (4, 5)},
    **{f"decoder.layers.{i}": "decoder 0" for i in (7, 8)},
    "decoder.layers.9": "head",
}
_VQ = {
    "encoder.conv_in": "encoder 0",
    "encoder.down_blocks.0": "encoder 0",
    "encoder.down_blocks.0.downsamplers": "bottleneck",
    "encoder.down_blocks.1": "bottleneck",
    "encoder.mid_block": "bottleneck",
    "encoder.conv_norm_out": "bottleneck",
    "encoder.conv_out": "bottleneck",
    # the last weights before the commitment loss, which is an output
    "quant_conv": "bottleneck | head",
    "quantize": "bottleneck | head",
    "post_quant_conv": "bottleneck",
    "decoder.conv_in": "bottleneck",
    "decoder.mid_block": "bottleneck",
    "decoder.up_blocks.0": "bottleneck",
    "decoder.up_blocks.0.upsamplers": "decoder 0",
    "decoder.up_blocks.1": "decoder 0",
    "decoder.conv_norm_out": "decoder 0 | head",
    "decoder.conv_out": "head",
}


# segmentation-models-pytorch, timm, dynamic-network-architectures --------------------------------
def _residual_unet() -> nn.Module:
    from dynamic_network_architectures.architectures.unet import ResidualUNet

    model: nn.Module = ResidualUNet(
        1,
        4,
        [8, 16, 24, 32],
        nn.Conv2d,
        3,
        [1, 2, 2, 2],
        1,
        2,
        1,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    return model


_REGNET = {
    "encoder.model.stem": "encoder 1",
    # the 3x3 convolution of a stage's first block strides
    **widening("encoder.model.s1", ("b1.conv1",), "encoder 1", "encoder 2"),
    **widening("encoder.model.s2", ("b1.conv1",), "encoder 2", "encoder 3"),
    **widening("encoder.model.s3", ("b1.conv1",), "encoder 3", "encoder 4"),
    **widening("encoder.model.s4", ("b1.conv1",), "encoder 4", "bottleneck"),
}
_PAN_MOBILENET = {
    # dilated from 1/16 on, where the pyramid attention pools three times more
    **{
        pattern: place.replace("bottleneck", "encoder 4")
        for pattern, place in mobilenet_v2(deepest=4).items()
    },
    "decoder.fpa.branch1": "skip 4",
    "decoder.fpa.mid": "skip 4",
    "decoder.fpa.down1": "encoder 5",
    "decoder.fpa.down2": "encoder 6",
    "decoder.fpa.down3": "bottleneck",
    "decoder.fpa.conv2": "skip 6",
    "decoder.fpa.conv1": "skip 5",
    "decoder.gau3.conv1": "decoder 4",
    "decoder.gau3.conv2": "skip 4",
    "decoder.gau2.conv1": "decoder 4 | decoder 3",
    "decoder.gau2.conv2": "skip 3",
    "decoder.gau1.conv1": "decoder 3 | decoder 2",
    "decoder.gau1.conv2": "skip 2",
    "segmentation_head.0": "head",
}
_NO_DECODER = Truth((), {}, (), refusal=("head", "decoder"))

LIBRARIES: Mapping[str, Entry] = {
    "monai MedNeXt 2-D": Entry(
        "monai",
        monai_net(
            "MedNeXt",
            2,
            8,
            kernel_size=3,
            use_residual_connection=True,
            blocks_down=(1, 1),
            blocks_bottleneck=1,
            blocks_up=(1, 1),
        ),
        Truth((1, 2, 4), _MEDNEXT, (1, 2)),
        {"channels": 1},
    ),
    "monai QuickNAT": Entry(
        "monai",
        monai_net("Quicknat", num_classes=2, num_channels=1, num_filters=8),
        Truth(HALVES[:5], _QUICKNAT, (1, 2, 3, 4)),
        {"channels": 1},
    ),
    "monai FlexibleUNet resnet10": Entry(
        "monai",
        monai_net("FlexibleUNet", 1, 2, "resnet10", decoder_channels=(32, 24, 16, 8, 8)),
        Truth(HALVES, _FLEXIBLE, _ALL),
        {"channels": 1},
    ),
    "monai AutoEncoder 2-D": Entry(
        "monai",
        monai_net("AutoEncoder", 2, 1, 1, (4, 8, 16), (2, 2, 2)),
        Truth(HALVES[:4], _AUTOENCODER, (1, 2, 3)),
        {"channels": 1},
    ),
    "monai Restormer 2-D": Entry(
        "monai",
        monai_net(
            "Restormer",
            2,
            1,
            1,
            module=".restormer",
            dim=8,
            num_blocks=(1, 1, 1),
            heads=(1, 1, 1),
            num_refinement_blocks=1,
        ),
        Truth((1, 2, 4), _RESTORMER, (1, 2)),
        {"channels": 1},
    ),
    "monai SegResNetDS 2-D": Entry(
        "monai",
        monai_net("SegResNetDS", 2, 8, 1, 2, blocks_down=(1, 1, 1), dsdepth=2),
        Truth((1, 2, 4), _SEGRESNET_DS, (1, 2), refusal=("train", "eval")),
        {"channels": 1},
    ),
    "nnU-Net ResidualUNet 2-D deep supervision": Entry(
        "dynamic_network_architectures",
        _residual_unet,
        Truth((1, 2, 4, 8), nnunet(4, True, True), (1, 2, 3)),
        {"channels": 1},
    ),
    "smp Unet regnetx": Entry(
        "segmentation_models_pytorch",
        smp_net("Unet", "tu-regnetx_002"),
        Truth(HALVES, {**_REGNET, **unet_decoder(6)}, _ALL),
    ),
    "smp PAN mobilenet_v2": Entry(
        "segmentation_models_pytorch",
        smp_net("PAN", "mobilenet_v2"),
        Truth((1, 2, 4, 8, 16, 32, 64, 128), _PAN_MOBILENET, (3, 4, 5, 6, 7)),
        {"size": (256, 256), "other": (128, 384)},
    ),
    "smp DeepLabV3 resnet18": Entry(
        "segmentation_models_pytorch", smp_net("DeepLabV3", "resnet18"), _NO_DECODER
    ),
    "transformers GLPN": Entry("transformers", _glpn, Truth(HALVES, _GLPN, _ALL)),
    "diffusers AutoencoderTiny": Entry("diffusers", _tiny, Truth((1, 2, 4), _TINY, (1, 2))),
    "diffusers VQModel": Entry("diffusers", _vq, Truth((1, 2), _VQ, (1,))),
}
"""Networks of libraries, by name."""


# written by hand ---------------------------------------------------------------------------------
class TwoDecoders(UNet):
    """One encoder; a mask by one decoder, a distance by another."""

    def __init__(self) -> None:
        super().__init__()
        self.far1, self.far0, self.distance = conv(48, 16), conv(24, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) to (B, 2, H, W) and (B, 1, H, W)."""
        top, middle, deep = self.encode(x)
        far = self.far1(torch.cat([up(deep), middle], 1))
        far = self.far0(torch.cat([up(far), top], 1))
        return self.out(self.decode(top, middle, deep)), self.distance(far)


class DictionaryUNet(UNet):
    """Takes and returns a dictionary."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map {"image": (B, 3, H, W)} to {"logits": (B, 2, H, W)}."""
        return {"logits": self.out(self.decode(*self.encode(batch["image"])))}


class StandardizedConv(nn.Conv2d):
    """Its kernel is standardised in every forward."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        kernel = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding)


class StandardizedUNet(UNet):
    """Weight standardisation with group norm."""

    def __init__(self) -> None:
        super().__init__()

        def block(channels: int, out: int) -> nn.Sequential:
            return nn.Sequential(
                StandardizedConv(channels, out, 3, padding=1), nn.GroupNorm(4, out), nn.ReLU()
            )

        self.top, self.middle, self.deep = block(3, 8), block(8, 16), block(16, 32)
        self.up1, self.up0 = block(48, 16), block(24, 8)


class Spectral(nn.Module):
    """Multiplies the lowest frequencies with learned complex numbers."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(
            torch.randn(channels, channels, modes, modes, dtype=torch.cfloat)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, H, W)."""
        seen = torch.fft.rfft2(x)
        kept = torch.zeros_like(seen)
        low = seen[:, :, : self.modes, : self.modes]
        kept[:, :, : self.modes, : self.modes] = torch.einsum("bihw,iohw->bohw", low, self.weight)
        return torch.fft.irfft2(kept, s=x.shape[-2:])


class FourierUNet(UNet):
    """A Fourier layer beside the deepest convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral = Spectral(32, 4)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top, middle, deep = super().encode(x)
        return top, middle, F.gelu(deep + self.spectral(deep))


class MIMOUNet(nn.Module):
    """Deblurring: the image enters at three sizes, and comes out at three."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.halved, self.quartered = conv(3, 8), conv(3, 16), conv(3, 32)
        self.down1, self.down2 = conv(8, 16, 2), conv(16, 32, 2)
        self.fuse1, self.fuse2 = conv(32, 16), conv(64, 32)
        self.up1, self.join1 = nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.Conv2d(32, 16, 1)
        self.up0, self.join0 = nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Conv2d(16, 8, 1)
        self.out2, self.out1 = nn.Conv2d(32, 3, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)
        self.out0 = nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to images at a quarter, at one half and at full size."""
        half = F.interpolate(x, scale_factor=0.5)
        quarter = F.interpolate(half, scale_factor=0.5)
        zero = self.top(x)
        one = self.fuse1(torch.cat([self.down1(zero), self.halved(half)], 1))
        two = self.fuse2(torch.cat([self.down2(one), self.quartered(quarter)], 1))
        up_one = self.join1(torch.cat([self.up1(two), one], 1))
        up_zero = self.join0(torch.cat([self.up0(up_one), zero], 1))
        return [self.out2(two) + quarter, self.out1(up_one) + half, self.out0(up_zero) + x]


class Registration(UNet):
    """Moves one image onto another by a field of displacements."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Map two (B, 1, H, W) to the moved image and the field (B, 2, H, W)."""
        field = self.out(self.decode(*self.encode(torch.cat([moving, fixed], 1))))
        height, width = moving.shape[-2:]
        rows = torch.arange(height, device=field.device, dtype=field.dtype)
        columns = torch.arange(width, device=field.device, dtype=field.dtype)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        x, y = x + field[:, 0], y + field[:, 1]
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        return F.grid_sample(moving, grid, align_corners=True), field


class CoarseToFine(nn.Module):
    """A U-net on the halved image; a second on the image and what the first one found."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = UNet(3, 2), UNet(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        found = torch.softmax(self.coarse(F.avg_pool2d(x, 2)), 1)
        return self.fine(torch.cat([x, up(found)], 1))


_MIMO = {
    "top": "encoder 0",
    "halved": "encoder 1",
    "down1": "encoder 1",
    "fuse1": "encoder 1",
    "quartered": "bottleneck",
    "down2": "bottleneck",
    "fuse2": "bottleneck",
    "up1": "decoder 1",
    "join1": "decoder 1",
    "up0": "decoder 0",
    "join0": "decoder 0",
    "out2": "head",
    "out1": "head",
    "out0": "head",
}
_COARSE_TO_FINE = {
    "coarse.top": "encoder 1",
    "coarse.middle": "encoder 2",
    "coarse.deep": "bottleneck",
    "coarse.up1": "decoder 2",
    "coarse.up0": "decoder 1",
    "coarse.out": "decoder 1",
    # all of the second network comes after the deepest level
    "fine.top": "decoder 0",
    "fine.middle": "decoder 1",
    "fine.deep": "decoder 2",
    "fine.up1": "decoder 1",
    "fine.up0": "decoder 0",
    "fine.out": "head",
}
_THREE = (1, 2, 4)
BY_HAND: Mapping[str, Kind] = {
    "by hand: two decoders": Kind(
        TwoDecoders,
        Truth(
            _THREE,
            {**UNET, "far1": "decoder 1", "far0": "decoder 0", "distance": "head"},
            (1, 2),
        ),
        {},
    ),
    "by hand: dictionary in, dictionary out": Kind(
        DictionaryUNet,
        Truth(_THREE, UNET, (1, 2)),
        {"arrange": lambda x: ({"image": x},), "given": True},
    ),
    "by hand: weight standardisation": Kind(StandardizedUNet, Truth(_THREE, UNET, (1, 2)), {}),
    "by hand: Fourier layer at the bottom": Kind(
        FourierUNet, Truth(_THREE, {**UNET, "spectral": "bottleneck"}, (1, 2)), {}
    ),
    "by hand: MIMO-UNet": Kind(MIMOUNet, Truth(_THREE, _MIMO, (1, 2)), {}),
    "by hand: registration": Kind(
        Registration,
        Truth(_THREE, UNET, (1, 2)),
        {"channels": 1, "arrange": lambda x: (x, x.flip(-1))},
    ),
    "by hand: coarse to fine": Kind(
        CoarseToFine, Truth((1, 2, 4, 8), _COARSE_TO_FINE, (1, 2, 3)), {}
    ),
}
"""Networks written by hand, by name."""

HELD_BACK: Mapping[str, Entry | Kind] = {**LIBRARIES, **BY_HAND}
"""All of them, by name."""

"""A twelfth list: twenty networks, thirteen of packages that the matrix did not hold.

Three are of packages that it holds, and four are written by hand as their papers describe them.
None was read here before, and this was written down, from their source, before the first run. What
came out at the first reading stands in ``docs/matrix_reading.md`` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix.more import ALL, Entry, network_of
from matrix.truth import HALVES, Truth, widening

_THREE, _FOUR, _FIVE = (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)
_VECTOR = "encoder 0 | none"  # one vector for all levels


# of new packages ---------------------------------------------------------------------------------
# a block convolves and then pools, so that nothing with weights works at the deepest level
_VOLUMES = {
    "inp": "encoder 0",
    **{f"downs.{i}": f"encoder {i}" for i in range(3)},
    **{f"ups.{i}": f"decoder {2 - i}" for i in range(3)},
    "out": "head",
}
_SMALL = {
    "sig_embed": _VECTOR,
    "conv_in": "encoder 0",
    "downs.0": "encoder 0",
    "downs.0.downsample": "encoder 1",
    "downs.1": "encoder 1",
    "downs.1.downsample": "bottleneck",
    "downs.2": "bottleneck",
    "mid": "bottleneck",
    "ups.0": "bottleneck",
    "ups.0.upsample": "decoder 1",
    "ups.1": "decoder 1",
    "ups.1.upsample": "decoder 0",
    "ups.2": "decoder 0",
    "out_layer.0": "decoder 0 | head",
    "out_layer.2": "head",
}
# the same layers for both images, which are then compared at 441 shifts; flows feed finer ones
_CORRELATED = {
    **{f"feature_encoder.encoder.{i}": f"encoder {i + 1}" for i in range(3)},
    "conv_redirect": "encoder 3",
    "corr_encoder.encoder.0": "encoder 3",
    **{f"corr_encoder.encoder.{i}": f"encoder {(i + 7) // 2}" for i in (1, 2, 3, 4)},
    **{f"corr_encoder.encoder.{i}": "bottleneck" for i in (5, 6)},
    "decoder.predict_flow.0": "bottleneck",
    **{f"decoder.predict_flow.{i}": f"decoder {6 - i}" for i in (1, 2, 3)},
    **{
        f"decoder.{path}.{i}": f"decoder {5 - i}"
        for path in ("upsample_flow", "deconv")
        for i in range(4)
    },
    "decoder.to_flow": "head",
}
# one encoder and one decoder for eighths, quarters, halves and the whole of the image: parts that
# are cut out of it, so that they are as fine as it is
_PATCHES = {
    "DMPHN_list.0.encoders.0.layer1": "encoder 0",
    "DMPHN_list.0.encoders.0.layer2": "encoder 1",
    "DMPHN_list.0.encoders.0.layer3": "bottleneck",
    "DMPHN_list.0.decoders.0.layer1": "bottleneck",
    "DMPHN_list.0.decoders.0.layer1.2": "decoder 1",
    "DMPHN_list.0.decoders.0.layer2": "decoder 1",
    "DMPHN_list.0.decoders.0.layer2.2": "decoder 0",
    "DMPHN_list.0.decoders.0.layer3": "decoder 0",
    # last for the whole image, not for its parts
    "DMPHN_list.0.decoders.0.layer3.2": "decoder 0 | head",
}
_LATENT = {
    "time_embed": _VECTOR,
    **{f"input_blocks.{i}": "encoder 0" for i in (0, 1)},
    **{f"input_blocks.{i}": "encoder 1" for i in (2, 3)},
    **{f"input_blocks.{i}": "bottleneck" for i in (4, 5)},
    "middle_block": "bottleneck",
    **{f"output_blocks.{i}": "bottleneck" for i in (0, 1)},
    "output_blocks.1.2": "decoder 1",
    **{f"output_blocks.{i}": "decoder 1" for i in (2, 3)},
    "output_blocks.3.1": "decoder 0",
    **{f"output_blocks.{i}": "decoder 0" for i in (4, 5)},
    "out.0": "decoder 0 | head",
    "out.2": "head",
}
# strides up to an eighth, and dilates below; its context pools windows of 49
_STREETS = {
    "trunk.early": "encoder 1",
    "trunk.block0": "encoder 2",
    "trunk.block1": "bottleneck",
    **widening("trunk.block1.0", ("conv_pw", "bn1"), "encoder 2", "bottleneck"),
    **{f"trunk.block{i}": "bottleneck" for i in (2, 3, 4, 5)},
    **dict.fromkeys(("aspp_conv1", "aspp_conv2", "conv_up1"), "bottleneck"),
    "convs4": "skip 2",
    "conv_up2": "decoder 2",
    "convs2": "skip 1",
    "conv_up3": "decoder 1",
    "last": "head",
}
# its head is at half, and resized
_TOOLS = {
    "encoder.layer0": "encoder 1",
    **{f"encoder.layer{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    "encoder.layer4": "bottleneck",
    **{f"decoder.blocks.{i}": f"decoder {4 - i}" for i in range(4)},
    "head": "head",
}


def _hooked() -> dict[str, str]:
    """A ResNet as a sequence, whose maps hooks take out; a block widens, and shuffles it up."""
    places = {"layers.0.0": "encoder 1", "layers.0.1": "encoder 1"}
    places |= {f"layers.0.{i}": f"encoder {i - 2}" for i in (4, 5, 6)}
    places |= dict.fromkeys(("layers.0.7", "layers.1", "layers.3"), "bottleneck")
    for i, level in zip((4, 5, 6, 7), (4, 3, 2, 1), strict=True):
        places[f"layers.{i}"] = f"decoder {level}"
        places[f"layers.{i}.bn"] = f"skip {level}"  # of what the hook took
        places[f"layers.{i}.shuf"] = "bottleneck" if i == 4 else f"decoder {level + 1}"
    return places | {"layers.8": "decoder 1", "layers.11": "decoder 0", "layers.12": "head"}


_SOUND = {
    "encoder.block.0": "encoder 0",
    "encoder.block.1": "encoder 0",
    "encoder.block.1.block.4": "encoder 1",
    "encoder.block.2": "encoder 1",
    "encoder.block.2.block.4": "bottleneck",
    **{f"encoder.block.{i}": "bottleneck" for i in (3, 4)},
    "quantizer": "bottleneck",
    "decoder.model.0": "bottleneck",
    "decoder.model.1": "decoder 1",
    "decoder.model.1.block.0": "bottleneck",
    "decoder.model.2": "decoder 0",
    "decoder.model.2.block.0": "decoder 1",
    "decoder.model.3": "decoder 0",
    "decoder.model.4": "head",
}
# the last stride is along one axis alone; the heads of the other levels are for training of theirs
_ORGANS = {
    **{f"conv_blocks_context.{i}": f"encoder {i}" for i in range(5)},
    "conv_blocks_context.5": "bottleneck",
    **{f"upsample_layers.{i}": f"decoder {4 - i}" for i in range(5)},
    **{f"conv_blocks_localization.{i}": f"decoder {4 - i}" for i in range(5)},
    **{f"seg_outputs.{i}": "dead" for i in range(4)},
    "seg_outputs.4": "head",
}
# tokens of 14 x 14 pixels, read four times, enlarged four and two times, kept, and halved
_DEPTH = {
    "net.pretrained": "encoder 4",
    **{f"net.depth_head.projects.{i}": "skip 4" for i in range(3)},
    "net.depth_head.projects.3": "encoder 4",
    "net.depth_head.resize_layers.0": "decoder 2",
    "net.depth_head.resize_layers.1": "decoder 3",
    "net.depth_head.resize_layers.3": "bottleneck",
    **{
        f"net.depth_head.scratch.{name}": place
        for name, place in {
            "layer1_rn": "decoder 2",
            "layer2_rn": "decoder 3",
            "layer3_rn": "skip 4",
            "layer4_rn": "bottleneck",
            "refinenet4": "bottleneck",
            "refinenet4.resConfUnit1": "dead",  # there is nothing to add at the deepest level
            "refinenet4.out_conv": "decoder 4",  # after the resize
            "refinenet3": "decoder 4",
            "refinenet3.resConfUnit1": "skip 4",
            "refinenet3.out_conv": "decoder 3",
            "refinenet2": "decoder 3",
            "refinenet2.out_conv": "decoder 2",
            "refinenet1": "decoder 2",
            "refinenet1.out_conv": "decoder 1",
            "output_conv1": "decoder 1",
            "output_conv2.0": "decoder 0",
            "output_conv2.2": "head",
        }.items()
    },
}
_CODES = {
    "encoder.blocks.input": "encoder 0",
    **{f"encoder.blocks.group_{i}": f"encoder {i - 1}" for i in (1, 2, 3)},
    "encoder.blocks.group_4": "bottleneck",
    "encoder.blocks.output": "bottleneck",
    "decoder.blocks.input": "bottleneck",
    "decoder.blocks.group_1": "bottleneck",
    **{f"decoder.blocks.group_{i}": f"decoder {4 - i}" for i in (2, 3, 4)},
    "decoder.blocks.output": "head",
}


def _streets() -> nn.Module:
    """The package's own network, without the weights that it fetches for its trunk."""
    lraspp = import_module("fastseg.model.lraspp")
    trunk = import_module("fastseg.model.mobilenetv3").MobileNetV3_Small
    fetching = lraspp.get_trunk
    lraspp.get_trunk = lambda trunk_name: (trunk(pretrained=False), 16, 16, 576)
    try:
        model: nn.Module = lraspp.MobileV3Small(2)
    finally:
        lraspp.get_trunk = fetching
    return model


class Assembled(nn.Module):
    """An encoder, a decoder and a head of pytorch-toolbelt, put together as it proposes."""

    def __init__(self) -> None:
        super().__init__()
        encoders = import_module("pytorch_toolbelt.modules.encoders")
        decoders = import_module("pytorch_toolbelt.modules.decoders")
        heads = import_module("pytorch_toolbelt.modules.heads")
        self.encoder = encoders.Resnet18Encoder(pretrained=False, layers=[0, 1, 2, 3, 4])
        self.decoder = decoders.UNetDecoder(
            self.encoder.get_output_spec(), out_channels=(16, 32, 64, 128)
        )
        self.head = heads.ResizeHead(self.decoder.get_output_spec(), num_classes=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        maps = self.decoder(self.encoder(x))
        masks: Tensor = self.head(maps, output_size=x.size()[2:])
        return masks


def _fastai() -> nn.Module:
    """A U-Net over a ResNet that ends before its pool, as ``unet_learner`` makes it."""
    unet = import_module("fastai.vision.models.unet").DynamicUnet
    resnet = import_module("torchvision.models").resnet18(weights=None)
    model: nn.Module = unet(nn.Sequential(*list(resnet.children())[:-2]), 2, (64, 64))
    return model.train()


def _depth() -> nn.Module:
    package = "depth_estimation.models.depth_anything_v2"
    settings = import_module(f"{package}.configuration_depth_anything_v2").DepthAnythingV2Config
    network = import_module(f"{package}.modeling_depth_anything_v2").DepthAnythingV2Model
    model: nn.Module = network(settings("vits"))
    return model


class DiscreteAutoencoder(nn.Module):
    """The encoder and the decoder of DALL-E, with the codes between them, as its notes show."""

    def __init__(self) -> None:
        super().__init__()
        size = {"n_hid": 64, "n_blk_per_group": 1, "vocab_size": 512}
        self.encoder = import_module("dall_e.encoder").Encoder(**size)
        self.decoder = import_module("dall_e.decoder").Decoder(n_init=16, **size)
        self.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        utils = import_module("dall_e.utils")
        codes = torch.argmax(self.encoder(utils.map_pixels(x)), dim=1)
        chosen = F.one_hot(codes, num_classes=self.encoder.vocab_size).permute(0, 3, 1, 2).float()
        statistics = self.decoder(chosen).float()
        image: Tensor = utils.unmap_pixels(torch.sigmoid(statistics[:, :3]))
        return image


# of packages that are there ----------------------------------------------------------------------
_QUAKES = {
    **{f"encoder.convs.{i}": f"encoder {i}" for i in range(7)},
    **dict.fromkeys(("res_cnn_stack", "bi_lstm_stack"), "bottleneck"),
    **dict.fromkeys(("transformer_d0", "transformer_d"), "bottleneck"),
    **dict.fromkeys(("pick_lstms", "pick_attentions"), "bottleneck"),
    **{f"decoder_d.convs.{i}": f"decoder {6 - i}" for i in range(7)},
    **{f"pick_decoders.*.convs.{i}": f"decoder {6 - i}" for i in range(7)},
    "conv_d": "head",
    "pick_convs": "head",
}
# in the first layer of a block the queries are pooled, and what they look at is not
_FUNNEL = {
    "funnel.embeddings": "encoder 0",
    "funnel.encoder.blocks.0": "encoder 0",
    "funnel.encoder.blocks.1": "encoder 1",
    **widening(
        "funnel.encoder.blocks.1.0",
        ("attention.k_head", "attention.v_head"),
        "encoder 0",
        "encoder 1",
    ),
    "funnel.encoder.blocks.2": "bottleneck",
    **widening(
        "funnel.encoder.blocks.2.0",
        ("attention.k_head", "attention.v_head"),
        "encoder 1",
        "bottleneck",
    ),
    "funnel.decoder": "decoder 0",
    "classifier": "head",
}
_CLIPS = {
    "conv_in": "encoder 0",
    "time_embedding": _VECTOR,
    "transformer_in": "encoder 0",
    "down_blocks.0": "encoder 0",
    "down_blocks.0.downsamplers": "encoder 1",
    "down_blocks.1": "encoder 1",
    "down_blocks.1.downsamplers": "bottleneck",
    "down_blocks.2": "bottleneck",
    "mid_block": "bottleneck",
    "up_blocks.0": "bottleneck",
    "up_blocks.0.upsamplers": "decoder 1",
    "up_blocks.1": "decoder 1",
    "up_blocks.1.upsamplers": "decoder 0",
    "up_blocks.2": "decoder 0",
    "conv_norm_out": "decoder 0 | head",
    "conv_out": "head",
}


def _funnel() -> nn.Module:
    from transformers import FunnelConfig, FunnelForTokenClassification

    config = FunnelConfig(
        vocab_size=32,
        block_sizes=[1, 1, 1],
        num_decoder_layers=1,
        d_model=16,
        n_head=2,
        d_head=8,
        d_inner=32,
    )
    return FunnelForTokenClassification(config)


def _clips() -> nn.Module:
    from diffusers import UNet3DConditionModel

    model: nn.Module = UNet3DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return model


# written by hand ---------------------------------------------------------------------------------
class WindowAttention(nn.Module):
    """Attention within windows of side x side tokens, with a bias for each relative position."""

    def __init__(self, width: int, side: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.bias = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
        apart = at.flatten(1)[:, :, None] - at.flatten(1)[:, None, :] + side - 1
        self.register_buffer("index", apart[0] * (2 * side - 1) + apart[1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Keep (windows, tokens, width); the mask is (windows of an image, tokens, tokens)."""
        windows, tokens, width = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = q * self.scale @ k.transpose(-2, -1)
        bias = self.bias[self.index.view(-1)].view(tokens, tokens, -1)
        attention = attention + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            images = windows // mask.shape[0]
            attention = attention.view(images, mask.shape[0], self.heads, tokens, tokens)
            attention = (attention + mask[None, :, None]).view(-1, self.heads, tokens, tokens)
        x = (attention.softmax(-1) @ v).transpose(1, 2).reshape(windows, tokens, width)
        return self.proj(x)


def _windows(x: Tensor, side: int) -> Tensor:
    """Lay (B, H, W, C) out as (windows, side * side, C)."""
    images, high, wide, width = x.shape
    x = x.view(images, high // side, side, wide // side, side, width)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side * side, width)


class SwinBlock(nn.Module):
    """Attention in windows, shifted in every other block, and two linear layers."""

    def __init__(self, width: int, resolution: int, shift: int, side: int = 4) -> None:
        super().__init__()
        self.resolution, self.side, self.shift = resolution, side, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, side, 2)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        mask = None
        if shift:
            regions = torch.zeros(1, resolution, resolution, 1)
            count = 0
            parts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
            for rows in parts:
                for columns in parts:
                    regions[:, rows, columns] = count
                    count += 1
            flat = _windows(regions, side).squeeze(-1)
            apart = flat.unsqueeze(1) - flat.unsqueeze(2)
            mask = apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, H * W, width)."""
        side, shift = self.side, self.shift
        high = wide = self.resolution
        images, tokens, width = x.shape
        if tokens != high * wide:
            raise ValueError("The input has another size than the network was built for.")
        y = self.norm1(x).view(images, high, wide, width)
        if shift:
            y = torch.roll(y, shifts=(-shift, -shift), dims=(1, 2))
        y = self.attn(_windows(y, side), self.mask)
        y = y.view(images, high // side, wide // side, side, side, width)
        y = y.permute(0, 1, 3, 2, 4, 5).contiguous().view(images, high, wide, width)
        if shift:
            y = torch.roll(y, shifts=(shift, shift), dims=(1, 2))
        x = x + y.view(images, tokens, width)
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.norm, self.reduce = (
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, 2 * width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H * W, C) to (B, H * W / 4, 2 * C)."""
        images, _, width = x.shape
        x = x.view(images, self.resolution, self.resolution, width)
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = torch.cat(corners, -1).view(images, -1, 4 * width)
        return self.reduce(self.norm(x))


class Expand(nn.Module):
    """One token becomes times x times tokens, of a width that is given."""

    def __init__(self, width: int, out: int, resolution: int, times: int = 2) -> None:
        super().__init__()
        self.resolution, self.times = resolution, times
        self.widen, self.norm = nn.Linear(width, times * times * out, bias=False), nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H * W, C) to (B, H * W * times * times, out)."""
        images, side, times = x.shape[0], self.resolution, self.times
        x = self.widen(x).view(images, side, side, times, times, -1)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous()
        return self.norm(x.view(images, side * side * times * times, -1))


class SwinUNet(nn.Module):
    """U-shaped, of Swin blocks alone (Cao and others, 2021), for one size as there."""

    def __init__(self, size: int = 64, width: int = 16, classes: int = 2) -> None:
        super().__init__()
        side = size // 4
        self.side = side
        self.embed, self.embed_norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.down0, self.merge0 = self._stage(width, side), Merge(width, side)
        self.down1, self.merge1 = self._stage(2 * width, side // 2), Merge(2 * width, side // 2)
        self.deep = nn.Sequential(*(SwinBlock(4 * width, side // 4, 0) for _ in range(2)))
        self.deep_norm = nn.LayerNorm(4 * width)
        self.expand1 = Expand(4 * width, 2 * width, side // 4)
        self.fuse1, self.up1 = nn.Linear(4 * width, 2 * width), self._stage(2 * width, side // 2)
        self.expand0 = Expand(2 * width, width, side // 2)
        self.fuse0, self.up0 = nn.Linear(2 * width, width), self._stage(width, side)
        self.norm = nn.LayerNorm(width)
        self.last = Expand(width, width, side, 4)
        self.out = nn.Conv2d(width, classes, 1, bias=False)

    @staticmethod
    def _stage(width: int, resolution: int) -> nn.Sequential:
        return nn.Sequential(SwinBlock(width, resolution, 0), SwinBlock(width, resolution, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, 64, 64) to (B, 2, 64, 64)."""
        x = self.embed_norm(self.embed(x).flatten(2).transpose(1, 2))
        first = self.down0(x)
        second = self.down1(self.merge0(first))
        x = self.deep_norm(self.deep(self.merge1(second)))
        x = self.up1(self.fuse1(torch.cat([self.expand1(x), second], -1)))
        x = self.up0(self.fuse0(torch.cat([self.expand0(x), first], -1)))
        x = self.last(self.norm(x)).view(x.shape[0], 4 * self.side, 4 * self.side, -1)
        return self.out(x.permute(0, 3, 1, 2))


_SWIN = {
    "embed": "encoder 1",
    "embed_norm": "encoder 1",
    "down0": "encoder 1",
    "merge0": "encoder 2",
    "down1": "encoder 2",
    "merge1": "bottleneck",
    "deep": "bottleneck",
    "deep_norm": "bottleneck",
    "expand1.widen": "bottleneck",
    "expand1.norm": "decoder 2",
    "fuse1": "decoder 2",
    "up1": "decoder 2",
    "expand0.widen": "decoder 2",
    "expand0.norm": "decoder 1",
    "fuse0": "decoder 1",
    "up0": "decoder 1",
    "norm": "decoder 1",
    "last.widen": "decoder 1",
    "last.norm": "decoder 0",
    "out": "head",
}


class ReducedAttention(nn.Module):
    """Attention of every position to keys and values of a coarser map."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj, self.ratio = nn.Linear(width, width), ratio
        if ratio > 1:
            self.sr, self.norm = nn.Conv2d(width, width, ratio, ratio), nn.LayerNorm(width)

    def forward(self, x: Tensor, high: int, wide: int) -> Tensor:
        """Keep (B, H * W, width)."""
        images, tokens, width = x.shape
        q = self.q(x).reshape(images, tokens, 2, width // 2).permute(0, 2, 1, 3)
        if self.ratio > 1:
            seen = x.permute(0, 2, 1).reshape(images, width, high, wide)
            x = self.norm(self.sr(seen).reshape(images, width, -1).permute(0, 2, 1))
        kv = self.kv(x).reshape(images, -1, 2, 2, width // 2).permute(2, 0, 3, 1, 4)
        attention = (q @ kv[0].transpose(-2, -1) * (width // 2) ** -0.5).softmax(-1)
        return self.proj((attention @ kv[1]).transpose(1, 2).reshape(images, tokens, width))


class MixBlock(nn.Module):
    """Attention, and linear layers with a convolution of each channel between them."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = ReducedAttention(width, ratio)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dwconv = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)

    def forward(self, x: Tensor, high: int, wide: int) -> Tensor:
        """Keep (B, H * W, width)."""
        x = x + self.attn(self.norm1(x), high, wide)
        y = self.fc1(self.norm2(x))
        y = y.transpose(1, 2).view(x.shape[0], -1, high, wide)
        y = F.gelu(self.dwconv(y).flatten(2).transpose(1, 2))
        return x + self.fc2(y)


class MixStage(nn.Module):
    """Overlapping patches, blocks and a norm; a map again."""

    def __init__(self, channels: int, width: int, side: int, stride: int, ratio: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, side, stride, side // 2)
        self.embed_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(MixBlock(width, ratio) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H / stride, W / stride)."""
        x = self.embed(x)
        images, _, high, wide = x.shape
        x = self.embed_norm(x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x, high, wide)
        return self.norm(x).reshape(images, high, wide, -1).permute(0, 3, 1, 2).contiguous()


class Residue(nn.Module):
    """Two convolutions, a tenth of which is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, H, W)."""
        return x + 0.1 * self.conv2(F.relu(self.conv1(x)))


class ChangeFormer(nn.Module):
    """What changed between two images, by a transformer for both (Bandara and Patel, 2022)."""

    def __init__(self) -> None:
        super().__init__()
        widths, width = (16, 24, 32), 16
        self.stages = nn.ModuleList(
            [
                MixStage(3, widths[0], 7, 4, 4),
                MixStage(widths[0], widths[1], 3, 2, 2),
                MixStage(widths[1], widths[2], 3, 2, 1),
            ]
        )
        self.linear = nn.ModuleList(nn.Linear(wide, width) for wide in widths)
        self.differences = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * width, width, 3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(width),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
            )
            for _ in widths
        )
        self.fuse = nn.Sequential(nn.Conv2d(3 * width, width, 1), nn.BatchNorm2d(width))
        self.rise1, self.refine1 = nn.ConvTranspose2d(width, width, 4, 2, 1), Residue(width)
        self.rise0, self.refine0 = nn.ConvTranspose2d(width, width, 4, 2, 1), Residue(width)
        self.out = nn.Conv2d(width, 2, 3, padding=1)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps at a quarter, an eighth and a sixteenth."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Map two (B, 3, H, W) to (B, 2, H, W)."""
        found: list[Tensor] = []
        pairs = zip(self.features(before), self.features(after), strict=True)
        for (a, b), linear, difference in zip(pairs, self.linear, self.differences, strict=True):
            both = [linear(x.flatten(2).transpose(1, 2)).permute(0, 2, 1) for x in (a, b)]
            maps = [x.reshape(a.shape[0], -1, a.shape[2], a.shape[3]) for x in both]
            found.append(difference(torch.cat(maps, 1)))
        size = found[0].size()[2:]
        found = [F.interpolate(x, size=size, mode="bilinear") for x in found]
        x = self.refine1(self.rise1(self.fuse(torch.cat(found[::-1], 1))))
        return self.out(self.refine0(self.rise0(x)))


_CHANGED = {
    "stages.0": "encoder 2",
    "stages.1": "encoder 3",
    "stages.2": "bottleneck",
    **{
        f"{path}.{i}": place
        for path in ("linear", "differences")
        for i, place in enumerate(("skip 2", "skip 3", "bottleneck"))
    },
    "fuse": "decoder 2",
    "rise1": "decoder 1",
    "refine1": "decoder 1",
    "rise0": "decoder 0",
    "refine0": "decoder 0",
    "out": "head",
}


class Reflected(nn.Module):
    """A 3x3 convolution that reflects at the border."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.pad, self.conv = nn.ReflectionPad2d(1), nn.Conv2d(channels, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out, H, W)."""
        return self.conv(self.pad(x))


class Monodepth(nn.Module):
    """Disparities at four scales over a ResNet (Godard and others, 2019).

    Its layers are looked up in a dictionary, and kept in a list for its parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = import_module("torchvision.models").resnet18(weights=None)
        down, up = (64, 64, 128, 256, 512), (16, 32, 64, 128, 256)
        self.convs: dict[tuple[str, int, int], nn.Module] = {}
        for i in range(4, -1, -1):
            self.convs["up", i, 0] = Reflected(down[-1] if i == 4 else up[i + 1], up[i])
            self.convs["up", i, 1] = Reflected(up[i] + (down[i - 1] if i else 0), up[i])
        for i in range(4):
            self.convs["disparity", i, 0] = Reflected(up[i], 1)
        self.decoder = nn.ModuleList(self.convs.values())

    def forward(self, x: Tensor) -> dict[tuple[str, int], Tensor]:
        """Map (B, 3, H, W) to disparities (B, 1, H / 2^s, W / 2^s) for s of 0 to 3."""
        net = self.encoder
        x = (x - 0.45) / 0.225
        maps = [net.relu(net.bn1(net.conv1(x)))]
        maps.append(net.layer1(net.maxpool(maps[-1])))
        for layer in (net.layer2, net.layer3, net.layer4):
            maps.append(layer(maps[-1]))
        outputs = {}
        x = maps[-1]
        for i in range(4, -1, -1):
            x = F.elu(self.convs["up", i, 0](x))
            joined = [F.interpolate(x, scale_factor=2, mode="nearest")]
            if i > 0:
                joined += [maps[i - 1]]
            x = F.elu(self.convs["up", i, 1](torch.cat(joined, 1)))
            if i < 4:
                outputs["disparity", i] = torch.sigmoid(self.convs["disparity", i, 0](x))
        return outputs


_MONO = {
    "encoder.conv1": "encoder 1",
    "encoder.bn1": "encoder 1",
    **{f"encoder.layer{i}": f"encoder {i + 1}" for i in (1, 2, 3)},
    "encoder.layer4": "bottleneck",
    "encoder.fc": "dead",
    "decoder.0": "bottleneck",
    **{f"decoder.{i}": f"decoder {5 - i // 2}" for i in (2, 4, 6, 8)},
    **{f"decoder.{i}": f"decoder {4 - i // 2}" for i in (1, 3, 5, 7, 9)},
    **{f"decoder.{i}": "head" for i in (10, 11, 12, 13)},
}


def _convs(channels: int, out: int) -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class ProbabilisticUNet(nn.Module):
    """A U-Net whose last layers take a vector that is drawn for the image (Kohl, 2018)."""

    def __init__(self, latent: int = 6) -> None:
        super().__init__()
        widths = (8, 16, 24, 32)
        pairs = list(zip((1, *widths[:-1]), widths, strict=True))
        self.contract = nn.ModuleList(_convs(a, b) for a, b in pairs)
        self.expand = nn.ModuleList(_convs(widths[i + 1] + widths[i], widths[i]) for i in (2, 1, 0))
        self.prior = nn.ModuleList(_convs(a, b) for a, b in pairs)
        self.moments = nn.Conv2d(widths[-1], 2 * latent, 1)
        self.combine = nn.Sequential(
            nn.Conv2d(widths[0] + latent, 8, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 2, 1),
        )

    def draw(self, x: Tensor) -> Tensor:
        """Draw a vector (B, latent) from what is believed of the image."""
        for i, block in enumerate(self.prior):
            x = block(F.avg_pool2d(x, 2, ceil_mode=True) if i else x)
        x = torch.mean(torch.mean(x, dim=2, keepdim=True), dim=3, keepdim=True)
        mean, deviation = self.moments(x).squeeze(-1).squeeze(-1).chunk(2, dim=1)
        return mean + torch.exp(deviation) * torch.randn_like(mean)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, H, W) to (B, 2, H, W)."""
        drawn = self.draw(x)
        maps = []
        for i, block in enumerate(self.contract):
            x = block(F.avg_pool2d(x, 2, ceil_mode=True) if i else x)
            maps.append(x)
        x = maps.pop()
        for block in self.expand:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = block(torch.cat([x, maps.pop()], 1))
        tiled = drawn[:, :, None, None].expand(-1, -1, x.shape[2], x.shape[3])
        return self.combine(torch.cat([x, tiled], 1))


_PROBABLE = {
    **{f"{path}.{i}": f"encoder {i}" for path in ("contract", "prior") for i in range(3)},
    "contract.3": "bottleneck",
    "prior.3": "bottleneck",
    "moments": "bottleneck | decoder 0",  # one vector, used at the top
    **{f"expand.{i}": f"decoder {2 - i}" for i in range(3)},
    "combine": "decoder 0",
    "combine.4": "head",
}


def _two(image: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second image of a pair."""
    return image[:, :3], image[:, 3:]


def _prompted(batch: int) -> Mapping[str, Any]:
    return {
        "timestep": torch.arange(1, batch + 1),
        "encoder_hidden_states": torch.linspace(-1.0, 1.0, 5 * 16)
        .reshape(1, 5, 16)
        .expand(batch, -1, -1),
    }


HELD_BACK_TWELFTH: Mapping[str, Entry] = {
    "unet3d UNet3d": Entry(
        "unet3d",
        network_of("unet3d.unet3d", "UNet3d", layers=3),
        Truth(_FOUR, _VOLUMES, (1, 2, 3)),
        {"channels": 1, "size": (32, 32, 32), "other": (48, 32, 32)},
    ),
    # built for one size, which it asserts
    "smalldiffusion Unet": Entry(
        "smalldiffusion",
        network_of("smalldiffusion", "Unet", 32, 3, 3, ch=32, ch_mult=(1, 2, 2)),
        Truth(_THREE, _SMALL, (1, 2)),
        {
            "size": (32, 32),
            "other": None,
            "extra": lambda batch: {"sigma": torch.linspace(0.1, 0.9, batch)},
        },
    ),
    "ezflow FlowNetC": Entry(
        "ezflow",
        network_of("ezflow.models", "build_model", "FlowNetC", default=True),
        Truth((1, 2, 4, 8, 16, 32, 64), _CORRELATED, (3, 4, 5, 6)),
        {"channels": 6, "size": (128, 128), "other": (128, 192), "arrange": _two},
    ),
    "dblur StackDMPHN": Entry(
        "dblur",
        network_of("dblur.models.stack_dmphn", "StackDMPHN", num_of_stacks=1),
        Truth(_THREE, _PATCHES, (1, 2)),
    ),
    # a latent of four channels beside one of the image to sharpen
    "opensr-model UNetModel": Entry(
        "opensr_model",
        network_of(
            "opensr_model.denoiser.unet",
            "UNetModel",
            in_channels=8,
            model_channels=32,
            out_channels=4,
            num_res_blocks=1,
            attention_resolutions=[4],
            channel_mult=[1, 2, 2],
            num_head_channels=16,
        ),
        Truth(_THREE, _LATENT, (1, 2)),
        {"channels": 8, "extra": lambda batch: {"timesteps": torch.arange(1, batch + 1)}},
    ),
    # its U-net works on spectrograms that it makes of samples, and returns samples
    "moises-light MoisesLight": Entry(
        "moises_light",
        network_of("moises_light", "MoisesLight", n_rope=1),
        Truth((), {}, (), refusal=("spectrogram",)),
        {"channels": 2, "size": (44100,), "other": (66150,)},
    ),
    # its windows need images of 392 at least
    "fastseg MobileV3Small": Entry(
        "fastseg",
        _streets,
        Truth(_FOUR, _STREETS, (2, 3)),
        {"size": (512, 512), "other": (512, 640)},
    ),
    "pytorch-toolbelt UNetDecoder": Entry(
        "pytorch_toolbelt", Assembled, Truth(HALVES, _TOOLS, (2, 3, 4, 5))
    ),
    "fastai DynamicUnet": Entry("fastai", _fastai, Truth(HALVES, _hooked(), ALL)),
    # any number of samples, padded to a multiple of eight
    "descript-audio-codec DAC": Entry(
        "dac",
        network_of(
            "dac",
            "DAC",
            encoder_dim=8,
            encoder_rates=[2, 4],
            latent_dim=32,
            decoder_dim=32,
            decoder_rates=[4, 2],
            n_codebooks=2,
            codebook_size=16,
            codebook_dim=4,
        ),
        Truth((1, 2, 8), _SOUND, (1, 2)),
        {"channels": 1, "size": (512,), "other": (700,)},
    ),
    "medim STUNet": Entry(
        "medim",
        network_of("medim", "create_model", "STU-Net-S", input_channels=1, num_classes=3),
        Truth((*_FIVE, (16, 16, 32)), _ORGANS, ALL),
        {"channels": 1, "size": (32, 32, 64), "other": (48, 32, 64)},
    ),
    "depth-estimation DepthAnythingV2": Entry(
        "depth_estimation",
        _depth,
        Truth((1, 1.75, 3.5, 7, 14, 28), _DEPTH, ALL),
        {"size": (112, 112), "other": (168, 224)},
    ),
    "dall-e, encoder and decoder": Entry(
        "dall_e", DiscreteAutoencoder, Truth(_FOUR, _CODES, (1, 2, 3))
    ),
    "seisbench EQTransformer": Entry(
        "seisbench",
        network_of("seisbench.models", "EQTransformer"),
        Truth((1, 2, 4, 8, 16, 32, 64, 128), _QUAKES, (1, 2, 3, 4, 5, 6, 7)),
        {"size": (6000,), "other": None},
    ),
    "transformers Funnel": Entry(
        "transformers",
        _funnel,
        Truth(_THREE, _FUNNEL, (1, 2)),
        {
            "channels": 1,
            "size": (64,),
            "other": (32,),
            "given": True,
            "arrange": lambda signal: (9 * signal[:, 0]).long() % 32,
        },
    ),
    # frames are put in the batch; only space is reduced
    "diffusers UNet3DConditionModel": Entry(
        "diffusers",
        _clips,
        Truth(((1, 1, 1), (1, 2, 2), (1, 4, 4)), _CLIPS, (1, 2)),
        {"channels": 4, "size": (3, 32, 32), "other": (4, 48, 32), "extra": _prompted},
    ),
    "by hand: Swin-Unet": Entry(
        "", SwinUNet, Truth((1, 4, 8, 16), _SWIN, (1, 2, 3)), {"other": None}
    ),
    "by hand: changes seen by a transformer": Entry(
        "",
        ChangeFormer,
        Truth(_FIVE, _CHANGED, (1, 2, 3, 4)),
        {"channels": 6, "arrange": _two},
    ),
    "by hand: Monodepth, layers in a dictionary": Entry(
        "torchvision", Monodepth, Truth(HALVES, _MONO, ALL)
    ),
    "by hand: probabilistic U-net": Entry(
        "", ProbabilisticUNet, Truth(_FOUR, _PROBABLE, (1, 2, 3)), {"channels": 1}
    ),
}
"""All of them, by name."""

"""Parameters that stay, and that only an output which is dropped trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan
from weightscope.truncation.untrained import untrained


class Codes(nn.Module):
    """A VQ-VAE of two codebooks, each with a loss of its own."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.returns = returns
        self.top, self.deep = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 4, 2, 1)
        self.codes, self.deep_codes = nn.Embedding(8, 4), nn.Embedding(8, 4)
        self.back, self.join = nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(8, 4, 1)
        self.out = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def quantised(self, x: Tensor, codes: nn.Embedding) -> tuple[Tensor, Tensor]:
        x = x.permute(0, 2, 3, 1)
        distances = (x.flatten(0, 2)[:, None] - codes.weight).pow(2).sum(-1)
        found = codes(distances.argmin(1)).view(x.shape)
        loss = (found.detach() - x).pow(2).mean() + (found - x.detach()).pow(2).mean()
        return (x + (found - x).detach()).permute(0, 3, 1, 2), loss

    def forward(self, x: Tensor) -> Any:
        top = self.top(x)
        deep, below = self.quantised(self.deep(top), self.deep_codes)
        deep = self.back(deep)
        top, above = self.quantised(self.join(torch.cat([deep, top], 1)), self.codes)
        image = self.out(torch.cat([deep, top], 1))
        if self.returns == "parts":
            return image, below, above
        return image, below + above


class Auxiliary(nn.Module):
    """Predictions of two levels that are added, or their means; what is added leaves the cut."""

    def __init__(self, as_loss: bool) -> None:
        super().__init__()
        self.as_loss = as_loss
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.first, self.second = nn.Conv2d(4, 2, 1), nn.Conv2d(8, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = self.top(x).relu()
        deep = self.deep(top).relu()
        first, second = self.first(top), self.second(deep)
        out = self.out(torch.cat([top, self.up(deep)], 1))
        if self.as_loss:
            return out, first.pow(2).mean() + second.pow(2).mean()
        return out, first + F.interpolate(second, scale_factor=2.0)


@pytest.mark.parametrize(
    ("net", "keep", "lost"),
    [
        (Codes("sum"), 2, ("codes.weight",)),
        (Codes("parts"), 2, ()),
        (Auxiliary(as_loss=True), 1, ()),
        (Auxiliary(as_loss=False), 1, ()),
    ],
    ids=["sum of codes", "codes in parts", "sum of losses", "sum of maps"],
)
def test_what_a_dropped_loss_alone_trained_is_named(
    net: nn.Module, keep: int, lost: tuple[str, ...]
) -> None:
    structure = read_structure(net, torch.rand(2, 3, 32, 32))
    cut = find_cut(structure, keep)
    variant = build(structure, make_plan(structure, cut, width=4))
    assert variant.untrained == lost
    assert set(lost) <= set(untrained(structure, cut))
    assert not verify(variant, export=False).failures
    assert ("no longer trained" in repr(variant)) == bool(lost)


def test_a_proposal_says_what_nothing_trains_any_longer() -> None:
    analysis = ws.analyze(Codes("sum"), example_inputs=torch.rand(2, 3, 32, 32), response=False)
    told = {p.keep_levels: p.evidence for p in analysis.proposals}
    assert (
        "it does not return outputs[1], computed in what is removed, and nothing else trains "
        "codes.weight; let the forward return such a loss in parts" in told[2]
    )
    assert "deep_codes" not in told[2]  # which goes

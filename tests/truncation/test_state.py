"""A second input at the bottom of a network, such as the hidden state of a recurrent one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightscope as ws


class Recurrent(nn.Module):
    """Concatenates a map of a quarter of the image's size at its deepest level."""

    def __init__(self, *, first, returns):
        super().__init__()
        self.first, self.returns = first, returns
        self.e0, self.e1, self.e2 = (
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 4), (4, 6), (6, 8))
        )
        self.mix = nn.Conv2d(16, 8, 3, padding=1)
        self.d1, self.d0 = nn.Conv2d(14, 6, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x, h):
        a = self.e0(x).relu()
        b = self.e1(F.max_pool2d(a, 2)).relu()
        c = self.e2(F.max_pool2d(b, 2)).relu()
        c = self.mix(torch.cat([h, c] if self.first else [c, h], 1)).relu()
        u = self.d1(torch.cat([b, F.interpolate(c, scale_factor=2)], 1)).relu()
        y = self.head(self.d0(torch.cat([a, F.interpolate(u, scale_factor=2)], 1)))
        return (y, c) if self.returns else y


@pytest.mark.sample(1)
@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_state_at_the_bottom_enters_beside_what_comes_down(first, returns):
    torch.manual_seed(0)
    model = Recurrent(first=first, returns=returns).eval()
    example = torch.rand(1, 1, 32, 32), torch.rand(1, 8, 8, 8)
    analysis = ws.analyze(model, example_inputs=example, response=False)
    assert [p.refusal for p in analysis.proposals] == [None, None]
    for proposal in analysis.proposals:
        module = proposal.build().module.eval()
        for size in (32, 48, 64):
            x = torch.rand(2, 1, size, size, requires_grad=True)
            h = torch.rand(2, 8, size // 4, size // 4, requires_grad=True)
            found = module(x, h)[0] if returns else module(x, h)
            assert found.shape == (2, 1, size, size)
            reached = torch.autograd.grad(found.sum(), [x, h])
            assert all(bool(grad.any()) for grad in reached)

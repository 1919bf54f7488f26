"""What the default response of a 31 M U-Net costs, in its own forwards at 256 x 256."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_cost import UNet

from weightscope.graph import read_structure
from weightscope.probing import respond_to_synthetic

FORWARDS = 12
"""A response must take less time than this many forwards."""


@pytest.mark.benchmark
@pytest.mark.parametrize("threads", [1], indirect=True)
def test_response_in_forwards(against, threads):
    """With batch norms that have seen images, so that images are matched to them."""
    torch.manual_seed(0)
    model, image = UNet(), torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64) + 0.3)
        model.eval()
        structure = read_structure(model, image)

        def forwards():
            for _ in range(FORWARDS):
                model(image)

        against(
            lambda: respond_to_synthetic(structure), forwards, what="response, 31 M U-Net",
            versus=f"{FORWARDS} forwards at 256 x 256", goal=1.0, rounds=3,
        )  # fmt: skip

"""Draw the pictures of the docs that no study draws: ``python docs/pictures.py``."""

from pathlib import Path

import numpy as np
from PIL import Image

import weightscope as ws
from mpseg_models import create_model
from mpseg_models.photographs import FOLDER as SAMPLES
from studies.sand.scenes import make_scene
from weightscope.report import plot_layer_histograms

FOLDER = Path(__file__).parent / "pictures"


def draw_samples(count: int = 12, side: int = 128) -> None:
    """Write the labelled photographs of `mpseg_models.load_samples`.

    The study's scenes have seeds of the form ``[seed, number]``, so these are none of them.
    """
    for number in range(count):
        scene = make_scene(side, side, seed=900 + number)
        for kind, pixels in (("images", scene.image), ("masks", scene.mask * np.uint8(255))):
            path = SAMPLES / "sand" / kind / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, optimize=True)


def main() -> None:
    """Write every picture; the seed makes them the same on each run."""
    draw_samples()
    FOLDER.mkdir(exist_ok=True)
    analysis = ws.analyze(create_model("unet", seed=0))
    figure = plot_layer_histograms(analysis.histograms, analysis.layers).get_figure(root=True)
    assert figure is not None
    figure.savefig(FOLDER / "untrained-unet.png", dpi=110)


if __name__ == "__main__":
    main()

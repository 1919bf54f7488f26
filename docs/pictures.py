"""Draw the pictures of the docs that no study draws: ``python docs/pictures.py``."""

from pathlib import Path

import weightscope as ws
from mpseg_models import create_model
from weightscope.report import plot_layer_histograms

FOLDER = Path(__file__).parent / "pictures"


def main() -> None:
    """Write every picture; the seed makes them the same on each run."""
    FOLDER.mkdir(exist_ok=True)
    analysis = ws.analyze(create_model("unet", seed=0))
    figure = plot_layer_histograms(analysis.histograms, analysis.layers).get_figure(root=True)
    assert figure is not None
    figure.savefig(FOLDER / "untrained-unet.png", dpi=110)


if __name__ == "__main__":
    main()

"""Does the network that ``shrink`` chooses keep its promise on images that it never saw?

``python studies/shrunk.py --workers 4`` takes the networks of `studies.regained`, lets ``shrink``
choose within a tolerance of 0.02 on 40 validation images, and measures every depth on 80 test
images. The promise is kept where what was chosen loses no more than ``ALLOWED`` there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies import runner, small  # noqa: E402
from studies.evidence_protocol.tasks import TASKS  # noqa: E402
from studies.regained import NETWORKS, SEEDS, skill  # noqa: E402
from studies.small import Network  # noqa: E402
from weightscope import shrink  # noqa: E402

CODE, VERSION = ("studies.shrunk", "studies.small"), 3
"""What decides a result beside the library; and the version, see `small.on_trained`."""

STEPS, ALLOWED = 300, 0.03
"""Of each recovery; and the loss of quality on test images that is allowed."""

METRICS = {"binary": "f1", "classes": "accuracy", "regression": "mse"}


def choose(network: Network, place: runner.Place) -> dict[str, Any]:
    """Shrink one network and measure every depth, and which was chosen."""
    model, kind = small.load(network, place), TASKS[network.task].kind
    learn, validation, test = (
        network.pool(part, small.images(place)) for part in ("train", "validation", "test")
    )
    found = shrink(
        model, images=learn.images, batches=validation.batches(8), metric=METRICS[kind],
        steps=STEPS, random=False, seed=network.seed, progress=False,
    )  # fmt: skip
    chosen, rows = found.chosen or found.whole, []
    whole = skill(network, model, test)
    for one in (found.whole, *found.candidates):
        if one.refusal:
            continue
        kept = whole if one.variant is None else skill(network, one.variant.module, test)
        # a mean square error has no scale of its own: its loss is a share of the skill, as there
        lost = (whole - kept) / (whole if kind == "regression" else 1.0)
        rows.append({
            "network": network.design, "task": network.task, "seed": network.seed,
            "levels": found.whole.keep_levels, "keep": one.keep_levels,
            "macs": one.macs / found.whole.macs,
            "parameters": one.parameters / found.whole.parameters,
            "lost": lost, "promised": one.lost, "error": one.error, "chosen": one is chosen,
            "kept": bool(lost <= ALLOWED),
        })  # fmt: skip
    return {"rows": rows}


def study() -> list[runner.Job]:
    """Two jobs for each network: its training and the search."""
    networks = [Network(*key, seed) for seed in SEEDS for key in NETWORKS]
    return [small.on_trained("shrunk", n, choose, n, VERSION) for n in networks]


def main() -> None:
    """Search; what is finished is found again, also after an interruption."""
    parser = small.parser(__doc__)
    parser.add_argument("--table", type=Path, default=ROOT / "docs/studies/pareto/shrunk.csv")
    options = parser.parse_args()

    def write(found: list[Mapping[str, Any]]) -> None:
        small.write_table([row for result in found for row in result["rows"]], options.table)

    small.carry_out(study(), options, write)


if __name__ == "__main__":
    from studies import shrunk  # a job's address holds the name of its module

    shrunk.main()

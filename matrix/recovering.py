"""Cut every network of the matrix to its fewest levels, recover it for two steps, save and load it.

    python -m matrix.recovering              those that have no row yet
    python -m matrix.recovering hand ENet    those whose name contains one of the words, anew

Two steps teach nothing; what is asked is whether a network that can be cut can be recovered at all,
on a batch of its own inputs, and whether what was saved afterwards answers the same once it is
loaded. The rows are kept in `matrix/recovered.csv`.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matrix.networks import NETWORKS, TRUTHS, Network
from matrix.reading import COMMIT
from weightscope.adapters import pytree
from weightscope.cost import count_costs
from weightscope.errors import WeightscopeError
from weightscope.files import written_atomically
from weightscope.graph import read_structure
from weightscope.statistics import measure_model
from weightscope.truncation import load, propose, save
from weightscope.utilization import assess
from weightscope.wrappers import unwrap

KEPT = Path(__file__).with_name("recovered.csv")
COLUMNS = ("network", "levels", "outcome", "commit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 where nothing that can be cut fails."""
    parser = argparse.ArgumentParser(prog="python -m matrix.recovering", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of a network's name")
    words = parser.parse_args(arguments).words
    rows = {row["network"]: row for row in recoveries()}
    for name, network in NETWORKS.items():
        named = any(word in name for word in words)
        wanted = named or not (words or name in rows)
        if not (wanted and network.installed and TRUTHS[name].legal):
            continue
        levels, outcome = recovered(network)
        rows[name] = dict(zip(COLUMNS, (name, levels, outcome, COMMIT), strict=True))
        print(f"{name}: {levels} levels, {outcome}", flush=True)
        with written_atomically(KEPT) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows[n] for n in NETWORKS if n in rows)
    failed = [row["network"] for row in rows.values() if row["outcome"] != "recovered"]
    print(f"{len(rows)} networks, {len(failed)} of them not recovered: {', '.join(failed) or '-'}")
    return 1 if failed else 0


def recovered(network: Network) -> tuple[int, str]:
    """Cut, recover, save and load one network.

    Returns:
        How many levels were kept, and ``recovered`` or what went wrong.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of third-party code
    try:
        return _recovered(network)
    except WeightscopeError as error:
        return 0, " ".join(f"{type(error).__name__}: {error}".split())
    except Exception as error:  # noqa: BLE001 - what should not happen is a result
        return 0, " ".join(f"raw {type(error).__name__}: {error}".split())[:500]


def _recovered(network: Network) -> tuple[int, str]:
    model = _built(network)
    batch, pair = _inputs(network, model, 6), _inputs(network, model, 2)
    structure = read_structure(model, network.inputs()[0] if network.given else None)
    if structure.sizes != "symbolic":  # it holds for no other size, or number of images at a time
        structure = read_structure(model, pair)
    costs = count_costs(model, structure.inputs)
    proposals = propose(structure, assess(structure, measure_model(model)), costs)
    possible = [proposal for proposal in proposals if proposal.refusal is None]
    if not possible:
        return 0, "no depth is proposed"
    smallest = min(possible, key=lambda proposal: proposal.keep_levels)
    torch.manual_seed(1)
    variant = smallest.build()
    variant.recover([batch], steps=2, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = save(variant, Path(folder) / "small.safetensors")
        loaded = load(path, lambda: _built(network)).module
    before, after = (_outputs(module, pair) for module in (variant.module, loaded))
    same = len(before) == len(after) and all(map(torch.equal, before, after))
    return smallest.keep_levels, "recovered" if same else "answers otherwise once it is loaded"


def _built(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network.build().eval()


def _inputs(network: Network, model: nn.Module, count: int) -> Mapping[str, Any]:
    """A batch as keyword arguments, so that what is given beside the images is given too."""
    args, kwargs = network.inputs(count)
    return dict(inspect.signature(unwrap(model).model.forward).bind(*args, **kwargs).arguments)


def _outputs(module: nn.Module, batch: Mapping[str, Any]) -> list[torch.Tensor]:
    module.eval()
    torch.manual_seed(0)  # of networks that draw
    with torch.no_grad():
        leaves = pytree.tree_leaves(module(**batch))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def recoveries() -> list[dict[str, str]]:
    """The rows that are kept."""
    if not KEPT.exists():
        return []
    with KEPT.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())

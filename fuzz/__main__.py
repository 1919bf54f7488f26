"""Feed hostile inputs to the readers and count what becomes of them.

    python -m fuzz --minutes 5 --seed 0

Exits with 1 where an input came out wrong; such inputs are kept in build/fuzz.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fuzz import bombs, inputs, judge, returned
from weightscope import scan

KEPT = Path("build/fuzz")
KINDS = inputs.KINDS | bombs.KINDS | returned.KINDS


def fuzz(
    seed: int,
    go_on: Callable[[int], bool],
    kinds: tuple[str, ...] = tuple(KINDS),
    first: int = 0,
    examples: dict[str, list[str]] | None = None,
) -> Mapping[str, Counter[str]]:
    """Outcomes by kind of input; the same for the same seed and number.

    Args:
        seed: Of all inputs.
        go_on: Whether to try one more of each kind, by the number of rounds so far.
        kinds: Kinds of inputs.
        first: Number of the first round.
        examples: Filled with what came out wrong.
    """
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        _warm_up(folder)
        number = 0
        while go_on(number):
            for kind in kinds:
                rng = random.Random(f"{seed} {kind} {first + number}")
                files = KINDS[kind](rng)
                outcome, said = judge.judge(kind, files, folder)
                judge.clear(folder)
                counts[kind][outcome] += 1
                if outcome not in judge.RIGHT:
                    _keep(kind, first + number, outcome, said, files)
                if examples is not None:
                    examples.setdefault(f"{kind}: {outcome}", []).append(said)
            number += 1
    return counts


def _warm_up(folder: Path) -> None:
    """Let everything be imported and compiled that the first inputs would pay for."""
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
    for count in (3, 40_000):
        torch.save({str(d): torch.ones(count).to(d) for d in dtypes}, folder / "x.pt")
        scan(folder / "x.pt")


def _keep(kind: str, number: int, outcome: str, said: str, files: inputs.Files) -> None:
    folder = KEPT / f"{kind.replace(', ', '-')}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    print(f"{outcome}: {folder}: {said}", flush=True)


def main() -> int:
    """Run, print the table, and say whether anything came out wrong."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kinds", default="", help="only kinds that begin with this")
    options = parser.parse_args()
    kinds = tuple(kind for kind in KINDS if kind.startswith(options.kinds))
    end = time.monotonic() + 60 * options.minutes
    counts = fuzz(options.seed, lambda _: time.monotonic() < end, kinds, options.first)
    outcomes = [*judge.RIGHT, *judge.WRONG]
    print(
        f"seed {options.seed}, from {options.first}".ljust(22),
        *(f"{o:>27}" for o in ("tried", *outcomes)),
    )
    for kind, counted in counts.items():
        row = [counted.total(), *(counted[o] for o in outcomes)]
        print(kind.ljust(22), *(f"{n:27,}" for n in row))
    total = sum(counts.values(), Counter())
    print("all".ljust(22), *(f"{n:27,}" for n in (total.total(), *(total[o] for o in outcomes))))
    return int(any(total[o] for o in judge.WRONG))


if __name__ == "__main__":
    sys.exit(main())

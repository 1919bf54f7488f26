"""Smaller networks at equal MACs: cut, thinned, pruned by others, or trained from scratch.

``python studies/pareto.py --workers 4`` trains networks (`studies.small`: four tasks, three
designs, three seeds), one job of the runner each, and makes each as small as one of its cuts in
eight ways, another job each; all but the last learn on the same unlabelled images with the same
recovery:

- ``cut``: the cut, recovered. Within one network this is deepest-first too: there is one cut of
  each depth.
- ``cut and thinned``: one level more is kept, recovered for half of the steps, then thinned to the
  same MACs and recovered for the other half.
- ``chosen``: what ``shrink`` would choose: of one network for each depth, cut where that is cheap
  enough, else cut and thinned, and of the whole one thinned by magnitude, the one that agrees best
  with the original on the images that its recovery held back. Four recoveries, where others have
  one.
- ``fewest levels``: of the same networks the one that keeps fewest levels, for it is the fastest,
  of those that are expected to lose at most 5 % of the skill more than the one that is expected to
  lose least. What is expected is the share of the variance of the whole network's probabilities
  that is not matched on the images held back: of a network that errs as little as it can, that is
  the share of its skill that is lost (`docs/decisions/response.md`).
- ``magnitude``, ``Taylor``: Torch-Pruning's own pruner on the whole network, by group magnitude, or
  by first-order Taylor with the gradients of 80 labelled images.
- ``random``: channels drawn at random from the whole network.
- ``scratch``: the cut network with fresh weights, trained on labels for the same MACs as the
  recovery, its original's forwards included.

Both choices use no label and no test image. The rule of the second, and what counts, were written
before any of its figures, as follows. A choice *holds* against a peer on a network if it is not
worse (`against`) and faster; the goal is missed by a choice that holds on less than 80 % of the
networks against any of magnitude, Taylor and random. ``shrink`` takes the second rule, where a
budget alone is asked for, if on the networks of seed 2001 it holds more often than the first
against all three peers together, and is not worse than a peer on at most two networks fewer for
each; else the first stays.

Qualities are skills on 80 test images (above the best answer that needs no network), with 95 %
intervals of 500 resamples of these images, the same for all networks.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies import runner, small  # noqa: E402
from studies.evidence_protocol import training  # noqa: E402
from studies.evidence_protocol.tasks import TASKS, Pool  # noqa: E402
from studies.evidence_protocol.truth import Skill, answers  # noqa: E402
from studies.small import Network  # noqa: E402
from weightscope import analyze  # noqa: E402
from weightscope.cost import count_costs, measure_latency, measure_peak_memory  # noqa: E402
from weightscope.errors import TruncationError  # noqa: E402
from weightscope.truncation import Proposal, Recovery, Variant, whole  # noqa: E402
from weightscope.truncation.couplings import read_couplings  # noqa: E402
from weightscope.truncation.images import read_pool  # noqa: E402
from weightscope.truncation.recovery import recover  # noqa: E402

CODE, VERSION = ("studies.pareto", "studies.small"), 2
"""What decides a result beside the library; and the version, see `small.on_trained`."""

STEPS, BATCH = 300, 2
"""Of each recovery: 600 images, as many as the first cuts were recovered with."""

SHARE = 0.5
"""The cut whose share of the MACs is nearest to this one is the budget of a network; other shares
are asked for by ``--share``."""

RESAMPLES = 500

EXPECTED = 0.05
"""Share of the skill that ``fewest levels`` may be expected to lose more than the best."""

NETWORKS = tuple(
    Network(design, task, seed)
    for seed in (2001, 2002, 2003)
    for task in ("particles", "rings_middle", "patch", "nuclei")
    for design in ("unet", "smp_unet", "nnunet", "group")
)
"""Tiny things, closed outlines, real textures, real nuclei; the zoo's U-net, SMP's on a ResNet,
nnU-Net's, and the zoo's with group normalisations. None of them chose anything in the recovery."""


@dataclass(frozen=True)
class Settings:
    """One comparison.

    Attributes:
        network: Which.
        steps: Of each recovery.
        share: As ``SHARE``.
        ways: Some of ``WAYS``.
    """

    network: Network
    steps: int = STEPS
    share: float = SHARE
    ways: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.network.seed


@dataclass(frozen=True, eq=False)
class Case:
    """A trained network with its images and one of its cuts."""

    settings: Settings
    model: nn.Module
    train: Pool
    proposals: Mapping[int, Proposal]
    keep: int
    made: dict[int, tuple[nn.Module, Recovery] | TruncationError] = field(default_factory=dict)

    @property
    def structure(self) -> Any:
        """Of the trained network."""
        return self.proposals[self.keep].structure

    @property
    def budget(self) -> int:
        """MACs that a smaller network may have: those of the cut."""
        return self.proposals[self.keep].macs

    @property
    def deeper(self) -> int:
        """The least levels that a deeper cut keeps."""
        deeper = [keep for keep in self.proposals if keep > self.keep]
        if not deeper:
            raise ValueError("the cut keeps as much as any cut")
        return min(deeper)

    @cached_property
    def unmatched(self) -> Mapping[int, float]:
        """Share of the variance of the probabilities that candidates miss on what was held back."""
        steps, seed = self.settings.steps, self.settings.seed
        pool = read_pool(self.structure, self.train.images, steps, seed)
        held = torch.cat([pool.inputs(part) for part in pool.held_back])
        goal = answers(self.model, held).sigmoid()
        return {
            keep: float(
                (answers(made[0].eval(), held).sigmoid() - goal).square().mean() / goal.var()
            )
            for keep, made in self.candidates.items()
            if isinstance(made, tuple)
        }

    @cached_property
    def candidates(self) -> Mapping[int, tuple[nn.Module, Recovery] | TruncationError]:
        """By levels kept: each depth and the whole network within the budget; or why not."""
        return {keep: self._found(keep) for keep in (*self.proposals, self.structure.depth)}

    def _found(self, keep: int) -> tuple[nn.Module, Recovery] | TruncationError:
        if keep not in self.made:
            torch.manual_seed(self.settings.seed)
            try:
                self.made[keep] = self._within_budget(keep)
            except TruncationError as reason:
                self.made[keep] = reason
        return self.made[keep]

    def _within_budget(self, keep: int) -> tuple[nn.Module, Recovery]:
        variant, steps = self.begun(keep)
        return variant.module, self.course(variant, steps)

    def begun(self, keep: int) -> tuple[Variant, int]:
        """A depth within the budget, thinned where it must be; and the steps that are left to it.

        Raises:
            TruncationError: It cannot be made.
        """
        steps, is_whole = self.settings.steps, keep == self.structure.depth
        variant = whole(self.structure) if is_whole else self.proposals[keep].build()
        if variant.costs.macs <= self.budget:
            return variant, steps
        first = 0 if is_whole else steps // 2
        if first:
            self.course(variant, first)
        return variant.thin(max_macs=self.budget), steps - first

    def candidate(self, keep: int) -> nn.Module:
        """One of the candidates.

        Raises:
            TruncationError: It could not be made.
        """
        found = self._found(keep)
        if isinstance(found, TruncationError):
            raise found
        return found[0]

    def course(self, variant: Any, steps: int) -> Recovery:
        """Recover a variant in place."""
        found: Recovery = variant.recover(
            self.train.images, steps=steps, seed=self.settings.seed, progress=False
        )
        return found


def prepare(settings: Settings, place: runner.Place) -> Case:
    """Find the cut of one trained network whose MACs are the budget."""
    torch.manual_seed(settings.seed)
    network, model = settings.network, small.load(settings.network, place)
    train = network.pool("train", small.images(place))
    analysis = analyze(model, example_inputs=train.images[:4], response=False)
    legal = {p.keep_levels: p for p in analysis.proposals if p.refusal is None}
    keep = min(legal, key=lambda k: abs(legal[k].macs / analysis.costs.macs - settings.share))
    return Case(settings, model, train, legal, keep)


def compare(settings: Settings, place: runner.Place) -> dict[str, Any]:
    """Make one network small in every way and measure the results."""
    case, network = prepare(settings, place), settings.network
    test = network.pool("test", small.images(place))
    modules: dict[str, nn.Module] = {"whole": case.model}
    failures: dict[str, str] = {}
    for name, make in WAYS.items():
        if settings.ways and name not in settings.ways:
            continue
        try:
            torch.manual_seed(settings.seed)
            modules[name] = make(case).eval()
        except Exception as reason:  # noqa: BLE001 - a way that fails on a network is a result
            failures[name] = f"{type(reason).__name__}: {reason}".splitlines()[0][:200]
        place.tell(f"{name}: {failures.get(name, 'done')}")
    rows = _measure(case, modules, test)
    choosing = "fewest levels" in modules
    return {
        "network": network.design,
        "task": network.task,
        "seed": network.seed,
        "levels": case.structure.depth,
        "keep": case.keep,
        "rows": rows,
        "agreements": {
            str(k): c[1].after.explained for k, c in case.made.items() if isinstance(c, tuple)
        },
        "skills": {
            str(k): _skills(network.task, c[0].eval(), test)[0]
            for k, c in case.made.items()
            if isinstance(c, tuple)
        },
        "unmatched": {str(k): u for k, u in case.unmatched.items()} if choosing else {},
        "failures": failures,
        "threads": torch.get_num_threads(),
    }


# --- the ways ---------------------------------------------------------------------------------


def _cut(case: Case) -> nn.Module:
    return case.candidate(case.keep)


def _cut_and_thinned(case: Case) -> nn.Module:
    return case.candidate(case.deeper)


def _chosen(case: Case) -> nn.Module:
    made = [c for c in case.candidates.values() if isinstance(c, tuple)]
    return max(made, key=lambda c: c[1].after.explained)[0]


def at_random(case: Case) -> Variant:
    """Thinned by channels drawn at random."""
    return whole(case.structure).thin(max_macs=case.budget, by="random", seed=case.settings.seed)


def _fewest_levels(case: Case) -> nn.Module:
    least = min(case.unmatched.values())
    return case.candidate(min(k for k, u in case.unmatched.items() if u <= least + EXPECTED))


def _random(case: Case) -> nn.Module:
    variant = at_random(case)
    case.course(variant, case.settings.steps)
    return variant.module


def pruned(case: Case, importance: Any, graded: bool) -> nn.Module:
    """Torch-Pruning's pruner at the lowest ratio that is within the budget."""
    import torch_pruning

    inputs = case.structure.inputs
    made = {
        part.layer
        for coupling in read_couplings(case.model, inputs)
        for part in coupling.parts
        if part.makes
    }

    def prune(ratio: float) -> nn.Module:
        twin = copy.deepcopy(case.model)
        hasty = [m for m in twin.modules() if getattr(m, "inplace", False)]
        for part in hasty:  # what is written into a view its graph cannot follow
            part.inplace = False
        if graded:
            _add_gradients(case, twin)
        layers = dict(twin.named_modules())
        ends = [
            m
            for name, m in layers.items()
            if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d) and name not in made
        ]
        torch_pruning.pruner.BasePruner(
            twin, inputs.args[0], importance, pruning_ratio=ratio, ignored_layers=ends,
            in_channel_groups={}, out_channel_groups={}, num_heads={},
        ).step()  # fmt: skip
        for part in hasty:
            part.inplace = True
        return twin

    low, high = 0.0, 0.95
    for _ in range(6):
        middle = (low + high) / 2
        within = count_costs(prune(middle), inputs).macs <= case.budget
        low, high = (low, middle) if within else (middle, high)
    module = prune(high).requires_grad_(True)
    module.zero_grad()
    return module


def taught(case: Case, module: nn.Module) -> nn.Module:
    """A pruned network, recovered in place as one that `thin` made of the whole network."""
    recover(
        case.structure, whole(case.structure).plan, module, (), (), case.train.images,
        steps=case.settings.steps, batches=None, loss=None, keys=None,
        progress=False, seed=case.settings.seed, resume=None,
    )  # fmt: skip
    return module


def _add_gradients(case: Case, model: nn.Module) -> None:
    loss = training.make_loss(TASKS[case.settings.network.task], case.train)
    model.requires_grad_(True)
    for first in range(0, 80, 8):
        rows = slice(first, first + 8)
        loss(model(case.train.images[rows]), case.train.targets[rows]).backward()


def by_magnitude(case: Case) -> nn.Module:
    """Pruned by the norm of coupled channels."""
    import torch_pruning

    return pruned(case, torch_pruning.importance.GroupMagnitudeImportance(p=2), graded=False)


def by_taylor(case: Case) -> nn.Module:
    """Pruned by the first order of Taylor's series, with gradients of labelled images."""
    import torch_pruning

    return pruned(case, torch_pruning.importance.GroupTaylorImportance(), graded=True)


def _scratch(case: Case) -> nn.Module:
    module = case.proposals[case.keep].build().module.requires_grad_(True)
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    ratio = case.proposals[case.keep].costs.macs / case.budget
    steps = round(case.settings.steps * (ratio + 3) / 3)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = training.make_loss(TASKS[case.settings.network.task], case.train)
    generator = torch.Generator().manual_seed(case.settings.seed)
    module.train()
    for _ in range(steps):
        picked = torch.randint(len(case.train.images), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss(module(case.train.images[picked]), case.train.targets[picked]).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return module


WAYS: dict[str, Callable[[Case], nn.Module]] = {
    "cut": _cut,
    "cut and thinned": _cut_and_thinned,
    "chosen": _chosen,
    "fewest levels": _fewest_levels,
    "magnitude": lambda case: taught(case, by_magnitude(case)),
    "Taylor": lambda case: taught(case, by_taylor(case)),
    "random": _random,
    "scratch": _scratch,
}

OURS = ("cut", "chosen", "fewest levels")
"""What every other way is compared with."""


# --- what they are worth ----------------------------------------------------------------------


def _measure(case: Case, modules: Mapping[str, nn.Module], test: Pool) -> list[dict[str, Any]]:
    inputs = case.structure.inputs
    different = list(dict.fromkeys(modules.values()))
    times = dict(zip(different, measure_latency(different, inputs, repeats=31), strict=True))
    worth = {module: _skills(case.settings.network.task, module, test) for module in different}
    skills = {name: worth[module] for name, module in modules.items()}
    rows = []
    for name, module in modules.items():
        costs, (one, many) = count_costs(module, inputs), skills[name]
        low, high = np.quantile(many, (0.025, 0.975))
        over = {}
        for own in OURS:
            behind = many - skills[own][1] if own in skills else np.full(len(many), np.nan)
            over[f"over_{own}_low"], over[f"over_{own}_high"] = np.quantile(behind, (0.025, 0.975))
        rows.append(
            {
                "way": name,
                "skill": one,
                "low": low,
                "high": high,
                **over,
                "macs": costs.macs,
                "parameters": costs.parameters,
                "latency": times[module].median,
                "peak_memory": measure_peak_memory(module, inputs),
            }
        )
    return [{k: v if isinstance(v, str) else float(v) for k, v in row.items()} for row in rows]


def _skills(task: str, module: nn.Module, test: Pool) -> tuple[float, NDArray[np.float64]]:
    """Skill on the test images, and on resamples of them."""
    judge, count = Skill(TASKS[task].kind, test), len(test.images)
    outputs: Tensor = answers(module, test.images)
    sums = judge.sums(outputs)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)

    def skill(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return judge.quality(sums, weights) - judge.trivial(weights)

    return float(skill(np.ones((1, count)))[0]), skill(draws.astype(float))


# --- the study --------------------------------------------------------------------------------


def study(
    networks: Sequence[Network], steps: int, share: float, ways: Sequence[str] = ()
) -> list[runner.Job]:
    """Two jobs for each network: its training and the comparison."""
    return [
        small.on_trained("pareto", n, compare, Settings(n, steps, share, tuple(ways)), VERSION)
        for n in networks
    ]


def table(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each network and way, costs as shares of the whole network's."""
    rows = []
    for result in results:
        whole = result["rows"][0]
        about = {k: result[k] for k in ("network", "task", "seed", "levels", "keep")}
        for row in result["rows"]:
            shares = {
                k: row[k] / whole[k] for k in ("macs", "parameters", "latency", "peak_memory")
            }
            rows.append(about | row | shares)
        rows += [about | {"way": way, "failure": why} for way, why in result["failures"].items()]
    return pd.DataFrame(rows)


def against(frame: pd.DataFrame, ours: str = "cut") -> pd.DataFrame:
    """For each other way: on how many networks ours is not worse, faster, both.

    Not worse: the 95 % interval of the other way's skill minus ours does not lie above 0.

    Args:
        frame: What `table` returns.
        ours: One of `OURS`.
    """
    rows = []
    own = frame[(frame.way == ours) & frame.skill.notna()].set_index(["network", "task", "seed"])
    for way in [w for w in WAYS if w not in OURS]:
        other = frame[(frame.way == way) & frame.skill.notna()].set_index(own.index.names)
        shared = other.index.intersection(own.index)
        one, other = own.loc[shared], other.loc[shared]
        alike, faster = other[f"over_{ours}_low"] <= 0, one.latency < other.latency
        rows.append({
            "ours": ours, "way": way, "networks": len(shared),
            "better": int((other[f"over_{ours}_high"] < 0).sum()),
            "not worse": int(alike.sum()), "faster": int(faster.sum()),
            "both": int((alike & faster).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> None:
    """Compare; what is finished is found again, and the tables hold it, also on interruption."""
    parser = small.parser(__doc__)
    parser.add_argument("--tables", type=Path, default=ROOT / "docs/studies/pareto")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--share", type=float, default=SHARE, help="of the MACs, of the budget")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=(), help="by default all")
    parser.add_argument("--name", default="", help="ends the names of the tables")
    parser.add_argument("--only", nargs="+", metavar="DESIGN-TASK-SEED", help="these networks")
    options = parser.parse_args(arguments)
    networks = [n for n in NETWORKS if not options.only or n.name in options.only]

    def write(found: list[Mapping[str, Any]]) -> None:
        frame = table(found)
        options.tables.mkdir(parents=True, exist_ok=True)
        end = "" if options.share == SHARE else f"-{options.share:g}"
        end += f"-{options.name}" if options.name else ""
        frame.to_csv(options.tables / f"methods{end}.csv", index=False, float_format="%.4g")
        counts = pd.concat([against(frame, ours) for ours in OURS])
        counts = counts[counts["networks"] > 0]
        counts.to_csv(options.tables / f"peers{end}.csv", index=False)

    small.carry_out(study(networks, options.steps, options.share, options.ways), options, write)


if __name__ == "__main__":
    from studies import pareto  # a job's address holds the name of its module

    pareto.main()

"""How many cuts each border of the response would call used or unused, and how many wrongly.

Computed from ``cuts.csv`` and ``forms.csv`` beside the page, so no network is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from studies.evidence_protocol import judge
from studies.evidence_protocol.jobs import BEGIN, Job
from studies.evidence_protocol.page import markdown, write_csv
from studies.evidence_protocol.tasks import TASKS
from studies.evidence_protocol.training import archives, load_network, load_pool, training
from studies.evidence_protocol.truth import NEGLIGIBLE
from weightscope.files import written_atomically
from weightscope.graph import read_structure
from weightscope.probing import change, response
from weightscope.probing.outputs import probabilities
from weightscope.thresholds import RESPONDS, RESPONDS_IN_NUMBERS, RESPONSE_BORDER, SILENT

UNUSED = (0.05, 0.08, 0.1, 0.12, 0.14)
USED = {"decision": (0.2, 0.25, 0.3, 0.35, 0.4, 0.5), "number": (0.15, 0.2, 0.25, 0.3, 0.35)}
FIRST = (SILENT, 0.1, 0.12, 0.14, RESPONSE_BORDER, 0.18, 0.2, 0.25)
MIDDLE = (0.1, 0.12, 0.14, RESPONSE_BORDER, 0.18, 0.2, 0.22, 0.25)
CHOSEN = {"unused": SILENT, "decision": RESPONDS, "number": RESPONDS_IN_NUMBERS,
          "middle": RESPONSE_BORDER}  # fmt: skip
CALLED = {
    "unused": "unused, whole interval below",
    "decision": "decisions used, whole interval above",
    "number": "numbers used, whole interval above",
    "middle": "on the wrong side of the middle (of clear truth)",
}
FIGURE = 0.25
"""Utilization below which a cut would come first by its figure alone."""

RANGES = ((0, BEGIN["fifth"]), (BEGIN["fifth"], 10**6))
"""Indices of the networks on which form and borders were chosen, and of those that judge them."""

SETS = tuple(zip(sorted(BEGIN.values()), [*sorted(BEGIN.values())[1:], 10**6], strict=True))
"""Indices of each set of networks that was trained when something had been settled."""

KEYS = {"response": "the model alone", "images": "images"}
FORMS = {"kappa": "1 - kappa of the decisions", "apart": "1 - rho_c of the probabilities"}


BORDERS = {"kappa": (0.05, 0.35), "apart": (SILENT, RESPONDS)}
"""Of decisions: unused below the first, used above the second; of 1 - rho_c its root."""


def groups(cuts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The cuts of skilled networks by their indices."""
    part, found = judge.skilled(cuts), {}
    for first, end in RANGES:
        own = part[(part["index"] >= first) & (part["index"] < end)]
        found[f"index {first} to {min(end - 1, cuts['index'].max())}"] = own
    return {name: own for name, own in found.items() if len(own)}


def in_one_form(cuts: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The cuts with the responses of all decisions in the form that holds now.

    Of networks before those that judge, `form_rows` has their values, the ends of no interval; of
    those without even these, decisions are left out.

    Args:
        cuts: From `judge.score_table`.
        measured: From `form_rows`.
    """
    cuts = cuts.merge(measured, on=["name", "reduction"], how="left")
    for key in KEYS:
        earlier = (cuts["index"] < BEGIN["fifth"]) & (cuts[f"{key}_form"] == "decision")
        for end in ("cut", "low", "high"):
            cuts.loc[earlier, f"{key}_{end}"] = np.sqrt(cuts.loc[earlier, f"{key}:apart"])
    return cuts


# --- borders ----------------------------------------------------------------------------------


def border_table(cuts: pd.DataFrame) -> pd.DataFrame:
    """One row for each group of networks and border: cuts called so, wrong ones, clearly wrong.

    Of the middle, all that it calls so are those on its wrong side.

    Args:
        cuts: From `in_one_form`.
    """
    rows = []
    for group, part in groups(cuts).items():
        used, sure = part["used"].astype(bool), judge.is_clear(part)
        for called, borders in {"unused": UNUSED, **USED, "middle": MIDDLE}.items():
            for border in borders:
                row: dict[str, Any] = {"networks": group, "called": called, "border": border}
                for key in KEYS:
                    if called == "unused":
                        named, wrong = part[f"{key}_high"] < border, used
                    elif called == "middle":
                        wrong = (part[f"{key}_cut"] > border) != used
                        named = wrong = wrong & part[f"{key}_cut"].notna()
                    else:
                        of_form = part[f"{key}_form"] == called
                        named, wrong = of_form & (part[f"{key}_low"] > border), ~used
                    row |= {
                        key: int(named.sum()),
                        f"{key}_wrong": int((named & wrong).sum()),
                        f"{key}_clearly": int((named & wrong & sure).sum()),
                    }
                rows.append(row)
    return pd.DataFrame(rows)


def proposal_table(cuts: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """How often the first proposal would be right if it were the deepest cut surely below a border.

    Where no cut is, the present first proposal stays. One row for each set of networks and border;
    of the networks that have a cut which costs at most 5 % of the skill.

    Args:
        cuts: From `in_one_form`.
        networks: From `judge.network_table`.
    """
    rows = []
    for first, end in RANGES:
        part = judge.skilled(cuts)
        part = part[(part["index"] >= first) & (part["index"] < end)]
        of_network = {name: own.set_index("reduction") for name, own in part.groupby("name")}
        for border in FIRST:
            row: dict[str, Any] = {"networks": f"index {first} to {part['index'].max()}",
                                   "border": border}  # fmt: skip
            for key, way in {"response": "model", "images": "images"}.items():
                own = networks[(networks["way"] == way) & (networks["wanted"] > 0)]
                right = costly = count = 0
                own = own[own["name"].isin(part["name"])]
                for name, now, wanted in zip(own["name"], own["first"], own["wanted"], strict=True):
                    mine = of_network[name]
                    below = mine.index[mine[f"{key}_high"] < border]
                    chosen = below.min() if len(below) else now
                    count += 1
                    right += chosen == wanted
                    costly += mine["lost"].get(chosen, 0.0) > NEGLIGIBLE
                row |= {key: right, f"{key}_costly": costly, f"{key}_networks": count}
            rows.append(row)
    return pd.DataFrame(rows)


def figure_table(cuts: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """How often the first proposal would be right if figures chose it, without their intervals.

    It would be the deepest cut whose own utilization is below `FIGURE`; where none is, the present
    first proposal stays. One row for each set of networks.

    Args:
        cuts: From `judge.score_table`.
        networks: From `judge.network_table`.
    """
    rows = []
    skilled = judge.skilled(cuts)
    for first, end in (*SETS, (0, 10**6)):
        part = skilled[(skilled["index"] >= first) & (skilled["index"] < end)]
        if part.empty:
            continue
        row: dict[str, Any] = {"networks": f"index {part['index'].min()} to {part['index'].max()}"}
        for way in ("model", "images", "metric", "loss"):
            own = networks[(networks["way"] == way) & (networks["wanted"] > 0)]
            own = own[own["state"] == "trained"].set_index("name")
            key = "response" if way == "model" else way
            found = {"now": [0, 0], "then": [0, 0]}
            count = 0
            for name, mine in part[part["name"].isin(own.index)].groupby("name"):
                mine, network = mine.set_index("reduction"), own.loc[name]
                if mine[key].isna().all():
                    continue
                count += 1
                below = mine.index[(mine[key] < FIGURE) & (mine[f"{key}_verdict"] != "used")]
                then = below.min() if len(below) else network["first"]
                for when, chosen in (("now", network["first"]), ("then", then)):
                    found[when][0] += chosen == network["wanted"]
                    found[when][1] += mine["lost"].get(chosen, 0.0) > NEGLIGIBLE
            row[way] = ", ".join(f"{right} ({costly})" for right, costly in found.values())
            row[way] += f" of {count}"
        rows.append(row)
    return pd.DataFrame(rows)


# --- forms ------------------------------------------------------------------------------------


def forms(whole: Tensor, cut: Tensor) -> dict[str, float]:
    """How far two answers that decide are apart, in both forms.

    Args:
        whole: Of the whole network, (images, channels, *sizes).
        cut: Of the cut one.
    """
    p, q = _classes(whole), _classes(cut)
    kinds = len(p)
    before, after = p.argmax(0), q.argmax(0)
    shares = [torch.bincount(d, minlength=kinds).double() / len(d) for d in (before, after)]
    flips = float((before != after).double().mean())
    apart, bias = (p - q).square().mean(1).sum(), (p.mean(1) - q.mean(1)).square().sum()
    spread = p.var(1, unbiased=False).sum() + q.var(1, unbiased=False).sum() + bias
    return {
        "kappa": flips / max(float(1 - (shares[0] * shares[1]).sum()), 1e-9),
        "apart": float(apart / spread.clamp_min(1e-12)),
    }


def _classes(outputs: Tensor) -> Tensor:
    """Probabilities of every class at every position, (classes, positions)."""
    x = probabilities(outputs.flatten(2))
    x = torch.cat([1 - x, x], 1) if x.shape[1] == 1 else x
    return x.transpose(0, 1).flatten(1).double()


def measure_forms(job: Job, folder: Path) -> list[dict[str, Any]]:
    """One row for each kind of images and cut, on the images that the response itself takes."""
    model = load_network(job, folder)
    structure = read_structure(model)
    pool = load_pool(job, "validation", archives(folder))
    rows: list[dict[str, Any]] = []
    measure, compare = response._measured, change.compare

    def record(structure: Any, kinds: Any, source: str, **rest: Any) -> response.Response:
        if not any(row["source"] == source for row in rows):  # not at other contrasts
            for kind, batches in enumerate(kinds):
                pairs: list[tuple[Tensor, Tensor]] = []

                def keep(w: Tensor, c: Tensor, *rest: Any) -> change.Change:
                    pairs.append((w, c))  # noqa: B023 - called before the loop goes on
                    return compare(w, c, *rest)

                with mock.patch.object(change, "compare", keep):
                    change.change_by_cut(structure, batches)
                for i, cut in enumerate(structure.cuts):
                    own = pairs[i :: len(structure.cuts)]
                    whole, left = (torch.cat(parts) for parts in zip(*own, strict=True))
                    reduction = round(structure.reductions[cut.keep_levels][0])
                    about = {"source": source, "kind": kind, "reduction": reduction}
                    rows.append(about | forms(whole, left))
        return measure(structure, kinds, source, **rest)

    with mock.patch.object(response, "_measured", record), torch.no_grad():
        response.respond_to_synthetic(structure)
        response.respond_to_images(structure, [x for x, _ in pool.batches(20)])
    return rows


def form_rows(listed: Sequence[Job], folder: Path) -> pd.DataFrame:
    """Every stored measurement of `measure_forms`, of the kind of images that shows least."""
    parts = []
    for job in listed:
        path = folder / training(job).address / "forms.json"
        rows = json.loads(path.read_text()) if path.exists() else []
        if rows and TASKS[job.task].kind != "regression":
            least = (
                pd.DataFrame(rows)
                .groupby(["reduction", "source"])[list(FORMS)]
                .min()
                .unstack("source")
            )
            least.columns = [f"{source}:{form}" for form, source in least.columns]
            parts.append(least.reset_index().assign(name=job.name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def form_table(cuts: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """AUC of both forms, by group of networks and images; of outputs that decide.

    Args:
        cuts: From `judge.score_table`.
        measured: From `form_rows`.
    """
    both = judge.skilled(cuts.merge(measured, on=["name", "reduction"]))
    rows = []
    for first, end in SETS:
        part = both[(both["index"] >= first) & (both["index"] < end)]
        if part.empty:
            continue
        for name, own in (("all", part), ("clear", part[judge.is_clear(part)])):
            row: dict[str, Any] = {
                "networks": f"index {part['index'].min()} to {part['index'].max()}, "
                f"{part['name'].nunique()} with skill",
                "truth": name, "cuts": len(own),
            }  # fmt: skip
            for key in KEYS:
                for form in FORMS:
                    found = judge.grade_row(own, f"{key}:{form}")
                    row[f"{key}:{form}"] = found["auc"]
                    row[f"{key}:{form}:within"] = found["within"]
            rows.append(row)
    return pd.DataFrame(rows)


def decided_table(cuts: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """How many cuts each form would decide by its values alone, and how many of these rightly.

    Args:
        cuts: From `judge.score_table`.
        measured: From `form_rows`.
    """
    both = judge.skilled(cuts.merge(measured, on=["name", "reduction"]))
    rows = []
    for first, end in (*SETS, (0, 10**6)):
        part = both[(both["index"] >= first) & (both["index"] < end)]
        if part.empty:
            continue
        used = part["used"].astype(bool)
        row: dict[str, Any] = {
            "networks": f"index {part['index'].min()} to {part['index'].max()}", "cuts": len(part)
        }  # fmt: skip
        for key in KEYS:
            for form, (silent, responds) in BORDERS.items():
                value = part[f"{key}:{form}"] ** (0.5 if form == "apart" else 1.0)
                low, high = value < silent, value > responds
                right = int((low & ~used).sum() + (high & used).sum())
                row[f"{key}:{form}"] = int((low | high).sum()), right, int((low & used).sum())
        rows.append(row)
    return pd.DataFrame(rows)


# --- the page ---------------------------------------------------------------------------------


def write_borders(listed: Sequence[Job], folder: Path, target: Path) -> None:
    """Write ``borders.csv`` and ``borders.md``; bring ``forms.csv`` up to what is stored.

    Args:
        listed: The jobs.
        folder: Where they are stored.
        target: Folder of the page; holds ``cuts.csv`` and ``forms.csv``.
    """
    cuts, measured = (pd.read_csv(target / f"{name}.csv") for name in ("cuts", "forms"))
    new = form_rows(listed, folder)
    if len(new):  # of those that are not stored here the earlier measurements stay
        measured = pd.concat([measured[~measured["name"].isin(new["name"])], new])
        measured = measured.sort_values(["name", "reduction"])
        write_csv(measured, target / "forms.csv")
    alike = in_one_form(cuts, measured)
    table = border_table(alike)
    write_csv(table, target / "borders.csv")
    text = [
        "# Borders and forms of the response",
        "",
        "`python studies/evidence.py borders` computes all of this from `cuts.csv` and "
        "`forms.csv`, which lie beside this page.",
        "",
        "## Borders",
        "",
        "Cuts that a border would call unused or used without any guard; in brackets those that "
        "are wrong, after the comma those of them whose truth is clear. The borders in bold are "
        "those that hold now. Of the decisions of networks before those that judge the values "
        "alone are known, no intervals, and of those before index 104 nothing.",
        "",
        *_border_text(alike, table),
        "## First proposals",
        "",
        "Networks whose first proposal would be the deepest cut that costs at most 5 % of the "
        "skill, if it were the deepest one whose whole interval lies below a border (without any "
        "guard; where none does, the present first proposal stays); in brackets those whose first "
        "proposal costs more. By the model alone the border that holds now is the middle, by "
        "images that of *unused*.",
        "",
        _proposal_text(proposal_table(alike, pd.read_csv(target / "networks.csv"))),
        "",
        "The same if the figures chose it, without their intervals and guards: the deepest cut "
        f"whose own utilization is below {FIGURE}. Right as it is, right if they chose; in "
        "brackets those that cost more. For images and data the library does so, unless a guard "
        "speaks against the cut; networks of index below 416 were scored before.",
        "",
        _figure_text(figure_table(cuts, pd.read_csv(target / "networks.csv"))),
        "",
        "## Forms",
        "",
        "AUC / within depth, on outputs that decide. Of the model alone each cut counts with the "
        "kind of synthetic images that shows least.",
        "",
        _form_text(form_table(cuts, measured)),
        "",
        "Cuts that each form would decide by its values alone, without intervals and guards (1 - "
        f"kappa below {BORDERS['kappa'][0]} and above {BORDERS['kappa'][1]}, its borders when it "
        "was left; the root of 1 - rho_c with those that hold now); of these the right ones, and "
        "used cuts that would be called unused:",
        "",
        _decided_text(decided_table(cuts, measured)),
        "",
        "The answers of these networks were kept at 5000 positions of each kind of images when "
        "they were trained; `python studies/evidence.py respond` measures at all positions.",
        "",
    ]
    with written_atomically(target / "borders.md") as temporary:
        temporary.write_text("\n".join(text))


def _border_text(cuts: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    lines = []
    for group, part in groups(cuts).items():
        measured = part[part["response_cut"].notna()]
        lines += [
            f"### Networks {group}",
            "",
            f"{measured['name'].nunique()} networks with skill, {len(measured)} cuts.",
            "",
            "| called | border | the model alone | images |",
            "|---|--:|--:|--:|",
        ]
        before = ""
        for _, row in table[table["networks"] == group].iterrows():
            cells = [_count(row, key) for key in KEYS]
            border = f"{row['border']:g}"
            if row["border"] == CHOSEN[row["called"]]:
                border = f"**{border}**"
            called = "" if row["called"] == before else CALLED[row["called"]]
            before = row["called"]
            lines.append("| " + " | ".join([called, border, *cells]) + " |")
        lines.append("")
    return lines


def _count(row: pd.Series[Any], key: str) -> str:
    wrong, sure = row[f"{key}_wrong"], row[f"{key}_clearly"]
    if row["called"] == "middle":
        return f"{wrong} ({sure})"
    return f"{row[key]} (0)" if not wrong else f"{row[key]} ({wrong}, {sure})"


def _proposal_text(table: pd.DataFrame) -> str:
    shown = table[["networks", "border"]].copy()
    for key in KEYS:
        counts = table[[key, f"{key}_networks", f"{key}_costly"]].to_numpy()
        shown[key] = [f"{right} of {of} ({costly})" for right, of, costly in counts]
    columns = {"networks": ("networks", "{}"), "border": ("border", "{:g}")}
    return markdown(shown, columns | {key: (title, "{}") for key, title in KEYS.items()})


def _figure_text(table: pd.DataFrame) -> str:
    return markdown(table, {name: (name, "{}") for name in table.columns})


def _decided_text(table: pd.DataFrame) -> str:
    shown = table[["networks", "cuts"]].copy()
    columns = {name: (name, "{}") for name in shown.columns}
    for form, title in FORMS.items():
        for key, of in KEYS.items():
            name = f"{key}:{form}"
            shown[name] = [
                f"{decided / cuts:.0%}, {right / max(decided, 1):.0%} right, {unused} unused"
                for cuts, (decided, right, unused) in zip(table["cuts"], table[name], strict=True)
            ]
            columns[name] = (f"{title}, {of}", "{}")
    return markdown(shown, columns)


def _form_text(table: pd.DataFrame) -> str:
    shown = table[["networks", "truth", "cuts"]].copy()
    for key in KEYS:
        for form in FORMS:
            values = table[[f"{key}:{form}", f"{key}:{form}:within"]]
            shown[f"{key}:{form}"] = [f"{a:.2f} / {b:.2f}" for a, b in values.to_numpy()]
    columns = {name: (name, "{}") for name in ("networks", "truth", "cuts")} | {
        f"{key}:{form}": (f"{title}, {of}", "{}")
        for form, title in FORMS.items()
        for key, of in KEYS.items()
    }
    return markdown(shown, columns)

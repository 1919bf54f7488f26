"""Does what the library says agree with the truth? Measures, and the tables of the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.evidence_protocol.compare import auc, auc_within_depth
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.tasks import TASKS
from studies.evidence_protocol.training import training
from studies.evidence_protocol.truth import NEGLIGIBLE
from weightscope.thresholds import RESPONDS, RESPONDS_IN_NUMBERS, RESPONSE_BORDER, SILENT

GRADES = {
    "response": ("model", "response", "the model alone: `response`"),
    "weights": ("model", "weights", "the model alone: `weights`"),
    "history": ("history", "history", "the watched training: `history`"),
    "images": ("images", "images", "unlabelled images: `images`"),
    "loss": ("loss", "data", "labelled images, the loss: `data`"),
    "metric": ("metric", "data", "labelled images, a metric: `data`"),
}
"""Key -> (what `analyze` was given, the grade that is read, its title)."""

SIGNS = {"signs": ("signs", "response", "the model alone, all outputs taken for decisions")}
"""What the response of regressions was before it had a form of its own."""

BASELINES = {
    "deepest": "deepest first",
    "near_zero": "near-zero mass 1e-2 (the paper's reading)",
    "random": "random",
}
MEASURED_ON = {"response": "synthetic", "images": r"\d+"}
"""The two grades that are a response, and on what images; as the `why` of a stage has it."""

CHANGED = r"(decision|number)s? changes?\b(?:(?! images).)*? on {} images"

CIRCUMSTANCES = ("design", "task", "optimizer", "schedule", "start", "standard", "ema", "early",
                 "width", "levels")  # fmt: skip


def score_table(
    listed: Sequence[Job], folder: Path, version: str, truth: pd.DataFrame
) -> pd.DataFrame:
    """The table of true cuts with what the library says of each.

    The score of a cut is the largest among the stages that it removes; its verdict is ``used`` if
    any of them is, ``unused`` if all are, else ``undecided``.

    Args:
        listed: The jobs.
        folder: Where they are stored.
        version: Of the library's code that scored them.
        truth: From `compare.truth_table`.

    Returns:
        The rows of ``truth`` whose network was scored, with columns ``KEY`` and ``KEY_verdict`` for
        each grade, ``WAY_final`` for the verdict of the strongest grade, and the baselines.
    """
    rows = []
    for job in listed:
        found = read_scores(job, folder, version)
        for _, cut in truth[truth["name"] == job.name].iterrows():
            if found:
                rows.append(cut.to_dict() | judge_cut(found, cut["reduction"], job))
    return pd.DataFrame(rows)


def read_scores(job: Job, folder: Path, version: str) -> dict[str, Any]:
    """What the library said of one network, by way; empty if it was not asked.

    Of several versions, separated by commas, each way is read from the first that answered.
    """
    found: dict[str, Any] = {}
    for digest in reversed(version.split(",")):
        path = folder / training(job).address / f"scores-{digest}.json"
        said = json.loads(path.read_text()) if path.exists() else {}
        found |= {way: one for way, one in said.items() if "error" not in one or way not in found}
    return found


CAUSES = {
    "untold": "nothing in the weights proves a training",
    "hardly": "silent, but the network shows little training",
    "part": "silent, but one rare decision or channel responds",
    "contrast": "silent, but not at another contrast",
    "other": "silent, but another output responds",
    "shallower": "the deepest cut that removes it also removes shallower levels",
    "readings": "a restored image or a decision, and the two readings do not agree",
    "wide": "the interval holds both borders",
    "lower": "the interval holds the border of unused",
    "upper": "the interval holds the border of used",
    "between": "the whole interval lies between the borders",
    "unmeasured": "not measured",
}
"""Why a cut is undecided by the model alone; the first that applies."""


def undecided_table(
    listed: Sequence[Job], folder: Path, version: str, truth: pd.DataFrame
) -> pd.DataFrame:
    """One row for each cut of a skilled network that the model alone does not decide.

    Returns:
        Name, half, reduction, whether it is used, the response with its interval, and the cause, a
        key of `CAUSES`: of the stage that the cut removes and no deeper one.
    """
    rows = []
    for job in listed:
        said = read_scores(job, folder, version).get("model", {})
        for _, cut in skilled(truth[truth["name"] == job.name]).iterrows():
            removed = [s for s in said.get("stages", ()) if s["reduction"] >= cut["reduction"]]
            scores = [s["scores"]["response"] for s in removed if "response" in s["scores"]]
            if not scores or together([s["verdict"] for s in scores]) != "undecided":
                continue
            open_ones = [s for s in removed if s["scores"]["response"]["verdict"] == "undecided"]
            stage = min(open_ones, key=lambda s: s["reduction"])
            score = stage["scores"]["response"]
            value, low, high = (_response_of(score[k]) for k in ("score", "low", "high"))
            rows.append({
                "name": job.name, "half": job.half, "reduction": cut["reduction"],
                "used": cut["used"], "lost": cut["lost"], "response": value, "low": low,
                "high": high, "cause": undecided_cause(said["state"], stage["why"],
                                                                      value, low, high),
            })  # fmt: skip
    columns = ["name", "half", "reduction", "used", "lost", "response", "low", "high", "cause"]
    return pd.DataFrame(rows, columns=columns)


def _response_of(score: float) -> float:
    """The response that utilization was made of."""
    return float(RESPONSE_BORDER * np.sqrt(score / max(1.0 - score, 1e-12)))


def undecided_cause(state: str, why: str, value: float, low: float, high: float) -> str:
    """Key of `CAUSES`.

    Args:
        state: Of the network.
        why: Of the stage.
        value: The response; nan where it was not measured.
        low: Lower end of its interval.
        high: Upper end of it.
    """
    said = {
        "hardly": ("show no more training than", "hardly tell", "hardly varies"),
        "part": (" of the output responds with ",),
        "contrast": ("at another contrast",),
        "other": ("of the network responds with up to",),
        "shallower": ("also removes shallower levels",),
    }
    if state != "trained":
        return "untold"
    if np.isnan(value):
        return "unmeasured"
    responds = RESPONDS if "of the decisions" in why else RESPONDS_IN_NUMBERS
    lower, upper = (low < border < high for border in (SILENT, responds))
    if lower and upper and "must be so for both" in why:
        return "readings"
    found = next((cause for cause, all_ in said.items() if any(w in why for w in all_)), "")
    return (
        found
        or ("wide" if lower and upper else "")
        or ("lower" if lower else "upper" if upper else "between")
    )


def judge_cut(found: dict[str, Any], reduction: int, job: Job) -> dict[str, Any]:
    """Scores and verdicts of one cut."""
    chance = np.random.default_rng([job.index, reduction])
    row: dict[str, Any] = {"deepest": -reduction, "random": float(chance.random())}
    for way, said in found.items():
        removed = [s for s in said.get("stages", ()) if s["reduction"] >= reduction]
        row[f"{way}_final"] = together([s["verdict"] for s in removed])
        if way == "model":
            masses = [s["near_zero"] for s in removed if s.get("near_zero") is not None]
            row["near_zero"] = -min(masses) if masses else np.nan
        for key, (given, grade, _) in (GRADES | SIGNS).items():
            if given == way:
                scores = [s["scores"][grade] for s in removed if grade in s["scores"]]
                values = [s["score"] for s in scores if np.isfinite(s["score"])]
                row[key] = max(values, default=np.nan)
                row[f"{key}_verdict"] = together([s["verdict"] for s in scores])
                if key in MEASURED_ON:
                    own = [s for s in removed if s["reduction"] == reduction]
                    row |= response_of_cut(own, key)
    return row


def response_of_cut(stages: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """The response of one cut with its interval, whatever the guards make of it.

    Args:
        stages: Those of the cut's own level.
        key: One of `MEASURED_ON`.

    Returns:
        ``KEY_cut``, ``KEY_low`` and ``KEY_high``; and ``KEY_form``, *decision* or *number*.
    """
    scores = [s["scores"][key] for s in stages if key in s["scores"]]
    forms = re.findall(CHANGED.format(MEASURED_ON[key]), " ".join(s["why"] for s in stages))
    ends = {"cut": "score", "low": "low", "high": "high"}
    known = [s for s in scores if np.isfinite(s["score"])]
    return {
        f"{key}_{end}": max((_response_of(s[k]) for s in known), default=np.nan)
        for end, k in ends.items()
    } | {f"{key}_form": forms[0] if forms else None}


def together(verdicts: Sequence[str]) -> str:
    """The verdict on several stages that a cut removes at once."""
    if not verdicts:
        return "undecided"
    if "used" in verdicts:
        return "used"
    return "unused" if set(verdicts) == {"unused"} else "undecided"


def is_clear(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether the interval of each cut's truth leaves out the border of what is negligible."""
    return (table["lost_low"] > NEGLIGIBLE) | (table["lost_high"] < NEGLIGIBLE)


def skilled(table: pd.DataFrame) -> pd.DataFrame:
    """The cuts of networks that learned something from true labels."""
    return table[(table["labels"] == "true") & table["skilled"]]


def grade_row(table: pd.DataFrame, key: str) -> dict[str, Any]:
    """One grade or baseline on some cuts of skilled networks: AUC, decided, right, wrong unused."""
    known = table[table[key].notna()] if key in table else table[:0]
    score, used = known[key].to_numpy(float) if len(known) else np.empty(0), known["used"]
    row: dict[str, Any] = {
        "cuts": len(known),
        "auc": auc(score, used.to_numpy(bool)),
        "within": auc_within_depth(score, used.to_numpy(bool), known["reduction"].to_numpy()),
    }
    if f"{key}_verdict" in table:
        asked = table[table[f"{key}_verdict"].notna()]
        verdict, truth = asked[f"{key}_verdict"], np.where(asked["used"], "used", "unused")
        decided = verdict != "undecided"
        row |= {
            "decided": float(decided.mean()),
            "right": float((verdict == truth)[decided].mean()) if decided.any() else np.nan,
            "wrong_unused": float(((verdict == "unused") & asked["used"]).mean()),
            "wrong_used": float(((verdict == "used") & ~asked["used"].astype(bool)).mean()),
        }
    return row


def given_table(
    table: pd.DataFrame, seen: Callable[[str], Mapping[str, Mapping[str, Any]]]
) -> pd.DataFrame:
    """What the labelled images that were given allow: the truth measured on these by the hooks.

    The score is the share of the skill that is lost on them; a cut is *used* or *unused* where the
    interval of it leaves out `NEGLIGIBLE`. What it misses of the truth on other images is missed by
    the choice of the images alone.

    Args:
        table: From `score_table`.
        seen: Gives `given.given` of a network by its name.

    Returns:
        The cuts of the skilled networks, with columns ``given`` and ``given_verdict``.
    """
    rows = []
    for _, cut in skilled(table).iterrows():
        own = seen(cut["name"])["data"][str(round(cut["reduction"]))]
        sides = {"used": own["low"] > NEGLIGIBLE, "unused": own["high"] <= NEGLIGIBLE}
        verdict = next((side for side, sure in sides.items() if sure), "undecided")
        rows.append(cut.to_dict() | {"given": own["lost"], "given_verdict": verdict})
    return pd.DataFrame(rows)


def first_by(table: pd.DataFrame, key: str) -> pd.Series[int]:
    """By network: the least reduction among the cuts whose share lost is negligible; 0: none."""
    free = table[table[key] <= NEGLIGIBLE]
    least = free.groupby("name")["reduction"].min()
    return least.reindex(table["name"].unique(), fill_value=0).astype(int)


def grade_table(table: pd.DataFrame, *, resamples: int = 300) -> pd.DataFrame:
    """All grades and baselines on the skilled networks, with intervals over networks."""
    part = skilled(table)
    titles = {key: title for key, (_, _, title) in GRADES.items()} | BASELINES
    rows = []
    for key, title in titles.items():
        if key not in part or part[key].notna().sum() == 0:
            continue
        known = part[part[key].notna()]
        rows.append(
            {"grade": key, "title": title} | grade_row(part, key) | intervals(known, key, resamples)
        )
    return pd.DataFrame(rows, columns=None if rows else ["grade", "title", "auc", "within"])


def intervals(table: pd.DataFrame, key: str, resamples: int, seed: int = 0) -> dict[str, float]:
    """Central 95 % of both AUCs over resampled networks."""
    groups = list(table.reset_index(drop=True).groupby("name").indices.values())
    score, used = table[key].to_numpy(float), table["used"].to_numpy(bool)
    reduction, generator = table["reduction"].to_numpy(), np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows = np.concatenate(
            [groups[i] for i in generator.integers(len(groups), size=len(groups))]
        )
        pooled = auc(score[rows], used[rows])
        values.append((pooled, auc_within_depth(score[rows], used[rows], reduction[rows])))
    found = {}
    for measure, column in zip(("auc", "within"), np.array(values).T, strict=True):
        ends = (
            np.nanquantile(column, [0.025, 0.975]) if np.isfinite(column).any() else (np.nan,) * 2
        )
        found[f"{measure}_low"], found[f"{measure}_high"] = (float(e) for e in ends)
    return found


def circumstance_table(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Every grade under every value of every circumstance."""
    part = skilled(table)
    rows = []
    for circumstance in CIRCUMSTANCES:
        for value, own in part.groupby(circumstance):
            known = [key for key in keys if key in own and own[key].notna().any()]
            base = {"circumstance": circumstance, "value": value, "networks": own["name"].nunique()}
            rows += [base | {"grade": key} | grade_row(own, key) for key in known]
    return pd.DataFrame(rows)


def wrong_table(
    table: pd.DataFrame, seen: Callable[[str], Mapping[str, Mapping[str, Any]]] | None = None
) -> pd.DataFrame:
    """Every decided verdict that is wrong, with its cause as far as the figures tell.

    Args:
        table: From `score_table`.
        seen: Gives `given.given` of a network by its name.
    """
    rows = []
    for _, cut in skilled(table).iterrows():
        for key in GRADES:
            verdict = cut.get(f"{key}_verdict", "undecided")
            if verdict not in ("used", "unused") or (verdict == "used") == cut["used"]:
                continue
            rows.append({
                "grade": key, "verdict": verdict, "half": cut["half"], "name": cut["name"],
                "reduction": cut["reduction"], "lost": cut["lost"], "lost_low": cut["lost_low"],
                "lost_high": cut["lost_high"], "score": cut[key], "start": cut["start"],
                "skill": cut["skill"],
                "cause": cause(cut, key, verdict, None if seen is None else seen(cut["name"])),
            })  # fmt: skip
    columns = ["grade", "verdict", "half", "name", "reduction", "lost", "lost_low", "lost_high",
               "score", "start", "skill", "cause"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def cause(
    cut: pd.Series[Any],
    key: str,
    verdict: str,
    seen: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Why a verdict is wrong, as far as the other figures tell; `seen`: from `given.given`."""
    if cut["lost_low"] <= NEGLIGIBLE <= cut["lost_high"]:
        return "the truth itself may lie on either side of 5 %"
    opposite = {"used": "unused", "unused": "used"}[verdict]
    if key == "response" and cut.get("images_verdict") == opposite:
        side = "only there" if verdict == "unused" else "not there"
        return f"the user's images differ from the stimuli: what the level does shows {side}"
    if key in ("response", "images") and verdict == "unused" and seen is not None:
        changed = seen["images"][str(round(cut["reduction"]))]
        if changed < RESPONSE_BORDER:
            return (
                "other images than those given: on these the output changes by "
                f"{changed:.2g} of what it can"
            )
    if key in ("response", "images") and verdict == "used":
        return "the answer changes, the quality does not"
    if key in ("response", "images"):
        return "a small change of the answer decides the quality"
    if key in ("loss", "metric") and seen is not None:
        lost = seen["data"][str(round(cut["reduction"]))]["lost"]
        if (lost > NEGLIGIBLE) == (verdict == "used"):
            return f"other images than those given: on these {lost:.1%} of the skill go"
    if key == "loss":
        return "the loss sees what the quality does not, or the other way round"
    return ""


def refutations(table: pd.DataFrame) -> pd.DataFrame:
    """What would have refuted forms and borders, as docs/decisions/response.md wrote it down.

    Args:
        table: From `score_table`, of networks that chose nothing.

    Returns:
        One row for each claim: what was found, and whether the claim failed.
    """
    part = skilled(table)
    clear = part[is_clear(part)]
    idle = ~clear["used"].astype(bool)
    rows = []
    for key in ("response", "images"):
        if f"{key}_verdict" not in clear:
            continue
        verdict = clear[f"{key}_verdict"]
        wrong, called = int(((verdict == "unused") & ~idle).sum()), int((verdict == "unused").sum())
        rows.append({"claim": f"unused, {key}", "failed": wrong > 0,
                     "found": f"{wrong} of {called} are used"})  # fmt: skip
        wrong, called = int(((verdict == "used") & idle).sum()), int((verdict == "used").sum())
        rows.append({"claim": f"used, {key}", "failed": wrong > 0.05 * called,
                     "found": f"{wrong} of {called} are idle"})  # fmt: skip
    known = clear[clear["response"].notna()]
    if len(known):
        value = RESPONSE_BORDER * np.sqrt(known["response"] / (1 - known["response"]).clip(1e-9))
        sides = {
            border: int(((value > border) != known["used"].astype(bool)).sum())
            for border in (RESPONSE_BORDER, *np.round(np.arange(0.08, 0.251, 0.01), 2))
        }
        best = min(sides, key=lambda border: sides[border])
        more = sides[RESPONSE_BORDER] - sides[best]
        found = (
            f"{sides[RESPONSE_BORDER]} of {len(known)} on the wrong side, {sides[best]} at {best:g}"
        )
        rows.append({"claim": "the middle", "failed": more > 0.05 * len(known), "found": found})
    numbers = part[part["task"].map(lambda task: TASKS[task].kind == "regression")]
    if len(numbers) and "signs" in numbers:
        ours, before = grade_row(numbers, "response"), grade_row(numbers, "signs")
        wrong = numbers[(numbers["response_verdict"] == "unused") & numbers["used"]]
        rows.append({
            "claim": "the form of numbers",
            "failed": not ours["auc"] > before["auc"] or len(wrong) > 0,
            "found": f"AUC {ours['auc']:.2f} on {len(numbers)} cuts, of signs {before['auc']:.2f}; "
            f"{len(wrong)} used cuts called unused",
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "found", "failed"])


def idle_table(table: pd.DataFrame) -> pd.DataFrame:
    """Networks that learned nothing: cuts, and how many each grade calls used or unused."""
    rows = []
    for labels, own in table[table["labels"] != "true"].groupby("labels"):
        for key, (_, _, title) in GRADES.items():
            if f"{key}_verdict" in own:
                asked = own[own[f"{key}_verdict"].notna()]
                counts = asked[f"{key}_verdict"].value_counts()
                rows.append({
                    "labels": labels, "title": title, "networks": asked["name"].nunique(),
                    "cuts": len(asked), "used": int(counts.get("used", 0)),
                    "unused": int(counts.get("unused", 0)),
                })  # fmt: skip
    return pd.DataFrame(rows)


def network_table(
    listed: Sequence[Job], folder: Path, version: str, truth: pd.DataFrame
) -> pd.DataFrame:
    """One row for each network and way: state, conclusion, and whether the first proposal is right.

    The right one is the deepest cut, in the sense of the most that goes, that costs at most 5 % of
    the skill: ``wanted``, as a reduction; 0 where every cut costs more.
    """
    rows = []
    for job in listed:
        own = truth[truth["name"] == job.name]
        if own.empty:
            continue
        free = own[~own["used"]]["reduction"]
        wanted = int(free.min()) if len(free) and job.labels == "true" else 0
        for way, said in read_scores(job, folder, version).items():
            if way in SIGNS:
                continue
            proposals = [p for p in said.get("proposals", ()) if p["refusal"] is None]
            first = proposals[0]["reduction"] if proposals else 0
            costs = own.set_index("reduction")["lost"].to_dict()
            rows.append({
                "name": job.name, "half": job.half, "labels": job.labels, "way": way,
                "skilled": bool(own["skilled"].iloc[0]), "skill": own["skill"].iloc[0],
                "state": said.get("state", "error"), "wanted": wanted, "first": first,
                "costs": costs.get(first, np.nan), "supports": support(proposals),
                "condemned": condemned(said),
                "conclusion": said.get("conclusion", said.get("error", "")),
                "seconds": said.get("seconds", np.nan),
            })  # fmt: skip
    return pd.DataFrame(rows)


def condemned(said: dict[str, Any]) -> int:
    """Stages called unused that no cut removes: there should be none."""
    first = min(said.get("cuts", {}).values(), default=0)
    return sum(s["verdict"] == "unused" and s["level"] < first for s in said.get("stages", ()))


def support(proposals: Sequence[dict[str, Any]]) -> str:
    """What the first proposal says for itself."""
    return str(proposals[0]["evidence"]) if proposals else ""


def false_states(networks: pd.DataFrame) -> pd.DataFrame:
    """Networks of which the library says as a whole what is not so, or condemns what stays."""
    trained = (networks["labels"] == "true") & networks["skilled"]
    denied = trained & networks["state"].isin(["untrained", "noise", "unskilled", "collapsed"])
    denied &= ~networks["conclusion"].str.contains("too few to be sure of it")
    praised = (networks["labels"] == "none") & (networks["state"] == "trained")
    return networks[denied | praised | (trained & (networks["condemned"] > 0))]

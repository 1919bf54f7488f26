"""The page of the study: what was found first, then figures, tables, command and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from studies.evidence_protocol import judge
from studies.evidence_protocol.compare import response_table, truth_table
from studies.evidence_protocol.figures import draw_aucs, draw_losses, draw_scatter, save
from studies.evidence_protocol.given import given
from studies.evidence_protocol.jobs import BEGIN, HALVES, HELD_OUT, Half, Job
from studies.evidence_protocol.sentences import sentence_table
from studies.evidence_protocol.truth import NEGLIGIBLE, SKILLED
from weightscope.files import written_atomically

GOALS = {
    "response": {
        "auc": 0.98,
        "within": 0.95,
        "decided": 0.75,
        "right": 0.98,
        "wrong_unused": 0.005,
    },
    "images": {"auc": 0.99, "within": 0.97},
    "history": {"auc": 0.95, "within": 0.90, "right": 0.97},
    "metric": {"auc": 0.99, "within": 0.97, "wrong": 0.01},
    "loss": {"auc": 0.98, "within": 0.95, "wrong": 0.01},
}
"""What each grade should reach on the judging half."""

FIRST = {"model": 0.75, "images": 0.85, "metric": 0.90}
"""How often the first proposal should be right."""

WORDS = {"auc": "AUC", "within": "within depth", "decided": "decided", "right": "of these right",
         "wrong_unused": 'wrong "unused" among all', "wrong": "wrong among all"}  # fmt: skip
AT_MOST = ("wrong_unused", "wrong")


GRADE_COLUMNS = {
    "title": ("evidence", "{}"),
    "cuts": ("cuts", "{:.0f}"),
    "auc": ("AUC", "{:.2f}"),
    "within": ("within depth", "{:.2f}"),
    "decided": ("decided", "{:.0%}"),
    "right": ("right", "{:.1%}"),
    "wrong_unused": ('wrong "unused"', "{:.1%}"),
    "wrong_used": ('wrong "used"', "{:.1%}"),
}
SHOWN = {"auc": ("AUC", "{}"), "within": ("within depth", "{}")}


@dataclass(frozen=True)
class Alone:
    """A page of networks that are judged alone.

    Attributes:
        title: What follows in its heading.
        choices: What was chosen, and on which networks.
    """

    title: str
    choices: str


UNSEEN = 672
"""From this index on networks were trained with the rules of 2026-11-29."""

ALONE: dict[int, Alone] = {
    BEGIN["newest"]: Alone(
        "The newest networks",
        f"Networks from index {BEGIN['newest']} to {UNSEEN - 1} alone. Every form, border and "
        "guard was chosen on networks before these ([their page](../index.md)) and stood when "
        "they were trained; the rules that came after the scores on that page (what an output of "
        "another shape restores, outputs that hardly vary, the last guards of a first proposal) "
        "are judged here for the first time. The goals are those written down for all. How many "
        "networks there are was settled by the time that there was, before the first was "
        "scored, and no border was changed after a look at the scores. Guards that came since "
        "from networks that users brought (a channel of both signs is a number, too; what a "
        "network adds to; masks and classes by F1 beside one loss) are in the code that scored "
        "them: what two of these withdraw here was counted before they were kept, and none was "
        "chosen by it. So is the guard of hardly trained networks that asks whether each two "
        "classes are told apart ([levels that are needed late](../late.md)): its form was "
        "settled on other networks, but what it would do to the silent levels here had been "
        "looked at before. Networks from index 640 on came after it. Of theirs one cut that "
        "carries 10 % of the skill is called unused by the model alone (669, a segmentation "
        "whose logits on synthetic images are as large as numbers in large units). That is "
        "mended since, and not in these figures: a second look is taken at contrasts between, "
        "and decisions which are all alike call nothing unused. On the 128 networks it "
        "withdraws this verdict, the two right ones of the same network and one more.",
    ),
    UNSEEN: Alone(
        "Networks that no rule has seen",
        f"Networks from index {UNSEEN} on alone. Every form, border and guard stood when "
        "they were trained, those too that came from networks which users brought and from "
        "[photographs](../exposures.md). That 48 would be scored was settled while they were "
        "trained, before any figure was looked at. No border or guard was changed after that; a "
        "sentence that the study had no rule for (a straight line of channels of the input) had "
        "counted as false twice, and is judged by its rule now. What came after, "
        "[more positions of small images](../sizes.md), changes nothing here, where no example is "
        "given. The goals are those written down for all.",
    ),
}


def write_page(listed: Sequence[Job], folder: Path, version: str, target: Path) -> None:
    """Write ``index.md``, the tables as CSV and the figures.

    Args:
        listed: The jobs; those without results are left out.
        folder: Where they are stored.
        version: Of the library's code whose scores are judged.
        target: Folder of the page.
    """
    target.mkdir(parents=True, exist_ok=True)
    truth = truth_table(listed, folder)
    table = judge.score_table(listed, folder, version, truth)
    networks = judge.network_table(listed, folder, version, truth)
    sentences = sentence_table(listed, folder, version, truth)
    present = [half for half in HALVES if (table["half"] == half).any()]
    halves = {half: judge.grade_table(table[table["half"] == half]) for half in present}
    judging = present[0]
    judged, alone = table[table["half"] == judging], ALONE.get(listed[0].index)
    circumstances = judge.circumstance_table(table, tuple(judge.GRADES))
    by_name = {job.name: job for job in listed}
    wrong = judge.wrong_table(table, lambda name: given(by_name[name], folder))
    undecided = judge.undecided_table(listed, folder, version, truth)
    for name, frame in {
        "cuts": table,
        "undecided": undecided,
        "grades": pd.concat([f.assign(half=h) for h, f in halves.items()]),
        "circumstances": circumstances,
        "wrong": wrong,
        "networks": networks,
        "sentences": sentences[(sentences["false"] != "") | (sentences["elsewhere"] != "")],
    }.items():
        write_csv(frame, target / f"{name}.csv")
    save(draw_aucs(halves), target / "auc.png")
    save(draw_scatter(table), target / "scatter.png")
    save(draw_losses(table), target / "losses.png")
    reached = goal_rows(
        halves[judging],
        networks[networks["half"] == judging],
        sentences[sentences["half"] == judging],
    )
    text = [
        f"# Does the verdict predict the truth? {alone.title if alone else ''}".rstrip(),
        "",
        *findings(halves[judging], reached),
        "",
        "![AUC of every grade](auc.png)",
        "",
        "## What was done",
        "",
        *protocol(table, truth, version, sentences, alone),
        "",
        "## Goals",
        "",
        f"On the {HALVES[judging]} alone.",
        "",
        markdown(reached, {"what": ("", "{}"), "measure": ("", "{}"), "goal": ("goal", "{}"),
                           "reached": ("reached", "{}"), "met": ("", "{}")}),
        "",
        "## Every grade",
        "",
        *grade_text(halves),
        "Cuts whose truth is open, because its interval contains 5 %, left out:",
        "",
        clear_text(table),
        "",
        "![Scores against the truth](scatter.png)",
        "",
        "![Skill lost by task](losses.png)",
        "",
        *form_text(listed, folder, truth),
        "## Wrong verdicts",
        "",
        *wrong_text(wrong, judged),
        "",
        *refutation_text(table, alone),
        "## Why the model alone is undecided",
        "",
        *undecided_text(undecided, table),
        "",
        "## What shows on the user's data only",
        "",
        own_data_text(table),
        "",
        "## The first proposal",
        "",
        *proposal_text(networks),
        "",
        *allowed_text(judge.given_table(judged, lambda name: given(by_name[name], folder))),
        "## Networks that learned nothing",
        "",
        "Untrained networks, and networks trained on the targets of other images, drawn anew at "
        "every step. They use no level.",
        "",
        markdown(judge.idle_table(table), {k: (k, "{}") for k in
                 ("labels", "title", "networks", "cuts", "used", "unused")}),
        "",
        *state_text(networks),
        "",
        *sentence_text(sentences),
        "",
        "## By circumstance",
        "",
        "All networks; `response` alone, the other grades are in `circumstances.csv`.",
        "",
        circumstance_text(circumstances),
        "",
    ]  # fmt: skip
    with written_atomically(target / "index.md") as temporary:
        temporary.write_text("\n".join(text))


def findings(grades: pd.DataFrame, reached: pd.DataFrame) -> list[str]:
    """The first lines: whether a simpler score wins, and which goals were missed."""
    rows = grades.set_index("grade")
    lines = []
    order = [k for k in ("random", "near_zero", "deepest", "weights", "history", "response",
                         "images", "loss", "metric") if k in rows.index]  # fmt: skip
    for i, key in enumerate(order):
        if key in judge.BASELINES:
            continue
        for measure in ("within", "auc"):
            ours = rows.loc[key, measure]
            simpler = [k for k in order[:i] if k != "random" and rows.loc[k, measure] > ours]
            if simpler:
                named = ", ".join(
                    f"{rows.loc[k, 'title']} ({rows.loc[k, measure]:.3f})" for k in simpler
                )
                lines.append(
                    f"- **Simpler beats {rows.loc[key, 'title']}**, {WORDS[measure]} "
                    f"({ours:.3f}): {named}."
                )
    lines += [
        f"- {rows.loc[k, 'title']}: AUC {rows.loc[k, 'auc']:.2f}, within depth "
        f"{rows.loc[k, 'within']:.2f}."
        for k in reversed(order)
    ]
    missed = reached[reached["met"] == "missed"]
    lines.append(
        f"- {len(reached) - len(missed)} of {len(reached)} goals reached; missed: "
        + ("; ".join(f"{r['what']}, {r['measure']} {r['reached']} for {r['goal']}"
                     for _, r in missed.iterrows()) or "none") + "."
    )  # fmt: skip
    return lines


def goal_rows(
    grades: pd.DataFrame, networks: pd.DataFrame, sentences: pd.DataFrame
) -> pd.DataFrame:
    """Every goal beside what was reached."""
    rows = []
    by_key = grades.set_index("grade")
    for key, goals in GOALS.items():
        if key not in by_key.index:
            continue
        own = by_key.loc[key]
        found = own.to_dict() | {"wrong": own["wrong_unused"] + own["wrong_used"]}
        for measure, goal in goals.items():
            met = found[measure] <= goal if measure in AT_MOST else found[measure] >= goal
            form = "{:.2f}" if measure in ("auc", "within") else "{:.1%}"
            if measure == "right" and np.isnan(found[measure]):
                shown, met = "decides nothing", True
            else:
                shown = form.format(found[measure])
            rows.append({
                "what": own["title"], "measure": WORDS[measure],
                "goal": ("at most " if measure in AT_MOST else "at least ") + form.format(goal),
                "reached": shown, "met": "" if met else "missed",
            })  # fmt: skip
    for way, share, count, _ in first_right(networks):
        if way in FIRST:
            rows.append({
                "what": f"first proposal, {way}", "measure": f"right ({count} networks)",
                "goal": f"at least {FIRST[way]:.0%}", "reached": f"{share:.0%}",
                "met": "" if share >= FIRST[way] else "missed",
            })  # fmt: skip
    counts = {
        "false states": len(judge.false_states(networks)),
        "false sentences": int((sentences["false"] != "").sum()),
    }
    for measure, count in counts.items():
        rows.append({
            "what": "conclusions", "measure": measure, "goal": "none", "reached": str(count),
            "met": "missed" if count else "",
        })  # fmt: skip
    return pd.DataFrame(rows)


def first_right(networks: pd.DataFrame) -> list[tuple[str, float, int, int]]:
    """By way: how often the first proposal is the right one, of how many, and false ones."""
    part = networks[(networks["labels"] == "true") & networks["skilled"]]
    found = []
    for way, own in part.groupby("way", sort=False):
        free = own[own["wanted"] > 0]
        costly = int((free["costs"] > NEGLIGIBLE).sum())
        if len(free):
            found.append(
                (str(way), float((free["first"] == free["wanted"]).mean()), len(free), costly)
            )
    return found


def protocol(
    table: pd.DataFrame,
    truth: pd.DataFrame,
    version: str,
    sentences: pd.DataFrame,
    alone: Alone | None,
) -> list[str]:
    """What was trained, how the truth was measured, what was held out."""
    learned = truth[truth["labels"] == "true"]
    weak = learned[~learned["skilled"]]["name"].nunique()
    counts = judge.skilled(table).groupby("half").agg(n=("name", "nunique"), c=("name", "size"),
                                                      u=("used", "sum"))  # fmt: skip
    listed = "; ".join(
        f"*{half}* {row['n']} networks, {row['c']} cuts, {row['u']} of them used"
        for half, row in counts.iterrows()
    )
    open_share = (~judge.is_clear(judge.skilled(table))).mean()
    held = "; ".join(f"{k} {', '.join(v)}" for k, v in HELD_OUT.items())
    first = sentences.groupby(["half", "way"])["name"].nunique()
    by_first = "; ".join(
        f"*{half}* " + ", ".join(f"{way} {count}" for way, count in own.droplevel(0).items())
        for half, own in first.groupby(level=0)
    )
    return [
        "`python studies/evidence.py train`, `respond`, `score` and `page`, or `make evidence`. "
        f"{table['name'].nunique()} networks were scored, by the library's code of digest "
        f"`{version}`"
        + (
            " (each kind of evidence by the first that measured it; the first scored so many "
            f"networks, and sentences are of these alone: {by_first})."
            if "," in version
            else "."
        ),
        "",
        f"{truth['name'].nunique()} small networks (6 or 8 channels at the first level, 4 or 5 "
        "levels, 48 or 64 px, 200 to 450 steps of 8 images), each under circumstances of its own: "
        "design, task, optimiser, learning rate, schedule, start, averaged weights, early stop, "
        "range of the images. `studies/evidence_protocol/jobs.py` lists them; every prefix of the "
        "list is a balanced sample. Real images are stardist's nuclei and the photos and textures "
        "that scikit-image ships.",
        "",
        f"Networks with skill under {SKILLED:.0%} after training on true targets ({weak}) are left "
        "out of every figure but that of false states: they have nothing to lose.",
        "",
        f"Used is a cut that costs more than {NEGLIGIBLE:.0%} of the skill on test images, by "
        "hooks that know nothing of the library: the modules named by hand for each design return "
        "their channel means. Skill is what a network is better than the best constant answer (F1 "
        "at the best threshold, accuracy), or in a regression than the better of a constant and "
        f"the best line through the image itself. In {open_share:.0%} of the cuts the 95 % "
        "interval of the truth, a bootstrap over 80 images, contains the border; they count like "
        "all others.",
        "",
        f"Held out, before anything was scored: {held}. A network with any of these judges; the "
        f"others chose. {listed}.",
        "",
        choices(alone),
        "",
        "The score of a cut is the largest among the stages that it removes. It is *used* if any "
        "of them is called so, *unused* if all are.",
        "",
        "Limits: no GPU was used (one core and one thread for each network; torch 2.11, for the "
        "networks trained last 2.14), and the networks are small and trained briefly; one seed for "
        "each; the truth is what each network uses, not what its task needs. Within depth compares "
        "cuts at the same reduction only, so "
        "that depth itself scores one half.",
    ]


def choices(alone: Alone | None) -> str:
    """What was chosen on which networks; of those with a page of their own, where that stands."""
    if alone is not None:
        return alone.choices
    return (
        "The form of the response (one minus Cohen's kappa between the decisions with and without "
        "a level, the least over the kinds of images) and its borders were chosen on the first 15 "
        "networks of the choosing half, at the third attempt: the geometric mean of flips and "
        "1 - correlation, and flips alone, came before. The scores of flips alone on 17 networks "
        "of the judging half (AUC 0.89, within depth 0.84, 55 % decided, one verdict wrong) were "
        "seen after kappa had been settled. With kappa and *unused* below 0.10, 4 of 73 cuts of "
        "the judging half were wrongly called unused (67 % decided, 92 % right). After that was "
        "seen the border was lowered to 0.05: what is called unused is no longer judged by "
        "networks that chose nothing. Raw figures of the first 13 networks of both halves together "
        "had been seen once before, and nothing was chosen from them. The form of regressions (one "
        "minus Lin's concordance) and the recalibration of losses were chosen on the choosing half "
        f"later. Networks from index {BEGIN['new']} on were trained after that; they judge. Three "
        "matched images instead of four, and the second look at silent levels where images do not "
        "suit a network, were settled after these had been scored once; so were two guards: silent "
        "levels of hardly trained networks, and levels that one rare decision hangs on, are no "
        "longer called unused. Without the guards the model alone decided 64 % of the cuts of the "
        "new networks and images 68 %. [Networks that chose nothing](guards.md) judge the first. "
        "Last, "
        "the first proposal by the model alone may take away what is undecided but surely responds "
        "by less than 0.158: that was settled after the proposals of all halves had been seen, of "
        "which 65 % of the first new networks' were right before and 12 of 19 of the choosing "
        f"half's. Networks from index {BEGIN['again']} on were trained after all that: they judged "
        "it ([what was found](../../decisions/response.md)), and after that, with all before them, "
        "chose the borders anew: *unused* below 0.08 in the place of 0.05, *used* above 0.35 in "
        "the place of 0.25 where the outputs are decisions. Networks from index "
        f"{BEGIN['third']} on were trained after that and judged it; then *unused* was put back to "
        f"0.05, on all networks so far. Networks from index {BEGIN['fourth']} on judged that. Then "
        "the form of decisions was changed: one minus Lin's concordance of the probabilities, of "
        "which the root is taken as of numbers, with *unused* below 0.08. Networks from index "
        f"{BEGIN['fifth']} on judged that. Then channels that are no probabilities were measured "
        "as numbers, too, and *used* was given a second look at another contrast. Networks from "
        f"index {BEGIN['last']} on were trained after that, and judge. Those before "
        f"{BEGIN['fifth']} keep scores with kappa: the second new networks with the borders of "
        "before, without history and losses, the fourth ones with 0.05, the others with 0.08. "
        f"Networks from index {BEGIN['newest']} on have [a page of their own](newest/index.md), "
        f"and so have [those from {UNSEEN} on](unseen/index.md)."
    )


def grade_text(halves: dict[Half, pd.DataFrame]) -> list[str]:
    """The table of grades, the networks that judge first."""
    lines = []
    for half, grades in halves.items():
        shown = grades.sort_values("within", ascending=False).copy()
        for key in ("auc", "within"):
            shown[key] = [
                f"{r[key]:.2f} ({r[f'{key}_low']:.2f}-{r[f'{key}_high']:.2f})"
                for _, r in shown.iterrows()
            ]
        lines += [f"{HALVES[half].capitalize()}:", "", markdown(shown, GRADE_COLUMNS | SHOWN), ""]
    return lines


def clear_text(table: pd.DataFrame) -> str:
    """The grades on the cuts whose truth is on one side of the border."""
    rows = []
    for half in HALVES:
        part = judge.skilled(table[judge.is_clear(table) & (table["half"] == half)])
        rows += [
            {"half": half, "title": title} | judge.grade_row(part, key)
            for key, (_, _, title) in judge.GRADES.items()
            if key in part and len(part)
        ]
    return markdown(pd.DataFrame(rows), {"half": ("half", "{}")} | GRADE_COLUMNS)


FIGURES = {
    "flip": "share of decisions that change",
    "corr": "1 - correlation",
    "change": "rms change / rms of the answer",
    "chance_relative": "rms change of probabilities / their rms",
}
STIMULI = {
    "leaves": "dead leaves",
    "leaves_colour": "dead leaves in colours",
    "leaves_unit": "dead leaves in 0..1",
    "leaves_weak": "dead leaves, a third of the contrast",
    "leaves_strong": "dead leaves, three times the contrast",
    "leaves_double": "dead leaves of twice the side",
    "white": "white noise",
    "pink": "1/f noise",
    "photos": "photos of other things",
    "matched": "matched to the batch norms (where there are any)",
    "driven": "dead leaves, driven to varied answers",
    "images": "the user's images",
}


def form_text(listed: Sequence[Job], folder: Path, truth: pd.DataFrame) -> list[str]:
    """AUC within depth of raw figures on many kinds of images, by half; nothing if unmeasured."""
    raw = response_table(listed, folder)
    if raw.empty:
        return []
    table = judge.skilled(truth.merge(raw, on=["name", "reduction"]))
    rows = []
    for stimulus, title in STIMULI.items():
        row: dict[str, object] = {"images": title}
        for figure in FIGURES:
            key = f"{stimulus}:{figure}"
            for half in HALVES:
                part = table[table["half"] == half]
                if key in part and part[key].notna().any():
                    own = judge.grade_row(part, key)
                    row[f"{figure}_{half}"] = f"{own['auc']:.2f} / {own['within']:.2f}"
        rows.append(row)
    columns = {"images": ("images", "{}")} | {
        f"{figure}_{half}": (f"{title}, {half}", "{}")
        for figure, title in FIGURES.items()
        for half in HALVES
        if any(f"{figure}_{half}" in row for row in rows)
    }
    return [
        "## Other forms of a response",
        "",
        "Raw figures on many kinds of images, by hooks of the study's own: AUC / within depth.",
        "",
        markdown(pd.DataFrame(rows), columns),
        "",
    ]


def wrong_text(wrong: pd.DataFrame, judged: pd.DataFrame) -> list[str]:
    """Every wrong decided verdict with its cause."""
    counts = wrong.groupby(["half", "grade", "verdict"]).size()
    total = judge.skilled(judged)["name"].nunique()
    columns = {
        "half": ("half", "{}"),
        "grade": ("grade", "{}"),
        "verdict": ("said", "{}"),
        "name": ("network", "{}"),
        "start": ("start", "{}"),
        "reduction": ("cut at", "{:.0f}"),
        "score": ("score", "{:.3f}"),
        "lost": ("skill lost", "{:.2f}"),
        "lost_low": ("from", "{:.2f}"),
        "lost_high": ("to", "{:.2f}"),
        "cause": ("cause", "{}"),
    }
    main = wrong[wrong["grade"] != "weights"].sort_values(["half", "grade", "verdict"])
    return [
        f"{len(wrong)} decided verdicts are wrong ({total} skilled networks judge): "
        + "; ".join(f"{h} {g} {v} {n}" for (h, g, v), n in counts.items()) + ".",
        "",
        markdown(main, columns),
    ]  # fmt: skip


def refutation_text(table: pd.DataFrame, alone: Alone | None) -> list[str]:
    """What would have refuted forms and borders, on the new networks."""
    half: Half = next((h for h in BEGIN if (table["half"] == h).any()), "new")
    new = table[table["half"] == half]
    if new.empty:
        return []
    up = "../" * (2 + (alone is not None))  # such a page lies a folder deeper
    sets = {"all": new, "under a circumstance that was held out": new[new["held_out"] != ""]}
    columns = {k: (k, "{}") for k in ("claim", "found", "failed")}
    lines = ["## What would have refuted the borders", "",
             f"As [written down]({up}decisions/response.md) before these networks were scored; "
             "cuts whose truth is clear.", ""]  # fmt: skip
    for title, own in sets.items():
        lines += [f"Of the {HALVES[half]}, {title}:", "",
                  markdown(judge.refutations(own), columns), ""]  # fmt: skip
    return lines


def undecided_text(undecided: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """How many cuts each cause leaves undecided, and which costs most."""
    rows, all_cuts = [], judge.skilled(table)
    halves = [half for half in HALVES if (all_cuts["half"] == half).any()]
    for cause, title in judge.CAUSES.items():
        own = undecided[undecided["cause"] == cause]
        row: dict[str, object] = {"cause": title}
        for half in halves:
            used = own.loc[own["half"] == half, "used"].astype(bool)
            row[half] = f"{len(used)} ({int(used.sum())} used)" if len(used) else "-"
        if len(own):
            rows.append(row)
    half = next((h for h in HALVES if (undecided["half"] == h).any()), "new")
    cuts, own = (all_cuts["half"] == half).sum(), undecided[undecided["half"] == half]
    counts = own["cause"].value_counts()
    lines = [f"Of {cuts} cuts of the {HALVES[half]} {len(own)} are undecided."]
    if len(counts):
        idle = own.loc[own["cause"] == "hardly", "used"].eq(False).sum()
        lines[0] += (
            f" What costs most: {judge.CAUSES[counts.index[0]]} ({counts.iloc[0]}). Of silent "
            f"levels under little training {idle} of {counts.get('hardly', 0)} are idle, so that "
            "`trained=True`, which says that the training is over, would decide "
            f"{1 - (len(own) - counts.get('hardly', 0)) / cuts:.0%} in the place of "
            f"{1 - len(own) / cuts:.0%}. The study cannot judge that guard: its truth is what a "
            "network uses now, and the guard is for what it might use after more training."
        )
    return [*lines, "", "Each cut by the first cause that applies; all are in `undecided.csv`.", "",
            markdown(pd.DataFrame(rows), {"cause": ("cause", "{}")} | {
                half: (half, "{}") for half in halves})]  # fmt: skip


def own_data_text(table: pd.DataFrame) -> str:
    """How often a level matters on the user's data only."""
    part = judge.skilled(table)
    if "response_verdict" not in part or "images_verdict" not in part:
        return "Not measured."
    used = part[part["used"]]
    missed = used[used["response_verdict"] == "unused"]
    seen = missed[missed["images_verdict"] == "used"]
    return (
        f"Of {len(used)} used cuts the response calls {len(missed)} unused; in {len(seen)} of "
        "these the user's own unlabelled images show the use. "
        + "; ".join(f"{r['name']} at {r['reduction']:.0f}" for _, r in missed.iterrows())
    )


def proposal_text(networks: pd.DataFrame) -> list[str]:
    """How often the first proposal is the deepest cut that costs at most 5 %."""
    rows = []
    for half in HALVES:
        for way, share, count, costly in first_right(networks[networks["half"] == half]):
            rows.append({"half": half, "way": way, "networks": count, "right": share,
                         "costly": costly})  # fmt: skip
    return [
        "How often the first proposal takes away the most that costs at most 5 % of the skill, of "
        "the networks that have such a cut; and how often it costs more.",
        "",
        markdown(pd.DataFrame(rows), {
            "half": ("half", "{}"), "way": ("given", "{}"), "networks": ("networks", "{}"),
            "right": ("right", "{:.0%}"), "costly": ("costs more", "{}"),
        }),
    ]  # fmt: skip


def allowed_text(table: pd.DataFrame) -> list[str]:
    """What the labelled images that were given allow at best; nothing without skilled networks.

    Args:
        table: From `judge.given_table`.
    """
    if table.empty:
        return []
    row = judge.grade_row(table, "given")
    wanted, first = judge.first_by(table, "lost"), judge.first_by(table, "given")
    free = wanted > 0
    lost = table.set_index(["name", "reduction"])["lost"]
    costly = sum(lost[name, cut] > NEGLIGIBLE for name, cut in first[free & (first > 0)].items())
    return [
        "## What the images given allow",
        "",
        "The truth is measured on other images than those that `analyze` is given. So the study's "
        "own hooks measured the same shares on the labelled images that are given, with the same "
        "bootstrap: what these miss is missed by the choice of the images alone.",
        "",
        f"- AUC {row['auc']:.2f}, within depth {row['within']:.2f}; {row['decided']:.0%} have an "
        f"interval that leaves out 5 %, {row['right']:.1%} of these right, "
        f"{row['wrong_unused'] + row['wrong_used']:.1%} of all wrong.",
        f"- The most that costs at most 5 % on the images given is the most that does on the "
        f"others in {(first == wanted)[free].mean():.0%} of {free.sum()} networks; in {costly} it "
        "costs more there.",
        "",
    ]


def state_text(networks: pd.DataFrame) -> list[str]:
    """What was said of networks as a whole, and every false sentence."""
    learned = np.where(networks["skilled"], "trained", "little skill")
    kinds = networks.assign(
        kind=networks["labels"].where(networks["labels"] != "true", pd.Series(learned))
    )
    counts = kinds.groupby(["kind", "way", "state"]).size().reset_index(name="networks")
    false = judge.false_states(networks)
    lines = ["## What is said of a network as a whole", "",
             markdown(counts, {k: (k, "{}") for k in counts.columns}), ""]  # fmt: skip
    lines += [f"{len(false)} of these statements are false."]
    lines += [f"- {r['name']}, {r['way']}: {r['conclusion']}" for _, r in false.iterrows()]
    return lines


def sentence_text(sentences: pd.DataFrame) -> list[str]:
    """How many sentences of the conclusions are false, by what was given, and which."""
    rows = []
    for (half, way), own in sentences.groupby(["half", "way"]):
        beyond = own[own["elsewhere"] != ""]
        rows.append({"half": half, "way": way, "all": len(own),
                     "false": int((own["false"] != "").sum()), "elsewhere": len(beyond),
                     "clear": int((~beyond["open"].astype(bool)).sum())})  # fmt: skip
    columns = {"half": ("half", "{}"), "way": ("given", "{}"), "all": ("sentences", "{}"),
               "false": ("false", "{}"), "elsewhere": ("not of other images", "{}"),
               "clear": ("... by a clear truth", "{}")}  # fmt: skip
    lines = ["## Every sentence of every conclusion", "",
             "A sentence says what its verdicts were seen on, and is false if it names one stage "
             "wrongly of that: where labelled images were given, if on them the share of the skill "
             "that is lost lies surely on the other side of 5 %; where the output was looked at, "
             "if it changes by more or less than 0.158 of what it can (on the images given, or on "
             "dead leaves of the study's own). Both are measured by hooks that know nothing of the "
             "library. *Not of other images* counts those that do not hold for the skill on the "
             "test images, which is what a reader may take them for; before the sentences named "
             "what they were seen on, these counted as false.", "",
             markdown(pd.DataFrame(rows, columns=list(columns)), columns), ""]  # fmt: skip
    false = sentences[sentences["false"] != ""]
    lines += ["False:" if len(false) else "None is false.", ""]
    lines += [
        f"- {s['name']}, {s['way']}: *{s['text']}* {s['false']}." for _, s in false.iterrows()
    ]
    beyond = sentences[(sentences["elsewhere"] != "") & ~sentences["open"].astype(bool)]
    return lines + [""] * bool(len(false)) + ["Not of other images, by a clear truth:", ""] + [
        f"- {s['name']}, {s['way']}: *{s['text']}* {s['elsewhere']}." for _, s in beyond.iterrows()
    ]  # fmt: skip


def circumstance_text(circumstances: pd.DataFrame) -> str:
    """The response under every circumstance."""
    if circumstances.empty:
        return "No network learned enough."
    part = circumstances[circumstances["grade"] == "response"]
    part = part if len(part) else circumstances[circumstances["grade"] == "metric"]
    return markdown(part, {
        "circumstance": ("circumstance", "{}"), "value": ("", "{}"),
        "networks": ("networks", "{}"), "cuts": ("cuts", "{}"), "auc": ("AUC", "{:.2f}"),
        "within": ("within depth", "{:.2f}"), "decided": ("decided", "{:.0%}"),
        "right": ("right", "{:.0%}"), "wrong_unused": ('wrong "unused"', "{:.1%}"),
    })  # fmt: skip


def write_responses(listed: Sequence[Job], folder: Path, target: Path) -> None:
    """Write the raw candidates for a response beside the truth as ``responses.csv``."""
    target.mkdir(parents=True, exist_ok=True)
    truth = truth_table(listed, folder)
    kept = ["name", "half", "labels", "reduction", "skilled", "lost", "used"]
    frame = truth[kept].merge(response_table(listed, folder), on=["name", "reduction"])
    write_csv(frame, target / "responses.csv")


def markdown(frame: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of some columns, each with its title and format."""
    lines = ["| " + " | ".join(title for title, _ in columns.values()) + " |"]
    lines.append("|" + " --- |" * len(columns))
    for _, row in frame.iterrows():
        cells = [
            "" if k not in row or pd.isna(row[k]) else form.format(row[k])
            for k, (_, form) in columns.items()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table atomically, with four significant digits."""
    with written_atomically(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.4g")

"""Is every sentence true that the library says of a network as a whole?

Each conclusion is read sentence by sentence by rules that know all of them; a sentence that no rule
knows is reported too, so that a new one cannot pass unchecked. A sentence names what it was seen
on. It is false if it is wrong of that, by hooks that know nothing of the library; that it does not
hold for the skill on other images of the task is reported beside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from studies.evidence_protocol.given import given
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.judge import SIGNS, read_scores
from studies.evidence_protocol.truth import NEGLIGIBLE, SKILLED
from weightscope.thresholds import RESPONSE_BORDER
from weightscope.utilization.answers import BASE, COMPUTED, INPUT
from weightscope.utilization.lines import CHANNELS

NOTHING = "nothing can be concluded about which stages are used"
LIKE = "|".join(map(re.escape, (INPUT, BASE, COMPUTED, CHANNELS, "what it adds to")))
ANSWER = rf"(, ({INPUT} itself|(a straight line of )?({LIKE})|its answer for another image),)?"
COMPARED = r"\((?P<metric>.+?) (?P<network>\S+) against (?P<trivial>\S+)\)"
LARGER_IS_BETTER = ("f1", "accuracy")
RULES = {
    "broken": rf"\d+ (?:weights?|running statistics?) (?:is|are) NaN or infinite "
    rf"\(.*?\): {NOTHING}\. Load weights from before the training diverged\.",
    "untrained": r"Every layer looks as it was initialised(, \d+ tensors? to the last bit)?: an "
    rf"untrained network, {NOTHING}\.",
    "random": rf"Its random features are better than the best trivial answer{ANSWER} {COMPARED}\.",
    "kernels alone": r"If its kernels alone were trained, say trained=True\.",
    "unskilled": r"On the batches given the network is (?P<how>no|hardly) better than the best "
    rf"trivial answer{ANSWER} {COMPARED}: {NOTHING}\.",
    "unshown": r"On the batches given the network is (?P<how>no|hardly) better than the best "
    rf"trivial answer{ANSWER} {COMPARED}, but (\d+ of )?\d+ images are too few to be sure of it: "
    rf"{NOTHING}; give more\.",
    "unknown": "Nothing in the weights shows that the network was trained, and nothing shows that "
    rf"it was not: {NOTHING}\.",
    "verdicts": r"(By [a-z0-9, ]+: )?(?P<named>(\d+ (unused|used|undecided) \([^)]*\)(; )?)+)\.",
    "unsure": rf"The network is better than the best trivial answer{ANSWER} {COMPARED}, but "
    r"(\d+ of )?\d+ images are too few to be sure of it: give more\.",
    "untold": rf"The network is better than the best trivial answer{ANSWER} {COMPARED}, more than "
    rf"random features mostly are; but every layer looks as it was initialised: {NOTHING}\.",
    "few": r"(?P<have>\d+) images? decides? nothing, (?P<need>\d+) or more are needed: give more\.",
    "light": r"(?P<have>\d+) of \d+ images? weighs? in .+? \(the others hold no label or value "
    r"that counts in it(, or have one value with and without every level)?\), and (?P<need>\d+) or "
    r"more are needed: give more\.",
    "constant": "The targets are the same everywhere, so that nothing is learned from them: give "
    r"targets that differ\.",
    "accuracy": "By accuracy a constant is right wherever the commonest class is; metric='f1' "
    r"weighs what is rare as much\.",
    "unlearned": r"Of class(es)? [\d, .]+ the network shows no skill that counts: what is said by "
    r"data is not said of (it|them)\.",
    "removable": r"Nothing here can be removed on this evidence\.",
    "hardly": r"Perhaps it is hardly trained: (no level (surely )?responds( on synthetic images"
    r"| by more than [\d.]+)?, and )?(its weights show no more training than "
    r"(a few|some tens of) steps leave(, or many small ones)?|its output hardly varies|"
    r"its output, read as decisions, hardly varies \([\d.]+% of what sure ones would\)|"
    r"(its probabilities hardly tell apart two of its classes|its outputs, (read as probabilities|"
    r"if they are decisions), hardly tell two classes apart) \([\d.]+% of what sure decisions "
    r"would\))\. "
    "What silent "
    r"levels would do after more training cannot be known, so none is called unused; (batches= say "
    r"what they do now, and )?trained=True (says )?that its training is over\.",
    "advice": r"If you know that (it was|its training is over), say trained=True; else give "
    r"initial= \(the weights at the start\), or batches= with loss= or metric=\.",
    "unfinished": "(The weights between the deepest level and the output are as they were "
    "initialised, to the last bit; only the encoder was trained|Only the encoder shows training. "
    "Between the deepest level and the output what starts constant still is, to the last bit, and "
    rf"no kernel proves the contrary): {NOTHING}\.",
    "late kernels": r"If the kernels there were trained, say trained=True\.",
    "reach": "Used and unused tell here on what the output depends on (these|synthetic) images, "
    r"not whether the output is right(; (images=|batches=|images= or batches=) say more)?\.",
    "more": r"(images=|batches=|images= or batches=) say more\.",
    "probabilities": r"The model returns probabilities, and \w+= takes them for logits: .*\.",
    "uncut": r"No level can be cut, as the proposals say, so that none was measured alone\.",
    "versions": r"\S+ reads outputs.*?, (a coarser version|coarser versions) of the first output, "
    r"too, .*? reads the first output alone\.",
    "died": r"The output is the same for every .*?: the network has died, or nothing reaches it\.",
    "unmeasured": r"The response to (synthetic images|images=) was not measured: .*?\."
    r"( Give images= of your own\.)?(?= |$)",
    "foreign": r"No kernel (descends from initial=|(that history= holds )?is as (history=|it) "
    r"recorded it)[,:] .*?\.",
    "history": r"history= (says nothing of (some kernels|any kernel)|holds no parameter|"
    r"was recorded (under|of another network)).*?(\.(?= |$)|$)",
}


@dataclass(frozen=True)
class Sentence:
    """One sentence of a conclusion.

    Attributes:
        kind: Key of `RULES`; empty where none knows it.
        text: As it was said.
        false: What is wrong with it, of what it was seen on; empty where nothing is.
        open: Whether the truth itself may lie on either side, by its interval.
        elsewhere: What is wrong with it of the skill on other images.
    """

    kind: str
    text: str
    false: str = ""
    open: bool = False
    elsewhere: str = ""


def sentences(
    said: dict[str, Any],
    labels: str,
    truth: pd.DataFrame,
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Sentence]:
    """Read one conclusion and check each sentence.

    Args:
        said: What `scoring.record` kept.
        labels: ``true``, ``shuffled`` or ``none``.
        truth: The rows of this network in `compare.truth_table`.
        given: From `given.given`; without it verdicts are checked by `truth`.
    """
    found, rest = [], said["conclusion"].strip()
    while rest:
        for kind, rule in RULES.items():
            match = re.match(rule, rest)
            if match:
                false, unclear = _wrong(kind, match, said, labels, truth)
                elsewhere = false
                if given is not None and kind == "verdicts" and _learned(labels, truth):
                    false = "; ".join(_contradicted(match["named"], said, given))
                    unclear = unclear and not false
                found.append(Sentence(kind, match[0], false, unclear, elsewhere))
                rest = rest[match.end() :].strip()
                break
        else:
            found.append(Sentence("", rest, "no rule knows this sentence"))
            break
    return found


def _wrong(
    kind: str, match: re.Match[str], said: dict[str, Any], labels: str, truth: pd.DataFrame
) -> tuple[str, bool]:
    """What is wrong with a sentence, and whether the truth is open."""
    learned = _learned(labels, truth)
    if kind == "verdicts" and learned:
        wrong = list(_wrongly_named(match["named"], said, truth))
        text = "; ".join(text for text, _ in wrong)
        return text, bool(wrong) and all(unclear for _, unclear in wrong)
    if kind == "unskilled" and learned:
        return "other images show its skill", False
    false = {
        "broken": "all weights are finite",
        "untrained": "it was trained" if labels != "none" else "",
        "verdicts": _judged_untrained(match) if labels == "none" else "",
        "random": _not_better(match),
        "unsure": _not_better(match),
        "untold": _not_better(match),
        "unskilled": _better(match),
        "unshown": _better(match),
        "few": _enough(match),
        "light": _enough(match),
        "constant": "the targets differ",
        "unmeasured": "every network of the study answers synthetic images",
        "removable": _condemned(said),
        "hardly": _condemned(said),
        "probabilities": "no network of the study ends in a sigmoid",
        "died": "its answers vary" if learned else "",
        "foreign": _own(match, truth),
        "kernels alone": ""
        if "every layer looks as it was initialised" in said["conclusion"].lower()
        else "it is not told untrained",
        "unfinished": "" if labels == "none" else "all of it was trained",
    }
    return false.get(kind, ""), False


def _learned(labels: str, truth: pd.DataFrame) -> bool:
    return labels == "true" and bool((truth["skill"] > SKILLED).all())


def _judged_untrained(match: re.Match[str]) -> str:
    decided = "named" in match.groupdict() and re.search(r"\d+ (unused|used) ", match["named"])
    return "it was never trained" if decided else ""


def _not_better(match: re.Match[str]) -> str:
    compared = "network" in match.groupdict()
    return "the figures say that it is not" if compared and not _is_better(match) else ""


def _better(match: re.Match[str]) -> str:
    denied = match.groupdict().get("how") == "no"
    return "the figures say that it is better" if denied and _is_better(match) else ""


def _enough(match: re.Match[str]) -> str:
    found = match.groupdict()
    return "that is enough" if "have" in found and int(found["have"]) >= int(found["need"]) else ""


def _condemned(said: dict[str, Any]) -> str:
    some = any(s["verdict"] == "unused" for s in said["stages"])
    return "some stage is called unused" if some else ""


def _own(match: re.Match[str], truth: pd.DataFrame) -> str:
    """Every history of the study is the network's own; some of the networks are averaged."""
    averaged = "ema" in truth and bool(truth["ema"].all())
    told = averaged and "an average of the recorded ones" in match[0]
    return "" if told else "the history is its own, and no start is given"


def _is_better(match: re.Match[str]) -> bool:
    """Whether the figures of a comparison show a network that is better."""
    network, trivial = float(match["network"]), float(match["trivial"])
    return network > trivial if match["metric"] in LARGER_IS_BETTER else network < trivial


def _contradicted(
    named: str, said: dict[str, Any], given: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Stages called used or unused although what they were seen on says the contrary, surely."""
    stages = {s["stage"]: s for s in said["stages"]}
    for verdict, names in re.findall(r"\d+ (unused|used) \(([^)]*)\)", named):
        for name in names.split(", "):
            grade = stages[name]["evidence"]
            seen = given[grade].get(str(stages[name]["reduction"]))
            if seen is None:
                if verdict == "unused":
                    yield f"no cut removes {name}"
            elif grade == "data":
                other = (seen["low"] > NEGLIGIBLE, seen["high"] < NEGLIGIBLE)[verdict == "used"]
                if other:
                    yield f"without {name} {seen['lost']:.1%} of the skill go on these images"
            elif math.isfinite(seen) and (seen > RESPONSE_BORDER) == (verdict == "unused"):
                yield f"without {name} the output changes by {seen:.2g} of what it can"


def _wrongly_named(
    named: str, said: dict[str, Any], truth: pd.DataFrame
) -> Iterator[tuple[str, bool]]:
    """Stages called used or unused that are not, and whether their truth is open."""
    reductions = {s["stage"]: s["reduction"] for s in said["stages"]}
    cuts = truth.set_index("reduction")
    for verdict, names in re.findall(r"\d+ (unused|used) \(([^)]*)\)", named):
        for name in names.split(", "):
            reduction = reductions[name]
            if reduction not in cuts.index:
                if verdict == "unused":
                    yield f"no cut removes {name}", False
                continue
            cut = cuts.loc[reduction]
            if bool(cut["used"]) != (verdict == "used"):
                unclear = cut["lost_low"] <= NEGLIGIBLE <= cut["lost_high"]
                yield f"without {name} {cut['lost']:.1%} of the skill go", bool(unclear)


def sentence_table(
    listed: Sequence[Job], folder: Path, version: str, truth: pd.DataFrame
) -> pd.DataFrame:
    """One row for each sentence of each conclusion: name, half, way, and those of `Sentence`.

    Of several versions the first alone: what earlier code said is no longer said.
    """
    rows = []
    for job in listed:
        own = truth[truth["name"] == job.name]
        found = read_scores(job, folder, version.split(",")[0])
        seen = given(job, folder) if found and not own.empty else None
        for way, said in found.items():
            if way in SIGNS or own.empty or "conclusion" not in said:
                continue
            rows += [
                {"name": job.name, "half": job.half, "way": way} | vars(sentence)
                for sentence in sentences(said, job.labels, own, seen)
            ]
    columns = ["name", "half", "way", "kind", "text", "false", "open", "elsewhere"]
    return pd.DataFrame(rows, columns=columns)

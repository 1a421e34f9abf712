"""Claims and verdicts: what a paper says, the rule that decides it, and what the rule says about measured evidence.

``papers/<slug>/claims.yaml`` fixes, before anything runs, the metric, the comparison, the threshold and the statistic
of every claim. Evidence is a table with one row per measurement and the columns ``part`` (a window, a model size),
``seed``, ``unit`` (an evaluation document, a task, a repetition) and ``value`` (what is compared with the threshold).

Each part passes, contradicts or straddles:

| statistic        | effect of a part            | passes when                               | contradicts when     |
|------------------|-----------------------------|-------------------------------------------|----------------------|
| exact            | its worst value             | every value meets the comparison          | one does not         |
| paired_bootstrap | mean over seeds and units   | its 95 % interval meets it wholly         | none of it meets it  |
| sign_test        | median over seeds and units | p < 0.05 for a median on the claimed side | p < 0.05 for another |

``supported``: at least ``parts_required`` parts pass. ``refuted``: so many contradict that this cannot happen.
``inconclusive``: neither. ``gate not met``: what must hold for a verdict to count (the model is competent, the baseline is
not broken) does not hold. ``out of reach here``: the profile is too small, seeds or parts are missing, or nothing was
measured; no verdict is given then, however the numbers look. Effect and interval of a claim are those of the part that
decides it: the ``parts_required``-th best one, which is the worst one when all parts are required.

``claims.yaml`` says in words what a gate asks; a function of the paper (``experiments.GATES``, by the claim's id) reads the
paper's tables and gives whether it holds and what was found. So with the control, which must fail the rule of its claim: its
evidence comes from ``experiments.CONTROLS``, and a claim whose control meets the rule as well is not supported (``gate not
met``). A verdict names its scale: the profile, and what the paper's ``experiments.scale`` says of it.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from orchard.errors import OrchardError
from orchard.stats import paired_bootstrap, sign_test

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
}  # fmt: skip
STATISTICS = ("exact", "paired_bootstrap", "sign_test")
MEANING = {
    "smoke": "does everything run? Its numbers mean nothing",
    "laptop": "what holds at small scale, an evening on any machine; most claims are decided here",
    "gpu": "the same, larger, on one GPU",
    "paper": "the published sizes, built without memory",
}
PROFILES = tuple(MEANING)  # smallest first
VERDICTS = ("supported", "refuted", "inconclusive", "gate not met", "out of reach here")
KINDS = ("finding", "arithmetic")
COLUMNS = ("part", "seed", "unit", "value")
SIGNIFICANCE = 0.05

Outcome = Literal["passes", "contradicts", "straddles"]
Gate = Callable[[], tuple[bool, str]]  # whether it holds, and what was found: "full attention recalls 0.98, 0.9 needed"


class ClaimError(OrchardError):
    """A claims file, or the evidence for a claim, that cannot be used as it is."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper and the rule that decides it; the fields are those of ``claims.yaml``."""

    id: str
    source: str  # row of the specification's claim table, or the place in the paper
    text: str
    published: str  # the paper's number with its provenance tag
    notebook: str
    experiment: str
    metric: str  # what ``value`` is, with its unit
    comparison: str
    threshold: float
    statistic: str
    seeds: int
    profile: str  # the smallest that can decide it
    fixed: date  # when the threshold was fixed
    tolerance: float = 0.0  # only with ==
    parts_required: int | None = None  # None: all parts
    gate: str = ""  # what must hold for the verdict to count
    control: str = ""  # what must fail the rule
    kind: str = "finding"  # or "arithmetic": a formula of the paper, computed again; it is not counted as a finding

    @property
    def rule(self) -> str:
        """The comparison in words, such as ``> 0.1`` or ``== 0.5 ± 0.01``."""
        spread = f" ± {self.tolerance:g}" if self.tolerance else ""
        return f"{self.comparison} {self.threshold:g}{spread}"

    def holds(self, value: float) -> bool:
        """Whether ``value`` meets the comparison; NaN never does."""
        if self.comparison == "==":
            return abs(value - self.threshold) <= self.tolerance
        return COMPARISONS[self.comparison](value, self.threshold)

    def margin(self, value: float) -> float:
        """How far ``value`` lies on the claimed side of the threshold (negative: on the other); NaN is the worst."""
        if math.isnan(value):
            return -math.inf
        if self.comparison == "==":
            return self.tolerance - abs(value - self.threshold)
        return value - self.threshold if ">" in self.comparison else self.threshold - value


@dataclass(frozen=True)
class Part:
    """One part of the evidence: its effect with a 95 % interval, how many seeds and values, and how it comes out."""

    name: str
    effect: float
    low: float
    high: float
    seeds: int
    values: int
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """What the evidence says about a claim. Without a measurement ``effect``, ``low`` and ``high`` are NaN."""

    claim: Claim
    verdict: str
    effect: float
    low: float
    high: float
    reason: str
    parts: tuple[Part, ...] = ()
    scale: str = ""  # the profile, and how large its models are; empty where nothing was decided
    gate: str = ""  # what was found of the gate
    control: str = ""  # how the control came out under the same rule

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def why(self) -> str:
        """How many parts pass, and gate and control as they were found, a line each."""
        return described(self.as_dict())["why"]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON values; NaN becomes None, and infinite ends of an interval too."""
        flat = asdict(self) | {"id": self.id, "rule": self.claim.rule}
        flat["claim"] = asdict(self.claim) | {"fixed": self.claim.fixed.isoformat()}
        flat["parts"] = [asdict(part) for part in self.parts]
        return _finite(flat)


def load_claims(path: str | Path) -> list[Claim]:
    """The claims of a paper: ``path`` is its folder ``papers/<slug>`` or the claims.yaml itself.

    Raises ``ClaimError`` with file, claim, field and fix for anything that is missing, unknown or of the wrong kind.
    """
    path = Path(path)
    file = path / "claims.yaml" if path.is_dir() or path.suffix not in (".yaml", ".yml") else path
    if not file.exists():
        raise ClaimError(f"{file}: there is no such file; every paper has its claims there")
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaimError(f"{file}: not YAML: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ClaimError(f"{file}: the top level is not a list of claims: start each with '- id: C1'")
    claims = [_claim(entry, f"{file}: entry {number}") for number, entry in enumerate(entries, 1)]
    for position, claim in enumerate(claims):
        if any(claim.id == other.id for other in claims[:position]):
            raise ClaimError(f"{file}: claim {claim.id}: the id is used twice; give each claim its own")
    return claims


def _claim(entry: object, place: str) -> Claim:
    if not isinstance(entry, dict):
        raise ClaimError(f"{place}: {entry!r} is not a mapping of fields: start it with '- id: C1'")
    place = f"{place.rsplit(': ', 1)[0]}: claim {entry['id']}" if isinstance(entry.get("id"), str) else place
    known = {field.name: field for field in fields(Claim)}
    for key in entry:
        if key not in known:
            raise ClaimError(f"{place}: unknown field {key!r}; the fields are {', '.join(known)}")
    for name, field in known.items():
        if name not in entry and field.default is MISSING:
            raise ClaimError(f"{place}: field {name!r} is missing; add it")
    for name in entry:
        _check_field(name, entry[name], place)
    if entry.get("tolerance") and entry["comparison"] != "==":
        raise ClaimError(f"{place}: field 'tolerance': only == has one; move it into the threshold or drop it")
    if entry["statistic"] == "sign_test" and entry["comparison"] == "==":
        raise ClaimError(f"{place}: field 'comparison': a sign test cannot show equality; use paired_bootstrap")
    return Claim(**entry | {name: float(entry[name]) for name in ("threshold", "tolerance") if name in entry})


def _check_field(name: str, value: object, place: str) -> None:
    closed = {"comparison": tuple(COMPARISONS), "statistic": STATISTICS, "profile": PROFILES, "kind": KINDS}

    def refuse(wanted: str) -> None:
        raise ClaimError(f"{place}: field {name!r}: {value!r} is not {wanted}")

    if name in closed:
        if value not in closed[name]:
            refuse(f"one of {', '.join(closed[name])}")
    elif name in ("threshold", "tolerance"):
        if isinstance(value, str):
            refuse("a number; YAML reads 1e-5 as text, so write 1.0e-5")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            refuse("a finite number")
        if name == "tolerance" and value < 0:  # type: ignore[operator]
            refuse("a number from 0 up")
    elif name in ("seeds", "parts_required"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            refuse("a whole number from 1 up")
    elif name == "fixed":
        if type(value) is not date:
            refuse("a date such as 2026-11-23, without quotes")
    elif not isinstance(value, str) or not (value.strip() or name in ("gate", "control")):
        refuse("a text; put it in quotes")


def decide(
    claim: Claim, evidence: pd.DataFrame | None, profile: str, gate: Gate | None = None, scale: str = "",
    control: pd.DataFrame | None = None,
) -> Verdict:  # fmt: skip
    """The verdict on ``claim`` from ``evidence`` measured at ``profile``; the rules are at the top of this file.

    ``evidence`` is None when nobody has written how to measure the claim, and empty when nothing was measured. ``gate`` is
    asked when the verdict hangs on it; ``scale`` says how large the models of this profile are; ``control`` is evidence
    that must not meet the rule.
    Raises ``ClaimError`` for an unknown profile, missing columns, two rows for one part, seed and unit, or a gate or control
    that the claim names and nobody measures.
    """
    if profile not in PROFILES:
        raise ClaimError(f"profile {profile!r} does not exist: choose one of {', '.join(PROFILES)}")
    too_small = PROFILES.index(profile) < PROFILES.index(claim.profile)
    needs = f"needs profile {claim.profile}, this is {profile}"
    nothing = Verdict(claim, "out of reach here", math.nan, math.nan, math.nan, "")
    if evidence is None:
        return replace(nothing, reason="no experiment of this series measures it" + (f"; {needs}" if too_small else ""))
    if evidence.empty:
        return replace(nothing, reason=needs if too_small else f"nothing was measured for it at profile {profile}")

    found = _Judged.of(claim, evidence)
    fewest = min(found.parts, key=lambda part: part.seeds)
    verdict = Verdict(
        claim, "out of reach here", found.deciding.effect, found.deciding.low, found.deciding.high, "", found.parts
    )
    if too_small:
        return replace(verdict, reason=f"{needs}; here {found.score}")
    if len(found.parts) < found.required:
        return replace(verdict, reason=f"{_count(found.required, 'part')} needed, {len(found.parts)} measured")
    if fewest.seeds < claim.seeds:
        where = "" if len(found.parts) == 1 else f" in part {fewest.name}"
        return replace(verdict, reason=f"{_count(claim.seeds, 'seed')} needed, {fewest.seeds} run{where}")
    named = f"{profile} scale: {scale}" if scale else f"{profile} scale"
    return _decided(replace(verdict, scale=named), found, gate, control)


def _decided(verdict: Verdict, found: _Judged, gate: Gate | None, control: pd.DataFrame | None) -> Verdict:
    """The verdict where the evidence is whole: the gate first, then the rule, then the control."""
    claim = verdict.claim
    if claim.gate and gate is None:
        raise ClaimError(f"claim {claim.id}: nobody measures its gate ({claim.gate}); add it to experiments.GATES")
    if claim.control and control is None:
        raise ClaimError(
            f"claim {claim.id}: nobody measures its control ({claim.control}); add it to experiments.CONTROLS"
        )
    holds, seen = gate() if gate else (True, "")
    verdict = replace(verdict, gate=seen)
    meets = False
    if control is not None and not control.empty:
        other = _Judged.of(claim, control)
        meets = other.outcome == "supported"
        effect = format_effect(other.deciding.effect, other.deciding.low, other.deciding.high)
        verdict = replace(verdict, control=f"{'meets the rule as well' if meets else 'fails it'}: {effect}")
    if not holds:
        return replace(verdict, verdict="gate not met", reason=f"the gate does not hold; here {found.score}")
    if found.outcome == "supported" and control is not None and control.empty:
        return replace(verdict, verdict="gate not met", reason=f"the control was not measured; here {found.score}")
    if found.outcome == "supported" and meets:
        return replace(verdict, verdict="gate not met", reason=f"the control does not fail; here {found.score}")
    return replace(verdict, verdict=found.outcome, reason=found.score)


@dataclass(frozen=True)
class _Judged:
    """Evidence under the rule of a claim."""

    parts: tuple[Part, ...]
    required: int
    deciding: Part  # the one that the claim hangs on
    outcome: str  # supported, refuted or inconclusive, were the evidence whole
    score: str

    @classmethod
    def of(cls, claim: Claim, evidence: pd.DataFrame) -> _Judged:
        _check_evidence(claim, evidence)
        parts = tuple(
            _part(claim, str(name), rows) for name, rows in evidence.groupby("part", sort=False, dropna=False)
        )
        required = claim.parts_required or len(parts)
        order = sorted(parts, key=lambda part: claim.margin(_nearest(claim, part)), reverse=True)
        passed = sum(part.outcome == "passes" for part in parts)
        contradicted = sum(part.outcome == "contradicts" for part in parts)
        score = f"{passed} of {_count(len(parts), 'part')} {'passes' if passed == 1 or len(parts) == 1 else 'pass'}"
        if contradicted:
            score += f", {contradicted} {'contradicts' if contradicted == 1 else 'contradict'}"
        if required < len(parts):
            score += f" ({required} needed)"
        if not_finite := int((~evidence["value"].astype(float).map(math.isfinite)).sum()):
            score += f"; {_count(not_finite, 'value')} not finite"
        outcome = "supported" if passed >= required else "inconclusive"
        if len(parts) - contradicted < required:
            outcome = "refuted"
        return cls(parts, required, order[min(required, len(order)) - 1], outcome, score)


def _check_evidence(claim: Claim, evidence: pd.DataFrame) -> None:
    missing = [column for column in COLUMNS if column not in evidence.columns]
    if missing:
        raise ClaimError(f"claim {claim.id}: the evidence has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    repeated = evidence.duplicated(["part", "seed", "unit"])
    if claim.statistic != "exact" and repeated.any():
        row = evidence[repeated].iloc[0]
        raise ClaimError(
            f"claim {claim.id}: two rows for part {row['part']}, seed {row['seed']}, unit {row['unit']}: "
            "average them first, or give each measurement its own unit"
        )


def _part(claim: Claim, name: str, rows: pd.DataFrame) -> Part:
    """Effect, interval and outcome of one part."""
    values = rows["value"].astype(float).tolist()
    seeds = int(rows["seed"].nunique(dropna=False))
    outcome: Outcome = "straddles"
    if claim.statistic == "exact":
        worst = min(values, key=claim.margin)
        outcome = "passes" if all(map(claim.holds, values)) else "contradicts"
        return Part(name, worst, worst, worst, seeds, len(values), outcome)
    if claim.statistic == "paired_bootstrap":
        found = paired_bootstrap(values, rows["seed"].to_numpy())
        low, high, middle = found.low, found.high, claim.threshold
        if claim.holds(low) and claim.holds(high):
            outcome = "passes"
        elif claim.comparison == "==":
            outside = low > middle + claim.tolerance or high < middle - claim.tolerance
            outcome = "contradicts" if outside else "straddles"
        elif not math.isnan(low) and not math.isnan(high) and not claim.holds(low) and not claim.holds(high):
            outcome = "contradicts"
        return Part(name, found.estimate, low, high, seeds, len(values), outcome)
    above, below = sign_test(values, claim.threshold, "greater"), sign_test(values, claim.threshold, "less")
    claimed, other = (above, below) if ">" in claim.comparison else (below, above)
    if claimed.p_value < SIGNIFICANCE:
        outcome = "passes"
    elif other.p_value < SIGNIFICANCE:
        outcome = "contradicts"
    median = claimed.median
    return Part(name, median.estimate, median.low, median.high, seeds, len(values), outcome)


def _nearest(claim: Claim, part: Part) -> float:
    """The end of the part's interval that the verdict hangs on; the effect itself where there is no interval."""
    ends = [end for end in (part.low, part.high) if not math.isnan(end)]
    return min(ends, key=claim.margin) if ends else part.effect


def tally(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many findings came out how, from verdicts as JSON values, and how many claims are arithmetic; without zeros."""
    count = Counter(
        "arithmetic" if found.get("claim", {}).get("kind") == "arithmetic" else found["verdict"] for found in verdicts
    )
    return {name: count[name] for name in (*VERDICTS, "arithmetic") if count[name]}


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per verdict: id, verdict, scale, rule, threshold, effect, low, high, why, metric, published, source, notebook, text."""
    return pd.DataFrame([
        {
            "id": found.id, "verdict": found.verdict, "scale": found.scale, "rule": found.claim.rule,
            "threshold": found.claim.threshold, "effect": found.effect,
            "low": found.low, "high": found.high, "why": found.why, "metric": found.claim.metric,
            "published": found.claim.published, "source": found.claim.source, "notebook": found.claim.notebook,
            "text": found.claim.text,
        }
        for found in verdicts
    ])  # fmt: skip


def print_verdicts(verdicts: Iterable[Mapping[str, Any]]) -> None:
    """Print verdicts, as JSON values, as one table, with colours where the output has them, and a line that counts them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    verdicts = list(verdicts)
    colours = dict(zip(VERDICTS, ("blue", "red", "yellow", "magenta", "bright_black"), strict=True))
    table = Table("", "claim", "verdict", "measured [95 % interval]", "rule", "why", box=SIMPLE_HEAD, pad_edge=False)
    for column in (0, 2, 3, 4):
        table.columns[column].no_wrap = True
    for found in verdicts:
        said, claim = described(found), found.get("claim", {})
        verdict = Text(found["verdict"], style=f"bold {colours[found['verdict']]}")
        if found.get("scale"):
            verdict.append(f"\nat {found['scale'].partition(':')[0]}", style="default")
        if claim.get("kind") == "arithmetic":
            verdict.append("\narithmetic", style="default")
        measured = Text("\n".join(filter(None, (said["measured"], said["seeds"]))))
        table.add_row(found["id"], Text(claim.get("text", "")), verdict, measured, found["rule"], Text(said["why"]))
    console = Console(soft_wrap=False)
    if not console.is_terminal and not console.is_jupyter:
        console.width = 120
    console.print(table)
    summary = ", ".join(f"{count} {name}" for name, count in tally(verdicts).items()) or "no claims"
    scales = sorted({found["scale"] for found in verdicts if found.get("scale")})
    console.print(f"{summary} ({'; '.join(scales)})" if scales else summary, highlight=False)


def format_effect(effect: float, low: float, high: float) -> str:
    """``+0.012 [+0.003, +0.020]``; an exact value stands alone, and a dash where nothing was measured."""
    if math.isnan(effect) and math.isnan(low):
        return "–"
    if low == high == effect or (math.isnan(low) and math.isnan(high)):
        return f"{effect:.3g}"
    return f"{effect:+.3g} [{low:+.3g}, {high:+.3g}]"


def in_order(verdicts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Verdicts as JSON values in the order of the claims' numbers: C2, C10, C10b."""
    return sorted(verdicts, key=lambda v: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", v["id"])])


def described(verdict: Mapping[str, Any]) -> dict[str, str]:
    """A verdict as JSON values in words: ``measured`` (effect and interval), ``seeds`` (of the part that has fewest), and ``why``,
    a line each: how many parts pass, and the gate and the control as they were found."""
    numbers = [math.nan if verdict.get(key) is None else float(verdict[key]) for key in ("effect", "low", "high")]
    fewest = min((part["seeds"] for part in verdict.get("parts", ())), default=0)
    why = (verdict["reason"], *(f"{name}: {verdict[name]}" for name in ("gate", "control") if verdict.get(name)))
    return {
        "measured": format_effect(*numbers), "seeds": _count(fewest, "seed") if fewest else "",
        "why": "\n".join(filter(None, why)),
    }  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The verdict rules, their reasons, the schema of claims.yaml, and RATTENTION's claims and published numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from orchard.claims import (
    Claim,
    ClaimError,
    Verdict,
    decide,
    load_claims,
    print_verdicts,
    tally,
    verdict_table,
)

PAPER = Path(__file__).parents[2] / "papers" / "rattention"
FIELDS = {
    "id": "C1",
    "source": "R1",
    "text": "It is so.",
    "published": "1.0 [paper]",
    "notebook": "01_build",
    "experiment": "checks",
    "metric": "difference",
    "comparison": "<=",
    "threshold": 0.5,
    "statistic": "exact",
    "seeds": 1,
    "profile": "smoke",
    "fixed": date(2026, 11, 23),
}


def claim(**changes: object) -> Claim:
    return Claim(**(FIELDS | changes))


def exact(**parts: list[float]) -> pd.DataFrame:
    rows = [(part, 0, i, value) for part, values in parts.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["part", "seed", "unit", "value"])


def noisy(seeds: int = 3, units: int = 60, **means: float) -> pd.DataFrame:
    """Units scatter by 0.1 around the mean of their part."""
    random = np.random.default_rng(0)
    rows = [
        (part, seed, unit, mean + random.normal(0, 0.1))
        for part, mean in means.items()
        for seed in range(seeds)
        for unit in range(units)
    ]
    return pd.DataFrame(rows, columns=["part", "seed", "unit", "value"])


def outcome(found: Verdict) -> tuple[str, str]:
    return found.verdict, found.reason


def test_exact_needs_every_value_of_every_part() -> None:
    found = decide(claim(), exact(a=[0.1, 0.5], b=[0.2]), "smoke")
    assert outcome(found) == ("supported", "2 of 2 parts pass")
    assert (found.effect, found.low, found.high) == (0.5, 0.5, 0.5)
    found = decide(claim(), exact(a=[0.1, 0.51], b=[0.2]), "smoke")
    assert outcome(found) == ("refuted", "1 of 2 parts passes, 1 contradicts")
    assert found.effect == 0.51


def test_nan_never_passes() -> None:
    found = decide(claim(), exact(a=[0.1, math.nan]), "smoke")
    assert outcome(found) == ("refuted", "0 of 1 part passes, 1 contradicts; 1 value not finite")
    assert math.isnan(found.effect)
    for comparison in ("<", "<=", ">", ">=", "=="):
        assert decide(claim(comparison=comparison), exact(a=[math.nan]), "smoke").verdict == "refuted"
    evidence = noisy(a=1.0)
    evidence.loc[3, "value"] = math.nan
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap")
    assert outcome(decide(rule, evidence, "smoke")) == ("inconclusive", "0 of 1 part passes; 1 value not finite")
    assert decide(dataclasses.replace(rule, statistic="sign_test"), evidence, "smoke").verdict == "inconclusive"


@pytest.mark.parametrize(
    ("comparison", "value", "holds"),
    [("<", 0.5, False), ("<", 0.4, True), ("<=", 0.5, True), (">", 0.5, False), (">=", 0.5, True), ("==", 0.6, False)],
)
def test_comparisons_at_the_threshold(comparison: str, value: float, holds: bool) -> None:
    verdict = decide(claim(comparison=comparison), exact(a=[value]), "smoke").verdict
    assert verdict == ("supported" if holds else "refuted")


def test_equality_has_a_tolerance() -> None:
    rule = claim(comparison="==", threshold=0.5625, tolerance=0.01)
    assert rule.rule == "== 0.5625 ± 0.01"
    assert decide(rule, exact(a=[0.57]), "smoke").verdict == "supported"
    assert decide(rule, exact(a=[0.58]), "smoke").verdict == "refuted"
    rule = dataclasses.replace(rule, statistic="paired_bootstrap", threshold=0.0, tolerance=0.05)
    assert decide(rule, noisy(a=0.0), "smoke").verdict == "supported"
    assert decide(rule, noisy(a=0.3), "smoke").verdict == "refuted"
    assert decide(rule, noisy(a=0.05), "smoke").verdict == "inconclusive"


def test_paired_bootstrap_is_decided_by_the_interval() -> None:
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap", seeds=3)
    found = decide(rule, noisy(a=0.2, b=0.1), "smoke")
    assert outcome(found) == ("supported", "2 of 2 parts pass")
    assert 0 < found.low < found.effect < found.high < 0.15  # that of b, the part which decides
    assert outcome(decide(rule, noisy(a=0.2, b=-0.2), "smoke")) == ("refuted", "1 of 2 parts passes, 1 contradicts")
    assert outcome(decide(rule, noisy(a=0.2, b=0.0), "smoke")) == ("inconclusive", "1 of 2 parts passes")


def test_parts_required_counts_parts() -> None:
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap", seeds=3, parts_required=2)
    found = decide(rule, noisy(a=0.3, b=0.2, c=-0.2), "smoke")
    assert outcome(found) == ("supported", "2 of 3 parts pass, 1 contradicts (2 needed)")
    assert found.effect == pytest.approx(0.2, abs=0.05)
    assert decide(rule, noisy(a=0.3, b=0.0, c=-0.2), "smoke").verdict == "inconclusive"
    assert decide(rule, noisy(a=0.3, b=-0.3, c=-0.2), "smoke").verdict == "refuted"
    assert outcome(decide(rule, noisy(a=0.3), "smoke")) == ("out of reach here", "2 parts needed, 1 measured")


def test_sign_test_looks_at_the_median() -> None:
    rule = claim(comparison="<", threshold=0.0, statistic="sign_test")
    assert decide(rule, exact(a=[-0.5] * 8 + [9.0]), "smoke").verdict == "supported"
    assert decide(rule, exact(a=[0.5] * 8 + [-9.0]), "smoke").verdict == "refuted"
    found = decide(rule, exact(a=[-0.5, -0.4, -0.3, 0.1]), "smoke")
    assert found.verdict == "inconclusive"
    assert found.effect == pytest.approx(-0.35)
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_too_few_seeds_never_give_a_verdict() -> None:
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap", seeds=3)
    found = decide(rule, noisy(seeds=2, a=5.0), "smoke")
    assert outcome(found) == ("out of reach here", "3 seeds needed, 2 run")
    assert found.low > 4
    uneven = pd.concat([noisy(seeds=3, a=5.0), noisy(seeds=1, b=5.0)])
    assert outcome(decide(rule, uneven, "smoke")) == ("out of reach here", "3 seeds needed, 1 run in part b")


def test_an_exact_claim_needs_its_seeds_too() -> None:
    rule = claim(seeds=2)
    assert outcome(decide(rule, exact(a=[0.1]), "smoke")) == ("out of reach here", "2 seeds needed, 1 run")
    both = pd.concat([exact(a=[0.1]), exact(a=[0.2]).assign(seed=1)])
    assert decide(rule, both, "smoke").verdict == "supported"
    assert decide(rule, exact(a=[0.9]), "smoke").verdict == "out of reach here"


def test_a_gate_that_does_not_hold_takes_the_verdict_away() -> None:
    asked: list[bool] = []

    def gate(holds: bool) -> tuple[bool, str]:
        asked.append(holds)
        return holds, f"the baseline learns {'enough' if holds else 'nothing'}"

    rule = claim(gate="the baseline learns")
    found = decide(rule, exact(a=[0.1]), "smoke", partial(gate, False))
    assert outcome(found) == ("gate not met", "the gate does not hold; here 1 of 1 part passes")
    assert found.gate == "the baseline learns nothing"
    assert found.effect == 0.1
    found = decide(rule, exact(a=[0.9]), "smoke", partial(gate, True))
    assert outcome(found) == ("refuted", "0 of 1 part passes, 1 contradicts")
    assert asked == [False, True]
    needs = dataclasses.replace(rule, profile="gpu")
    assert decide(needs, exact(a=[0.1]), "laptop", partial(gate, True)).verdict == "out of reach here"
    assert decide(rule, exact(), "smoke", partial(gate, True)).verdict == "out of reach here"
    assert asked == [False, True]  # nothing hung on it
    with pytest.raises(
        ClaimError, match=r"nobody measures its gate \(the baseline learns\); add it to experiments.GATES"
    ):
        decide(rule, exact(a=[0.1]), "smoke")


def test_nothing_is_supported_that_its_control_would_pass() -> None:
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap", control="random masks")
    good, bad = noisy(a=0.3, b=0.3), noisy(a=0.3, b=-0.3)
    found = decide(rule, good, "smoke", control=bad)
    assert found.verdict == "supported"
    assert found.control.startswith("fails it: -0.3")
    assert found.why == f"2 of 2 parts pass\ncontrol: {found.control}"
    found = decide(rule, good, "smoke", control=good)
    assert found.verdict == "gate not met"
    assert found.reason == "the control does not fail; here 2 of 2 parts pass"
    assert found.control.startswith("meets the rule as well: +0.29")
    assert decide(rule, bad, "smoke", control=good).verdict == "refuted"  # whatever the control does
    assert (
        decide(rule, good, "smoke", control=good[:0]).reason == "the control was not measured; here 2 of 2 parts pass"
    )
    with pytest.raises(
        ClaimError, match=r"nobody measures its control \(random masks\); add it to experiments.CONTROLS"
    ):
        decide(rule, good, "smoke")


def test_a_verdict_names_its_scale(capsys: pytest.CaptureFixture[str]) -> None:
    found = decide(claim(), exact(a=[0.1]), "laptop", scale="0.3 M parameters, 3 models")
    assert found.scale == "laptop scale: 0.3 M parameters, 3 models"
    assert found.as_dict()["scale"] == found.scale
    assert decide(claim(), exact(a=[0.1]), "gpu").scale == "gpu scale"
    assert decide(claim(profile="gpu"), exact(a=[0.1]), "laptop").scale == ""
    print_verdicts([found.as_dict()])
    shown = capsys.readouterr().out
    assert "at laptop scale" in shown
    assert "1 supported (laptop scale: 0.3 M parameters, 3 models)" in shown


def test_a_small_profile_shows_what_it_measured_and_decides_nothing() -> None:
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap", profile="gpu")
    found = decide(rule, noisy(seeds=2, a=1.0), "smoke")
    assert outcome(found) == ("out of reach here", "needs profile gpu, this is smoke; here 1 of 1 part passes")
    assert found.effect == pytest.approx(1.0, abs=0.05)
    assert decide(rule, noisy(seeds=2, a=1.0), "paper").verdict == "supported"
    with pytest.raises(ClaimError, match="'tiny' does not exist: choose one of smoke, laptop, gpu, paper"):
        decide(rule, None, "tiny")


def test_without_evidence_the_reason_says_why() -> None:
    empty = exact()
    assert outcome(decide(claim(), None, "smoke")) == ("out of reach here", "no experiment of this series measures it")
    assert (
        decide(claim(profile="gpu"), None, "smoke").reason
        == "no experiment of this series measures it; needs profile gpu, this is smoke"
    )
    assert decide(claim(), empty, "smoke").reason == "nothing was measured for it at profile smoke"
    found = decide(claim(profile="gpu"), empty, "smoke")
    assert found.reason == "needs profile gpu, this is smoke"
    assert math.isnan(found.effect)
    assert found.as_dict()["effect"] is None


def test_evidence_must_be_whole_and_without_repeats() -> None:
    with pytest.raises(ClaimError, match="claim C1: the evidence has no column 'unit'"):
        decide(claim(), exact(a=[1.0]).drop(columns="unit"), "smoke")
    twice = pd.concat([noisy(a=1.0), noisy(a=1.0).iloc[:1]])
    with pytest.raises(ClaimError, match="two rows for part a, seed 0, unit 0"):
        decide(claim(statistic="paired_bootstrap"), twice, "smoke")


def test_verdicts_are_repeatable_and_do_not_depend_on_row_order() -> None:
    rule = claim(comparison=">", threshold=0.0, statistic="paired_bootstrap")
    evidence = noisy(a=0.02, b=0.1)
    first, second = decide(rule, evidence, "smoke"), decide(rule, evidence.copy(), "smoke")
    assert first == second


def write(folder: Path, *entries: dict[str, object]) -> Path:
    (folder / "claims.yaml").write_text(yaml.safe_dump(list(entries), sort_keys=False))
    return folder


def test_load_claims_reads_a_folder_or_a_file(tmp_path: Path) -> None:
    write(tmp_path, FIELDS, FIELDS | {"id": "C2", "parts_required": 2})
    loaded = load_claims(tmp_path)
    assert loaded == load_claims(tmp_path / "claims.yaml")
    assert loaded[0] == claim()
    assert loaded[1].parts_required == 2
    assert (loaded[0].gate, loaded[0].control) == ("", "")
    write(tmp_path, FIELDS | {"gate": "", "control": "random pairs"})
    assert (load_claims(tmp_path)[0].gate, load_claims(tmp_path)[0].control) == ("", "random pairs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treshold": 1}, r"claims.yaml: claim C1: unknown field 'treshold'; the fields are id, source"),
        ({"threshold": None}, "claim C1: field 'threshold': None is not a finite number"),
        ({"threshold": "1e-5"}, "YAML reads 1e-5 as text, so write 1.0e-5"),
        ({"threshold": math.nan}, "nan is not a finite number"),
        ({"comparison": "=<"}, "field 'comparison': '=<' is not one of <, <=, >, >=, =="),
        ({"statistic": "t_test"}, "'t_test' is not one of exact, paired_bootstrap, sign_test"),
        ({"profile": "tpu"}, "'tpu' is not one of smoke, laptop, gpu, paper"),
        ({"profile": ["gpu"]}, "is not one of smoke, laptop, gpu, paper"),
        ({"seeds": 0}, "0 is not a whole number from 1 up"),
        ({"seeds": True}, "True is not a whole number"),
        ({"fixed": "2026-11-23"}, "'2026-11-23' is not a date such as 2026-11-23, without quotes"),
        ({"text": 3}, "field 'text': 3 is not a text"),
        ({"id": 7}, "entry 1: field 'id': 7 is not a text"),
        ({"gate": 3}, "field 'gate': 3 is not a text"),
        ({"kind": "trivial"}, "field 'kind': 'trivial' is not one of finding, arithmetic"),
        ({"tolerance": 0.1}, "field 'tolerance': only == has one"),
        ({"statistic": "sign_test", "comparison": "=="}, "a sign test cannot show equality"),
    ],
)
def test_bad_claims_name_file_claim_field_and_fix(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ClaimError, match=message):
        load_claims(write(tmp_path, FIELDS | change))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match="no such file"):
        load_claims(tmp_path)
    with pytest.raises(ClaimError, match="claim C1: field 'metric' is missing; add it"):
        load_claims(write(tmp_path, {key: value for key, value in FIELDS.items() if key != "metric"}))
    with pytest.raises(ClaimError, match="claim C1: the id is used twice"):
        load_claims(write(tmp_path, FIELDS, FIELDS))
    for text, message in (
        ("a: [", "not YAML"),
        ("a: 1", "not a list"),
        ("", "not a list"),
        ("- 3", "entry 1: 3 is not a mapping"),
    ):
        (tmp_path / "claims.yaml").write_text(text)
        with pytest.raises(ClaimError, match=message):
            load_claims(tmp_path)


def test_the_table_and_the_print_show_every_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [
        decide(claim(), exact(a=[0.25]), "smoke"),
        decide(claim(id="C2", text="[red]not markup"), exact(a=[0.75]), "smoke"),
        decide(claim(id="C3", comparison=">", threshold=0.0, statistic="paired_bootstrap"), noisy(a=0.0), "smoke"),
        decide(claim(id="C4"), None, "smoke"),
    ]
    table = verdict_table(verdicts)
    assert list(table["verdict"]) == ["supported", "refuted", "inconclusive", "out of reach here"]
    assert {"id", "rule", "effect", "low", "high", "why", "metric", "published", "text"} <= set(table.columns)
    print_verdicts(found.as_dict() for found in verdicts)
    shown = capsys.readouterr().out
    assert "1 supported, 1 refuted, 1 inconclusive, 1 out of reach here" in shown
    assert "[red]not markup" in shown
    assert "0.25" in shown
    print_verdicts([])
    assert verdict_table([]).empty


def test_arithmetic_is_counted_apart_from_findings(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [decide(claim(id=name, kind=kind), exact(a=[0.25]), "smoke") for name, kind in
                (("C1", "finding"), ("C2", "arithmetic"))]  # fmt: skip
    assert tally(found.as_dict() for found in verdicts) == {"supported": 1, "arithmetic": 1}
    assert tally([{"verdict": "refuted"}]) == {"refuted": 1}  # of results that do not say it
    print_verdicts(found.as_dict() for found in verdicts)
    assert "1 supported, 1 arithmetic" in capsys.readouterr().out


def test_rattention_has_every_claim_of_its_specification() -> None:
    claims = {found.id: found for found in load_claims(PAPER)}
    assert set(claims) == {f"C{number}" for number in range(1, 18)} | {"C4b", "C7b", "C7r", "C7br"}
    smoke = {"C1", "C2", "C3", "C4", "C4b", "C5", "C6", "C16", "C17"}
    assert {name for name, found in claims.items() if found.profile == "smoke"} == smoke
    assert {name for name, found in claims.items() if found.statistic == "exact"} == smoke
    assert {name for name, found in claims.items() if found.experiment == "exact_checks"} == smoke
    assert {name for name, found in claims.items() if found.profile == "gpu"} == {"C14", "C15"}
    assert {name for name, found in claims.items() if not (found.gate and found.control)} == smoke
    assert {name for name, found in claims.items() if found.fixed != date(2026, 11, 23)} == {"C7r", "C7br"}
    assert {found.notebook for found in claims.values()} == {"01_build", "03_ablate", "04_plot", "05_efficiency"}
    assert (claims["C7"].parts_required, claims["C8"].threshold, claims["C9"].threshold) == (3, 0.01, 0.1)


def test_published_holds_every_table_and_its_averages_are_those_of_its_rows() -> None:
    table = pd.read_csv(PAPER / "published.csv")
    assert list(table.columns) == ["table", "model", "context", "arm", "metric", "value", "tag"]
    sizes = {"Figure 4": 13, "Table 1": 72, "Table 2": 84, "Figure 5": 12, "Figure 6": 16, "Table 3": 12, "Table 4": 16}
    assert table.groupby("table", sort=False).size().to_dict() == sizes
    assert not table.isna().any().any()
    assert not table.duplicated(["table", "model", "context", "arm", "metric"]).any()
    assert set(table["tag"]) == {"[paper]", "[paper, digitised]"}

    values = table.set_index(["table", "model", "context", "arm", "metric"])["value"]
    assert values["Table 1", "3B", 4096, "RAtt@512", "GSM8K"] == 33.74
    assert values["Table 2", "12B", 4096, "RAtt@64", "MMLU"] == 49.17
    assert values["Figure 5", "12B", 8192, "SWA@4096", "Avg"] == 62.64
    assert values["Figure 6", "3B", 32768, "RAtt@512", "RULER"] == 29.59
    assert values["Table 3", "12B", 8192, "RAtt@1024", "seconds per step"] == 3.97
    assert values["Table 4", "3B", 4096, "-SWA", "MMLU"] == 32.6
    assert values["Figure 4", "3B", 4096, "SWA@512", "MMLU"] == 33.4

    for name in ("Table 1", "Table 2"):
        part = table[table["table"] == name].pivot(index="metric", columns="arm", values="value")
        means = part.drop(index=["Avg", "MMLU", "GSM8K"])
        assert len(means) == 9
        assert (means.mean() - part.loc["Avg"]).abs().max() <= 0.06

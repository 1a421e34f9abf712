"""Every series at `smoke`, through the runner that users have; a second time from the store, with the same results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchard.claims import load_claims
from orchard.notebooks import check_hygiene, notebooks_of, reproduce
from orchard.paths import root
from orchard.runs import Setting, Store
from orchard.series import output_folder, papers_folder, slugs


def results(slug: str) -> dict[str, dict]:
    folder = output_folder(slug, Setting("smoke"))
    return {path.name: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def run_results() -> dict[str, bytes]:
    return {run.id: (run.folder / "result.json").read_bytes() for run in Store().ls()}


@pytest.mark.slow
@pytest.mark.parametrize("slug", slugs())
def test_a_series_runs_headlessly_and_a_second_time_from_the_store(slug: str) -> None:
    first = reproduce([slug], {"PROFILE": "smoke"})
    assert [e.error for e in first] == [None] * len(notebooks_of(slug))
    assert max(e.peak_memory for e in first) < 3 * 2**30
    seen, runs = results(slug), run_results()
    assert set(seen) == {f"{path.stem}.json" for path in notebooks_of(slug)}
    decided = [verdict["id"] for content in seen.values() for verdict in content["verdicts"]]
    assert sorted(decided) == sorted(claim.id for claim in load_claims(papers_folder(slug)))
    for content in seen.values():
        for name in content["figures"]:
            stem = output_folder(slug, Setting("smoke")) / "figures" / name
            assert all(Path(f"{stem}{ending}").stat().st_size for ending in (".svg", ".png", ".csv"))

    assert all(e.ok for e in reproduce([slug], {"PROFILE": "smoke"}, jobs=2))
    assert run_results() == runs  # nothing was trained, nothing changed
    assert results(slug) == seen


def test_committed_notebooks_are_clean() -> None:
    problems = [p for path in sorted((root() / "notebooks").rglob("*.ipynb")) for p in check_hygiene(path)]
    assert problems == []

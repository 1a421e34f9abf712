"""Every series at `smoke`: its runs once, in one pool, then each notebook once, on the finished store, through the runner users have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchard.claims import load_claims
from orchard.notebooks import check_hygiene, notebooks_of, reproduce
from orchard.paths import root
from orchard.runs import Setting, Store
from orchard.series import compute, open_series, output_folder, papers_folder, slugs


def run_results() -> dict[str, bytes]:
    return {run.id: (run.folder / "result.json").read_bytes() for run in Store().ls()}


@pytest.mark.slow
@pytest.mark.parametrize("slug", slugs())
def test_a_series_runs_headlessly_on_finished_runs(slug: str) -> None:
    compute(slug, "smoke")
    runs = run_results()
    expected = {v.id: v.as_dict() for v in open_series(slug, "all", profile="smoke").verdicts()}
    assert sorted(expected) == sorted(claim.id for claim in load_claims(papers_folder(slug)))

    done = reproduce([slug], {"PROFILE": "smoke"})
    assert [e.error for e in done] == [None] * len(notebooks_of(slug))
    assert max(e.peak_memory for e in done) < 3 * 2**30
    assert run_results() == runs  # nothing was computed that `orchard run` does not compute

    folder = output_folder(slug, Setting("smoke"))
    seen = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    assert set(seen) == {path.stem for path in notebooks_of(slug)}
    assert {v["id"]: v for content in seen.values() for v in content["verdicts"]} == json.loads(json.dumps(expected))
    for content in seen.values():
        for name in content["figures"]:
            stem = folder / "figures" / name
            assert all(Path(f"{stem}{ending}").stat().st_size for ending in (".svg", ".png", ".csv"))


def test_committed_notebooks_are_clean() -> None:
    problems = [p for path in sorted((root() / "notebooks").rglob("*.ipynb")) for p in check_hygiene(path)]
    assert problems == []

"""Every series at `smoke`: its runs are computed once, then each notebook is executed once, through the runner that users have."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchard.claims import load_claims
from orchard.notebooks import check_hygiene, notebooks_of, reproduce
from orchard.paths import root
from orchard.publish import committed
from orchard.runs import Setting, Store
from orchard.series import Series, output_folder, papers_folder, slugs


@pytest.mark.slow
@pytest.mark.parametrize("slug", slugs())
def test_a_series_runs_headlessly_and_says_what_its_tables_say(slug: str) -> None:
    series = Series(slug, "", Setting("smoke"), "auto", "local", None, None)
    series.prepare(*series.experiments.EXPERIMENTS)
    verdicts = {verdict.id: verdict.as_dict() for verdict in series.verdicts()}
    assert sorted(verdicts) == sorted(claim.id for claim in load_claims(papers_folder(slug)))
    computed = {run.id: (run.folder / "result.json").read_bytes() for run in Store().ls()}

    done = reproduce([slug], {"PROFILE": "smoke"}, jobs=2)
    assert [execution.error for execution in done] == [None] * len(notebooks_of(slug))
    assert max(execution.peak_memory for execution in done) < 3 * 2**30
    folder = output_folder(slug, Setting("smoke"))
    results = committed(slug, "smoke", folder)
    assert [result["notebook"] for result in results] == [path.stem for path in notebooks_of(slug)]
    assert {v["id"]: v for result in results for v in result["verdicts"]} == verdicts
    assert {run["id"] for result in results for run in result["runs"]} <= set(computed)  # no further run was needed
    now = {run.id: (run.folder / "result.json").read_bytes() for run in Store().ls()}
    assert {run_id: now[run_id] for run_id in computed} == computed
    for result in results:
        for name in result["figures"]:
            stem = folder / "figures" / name
            assert all(Path(f"{stem}{ending}").stat().st_size for ending in (".svg", ".png", ".csv"))


def test_committed_notebooks_are_clean() -> None:
    problems = [p for path in sorted((root() / "notebooks").rglob("*.ipynb")) for p in check_hygiene(path)]
    assert problems == []

"""A series: experiments share their batches of runs, corpora never share one, every setting has its own folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from orchard import publish
from orchard.errors import BadInput, OrchardError
from orchard.runs import Finished, Setting, identity, recipe
from orchard.series import Series, _commit, _open, check_seeds, output_folder, planned, recipes
from toy_runs import Square, Total, corpus, tiny_lm


def squares(numbers: list[int]):
    def experiment(setting, run) -> pd.DataFrame:
        return pd.DataFrame([done.result for done in run([Square.Config(number=n) for n in numbers])])

    return experiment


def largest_first(setting, run) -> pd.DataFrame:
    """Needs a further run that depends on the result of the first ones."""
    best = max(done.result["square"] for done in run([Square.Config(number=n) for n in (2, 3)]))
    return pd.DataFrame([done.result for done in run([Square.Config(number=int(best))])])


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> Series:
    made = _open("rattention", "", "smoke", None, "cpu", "local", "embedded", None, 1)
    toys = {"few": squares([1, 2]), "more": squares([2, 5]), "staged": largest_first}
    monkeypatch.setattr(made.experiments, "EXPERIMENTS", toys)
    return made


def test_experiments_share_batches(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[int]] = []
    compute = series.run

    def run(cfgs):
        if any(identity(cfg).id not in series._runs for cfg in cfgs):
            batches.append([cfg.number for cfg in cfgs])
        return compute(cfgs)

    monkeypatch.setattr(series, "run", run)
    series.prepare("few", "more", "staged")
    assert batches == [[1, 2, 2, 5, 2, 3], [9]]
    assert series.table("staged")["square"].tolist() == [81]
    assert series.table("more")["square"].tolist() == [4, 25]
    assert len(batches) == 2


def test_an_unknown_experiment(series: Series) -> None:
    with pytest.raises(BadInput, match="rattention has no experiment 'fewer'"):
        series.prepare("few", "fewer")


def corpora(tmp_path: Path) -> tuple[Path, Path]:
    """Two corpora of one name."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        corpus(tmp_path / name)
    text = tmp_path / "b" / "text.txt"
    text.write_text(text.read_text() + "\n\nanother end")
    return tmp_path / "a" / "text.txt", text


def test_two_corpora_never_share_a_run(series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (tiny_lm(path) for path in corpora(tmp_path))
    assert first.fingerprint() == second.fingerprint()
    computed: list[object] = []

    def execute(cfgs, *_, **__) -> list[Finished]:
        computed.extend(cfg.source.path for cfg in cfgs)
        return [Finished(Path(cfg.source.path)) for cfg in cfgs]

    monkeypatch.setattr("orchard.series.execute", execute)
    assert series.run([first])[0].folder != series.run([second])[0].folder
    series.run([second, first])
    assert computed == [first.source.path, second.source.path]


def test_every_setting_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = corpora(tmp_path)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a-b").mkdir()
    spaced, dashed = corpus(tmp_path / "a b").parent, corpus(tmp_path / "a-b").parent
    (dashed / "text.txt").write_text((dashed / "text.txt").read_text() + "\n\nanother end")
    settings = [Setting("smoke", data=str(path)) for path in (first, second, spaced, dashed)]
    settings += [Setting("smoke"), Setting("gpu"), Setting("smoke", (0,)), Setting("smoke", tuple(range(99)))]
    names = [output_folder("rattention", setting).name for setting in settings]
    assert len(set(names)) == len(names)
    assert names[0].startswith("smoke-text.txt-")
    assert names[4:7] == ["smoke", "gpu", "smoke-seeds-0"]
    monkeypatch.setattr("orchard.series.resolve_device", lambda device: "cuda")
    assert [output_folder("rattention", Setting("gpu"), d).name for d in ("auto", "cuda", "cpu")] == [
        "gpu",
        "gpu",
        "gpu-on-cpu",
    ]


@pytest.mark.parametrize("seeds", [0, -1, [], [-1], [0.5], True, "01", [0, 0]])
def test_seeds_that_cannot_be(seeds: object) -> None:
    with pytest.raises(BadInput, match="SEEDS = "):
        check_seeds(seeds)


def test_the_commit_or_why_it_is_unknown() -> None:
    assert _commit({"sha": "5d035fe", "dirty": False}) == "5d035fe"
    assert _commit({"sha": None, "why": "dubious ownership"}) == "unknown: dubious ownership"
    assert _commit(None) == "unknown: no git, or no checkout"


def test_results_older_than_the_code_are_named(series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series.table("few")
    series.notebook, series.output = "01_build", tmp_path
    monkeypatch.setattr(series, "verdicts", lambda notebook=None: [])
    series.finish()
    written = json.loads((tmp_path / "01_build.json").read_text())
    monkeypatch.setattr(publish, "committed", lambda slug, profile: [written])
    now = {"": {run["recipe"] for run in written["runs"]}}
    monkeypatch.setattr(publish, "recipes", lambda slug, profile: now)
    assert publish.outdated("rattention", "laptop") == []
    assert publish.outdated("rattention", "smoke") == []
    now[""].add("another")
    assert publish.outdated("rattention", "laptop") == []
    now[""] = {"another"}
    assert publish.outdated("rattention", "laptop") == []  # the second may be one that depends on results
    now[""] = {"another", "and another"}
    assert publish.outdated("rattention", "laptop") == ["01_build (2 of 2 runs)"]


def test_what_is_asked_for_is_known_as_far_as_the_store_goes(series: Series) -> None:
    assert planned("rattention")["finished"].tolist() == [False] * 4  # 1, 2, 3 and 5: that 9 comes next is not known
    series.table("staged")
    assert planned("rattention")["finished"].tolist() == [False, True, False, True, True]
    assert len(recipes("rattention", "smoke")[""]) == 5


def test_recipes_know_what_is_contained_in_what_is_asked_for(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    def totals(setting, run) -> pd.DataFrame:
        return pd.DataFrame([done.result for done in run([Total.Config(parts=[Square.Config(number=7)])])])

    monkeypatch.setattr(series.experiments, "EXPERIMENTS", {"totals": totals})
    assert recipe(Square.Config(number=7)) in recipes("rattention", "smoke")[""]


@pytest.mark.parametrize("content", ['{"verdicts": [{"id": "C1", "verd', "{}", '{"verdicts": [{"id": "C1"}]}', "[]"])
def test_a_damaged_result_file_is_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "01_build.json").write_text(content)
    with pytest.raises(OrchardError, match=r"01_build.json is damaged .*; run its notebook again"):
        publish.committed("rattention", "smoke", tmp_path)

"""What must hold for every paper: completeness, golden configs, the paper profile on the meta device, claims with their notebooks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pandas as pd
import pytest

from orchard import publish
from orchard.claims import PROFILES, load_claims
from orchard.paths import root
from orchard.runs import Finished, Run, Setting
from orchard.scaffold import missing
from orchard.series import evidence_of, paper_module, papers_folder, slugs

GOLDEN = Path(__file__).parents[1] / "golden"


class _Stop(Exception):
    pass


def first_configs(slug: str, profile: str) -> dict[str, str]:
    """Golden text of the first configs that each experiment asks for, before any result is known. A run that a config holds
    is named there by its label, and has a text of its own."""
    texts: dict[str, str] = {}

    def add(cfg: Run.Config) -> None:
        inner = {path: node for path, node, *_ in cfg.walk() if path and isinstance(node, Run.Config)}
        inside = tuple(f"{path}." for path in inner)
        own = [line for line in cfg.golden().splitlines(keepends=True) if not line.startswith(inside)]
        texts[cfg.label] = "".join([*own, *(f"{path}: run {node.label!r}\n" for path, node in inner.items())])
        for node in inner.values():
            add(node)

    def runner(cfgs: list[Run.Config]) -> list[Finished]:
        for cfg in cfgs:
            add(cfg)
        raise _Stop

    for experiment in paper_module(slug, "experiments").EXPERIMENTS.values():
        try:
            experiment(Setting(profile), runner)
        except _Stop:
            continue
    return texts


@pytest.mark.parametrize("slug", slugs())
def test_complete(slug: str) -> None:
    assert missing(slug) == []


@pytest.mark.parametrize(
    ("slug", "profile"), [(s, p) for s in slugs() for p in paper_module(s, "experiments").PROFILES]
)
def test_golden_configs(slug: str, profile: str, request: pytest.FixtureRequest) -> None:
    """A change of any config of any profile shows as a diff of text. To accept it: delete the file and run this test again."""
    text = "".join(f"# {label}\n{golden}\n" for label, golden in sorted(first_configs(slug, profile).items()))
    file = GOLDEN / f"{slug}-{profile}.txt"
    if not file.exists():
        file.write_text(text, encoding="utf-8")
        pytest.fail(f"{file.name} did not exist and was written: look at it and commit it")
    assert text == file.read_text(encoding="utf-8")
    assert str(Path.home()) not in text


@pytest.mark.parametrize("slug", slugs())
def test_claims_name_notebooks_and_evidence_that_exist(slug: str) -> None:
    claims = load_claims(papers_folder(slug))
    evidence = evidence_of(slug)
    notebooks = {p.stem for p in (root() / "notebooks" / slug).glob("*.ipynb")}
    assert set(evidence) <= {claim.id for claim in claims}
    gates = getattr(paper_module(slug, "experiments"), "GATES", {})
    assert set(gates) == {claim.id for claim in claims if claim.gate}
    assert {claim.notebook for claim in claims} <= notebooks
    profiles = paper_module(slug, "experiments").PROFILES
    assert all(claim.profile in profiles for claim in claims)


@pytest.mark.parametrize("slug", slugs())
def test_paper_profile_is_instantiated_on_the_meta_device(slug: str) -> None:
    shapes = paper_module(slug, "experiments").paper_shapes()
    assert isinstance(shapes, pd.DataFrame)
    assert len(shapes)


def test_generated_tables_are_those_of_the_committed_results() -> None:
    pages = {root() / "README.md": publish.results_table()}
    pages |= {papers_folder(slug) / "README.md": publish.card_table(slug) for slug in slugs()}
    for page, table in pages.items():
        text = page.read_text("utf-8")
        made = publish.with_table(text, table, page)
        assert without_warning(made) == without_warning(text), (
            f"{page} is not what its results say: orchard report --publish"
        )


def without_warning(page: str) -> str:
    """A page as it is where the code is that of its results."""
    return "\n".join(line for line in page.splitlines() if line and not line.startswith(publish.OLDER))


@pytest.mark.parametrize("slug", slugs())
def test_results_that_are_older_than_the_code_are_told(slug: str) -> None:
    for profile in PROFILES:
        for notebook in publish.outdated(slug, profile):
            warnings.warn(f"{slug}, profile {profile}: committed results older than the code: {notebook}", stacklevel=1)


def test_committed_figures_have_their_data() -> None:
    for slug in slugs():
        for svg in (root() / "figures" / slug).glob("*.svg"):
            assert svg.with_suffix(".png").exists()
            assert len(pd.read_csv(svg.with_suffix(".csv")))


def test_committed_results_name_clean_provenance() -> None:
    for slug in slugs():
        for file in (papers_folder(slug) / "results").glob("*/*.json"):
            content = json.loads(file.read_text("utf-8"))
            assert content["slug"] == slug
            assert content["provenance"]["packages"]["torch"]
            assert content["profile"] == file.parent.name

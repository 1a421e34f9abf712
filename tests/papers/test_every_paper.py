"""What must hold for every paper: completeness, golden configs, the paper profile on the meta device, claims with their notebooks."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from orchard import publish
from orchard.card import read_card
from orchard.claims import PROFILES, load_claims
from orchard.paths import root
from orchard.runs import Finished, Run, Setting
from orchard.scaffold import missing
from orchard.series import paper_module, papers_folder, slugs

GOLDEN = Path(__file__).parents[1] / "golden"


class _Stop(Exception):
    pass


def first_configs(slug: str, profile: str) -> dict[str, Run.Config]:
    """The first configs that each experiment asks for, before any result is known, and those inside them, by label."""
    found: dict[str, Run.Config] = {}

    def runner(cfgs: list[Run.Config]) -> list[Finished]:
        for cfg in cfgs:
            found.update({node.label: node for node in (cfg, *inner(cfg).values())})
        raise _Stop

    for experiment in paper_module(slug, "experiments").EXPERIMENTS.values():
        with suppress(_Stop):
            experiment(Setting(profile), runner)
    return found


def inner(cfg: Run.Config) -> dict[str, Run.Config]:
    """The runs that a config holds, by path."""
    return {path: node for path, node, *_ in cfg.walk() if path and isinstance(node, Run.Config)}


def full_text(cfg: Run.Config) -> str:
    """The golden text of a run; a run that it holds is named by its label alone."""
    held = inner(cfg)
    inside = tuple(f"{path}." for path in held)
    lines = [line for line in cfg.golden().splitlines() if not line.startswith(inside)]
    return "\n".join(folded([*lines, *(f"{path}: run {node.label!r}" for path, node in held.items())])) + "\n"


def folded(lines: list[str]) -> list[str]:
    """Lines that differ in one index alone become one: ``model.layers.0-2,4.dim: 64``."""
    found: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        before, index, after = ([*re.split(r"(?<=\.)(\d+)(?=[.:])", line, maxsplit=1), "", ""])[:3]
        found.setdefault((before, after), []).extend([int(index)] if index else [])
    return [before + ranges(indices) + after for (before, after), indices in found.items()]


def ranges(indices: list[int]) -> str:
    """``0-2,4`` of 0, 1, 2 and 4."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def golden(slug: str, profile: str) -> str:
    """The configs of a profile as text: for each kind of run the first by label in full, of the others the fingerprint."""
    kinds: dict[str, dict[str, Run.Config]] = {}
    for label, cfg in sorted(first_configs(slug, profile).items()):
        kinds.setdefault(f"{cfg.owner.__module__}:{cfg.owner.__qualname__}", {})[label] = cfg
    text = ""
    for kind, (first, *further) in sorted((kind, list(cfgs.items())) for kind, cfgs in kinds.items()):
        text += f"## {kind}\n# {first[0]}\n{full_text(first[1])}"
        text += "".join(f"# {label}  {cfg.fingerprint()[:16]}\n" for label, cfg in further) + "\n"
    return text


@pytest.mark.parametrize("slug", slugs())
def test_complete(slug: str) -> None:
    assert missing(slug) == []


@pytest.mark.parametrize(
    ("slug", "profile"), [(s, p) for s in slugs() for p in paper_module(s, "experiments").PROFILES]
)
def test_golden_configs(slug: str, profile: str, request: pytest.FixtureRequest) -> None:
    """A change of any config of any profile shows as a diff of text. To accept it: delete the file and run this test again."""
    text = golden(slug, profile)
    file = GOLDEN / f"{slug}-{profile}.txt"
    if not file.exists():
        file.write_text(text, encoding="utf-8")
        pytest.fail(f"{file.name} did not exist and was written: look at it and commit it")
    assert text == file.read_text(encoding="utf-8")
    assert str(Path.home()) not in text


def test_golden_texts_stay_short() -> None:
    files = sorted(GOLDEN.glob("*.txt"))
    assert {file.stem.rpartition("-")[0] for file in files} == set(slugs())
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 1500 * len(slugs())


@pytest.mark.parametrize("slug", slugs())
def test_claims_name_notebooks_and_evidence_that_exist(slug: str) -> None:
    claims = load_claims(papers_folder(slug))
    evidence = paper_module(slug, "experiments").EVIDENCE
    notebooks = {p.stem for p in (root() / "notebooks" / slug).glob("*.ipynb")}
    assert set(evidence) <= {claim.id for claim in claims}
    for name in ("gate", "control"):
        measured = getattr(paper_module(slug, "experiments"), f"{name.upper()}S", {})
        assert set(measured) == {claim.id for claim in claims if getattr(claim, name)}
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


def test_the_index_lists_every_paper_as_its_card_and_results_say() -> None:
    page = (root() / "notebooks" / "index.ipynb").read_text("utf-8")
    assert page == publish.index_notebook(), "notebooks/index.ipynb is not what its papers say: orchard report"
    for slug in slugs():
        card = read_card(papers_folder(slug))
        assert card.question in page
        assert card.link in page


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

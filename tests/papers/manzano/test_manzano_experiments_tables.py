"""Tables of the studies from the smallest runs of every kind, and what profiles promise about what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from manzano_runs import LEVELS, WORLD

from orchard.papers.manzano.data.prompts import TAGS
from orchard.papers.manzano.experiments import EXPERIMENTS, arms, profiles, recipe, scaling, strategies
from orchard.papers.manzano.experiments.arms import ARMS, Study
from orchard.papers.manzano.experiments.gates import RHO
from orchard.papers.manzano.experiments.profiles import PROFILES, Lesson, Mix, Profile, Strips
from orchard.papers.manzano.method.models import Size
from orchard.papers.manzano.runs.unified import Unified
from orchard.runs import Finished, Run, Setting, Store
from orchard.runs.grid import Trial

Table = Callable[[str], pd.DataFrame]
TINY = Profile(
    world=WORLD, levels=tuple(LEVELS), vision=Size(8, 1, 2, 8), adapter=12, reader=Size(16, 1, 2, 16),
    lessons=(Lesson(1, {"read k1": 1.0}, 0.0), Lesson(2, {"read k1": 0.5, "objects k1": 0.5}, 0.5)), tokenizer_batch=4, tokenizer_rate=3e-3,
    posthoc_steps=2, size=Size(16, 1, 2, 16), other_sizes=(Size(8, 1, 1, 8),), stages=(Mix(4, 2, 2, 1), Mix(8, 2, 3, 1)), rates=(1e-2,),
    widen=0, decoder=Size(8, 1, 2), decoder_stages=((1, 2), (2, 1)), decoder_batch=3, other_decoders=(Size(16, 1, 2),), autoencoder=4,
    autoencoder_steps=2, strips=Strips(densities=(1, 2), more_levels=((4, 3, 3),), train=40, test=12, until=(1, 2, 3), steps=2),
    edits=("recolour", "move"), edit_items=6, items=9, euler=2, seeds=(3, 4), few=1, timed=2, rounds=1,
)  # fmt: skip


class Scored(Finished):
    """A run of which only the result is known."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(Path())
        object.__setattr__(self, "given", result)

    @property
    def result(self) -> dict[str, Any]:
        given: dict[str, Any] = vars(self)["given"]
        return given


@pytest.fixture(scope="module")
def table(store: Store) -> Any:
    """Tables by name at the tiny profile, in one store."""
    known: dict[str, pd.DataFrame] = {}

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        return [store.compute(cfg, "cpu") for cfg in cfgs]

    def made(name: str) -> pd.DataFrame:
        if name not in known:
            known[name] = EXPERIMENTS[name](Setting("tiny"), run)
        return known[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "tiny", TINY)
        yield made


def test_strategies_hold_every_arm_with_its_items_and_ceiling(table: Table) -> None:
    found = table("strategies")
    assert list(found.columns) == strategies.COLUMNS
    assert not found.duplicated(["seed", "arm", "metric", "unit"]).any()
    assert set(found["arm"]) > set(ARMS)
    assert set(found.query("arm == 'dual_semantic'")["seed"]) == {3}  # where fewer seeds do
    assert set(found.query("arm == 'blind'")["metric"]) == {"general", "knowledge", "text-rich"}
    assert set(found.query("arm == 'gen_only'")["metric"]) == {strategies.DRAWN}
    drawn = found["metric"] == strategies.DRAWN
    assert found["ceiling"].notna().equals(drawn)
    assert set(found[drawn]["tag"]) <= set(TAGS)
    chosen = found[found["baseline"]].groupby("seed")["arm"].unique().map(set)
    assert all(len({arm.removesuffix("_other") for arm in arms}) == 1 for arms in chosen)
    both = strategies.with_baseline(found)
    assert {"discrete", "discrete_other"} <= set(both["arm"])
    wide = strategies.means(found).query("metric == 'GenEval-mini'")
    assert len(wide) == wide.drop_duplicates(["seed", "arm"]).shape[0]


def test_the_weighted_mean_of_prompts_is_that_of_tags(store: Store, table: Table) -> None:
    study = arms.studies(Setting("tiny"), lambda cfgs: [])[0]
    done = store.compute(study.drawings("hybrid"), "cpu")
    assert strategies.read_drawings(done)["value"].mean() == pytest.approx(done.result["overall"])


def test_slots_of_a_picture_are_averaged(store: Store, table: Table) -> None:
    study = arms.studies(Setting("tiny"), lambda cfgs: [])[0]
    done = store.compute(study.answers("hybrid"), "cpu")
    kept, found = done.tensors("answers"), strategies.read_answers(done).set_index(["metric", "unit"])["value"]
    first = int(kept["read/picture"][0])
    own = kept["read/right"][kept["read/picture"] == first].double().mean()
    assert found["text-rich", first] == pytest.approx(float(own))
    assert found["text-rich"].size == 9


def test_conflict_compares_with_the_arm_that_writes_the_same_codes(table: Table) -> None:
    found, means = table("conflict").set_index(["arm", "seed"]), strategies.means(table("strategies"))
    alone = means.query("arm == 'gen_only' and metric == 'GenEval-mini'").set_index("seed")["ratio"]
    for arm, seed, other in (("hybrid", 3, 3), ("hybrid", 4, 4), ("dual_semantic", 3, 4)):  # 4 is the next seed of 3
        np.testing.assert_equal(found.loc[(arm, seed), "alone"], alone[other])
    assert found.loc["dual_encoder", "alone"].isna().all()


def test_single_task_is_the_same_items(table: Table) -> None:
    found = table("single_task")
    assert set(found["arm"]) == {"unified", "single", "quarter"}
    counts = found.groupby(["metric", "arm"])["unit"].nunique().unstack()
    assert (counts.nunique(axis=1) == 1).all()


def test_adapters_are_read_on_the_same_pictures(table: Table) -> None:
    found = table("adapters")
    assert set(zip(found["arm"], found["shown"], strict=True)) == {
        (arm, shown) for arm in ("hybrid", "posthoc", "bottleneck") for shown in ("own", "another")
    }
    assert (found.groupby(["arm", "shown"])["unit"].nunique() == 9).all()
    training = table("adapter_training").set_index("arm")
    assert training.loc["posthoc", "steps"] == 2
    assert (training["settled"] <= training["steps"]).all()


def test_density_has_a_tokenizer_for_every_cell(table: Table) -> None:
    found, cells = table("density"), {(1, 60), (2, 60), (1, 36)}
    assert set(zip(found["k"], found["codes"], strict=True)) == cells
    tokenizers = table("density_tokenizers").set_index(["adapter", "k", "codes"])
    assert len(tokenizers) == 2 * len(cells)
    assert tokenizers.loc[("discrete", 2, 60), "rho"] == pytest.approx(np.log2(60) / (2 * np.log2(10)))
    assert tokenizers.loc[("discrete", 2, 60), "counting"]
    assert tokenizers.loc[("discrete", 2, 60), "bound"] < 1
    assert not tokenizers.loc[("discrete", 1, 60), "counting"]
    assert not tokenizers["kept"].any()  # after three steps


def test_sizes_are_compared_on_the_same_items(table: Table) -> None:
    found = table("scaling")
    assert set(found["dim"]) == {8, 16}
    assert found.groupby("dim")["parameters"].nunique().eq(1).all()
    assert found.groupby("dim")["parameters"].first().is_monotonic_increasing
    ours = found.query("arm == 'hybrid' and dim == 16 and metric == 'general'").set_index("unit")["value"]
    theirs = table("strategies").query("arm == 'hybrid' and seed == 3 and metric == 'general'").set_index("unit")["value"]  # fmt: skip
    pd.testing.assert_series_equal(ours, theirs)
    assert set(scaling.trend(found)["metric"]) == set(scaling.METRICS)
    decoders = table("decoder_scaling")
    assert set(decoders["metric"]) == {"structure", "objects", strategies.DRAWN}
    assert not decoders.duplicated(["seed", "dim", "arm", "metric", "unit"]).any()


def test_structure_is_the_overlap_of_edges() -> None:
    picture = np.full((1, 8, 8, 3), 200, dtype=np.uint8)
    square = picture.copy()
    square[:, 2:5, 2:5] = 20
    moved = np.roll(square, 3, axis=2)
    assert scaling.edge_iou(square, square) == scaling.edge_iou(picture, picture) == 1
    assert scaling.edge_iou(square, picture) == 0
    assert 0 < scaling.edge_iou(square, moved)[0] < 0.5


def test_edits_succeed_where_they_are_right_and_the_rest_is_kept(table: Table) -> None:
    found = table("edits")
    true = found.query("arm == 'true codes'")
    assert found["tau"].iloc[0] == pytest.approx(2 * true["outside"].mean())
    assert found["success"].equals(((found["right"] == 1) & (found["outside"] < found["tau"])).astype(float))
    assert set(found.query("arm == 'both'")["shuffled"]) == {"nothing", "reference", "instruction"}
    assert len(table("edit_reader")) == 1
    picture = table("edit_gallery").iloc[0]["pixels"]
    assert recipe.picture(picture, 24, 36).shape == (24, 36, 3)


def test_what_was_learned_is_told_by_stream_and_adapter(table: Table) -> None:
    compared = table("tokenizers")
    assert set(compared["seed"]) == {3, 4}
    own = compared[compared["adapter"].isin(["continuous", "discrete"])]
    assert own["initial"].notna().all()
    assert (own["settled"] <= own["steps"]).all()
    assert compared.query("stream == 'objects k1'")["rho"].isna().all()
    ceilings = table("ceilings").set_index(["seed", "codes", "drawn by"])
    assert len(ceilings) == 2 * 3
    assert ceilings.loc[(3, "hybrid", "decoder"), "overall"] >= 0
    use = table("code_use")
    assert set(use.groupby("codes")["position"].nunique()) == {6, 24}  # squares of 12 and of 6 pixels
    assert (use["used"] + use["dead"] == use["size"]).all()
    assert {"tokenizer", "auto-encoder", "hybrid", "image decoder of hybrid codes"} <= set(table("curves")["part"])
    assert set(table("gallery")["arm"]) >= {"hybrid", "true codes"}


def test_arms_read_as_many_sequences_of_a_task(table: Table) -> None:
    wide = table("mixture").query("seed == 3").pivot(index="arm", columns="kind", values="sequences")
    assert wide.loc["und_only", "understanding"] == wide.loc["hybrid", "understanding"] == 16
    assert wide.loc["gen_only", "generation"] == wide.loc["dual_encoder", "generation"] == 20
    assert wide.loc["quarter", "understanding"] < wide.loc["hybrid", "understanding"] / 2
    assert (table("mixture")[["frozen_bytes", "frozen_codes"]] == 0).all(axis=None)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_keeps_its_promises(name: str) -> None:
    profile = PROFILES[name]
    for mix, (understanding, text) in zip(
        profile.stages, ((0.4, 0.2), (0.41, 0.14)), strict=True
    ):  # the paper's two stages
        total = mix.understanding + mix.generation + mix.text
        assert abs(mix.understanding / total - understanding) < 0.02
        assert abs(mix.text / total - text) < 0.02
    *first, last = (lesson.discrete for lesson in profile.lessons)
    assert not any(first)
    assert last == 0.5
    bits = profile.world.k * np.log2(profile.world.alphabet)
    assert np.log2(np.prod(profile.levels)) / bits >= RHO - 1e-9  # codes suffice for the text
    assert profile.decoder_stages[-1][1] == 1
    apart = profile.tuning_seed not in profile.seeds
    assert name in ("smoke", "paper") or (apart and len(profile.seeds) >= 5 and profile.few >= 3)
    assert profiles.scale(name)


def test_every_family_has_its_best_rate_at_the_tuning_seed() -> None:
    best = {"hybrid": 3e-3, "und_only": 12e-3}
    asked: list[Unified.Config] = []

    def run(cfgs: Sequence[Any]) -> list[Any]:
        found = []
        for cfg in cfgs:
            if isinstance(cfg, Trial.Config):
                found.append(Scored({"failed": ""}))
                continue
            asked.append(cfg)
            name = "und_only" if "und_only" in cfg.label else "hybrid"
            loss = abs(np.log(cfg.optim.learning_rate / best[name]))
            found.append(Scored({"validation_loss": loss}))
        return found

    found = arms.tuned(Setting("laptop"), run)
    assert {cfg.seed for cfg in asked} == {PROFILES["laptop"].tuning_seed}
    assert found.chosen["hybrid"] == 3e-3
    assert found.chosen["und_only"] == 12e-3  # beyond the edge of the grid
    study = Study(PROFILES["laptop"], 1, 2, rates=found.chosen)
    for arm in ARMS:  # an arm that names no family would be a KeyError
        assert study.unified(arm).optim.learning_rate in (3e-3, 12e-3)
    assert study.unified("blind").optim.learning_rate == 12e-3
    assert study.editor(True).optim.learning_rate == 3e-3
    assert {study.unified("hybrid", size=size).language_model.dim for size in study.profile.sizes} == {16, 32, 64}

"""K11 can fail: each part reports by how much its broken input is wrong, and nothing for input that is right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchard.claims import decide, load_claims
from orchard.papers.sbp.data.world import VARIANTS, ConceptWorld
from orchard.papers.sbp.experiments import EVIDENCE
from orchard.papers.sbp.experiments.checks import above_bayes, equal_counts, within_entropy
from orchard.papers.sbp.runs import cloze
from orchard.papers.sbp.runs.bounds import Information, gain, known_labels, log_ratio, true_pairs
from orchard.papers.sbp.runs.checks import enumeration, tiny_laws
from orchard.runs import Store
from orchard.series import papers_folder

CELL = {"variant": "dep", "world": 0, "seed": 1}


def verdict(rows: pd.DataFrame) -> str:
    claim = next(claim for claim in load_claims(papers_folder("sbp")) if claim.id == "K11")
    return decide(claim, EVIDENCE["K11"](lambda name: {"invariants": rows}[name]), "smoke").verdict


def ledger(**steps: int) -> pd.DataFrame:
    return pd.DataFrame([{**CELL, "arm": arm, "steps": count, "tokens": 30 * count} for arm, count in steps.items()])


def documents(excess: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {"document": np.arange(len(excess)), "best": excess, "last": excess + 1, "arm": "oracle", **CELL}
    )


def told(gain: float, error: float = 0.01, entropy: float = 2.0, concepts: int = 8) -> pd.DataFrame:
    row = {"variant": "dep", "world": 0, "gain": gain, "error": error, "entropy": entropy, "concepts": concepts}
    return pd.DataFrame([{**row, "precision": 1.0}, {**row, "precision": 0.5, "gain": 99.0}])


def test_arms_with_other_steps_or_tokens_are_found() -> None:
    fine = equal_counts(ledger(repetition=160, oracle=160))
    assert (fine["value"] == 0).all()
    assert verdict(fine) == "supported"
    broken = equal_counts(ledger(repetition=160, oracle=161))
    assert broken.set_index("unit")["value"].to_dict() == {
        "dep, repetition": 0, "dep, oracle": 30  # of steps and tokens with one name: the last is that of tokens
    }  # fmt: skip
    assert broken.query("part == 'steps'")["value"].max() == 1
    assert broken["seed"].unique().tolist() == [1]
    assert verdict(broken) == "refuted"


def test_a_model_below_bayes_is_found_beyond_three_standard_errors() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)  # mean 0, standard error 1/20
    assert (above_bayes(documents(noise - 0.149))["value"] == 0).all()
    broken = above_bayes(documents(noise - 0.65))
    assert broken["value"].tolist() == pytest.approx([0.5, 0.0])
    assert broken["unit"].tolist() == ["dep, oracle, best", "dep, oracle, last"]
    assert verdict(broken) == "refuted"
    assert verdict(above_bayes(documents(noise * np.nan))) == "refuted"


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        (told(1.5), {}),
        (told(-0.02), {}),
        (told(-0.13), {"dep, 0 <= I": 0.1}),
        (told(2.02), {}),
        (told(2.53), {"dep, I <= H(c)": 0.5}),
        (told(1.0, concepts=4), {"dep, H(c) <= ln C": 2 - np.log(4)}),
    ],
)
def test_information_outside_its_bounds_is_found(table: pd.DataFrame, wrong: dict[str, float]) -> None:
    rows = within_entropy(table)
    found = rows[rows["value"] != 0].set_index("unit")["value"].to_dict()
    assert found == pytest.approx(wrong)
    assert len(rows) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_listed_worlds_sum_to_one(variant: str) -> None:
    rows = list(enumeration(tiny_laws(variant), variant))
    assert len(rows) == 6
    assert [row["value"] for row in rows] == [0.0] * 6


@pytest.mark.parametrize("what", ["words", "prior"])
def test_laws_that_do_not_sum_to_one_are_found(what: str) -> None:
    world = tiny_laws("dep")
    broken = replace(world, **{what: getattr(world, what) * 1.01})
    rows = {row["unit"]: row["value"] for row in enumeration(broken, "dep")}
    assert rows["dep, sum of P(d)"] == pytest.approx(1.01 ** (4 if what == "words" else 1) - 1)
    assert verdict(pd.DataFrame(enumeration(broken, "dep"))) == "refuted"


def test_gain_of_a_mixture_and_information_by_enumeration(tmp_path: Path) -> None:
    world = tiny_laws("dep")
    ratio = log_ratio(world, 4000, seed=1)
    first, second = true_pairs(world, 4000, np.random.default_rng([1, 11]))
    rho = 0.3
    p2, p21 = np.exp(world.log_marginal(second)), np.exp(world.log_conditional(second, first))
    np.testing.assert_allclose(gain(ratio, rho), np.log(rho * p21 + (1 - rho) * p2) - np.log(p2), atol=1e-12)
    assert (gain(ratio, 0.0) == 0).all()
    cfg = Information.Config(corpus=ConceptWorld.Config(variant="indep", concepts=8, words=40, content=8), pairs=50)
    done = Store(tmp_path).compute(cfg, "cpu").result
    assert max(abs(row["gain"]) for row in done["rows"]) < 1e-9
    assert done["entropy"] == pytest.approx(np.log(8))


@pytest.mark.parametrize("variant", ["dep", "indep", "facts"])
def test_cloze_ceiling_is_above_every_other_choice(variant: str) -> None:
    corpus = ConceptWorld.Config(variant=variant, concepts=6, words=48, content=16 if variant == "dep" else 48, kappa=0.3,
                                 documents=40, held_out=3000).build()  # fmt: skip
    world, test = corpus.world, corpus.documents("test")
    asked = cloze.items(world, test, seed=0)
    true, rest = asked.candidates[:, :1], asked.candidates[:, 1:]
    np.testing.assert_array_equal(
        np.take_along_axis(test.padded(0), np.full((3000, 1), asked.place), axis=1), world.starts[2] + true
    )
    assert (true != rest).all()
    assert (world.kinds[true] == world.kinds[rest]).all()
    best, by_law = cloze.exact_scores(world, asked)
    ceiling, law = cloze.right(best), cloze.right(by_law)
    learned = replace(world, words=known_labels(world, corpus.documents("train")))
    few = cloze.right(cloze.exact_scores(learned, asked)[1])
    posterior = np.exp(best - best.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    assert posterior[:, 0].mean() == pytest.approx((posterior**2).sum(axis=1).mean(), abs=0.02)  # it is calibrated
    assert posterior.max(axis=1).mean() == pytest.approx(ceiling, abs=0.03)
    assert ceiling >= law - 0.02
    if variant == "indep":
        assert 0.25 < ceiling < 0.35  # above chance: what stands twice cannot be true
    else:
        assert ceiling > few - 0.02
        assert law > 0.4


def test_equal_scores_share_the_point() -> None:
    scores = np.array([[1.0, 1.0, 0.0, 0.0], [2.0, 1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0]])
    assert cloze.right(scores) == pytest.approx(0.5)


def test_cloze_reads_the_model_at_the_place_of_the_question() -> None:
    corpus = ConceptWorld.Config(concepts=6, words=48, content=16, documents=40, held_out=30).build()
    world, test = corpus.world, corpus.documents("test")
    asked = cloze.items(world, test, seed=0)

    class Last:
        """Scores every token by the last token that it reads."""

        def __init__(self) -> None:
            import torch

            self.embedding = torch.nn.Embedding(1, 1)
            self.read = torch.empty(0)

        def features(self, tokens):  # type: ignore[no-untyped-def]
            self.read = tokens
            return tokens[:, :, None].float()

        def logits(self, features):  # type: ignore[no-untyped-def]
            import torch

            return features * torch.arange(world.symbols.vocab_size)

    model = Last()
    scores = cloze.model_scores(model, world, test, asked)
    assert model.read.shape == (30, asked.place + 1)
    np.testing.assert_array_equal(model.read[:, 1:].numpy(), test.padded(0)[:, : asked.place])
    last = test.padded(0)[:, asked.place - 1 : asked.place]
    np.testing.assert_allclose(scores, last * (world.starts[2] + asked.candidates))

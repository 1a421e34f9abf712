"""What documents can tell: k from the world, the posterior mean by hand, EM that climbs, and both on the right side of Bayes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchard.papers.sbp.data.laws import World
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments.bounds import bounds as bounds_table
from orchard.papers.sbp.experiments.profiles import PROFILES
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.runs import bounds
from orchard.papers.sbp.runs.bounds import concentration, em, excess, known_labels
from orchard.papers.sbp.runs.checks import tiny_laws
from orchard.runs import Setting, Store


def config(**changes: object) -> ConceptWorld.Config:
    return ConceptWorld.Config(
        **{"concepts": 8, "words": 60, "content": 12, "kappa": 0.1, "documents": 32, "held_out": 300, **changes}
    )


def excesses(cfg: ConceptWorld.Config, held_out: int = 300) -> tuple[float, float]:
    """Nats per test document above Bayes with the labels known, and by EM."""
    corpus = cfg.build()
    world, documents, test = corpus.world, corpus.documents("train"), corpus.documents("test").head(held_out)
    phi, prior, _ = em(world, documents)
    known, learned = replace(world, words=known_labels(world, documents)), replace(world, words=phi, prior=prior)
    return float(excess(world, known, test).mean()), float(excess(world, learned, test).mean())


def test_k_is_kappa_where_there_is_no_background() -> None:
    random = np.random.default_rng(0)
    words = random.dirichlet(np.full(50, 0.2), size=4000)
    world = World(np.full(4000, 1 / 4000), words, np.ones((1, 1)), 4)
    assert concentration(world) == pytest.approx(0.2, rel=0.02)


def test_posterior_mean_by_hand() -> None:
    world = tiny_laws("dep")
    start, genre, function = world.starts[2], world.starts[0], world.starts[1]
    body = [genre, start, start, start + 1, start, function]
    k = concentration(world)
    found = known_labels(world, Documents.of([body], np.array([2])))
    np.testing.assert_allclose(found[2], [(3 + k) / (4 + 2 * k), (1 + k) / (4 + 2 * k)])
    np.testing.assert_allclose(found[[0, 1, 3]], 0.5)


def test_where_concepts_have_one_law_they_are_counted_together() -> None:
    corpus = config(variant="indep").build()
    documents = corpus.documents("train")
    found = known_labels(corpus.world, documents)
    assert (found == found[0]).all()
    known, learned = excesses(config(variant="indep"))
    assert known == pytest.approx(learned, abs=1e-9)


def test_em_climbs_and_keeps_the_best_of_its_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = config().build()
    documents = corpus.documents("train")
    _, prior, likelihoods = em(corpus.world, documents)
    assert len(likelihoods) == 4
    assert prior.sum() == pytest.approx(1.0)
    ends = []
    for most in (1, 2, 5, 100):
        monkeypatch.setattr(bounds, "ITERATIONS", most)
        ends.append(em(corpus.world, documents, restarts=1)[2][0])
    assert ends == sorted(ends)
    assert ends[-1] > ends[0]
    assert len(set(likelihoods)) > 1
    phi, prior, likelihoods = em(corpus.world, documents)
    learned = replace(corpus.world, words=phi, prior=prior).log_marginal(documents)
    assert (learned - corpus.world.parse(documents).common).mean() == pytest.approx(max(likelihoods), abs=1e-3)


@pytest.mark.parametrize("variant", ["dep", "hier", "facts"])
def test_more_documents_bring_both_bounds_nearer_to_bayes(variant: str) -> None:
    sizes = [config(variant=variant, words=64, documents=n) for n in (16, 64, 512)]
    labels, learned = (list(found) for found in zip(*map(excesses, sizes), strict=True))
    assert labels == sorted(labels, reverse=True)
    assert learned == sorted(learned, reverse=True)
    assert min(labels + learned) > 0
    if variant != "hier":  # where EM may find that subtopics share words
        assert all(e > a for e, a in zip(learned, labels, strict=True))


def test_the_run_holds_both_and_the_table_is_tidy(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    store = Store(tmp_path)
    done = store.compute(bounds.Bounds.Config(corpus=config(), held_out=100), "cpu")
    assert done.result["per_concept"] == 4
    assert (done.result["labels"], done.result["em"]) == pytest.approx(excesses(config(), 100))

    class Fake:
        result = done.result

    table = bounds_table(Setting("smoke"), lambda cfgs: [Fake() for _ in cfgs])  # type: ignore[misc, return-value]
    assert set(table["bound"]) == {"labels", "em"}
    assert len(table) == 2 * 2 * len(PROFILES["smoke"].per_concept)
    assert not table.duplicated(["variant", "world", "bound", "documents"]).all()

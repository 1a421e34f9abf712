"""Worlds against their stated laws: every document listed, independent seeds, variants, names, bad input."""

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.sbp.data.laws import World, logsumexp
from orchard.papers.sbp.data.world import VARIANTS, ConceptWorld
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.runs.checks import possible, tiny_laws

SMALL = {"concepts": 12, "words": 40, "content": 12, "documents": 130, "pool": 3, "held_out": 70}


def corpus(variant: str = "dep", **changes: object) -> ConceptWorld:
    made: ConceptWorld = ConceptWorld.Config(**{"variant": variant, **SMALL, **changes}).build()
    return made


def naive_log_given(world: World, body: list[int], concept: int) -> float:
    """log P(d | c) of a world without facts, token by token."""
    genres, functions = world.functions.shape
    genre_start, function_start, word_start = world.starts
    total, genre = -np.log(genres), body[0] - genre_start
    for place, token in enumerate(body[1:]):
        if place % 5 == 4:
            total += np.log(world.functions[genre, token - function_start - functions * genre])
        else:
            total += np.log(world.words[concept, token - word_start])
    return float(total)


@pytest.mark.parametrize("variant", VARIANTS)
def test_listed_documents_have_the_frequencies_that_are_claimed(variant: str) -> None:
    """A chi-square of 20,000 sampled documents against P(d): every law of the sampler is in it."""
    world = tiny_laws(variant)
    random = np.random.default_rng(3)
    sampled = Documents.of(world.sample(world.draw_concepts(20_000, random), random))
    every = possible(world)
    place = {tuple(body.tolist()): n for n, body in enumerate(every)}
    seen = np.bincount([place[tuple(body.tolist())] for body in sampled], minlength=len(every))
    expected = np.exp(world.log_marginal(every)) * len(sampled)
    chi = float(((seen - expected) ** 2 / expected).sum())
    assert abs(chi - (len(every) - 1)) < 5 * np.sqrt(2 * len(every))


@pytest.mark.parametrize("variant", ["dep", "hier"])
def test_laws_are_those_of_the_loop_over_tokens(variant: str) -> None:
    made = corpus(variant)
    documents, world = made.documents("test").head(7), made.world
    wanted = np.array(
        [[naive_log_given(world, documents[i].tolist(), c) for c in range(len(world.prior))] for i in range(7)]
    )
    np.testing.assert_allclose(world.log_given_concept(documents), wanted, rtol=1e-12)
    joint = wanted + np.log(world.prior)
    np.testing.assert_allclose(world.log_marginal(documents), np.log(np.exp(joint).sum(axis=1)), rtol=1e-12)
    posterior = np.exp(joint) / np.exp(joint).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(world.posterior(documents), posterior, atol=1e-12)
    turned = documents.take(np.roll(np.arange(7), 1))
    wanted = np.log((np.exp(np.roll(wanted, 1, axis=0)) * posterior).sum(axis=1))
    np.testing.assert_allclose(world.log_conditional(turned, documents), wanted, rtol=1e-12)


@pytest.mark.parametrize("variant", ["dep", "facts"])
def test_what_the_grammar_cannot_make_has_no_probability(variant: str) -> None:
    made = corpus(variant)
    world = made.world
    good = made.documents("test")[0]
    broken = {
        "short": good[:-1], "long": np.append(good, good[-1]), "empty": good[:0], "no genre": np.append(good[1:], good[0]),
        "special": np.where(np.arange(len(good)) == 3, 0, good), "swapped": good[[0, *range(len(good) - 1, 0, -1)]],
    }  # fmt: skip
    found = world.log_marginal(Documents.of([*broken.values(), good]))
    assert dict(zip(broken, found, strict=False)) == dict.fromkeys(broken, -np.inf)
    assert np.isfinite(found[-1])
    assert np.isnan(world.posterior(Documents.of([good[:-1]]))).all()
    assert world.log_marginal(Documents.of([])).shape == (0,)


def test_float64_where_float32_would_fail() -> None:
    far = np.array([[-2000.0, -2000.0 + np.log(2.0)], [-np.inf, -np.inf]])
    np.testing.assert_allclose(logsumexp(far), [-2000.0 + np.log(3.0), -np.inf])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_smaller_corpus_begins_a_larger_one_and_splits_share_nothing(variant: str) -> None:
    small, large = corpus(variant).documents("train"), corpus(variant, documents=1100, pool=1).documents("train")
    np.testing.assert_array_equal(large.head(130).tokens, small.tokens)
    np.testing.assert_array_equal(large.labels[:130], small.labels)
    pool = corpus(variant).documents("pool")
    assert len(pool) == 390
    np.testing.assert_array_equal(pool.head(130).tokens, small.tokens)
    texts = {
        s: {d.tobytes() for d in map(corpus(variant).documents(s).__getitem__, range(70))}
        for s in ("test", "validation")
    }
    assert not texts["test"] & texts["validation"]


def test_world_and_corpus_seeds_are_independent() -> None:
    base, other_corpus, other_world = corpus(), corpus(corpus_seed=1), corpus(world_seed=1)
    np.testing.assert_array_equal(base.world.words, other_corpus.world.words)
    assert not np.array_equal(base.documents("train").tokens, other_corpus.documents("train").tokens)
    assert not np.allclose(base.world.words, other_world.world.words)
    np.testing.assert_array_equal(base.documents("train").labels, other_world.documents("train").labels)


def test_indep_documents_tell_nothing() -> None:
    made = corpus("indep")
    documents = made.documents("test")
    np.testing.assert_allclose(made.world.posterior(documents), 1 / 12, atol=1e-12)
    turned = documents.take(np.roll(np.arange(70), 1))
    np.testing.assert_allclose(
        made.world.log_conditional(turned, documents), made.world.log_marginal(turned), rtol=1e-12
    )


def test_near_duplicates_are_copies_of_originals_with_at_most_two_edits() -> None:
    made, clean = (corpus(variant, documents=600, kappa=0.5) for variant in ("near-dup", "dep"))
    documents, source = made.documents("train"), made.originals(600)
    copies = np.flatnonzero(source >= 0)
    assert 40 < len(copies) < 80
    assert (source[copies] < copies).all()
    assert (source[source[copies]] < 0).all()
    edits = np.array([(documents[i] != documents[source[i]]).sum() for i in copies])
    assert set(edits) <= {0, 1, 2}
    assert (edits > 0).mean() > 0.7  # a word that is drawn anew may be what it was
    np.testing.assert_array_equal(documents.labels[copies], documents.labels[source[copies]])
    untouched = np.flatnonzero(source < 0)
    np.testing.assert_array_equal(
        documents.take(untouched).tokens, clean.documents("train").take(untouched).tokens
    )  # the law of the others is that of dep
    assert np.isfinite(made.world.log_marginal(documents)).all()


def test_facts_are_stated_with_their_relation() -> None:
    made = corpus("facts", concepts=6, content=40)
    world, documents = made.world, made.documents("train")
    assert made.cap == 31
    parsed = world.parse(documents)
    assert len(parsed.rows) == 130
    values = world.words.shape[1] // 8
    best = world.words.reshape(6, 8, values).argmax(axis=2)  # F[c, r]
    true = parsed.words % values == best[documents.labels[:, None], parsed.words // values]
    assert 0.96 < true.mean() < 1.0
    text = made.text(documents[0]).split()[1:]  # [genre g] is two
    assert all(asked.split("?")[0] == said.split("=")[0] for asked, said in zip(text[1::3], text[3::3], strict=True))
    np.testing.assert_allclose(world.words.sum(axis=1), 1.0)
    assert world.words.min() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_symbol_has_a_name_of_its_own(variant: str) -> None:
    made = corpus(variant)
    names = [made.text(np.array([token])) for token in range(made.symbols.vocab_size)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "deps"}, "variant is 'deps': choose one of dep, indep, near-dup, hier, facts"),
        ({"content": 10}, "content is 10: give a positive multiple of 4"),
        ({"variant": "hier", "concepts": 10}, "10 concepts in topics of 4 subtopics: give a multiple"),
        ({"variant": "facts", "words": 41}, "41 words for the values of 8 relations: give a multiple"),
    ],
)
def test_bad_input_names_the_value_and_the_fix(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ConceptWorld.Config(**{**SMALL, **changes}).build()


def test_bad_splits_and_documents_without_labels() -> None:
    with pytest.raises(BadInput, match="no split 'dev'; the splits are train, pool, validation, test"):
        corpus().documents("dev")
    with pytest.raises(BadInput, match="these documents have no labels"):
        corpus().relations(Documents.of([[4, 9]]))

"""The laws of FactGrid: what domains share, that the key alone is ambiguous, splits, mixtures, chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from orchard.errors import BadInput
from orchard.papers.ifpruning.data.corpus import STAGES
from orchard.papers.ifpruning.data.factgrid import BOS, LEXICON, PAD, SEP, FactGrid
from orchard.papers.ifpruning.method.examples import Examples


def grid(**fields: Any) -> FactGrid:
    made: FactGrid = FactGrid.Config(**{"num_keys": 64, "num_values": 12} | fields).build()
    return made


def header(examples: Examples, row: int) -> tuple[int, ...]:
    """The words of an instruction."""
    tokens = examples.tokens[row].tolist()
    return tuple(tokens[1 : tokens.index(SEP)])


def domain_of(corpus: FactGrid, word: int) -> int | None:
    """The domain that a word belongs to; None for those of all."""
    return None if word >= corpus._shared0 else (word - corpus._word0) // LEXICON


@pytest.mark.parametrize(("rho_all", "rho_grp"), [(0.0, 0.5), (0.2, 0.5), (1.0, 0.0), (0.0, 0.0), (0.3, 0.7)])
def test_shares_of_what_domains_have_in_common(rho_all: float, rho_grp: float) -> None:
    corpus = grid(num_keys=4096, num_values=48, rho_all=rho_all, rho_grp=rho_grp)
    table = corpus.table
    everywhere = (table == table[:1]).all(axis=(0, 2)).mean()
    within = (table[:4] == table[:1]).all(axis=(0, 2)).mean()
    across = (table[0] == table[4]).all(axis=-1).mean()
    for found, wanted in ((everywhere, rho_all), (within, rho_all + rho_grp), (across, rho_all)):
        assert found == pytest.approx(wanted, abs=0.02)  # one in 48^2 agrees by chance; 4096 draws
    assert table.min() == 0
    assert table.max() == 47


def test_key_alone_does_not_give_the_value() -> None:
    """Unless all is shared: the best answer without the instruction is right for the share of the most frequent value."""

    def by_key(**fields: Any) -> float:
        table = grid(num_keys=1024, num_values=48, **fields).table
        pairs = table[..., 0] * 48 + table[..., 1]
        return float(np.mean([np.bincount(column).max() / len(column) for column in pairs.T]))

    assert by_key(rho_all=1.0, rho_grp=0.0) == 1
    assert by_key(rho_grp=0.5) == pytest.approx((0.5 * 4 + 0.5 * 1) / 8, abs=0.02)
    assert by_key(rho_grp=0.0) == pytest.approx(1 / 8, abs=0.01)


def test_bits_count_distinct_facts() -> None:
    corpus = grid(num_keys=4096, num_values=16, rho_all=0.25, rho_grp=0.5)
    distinct = sum(len({tuple(value) for value in corpus.table[:, key]}) for key in range(4096))
    assert corpus.bits == 4096 * (0.25 + 0.5 * 2 + 0.25 * 8) * 8
    assert distinct * 8 == pytest.approx(corpus.bits, rel=0.03)


def wordings(corpus: FactGrid, low: int, high: int) -> set[tuple[int, ...]]:
    """Those of all domains, from number low to high."""
    return {
        tuple(corpus.wordings[d, w, : corpus.wording_lengths[d, w]].tolist())
        for d in range(len(corpus.domains))
        for w in range(low, high)
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fields", [{}, {"mix": 2, "mix_share": 0.5}])
def test_held_out_wordings_are_in_no_batch(stage: str, fields: dict[str, Any]) -> None:
    """Every instruction of the training is a wording that is seen, or, mixed, two of them; none of these is held out."""
    corpus = grid(**fields)
    seen, held_out = wordings(corpus, 0, 32), wordings(corpus, 32, 36)
    assert len(held_out) == 4 * len(corpus.domains)
    assert not seen & held_out
    for number in range(10):
        examples = corpus.batch(stage, 32, 0, number)
        for row in range(32):
            words = header(examples, row)
            halves = [(words[:n], words[n:]) for n in range(3, len(words) - 2)]
            assert words in seen or any(first in seen and second in seen for first, second in halves)


@pytest.mark.parametrize(("split", "low", "high"), [("seen", 0, 32), ("validation", 32, 34), ("test", 34, 36)])
def test_evaluations_use_their_own_wordings(split: str, low: int, high: int) -> None:
    corpus = grid()
    wanted, examples = wordings(corpus, low, high), corpus.evaluation(split)
    assert {header(examples, row) for row in range(len(examples))} <= wanted
    prompts = corpus.prompts(split)
    assert {header(prompts, row) for row in range(len(prompts))} == wanted
    assert len(prompts) == (high - low) * 8


def test_evaluations_ask_every_key_of_every_domain_once() -> None:
    corpus = grid()
    examples = corpus.evaluation("test")
    asked = {
        (int(d), key) for d, row in zip(examples.domain, examples.tokens.tolist(), strict=True) for key in queries(row)
    }
    assert len(asked) == 64 * len(corpus.domains) == int(examples.counts.sum()) // 2


def queries(row: list[int]) -> list[tuple[int, int]]:
    """The keys of an example that is not mixed."""
    body = [token for token in row[row.index(SEP) + 1 :] if token != PAD]
    return [(body[i], body[i + 1]) for i in range(0, len(body), 4)]


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_examples_ask_what_the_table_answers(stage: str) -> None:
    corpus = grid()
    examples = corpus.batch(stage, 16, 0, 3)
    for row in range(16):
        tokens = examples.tokens[row].tolist()
        domain, start = int(examples.domain[row]), tokens.index(SEP) + 1
        own = [domain_of(corpus, word) for word in header(examples, row)]
        assert {domain, None} >= set(own)
        assert own.count(domain) >= 2
        body = [token for token in tokens[start:] if token != PAD]
        assert len(body) == 8 * 4
        for i in range(0, len(body), 4):
            key = (body[i] - 3) * 8 + body[i + 1] - 3
            assert [value - corpus._value0 for value in body[i + 2 : i + 4]] == corpus.table[domain, key].tolist()
        counted = examples.counts[row].nonzero().flatten().tolist()
        assert counted == [start + i + j for i in range(0, 32, 4) for j in (2, 3)]
        length = int(examples.prompt_lengths[row, 0])
        assert examples.prompts[row, 0, :length].tolist() == tokens[:start]
        assert (examples.prompts[row, 0, length:] == PAD).all()
        assert tokens[0] == BOS


def test_mixed_examples_alternate_and_name_the_domain_of_each_query() -> None:
    corpus = grid(mix=3, mix_share=1.0, queries=8)
    examples = corpus.batch("sft", 8, 0, 0)
    for row in range(8):
        named = [domain_of(corpus, word) for word in header(examples, row)]
        order = list(dict.fromkeys(d for d in named if d is not None))
        assert len(order) == 3
        assert order[0] == int(examples.domain[row])
        body = [t for t in examples.tokens[row].tolist() if t != PAD]
        body = body[body.index(SEP) + 1 :]
        for i in range(8):
            word, k1, k2, *value = body[5 * i : 5 * i + 5]
            assert domain_of(corpus, word) == order[i % 3]
            wanted = corpus.table[order[i % 3], (k1 - 3) * 8 + k2 - 3]
            assert [v - corpus._value0 for v in value] == wanted.tolist()


def test_tagless_instructions_say_nothing() -> None:
    corpus = grid(tagless=0.4)
    examples = corpus.batch("sft", 1000, 0, 0)
    silent = [all(domain_of(corpus, word) is None for word in header(examples, row)) for row in range(1000)]
    assert np.mean(silent) == pytest.approx(0.4, abs=0.05)
    test = corpus.evaluation("test")  # of training alone: evaluations always say their domain
    assert all(
        any(domain_of(corpus, word) == int(test.domain[row]) for word in header(test, row)) for row in range(len(test))
    )


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize("mix_share", [0.0, 1.0])
def test_chunks(chunks: int, mix_share: float) -> None:
    """Mask j is chosen from chunk j and computes chunk j + 1; the first also chunk 1, which has no loss."""
    corpus = grid(chunks=chunks, mix=2, mix_share=mix_share)
    examples = corpus.batch("cpt", 12, 0, 5)
    step = 5 if mix_share else 4
    for row in range(12):
        tokens = examples.tokens[row].tolist()
        start = tokens.index(SEP) + 1
        ends = [start + step * (8 // chunks) * j for j in range(1, chunks + 1)]
        begins = [0, *ends[:-1]]
        for j in range(chunks - 1):
            length = int(examples.prompt_lengths[row, j])
            assert examples.prompts[row, j, :length].tolist() == tokens[begins[j] : ends[j]]
            counted = (examples.counts[row] & (examples.span[row] == j)).nonzero().flatten()
            assert len(counted) == 2 * 8 // chunks
            assert ends[j] <= counted.min()
            assert counted.max() < ends[j + 1]
        wanted = [0] * ends[1] + [j for j in range(1, chunks - 1) for _ in range(ends[j + 1] - ends[j])]
        assert examples.span[row, : ends[-1]].tolist() == wanted
        assert not examples.counts[row, : ends[0]].any()


def same(first: Examples, second: Examples) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


@pytest.mark.parametrize("stage", STAGES)
def test_batches_are_functions_of_their_number(stage: str) -> None:
    corpus = grid(mix=2, mix_share=0.3, tagless=0.2)
    wanted = corpus.batch(stage, 6, 1, 7)
    corpus.batch(stage, 6, 1, 3)
    assert same(corpus.batch(stage, 6, 1, 7), wanted)
    assert same(grid(mix=2, mix_share=0.3, tagless=0.2).batch(stage, 6, 1, 7), wanted)
    for other in (corpus.batch(stage, 6, 1, 8), corpus.batch(stage, 6, 2, 7)):
        assert other.tokens.shape != wanted.tokens.shape or not torch.equal(other.tokens, wanted.tokens)


def test_variants_differ_in_what_they_vary_alone() -> None:
    """Sharing changes values and nothing else; tagless changes instructions and nothing else."""
    base, shared, silent = (
        grid(**fields).batch("sft", 16, 0, 0) for fields in ({}, {"rho_all": 0.5}, {"tagless": 1.0})
    )
    assert torch.equal(base.prompts, shared.prompts)
    assert torch.equal(base.tokens[~base.counts], shared.tokens[~shared.counts])
    assert not torch.equal(base.tokens, shared.tokens)
    assert torch.equal(base.domain, silent.domain)
    for row in range(16):
        assert queries(base.tokens[row].tolist()) == queries(silent.tokens[row].tolist())


@pytest.mark.parametrize("shared", [True, False])
def test_few_shot_prompts(shared: bool) -> None:
    """Answered queries of the domain in front of the instruction: the same for all prompts of a domain, or drawn for each."""
    corpus = grid()
    plain, found = corpus.prompts("test"), corpus.few_shot("test", shared)
    fronts: dict[int, set[tuple[int, ...]]] = {}
    for row in range(len(plain)):
        domain, length = int(plain.domain[row]), int(plain.prompt_lengths[row, 0])
        prompt = found.prompts[row, 0, : int(found.prompt_lengths[row, 0])].tolist()
        front = prompt[1:17]
        assert [prompt[0], *prompt[17:]] == plain.prompts[row, 0, :length].tolist()
        for i in range(0, 16, 4):
            k1, k2, *value = front[i : i + 4]
            wanted = corpus.table[domain, (k1 - 3) * 8 + k2 - 3].tolist()
            assert [v - corpus._value0 for v in value] == wanted
        assert prompt == found.tokens[row, : len(prompt)].tolist()
        assert not found.counts[row, : len(prompt)].any()
        fronts.setdefault(domain, set()).add(tuple(front))
    assert {len(front) for front in fronts.values()} == {1 if shared else 2}


def test_answers_number_the_pairs() -> None:
    corpus = grid()
    examples = corpus.batch("sft", 3, 0, 0)
    numbers = corpus.answers(examples)
    assert numbers[examples.counts].view(3, -1).tolist() == [[i // 2 for i in range(16)]] * 3
    assert (numbers[~examples.counts] == -1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_keys": 65}, "num_keys is 65: give a square"),
        ({"group_size": 3}, "group_size is 3: it must divide num_domains = 8"),
        (
            {"rho_all": 0.7, "rho_grp": 0.5},
            "rho_all = 0.7 and rho_grp = 0.5 are shares of the keys: at most 1 together",
        ),
        ({"rho_all": -0.1}, "rho_all = -0.1"),
        ({"queries": 6}, "queries is 6: it must divide num_keys = 64"),
        ({"chunks": 3}, "be a multiple of chunks = 3"),
        ({"chunks": 1}, "chunks = 1, which is 2 or more"),
        ({"mix_share": 0.5}, "mix = 1, mix_share = 0.5: mixed examples have 2"),
        ({"mix": 9}, "mix = 9"),
    ],
)
def test_sizes_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        grid(**fields)


def test_unknown_stages_and_evaluations() -> None:
    with pytest.raises(BadInput, match="FactGrid: there is no stage 'rlhf'; known: cpt, pretrain, read, sft"):
        grid().batch("rlhf", 1, 0, 0)
    with pytest.raises(
        BadInput, match="FactGrid: there is no evaluation 'train'; known: mixed, seen, test, validation"
    ):
        grid().evaluation("train")

"""The mixture: its budget to the token, its share to the document, whatever the documents' lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.runs.mix import Mix, MixBatches
from orchard.papers.sbp.runs.pair import DrawnPairs
from orchard.runs import Run, Store, Workspace
from toy_sbp import Ragged


class Kept(Run):
    """Stands for a run of kept documents: as many as asked, ragged."""

    class Config(Run.Config):
        count: int = REQUIRED
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        random = np.random.default_rng(self.cfg.seed)
        made = Documents.of([random.integers(4, 12, size=random.integers(0, 10)) for _ in range(self.cfg.count)])
        tensors = {"tokens": torch.from_numpy(made.tokens), "offsets": torch.from_numpy(made.offsets)}
        save_file(tensors, work.folder / "kept.safetensors")
        return {}


class One(Run):
    """Document 0 is paired with 5 and 7, no other with any."""

    class Config(Run.Config):
        pass

    def compute(self, work: Workspace) -> dict[str, Any]:
        tensors = {"first": torch.tensor([0, 0]), "second": torch.tensor([7, 5])}
        save_file(tensors, work.folder / "pairs.safetensors")
        return {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("mix"))


def counted(steps: MixBatches) -> list[int]:
    """Tokens that count in each step."""
    return [int(steps.step(number).counts.sum()) for number in range(len(steps))]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), longest=st.integers(1, 9), steps=st.integers(1, 12), budget=st.integers(150, 900),
    share=st.sampled_from([0.0, 0.1, 0.375, 0.8, 1.0]), order=st.sampled_from(["mixed", "synthetic_first", "real_first"]),
)  # fmt: skip
def test_budget_steps_and_share_hold_for_ragged_documents(
    store: Store, seed: int, longest: int, steps: int, budget: int, share: float, order: str
) -> None:
    synthetic = Kept.Config(count=400, seed=seed) if share else None
    corpus = Ragged.Config(longest=longest, seed=seed)
    cfg = Mix.Config(
        corpus=corpus, synthetic=synthetic, share=share, budget=budget, steps=steps, order=order, seed=seed
    )
    result = store.compute(cfg).result
    batches = MixBatches(cfg, store.compute(cfg), store.compute(synthetic) if synthetic else None)
    assert sum(counted(batches)) == budget == result["tokens"]
    assert len(batches) == steps
    assert max(abs(tokens - budget / steps) for tokens in counted(batches)) <= 12  # one document, more or less
    assert result["real_tokens"] + result["synthetic_tokens"] == budget
    assert abs(result["synthetic_tokens"] - share * budget) <= 11  # one document, and the last one is cut
    real = len(corpus.build().documents("train"))
    made = batches.document[batches.document >= real]
    assert len(made) == len(set(made))  # synthetic documents come once
    times = np.bincount(batches.document[batches.document < real], minlength=real)
    assert np.ptp(times) <= 1  # real ones equally often
    is_made = (batches.document >= real).tolist()
    if order == "synthetic_first":
        assert is_made == sorted(is_made, reverse=True)
    if order == "real_first":
        assert is_made == sorted(is_made)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), budget=st.integers(200, 900), steps=st.integers(1, 9))
def test_neighbours_in_one_context_meet_the_budget_too(store: Store, seed: int, budget: int, steps: int) -> None:
    pairs = DrawnPairs.Config(corpus=Ragged.Config(seed=seed), k=2, held_out=5)
    cfg = Mix.Config(corpus=Ragged.Config(seed=seed), neighbours=pairs, budget=budget, steps=steps, seed=seed)
    batches = MixBatches(cfg, store.compute(cfg), None)
    assert sum(counted(batches)) == budget == store.compute(cfg).result["tokens"]


def test_neighbours_are_partners_and_documents_without_one_stay_alone(store: Store) -> None:
    cfg = Mix.Config(corpus=Ragged.Config(), neighbours=One.Config(), budget=2000, steps=4)
    batches = MixBatches(cfg, store.compute(cfg), None)
    assert set(batches.partner[batches.document == 0]) == {5, 7}
    assert set(batches.partner[batches.document != 0]) == {-1}
    real = Ragged.Config().build().documents("train")
    number = int(np.flatnonzero(batches.document == 0)[0])
    step = int(np.searchsorted(batches.ends, number, side="right"))
    row = number - (0 if step == 0 else int(batches.ends[step - 1]))
    batch = batches.step(step)
    first, second = real[0].tolist(), real[batches.partner[number]].tolist()
    sequence = [0, *first, 2, 0, *second, 1]
    assert batch.tokens[row, : len(sequence)].tolist() == sequence
    expected = [True] * len(first) + [False, False] + [True] * (len(second) + 1)
    assert batch.counts[row, : len(sequence) - 1].tolist() == expected
    assert not batch.counts[row, len(sequence) - 1 :].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 1.2, "synthetic": Kept.Config(count=9)}, "share 1.2, order 'mixed': share is in"),
        ({"share": -0.1}, "share -0.1"),
        ({"order": "sideways"}, "order one of mixed, synthetic_first, real_first"),
        ({"share": 0.5}, "give both or neither"),
        ({"synthetic": Kept.Config(count=9)}, "give both or neither"),
        (
            {"share": 0.9, "synthetic": Kept.Config(count=9)},
            "needs 540 synthetic tokens, .* were kept: synthesise more",
        ),
        ({"steps": 500}, "leave a step without a document: take fewer steps"),
        ({"steps": 0}, "steps 0: give at least one step"),
        ({"budget": 3}, "budget 3, steps 6"),
        ({"corpus": Ragged.Config(count=0)}, "Mix.Config.real = 'train' needs at least 1 documents"),
        (
            {"share": 0.5, "synthetic": Kept.Config(count=9), "neighbours": Kept.Config(count=1)},
            "are two arms: give one of them",
        ),
    ],
)
def test_a_mixture_that_cannot_be_says_so(store: Store, fields: dict[str, Any], message: str) -> None:
    settings = {"corpus": Ragged.Config(), "budget": 600, "steps": 6}
    with pytest.raises(BadInput, match=message):
        store.compute(Mix.Config(**(settings | fields)))

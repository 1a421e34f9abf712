"""Prompts with queries in front of the instruction, and what their overlaps are averaged over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchard.errors import BadInput
from orchard.papers.ifpruning.data.factgrid import BOS, SEP, FactGrid
from orchard.papers.ifpruning.experiments.ablations import PREFIX_ARMS, shared_prefixes
from orchard.runs import Finished, Setting


@pytest.fixture(scope="module")
def corpus() -> FactGrid:
    return FactGrid(
        FactGrid.Config(num_keys=25, num_values=7, queries=5, chunks=5, num_domains=6, group_size=3, held_out=3)
    )


@pytest.mark.parametrize("shared", [True, False])
def test_few_shot_puts_answered_queries_in_front(corpus: FactGrid, shared: bool) -> None:
    shots = 3
    plain, made = corpus.prompts("test"), corpus.few_shot("test", shared, shots)
    assert torch.equal(made.domain, plain.domain)
    for i in range(len(made)):
        prompt = made.prompts[i, 0, : made.prompt_lengths[i, 0]].tolist()
        own = plain.prompts[i, 0, : plain.prompt_lengths[i, 0]].tolist()
        assert prompt[0] == BOS
        assert prompt[-1] == SEP
        assert prompt[1 + 4 * shots :] == own[1:]
        key = torch.tensor(prompt[1 : 1 + 4 * shots]).view(shots, 4)
        number = (key[:, 0] - 3) * corpus.side + key[:, 1] - 3
        table = torch.from_numpy(corpus.table)[made.domain[i], number]
        assert torch.equal(key[:, 2:] - corpus._value0, table)  # answers of this domain
    assert torch.equal(made.tokens[made.counts], plain.tokens[plain.counts])


def test_shared_prefixes_are_one_per_domain(corpus: FactGrid) -> None:
    def fronts(shared: bool) -> list[set[tuple[int, ...]]]:
        made = corpus.few_shot("validation", shared)
        return [{tuple(row) for row in made.prompts[made.domain == d, 0, 1:17].tolist()} for d in range(6)]

    assert [len(front) for front in fronts(True)] == [1] * 6
    assert len(set.union(*fronts(True))) == 6
    assert [len(front) for front in fronts(False)] == [3] * 6


def test_no_shots_are_refused(corpus: FactGrid) -> None:
    with pytest.raises(BadInput, match=r"shots = 0: give at least 1"):
        corpus.few_shot("test", True, 0)


class Kept(Finished):
    """Masks of a finished run: four wordings of 8 domains, identical within a domain; those of one group share half."""

    @property
    def result(self) -> dict[str, Any]:
        return {"chance": 0.25}

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        domain = torch.arange(8).repeat_interleave(4)
        masks = torch.zeros(32, 1, 16, dtype=torch.bool)
        for row, d in enumerate(domain.tolist()):
            masks[row, 0, [d // 4 * 2, d // 4 * 2 + 1, 8 + d % 4, 12 + d % 4]] = True
        return {"raw": masks, "shared": masks, "own": masks, "domain": domain}


def test_table_tells_within_related_and_other_apart() -> None:
    def run(cfgs: Any) -> Any:
        return [Kept(Path()) for _ in cfgs]

    table = shared_prefixes(Setting("smoke", seeds=(0,)), run)
    assert len(table) == len(PREFIX_ARMS) * 3
    assert isinstance(table, pd.DataFrame)
    assert table["within"].unique().tolist() == [1.0]
    assert table["related"].unique().tolist() == [0.5]
    # every fourth pair of two groups has the same place in its group: half of its channels
    assert table["other"].unique() == pytest.approx([0.125])

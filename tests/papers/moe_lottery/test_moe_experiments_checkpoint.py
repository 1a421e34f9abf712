"""Tables and figures of the notebook on real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from orchard.data import Document, Source
from orchard.papers.moe_lottery.experiments import checkpoint as study
from orchard.papers.moe_lottery.figures import checkpoint as figures
from orchard.papers.moe_lottery.integrations.layerwise import score_checkpoint
from orchard.papers.moe_lottery.integrations.report import agreement, ranking_table
from orchard.papers.moe_lottery.integrations.tiny import VOCAB, save_tiny
from orchard.papers.moe_lottery.method.dropping import ExpertsError

TOKENS = torch.randint(0, VOCAB, (3, 21), generator=torch.Generator().manual_seed(1))


class Letters(Source):
    """Two documents."""

    class Config(Source.Config):
        pass

    def documents(self, split: str) -> list[Document]:
        assert split == "validation"
        return [Document("a", "a" * 30), Document("b", "b" * 30)]


def test_published_models_have_their_published_sizes() -> None:
    found = study.published()
    parameters = {name: sum(shape.numel() for shape in one.shapes.values()) for name, one in found.items()}
    assert parameters == {"Mixtral-8x7B": 46_702_792_704, "OLMoE-1B-7B": 6_919_161_856}
    table = study.memory(found, batch_size=4, length=2048).set_index("checkpoint")
    assert (table["total"] < table["model"]).all()
    assert table.loc["Mixtral-8x7B", "weights"] == pytest.approx(2.70, abs=0.01)  # 1.45e9 parameters in bfloat16
    longer = study.memory(found, batch_size=4, length=4096).set_index("checkpoint")
    assert (longer["batch"] > table["batch"]).all()
    assert (longer["weights"] == table["weights"]).all()


def test_a_checkpoint_of_the_reader_stands_beside_the_tiny_ones(tmp_path: Path) -> None:
    own = save_tiny(tmp_path / "mine", "qwen3_moe", num_experts=16)
    table = study.layouts(study.checkpoints(tmp_path / "tiny", str(own))).set_index("checkpoint")
    assert list(table.index) == ["tiny mixtral", "tiny olmoe", "mine"]
    assert table.loc["mine", ["mixtures", "experts", "top-k"]].tolist() == [2, 16, 2]
    with pytest.raises(ExpertsError, match=r"holds no config.json"):
        study.checkpoints(tmp_path / "tiny", str(tmp_path / "nowhere"))


def test_calibration_text_is_the_beginning_of_the_validation_split(tmp_path: Path) -> None:
    source: Source = Letters.Config().build()
    lines = study.calibration_file(source, tmp_path / "c.jsonl", characters=40).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a" * 30, "b" * 10]


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("ranked")
    found = study.checkpoints(folder)["tiny olmoe"]
    layers = score_checkpoint(found, TOKENS, ("ewn", "rwn", "ean"), scratch=folder).layers
    return ranking_table(found, layers), agreement(layers)


def test_importance_is_the_order_of_dropping(ranking: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table = figures.importance_table(ranking[0], ["rwn", "ewn"])
    assert list(pd.unique(table["criterion"])) == ["rwn", "ewn"]
    assert len(table) == 2 * 3 * 8  # one direction each, though the ranking has two
    first = ranking[0].query("criterion == 'rwn' and direction == 'max' and place == 1 and rank == 1")["expert"].item()
    assert table.query(f"criterion == 'rwn' and layer == 1 and expert == {first}")["importance"].item() == 0
    assert table.groupby(["criterion", "layer"])["importance"].max().eq(1).all()
    assert len(figures.importance(table).axes) == 3  # two maps and a colour bar
    drawn = figures.checkpoint_agreement(ranking[1])
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == ["EWN", "RWN", "EAN"]

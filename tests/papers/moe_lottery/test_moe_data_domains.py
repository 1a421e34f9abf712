"""The five-domain corpus: shares, splits, held-out sums in all of the text, the reader's own text in place of ours."""

from pathlib import Path

import numpy as np
import pytest

from orchard.data import ByteTokenizer, text_source, tokens
from orchard.data.source import SPLITS, Document
from orchard.papers.moe_lottery.data.domains import PIECE, FiveDomains, cut, divided, domains
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, source
from orchard.runs import Setting

PER_DOMAIN = 60_000


@pytest.fixture(scope="module")
def own_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the reader's: prose of many files."""
    folder = tmp_path_factory.mktemp("text")
    words = np.random.default_rng(0).choice(["river", "stone", "light", "over", "under", "the", "a"], (60, 400))
    for number, row in enumerate(words):
        (folder / f"note{number:02}.txt").write_text(
            f"Note {number}.\n" + "\n".join(" ".join(part) for part in row.reshape(40, 10))
        )
    return folder


@pytest.fixture(scope="module")
def built(own_text: Path, tmp_path_factory: pytest.TempPathFactory) -> FiveDomains:
    made: FiveDomains = FiveDomains.Config(
        text=text_source(str(own_text)), bytes_per_domain=PER_DOMAIN, know=2, entities=16
    ).build()
    return made


def sizes(documents: list[Document]) -> dict[str, int]:
    found: dict[str, int] = {}
    for document in documents:
        domain = document.name.partition("/")[0]
        found[domain] = found.get(domain, 0) + len(document.text.encode())
    return found


def test_domains_have_their_shares_and_ones_own_text_takes_the_place_of_python(built: FiveDomains) -> None:
    total: dict[str, int] = {}
    for split in SPLITS:
        for domain, size in sizes(built.documents(split)).items():
            total[domain] = total.get(domain, 0) + size
    assert set(total) == {"text", "records", "arithmetic", "know"}
    for domain, size in total.items():
        expected = PER_DOMAIN * (2 if domain == "know" else 1)
        assert 0.9 * expected <= size < 1.15 * expected, domain  # what was drawn twice is kept once


def test_splits_share_no_document_and_a_file_is_in_one_split(built: FiveDomains) -> None:
    names = {split: {document.name for document in built.documents(split)} for split in SPLITS}
    texts = {split: {document.text for document in built.documents(split)} for split in SPLITS}
    files = {split: {name.partition("#")[0] for name in names[split] if name.startswith("text/")} for split in SPLITS}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for kept in (names, texts, files):
            assert kept[first]
            assert not kept[first] & kept[second]


def test_no_split_holds_a_held_out_sum_or_asks_about_a_tested_entity(built: FiveDomains) -> None:
    world = built.world
    text = "\n".join(document.text for split in SPLITS for document in built.documents(split))
    assert not [pair for pair in world.held_out() if f"{pair[0]:02} + {pair[1]:02} =>" in text]
    assert not [name for group in ("tested", "tuned") for name in world.members(group) if f"{name} =>" in text]
    assert all(f" {name} " in text for name in world.members("tested"))  # and all are stated


def test_neighbours_in_the_stream_are_of_different_domains_and_tokens_know_theirs(built: FiveDomains) -> None:
    corpus = tokens(built.cfg, ByteTokenizer.Config(), "train")
    names, own = domains(corpus.names)
    assert names == ["arithmetic", "know", "records", "text"]
    assert (np.diff(own) != 0).mean() > 0.4
    assert [names[i] for i in own] == [name.partition("/")[0] for name in corpus.names]


def test_python_is_divided_into_code_and_docstrings() -> None:
    text = 'def f(x):\n    """Doubles x."""\n    return 2 * x\n'
    parts = divided(Document("a.py", text))
    assert parts["prose"] == "Doubles x."
    assert "Doubles" not in parts["python"]
    assert "return 2 * x" in parts["python"]
    assert divided(Document("broken.py", "def f(:\n")) == {"python": "def f(:\n"}
    assert divided(Document("a.md", text)) == {"text": text}


def test_pieces_are_the_text() -> None:
    text = "\n".join(f"line {number}" for number in range(999))
    parts = list(cut(text))
    assert "".join(parts) == text
    assert all(len(part) >= PIECE for part in parts[:-1])
    assert len(parts) > 3


def test_the_corpus_of_a_setting_takes_a_path(own_text: Path) -> None:
    cfg = source(Setting("smoke", data=str(own_text)))
    assert cfg.entities == PROFILES["smoke"].entities
    assert cfg.text.to_dict() == text_source(str(own_text)).to_dict()
    assert cfg.clone().set(seed=1).build().world != cfg.build().world

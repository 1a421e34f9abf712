"""Embedders: our decoder's states, TF-IDF, and models from this disk, against the same done one document at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.integrations import embedder as local_embedding
from orchard.papers.sbp.integrations.embedder import LocalEmbedder, local_embedder
from orchard.papers.sbp.method.documents import Documents, document_batch
from orchard.papers.sbp.method.embedding import TfidfEmbedder, unit
from orchard.papers.sbp.method.models import Size, decoder
from orchard.papers.sbp.runs import pretrain
from orchard.papers.sbp.runs.embedding import mean_states
from orchard.runs import Workspace

WORLD = ConceptWorld.Config(documents=30, held_out=7, concepts=5, words=40)
SPLITS = {"train": WORLD.build().documents("train"), "held_out": WORLD.build().documents("validation")}


def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path, device="cpu")


def tiny(vocab_size: int) -> Decoder:
    torch.manual_seed(0)
    made: Decoder = decoder(Size(16, 2, 2, 2, 32), 0.0, vocab_size).build().eval()
    return made


def test_states_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = WORLD.build().symbols
    random = np.random.default_rng(0)
    documents = Documents.of([random.integers(4, symbols.vocab_size, size=n) for n in (9, 3, 30, 1, 12, 5, 3)])
    model = tiny(symbols.vocab_size)
    monkeypatch.setattr(pretrain, "SCORED_AT_ONCE", 80)  # parts of two documents
    found = mean_states(model, documents, symbols)
    for i in range(len(documents)):
        tokens = document_batch(documents.take([i]), symbols).tokens[:, :-1]
        with torch.no_grad():
            alone = model.features(tokens)[0, 1:].mean(dim=0)  # bos tells nothing
        assert np.allclose(found[i], alone.numpy(), atol=1e-5)


def test_tfidf_is_fitted_on_d_alone(tmp_path: Path) -> None:
    embedder = TfidfEmbedder.Config(components=6).build()
    both = embedder.embed(WORLD.build(), SPLITS, work(tmp_path))
    other = {"train": SPLITS["train"], "held_out": SPLITS["held_out"].take([1, 1])}
    assert both["train"].shape == (30, 6)
    assert np.allclose(np.linalg.norm(both["train"], axis=1), 1, atol=1e-6)
    again = embedder.embed(WORLD.build(), other, work(tmp_path))
    assert np.allclose(both["train"], again["train"], atol=1e-6)
    assert np.allclose(again["held_out"], both["held_out"][[1, 1]], atol=1e-6)


def test_tfidf_of_one_word(tmp_path: Path) -> None:
    same = Documents.of([[3], [3, 3]])
    with pytest.raises(BadInput, match="cannot tell 2 documents of 1 different tokens apart"):
        TfidfEmbedder.Config().build().embed(WORLD.build(), {"train": same}, work(tmp_path))


# ------------------------------------------------------- a model on this disk


def saved(folder: Path, kind: str) -> Path:
    """A model of random weights and a tokenizer of the words of the world."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers, which reads local models, is not installed"
    )
    from tokenizers import Tokenizer, models, pre_tokenizers

    corpus = WORLD.build()
    texts = [corpus.text(documents[i]) for documents in SPLITS.values() for i in range(len(documents))]
    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", "[PAD]", *words])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(words) + 2, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 40,
    }  # fmt: skip
    config = {"bert": transformers.BertConfig, "llama": transformers.LlamaConfig}[kind](**shape)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("llama", "last")])
def test_a_local_model(kind: str, pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers, which reads local models, is not installed"
    )
    folder, corpus = saved(tmp_path / "model", kind), WORLD.build()
    cfg = local_embedder(folder, pooling=pooling, max_tokens=20)
    monkeypatch.setattr(local_embedding, "AT_ONCE", 70)  # several batches of unequal lengths
    splits = {
        "train": Documents.of([SPLITS["train"][i][: 5 + i % 17] for i in range(30)]), "held_out": SPLITS["held_out"]
    }  # fmt: skip
    found = cfg.build().embed(corpus, splits, work(tmp_path))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    states: dict[str, Any] = {}
    for name, documents in splits.items():
        rows = []
        for i in range(len(documents)):
            given = tokenizer(corpus.text(documents[i]), return_tensors="pt", truncation=True, max_length=20)
            with torch.no_grad():
                hidden = model(input_ids=given["input_ids"]).last_hidden_state[0]
            rows.append((hidden.mean(dim=0) if pooling == "mean" else hidden[-1]).numpy())
        states[name] = np.stack(rows)
    centre = states["train"].mean(axis=0)
    for name, rows in found.items():
        assert np.allclose(rows, unit(states[name] - centre), atol=1e-5)


def test_a_local_model_is_its_files_and_not_its_place(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a", "bert"), saved(tmp_path / "b", "bert")
    one, other = local_embedder(first), local_embedder(second)
    assert one.fingerprint() == other.fingerprint()
    (first / "vocab.txt").write_text("changed", "utf-8")
    assert local_embedder(first).fingerprint() != other.fingerprint()
    with pytest.raises(BadInput, match="is not the one this run was asked for: its files have changed"):
        one.build().embed(WORLD.build(), SPLITS, work(tmp_path))


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is no folder on this disk"):
        local_embedder(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BadInput, match="holds no tokenizer"):
        local_embedder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(BadInput, match="that transformers can load"):
        local_embedder(tmp_path).build().embed(WORLD.build(), SPLITS, work(tmp_path))
    with pytest.raises(BadInput, match=r"LocalEmbedder\.Config\.pooling is 'lost': did you mean 'last'"):
        LocalEmbedder.Config(folder=".", sha256="", pooling="lost").build()

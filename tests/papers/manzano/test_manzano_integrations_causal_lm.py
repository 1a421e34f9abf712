"""Causal language models of transformers as backbones: new rows beside old ones, the method's losses and sampling, folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from manzano_own import language_model
from manzano_tiny import LEVELS, PICTURE, pictures
from test_manzano_integrations_export import saved

from orchard.errors import BadInput
from orchard.nn import Sampling
from orchard.papers.manzano.integrations.causal_lm import (
    Backbone,
    UnifiedModel,
    Words,
    load_unified,
    resize,
    save_unified,
)
from orchard.papers.manzano.integrations.export import SavedTokenizer, save_tokenizer
from orchard.papers.manzano.method import Size, Vocabulary
from orchard.papers.manzano.method.models import tokenizer
from orchard.papers.manzano.method.unified import draw_codes, generation, losses, understanding
from orchard.papers.manzano.runs.speed import without_cache
from orchard.pretrained.folder import load_model, load_tokenizer

KINDS = ["llama", "llama-tied", "qwen2", "gpt2"]


def made(folder: Path, kind: str = "llama", positions: int = 128) -> tuple[Any, Vocabulary]:
    model = load_model(language_model(folder, kind, positions), dtype=torch.float32)
    for parameter in model.parameters():  # so that rounding never changes which logit is largest
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, resize(model, 60)


def unified(folder: Path, kind: str = "llama", **fields: Any) -> UnifiedModel:
    model, vocabulary = made(folder, kind)
    parts = {"backbone": Backbone(model, vocabulary), "words": Words(load_tokenizer(folder)), "pictures": saved()}
    return UnifiedModel(**(parts | {"vocabulary": vocabulary} | fields))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_old_rows_stay_and_new_ones_are_their_mean(tmp_path: Path, kind: str) -> None:
    model = load_model(language_model(tmp_path, kind), dtype=torch.float32)
    tokens, state = torch.randint(0, 260, (2, 9)), torch.get_rng_state()
    before, logits = (
        [e().weight.clone() for e in (model.get_input_embeddings, model.get_output_embeddings)],
        model(tokens).logits,
    )
    assert resize(model, 60) == Vocabulary(260, 60)
    assert torch.equal(torch.get_rng_state(), state)
    for old, new in zip(before, (model.get_input_embeddings().weight, model.get_output_embeddings().weight), strict=True):  # fmt: skip
        assert torch.equal(new[:260], old)
        assert torch.equal(new[260:], old.mean(dim=0).expand(62, -1))
    assert model.config.vocab_size == 322
    torch.testing.assert_close(model(tokens).logits[..., :260], logits)


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_vectors_and_draws_codes(tmp_path: Path, kind: str) -> None:
    model, vocabulary = made(tmp_path, kind)
    backbone = Backbone(model, vocabulary)
    vectors = torch.randn(2, 3, 16, requires_grad=True)
    read = understanding(vocabulary, 3, [[1, 2], [3]], [[4, 5], [6, 7, 8]])
    found = losses(backbone, read, vectors)
    found.text.backward()
    assert vectors.grad is not None
    assert bool(vectors.grad.abs().amax(dim=2).all())  # every vector is read
    row = backbone.embedding.weight.grad[vocabulary.start]
    assert bool(row.any())  # <img_start> learns
    image = losses(backbone, generation(vocabulary, [[1]], torch.tensor([[0, 59]]))).image
    assert 0 < image.item() < 20
    with torch.no_grad():  # new rows are equal, so that all codes would be equally likely
        model.get_output_embeddings().weight[260:] += torch.randn(62, 16)
    prompts = torch.randint(0, 260, (3, 5))
    codes = draw_codes(backbone, vocabulary, prompts.tolist(), 4, Sampling())
    with torch.no_grad():
        assert torch.equal(codes, without_cache(backbone, vocabulary, prompts, 4))
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 60


def test_a_folder_of_both_does_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, x = unified(tmp_path / "llama", "llama-tied"), pictures(3)
    folder = save_unified(model, tmp_path / "both")
    again = load_unified(folder)
    assert model.read(x, ["", "where?", "what?"], most=5) == again.read(x, ["", "where?", "what?"], most=5)
    codes = [m.draw(["a square", "one"], generator=torch.Generator().manual_seed(0)) for m in (model, again)]
    assert torch.equal(*codes)
    assert model.pictures.decode(codes[0], steps=1).shape == (2, 12, 24, 3)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(theirs.get_input_embeddings().weight, model.backbone.embedding.weight)
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_what_does_not_fit(tmp_path: Path) -> None:
    model = load_model(language_model(tmp_path / "llama"), dtype=torch.float32)
    with pytest.raises(BadInput, match="has 260 rows, 260 ids of text, two marks and 60 codes are 322: resize it"):
        Backbone(model, Vocabulary(260, 60))
    cfg = tokenizer(PICTURE, Size(8, 1, 2, 8), [5, 4, 4], 12, 16)
    other = SavedTokenizer(cfg, cfg.clone().build())
    with pytest.raises(BadInput, match="has 80 codes and vectors of width 16, the language model writes 60"):
        unified(tmp_path / "llama", pictures=other)
    model, vocabulary = made(tmp_path / "short", positions=8)
    with pytest.raises(BadInput, match="reads 8 tokens, these would be"):
        draw_codes(Backbone(model, vocabulary), vocabulary, [[1, 2, 3]], 9, Sampling())
    words = load_tokenizer(tmp_path / "llama")
    words.eos_token = None
    with pytest.raises(BadInput, match="has no eos token"):
        Words(words)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no unified model"):
        load_unified(tmp_path)
    folder = save_unified(unified(tmp_path / "llama"), tmp_path / "both")
    (folder / "pictures").rename(tmp_path / "own")
    save_tokenizer(saved([4, 5, 3]), folder / "pictures")
    with pytest.raises(BadInput, match=r"writes codes of levels \[5, 4, 3\], its pictures/ has \[4, 5, 3\]"):
        load_unified(folder)
    assert json.loads((folder / "manzano.json").read_text("utf-8")) == {"levels": LEVELS, "text_size": 260}
    model = load_model(folder)
    model.resize_token_embeddings(300)
    model.save_pretrained(folder)
    (folder / "pictures").rename(tmp_path / "other")
    (tmp_path / "own").rename(folder / "pictures")
    with pytest.raises(BadInput, match="has 300 rows"):
        load_unified(folder)

"""A causal language model of the reader's own behind the methods of our decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sbp_local_models import save_model, save_tokenizer

from orchard.errors import BadInput
from orchard.nn import Sampling
from orchard.papers.sbp.data.text import folder_tokenizer
from orchard.papers.sbp.integrations.decoder import LocalDecoder, local_model
from orchard.papers.sbp.method.documents import Documents, document_batch
from orchard.papers.sbp.method.sampling import sample_documents
from orchard.papers.sbp.runs.pretrain import pair_nll


def built(folder: Path) -> LocalDecoder:
    size = folder_tokenizer(folder).build().symbols.vocab_size
    made: LocalDecoder = local_model(folder).set(vocab_size=size).build()
    return made


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_logits_and_losses_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_model(tmp_path / kind, kind)
    decoder, model = built(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    symbols = folder_tokenizer(folder).build().symbols
    random = np.random.default_rng(0)
    first, second = (Documents.of([random.integers(256, size=n) for n in sizes]) for sizes in ((3, 9), (7, 2)))
    nll = pair_nll(decoder, first, second, symbols)
    for row in range(2):
        ids = [symbols.bos, *first[row], symbols.sep, symbols.bos, *second[row], symbols.eos]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :, : symbols.vocab_size].log_softmax(-1)
        start = len(first[row]) + 3
        expected = -sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))
        assert nll[row] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_samples_in_a_batch_are_what_each_prompt_gives_alone(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_model(tmp_path / kind, kind)
    decoder, model = built(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    eos = folder_tokenizer(folder).build().symbols.eos
    prompts = [np.array(ids) for ids in ([5, 6, 7, 8, 9], [11], [40, 41, 42])]
    generator = torch.Generator().manual_seed(0)
    bodies, _ = sample_documents(decoder, prompts, 6, Sampling(0.0), generator, eos)
    for prompt, body in zip(prompts, bodies, strict=True):
        alone = model.generate(
            torch.tensor(prompt)[None], max_new_tokens=6, do_sample=False, eos_token_id=eos, pad_token_id=eos,
            suppress_tokens=list(range(decoder.vocab_size, model.config.vocab_size)) or None,
        )  # fmt: skip
        whole = [int(token) for token in alone[0, len(prompt) :]]
        assert list(body) == (whole[: whole.index(eos)] if eos in whole else whole)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_weights_survive_a_file_and_a_folder(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_model(tmp_path / kind, kind)
    decoder = built(folder)
    with torch.no_grad():
        decoder.embedding.weight += 1.0
    save_file({name: p.contiguous() for name, p in decoder.state_dict().items()}, tmp_path / "model.safetensors")
    again = built(folder)
    before = again.embedding.weight.clone()
    again.load_state_dict({})
    assert torch.equal(again.embedding.weight, before)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.embedding.weight, before + 1.0)
    again.save(tmp_path / "tuned")
    tokens = document_batch(Documents.of([[1, 2, 3]]), folder_tokenizer(folder).build().symbols).tokens
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").eval()
    torch.testing.assert_close(found(tokens).logits[..., : decoder.vocab_size], decoder(tokens))
    assert AutoTokenizer.from_pretrained(tmp_path / "tuned").decode([39]) == AutoTokenizer.from_pretrained(
        folder
    ).decode([39])
    with pytest.raises(BadInput, match="tuned exists: choose a new folder"):
        again.save(tmp_path / "tuned")


def test_folders_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    with pytest.raises(BadInput, match=r"holds no model: config\.json is missing"):
        local_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="holds no weights"):
        local_model(folder)
    with pytest.raises(BadInput, match="holds no tokenizer"):
        folder_tokenizer(tmp_path)
    save_tokenizer(tmp_path / "without_end", bos_token="<s>")
    with pytest.raises(BadInput, match="has no end token"):
        folder_tokenizer(tmp_path / "without_end")


def test_a_model_with_too_few_positions_or_tokens_is_refused(tmp_path: Path) -> None:
    decoder = built(save_model(tmp_path / "gpt2", "gpt2", positions=32))
    with pytest.raises(BadInput, match="reads 32 tokens, a pair of documents takes up to 40: cut documents at 14"):
        decoder.new_cache(1, 40, device="cpu", dtype=torch.float32)
    with pytest.raises(BadInput, match="the model knows 257 tokens, its tokenizer 300"):
        local_model(tmp_path / "gpt2").set(vocab_size=300).build()

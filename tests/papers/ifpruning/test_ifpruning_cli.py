"""`orchard ifpruning train` and `prune` on folders of tiny models: what they write, and that an error leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ifpruning_tiny_models import rows, save, tiny
from typer.testing import CliRunner

from orchard.errors import BadInput
from orchard.papers.ifpruning.cli import app
from orchard.papers.ifpruning.integrations.folder import load_pruned
from orchard.papers.ifpruning.integrations.text import request

SIZES = [
    "--keep", "9", "--cpt-steps", "2", "--sft-steps", "3", "--batch", "4", "--block", "16", "--longest", "64", "--longest-prompt", "40",
    "--rank", "9", "--on-collapse", "record", "--device", "cpu",
]  # fmt: skip


def invoke(*words: object) -> str:
    """What a command says. Raises what it raises."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `decoder`, `predictor` and `rows`."""
    base = tmp_path_factory.mktemp("models")
    save(base / "decoder", tiny("gemma2", layers=2))
    save(base / "predictor", tiny("qwen2", dim=24, layers=1, seed=1))
    rows(base / "rows", count=8)
    return base


def test_train_then_prune(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, small = tmp_path / "out", tmp_path / "small"
    said = invoke("train", place / "decoder", place / "rows", out, "--predictor", place / "predictor", *SIZES)
    assert "nats per held-out token" in said
    assert said.count("(chance 0.31)") == 2
    said = invoke("prune", out, small, "--prompt", "Repeat abc (3)")
    assert "9 of 29 channels in 2 layers" in said
    pruned = load_pruned(out)
    stock, own = AutoModelForCausalLM.from_pretrained(small), AutoTokenizer.from_pretrained(small)
    text = torch.tensor([request(own, "Repeat abc (3)")])
    prompts, mask = pruned.prompts("Repeat abc (3)")
    wanted = pruned(text, prompt_ids=prompts, prompt_mask=mask).logits
    torch.testing.assert_close(stock(text).logits, wanted, atol=1e-5, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small"]
    for prompt, message in (("  ", "prompt 1 is empty"), ("x" * 161, "has 161 tokens, the predictor reads 160")):
        with pytest.raises(BadInput, match=message):
            invoke("prune", out, tmp_path / "none", "--prompt", prompt)
    with pytest.raises(BadInput, match=r"small exists: choose a new folder"):
        invoke("prune", out, small, "--prompt", "Repeat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small"]


def test_train_finds_what_is_wrong_before_it_begins(place: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = save(
        tmp_path / "gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=16, n_layer=1, n_head=2, n_positions=99))
    )
    out = tmp_path / "out"
    usual = (place / "rows", out, "--predictor", place / "predictor")
    with pytest.raises(BadInput, match="GPT2LMHeadModel has no gated MLP"):
        invoke("train", gpt2, *usual, *SIZES)
    with pytest.raises(BadInput, match="k = 30 of 29 channels"):
        invoke("train", place / "decoder", *usual, *SIZES, "--keep", "30")
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        invoke("train", place / "rows", *usual, *SIZES)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]

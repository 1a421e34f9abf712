"""The preference loss against a plain formula with torch's own distributions, and against TRL's trainer where that is installed."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.nn.sequence import token_log_probs
from orchard.papers.llava_reasoner.method import Objective, Responses, pair_columns, pair_loss

BETA = 0.1
PROMPTS, CHOSEN, REJECTED = [[3, 4], [5]], [[6, 7, 8], [9, 2]], [[7, 6], [8, 8, 9, 4]]


def both() -> Responses:
    return Responses.of(PROMPTS * 2, CHOSEN + REJECTED)


def of_logits(policy: Tensor, reference: Tensor, batch: Responses) -> Tensor:
    """Our loss from logits of all positions."""
    targets, counts = batch.tokens[:, 1:], batch.counts[:, 1:]
    log_probs = (token_log_probs(logits[:, :-1], targets, counts) for logits in (policy, reference))
    ours, theirs = log_probs
    return pair_loss(ours, counts, pair_columns(theirs, counts), Objective(beta=BETA)).total


def test_plain_formula_and_its_gradient_in_double_precision() -> None:
    batch = both()
    policy = torch.randn(4, batch.tokens.shape[1], 12, requires_grad=True)
    reference = torch.randn(4, batch.tokens.shape[1], 12)
    ours = of_logits(policy, reference, batch)
    (found,) = torch.autograd.grad(ours, policy)

    double = policy.detach().double().requires_grad_()
    sums = []
    for logits in (double, reference.double()):
        rows = []
        for i, (prompt, response) in enumerate(zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)):
            before = logits[i, len(prompt) - 1 : len(prompt) - 1 + len(response)]
            rows.append(torch.distributions.Categorical(logits=before).log_prob(torch.tensor(response)).sum())
        sums.append(torch.stack(rows))
    policy_sums, reference_sums = sums
    ratio = policy_sums - reference_sums
    preferred = torch.distributions.Bernoulli(logits=BETA * (ratio[:2] - ratio[2:]))  # Bradley and Terry
    expected = -preferred.log_prob(torch.ones(2, dtype=torch.float64)).mean()
    (gradient,) = torch.autograd.grad(expected, double)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.double(), gradient, atol=1e-6, rtol=0)


def _llama(seed: int) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    cfg = transformers.LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(cfg)


def test_trl_trainer(tmp_path: Any) -> None:
    """TRL ends every completion with the end token, which the released code takes off: compared with it on."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, 12)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)

    chosen, rejected = [[6, 7, 8], [9, 5]], [[7, 6], [8, 8, 9, 4]]
    rows = {
        "prompt": [text(p) + " " for p in PROMPTS],
        "chosen": [text(c) for c in chosen],
        "rejected": [text(r) for r in rejected],
    }
    policy, reference = _llama(0), _llama(1)
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            beta=BETA,
            max_length=None,
            per_device_train_batch_size=2,
            report_to=[],
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
        ),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(torch.utils.data.DataLoader(trainer.train_dataset, 2, collate_fn=trainer.data_collator)))
    loss_method = getattr(trainer, "_compute_loss", None)
    assert loss_method is not None, (
        f"DPOTrainer._compute_loss is private and moved: TRL is {version('trl')}, known is 1.16.0"
    )
    theirs = loss_method(policy, batch, False)
    ours_batch = Responses.of(PROMPTS * 2, [[*row, 2] for row in chosen + rejected])
    with torch.no_grad():
        of_reference = reference(ours_batch.tokens).logits
    ours = of_logits(policy(ours_batch.tokens).logits, of_reference, ours_batch)
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=0)
    parameters = list(policy.parameters())
    for found, expected in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

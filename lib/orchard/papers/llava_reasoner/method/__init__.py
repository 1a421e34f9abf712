"""LLaVA-Reasoner: what it computes, apart from trainings and runs.

    teach      L = -mean_t log p(y_t | x, V, y_<t)                      y = RATIONALE ### Answer: ANSWER, or ANSWER alone
    pair       {right chains} x {wrong chains}, at most 3               of questions with an accuracy in [0.25, 0.85]
    prefer     L = -log sigmoid(beta ([log p - log p_ref](y_w) - [log p - log p_ref](y_l)))     first 90 words, no end token
    verify     argmax_a sum_{i: a_i = a} exp((log p_dpo - log p_sft)(y_i) / tau)

Teach a model, pair its own chains, prefer the right ones, and vote:

    picture = Picture(36, 48)                                                       # 4-pixel patches, 3 x 3 of them: 12 vectors
    model = vision_language_model(picture, Size(48, 2, 4, 128), Size(64, 2, 4, 170), vocab_size=60, hidden_dim=96).build()
    sft_loss(model, Responses.of(prompts, chains), model.see(pictures)).backward()
    prefix = model.freeze().see(pictures)
    drawn = rollouts(model.decoder, prompts, 16, 40, Sampling(1.0), generator, prefix=prefix, stop_token=end)   # orchard.nn.rollouts
    pairs = pairs_from_outcomes(drawn.rows(), outcomes, random)                     # outcomes: True, False, or None without an answer
    batch = Responses.of(prompts_twice, [trained_part(y, end) for y in chosen + rejected])
    log_probs = response_log_probs(model, batch, prefix_twice)
    reference = pair_columns(log_probs.detach(), batch.counts[:, 1:])               # once, before the first step
    pair_loss(log_probs, batch.counts[:, 1:], reference, Objective(beta=0.1)).total.backward()
    answers[weighted_vote(answers, vote_weights(scores(dpo, sft, counts), tau=1.0))]

`prompts` says where the answer stands, `credit` which token is to blame, `naive` is the specification as loops.
Source: Zhang et al. 2025, arXiv 2410.16198.
"""

from orchard.nn.sequence import dpo_loss
from orchard.papers.llava_reasoner.method.credit import token_rewards
from orchard.papers.llava_reasoner.method.dpo import Objective, Truncation, pair_columns, pair_loss, trained_part
from orchard.papers.llava_reasoner.method.models import Picture, Size, vision_language_model
from orchard.papers.llava_reasoner.method.pairs import Rule, pairs_from_outcomes
from orchard.papers.llava_reasoner.method.verifier import best_of, scores, vote_weights, weighted_vote
from orchard.papers.llava_reasoner.method.vlm import Responses, VisionLanguageModel, response_log_probs, sft_loss

__all__ = [
    "Objective", "Picture", "Responses", "Rule", "Size", "Truncation", "VisionLanguageModel", "best_of", "dpo_loss", "pair_columns",
    "pair_loss", "pairs_from_outcomes", "response_log_probs", "scores", "sft_loss", "token_rewards", "trained_part",
    "vision_language_model", "vote_weights", "weighted_vote",
]  # fmt: skip

"""Instruction-following pruning: a predictor reads the instruction and chooses, per feed-forward layer, k of D channels.

    h = act(W_gate x) * (W_up x)                       y = W_down (h * g_l)                    masked feed-forward
    z = W_2 act(W_1 f),  f = backbone(prompt)[last]    z in R^{L x D}                          predictor
    lambda_l = argmax_{0 <= lambda <= 1, sum lambda = k}  z_l . lambda + epsilon H(lambda)     SoftTopK
    g_l = lambda_l * Top(lambda_l, k)                                                          gates

Swap the feed-forward layers of any decoder of the library, choose, and gather the small decoder:

    cfg = masked(decoder_config, keep=32)
    decoder = cfg.build().eval()
    gates = Gates.Config(width=128, keep=32).build().eval()(torch.randn(2, 128))      # two layers
    with gated(decoder, gates[None, None]):
        logits = decoder(tokens)                                                      # equal to those of the small one:
    small = gathered(cfg, decoder, gates)                                             # a plain decoder of width 32

Source: Hou et al. 2025, arXiv 2501.02086.
"""

from orchard.papers.ifpruning.method.batching import union
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.masks import Gates, MaskedFeedForward, Predictor, Selector, gated, masked
from orchard.papers.ifpruning.method.overlap import gauge, overlaps
from orchard.papers.ifpruning.method.pruning import gathered
from orchard.papers.ifpruning.method.serving import Server
from orchard.papers.ifpruning.method.softtopk import hard_top_k, soft_top_k

__all__ = [
    "Examples", "Gates", "MaskedFeedForward", "Predictor", "Selector", "Server", "gated", "gathered", "gauge", "hard_top_k", "masked",
    "overlaps", "soft_top_k", "union",
]  # fmt: skip

"""Dropping experts of a mixture, and the criteria that say which: what a training or a measurement of one's own needs.

    masked      router logits of dropped experts = -inf, before the softmax
    dropped     router rows and expert tensors sliced to those that stay: the same function, smaller
    EAN_p = sum_j |A_p[:, j]|_2        A_p [t, d]: the rows that expert p puts out for its t tokens, before the router's weight
    one-shot, iterative, lottery       score and drop at once; score anew before every round; and fine-tune after it

>>> import torch
>>> from orchard.papers.moe_lottery.method import Shape, chosen, collect, decoder, drop_experts
>>> model = decoder(Shape(num_experts=8, top_k=2, hidden_dim=16), dim=16, num_layers=2, num_heads=2, num_kv_heads=2).build()
>>> text = torch.arange(256).view(2, 128)
>>> scores = collect(model, [text], vocab_size=257)
>>> kept = drop_experts(model, {layer: chosen(found, "ean", 4, "min") for layer, found in enumerate(scores)})
>>> [len(experts) for experts in kept.values()]
[4, 4]
"""

from orchard.papers.moe_lottery.method.collect import collect
from orchard.papers.moe_lottery.method.criteria import CRITERIA, chosen, score_table
from orchard.papers.moe_lottery.method.dropping import (
    drop_experts,
    global_ranking,
    logits_of,
    masked,
    mixture_layers,
    pruned_config,
)
from orchard.papers.moe_lottery.method.models import Shape, decoder
from orchard.papers.moe_lottery.method.oracle import leave_one_out
from orchard.papers.moe_lottery.method.sparsity import masks, sparsify

__all__ = [
    "CRITERIA", "Shape", "chosen", "collect", "decoder", "drop_experts", "global_ranking", "leave_one_out", "logits_of", "masked",
    "masks", "mixture_layers", "pruned_config", "score_table", "sparsify",
]  # fmt: skip

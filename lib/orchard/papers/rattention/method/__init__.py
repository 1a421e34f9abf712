"""RAttention: a sliding window, and linear attention over every token that has left it.

    o_swa[t] = softmax over t-w ... t of (q'_t . k'_s / sqrt(d)) v_s      q', k': rotated, normalised
    S_t      = S_{t-1} + phi(k_t)^T v_t                                   phi(x) = [softmax(x), softmax(-x)], raw q and k
    o_rla[t] = phi(q_t) S_{t-w-1}
    y        = Wo (RMS_swa(o_swa) + RMS_rla(o_rla))

The layer is a config like any other of ``orchard.nn`` and stands wherever an ``Attention`` stands:

    from orchard.config import replace
    from orchard.nn import Attention
    from orchard.papers.rattention.method import RAttention, arm

    model = arm("swa@16", dim=64, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=16, ffn_dim=176, vocab_size=257)
    replace(model, Attention, RAttention.Config(window=15), where="layers.[012].attention")
    decoder = model.build()                     # the same decoder as arm("rattn@16", ...)

``attention.py`` is the layer with its cache, ``models.py`` the arms that are compared, ``costs.py`` bytes and step time, ``variants.py``
and ``recurrences.py`` what the ablation changes. The definition and the kernels are in ``orchard.kernels.residual``.
"""

from orchard.kernels.residual import feature_map, residual_linear_attention
from orchard.papers.rattention.method.attention import (
    RAttention,
    ResidualCache,
    local_global,
    residual_linear_attention_step,
)
from orchard.papers.rattention.method.costs import SHAPES, kv_budget, step_time_cut
from orchard.papers.rattention.method.models import arm, paper_model
from orchard.papers.rattention.method.variants import Variant

__all__ = [
    "SHAPES",
    "RAttention",
    "ResidualCache",
    "Variant",
    "arm",
    "feature_map",
    "kv_budget",
    "local_global",
    "paper_model",
    "residual_linear_attention",
    "residual_linear_attention_step",
    "step_time_cut",
]

"""Residual linear attention (RAttention, arXiv 2506.15545): `naive` is the definition, `op` the call, which takes the
Triton kernels (`fused`) on a GPU and the plain-PyTorch form (`chunked`) elsewhere."""

from orchard.kernels.residual.chunked import default_chunk, read_state
from orchard.kernels.residual.naive import FEATURE_MAPS, accumulator, check, feature_dim, feature_map, no_autocast
from orchard.kernels.residual.op import residual_linear_attention

__all__ = [
    "FEATURE_MAPS",
    "accumulator",
    "check",
    "default_chunk",
    "feature_dim",
    "feature_map",
    "no_autocast",
    "read_state",
    "residual_linear_attention",
]

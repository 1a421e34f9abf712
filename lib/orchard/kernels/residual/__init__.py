"""Residual linear attention (RAttention, arXiv 2506.15545): `naive` is the definition, `chunked` what trains."""

from orchard.kernels.residual.chunked import default_chunk, read_state, residual_linear_attention
from orchard.kernels.residual.naive import FEATURE_MAPS, accumulator, check, feature_dim, feature_map, no_autocast

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

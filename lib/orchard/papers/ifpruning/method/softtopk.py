"""SoftTopK: weights in [0, 1] that sum to k and sharpen to the k largest entries, exact, with its gradient.

    lambda = argmax_{lambda in [0,1]^D, sum lambda = k}  z . lambda + epsilon H(lambda)          H = - sum lambda log lambda
    lambda_i = min(1, exp((z_i + a) / epsilon)),     a = epsilon [log(k - u) - logsumexp_{i > u}(z_i / epsilon)]

with z sorted, largest first, and u, the number of entries that are saturated (lambda = 1), the smallest for which the next entry is
not: z_(u+1) + a <= 0. One sort, no iterations. Computed from what lies between an entry and the k-th,

    e_i = exp((z_i - z_(k)) / epsilon),     lambda_i = min(1, e_i (k - u) / sum_{i > u} e_i)

which keeps its digits whatever the size of z / epsilon: where e_i > D - k + 1 the entry is saturated, so e is cut off above that and
never overflows, and sums begin at e_(k) = 1. On the unsaturated set U (rows and columns sum to 0):

    d lambda_i / d z_j = (lambda_i delta_ij - lambda_i lambda_j / sum_U lambda) / epsilon

`entropy="bernoulli"` is the operator that two public ports call SoftTopK: binary entropy, lambda = sigmoid((z + a) / epsilon).
`soft_top_k_iterative` is the form of the literature, coordinate descent: it needs hundreds of iterations where epsilon is small.

Sources: IFPruning (arXiv 2501.02086), equation 3; Lei et al. 2023, arXiv 2304.04947 (CoDA); Ainslie et al. 2023, arXiv 2303.09752 (CoLT5).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

ENTROPIES = ("shannon", "bernoulli")


def soft_top_k(
    z: Float[Tensor, "*batch width"], k: int, epsilon: float, entropy: str = "shannon"
) -> Float[Tensor, "*batch width"]:
    """The weights of every row of ``z``: float32, also under autocast and from half precision (float64 stays float64).

    An entry of -inf has weight 0. Raises ValueError for k outside 1 ... width, epsilon <= 0 or an unknown entropy, and on the CPU for a
    row with NaN, +inf or fewer than k entries above -inf. A GPU is not waited for: there NaN gives NaN.
    """
    check(z.shape[-1], k, epsilon)
    if entropy not in ENTROPIES:
        raise ValueError(f"entropy {entropy!r}: choose one of {', '.join(ENTROPIES)}")
    with torch.autocast(z.device.type, enabled=False):
        found: Tensor = _SoftTopK.apply(_wide(z), k, epsilon, entropy)
        return found


def check(width: int, k: int, epsilon: float = 1.0) -> None:
    """Raises ValueError for a k or an epsilon with which there are no weights."""
    if not 1 <= k <= width:
        raise ValueError(f"k = {k} of {width} channels: keep between 1 and all of them")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon = {epsilon}: it must be > 0 and finite; small values are near to hard top-k")


@torch.no_grad()
def hard_top_k(z: Float[Tensor, "*batch width"], k: int) -> Bool[Tensor, "*batch width"]:
    """True for the k largest entries of every row; of equal ones the first. Exactly k, on every device.

    Raises ValueError as :func:`soft_top_k` does; on a GPU an entry of NaN is never chosen.
    """
    width = z.shape[-1]
    check(width, k)
    z = _wide(z)
    least = _ascending(z, k)[..., width - k, None]
    above, equal = z > least, z == least
    missing = k - above.sum(dim=-1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=-1, dtype=torch.int32) <= missing))


def _wide(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _ascending(z: Tensor, k: int) -> Tensor:
    """The rows of ``z`` sorted, smallest first, and refused if they have no weights."""
    if z.device.type != "cpu" or torch.compiler.is_compiling():
        return z.sort(dim=-1).values
    ordered = torch.from_numpy(np.sort(z.detach().numpy(), axis=-1))  # values alone, vectorised: many times faster
    good = (ordered[..., -1] < math.inf) & (ordered[..., -k] > -math.inf)  # NaN is last, and less than nothing
    if not good.all():
        row = (~good).flatten().nonzero()[0].item()
        raise ValueError(
            f"row {row} of the logits has NaN, +inf or fewer than k = {k} entries above -inf: no weights follow from it; "
            "look for overflow, or a learning rate too high, in what gives these logits"
        )
    return ordered


def _distances(z: Tensor, ordered: Tensor, k: int, epsilon: float) -> Tensor:
    """(z - z_(k)) / epsilon."""
    return (z - ordered[..., z.shape[-1] - k, None]).div_(epsilon)


class _SoftTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, k: int, epsilon: float, entropy: str) -> Tensor:
        weights = (_shannon if entropy == "shannon" else _bernoulli)(z, k, epsilon)
        ctx.save_for_backward(weights)
        ctx.epsilon, ctx.entropy = epsilon, entropy
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """What one weight gains the others lose, each by its slope."""
        (weights,) = ctx.saved_tensors
        slope = torch.where(weights < 1, weights, 0.0) if ctx.entropy == "shannon" else weights * (1 - weights)
        total = slope.sum(-1, keepdim=True).clamp_min(torch.finfo(grad.dtype).tiny)
        pulled = slope * (grad - (slope * grad).sum(-1, keepdim=True) / total) / ctx.epsilon
        return pulled, None, None, None


def _shannon(z: Tensor, k: int, epsilon: float) -> Tensor:
    width = z.shape[-1]
    most = math.log(width - k + 1) + 1  # above this saturated for certain
    ordered = _ascending(z, k)
    sums = _distances(ordered, ordered, k, epsilon).clamp_(max=most).exp_()
    e = sums[..., width - k :].flip(-1)  # [u] = the largest that is not saturated if u are
    rest = sums.cumsum_(dim=-1)[..., width - k :].flip(-1)  # [u] = sum of all that are not
    left = torch.arange(k, 0, -1, device=z.device, dtype=z.dtype)  # [u] = k - u
    u = (e * left <= rest).int().argmax(dim=-1, keepdim=True)  # true at k - 1 at the latest, where e = 1
    scale = (k - u) / rest.gather(-1, u)
    return _distances(z, ordered, k, epsilon).clamp_(max=most).exp_().mul_(scale).clamp_(max=1)


def _bernoulli(z: Tensor, k: int, epsilon: float) -> Tensor:
    width = z.shape[-1]
    scaled = _distances(z, _ascending(z, k), k, epsilon)
    if k == width:
        return torch.ones_like(z)
    odds = math.log(k / (width - k))  # the sum grows with the shift: between these two it crosses k
    low, high = odds - scaled.amax(-1, keepdim=True), odds - scaled.amin(-1, keepdim=True)
    for _ in range(80 if z.dtype == torch.float64 else 40):
        middle = (low + high) / 2
        over = torch.sigmoid(scaled + middle).sum(-1, keepdim=True) > k
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return torch.sigmoid(scaled + (low + high) / 2)


def soft_top_k_iterative(
    z: Float[Tensor, "*batch width"], k: int, epsilon: float, iterations: int = 20, start: float = 4.0
) -> Float[Tensor, "*batch width"]:
    """The naive twin: coordinate descent from b = -z, with epsilon lowered from ``start`` by 0.7 per step to its value.

        a <- epsilon [log k - logsumexp((z + b) / epsilon)],    b <- -max(z + a, 0),    lambda = exp((z + a + b) / epsilon)

    ``start <= epsilon`` lowers nothing. Differentiated by autograd, through every iteration. The sum is k in the limit only.
    """
    check(z.shape[-1], k, epsilon)
    current = max(start, epsilon)
    a, b = z.new_zeros(()), -z
    for _ in range(iterations):
        a = current * (math.log(k) - ((z + b) / current).logsumexp(dim=-1, keepdim=True))
        b = -(z + a).relu()
        current = max(current * 0.7, epsilon)
    return ((z + a + b) / epsilon).exp()

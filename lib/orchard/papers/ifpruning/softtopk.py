"""SoftTopK: weights in [0, 1] that sum to k and sharpen to the k largest entries, exact, with its gradient.

    lambda = argmax_{lambda in [0,1]^D, sum lambda = k}  z . lambda + epsilon H(lambda)          H = - sum lambda log lambda
    lambda_i = min(1, exp((z_i + a) / epsilon)),     a = epsilon [log(k - u) - logsumexp_{i > u}(z_i / epsilon)]

with z sorted, largest first, and u, the number of entries that are saturated (lambda = 1), the smallest for which the next entry is
not: z_(u+1) + a <= 0. One sort, no iterations. On the unsaturated set U (rows and columns sum to 0):

    d lambda_i / d z_j = (lambda_i delta_ij - lambda_i lambda_j / sum_U lambda) / epsilon

`entropy="bernoulli"` is the operator that two public ports call SoftTopK: binary entropy, lambda = sigmoid((z + a) / epsilon).
`soft_top_k_iterative` is the form of the literature, coordinate descent: it needs hundreds of iterations where epsilon is small.

Sources: IFPruning (arXiv 2501.02086), equation 3; Lei et al. 2023, arXiv 2304.04947 (CoDA); Ainslie et al. 2023, arXiv 2303.09752 (CoLT5).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ENTROPIES = ("shannon", "bernoulli")


def soft_top_k(
    z: Float[Tensor, "*batch width"], k: int, epsilon: float, entropy: str = "shannon"
) -> Float[Tensor, "*batch width"]:
    """The weights of every row of ``z``: float32, also under autocast (float64 stays float64).

    Raises ValueError for k outside 1 ... width, epsilon <= 0 or an unknown entropy.
    """
    check(z.shape[-1], k, epsilon)
    if entropy not in ENTROPIES:
        raise ValueError(f"entropy {entropy!r}: choose one of {', '.join(ENTROPIES)}")
    with torch.autocast(z.device.type, enabled=False):
        wide = z if z.dtype == torch.float64 else z.float()
        return (_Shannon if entropy == "shannon" else _Bernoulli).apply(wide, k, epsilon)


def check(width: int, k: int, epsilon: float = 1.0) -> None:
    """Raises ValueError for a k or an epsilon with which there are no weights."""
    if not 1 <= k <= width:
        raise ValueError(f"k = {k} of {width} channels: keep between 1 and all of them")
    if not epsilon > 0:
        raise ValueError(f"epsilon = {epsilon}: it must be > 0; small values are near to hard top-k")


def hard_top_k(z: Float[Tensor, "*batch width"], k: int) -> Bool[Tensor, "*batch width"]:
    """True for the k largest entries of every row; of equal ones the first. Exactly k, on every device."""
    check(z.shape[-1], k)
    order = z.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(z, dtype=torch.bool).scatter_(-1, order, True)


class _Shannon(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, k: int, epsilon: float) -> Tensor:
        scaled = z / epsilon
        ordered = scaled.sort(dim=-1, descending=True).values
        rest = ordered.flip(-1).logcumsumexp(dim=-1).flip(-1)[..., :k]  # [u] = logsumexp of what is unsaturated
        counts = torch.arange(k, 0, -1, device=z.device, dtype=z.dtype).log()  # [u] = log(k - u)
        shifts = counts - rest
        fits = ordered[..., :k] + shifts <= 0
        fits[..., -1] = True  # true by mathematics: one entry of mass 1; rounding may say otherwise
        u = fits.int().argmax(dim=-1, keepdim=True)
        weights = (scaled + shifts.gather(-1, u)).clamp_(max=0).exp_()
        ctx.save_for_backward(weights)
        ctx.epsilon = epsilon
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        free = torch.where(weights < 1, weights, 0.0)
        mean = (free * grad).sum(-1, keepdim=True) / free.sum(-1, keepdim=True).clamp_min(torch.finfo(grad.dtype).tiny)
        return free * (grad - mean) / ctx.epsilon, None, None


class _Bernoulli(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, k: int, epsilon: float) -> Tensor:
        scaled = z / epsilon
        if k == z.shape[-1]:
            weights = torch.ones_like(z)
        else:  # the sum grows with the shift: between these two it crosses k
            odds = torch.logit(torch.tensor(k / z.shape[-1], dtype=z.dtype)).item()
            low, high = odds - scaled.amax(-1, keepdim=True), odds - scaled.amin(-1, keepdim=True)
            for _ in range(80 if z.dtype == torch.float64 else 40):
                middle = (low + high) / 2
                over = torch.sigmoid(scaled + middle).sum(-1, keepdim=True) > k
                low, high = torch.where(over, low, middle), torch.where(over, middle, high)
            weights = torch.sigmoid(scaled + (low + high) / 2)
        ctx.save_for_backward(weights)
        ctx.epsilon = epsilon
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        slope = weights * (1 - weights)
        mean = (slope * grad).sum(-1, keepdim=True) / slope.sum(-1, keepdim=True).clamp_min(
            torch.finfo(grad.dtype).tiny
        )
        return slope * (grad - mean) / ctx.epsilon, None, None


def soft_top_k_iterative(
    z: Float[Tensor, "*batch width"],
    k: int,
    epsilon: float,
    iterations: int = 20,
    start: float = 4.0,
    decay: float = 0.7,
) -> Float[Tensor, "*batch width"]:
    """The naive twin: coordinate descent from b = -z, with epsilon lowered from ``start`` by ``decay`` per step to its value.

        a <- epsilon [log k - logsumexp((z + b) / epsilon)],    b <- -max(z + a, 0),    lambda = exp((z + a + b) / epsilon)

    ``start <= epsilon`` lowers nothing. Differentiated by autograd, through every iteration. The sum is k in the limit only.
    """
    check(z.shape[-1], k, epsilon)
    current = max(start, epsilon)
    a, b = z.new_zeros(()), -z
    log_k = z.new_tensor(float(k)).log()
    for _ in range(iterations):
        a = current * (log_k - ((z + b) / current).logsumexp(dim=-1, keepdim=True))
        b = -(z + a).relu()
        current = max(current * decay, epsilon)
    return ((z + a + b) / epsilon).exp()

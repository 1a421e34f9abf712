"""How each family of arms looks in every figure of this paper; the paper's own figures call RAttention ``RAtt``."""

from orchard.plot.style import PALETTE, Look

LOOKS: dict[str, Look] = {
    "full": Look(PALETTE[2], "D"),
    "full_rope": Look(PALETTE[2], "D"),
    "full_rnope": Look(PALETTE[9], "X"),
    "swa": Look(PALETTE[1], "s"),
    "swa_mem": Look(PALETTE[3], "v"),
    "swa_flops": Look(PALETTE[5], "P"),
    "ratt": Look(PALETTE[0], "o"),
    "rattn": Look(PALETTE[0], "o"),
    "la": Look(PALETTE[4], "^"),
}

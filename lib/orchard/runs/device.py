"""Which device "auto" means."""

from __future__ import annotations

from orchard.errors import BadInput

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str = "auto") -> str:
    """The device to compute on: "cuda" or "mps" when there is one, else "cpu".

    Raises:
        BadInput: an unknown name, or a device that this machine (or this build of PyTorch) does not have.
    """
    import torch

    if device not in DEVICES:
        raise BadInput(f"DEVICE {device!r} does not exist; choose one of {', '.join(DEVICES)}")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[device]:
        raise BadInput(
            f"DEVICE {device!r}: PyTorch {torch.__version__} finds no such device here; use DEVICE auto or cpu"
        )
    return device

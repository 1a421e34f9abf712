"""Which device "auto" means, and what it is called."""

from __future__ import annotations

import platform

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


def device_name(device: str) -> str:
    """What the maker calls a device of this machine."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return "Apple GPU" if device == "mps" else cpu_name()


def cpu_name() -> str:
    """The processor's model, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"

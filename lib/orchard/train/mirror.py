"""A mirror of the metrics on Weights & Biases, switched on by ``$ORCHARD_WANDB``, the name of a project.

``metrics.jsonl`` is the record. Each training is a run of its own there, with its config, and an attempt that goes on continues it. A
mirror that fails says so once and never ends a training: the rest of the process writes offline (``wandb sync`` sends that later).
"""

from __future__ import annotations

import os
import secrets
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from orchard.errors import OrchardError

CONNECT_SECONDS = 20.0  # to wait for the server; its own default is 90, in every run of a sweep
SEND_SECONDS = 60.0  # to wait at the end until everything is sent

_offline = False  # in this process, since the server could not be reached


def mirrors(label: str, config: Mapping[str, Any], folder: Path) -> list[Logger]:
    """The mirror of a training if ``$ORCHARD_WANDB`` names a project; otherwise nothing.

    Args:
        label: the name that people see.
        config: plain values, shown with the run.
        folder: keeps the id of the mirrored run, so that an attempt that goes on continues it.

    Raises:
        OrchardError: `wandb` is not installed.
    """
    project = os.environ.get("ORCHARD_WANDB")
    if not project:
        return []
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError:
        raise OrchardError("ORCHARD_WANDB is set but wandb is not installed: pip install wandb, or unset it") from None
    kept = folder / "wandb_id"
    if not kept.exists():
        kept.write_text(secrets.token_hex(8), encoding="utf-8")
    return [WandbMirror(project, label, config, kept.read_text("utf-8"))]


class WandbMirror(Logger):
    """Copies rows to one run of Weights & Biases. It connects when the first row comes."""

    def __init__(self, project: str, label: str, config: Mapping[str, Any], run_id: str) -> None:
        super().__init__()
        self.project, self.label, self.config, self.run_id = project, label, dict(config), run_id
        self._run: Any = None
        self._broken = False

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return self.project

    @property
    def version(self) -> str:
        """Version for Lightning."""
        return self.run_id

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the config is sent when the run begins."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Copy one row."""
        self._attempted(lambda: self._connected().log(dict(metrics), step=step))

    def finalize(self, status: str) -> None:
        """End the mirrored run."""
        run, self._run = self._run, None
        if run is not None:
            self._attempted(lambda: run.finish(exit_code=0 if status == "success" else 1))

    def _connected(self) -> Any:
        if self._run is None:
            self._run = self._begin()
        return self._run

    def _begin(self) -> Any:
        global _offline
        if not _offline:
            try:
                return self._init(id=self.run_id, resume="allow")
            except Exception as error:
                _offline = True
                _say(
                    f"Weights & Biases cannot be reached ({_first_line(error)}): what follows in this process is written offline, "
                    "into wandb/ of the working directory; `wandb sync` sends it"
                )
        return self._init(mode="offline")  # with an id of its own: that of a run which did not begin is taken

    def _init(self, **how: Any) -> Any:
        import wandb

        settings = wandb.Settings(init_timeout=CONNECT_SECONDS, finish_timeout=SEND_SECONDS, silent=True)
        return wandb.init(
            project=self.project, name=self.label or None, config=self.config, reinit="create_new", settings=settings, **how
        )  # fmt: skip

    def _attempted(self, action: Callable[[], Any]) -> None:
        """Whatever goes wrong with a mirror: say so once, and leave this one alone from then on."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            _say(f"Weights & Biases does not get run {self.run_id}: {_first_line(error)}")


def _say(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)  # the warnings of a training are off


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

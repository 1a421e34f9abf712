"""Runs whose result is about this machine: how long something takes beside its peers, or what it holds in memory.

    class Speed(Measurement):
        class Config(Measurement.Config):
            rounds: int = 10

        def compute(self, work):
            device = self.begin(work)
            return {"rows": timed({"ours": ours, "theirs": theirs}, self.cfg.rounds, device, length=512)}

    table = with_machine(run([Speed.Config(gpu=True, label="speed")])[0])
    ratios(table, "theirs", by=["length"]).groupby("length").median()

Peers take turns, round by round (`orchard.timing`). Their ratio is taken within a round, so that a slow moment of the machine hits both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchard.errors import BadInput
from orchard.runs.device import device_name, resolve_device
from orchard.runs.finished import Finished
from orchard.runs.run import Run, Workspace
from orchard.timing import Step, interleaved


class Measurement(Run):
    """A run whose numbers belong to the machine it was made on, whose name stands in its provenance."""

    class Config(Run.Config):
        gpu: bool = False  # sizes that only a GPU can measure: refuses to run elsewhere
        seed: int = 0

    cfg: Any

    def begin(self, work: Workspace, device: str | None = None) -> str:
        """The device to measure on, "cuda" or "cpu"; PyTorch is seeded, and the machine noted.

        Args:
            device: instead of the caller's. Apple's GPU is not measured, because nothing here waits for it: the CPU stands in.

        Raises:
            BadInput: a GPU is needed and there is none, or there is no such device.
        """
        found = resolve_device(device or work.device)
        found = "cpu" if found == "mps" else found
        if self.cfg.gpu and found != "cuda":
            raise BadInput(
                f"{self.cfg.label or type(self).__name__} has sizes for a GPU and would run on {found}: use a smaller profile, "
                "or compute it on a GPU and bring it here with `orchard runs export` and `orchard runs import`"
            )
        import torch

        work.begin({"device": found, "name": device_name(found), "torch": torch.__version__})
        torch.manual_seed(self.cfg.seed)
        return found


def timed(peers: Mapping[str, Step], rounds: int, device: str, warmup: int = 1, **about: Any) -> list[dict[str, Any]]:
    """Rows ``name``, ``round``, ``seconds`` (per call) of peers that took turns, each with the columns ``about``."""
    return [
        {**about, "name": name, "round": turn, "seconds": seconds}
        for name, times in interleaved(peers, rounds, device, warmup).items()
        for turn, seconds in enumerate(times)
    ]


def with_machine(
    done: Finished, rows: Sequence[Mapping[str, Any]] | None = None, columns: Sequence[str] = ("device", "hardware")
) -> pd.DataFrame:
    """The rows of a finished measurement with the machine they were made on; times of two machines are not compared.

    Args:
        rows: instead of ``result["rows"]``.
        columns: what to add: ``device`` (cpu, cuda), ``hardware`` (its name), ``precision``, ``torch`` (the version).
    """
    provenance = done.provenance
    machine = provenance["hardware"]
    facts = {"torch": provenance["packages"]["torch"], **machine, "hardware": machine["name"]}
    return pd.DataFrame(done.result["rows"] if rows is None else rows).assign(
        **{name: facts.get(name) for name in columns}
    )


def medians(table: pd.DataFrame, by: Sequence[str], value: str = "seconds") -> pd.DataFrame:
    """The median of ``value`` over the rounds: columns ``by`` and ``value``; rows without a value are left out."""
    return table.dropna(subset=[value]).groupby(list(by), sort=False)[value].median().reset_index()


def by_round(
    table: pd.DataFrame,
    names: str | list[str] = "name",
    by: Sequence[str] = (),
    value: str = "seconds",
    turn: str = "round",
) -> pd.DataFrame:
    """One row per round (index: ``by`` and the round), one column per peer: what was measured in the same moment stands in a row.

    Rows without a value are left out. Raises ValueError where a peer has two values in a round: name what tells them apart in ``by``.
    """
    columns = [names] if isinstance(names, str) else names
    measured = table.dropna(subset=[value]).set_index([*by, turn, *columns])[value]
    if measured.index.has_duplicates:
        twice = dict(zip(measured.index.names, measured.index[measured.index.duplicated()][0], strict=True))
        raise ValueError(f"two values for {twice}: name what tells them apart in by=[...]")
    return measured.unstack(columns, sort=False)


def ratios(
    table: pd.DataFrame,
    base: str,
    name: str = "name",
    by: Sequence[str] = (),
    value: str = "seconds",
    turn: str = "round",
) -> pd.DataFrame:
    """Every peer over ``base`` within each round, as :func:`by_round`; no rows and columns where ``base`` was not measured.

    The median over rounds is ``ratios(...).groupby(by).median()``, or ``.median()`` where there is no ``by``.
    """
    wide = by_round(table, name, by, value, turn)
    if base not in wide:
        return wide.iloc[:0, :0]
    return wide.drop(columns=base).div(wide[base], axis=0)

"""MC-Suite on the models of the series: statistics, scores, leave-one-out, curves over s."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.runs import Runner, Setting

Tables = Callable[[str], pd.DataFrame]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {}
EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {}

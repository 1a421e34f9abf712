"""What dropping hurts and what restores it: knowledge, reasoning, instructions; examples and fine-tuning (6.4)."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.runs import Runner, Setting

Tables = Callable[[str], pd.DataFrame]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {}
EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {}

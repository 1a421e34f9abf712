"""What a run is, the store that keeps finished runs, and the engines that compute missing ones."""

from orchard.runs.engine import execute
from orchard.runs.finished import DamagedRun, Finished, RunError
from orchard.runs.identity import dependencies, identity, is_current, recipe
from orchard.runs.run import Run, Runner, Setting, Workspace
from orchard.runs.store import OtherDevice, Store
from orchard.runs.tabulated import tabulated, tabulation

__all__ = [
    "DamagedRun",
    "Finished",
    "OtherDevice",
    "Run",
    "RunError",
    "Runner",
    "Setting",
    "Store",
    "Workspace",
    "dependencies",
    "execute",
    "identity",
    "is_current",
    "recipe",
    "tabulated",
    "tabulation",
]

"""Headless notebooks: execute one with strict parameters under a time limit, reproduce whole series, check hygiene.

A notebook runs through papermill in a kernel of this very Python, whatever kernels are registered on the machine. The
kernel talks over IPC sockets in a private folder, so kernels that start together cannot race for TCP ports (ipykernel
itself keeps one loopback socket for the output of forked children). It reads no IPython profile of the user. At the
time limit or on Ctrl-C it is killed with every process it started. The executed copy appears complete, by one rename,
also when the notebook failed, so that the reader sees the traceback.

``python -m orchard.notebooks check FOLDER`` prints what keeps notebooks from being committed (see ``check_hygiene``).
"""

from orchard.notebooks.execution import execute
from orchard.notebooks.hygiene import check_hygiene
from orchard.notebooks.parameters import PARAMETERS, check_parameters, declared_parameters, read_notebook
from orchard.notebooks.progress import Execution
from orchard.notebooks.suite import check_request, notebooks_of, reproduce

__all__ = [
    "PARAMETERS",
    "Execution",
    "check_hygiene",
    "check_parameters",
    "check_request",
    "declared_parameters",
    "execute",
    "notebooks_of",
    "read_notebook",
    "reproduce",
]

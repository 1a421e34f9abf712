"""Kernels forked from one process that has imported what every notebook imports: none of them pays for it again.

The process is multiprocessing's fork server. A kernel that it forks is the kernel that ``python -m ipykernel_launcher`` starts:
same interpreter, working directory, environment, a session of its own, its output in the log; it ends with the fork server,
which ends with this process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from multiprocessing.forkserver import ensure_running
from multiprocessing.resource_tracker import _resource_tracker
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "orchard-warm"
PRELOAD = [
    "torch", "pandas", "scipy.stats", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "ipywidgets",
    "ipykernel.kernelapp", "ipykernel.ipkernel", "orchard.series", "orchard.train.loop",
]  # fmt: skip


def start(further: Sequence[str] = ()) -> None:
    """Start the fork server, if none runs yet; it imports ``PRELOAD`` and ``further`` modules while this process goes on."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, *further])
    ensure_running()


def register() -> dict[str, Any]:
    """Make the provisioner known to Jupyter in this process; returns the metadata of a kernel specification that names it."""
    entry = EntryPoint(NAME, f"{__name__}:WarmProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.instance().provisioners[NAME] = entry
    return {"kernel_provisioner": {"provisioner_name": NAME}}


class WarmProvisioner(LocalProvisioner):
    """Launches kernels by a fork."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork a kernel; ``cmd`` holds ``-f``, the connection file and further arguments of the kernel."""
        arguments = (cmd[cmd.index("-f") :], kwargs["cwd"], dict(kwargs["env"]), kwargs["stdout"].name)
        process = multiprocessing.get_context("forkserver").Process(target=serve, args=arguments)
        process.start()
        self.process = Popen(process)  # type: ignore[assignment]
        self.pid = self.pgid = process.pid
        self.cwd = kwargs["cwd"]
        return self.connection_info


class Popen:
    """A process of multiprocessing with the methods of ``subprocess.Popen`` that Jupyter calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid is not None
        self.process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve(arguments: list[str], folder: str, environment: dict[str, str], log: str) -> None:
    """Be a kernel, in a process that was forked for it."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    _resource_tracker._fd = None  # type: ignore[attr-defined]  # one of its own, should it need one, with its words in the log
    import torch
    from ipykernel import kernelapp

    if threads := environment.get("OMP_NUM_THREADS"):  # torch read it long ago, in the process that was forked
        torch.set_num_threads(int(threads))
    try:
        kernelapp.launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
    finally:  # as an interpreter ends, in this order: pools let their workers go, then what was registered for the exit
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()

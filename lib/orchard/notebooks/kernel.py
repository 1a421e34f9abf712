"""A kernel of this Python over IPC sockets, watched and killed with everything it started."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any


class Kernel:
    """A kernel of this Python over IPC sockets, and the processes it starts. A warm one is forked, see ``notebooks.warm``."""

    def __init__(self, folder: Path, warm: bool = False) -> None:
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3", language="python", env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        )  # fmt: skip
        if warm:
            from orchard.notebooks.warm import register

            spec.metadata = register()

        class Manager(AsyncKernelManager):
            kernel_spec = spec  # never looked up: the machine may have no kernel "python3", or that of another Python
            ipykernel = True

        self.manager = Manager(transport="ipc", connection_file=str(folder / "k.json"), ip=str(folder / "k"))
        self.log = folder / "kernel.log"  # what the process itself writes; output of cells goes to the notebook
        self.peak_memory = 0
        self._seen: set[Any] = set()

    def last_words(self) -> str:
        """The last lines the kernel's process wrote, as one; empty if it wrote none."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(line.strip() for line in lines[-3:] if line.strip() and "[IPKernelApp]" not in line)

    def sample(self) -> None:
        """Look at the kernel's process tree: note its members, and its memory if that is the most so far."""
        import psutil

        process = getattr(self.manager.provisioner, "process", None)
        if process is None or process.poll() is not None:
            return
        with suppress(psutil.Error):
            kernel = psutil.Process(process.pid)
            tree = [kernel, *kernel.children(recursive=True)]
            self._seen.update(tree)
            total = 0
            for member in tree:
                with suppress(psutil.Error):
                    total += member.memory_info().rss
            self.peak_memory = max(self.peak_memory, total)

    def kill(self) -> None:
        """End the kernel and every process it started, at once."""
        self.sample()
        process = getattr(self.manager.provisioner, "process", None)
        if process is not None and process.poll() is None and hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # jupyter_client starts a kernel in a session of its own
        self.kill_leftovers()

    def kill_leftovers(self) -> None:
        """End the processes the kernel left behind."""
        import psutil

        for member in self._seen:
            with suppress(psutil.Error):
                member.kill()  # psutil makes sure that the id was not given to another process since


def private_folder() -> Path:
    """A new folder only this user can read, with a path short enough for a socket's name (107 characters).

    Its name holds the id of this process; folders of processes that were killed before they could tidy up are removed.
    """
    base = Path(tempfile.gettempdir())
    base = base if len(str(base)) <= 60 else Path("/tmp")
    for left in base.glob("orchard-*-*"):
        owner = left.name.split("-")[1]
        with suppress(OSError):
            if owner.isdecimal() and not _alive(int(owner)) and left.stat().st_uid == os.getuid():
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"orchard-{os.getpid()}-", dir=base))


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)

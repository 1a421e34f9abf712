"""A page of headless Chromium, driven over the DevTools protocol: one web socket, no driver program.

Nothing here sleeps: a page is asked for a promise that a MutationObserver settles, and answers when it is.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-first-run", "--window-size=1200,1600", "--remote-debugging-port=0",
)  # fmt: skip


def installed() -> str | None:
    """Where Chromium is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def drain(process: subprocess.Popen[str]) -> None:
    """Read on what a process writes, so that it never waits for a full pipe."""
    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()


class Page:
    """One tab. Expressions are JavaScript; a promise is awaited."""

    def __init__(self, endpoint: str) -> None:
        self._socket = websocket.create_connection(endpoint, suppress_origin=True)
        self._numbers, self._session = itertools.count(1), ""
        self._loaded: set[str] = set()  # loaders whose page has loaded
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, seconds: float = 180, **params: Any) -> dict[str, Any]:
        """A command of the protocol and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        end = time.monotonic() + seconds
        while (answer := self._receive(end)).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        """The next message; pages that have loaded are noted. Raises websocket.WebSocketTimeoutException at `end`."""
        self._socket.settimeout(max(0.01, end - time.monotonic()))
        message: dict[str, Any] = json.loads(self._socket.recv())
        if message.get("method") == "Page.lifecycleEvent" and message["params"]["name"] == "load":
            self._loaded.add(message["params"]["loaderId"])
        return message

    def value(self, expression: str, seconds: float = 180) -> Any:
        """What an expression gives, as JSON; an exception of the page is raised here."""
        found = self.call(
            "Runtime.evaluate", seconds, expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']['exception'].get('description')}")
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 180) -> Any:
        """The first true value of `condition`, looked at whenever the document changes."""
        return self.value(
            f"""new Promise((settle, fail) => {{
                const observer = new MutationObserver(look);
                const late = setTimeout(() => {{ observer.disconnect(); fail(new Error("not within {seconds} s")); }}, {1000 * seconds});
                function look() {{
                    const value = {condition};
                    if (value) {{ observer.disconnect(); clearTimeout(late); settle(value); }}
                }}
                observer.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
                look();
            }})""",
            seconds + 10,
        )

    def open(self, url: str, seconds: float = 180) -> None:
        """Go to a page; returns when it has loaded. Asks again while nobody listens: JupyterLab prints its address first."""
        end = time.monotonic() + seconds
        while "errorText" in (gone := self.call("Page.navigate", url=url)):
            if time.monotonic() > end:
                raise RuntimeError(f"{url}: {gone['errorText']}")
        while gone["loaderId"] not in self._loaded:
            self._receive(end)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the left button at a point of the window, move to another and let go."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def started(program: str, profile: Path) -> Iterator[Page]:
    """A page of a new headless Chromium, whose profile is the folder `profile`; ended with the block."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root in its sandbox
    command = [program, *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("DevTools listening on "):
                break
        else:
            raise RuntimeError(f"{program} ended before it listened:\n{''.join(lines)}")
        drain(process)
        page = Page(lines[-1].split()[-1])
        try:
            yield page
        finally:
            page.close()
    finally:
        process.kill()
        process.wait()

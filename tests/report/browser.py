"""Chromium without a window and without a network, driven through its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOFTWARE_GL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
QUIET = ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"]


_numbers = count(1)  # of the commands of all pages


class Page:
    """A page that is open: ``complaints`` is what its console said, ``requests`` every address it asked for."""

    def __init__(self, send: int, receive: int, patience: float = 120) -> None:
        self._send, self._receive, self._patience = send, receive, patience
        self._buffer = b""
        self.session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol, and what it answers."""
        number = next(_numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, x: float, y: float) -> None:
        """Click with the left mouse button at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def click(self, selector: str) -> None:
        """Scroll an element into sight and click on its middle."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center', behavior: "
            "'instant'}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.press(*box)

    def picture(self, path: Path) -> None:
        """A PNG of what the window shows."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + self._patience
        while b"\0" not in self._buffer:
            chunk = os.read(self._receive, 1 << 20)
            if not chunk or time.monotonic() > until:
                raise RuntimeError("chromium ended or did not answer")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, found = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(found["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(part.get("value", part.get("description"))) for part in found["args"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])


class Browser:
    """A browser that pages are opened in, one after the other."""

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        (commands, self._send), (self._receive, answers) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]  # clear of 3 and 4
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [CHROMIUM, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", *SOFTWARE_GL, *QUIET]
        command += [f"--user-data-dir={self._profile.name}", "--hide-scrollbars", "about:blank"]
        # chromium reads its commands from file 3 and answers on file 4
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}', "bash", *command]
        self._process = subprocess.Popen(shell, pass_fds=theirs, stderr=subprocess.DEVNULL)
        for end in (commands, answers, *theirs):
            os.close(end)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._send)
        self._process.terminate()
        self._process.wait(30)
        os.close(self._receive)
        self._profile.cleanup()

    @contextmanager
    def page(self, file: Path, width: int = 1380, height: int = 1000) -> Iterator[Page]:
        """``file`` in a tab without a network."""
        page = Page(self._send, self._receive)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        nothing = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        page.call("Network.emulateNetworkConditions", offline=True, **nothing)
        page.call("Page.navigate", url=file.resolve().as_uri())
        while not page.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            time.sleep(0.05)
        yield page
        page.session = None
        page.call("Target.closeTarget", targetId=target)

"""Headless Chromium, driven over its own debugging protocol: what it logs, what it asks for, what it shows.

No driver program and no download: the browser of the system (Debian's package ``chromium``) and a web socket.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """One page of a headless browser that cannot reach any other machine.

    Attributes:
        errors: console errors, uncaught exceptions and failed loads since :meth:`open`.
        requests: addresses the page asked for since :meth:`open`.
    """

    def __init__(self, profile: Path, *, dark: bool = False, width: int = 1280, height: int = 1000) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        assert program is not None, f"no browser: none of {', '.join(NAMES)} is installed (apt-get install chromium)"
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        self._number = 0
        self._process = subprocess.Popen(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
                "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0", "--remote-allow-origins=*",
                f"--window-size={width},{height}", f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port, path = self._address(profile / "DevToolsActivePort")
            self._socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=30)
            self._session: str | None = None
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
            self._scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            # A window of its own size, also below the least that a window can have.
            sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            self._call("Emulation.setDeviceMetricsOverride", **sizes)
            self._call("Emulation.setEmulatedMedia", features=self._scheme)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, address: str, *, until: str = "true", seconds: float = 20) -> None:
        """Load a page and wait until a JavaScript condition holds.

        Raises:
            AssertionError: it did not within that time.
        """
        self.errors.clear()
        self.requests.clear()
        self._loaded = False
        self._call("Page.navigate", url=address)
        while not self._loaded:
            self._receive()
        self.wait(until, seconds=seconds)
        self.evaluate("new Promise(done => setTimeout(done, 100))")  # what loads late may still complain

    def wait(self, until: str, *, seconds: float = 20) -> None:
        """Wait until a JavaScript condition holds.

        Raises:
            AssertionError: it did not within that time.
        """
        limit = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({until})"):
            assert time.monotonic() < limit, f"after {seconds:.0f} s not ({until}); {self.errors}"
            time.sleep(0.05)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression (or of the promise it makes) in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key that writes nothing, such as Tab or ArrowRight."""
        code = {"Tab": 9, "ArrowRight": 39}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG file."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def media(self, name: str) -> None:
        """Show the page as on ``"print"`` or ``"screen"``; it is told as before and after printing."""
        self.evaluate(f"dispatchEvent(new Event('{'before' if name == 'print' else 'after'}print'))")
        self._call("Emulation.setEmulatedMedia", media=name, features=self._scheme)

    def pdf(self) -> bytes:
        """The page, printed on A4."""
        printed = self._call("Page.printToPDF", paperWidth=21 / 2.54, paperHeight=29.7 / 2.54)
        return base64.b64decode(printed["data"])

    def foreign(self) -> list[str]:
        """Requests that would have left the machine."""
        return [r for r in self.requests if not r.startswith(("file:", "data:", "blob:", "about:"))]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv())
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append("console: " + " ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"log: {told['entry']['text']} {told['entry'].get('url', '')}")

    def _address(self, file: Path) -> tuple[str, str]:
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            assert self._process.poll() is None, f"the browser ended with status {self._process.returncode}"
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) == 2:
                return lines[0], lines[1]
            time.sleep(0.05)
        raise AssertionError("the browser did not open its debugging port within 30 s")

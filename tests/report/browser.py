"""A headless Chromium, driven over a pipe by its DevTools protocol."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--remote-debugging-pipe",
)

PATIENCE = 120
"""Seconds to wait for an answer, on a busy machine."""

ON_FDS = """
import os, sys
for descriptor, place in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(descriptor), place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and answers on 4."""


def executable() -> str | None:
    """The first browser that is here."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, command: int, answer: int) -> None:
        self.command, self.answer = command, answer
        self.unread, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        (tab,) = [one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self.session = self.ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, "sessionId": self.session or None}
        sent = json.dumps({key: value for key, value in message.items() if value is not None})
        os.write(self.command, sent.encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.number:
                assert "error" not in found, f"{method}: {found['error']}"
                return dict(found["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            assert select.select([self.answer], [], [], PATIENCE)[0], "the browser does not answer"
            piece = os.read(self.answer, 1 << 20)
            assert piece, "the browser is gone"
            self.unread += piece
        message, _, self.unread = self.unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found

    def open(self, path: Path, *, width: int = 1000, phone: bool = False, dark: bool = False, media: str = "") -> None:
        """Load a file of this machine, as a screen or paper of that width would."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.ask("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE
        while not self.of("Page.loadEventFired"):
            assert time.monotonic() < end
            self._next()

    def of(self, method: str) -> list[dict[str, Any]]:
        """Events of one kind since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    def run(self, script: str) -> Any:
        """What an expression gives in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """One key, down and up."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            extra = text if kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def complaints(self) -> list[str]:
        """Everything that went to the console, and every exception."""
        said = [str(one["entry"]["text"]) for one in self.of("Log.entryAdded")]
        said += [json.dumps(one["args"]) for one in self.of("Runtime.consoleAPICalled")]
        return said + [json.dumps(one["exceptionDetails"]) for one in self.of("Runtime.exceptionThrown")]

    def requests(self) -> list[str]:
        """Addresses that were asked for."""
        return [str(one["request"]["url"]) for one in self.of("Network.requestWillBeSent")]


@contextmanager
def started(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a new profile."""
    commands, answers = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands[0], answers[1])]
    arguments = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        [sys.executable, "-c", ON_FDS, *map(str, ends), *arguments],
        pass_fds=ends,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (*ends, commands[0], answers[1]):
        os.close(end)
    try:
        yield Browser(commands[1], answers[0])
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(commands[1])
        os.close(answers[0])

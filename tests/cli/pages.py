"""An HTML page as a browser takes it: its elements, and what happens when Chromium opens it."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_CONSOLE = re.compile(r"CONSOLE[:(]\d*\)?.*")


@dataclass
class Element:
    """A tag, and all text in it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        below = [found for element in self.inside for found in element.all(tag)]
        return [self, *below] if self.tag == tag else below

    def by_id(self, name: str) -> "Element | None":
        if self.attributes.get("id") == name:
            return self
        return next((found for e in self.inside if (found := e.by_id(name)) is not None), None)


_VOID = frozenset({"meta", "br", "input", "img", "link", "hr"})


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if len(self.open) > 1 and self.open[-1].tag == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def parsed(text: str) -> Element:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.open[0]


@dataclass(frozen=True)
class Opened:
    """What Chromium made of a page: the document after its scripts ran, and its complaints."""

    document: Element
    complaints: list[str]


def opened(page: Path, scratch: Path) -> Opened:
    """Opens a page without a network: every address but the file's own leads nowhere."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            "--proxy-server=127.0.0.1:9",
            "--virtual-time-budget=10000",
            f"--user-data-dir={scratch / 'profile'}",
            "--dump-dom",
            page.resolve().as_uri(),
        ],
        env={**os.environ, "HOME": str(scratch)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return Opened(parsed(done.stdout), _CONSOLE.findall(done.stderr))

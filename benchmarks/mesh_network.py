"""Ranks behind links of a given speed: network namespaces, joined by a bridge, each rank's link
limited by a token bucket (`tc tbf`). Needs root and Debian's iproute2.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_HUB, _RANK = "twhub", "twrank"
_NET = "10.203.0"
_PORT = 29555
"""A namespace has all ports to itself."""
_SEGMENT, _BURST, _LATENCY = 16384, "32kb", "50ms"
"""A bucket that holds no whole segment makes the kernel cut each one, which costs more processor
time than all else; one that holds much of a message lets it pass at once.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs: the words before its command, and what its environment needs."""

    command: tuple[str, ...]
    environment: dict[str, str]


class NoNetwork(Exception):
    """Namespaces cannot be made here; the message says why."""


@contextmanager
def limited(ranks: int, rate: str) -> Generator[list[Place]]:
    """Namespaces whose links carry `rate` (such as `1gbit`) each way; taken down afterwards.

    Raises NoNetwork.
    """
    _check()
    _remove(ranks)
    try:
        _add(ranks, rate)
        yield [_place(rank) for rank in range(ranks)]
    finally:
        _remove(ranks)


def loopback(ranks: int) -> list[Place]:
    """No limit: all ranks on one machine's loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    return [Place((), _meeting("127.0.0.1", port, "lo")) for _ in range(ranks)]


def _meeting(address: str, port: int, interface: str) -> dict[str, str]:
    """Where the ranks find each other."""
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": interface,
    }


def _check() -> None:
    if os.geteuid() != 0:
        raise NoNetwork("network namespaces need root")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise NoNetwork("there is no `ip` and `tc`: install iproute2")


def _add(ranks: int, rate: str) -> None:
    _run("ip", "netns", "add", _HUB)
    _inside(_HUB, "ip", "link", "add", "bridge", "type", "bridge")
    _inside(_HUB, "ip", "link", "set", "bridge", "up")
    for rank in range(ranks):
        name, end = f"{_RANK}{rank}", f"twl{rank}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", end, "netns", name, "type", "veth", "peer", "name", end,
             "netns", _HUB)  # fmt: skip
        _inside(_HUB, "ip", "link", "set", end, "master", "bridge", "up")
        _inside(name, "ip", "address", "add", f"{_NET}.{rank + 1}/24", "dev", end)
        for namespace in (name, _HUB):
            _inside(namespace, "ip", "link", "set", end, "gso_max_size", str(_SEGMENT))
        for link in ("lo", end):
            _inside(name, "ip", "link", "set", link, "up")
        for namespace in (name, _HUB):  # what the rank sends, and what it receives
            _inside(namespace, "tc", "qdisc", "add", "dev", end, "root", "tbf", "rate", rate,
                    "burst", _BURST, "latency", _LATENCY)  # fmt: skip


def _place(rank: int) -> Place:
    environment = _meeting(f"{_NET}.1", _PORT, f"twl{rank}")
    return Place(("ip", "netns", "exec", f"{_RANK}{rank}"), environment)


def _remove(ranks: int) -> None:
    for name in (*(f"{_RANK}{rank}" for rank in range(ranks)), _HUB):
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _inside(namespace: str, *command: str) -> None:
    _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetwork(f"{_text(command)}: {done.stderr.strip()}")


def _text(command: Sequence[str]) -> str:
    return " ".join(command)

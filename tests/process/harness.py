"""What the process tests share: running afar, nodes of our own, temporary folders, comparisons.

Every wait here ends by an event (a line, a connection, the end of a process) or by a deadline
that is far beyond what a slow machine needs; nothing sleeps in the hope that something happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, Optional, Sequence

PATIENCE_S = 600.0


def seed() -> int:
    """The seed of a random test: printed, and given back by AFAR_SEED."""
    number = int(os.environ.get("AFAR_SEED") or random.SystemRandom().getrandbits(31))
    print(f"AFAR_SEED={number}", flush=True)
    return number


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="afar-process-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def fail(message: str) -> None:
    raise AssertionError(message)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Afar:
    """The binaries of one build folder."""

    def __init__(self, build: Path) -> None:
        self.build = build.resolve()
        self.binary = str(self.build / "afar")

    def command(self, program: Sequence[str], local: str, statistics: Optional[Path] = None,
                options: Sequence[str] = ()) -> list[str]:
        words = [self.binary, "run", "--local", local, *options]
        if statistics:
            words += ["--json", "--output", str(statistics)]
        return [*words, "--", *program]

    def run(self, program: Sequence[str], local: str, statistics: Optional[Path] = None,
            options: Sequence[str] = (), **more: object) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(self.command(program, local, statistics, options),  # type: ignore
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE_S,
                              **more)

    @contextlib.contextmanager
    def node(self, *options: str) -> Iterator["Node"]:
        node = Node(self, options)
        try:
            yield node
        finally:
            node.stop()


class Node:
    """One `afar node`, ready when the constructor returns."""

    def __init__(self, afar: Afar, options: Sequence[str]) -> None:
        self.process = subprocess.Popen([afar.binary, "node", *options], stdout=subprocess.PIPE,
                                        stdin=subprocess.DEVNULL)
        assert self.process.stdout
        head = self.process.stdout.readline().decode()
        if not head.startswith("afar node"):
            fail(f"the node said {head!r} and ended with {self.process.wait()}")
        self.addresses = []
        wanted = sum(option == "--listen" for option in options)
        while len(self.addresses) < wanted:
            self.addresses.append(self.process.stdout.readline().decode().split()[-1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            fail("the node did not end on SIGTERM")
        finally:
            if self.process.stdout:
                self.process.stdout.close()


def read_statistics(path: Path) -> dict[str, object]:
    statistics: dict[str, object] = json.loads(path.read_text())
    return statistics


def far_faults(path: Path) -> int:
    """How often the run of these statistics fetched a page: 0 means that it proved nothing."""
    statistics = read_statistics(path)
    print(f"  {statistics['faults_far']} pages fetched, {statistics['pages_stored']} stored, "
          f"peak {int(str(statistics['local_peak_bytes'])) >> 20} MiB of "
          f"{int(str(statistics['local_bytes'])) >> 20} MiB, {statistics['seconds']:.1f} s",
          flush=True)
    return int(str(statistics["faults_far"]))


def connect(path: Path, process: "subprocess.Popen[bytes]") -> socket.socket:
    """Connects to a server's unix socket as soon as it listens."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            fail(f"the server ended with {process.returncode}")
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE_S)
        try:
            client.connect(str(path))
            return client
        except OSError:
            client.close()
            time.sleep(0.02)
    fail("the server never listened")
    raise AssertionError


def main(cases: dict[str, object]) -> None:
    """programs.py BUILD CASE: runs one case; exit status 0, 1 or, where it cannot run here, 77."""
    build, name = Path(sys.argv[1]), sys.argv[2]
    case = cases[name]
    try:
        case(Afar(build))  # type: ignore[operator]
    except AssertionError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)

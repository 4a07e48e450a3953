#!/usr/bin/env python3
"""`afar run` over nodes of its own, full and lost ones too.

usage: clusters.py BUILD CASE
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from harness import PATIENCE_S, Afar, Node, fail, far_faults, folder, main, read_statistics, seed

MIB = 64  # what the program below works on
ROUNDS = "30000"


def program(afar: Afar, rounds: str = ROUNDS) -> list[str]:
    return [str(afar.build / "tests/process/threads"), str(seed()), "2", str(MIB), rounds]


def check(far: "subprocess.CompletedProcess[bytes]", statistics: Path) -> None:
    if far.returncode != 0:
        fail(f"status {far.returncode}: {far.stderr.decode()[-2000:]}")
    if far_faults(statistics) == 0:
        fail("no page came from afar")


def over(afar: Afar, listen: str, expect_direct: bool) -> None:
    with folder() as at, afar.node("--listen", listen.format(at=at), "--memory", "256M", "--slab",
                                   "8M", "--headroom", "0") as node:
        far = afar.run(program(afar), "16M", at / "statistics",
                       ["--cluster", node.addresses[0], "--far", "128M"])
        check(far, at / "statistics")
        if read_statistics(at / "statistics")["direct"] is not expect_direct:
            fail("the pages went the other way")


def shm(afar: Afar) -> None:
    over(afar, "shm:{at}/node", True)


def tcp(afar: Afar) -> None:
    over(afar, "tcp://127.0.0.1:0", False)


def directory(afar: Afar) -> None:
    """Nodes and a program meet in a directory; the status names them."""
    with folder() as at:
        uri = f"dir:{at}/cluster"
        options = ["--memory", "128M", "--slab", "8M", "--headroom", "0", "--cluster", uri]
        with afar.node("--listen", "tcp://127.0.0.1:0", *options), \
                afar.node("--listen", "tcp://127.0.0.1:0", *options):
            far = afar.run(program(afar), "16M", at / "statistics",
                           ["--cluster", uri, "--far", "128M"])
            check(far, at / "statistics")
            status = subprocess.run([afar.binary, "status", "--cluster", uri], timeout=PATIENCE_S,
                                    stdout=subprocess.PIPE)
            text = status.stdout.decode()
            if status.returncode != 0 or not text.startswith("ok\n") or text.count("node ") != 2:
                fail(f"status {status.returncode}: {text}")


def key(afar: Afar) -> None:
    """Who has another key, or none, gets no memory."""
    with folder() as at:
        for name in ("good", "bad"):
            (at / name).write_text(name * 10)
            (at / name).chmod(0o600)
        with afar.node("--listen", "tcp://127.0.0.1:0", "--memory", "128M", "--slab", "8M",
                       "--headroom", "0", "--key-file", str(at / "good")) as node:
            cluster = ["--cluster", node.addresses[0], "--far", "96M", "--key-file"]
            check(afar.run(program(afar), "16M", at / "statistics", [*cluster, str(at / "good")]),
                  at / "statistics")
            bad = afar.run(program(afar), "16M", None, [*cluster, str(at / "bad")])
            if bad.returncode != 125 or not bad.stderr:
                fail(f"with a wrong key: status {bad.returncode}, {bad.stderr.decode()}")


class Run:
    """A run in the background, of which the first rounds are known to be over."""

    def __init__(self, afar: Afar, at: Path, cluster: str, options: list[str], rounds: str) -> None:
        self.process = subprocess.Popen(
            afar.command([*program(afar, rounds), "progress"], "16M", at / "statistics",
                         ["--cluster", cluster, "--far", "96M", *options]),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.process.stdout
        while line := self.process.stdout.readline():
            if line.startswith(b"progress"):
                return
        fail(f"the program never got going: {self.process.communicate()[1].decode()[-2000:]}")

    def end(self) -> tuple[int, str]:
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        if self.process.returncode == 0 and b"verified" not in output:
            fail("the program did not get to its end")
        return self.process.returncode, errors.decode()[-2000:]


def killed_node(afar: Afar, options: list[str]) -> tuple[int, str]:
    """Three nodes, one of them killed in the middle of a run."""
    nodes: list[Node] = []
    with folder() as at:
        try:
            for _ in range(3):
                nodes.append(Node(afar, ["--listen", "tcp://127.0.0.1:0", "--memory", "256M",
                                         "--slab", "8M", "--headroom", "0"]))
            hosts = [node.addresses[0].removeprefix("tcp://") for node in nodes]
            cluster = "tcp://" + ",".join(hosts)
            run = Run(afar, at, cluster, options, "60000")
            nodes[0].kill()
            return run.end()
        finally:
            for node in nodes:
                node.stop()


def replicas(afar: Afar) -> None:
    status, errors = killed_node(afar, ["--protect", "replicas=2"])
    if status != 0:
        fail(f"status {status}: {errors}")


def loss(afar: Afar) -> None:
    status, errors = killed_node(afar, [])
    if status != 124 or "volume" not in errors:
        fail(f"status {status}: {errors}")


def full(afar: Afar, listen: str) -> None:
    """A node that has just what is needed is used to its end; one that has less says so."""
    for memory, expected in (("80M", 0), ("24M", 125)):
        with folder() as at, afar.node("--listen", listen.format(at=at), "--memory", memory,
                                       "--slab", "8M", "--headroom", "0") as node:
            far = afar.run(program(afar, "3000"), "16M", at / "statistics",
                           ["--cluster", node.addresses[0], "--far", "256M"])
            if far.returncode != expected:
                fail(f"with {memory}: status {far.returncode}, {far.stderr.decode()[-2000:]}")
            if expected and "room" not in far.stderr.decode():
                fail(f"no reason: {far.stderr.decode()}")


def full_shm(afar: Afar) -> None:
    full(afar, "shm:{at}/node")


def full_tcp(afar: Afar) -> None:
    full(afar, "tcp://127.0.0.1:0")


def own_node_killed(afar: Afar) -> None:
    """The run's own node dies: the run says so and ends; nothing is left."""
    run = subprocess.Popen(
        afar.command([*program(afar, "600000"), "progress"], "16M", None, ["--far", "96M"]),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert run.stdout
    while not run.stdout.readline().startswith(b"progress"):
        if run.poll() is not None:
            fail("the program never got going")
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    nodes = [pid for pid in children if b"afar" in Path(f"/proc/{pid}/comm").read_bytes()]
    if len(nodes) != 1:
        fail(f"which child is the node? {nodes}")
    subprocess.run(["kill", "-KILL", nodes[0]], check=True)
    threading.Thread(target=run.stdout.read).start()
    assert run.stderr
    errors = run.stderr.read().decode()
    if run.wait(PATIENCE_S) != 124 or "volume" not in errors:
        fail(f"status {run.returncode}: {errors}")


main({
    "shm": shm, "tcp": tcp, "directory": directory, "key": key, "replicas": replicas, "loss": loss,
    "full-shm": full_shm, "full-tcp": full_tcp, "own-node-killed": own_node_killed,
})

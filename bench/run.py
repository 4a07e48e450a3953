#!/usr/bin/env python3
"""`afar run` against the ways that a user has today; prints `metric value unit` lines.

usage: run.py BUILD [--smoke] [--rounds N] [METRIC-PREFIX…]

The peers are kernel swap under a memory cgroup, onto: a loop device over tmpfs (the floor of such
a path), zram, and nbdkit's memory plugin through nbdfuse and a loop device. All run the same
program with the same share of its memory, in one process each, in turns; a ratio is the median of
the ratios of the rounds. Needs root. Swap areas that are there already would be used too: the
bench refuses to run beside them. Everything it sets up it takes down again.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

CGROUP = Path("/sys/fs/cgroup/memory")
NODE_SLACK = "512M"


class NotRun(Exception):
    """Why a metric cannot be measured here."""


def sh(*words: str) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise NotRun(f"{words[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def values(output: str) -> dict[str, float]:
    return {words[0]: float(words[1]) for line in output.splitlines()
            if len(words := line.split()) == 2}


class Bench:
    def __init__(self, build: Path, rounds: int, mib: int, seconds: float) -> None:
        self.afar = str(build / "afar")
        self.paging = str(build / "bench/paging")
        self.rounds, self.mib, self.seconds = rounds, mib, seconds

    def local(self) -> str:
        return f"{self.mib * 130 // 256}M"

    def far_run(self, program: Sequence[str], options: Sequence[str] = (),
                local: Optional[str] = None) -> str:
        words = [self.afar, "run", "--local", local or self.local(), "--far", NODE_SLACK]
        return subprocess.run([*words, *options, "--", *program], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def swap_run(self, program: Sequence[str]) -> str:
        """The program in a memory cgroup of its own, with the same limit."""
        group = Path(tempfile.mkdtemp(prefix="afar-bench-", dir=CGROUP))
        try:
            (group / "memory.limit_in_bytes").write_text(str(self.mib * 130 // 256 << 20))
            with contextlib.suppress(OSError):
                (group / "memory.swappiness").write_text("100")
            return subprocess.run(
                ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh", *program],
                check=True, stdout=subprocess.PIPE, text=True).stdout
        finally:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.05)


@contextlib.contextmanager
def swap_on(device: str) -> Iterator[None]:
    sh("mkswap", device)
    sh("swapon", device)
    try:
        yield
    finally:
        sh("swapoff", device)


@contextlib.contextmanager
def loop(file: Path, *options: str) -> Iterator[str]:
    device = sh("losetup", "--find", "--show", *options, str(file))
    try:
        yield device
    finally:
        sh("losetup", "--detach", device)


@contextlib.contextmanager
def tmpfs_loop(mib: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="afar-bench-") as at:
        sh("mount", "-t", "tmpfs", "-o", f"size={mib + 16}M", "tmpfs", at)
        try:
            sh("fallocate", "-l", f"{mib}M", f"{at}/swap")
            with loop(Path(at) / "swap") as device:
                yield device
        finally:
            sh("umount", at)


@contextlib.contextmanager
def zram(mib: int) -> Iterator[str]:
    device = sh("zramctl", "--find", "--size", f"{mib}M")
    try:
        yield device
    finally:
        sh("zramctl", "--reset", device)


@contextlib.contextmanager
def nbdfuse(mib: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="afar-bench-") as at:
        for name in ("nbdkit", "nbdfuse"):
            sh("which", name)
        server = subprocess.Popen(
            ["nbdkit", "--foreground", "-U", f"{at}/nbd", "memory", f"{mib}M"])
        mount = Path(at) / "disk"
        mount.touch()
        fuse = None
        try:
            wait_for(lambda: Path(f"{at}/nbd").is_socket(), "nbdkit's socket")
            fuse = subprocess.Popen(["nbdfuse", str(mount), f"nbd+unix:///?socket={at}/nbd"])
            wait_for(lambda: mount.stat().st_size > 0, "nbdfuse's file")
            with loop(mount, "--direct-io=on", "--sector-size", "4096") as device:
                yield device
        finally:
            if fuse:
                subprocess.run(["umount", str(mount)])
                fuse.wait()
            server.terminate()
            server.wait()


def wait_for(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        if time.monotonic() > deadline:
            raise NotRun(f"{what} never came")
        time.sleep(0.01)


def random_metrics(bench: Bench, wanted: Sequence[str]) -> None:
    """afar and every peer in turns; one ratio a round and peer."""
    peers = {"run.random_vs_swap_tmpfs": tmpfs_loop, "run.random_vs_zram": zram,
             "run.random_vs_nbdfuse": nbdfuse}
    program = [bench.paging, "random", str(bench.mib), str(bench.seconds)]
    rates: dict[str, list[float]] = {name: [] for name in [*peers, "afar"]}
    broken: dict[str, str] = {}
    if os.geteuid() != 0 or not (CGROUP / "memory.limit_in_bytes").exists():
        broken = {name: "needs root and memory cgroups (v1)" for name in peers}
    elif len(Path("/proc/swaps").read_text().splitlines()) > 1:
        broken = {name: "the machine already swaps" for name in peers}
    for _ in range(bench.rounds):
        rates["afar"].append(values(bench.far_run(program))["accesses_per_s"])
        for name, peer in peers.items():
            if name in broken or name not in wanted:
                continue
            try:
                with peer(bench.mib * 2) as device, swap_on(device):
                    rates[name].append(values(bench.swap_run(program))["accesses_per_s"])
            except NotRun as error:
                broken[name] = " ".join(str(error).split())
            except subprocess.CalledProcessError as error:
                broken[name] = f"the program ended with {error.returncode} under this peer"
    report("run.random_kops", statistics.median(rates["afar"]) / 1000, "kop/s")
    for name in peers:
        if name not in wanted:
            continue
        if name in broken:
            print(f"{name} NOT-RUN {broken[name]}", flush=True)
            continue
        report(f"{name}.peer_kops", statistics.median(rates[name]) / 1000, "kop/s")
        report(name, statistics.median(a / b for a, b in zip(rates["afar"], rates[name])), "ratio")


@contextlib.contextmanager
def tcp_node(bench: Bench) -> Iterator[str]:
    node = subprocess.Popen([bench.afar, "node", "--listen", "tcp://127.0.0.1:0", "--memory",
                             NODE_SLACK, "--headroom", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout
        node.stdout.readline()
        yield node.stdout.readline().split()[-1]
    finally:
        node.terminate()
        node.wait()


def sequential(bench: Bench, wanted: Sequence[str]) -> None:
    program = [bench.paging, "sequential", str(bench.mib), str(bench.seconds)]
    ratios, rates = [], []
    with tcp_node(bench) as address:
        for _ in range(bench.rounds):
            options = ["--cluster", address]
            ahead = values(bench.far_run(program, options))["mb_per_s"]
            alone = values(bench.far_run(program, [*options, "--no-prefetch"]))["mb_per_s"]
            ratios.append(ahead / alone)
            rates.append(ahead)
    report("run.sequential_mb_per_s", statistics.median(rates), "MB/s")
    report("run.sequential_prefetch_gain", statistics.median(ratios), "ratio")


def fault_p99(bench: Bench, wanted: Sequence[str]) -> None:
    ratios, rooms = [], []
    for _ in range(bench.rounds):
        found = values(bench.far_run([bench.paging, "latency", str(bench.mib)]))
        ratios.append(found["p99_evicting_ns"] / found["p99_room_ns"])
        rooms.append(found["p99_room_ns"])
    report("run.fault_p99_us", statistics.median(rooms) / 1000, "us")
    report("run.fault_p99_evicting", statistics.median(ratios), "ratio")


def order_entry(items: int, transactions: int) -> str:
    """An order-entry load on tables in memory: customers and items at random."""
    body = f"""
        BEGIN;
        INSERT INTO orders SELECT max(id) + 1, abs(random()) % {items // 10}, abs(random()) % 10
            FROM orders;
        INSERT INTO line
            SELECT (SELECT max(id) FROM orders), value, abs(random()) % {items}, value + 1
            FROM generate_series(0, 9);
        UPDATE stock SET quantity = quantity - 1, sold = sold + 1
            WHERE item IN (SELECT item FROM line WHERE number = (SELECT max(id) FROM orders));
        UPDATE customer SET balance = balance + 10
            WHERE id = (SELECT customer FROM orders WHERE id = (SELECT max(id) FROM orders));
        COMMIT;
    """.replace("FROM generate_series(0, 9)", "FROM ten")
    return f"""
        PRAGMA journal_mode=off; PRAGMA temp_store=memory; PRAGMA cache_size=-2000000;
        CREATE TABLE ten(value INTEGER PRIMARY KEY);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
            INSERT INTO ten SELECT i FROM n;
        CREATE TABLE stock(item INTEGER PRIMARY KEY, quantity INTEGER, sold INTEGER, data TEXT);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {items - 1})
            INSERT INTO stock SELECT i, 1000, 0, hex(randomblob(100)) FROM n;
        CREATE TABLE customer(id INTEGER PRIMARY KEY, balance INTEGER, data TEXT);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {items // 10 - 1})
            INSERT INTO customer SELECT i, 0, hex(randomblob(200)) FROM n;
        CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER, district INTEGER);
        INSERT INTO orders VALUES(0, 0, 0);
        CREATE TABLE line(number INTEGER, position INTEGER, item INTEGER, quantity INTEGER,
            PRIMARY KEY(number, position)) WITHOUT ROWID;
        SELECT 'begin', (julianday('now') - 2440587.5) * 86400.0;
        {body * transactions}
        SELECT 'end', (julianday('now') - 2440587.5) * 86400.0;
        SELECT 'orders', count(*) FROM orders;
    """


def transactions_per_s(output: str, transactions: int) -> float:
    found = {words[0]: float(words[1]) for line in output.splitlines()
             if len(words := line.split("|")) == 2}
    if found["orders"] != transactions + 1:
        raise NotRun("sqlite3 lost transactions")
    return transactions / (found["end"] - found["begin"])


def app50(bench: Bench, wanted: Sequence[str]) -> None:
    sh("which", "sqlite3")
    items, transactions = bench.mib * 2500, bench.mib * 40
    peak_mib = None
    ratios = []
    with tempfile.NamedTemporaryFile("w", suffix=".sql", prefix="afar-bench-") as script:
        script.write(order_entry(items, transactions))
        script.flush()
        program = ["sqlite3", "-init", script.name, ":memory:", ".quit"]
        for _ in range(bench.rounds):
            started = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       text=True)
            assert started.stdout
            local = transactions_per_s(started.stdout.read(), transactions)
            peak_mib = os.wait4(started.pid, 0)[2].ru_maxrss // 1024
            started.returncode = 0
            output = bench.far_run(program, local=f"{peak_mib // 2}M")
            far = transactions_per_s(output, transactions)
            ratios.append(far / local)
    report("run.app50_peak_mib", float(peak_mib or 0), "MiB")
    report("run.app50_vs_local", statistics.median(ratios), "ratio")


def report(name: str, value: float, unit: str) -> None:
    print(f"{name} {value:.4g} {unit}", flush=True)


GROUPS: list[tuple[list[str], Callable[[Bench, Sequence[str]], None]]] = [
    (["run.random_vs_swap_tmpfs", "run.random_vs_zram", "run.random_vs_nbdfuse"], random_metrics),
    (["run.sequential_prefetch_gain"], sequential),
    (["run.app50_vs_local"], app50),
    (["run.fault_p99_evicting"], fault_p99),
]


def main(arguments: list[str]) -> None:
    smoke = "--smoke" in arguments
    rounds = int(arguments[arguments.index("--rounds") + 1]) if "--rounds" in arguments else 5
    words = [word for i, word in enumerate(arguments)
             if not word.startswith("--") and (i == 0 or arguments[i - 1] != "--rounds")]
    build, prefixes = Path(words[0]).resolve(), words[1:] or ["run."]
    bench = Bench(build, 1 if smoke else rounds, 32 if smoke else 256, 0.2 if smoke else 3)
    for names, measure in GROUPS:
        wanted = [name for name in names if any(name.startswith(prefix) for prefix in prefixes)]
        if not wanted:
            continue
        try:
            measure(bench, wanted)
        except (NotRun, subprocess.CalledProcessError) as error:
            for name in wanted:
                print(f"{name} NOT-RUN {' '.join(str(error).split())}", flush=True)


main(sys.argv[1:])

#!/usr/bin/env python3
"""Unmodified programs at a quarter of their memory: the output is that of the plain run.

usage: programs.py BUILD CASE

Each case runs a program twice, plainly and under `afar run`, and compares what it printed; or
drives a server under `afar run` and checks every answer. A run that fetched nothing from afar
fails: it would prove nothing.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Optional, Sequence

from harness import (PATIENCE_S, Afar, connect, digest, fail, far_faults, folder, main, seed)


def same_output(afar: Afar, program: Sequence[str], local: str, stdin: bytes = b"",
                environment: Optional[dict[str, str]] = None) -> None:
    """The plain run and the far run print the same and end the same."""
    environment = {**os.environ, **(environment or {})}
    plain = subprocess.run(program, input=stdin, stdout=subprocess.PIPE, env=environment,
                           timeout=PATIENCE_S)
    with folder() as at:
        far = afar.run(program, local, at / "statistics", input=stdin, env=environment)
        if far.returncode != plain.returncode:
            fail(f"status {far.returncode} and not {plain.returncode}: "
                 f"{far.stderr.decode()[-2000:]}")
        if digest(far.stdout) != digest(plain.stdout):
            fail(f"{len(far.stdout)} bytes that differ from the {len(plain.stdout)} of the plain "
                 "run")
        if not plain.stdout:
            fail("nothing was printed: nothing is proven")
        if far_faults(at / "statistics") == 0:
            fail("no page came from afar")


def sqlite(afar: Afar) -> None:
    rows = 200_000
    script = f"""
        PRAGMA journal_mode=off; PRAGMA temp_store=memory; PRAGMA cache_size=-400000;
        CREATE TABLE item(id INTEGER PRIMARY KEY, owner INTEGER, price INTEGER, name TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
            INSERT INTO item SELECT i, i * 7919 % 1000, i * 104729 % 10007,
                'item number ' || (i * 31 % {rows}) FROM n;
        CREATE TABLE owner(id INTEGER PRIMARY KEY, city TEXT);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
            INSERT INTO owner SELECT i, 'city ' || (i % 37) FROM n;
        CREATE INDEX by_name ON item(name);
        CREATE INDEX by_price ON item(price, owner);
        SELECT city, count(*), sum(price), min(name), max(name)
            FROM item JOIN owner ON owner.id = item.owner GROUP BY city ORDER BY city;
        SELECT name, count(*) FROM item GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 50;
        SELECT sum(length(a.name) * b.price) FROM item a JOIN item b ON b.id = a.price + 1;
        UPDATE item SET price = price + 1 WHERE owner % 3 = 0;
        SELECT price, count(*) FROM item GROUP BY price ORDER BY 2 DESC, 1 LIMIT 100;
        PRAGMA integrity_check;
    """
    same_output(afar, ["sqlite3", ":memory:"], "8M", script.encode())


def sort(afar: Afar) -> None:
    numbers = random.Random(seed())
    text = b"\n".join(b"%020d line %d" % (numbers.getrandbits(60), i) for i in range(400_000))
    with folder() as at:
        (at / "lines").write_bytes(text)
        same_output(afar, ["sort", "--parallel=4", "-S", "100M", str(at / "lines")], "14M",
                    environment={"LC_ALL": "C"})


PYTHON_DICT = """
import hashlib
d = {}
for i in range(150_000):
    d[f"key {i * 7919 % 1_000_003}"] = (i, str(i) * 3)
for i in range(0, 1_000_003, 3):
    d.pop(f"key {i}", None)
d.update({i: [i, i + 1] for i in range(80_000)})
h = hashlib.sha256()
for key in sorted(d, key=str):
    h.update(repr((key, d[key])).encode())
print(len(d), h.hexdigest())
"""

PYTHON_NUMPY = """
import hashlib
import os
import numpy
a = numpy.arange(2_000_000, dtype=numpy.float64)
b = (a * 7919.0) % 10_007.0
order = numpy.argsort(b, kind="stable")
c = a[order].reshape(1000, 2000)
print(hashlib.sha256(c.tobytes()).hexdigest(), float(c.sum()), float((c.T[:100] * 2).sum()))
child = os.fork()
if child == 0:
    c += 1
    os._exit(0 if float(c[0, 0]) == float(a[order[0]]) + 1 else 1)
c *= 2
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(hashlib.sha256(c.tobytes()).hexdigest())
"""


def python_dict(afar: Afar) -> None:
    same_output(afar, ["/usr/bin/python3", "-c", PYTHON_DICT], "18M",
                environment={"PYTHONHASHSEED": "0"})


def python_numpy(afar: Afar) -> None:
    same_output(afar, ["/usr/bin/python3", "-c", PYTHON_NUMPY], "28M")


def gcc(afar: Afar) -> None:
    functions = "".join(
        f"int f{i}(int a, int b) {{ int c = a * {i} + b; for (int i = 0; i < b; i++) "
        f"c ^= (c << {i % 13 + 1}) + a / (i + {i + 1}); "
        f"if (c % 3) c += f{max(i - 1, 0)}(a - 1, b / 2);"
        f" return c; }}\n" for i in range(1, 800))
    source = "int f0(int a, int b) { return a + b; }\n" + functions
    same_output(afar, ["gcc", "-O1", "-S", "-x", "c", "-", "-o", "-"], "24M", source.encode())


PERL = r"""
my %h; my @a;
for my $i (0 .. 120_000) {
    my $k = "key " . ($i * 7919 % 1000003);
    $h{$k} = "value $i" x 2;
    push @a, $k;
}
my $sum = 0;
for my $k (sort keys %h) { $sum = ($sum * 31 + length($h{$k}) + ord(substr($k, -1))) % 1000000007; }
for my $i (reverse 0 .. $#a) { delete $h{$a[$i]} if $i % 2; }
print scalar(keys %h), " $sum ", join(",", (sort { $a cmp $b } keys %h)[0 .. 20]), "\n";
"""

AWK = r"""
BEGIN {
    for (i = 0; i < 200000; i++) { k = "key " (i * 7919 % 1000003); t[k] = i; n++ }
    for (k in t) { s = (s + t[k] * length(k)) % 1000000007 }
    for (i = 0; i < 200000; i += 2) delete t["key " (i * 7919 % 1000003)]
    for (k in t) m++
    print n, m, s
}
"""


def perl(afar: Afar) -> None:
    same_output(afar, ["perl", "-e", PERL], "12M", environment={"PERL_HASH_SEED": "0"})


def awk(afar: Afar) -> None:
    same_output(afar, ["awk", AWK], "6M")


def stress_ng(afar: Afar) -> None:
    """stress-ng's memory stressors check every byte that they wrote."""
    with folder() as at:
        far = afar.run(["stress-ng", "--vm", "2", "--vm-bytes", "48M", "--vm-method", "incdec",
                        "--vm-ops", "20", "--verify", "--temp-path", str(at), "--no-rand-seed"],
                       "24M", at / "statistics")
        if far.returncode != 0:
            fail(f"status {far.returncode}: {far.stderr.decode()[-2000:]}")
        if far_faults(at / "statistics") == 0:
            fail("no page came from afar")


def threads(afar: Afar) -> None:
    """Sixteen threads write and verify random pages."""
    same_output(afar, [str(afar.build / "tests/process/threads"), str(seed()), "16", "96", "20000"],
                "24M")


class Redis:
    """As much of the protocol as the test needs."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.file = client.makefile("rb")

    def close(self) -> None:
        self.file.close()
        self.client.close()

    def send(self, *commands: Sequence[bytes]) -> None:
        parts = []
        for command in commands:
            parts.append(b"*%d\r\n" % len(command))
            parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in command]
        self.client.sendall(b"".join(parts))

    def reply(self) -> object:
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            if int(rest) < 0:
                return None
            return self.file.read(int(rest) + 2)[:-2]
        if kind == b"-":
            fail(f"redis says {rest.decode()}")
        if not line:
            fail("redis hung up")
        return int(rest) if kind == b":" else rest

    def call(self, *command: bytes) -> object:
        self.send(command)
        return self.reply()

    def persistence(self) -> bytes:
        answer = self.call(b"INFO", b"persistence")
        return answer if isinstance(answer, bytes) else b""

    def pipeline(self, commands: Sequence[Sequence[bytes]]) -> list[object]:
        replies = []
        for at in range(0, len(commands), 200):
            self.send(*commands[at:at + 200])
            replies += [self.reply() for _ in commands[at:at + 200]]
        return replies


def start_redis(words: Sequence[str], at: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*words, "--port", "0", "--unixsocket", str(at / "redis"), "--dir", str(at), "--save", "",
         "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"],
        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def value(key: int, generation: int) -> bytes:
    return b"%d of generation %d " % (key, generation) * 20


def key_name(key: int) -> bytes:
    return b"key:%d" % key


def snapshot_under_load(redis: Redis, keys: int) -> None:
    """All keys are of generation 1 at the fork; while the child writes they become generation 2."""
    redis.pipeline([(b"SET", key_name(i), value(i, 1)) for i in range(keys)])
    redis.call(b"BGSAVE")
    redis.pipeline([(b"SET", key_name(i), value(i, 2)) for i in range(keys)])
    while b"rdb_bgsave_in_progress:1" in redis.persistence():
        redis.pipeline([(b"SET", key_name(i), value(i, 2)) for i in range(0, keys, 50)])
    if b"rdb_last_bgsave_status:ok" not in redis.persistence():
        fail("the snapshot failed")


def check_values(redis: Redis, keys: int, generation: int) -> None:
    answers = redis.pipeline([(b"GET", key_name(i)) for i in range(keys)])
    for i, answer in enumerate(answers):
        if answer != value(i, generation):
            fail(f"key {i} is {answer!r} and not of generation {generation}")


def redis_server(afar: Afar) -> None:
    keys = 30_000
    with folder() as at:
        server = start_redis(afar.command(["redis-server"], "12M", at / "statistics"), at)
        try:
            redis = Redis(connect(at / "redis", server))
            snapshot_under_load(redis, keys)
            check_values(redis, keys, 2)
            redis.send((b"SHUTDOWN", b"NOSAVE"))
            redis.close()
            server.wait(PATIENCE_S)
        finally:
            server.kill()
            server.wait()
        if far_faults(at / "statistics") == 0:
            fail("no page came from afar")
        # A plain server reads the snapshot: it is the state at the fork.
        (at / "redis").unlink(missing_ok=True)
        server = start_redis(["redis-server"], at)
        try:
            redis = Redis(connect(at / "redis", server))
            while b"\nloading:1" in redis.persistence():
                pass
            check_values(redis, keys, 1)
            redis.close()
        finally:
            server.kill()
            server.wait()


def memcached_client(path: Path, server: "subprocess.Popen[bytes]", number: int,
                     numbers: random.Random, errors: list[str]) -> None:
    try:
        client = connect(path, server)
        answers = client.makefile("rb")
        known: dict[int, bytes] = {}
        for _ in range(6_000):
            key = numbers.randrange(4_000)
            name = b"%d:%d" % (number, key)
            if numbers.random() < 0.5:
                known[key] = bytes([numbers.randrange(65, 91)]) * numbers.randrange(1_000, 8_000)
                client.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (name, len(known[key]), known[key]))
                if answers.readline() != b"STORED\r\n":
                    fail("a set was refused")
                continue
            client.sendall(b"get %s\r\n" % name)
            head = answers.readline()
            found = None
            if head.startswith(b"VALUE"):
                found = answers.read(int(head.split()[3]) + 2)[:-2]
                answers.readline()
            if found != known.get(key):
                fail(f"client {number}: a wrong answer for key {key}")
        answers.close()
        client.close()
    except (AssertionError, OSError) as error:
        errors.append(str(error))


def memcached(afar: Afar) -> None:
    numbers = random.Random(seed())
    errors: list[str] = []
    user = ["-u", "root"] if os.geteuid() == 0 else []
    with folder() as at:
        server = subprocess.Popen(
            afar.command(["memcached", *user, "-s", str(at / "socket"), "-m", "1024", "-t", "4"],
                         "24M", at / "statistics"), stdin=subprocess.DEVNULL)
        try:
            connect(at / "socket", server).close()
            clients = [threading.Thread(target=memcached_client, args=(
                at / "socket", server, i, random.Random(numbers.random()), errors))
                for i in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            server.terminate()
            server.wait(PATIENCE_S)
        finally:
            server.kill()
            server.wait()
        if errors:
            fail(errors[0])
        if far_faults(at / "statistics") == 0:
            fail("no page came from afar")


main({
    "sqlite3": sqlite, "sort": sort, "python-dict": python_dict, "python-numpy": python_numpy,
    "gcc": gcc, "perl": perl, "awk": awk, "stress-ng": stress_ng, "threads": threads,
    "redis": redis_server, "memcached": memcached,
})

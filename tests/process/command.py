#!/usr/bin/env python3
"""The command as people and scripts meet it: statuses, messages, clean ends.

usage: command.py BUILD CASE
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Callable, Sequence

from harness import PATIENCE_S, Afar, fail, far_faults, folder, main, read_statistics


def expect(afar: Afar, words: Sequence[str], status: int, said: str = "", printed: str = "",
           **more: object) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([afar.binary, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL,
                          **more)  # type: ignore[call-overload]
    if done.returncode != status:
        fail(f"afar {' '.join(words)}: status {done.returncode} and not {status}: {done.stderr}")
    if said not in done.stderr:
        fail(f"afar {' '.join(words)}: {said!r} is not in {done.stderr!r}")
    if printed not in done.stdout:
        fail(f"afar {' '.join(words)}: {printed!r} is not in {done.stdout!r}")
    return done


def run_statuses(afar: Afar) -> None:
    """The exit status is the program's; what cannot be run is told as env(1) tells it."""
    run = ["run", "--local", "64M", "--far", "64M", "--"]
    expect(afar, [*run, "sh", "-c", "exit 7"], 7)
    expect(afar, [*run, "sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM)
    expect(afar, [*run, "echo", "--local"], 0, printed="--local\n")
    expect(afar, [*run, "no-such-program"], 127, "no-such-program")
    expect(afar, [*run, "/etc/passwd"], 126, "/etc/passwd")
    expect(afar, ["run", "--far", "64M", "true"], 0)
    expect(afar, ["run"], 125, "which program")
    expect(afar, ["run", "--local", "many", "true"], 125, "--local many")
    expect(afar, ["run", "--protect", "hope", "true"], 125, "replicas=2")
    expect(afar, ["run", "--cluster", "tcp://127.0.0.1:1", "true"], 125, "afar run:")


def refusals(afar: Afar) -> None:
    """What our library cannot enter is refused, with the reason, before anything starts."""
    run = ["run", "--local", "64M", "--far", "64M", "--"]
    expect(afar, [*run, str(afar.build / "tests/process/static")], 126, "statically linked")
    if os.geteuid() == 0:
        with folder() as at:
            program = at / "true"
            shutil.copy("/bin/true", program)
            os.chown(program, 65534, 65534)
            program.chmod(0o4755)
            expect(afar, [*run, str(program)], 126, "set-uid")


def statistics_and_environment(afar: Afar) -> None:
    with folder() as at:
        environment = {**os.environ, "AFAR_LOCAL": "32M", "AFAR_STATS": "1"}
        text = expect(afar, ["run", "--far", "64M", "true"], 0, env=environment).stderr
        if "32M" not in text:
            fail(f"AFAR_LOCAL and AFAR_STATS were not heard: {text}")
        expect(afar, ["run", "--far", "64M", "--json", "--output", str(at / "s"), "true"], 0)
        if read_statistics(at / "s")["activated"] is not False:
            fail("a program that fits was managed")
        program = "a = bytearray(b'x') * (96 << 20)\nprint(sum(a[::4096]))"
        expect(afar, ["run", "--local", "32M", "--far", "128M", "--output", str(at / "s"), "--json",
                      "--", "/usr/bin/python3", "-c", program], 0, printed=f"{120 * (96 << 8)}\n")
        if far_faults(at / "s") == 0:
            fail("no page came from afar")
        found = json.loads((at / "s").read_text())
        if found["local_peak_bytes"] > 32 << 20 and found["local_peak_bytes"] > 1.25 * (32 << 20):
            fail(f"the budget of 32 MiB was {found['local_peak_bytes'] >> 20} MiB at the peak")


HOLDER = """
import sys
data = bytearray(b'y') * (64 << 20)
print('ready', flush=True)
total = 0
while True:
    total += sum(data[::4096])
"""


def start_holder(afar: Afar, at: Path) -> "subprocess.Popen[bytes]":
    """A program with far memory that runs for ever; it has faulted when this returns."""
    process = subprocess.Popen(
        [afar.binary, "run", "--local", "32M", "--far", "96M", "--",
         "/usr/bin/python3", "-c", HOLDER],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        start_new_session=True, env={**os.environ, "TMPDIR": str(at)})
    assert process.stdout
    if process.stdout.readline() != b"ready\n":
        fail(f"the program never got going: {process.communicate()[1].decode()}")
    return process


def session_members(session: int) -> list[str]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(stat.parent.name)
        except OSError:
            pass
    return members


def ends_without_a_trace(afar: Afar, end: Callable[["subprocess.Popen[bytes]"], None],
                         status: int) -> None:
    with folder() as at:
        process = start_holder(afar, at)
        end(process)
        process.communicate(timeout=PATIENCE_S)
        if process.returncode != status:
            fail(f"status {process.returncode} and not {status}")
        deadline = time.monotonic() + PATIENCE_S
        while (left := session_members(process.pid)) or list(at.iterdir()):
            if time.monotonic() > deadline:
                fail(f"left behind: processes {left}, files {list(at.iterdir())}")
            time.sleep(0.02)


def interrupt(afar: Afar) -> None:
    """Ctrl-C goes to the whole foreground group."""
    ends_without_a_trace(afar, lambda run: os.killpg(run.pid, signal.SIGINT), 128 + signal.SIGINT)


def terminate(afar: Afar) -> None:
    """A signal to the command alone is the program's."""
    ends_without_a_trace(afar, lambda run: run.terminate(), 128 + signal.SIGTERM)


def kill_supervisor(afar: Afar) -> None:
    """Even kill -9 of the command leaves no process, no memory and no file."""
    ends_without_a_trace(afar, lambda run: run.kill(), -signal.SIGKILL)


def closes_descriptors(afar: Afar) -> None:
    """A program that closes all descriptors it can see keeps its far memory."""
    program = """
import os
data = bytearray(b'z') * (64 << 20)
keep = os.dup2(1, 900)
os.closerange(0, 900)
os.closerange(901, 65536)
os.write(900, b'%d\\n' % sum(data[::4096]))
"""
    with folder() as at:
        expect(afar, ["run", "--local", "32M", "--far", "96M", "--output", str(at / "s"), "--json",
                      "--", "/usr/bin/python3", "-c", program], 0, printed=f"{122 * (64 << 8)}\n")
        if far_faults(at / "s") == 0:
            fail("no page came from afar")


def node_command(afar: Afar) -> None:
    expect(afar, ["node", "--memory", "nothing"], 2, "--memory nothing")
    expect(afar, ["node", "--memory", "1M"], 2, "slab")
    expect(afar, ["node", "what"], 2, "what")
    expect(afar, ["node", "--listen", "tcp://0.0.0.0:0", "--memory", "64M"], 1, "key",
           env={**os.environ, "HOME": "/nonexistent"})
    with afar.node("--listen", "tcp://127.0.0.1:0", "--memory", "64M", "--slab", "2M",
                   "--metrics", "127.0.0.1:0") as node:
        expect(afar, ["node", "--listen", node.addresses[0], "--memory", "64M"], 1, "listen")
        assert node.process.stdout
        port = int(node.process.stdout.readline().split()[-1])
        url = f"http://127.0.0.1:{port}/metrics"
        text = urllib.request.urlopen(url, timeout=60).read().decode()
        if not re.search(r"^# TYPE afar_node_\w+ (gauge|counter)$", text, re.M):
            fail(f"no metrics: {text[:500]}")
        expect(afar, ["status", "--cluster", node.addresses[0]], 0, printed="ok\n")
        done = expect(afar, ["status", "--json", "--cluster", node.addresses[0]], 0)
        found = json.loads(done.stdout)
        if found["health"] != "ok" or found["nodes"][0]["capacity_bytes"] != 64 << 20:
            fail(f"status says {found}")
    expect(afar, ["status", "--cluster", node.addresses[0]], 3, printed="down")


def helps(afar: Afar) -> None:
    expect(afar, ["--version"], 0, printed="afar ")
    expect(afar, [], 2, "usage: afar")
    expect(afar, ["fly"], 2, "fly")
    for topic in ("run", "node", "status"):
        expect(afar, [topic, "--help"], 0, printed=f"usage: afar {topic}")
        expect(afar, ["help", topic], 0, printed="EXIT STATUS")
        expect(afar, [topic, "--no-such-option"], 125 if topic == "run" else 2, "--help")
    expect(afar, ["help", "overview"], 0)
    expect(afar, ["help", "nothing"], 2, "overview")


main({
    "statuses": run_statuses, "refusals": refusals, "statistics": statistics_and_environment,
    "interrupt": interrupt, "terminate": terminate, "kill": kill_supervisor,
    "closed-descriptors": closes_descriptors, "node": node_command, "help": helps,
})

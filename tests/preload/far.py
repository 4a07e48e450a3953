#!/usr/bin/env python3
"""The programs of tests/preload/programs in far memory: they check themselves, and print the same.

usage: far.py BUILD CASE {shm|tcp}

With shm the pager copies from the node's memory itself; with tcp the supervisor does it for it.
A run that fetched nothing from afar fails: it would prove nothing.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "process"))

from harness import PATIENCE_S, Afar, fail, far_faults, folder  # noqa: E402

# How many MiB a program is to use, and how many it may keep here. What is not named: 48 and 12.
SIZES = {
    "fork_tree": (24, 4),
    "fork_while_busy": (32, 12),
    "locked": (128, 12),
    "signals": (96, 12),
}


def main() -> int:
    build, name, way = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    size, local = SIZES.get(name, (48, 12))
    program = [str(build.resolve() / "tests/preload/programs" / name), str(size)]
    plain = subprocess.run(program, stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True)
    afar = Afar(build)
    with ExitStack() as stack:
        at = stack.enter_context(folder())
        options: list[str] = []
        if way == "tcp":
            node = stack.enter_context(
                afar.node("--listen", "tcp://127.0.0.1:0", "--memory", "1G", "--headroom", "0"))
            options = ["--cluster", node.addresses[0]]
        far = afar.run(program, f"{local}M", at / "statistics", options)
        if far.returncode != 0:
            fail(f"status {far.returncode}: {far.stderr.decode()[-2000:]}")
        if far.stdout != plain.stdout:
            fail(f"printed {far.stdout!r} and not {plain.stdout!r}")
        if far_faults(at / "statistics") == 0:
            fail("no page came from afar")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long `isthmus --help` takes, beside an interpreter that does nothing.

python benchmarks/help_time.py          # prints medians of alternating runs; the aim is under half a second
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15
COMMANDS = {
    "isthmus --help": [sys.executable, "-m", "isthmus", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    for name, measured in seconds.items():
        print(f"{name}: median {statistics.median(measured):.3f} s of {RUNS} (slowest {max(measured):.3f} s)")


if __name__ == "__main__":
    main()

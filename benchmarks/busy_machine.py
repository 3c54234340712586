"""What waiting without spinning (OMP_WAIT_POLICY=PASSIVE, set by the command) brings while other work runs.

    python benchmarks/busy_machine.py

A loop of matrix products and element-wise steps, as projectors are made of, runs in a process of its own: on the
machine as it is, and beside as many busy processes as there are cores; with OpenMP's default and with PASSIVE. Runs
alternate; medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

LOOP = """
import time, torch
x, w = torch.randn(512, 1280), torch.randn(1280, 1024)
def step():
    for _ in range(6):
        y = torch.nn.functional.gelu(x @ w)
    return y
step()
start = time.perf_counter()
for _ in range(30):
    step()
print(time.perf_counter() - start)
"""
RUNS = 3


def main() -> None:
    for name, load in (("as it is", 0), ("beside busy processes", os.cpu_count() or 1)):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
        try:
            seconds: dict[str, list[float]] = {"default": [], "PASSIVE": []}
            for _ in range(RUNS):
                for policy, times in seconds.items():
                    times.append(measure(policy))
        finally:
            for process in busy:
                process.kill()
        spinning, passive = (statistics.median(times) for times in seconds.values())
        print(f"{name}: default {spinning:.2f} s, PASSIVE {passive:.2f} s, ratio {spinning / passive:.2f}")


def measure(policy: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    done = subprocess.run([sys.executable, "-c", LOOP], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()

"""The losses' peak memory, measured in a process of its own: anonymous pages only, sampled while they run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from isthmus.precision import choose_precision

# Without instructions for it torch multiplies bf16 at a twentieth of the speed. Rows are narrower there and as many, so
# that the same bounds hold against the same matrices of logits.
FAST = choose_precision("auto", torch.device("cpu")) == "bf16"
WIDTH = 1024 if FAST else 64

MEASURE = """
import ctypes, sys, threading, time, torch
from isthmus.losses import infonce, sigmoid

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

def run(n, d, groups):
    x, y = (torch.nn.functional.normalize(torch.randn(n, d)).to(torch.{dtype}).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor({scale}, requires_grad=True), torch.tensor(-9.0, requires_grad=True)
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free but not given back would hide what the loss takes
    before = anonymous()
    peaks, done = [before], threading.Event()
    def sample():
        while not done.wait(0.002):
            peaks.append(anonymous())
    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    arguments = (x, y, scale) if "{loss}" == "infonce" else (x, y, scale, bias)
    with torch.autocast("cpu", torch.bfloat16, enabled={autocast}):
        loss = {loss}(*arguments, groups=groups)
    loss.backward()
    done.set(); sampler.join()
    return max(peaks) - before

torch.manual_seed(0)
run(64, 8, None)
n, d = {n}, {d}
ids = torch.randint({distinct}, (n,))
print(run(n, d, (ids, ids) if {distinct} < n else None))
"""


def peak(
    loss: str,
    scale: float,
    distinct: int,
    n: int = 8192,
    d: int = 512,
    autocast: bool = False,
    dtype: str = "float32",
) -> float:
    """MiB beyond the inputs at the peak, gradients included."""
    script = MEASURE.format(loss=loss, scale=scale, distinct=distinct, n=n, d=d, autocast=autocast, dtype=dtype)
    return float(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300).stdout
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("loss", "scale", "distinct"),
    [
        ("infonce", 14.0, 8192),
        ("sigmoid", 14.0, 8192),
        ("infonce", 100.0, 4000),
        pytest.param("sigmoid", 14.0, 4000, marks=pytest.mark.slow),
        pytest.param("infonce", 100.0, 3, marks=pytest.mark.slow),
        pytest.param("sigmoid", 14.0, 3, marks=pytest.mark.slow),
    ],
)
def test_8192_pairs_take_less_than_one_logit_matrix(loss, scale, distinct):
    assert 20 < peak(loss, scale, distinct) < 250  # MiB, gradients of 32 MiB included; dense: six matrices of 256 MiB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_memory_beyond_gradients_is_an_eighth_of_open_clips_full_and_a_third_of_its_chunked_loss(loss, autocast):
    # open_clip takes 1,024 MiB and more in full, 340 MiB and more in chunks (benchmarks/losses.py).
    width = WIDTH if autocast else 1024
    beyond = peak(loss, 14.0, 8192, d=width, autocast=autocast) - 2 * width / 32
    assert 5 < beyond < 340 / 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("loss", "peer"), [("infonce", 514), ("sigmoid", 624)])
def test_bf16_inputs_take_an_eighth_of_open_clips_memory_in_bf16(loss, peer):
    beyond = peak(loss, 14.0, 8192, d=WIDTH, dtype="bfloat16") - 2 * WIDTH / 64
    assert 5 < beyond < peer / 8  # MiB, from benchmarks/losses.py


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_32768_pairs_take_less_than_300_mebibytes_beyond_gradients(loss):
    width = 1024 if FAST else 256  # in fp32, which takes no copies in bf16
    least = 100 if FAST else 5
    assert least < peak(loss, 14.0, 32_768, n=32_768, d=width, autocast=FAST) - 2 * width / 8 < 300

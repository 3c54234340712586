"""What hangs on the processor's instructions holds with fewer of them, and with one thread as with two.

torch, oneDNN and MKL are kept to the instructions of older processors; the compiled sweeps follow torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

LIMITS = {  # torch's name of its own kernels, and what else keeps to them
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX512": {  # without BF16 and AMX
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
SUBJECTS = ["loss_compiled", "loss_infonce", "loss_sigmoid", "closed_form", "eval_retrieval", "eval_zeroshot"]
SUBJECTS += ["curation_topk", "search", "suite", "training_resume"]
ELSEWHERE = "finite_differences or memory or built_once or killed or ctrl_c"  # long, and the same with any instructions
RUN = (
    "import sys, pytest, torch; "
    "assert torch.backends.cpu.get_cpu_capability() == sys.argv[1], 'the limit is not in force'; "
    "sys.exit(pytest.main(sys.argv[2:]))"
)


@pytest.mark.slow
@pytest.mark.timeout(600)  # 35 s each where nothing else runs
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limit", LIMITS)
def test_results_hold_with_other_instructions_and_threads(limit: str, threads: int) -> None:
    order = ["DEFAULT", *LIMITS]
    ours = torch.backends.cpu.get_cpu_capability()
    if ours not in order or order.index(ours) < order.index(limit):
        pytest.skip(f"this processor, or its limit, is {ours}")
    files = [str(Path(__file__).with_name(f"test_{name}.py")) for name in SUBJECTS]
    command = [sys.executable, "-c", RUN, limit, "-p", "no:cacheprovider", "-k", f"not ({ELSEWHERE})", *files]
    env = os.environ | LIMITS[limit] | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]

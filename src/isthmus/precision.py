"""bf16 for matrix products if the processor supports it."""

from __future__ import annotations

import torch

from isthmus.errors import UsageError, did_you_mean

PRECISIONS = ("auto", "float32", "bf16")


def choose_precision(wanted: str, device: torch.device) -> str:
    """The precision to run in, "bf16" or "float32", for one of these or "auto".

    "auto" takes bf16 on GPUs and CPUs that multiply in it (AVX-512 BF16, AMX); on others it is emulated and slow.
    Weights, normalisation, sums and optimizer stay in fp32 either way.

    Raises:
        UsageError: none of the three.
    """
    if wanted not in PRECISIONS:
        raise UsageError(f"precision {wanted!r} does not exist." + did_you_mean(wanted, PRECISIONS))
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to torch, and may disappear
    fast = device.type == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if fast else "float32"

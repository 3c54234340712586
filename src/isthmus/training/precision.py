"""bf16 for the projectors' matrix products where the processor multiplies in bf16."""

from __future__ import annotations

import torch


def choose_precision(wanted: str, device: torch.device) -> str:
    """The precision to run in, "bf16" or "float32", where the recipe wants one of them or "auto".

    "auto" takes bf16 on GPUs and CPUs that multiply in it (AVX-512 BF16, AMX); elsewhere it is emulated and
    slow. Weights, normalisation, loss and optimizer stay in fp32 either way.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to torch, and may go
    fast = device.type == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if fast else "float32"

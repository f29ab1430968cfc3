"""The machine that a figure is of, as results name it."""

import os

import torch

from spacte_core.hardware import cpu_name


def this_machine() -> str:
    """Its cores, processor and GPU, e.g. `2 cores, AMD EPYC, no GPU`."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{len(os.sched_getaffinity(0))} cores, {cpu_name()}, {gpu}"

"""A classifier's forms of one precision, fastest first: those of the kernels, and the plain one.

An ONNX graph has one, which its own runtime computes.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from spacte_core.forms import Classifier, Form, plain
from spacte_core.kernel_switch import kernels_enabled
from spacte_core.models.onnx_network import OnnxNetwork
from spacte_core.versions import installed_version

_PLAIN_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forms(
    classifier: Classifier, precision: str, batch: int, rows_NCHW: Tensor, *, only: str | None = None
) -> Iterator[Form]:
    """Forms of one precision, fastest first; without kernels the plain one alone, and none in int8.

    In bf16 the plain one is there for whoever names it, too.

    The arguments are those of `spacte_core.kernels.optimized_forms`.
    """
    if isinstance(classifier.trunk, OnnxNetwork):
        if only in (None, "onnxruntime") and precision == "fp32":
            version = installed_version("onnxruntime")
            yield replace(plain(classifier, batch), name="onnxruntime", fit=version, recordable=False)
        return
    kernels = kernels_enabled()
    if kernels:
        from spacte_core.kernels import optimized_forms

        yield from optimized_forms(classifier, precision, batch, rows_NCHW, only=only)
    dtype = _PLAIN_DTYPES.get(precision)
    if dtype is not None and (only == "plain" or (only is None and (precision == "fp32" or not kernels))):
        yield plain(classifier, batch, dtype)

"""The classes of a set as a model numbers them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import NO_LABEL, InputError


def class_numbers(
    labels: NDArray[np.int64] | Sequence[int], names: Sequence[str], model_names: Sequence[str]
) -> NDArray[np.int64]:
    """The labels as the model numbers its classes: by name where it has all names, else as they are.

    A label below 0 stays none.

    Raises:
        InputError: the set has names of its own, and not as many as the model, so that its numbers mean other classes;
            or a label that its names do not reach.
    """
    labels_N = np.asarray(labels, dtype=np.int64)
    if set(names) <= set(model_names):
        if not names:
            return labels_N
        if beyond := labels_N[labels_N >= len(names)].tolist():
            raise InputError(f"The set has {len(names)} classes, but also the label {beyond[0]}: mend it or its names.")
        ours = np.array([model_names.index(name) for name in names], dtype=np.int64)
        return np.where(labels_N < 0, NO_LABEL, ours[np.maximum(labels_N, 0)])
    if model_names and len(names) != len(model_names) and not all(name.isdecimal() for name in names):
        stranger = next(name for name in names if name not in model_names)
        theirs = ", ".join([*model_names[:3], *(["..."] if len(model_names) > 3 else [])])
        raise InputError(
            f"The set has {len(names)} classes, but the model {len(model_names)} ({theirs}), and {stranger!r} is none "
            "of these: name them alike, or by the model's numbers."
        )
    return labels_N

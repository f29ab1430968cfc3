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
        ours, theirs = (", ".join(each)[:100] for each in (names, model_names))
        raise InputError(
            f"The set has {len(names)} classes ({ours}), but the model {len(model_names)} ({theirs}): name them alike."
        )
    return labels_N

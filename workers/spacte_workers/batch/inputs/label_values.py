"""The true classes as files write them: whole numbers of any type, or the names of the model's classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import NO_LABEL, InputError, named_labels

MOST = int(np.iinfo(np.int64).max)


def label_values(values: Sequence[Any], class_names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Labels of rows; None, NaN and blank texts, which tables write for a missing one, are no label.

    Args:
        values: numbers, or texts: names of classes, or their numbers.
        class_names: of the model.
        where: what holds them, in the plural, as the beginning of a sentence.

    Raises:
        InputError: a number is not whole, or a name is none of the model's.
    """
    if any(isinstance(value, str) for value in values):
        texts = [None if value is None or not str(value).strip() else str(value) for value in values]
        numbered = all(name == str(number) for number, name in enumerate(class_names))
        known = set() if numbered else set(class_names)
        if all(text is None or (text not in known and text.removeprefix("-").isdecimal()) for text in texts):
            return np.array([NO_LABEL if text is None else min(int(text), MOST) for text in texts], dtype=np.int64)
        return named_labels(texts, class_names, where)
    return np.array([_whole(value, where) for value in values], dtype=np.int64)


def _whole(value: Any, where: str) -> int:
    missing = value is None or value != value  # NaN alone is not itself
    if missing:
        return NO_LABEL
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return max(NO_LABEL, min(int(value), MOST))
    raise InputError(f"{where} are no whole numbers ({str(value)[:40]}, say): number the classes from 0.")

"""Working memory that every thread keeps. Fresh pages from the system cost more than the arithmetic done in them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_kept = threading.local()


def scratch(name: str, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """`count` items of unspecified content, valid until this thread asks for `name` again."""
    needed = count * np.dtype(dtype).itemsize
    memory: npt.NDArray[np.uint8] | None = getattr(_kept, name, None)
    if memory is None or memory.size < needed:
        memory = np.empty(needed, np.uint8)
        setattr(_kept, name, memory)
    return memory[:needed].view(dtype)

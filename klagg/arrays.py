"""Types of arrays, and the bounds of the integers that klagg counts, stores and sends: 64 bits with a sign."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

INT64_MAX: Final = (1 << 63) - 1
INT64_MIN: Final = -(1 << 63)

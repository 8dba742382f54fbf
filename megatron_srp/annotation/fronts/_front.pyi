"""See the head of _front.c. N texts; offsets are int64[N+1]; what is written to must have that type already."""

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

def score(
    text: NDArray[np.uint8], offsets: Int64, weights: NDArray[np.uint8], bits: int, sums: Int64, counts: Int64
) -> None: ...
def features(text: NDArray[np.uint8], offsets: Int64, bits: int, feature_offsets: Int64) -> bytes: ...

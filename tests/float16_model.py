"""The float16 scheme in whole numbers of 2^-48, as every product of two numbers of float16 is one."""

import numpy as np

UNIT = 1 << 48
BLOCK = 128  # inputs whose products are added in float16, the even and the odd ones apart
MOST = 65504 * UNIT


def rounded(value):
    """A whole number of 2^-48 to the nearest number of float16, half to even; None beyond the range."""
    size = abs(value)
    # 11 bits; numbers below 2^-14 are whole multiples of 2^-24.
    shift = max(size.bit_length() - 11, 24)
    kept, rest = divmod(size, 1 << shift)
    half = 1 << (shift - 1)
    kept += rest > half or (rest == half and kept % 2 == 1)
    size = kept << shift
    if size > MOST:
        return None
    return size if value >= 0 else -size


def chain(left, right):
    """The sum of products of two lists of float16, each product fused with the sum and rounded once."""
    total = 0
    for a, b in zip(left, right, strict=True):
        total = rounded(total + int(float(a) * 2**24) * int(float(b) * 2**24))
        if total is None:
            return float("nan")
    return total / UNIT


def product(x, weight):
    """(rows, in) and (out, in), finite in float16, as the scheme multiplies them: (rows, out) float32."""
    x, weight = x.astype(np.float16), weight.astype(np.float16)
    (rows, inputs), outputs = x.shape, len(weight)
    found = np.zeros((rows, outputs), np.float32)
    for row in range(rows):
        for output in range(outputs):
            sums = [np.float32(0), np.float32(0)]
            for first in range(0, inputs, BLOCK):
                for odd in range(2):
                    part = slice(first + odd, min(first + BLOCK, inputs), 2)
                    sums[odd] += np.float32(chain(x[row, part], weight[output, part]))
            found[row, output] = sums[0] + sums[1]
    return found

"""Student's t distribution for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""

from math import atan2, cos, pi, sin, sqrt


def above(t: float, df: int) -> float:
    """The probability of a value above `t` with `df` degrees of freedom, at least 1."""
    angle = atan2(abs(t), sqrt(df))
    first, term, total = df % 2, 1.0, 0.0
    for k in range(first + 1, df, 2):  # cos^0, 1/2 cos^2, 1*3/(2*4) cos^4, ... ; or cos, 2/3 cos^3, ...
        total += term * cos(angle) ** (k - 1)
        term *= k / (k + 1)
    inside = 2 / pi * (angle + sin(angle) * total) if first else sin(angle) * total
    tail = (1 - inside) / 2
    return tail if t >= 0 else 1 - tail

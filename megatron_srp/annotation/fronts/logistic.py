"""Logistic regression over few features, by Newton's method."""

import numpy as np

_STEPS = 50


def fit_logistic(features: np.ndarray, harmful: np.ndarray, ridge: float = 1.0) -> tuple[np.ndarray, float]:
    """float64[D] weights and a bias for float[N, D] `features` and bool[N] `harmful`.

    Args:
        ridge: penalty on the squared weights, the bias excepted.
    """
    x = np.column_stack([np.asarray(features, np.float64), np.ones(len(features))])
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6  # keeps separable data solvable
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -60, 60)))
        gradient = x.T @ (p - harmful) + penalty * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


def fit_sigmoid(scores: np.ndarray, harmful: np.ndarray) -> tuple[float, float]:
    """Bias and scale with which sigmoid(bias + scale * score) is a probability: Platt 1999."""
    spread = float(np.std(scores)) or 1.0
    (scale,), bias = fit_logistic((scores / spread)[:, None], harmful, ridge=1e-3)
    return bias, float(scale) / spread

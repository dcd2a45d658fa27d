"""CS231n lecture 4, its two-layer network, transcribed to plain NumPy float64.

The slides' slips are mended: `w1` is (D, H) and `w2` (H, K), not shaped by N.
"""

import numpy as np


def losses(
    x: np.ndarray, y: np.ndarray, w1: np.ndarray, w2: np.ndarray, lr: float, steps: int
) -> list[float]:
    """The sum of squares before each of `steps` updates; the weights are left alone."""
    w1, w2, found = w1.copy(), w2.copy(), []
    for _ in range(steps):
        h = 1 / (1 + np.exp(-x.dot(w1)))
        y_pred = h.dot(w2)
        found.append(float(np.square(y_pred - y).sum()))
        grad_y_pred = 2.0 * (y_pred - y)
        grad_w2 = h.T.dot(grad_y_pred)
        grad_h = grad_y_pred.dot(w2.T)
        grad_w1 = x.T.dot(grad_h * h * (1 - h))
        w1 -= lr * grad_w1
        w2 -= lr * grad_w2
    return found

"""Two real problems whose optimum and curvature are known: logistic and ridge regression on scikit-learn's own sets.

Both minimise f(w) = 1/n sum_i l(x_i·w, y_i) + λ/2 |w|², for standardised features and a bias, which is penalised like
the rest. f is strongly convex, and has one minimum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes

PENALTY = 0.01
NEWTON_STEPS = 50


@dataclass(frozen=True, eq=False)
class Problem(ABC):
    """Features x (n, d), with the bias as last column, targets y (n) and the penalty λ.

    Points w are (d) or (runs, d), and what is computed of them then has a leading dimension `runs` too.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    penalty: float = PENALTY

    curvatures = (0.0, 0.0)
    """The least and the largest l'' there can be."""

    @abstractmethod
    def losses(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """l(score, y), element by element."""

    @abstractmethod
    def slopes(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Derivative of l by the score."""

    @abstractmethod
    def curvature(self, scores: np.ndarray) -> np.ndarray:
        """Second derivative of l by the score."""

    @property
    def n(self) -> int:
        """Examples."""
        return self.x.shape[0]

    @property
    def start(self) -> np.ndarray:
        """Where every run begins: zeros (d)."""
        return np.zeros(self.x.shape[1])

    def loss(self, w: np.ndarray) -> np.ndarray:
        """f(w)."""
        return self.losses(w @ self.x.T, self.y).mean(-1) + self.penalty / 2 * np.square(w).sum(-1)

    def gap(self, w: np.ndarray) -> np.ndarray:
        """f(w) - f(w*): what is left to gain."""
        return self.loss(w) - self.loss(self.optimum)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """The gradient of f, from all n examples."""
        return self.slopes(w @ self.x.T, self.y) @ self.x / self.n + self.penalty * w

    def gradients(self, w: np.ndarray) -> np.ndarray:
        """The gradient of every example at a single w (d), the penalty's in each: (n, d)."""
        return self.slopes(self.x @ w, self.y)[:, None] * self.x + self.penalty * w

    def batch_gradient(self, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean gradient of the examples `rows` (runs, batch) at w (runs, d): each run has a batch of its own."""
        x = self.x.take(rows, 0)
        slopes = self.slopes(np.einsum("rbd,rd->rb", x, w), self.y.take(rows))
        return np.einsum("rb,rbd->rd", slopes, x) / rows.shape[1] + self.penalty * w

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """Second derivatives of f at a single w (d): (d, d)."""
        weighted = self.curvature(self.x @ w)[:, None] * self.x
        return self.x.T @ weighted / self.n + self.penalty * np.eye(len(w))

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """(μ, L): between them lie the eigenvalues of every Hessian of f.

        They are the Hessian's own for ridge, and for logistic regression bounds: λ, and λ_max(X'X) / 4n + λ.
        """
        eigenvalues = np.linalg.eigvalsh(self.x.T @ self.x / self.n)
        least, largest = self.curvatures
        return float(least * eigenvalues[0]) + self.penalty, float(largest * eigenvalues[-1]) + self.penalty

    @cached_property
    def optimum(self) -> np.ndarray:
        """w* (d), by Newton's method from the start: one step for ridge, until rounding for logistic regression."""
        w = self.start
        for _ in range(NEWTON_STEPS):
            step = np.linalg.solve(self.hessian(w), self.gradient(w))
            w = w - step
            if np.abs(step).max() < 1e-12:
                break
        return w


class Logistic(Problem):
    """l = log(1 + e^s) - y s, y in {0, 1}."""

    curvatures = (0.0, 0.25)

    def losses(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logaddexp(0.0, scores) - y * scores

    def slopes(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        return expit(scores) - y

    def curvature(self, scores: np.ndarray) -> np.ndarray:
        chance = expit(scores)
        return chance * (1 - chance)


class Ridge(Problem):
    """l = (s - y)² / 2."""

    curvatures = (1.0, 1.0)

    def losses(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.square(scores - y) / 2

    def slopes(self, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        return scores - y

    def curvature(self, scores: np.ndarray) -> np.ndarray:
        return np.ones_like(scores)


def breast_cancer() -> Logistic:
    """569 tumours, 30 features of their cells: benign or malignant."""
    x, y = load_breast_cancer(return_X_y=True)
    return Logistic("logistic", standardised(x), y.astype(float))


def diabetes() -> Ridge:
    """442 patients, 10 features: the disease's progress a year on, in units of its standard deviation."""
    x, y = load_diabetes(return_X_y=True)
    return Ridge("ridge", standardised(x), y / y.std())


def standardised(x: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and variance 1, and a column of ones for the bias: (n, d + 1)."""
    return np.hstack([(x - x.mean(0)) / x.std(0), np.ones((len(x), 1))])

"""Vectors of unit length whose neighbours are known."""

from __future__ import annotations

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def at_angles(*degrees: float) -> np.ndarray:
    """Vectors of two dimensions: their cosine distances follow from the angles between them."""
    radians = np.radians(degrees)
    return np.c_[np.cos(radians), np.sin(radians)].astype(np.float32)


def groups() -> np.ndarray:
    """60, 30 and 10 vectors around three axes."""
    generator = np.random.default_rng(0)
    return unit(np.repeat(np.eye(3), (60, 30, 10), axis=0) + generator.normal(size=(100, 3)) * 0.05)

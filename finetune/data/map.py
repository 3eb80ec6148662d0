"""`finetune data map`: the rows of a file as points of one page, near each other where their texts are alike.

Texts and vectors are in memory: 10,000 rows of 384 dimensions take 15 MB, and t-SNE of them a minute or two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.curation.blocks import sample
from finetune.curation.cluster_words import characteristic_words
from finetune.curation.clusters import assign
from finetune.curation.map_page import Points, page
from finetune.curation.projection import FEWEST, NEIGHBOURS, Method, Projection, project
from finetune.data.check import check_file
from finetune.data.faults import count_of
from finetune.data.losses import read_losses
from finetune.data.map_colours import by_cluster, by_defect, by_loss
from finetune.data.vectors import encode, read_texts
from finetune.embeddings import TextEncoder
from finetune.errors import ConfigError, DataError
from finetune.whole_file import replace_text

ROWS = 10_000
"""Rows on a map where no limit is given: t-SNE of these takes a minute or two on two cores."""

MOST_CLUSTERS = 12
"""As many as the page has colours that can be told apart."""

ROWS_A_CLUSTER = 20
"""A map of N rows has as many clusters as the square root of N over this: 2 for 80 rows, 10 for 2,000."""

METHODS = {"tsne": "t-SNE", "pca": "PCA"}

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Cluster:
    """A k-means cluster on a map: its rows there, and the words that tell it from the others."""

    size: int
    words: list[str]

    @property
    def label(self) -> str:
        """The words, or what stands for them where a cluster has none of its own."""
        return ", ".join(self.words) or "no word of its own"


@dataclass(frozen=True)
class DataMap:
    """A map of a file of `rows` rows, of which `placeable` have a text to place: not the damaged lines, nor what no run
    would take. `clusters` are by size; `defects` counts the rows on the map by rule."""

    name: str
    rows: int
    placeable: int
    encoder: str
    dimensions: int
    projection: Projection
    clusters: list[Cluster]
    defects: dict[str, int]
    points: Points

    def sentences(self) -> list[str]:
        """What the map shows, and how far it can be trusted."""
        seen, shown = self.projection, len(self.points.rows)
        sampled = f", a seeded sample of {self.placeable:,}" if shown < self.placeable else ""
        lost = self.rows - self.placeable
        unplaced = f"; {count_of(lost, 'row')} without a text to place" if lost else ""
        return [
            f"{shown:,} of {count_of(self.rows, 'row')}{sampled}{unplaced}.",
            f"{METHODS[seen.method]} of {self.dimensions} dimensions by {self.encoder}: trustworthiness "
            f"{seen.trust:.2f}, of a random projection {seen.chance:.2f} (1 where the {NEIGHBOURS} nearest points are "
            "the nearest rows).",
            CAUTIONS[seen.method],
        ]

    def page(self, colouring: str) -> str:
        """The map as one HTML page, opened with a colouring: cluster, defect or loss."""
        return page(f"Map of {Path(self.name).name}", self.sentences(), self.points, colouring)

    def show(self, console: Console) -> None:
        """Prints the sentences, and the clusters with their rows and words."""
        console.print(*map(escape, self.sentences()), sep="\n", highlight=False, soft_wrap=True)
        table = Table("cluster", "rows", "words", box=None, pad_edge=False, header_style="bold")
        for number, cluster in enumerate(self.clusters, start=1):
            table.add_row(f"{number}", f"{cluster.size:,}", escape(cluster.label))
        console.print("", table)
        found = ", ".join(f"{rule} {number:,}" for rule, number in self.defects.items())
        console.print(f"\ndefects: {escape(found) or 'none'}", highlight=False, soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The object that `finetune data map --json` prints."""
        seen = self.projection
        return {
            "file": self.name, "rows": self.rows, "shown": len(self.points.rows), "encoder": self.encoder,
            "method": seen.method, "trustworthiness": seen.trust, "trustworthiness_of_random_projection": seen.chance,
            "clusters": [{"rows": cluster.size, "words": cluster.words} for cluster in self.clusters],
            "defects": self.defects,
        }  # fmt: skip


CAUTIONS = {
    "tsne": "Near points are alike; distances between groups, and the size of a group, mean nothing.",
    "pca": "Far points differ; near ones may differ in what two dimensions do not show.",
}


def map_file(
    path: Path,
    encoder: TextEncoder,
    *,
    method: Method = "tsne",
    limit: int = ROWS,
    losses: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DataMap:
    """A map of at most `limit` rows of a file, a seeded sample where it has more; `losses` as `read_losses` takes them;
    `progress` is called with the share of the texts that is encoded.

    Raises the errors of `check_file`, `read_texts`, `read_losses` and of the encoder, and DataError where fewer than
    FEWEST different texts are there to place.
    """
    name, path = str(path), path.expanduser()
    checked, found = check_file(path), read_texts(path, name)
    known = read_losses(losses, checked.rows) if losses else {}
    if (different := len(set(found.texts))) < FEWEST:
        raise DataError(f"{name}: {count_of(different, 'different text')}", f"a map needs {FEWEST} and more")
    chosen = sample(len(found.rows), max(limit, FEWEST), seed)
    rows, texts = found.rows[chosen].tolist(), [found.texts[at] for at in chosen]
    vectors = encode(texts, encoder, progress)
    projection = project(vectors, method, seed=seed)
    labels = by_size(assign(vectors, clusters_for(len(rows)), seed=seed))
    words = characteristic_words(texts, labels)
    clusters = [Cluster(int((labels == one).sum()), words[one]) for one in range(labels.max() + 1)]
    defects = by_defect(rows, checked.findings)
    colourings = [by_cluster(labels, [cluster.label for cluster in clusters]), defects]
    colourings += [by_loss(rows, known)] if known else []
    x, y = _within_one(projection.points)
    points = Points(rows, x, y, texts, [known.get(row) for row in rows], colourings)
    counted = {rule: sum(number in of for of in defects.of) for number, rule in enumerate(defects.labels[1:], start=1)}
    return DataMap(
        name, checked.rows, len(found.rows), encoder.name, vectors.shape[1], projection, clusters, counted, points
    )


def clusters_for(rows: int) -> int:
    """How many clusters a map has."""
    return max(2, min(MOST_CLUSTERS, round((rows / ROWS_A_CLUSTER) ** 0.5)))


def by_size(labels_N: np.ndarray) -> np.ndarray:
    """The same clusters numbered from the largest."""
    order = np.argsort(-np.bincount(labels_N), kind="stable")
    return np.argsort(order)[labels_N]


def _within_one(points: np.ndarray) -> tuple[list[float], list[float]]:
    """Coordinates within 0 and 1, in one scale for both."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = max((high - low).max(), 1e-12)
    placed = (points - (low + high) / 2) / span + 0.5
    return tuple(np.round(axis, 4).tolist() for axis in placed.T.astype(float))


def write_page(path: Path, text: str) -> None:
    """Writes the page, whole or not at all. Raises ConfigError."""
    try:
        replace_text(path.expanduser(), text)
    except OSError as error:
        raise ConfigError(
            f"--out {path.expanduser()}: cannot be written ({error.strerror})", "name a page in a folder that is there"
        ) from None

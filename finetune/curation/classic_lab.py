"""`finetune lab classic`: seven algorithms of classic learning, what each assumes, and its score on real data."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from threadpoolctl import threadpool_limits

from finetune.curation import classic_digits as on_digits
from finetune.curation.classic_failures import CASES, WIDE, slanted
from finetune.curation.classic_plots import plots
from finetune.curation.outside import auc, forest
from finetune.study import Study, Table

QUESTION = "What do the classic algorithms assume, how well do they do where it holds, and how do they fail where not?"

SETTINGS = {
    "data": "scikit-learn digits, 1,797 images of 8 x 8 pixels", "seed": 0,
    "logistic, k-NN": "the last tenth held out", "SVM": "RBF, gamma 0.001, the second half held out",
    "k-means": "ten clusters of standardised pixels, four starts", "t-SNE": "perplexity 30, from the components",
    "Isolation Forest": "100 trees of 256 rows",
}  # fmt: skip

ALGORITHMS = (
    ("logistic regression", "yes", "min Σ log(1 + exp(−y f(x))) + λ|w|², f linear", "a plane between the classes",
     "good rows from bad, by a few labels"),
    ("SVM", "yes", "min Σ max(0, 1 − y f(x)) + λ|w|²", "a wide margin; columns in one unit",
     "is a language model needed?"),
    ("k-NN", "yes, or no: distance", "none: the nearest rows vote", "near means alike", "outliers; leaks into eval"),
    ("k-means", "no", "min Σ |x − c(x)|²", "round clusters of one size", "balanced subsets; the map's clusters"),
    ("PCA", "no", "max variance of Wᵀx, WᵀW = 1", "what varies most matters", "fewer dimensions before t-SNE"),
    ("t-SNE", "no", "min KL(P ‖ Q) of neighbourhoods", "only neighbours matter", "the map of the data"),
    ("Isolation Forest", "no", "none: few random cuts isolate an outlier", "outliers stand out along an axis",
     "a second opinion on outliers"),
)  # fmt: skip


@cache
def run() -> Study:
    """Runs everything: about fifteen seconds on one core."""
    with threadpool_limits(1):  # several threads wait for each other longer than so little work takes
        drawn = on_digits.maps()
        numbers = on_digits.as_numbers(drawn)
        numbers["failures"] = {
            case.algorithm: dict(zip(("score", "mended"), case.run(), strict=True)) for case in CASES
        }
        numbers["forest"] = forests()
    tables = [algorithm_table(), score_table(numbers), outside_table(numbers), failure_table(numbers)]
    pictures = plots(numbers, drawn)
    numbers["outside"] = {str(digit): found for digit, found in numbers["outside"].items()}
    return Study("classic", QUESTION, SETTINGS, numbers, tables, findings(numbers), pictures)


def forests() -> dict[str, float]:
    """ROC AUC of Isolation Forest where eight directions matter: along axes and turned, among 16 and 384."""
    return {
        f"{dimensions} {name}": auc(forest, *slanted(dimensions, turn=turn))
        for dimensions in (16, WIDE)
        for name, turn in (("axes", False), ("turned", True))
    }


def algorithm_table() -> Table:
    """What the seven are."""
    columns = ["algorithm", "labels", "objective", "assumes", "here for"]
    return Table("Seven algorithms", columns, ALGORITHMS, "algorithms")


def score_table(numbers: dict[str, Any]) -> Table:
    """What each is expected to reach on the digits, and reaches."""
    accuracy = numbers["accuracy"]
    rows = [
        ["logistic regression", "accuracy, last tenth", "0.933", f"{accuracy['logistic']:.3f}"],
        ["SVM", "accuracy, second half", "0.969", f"{accuracy['svm']:.3f}"],
        ["k-NN", "accuracy, last tenth", "0.961", f"{accuracy['knn']:.3f}"],
        ["k-means", "homogeneity", "0.60", f"{numbers['homogeneity']['kmeans']:.2f}"],
        ["PCA", "components for 90, 95, 99 %", "21, 29, 41", ", ".join(map(str, numbers["components"]))],
        ["t-SNE", "trustworthiness", "≥ 0.99", cut(numbers["trustworthiness"]["tsne"])],
        ["Isolation Forest", "ROC AUC, lowest of ten digits", "≥ 0.93", f"{lowest(numbers, 'own'):.2f}"],
    ]
    return Table("On the digits", ["algorithm", "measured as", "expected", "here"], rows, "scores")


def outside_table(numbers: dict[str, Any]) -> Table:
    """Outliers by digit."""
    columns = ["digit", "forest, its own images", "forest, other images", "k-NN distance, other images"]
    rows = [
        [digit, *(f"{found[name]:.3f}" for name in ("own", "held_out", "knn"))]
        for digit, found in numbers["outside"].items()
    ]
    return Table("ROC AUC of telling the other digits from one", columns, rows, "outside")


def failure_table(numbers: dict[str, Any]) -> Table:
    """Each algorithm where its assumption fails."""
    rows = []
    for case in CASES:
        found = numbers["failures"][case.algorithm]
        rows.append([case.algorithm, case.data, case.score, decimals(found["score"]), case.remedy])
        rows[-1].append(decimals(found["mended"]))
    columns = ["algorithm", "data", "score", "reached", "remedy", "with it"]
    return Table("Where each fails", columns, rows, "failures")


def lowest(numbers: dict[str, Any], name: str) -> float:
    """The lowest of the ten digits."""
    return min(found[name] for found in numbers["outside"].values())


def decimals(value: float) -> str:
    """Two decimals; nothing is minus nothing."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def cut(value: float) -> str:
    """Two decimals, cut: t-SNE's third differs from one processor to another."""
    return f"{math.floor(value * 100) / 100:.2f}"


def findings(numbers: dict[str, Any]) -> list[str]:
    """What came out, in sentences."""
    homogeneity, trusted, turned = numbers["homogeneity"], numbers["trustworthiness"], numbers["forest"]
    failed = numbers["failures"]["Isolation Forest"]
    return [
        f"k-means' clusters have a homogeneity of {homogeneity['kmeans']:.2f}, random ones of the same sizes "
        f"{homogeneity['random']:.2f}.",
        f"t-SNE's map is trustworthy to {cut(trusted['tsne'])}, that of two principal components to "
        f"{trusted['pca']:.2f}, a random projection to {trusted['random']:.2f}.",
        f"Isolation Forest tells a digit from the others with an AUC of {lowest(numbers, 'own'):.2f} and more on the "
        f"images it was fitted to, {lowest(numbers, 'held_out'):.2f} on other images of the digit; k-NN distance "
        f"{lowest(numbers, 'knn'):.2f}.",
        f"Eight directions of 16 that lie along axes: AUC {turned['16 axes']:.2f}; the same turned: "
        f"{turned['16 turned']:.2f}. Of {WIDE}: {turned[f'{WIDE} axes']:.2f} and {turned[f'{WIDE} turned']:.2f}, "
        f"k-NN distance {failed['mended']:.2f}.",
    ]

"""`finetune lab classic` runs, reaches scikit-learn's figures, and docs/fundamentals/classic-learning.md quotes it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from checked_page import Page
from lab_command import run_lab
from repo import REPO

from finetune.curation.classic_digits import digits
from finetune.curation.classic_failures import WIDE, slanted
from finetune.curation.classic_lab import lowest
from finetune.curation.outside import auc, distance, forest
from finetune.study import Study, Table, markdown_table

PAGE = REPO / "docs" / "fundamentals" / "classic-learning.md"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_lab("classic", tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def banking() -> dict[str, Any]:
    """The committed result of benchmarks/banking77.py, which tests/curation/test_needed.py computes again in part."""
    return json.loads((REPO / "benchmarks" / "results" / "banking77.json").read_text(encoding="utf-8"))


def test_the_digits_give_scikit_learns_figures(study) -> None:
    numbers = study.numbers
    found = {name: round(value, 3) for name, value in numbers["accuracy"].items()}
    assert found == {"svm": 0.969, "knn": 0.961, "logistic": 0.933}
    assert round(numbers["homogeneity"]["kmeans"], 2) == 0.60
    assert numbers["components"] == [21, 29, 41]
    assert numbers["trustworthiness"]["tsne"] >= 0.99
    assert lowest(numbers, "own") >= 0.93 and len(numbers["outside"]) == 10


def test_each_failure_is_one_and_is_mended(study) -> None:
    assert len(study.numbers["failures"]) == 7
    for algorithm, found in study.numbers["failures"].items():
        assert found["score"] < found["mended"] - 0.15, algorithm


def test_distance_does_not_care_how_the_axes_lie() -> None:
    straight, turned = (auc(distance, *slanted(16, turn=turn)) for turn in (False, True))
    assert straight == pytest.approx(turned, abs=1e-6)
    straight, turned = (auc(forest, *slanted(16, turn=turn)) for turn in (False, True))
    assert straight > 0.99 and turned < 0.75


def test_the_others_lie_in_other_directions() -> None:
    fitted, inside, others = slanted(16, turn=False)
    assert (len(fitted), len(inside), len(others)) == (1000, 1000, 500)
    for rows, first in ((fitted, 0), (inside, 0), (others, 8)):
        wide = np.flatnonzero(rows.std(axis=0) > 0.5)
        assert wide.tolist() == list(range(first, first + 8))


def test_every_number_of_the_page_is_the_labs(study, banking) -> None:
    page = Page(PAGE)
    page.says_tables(study.tables, "classic")
    for check in (says_scores, says_forest, says_failures):
        check(page, study.numbers)
    says_banking(page, banking)
    assert page.unchecked() == []


def test_the_pictures_beside_the_page_are_the_labs(study) -> None:
    for plot in study.plots:
        assert f"(classic-{plot.name}.svg)" in PAGE.read_text(encoding="utf-8")
        assert PAGE.with_name(f"classic-{plot.name}.svg").is_file()


def says_scores(page: Page, numbers: dict[str, Any]) -> None:
    page.says(f"{WIDE} numbers put texts of like meaning")
    page.says(f"{len(digits()[1]):,} images of 8 × 8 pixels")
    page.says(f"drawn at random have a homogeneity of {numbers['homogeneity']['random']:.2f}")
    trusted = numbers["trustworthiness"]
    page.says(f"trustworthy to {trusted['random']:.2f}, two principal components to {trusted['pca']:.2f}.")
    page.says("(Trustworthiness is 1 where the five nearest")


def says_forest(page: Page, numbers: dict[str, Any]) -> None:
    page.says(f"from the other nine: {lowest(numbers, 'own'):.2f} for the hardest digit")
    page.says(
        f"the lowest is {lowest(numbers, 'held_out'):.2f}, and k-NN distance has {lowest(numbers, 'knn'):.2f} there"
    )
    worst = min(numbers["outside"], key=lambda digit: numbers["outside"][digit]["held_out"])
    assert numbers["outside"][worst]["knn"] == lowest(numbers, "knn")


def says_failures(page: Page, numbers: dict[str, Any]) -> None:
    failed, turned = numbers["failures"], numbers["forest"]
    page.says(f"a coin does better than {failed['logistic regression']['score']:.2f}")
    assert abs(failed["k-means"]["score"]) < 0.005
    page.says("an adjusted Rand index of 0.00 is what chance gives")
    assert 1 / 10 < failed["t-SNE"]["score"] < 1 / 8
    page.says("Rows that vary in eight directions out of 16")
    page.says(f"AUC {turned['16 axes']:.2f} where these are axes, {turned['16 turned']:.2f} for the very same rows")
    page.says(f"Among {WIDE} dimensions a random cut rarely")
    page.says(f"one of the eight: {turned['384 axes']:.2f}, and {turned['384 turned']:.2f} turned")
    page.says(
        f"against {failed['Isolation Forest']['mended']:.2f} for k-NN distance. An embedding is just that: {WIDE}"
    )


def says_banking(page: Page, banking: dict[str, Any]) -> None:
    unknown = banking["unknown"]
    assert len(unknown["auc"]["knn"]) == 5
    page.says(f"questions to a bank with {banking['labels']} intents. With {unknown['held_out_intents']} of these")
    page.says(f"AUC {unknown['mean']['knn']:.2f} by k-NN distance, {unknown['mean']['forest']:.2f} by Isolation Forest")
    page.says("where 0.50 is a coin")
    page.says(f"On BANKING77, {banking['train']:,} training rows and {banking['test']:,} held out, with Wilson's 95 %")
    rows = [
        [one["name"], *(f"{one[what]:.3f}" for what in ("accuracy", "low", "high"))]
        for one in (banking["majority"], *banking["tried"])
    ]
    page.says(markdown_table(Table("", ["classifier", "accuracy", "from", "to"], rows)))
    best = max(one["accuracy"] for one in banking["tried"])
    page.says(f"is right on {best:.1%}".replace("%", " %") + ".")
    page.says(f"could add at most {100 * (1 - best):.1f} points")

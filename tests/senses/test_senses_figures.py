"""Figures of senses in the documentation are those of the committed results, and the scripts that wrote them run."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checked_page import Page
from marked_rows import BASS
from repo import REPO

from finetune.embeddings import LayerEncoder
from finetune.senses.forgetting import LOST, PROBE
from finetune.senses.scores import RESAMPLES
from finetune.senses.terms import Term
from finetune.senses.usage import COMPONENTS, FAR, FEWEST, MARGIN, SPLIT, contexts

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """A function that imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module


def committed(name: str) -> dict[str, Any]:
    return json.loads((REPO / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)


def test_the_page_of_forgetting() -> None:
    page, result = Page(REPO / "docs" / "forgetting.md"), committed("forgetting")
    for one in result["runs"]:
        cells = [f"| {one['steps']} updates at a learning rate of {one['learning_rate']:g}"]
        for figure, digits in (("separation", 3), ("loss", 2)):
            base, tuned = (f"{one[side][figure]:.{digits}f}" for side in ("base", "tuned"))
            _, low, high = one["change"][figure]
            cells.append(f"{base} to {tuned} ({signed(low, digits)} to {signed(high, digits)})")
        page.says(" | ".join([*cells, one["verdict"], ""]))
    says_downstream(page, result)
    probe = [json.loads(line) for line in Path(PROBE).read_text(encoding="utf-8").splitlines()]
    senses = Counter((row["lemma"], row["label"]) for row in probe)
    assert len(senses) == 2 * len({lemma for lemma, _ in senses}) == 16, "the page says eight words with two senses"
    page.says(f"on {len(probe)} marked sentences")
    page.says(f"and {len(probe)} sentences cannot say")
    page.says(f"| {-LOST['separation']} lower |")
    page.says(f"| {LOST['loss']} higher |")
    page.says(f"a 95 % bootstrap interval, from {RESAMPLES:,} resamples")
    page.says("in one sense: 0.5 where the states do not know it")
    length = next(one for one in result["overrides"] if one.startswith("data.max_length="))
    page.says(f"with sequences of {length.partition('=')[2]} tokens")
    assert page.unchecked() == []


def says_downstream(page: Page, result: dict[str, Any]) -> None:
    sys.path.append(str(REPO / "benchmarks"))
    script = importlib.import_module("forgetting")
    page.says(f"<!-- downstream: written by scripts/update_docs.py --> {script.downstream_table()}")
    page.says(
        f"on {script.INTENTS * script.EACH} rows of {script.INTENTS} intents of BANKING77, right of as many others."
    )
    base, mild, middle, reckless = (result["downstream"], *(run["downstream"] for run in result["runs"]))
    assert all(abs(of[name] - base[name]) < 0.02 for of in (mild, middle) for name in base)
    page.says("of 400 rows a difference of 0.02 is chance")
    assert script.INTENTS * script.EACH == 400
    page.says(f"worth {reckless['without']:.2f} where it was {base['without']:.2f}; with sense features it is "
              f"{reckless['with']:.2f}, for what stands")  # fmt: skip
    assert base["with"] <= base["without"]


def test_three_runs_have_the_three_verdicts() -> None:
    runs = committed("forgetting")["runs"]
    assert [one["verdict"] for one in runs] == ["kept", "unclear", "forgotten"]
    low, high = runs[1]["change"]["separation"][1:]
    assert low < LOST["separation"] < high, "the page says of the middle row: senses may have moved by more"
    assert all(one["rows"] == 96 and one["limits"] == LOST for one in runs)


def test_what_the_page_of_data_says_of_senses() -> None:
    page, result = Page(REPO / "docs" / "data.md"), committed("senses_terms")
    assert (result["split"], result["margin"]) == (SPLIT, MARGIN), "measured with another criterion: measure again"
    of = {one["contexts"]: one for one in result["induced"]}
    seen = {size: f"{one['two_apart']} of {one['two']}" for size, one in of.items()}
    page.says(
        f"this sees two in {seen[40]} samples of 40 occurrences, in {seen[100]} of 100 and in {seen[200]} of 200;"
    )
    one = [sum(row[name] for row in result["induced"]) for name in ("one", "one_apart")]
    page.says(f"of {one[0]} samples of one sense it took {one[1] or 'none'} for two.")
    told = {name: sum(word[name] for word in result["told"].values()) for name in next(iter(result["told"].values()))}
    undecided, caught = told["undecided"] / told["rows"], told["undecided_wrong"] / told["wrong"]
    assert len(result["told"]) == 9 and caught > 2 * undecided
    page.says(f"{undecided:.0%}".replace("%", " %") + " of the occurrences of nine words are undecided,")
    page.says("and " + f"{caught:.0%}".replace("%", " %") + " of the errors are among them")
    page.says(f"differ by less than {MARGIN} is undecided; one below {FAR} is of no sense told")
    page.says(f"by {SPLIT} standard deviations and more")
    page.says(f"Below {FEWEST} different contexts nothing is induced")
    assert COMPONENTS == 10, "the page says up to ten principal components"


def test_the_power_of_a_criterion_is_counted(module) -> None:
    """Two clouds far apart are seen in every sample, one cloud in none."""
    terms: ModuleType = module("senses_terms")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(96, 4)) + 6 * np.repeat([0, 1], 48)[:, None]
    known = {"word": (vectors, np.array(["a"] * 48 + ["b"] * 48, object))}
    found = terms.induced(40, known, rng)
    assert found == {"contexts": 40, "two": 2, "two_apart": 2, "one": 4, "one_apart": 0}


def test_occurrences_of_told_senses_are_counted(module, encoder: LayerEncoder) -> None:
    labels = [label for label, texts in BASS.items() for _ in texts]
    term = Term("bass", {label: texts[:1] for label, texts in BASS.items()})
    occurrences = [term.context(text, *term.find(text)[0]) for texts in BASS.values() for text in texts]
    found = module("senses_terms").decided(term, contexts(encoder, occurrences), np.array(labels, object), encoder)
    assert found["rows"] == len(labels) and found["wrong"] < len(labels) / 4
    assert found["undecided_wrong"] <= min(found["undecided"], found["wrong"])


def test_the_check_of_a_run(module, config_file: Path) -> None:
    """benchmarks/forgetting.py on a tiny model: one update changes little."""
    forgetting: ModuleType = module("forgetting")
    found = forgetting.run(config_file, 1, 1e-5)
    assert found["verdict"] == "kept" and found["rows"] == 96 and found["seconds"]["train"] > 0
    assert forgetting.row(found).startswith("| 1 updates at a learning rate of 1e-05 | ")
    assert "/" not in json.dumps(found)

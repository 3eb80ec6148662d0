"""`finetune lab senses` runs, its page quotes it and the committed results of senses_wsd.py."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from types import ModuleType

import pytest
from checked_page import Page
from lab_command import run_lab
from repo import REPO

from finetune.embeddings import PACKAGED, LayerEncoder
from finetune.senses import senses_lab
from finetune.senses.minimal_pairs import minimal_pairs
from finetune.senses.nearest import SHRINKAGE
from finetune.senses.senses_tables import BEST, mean
from finetune.senses.views import LAST
from finetune.study import Study, markdown_table

PAGE = REPO / "docs" / "fundamentals" / "word-senses.md"
BANKING77 = REPO / "benchmarks" / "results" / "senses_banking77.json"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    pytest.importorskip(PACKAGED[senses_lab.ENCODER], reason="the encoder comes with finetune[curation]")
    return run_lab("senses", tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    sys.path.insert(0, str(REPO / "benchmarks"))
    return importlib.import_module("senses_pages")


def test_only_a_vector_in_context_knows_the_sense(study: Study) -> None:
    layers = study.numbers["layers"]
    assert all(share == 0.5 for share in layers["static"]["separation"].values())
    assert abs(mean(layers["0"]["separation"]) - 0.5) < 0.05
    assert all(share > 0.6 for share in layers["4"]["separation"].values())


def test_ways_to_tell_senses_stand_in_their_order(study: Study) -> None:
    ways = {name: mean(one) for name, one in study.numbers["ways"].items()}
    assert ways["majority"] == 0.5 < ways["bag of words"] < 0.7
    assert ways["bag of words"] + 0.2 < ways["induced senses, named by labels"] < ways["nearest sentence"] < ways[BEST]


def test_a_bag_of_words_cannot_part_a_pair_it_has_not_seen(study: Study) -> None:
    examples = study.numbers["examples"]
    for chess, ruler in zip(examples[::2], examples[1::2], strict=True):
        assert (chess["label"], ruler["label"]) == ("chess", "ruler")
        assert chess["words"] == ruler["words"]
    for one in study.numbers["pairs"].values():
        assert one["words"] <= one["hidden"]


def test_each_part_holds_a_sentence_of_every_sense() -> None:
    rows = senses_lab.probe()
    parts = senses_lab.folds(rows, senses_lab.PARTS)
    found = Counter((part, row.lemma, row.label) for part, row in zip(parts, rows, strict=True))
    assert set(found.values()) == {1} and len(found) == 96
    assert {row.lemma: {one.label for one in rows if one.lemma == row.lemma} for row in rows} == {
        word: set(texts) for word, texts in senses_lab.GLOSSES.items()
    }


def test_every_number_of_the_page_is_computed(study: Study, pages: ModuleType, encoder: LayerEncoder) -> None:
    page = Page(PAGE)
    for table in study.tables:
        page.says(f"<!-- senses-{table.name}: written by scripts/update_docs.py --> {markdown_table(table)}")
    for table in pages.tables():
        page.says(f"<!-- {table.name}: written by scripts/update_docs.py --> {markdown_table(table)}")
    size = encoder.contextual([senses_lab.probe()[0].occurrence]).shape[1]
    page.says(f"reads {study.settings['rows']} sentences of our own (eight words, two senses each, six for a sense)")
    page.says(f"with MiniLM, {size} numbers a token")
    assert study.settings["words"] == 8
    says_layers(page, study.numbers["layers"])
    says_ways(page, study.numbers)
    results = pages.load()
    says_chess(page, results["king_senses"])
    says_coarse(page, results["coarsewsd20"])
    says_fine_senses(page, results)
    says_intents(page, json.loads(BANKING77.read_text(encoding="utf-8")))
    assert page.unchecked() == []


def says_layers(page: Page, layers: dict) -> None:
    separations = {name: f"{mean(one['separation']):.2f}" for name, one in layers.items()}
    cosines = {name: {kind: f"{value:.2f}" for kind, value in one["cosine"].items()} for name, one in layers.items()}
    page.says("It is 0.5 where the vectors do not know the sense and 1 where every pair of one sense is closer.")
    page.says(f"The static vector is the same in every sentence: {separations['static']}.")
    page.says(f"brings it to {separations['1']}, and the best layers to {max(separations.values())}. The last is not")
    three = cosines["3"]
    page.says(f"After layer 3, occurrences in two senses have a cosine of {three['two senses']}, one sense "
              f"{three['one sense']}, other words {three['two words']}.")  # fmt: skip
    assert three["two words"] == max(one["two words"] for one in cosines.values())
    page.says(f"have a cosine of {three['two words']} where independent directions would have 0.")
    page.says(f"the last layer, at {cosines['6']['two words']}.")


def says_ways(page: Page, numbers: dict) -> None:
    ways = {name: f"{mean(one):.2f}" for name, one in numbers["ways"].items()}
    assert SHRINKAGE == 0.9 and LAST == 3
    page.says("the word's own states after the last three layers")
    page.says("how far clusters and labels agree: 0 at chance, 1 where they are the same partition.")
    assert senses_lab.PARTS == 6
    page.says(f"hardly seen a word of the next one: {ways['bag of words']}.")
    page.says(f"tells {ways[BEST]}, and definitions alone {ways['definitions, no labelled sentence']}.")
    examples = numbers["examples"]
    right = {key: sum(one[key] == one["label"] for one in examples) for key in ("told", "words")}
    page.says(f"is right of {right['words']} of these {len(examples)}.")
    page.says(f"it tells {right['told']}.")
    others = [one for word, one in numbers["pairs"].items() if word != "king"]
    ends = [f"{end(one[key] for one in others):.2f}" for key in ("hidden", "words") for end in (min, max)]
    page.says(f"{ends[0]} to {ends[1]} of them, where a bag of words has {ends[2]} to {ends[3]}.")
    page.says(f"All {len(minimal_pairs()) // 2} pairs, by word:")


def says_chess(page: Page, part: dict) -> None:
    chance, books = (part[way] for way in ("five_folds", "book_left_out"))
    page.says(f"In chance folds a bag of words has {chance['accuracy']['bag_of_words']:.3f}")
    page.says(f"across books it has {books['accuracy']['bag_of_words']:.3f}.")
    page.says(f"The commonest sense falls to {books['accuracy']['majority']:.3f}")
    page.says(f"The encoder keeps {books['accuracy']['senses']:.3f}.")
    page.says(f"are left out there: {books['left_out']}.")
    assert len(books["by_word"]) == 7


def says_coarse(page: Page, part: dict) -> None:
    means = part["mean_accuracy"]
    page.says(f"{len(part['words'])} of the twenty, with their own split")
    page.says("BERT-base, nearest sentence, 0.940 over all twenty words")  # Loureiro et al. 2021
    page.says(f"nearest sentence is at {means['one_nearest_row']:.3f}, `finetune senses fit` at {means['senses']:.3f}, "
              f"with a mean recall over senses of {part['mean_macro_recall']:.3f}.")  # fmt: skip
    page.says(f"A bag of words is at {means['bag_of_words']:.3f}:")


def says_fine_senses(page: Page, results: dict) -> None:
    words, pairs, wic = results["coarsewsd20"]["words"], results["wic"]["pairs"], results["wic"]["accuracy"]
    page.says(f"the word's state is right in {wic['own_state']:.2f} of {pairs['test']} pairs, the sentence in "
              f"{wic['sentence']:.2f}, the static vector in {wic['static']:.2f}.")  # fmt: skip
    bass, club, pitcher = (words[word] for word in ("bass", "club", "pitcher"))
    page.says(f"at its best layer separation is {max(bass['separation'].values()):.2f}, and a bag of words is better, "
              f"{bass['accuracy']['bag_of_words']:.3f} against {bass['accuracy']['senses']:.3f}.")  # fmt: skip
    low, high = club["senses"]["accuracy_interval"]
    assert low < club["accuracy"]["bag_of_words"] < high
    page.says(
        f"ARI {pitcher['induced']['ari']:.2f} for pitcher, where {pitcher['accuracy']['majority']:.3f} of rows have"
    )


def says_intents(page: Page, results: dict) -> None:
    told = {name: f"{one['accuracy']:.3f}" for name, one in results["accuracy"].items()}
    beside = next(one for one in results["paired"] if (one["one"], one["other"]) == ("with", "without"))
    assert min(results["chosen"]["with"]["parts"]) >= 1, "the first part is the sentence vector"
    assert all(results["parts"][at].startswith("mean after layer") for at in results["chosen"]["with"]["parts"])
    page.says(
        f"On BANKING77, {results['labels']} intents, logistic regression is right of {told['without']} by sentence"
    )
    page.says(f"of {told['with']} with states of middle layers beside them: no difference (p = {beside['p']:.2f}).")
    page.says(f"With TF-IDF beside it is {told['without and TF-IDF']}.")

"""Fitting and telling senses with the real encoder: what is shared between words, what is hidden, what is saved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from marked_rows import BASS, BISHOP, CRANE, QUEEN, marked

from finetune.embeddings import LayerEncoder, Occurrence
from finetune.errors import ConfigError, ModelError
from finetune.senses import SenseModel, SenseRow, fit, load, require_free, require_same, save
from finetune.senses.glosses import nearest_gloss
from finetune.senses.model import transfer
from finetune.senses.validation import held_out_labels
from finetune.senses.views import Rarity, hidden, whole

NEW = {
    "bass": {"fish": ["the fisherman hooked a bass in the river"], "music": ["the bass played a low note on stage"]},
    "crane": {"bird": ["a crane flew over the wetland"], "machine": ["the crane hoisted bricks to the roof"]},
}


@pytest.fixture(scope="module")
def model(rows: list[SenseRow], encoder: LayerEncoder) -> SenseModel:
    return fit(rows, encoder)


@pytest.fixture(scope="module")
def saved(model: SenseModel, encoder: LayerEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("senses") / "fitted"
    save(model, encoder, out)
    return out


def new_rows() -> list[SenseRow]:
    return [row for lemma, sentences in NEW.items() for row in marked(lemma, sentences)]


def renamed(names: dict[str, str]) -> list[SenseRow]:
    """Bass and crane under labels of their own choosing."""
    rows = marked("bass", BASS) + marked("crane", CRANE)
    return [replace(row, label=names[row.label]) for row in rows]


def test_senses_of_new_sentences(model: SenseModel, encoder: LayerEncoder) -> None:
    rows = new_rows()
    found = model.predict(rows[::-1], encoder)[::-1]
    assert [one.label for one in found] == [row.label for row in rows] == ["fish", "music", "bird", "machine"]
    assert [one.lemma for one in found] == [row.lemma for row in rows]
    assert all(0.5 < one.confidence <= 1 for one in found)


def test_a_rows_sense_does_not_depend_on_the_others(model: SenseModel, encoder: LayerEncoder) -> None:
    rows = new_rows()
    together = model.predict(rows, encoder)
    for row, one in zip(rows, together, strict=True):
        (alone,) = model.predict([row], encoder)
        assert alone.label == one.label and alone.confidence == pytest.approx(one.confidence, abs=1e-4)


def test_labels_that_mean_the_same_are_learnt_together(encoder: LayerEncoder) -> None:
    model = fit(marked("bishop", BISHOP) + marked("queen", QUEEN) + marked("bass", BASS), encoder)
    shared, alone = model.groups
    assert (shared.view, list(shared.counts)) == ("hidden", ["bishop", "queen"])
    assert (alone.view, list(alone.counts)) == ("whole", ["bass"])
    rows = marked("queen", {"chess": ["the queen fell to a rook"], "other": ["the queen fell to a fever"]})
    assert [one.label for one in model.predict(rows, encoder)] == ["chess", "other"]


def test_labels_that_are_mere_numbers_are_not(encoder: LayerEncoder) -> None:
    """Music and the bird are both 1: told by the other word's rows, senses would be wrong."""
    numbers = {"fish": 0, "bird": 1, "music": 1, "machine": 0}
    model = fit(renamed(numbers), encoder)
    assert [(group.view, list(group.counts)) for group in model.groups] == [("whole", ["bass"]), ("whole", ["crane"])]
    rows = new_rows()
    assert [one.label for one in model.predict(rows, encoder)] == [numbers[row.label] for row in rows]


def test_transfer_is_the_recall_by_the_other_words() -> None:
    vectors = np.array([[1.0, 0], [0, 1], [1, 0.1], [0.1, 1]])
    assert transfer(["v", "v", "w", "w"], [0, 1, 0, 1], vectors) == 1
    assert transfer(["v", "v", "w", "w"], [0, 1, 1, 0], vectors) == 0


def test_the_hidden_view_knows_no_word_and_the_whole_one_does(encoder: LayerEncoder) -> None:
    king, sofa = (Occurrence(f"the {word} stood there", 4, 8) for word in ("king", "sofa"))
    rarity = Rarity({})
    seen = hidden(encoder, [king, sofa], rarity)
    assert seen[0] == pytest.approx(seen[1], abs=1e-6)
    seen = whole(encoder, [king, sofa], rarity)
    assert np.abs(seen[0] - seen[1]).max() > 0.05


def test_common_words_weigh_less() -> None:
    rarity = Rarity.of([[1, 1, 1, 2], [1, 1, 1, 1]])
    one, two, never = rarity(np.array([1, 2, 3]))
    assert one == pytest.approx(3e-4 / (3e-4 + 7 / 8)) and one < two < never == 1


def test_glosses_tell_senses_without_a_labelled_row(encoder: LayerEncoder) -> None:
    definitions = {
        "fish": ["the lean flesh of a freshwater fish with spines"],
        "music": ["the lowest part of the musical range", "an instrument with the lowest range of its family"],
    }
    chosen = marked("bass", BASS)
    told = nearest_gloss(encoder, "bass", [row.occurrence for row in chosen], definitions)
    assert np.mean([one == row.label for one, row in zip(told, chosen, strict=True)]) > 0.8


def test_rows_are_told_by_models_that_did_not_see_them(encoder: LayerEncoder) -> None:
    rows = marked("bass", BASS)
    wrong = [replace(rows[0], label="music"), *rows[1:]]
    told = held_out_labels(wrong, list(range(0, 12)), encoder)
    assert told[0] == "fish", "its own label would say music"
    assert held_out_labels(rows[:7], [0] * 6 + [1], encoder) == [None] * 7, "one sense alone is left"


def test_what_is_loaded_tells_the_same(model: SenseModel, saved: Path, encoder: LayerEncoder) -> None:
    loaded, probe = load(saved)
    require_same(encoder, probe, saved)
    rows = new_rows()
    assert loaded.predict(rows, encoder) == model.predict(rows, encoder)
    assert loaded.words["bass"].predict(rows[:2]) == model.words["bass"].predict(rows[:2])
    assert [group.counts for group in loaded.groups] == [group.counts for group in model.groups]
    assert sorted(file.name for file in saved.iterdir()) == ["senses.json", "senses.safetensors"]
    assert list(saved.parent.iterdir()) == [saved], "nothing is left beside it"


def test_arrays_are_saved_as_they_read_not_as_they_lie(
    model: SenseModel, encoder: LayerEncoder, tmp_path: Path
) -> None:  # fmt: skip
    """safetensors writes memory; that of a transposed array lies in another order."""
    first, *others = model.groups
    turned = replace(first, centroids=replace(first.centroids, weights=np.asfortranarray(first.centroids.weights)))
    save(replace(model, groups=[turned, *others]), encoder, tmp_path / "out")
    assert load(tmp_path / "out")[0].groups[0].centroids.weights == pytest.approx(first.centroids.weights)


def test_number_labels_stay_numbers(encoder: LayerEncoder, tmp_path: Path) -> None:
    model = fit(renamed({"fish": 0, "bird": 1, "music": 1, "machine": 0}), encoder)
    save(model, encoder, tmp_path / "out")
    assert [one.label for one in load(tmp_path / "out")[0].predict(new_rows(), encoder)] == [0, 1, 1, 0]


def damaged(saved: Path, tmp_path: Path, **changed: object) -> Path:
    """A copy with other facts."""
    copy = shutil.copytree(saved, tmp_path / "copy")
    facts = json.loads((copy / "senses.json").read_text(encoding="utf-8")) | changed
    (copy / "senses.json").write_text(json.dumps(facts), encoding="utf-8")
    return copy


def message(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.exit_code == 2 and caught.value.hint
    return caught.value.message.removeprefix(str(path))


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    assert message(tmp_path / "no") == " holds no fitted senses (senses.json: No such file or directory)"
    (tmp_path / "senses.json").write_text("{}", encoding="utf-8")
    assert message(tmp_path) == " holds no fitted senses (senses.safetensors: No such file or directory)"


def test_a_damaged_or_foreign_directory(saved: Path, tmp_path: Path) -> None:
    assert message(damaged(saved, tmp_path / "a", kind="else")) == "/senses.json is not of `finetune senses fit`"
    assert message(damaged(saved, tmp_path / "b", format=99)) == ": format 99, this version reads 1"
    assert message(damaged(saved, tmp_path / "c", groups=[])) == (
        "/senses.json is damaged (ValueError: no words, or no encoder)"
    )
    assert "is damaged (ValueError: group 0 does not fit" in message(
        damaged(saved, tmp_path / "d", groups=[{"view": "other", "labels": [], "counts": {}}])
    )
    copy = damaged(saved, tmp_path / "e")
    numbers = (copy / "senses.safetensors").read_bytes()
    (copy / "senses.safetensors").write_bytes(numbers[:-1] + bytes([numbers[-1] ^ 1]))
    assert message(copy) == "/senses.safetensors is damaged: it is not the file that was written"
    (copy / "senses.json").write_text("{", encoding="utf-8")
    assert message(copy).startswith("/senses.json is damaged (Expecting property name")


def test_another_encoder_of_the_same_name(saved: Path, encoder: LayerEncoder) -> None:
    _, probe = load(saved)
    with pytest.raises(ModelError) as caught:
        require_same(encoder, probe[::-1], saved)
    assert caught.value.message == f"{saved}: encoder {encoder.name!r} is not the one that it was fitted with"


def test_an_out_that_is_there_or_has_no_parent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        require_free(tmp_path)
    assert caught.value.message == f"--out {tmp_path}: exists already"
    with pytest.raises(ConfigError, match="its parent is no directory"):
        require_free(tmp_path / "a" / "b")

"""Marked words: what is read, and the words of every fault."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.errors import DataError
from finetune.senses import require_known, require_senses, sense_rows

GOOD = {"text": "The King is mated.", "start": 4, "end": 8, "lemma": "King", "label": "chess"}
HINT = 'a row is {"text": …, "start": 4, "end": 8, "lemma": "king", "label": "chess"}: the word is text[start:end]'


def refused(*rows: dict[str, Any], labelled: bool = True) -> DataError:
    with pytest.raises(DataError) as caught:
        sense_rows([(f"line {line}", row) for line, row in enumerate(rows, start=1)], "k.jsonl", labelled=labelled)
    return caught.value


def test_a_row_is_read_in_lower_case() -> None:
    (row,) = sense_rows([("line 1", GOOD)], "k.jsonl", labelled=True)
    assert (row.lemma, row.occurrence.text, row.occurrence.word, row.label) == (
        "king", "the king is mated.", "king", "chess",
    )  # fmt: skip


def test_case_gives_nothing_away() -> None:
    shouted = GOOD | {"text": GOOD["text"].upper(), "lemma": "KING"}
    one, other = sense_rows([("line 1", GOOD), ("line 2", shouted)], "k.jsonl", labelled=True)
    assert one == other


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"text": None}, "no text"),
        ({"lemma": None, "label": None}, "no lemma, no label"),
        ({"text": 7}, "text is 7, not a text"),
        ({"text": "  "}, "text is empty"),
        ({"lemma": ["king"]}, "lemma is ['king'], not a text"),
        ({"lemma": ""}, "lemma is empty"),
        ({"label": ""}, "label is '', not a name or a whole number"),
        ({"label": True}, "label is True, not a name or a whole number"),
        ({"label": 0.5}, "label is 0.5, not a name or a whole number"),
        ({"start": "4"}, "start is '4', not a whole number"),
        ({"start": True}, "start is True, not a whole number"),
        ({"end": 8.0}, "end is 8.0, not a whole number"),
        ({"end": 80}, "start 4, end 80 reach outside the text of 18 characters"),
        ({"start": -1}, "start -1, end 8 reach outside the text of 18 characters"),
        ({"start": 8, "end": 4}, "start 8 is not before end 4"),
        ({"start": 4, "end": 4}, "start 4 is not before end 4"),
        ({"start": 3, "end": 4}, "start 3, end 4 mark ' ', which is no word"),
        ({"start": 4, "end": 7}, "start 4, end 7 mark 'Kin', a part of a word"),
        ({"start": 5, "end": 8}, "start 5, end 8 mark 'ing', a part of a word"),
    ],
)
def test_a_fault_is_named_with_its_line(change: dict[str, Any], fault: str) -> None:
    error = refused(GOOD, {key: value for key, value in (GOOD | change).items() if value is not None})
    assert error.message == f"k.jsonl: 1 faulty row\n  line 2: {fault}"
    assert error.hint == HINT and error.exit_code == 4


def test_all_faults_are_named_at_once() -> None:
    error = refused(*[GOOD | {"start": 9, "end": 2, "label": ""}] * 12)
    assert error.message.startswith("k.jsonl: 12 faulty rows\n  line 1: label is ''")
    assert "line 1: label is '', not a name or a whole number; start 9 is not before end 2" in error.message
    assert error.message.endswith("  and 2 more") and "line 11" not in error.message


def test_no_rows() -> None:
    assert refused().message == "k.jsonl: holds no rows"


def test_labels_may_be_numbers_or_absent() -> None:
    unlabelled = {key: value for key, value in GOOD.items() if key != "label"}
    numbered = sense_rows([("line 1", GOOD | {"label": 0}), ("line 2", unlabelled)], "k.jsonl", labelled=False)
    assert [row.label for row in numbered] == [0, None]
    assert refused(unlabelled).message.endswith("line 1: no label")


def test_spans_in_scripts_without_spaces_and_beside_signs() -> None:
    for text, start, end in (
        ("国王在棋盘上", 0, 2),
        ("the king's pawn", 4, 8),
        ("(king)", 1, 5),
        ("3 kings", 2, 7),
        ("c++", 0, 3),
    ):
        sense_rows([("line 1", GOOD | {"text": text, "start": start, "end": end})], "k.jsonl", labelled=True)


def test_words_with_one_sense() -> None:
    other = {"text": "a mate", "start": 2, "end": 6, "lemma": "mate"}
    values = [GOOD, GOOD, other | {"label": "chess"}, other | {"label": "friend"}]
    found = sense_rows([("line", value) for value in values], "k.jsonl", labelled=True)
    with pytest.raises(DataError) as caught:
        require_senses(found, "k.jsonl")
    assert caught.value.message == "k.jsonl: 1 word with one sense\n  king: 2 rows, all of them 'chess'"
    assert caught.value.hint == "add rows of another sense, or take the word out"


def test_words_that_are_not_known() -> None:
    found = sense_rows([("line 1", GOOD), ("line 2", GOOD)], "k.jsonl", labelled=True)
    require_known(found, ["king"], "k.jsonl")
    with pytest.raises(DataError) as caught:
        require_known(found, ["queen", "mate"], "k.jsonl")
    assert caught.value.message == "k.jsonl: 1 unknown lemma\n  'king' in 2 rows"
    assert caught.value.hint == "the senses fitted are of: mate, queen"

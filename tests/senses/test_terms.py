"""Terms found in texts, told or induced senses, and what collides."""

from __future__ import annotations

import numpy as np
import pytest
from marked_rows import BASS

from finetune.embeddings import LayerEncoder, Occurrence
from finetune.errors import DataError
from finetune.senses.collisions import blurred, difference, same_prompt
from finetune.senses.terms import Term, excerpt, normalised, terms_of
from finetune.senses.usage import FEWEST, NONE, SPLIT, UNDECIDED, Usage, apart, contexts, induced, told


def words(term: str, text: str) -> list[str]:
    return [text[start:end] for start, end in Term(term).find(text)]


def test_terms_are_whole_words_in_any_case_with_their_endings() -> None:
    text = "Kings, king's KING kings' kingdom viking king-size the king’s"
    assert words("king", text) == ["Kings", "king's", "KING", "kings'", "king", "king’s"]
    assert words("country", "countries and country's, not countryside") == ["countries", "country's"]
    assert words("match", "two matches") == ["matches"]
    assert words("new york", "in New\n York, NewYork, new yorker") == ["New\n York"]
    assert words("c++", "C++ and c++11, C") == ["C++"]
    assert words(".net", "use .NET, not ASP.NET") == [".NET"]


def test_a_context_is_a_window_in_lower_case_without_the_ending() -> None:
    text = "x" * 300 + " The KINGS came " + "y" * 300
    (span,) = Term("king").find(text)
    found = Term("king").context(text, *span)
    assert found.word == "king" and " the king came " in found.text
    assert len(found.text) == 2 * 200 + len("king")


def test_a_definition_is_read_with_its_term_an_example_as_it_is() -> None:
    labels, found = Term("king", {"chess": ["A piece", "The kings are safe"], "realm": ["a ruler"]}).references()
    assert labels == ["chess", "chess", "realm"]
    assert [one.text for one in found] == ["king: a piece", "the king are safe", "king: a ruler"]
    assert all(one.word == "king" for one in found)


def test_every_faulty_term_is_named() -> None:
    rows = [
        {"term": "king", "sense": []},
        {"senses": {"a": ["b"], "c": ["d"]}},
        {"term": 3},
        {"term": "--"},
        {"term": "bank", "senses": {"money": ["a firm"]}},
        {"term": "bank", "senses": {}},
        {"term": "bank", "senses": ["money"]},
        {"term": "bank", "senses": {"money": "a firm", "river": ["", "side"]}},
        {"term": "Queen"},
        {"term": "queen"},
    ]
    with pytest.raises(DataError) as caught:
        terms_of([(f"line {at}", row) for at, row in enumerate(rows, start=1)], "terms.jsonl")
    title, *lines = caught.value.message.splitlines()
    assert title == "terms.jsonl: 9 faulty rows"
    assert [line.strip() for line in lines] == [
        "line 1: unknown key sense",
        "line 2: no term",
        "line 3: term is 3, not a text",
        "line 4: term is '--', which has no letter or digit",
        "line 5: senses has one sense alone, 'money': name two and more, or leave senses out to have them induced",
        "line 6: senses has no sense: name two and more, or leave senses out to have them induced",
        "line 7: senses is ['money'], not an object of names and lists of texts",
        "line 8: sense 'money': not a list of definitions or examples; "
        "sense 'river': not a list of definitions or examples",
        "line 10: the term 'queen' stands twice",
    ]
    assert caught.value.hint.startswith('a row is {"term": "king"}')
    with pytest.raises(DataError, match=r"terms\.txt: names no term"):
        terms_of([], "terms.txt")


def test_told_senses_are_those_of_the_nearest_example(encoder: LayerEncoder) -> None:
    term = Term("bass", {"fish": ["a fish of lakes and seas"], "music": ["a low instrument of a band"]})
    labels = [label for label, texts in BASS.items() for _ in texts]
    texts = [text for found in BASS.values() for text in found]
    occurrences = [term.context(text, *term.find(text)[0]) for text in texts]
    usage = told(term, encoder, contexts(encoder, occurrences))
    right = [usage.senses[of] == label for of, label in zip(usage.of, labels, strict=True) if of >= 0]
    assert len(right) >= 10 and np.mean(right) >= 0.9


def test_what_is_far_or_between_is_not_decided() -> None:
    class Axes:
        """An encoder of three texts as three axes."""

        def encode(self, occurrences: list[Occurrence], pool: object) -> np.ndarray:
            return np.eye(3)[: len(occurrences)]

    term = Term("word", {"one": ["word 1"], "two": ["word 2"]})
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0.7, 0.71, 0], [0.05, 0.0, 0.99], [0.5, 0.4, 0]])
    usage = told(term, Axes(), vectors)
    assert usage.of.tolist() == [0, 1, UNDECIDED, NONE, 0]
    assert usage.only([1, 3]).of.tolist() == [1, NONE]


def clouds(sizes: tuple[int, ...], gap: float, seed: int = 0) -> tuple[list[Occurrence], np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([rng.normal(0, 0.1, (size, 30)) + gap * np.eye(30)[at] for at, size in enumerate(sizes)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Occurrence(f"text {at}", 0, 4) for at in range(len(vectors))], vectors


def test_one_cloud_is_one_sense_and_two_are_two() -> None:
    occurrences, vectors = clouds((100, 40), 1)
    usage = induced(occurrences, vectors)
    assert usage.apart > SPLIT and usage.senses == ["1", "2"]
    assert usage.of.tolist() == [0] * 100 + [1] * 40, "numbered from the commonest"
    assert usage.nearest.shape == (140, 2)
    false = [apart(clouds((140,), 1, seed)[1]) for seed in range(10)]
    assert sum(z > SPLIT for z in false) <= 1
    assert induced(*clouds((140,), 1)).senses == ["1"]
    assert len(induced(*clouds((60, 60, 60), 1)).senses) == 3


def test_few_contexts_and_copies_are_one_sense() -> None:
    occurrences, vectors = clouds((100, 40), 1)
    few = slice(91, 90 + FEWEST)
    assert apart(vectors[few]) > SPLIT and induced(occurrences[few], vectors[few]).senses == ["1"]
    copies = [occurrences[0]] * 70 + [occurrences[-1]] * 70
    assert induced(copies, vectors[[0] * 70 + [-1] * 70]).senses == ["1"], "two texts, however often"
    assert apart(np.ones((50, 4))) == 0


@pytest.mark.parametrize(
    ("train", "held_out", "kind"),
    [
        ((30, 100), (0, 40), "missing"),
        ((0, 100), (3, 40), "unseen"),
        ((50, 100), (2, 40), "rarer"),
        ((50, 100), (18, 40), None),
        ((5, 10), (1, 4), None),
        ((0, 100), (0, 40), None),
    ],
)
def test_differences_of_two_splits(train: tuple[int, int], held_out: tuple[int, int], kind: str | None) -> None:
    assert difference("a", train, held_out).kind == kind


def test_the_probability_of_a_difference_is_that_of_fisher() -> None:
    # of 4 rows in eval none is among the 5 of 14 with the sense: C(9, 4) / C(14, 4)
    assert difference("a", (5, 10), (0, 4)).p == pytest.approx(126 / 1001)


def usage_of(of: list[int]) -> Usage:
    """Two told senses."""
    return Usage(["a", "b"], np.array(of), np.array([[0, 1]] * len(of)))


def test_common_senses_blur_where_many_are_undecided() -> None:
    (found,) = blurred(usage_of([0] * 10 + [1] * 8 + [UNDECIDED] * 12))
    assert found.senses == ("a", "b") and (found.undecided, found.occurrences) == (12, 30)
    assert not blurred(usage_of([0] * 10 + [1] * 8 + [UNDECIDED] * 4)), "few are undecided"
    assert not blurred(usage_of([0] * 30 + [1] * 2 + [UNDECIDED] * 20)), "one is rare"
    assert not blurred(usage_of([0, 1, UNDECIDED, UNDECIDED])), "too few to say"
    assert blurred(usage_of([0] * 10 + [1] * 8 + [UNDECIDED] * 9 + [NONE] * 40)), "of neither: they do not count"


def test_a_prompt_answered_in_two_senses_collides() -> None:
    uses = [("what is a bass", "line 1", "fish"), ("what is a bass", "line 2", "music"), ("other", "line 3", "fish")]
    (found,) = same_prompt(uses)
    assert found.prompt == "what is a bass" and found.rows == {"fish": ["line 1"], "music": ["line 2"]}
    assert not same_prompt([("one", "line 1", "fish"), ("one", "line 1", "music")]), "one row may have both"
    assert not same_prompt([("one", "line 1", "fish"), ("one", "line 1", "music"), ("one", "line 2", "fish")])


def test_prompts_without_case_and_punctuation_and_excerpts_on_one_line() -> None:
    assert normalised("What is a  BASS?\n") == normalised("what is a bass")
    assert excerpt("a" * 50 + "\nking\n" + "b" * 50, 51, 55, around=4) == "…aaa king bbb…"

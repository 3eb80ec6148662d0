"""The rules that look at one row: what each finds, what it leaves alone, and which of them run."""

from __future__ import annotations

import pytest

from finetune.data.faults import RowFault
from finetune.data.rules import ACROSS, RULES, chosen, texts_of
from finetune.data.rules.registry import row_rules
from finetune.errors import ConfigError

LONG = "The harbour was empty when the last ferry came in, and nobody had thought to leave a light on. "


def row(output: str = "It is in the north.", instruction: str = "Where is the town?", given: str | None = "") -> dict:
    return {"instruction": instruction, "input": given, "output": output}


def found(value: dict) -> dict[str, str]:
    """Every rule that finds something in a row, with its detail."""
    texts = texts_of(value)
    return {name: detail for name, rule in RULES.items() if (detail := rule.find(texts)) is not None}


def test_a_column_that_is_null_does_not_hide_what_the_others_say() -> None:
    texts = texts_of({"input": "Why?", "output": "So.", "instruction": None})
    assert (texts.format, texts.question, texts.answer) == ("prompt_completion", "Why?", "So.")


FOUND = {
    "null_field": [row(given=None)],
    "empty_turn": [row(instruction="  "), {"prompt": "", "completion": "so"}],
    "placeholder_output": [
        row(word) for word in ("N/A", "<No Output>", "nooutput", "-", "...", "None", "TBD", "[empty]")
    ],
    "placeholder_input": [
        row(given=word) for word in ("<noinput>", "No input", "N/A", "(none)", "--", "Not applicable")
    ],
    "url_only_input": [
        row(given="https://example.org/a?b=1"),
        row(given=" <www.example.org/a> "),
        row(given="http://a.example\nhttps://b.example/c"),
    ],
    "missing_media": [
        row(given="<Picture Attached>"),
        row(given="[image]"),
        row(given="(see attached photo)"),
        row(instruction="What is wrong in the attached screenshot?"),
        row(given="<image 2 omitted>"),
    ],
    "mojibake": [row("Itâ€™s here."), row("DÃ¼sseldorf and CafÃ©"), row("one \ufffd two")],
    "markup_residue": [
        row("<p>It is here.</p>"),
        row("first<br/>second"),
        row("bread&nbsp;and butter"),
        row('see <a href="x">here</a>'),
        row("[quote=Ann]yes[/quote]"),
    ],
    "template_tokens": [
        row("Yes.<|im_end|>"),
        row("Yes.</s><s>[INST] "),
        row("<|eot_id|><|start_header_id|>user"),
        row("Yes.<end_of_turn>"),
        row(given="<<SYS>> be kind <</SYS>>"),
        row("Yes.<｜end▁of▁sentence｜>"),
    ],
    "merged_record": [
        row("790\n##\n18. Instruction: Say hello.\n18. Input:\n\n18. Output:\nHello."),
        row("Yes.\n\n### Human: and then?\n### Assistant: Nothing."),
        row("4\nTask: Add 2 and 2.\nOutput: 4"),
    ],
    "loop": [
        row("Yes. " * 25),
        row("4. " * 30),
        row(f"Once {LONG * 6}"),
        row("He came home. " * 40 + "Then it rained, and everybody went in."),
        row("\n".join(f"the same line\nthe same line\nand line {word}" for word in LONG.split())),
    ],
    "refusal": [
        row("As an AI language model, I cannot say."),
        row("I'm sorry, but I can't help with that."),
        row("Sorry, I am unable to open files."),
        row("I cannot provide this."),
    ],
    "too_long": [row(given=LONG * 100)],
    "personal_data": [
        row("Write to jane.roe64@example.org."),
        row("Call +1-202-555-0161 now."),
        row("Call (202) 555-0161."),
        row("It is +49 30 1234 5678."),
        row("Her number is 219-09-9999."),
        row("Pay with 4111 1111 1111 1111."),
        row("Send it to DE89 3704 0044 0532 0130 00."),
    ],
}


@pytest.mark.parametrize(
    ("rule", "value"),
    [(rule, value) for rule, values in FOUND.items() for value in values],
    ids=lambda value: str(value)[:60],
)
def test_a_defect_is_found_and_by_its_rule_alone(rule: str, value: dict) -> None:
    assert list(found(value)) == [rule]


def test_every_rule_has_an_example() -> None:
    assert FOUND.keys() == RULES.keys()


CLEAN = {
    "an answer that is a word": row("No"),
    "a chess piece, an operator, an emoticon": row("♔"),
    "None where the question offers it": row("None", "Name the error in the sentence, or say none."),
    "sodium": row("Na", "What is the symbol of sodium?"),
    "an address in a sentence": row(given="See https://example.org for the menu."),
    "a picture that is only spoken of": row(instruction="Write a caption (for a picture of a cat)."),
    "umlauts, accents, dashes and quotes": row("Élan – “Straße” über naïve 30°C, 日本語 и мир"),
    "HTML that is asked for": row("<p>Hello</p>", "Write it as HTML."),
    "HTML in a code fence": row("```\n<p>Hello</p>\n```"),
    "HTML that the question shows": row("<b>no</b>", "Change this.", "<b>yes</b>"),
    "an index of an array": row("nums[i] < nums[b] & mask"),
    "comparisons": row("a < b and b > c, <3, <anonymized>, <mask>"),
    "a question and its answer": row("Question: What is it?\nAnswer: A town."),
    "a joke that repeats itself": row("Knock knock!\nWho's there?\nBanana.\n" * 3 + "Orange."),
    "strokes of a table": row("a | b\n" + "-" * 80),
    "zeros of a list": row("[" + "0, " * 40 + "0]"),
    "a laugh": row("ha ha ha ha ha"),
    "an apology": row("I'm sorry that the parcel came late. We have sent another."),
    "a calculation": row("1165*10 = <<1165*10=11650>>11650 and 202-555 = -353, 1,000,000+20,000-3.14159"),
    "a date, a version and an address of the net": row("2022-11-05, 3.11.7, 192.168.100.100"),
    "what the question gave": row("Dear ann@example.org,", "Write to ann@example.org."),
    "a card number with a wrong digit": row("4111 1111 1111 1112"),
}


@pytest.mark.parametrize("value", CLEAN.values(), ids=CLEAN)
def test_what_only_looks_like_a_defect_is_left_alone(value: dict) -> None:
    assert found(value) == {}


CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "N/A"},
    {"role": "assistant", "content": "Fine.<|im_end|>"},
]
FORMATS = {
    "messages": {"messages": CONVERSATION},
    "sharegpt": {"conversations": [{"from": "human", "value": "N/A"}, {"from": "gpt", "value": "Fine.<|im_end|>"}]},
    "prompt_completion": {"question": "N/A", "answer": "Fine.<|im_end|>"},
    "alpaca": {"instruction": "Say it.", "instances": [{"input": "N/A", "output": "Fine.<|im_end|>"}]},
}


@pytest.mark.parametrize("format", FORMATS)
def test_rules_see_every_format_alike(format: str) -> None:
    texts = texts_of(FORMATS[format])
    assert (texts.format, texts.answers) == (format, ("Fine.<|im_end|>",))
    assert found(FORMATS[format]) == {"placeholder_input": "N/A", "template_tokens": "<|im_end|>"}


def test_plain_text_is_an_answer_of_unknown_speakers() -> None:
    assert texts_of({"text": "so"}).answers == ("so",)
    assert found({"text": "<|im_start|>user\nI can't access my account.<|im_end|>"}) == {}
    assert found({"text": "I can't access my account."}) == {}
    assert "loop" in found({"text": "Yes. " * 25})


def test_turns_that_are_only_read_are_no_answers() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "N/A", "weight": 0}]
    texts = texts_of({"messages": [*turns, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]})
    assert (texts.asked, texts.answers) == (("a", "N/A", "b"), ("c",))


def test_tool_calls_and_empty_tool_results_are_no_empty_turns() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]}
    turns = [{"role": "user", "content": "go"}, call, {"role": "tool", "content": ""}]
    value = {"messages": [*turns, {"role": "assistant", "content": "Done."}]}
    assert found(value) == {}
    assert (texts_of(value).asked, texts_of(value).answers) == (("go",), ("Done.",))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (row(""), "no text under output"),
        ({"messages": [{"role": "user", "content": "q"}], "label": True}, "judged answers"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({}, "an unknown shape"),
    ],
)
def test_a_row_that_the_loader_refuses_has_no_texts(value: dict, what: str) -> None:
    with pytest.raises(RowFault) as caught:
        texts_of(value)
    assert caught.value.what == what


def test_personal_data_is_masked() -> None:
    assert found(row("Write to jane.roe64@example.org."))["personal_data"] == "e-mail j…@example.org"
    assert found(row("Call +1-202-555-0161 now."))["personal_data"] == "phone number …61"


def test_the_limit_of_too_long_follows_the_model() -> None:
    texts = texts_of(row("a" * 500))
    (short,), (long,) = (row_rules(frozenset({"too_long"}), length) for length in (100, 200))
    assert (short.find(texts), long.find(texts)) == ("518 characters", None)


class TestSwitches:
    def test_all_rules_are_on(self) -> None:
        assert chosen() == RULES.keys() | ACROSS.keys()

    def test_some_can_be_named_or_left_out(self) -> None:
        assert chosen(["loop", "refusal"]) == {"loop", "refusal"}
        assert chosen(["loop", "refusal"], ["loop"]) == {"refusal"}
        assert chosen(without=["loop"]) == (RULES.keys() | ACROSS.keys()) - {"loop"}

    def test_an_unknown_rule_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError) as caught:
            chosen(without=["refusals"])
        assert caught.value.message == "unknown rule 'refusals'"
        assert caught.value.hint.startswith("did you mean refusal? known rules: null_field, ")

    def test_no_rule_at_all_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no rule is left to run"):
            chosen(["loop"], ["loop"])

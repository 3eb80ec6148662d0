"""`finetune data preview`: which characters are shown as trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.text import Text

from finetune.data import Encoder, Split
from finetune.data.formats import to_examples
from finetune.data.preview import CONTEXT, TRAINED, preview
from finetune.data.rows import Row


@pytest.fixture
def shown(load, tmp_path: Path):
    """The preview of rows of `messages`."""

    def of(*rows: dict, count: int = 3, overrides: tuple[str, ...] = ()) -> list[tuple[str, Text]]:
        path = tmp_path / "shown.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = load(f"data.train={path}", "data.eval=null", *overrides)
        return preview(data.tokenizer, data.train, count)

    return of


def talk(*words: str) -> dict:
    roles = ("user", "assistant") * len(words)
    return {"messages": [{"role": role, "content": word} for role, word in zip(roles, words, strict=False)]}


def styled(text: Text) -> list[tuple[str, str]]:
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_trained_tokens_stand_out_of_their_context(shown):
    ((title, text),) = shown(talk("Hi", "Hello", "Bye", "So long"))
    assert styled(text) == [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", CONTEXT),
        ("Hello<|im_end|>", TRAINED),
        ("\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n", CONTEXT),
        ("So long<|im_end|>", TRAINED),
        ("\n", CONTEXT),
    ]
    assert re.search(r"shown\.jsonl line 1: \d+ tokens, \d+ trained$", title)


def test_characters_of_several_tokens_are_whole(shown):
    ((_, text),) = shown(talk("漢字🙂", "naïve 🙂🙃"))
    assert text.plain == "<|im_start|>user\n漢字🙂<|im_end|>\n<|im_start|>assistant\nnaïve 🙂🙃<|im_end|>\n"
    assert ("naïve 🙂🙃<|im_end|>", TRAINED) in styled(text)


def test_spaces_that_a_tokenizer_keeps_in_its_words_are_shown(metaspace):
    (example,), _ = to_examples([Row(talk("Hi", "Hello"), "line 1", 0)])
    row = Encoder(metaspace, loss_on="assistant", max_length=99).encode(example)
    ((_, text),) = preview(metaspace, Split([example], [row], None), 1)
    assert styled(text) == [("<s> [INST] Hi [/INST]", CONTEXT), (" Hello</s>", TRAINED)]


def test_control_characters_shift_no_colour(shown):
    ((_, text),) = shown(talk("a\r\x07b", "Hello"))
    assert ("Hello<|im_end|>", TRAINED) in styled(text)


def test_brackets_are_shown_as_they_are(shown):
    ((_, text),) = shown(talk("[red]x[/red]", "[b]y"))
    assert "[red]x[/red]" in text.plain and ("[b]y<|im_end|>", TRAINED) in styled(text)


def test_cut_rows_say_so(shown):
    keys = "data.max_length=60", "data.max_truncated=0.5"
    whole, cut = shown(talk("Hi", "Hello"), talk("Hi", "word " * 50), overrides=keys)
    assert re.search(r"line 1: \d+ tokens, ", whole[0])
    assert re.search(r"line 2: 60 tokens, cut from \d+, \d+ trained$", cut[0])
    assert styled(cut[1])[-1][0].startswith("word word")


def test_as_many_rows_as_asked_for(shown):
    rows = [talk("Hi", "Hello")] * 3
    assert len(shown(*rows, count=2)) == 2
    assert len(shown(*rows, count=9)) == 3


def test_all_is_trained_but_the_first_token(shown):
    ((_, text),) = shown({"text": "Hello"}, overrides=("data.loss_on=all",))
    assert [style for _, style in styled(text)] == [CONTEXT, TRAINED]
    assert text.plain == "Hello<|im_end|>"

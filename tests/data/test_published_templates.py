"""What is trained under published chat templates, against TRL's copies of them with generation markers.

TRL ships `NAME.jinja`, as a model has it, beside `NAME_training.jinja`, where the assistant's words stand between
markers. Ours are found in either without looking at markers. The two agree but for these reasoned differences, since
only what the model has to write at inference, up to and including its stop token, is trained:

- TRL also trains white space behind the stop token, where a template has some: generation has ended before it.
- TRL also trains the header, or the reasoning block that it opens, where its marker stands before them: they are the
  generation prompt's, given to the model.
- Gemma's turns with a tool call: see `test_gemma_stops_where_the_result_of_a_call_begins`.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from finetune.data import Encoder
from finetune.data.breaches import Inspector
from finetune.data.formats import Example
from finetune.data.template import ChatTemplate
from finetune.errors import DataError

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
MARKER = re.compile(r"{%-?\s*generation")
TEXT_AND_IMAGES = ("idefics3", "llava_next", "smolvlm")
"""Templates that render only contents made of parts, text or images: ours are text."""

MARKED = [name for name, source in SOURCES.items() if MARKER.search(source) and not name.startswith(TEXT_AND_IMAGES)]
PAIRS = {name.removesuffix("_training"): name for name in MARKED if name.endswith("_training")}
STOP = {
    "cohere": "<|END_OF_TURN_TOKEN|>", "deepseek": "<｜end▁of▁sentence｜>", "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>", "gemma4": "<turn|>", "glm4moe": "<|endoftext|>", "gptoss": "<|return|>",
    "llama3": "<|eot_id|>", "muse": "<|eot|>", "phi3": "<|endoftext|>",
}  # fmt: skip
"""EOS of each family, by the longest prefix of its name; <|im_end|> where none fits."""

SPECIAL = re.compile(r"<\|\w+\|?>|<\w+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_turn>")

CALL = {"id": "call12345", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
SCHEMA = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
RESULT = {"role": "tool", "name": "add", "tool_call_id": "call12345", "content": "three"}


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


CONVERSATIONS = {
    "single": [user("1+2?"), assistant("It is 3")],
    "multi": [user("1+2?"), assistant("It is 3"), user("Sure?"), assistant("Yes\n\nI am")],
    "system": [
        {"role": "system", "content": "Be brief"}, user("1+2?"), assistant("It is 3"), user("Sure?"), assistant("Yes"),
    ],
    "call": [user("1+2?"), assistant("", tool_calls=[CALL]), RESULT, assistant("It is 3")],
    "words and call": [
        user("1+2?"), assistant("Let me see", tool_calls=[CALL]), RESULT, assistant("It is 3"),
        user("Thanks"), assistant("Welcome"),
    ],
    "reasoning": [user("1+2?"), assistant("It is 3", reasoning_content="one plus two")],
    "reasoning twice": [
        user("1+2?"), assistant("It is 3", reasoning_content="one plus two"),
        user("Sure?"), assistant("Yes", reasoning_content="I counted"),
    ],
    "reasoning in content": [
        user("1+2?"), assistant("<think>\none plus two\n</think>\n\nIt is 3"),
        user("Sure?"), assistant("<think>\nI counted\n</think>\n\nYes"),
    ],
    "reasoning and call": [
        user("1+2?"), assistant("", tool_calls=[CALL], reasoning_content="use the tool"), RESULT,
        assistant("It is 3", reasoning_content="the tool says so"),
    ],
}  # fmt: skip


REFUSED = {
    "cohere": "must alternate", "cohere2": "must alternate", "deepseek_r1_distill": "tool calls of turn 2",
    "deepseekv3": 'not "dict"', "gemma": "must alternate|System role not supported", "gemma3": "must alternate",
    "llama3": "tool calls of turn 2", "phi3": "tool calls of turn 2", "phi3_5": "tool calls of turn 2",
    "qwen2_5_vl": "tool calls of turn 2",
}  # fmt: skip
"""Words with which calls and their results are refused, and Gemma's system turn."""


@pytest.fixture
def published(chat_tokenizer):
    """A published template under a tokenizer with the special tokens that it writes."""

    def make(name: str) -> ChatTemplate:
        family = max((prefix for prefix in STOP if name.startswith(prefix)), key=len, default="")
        special = sorted(set(SPECIAL.findall(SOURCES[name])))
        eos = STOP.get(family, "<|im_end|>")
        return ChatTemplate(chat_tokenizer(SOURCES[name], eos=eos, bos="<bos>", special=special))

    return make


def schemas(messages: list[dict]) -> list[dict] | None:
    return [{"type": "function", "function": SCHEMA}] if RESULT in messages else None


def answers(messages: list[dict]) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


def trained(template: ChatTemplate, messages: list[dict]) -> str:
    """The rendered text from the first question on, with the trained characters in ⟦⟧."""
    text, spans = template.trained_spans(messages, schemas(messages), answers(messages))
    for start, end in reversed(spans):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    return text[text.index(messages[0]["content"]) :]


def by_markers(template: ChatTemplate, source: str, messages: list[dict]) -> tuple[str, list[tuple[int, int]]]:
    """Text and spans of a template with markers; adjoining spans are joined."""
    (text,), (found,) = render_jinja_template(
        [messages],
        tools=schemas(messages),
        chat_template=source,
        return_assistant_tokens_mask=True,
        **template.tokenizer.special_tokens_map,
    )
    joined: list[tuple[int, int]] = []
    for start, end in (span for span in found if span[0] < span[1]):
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return text, joined


def is_given(template: ChatTemplate, text: str, messages: list[dict], turn: int, start: int, end: int) -> bool:
    """Whether text[start:end] is what the generation prompt gives the model before a turn."""
    prompt = template.render(messages[:turn], schemas(messages), generate=True)
    return prompt.endswith(text[start:end]) or prompt.startswith(text[:end])


def compare(template: ChatTemplate, source: str, messages: list[dict]) -> bool:
    """Asserts that ours are TRL's but for the reasoned differences; False where the two texts are not the same."""
    turns = answers(messages)
    text, ours = template.trained_spans(messages, schemas(messages), turns)
    theirs_text, theirs = by_markers(template, source, messages)
    if text != theirs_text:
        return False
    assert len(ours) == len(theirs) == len(turns)
    for turn, (start, end), (first, last) in zip(turns, ours, theirs, strict=True):
        assert first <= start < end <= last
        assert not text[end:last].strip()
        assert first == start or is_given(template, text, messages, turn, first, start)
    return True


def compared(template: ChatTemplate, name: str, source: str) -> set[str]:
    """The conversations that were compared; others have another text, or are refused in the words known."""
    same = set()
    for kind, messages in CONVERSATIONS.items():
        if name == "diffusion_gemma" and RESULT in messages:
            continue
        try:
            same |= {kind} if compare(template, source, messages) else set()
        except DataError as error:
            assert re.search(REFUSED[name], error.message)
    return same


@pytest.mark.parametrize("name", PAIRS)
def test_a_template_without_markers(published, name):
    same = compared(published(name), name, SOURCES[PAIRS[name]])
    # GLM's training template adds a stop token that its own has not; ours is EOS.
    assert len(same) >= (0 if name == "glm4moe" else 3)


@pytest.mark.parametrize("marked", MARKED)
def test_a_template_with_markers_that_are_not_looked_at(published, marked):
    name = marked.removesuffix("_training")
    refused = 0 if name not in REFUSED or name == "deepseekv3" else 4 if name == "gemma" else 3
    apart = 3 if name == "diffusion_gemma" else 0
    assert len(compared(published(marked), name, SOURCES[marked])) == len(CONVERSATIONS) - refused - apart


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith(TEXT_AND_IMAGES) and "training" not in n])
def test_templates_of_parts_are_refused_rather_than_trained_empty(published, name):
    with pytest.raises(DataError, match=r"leaves out turn 1|refuses a conversation"):
        trained(published(name), CONVERSATIONS["single"])


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (
            "glm4moe",
            "reasoning twice",
            "1+2?<|assistant|>⟦\n<think></think>\nIt is 3<|user|>⟧\nSure?<|assistant|>⟦\n<think>I counted</think>\nYes"
            "<|endoftext|>⟧",
        ),
        (
            "llama3_1",
            "words and call",
            '1+2?<|eot_id|>{header}⟦{call}<|eot_id|>⟧<|start_header_id|>ipython<|end_header_id|>\n\n"three"<|eot_id|>'
            "{header}⟦It is 3<|eot_id|>⟧<|start_header_id|>user<|end_header_id|>\n\nThanks<|eot_id|>"
            "{header}⟦Welcome<|eot_id|>⟧",
        ),
        (
            "qwen3",
            "reasoning twice",
            "1+2?<|im_end|>\n<|im_start|>assistant\n⟦It is 3<|im_end|>⟧\n<|im_start|>user\nSure?<|im_end|>\n"
            "<|im_start|>assistant\n⟦<think>\nI counted\n</think>\n\nYes<|im_end|>⟧\n",
        ),
    ],
)
def test_templates_whose_text_is_not_that_of_a_training_template(published, name, kind, expected):
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    call = '{"name": "add", "parameters": {"a": 1}}'
    expected = expected.replace("{header}", header).replace("{call}", call)
    assert trained(published(name), CONVERSATIONS[kind]) == expected


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("gemma4_v5", "call", "⟦It is 3<turn|>⟧\n"),
        ("diffusion_gemma", "call", "⟦<|turn>model\nIt is 3<turn|>⟧\n"),
        (
            "gemma4_v5",
            "words and call",
            "Let me see⟦It is 3<turn|>⟧\n<|turn>user\nThanks<turn|>\n<|turn>model\n⟦Welcome<turn|>⟧\n",
        ),
    ],
)
def test_gemma_stops_where_the_result_of_a_call_begins(published, name, kind, expected):
    """Gemma writes the result into the turn of the call, and words beside a call behind it.

    The model writes the call and <|tool_response>, a stop token of these models, which TRL leaves untrained; the words
    behind the result cannot be what it wrote. After a result there is no generation prompt: the model goes on as
    the template does, which for DiffusionGemma begins with the header.
    """
    assert trained(published(name), CONVERSATIONS[kind]) == (
        "1+2?<turn|>\n<|turn>model\n⟦<|tool_call>call:add{a:1}<tool_call|><|tool_response>⟧"
        'response:add{value:<|"|>three<|"|>}<tool_response|>' + expected
    )


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith(TEXT_AND_IMAGES)])
def test_no_published_template_breaks_the_mask_contract(published, name):
    """Whatever a conversation is made of, and though the tokenizer pads with EOS and would add a BOS of its own."""
    encoder = Encoder(published(name).tokenizer, loss_on="assistant", max_length=4096)
    written = 0
    for messages in CONVERSATIONS.values():
        example = Example("line 1", "messages", messages, tools=schemas(messages))
        try:
            row = encoder.encode(example)
        except DataError as error:
            assert re.search(REFUSED.get(name.removesuffix("_training"), "$^"), error.message)
            continue
        written += 1
        assert Inspector(encoder).faults(example, row) == []
    assert written >= 5

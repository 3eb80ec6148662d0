"""Real, public data of every shape: read, recognised and converted whole, or refused in clear words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from finetune.data.formats import Example, to_examples
from finetune.data.rows import read_rows
from finetune.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the repository")


def examples(name: str) -> tuple[list[Example], str]:
    return to_examples(read_rows(str(SHARED / name), role="train", seed=0))


def turns(found: list[Example]) -> Counter:
    return Counter(message["role"] for example in found for message in example.messages)


@pytest.mark.parametrize(
    ("name", "format", "count"),
    [
        ("gsm8k/train.jsonl", "prompt_completion", 7473),
        ("self_instruct_seed/seed_tasks.jsonl", "alpaca", 175),
        ("self_instruct_seed/user_oriented_instructions.jsonl", "alpaca", 252),
        ("mlx_wikisql_lora/train.jsonl", "text", 1000),
        ("mlx_wikisql_lora/valid.jsonl", "text", 100),
        ("mlx_wikisql_lora/test.jsonl", "text", 100),
        ("toolcalls/glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("toolcalls/reason_tool_use_demo_50.jsonl", "messages", 50),
        ("chat_samples/v1_sft_demo.jsonl", "messages", 500),
        ("chat_samples/dummy_conversation.json", "sharegpt", 500),
        ("banking77/train.csv", "text", 10003),
    ],
)
def test_every_row_is_converted(name, format, count):
    found, kind = examples(name)
    assert (kind, len(found)) == (format, count)
    for example in found:
        if format == "text":
            assert example.text.strip()
        else:
            assert any(message["role"] == "assistant" for message in example.messages)
        assert (example.prompt is not None) == (format in ("alpaca", "prompt_completion"))


def test_sharegpt_with_function_calls():
    found, _ = examples("toolcalls/glaive_toolcall_en_demo.json")
    assert turns(found) == {"user": 746, "assistant": 957, "tool": 211}
    calls = [call for example in found for message in example.messages for call in message.get("tool_calls", [])]
    assert len(calls) == 211
    assert all(isinstance(call["function"]["arguments"], dict) for call in calls)
    assert sum(example.tools is None for example in found) == 109


def test_messages_with_reasoning_and_several_calls_in_a_turn():
    found, _ = examples("toolcalls/reason_tool_use_demo_50.jsonl")
    spoken = [message for example in found for message in example.messages if message["role"] == "assistant"]
    assert all(message["reasoning_content"] for message in spoken)
    assert all(message["content"] or message["tool_calls"] for message in spoken)
    assert max(len(message.get("tool_calls", [])) for message in spoken) == 3
    assert {tool["type"] for example in found for tool in example.tools or []} == {"function"}


def test_loss_weights_of_turns():
    found, _ = examples("chat_samples/v1_sft_demo.jsonl")
    assert turns(found) == {"user": 500, "assistant": 500}
    assert not any("train" in message for example in found for message in example.messages)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "chat_samples/mt_bench_question.jsonl",
            "line 1: lists of questions (keys: question_id, category, turns)",
        ),
        ("chat_samples/vicuna_bench_question.jsonl", "line 1: lists of questions"),
        ("chat_samples/oasst_en_100_tree.jsonl", "line 1: OpenAssistant message trees (keys: message_tree_id"),
        ("chat_samples/oasst_en_100_message.jsonl", "line 1: OpenAssistant message trees (keys: message_id"),
        ("preference/dpo_en_demo.json", "row 1: preference data (keys: conversations, chosen, rejected)"),
        ("preference/kto_en_demo.json", "row 1: judged answers (keys: messages, label)"),
        ("preference/v1_dpo_demo.jsonl", "line 1: preference data (keys: chosen_messages, rejected_messages)"),
        ("messy_instructions/messy.jsonl", "15 rows have no text under output: "),
        ("messy_instructions/conversation.missingturns.json", "1 row has an empty assistant turn: "),
        ("oewn/oewn_wic_train.jsonl", "line 1: an unknown shape (keys: word, pos, sentence1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(name, words):
    with pytest.raises(DataError) as caught:
        examples(name)
    assert words in caught.value.message
    assert caught.value.hint


def test_all_nine_faults_of_the_broken_file_are_named():
    with pytest.raises(DataError) as caught:
        read_rows(str(SHARED / "messy_instructions" / "broken.jsonl"), role="train", seed=0)
    title, *lines = caught.value.message.splitlines()
    assert title.endswith("broken.jsonl: 9 faulty lines")
    assert [int(line.split()[1].rstrip(":")) for line in lines] == [6, 10, 14, 18, 22, 26, 30, 34, 38]

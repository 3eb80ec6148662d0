"""From rows to examples: which format is found, what each becomes, and the words of each refusal."""

from __future__ import annotations

import json

import pytest

from finetune.data.formats import Example, detect_format, to_examples
from finetune.data.rows import Row
from finetune.errors import DataError

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
UNTRAINED = ANSWER | {"train": False}
HUMAN = {"from": "human", "value": "hi"}
GPT = {"from": "gpt", "value": "hello"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
SCHEMA = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}


def rows(*values: dict) -> list[Row]:
    return [Row(value, f"t.jsonl line {index + 1}", index) for index, value in enumerate(values)]


def example(value: dict, format: str = "auto") -> Example:
    (only,), _ = to_examples(rows(value), format)
    return only


def messages(*turns: dict, **columns) -> list[dict]:
    """The messages of a row of `messages` with these turns."""
    return example({"messages": list(turns), **columns}).messages


def refusal(*values: dict, format: str = "auto") -> DataError:
    with pytest.raises(DataError) as caught:
        to_examples(rows(*values), format)
    assert caught.value.hint
    assert caught.value.exit_code == 4
    return caught.value


class TestDetection:
    @pytest.mark.parametrize(
        ("value", "format"),
        [
            ({"messages": [USER, ANSWER]}, "messages"),
            ({"conversations": [USER, ANSWER]}, "messages"),
            ({"prompt": [USER], "completion": [ANSWER]}, "messages"),
            ({"messages": [USER, ANSWER], "prompt": "hi", "prompt_id": "7"}, "messages"),
            ({"conversations": [HUMAN, GPT]}, "sharegpt"),
            ({"conversation": [HUMAN, GPT], "id": 1}, "sharegpt"),
            ({"messages": [HUMAN, GPT]}, "sharegpt"),
            ({"instruction": "i", "input": "", "output": "o"}, "alpaca"),
            ({"instruction": "i", "output": "o", "text": "rendered"}, "alpaca"),
            ({"instruction": "i", "context": "c", "response": "r", "category": "qa"}, "alpaca"),
            ({"instruction": "i", "instances": [{"input": "", "output": "o"}]}, "alpaca"),
            ({"prompt": "p", "completion": "c"}, "prompt_completion"),
            ({"prompt": "p", "response": "r"}, "prompt_completion"),
            ({"question": "q", "answer": "a", "text": "t"}, "prompt_completion"),
            ({"system_prompt": "", "question": "q", "response": "r"}, "prompt_completion"),
            ({"query": "q", "response": "r"}, "prompt_completion"),
            ({"problem": "p", "solution": "s"}, "prompt_completion"),
            ({"input": "i", "output": "o"}, "prompt_completion"),
            ({"text": "t", "label": "greeting"}, "text"),
            ({"content": "t"}, "text"),
        ],
    )
    def test_keys_tell(self, value, format):
        assert detect_format(rows(value)) == format
        assert to_examples(rows(value))[1] == format
        assert example(value).format == format

    def test_columns_that_are_null_everywhere_do_not_count(self):
        value = {"messages": None, "text": None, "conversations": [HUMAN, GPT], "chosen": None, "rejected": None}
        assert detect_format(rows(value, value)) == "sharegpt"
        assert example(value).messages == [USER, ANSWER]

    def test_a_null_among_filled_rows_is_a_fault_and_no_format_of_its_own(self):
        good = {"instruction": "i", "input": "x", "output": "o"}
        error = refusal(good, good | {"output": None}, good | {"instruction": None})
        assert error.message.splitlines() == [
            "2 of 3 rows cannot be trained on",
            "  1 row has no text under output: t.jsonl line 2 (null)",
            "  1 row has no text under instruction: t.jsonl line 3 (null)",
        ]

    def test_other_rows_tell_the_format_of_one_without_turns(self):
        error = refusal({"conversations": []}, {"conversations": [USER, ANSWER]})
        assert error.message == "1 row has no turns: t.jsonl line 1"

    def test_mixed_formats_are_refused_with_the_first_row_of_each(self):
        qa, text = {"question": "q", "answer": "a"}, {"text": "t"}
        error = refusal(qa, qa, text, {"messages": [USER, ANSWER]}, text, {"foo": 1})
        assert error.message.splitlines() == [
            "rows of 4 different formats, which first appear at",
            "  prompt_completion: t.jsonl line 1 (keys: question, answer)",
            "  text: t.jsonl line 3 (keys: text)",
            "  messages: t.jsonl line 4 (keys: messages)",
            "  an unknown shape: t.jsonl line 6 (keys: foo)",
        ]
        assert error.hint.startswith("bring all rows to one format")

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preference data"),
            ({"chosen_messages": [USER], "rejected_messages": [USER]}, "preference data"),
            ({"messages": [USER, ANSWER], "label": True}, "judged answers"),
            ({"prompt": "p", "completion": "c", "label": False}, "judged answers"),
            ({"message_tree_id": "1", "prompt": {"text": "t", "replies": []}}, "OpenAssistant message trees"),
            ({"message_id": "1", "text": "t", "role": "prompter"}, "OpenAssistant message trees"),
            ({"question_id": 1, "turns": ["q"]}, "lists of questions"),
            ({"instruction": "i", "input": "x"}, "questions without answers"),
            ({"instruction": "i", "output": None}, "questions without answers"),
            ({"prompt": "p"}, "questions without answers"),
            ({}, "an unknown shape"),
        ],
    )
    def test_other_shapes_are_refused_by_name(self, value, kind):
        keys = ", ".join(f"{key} (null)" if item is None else key for key, item in value.items()) or "none"
        assert refusal(value).message == f"t.jsonl line 1: {kind} (keys: {keys})"

    def test_hints_of_refused_shapes(self):
        assert "needs a preference method" in refusal({"chosen": "a", "rejected": "b"}).hint.replace(
            "need a", "needs a"
        )
        assert "one row of messages" in refusal({"message_tree_id": "1"}).hint
        assert "a prompt of its own" in refusal({"turns": ["q"]}).hint
        assert "training.method=rloo" in refusal({"prompt": "p"}).hint
        assert "question and answer" in refusal({"foo": 1}).hint

    def test_many_keys_are_cut(self):
        assert refusal({str(n): 1 for n in range(12)}).message.endswith("(keys: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …)")


class TestExplicitFormat:
    def test_it_decides_where_keys_allow_several(self):
        value = {"instruction": "i", "output": "o", "text": "t", "prompt": "p", "completion": "c"}
        assert example(value).format == "alpaca"
        assert example(value, "text").text == "t"
        assert example(value, "prompt_completion").prompt == "p"

    def test_it_must_match_every_row(self):
        error = refusal({"text": "t"}, {"question": "q", "answer": "a"}, format="text")
        assert error.message == (
            "t.jsonl line 2: data.format=text, but found prompt_completion (keys: question, answer)"
        )
        assert error.hint == "set data.format=prompt_completion, or auto"

    def test_input_and_output_beside_an_instruction_are_alpaca(self):
        error = refusal({"instruction": "i", "input": "x", "output": "o"}, format="prompt_completion")
        assert error.hint == "set data.format=alpaca, or auto"

    def test_it_does_not_make_preferences_trainable(self):
        error = refusal({"messages": [USER, ANSWER], "label": False}, format="messages")
        assert error.message == "t.jsonl line 1: data.format=messages, but found judged answers (keys: messages, label)"
        assert "pairs of chosen and rejected" in error.hint


class TestMessages:
    def test_roles_are_brought_to_four(self):
        roles = ["developer", "prompter", "gpt", "Human", "model", "ipython", "assistant"]
        turns = messages(*({"role": role, "content": "x"} for role in roles))
        assert [turn["role"] for turn in turns] == [
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
            "tool",
            "assistant",
        ]

    def test_parts_become_text_reasoning_and_calls(self):
        parts = [
            {"type": "reasoning", "value": "I add."},
            {"type": "text", "text": "One "},
            {"type": "text", "value": "moment."},
            {"type": "tool_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"type": "tool_call", "value": {"name": "add", "arguments": {"a": 1}}},
        ]
        assert messages({"role": "user", "content": ["h", "i"]}, {"role": "assistant", "content": parts}) == [
            USER,
            {"role": "assistant", "content": "One moment.", "reasoning_content": "I add.", "tool_calls": [CALL, CALL]},
        ]

    @pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'], ids=["object", "JSON text"])
    def test_openai_tool_calls(self, arguments):
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
        result = {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "1", "cost": 3}
        turns = messages(USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result)
        assert turns[1] == {"role": "assistant", "content": "", "tool_calls": [{"id": "c1"} | CALL]}
        assert turns[2] == {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "add"}

    @pytest.mark.parametrize("arguments", [None, "", {}, "{}"])
    def test_calls_without_arguments(self, arguments):
        turns = messages(USER, {"role": "assistant", "function_call": {"name": "now", "arguments": arguments}})
        assert turns[1]["tool_calls"] == [{"type": "function", "function": {"name": "now", "arguments": {}}}]

    @pytest.mark.parametrize("key", ["loss_weight", "weight", "train"])
    def test_weights_of_turns(self, key):
        turns = [USER | {key: 0}, ANSWER | {key: 0.0}, USER, ANSWER | {key: 1.0}, ANSWER | {key: None}]
        assert messages(*turns) == [USER, UNTRAINED, USER, ANSWER, ANSWER]
        assert messages(ANSWER | {key: False}, ANSWER | {key: True}) == [UNTRAINED, ANSWER]

    def test_an_empty_turn_of_weight_0_is_only_read(self):
        assert messages(USER, {"role": "assistant", "content": "", "weight": 0}, ANSWER)[1]["train"] is False

    @pytest.mark.parametrize("tools", [[SCHEMA], json.dumps([SCHEMA]), [{"type": "function", "function": SCHEMA}]])
    def test_tools(self, tools):
        found = example({"messages": [USER, ANSWER], "tools": tools})
        assert found.tools == [{"type": "function", "function": SCHEMA}]

    @pytest.mark.parametrize("tools", [None, "", "[]", []])
    def test_no_tools(self, tools):
        assert example({"messages": [USER, ANSWER], "tools": tools}).tools is None

    def test_a_system_column_comes_first(self):
        assert messages(USER, ANSWER, system="Be brief.") == [{"role": "system", "content": "Be brief."}, USER, ANSWER]
        assert messages(USER, ANSWER, system="") == [USER, ANSWER]

    def test_prompt_and_completion_of_messages_train_the_completion_alone(self):
        found = example({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
        assert found.messages == [USER, UNTRAINED, USER, ANSWER]
        assert found.prompt is None


class TestShareGPT:
    def test_roles(self):
        names = ["system", "human", "chatgpt", "user", "bard", "observation", "bot"]
        found = example({"conversations": [{"from": name, "value": "x"} for name in names]})
        roles = [turn["role"] for turn in found.messages]
        assert roles == ["system", "user", "assistant", "user", "assistant", "tool", "assistant"]

    def test_function_calls(self):
        call = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
        calls = {"from": "function_call", "value": '[{"name": "add", "arguments": "{\\"a\\": 1}"}]'}
        result = {"from": "function_response", "value": "1"}
        found = example({"conversations": [HUMAN, call, result, GPT], "tools": [SCHEMA], "system": "Be brief."})
        assert found.messages == [
            {"role": "system", "content": "Be brief."},
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "1"},
            ANSWER,
        ]
        assert found.tools == [{"type": "function", "function": SCHEMA}]
        joined = example({"conversations": [HUMAN, GPT, call, calls, result, GPT]}).messages
        assert joined[1] == ANSWER | {"tool_calls": [CALL, CALL]}
        assert [turn["role"] for turn in joined] == ["user", "assistant", "tool", "assistant"]


class TestAlpaca:
    def test_messages_and_the_raw_prompt(self):
        found = example({"instruction": "Add.", "input": "1 and 2", "output": "3"})
        assert found.messages == [
            {"role": "user", "content": "Add.\n\n1 and 2"},
            {"role": "assistant", "content": "3"},
        ]
        assert found.prompt.endswith("\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n")
        assert not found.prompt.startswith("###")

    @pytest.mark.parametrize("nothing", [{}, {"input": ""}, {"input": None}])
    def test_no_input(self, nothing):
        found = example({"instruction": "Say hi.", "output": "hi"} | nothing)
        assert found.messages[0]["content"] == "Say hi."
        assert "### Input" not in found.prompt

    def test_system_and_history(self):
        value = {"instruction": "c", "output": "d", "system": "Be brief.", "history": [["a", "b"]]}
        found = example(value)
        assert [turn["role"] for turn in found.messages] == ["system", "user", "assistant", "user", "assistant"]
        assert [turn["content"] for turn in found.messages] == ["Be brief.", "a", "b", "c", "d"]
        assert found.prompt == (
            "Be brief.\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc\n\n### Response:\n"
        )

    def test_each_instance_is_an_example(self):
        instances = [{"input": "1", "output": "one"}, {"input": "", "output": "none"}]
        found, _ = to_examples(rows({"instruction": "Spell.", "instances": instances}))
        assert [one.where for one in found] == ["t.jsonl line 1 instance 1", "t.jsonl line 1 instance 2"]
        assert [one.messages[0]["content"] for one in found] == ["Spell.\n\n1", "Spell."]
        assert [one.messages[-1]["content"] for one in found] == ["one", "none"]


class TestPromptCompletionAndText:
    def test_pairs(self):
        found = example({"question": " 2+2?", "answer": "4 "})
        assert found.prompt == " 2+2?"
        assert found.messages == [{"role": "user", "content": " 2+2?"}, {"role": "assistant", "content": "4 "}]
        assert found.tools is None
        assert found.text is None

    def test_system_prompt(self):
        found = example({"system_prompt": "Be brief.", "question": "q", "response": "r"})
        assert found.prompt == "Be brief.\n\nq"
        assert found.messages[0] == {"role": "system", "content": "Be brief."}

    def test_text(self):
        assert example({"text": " a\n"}) == Example("t.jsonl line 1", "text", [], text=" a\n")


class TestFaultyRows:
    @pytest.mark.parametrize(
        ("turns", "message"),
        [
            ([], "no turns: t.jsonl line 1"),
            ([USER], "no assistant turn: t.jsonl line 1"),
            ([USER, UNTRAINED], "no assistant turn to train on: t.jsonl line 1 (every one has weight 0)"),
            ([USER, ANSWER | {"content": " \n"}], "an empty assistant turn: t.jsonl line 1 (turn 2)"),
            ([USER, ANSWER | {"content": []}], "an empty assistant turn: t.jsonl line 1 (turn 2)"),
            ([USER, {"role": "assistant"}], "a turn without content: t.jsonl line 1 (turn 2)"),
            ([{"content": "hi"}, ANSWER], "a turn without a role: t.jsonl line 1 (turn 1)"),
            ([USER, "hello"], "a turn that is not an object: t.jsonl line 1 (turn 2: text)"),
            ("hi", "turns that are not a list: t.jsonl line 1 (text)"),
            (
                [USER, {"role": "assistent", "content": "x"}],
                "an unknown role: t.jsonl line 1 (turn 2: 'assistent', did you mean assistant?)",
            ),
            ([{"role": 7, "content": "x"}], "an unknown role: t.jsonl line 1 (turn 1: 7)"),
            ([USER | {"content": 3}, ANSWER], "content that is not text: t.jsonl line 1 (turn 1: a number)"),
            (
                [USER | {"content": [{"type": "image_url"}]}, ANSWER],
                "content that is not text: t.jsonl line 1 (turn 1: a part of type 'image_url')",
            ),
            (
                [USER | {"content": [{"type": "text"}]}, ANSWER],
                "content that is not text: t.jsonl line 1 (turn 1: a text part that is null)",
            ),
            (
                [USER | {"content": [None]}, ANSWER],
                "content that is not text: t.jsonl line 1 (turn 1: a part that is null)",
            ),
            ([USER, ANSWER | {"weight": 0.5}], "a loss weight other than 0 or 1: t.jsonl line 1 (turn 2: 0.5)"),
            (
                [USER, {"role": "function_call", "value": "{'name'"}],
                "a tool call that cannot be read: t.jsonl line 1 "
                "(turn 2: Expecting property name enclosed in double quotes at character 2)",
            ),
            (
                [USER, ANSWER | {"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
                "a tool call that cannot be read: t.jsonl line 1 (turn 2: arguments are a list, not an object)",
            ),
            (
                [USER, ANSWER | {"tool_calls": [{"function": {"arguments": {}}}]}],
                "a tool call that cannot be read: t.jsonl line 1 (turn 2: no name)",
            ),
        ],
    )
    def test_conversations(self, turns, message):
        assert refusal({"messages": turns}, format="messages").message == f"1 row has {message}"

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"tools": "[{"}, "a tools column that cannot be read: t.jsonl line 1 (Expecting property name"),
            ({"tools": "{}"}, "a tools column that cannot be read: t.jsonl line 1 (an object, not a list)"),
            ({"tools": [{}]}, "a tools column that cannot be read: t.jsonl line 1 (a tool without a name)"),
            ({"system": 3}, "no text under system: t.jsonl line 1 (a number)"),
        ],
    )
    def test_columns_beside_a_conversation(self, columns, message):
        error = refusal({"messages": [USER, ANSWER]} | columns)
        assert error.message.startswith(f"1 row has {message}")

    def test_two_system_prompts(self):
        error = refusal({"messages": [{"role": "system", "content": "a"}, USER, ANSWER], "system": "b"})
        assert error.message == "1 row has two system prompts: t.jsonl line 1 (a column and a turn)"

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"prompt": "p", "completion": ""}, "no text under completion: t.jsonl line 1 (empty)"),
            ({"question": "q", "answer": 4}, "no text under answer: t.jsonl line 1 (a number)"),
            ({"prompt": ["p"], "completion": "c"}, "no text under prompt: t.jsonl line 1 (a list)"),
            ({"instruction": "i", "output": " \n"}, "no text under output: t.jsonl line 1 (empty)"),
            ({"instruction": "i", "output": {}}, "no text under output: t.jsonl line 1 (an object)"),
            ({"text": ""}, "no text under text: t.jsonl line 1 (empty)"),
            ({"instruction": "i", "instances": []}, "no list of instances: t.jsonl line 1"),
            ({"instruction": "i", "instances": [{"input": "x"}]}, "no text under output: t.jsonl line 1 (null)"),
            ({"instruction": "i", "output": "o", "history": [["a"]]}, "a history that cannot be read: t.jsonl line 1"),
            (
                {"instruction": "i", "output": "o", "history": [["a", 1]]},
                "a history that cannot be read: t.jsonl line 1",
            ),
        ],
    )
    def test_columns(self, value, message):
        assert refusal(value).message == f"1 row has {message}"

    def test_an_empty_prompt_is_no_fault(self):
        assert example({"prompt": "", "completion": "c"}).prompt == ""

    def test_faults_are_gathered_by_kind_with_ten_named_and_all_hints(self):
        bad = [{"messages": [USER]}] * 12 + [{"messages": [USER, ANSWER]}] + [{"messages": [ANSWER | {"role": "x"}]}]
        error = refusal(*bad)
        places = ", ".join(["t.jsonl line 1", *(f"line {n}" for n in range(2, 11)), "…"])
        assert error.message.splitlines() == [
            "13 of 14 rows cannot be trained on",
            f"  12 rows have no assistant turn: {places}",
            "  1 row has an unknown role: t.jsonl line 14 (turn 1: 'x')",
        ]
        assert "add the answer" in error.hint
        assert "known roles: system, developer, user" in error.hint

    def test_the_name_of_a_file_is_said_again_where_it_changes(self):
        bad = [Row({"text": ""}, where, 0) for where in ("a b.csv row 1", "a b.csv row 2", "c.csv row 1")]
        with pytest.raises(DataError) as caught:
            to_examples(bad, "text")
        places = "a b.csv row 1 (empty), row 2 (empty), c.csv row 1 (empty)"
        assert caught.value.message == f"3 rows have no text under text: {places}"

    def test_a_row_taken_twice_by_weight_counts_once(self):
        twice = rows({"messages": []}, {"messages": [USER]}) * 2
        with pytest.raises(DataError) as caught:
            to_examples(twice, "messages")
        assert caught.value.message.splitlines() == [
            "2 of 2 rows cannot be trained on",
            "  1 row has no turns: t.jsonl line 1",
            "  1 row has no assistant turn: t.jsonl line 2",
        ]

"""Tokens and labels of examples: what is trained, with which BOS and EOS, under tokenizers of two kinds.

Expectations are the trained tokens, decoded run by run.
"""

from __future__ import annotations

from itertools import groupby

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from finetune.data.encode import IGNORED, Encoded, Encoder
from finetune.data.formats import to_examples
from finetune.data.rows import Row
from finetune.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "So long"},
    ]
}

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL_TALK = {
    "messages": [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3"},
    ],
    "tools": [{"name": "add", "description": "Adds.", "parameters": {}}],
}


@pytest.fixture
def chatml(chat_tokenizer):
    """Byte-level BPE; pad, EOS and the template's stop token are one token."""
    return chat_tokenizer(CHATML, eos="<|im_end|>", bos="<|im_start|>")


def encode(tokenizer, value: dict, *, loss_on: str = "assistant", max_length: int = 1000) -> Encoded:
    (example,), _ = to_examples([Row(value, "t.jsonl line 1", 0)])
    return Encoder(tokenizer, loss_on=loss_on, max_length=max_length).encode(example)


def runs(tokenizer, row: Encoded) -> list[str]:
    """The trained tokens, one text for each unbroken run; each label is the token it stands for."""
    assert len(row.input_ids) == len(row.labels)
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    grouped = groupby(row.labels, key=lambda label: label != IGNORED)
    return [tokenizer.decode(list(run)) for trained, run in grouped if trained]


class TestConversations:
    def test_every_answer_with_its_stop_token(self, chatml):
        row = encode(chatml, TALK)
        assert runs(chatml, row) == ["Hello<|im_end|>", "So long<|im_end|>"]
        assert row.trained == sum(label != IGNORED for label in row.labels)
        assert row.length == len(row.input_ids)

    def test_the_stop_token_is_trained_though_it_is_the_pad_token(self, chatml):
        assert chatml.pad_token_id == chatml.eos_token_id
        assert encode(chatml, TALK).labels.count(chatml.eos_token_id) == 2

    def test_the_last_answer_only(self, chatml):
        assert runs(chatml, encode(chatml, TALK, loss_on="completion")) == ["So long<|im_end|>"]

    def test_all_but_the_first_token(self, chatml):
        row = encode(chatml, TALK, loss_on="all")
        assert row.labels == [IGNORED, *row.input_ids[1:]]

    @pytest.mark.parametrize("loss_on", ["assistant", "completion"])
    def test_turns_that_are_only_read(self, chatml, loss_on):
        turns = [*TALK["messages"][:3], TALK["messages"][3] | {"weight": 0}]
        assert runs(chatml, encode(chatml, {"messages": turns}, loss_on=loss_on)) == ["Hello<|im_end|>"]

    def test_all_ends_in_eos_where_the_template_does_not(self, chat_tokenizer):
        tokenizer = chat_tokenizer("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}")
        assert encode(tokenizer, TALK, loss_on="all").labels[-1] == tokenizer.eos_token_id

    def test_templates_do_not_see_our_marks(self, chat_tokenizer):
        template = CHATML.replace(
            "{{ '<|im", "{% if 'train' in m %}{{ raise_exception('marked') }}{% endif %}{{ '<|im", 1
        )
        turns = [*TALK["messages"][:3], TALK["messages"][3] | {"train": False}]
        tokenizer = chat_tokenizer(template, eos="<|im_end|>")
        assert runs(tokenizer, encode(tokenizer, {"messages": turns})) == ["Hello<|im_end|>"]

    def test_characters_of_several_tokens(self, chatml):
        turns = [{"role": "user", "content": "🙂é"}, {"role": "assistant", "content": "naïve 🙂🙃 漢字"}]
        assert runs(chatml, encode(chatml, {"messages": turns})) == ["naïve 🙂🙃 漢字<|im_end|>"]

    def test_a_prompt_and_its_completion_become_a_conversation(self, chatml):
        assert runs(chatml, encode(chatml, {"prompt": "Hi", "completion": "Hello"})) == ["Hello<|im_end|>"]

    def test_bos_is_the_templates_own(self, chatml, metaspace):
        assert encode(chatml, TALK).input_ids[:2].count(chatml.bos_token_id) == 1
        assert encode(metaspace, TALK).input_ids.count(metaspace.bos_token_id) == 1

    def test_spaces_that_belong_to_a_word(self, metaspace):
        assert runs(metaspace, encode(metaspace, TALK)) == ["Hello</s>", "So long</s>"]

    def test_bytes_of_unknown_characters(self, metaspace):
        turns = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "é🙂"}]
        row = encode(metaspace, {"messages": turns})
        assert runs(metaspace, row) == ["é🙂</s>"]
        assert row.trained == 1 + 2 + 4 + 1  # the space, the bytes, the stop token

    def test_a_refusal_names_the_row(self, chat_tokenizer):
        with pytest.raises(DataError) as caught:
            encode(chat_tokenizer(None), TALK)
        assert caught.value.message == (
            "t.jsonl line 1: the rows are conversations, but the model's tokenizer has no chat template"
        )
        assert caught.value.hint == "train an instruct model, or give a Jinja file as data.chat_template"

    def test_words_that_the_template_leaves_out_are_counted(self, chatml):
        turns = [message | {"reasoning_content": "hm"} for message in TALK["messages"]]
        assert encode(chatml, {"messages": turns}).unwritten == 2
        assert encode(chatml, TALK).unwritten == 0


class TestPlainText:
    def test_text_is_trained_whole_with_eos(self, chatml):
        row = encode(chatml, {"text": "Hello"})
        assert chatml.decode(row.input_ids) == "Hello<|im_end|>"
        assert row.labels == [IGNORED, *row.input_ids[1:]]

    def test_eos_is_there_once(self, chatml, metaspace):
        for tokenizer in (chatml, metaspace):
            for text in ("Hello", f"Hello{tokenizer.eos_token}"):
                row = encode(tokenizer, {"text": text})
                assert row.input_ids.count(tokenizer.eos_token_id) == 1
                assert row.input_ids[-1] == row.labels[-1] == tokenizer.eos_token_id

    def test_bos_is_added_where_the_tokenizer_adds_one_and_the_text_has_none(self, metaspace):
        for text in ("Hello", "<s>Hello", "<s> Hello"):
            ids = encode(metaspace, {"text": text}).input_ids
            assert ids[0] == metaspace.bos_token_id
            assert ids.count(metaspace.bos_token_id) == 1

    def test_bos_is_read_only(self, metaspace):
        assert runs(metaspace, encode(metaspace, {"text": "Hello"})) == ["Hello</s>"]

    def test_a_tokenizer_that_adds_eos_itself(self, metaspace):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=metaspace._tokenizer, bos_token="<s>", eos_token="</s>")
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        row = encode(tokenizer, {"text": "Hello"})
        assert tokenizer.convert_ids_to_tokens(row.input_ids) == ["<s>", "▁H", "e", "ll", "o", "</s>"]
        assert row.labels[-1] == tokenizer.eos_token_id
        for text in ("<s>Hello", "Hello</s>"):
            assert encode(tokenizer, {"text": text}).input_ids == row.input_ids

    @pytest.mark.parametrize("loss_on", ["assistant", "completion"])
    def test_a_completion_after_its_prompt(self, chatml, loss_on):
        chatml.chat_template = None
        row = encode(chatml, {"prompt": "Say hello:\n", "completion": "Hello"}, loss_on=loss_on)
        assert runs(chatml, row) == ["Hello<|im_end|>"]
        assert chatml.decode(row.input_ids) == "Say hello:\nHello<|im_end|>"

    def test_all_of_a_prompt_and_its_completion(self, chatml):
        chatml.chat_template = None
        row = encode(chatml, {"prompt": "Say hello:\n", "completion": "Hello"}, loss_on="all")
        assert row.labels == [IGNORED, *row.input_ids[1:]]

    def test_alpaca_sections(self, chatml):
        chatml.chat_template = None
        row = encode(chatml, {"instruction": "Greet", "input": "", "output": "Hello"})
        assert chatml.decode(row.input_ids).endswith("### Instruction:\nGreet\n\n### Response:\nHello<|im_end|>")
        assert runs(chatml, row) == ["Hello<|im_end|>"]

    def test_a_tokenizer_without_eos(self, chatml):
        chatml.eos_token = None
        assert chatml.decode(encode(chatml, {"text": "Hello"}).input_ids) == "Hello"


class TestCutting:
    def test_the_end_is_cut_and_the_whole_length_kept(self, chatml):
        whole = encode(chatml, TALK)
        cut = encode(chatml, TALK, max_length=whole.length - 2)
        assert (cut.input_ids, cut.labels) == (whole.input_ids[:-2], whole.labels[:-2])
        assert cut.length == whole.length
        assert cut.trained == whole.trained - 1  # the line break behind the stop token is not trained

    def test_nothing_is_said_of_rows_longer_than_the_tokenizer_expects(self, chatml, recwarn, caplog):
        chatml.model_max_length = 4
        encode(chatml, TALK)
        assert not caplog.records and not recwarn


class TestToolsAsText:
    def test_calls_results_and_schemas_are_written_where_the_template_writes_none(self, chatml):
        row = encode(chatml, TOOL_TALK)
        assert runs(chatml, row) == [
            '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>',
            "It is 3<|im_end|>",
        ]
        text = chatml.decode(row.input_ids)
        assert text.startswith("<|im_start|>system\nYou can call these tools.")
        assert '{"name": "add", "description": "Adds.", "parameters": {}}<|im_end|>' in text
        assert "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>" in text

    def test_schemas_follow_a_system_turn_and_words_come_before_the_call(self, chatml):
        system = {"role": "system", "content": "Be brief"}
        turns = [system, *TOOL_TALK["messages"]]
        turns[2] = turns[2] | {"content": "Let me see"}
        row = encode(chatml, TOOL_TALK | {"messages": turns})
        assert chatml.decode(row.input_ids).startswith("<|im_start|>system\nBe brief\n\nYou can call these tools.")
        assert runs(chatml, row)[0].startswith("Let me see\n<tool_call>\n")

    def test_marks_of_turns_are_kept(self, chatml):
        turns = [*TOOL_TALK["messages"]]
        turns[1] = turns[1] | {"weight": 0}
        assert runs(chatml, encode(chatml, TOOL_TALK | {"messages": turns})) == ["It is 3<|im_end|>"]

    def test_a_template_that_writes_calls_does_so(self, chat_tokenizer):
        template = CHATML.replace("m.content +", "m.content + (m.tool_calls | tojson if m.tool_calls else '') +")
        tokenizer = chat_tokenizer(template, eos="<|im_end|>")
        call = '[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]'
        assert runs(tokenizer, encode(tokenizer, TOOL_TALK))[0] == f"{call}<|im_end|>"


class TestPrompts:
    @pytest.fixture
    def prompt(self, chatml):
        def of(value: dict) -> str:
            (example,), _ = to_examples([Row(value, "t.jsonl line 1", 0)])
            return Encoder(chatml, loss_on="assistant", max_length=100).prompt(example)

        return of

    def test_of_a_conversation(self, prompt):
        assert prompt(TALK) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

    def test_of_text_there_is_none(self, prompt):
        assert prompt({"text": "Hello"}) == ""

    def test_of_a_completion_without_a_template(self, prompt, chatml):
        chatml.chat_template = None
        assert prompt({"prompt": "Say hello:\n", "completion": "Hello"}) == "Say hello:\n"

    def test_with_tools(self, prompt):
        assert prompt(TOOL_TALK).startswith("<|im_start|>system\nYou can call these tools.")

"""What is trained of a conversation under chat templates of every make, and the words of each refusal.

Expectations are written as text with the trained characters in ⟦⟧.
"""

from __future__ import annotations

import pytest

from finetune.data.template import ChatTemplate
from finetune.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
)
LLAMA2 = (
    ALTERNATES + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}" + ALTERNATES + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role|upper + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
FORGETS_REASONING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}{{ m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
OPENS_REASONING = FORGETS_REASONING.replace("'<|assistant|>' }}{% endif %}", "'<|assistant|><think>' }}{% endif %}")
TOOLS_INSIDE = (
    # The result of a call stands in the turn of the call, before its words, and the next turn goes on without a header.
    "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
    "{% set follows = loop.index0 and messages[loop.index0 - 1].role == 'tool' %}"
    "{% if not follows %}{{ '<turn>' + m.role + '\n' }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + c.function.arguments|tojson + '</call>' }}"
    "{% endfor %}"
    "{% if m.tool_calls %}{{ '<result>' }}{% if not loop.last %}{{ messages[loop.index].content + '</result>' }}"
    "{% endif %}{% endif %}{{ m.content }}{% if not m.tool_calls %}{{ '</turn>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}{{ '<turn>assistant\n' }}{% endif %}"
)
NAMES_TOOLS = (
    # A result names the tool that the call before it asked, and a call without a later answer shows its reasoning.
    "{% set ns = namespace(name=none) %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if ns.name is none %}{{ raise_exception('a result without a call') }}{% endif %}"
    "{{ '<|start|>' + ns.name + '<|message|>' + m.content + '<|end|>' }}{% elif m.tool_calls %}"
    "{% if loop.last and m.reasoning_content %}{{ '<|start|>assistant<|message|>' + m.reasoning_content + '<|end|>' }}"
    "{% endif %}{% set ns.name = m.tool_calls[0].function.name %}{{ '<|start|>assistant to=' + ns.name }}"
    "{{ '<|message|>' + m.tool_calls[0].function.arguments|tojson + '<|call|>' }}{% else %}"
    "{{ '<|start|>' + m.role + '<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
HARMONY = ["<|start|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long"},
]
SYSTEM = {"role": "system", "content": "Be brief"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": "1"}}}
TOOL_TALK = [
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "content": "Let me see", "tool_calls": [CALL]},
    {"role": "tool", "content": "three"},
    {"role": "assistant", "content": "It is 3"},
]


def thinking(*thoughts: str) -> list[dict]:
    """TALK with reasoning in its answers."""
    return [
        message | {"reasoning_content": thoughts[index // 2]} if message["role"] == "assistant" else message
        for index, message in enumerate(TALK)
    ]


def trained(tokenizer, messages, turns=None) -> str:
    """The rendered text with the trained characters in ⟦⟧."""
    if turns is None:
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    text, spans = ChatTemplate(tokenizer).trained_spans(messages, None, turns)
    for start, end in reversed(spans):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    return text


def refusal(tokenizer, messages) -> DataError:
    with pytest.raises(DataError) as caught:
        trained(tokenizer, messages)
    assert caught.value.exit_code == 4
    return caught.value


class TestTrainedCharacters:
    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            (
                ZEPHYR,
                "<|user|>\nHi</s>\n<|assistant|>\n⟦Hello</s>⟧\n<|user|>\nBye</s>\n<|assistant|>\n⟦So long</s>⟧\n",
            ),
            (LLAMA2, "<s>[INST] Hi [/INST]⟦ Hello </s>⟧<s>[INST] Bye [/INST]⟦ So long </s>⟧"),
            (MISTRAL, "<s>[INST] Hi [/INST]⟦Hello</s>⟧[INST] Bye [/INST]⟦So long</s>⟧"),
        ],
        ids=["zephyr", "llama2", "mistral"],
    )
    def test_answers_and_their_stop_tokens(self, chat_tokenizer, template, expected):
        assert trained(chat_tokenizer(template), TALK) == expected

    def test_the_system_turn_is_read_only(self, chat_tokenizer):
        assert trained(chat_tokenizer(ZEPHYR), [SYSTEM, *TALK[:2]]) == (
            "<|system|>\nBe brief</s>\n<|user|>\nHi</s>\n<|assistant|>\n⟦Hello</s>⟧\n"
        )

    def test_only_the_turns_asked_for(self, chat_tokenizer):
        tokenizer = chat_tokenizer(MISTRAL)
        assert trained(tokenizer, TALK, [1]) == "<s>[INST] Hi [/INST]⟦Hello</s>⟧[INST] Bye [/INST]So long</s>"
        assert "⟦" not in trained(tokenizer, TALK, [])
        assert trained(chat_tokenizer(PLAIN), TALK, [1]) == (
            "USER: Hi\nASSISTANT:⟦ Hello⟧\nUSER: Bye\nASSISTANT: So long</s>"
        )

    def test_eos_is_added_where_a_template_has_no_stop_token(self, chat_tokenizer):
        assert trained(chat_tokenizer(PLAIN), TALK) == (
            "USER: Hi\nASSISTANT:⟦ Hello⟧\nUSER: Bye\nASSISTANT:⟦ So long</s>⟧"
        )

    def test_a_tokenizer_without_eos_has_none_to_add(self, chat_tokenizer):
        tokenizer = chat_tokenizer(PLAIN)
        tokenizer.eos_token = None
        assert trained(tokenizer, TALK[:2]) == "USER: Hi\nASSISTANT:⟦ Hello⟧"

    def test_no_eos_is_added_after_a_question(self, chat_tokenizer):
        assert trained(chat_tokenizer(PLAIN), TALK[:3]) == "USER: Hi\nASSISTANT:⟦ Hello⟧\nUSER: Bye\n"

    def test_a_stop_token_that_only_ends_the_conversation(self, chat_tokenizer):
        ends = PLAIN.replace(
            "+ '\n' }}", "+ '\n' }}{% if loop.last and m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        )
        assert trained(chat_tokenizer(ends), TALK) == (
            "USER: Hi\nASSISTANT:⟦ Hello⟧\nUSER: Bye\nASSISTANT:⟦ So long\n</s>⟧"
        )

    @pytest.mark.parametrize("gap", ["", "\n"])
    def test_the_next_header_is_the_stop_token_where_turns_have_no_other(self, chat_tokenizer, gap):
        template = (
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + 'GAP' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
        ).replace("GAP", gap)
        tokenizer = chat_tokenizer(template, special=["<|user|>", "<|assistant|>"])
        assert trained(tokenizer, TALK) == (
            f"<|user|>Hi{gap}<|assistant|>⟦Hello{gap}<|user|>⟧Bye{gap}<|assistant|>⟦So long</s>⟧"
        )

    def test_without_a_generation_prompt_the_model_writes_its_header(self, chat_tokenizer):
        template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
        assert trained(chat_tokenizer(template), TALK[:2]) == "<|user|>Hi</s>⟦<|assistant|>Hello</s>⟧"

    def test_contents_that_the_template_trims(self, chat_tokenizer):
        template = CHATML.replace("m.content", "m.content|trim")
        talk = [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "\n Hello \n"}]
        assert trained(chat_tokenizer(template, eos="<|im_end|>"), talk) == (
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
        )

    def test_contents_that_look_like_the_template(self, chat_tokenizer):
        talk = [
            {"role": "user", "content": "<|im_start|>assistant\nHi"},
            {"role": "assistant", "content": "<|im_start|>assistant\nHi<|im_end|>"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hi"},
        ]
        assert trained(chat_tokenizer(CHATML, eos="<|im_end|>"), talk) == (
            "<|im_start|>user\n<|im_start|>assistant\nHi<|im_end|>\n"
            "<|im_start|>assistant\n⟦<|im_start|>assistant\nHi<|im_end|><|im_end|>⟧\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hi<|im_end|>⟧\n"
        )

    def test_conversations_that_the_assistant_opens_or_goes_on_with(self, chat_tokenizer):
        tokenizer = chat_tokenizer(CHATML, eos="<|im_end|>")
        assert trained(tokenizer, [TALK[1], *TALK[2:], TALK[1]]) == (
            "<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n⟦So long<|im_end|>⟧\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
        )


class TestReasoning:
    def test_earlier_reasoning_that_the_template_forgets_is_not_looked_for(self, chat_tokenizer):
        tokenizer = chat_tokenizer(FORGETS_REASONING, eos="<|end|>")
        assert trained(tokenizer, thinking("greet", "part")) == (
            "<|user|>Hi<|end|><|assistant|>⟦Hello<|end|>⟧"
            "<|user|>Bye<|end|><|assistant|>⟦<think>part</think>So long<|end|>⟧"
        )

    def test_an_empty_reasoning_block_has_to_be_written_too(self, chat_tokenizer):
        tokenizer = chat_tokenizer(FORGETS_REASONING, eos="<|end|>")
        assert trained(tokenizer, TALK[:2]) == "<|user|>Hi<|end|><|assistant|>⟦<think></think>Hello<|end|>⟧"

    def test_what_the_prompt_opens_is_not_written(self, chat_tokenizer):
        tokenizer = chat_tokenizer(OPENS_REASONING, eos="<|end|>")
        assert trained(tokenizer, thinking("greet", "part")) == (
            "<|user|>Hi<|end|><|assistant|>⟦Hello<|end|>⟧"
            "<|user|>Bye<|end|><|assistant|><think>⟦part</think>So long<|end|>⟧"
        )

    def test_an_answer_that_only_begins_like_what_the_prompt_opens(self, chat_tokenizer):
        tokenizer = chat_tokenizer(OPENS_REASONING, eos="<|end|>")
        talk = [TALK[0], {"role": "assistant", "content": "<table>"}, *TALK[2:]]
        assert "<|assistant|>⟦<table><|end|>⟧" in trained(tokenizer, talk)

    def test_reasoning_of_earlier_turns_that_is_only_kept_until_the_next_question(self, chat_tokenizer):
        tokenizer = chat_tokenizer(FORGETS_REASONING, eos="<|end|>")
        steps = [TALK[0], *(thinking("a", "b")[i] for i in (1, 3)), *TALK[2:]]
        assert trained(tokenizer, steps) == (
            "<|user|>Hi<|end|><|assistant|>⟦Hello<|end|>⟧<|assistant|>⟦So long<|end|>⟧"
            "<|user|>Bye<|end|><|assistant|>⟦<think></think>So long<|end|>⟧"
        )


class TestToolCalls:
    def test_a_result_inside_the_turn_is_not_trained(self, chat_tokenizer):
        tokenizer = chat_tokenizer(TOOLS_INSIDE, eos="</turn>", special=["<result>"])
        silent = [message | {"content": ""} if "tool_calls" in message else message for message in TOOL_TALK]
        assert trained(tokenizer, silent) == (
            '<turn>user\n1+2?</turn>\n<turn>assistant\n⟦<call>add{"a": "1"}</call><result>⟧three</result>'
            "⟦It is 3</turn>⟧\n"
        )

    def test_nor_where_words_follow_it(self, chat_tokenizer):
        tokenizer = chat_tokenizer(TOOLS_INSIDE, eos="</turn>", special=["<result>"])
        assert trained(tokenizer, TOOL_TALK) == (
            '<turn>user\n1+2?</turn>\n<turn>assistant\n⟦<call>add{"a": "1"}</call><result>⟧three</result>Let me see'
            "⟦It is 3</turn>⟧\n"
        )

    def test_results_that_name_the_call_and_calls_that_stop_in_their_own_way(self, chat_tokenizer):
        tokenizer = chat_tokenizer(NAMES_TOOLS, eos="<|return|>", special=HARMONY)
        thought = [m | {"reasoning_content": "add them"} if "tool_calls" in m else m for m in TOOL_TALK]
        for talk in (TOOL_TALK, thought):
            assert trained(tokenizer, [*talk, *TALK[2:]]) == (
                "<|start|>user<|message|>1+2?<|end|>"
                '<|start|>assistant⟦ to=add<|message|>{"a": "1"}<|call|>⟧<|start|>add<|message|>three<|end|>'
                "<|start|>assistant⟦<|message|>It is 3<|end|>⟧<|start|>user<|message|>Bye<|end|>"
                "<|start|>assistant⟦<|message|>So long<|return|>⟧"
            )


class TestRefusals:
    def test_no_template(self, chat_tokenizer):
        error = refusal(chat_tokenizer(None), TALK)
        assert error.message == "the rows are conversations, but the model's tokenizer has no chat template"
        assert "data.chat_template" in error.hint

    @pytest.mark.parametrize(
        ("role", "messages", "turn"),
        [("assistant", TALK, 2), ("system", [SYSTEM, *TALK], 1), ("user", TALK, 1)],
    )
    def test_a_template_that_leaves_out_turns(self, chat_tokenizer, role, messages, turn):
        template = CHATML.replace("{% for m in messages %}", f"{{% for m in messages if m.role != '{role}' %}}")
        error = refusal(chat_tokenizer(template, eos="<|im_end|>"), messages)
        assert error.message == f"the chat template cannot be masked: it leaves out turn {turn} ({role})"
        assert error.hint == "give a template that writes every turn as data.chat_template, or change the rows"

    def test_an_answer_left_out_whose_words_stand_elsewhere(self, chat_tokenizer):
        template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'assistant' %}")
        echo = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user", "assistant")]
        assert "it leaves out turn 2 (assistant)" in refusal(chat_tokenizer(template, eos="<|im_end|>"), echo).message

    def test_answers_that_are_always_the_same(self, chat_tokenizer):
        template = CHATML.replace("m.content", "(m.content if m.role == 'user' else 'I see')")
        assert "it leaves out turn 2 (assistant)" in refusal(chat_tokenizer(template), TALK).message

    def test_tool_calls_left_out(self, chat_tokenizer):
        error = refusal(chat_tokenizer(ZEPHYR), TOOL_TALK)
        assert error.message == (
            "the chat template cannot be masked: it leaves out the tool calls of turn 2 (assistant)"
        )

    def test_a_role_that_the_template_refuses(self, chat_tokenizer):
        error = refusal(chat_tokenizer(MISTRAL), [SYSTEM, *TALK])
        assert error.message == (
            "the chat template refuses a conversation of system, user, assistant, user, assistant: "
            "roles must alternate user/assistant"
        )
        assert error.hint == "change the rows, or give another template as data.chat_template"

    def test_a_template_with_a_fault_in_it(self, chat_tokenizer):
        assert "refuses a conversation of user, assistant" in refusal(chat_tokenizer("{% for %}"), TALK[:2]).message

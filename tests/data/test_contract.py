"""The mask contract: each rule found on a row that breaks it and not on its neighbour, refused, allowed, and shown."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from test_encode import CALL, CHATML, TALK

from finetune import cli
from finetune.config import load_config
from finetune.config.sections import MaskRule
from finetune.data import Encoder
from finetune.data.breaches import Inspector
from finetune.data.contract import CONTRACT
from finetune.data.encode import IGNORED
from finetune.data.formats import to_examples
from finetune.data.load import examine
from finetune.data.rows import Row
from finetune.errors import ConfigError, DataError
from finetune.spec import load_tokenizer, locate_model

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
NO_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def turns(order: str, **contents: str) -> dict:
    """A conversation by the first letters of its roles, `c` for a turn of the assistant that calls a tool."""
    made = []
    for number, letter in enumerate(order, start=1):
        if letter == "c":
            made.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
        else:
            made.append({"role": ROLES[letter], "content": contents.get(f"t{number}", f"words {number}")})
    return {"messages": made}


def asked(question: str, answer: str = "so") -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def faults(tokenizer, value: dict, *, loss_on: str = "assistant", max_length: int = 1000) -> list[tuple[str, str]]:
    """(rule, detail) of one row."""
    (example,), _ = to_examples([Row(value, "t.jsonl line 1", 0)])
    encoder = Encoder(tokenizer, loss_on=loss_on, max_length=max_length)
    return [(one.rule, one.detail) for one in Inspector(encoder).faults(example, encoder.encode(example))]


@pytest.fixture
def found(config_file: Path, tmp_path: Path):
    """(split, row from 0, rule) of every breach in rows that are trained on and, perhaps, others held out."""

    def of(rows: list[dict], *overrides: str, held_out: list[dict] | None = None) -> list[tuple[str, int, str]]:
        train = f"data.train={write(tmp_path / 'train.jsonl', rows)}"
        held = "data.eval=null" if held_out is None else f"data.eval={write(tmp_path / 'eval.jsonl', held_out)}"
        config = load_config(config_file, [train, held, *overrides])
        tokenizer = load_tokenizer(locate_model(config.model), config.data.chat_template)
        breaches = examine(config, tokenizer).contract.breaches
        return [(one.role, one.index, one.rule) for one in breaches]

    return of


@pytest.fixture
def chatml(chat_tokenizer):
    return chat_tokenizer(CHATML, eos="<|im_end|>", bos="<|im_start|>")


@pytest.fixture
def template(tmp_path: Path):
    """Writes a chat template and returns the override that takes it."""

    def of(source: str) -> str:
        (tmp_path / "template.jinja").write_text(source, encoding="utf-8")
        return f"data.chat_template={tmp_path / 'template.jinja'}"

    return of


def test_the_configuration_knows_every_rule() -> None:
    assert set(get_args(MaskRule)) == CONTRACT.keys()


class TestTrainedTokens:
    def test_a_prompt_that_fills_max_length(self, found) -> None:
        assert found([asked("why " * 200), asked("why")]) == [("train", 0, "no_trained_token")]

    def test_it_is_said_how(self, chatml) -> None:
        assert faults(chatml, asked("why " * 90), max_length=60) == [
            ("no_trained_token", "its prompt fills data.max_length=60")
        ]

    def test_turns_that_are_only_read_and_conversations_without_an_answer(self, found) -> None:
        read = {"messages": [TALK["messages"][0], TALK["messages"][1] | {"weight": 0}]}
        assert found([read, TALK, turns("su")]) == [("train", 0, "no_trained_token"), ("train", 2, "no_trained_token")]

    def test_a_text_of_one_token_without_eos(self, chatml) -> None:
        chatml.eos_token = None
        assert faults(chatml, {"text": "a"}) == [("no_trained_token", "none of its 1 tokens")]

    def test_rows_that_are_dropped_break_nothing(self, found) -> None:
        rows = [asked("why " * 200), asked("why"), asked("why", "so " * 200)]
        assert found(rows, "data.on_truncation=drop") == []


class TestStopTokens:
    @pytest.mark.parametrize("loss_on", ["assistant", "completion", "all"])
    @pytest.mark.parametrize("row", [TALK, {"prompt": "Hi", "completion": "Hello"}, {"text": "Hello"}])
    def test_pad_may_be_eos_and_white_space_may_follow(self, chatml, row, loss_on) -> None:
        assert chatml.pad_token_id == chatml.eos_token_id
        assert faults(chatml, row, loss_on=loss_on) == []
        chatml.chat_template = None
        if row is not TALK:
            assert faults(chatml, row, loss_on=loss_on) == []

    def test_a_stop_token_that_is_read_only(self, chatml) -> None:
        (example,), _ = to_examples([Row(TALK, "t.jsonl line 1", 0)])
        encoder = Encoder(chatml, loss_on="assistant", max_length=1000)
        row = encoder.encode(example)
        masked = [IGNORED if label == chatml.eos_token_id else label for label in row.labels]
        (fault,) = Inspector(encoder).faults(example, replace(row, labels=masked))
        assert (fault.rule, fault.detail) == ("untrained_stop", "ends with 'g'")
        assert "eos_token" in fault.hint

    @pytest.mark.parametrize("row", [{"text": "Hello"}, {"prompt": "Hi", "completion": "Hello"}])
    def test_plain_text_where_the_tokenizer_has_no_eos(self, chatml, row) -> None:
        chatml.chat_template = chatml.eos_token = None
        assert [rule for rule, _ in faults(chatml, row)] == ["untrained_stop"]

    def test_a_template_that_ends_only_whole_conversations(self, chat_tokenizer) -> None:
        plain = chat_tokenizer("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
        assert faults(plain, TALK) == []
        told = {"messages": [*TALK["messages"][:3], TALK["messages"][3] | {"weight": 0}]}
        assert [rule for rule, _ in faults(plain, told)] == ["untrained_stop"]

    def test_bos_ends_no_turn(self, chat_tokenizer) -> None:
        tokenizer = chat_tokenizer("{% for m in messages %}{{ m.content + bos_token }}{% endfor %}")
        (example,), _ = to_examples([Row(asked("Hi"), "t.jsonl line 1", 0)])
        encoder = Encoder(tokenizer, loss_on="assistant", max_length=1000)
        row = encoder.encode(example)
        assert row.input_ids[-1] == tokenizer.bos_token_id
        assert [one.rule for one in Inspector(encoder).faults(example, row)] == ["untrained_stop"]

    def test_a_row_that_was_cut_has_lost_it(self, chatml) -> None:
        whole = len(chatml(chatml.apply_chat_template(TALK["messages"], tokenize=False)).input_ids)
        assert [rule for rule, _ in faults(chatml, TALK, max_length=whole - 2)] == ["truncated_answer"]
        assert faults(chatml, TALK, max_length=whole - 1) == [], "only the line break behind it is cut"


class TestBos:
    @pytest.mark.parametrize("text", ["<s><s>Hello", "<s> <s>Hello"])
    def test_two_in_a_text(self, metaspace, text) -> None:
        ((rule, detail),) = faults(metaspace, {"text": text})
        assert rule == "doubled_bos" and detail.startswith("tokens 1 and ")
        assert faults(metaspace, {"text": "<s>Hello"}) == faults(metaspace, {"text": "Hello <s><s>"}) == []

    def test_two_by_a_template(self, metaspace) -> None:
        assert faults(metaspace, TALK) == []
        metaspace.chat_template = "{{ bos_token }}" + metaspace.chat_template
        assert faults(metaspace, TALK) == [("doubled_bos", "tokens 1 and 2")]

    def test_a_template_whose_turns_begin_with_it(self, chatml) -> None:
        assert chatml.bos_token == "<|im_start|>" and faults(chatml, TALK) == []


class TestTurns:
    def test_empty_ones(self, found) -> None:
        rows = [turns("uaua", t3=" \n"), turns("sua", t1=""), turns("ucta", t3=""), asked("why"), turns("uaua", t2="")]
        assert found(rows) == [("train", 4, "empty_turn"), ("train", 0, "empty_turn")]

    def test_an_empty_answer_in_columns(self, found) -> None:
        rows = [{"prompt": asked, "completion": answer} for asked, answer in (("a", " "), ("", "b"), ("a", "b"))]
        assert found(rows) == [("train", 0, "empty_turn"), ("train", 1, "empty_turn")]
        assert found(rows, "data.chat_template=none") == [("train", 0, "empty_turn")], "plain text has no turns"

    def test_which(self, chatml) -> None:
        assert faults(chatml, turns("uaua", t3="")) == [("empty_turn", "turn 3 (user)")]
        silent = asked("why") | {}
        silent["messages"][1] |= {"content": "", "weight": 0}
        spoken = {"messages": [*silent["messages"], *turns("ua")["messages"]]}
        assert faults(chatml, spoken) == [("empty_turn", "turn 2 (assistant)")]

    @pytest.mark.parametrize("order", ["ua", "sua", "uaua", "uc", "ucta", "uctct", "ucttaua", "ucua", "uca", "suctc"])
    def test_in_order(self, chatml, order) -> None:
        found = faults(chatml, turns(order))
        assert found == ([("roles_out_of_order", "ends with a turn of tool")] if order.endswith("t") else [])

    @pytest.mark.parametrize(
        ("order", "detail"),
        [
            ("uuaua", "turn 2: user after user"),
            ("uaa", "turn 3: assistant after assistant"),
            ("aua", "turn 1: assistant, before any user"),
            ("saua", "turn 2: assistant, before any user"),
            ("usa", "turn 2: system, but not first"),
            ("ssua", "turn 2: system, but not first"),
            ("uta", "turn 2: tool, after no call"),
            ("uata", "turn 3: tool, after no call"),
            ("uau", "ends with a turn of user"),
        ],
    )
    def test_out_of_order(self, chatml, order, detail) -> None:
        assert faults(chatml, turns(order)) == [("roles_out_of_order", detail)]


class TestTemplates:
    def test_a_turn_that_is_left_out(self, found, template) -> None:
        assert found([turns("ua"), turns("sua")], template(NO_SYSTEM)) == [("train", 1, "template_drops_turn")]

    def test_a_conversation_that_is_refused(self, found, template) -> None:
        assert found([turns("sua"), turns("ua"), turns("sua", t2="x")], template(STRICT)) == [
            ("train", 0, "template_refuses_row"), ("train", 2, "template_refuses_row"),
        ]  # fmt: skip

    def test_forgotten_reasoning_is_a_note_alone(self, chatml) -> None:
        assert faults(chatml, {"messages": [m | {"reasoning_content": "hm"} for m in TALK["messages"]]}) == []


class TestLeaks:
    def test_a_training_row_in_another_format(self, found) -> None:
        held_out = [{"prompt": "why", "completion": "so"}, {"prompt": "why not", "completion": "so"}]
        assert found([asked("how"), asked("why")], held_out=held_out) == [("eval", 0, "train_row_in_eval")]

    def test_both_rows_are_named(self, load, tmp_path) -> None:
        train, held = write(tmp_path / "a.jsonl", [TALK, asked("why")]), write(tmp_path / "b.jsonl", [asked("why")])
        with pytest.raises(DataError) as caught:
            load(f"data.train={train}", f"data.eval={held}")
        assert caught.value.message == (
            f"1 row has a copy among the training rows (train_row_in_eval): {held} line 1 (the same as {train} line 2)"
        )

    def test_copies_by_weight_and_copies_among_rows_stay_on_one_side(self, load, tmp_path) -> None:
        rows = [asked(f"why {n}") for n in range(20)]
        path = write(tmp_path / "a.jsonl", [*rows, *rows])
        data = load(f"data.train=[{{path: {path}, weight: 2}}]", "data.eval=null", "data.eval_fraction=0.3")
        assert (data.train.stats.rows, data.eval.stats.rows) == (14 * 4, 6 * 4)

    def test_a_shared_instance_of_two_rows(self, found) -> None:
        def row(*outputs: str) -> dict:
            return {"instruction": "Spell.", "instances": [{"input": "", "output": output} for output in outputs]}

        assert found([row("a", "b")], held_out=[row("c", "b")]) == [("eval", 0, "train_row_in_eval")]


class TestRefusal:
    ROWS = (asked("why"), turns("uuaua"), asked("", "so"), asked("why " * 200))

    def test_every_row_of_every_rule_is_named_at_once(self, load, tmp_path) -> None:
        path = write(tmp_path / "rows.jsonl", [*self.ROWS, turns("su"), turns("uau")])
        with pytest.raises(DataError) as caught:
            load(f"data.train={path}", "data.eval=null")
        assert caught.value.exit_code == 4
        assert caught.value.message.splitlines() == [
            "5 of 6 rows cannot be trained on",
            f"  1 row has no assistant turn: {path} line 5",
            f"  2 rows have roles out of order (roles_out_of_order): {path} line 2 (turn 2: user after user), "
            "line 6 (ends with a turn of user)",
            f"  1 row has an empty turn (empty_turn): {path} line 3 (turn 1 (user))",
            f"  1 row has no trained token (no_trained_token): {path} line 4 (its prompt fills data.max_length=128)",
        ]
        assert caught.value.hint.endswith(
            "raise data.max_length, or leave long rows out with data.on_truncation=drop; or accept it knowingly: "
            "data.allow=[no_trained_token, roles_out_of_order, empty_turn]"
        )

    def test_what_is_allowed_is_counted_and_said(self, load, tmp_path) -> None:
        path = write(tmp_path / "rows.jsonl", self.ROWS)
        allowed = "data.allow=[roles_out_of_order, empty_turn, no_trained_token]"
        data = load(f"data.train={path}", "data.eval=null", allowed)
        assert (data.train.stats.rows, data.train.stats.dropped) == (3, 1)
        assert data.notes[-3:] == [
            f"train: 1 row has roles out of order (roles_out_of_order), as data.allow has it: {path} line 2 "
            "(turn 2: user after user)",
            f"train: 1 row has an empty turn (empty_turn), as data.allow has it: {path} line 3 (turn 1 (user))",
            "train: 1 row has no trained token (no_trained_token), as data.allow has it, left out: "
            f"{path} line 4 (its prompt fills data.max_length=128)",
        ]

    def test_rows_that_a_template_does_not_write_are_left_out_where_that_is_allowed(self, load, tmp_path, template):
        path = write(tmp_path / "rows.jsonl", [turns("ua"), turns("sua")])
        keys = [f"data.train={path}", "data.eval=null", template(NO_SYSTEM)]
        assert load(*keys, "data.allow=[template_drops_turn]").train.stats.rows == 1
        write(path, [turns("sua")])
        with pytest.raises(DataError) as caught:
            load(*keys, "data.allow=[template_drops_turn]")
        assert caught.value.message == "data.train: none of 1 row is left, with what data.allow leaves out"

    def test_held_out_rows_keep_it_too(self, load, tmp_path) -> None:
        with pytest.raises(DataError, match="roles out of order"):
            load(f"data.eval={write(tmp_path / 'rows.jsonl', [asked('why'), turns('uau')])}")

    def test_truncated_answers_are_refused_beyond_a_share(self, load, tmp_path) -> None:
        path = write(tmp_path / "rows.jsonl", [asked(f"why {n}", "so " * (200 if n < 3 else 2)) for n in range(10)])
        keys = f"data.train={path}", "data.eval=null"
        with pytest.raises(DataError) as caught:
            load(*keys)
        assert caught.value.message.startswith(
            "3 rows have a truncated answer (truncated_answer), 30.0% of data.train, where data.max_truncated=0.2: "
            f"{path} line 1 ("
        )
        assert "data.max_truncated is the share that may be cut" in caught.value.hint
        assert "data.allow=[truncated_answer]" in caught.value.hint
        for accepted in ("data.max_truncated=0.3", "data.allow=[truncated_answer]"):
            assert "3 rows have a truncated answer" in load(*keys, accepted).notes[-1]

    def test_an_unknown_rule(self, config_file) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(config_file, ["data.allow=[doubled_boss]"])
        assert "data.allow: unknown rule 'doubled_boss'; did you mean doubled_bos?" in caught.value.message
        with pytest.raises(ConfigError, match="unknown rule 7; known: no_trained_token, "):
            load_config(config_file, ["data.allow=[7]"])


class TestCommand:
    @pytest.fixture
    def check(self, monkeypatch, capsys, config_file, tmp_path):
        """`finetune data check` of rows under the shared configuration: its exit code, stdout and stderr."""

        def of(rows: list[dict], *arguments: str) -> tuple[int, str, str]:
            keys = [f"data.train={write(tmp_path / 'train.jsonl', rows)}", "data.eval=null"]
            monkeypatch.setattr(sys, "argv", ["finetune", "data", "check", str(config_file), *keys, *arguments])
            monkeypatch.setenv("COLUMNS", "300")
            with pytest.raises(SystemExit) as done:
                cli.main()
            return (done.value.code or 0, *capsys.readouterr())

        return of

    def test_breaches_are_findings(self, check) -> None:
        code, out, _ = check([*TestRefusal.ROWS, turns("su")], "--json")
        report = json.loads(out)
        assert code == 4
        breaches = [one for one in report["findings"] if one["rule"] in CONTRACT]
        assert [(one["row"], one["line"], one["rule"], one["detail"]) for one in breaches] == [
            (1, 2, "roles_out_of_order", "turn 2: user after user"),
            (2, 3, "empty_turn", "turn 1 (user)"),
            (3, 4, "no_trained_token", "its prompt fills data.max_length=128"),
            (4, 5, "no_trained_token", "no assistant turn"),
        ]
        assert "untrainable" not in report["counts"], "said once, by its own name"
        assert report["contract"]["refused"].startswith("4 of 5 rows cannot be trained on")

    def test_exit_4_only_where_a_run_refuses(self, check) -> None:
        code, out, _ = check([asked("why"), turns("uau")], "data.allow=[roles_out_of_order]", "--json")
        report = json.loads(out)
        assert code == 0
        assert [one["rule"] for one in report["findings"]] == ["roles_out_of_order"]
        assert report["contract"]["refused"] is None and "as data.allow has it" in report["contract"]["notes"][0]
        code, _, err = check([asked("why"), {"text": "so"}])
        assert code == 4
        assert "a run refuses this data: rows of 2 different formats" in err and "hint: bring all rows to one" in err

    def test_masks_of_rows_with_a_breach(self, check) -> None:
        rows = [asked(f"why {n}") for n in range(3)] + [turns("uau"), turns("su"), *[turns("uuaua")] * 4]
        code, out, err = check(rows, "--show-mask")
        assert code == 4
        assert "roles_out_of_order: ends with a turn of user" in out and "line 4: " in out and "trained" in out
        assert "<|im_start|>assistant" in out and "why 0" not in out
        assert out.count(" roles_out_of_order: turn 2: user after user ") == 2, "the first few of a rule"
        assert "no_trained_token: no assistant turn" in out and "no tokens, for the row cannot be written" in out
        assert "hint: " in err

    def test_masks_of_the_first_rows_where_there_is_none(self, check) -> None:
        code, out, _ = check([asked(f"why {n}") for n in range(5)], "--show-mask")
        assert code == 0
        assert out.count("tokens, ") == 3 and "why 2" in out and "why 3" not in out


@pytest.mark.parametrize(
    ("name", "max_length"),
    [
        ("gsm8k/train.jsonl", 2048),
        ("self_instruct_seed/seed_tasks.jsonl", 4096),
        ("mlx_wikisql_lora/train.jsonl", 1024),
        ("chat_samples/v1_sft_demo.jsonl", 2048),
        ("chat_samples/dummy_conversation.json", 512),
        ("toolcalls/glaive_toolcall_en_demo.json", 16384),
        ("toolcalls/reason_tool_use_demo_50.jsonl", 16384),
    ],
)
def test_no_false_alarm_on_real_data(shared, config_file, name, max_length) -> None:
    """At lengths that hold every row of this tokenizer, which makes a token of nearly each byte."""
    train = f"data.train={shared / 'data' / name}"
    config = load_config(config_file, [train, "data.eval=null", f"data.max_length={max_length}"])
    assert examine(config, load_tokenizer(locate_model(config.model))).contract.breaches == []


def test_no_false_leak_between_published_splits(shared, config_file) -> None:
    folder = shared / "data" / "mlx_wikisql_lora"
    splits = [f"data.train={folder / 'train.jsonl'}", f"data.eval={folder / 'test.jsonl'}"]
    config = load_config(config_file, [*splits, "data.max_length=1024"])
    assert examine(config, load_tokenizer(locate_model(config.model))).contract.breaches == []

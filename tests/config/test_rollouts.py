"""The section `rollout:`, the list `rewards:`, and what each method of training takes: every refusal by its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import RewardConfig, RolloutConfig, load_config, to_yaml
from finetune.errors import ConfigError

MINIMAL = "model: {name_or_path: a/b}\ndata: {train: rows.jsonl}\noutput_dir: runs/x\n"
GRPO = ("training.method=grpo", "rewards=[{type: exact}]")
EVERY = """[
  {type: exact, column: final, extract: '#### (.*)', weight: 2},
  {type: regex, pattern: '\\d+$', weight: -0.5},
  {type: format, shape: json},
  {type: format, shape: tags, tags: [think, answer]},
  {type: length, min: 5, max: 50, unit: tokens},
  {type: python, function: rewards.score, timeout: 2.5},
]"""


@pytest.fixture
def load(tmp_path: Path):
    def _load(*overrides: str):
        path = tmp_path / "config.yaml"
        path.write_text(MINIMAL, encoding="utf-8")
        return load_config(path, overrides)

    return _load


@pytest.fixture
def refused(load):
    def _refused(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(*overrides)
        assert caught.value.exit_code == 2
        return caught.value.message

    return _refused


def test_a_resolved_configuration_with_every_kind_of_reward_reads_back_equal(load, tmp_path: Path) -> None:
    config = load("training.method=grpo", f"rewards={EVERY}", "rollout.temperature=0.7")
    assert [reward.type for reward in config.rewards] == ["exact", "regex", "format", "format", "length", "python"]
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(copy) == config


def test_defaults(load) -> None:
    config = load(*GRPO)
    assert config.rollout == RolloutConfig(
        num_generations=8,
        max_completion_length=256,
        temperature=1.0,
        top_p=1.0,
        trial_prompts=8,
        eval_prompts=64,
    )
    assert config.rewards == [RewardConfig(type="exact", weight=1.0, timeout=5.0, unit="words")]
    assert config.training.online
    assert not load().training.online


@pytest.mark.parametrize(("method", "pull"), [("sft", 0.0), ("dpo", 0.1), ("rloo", 0.05), ("grpo", 0.04)])
def test_the_pull_is_the_methods_own_unless_it_is_set(load, method: str, pull: float) -> None:
    rewards = ["rewards=[{type: exact}]"] if method in ("rloo", "grpo") else []
    assert load(f"training.method={method}", *rewards).training.pull == pull
    if method != "sft":
        assert load(f"training.method={method}", *rewards, "training.beta=0.5").training.pull == 0.5


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("{type: regex}", "rewards.0: a reward of type regex needs pattern"),
        ("{type: format}", "rewards.0: a reward of type format needs shape"),
        ("{type: python}", "rewards.0: a reward of type python needs function"),
        ("{type: format, shape: tags}", "rewards.0: a reward of shape tags needs tags, such as [think, answer]"),
        ("{type: format, shape: json, tags: [a]}", "rewards.0: tags are for shape tags; this is json"),
        ("{type: length}", "rewards.0: a reward of type length needs min or max"),
        ("{type: length, min: 9, max: 5}", "rewards.0: min=9 is above max=5"),
        ("{type: exact, extract: '####'}", "extract='####' has no group to compare: put it in brackets"),
        ("{type: exact, pattern: a}", "rewards.0: a reward of type exact takes no pattern"),
        ("{type: regex, pattern: a, tags: [b]}", "rewards.0: a reward of type regex takes no tags"),
        ("{type: length, min: 1, timeout: 3.0, function: a.b}", "a reward of type length takes no function, timeout"),
        ("{type: regex, pattern: '(a'}", "rewards.0.pattern: '(a' is no regular expression (missing )"),
        ("{type: exact, extract: '*'}", "rewards.0.extract: '*' is no regular expression (nothing to repeat"),
        ("{type: python, function: score}", "'score' is no dotted path: write rewards.score for function score of"),
        ("{type: python, function: 'rewards.py:score'}", "'rewards.py:score' is no dotted path"),
        ("{type: format, shape: tags, tags: [<a>]}", "'<a>' is no name of a section: write think for <think>…</think>"),
        ("{type: format, shape: tags, tags: [a, b, a]}", "rewards.0.tags: 'a' stands twice: a section comes once"),
        ("{type: exact, weight: .nan}", "rewards.0.weight: input should be a finite number; found nan"),
        ("{type: python, function: a.b, timeout: 0.0}", "rewards.0.timeout: input should be greater than 0; found 0"),
        ("{type: python, function: a.b, timeout: .inf}", "timeout: input should be a finite number; found inf"),
        ("{type: length, min: -1}", "rewards.0.min: input should be greater than or equal to 0; found -1"),
        ("{type: length, max: 0}", "rewards.0.max: input should be greater than 0; found 0"),
        ("{type: length, max: 5, unit: lines}", "rewards.0.unit: input should be 'characters', 'words' or 'tokens'"),
        ("{type: format, shape: xml}", "rewards.0.shape: input should be 'json' or 'tags'; found 'xml'"),
        ("{type: exactly}", "type: input should be 'exact', 'regex', 'format', 'length' or 'python'; found 'exactly'"),
        ("{pattern: a}", "rewards.0.type: is required"),
        ("{type: regex, patern: a}", "rewards.0.patern: unknown key; did you mean pattern?"),
    ],
)
def test_what_is_said_of_a_wrong_reward(refused, reward: str, words: str) -> None:
    assert words in refused("training.method=grpo", f"rewards=[{reward}]")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.num_generations=1", "rollout.num_generations: input should be greater than or equal to 2; found 1"),
        ("rollout.max_completion_length=0", "rollout.max_completion_length: input should be greater than 0; found 0"),
        ("rollout.temperature=0.0", "rollout.temperature: input should be greater than 0; found 0"),
        ("rollout.temperature=.inf", "rollout.temperature: input should be a finite number; found inf"),
        ("rollout.top_p=0.0", "rollout.top_p: input should be greater than 0; found 0"),
        ("rollout.top_p=1.5", "rollout.top_p: input should be less than or equal to 1; found 1.5"),
        ("rollout.trial_prompts=-1", "rollout.trial_prompts: input should be greater than or equal to 0; found -1"),
        ("rollout.eval_prompts=0", "rollout.eval_prompts: input should be greater than 0; found 0"),
        ("rollout.generations=4", "rollout.generations: unknown key; did you mean num_generations?"),
    ],
)
def test_what_is_said_of_a_wrong_rollout(refused, override: str, words: str) -> None:
    assert words in refused(*GRPO, override)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rewards=[]"], "{method} needs rewards, such as [{{type: regex, pattern: ...}}]"),
        (["rewards=[{type: exact, weight: 0.0}]"], "every one of rewards has weight 0: there is nothing to make large"),
        (
            ["rollout.num_generations=5"],
            "rollout.num_generations=5 does not divide the effective batch of 16 completions "
            "(training.micro_batch_size x training.gradient_accumulation_steps)",
        ),
        (
            ["data.max_length=256"],
            "max_completion_length=256 leaves no room for a prompt within data.max_length=256, which holds both",
        ),
        (["data.packing=true"], "data.packing=true is for sft: {method} scores each row by itself"),
        (["training.loss_kernel=full_logits"], "training.loss_kernel=full_logits: {method} has fused_linear alone"),
        (["training.activation_offloading=true"], "activation_offloading=true: {method} does not have it"),
    ],
)
def test_what_is_said_of_a_run_with_rewards(refused, method: str, overrides: list[str], words: str) -> None:
    said = refused(f"training.method={method}", "rewards=[{type: exact}]", *overrides)
    assert words.format(method=f"training.method={method}") in said


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["training.method=sft", "rewards=[{type: exact}]"],
            "rewards are for training.method rloo and grpo; this is sft",
        ),
        (
            ["training.method=dpo", "rewards=[{type: exact}]"],
            "rewards are for training.method rloo and grpo; this is dpo",
        ),
        (["rollout.top_p=0.9"], "rollout is for training.method rloo and grpo; this is sft"),
        (["training.beta=0.1"], "training.beta=0.1 is for training.method dpo, rloo and grpo; this is sft"),
        (
            ["training.method=dpo", "training.beta=0"],
            "training.beta=0 takes every difference away that dpo learns from",
        ),
        (["training.method=dpo", "data.packing=true"], "data.packing=true is for sft: training.method=dpo"),
        (["training.method=dpo", "training.loss_kernel=full_logits"], "training.method=dpo has fused_linear alone"),
        (["training.method=ppo"], "training.method: input should be 'sft', 'dpo', 'rloo' or 'grpo'; found 'ppo'"),
    ],
)
def test_what_is_said_of_the_other_methods(refused, overrides: list[str], words: str) -> None:
    assert words in refused(*overrides)


def test_what_a_method_lacks_is_said_at_once(refused) -> None:
    said = refused("training.method=grpo", "rollout.num_generations=3", "data.max_length=100", "data.packing=true")
    for words in ("needs rewards", "does not divide", "leaves no room", "data.packing=true is for sft"):
        assert words in said


def test_other_methods_take_what_only_rewards_rule_out(load) -> None:
    assert load("training.method=dpo", "training.activation_offloading=true").training.activation_offloading
    assert load("rollout.num_generations=8").rollout == RolloutConfig()
    assert load(*GRPO, "training.beta=0").training.pull == 0

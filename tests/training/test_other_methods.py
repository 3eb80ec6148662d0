"""Methods other than supervised fine-tuning, through the whole line on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from assembly import Assembly, assemble
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import DataError
from finetune.rl.saving import measure_saving
from finetune.training import Watched

WORDS = ["red", "green", "blue", "seven", "twelve", "north", "south", "glass"]
PAIRS = [{"prompt": f"Say {word}.", "chosen": word, "rejected": f"{word} {word}"} for word in WORDS]
PROMPTS = [{"prompt": f"Say {word}.", "answer": word} for word in WORDS]
ONLINE = ["rollout={num_generations: 4, max_completion_length: 8, trial_prompts: 2, eval_prompts: 4}"]
VOWELS = "rewards=[{type: python, function: vowels.share}, {type: length, max: 8, unit: tokens, weight: 0.5}]"


QUICK = ["training.learning_rate=0.01", "lora.target_modules=all-linear", "training.lr_scheduler=constant"]
"""What teaches a tiny random model something in a few updates."""

NAMES = [
    ({"reward", "reward_std", "dead_groups", "kl", "completion_length"}, {"reward", "completion_length"}),
    ({"margin", "accuracy"}, {"loss", "margin", "accuracy"}),
]
"""Figures of each update, and held out: of rewards, and of preferences."""


def settings(folder: Path, method: str) -> list[str]:
    """Overrides of a run of that method on rows of its own."""
    rows = PAIRS if method == "dpo" else PROMPTS
    files = {}
    for name, part in {"train": rows[:6], "eval": rows[6:]}.items():
        files[name] = folder / f"{name}-{method}.jsonl"
        files[name].write_text("".join(f"{json.dumps(row)}\n" for row in part), encoding="utf-8")
    named = [f"data.{name}={path}" for name, path in files.items()]
    return [*named, f"training.method={method}", *([] if method == "dpo" else [*ONLINE, VOWELS])]


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward of the user's in the working directory: the share of vowels, so that completions differ."""
    text = "def share(completion):\n    return sum(c in 'aeiou' for c in completion) / (len(completion) or 1)\n"
    (tmp_path / "vowels.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def silent() -> Console:
    """Nothing is printed."""
    return Console(quiet=True)


@pytest.mark.parametrize("method", ["dpo", "rloo", "grpo"])
def test_a_run_from_configuration_to_report(config_file: Path, tmp_path: Path, silent: Console, method: str) -> None:
    config = load_config(config_file, settings(tmp_path, method))
    report = pipeline.train(config, silent)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    logged, held_out = NAMES[method == "dpo"]
    assert all(logged <= line.keys() for line in steps)
    assert set(report["held_out"]) == held_out
    assert report["train"]["rows"] == (6 if method == "dpo" else 2 * 4)  # six pairs are an update and a half
    assert 0 < report["train"]["trained_tokens"] < report["train"]["tokens"]
    predicted, measured = report["memory"]["predicted_bytes"], report["memory"]["measured_bytes"]
    assert measured == pytest.approx(predicted, rel=0.05)
    names = {path.name for path in (tmp_path / "run" / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names and "ref" not in names
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("Held-out margin" if method == "dpo" else "Held-out reward") in page
    again = pipeline.evaluate(tmp_path / "run")
    for name, pair in report["held_out"].items():
        assert again[f"eval_{name}"] == pytest.approx(pair["after"], abs=1e-5)


class TestPreferences:
    @pytest.fixture
    def assembly(self, config_file: Path, tmp_path: Path) -> Assembly:
        return assemble(config_file, *settings(tmp_path, "dpo"), "training.beta=0.5")

    def test_the_loss_is_that_of_the_paper(self, assembly: Assembly) -> None:
        """By hand, from whole logits of a policy and of the model without its adapter."""
        trainer = assembly.trainer
        trainer.model.eval()
        margins = []
        for pair in trainer.eval_dataset:
            sums = {}
            for side in ("chosen_ids", "rejected_ids"):
                ids = torch.tensor([[*pair["prompt_ids"], *pair[side]]])
                for name in ("policy", "reference"):
                    with torch.no_grad():
                        if name == "policy":
                            logits = trainer.model(input_ids=ids).logits
                        else:
                            with trainer.model.disable_adapter():
                                logits = trainer.model(input_ids=ids).logits
                    log_probs = logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
                    sums[side, name] = float(log_probs[len(pair["prompt_ids"]) - 1 :].sum())
            ratio = {side: sums[side, "policy"] - sums[side, "reference"] for side in ("chosen_ids", "rejected_ids")}
            margins.append(0.5 * (ratio["chosen_ids"] - ratio["rejected_ids"]))
        found = trainer.held_out(trainer.eval_dataset)
        assert found["margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        assert found["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / len(margins), abs=1e-4)
        assert found["accuracy"] == sum(m > 0 for m in margins) / len(margins)
        assert abs(found["margin"]) > 1e-3

    def test_there_is_no_second_copy_of_the_adapter(self, assembly: Assembly) -> None:
        assert list(assembly.model.peft_config) == ["default"]
        assert not [name for name, _ in assembly.model.named_parameters() if ".ref." in name]

    def test_training_widens_the_margin(self, config_file: Path, tmp_path: Path) -> None:
        many = ["training.max_steps=20", *QUICK, f"data.eval={tmp_path / 'train-dpo.jsonl'}"]
        allowed = ["data.allow=[train_row_in_eval]"]
        trainer = assemble(config_file, *settings(tmp_path, "dpo"), *many, *allowed).trainer
        before = trainer.held_out(trainer.eval_dataset)
        trainer.train()
        after = trainer.held_out(trainer.eval_dataset)
        assert after["margin"] > before["margin"] + 0.1  # a random model's logits are small, and so is all it learns
        assert after["accuracy"] == 1


class TestOnline:
    @pytest.fixture
    def assembly(self, config_file: Path, tmp_path: Path) -> Assembly:
        return assemble(config_file, *settings(tmp_path, "rloo"))

    def test_prompts_reach_the_model_as_they_were_tokenised(self, assembly: Assembly) -> None:
        trainer = assembly.trainer
        batch = next(iter(trainer.get_train_dataloader()))
        made = trainer._generate_and_score_completions(batch)
        for row, ids, mask in zip(batch, made["prompt_ids"], made["prompt_mask"], strict=True):
            assert ids[mask.bool()].tolist() == assembly.data.train.prompts[row["number"]].input_ids

    def test_a_group_answers_one_prompt_and_its_advantages_sum_to_zero(self, assembly: Assembly) -> None:
        trainer = assembly.trainer
        batch = next(iter(trainer.get_train_dataloader()))
        made = trainer._generate_and_score_completions(batch)
        assert [len({row["number"] for row in batch[at : at + 4]}) for at in range(0, len(batch), 4)] == [1]
        assert made["advantages"].view(-1, 4).sum(1).abs().max() < 1e-5
        assert made["advantages"].abs().max() > 0

    def test_held_out_figures_are_the_same_twice_and_leave_randomness_alone(self, assembly: Assembly) -> None:
        trainer = assembly.trainer
        state = torch.get_rng_state()
        first = trainer.held_out(trainer.eval_dataset)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        assert trainer.held_out(trainer.eval_dataset) == first

    @pytest.mark.parametrize("method", ["rloo", "grpo"])
    def test_an_update_makes_better_completions_likelier(self, config_file: Path, tmp_path: Path, method: str) -> None:
        """Those of an update, by the policy before and after it, weighted by their advantages."""
        many = ["training.max_steps=1", *QUICK, "training.learning_rate=0.001", "training.micro_batch_size=8"]
        trainer = assemble(config_file, *settings(tmp_path, method), *many).trainer
        before = policy_log_probs(trainer)
        trainer.train()
        gained = 0.0
        for batch in trainer._buffered_inputs:
            gained += float((batch["advantages"] * (log_probs(trainer, batch) - before(batch))).sum())
        assert gained > 0.1


def log_probs(trainer: Watched, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability of each completion of a batch (completions)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, batch["completion_ids"].shape[1])
    return (found[0] * batch["completion_mask"]).sum(1)


def policy_log_probs(trainer: Watched) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    """`log_probs` by the policy as it is now, whenever it is called."""
    trained = {name: tensor for name, tensor in trainer.model.named_parameters() if tensor.requires_grad}
    now = {name: tensor.detach().clone() for name, tensor in trained.items()}

    def before(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        later = {name: tensor.detach().clone() for name, tensor in trained.items()}
        _put(trained, now)
        found = log_probs(trainer, batch)
        _put(trained, later)
        return found

    return before


@torch.no_grad()
def _put(tensors: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ("[{type: regex, pattern: unheard}]", "nothing can be learned from these rewards"),
        ("[{type: python, function: vowels.broken}]", "could not score"),
    ],
)
def test_rewards_that_teach_nothing_are_refused_before_the_run(
    config_file: Path, tmp_path: Path, silent: Console, rewards: str, words: str
) -> None:
    with (tmp_path / "vowels.py").open("a", encoding="utf-8") as file:
        file.write("\ndef broken(completion):\n    return 1 / 0\n")
    config = load_config(config_file, [*settings(tmp_path, "rloo"), f"rewards={rewards}"])
    with pytest.raises(DataError) as caught:
        pipeline.train(config, silent)
    assert words in caught.value.message
    assert not (tmp_path / "run").exists()


def test_the_saving_of_a_baseline_is_a_difference_of_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, rewards = torch.randn(12, 5, generator=generator), torch.rand(3, 4, generator=generator)
    found = measure_saving(scores, rewards)
    others = (rewards.sum(1, keepdim=True) - rewards) / 3

    def variance(weights: torch.Tensor) -> float:
        return float((weights.reshape(-1, 1) * scores).var(0).sum())

    assert found.without == pytest.approx(variance(rewards), rel=1e-5)
    assert found.leave_one_out == pytest.approx(variance(rewards - others), rel=1e-5)
    constants = [variance(rewards - b) for b in torch.linspace(-1, 2, 601)]
    assert found.optimal == pytest.approx(min(constants), rel=1e-4)


def test_a_saving_that_is_none_is_said() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 8.0], [1.0, 0.0], [8.0, 8.0]])
    worse = measure_saving(scores, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    assert "completions without reward have the larger gradients" in str(worse)
    assert "no completion tried has a reward" in str(measure_saving(scores, torch.zeros(1, 4)))

"""`finetune lab reinforce` runs, its page quotes it, and fine-tuning is cloning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checked_page import Page
from lab_command import run_lab
from repo import REPO

from finetune.rl.policy_gradient import surrogate
from finetune.rl.reinforce_lab import ACTIONS, ARMS, HORIZON, STATES, VALUE_ERROR
from finetune.study import Study

PAGE = REPO / "docs" / "fundamentals" / "policy-gradients.md"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_lab("reinforce", tmp_path_factory.mktemp("lab"))


def test_only_what_sees_the_action_is_biased(study) -> None:
    biases = {name: one["bias"] for name, one in study.numbers["estimators"].items()}
    assert [name for name, bias in biases.items() if bias] == ["reward to go − its own reward"]
    assert biases["reward to go − its own reward"] > 0.5


def test_groups_shrink_as_stated(study) -> None:
    for size, found in study.numbers["groups"].items():
        assert found["none"] == pytest.approx(1, abs=1e-12)
        assert found["leave_one_out"] == pytest.approx(1, abs=1e-12)
        assert found["group_mean"] == pytest.approx(1 - 1 / size, abs=1e-12)
        assert found["leave_one_out_variance"] == pytest.approx(
            found["group_mean_variance"] * (size / (size - 1)) ** 2, rel=1e-9
        )


def test_lambda_trades_bias_for_variance(study) -> None:
    found = list(study.numbers["lambdas"].values())
    assert [one["bias"] for one in found] == sorted((one["bias"] for one in found), reverse=True)
    assert [one["variance"] for one in found] == sorted(one["variance"] for one in found)
    assert found[-1]["bias"] == 0


def test_every_number_of_the_page_is_the_labs(study) -> None:
    page = Page(PAGE)
    page.says_tables(study.tables, "reinforce")
    numbers = study.numbers
    three, one, minus = (f"{value:.0f}".replace("-", "−") for value in numbers["example"]["returns"])
    page.says(f"rewards to go {three}, {one}, {minus} and their mean, {one}, as baseline")
    assert numbers["example"]["weights"] == [2.0, 0.0, -2.0]
    count = (STATES * ACTIONS) ** HORIZON
    page.says(f"problem of {STATES} states, {ACTIONS} actions and {HORIZON} steps has {count:,} trajectories")
    variance = {name: f"{one['variance']:.1f}" for name, one in numbers["estimators"].items()}
    page.says(f"at a variance of {variance['whole return']}. Taking")
    page.says(f"off its mean leaves {variance['whole return − its mean']};")
    page.says(f"leaves {variance['whole return − the best constant']}. No constant")
    page.says(
        f"Reward to go alone leaves {variance['reward to go']}, less the value of the state "
        f"{variance['reward to go − state value']}."
    )
    page.says(
        f"the bias is {numbers['estimators']['reward to go − its own reward']['bias']:.3f} times the gradient itself"
    )
    says_groups(page, numbers)
    page.says(f"With a critic that is {VALUE_ERROR} off in one state")
    assert numbers["cloning"]["difference"] == 0 < numbers["cloning"]["length"]
    page.says("(the lab's difference is 0)")
    assert page.unchecked() == []


def says_groups(page: Page, numbers: dict) -> None:
    groups = numbers["groups"]
    assert len(ARMS) == 3
    page.says(f"With 4 samples the mean leaves {groups[4]['group_mean']:.2f} of the gradient.")
    page.says(
        f"With 2 samples even leave-one-out has more variance here, {groups[2]['leave_one_out_variance']:.2f}, "
        f"than no baseline at all, {groups[2]['none_variance']:.2f}"
    )
    page.says("give each step a reward of 1")
    page.says("every weight is 0")
    page.says("at least 4, with leave-one-out")


def test_the_pictures_beside_the_page_are_the_labs(study) -> None:
    for plot in study.plots:
        assert f"(reinforce-{plot.name}.svg)" in PAGE.read_text(encoding="utf-8")
        assert PAGE.with_name(f"reinforce-{plot.name}.svg").is_file()


def test_supervised_fine_tuning_is_reinforce_on_demonstrations(tiny_model: Path) -> None:
    """With a causal model and its own loss: the gradient is REINFORCE's with reward 1, over the trained tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    ids_BT = torch.randint(5, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    labels_BT = ids_BT.clone()
    labels_BT[:, :4] = -100
    loss = model(input_ids=ids_BT, labels=labels_BT).loss
    supervised = torch.autograd.grad(loss, list(model.parameters()))

    logits_BTV = model(input_ids=ids_BT).logits[:, :-1]
    log_probs_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:].unsqueeze(2)).squeeze(2)
    rewards_BT = (labels_BT[:, 1:] != -100).double()
    climbed = surrogate(log_probs_BT, rewards_BT) * len(ids_BT) / rewards_BT.sum()
    reinforced = torch.autograd.grad(climbed, list(model.parameters()))
    for one, other in zip(supervised, reinforced, strict=True):
        assert float((one + other).norm()) < 1e-5 * float(one.norm())  # transformers takes its loss in float32
    assert max(float(one.abs().max()) for one in supervised) > 1e-3

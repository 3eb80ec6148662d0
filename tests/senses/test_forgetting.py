"""finetune eval --forgetting: the figures by hand or by another way, the verdict, and a real adapter made worse."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marked_rows import BASS, CRANE, marked, write
from peft import LoraConfig, get_peft_model
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from finetune import pipeline
from finetune.cli.main import app
from finetune.config import load_config
from finetune.data.files import read_file
from finetune.errors import FinetuneError
from finetune.senses import SenseRow, sense_rows
from finetune.senses.forgetting import LOST, PROBE, Measured, _measure, _separations, verdict
from finetune.senses.scores import separation

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other

ROWS = marked("bass", BASS) + marked("crane", CRANE)


def measured(noise: float, loss: float, seed: int = 0) -> Measured:
    """Two layers of states that know the sense as well as `noise` lets them, and texts of ten tokens."""
    rng = np.random.default_rng(seed)
    senses = {sense: at for at, sense in enumerate(dict.fromkeys((row.lemma, row.label) for row in ROWS))}
    own = np.array([senses[row.lemma, row.label] for row in ROWS])
    vectors = np.eye(8)[own][:, None] + noise * rng.normal(size=(len(ROWS), 2, 8))
    return Measured(vectors, 10 * (loss + 0.1 * rng.normal(size=len(ROWS))), np.full(len(ROWS), 10))


def test_figures_are_those_of_every_row_once() -> None:
    one = measured(0.5, 3)
    found = verdict(one, one, ROWS)
    by_hand = []
    for layer in (0, 1):
        for lemma in ("bass", "crane"):
            places = [at for at, row in enumerate(ROWS) if row.lemma == lemma]
            by_hand.append(separation(one.vectors[places, layer], [ROWS[at].label for at in places]))
    assert found["base"]["separation"] == pytest.approx(np.mean(by_hand))
    assert found["base"]["loss"] == pytest.approx(one.losses.sum() / one.tokens.sum())
    assert [pair[0] for pair in found["layers"]] == pytest.approx([np.mean(by_hand[:2]), np.mean(by_hand[2:])])
    assert found["rows"] == 24 and found["words"] == 2 and found["tokens"] == 240
    assert found["change"]["separation"] == [0, 0, 0], "of the same model, in every resample"


def test_the_nearest_sentence_is_another_one_of_the_word() -> None:
    one = measured(0.8, 3)
    right = []
    for at, row in enumerate(ROWS):
        others = [other for other, found in enumerate(ROWS) if found.lemma == row.lemma and other != at]
        for layer in (0, 1):
            normed = one.vectors[:, layer] / np.linalg.norm(one.vectors[:, layer], axis=1, keepdims=True)
            nearest = max(others, key=lambda other: normed[at] @ normed[other])
            right.append(ROWS[nearest].label == row.label)
    assert 0.5 < np.mean(right) < 1
    assert verdict(one, one, ROWS)["base"]["accuracy"] == pytest.approx(np.mean(right))


def test_a_vector_is_the_mean_of_unit_states_without_the_first_and_centred(tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [row.occurrence.text for row in ROWS]
    by_hand = []
    for text in texts[:2]:
        with torch.no_grad():
            layers = base(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1:]
        by_hand.append(np.stack([functional.normalize(layer[0, 1:], dim=-1).mean(0).numpy() for layer in layers]))
    found = _measure(get_peft_model(base, LoraConfig(target_modules=["q_proj"])), tokenizer, ROWS, texts).vectors
    assert found.shape == (24, 2, 64) and np.abs(found.mean(0)).max() < 1e-6
    assert found[0] - found[1] == pytest.approx(by_hand[0] - by_hand[1], abs=1e-5)


def test_resampled_separation_counts_a_pair_as_often_as_its_rows() -> None:
    one, rows = measured(0.8, 3).vectors[:12, 0], ROWS[:12]
    counts = np.random.default_rng(1).integers(0, 3, 12)
    drawn = [at for at, number in enumerate(counts) for _ in range(number)]
    same, cosines = [], []
    normed = one / np.linalg.norm(one, axis=1, keepdims=True)
    for first, left in enumerate(drawn):
        for right in drawn[first + 1 :]:
            if left != right:
                same.append(rows[left].label == rows[right].label)
                cosines.append(normed[left] @ normed[right])
    assert _separations(one, rows, counts[None])[0] == pytest.approx(roc_auc_score(same, cosines))


@pytest.mark.parametrize(
    ("noise", "loss", "verdicts"),
    [
        (0.05, 3.0, {"separation": "kept", "loss": "kept"}),
        (0.05, 3.5, {"separation": "kept", "loss": "forgotten"}),
        (5.0, 3.0, {"separation": "forgotten", "loss": "kept"}),
        (0.05, 2.0, {"separation": "kept", "loss": "kept"}),
        (0.05, 3.1, {"separation": "kept", "loss": "unclear"}),
    ],
)
def test_the_verdict_follows_the_intervals(noise: float, loss: float, verdicts: dict[str, str]) -> None:
    found = verdict(measured(0.05, 3), measured(noise, loss, seed=1), ROWS)
    assert found["verdicts"] == verdicts
    worst = next(word for word in ("forgotten", "unclear", "kept") if word in verdicts.values())
    assert found["verdict"] == worst
    for name, lost in LOST.items():
        value, low, high = found["change"][name]
        assert low <= value <= high
        assert (verdicts[name] == "forgotten") == (high < lost if lost < 0 else low > lost)


def test_a_model_that_gives_no_numbers_has_forgotten() -> None:
    broken = measured(0.3, np.nan)
    found = verdict(measured(0.3, 3), broken, ROWS)
    assert found["verdict"] == "forgotten" and "no finite numbers" in found["reason"]
    json.dumps(found)


def test_the_sentences_are_balanced_and_each_its_own() -> None:
    placed = read_file(PROBE, PROBE.name)
    rows = sense_rows(placed, PROBE.name, labelled=True)
    counts = Counter((row.lemma, row.label) for row in rows)
    assert len(counts) == 16 and set(counts.values()) == {6} and len({row.lemma for row in rows}) == 8
    assert len({value["text"] for _, value in placed}) == 96
    assert all(row.occurrence.word == row.lemma for row in rows)


# ---- the command, on a run of the tiny model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model after it has read the sentences many times: it has something to forget."""
    folder = tmp_path_factory.mktemp("read") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    texts = [value["text"] for _, value in read_file(PROBE, PROBE.name)]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        own = slice(step % 3, None, 3)
        model(**{key: value[own] for key, value in inputs.items()}, labels=labels[own]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Callable[..., Path]:
    """A run of so many steps at a learning rate, on rows that say nothing but `word`."""

    def train(steps: int, rate: float) -> Path:
        folder = tmp_path_factory.mktemp("run")
        rows = folder / "rows.jsonl"
        lines = [json.dumps({"prompt": f"Say {n}.", "completion": "word " * n}) for n in range(1, 9)]
        rows.write_text("\n".join(lines) + "\n")
        config = folder / "config.yaml"
        config.write_text(
            f"model: {{name_or_path: {model}}}\nquantization: {{compute_dtype: float32}}\n"
            f"data: {{train: {rows}, max_length: 64}}\n"
            f"training: {{max_steps: {steps}, learning_rate: {rate}, micro_batch_size: 2, rehearsal: false, "
            "gradient_accumulation_steps: 1, optimizer: adamw_torch, warmup_ratio: 0}\n"
            f"output_dir: {folder / 'run'}\n"
        )
        pipeline.train(load_config(config), Console(quiet=True))
        return folder / "run"

    return train


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained(2, 1e-3)


@pytest.fixture(scope="module")
def overdone(trained: Callable[..., Path]) -> Path:
    return trained(30, 0.3)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)], env={"COLUMNS": "120"})


def answer(*arguments: object) -> dict[str, Any]:
    result = call(*arguments, "--forgetting", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_two_small_steps_forget_nothing(run: Path) -> None:
    found = answer(run)
    assert found["verdict"] == "kept" and found["source"] == "probe.jsonl" and found["rows"] == 96
    assert 0 < abs(found["change"]["loss"][0]) < 0.1, "the adapter is in one of the two models"
    assert len(found["layers"]) == 2
    shown = call(run, "--forgetting")
    assert shown.stdout.splitlines()[-1] == "kept"
    assert "sense separation" in shown.stdout and "loss a token" in shown.stdout
    assert "over 96 rows of 8 words (probe.jsonl); forgotten: an interval wholly beyond its limit" in shown.stderr


def test_a_run_at_far_too_high_a_rate_is_found_out(overdone: Path) -> None:
    found = answer(overdone)
    assert found["verdict"] == found["verdicts"]["loss"] == "forgotten"
    assert found["change"]["loss"][1] > LOST["loss"]
    assert call(overdone, "--forgetting").stdout.splitlines()[-1] == "forgotten"


def test_the_base_is_the_model_without_its_adapter(overdone: Path, model: Path, tmp_path: Path) -> None:
    assert load_config(overdone / "config.yaml").quantization.type == "nf4"
    rows = write(tmp_path / "rows.jsonl", ROWS)
    tokenizer = AutoTokenizer.from_pretrained(model)
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total = count = 0
    for row in ROWS:
        ids = tokenizer(row.occurrence.text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = whole(ids).logits[0, :-1]
        total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    found = answer(overdone, "--rows", rows)
    assert found["tokens"] == count and found["source"] == str(rows)
    assert found["base"]["loss"] == pytest.approx(total / count, rel=0.02), "but for the rounding to 4 bits"


def test_one_word_has_no_pairs_of_other_words(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", marked("bass", BASS))
    assert answer(run, "--rows", rows)["base"]["pairs"] is None
    assert "pairs" not in call(run, "--forgetting", "--rows", rows).stdout


def refused(*arguments: object) -> FinetuneError:
    result = call(*arguments)
    assert isinstance(result.exception, FinetuneError), result.output
    assert result.exception.hint
    return result.exception


def test_faults(run: Path, tmp_path: Path) -> None:
    def rows(name: str, found: list[SenseRow], **options: bool) -> Path:
        return write(tmp_path / name, found, **options)

    few = marked("bass", {"fish": BASS["fish"], "music": BASS["music"][:1]})
    for arguments, words, code in (
        ((run, "--rows", "x.jsonl"), "--rows x.jsonl: are for the forgetting check", 2),
        ((run, "--forgetting", "--data", "x.jsonl"), "--data: --forgetting reads no data of the run", 2),
        ((run, "data.max_length=8", "--forgetting"), "data.max_length=8: --forgetting reads no data of the run", 2),
        ((run, "--forgetting", "--rows", tmp_path / "no.jsonl"), "no.jsonl: cannot be read", 2),
        ((run, "--forgetting", "--rows", rows("few.jsonl", few)), "few.jsonl: one row alone of bass: 'music'", 4),
        ((run, "--forgetting", "--rows", rows("one.jsonl", few[:6])), "one.jsonl: 1 word with one sense", 4),
        ((run, "--forgetting", "--rows", rows("bare.jsonl", ROWS, labels=False)), "bare.jsonl: 24 faulty rows", 4),
        ((tmp_path / "none", "--forgetting"), "none", 2),
    ):
        error = refused(*arguments)
        assert words in error.message and error.exit_code == code, error.message

"""Real, public data of every shape trains from a few lines of configuration."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("gsm8k/train.jsonl", "prompt_completion"),
        ("self_instruct_seed/seed_tasks.jsonl", "alpaca"),
        ("mlx_wikisql_lora/train.jsonl", "text"),
        ("chat_samples/v1_sft_demo.jsonl", "messages"),
        ("chat_samples/dummy_conversation.json", "sharegpt"),
        ("toolcalls/glaive_toolcall_en_demo.json", "sharegpt"),
        ("toolcalls/reason_tool_use_demo_50.jsonl", "messages"),
    ],
)
def test_two_steps_on_shared_data(shared, tiny_model, tmp_path, name, format):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"""\
model: {{name_or_path: {tiny_model}}}
data:
  train: {shared / "data" / name}
  max_length: 512
  max_truncated: 1 # this tokenizer makes a token of each byte: many rows are longer
  allow: [no_trained_token]
  eval: null
training: {{max_steps: 2, micro_batch_size: 1, gradient_accumulation_steps: 2, optimizer: adamw_torch}}
output_dir: {tmp_path / "run"}
""",
        encoding="utf-8",
    )
    printed = io.StringIO()
    report = pipeline.train(load_config(file), Console(file=printed, width=200))
    assert report["train"]["steps"] == 2
    assert report["train"]["rows"] == 4
    assert 0 < report["train"]["trained_tokens"] <= report["train"]["tokens"]
    assert report["data"]["train"]["format"] == format
    assert f"rows of format {format} (found by looking)" in printed.getvalue()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()

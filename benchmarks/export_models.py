"""Small models of other shapes than SmolLM2's for benchmarks/export.py, pre-trained on the quickstart's rows.

python benchmarks/export_models.py NAME FOLDER [--steps N] [--rows FILE]

Each has what exports of its family break on, and its tokenizer cuts text by the family's own pattern:

qwen2    biases of queries, keys and values; tied embeddings; ChatML; two stop tokens
llama3   rotary frequencies divided as in Llama 3.1; untied embeddings; BOS by tokenizer and template; two stop tokens
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from finetune.export.gguf_tokenizer import SPLITS

VOCABULARY, LENGTH, BATCH, RATE = 2048, 128, 8, 4e-3
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


class Shape(NamedTuple):
    """A model's configuration; llama.cpp's name for its pattern; special tokens (the first ends a text, the last a
    turn) and the one that begins a text; its template."""

    config: dict[str, Any]
    pattern: str
    special: list[str]
    bos: str | None
    template: str


SHAPES = {
    "qwen2": Shape(
        SIZES | {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
        "qwen2",
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        None,
        CHATML,
    ),
    "llama3": Shape(
        SIZES
        | {
            "model_type": "llama",
            "tie_word_embeddings": False,
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
        "llama-bpe",
        ["<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        HEADERS,
    ),
}


def make_tokenizer(shape: Shape, texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the family's kind, trained on `texts`."""
    pattern = next(regex for regex, name in SPLITS.items() if name == shape.pattern)
    tokenizer = Tokenizer(models.BPE(ignore_merges=shape.bos is not None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(shape.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Behind the vocabulary, as both families have them.
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in shape.special])
    if shape.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{shape.bos} $A",
            pair=f"{shape.bos} $A $B",
            special_tokens=[(shape.bos, tokenizer.token_to_id(shape.bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=shape.bos, eos_token=shape.special[-1], pad_token=shape.special[0],
        chat_template=shape.template,
    )  # fmt: skip


def make_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    """Random weights, seeded; biases too are given some, or a lost one would not show."""
    torch.manual_seed(0)
    ends = [tokenizer.convert_tokens_to_ids(text) for text in (shape.special[-1], shape.special[0])]
    fields = shape.config | {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": ends[1]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=torch.float32)
    model.generation_config.eos_token_id = ends
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def pretrain(model: torch.nn.Module, tokens: torch.Tensor, steps: int) -> float:
    """Trains every weight on rows of LENGTH consecutive tokens; returns the last loss in nats a token."""
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, step / 20) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    model.train()
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,))]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}: {loss.item():.3f}", flush=True)
    return loss.item()


def make(name: str, folder: Path, rows: Path, steps: int) -> float:
    """Writes a pre-trained model in bfloat16 with its tokenizer to `folder`; returns the last loss in nats a token."""
    shape = SHAPES[name]
    talks = [json.loads(line)["messages"] for line in rows.read_text(encoding="utf-8").splitlines()]
    tokenizer = make_tokenizer(shape, [turn["content"] for talk in talks for turn in talk])
    text = "".join(tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks)
    model = make_model(shape, tokenizer)
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    loss = pretrain(model, tokens, steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def main() -> None:
    """Makes one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=Path, default=Path("data/quickstart/train.jsonl"))
    asked = parser.parse_args()
    print(f"{make(asked.name, asked.folder, asked.rows, asked.steps):.3f} nats a token")


if __name__ == "__main__":
    main()

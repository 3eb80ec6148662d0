"""Speed of preparing rows: conversations to tokens, loss mask and packs, ours and TRL's, in pairs in one process.

    python benchmarks/prepare_speed.py MODEL ROWS.jsonl [--pairs 5] [--json benchmarks/results/prepare_speed.json]

MODEL is a directory or .gguf file, of which only the tokenizer is read; ROWS holds conversations in `messages` format.
Both get the same rows in memory and the same chat template, which marks assistant turns as TRL needs it. TRL is run
twice: with `assistant_only_loss`, which is the same work, and without a mask, which is less. Exits with 1 where tokens
or trained tokens differ, or ours is less than 1.5 times as fast as TRL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from environment import environment
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from finetune.config import ModelConfig
from finetune.data import Encoder, to_dataset
from finetune.data.formats import to_examples
from finetune.data.rows import Row
from finetune.spec import load_tokenizer
from finetune.spec.source import locate_model

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TIMES = 1.5


def main() -> None:
    """Measures, prints, writes; exits with 1 where tokens differ or ours is not faster by as much as it should."""
    options = _arguments()
    tokenizer = load_tokenizer(locate_model(ModelConfig(name_or_path=str(options.model))))
    tokenizer.chat_template = TEMPLATE
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    rows = [{"messages": row["messages"]} for row in rows] * options.repeat
    ways = {
        "finetune": lambda: ours(rows, tokenizer, options.max_length),
        "trl": trl_way(rows, tokenizer, options.max_length, masked=True),
        "trl without a mask": trl_way(rows, tokenizer, options.max_length, masked=False),
    }
    result = compare(ways, options.pairs)
    for way, one in result.items():
        print(f"{way:<20} {one['rows_a_second']:>8,.0f} rows/s, {one['tokens']:,} tokens in {one['packs']:,} packs")
    times = {way: round(result["finetune"]["rows_a_second"] / one["rows_a_second"], 2) for way, one in result.items()}
    print(f"ours is {times['trl']} times as fast as TRL, {times['trl without a mask']} times without a mask")
    if options.json:
        facts = {"rows": len(rows), "max_length": options.max_length, "pairs": options.pairs, "times": times}
        text = json.dumps({**facts, "ways": result, "environment": environment()}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    same = all(result["finetune"][key] == result["trl"][key] for key in ("tokens", "trained"))
    sys.exit("tokens differ" if not same else "too slow" if times["trl"] < TIMES else 0)


def ours(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The rows through the steps of `load_data`."""
    examples, _ = to_examples([Row(row, "row", index) for index, row in enumerate(rows)])
    encoder = Encoder(tokenizer, loss_on="assistant", max_length=max_length)
    return to_dataset(list(encoder.encode_all(examples)), packing=True, max_length=max_length)


def trl_way(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, *, masked: bool
) -> Callable[[], Dataset]:
    """TRL's own preparation, of a trainer that has been made: what it does is only this step."""
    words = len(tokenizer)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=words, **sizes))
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_length=max_length, packing=True, assistant_only_loss=masked, use_cpu=True,
        bf16=False, report_to="none",
    )  # fmt: skip
    dataset = Dataset.from_list(rows)
    trainer = SFTTrainer(model, arguments, train_dataset=dataset.select(range(2)), processing_class=tokenizer)
    return lambda: trainer._prepare_dataset(dataset, tokenizer, arguments, True, None, "train")


def compare(ways: dict[str, Callable[[], Dataset]], pairs: int) -> dict[str, dict[str, Any]]:
    """Each way in turn, `pairs` times, after one round that is not counted; medians."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    made: dict[str, Dataset] = {}
    for _ in range(pairs + 1):
        for way, prepare in ways.items():
            start = time.perf_counter()
            made[way] = prepare()
            seconds[way].append(time.perf_counter() - start)
    return {way: _counted(made[way], statistics.median(seconds[way][1:])) for way in ways}


def _counted(dataset: Dataset, seconds: float) -> dict[str, Any]:
    rows = sum(len(lengths) for lengths in dataset["seq_lengths"])
    trained = sum(label != -100 for labels in dataset["labels"] for label in labels)
    tokens = sum(len(ids) for ids in dataset["input_ids"])
    return {
        "seconds": round(seconds, 3), "rows_a_second": round(rows / seconds), "tokens": tokens, "trained": trained,
        "packs": len(dataset),
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1, help="how often the rows are taken")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


if __name__ == "__main__":
    datasets.disable_caching()
    datasets.disable_progress_bars()
    main()

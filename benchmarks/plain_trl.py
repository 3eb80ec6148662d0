"""QLoRA with plain TRL, PEFT and bitsandbytes, and nothing of ours: the reference of parity_trl.py and speed.py.

    python benchmarks/plain_trl.py MODEL ROWS.jsonl OUT.json --steps 20 [--set '{"packing": true}'] [--adapter DIR]

Rows are conversations in `messages` format. TRL renders, tokenises, masks and batches them. Every token is trained:
TRL's prompt-completion mask takes in what the chat template writes behind the stop token, finetune's does not.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--set", type=json.loads, default={}, help="fields of SFTConfig, as JSON")
parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="what it computes in")
parser.add_argument("--adapter", type=Path, help="directory to save the adapter in")
options = parser.parse_args()
dtype = getattr(torch, options.dtype)

model = AutoModelForCausalLM.from_pretrained(
    options.model,
    dtype=dtype,
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    ),
    device_map={"": "cpu"},
)
lora = LoraConfig(
    task_type="CAUSAL_LM",
    r=16,
    lora_alpha=32,
    lora_dropout=0.0,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
)
fields = dict(  # SFTConfig checkpoints activations by default
    output_dir=str(options.out.with_suffix("")),
    max_steps=options.steps,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    learning_rate=1e-3,
    lr_scheduler_type="cosine",
    warmup_steps=0.1,  # a tenth of all steps
    optim="adamw_torch",
    max_length=512,
    seed=42,
    data_seed=42,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
    bf16=dtype is torch.bfloat16,
)
arguments = SFTConfig(**{**fields, **options.set})


class Clock(TrainerCallback):
    """When each step ended, in seconds."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


clock = Clock()
rows = Dataset.from_list([json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()])
trainer = SFTTrainer(
    model=model,
    args=arguments,
    train_dataset=rows,
    processing_class=AutoTokenizer.from_pretrained(options.model),
    peft_config=lora,
    callbacks=[clock],
)
trainer.train()

history = trainer.state.log_history
if options.adapter:
    trainer.model.save_pretrained(options.adapter)
result = {
    "losses": [entry["loss"] for entry in history if "loss" in entry],
    "ends": clock.ends,
    "tokens": [int(entry["num_tokens"]) for entry in history if "loss" in entry],  # so far, without padding
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
options.out.write_text(json.dumps(result), encoding="utf-8")

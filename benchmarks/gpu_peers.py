"""What people would run instead, on the same weights and rows: plain TRL, TRL with its best flags, Unsloth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gpu_lines import Skipped

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import Trainer

    from finetune.spec import RunSpec


def save_base(spec: RunSpec, folder: Path) -> None:
    """Writes the line's random base model, quantised, with its tokenizer, as a hub would have it."""
    from finetune.model.build import build_base
    from finetune.spec import load_tokenizer

    base = build_base(spec)
    base.config._attn_implementation = "sdpa"
    base.save_pretrained(folder)
    load_tokenizer(spec.source, None).save_pretrained(folder)
    del base
    if spec.device.kind == "cuda":
        torch.cuda.empty_cache()


def peer_trainer(peer: str, spec: RunSpec, folder: Path) -> Trainer:
    """The peer's trainer, ready to train. Raises Skipped where the peer is not installed, and says why."""
    return _unsloth(spec, folder) if peer == "unsloth" else _trl(spec, folder, best=peer == "trl_best")


def _trl(spec: RunSpec, folder: Path, *, best: bool) -> Trainer:
    """SFTConfig as it comes but for the run's sizes; at its best it computes attention of packs without padding."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    attention = "flash_attention_2" if best and is_flash_attn_2_available() else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        folder / "weights", dtype=spec.dtype, attn_implementation=attention,
        device_map={"": spec.device.torch_device},
    )  # fmt: skip
    fields = {"activation_checkpointing": False} if best and spec.device.kind == "cpu" else {}
    return _sft(model, spec, folder, spec.lora(), **fields)


def _unsloth(spec: RunSpec, folder: Path) -> Trainer:
    try:
        from unsloth import FastLanguageModel
    except Exception as error:  # it refuses in many ways: no card, other versions, no network
        first = (str(error).strip() or "no message").splitlines()[0]
        raise Skipped(f"unsloth cannot be imported: {type(error).__name__}: {first}") from None
    config, lora = spec.config, spec.config.lora
    model, _ = FastLanguageModel.from_pretrained(
        str(folder / "weights"), max_seq_length=config.data.max_length, load_in_4bit=True, dtype=spec.dtype
    )
    model = FastLanguageModel.get_peft_model(
        model, r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.target_modules),
        use_gradient_checkpointing="unsloth", random_state=config.training.seed,
    )  # fmt: skip
    return _sft(model, spec, folder, None)


def _sft(model: Any, spec: RunSpec, folder: Path, lora: LoraConfig | None, **fields: Any) -> Trainer:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    config, training = spec.config, spec.config.training
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    arguments = SFTConfig(
        output_dir=str(folder / "run"), max_steps=training.max_steps, max_length=config.data.max_length,
        packing=config.data.packing, per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps, learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler, optim=training.optimizer, seed=training.seed, logging_steps=1,
        bf16=spec.autocast is torch.bfloat16, use_cpu=spec.device.kind == "cpu", save_strategy="no", report_to="none",
        disable_tqdm=True, **fields,
    )  # fmt: skip
    return SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list([json.loads(line) for line in lines]),
        processing_class=AutoTokenizer.from_pretrained(folder / "weights"), peft_config=lora,
    )  # fmt: skip

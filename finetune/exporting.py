"""`finetune export`: what was trained, merged into the base and proven to say the same, in a form that others load."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from finetune.data import ChatTemplate, LoadedData, load_data
from finetune.errors import ConfigError, FinetuneError, ModelError, RunDirError
from finetune.export import (
    Parity,
    compare,
    llama_cpp,
    log_probabilities,
    prove_directory,
    save_directory,
    write_card,
    write_gguf,
    write_gguf_adapter,
)
from finetune.export.parity import LARGEST, QUESTIONS
from finetune.model import answer, cast, dequantized, load_trained, merge, stop_tokens, stored_dtype, with_adapter
from finetune.report import RunDir, read_receipt
from finetune.spec import RunSpec, describe, load_tokenizer
from finetune.training.evaluation import evaluate_model
from finetune.whole_file import remove_folder, replace_text

BASES = ("16bit", "dequantized")
"""What an adapter can be merged into: the base as it was published, or as training saw it."""

GREEDY = 24
"""Tokens of each greedy answer that llama.cpp's is compared with."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model's held-out loss in nats a trained token (None where nothing can be held out), its parity with the model
    that was trained, and how far merging took it, in nats a token, from its base with the adapter beside it."""

    loss: float | None
    parity: Parity
    merging: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For export.json."""
        return {"loss": self.loss, **dataclasses.asdict(self.parity), "merging": self.merging}


def export(
    path: Path, *, gguf: bool = False, base: str = "auto", output: Path | None = None, say: Callable[..., None] = print
) -> dict[str, Any]:
    """Merges a run's adapter, into the better base where `base` is auto, proves it and writes it to `output` (in the
    run where None), with `gguf` also as one file beside it. Returns what export.json holds.

    Raises ModelError where the merged model does not say what the trained one does, or is of a family that has no such
    file; the other errors of `finetune.errors`. Nothing is left behind then.
    """
    run = RunDir.open(path)
    receipt, spec = read_receipt(run.path), describe(run.config())
    target = output or run.path / "merged"
    if target.exists():
        raise RunDirError(f"{target} is there already", "remove it, or name another directory with --output")
    if spec.config.model.weights == "random":
        raise ConfigError("model.weights: random: there is nothing to export", "train on the weights of a model")
    exporter = _Exporter(spec, run, say)
    aside = target.with_name(f".{target.name}.tmp")
    remove_folder(aside)
    try:
        found = exporter.merge_into(aside, base)
        write_card(aside, {**found, "name": target.name}, receipt)
        if gguf:
            found["gguf"] = exporter.as_gguf(aside, f"{target.name}.gguf")
        replace_text(aside / "export.json", json.dumps(found, indent=2) + "\n")
        aside.rename(target)
    except OSError as error:
        raise RunDirError(f"{target} cannot be written ({error})", "free space, or name another --output") from None
    finally:
        remove_folder(aside)
    return {**found, "directory": str(target)}


def export_adapter(path: Path) -> Path:
    """Writes a run's adapter as RUN/adapter.gguf, for llama.cpp beside a GGUF file of its base, and returns that file.

    Raises RunDirError where it is there already, ModelError for an adapter that llama.cpp has no place for.
    """
    run = RunDir.open(path)
    target = run.path / "adapter.gguf"
    if target.exists():
        raise RunDirError(f"{target} is there already", "remove it")
    aside = target.with_name(f".{target.name}.tmp")
    try:
        write_gguf_adapter(run.adapter, describe(run.config()).model_config, aside)
        aside.rename(target)
    except OSError as error:
        raise RunDirError(f"{target} cannot be written ({error})", "free space, or train first") from None
    finally:
        aside.unlink(missing_ok=True)
    return target


def push(folder: Path, name: str) -> str:
    """Uploads an exported directory to the hub as a private model, and returns its address. Raises ModelError."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # of the network, the token or the name
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{name}: cannot be uploaded ({reason}); it is in {folder}",
            "check the name, the network and `hf auth whoami`, then `hf upload NAME DIRECTORY`",
        ) from None
    return str(url)


class _Exporter:
    """One run's export: the trained model's words are kept, the models themselves come one after the other."""

    def __init__(self, spec: RunSpec, run: RunDir, say: Callable[..., None]) -> None:
        self.spec, self.run, self.say = spec, run, say
        self.tokenizer = load_tokenizer(spec.source, spec.config.data.chat_template)
        template = ChatTemplate(self.tokenizer) if self.tokenizer.chat_template else None
        self.rendered = [
            template.render([{"role": "user", "content": text}], generate=True) if template else text
            for text in QUESTIONS
        ]
        self.texts = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in self.rendered]
        self.data = self._held_out()

    def _held_out(self) -> LoadedData | None:
        config = self.spec.config
        if config.training.method != "sft" or not config.data.holds_out:
            return None
        try:
            return load_data(self.spec)
        except FinetuneError as error:
            self.say(f"no held-out loss: {error.message}")
            return None

    def _measured(self, model: torch.nn.Module) -> tuple[float | None, list[torch.Tensor]]:
        words = log_probabilities(model, self.texts)
        if not self.data:
            return None, words
        return evaluate_model(self.spec, model, self.data.held_out, self.data.collator), words

    def merge_into(self, folder: Path, base: str) -> dict[str, Any]:
        """Measures the trained model and each candidate, writes the best into `folder`, and proves it."""
        trained = load_trained(self.spec, self.run.adapter)
        self.stops = stop_tokens(trained, self.tokenizer)
        weights = dequantized(trained) if self.spec.bitsandbytes() else {}
        loss, self.words = self._measured(trained)
        found = {"trained": Measured(loss, Parity(0.0, 1.0))}
        del trained
        kinds = [kind for kind in BASES if base in ("auto", kind) and (weights or kind == "16bit")]
        if not kinds:
            raise ConfigError("--base dequantized: the run's base was not quantised", "leave --base out")
        for kind in kinds:
            model, words, found[kind] = self._candidate(kind, weights)
        best = min(kinds, key=lambda kind: (found[kind].loss or 0.0, found[kind].parity.divergence))
        if best != kinds[-1]:
            del model
            model, words, _ = self._candidate(best, weights)
        self._say_choice(found, best)
        stored = stored_dtype(self.spec)
        save_directory(cast(model.cpu(), stored), self.tokenizer, self.stops, folder)
        del model
        prove_directory(
            folder, words, self.texts, self.rendered, self.stops,
            device=self.spec.device.torch_device, dtype=self.spec.dtype, attention=self.spec.attention,
            trust_remote_code=self.spec.config.model.trust_remote_code,
        )  # fmt: skip
        return {
            "base_model": self.spec.source.name,
            "base": best,
            "dtype": str(stored).removeprefix("torch."),
            "models": {name: one.to_json() for name, one in found.items()},
            "stop_tokens": self.stops,
        }

    def _candidate(self, kind: str, weights: dict[str, torch.Tensor]) -> tuple[Any, list[torch.Tensor], Measured]:
        """A merged model, its words, and how it measures. Raises ModelError where merging changed what it says."""
        device, dtype = self.spec.device.torch_device, self.spec.dtype
        model = with_adapter(self.spec, self.run.adapter, weights if kind == "dequantized" else {}).to(device)
        before = log_probabilities(cast(model, dtype) if dtype == torch.float32 else model, self.texts)
        merged = cast(merge(model, stored_dtype(self.spec)), dtype)
        loss, words = self._measured(merged)
        changed = compare(before, words).divergence
        if not changed <= LARGEST:
            raise ModelError(
                f"merging into the {kind} base changes what the model says by {changed:.3g} nats a token, more than "
                f"{LARGEST:g}",
                "load the adapter beside the base instead: it is in the run's directory adapter/",
            )
        return merged, words, Measured(loss, compare(self.words, words), changed)

    def _say_choice(self, found: dict[str, Measured], best: str) -> None:
        for name, one in found.items():
            loss = "" if one.loss is None else f"held-out loss {one.loss:.4f}, "
            said = f"{one.parity.divergence:.2e} nats a token from the trained model, "
            self.say(f"{name}: {loss}{said if name != 'trained' else ''}".rstrip(", "))
        self.say(f"merged into: {best}")

    def as_gguf(self, folder: Path, name: str) -> dict[str, Any]:
        """Writes the file, and compares the answers of each llama.cpp that is installed with transformers' own."""
        write_gguf(folder, folder / name, Path(name).stem)
        packages = llama_cpp.installed()
        found = {"file": name, "prompts": len(QUESTIONS), "packages": {}}
        if not packages:
            self.say("llama.cpp was not asked: `pip install xllamacpp` proves the file here")
            return found
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ours = [answer(model, self.tokenizer, text, max_new_tokens=GREEDY) for text in self.rendered]
        chat = bool(self.tokenizer.chat_template)
        for package in packages:
            # In a conversation llama.cpp renders the template itself.
            theirs = llama_cpp.answers(package, folder / name, QUESTIONS, GREEDY, chat=chat)
            found["packages"][package] = self._compared(package, ours, theirs)
        return found

    def _compared(self, package: str, ours: list[str], theirs: list[llama_cpp.Answer]) -> dict[str, Any]:
        special = not self.tokenizer.chat_template  # without one llama.cpp adds the tokenizer's BOS
        own = [len(self.tokenizer(text, add_special_tokens=special)["input_ids"]) for text in self.rendered]
        read = [one.prompt_tokens for one in theirs]
        if read != own:
            raise ModelError(
                f"llama.cpp ({package}) reads the prompts as {read} tokens, not as {own}",
                "export without --gguf: the merged directory is proven",
            )
        same = sum(one.strip() == other.text.strip() for one, other in zip(ours, theirs, strict=True))
        self.say(f"llama.cpp ({package}) answers {same} of {len(ours)} prompts with the same text")
        return {
            "version": metadata.version(package),
            "same_text": same,
            "stopped": sum(one.stopped for one in theirs),
        }

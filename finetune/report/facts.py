"""What the pages say: the sentence, the figures and the tables, made once and laid out twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NamedTuple

from finetune.report.batch import batch_rows
from finetune.report.schema import Report
from finetune.report.wording import change, count, duration, gib, known, moment, percent, perplexity, plain, rate

DATA = {
    "source": "Source",
    "format": "Format",
    "rows": "Rows",
    "tokens": "Tokens",
    "trained_tokens": "Trained tokens",
    "longest": "Longest row, tokens",
    "truncated": "Rows truncated",
    "dropped": "Rows dropped",
}

HELD_OUT = {
    "reward": "Held-out reward",
    "margin": "Held-out margin",
    "accuracy": "Held-out accuracy",
    "completion_length": "Held-out completion, tokens",
}
"""Held-out figures of methods that learn from rewards or preferences; the first that a run has is told first."""

Pair = tuple[float | None, float | None]

SCRIPT = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {adapter})

messages = [{{"role": "user", "content": "What can you do?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=200)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


class Figure(NamedTuple):
    """A figure at the head: its name, its value, and what puts the value in proportion."""

    name: str
    value: str
    details: list[str]


class Table(NamedTuple):
    """Rows that begin with their own header; `columns` names the cells after it, or is empty."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def title(report: Report) -> str:
    """The model's name; of an absolute path the last part."""
    name = report.model.name_or_path or "Unnamed model"
    return PurePath(name).name if PurePath(name).is_absolute() else name


def subtitle(report: Report) -> str:
    """State, time, method and machine in one line."""
    when = moment(report.finished_at) if report.finished_at else ""
    state = f"{report.status or ''} {when}".strip()
    rank = f"LoRA rank {plain(report.lora['r'])}" if "r" in report.lora else ""
    device = report.environment.get("device") or report.memory.device
    parts = (state[:1].upper() + state[1:], report.model.quantization, rank, device)
    return " · ".join(plain(part) for part in parts if part)


def sentence(report: Report) -> str:
    """The run in one sentence, made of what was measured."""
    seconds, peak = report.train.seconds, report.memory.measured_bytes
    parts = [
        _outcome(report) + ("" if seconds is None else f" in {duration(seconds)}"),
        "" if report.tokens_per_second is None else f"at {rate(report.tokens_per_second)} tokens/s",
        "" if peak is None else f"with at most {gib(peak)} of tensors in memory",
    ]
    return ", ".join(part for part in parts if part) + "."


def _outcome(report: Report) -> str:
    losses = {"Held-out loss": _held_out(report), "Training loss": _trained(report)}
    for name, pair in (_learned(report) or losses).items():
        if None not in pair:
            before, after = pair
            verb = "fell" if after < before else "rose" if after > before else "went"
            return f"{name} {verb} from {before:.2f} to {after:.2f}{_bracket(pair)}"
    return "Trained" if report.train.seconds is not None else "Nothing was measured"


def figures(report: Report) -> list[Figure]:
    """Loss, speed, time and memory, each beside what it is compared with."""
    train, memory, losses = report.train, report.memory, _held_out(report)
    sizes = (memory.predicted_bytes, memory.measured_bytes)
    loss = Figure(
        "Held-out loss",
        _arrow(losses, "{:.2f}".format),
        [*_relative(losses), f"perplexity {_arrow(losses, perplexity)}"],
    )
    learned = [Figure(name, _arrow(pair, "{:.2f}".format), _relative(pair)) for name, pair in _learned(report).items()]
    return [
        *(learned[:1] or [loss]),
        Figure("Tokens/s", known(report.tokens_per_second, rate), [f"{known(train.tokens, count)} tokens"]),
        Figure("Training time", known(train.seconds, duration), [f"{known(train.steps, count)} steps"]),
        Figure(
            "Peak memory",
            known(memory.measured_bytes, gib),
            [f"predicted {known(memory.predicted_bytes, gib)}", *_relative(sizes)],
        ),
    ]


def tables(report: Report) -> list[Table]:
    """Every table of the pages, in their order; a table with nothing in it is left out."""
    every = [
        Table("Measured", [], _measured(report)),
        Table("Batch size", [], batch_rows(report)),
        Table("Policy gradient before training", [], _baseline(report)),
        Table("Rehearsal", [], _rehearsal(report)),
        Table("Settings", [], _settings(report)),
        _data(report),
        Table("Environment", [], _environment(report)),
    ]
    return [table for table in every if table.rows]


def _measured(report: Report) -> list[list[str]]:
    train, memory = report.train, report.memory
    held_out, trained = _held_out(report), _trained(report)
    sizes = (memory.predicted_bytes, memory.measured_bytes)
    return _rows(
        ("Steps", train.steps, count),
        ("Epochs", train.epochs, plain),
        ("Rows", train.rows, count),
        ("Tokens without padding", train.tokens, count),
        ("Trained tokens", train.trained_tokens, count),
        ("Training time", train.seconds, duration),
        ("Tokens per second", report.tokens_per_second, rate),
        ("Training loss", _some(trained), lambda pair: _arrow(pair, "{:.4f}".format) + _bracket(pair)),
        ("Held-out loss", _some(held_out), lambda pair: _arrow(pair, "{:.4f}".format) + _bracket(pair)),
        ("Held-out perplexity", None if _learned(report) else _some(held_out), lambda pair: _arrow(pair, perplexity)),
        *((name, _some(pair), lambda pair: _arrow(pair, "{:.4g}".format)) for name, pair in _learned(report).items()),
        ("Memory predicted", memory.predicted_bytes, gib),
        ("Memory measured", memory.measured_bytes, lambda size: gib(size) + _bracket(sizes)),
        ("Memory measured as", memory.measured_as, plain),
        ("Whole process, resident in host memory at its peak", memory.process_bytes, gib),
    )


def _baseline(report: Report) -> list[list[str]]:
    found = report.baseline
    return _rows(
        ("Completions", found.completions, count),
        ("Variance without a baseline", found.without, "{:.4g}".format),
        ("With leave-one-out", found.leave_one_out, "{:.4g}".format),
        ("With the best constant", found.optimal, "{:.4g}".format),
    )


def _rehearsal(report: Report) -> list[list[str]]:
    seen = report.rehearsal
    sizes = (seen.predicted_bytes, seen.train_peak_bytes)
    return _rows(
        ("Largest training batch, tokens with padding", seen.tokens, count),
        ("Its memory predicted", seen.predicted_bytes, gib),
        ("Its memory measured", seen.train_peak_bytes, lambda size: gib(size) + _bracket(sizes)),
        ("Largest evaluation batch, memory measured", seen.eval_peak_bytes, gib),
        ("Seconds per micro step", seen.seconds_per_micro_step, "{:.3g}".format),
        ("Checkpoint, bytes", seen.checkpoint_bytes, count),
    )


def _data(report: Report) -> Table:
    sides = {"Train": report.data.train, "Held out": report.data.eval}
    found = {name: side for name, side in sides.items() if side is not None}
    rows = []
    for key, name in DATA.items():
        values = [getattr(side, key) for side in found.values()]
        if any(value is not None for value in values):
            rows.append([name, *(known(value, count if isinstance(value, int) else plain) for value in values)])
    return Table("Data", list(found), rows)


def _settings(report: Report) -> list[list[str]]:
    model, train = report.model, report.train
    return _rows(
        ("Model", model.name_or_path, plain),
        ("Parameters", model.parameters.total, count),
        ("Parameters trained", model.parameters.trainable, lambda number: _share(number, model.parameters.total)),
        ("Parameters quantised", model.parameters.quantized, lambda number: _share(number, model.parameters.total)),
        ("Quantisation", model.quantization, plain),
        ("Unquantised weights", model.dtype, plain),
        ("Compute dtype", model.compute_dtype, plain),
        ("Attention", model.attention, plain),
        *((f"LoRA {name}", value, plain) for name, value in report.lora.items()),
        ("Learning rate", train.learning_rate, plain),
        ("Effective batch size", train.effective_batch_size, count),
        ("Written by finetune", report.finetune_version, plain),
    )


def _environment(report: Report) -> list[list[str]]:
    sizes = {name for name, value in report.environment.items() if name.endswith("_bytes") and isinstance(value, int)}
    return _rows(
        *(
            (name.removesuffix("_bytes").replace("_", " "), value, gib if name in sizes else plain)
            for name, value in report.environment.items()
        )
    )


def plain_script(report: Report, run: PurePath) -> str:
    """Python that answers with the adapter through transformers and PEFT alone."""
    name = report.model.name_or_path or "BASE_MODEL"
    base = json.dumps(name, ensure_ascii=False)
    if name.endswith(".gguf"):
        folder, _, file = name.rpartition("/")
        base = f"{json.dumps(folder or '.', ensure_ascii=False)}, gguf_file={json.dumps(file, ensure_ascii=False)}"
    return SCRIPT.format(base=base, adapter=json.dumps(str(run / (report.adapter or "adapter")), ensure_ascii=False))


def _held_out(report: Report) -> Pair:
    return report.eval_loss.before, report.eval_loss.after


def _learned(report: Report) -> dict[str, Pair]:
    """Held-out figures other than the loss, before and after."""
    found = {name: report.held_out[key] for key, name in HELD_OUT.items() if key in report.held_out}
    return {name: (pair.before, pair.after) for name, pair in found.items()}


def _trained(report: Report) -> Pair:
    return report.train.loss.first, report.train.loss.last


def _some(pair: Pair) -> Pair | None:
    return None if pair == (None, None) else pair


def _arrow(pair: Pair, write: Callable[[float], str]) -> str:
    return known(_some(pair), lambda both: " → ".join(known(value, write) for value in both))


def _relative(pair: Pair) -> list[str]:
    relative = change(*pair)
    return [] if relative is None else [percent(relative)]


def _bracket(pair: Pair) -> str:
    return "".join(f" ({text})" for text in _relative(pair))


def _share(number: int, total: int | None) -> str:
    return count(number) + (f" ({number / total:.2%})".replace("%", " %") if total else "")


def _rows(*entries: tuple[str, Any, Callable[[Any], str]]) -> list[list[str]]:
    """Rows of what is known: an entry is a name, a value and how to write it."""
    return [[name, write(value)] for name, value, write in entries if value is not None]

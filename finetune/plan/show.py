"""A plan for people: a line for each figure, what it follows from beneath it, and at the end what to change."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from finetune.batching import scaling_ratio
from finetune.plan.plan import Plan
from finetune.spec import RunSpec

GIB = 2**30
KINDS = {"dpo": "pairs", "rloo": "completions", "grpo": "completions"}
"""What an update's size counts, where it is not rows."""


def show_plan(plan: Plan, console: Console) -> None:
    """Prints each figure with its reason, then the doubts."""
    spec = plan.verdict.spec
    console.print(
        f"[bold]{escape(spec.config.model.name_or_path)}[/bold] on {escape(spec.device.name)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for name, value, reason in _lines(plan):
        console.print(f"[bold]{name:<14}[/bold] {escape(value)}", highlight=False, soft_wrap=True)
        console.print(f"{'':<14} [dim]{escape(reason)}[/dim]", highlight=False, soft_wrap=True)
    _conclude(plan, console)


def _lines(plan: Plan) -> list[tuple[str, str, str]]:
    verdict = plan.verdict
    lines = [_parameters(verdict.spec), _adapter(verdict.spec), _memory(plan), _batch(plan)]
    lines += [_updates(plan), _warmup(plan), _rate(verdict.spec), _compute(plan), _attention(plan), _tokens(plan)]
    lines.append(("time", verdict.duration.words().removeprefix("time "), verdict.duration.basis))
    return lines


def _parameters(spec: RunSpec) -> tuple[str, str, str]:
    counts = spec.parameters
    kept = f"{counts.quantized:,} in 4 bits" if counts.quantized else f"all in {str(spec.dtype).removeprefix('torch.')}"
    return "parameters", f"{counts.total:,}", f"{kept}; counted on the model itself, adapter included"


def _adapter(spec: RunSpec) -> tuple[str, str, str]:
    lora, counts = spec.config.lora, spec.parameters
    targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    reason = f"rank {lora.r} on {targets}: r x (inputs + outputs) for each weight"
    return "trained", f"{counts.trainable:,} ({counts.trainable / counts.total:.2%})", reason


def _memory(plan: Plan) -> tuple[str, str, str]:
    verdict = plan.verdict
    prediction, device = verdict.prediction, verdict.spec.device
    what = max(prediction.breakdown, key=prediction.breakdown.__getitem__)
    fits = f"{(device.memory_bytes - verdict.needed) / GIB:.2f} GiB to spare" if verdict.fits else "does not fit"
    share = prediction.breakdown[what] / prediction.allocated
    reason = f"peak in the {prediction.phase}, {share:.0%} of it {what}; {fits}"
    return "memory", f"{prediction.process / GIB:.2f} of {device.memory_bytes / GIB:.2f} GiB", reason


def _batch(plan: Plan) -> tuple[str, str, str]:
    training = plan.verdict.spec.config.training
    kind = "packs" if plan.verdict.spec.config.data.packing else KINDS.get(training.method, "rows")
    size = training.effective_batch_size
    value = f"{training.micro_batch_size} x {training.gradient_accumulation_steps} = {size:,} {kind}"
    return "batch", value, f"{kind} at once x passes: the card sees the first number, the update their product"


def _updates(plan: Plan) -> tuple[str, str, str]:
    updates, training = plan.updates, plan.verdict.spec.config.training
    if updates is None:
        return "updates", "unknown", "how many examples there are decides it: --examples N, or --data to read them"
    if updates.per_epoch is None:
        return "updates", f"{updates.total:,}", "training.max_steps; epochs follow from --examples N, or --data"
    share = f"{updates.examples:,} / {updates.effective_batch_size:,}"
    partial = "" if updates.last == updates.effective_batch_size else f", the last of {updates.last:,}"
    run = f"training.max_steps, {updates.epochs:.3g} epochs" if training.max_steps else f"x {training.epochs:g} epochs"
    return "updates", f"{updates.per_epoch:,} an epoch, {updates.total:,} in all", f"{share} rounded up{partial}; {run}"


def _warmup(plan: Plan) -> tuple[str, str, str]:
    training, updates = plan.verdict.spec.config.training, plan.updates
    if not training.warms_up:
        reason = f"training.lr_scheduler={training.lr_scheduler}, warmup_ratio={training.warmup_ratio:g}"
        return "warm-up", "none", reason
    value = f"{updates.warmup:,} updates" if updates else f"{training.warmup_ratio:.0%} of the updates"
    return "warm-up", value, f"{training.warmup_ratio:.0%}, rounded up; then {training.lr_scheduler}"


def _rate(spec: RunSpec) -> tuple[str, str, str]:
    training = spec.config.training
    if training.lr_scaling == "none":
        return "learning rate", f"{spec.learning_rate:.3g}", "as configured (training.lr_scaling=none)"
    ratio = f"{training.effective_batch_size:,} / {training.reference_batch_size:,}"
    rule = {"linear": f"x {ratio}", "sqrt": f"x sqrt({ratio})"}[training.lr_scaling]
    reason = f"{training.learning_rate:g} {rule}, for {scaling_ratio(training):.3g} times the reference batch"
    return "learning rate", f"{spec.learning_rate:.3g}", reason


def _compute(plan: Plan) -> tuple[str, str, str]:
    value = f"{plan.verdict.flops_per_update:.3g} FLOP an update" + (f", {plan.flops:.3g} in all" if plan.flops else "")
    recomputed = plan.verdict.spec.config.training.recomputes
    return "compute", value, "counted in the trace" + (", recomputation included" if recomputed else "")


def _attention(plan: Plan) -> tuple[str, str, str]:
    share = plan.attention
    half = (
        f"half of it from {share.half_from:,} tokens" if share.half_from else "never half of it: its windows are narrow"
    )
    value = f"{share.now.share:.1%} of a forward pass at {share.tokens:,} tokens"
    return "attention", value, f"scores and values as {share.kernel} computes them; {half}"


def _tokens(plan: Plan) -> tuple[str, str, str]:
    tokens = plan.tokens
    value = f"{tokens.per_update:,} an update" + (f", {tokens.total:,} in all" if tokens.total else "")
    reason = "counted in the data, without padding" if tokens.exact else "at most: every row at data.max_length"
    return "tokens", value, reason


def _conclude(plan: Plan, console: Console) -> None:
    verdict = plan.verdict
    for line in verdict.problems:
        console.print(f"[bold red]does not fit[/bold red]: {escape(line)}", highlight=False, soft_wrap=True)
    for line in verdict.advice:
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    for doubt in plan.doubts:
        console.print(f"[bold yellow]would change[/bold yellow]  {escape(doubt.why)}", highlight=False, soft_wrap=True)
        if doubt.change:
            console.print(f"  `{escape(doubt.change)}`", highlight=False, soft_wrap=True)
    if verdict.fits and not plan.doubts:
        console.print("[bold green]nothing to change[/bold green]", highlight=False)

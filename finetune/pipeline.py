"""The straight line: what `finetune train` does, top to bottom; and the two short ones after it, eval and chat."""

from __future__ import annotations

import functools
import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from finetune.config import RunConfig, load_config
from finetune.data import ChatTemplate, LoadedData, load_data
from finetune.errors import ConfigError, DataError, DoesNotFit, ProcessLost, Stopped
from finetune.model import answer, build_model, load_trained
from finetune.plan import DataSize, Plan, make_plan, require_sense
from finetune.preflight import (
    Batch,
    Verdict,
    decide_recomputing,
    find_card,
    predict,
    preflight,
    relief,
    solve,
    worst_batch,
)
from finetune.processes import ALONE, Processes
from finetune.report import (
    Measured,
    Receipt,
    RunDir,
    data_inputs,
    setting_inputs,
    write_pages,
    write_report,
)
from finetune.secrets import redact
from finetune.spec import RunSpec, describe, find_device, load_tokenizer
from finetune.training import (
    Interrupts,
    Keeper,
    MetricsWriter,
    ProgressBar,
    Watched,
    announced,
    audit,
    build_trainer,
    check_rewards,
    lack_of_memory,
    newest_good,
    passed_over,
    peak_resident,
    prepare_reporters,
    prove_packing,
    rehearse,
    require_compiler,
    save_adapter,
    step_of,
    try_rewards,
)


def train(
    config: RunConfig,
    console: Console,
    *,
    resume: bool = False,
    allow_drift: bool = False,
    dry_run: bool = False,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Trains an adapter and returns what report.json holds. Raises the errors of `finetune.errors`.

    `resume` goes on from the newest good checkpoint, `allow_drift` also where what the run is made of has changed;
    `dry_run` stops before the first step, after the rehearsal, and leaves nothing behind. Each of several `processes`
    comes through here; the first alone speaks, writes, and has a report to return.
    """
    set_allocator(config)
    spec = describe(config, None if processes.alone else find_device(config.hardware, processes.local_count))
    spec = decide_recomputing(spec, processes.told(lambda: _recomputed(spec, resume)))
    say = functools.partial(_say, console if processes.main else Console(quiet=True))
    with Interrupts(say, processes) as interrupts, _open_run(spec, resume, say, processes) as run:
        receipt = Receipt(run, allow_drift=allow_drift)
        done = processes.told(run.finished)
        start = processes.told(lambda: _start(run, say)) if resume and not done else None
        say(*processes.notes, *receipt.enter(setting_inputs(spec), step_of(start)))
        say(*receipt.enter_processes(processes.count, step_of(start)))
        if done:
            return _already(done, run, say)
        run.describe(spec, processes)
        verdict = preflight(spec).require_fit()
        require_compiler(spec)
        prepare_reporters(config.training.report_to, run.path)
        data = load_data(spec)
        say(*data.notes, *announced(spec))
        say(*check_rewards(spec, data))
        model = build_model(spec, whole=config.hardware.shards == 1)
        say(*receipt.enter(data_inputs(spec, data), step_of(start)))
        run.write_json("preflight.json", verdict.to_json(timeline=True))
        trainer = build_trainer(spec, model, data, run.checkpoints, processes)
        metrics = MetricsWriter(run.metrics, trainer)
        keeper = Keeper(trainer, interrupts, say, metrics.sync)
        trainer.add_before_reporters(interrupts, keeper)
        if processes.main:
            trainer.add_before_reporters(metrics, ProgressBar(console, trainer.memory))
            trainer.guards.tell(console, run.path, lambda: relief(verdict))
        audit(spec, trainer)
        trainer.share_base()
        proof = prove_packing(trainer) if config.data.packing else None
        proven = [proof.note()] if proof else []
        trial = try_rewards(spec, trainer)
        proven += trial.notes
        say(*proven)
        largest = largest_batch(spec, data)
        expected = (verdict.prediction if largest == verdict.batch else predict(spec, largest)).allocated
        rehearsal = rehearse(spec, trainer, run.path, predicted=expected)
        say(*rehearsal.notes)
        if dry_run:
            return {"dry_run": True, **verdict.to_json(), "rehearsal": rehearsal.to_json()}
        with _within_memory(trainer):
            before = _before(run, resume, lambda: _look(spec, data, trainer), processes)
            run.keep()
            with _resumable(run, trainer, interrupts):
                receipt.save()
                keeper.begin(rehearsal.checkpoint_bytes or 0)
                trainer.train(resume_from_checkpoint=str(start) if start else None)
                interrupts.stop_if_asked()
                keeper.patiently(lambda: save_adapter(model, data.tokenizer, run.adapter), "the adapter")
                receipt.finish()
                after = _look(spec, data, trainer)
        if not processes.main:
            return {}
        read = data.stream.notes_after() if data.stream else []
        say(*read)
        measured = Measured(
            predicted_bytes=expected,
            memory_meaning=trainer.memory.meaning,
            rehearsal=rehearsal.to_json(),
            notes=[*proven, *rehearsal.notes, *read],
        )
        measured.baseline = trial.baseline
        _collect(measured, trainer, metrics, before, after)
        return write_report(spec, data, run, measured)


def look_ahead(
    config: RunConfig, gpu: str | None = None, *, with_data: bool = False, examples: int | None = None
) -> Verdict:
    """What a run would take, on this machine or on a card by its name or size. `with_data` reads the data for the
    lengths of its rows; without, every row is priced at `max_length`. `examples` rows, where given, tell the time."""
    return _look_ahead(config, gpu, with_data, examples)[0]


def plan_ahead(
    config: RunConfig,
    gpu: str | None = None,
    *,
    with_data: bool = False,
    examples: int | None = None,
    noise_scale: float | None = None,
) -> Plan:
    """The whole plan of a run, as `look_ahead` and with what follows from the number of examples."""
    answers = config.rollout.num_generations if config.training.online else 1
    require_sense(config.training, None if examples is None else examples * answers, noise_scale)
    verdict, data = _look_ahead(config, gpu, with_data, examples)
    return make_plan(verdict, data=data, noise_scale=noise_scale)


def _look_ahead(
    config: RunConfig, gpu: str | None, with_data: bool, examples: int | None
) -> tuple[Verdict, DataSize | None]:
    spec = decide_recomputing(describe(config, find_card(gpu) if gpu else None))
    if not with_data:
        return preflight(spec, examples=examples), None
    data = load_data(spec)
    if data.stream:  # lengths are seen when it is read: every row is priced at max_length, and packs are not counted
        rows = None if spec.config.data.packing else data.stream.blocks.count
        return preflight(spec, examples=examples or rows), None
    stats = data.train.stats
    lengths = tuple(data.row_lengths())
    size = DataSize(len(data.train_dataset), stats.tokens, stats.trained_tokens, stats.longest, lengths)
    return preflight(spec, batch=largest_batch(spec, data), examples=size.examples), size


def solve_for(config: RunConfig, gpu: str | None, what: str) -> dict[str, int]:
    """The largest `seq_len` or `micro_batch_size` with which a run fits, under that name."""
    return {what: solve(describe(config, find_card(gpu) if gpu else None), what)}


def evaluate(path: Path, data_eval: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Held-out loss of a trained run, on its own held-out rows or on those of another file or hub id.

    `overrides` change keys of `data:` alone.
    """
    run = RunDir.open(path)
    config = run.config()
    for item in overrides:
        if not item.startswith("data."):
            raise ConfigError(f"{item}: the run is trained; only its data can be other", "change keys of data alone")
    other = [] if data_eval is None else [f"data.eval={json.dumps(data_eval)}", "data.eval_fraction=0.0"]
    if overrides or other:
        config = load_config(run.path / "config.yaml", [*overrides, *other])
    if not config.data.holds_out:
        raise ConfigError(f"{path}: the run holds no rows out", "name some: `finetune eval RUN --data FILE`")
    spec = describe(config)
    data = load_data(spec)
    with TemporaryDirectory() as folder:
        trainer = build_trainer(spec, load_trained(spec, run.adapter), data, Path(folder))
        found = {f"eval_{name}": value for name, value in trainer.held_out(data.held_out).items()}
    stats = data.eval.stats
    return {**found, "rows": stats.rows, "trained_tokens": stats.trained_tokens, "source": stats.source}


def forgetting(path: Path, rows_file: Path | None = None) -> dict[str, Any]:
    """What training did to the meaning of words: base and tuned model of a run on marked rows, `rows_file` in the
    format of `finetune senses`, or sentences of our own. Raises the errors of `finetune.errors`."""
    from finetune.data.files import read_file  # here: training needs none of it, nor the memory it takes
    from finetune.senses import require_senses, sense_rows
    from finetune.senses.forgetting import PROBE, compare, require_two_of_each

    run = RunDir.open(path)
    spec = describe(run.config())
    name = str(rows_file or PROBE.name)
    placed = read_file(rows_file.expanduser() if rows_file else PROBE, name)
    rows = sense_rows(placed, name, labelled=True)
    require_senses(rows, name)
    require_two_of_each(rows, name)
    tokenizer = load_tokenizer(spec.source, spec.config.data.chat_template)
    found = compare(load_trained(spec, run.adapter), tokenizer, rows, [value["text"] for _, value in placed])
    return {"source": name, **found}


def open_chat(path: Path, max_new_tokens: int) -> Callable[[list[dict[str, str]]], str]:
    """A function from a conversation so far to the trained model's next answer."""
    run = RunDir.open(path)
    spec = describe(run.config())
    tokenizer = load_tokenizer(spec.source, spec.config.data.chat_template)
    template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
    model = load_trained(spec, run.adapter)

    def reply(messages: list[dict[str, str]]) -> str:
        prompt = template.render(messages, generate=True) if template else messages[-1]["content"]
        return answer(model, tokenizer, prompt, max_new_tokens=max_new_tokens)

    return reply


def _say(console: Console, *notes: str) -> None:
    for note in notes:
        console.print(redact(note), markup=False, highlight=False, soft_wrap=True)


def set_allocator(config: RunConfig) -> None:
    """Torch reads this when it first touches a card, and never again; what the user has set stands."""
    if config.hardware.expandable_segments:
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def largest_batch(spec: RunSpec, data: LoadedData) -> Batch:
    """The micro batch of the longest rows (fullest packs, pairs, prompts with their completions): none takes more."""
    if data.stream:
        return worst_batch(spec)
    rows = spec.config.training.micro_batch_size
    longest = sorted(data.lengths(), reverse=True)[:rows]
    if spec.config.training.method == "dpo":
        return Batch(2 * len(longest), longest[0], padded=True)
    if data.completion:
        return Batch(rows, longest[0], padded=True, prompt_tokens=longest[0] - data.completion)
    packed = spec.config.data.packing
    return Batch(len(longest), longest[0], padded=not packed and longest[-1] < longest[0], packed=packed)


def _recomputed(spec: RunSpec, resume: bool) -> bool | int | str:
    """What the run recomputes: what it did before, whatever else is now on its card."""
    saved = Path(spec.config.output_dir).expanduser() / "config.yaml"
    config = load_config(saved) if resume and saved.is_file() else decide_recomputing(spec).config
    return config.training.gradient_checkpointing


def _open_run(spec: RunSpec, resume: bool, say: Callable[..., None], processes: Processes) -> RunDir:
    """A new run, or the one to go on with; of processes beside the first the one that it has claimed."""
    run, notes = None, []
    if processes.main:
        run, notes = RunDir.take_up(spec.config.output_dir) if resume else (RunDir.create(spec), [])
    say(*notes)
    processes.wait()
    return run or RunDir.beside(spec.config.output_dir)


def _already(done: dict[str, Any], run: RunDir, say: Callable[..., None]) -> dict[str, Any]:
    """A run that is finished, with its pages made again."""
    say(f"{run.path}: the run is finished; nothing is left to do")
    if not run.writes:
        return {}
    write_pages(run.path)
    return done


def _start(run: RunDir, say: Callable[..., None]) -> Path | None:
    """The checkpoint to go on from, and what is said of others; None where the run begins again."""
    good = newest_good(run.checkpoints)
    where = f"the run goes on from {good.name}" if good else "the run begins again"
    for path in passed_over(run.checkpoints):
        say(f"{path.name} is damaged or not written to its end: {where}")
    say(where if good else f"{run.path} holds no good checkpoint: {where}")
    return good


def _look(spec: RunSpec, data: LoadedData, trainer: Watched) -> dict[str, Any]:
    """Held-out figures and answers to a few held-out prompts, of the model as it is now."""
    if data.eval is None:
        return {"held_out": {}, "answers": []}
    training, model = spec.config.training, trainer.model
    answers = [
        {"prompt": sample.prompt, "reference": sample.reference, "answer": answer(
            model, data.tokenizer, sample.rendered, max_new_tokens=training.sample_max_new_tokens)}
        for sample in data.samples(training.sample_answers if trainer.processes.main else 0)
    ]  # fmt: skip
    return {"held_out": trainer.last_held_out(), "answers": answers}


def _before(run: RunDir, resume: bool, look: Callable[[], dict[str, Any]], processes: Processes) -> dict[str, Any]:
    """How the model was before training, kept for a run that is resumed."""
    file = run.path / "before.json"
    if processes.told(lambda: resume and file.is_file()):
        return json.loads(file.read_text(encoding="utf-8"))
    if run.writes:
        run.metrics.unlink(missing_ok=True)  # a process that ended before it had written this down has evaluated too
    seen = look()
    run.write_json(file.name, seen)
    return seen


def _best(trainer: Watched) -> list[str]:
    """Where the best held-out figure was not the last one."""
    state = trainer.state
    if not state.best_global_step or state.best_global_step == state.global_step:
        return []
    name = trainer.args.metric_for_best_model.removeprefix("eval_")
    where = f"checkpoints/checkpoint-{state.best_global_step}"
    return [f"the best held-out {name} was {state.best_metric:.4f} at update {state.best_global_step}: {where}"]


@contextmanager
def _within_memory(trainer: Watched) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = lack_of_memory(error)
        if reason is None:
            raise
        raise DoesNotFit(
            f"out of memory after update {trainer.state.global_step}: {reason}",
            "see what fits with `finetune preflight CONFIG --gpu 24GiB`",
        ) from None


@contextmanager
def _resumable(run: RunDir, trainer: Watched, interrupts: Interrupts) -> Iterator[None]:
    """Says how a run goes on that was stopped, or that came upon rows it cannot read."""
    try:
        yield
    except DataError as error:
        command = f"finetune train {shlex.quote(str(run.path / 'config.yaml'))} --resume --allow-drift"
        raise DataError(error.message, f"{error.hint}; then go on with `{command}`") from None
    except ProcessLost as error:
        done = newest_good(run.checkpoints)
        raise Stopped(
            f"{error.message} at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            + (f"the last checkpoint is {done.name}" if done else "no checkpoint had been written: it begins again"),
            run.path,
            "see its words and the launcher's, then ",
        ) from None
    except KeyboardInterrupt:
        done = newest_good(run.checkpoints)
        asked = f" ({interrupts.asked})" if interrupts.asked else ""
        raise Stopped(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}{asked}; "
            + (f"the last checkpoint is {done.name}" if done else "no checkpoint had been written: it begins again"),
            run.path,
        ) from None


def _collect(measured: Measured, trainer: Watched, metrics: MetricsWriter, before: dict, after: dict) -> None:
    measured.seconds = metrics.seconds
    measured.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    measured.rows, measured.tokens = int(trainer.rows_seen), int(trainer.tokens_seen)
    measured.trained_tokens = int(trainer.trained_seen)
    measured.steps, measured.epochs = trainer.state.global_step, trainer.state.epoch
    measured.noise_scale = trainer.noise.estimate() if trainer.noise else None
    measured.notes += [*trainer.last_notes(), *_best(trainer)]
    measured.guards = trainer.guards.to_json()
    measured.peak_bytes, measured.process_bytes = trainer.memory.peak(), peak_resident()
    measured.held_out_before, measured.held_out_after = before["held_out"], after["held_out"]
    pairs = zip(before["answers"], after["answers"], strict=True)
    measured.samples = [
        {"prompt": old["prompt"], "reference": old["reference"], "before": old["answer"], "after": new["answer"]}
        for old, new in pairs
    ]

"""Fuzzing the configuration and the command line: never a traceback, always the contract's exit code and a hint.

    scripts/fuzz [--cases 10000] [--seed 0] [--only NUMBER ...] [--json FILE]

Commands run in this program, forked for every BATCH cases, so that a crash, a hang or a case that eats memory costs its
batch no more than itself. Exits with 1 where a case breaks the contract, and names it: `--only NUMBER` with the same
seed runs it again and shows what it printed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environment import REPO, environment
from fuzz_cases import CONFIG, Case, Seeds, dumped, make_case, seeds_of

CODES = {0: "done", 2: "usage or configuration", 3: "does not fit", 4: "data not fit to train on", 5: "stopped"}
SECONDS = 20
"""What a case may take; the slowest honest one takes 3."""
MEMORY = 2 * 2**30
"""Bytes that a case may add to the address space."""
BATCH = 200


@dataclass(frozen=True)
class Outcome:
    """What a case came to: its exit code, seconds, what is wrong with it (empty where nothing is), what it printed."""

    number: int
    kind: str
    command: str
    code: int | None
    seconds: float
    fault: str
    shown: str = ""


def main() -> None:
    """Runs the cases, prints counts by exit code, and exits with 1 where one breaks the contract."""
    options = _arguments()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", COLUMNS="200", NO_COLOR="1")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        seeds = make_seeds(Path(folder))
        numbers = options.only or list(range(options.cases))
        outcomes = list(run_cases(seeds, options.seed, numbers, Path(folder)))
        seconds = time.perf_counter() - begun
    if options.only:
        for outcome in outcomes:
            print(f"{outcome.command}\n{outcome.shown}\nexit code {outcome.code}, {outcome.fault or 'as it should be'}")
    result = summary(outcomes, options.seed)
    _show(outcomes, result, seconds)
    if options.json:
        result["environment"] = environment()
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if result["faults"] else 0)


def make_seeds(folder: Path) -> Seeds:
    """The files that cases start from: a tiny model, two files of rows and a run that was trained on them."""
    subprocess.run([sys.executable, REPO / "scripts" / "make_tiny_model.py", folder / "model"], check=True,
                   capture_output=True)  # fmt: skip
    for name, verb in (("rows.jsonl", "Say"), ("other.jsonl", "Cry")):
        rows = [
            {"messages": [{"role": "user", "content": f"{verb} {n} words."}, {"role": "assistant", "content": "word " * n + "end"}]}
            for n in range(1, 13)
        ]  # fmt: skip
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    case = Case("seed", ["train", "config.yaml", "output_dir=run", "data.eval=other.jsonl", "training.sample_answers=1"])
    (folder / "config.yaml").write_bytes(dumped(CONFIG))
    with contextlib.chdir(folder):
        code, shown = _call(case)
    if code:
        sys.exit(f"the run that cases start from failed:\n{shown}")
    return seeds_of(folder)


def run_cases(seeds: Seeds, seed: int, numbers: list[int], folder: Path) -> Iterator[Outcome]:
    """The outcome of each case, in order."""
    waiting = list(numbers)
    while waiting:
        done = 0
        for outcome in _in_child(seeds, seed, waiting[:BATCH], folder):
            done += 1
            yield outcome
        if done < len(waiting[:BATCH]):  # the child was ended by the case that follows
            case = make_case(seeds, seed, waiting[done])
            yield Outcome(waiting[done], case.kind, _command(case), None, SECONDS, "crashed or hung beyond interruption")
            done += 1
        del waiting[:done]


def _in_child(seeds: Seeds, seed: int, numbers: list[int], folder: Path) -> Iterator[Outcome]:
    """The outcomes that a forked child reports until it is through, or ends."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _work(seeds, seed, numbers, folder, writable)
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, encoding="utf-8") as lines:
        for line in lines:
            yield Outcome(**json.loads(line))
    os.waitpid(child, 0)


def _work(seeds: Seeds, seed: int, numbers: list[int], folder: Path, pipe: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for number in numbers:
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=sys.__stderr__)
        case = make_case(seeds, seed, number)
        outcome = asdict(run_case(case, number, folder / "case"))
        os.write(pipe, json.dumps(outcome).encode() + b"\n")


def run_case(case: Case, number: int, folder: Path) -> Outcome:
    """Writes the files of a case, calls the program there, and judges it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with contextlib.chdir(folder):
        begun = time.perf_counter()
        code, shown = _call(case)
        seconds = time.perf_counter() - begun
    return Outcome(number, case.kind, _command(case), code, round(seconds, 3), judged(code, shown, case.arguments), shown)


class _TooLong(BaseException):
    pass


def _call(case: Case) -> tuple[int | None, str]:
    """The program's exit code and what it printed, stdout behind the mark that stands before it."""
    from finetune import cli

    def ring(*_: Any) -> None:
        raise _TooLong

    old_argv, old_ring = sys.argv, signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile(
        "w+", encoding="utf-8", errors="backslashreplace") as err:  # fmt: skip
        sys.argv = ["finetune", *case.arguments]
        code: int | None = None
        try:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
        except _TooLong:
            err.write(f"\nTraceback: took longer than {SECONDS} s")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old_ring)
            sys.argv = old_argv
        return code, _text(err) + MARK + _text(out)


MARK = "\n--- stdout ---\n"


def _text(file: Any) -> str:
    file.flush()
    file.seek(0)
    return file.read()


def judged(code: int | None, shown: str, arguments: list[str]) -> str:
    """What of the contract is broken; empty where nothing is."""
    said, _, printed = shown.partition(MARK)
    if "Traceback" in shown:
        return f"a traceback: {_raised(said)}"
    if code not in CODES:
        return f"exit code {code}"
    errors, hints = (sum(line.startswith(word) for line in said.splitlines()) for word in ("error: ", "hint: "))
    if (errors, hints) != (1, 1) if errors or code in (2, 5) else False:
        return f"{errors} errors and {hints} hints"
    if code == 0 and errors:
        return "an error that ends with 0"
    if "--json" in arguments and code == 0 and "--help" not in arguments and not _is_object(printed):
        return "--json printed something else than one JSON object"
    return ""


def _raised(said: str) -> str:
    """The last place in finetune that a trace names, and what was raised."""
    lines = said.splitlines()
    places = [line.strip() for line in lines if 'File "' in line and "/finetune/" in line]
    raised = next((line for line in lines if line.startswith("error: unexpected ")), lines[-1] if lines else "")
    return f"{places[-1].rpartition('/finetune/')[2] if places else ''} {raised.removeprefix('error: unexpected ')[:200]}"


def _is_object(text: str) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except ValueError:
        return False


def summary(outcomes: list[Outcome], seed: int) -> dict[str, Any]:
    """Counts by exit code and by kind of case, and what went wrong."""
    codes = Counter(str(outcome.code) for outcome in outcomes)
    kinds = Counter(outcome.kind for outcome in outcomes)
    return {
        "cases": len(outcomes), "seed": seed, "codes": dict(sorted(codes.items())), "kinds": dict(sorted(kinds.items())),
        "slowest_seconds": max(outcome.seconds for outcome in outcomes),
        "faults": [f"{outcome.number}: {outcome.fault}: {outcome.command}" for outcome in outcomes if outcome.fault],
    }  # fmt: skip


def _show(outcomes: list[Outcome], result: dict[str, Any], seconds: float) -> None:
    for code, number in result["codes"].items():
        meaning = CODES.get(int(code)) if code != "None" else None
        print(f"exit code {code:>4}  {number:6,}  {meaning or 'not of the contract'}")
    print(f"{result['cases']:,} cases in {seconds:.0f} s, the slowest {result['slowest_seconds']:.1f} s")
    for fault in result["faults"][:50]:
        print(fault, file=sys.stderr)
    print(f"{len(result['faults']):,} broke the contract")


def _command(case: Case) -> str:
    return " ".join(one if len(one) < 80 else f"{one[:80]}…" for one in map(ascii, case.arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of single cases")
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    return parser.parse_args()


if __name__ == "__main__":
    main()

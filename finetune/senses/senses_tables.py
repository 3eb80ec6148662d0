"""The tables and findings of `finetune lab senses`."""

from __future__ import annotations

from typing import Any

from finetune.study import Table

BEST = "`finetune senses fit`"


def tables(numbers: dict[str, Any]) -> list[Table]:
    """Every table."""
    return [layer_table(numbers), ways_table(numbers), example_table(numbers), pair_table(numbers)]


def mean(values: dict[str, float]) -> float:
    """Over words."""
    return sum(values.values()) / len(values)


def layer_table(numbers: dict[str, Any]) -> Table:
    """What each layer knows."""
    columns = ["the word's vector", "separation", "cosine, one sense", "one word, two senses", "two words"]
    names = {"static": "static", "0": "before the first layer"}
    rows = [
        [names.get(name, f"after layer {name}"), f"{mean(one['separation']):.2f}",
         *(f"{one['cosine'][kind]:.2f}" for kind in ("one sense", "two senses", "two words"))]
        for name, one in numbers["layers"].items()
    ]  # fmt: skip
    return Table("Separation of senses and mean cosines", columns, rows, "layers")


def ways_table(numbers: dict[str, Any]) -> Table:
    """Who tells how many."""
    words = list(numbers["induced"])
    rows = [
        [name, *(f"{one[word]:.2f}" for word in words), f"{mean(one):.2f}"] for name, one in numbers["ways"].items()
    ]
    induced = numbers["induced"].values()
    rows.append(["ARI of induced senses", *(f"{one['ari']:.2f}" for one in induced),
                 f"{mean({word: one['ari'] for word, one in numbers['induced'].items()}):.2f}"])  # fmt: skip
    return Table("Share told right of sentences that were not fitted to", ["", *words, "mean"], rows, "ways")


def example_table(numbers: dict[str, Any]) -> Table:
    """The worked example."""
    rows = [[one["text"], one["label"], one["told"], one["words"]] for one in numbers["examples"]]
    return Table("King, told by twelve sentences", ["sentence", "sense", "told", "bag of words"], rows, "examples")


def pair_table(numbers: dict[str, Any]) -> Table:
    """Pairs by word."""
    rows = [
        [word, one["pairs"], f"{one['hidden']:.2f}", f"{one['words']:.2f}"] for word, one in numbers["pairs"].items()
    ]
    return Table(
        "Minimal pairs, told by twelve sentences of king",
        ["word", "pairs", "word hidden", "bag of words"],
        rows,
        "pairs",
    )


def findings(numbers: dict[str, Any]) -> list[str]:
    """What the tables say."""
    separations = {name: mean(one["separation"]) for name, one in numbers["layers"].items()}
    best = max(separations, key=separations.__getitem__)
    ways = {name: mean(one) for name, one in numbers["ways"].items()}
    return [
        f"Separation of senses is {separations['static']:.2f} by static vectors, which are the same in every sentence, "
        f"and {separations[best]:.2f} after layer {best}.",
        f"{BEST} tells {ways[BEST]:.2f} of sentences right, a bag of words {ways['bag of words']:.2f}, the commonest "
        f"sense {ways['majority']:.2f}.",
        "A minimal pair differs in a word or two: a bag of words that has not seen them guesses.",
    ]

"""What one layer of each kind costs on a sequence, in closed form.

A multiplication and an addition are two operations. Products alone are counted: biases, norms and softmax are small
beside them. A backward pass makes two products for each of the forward's.
"""

from __future__ import annotations

from dataclasses import dataclass

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
"""Products of one step of a recurrent cell: Elman 1990; Cho et al. 2014; Hochreiter and Schmidhuber 1997."""
KEPT_BY_CELL = {"rnn": 0, "gru": 7, "lstm": 6}
"""Vectors beside the input and the state that are alive until the backward pass of one step, as `cells.py` writes it
out: gates and what they multiply. A GRU needs one of the state's three products, which lie in one tensor."""


@dataclass(frozen=True)
class Cost:
    """One layer on one sequence.

    `parts`: operations of the forward pass by what they are for. `parameters`: weights, with biases where torch's
    module has them. `activations`: numbers kept for the backward pass; of them `score_matrix`, 0 where none is made.
    `cache`: numbers kept of a sequence so that the next token can be decoded. `depth`: products that have to wait for
    one another. `path`: layers or steps until the last token can know of the first, None where it never does
    (Vaswani et al. 2017, table 1).
    """

    parts: dict[str, int]
    parameters: int
    activations: int
    score_matrix: int
    cache: int
    depth: int
    path: int | None

    @property
    def flops(self) -> int:
        """Operations of the forward pass."""
        return sum(self.parts.values())


def pairs(queries: int, keys: int | None = None, *, causal: bool = False, window: int | None = None) -> int:
    """Pairs of query and key that attention looks at. Queries are the last of the keys' positions, as in decoding; a
    window of w lets each see itself and the w - 1 before it, and is causal."""
    keys = queries if keys is None else keys
    if not causal and window is None:
        return queries * keys
    before, width = keys - queries, window or keys
    growing = min(max(width - before, 0), queries)  # queries that see all before them
    return growing * before + growing * (growing + 1) // 2 + (queries - growing) * min(width, keys)


def mixing(looked_at: int, heads: int, key_size: int, value_size: int | None = None) -> dict[str, int]:
    """Operations of the scores and of their product with the values, for so many pairs."""
    value_size = key_size if value_size is None else value_size
    return {"scores": 2 * heads * looked_at * key_size, "values": 2 * heads * looked_at * value_size}


def attention(
    tokens: int, width: int, heads: int, *, kv_heads: int | None = None, head_size: int | None = None,
    causal: bool = False, window: int | None = None, fused: bool = False,
) -> Cost:  # fmt: skip
    """Attention with its four projections. `fused`: a kernel that never writes the scores down (Dao 2023), and keeps
    their log-sum-exp; else the whole matrix of n x n is made, whatever of it is masked."""
    size = head_size or width // heads
    query, key = heads * size, (kv_heads or heads) * size
    weights = width * (query + 2 * key) + query * width
    scores = 0 if fused else heads * tokens * tokens
    kept = tokens * (width + 2 * query + 2 * key) + (heads * tokens if fused else scores)
    seen = min(window or tokens, tokens)
    return Cost(
        parts={"projections": 2 * tokens * weights}
        | mixing(pairs(tokens, causal=causal, window=window), heads, size),
        parameters=weights,
        activations=kept,
        score_matrix=scores,
        cache=2 * key * seen,
        depth=1,
        path=1 if seen == tokens else None if seen == 1 else -(-(tokens - 1) // (seen - 1)),
    )  # fmt: skip


def linear_attention(tokens: int, width: int, heads: int, *, chunk: int = 1) -> Cost:
    """Attention whose weights are products of features, not exponentials (Katharopoulos et al. 2020): what was seen is
    a sum of size s x s for each head. Computed by chunks of c tokens: pairs within a chunk, the sum for all before."""
    size, weights = width // heads, 4 * width * width
    within = mixing(tokens // chunk * pairs(chunk), heads, size)
    state = heads * size * size
    return Cost(
        parts={"projections": 2 * tokens * weights, **within, "state": 2 * 2 * tokens * state},
        parameters=weights,
        activations=tokens * 7 * width + heads * tokens * chunk + tokens // chunk * state,
        score_matrix=heads * tokens * chunk,
        cache=state + width,
        depth=tokens // chunk,
        path=tokens // chunk,
    )


def feed_forward(tokens: int, width: int, inner: int, *, gated: bool = False) -> Cost:
    """Two products, or three where one gates another (Shazeer 2020): every token by itself, so no path."""
    weights = (3 if gated else 2) * width * inner
    kept = tokens * (width + (4 if gated else 2) * inner)
    return Cost({"products": 2 * tokens * weights}, weights, kept, score_matrix=0, cache=0, depth=1, path=None)


def recurrence(kind: str, tokens: int, width: int, hidden: int | None = None) -> Cost:
    """A recurrent layer of one of GATES: each step waits for the one before. The input's products can be made for all
    tokens at once; the state's cannot."""
    hidden, gates = hidden or width, GATES[kind]
    each, kept = 2 * tokens * gates * hidden, KEPT_BY_CELL[kind]
    return Cost(
        parts={"input": each * width, "state": each * hidden},
        parameters=gates * hidden * (width + hidden + 2),
        activations=tokens * (width + (1 + kept) * hidden),
        score_matrix=0,
        cache=hidden * (2 if kind == "lstm" else 1),
        depth=tokens,
        path=tokens,
    )


def crossing(width: int, query: int, key: int) -> float:
    """Tokens at which scores and values take as many operations as the projections do, where every pair is looked at;
    2d where queries, keys and values are as wide as the model. Causal attention needs twice as many."""
    return width * (2 * query + 2 * key) / (2 * query)

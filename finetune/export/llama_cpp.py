"""llama.cpp's own answers, by the package xllamacpp, where it is installed: the proof that a file works there."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune.errors import ModelError


def installed() -> bool:
    """Whether llama.cpp can be run here."""
    return importlib.util.find_spec("xllamacpp") is not None


class Answer(NamedTuple):
    """A greedy continuation; the number of tokens that the prompt was read as; whether it ended at a stop token."""

    text: str
    prompt_tokens: int
    stopped: bool


def answers(file: Path, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
    """Of each rendered prompt what llama.cpp goes on with. Raises ModelError where it cannot load the file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 2048, 1, 0, False
    asked = {"max_tokens": max_new_tokens, "temperature": 0.0, "top_k": 1, "cache_prompt": False}
    try:
        server = xllamacpp.Server(params)
        return [_answer(server.handle_completions({"prompt": prompt, **asked})) for prompt in prompts]
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"{file}: llama.cpp cannot use it ({error})", "export without --gguf: the merged directory is proven"
        ) from None


def _answer(found: dict[str, Any]) -> Answer:
    choice = found["choices"][0]
    return Answer(choice["text"], found["usage"]["prompt_tokens"], choice["finish_reason"] == "stop")

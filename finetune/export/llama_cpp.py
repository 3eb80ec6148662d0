"""llama.cpp's own answers, by the Python packages of it that are installed: the proof that a file works there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from finetune.errors import ModelError

CONTEXT = 2048
"""Tokens that the prompts and their answers have room in."""


class Answer(NamedTuple):
    """A greedy continuation; the number of tokens that the prompt was read as; whether it ended at a stop token."""

    text: str
    prompt_tokens: int
    stopped: bool


def answers(
    package: str, file: Path, prompts: Sequence[str], max_new_tokens: int, *, chat: bool, adapter: Path | None = None
) -> list[Answer]:
    """Of each prompt what llama.cpp goes on with, with `adapter` (a GGUF file too) on the model where one is given.
    With `chat` each prompt is a user's turn, which llama.cpp renders by the template in the file.

    Raises ModelError where it cannot load the file, or not use its template.
    """
    try:
        ask = PACKAGES[package](file, adapter, {"max_tokens": max_new_tokens, "temperature": 0.0, "top_k": 1})
        asked = ([{"role": "user", "content": prompt}] if chat else prompt for prompt in prompts)
        return [_answer(ask(prompt)) for prompt in asked]
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(
            f"{file}: llama.cpp cannot use it ({error})", "export without --gguf: the merged directory is proven"
        ) from None


Ask = Callable[[Any], dict[str, Any]]
"""A prompt's text, or a conversation, completed: llama.cpp's answer in the form of OpenAI's API."""


def _xllamacpp(file: Path, adapter: Path | None, asked: dict[str, Any]) -> Ask:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = CONTEXT, 1, 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    # In float32 as transformers computes it, so that what differs is the file's fault.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE  # all that is said is text
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    server = xllamacpp.Server(params)
    asked = {**asked, "cache_prompt": False}

    def ask(prompt: Any) -> dict[str, Any]:
        if isinstance(prompt, str):
            return server.handle_completions({"prompt": prompt, **asked})
        return server.handle_chat_completions({"messages": prompt, **asked})

    return ask


def _llama_cpp_python(file: Path, adapter: Path | None, asked: dict[str, Any]) -> Ask:
    import llama_cpp

    lora = str(adapter) if adapter else None
    threads, exact = torch.get_num_threads(), llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(
        str(file), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, type_k=exact, type_v=exact,
        lora_path=lora, verbose=False,
    )  # fmt: skip

    def ask(prompt: Any) -> dict[str, Any]:
        if isinstance(prompt, str):
            return model.create_completion(prompt, **asked)
        return model.create_chat_completion(prompt, **asked)

    return ask


PACKAGES: dict[str, Callable[[Path, Path | None, dict[str, Any]], Ask]] = {
    "xllamacpp": _xllamacpp,
    "llama-cpp-python": _llama_cpp_python,
}
"""What runs llama.cpp in this process."""

MODULES = {"xllamacpp": "xllamacpp", "llama-cpp-python": "llama_cpp"}


def installed() -> list[str]:
    """Those that are there."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module) is not None]


def _answer(found: dict[str, Any]) -> Answer:
    choice = found["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Answer(text or "", found["usage"]["prompt_tokens"], choice["finish_reason"] == "stop")

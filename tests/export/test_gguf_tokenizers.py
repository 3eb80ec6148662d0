"""llama.cpp reads text as the tokens that transformers reads, with every kind of tokenizer; it renders and stops so."""

from __future__ import annotations

from pathlib import Path

import pytest
import spoken
from families import FAMILIES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from finetune.errors import ModelError
from finetune.export import gguf_tokenizer, llama_cpp, write_gguf

pytestmark = pytest.mark.skipif(not llama_cpp.installed(), reason="neither xllamacpp nor llama-cpp-python is installed")
PACKAGE = next(iter(llama_cpp.installed()), "")
LLAMA = FAMILIES["llama2"]
ODD = (
    "Don't say 1234567 or 12.5, they'll sAY'S it: ÄÖ naïve façade 東京 🙂",
    "  two  spaces,\ttab\n\n and\r\n lines \n   indented\n",
    "x_y = {'a': [1, 22, 333], \"b\": None}  # comment!!!",
)


def sentencepiece(prefix: str):
    """Byte-fallback BPE as Llama 2 has it, its merges in the order of its tokens. A space before the text is written
    by a step of the normalizer, always; or by one that cuts text, where the text begins or never."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = normalizers.Replace(" ", "▁")
    if prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, max_token_length=8, show_progress=False)
    words = (word for line in spoken.text() for word in line.split())
    tokenizer.train_from_iterator(words, trainer)
    pieces = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    known = set(pieces) - set(special)
    merges = [(word[:at], word[at:]) for word in pieces[len(special) :] for at in range(1, len(word))]
    merges = [pair for pair in merges if known.issuperset(pair)]
    made = models.BPE(
        {word: number for number, word in enumerate(pieces)},
        merges,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer.model = made
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return spoken.fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")


def without_bytes(made, tokenizer):
    """A model that says no bytes: halves of characters are no text."""
    made.lm_head.weight.data[:259] = 0.0
    return made


@pytest.mark.parametrize("prefix", ["normalizer", "always", "first", "never"])
def test_a_sentencepiece_tokenizer(prefix, tmp_path: Path):
    tokenizer = sentencepiece(prefix)
    made = without_bytes(spoken.model(LLAMA, tokenizer), tokenizer)
    # The step that cuts text adds no space to one that begins with a space; llama.cpp has only the other way.
    odd = [text for text in ODD if prefix in ("normalizer", "never") or text[0] != " "]
    prompts = (*spoken.PROMPTS, *odd)
    expected = spoken.said(tmp_path, made, tokenizer, prompts)
    assert spoken.llama_cpp_said(PACKAGE, tmp_path, prompts) == expected


def test_without_the_order_of_merges_text_is_read_otherwise(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(gguf_tokenizer, "_scores", lambda model, count: [-1000.0] * count)
    tokenizer = sentencepiece("normalizer")
    _, lengths = spoken.said(tmp_path, spoken.model(LLAMA, tokenizer), tokenizer)
    assert spoken.llama_cpp_said(PACKAGE, tmp_path)[1] != lengths


CUTS = {name: [spoken.split(pattern)] for pattern, name in gguf_tokenizer.SPLITS.items()}
CUTS |= {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}


def byte_level(name: str):
    """Byte-level BPE, with every byte, that cuts text as the name says."""
    return spoken.byte_level(*CUTS[name], size=700, regex=name in ("gpt-2", "smollm"))


@pytest.mark.parametrize("bos", [None, "<|pad|>"])
@pytest.mark.parametrize("name", CUTS)
def test_a_byte_level_tokenizer(name, bos, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(spoken, "ASCII", pre_tokenizers.ByteLevel.alphabet())
    plain = byte_level(name)
    if bos:
        plain.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    tokenizer = spoken.fast(plain, bos_token=bos)
    made = spoken.model(LLAMA, tokenizer)
    words = tokenizer.convert_ids_to_tokens(range(700))
    made.lm_head.weight.data[[not word.lstrip("ĠĊ").isascii() for word in words]] = 0.0
    expected = spoken.said(tmp_path, made, tokenizer, ODD)
    assert expected[1] == [len(plain.encode(text).ids) for text in ODD]
    assert spoken.llama_cpp_said(PACKAGE, tmp_path, ODD) == expected


def test_a_pattern_under_another_s_name_is_read_otherwise(tmp_path: Path, monkeypatch):
    swapped = dict(zip(gguf_tokenizer.SPLITS, reversed(gguf_tokenizer.SPLITS.values()), strict=True))
    monkeypatch.setattr(spoken, "ASCII", pre_tokenizers.ByteLevel.alphabet())
    tokenizer = spoken.fast(byte_level("llama-bpe"))
    monkeypatch.setattr(gguf_tokenizer, "SPLITS", swapped)
    expected = spoken.said(tmp_path, spoken.model(LLAMA, tokenizer), tokenizer, ODD)
    assert spoken.llama_cpp_said(PACKAGE, tmp_path, ODD)[1] != expected[1]


@pytest.mark.parametrize(
    ("steps", "kinds"),
    [
        ([spoken.split(r"\w+")], "Split, ByteLevel"),
        ([pre_tokenizers.Digits(individual_digits=True)], "Digits, ByteLevel"),
    ],
)
def test_a_tokenizer_without_a_name_is_refused(steps, kinds, tmp_path: Path):
    tokenizer = spoken.fast(spoken.byte_level(*steps, regex=False))
    spoken.model(LLAMA, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"cuts text in a way that has no name here \({kinds}\)"):
        write_gguf(tmp_path, tmp_path / "model.gguf", "tiny")


CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


@pytest.mark.parametrize("package", llama_cpp.installed())
def test_a_conversation_is_rendered_by_the_file_s_template_with_one_bos(package, tmp_path: Path):
    plain = spoken.byte_level()
    plain.post_processor = processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 1)])
    tokenizer = spoken.fast(plain, bos_token="<|pad|>", chat_template=CHAT)
    made = spoken.model(LLAMA, tokenizer)
    turns = [[{"role": "user", "content": text}] for text in spoken.PROMPTS]
    rendered = tuple(tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in turns)
    texts, _ = spoken.said(tmp_path, made, tokenizer, rendered)
    found = llama_cpp.answers(package, tmp_path / "model.gguf", spoken.PROMPTS, spoken.LONG, chat=True)
    assert [one.text.strip() for one in found] == texts
    assert [one.prompt_tokens for one in found] == [
        len(plain.encode(text, add_special_tokens=False).ids) for text in rendered
    ]


@pytest.mark.parametrize("package", llama_cpp.installed())
def test_llama_cpp_stops_at_every_stop_token(package, tmp_path: Path):
    """A model that says one token, in turn each of three: names by which llama.cpp would know them they have not."""
    tokenizer = spoken.fast(spoken.byte_level())
    stops = [0, 70, 71]
    for stop in stops:
        made = spoken.model(LLAMA | {"tie_word_embeddings": False}, tokenizer)
        made.lm_head.weight.data[stop] = 40 * made.model.norm.weight.data.sign()
        made.model.norm.weight.data.abs_()
        made.generation_config.eos_token_id = stops
        folder = tmp_path / str(stop)
        spoken.said(folder, made, tokenizer)
        found = llama_cpp.answers(package, folder / "model.gguf", spoken.PROMPTS[:1], 4, chat=False)[0]
        assert found.stopped and len(found.text) <= 1, stop


def test_what_llama_cpp_cannot_load_is_refused(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(ModelError, match=r"model\.gguf: llama\.cpp cannot use it"):
        spoken.llama_cpp_said(PACKAGE, tmp_path)

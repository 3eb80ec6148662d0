"""Vectors of words: pooled over the word's own tokens, at any layer, whatever stands beside; with an adapter or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.config import ModelConfig
from finetune.embeddings import PACKAGED, LayerEncoder, Occurrence, open_encoder, open_layers
from finetune.errors import ConfigError, DataError, ModelError
from finetune.spec import ModelSource, locate_model

NAME = next(iter(PACKAGED))


def at(text: str, word: str) -> Occurrence:
    return Occurrence(text, text.index(word), text.index(word) + len(word))


BANK = [
    at("she sat on the bank of the river", "bank"),
    at("an unbelievably overcrowded bank, said the teller who had counted money there for forty years", "bank"),
    at("bank", "bank"),
]


@pytest.fixture(scope="module")
def encoder() -> LayerEncoder:
    pytest.importorskip(PACKAGED[NAME], reason="the encoder comes with finetune[curation]")
    return open_layers(NAME)


@pytest.fixture(scope="module")
def source(tiny_model: Path) -> ModelSource:
    return locate_model(ModelConfig(name_or_path=str(tiny_model)))


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model that changes what it computes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


def by_hand(one: Occurrence, layer: int) -> np.ndarray:
    """The word's tokens found by tokenising what stands before it and the word itself."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from finetune.embeddings.loading import located

    tokenizer, model = AutoTokenizer.from_pretrained(located(NAME)), AutoModel.from_pretrained(located(NAME)).eval()
    before = len(tokenizer(one.text[: one.start], add_special_tokens=False)["input_ids"])
    length = len(tokenizer(one.word, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        states = model(**tokenizer(one.text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
    return states[1 + before : 1 + before + length].mean(0).numpy()


@pytest.mark.parametrize("layer", [0, 3, -1])
@pytest.mark.parametrize("one", [BANK[0], at("an unbelievably small harbour", "unbelievably")])
def test_a_word_is_the_mean_of_its_own_tokens(encoder: LayerEncoder, one: Occurrence, layer: int) -> None:
    assert encoder.contextual([one], layer)[0] == pytest.approx(by_hand(one, layer), abs=1e-5)


def test_neither_order_nor_padding_changes_a_vector(encoder: LayerEncoder) -> None:
    together = encoder.contextual(BANK)
    for one, vector in zip(BANK, together, strict=True):
        assert encoder.contextual([one])[0] == pytest.approx(vector, abs=1e-5)
    assert encoder.contextual(BANK[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    many = encoder.contextual(BANK * 30)
    assert many[:3] == pytest.approx(many[-3:], abs=1e-5)


def test_static_vectors_know_no_context_and_contextual_ones_do(encoder: LayerEncoder) -> None:
    static, contextual = encoder.static(BANK), encoder.contextual(BANK)
    assert static[1:] == pytest.approx(np.stack([static[0]] * 2))
    assert np.linalg.norm(contextual[0] - contextual[1]) > 1
    table = encoder._model.get_input_embeddings().weight.detach().numpy()
    assert static[0] == pytest.approx(table[encoder._tokenizer("bank", add_special_tokens=False)["input_ids"][0]])


def test_sentences_are_those_of_the_sentence_encoder(encoder: LayerEncoder) -> None:
    pytest.importorskip("sentence_transformers")
    texts = [one.text for one in BANK]
    found = encoder.sentences(texts)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert found == pytest.approx(open_encoder(NAME).encode(texts), abs=1e-4)


def test_a_word_far_into_a_long_text_is_read_with_what_stands_around_it(encoder: LayerEncoder) -> None:
    filler, around = "one two three four " * 100, "he put money into the bank before noon"
    texts = [
        f"{first} {filler}{sense} {filler}" for first in ("start", "begin") for sense in (around, "a bank of sand")
    ]
    deep = [at(text, "bank") for text in texts]
    vectors = encoder.contextual(deep)
    assert min(one.start for one in deep) > 1800, "beyond what the model reads at once"
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5), "what stands far off is not read"
    assert np.linalg.norm(vectors[0] - vectors[1]) > 1, "what stands near is"


def test_weights_of_the_words_around_leave_out_the_word_itself(encoder: LayerEncoder) -> None:
    one = at("red bank blue", "bank")
    ids = dict(zip(("red", "blue"), next(iter(encoder.token_ids(["red blue"]))), strict=True))

    def only(word: str) -> np.ndarray:
        return encoder.encode([one], lambda tokens: tokens.context(lambda found: (found == ids[word]) * 1.0))[0]

    red = encoder.contextual([at(one.text, "red")])[0]
    assert only("red") == pytest.approx(red, abs=1e-5)
    assert np.linalg.norm(only("blue") - red) > 1
    evenly = encoder.encode([one], lambda tokens: tokens.context(np.ones_like))[0]
    assert evenly == pytest.approx((red + only("blue")) / 2, abs=1e-5)
    with_own = encoder.encode([one], lambda tokens: tokens.context(np.ones_like, own=True))[0]
    assert with_own == pytest.approx((2 * evenly + encoder.contextual([one])[0]) / 3, abs=1e-5)


def test_lower_case_keeps_the_word_where_letters_become_two() -> None:
    one = at("İİ the King", "King").lowered()
    assert one.word == "king" and one.text.endswith(" king") and len(one.text) > len("İİ the King")


def test_a_word_is_replaced_in_its_place() -> None:
    one = at("the king, the King", "king").replaced("something")
    assert (one.text, one.word) == ("the something, the King", "something")


def test_a_word_without_a_token(encoder: LayerEncoder) -> None:
    with pytest.raises(DataError) as caught:
        encoder.contextual([Occurrence("a \u200b b", 2, 3)])
    assert caught.value.message == "'\\u200b' in 'a \\u200b b' has no token of the encoder"
    assert caught.value.hint == "mark a word of letters or digits"


def test_a_causal_model_has_seen_the_words_before_alone(source: ModelSource) -> None:
    encoder = open_layers("model", source)
    one, other = encoder.contextual([at("the king of hearts", "king"), at("the king is mated", "king")])
    assert one == pytest.approx(other, abs=1e-5)
    one, other = encoder.sentences(["the king of hearts", "the king is mated"])
    assert np.abs(one - other).max() > 1e-4


def test_base_and_tuned_model_side_by_side(source: ModelSource, adapter: Path) -> None:
    base, tuned = open_layers("model", source), open_layers("model", source, adapter)
    assert base.name == f"model:{source.name}" and tuned.name == f"model:{source.name}+{adapter}"
    one = [at("say the word king", "king")]
    assert base.static(one) == pytest.approx(tuned.static(one)), "the adapter is on the layers alone"
    assert base.contextual(one, 0) == pytest.approx(tuned.contextual(one, 0))
    assert np.abs(base.contextual(one) - tuned.contextual(one)).max() > 1e-4
    again = open_encoder("model", source, adapter)
    text = ["say the word king"]
    assert np.abs(open_encoder("model", source).encode(text) - again.encode(text)).max() > 1e-4


def test_an_adapter_that_is_none(source: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_layers("model", source, tmp_path)
    assert caught.value.message == f"{tmp_path} holds no adapter"
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="the adapter cannot be loaded"):
        open_layers("model", source, tmp_path)


def test_an_adapter_on_what_is_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_layers(NAME, None, tmp_path)
    assert caught.value.message == f"encoder {NAME!r}: an adapter is of a language model"


def test_a_model_that_is_not_named_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no language model is named"):
        open_layers("model")
    with pytest.raises(ModelError, match=r"cannot be loaded \(") as caught:
        open_layers(str(tmp_path))
    assert caught.value.hint == f"give a directory, a hub id, or one of {NAME}"


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, PACKAGED[NAME], None)
    with pytest.raises(ConfigError) as caught:
        open_layers(NAME)
    assert caught.value.message == f"encoder {NAME!r}: {PACKAGED[NAME]} is not installed"
    assert caught.value.hint == "pip install 'finetune[curation]' brings it; or name another encoder"

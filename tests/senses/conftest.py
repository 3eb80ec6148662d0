"""The offline encoder, and rows of words with two senses."""

from __future__ import annotations

import pytest
from marked_rows import BASS, CRANE, marked

from finetune.embeddings import PACKAGED, LayerEncoder, open_layers
from finetune.senses import SenseRow

NAME = next(iter(PACKAGED))


@pytest.fixture(scope="session")
def encoder() -> LayerEncoder:
    pytest.importorskip(PACKAGED[NAME], reason="the encoder comes with finetune[curation]")
    return open_layers(NAME)


@pytest.fixture(scope="session")
def rows() -> list[SenseRow]:
    """Twelve rows of bass, twelve of crane; no sense in common."""
    return marked("bass", BASS) + marked("crane", CRANE)

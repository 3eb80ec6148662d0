"""What tests of hostile inputs share: the command line in this process, and a canary that code would leave behind."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune import cli

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; its exit code, stdout and stderr, in which there is never a traceback."""

    def _command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return done.value.code or 0, captured.out, captured.err

    return _command


@pytest.fixture
def refused(command):
    """Runs a command line that must fail with a code, words and a hint."""

    def _refused(code: int, words: str, *arguments: str | Path) -> str:
        found, out, err = command(*arguments)
        assert found == code, err
        assert words in err
        assert err.count("error: ") == err.count("hint: ") == 1, err
        assert out == ""
        return err

    return _refused


@pytest.fixture
def canary(tmp_path: Path):
    """A file that hostile code would write; it is not there in the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def evil_pickle(canary: Path) -> bytes:
    """A pickle that writes the canary when it is opened."""
    return pickle.dumps(_Evil(canary))


class _Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "ran")

"""Models, runs, configurations and rows from strangers: nothing of theirs runs, and nothing is written elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from finetune import pipeline
from finetune.cli.main import main
from finetune.config import load_config
from finetune.errors import FinetuneError, RunDirError
from finetune.report import write_pages
from finetune.spec import describe
from finetune.training import announced


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path) -> Path:
    """What must not be there after a test."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists(), "the payload works"
    path.rmdir()
    return path


def train(config_file: Path, *keys: str, **options: bool) -> Path:
    quick = ["training.rehearsal=false", "training.sample_answers=0", "data.eval=null"]
    config = load_config(config_file, [*quick, *keys])
    pipeline.train(config, Console(file=io.StringIO()), **options)
    return Path(config.output_dir)


def stranger(tiny_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "theirs")
    return tmp_path / "theirs"


def test_code_of_a_model_is_not_run_unless_asked_for(config_file, tiny_model, tmp_path, canary):
    model = stranger(tiny_model, tmp_path)
    fields = json.loads((model / "config.json").read_text(encoding="utf-8"))
    fields |= {"model_type": "theirs", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (model / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n", encoding="utf-8")
    config = load_config(config_file, [f"model.name_or_path={model}"])
    for use in (pipeline.look_ahead, lambda c: pipeline.train(c, Console(file=io.StringIO()), dry_run=True)):
        with pytest.raises(FinetuneError) as refused:
            use(config)
        assert refused.value.hint
    assert not canary.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickle_in_the_place_of_weights_is_not_opened(config_file, tiny_model, tmp_path, canary, name):
    model = stranger(tiny_model, tmp_path)
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(FinetuneError) as refused:
        train(config_file, f"model.name_or_path={model}")
    assert refused.value.hint
    assert not canary.exists()


@pytest.mark.parametrize("header", [(2**40).to_bytes(8, "little") + b"{}", b"", b"\xff" * 64])
def test_a_header_that_claims_too_much_is_refused(config_file, tiny_model, tmp_path, header):
    model = stranger(tiny_model, tmp_path)
    (model / "model.safetensors").write_bytes(header)
    with pytest.raises(FinetuneError) as refused:
        train(config_file, f"model.name_or_path={model}")
    assert refused.value.hint


def test_pickles_in_a_run_are_not_opened(config_file, canary):
    run = train(config_file, "training.max_steps=2", "training.save_steps=1")
    (run / "report.json").unlink()
    evil = pickle.dumps(Payload(canary))
    adapter = run / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(evil)
    with pytest.raises(RunDirError, match="the adapter cannot be loaded"):
        pipeline.evaluate(run, str(config_file.parent / "held_out.jsonl"))
    adapter.rename(adapter.with_suffix(".bin"))
    with pytest.raises(RunDirError, match="holds no adapter"):
        pipeline.evaluate(run, str(config_file.parent / "held_out.jsonl"))
    checkpoint = run / "checkpoints" / "checkpoint-2"
    for name in ("training_state.safetensors", "training_state.json", "adapter_model.safetensors"):
        before = (checkpoint / name).read_bytes(), (checkpoint / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(before[1])
        (checkpoint / name).write_bytes(evil)
        manifest["files"][name] = {"bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(RunDirError, match="the run cannot go on from it"):
            train(config_file, "training.max_steps=2", "training.save_steps=1", resume=True)
        (checkpoint / name).write_bytes(before[0])
        (checkpoint / "manifest.json").write_text(before[1], encoding="utf-8")
    assert not canary.exists()


def test_a_manifest_reads_no_file_of_another_folder(config_file, tmp_path):
    run = train(config_file, "training.max_steps=1")
    (tmp_path / "secret").write_bytes(b"theirs")
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"theirs").hexdigest()}
    checkpoint = run / "checkpoints" / "checkpoint-1"
    text = json.dumps({"step": 1, "files": {"../../../secret": entry}})
    (checkpoint / "manifest.json").write_text(text, encoding="utf-8")
    assert pipeline.newest_good(run / "checkpoints") is None


def test_links_of_a_run_lead_nowhere(config_file, tmp_path):
    run = train(config_file, "training.max_steps=1")
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("theirs", encoding="utf-8")
    for name in ("report.html", "report.md"):
        (run / name).unlink()
        (run / name).symlink_to(theirs)
    write_pages(run)
    assert theirs.read_text(encoding="utf-8") == "theirs"
    (run / "report.json").unlink()
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(theirs)
    with pytest.raises(RunDirError, match=r"metrics\.jsonl is a link, and a run writes into its own directory alone"):
        train(config_file, "training.max_steps=1", resume=True)
    assert theirs.read_text(encoding="utf-8") == "theirs"


TAGS = [
    "output_dir: !!python/object/apply:os.mkdir ['{canary}']",
    "output_dir: !!python/object/new:os.mkdir ['{canary}']",
    "output_dir: !!python/name:os.system",
    "output_dir: !include /etc/passwd",
]


@pytest.mark.parametrize("line", TAGS)
def test_tags_of_yaml_run_nothing(config_file, canary, line):
    text = config_file.read_text(encoding="utf-8")
    kept = "".join(row for row in text.splitlines(keepends=True) if not row.startswith("output_dir"))
    config_file.write_text(kept + line.format(canary=canary) + "\n", encoding="utf-8")
    with pytest.raises(FinetuneError, match="not valid YAML"):
        load_config(config_file)
    assert not canary.exists()


def test_aliases_that_grow_without_end_and_pipes_are_refused(tmp_path):
    bomb = tmp_path / "bomb.yaml"
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb.write_text("a0: &a0 [x, x]\n" + "\n".join(levels) + "\n", encoding="utf-8")
    with pytest.raises(FinetuneError):
        load_config(bomb)
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, words in ((tmp_path / "pipe.yaml", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "directory")):
        with pytest.raises(FinetuneError, match=words):
            load_config(path)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.mkdir('CANARY') }}",
    "{{ messages.__class__.__base__.__subclasses__()[0] }}",
    "{{ self._TemplateReference__context.environment.loader }}{{ raise_exception.__globals__ }}",
    "{% set x = lipsum.__globals__['os'].mkdir('CANARY') %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_stays_in_its_box(config_file, tmp_path, canary, template):
    file = tmp_path / "theirs.jinja"
    body = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    file.write_text(template.replace("CANARY", str(canary)) + body, encoding="utf-8")
    with pytest.raises(FinetuneError) as refused:
        train(config_file, f"data.chat_template={file}")
    assert refused.value.hint
    assert not canary.exists()


SECRETS = {
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwx",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}


def test_secrets_are_in_no_file_and_no_message(config_file, tmp_path, monkeypatch, capsys):
    """In the environment, in a path of the configuration, in an address, and in the words of an error."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    odd = tmp_path / f"rows-{SECRETS['HF_TOKEN']}.jsonl"
    shutil.copy(config_file.parent / "rows.jsonl", odd)
    said = io.StringIO()
    keys = [f"data.train={odd}", "data.eval=null", "training.max_steps=1", "training.sample_answers=0"]
    config = load_config(config_file, keys)
    pipeline.train(config, Console(file=said, width=500))
    run = Path(config.output_dir)
    texts = [path.read_bytes().decode(errors="replace") for path in run.rglob("*") if path.is_file()]
    texts.append(said.getvalue())
    assert any("rows-[hidden].jsonl" in text for text in texts)
    for value in SECRETS.values():
        assert not any(value in text for text in texts)

    from finetune.cli.main import main

    address = f"https://me:{SECRETS['WANDB_API_KEY']}@example.org/rows.jsonl"
    arguments = ["finetune", "plan", str(config_file), "--data", f"data.train={address}", "data.eval=null"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert "https://[hidden]@example.org/rows.jsonl: no such file" in shown.err
    assert SECRETS["WANDB_API_KEY"] not in shown.err + shown.out


def test_a_run_with_a_secret_in_its_settings_can_be_resumed(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    odd = tmp_path / f"rows-{SECRETS['HF_TOKEN']}.jsonl"
    shutil.copy(config_file.parent / "rows.jsonl", odd)
    run = train(config_file, f"data.train={odd}", "training.max_steps=1")
    (run / "report.json").unlink()
    train(config_file, f"data.train={odd}", "training.max_steps=1", resume=True)
    assert (run / "report.json").exists()


def test_the_configuration_of_one_run_does_not_resume_another(config_file, tmp_path, monkeypatch, capsys):
    mine, moved = tmp_path / "mine", tmp_path / "moved"
    for run in (mine, moved):
        run.mkdir()
        (run / "receipt.json").write_text("{}")
    text = config_file.read_text()
    (moved / "config.yaml").write_text(text)
    monkeypatch.setattr(
        sys, "argv", ["finetune", "train", str(moved / "config.yaml"), "--resume", f"output_dir={mine}"]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert f"error: {moved / 'config.yaml'} is of the run beside it, but its output_dir is {mine}\n" in said
    assert f"hint: go on with that run by output_dir={moved}\n" in said


def test_what_runs_for_a_reward_is_said_before_it_runs(config_file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise RuntimeError('imported')\ndef score(**_): return 1.0\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Say one word.", "completion": "word"}\n' * 12)
    overrides = ["training.method=rloo", "rewards=[{type: python, function: mine.score}]", "data.eval=null"]
    overrides += ["data.train=prompts.jsonl", "training.gradient_accumulation_steps=4"]
    overrides += ["rollout={max_completion_length: 8}"]
    said = io.StringIO()
    with pytest.raises(FinetuneError, match=r"mine\.score"):
        pipeline.train(load_config(config_file, overrides), Console(file=said, width=500))
    assert "rewards: mine.score runs as you, with your files and network, in a process of its own" in said.getvalue()
    assert announced(describe(load_config(config_file))) == []

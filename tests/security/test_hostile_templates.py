"""Chat templates from strangers: they reach no Python, and they end in bounded time and memory."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import pytest

from finetune.data import ChatTemplate, template_limits
from finetune.data.turns import TemplateFault
from finetune.errors import DataError

BAD_DATA = 4
ASKED = [{"role": "user", "content": "Say one word."}]
BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def rendered(tokenizer):
    """A conversation as a template writes it."""

    def _rendered(template: str, messages: list = ASKED) -> str:
        tokenizer.chat_template = template
        return ChatTemplate(tokenizer).render(messages)

    return _rendered


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__call__.__globals__ }}",
        "{{ (messages|map(attribute='__class__')|first).mro() }}",
        "{{ '{0.__class__.__mro__}'.format(1).x.y }}",
        "{{ (''|attr('__class__')).mro() }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].update({'content': 'other'}) }}",
    ],
)
def test_the_sandbox_has_no_way_out(rendered, escape):
    with pytest.raises(TemplateFault, match="the chat template refuses a conversation of user: "):
        rendered(escape)


@pytest.mark.parametrize("harmless", ["{{ messages.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ self.x }}"])
def test_what_the_sandbox_hides_is_nothing(rendered, harmless):
    assert rendered(harmless) == ""


@pytest.mark.parametrize(
    "loop",
    [BOMB, "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' ~ a }}{% endfor %}{% endfor %}"],
    ids=["loops", "loops that write"],
)
def test_a_template_that_does_not_end(rendered, monkeypatch, loop):
    monkeypatch.setattr(template_limits, "SECONDS", 0.2)
    began = time.process_time()
    with pytest.raises(DataError, match=r"was not done with a conversation after 0\.2 s"):
        rendered(loop)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'x' * 10000000000 }}",
        "{{ ('x' * messages|length * 1000000000)|length * 'y' }}",
        "{% set ns = namespace(x='x') %}{% for i in range(50) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ range(9999)|map('string')|list|join('x' * 100000000) }}",
        "{{ 'x'.center(10000000000) }}",
        "{{ '%10000000000d'|format(1) }}",
    ],
    ids=["product", "computed product", "doubling", "join", "centre", "format"],
)
def test_a_template_that_fills_the_memory(rendered, bomb, monkeypatch):
    monkeypatch.setattr(template_limits, "MEMORY", 2**28)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="the chat template asks for more than 256 MiB of memory"):
        rendered(bomb)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 1.1 * template_limits.MEMORY


@pytest.mark.parametrize("power", ["{{ 9 ** 9 ** 9 }}", "{{ 7 | round(99999999, 'ceil') }}"])
def test_powers_are_not_computed(rendered, power):
    with pytest.raises(DataError, match="the chat template computes powers"):
        rendered(power)
    assert rendered("{# 2 ** 3 #}{{ messages[0].round }}2 ** 3") == "2 ** 3"


def test_a_template_too_long_to_be_one(rendered):
    with pytest.raises(DataError, match="the chat template has 1,048,577 characters, more than 1,048,576"):
        rendered(" " * (2**20 + 1))


def test_a_rendering_too_long_for_a_tokenizer(rendered):
    with pytest.raises(DataError, match="writes 20,000,000 characters of a conversation, over 16,777,216"):
        rendered("{{ 'x' * 20000000 }}")


def test_the_limits_are_gone_behind_a_rendering(rendered):
    limits = [resource.getrlimit(what) for what in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
    handler = signal.getsignal(signal.SIGVTALRM)
    assert rendered("{{ messages[0].content }}") == "Say one word."
    assert [resource.getrlimit(what) for what in (resource.RLIMIT_AS, resource.RLIMIT_CPU)] == limits
    assert signal.getsignal(signal.SIGVTALRM) is handler
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.parametrize("arguments", [("data", "check"), ("data", "preview"), ("train", "--dry-run")], ids=" ".join)
def test_every_command_that_renders_is_limited(command, config_file, tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(template_limits, "SECONDS", 0.2)
    (tmp_path / "bomb.jinja").write_text(BOMB)
    override = f"data.chat_template={tmp_path / 'bomb.jinja'}"
    code, _, err = command(*arguments, config_file, override)
    assert code == BAD_DATA
    assert "the chat template was not done with a conversation after 0.2 s" in err
    assert "hint: the template is a program" in err


def test_a_template_file_that_never_ends(refused, config_file):
    words = "data.chat_template: /dev/zero: cannot be read ([Errno 22] it is a device: '/dev/zero')"
    refused(2, words, "data", "check", config_file, "data.chat_template=/dev/zero")

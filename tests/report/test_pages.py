"""The pages of a run: what stands in them, what must not, and what becomes of faulty input."""

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from markdown_it import MarkdownIt

import finetune.report.pages as pages_module
from finetune.errors import RunDirError
from finetune.report.curves import draw_curves, series, smooth
from finetune.report.pages import read_metrics, write_pages
from finetune.report.wording import change, duration, gib, percent, perplexity

HOSTILE = "</div><script>alert(1)</script> & <img src=x onerror=alert(1)> | **bold**\n````\n# no heading"

REPORT = {
    "finetune_version": "0.1.0",
    "finished_at": "2026-11-22T10:00:00+00:00",
    "status": "finished",
    "model": {
        "name_or_path": "models/tiny",
        "parameters": {"total": 136358208, "trainable": 1843200, "quantized": 106168320},
        "quantization": "nf4, double quantised",
        "dtype": "float32",
        "compute_dtype": "bfloat16",
        "attention": "sdpa",
    },
    "adapter": "adapter",
    "lora": {"r": 16, "alpha": 32, "target_modules": ["q_proj", "k_proj"]},
    "data": {
        "train": {"source": "train.jsonl", "format": "messages", "rows": 4000, "tokens": 400001, "longest": 509},
        "eval": {"source": "eval.jsonl", "format": "messages", "rows": 207, "tokens": 20003, "truncated": 0},
    },
    "train": {
        "seconds": 300.1,
        "rows": 640,
        "tokens": 60000,
        "trained_tokens": 30007,
        "steps": 40,
        "epochs": 0.2,
        "loss": {"first": 2.5, "last": 1.9},
        "learning_rate": 0.001,
        "effective_batch_size": 16,
    },
    "tokens_per_second": 199.9,
    "eval_loss": {"before": 2.6, "after": 2.0},
    "memory": {
        "predicted_bytes": 1500000000,
        "measured_bytes": 1600000000,
        "device": "cpu",
        "measured_as": "peak resident memory",
    },
    "rehearsal": {
        "train_peak_bytes": 1700000000,
        "eval_peak_bytes": 1300000000,
        "predicted_bytes": 1500000001,
        "seconds_per_micro_step": 1.23456,
        "checkpoint_bytes": 22118400,
        "tokens": 4096,
    },
    "samples": [{"prompt": "What is a list?", "reference": "A sequence.", "before": HOSTILE, "after": "A row."}],
    "environment": {
        "python": "3.11.7",
        "torch": "2.13.0",
        "device": "CPU, 2 cores",
        "device_memory_bytes": 2**34,
        "threads": None,
    },
    "notes": ["3 of 4,000 rows were cut at 512 tokens"],
}

FACTS = (
    """
models/tiny|2.60 → 2.00|−23.1 %|13.46 → 7.39|5 min 0 s|60,000|30,007|640|200|1.40 GiB|1.49 GiB|+6.7 %
2.6000 → 2.0000|2.5000 → 1.9000|−24.0 %|peak resident memory|22 November 2026, 10:00 UTC|CPU, 2 cores
136,358,208|1,843,200 (1.35 %)|106,168,320 (77.86 %)|nf4, double quantised|float32|bfloat16|sdpa|16|32
q_proj, k_proj|0.001|train.jsonl|eval.jsonl|messages|4,000|400,001|509|207|20,003|3.11.7|2.13.0|0.1.0
1.58 GiB (+13.3 %)|1.21 GiB|4,096|1.23|22,118,400|Largest training batch, tokens with padding
16.00 GiB|What is a list?|A sequence.|A row.|3 of 4,000 rows were cut at 512 tokens
""".strip()
    .replace("\n", "|")
    .split("|")
)


def metrics(steps: int = 30) -> list[dict]:
    rows = [{"step": 0, "eval_loss": 2.6}]
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 2.5 - step / 50, "learning_rate": 1e-3 / step, "grad_norm": 0.8}
        rows.append(row | {"tokens_per_second": 200.0 + step, "memory_bytes": 1600000000, "seconds": 3.2})
    return [*rows, {"step": steps, "eval_loss": 2.0}]


def write_run(run: Path, report: dict | str = REPORT, rows: list[dict] | None = None, tail: str = "") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "report.json").write_text(report if isinstance(report, str) else json.dumps(report))
    if rows is not None:
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return run


def pages(run: Path) -> tuple[str, str]:
    write_pages(run)
    return (run / "report.md").read_text(), (run / "report.html").read_text()


class Page(HTMLParser):
    """Text, elements and unclosed elements of a page."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.elements, self.open = "", [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[str, str]:
    return pages(write_run(tmp_path_factory.mktemp("run"), rows=metrics()))


@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_stands_in_both_pages(both, fact):
    markdown, html = both
    assert fact in markdown
    assert fact in Page(html).text


def test_a_hostile_answer_stays_text_in_html(both):
    page = Page(both[1])
    assert HOSTILE in page.text
    assert not page.open
    assert not {"script", "img"} & {tag for tag, _ in page.elements}


def test_a_hostile_answer_stays_text_in_markdown(both):
    tokens = MarkdownIt("commonmark").enable("table").parse(both[0])
    assert [token.content for token in tokens if token.type == "fence"][2] == HOSTILE + "\n"
    assert not any("html" in token.type for token in tokens)


def test_markup_in_names_and_notes_stays_text_in_markdown(tmp_path):
    note = "a|b *c* <b>d</b> `e` [f](g) __init__ h_i & j"
    report = REPORT | {"notes": [note], "environment": {"os": note}}
    markdown, html = pages(write_run(tmp_path, report))
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    inline = [token for token in tokens if token.type == "inline"]
    found = [
        "".join(child.content for child in token.children)
        for token in inline
        if "__init__" in token.content.replace("\\", "")
    ]
    assert found == [note, note]
    assert note in Page(html).text


def test_the_html_page_loads_nothing(both):
    page = Page(both[1])
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "image", "source"}
    targets = [value for _, attrs in page.elements for key, value in attrs.items() if key in ("src", "href")]
    assert all(target.startswith("#") for target in targets)
    assert "<metadata" not in both[1]
    assert not re.search(r"@import|url\((?!#)|https?:|//fonts", both[1])
    policy = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_ids_are_unique_and_references_resolve(both):
    ids = re.findall(r' id="([^"]+)"', both[1])
    references = re.findall(r'(?:url\(|href=")#([^")]+)', both[1])
    assert references
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)


def test_the_html_page_is_accessible(both):
    page = Page(both[1])
    assert ("html", {"lang": "en"}) in page.elements
    images = [attrs for _, attrs in page.elements if attrs.get("role") == "img"]
    assert len(images) == both[1].count("<svg") == 6  # the loss twice: wide, and for phones
    assert images[0]["aria-label"].startswith(
        "Training loss 2.48 at step 1, 1.9 at step 30; held-out loss 2.6 at step 0"
    )
    headers = [attrs.get("scope") for tag, attrs in page.elements if tag == "th"]
    assert headers.count("col") == 2
    assert set(headers) == {"row", "col"}


def contrast(html: str, scheme: int, colour: str) -> float:
    """Contrast of a colour with the paper, as WCAG counts it, in the light (0) or dark (1) scheme."""

    def luminance(name: str) -> float:
        code = re.findall(rf"--{name}: #(\w{{6}})", html)[scheme]
        channels = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance("paper"), luminance(colour)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("colour", ["ink", "muted", "train", "held-out"])
def test_contrast_is_at_least_that_of_wcag_aa(both, scheme, colour):
    assert contrast(both[1], scheme, colour) >= 4.5


def test_curves_follow_the_colour_scheme(both):
    assert "var(--train)" in both[1]
    svg = "".join(re.findall(r"<svg.*?</svg>", both[1]))
    assert not re.search(r"#[0-9a-f]{6}[;\"]", svg)


def test_the_same_run_gives_the_same_bytes_whatever_matplotlib_is_set_to(tmp_path):
    run = write_run(tmp_path, rows=metrics())
    first = pages(run)
    with matplotlib.rc_context({"lines.linestyle": "--", "axes.xmargin": 0.3, "svg.fonttype": "path"}):
        assert pages(run) == first


def test_importing_the_pages_imports_neither_matplotlib_nor_torch():
    alone = """
import sys, types
room = sys.modules["finetune.report"] = types.ModuleType("finetune.report")  # without its neighbours, which need torch
room.__path__ = [sys.argv[1]]
import finetune.report.pages
sys.exit(" ".join({"matplotlib", "torch"} & sys.modules.keys()) or 0)
"""
    folder = Path(pages_module.__file__).parent
    subprocess.run([sys.executable, "-c", alone, folder], check=True, cwd=folder.parents[1])


@pytest.mark.parametrize("rows", [None, []], ids=["absent", "empty"])
def test_without_metrics_the_pages_say_so(tmp_path, rows):
    markdown, html = pages(write_run(tmp_path, rows=rows))
    assert "No curves: metrics.jsonl holds no measurement." in markdown
    assert "No curves: metrics.jsonl holds no measurement." in html
    assert "<svg" not in html
    assert "2.60 → 2.00" in html


def test_a_half_written_last_line_is_ignored(tmp_path):
    whole = pages(write_run(tmp_path, rows=metrics()))
    assert pages(write_run(tmp_path, rows=metrics(), tail='{"step": 31, "loss": 9')) == whole


def test_a_whole_last_line_without_its_end_counts(tmp_path):
    run = write_run(tmp_path, rows=[{"step": 1, "loss": 2.0}], tail='{"step": 2, "loss": 1.0}')
    assert read_metrics(run / "metrics.jsonl") == ([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], 0)


def test_an_unreadable_line_before_the_last_is_said_aloud(tmp_path):
    markdown, html = pages(write_run(tmp_path, rows=metrics(), tail='{"step": 31, "lo{"step": 31, "loss": 1.0}\n'))
    assert "1 line of metrics.jsonl could not be read" in markdown
    assert "1 line of metrics.jsonl could not be read" in html


@pytest.mark.parametrize("key", list(REPORT))
@pytest.mark.parametrize("fate", ["absent", "null"])
def test_any_part_may_be_missing(tmp_path, key, fate):
    report = copy.deepcopy(REPORT)
    report.pop(key) if fate == "absent" else report.update({key: None})
    markdown, html = pages(write_run(tmp_path, report))
    assert not Page(html).open
    for page in (markdown, Page(html).text):
        assert "None" not in page
        assert "not measured" in page or key not in ("eval_loss", "tokens_per_second", "memory", "train")


@pytest.mark.parametrize(
    "key", [(part, key) for part, tree in REPORT.items() if isinstance(tree, dict) for key in tree]
)
def test_any_key_of_a_part_may_be_null(tmp_path, key):
    report = copy.deepcopy(REPORT)
    report[key[0]][key[1]] = None
    for page in pages(write_run(tmp_path, report)):
        assert "None" not in page


def test_an_empty_report_still_gives_pages(tmp_path):
    markdown, html = pages(write_run(tmp_path, {}))
    assert "Nothing was measured." in markdown
    assert "Unnamed model" in html
    assert "Using the adapter" not in html
    assert "Held-out questions" not in html


def test_an_answer_without_text_and_one_not_given(tmp_path):
    report = REPORT | {"samples": [{"prompt": "Why?", "before": " \n", "after": None, "reference": "So."}]}
    markdown, html = pages(write_run(tmp_path, report))
    assert markdown.count("(no text)") == html.count("(no text)") == 1
    assert "After" not in html


def test_a_loss_that_rose_is_said_to_have_risen(tmp_path):
    markdown, _ = pages(write_run(tmp_path, REPORT | {"eval_loss": {"before": 2.0, "after": 2.5}}))
    assert "Held-out loss rose from 2.00 to 2.50 (+25.0 %)" in markdown


def test_a_loss_that_is_no_number_is_shown_as_it_is(tmp_path):
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 2, "eval_loss": float("inf")}]
    report = REPORT | {"eval_loss": {"before": 2.0, "after": float("nan")}}
    markdown, html = pages(write_run(tmp_path, report, rows))
    assert "2.00 → nan" in markdown
    assert html.count("<svg") == 2


def test_an_absolute_path_gives_the_title_its_last_part_only(tmp_path):
    model = REPORT["model"] | {"name_or_path": "/somewhere/deep/tiny"}
    markdown, html = pages(write_run(tmp_path, REPORT | {"model": model}))
    assert markdown.startswith("# tiny\n")
    assert "<h1>tiny</h1>" in html


def test_the_commands_name_the_run_and_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/my run"))
    markdown, html = pages(Path("runs/my run"))
    for page in (markdown, Page(html).text):
        assert "finetune chat 'runs/my run'" in page
        assert 'AutoTokenizer.from_pretrained("models/tiny")' in page
        assert '"runs/my run/adapter")' in page
    script = re.search(r"```python\n(.*?)```", markdown, re.DOTALL)[1]
    compile(script, "script", "exec")


def test_the_script_loads_a_gguf_file_as_transformers_wants_it(tmp_path):
    markdown, _ = pages(write_run(tmp_path, REPORT | {"model": {"name_or_path": "models/tiny.gguf"}}))
    assert 'AutoModelForCausalLM.from_pretrained("models", gguf_file="tiny.gguf")' in markdown


FINISH = "name the directory of a finished run, or finish this one with `finetune train CONFIG --resume`"
RESTORE = "it was changed or cut short after the run wrote it; put the original back, or train again"


def test_a_directory_without_a_report_is_refused(tmp_path):
    with pytest.raises(RunDirError) as error:
        write_pages(tmp_path)
    assert error.value.message == f"{tmp_path}: holds no report.json"
    assert error.value.hint == FINISH
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"status": "fin', "Invalid JSON: EOF while parsing"),
        ("", "Invalid JSON: EOF while parsing"),
        ("[]", "Input should be an object"),
        ('{"train": {"seconds": "long"}}', "train.seconds: Input should be a valid number"),
        ('{"eval_loss": 2.0}', "eval_loss: Input should be an object"),
        ('{"samples": [{"before": "a"}]}', "samples.0.prompt: Field required"),
    ],
)
def test_a_malformed_report_is_refused_and_nothing_written(tmp_path, text, words):
    with pytest.raises(RunDirError) as error:
        write_pages(write_run(tmp_path, text, metrics()))
    assert error.value.message.startswith(f"{tmp_path / 'report.json'}: not a report of finetune: {words}")
    assert error.value.hint == RESTORE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "report.json"]


def test_a_report_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(RunDirError, match=r"report\.json: cannot be read \(Is a directory\)") as error:
        write_pages(tmp_path)
    assert error.value.hint == "check what it is and who may read it"


def test_a_page_that_cannot_be_written_leaves_nothing_half_written(tmp_path):
    (write_run(tmp_path) / "report.html").mkdir()
    with pytest.raises(RunDirError, match=r"report\.html: cannot be written \(Is a directory\)") as error:
        write_pages(tmp_path)
    assert error.value.hint == "make room on the disk, or give the directory back its write permission"
    assert not list(tmp_path.glob(".*"))


def test_a_step_written_twice_counts_once_the_later():
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 1, "loss": 2.5}, {"step": "x", "loss": 1.0}]
    steps, values = series(rows, "loss")
    assert steps.tolist() == [1, 2]
    assert values.tolist() == [2.5, 2.0]


def test_smoothing_is_a_centred_mean_that_skips_nan():
    smoothed = smooth(np.array([1.0, 2.0, 6.0, np.nan, 4.0]), 3)
    assert smoothed.tolist() == pytest.approx([1.5, 3.0, 4.0, 5.0, 4.0])


def test_curves_have_what_the_rows_have():
    assert [curve.name for curve in draw_curves(metrics())] == [
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "memory_bytes",
    ]
    (only,) = draw_curves([{"step": 0, "eval_loss": 2.25}])
    assert only.key == [("held-out", "held-out")]
    assert ">2.25</text>" in only.svg
    assert draw_curves([{"step": 1, "loss": None}, {"loss": 1.0}]) == []


def test_predicted_memory_is_drawn_beside_the_measured():
    memory = {curve.name: curve for curve in draw_curves(metrics(), predicted_bytes=1500000000)}["memory_bytes"]
    assert memory.key == [("train", "measured peak so far"), ("held-out", "predicted peak")]
    assert "stroke-dasharray" in memory.svg
    assert "stroke-dasharray" not in draw_curves(metrics())[-1].svg


def test_a_long_run_keeps_a_small_page():
    generator = np.random.default_rng(0)
    rows = [{"step": step, "loss": float(loss)} for step, loss in enumerate(generator.normal(2, 0.2, 20000))]
    (curve,) = draw_curves(rows)
    assert len(curve.svg) < 200_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (300.1, "5 min 0 s"), (3725, "1 h 2 min 5 s")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_figures_in_words():
    assert gib(24 * 2**30) == "24.00 GiB"
    assert [percent(x) for x in (-0.2308, 0.0667, 0.0001, -0.0001, 12.5)] == [
        "−23.1 %",
        "+6.7 %",
        "0.0 %",
        "0.0 %",
        "+1,250.0 %",
    ]
    assert [perplexity(x) for x in (2.0, 9.0, 20.0, 1e4)] == ["7.39", "8,103", "4.9e+08", "inf"]


def test_relative_change():
    assert change(2.6, 2.0) == pytest.approx(-0.6 / 2.6)
    assert change(1500000000, 1600000000) == pytest.approx(1 / 15)
    assert [change(*pair) for pair in ((None, 2.0), (2.0, None), (0.0, 2.0), (2.0, float("nan")))] == [None] * 4

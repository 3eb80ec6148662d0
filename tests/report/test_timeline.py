"""Predicted memory in the pages: areas that add up, a peak in its place, and nothing where there is no timeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_pages import REPORT, Page, contrast, metrics, pages, write_run

from finetune.report.areas import labels, predicted_memory
from finetune.report.pages import read_preflight
from finetune.report.schema import Preflight
from finetune.report.svg import INK
from finetune.report.timeline import CAUSES, OTHER, Stretch, stacked, stretches, table
from finetune.report.wording import gib

GIB = 2**30
HOSTILE = "$x^{</text><script>alert(1)</script>&"
STANDING = {"weights": 4 * GIB, "adapters": GIB // 4, "optimiser": GIB // 2}


def instant(phase: str, reserved: int = 9 * GIB, **sizes: float) -> dict:
    """One moment with what always stands, and `sizes` in GiB by the causes' names, blanks as underscores."""
    more = {cause.replace("_", " "): int(size * GIB) for cause, size in sizes.items()}
    return {"phase": phase, "reserved_bytes": reserved, "bytes": STANDING | more}


TIMELINE = [
    instant("batch", batch=0.001, kv_cache=0.05),
    instant("forward", batch=0.001, workspace=0.01),
    instant("layer forward", batch=0.001, layer_activations=0.5, dequantised_weight=0.1),
    instant("forward", batch=0.001, checkpoints=0.25),
    instant("layer forward", batch=0.001, checkpoints=0.5, layer_activations=0.5),
    instant("forward", checkpoints=0.5, logits_and_loss=1),
    instant("loss backward", checkpoints=0.5, logits_and_loss=3),
    instant("layer backward", checkpoints=0.5, layer_activations=1.5, gradients=0.125),
    instant("layer backward", checkpoints=0.25, layer_activations=1, gradients=0.25),
    instant("load", gradients=0.25),
    instant("optimiser step", gradients=0.25),
    instant("load"),
]
PEAK = int(8.25 * GIB)
PREFLIGHT = {
    "batch": {"rows": 2, "tokens": 2048, "packed": False},
    "memory": {
        "allocated_bytes": PEAK,
        "reserved_bytes": 9 * GIB,
        "process_bytes": int(9.5 * GIB),
        "device_bytes": 24 * GIB,
        "peak_phase": "loss backward",
        "breakdown_bytes": STANDING | {"checkpoints": GIB // 2, "logits and loss": 3 * GIB},
        "timeline": TIMELINE,
    },
}


def changed(**memory: object) -> Preflight:
    return Preflight.model_validate(PREFLIGHT | {"memory": PREFLIGHT["memory"] | memory})


def write_preflight(run: Path, preflight: dict | str = PREFLIGHT, report: dict = REPORT) -> Path:
    write_run(run, report, metrics())
    (run / "preflight.json").write_text(preflight if isinstance(preflight, str) else json.dumps(preflight))
    return run


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[str, str]:
    return pages(write_preflight(tmp_path_factory.mktemp("run")))


def corners(svg: str, colour: str) -> np.ndarray:
    """Corners (x, y) of the one path filled with a colour, in viewBox units from the top left."""
    (path,) = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: var\(--{colour}\)', svg)
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] (\S+) (\S+)", path)])


def test_causes_are_those_of_the_tape():
    tape = pytest.importorskip("finetune.preflight.tape")
    names = ("WEIGHTS", "ADAPTERS", "GRADIENTS", "OPTIMISER", "BATCH", "CHECKPOINTS", "LAYER", "HEAD", "DEQUANTISED")
    assert set(CAUSES) == {getattr(tape, name) for name in (*names, "WORKSPACE", "CACHE")}


def test_areas_stand_on_each_other_and_sum_to_what_is_allocated():
    timeline = changed().memory.timeline
    edges = stacked(timeline)
    assert list(edges) == list(CAUSES)
    assert edges[CAUSES[-1]] == [sum(moment["bytes"].values()) for moment in TIMELINE]
    assert max(edges[CAUSES[-1]]) == PREFLIGHT["memory"]["allocated_bytes"]
    assert edges["optimiser"] == [int(4.75 * GIB)] * len(TIMELINE)
    assert edges["gradients"][7] - edges["optimiser"][7] == GIB // 8


def test_a_cause_not_known_here_still_counts():
    new = [{**moment, "bytes": moment["bytes"] | {"key-value cache": GIB, "reference": GIB}} for moment in TIMELINE]
    edges = stacked(changed(timeline=new).memory.timeline)
    assert list(edges) == [*CAUSES, OTHER]
    assert edges[OTHER] == [size + 2 * GIB for size in edges[CAUSES[-1]]]


def test_the_parts_of_an_update():
    assert stretches(changed().memory.timeline) == [
        Stretch("forward", 0, 4),
        Stretch("loss", 5, 6),
        Stretch("layer backward", 7, 9),
        Stretch("optimiser step", 10, 11),
    ]


def test_a_phase_not_known_here_keeps_its_name():
    phases = ["generation", "layer forward", "forward", "loss backward", "load", "optimiser step"]
    timeline = changed(timeline=[instant(phase) for phase in phases]).memory.timeline
    assert [part.name for part in stretches(timeline)] == ["generation", "forward", "loss", "optimiser step"]


def test_the_legend_names_what_is_drawn():
    figure = predicted_memory(changed(), measured=8 * GIB).curves[0]
    lines = [("ink", "reserved"), ("held-out", "measured peak of the run, 8.00 GiB")]
    assert figure.key == [(cause.replace(" ", "-"), cause) for cause in CAUSES] + lines
    for svg in (figure.svg, figure.narrow):
        assert all(f"var(--{colour})" in svg for colour, _ in figure.key)
    assert {colour for colour, _ in figure.key} < INK.keys()


def test_the_areas_are_drawn_to_scale():
    figure, edges = predicted_memory(changed()).curves[0], stacked(changed().memory.timeline)
    for svg in (figure.svg, figure.narrow):
        ground, level = max(corners(svg, "weights")[:, 1]), min(corners(svg, "weights")[:, 1])
        for cause, edge in edges.items():
            (left, *_, right), path = sorted(corners(svg, "weights")[:, 0]), corners(svg, cause.replace(" ", "-"))
            assert path[[0, -1]].tolist() == [[left, ground], [right, ground]]
            drawn = np.interp(np.linspace(left, right, len(edge)), *path[1:-1].T)
            assert (ground - drawn) / (ground - level) == pytest.approx(np.array(edge) / (4 * GIB), rel=1e-3)


def test_lower_areas_are_drawn_over_higher_ones():
    fills = re.findall(
        r'<path d="[^"]+"[^>]*style="fill: var\(--([a-z-]+)\)', predicted_memory(changed()).curves[0].svg
    )
    assert [fill for fill in fills if fill.replace("-", " ") in CAUSES] == [
        cause.replace(" ", "-") for cause in reversed(CAUSES)
    ]


def test_a_cause_that_never_occurs_is_not_in_the_legend():
    without = [{**moment, "bytes": {"weights": GIB, "workspace": 0}} for moment in TIMELINE]
    figure = predicted_memory(changed(timeline=without)).curves[0]
    assert figure.key == [("weights", "weights"), ("ink", "reserved")]


def test_the_peak_stands_on_the_areas_with_its_size_and_phase():
    figure = predicted_memory(changed()).curves[0]
    for svg in (figure.svg, figure.narrow):
        assert re.search(r">8\.25 GiB, loss backward</text>", svg)
        assert len(re.findall(r"\d GiB, ", svg)) == 1
        edge = corners(svg, "batch")[:, 1]
        (dot,) = re.findall(r'<use href="#m\w+" x="\S+" y="([\d.]+)" style="fill: var\(--ink\); stroke', svg)
        assert float(dot) == pytest.approx(min(edge), abs=0.02)


def test_names_wider_than_their_part_go_lower_and_never_overlap():
    parts = [Stretch("forward", 0, 99), Stretch("loss", 100, 103), Stretch("clip", 104, 105), Stretch("step", 106, 200)]
    placed = labels(parts, 201, unit=0.5)
    assert [(label.words, label.row) for label in placed] == [("forward", 0), ("loss", 1), ("step", 0)]
    assert placed[1].at == 101.5


def test_a_name_at_the_edge_stays_inside():
    (_, last) = labels([Stretch("forward", 0, 190), Stretch("optimiser step", 191, 200)], 201, unit=0.5)
    assert (last.row, last.at, last.side) == (1, 200, "right")


@pytest.mark.parametrize(("device", "drawn"), [(24, False), (12, True), (9.5, True)])
def test_the_device_is_a_line_where_it_is_near(device, drawn):
    figure = predicted_memory(changed(device_bytes=int(device * GIB))).curves[0]
    assert (("muted", f"the device's {device:.2f} GiB") in figure.key) is drawn


def test_memory_without_an_allocator_has_no_line_of_what_is_reserved():
    exact = [{**moment, "reserved_bytes": sum(moment["bytes"].values())} for moment in TIMELINE]
    memory = predicted_memory(changed(timeline=exact))
    assert "reserved" not in dict(memory.curves[0].key).values()
    assert "reserved" not in memory.curves[0].summary
    assert [row[0] for row in memory.table.rows][-1] == "allocated"


def test_the_bar_adds_up_to_the_device():
    bar = predicted_memory(changed()).curves[1]
    assert bar.title == "What fills the device's 24.00 GiB"
    assert bar.key == [("other", "rest of the process, 1.25 GiB"), ("rule", "free, 14.50 GiB")]
    spans = {}
    for colour in ("weights", "logits-and-loss", "other", "rule"):
        x = corners(bar.svg, colour)[:, 0]
        spans[colour] = (min(x), max(x))
    widths = {colour: right - left for colour, (left, right) in spans.items()}
    assert widths["weights"] / widths["logits-and-loss"] == pytest.approx(4 / 3, rel=1e-3)
    assert widths["rule"] / widths["other"] == pytest.approx(14.5 / 1.25, rel=1e-3)
    assert spans["logits-and-loss"][1] == pytest.approx(spans["other"][0], abs=0.02)


@pytest.mark.parametrize("memory", [{"process_bytes": None}, {"device_bytes": None}, {"breakdown_bytes": None}])
def test_without_one_of_its_sizes_there_is_no_bar(memory):
    assert [curve.name for curve in predicted_memory(changed(**memory)).curves] == ["timeline"]


def test_the_table_holds_each_part_at_its_highest():
    assert table(changed().memory.timeline) == (
        "Largest in each part, GiB",
        ["forward", "loss", "layer backward", "optimiser step"],
        [
            ["weights", "4.00", "4.00", "4.00", "4.00"],
            ["adapters", "0.25", "0.25", "0.25", "0.25"],
            ["optimiser", "0.50", "0.50", "0.50", "0.50"],
            ["gradients", "–", "–", "0.12", "0.25"],
            ["checkpoints", "0.50", "0.50", "0.50", "–"],
            ["layer activations", "0.50", "–", "1.50", "–"],
            ["logits and loss", "–", "3.00", "–", "–"],
            ["batch", "< 0.01", "–", "–", "–"],
            ["allocated", "5.75", "8.25", "6.88", "5.00"],
            ["reserved", "9.00", "9.00", "9.00", "9.00"],
        ],
    )


def test_both_pages_say_it_in_words_and_in_a_table(both):
    markdown, html = both
    page = Page(html)
    assert not page.open
    summary = (
        "Predicted memory over one update: at most 8.25 GiB allocated, in the loss backward: weights 4.00 GiB, "
        "logits and loss 3.00 GiB, optimiser 0.50 GiB; reserved 9.00 GiB"
    )
    assert f"- {summary}\n" in markdown
    assert [attrs["aria-label"] for _, attrs in page.elements if attrs.get("role") == "img"].count(summary) == 2
    assert "| logits and loss | – | 3.00 | – | – |" in markdown
    for text in (markdown, page.text):
        assert "the largest micro batch that its settings allow, 2 rows of 2,048 tokens." in text
        assert "measured" in text
        assert "comes earlier" not in text
    assert "measured peak of the run, 1.49 GiB" in page.text


def test_figures_keep_the_page_s_rules(both):
    _, html = both
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', html)) <= set(ids)
    svg = "".join(re.findall(r"<svg.*?</svg>", html))
    assert not re.search(r"#[0-9a-f]{6}[;\"]", svg)
    used = set(re.findall(r"var\(--([a-z-]+)\)", html)) - {"swatch"}
    for scheme in html.split("prefers-color-scheme: dark", 1):
        assert used <= set(re.findall(r"--([a-z-]+): #", scheme))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("cause", [*CAUSES, OTHER])
def test_areas_stand_out_from_the_page(both, scheme, cause):
    assert contrast(both[1], scheme, cause.replace(" ", "-")) >= 3  # what WCAG asks of graphics


def test_the_same_files_give_the_same_bytes(tmp_path):
    run = write_preflight(tmp_path)
    assert pages(run) == pages(run)


def test_a_peak_before_the_update_is_said(tmp_path):
    memory = PREFLIGHT["memory"] | {"allocated_bytes": 10 * GIB, "peak_phase": "load"}
    markdown, html = pages(write_preflight(tmp_path, PREFLIGHT | {"memory": memory}))
    for text in (markdown, html):
        assert "The most of the whole run, 10.00 GiB, comes earlier (load)." in text


def test_hostile_names_stay_text(tmp_path):
    timeline = [{**moment, "phase": HOSTILE, "bytes": {HOSTILE: GIB}} for moment in TIMELINE]
    memory = PREFLIGHT["memory"] | {"timeline": timeline, "peak_phase": HOSTILE, "allocated_bytes": 2 * GIB}
    _, html = pages(write_preflight(tmp_path, PREFLIGHT | {"memory": memory}))
    page = Page(html)
    assert not page.open
    assert "script" not in {tag for tag, _ in page.elements}
    assert f"1.00 GiB, {HOSTILE}" in page.text


@pytest.mark.parametrize(
    "preflight",
    [
        {},
        {"memory": None},
        {"memory": {"allocated_bytes": GIB, "device_bytes": 24 * GIB, "breakdown_bytes": {"weights": GIB}}},
        {"memory": {"timeline": []}},
        {"memory": {"timeline": TIMELINE[:1]}},
        {"memory": {"timeline": [{"phase": "batch", "reserved_bytes": 0, "bytes": {}}] * 3}},
    ],
    ids=["empty", "null", "before timelines", "none", "one instant", "nothing alive"],
)
def test_without_a_timeline_the_pages_are_those_without_a_prediction(tmp_path, preflight):
    without = pages(write_run(tmp_path, rows=metrics()))
    assert pages(write_preflight(tmp_path, preflight)) == without
    assert "Predicted memory" not in without[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Invalid JSON: EOF while parsing"),
        ("[]", "Input should be an object"),
        ('{"memory": {"timeline": 3}}', "memory.timeline: Input should be a valid array"),
        ('{"memory": {"timeline": [{"reserved_bytes": 1, "bytes": {}}]}}', "memory.timeline.0.phase: Field required"),
        (
            '{"memory": {"timeline": [{"phase": "a", "reserved_bytes": 1, "bytes": {"weights": -1}}]}}',
            "memory.timeline.0.bytes.weights: Input should be greater than or equal to 0",
        ),
    ],
)
def test_a_malformed_prediction_is_left_out_with_a_note(tmp_path, text, words):
    markdown, html = pages(write_preflight(tmp_path, text))
    page = Page(html)
    assert f"preflight.json could not be read, its figures are left out: {words}" in page.text
    assert "preflight.json could not be read" in markdown
    assert "2.60 → 2.00" in page.text
    assert "Predicted memory" not in page.text


def test_the_prediction_of_a_real_run_is_drawn(tmp_path, config_file):
    from finetune.config import load_config
    from finetune.preflight import preflight
    from finetune.report import RunDir
    from finetune.spec import describe

    spec = describe(load_config(config_file, ["hardware.device=cpu"]))
    verdict = preflight(spec)
    with RunDir.create(spec) as run:
        run.write_json("preflight.json", verdict.to_json(timeline=True))
        run.write_json("report.json", REPORT)
        markdown, html = pages(run.path)
        run.keep()
    prediction = read_preflight(run.path / "preflight.json")[0]
    edges = list(stacked(prediction.memory.timeline).values())
    assert max(edges[-1]) == verdict.prediction.allocated
    assert f"at most {gib(verdict.prediction.allocated)} allocated, in the {verdict.prediction.phase}" in markdown
    for svg in re.findall(r"<svg.*?</svg>", html):
        names = re.findall(r">(forward|loss|layer backward|optimiser step)</text>", svg)
        assert names in ([], ["forward", "loss", "layer backward", "optimiser step"])
    assert html.count(">optimiser step</text>") == 2
    assert "other" not in [row[0] for row in table(prediction.memory.timeline).rows]

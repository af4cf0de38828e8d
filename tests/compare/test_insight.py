"""What the report tells of the trained detectors: measured once, kept, never worth a lost report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from run_folders import write_run
from tiny_checkpoint import tiny_state

from fusion_det.analysis.fusion_probe import fusion_probe
from fusion_det.compare.insight import gather, latency
from fusion_det.compare.insight.decisions import _under
from fusion_det.compare.insight.kept import Kept
from fusion_det.compare.insight.latency_look import look_at_latency
from fusion_det.compare.insight.looked import Looked
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.latency_part import latency_tables, latency_words, milliseconds
from fusion_det.compare.run_record import read_run
from fusion_det.config.cli import main
from fusion_det.engine.checkpoint import save_checkpoint
from fusion_det.inference import load

HOSTILE = "<b>@x"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, coco_root) -> str:
    """Two arms with two seeds; the first seed of each has a checkpoint of a very small detector."""
    root = tmp_path_factory.mktemp("insight")
    for number, name in enumerate("ab"):
        for seed in (0, 1):
            folder = write_run(root / f"{name}{seed}", coco_root, seed=seed, noise=3.0 - 2 * number, words=["neck=fpn"])
            if seed == 0:
                words = ["neck=fpn", "fusion=aff"] if number else ["neck=fpn"]
                state = tiny_state(coco_root, number, words)
                save_checkpoint(folder / "last.pt", state)
            config = state["config"] | {"seed": seed}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            (folder / "metrics.jsonl").write_text('{"perf/images_per_s": 12}\n{"perf/images_per_s": 14}\n{"perf/images_per_s": "x"}\n{"per')
    return f'runs=a={root}/a0,{root}/a1; "{HOSTILE}"={root}/b0,{root}/b1'


def compare(folder: Path, *words: str) -> tuple[str, str]:
    assert main("compare", [*words, "statistics.resamples=20", f"folder={folder}"]) == 0
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def study(runs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    compare(folder, runs)
    return folder


def test_levels_are_in_the_report_with_their_caveat(study):
    html, lines = (study / "report.html").read_text(), (study / "report.md").read_text()
    assert "reliance, not need" not in html.split('id="reliance"')[0]
    part = html.split('id="reliance"')[1].split("</section>")[0]
    assert "Reliance, not need" in part
    assert "of seed 0, on 4 validation pictures" in part
    assert "<b>" not in part
    found = next(iter(json.loads((study / "insight" / "reliance.json").read_text())["results"].values()))
    assert [found[name]["levels"] for name in ("backbone", "neck")] == [["C3", "C4", "C5"], ["P3", "P4", "P5"]]
    table = lines.split("Levels of the neck")[1]
    drop = next(v for v in found["neck"]["variants"] if (v["action"], v["level"], v["replacement"]) == ("drop", "P3", "mean"))
    change = f"{100 * drop['AP']:.1f} ({100 * (drop['AP'] - found['neck']['untouched']['AP']):+.1f})"
    row = next(line for line in table.splitlines() if line.startswith("|  | P3 |"))
    assert f"| {change} (zeros " in row.replace("\\", "")


def test_decisions_are_those_of_the_probe(study, runs, coco_root):
    results = json.loads((study / "insight" / "decisions.json").read_text())["results"].values()
    plain, gated = sorted(results, key=lambda result: result["sites"][0]["operator"])[::-1]
    assert all(site["weights"] is None for site in plain["sites"])
    detector = load(Path(runs.split('"=')[1].split(",")[0]) / "last.pt", device="cpu")
    probed = fusion_probe(detector, sorted((coco_root / "val").iterdir()))
    for site, expected in zip(gated["sites"], probed, strict=True):
        assert expected.summary is not None
        assert (site["name"], site["inputs"], site["dead"]) == (expected.name, list(expected.inputs), list(expected.dead))
        assert site["weights"] == pytest.approx(expected.summary.mean.tolist(), abs=0.01)  # other padding
        assert set(site["sizes"]) == {"small", "medium"}
        for weights in site["sizes"].values():
            assert sum(weights) == pytest.approx(sum(site["weights"]), abs=1e-5)  # two inputs of AFF: always 2
    html = (study / "report.html").read_text()
    part = html.split('id="fusions"')[1].split("</section>")[0]
    assert "Nothing is decided in a: the operators there do not weigh their inputs." in part
    assert f"{gated['sites'][0]['weights'][0]:.3f}" in part
    assert "<b>" not in part


def test_weights_of_an_object_are_those_under_its_box():
    weights = torch.arange(12.0).view(1, 3, 4)
    assert _under(weights, torch.tensor([0.0, 0.0, 16.0, 8.0]), (24, 32)).item() == 0.5  # two cells of the first row
    assert _under(weights, torch.tensor([9.0, 9.0, 9.5, 9.5]), (24, 32)).item() == 5
    assert _under(weights, torch.tensor([31.0, 23.0, 32.0, 24.0]), (24, 32)).item() == 11
    assert _under(weights, torch.tensor([0.0, 0.0, 32.0, 24.0]), (24, 32)).item() == 5.5


def test_nothing_is_measured_twice_and_the_files_stay_the_same(runs, study, monkeypatch):
    names = ("report.html", "report.md", "insight/reliance.json", "insight/decisions.json", "insight/latency.json")
    before = [(study / name).read_bytes() for name in names]
    monkeypatch.setattr(gather._Opened, "detector", property(lambda self: pytest.fail("a detector was opened again")))
    monkeypatch.setattr(latency, "measure_latency", lambda *_, **__: pytest.fail("a latency was measured again"))
    compare(study, runs)
    assert before == [(study / name).read_bytes() for name in names]


def test_it_can_be_switched_off(runs, tmp_path):
    html, _ = compare(tmp_path, runs, "explain=false")
    assert 'id="reliance"' not in html
    assert not (tmp_path / "insight").exists()


def test_latency_is_measured_beside_the_baseline_and_shown(study, tmp_path):
    (found,) = json.loads((study / "insight" / "latency.json").read_text())["results"].values()
    for kind in ("network", "with late fusion", "fast"):
        assert 0 < found[kind]["ms"] <= found[kind]["p95_ms"]
        assert 0 < found[kind]["base_ms"] <= found[kind]["base_p95_ms"]
    assert found["size"] == [64, 64]
    part = (study / "report.html").read_text().split('id="cost"')[1].split("</section>")[0]
    ratio = found["network"]["ms"] / found["network"]["base_ms"]
    assert f"{ratio:.2f} x; p95 {found['network']['p95_ms']:.1f}" in part
    assert "AP against ms per picture, network as trained" in part
    assert f"{found['fast']['ms'] / found['fast']['base_ms']:.2f} x; p95 {found['fast']['p95_ms']:.1f}" in part
    assert "Fast: its network as fast=true makes it for prediction" in part
    assert ">13<" in part  # training pictures per second
    two = {kind: {"ms": 30.0, "p95_ms": 33.0, "base_ms": 20.0, "base_p95_ms": 22.0} for kind in ("network", "with late fusion")}
    one = {kind: {"ms": 10.0, "p95_ms": 11.0, "base_ms": 10.0, "base_p95_ms": 12.0} for kind in two}
    assert milliseconds("a", Looked({"b": two, "c": one})) == {"a": 15.0, "b": 22.5, "c": 15.0}


@pytest.mark.parametrize(("key", "other"), [("device", "another CPU, 1 threads"), ("threads", 64), ("cores", 99), ("torch", "9.9")])
def test_latencies_of_another_machine_are_not_shown_as_this_ones(runs, tmp_path, monkeypatch, key, other):
    folders = [Path(text.split("=")[1].split(",")[0]) for text in runs.removeprefix("runs=").split("; ")]
    pair = tuple(read_run(folder, arm) for folder, arm in zip(folders, "ab", strict=True))
    outcome = Outcome("x", tmp_path, "a", "AP", {"a": (), "b": ()}, pair)
    here = latency.this_machine()
    machine, measured = here, []

    def measure(*args, **kwargs):
        measured.append(machine)
        times = {"ms": 30.0, "p95_ms": 33.0, "base_ms": 20.0 * len(measured), "base_p95_ms": 22.0}
        return {
            "network": times,
            "with late fusion": times,
            "fast": times,
            "size": [64, 64],
            "memory": None,
            "rounds": 5,
            "machine": machine,
        }

    monkeypatch.setattr(latency, "this_machine", lambda: machine)
    monkeypatch.setattr(latency, "measure_latency", measure)
    first = look_at_latency(outcome)
    machine = here | {key: other}
    second = look_at_latency(outcome)
    assert measured == [here, machine]
    assert second.arms["b"]["network"]["base_ms"] == 40
    assert f"on {machine['device']}, {machine['cores']} CPU cores, torch {machine['torch']}:" in latency_words("a", second)[0]
    assert look_at_latency(outcome) == second
    machine = here
    assert look_at_latency(outcome) == first  # back where it was
    assert len(measured) == 2


def test_the_machine_is_told_by_device_threads_and_version():
    machine = latency.this_machine()
    assert machine["threads"] == torch.get_num_threads()
    assert machine["torch"] == torch.__version__
    if not torch.cuda.is_available():
        assert machine["device"].endswith(f", {machine['threads']} threads")


def test_what_cannot_be_made_fast_has_its_other_latencies(coco_root, monkeypatch):
    configs = [tiny_state(coco_root, 0, ["neck=fpn", *words])["config"] for words in ([], ["fusion=aff"])]
    monkeypatch.setattr(latency, "make_fast", lambda *_: 1 / 0)
    found = latency.measure_latency(*configs, 3, seconds=0.1)
    assert "fast" not in found
    assert found["why_not_fast"] == "ZeroDivisionError: division by zero"
    assert found["network"]["ms"] > 0
    looked = Looked({"{b}": found})
    assert "{b} or {a} could not be made fast: ZeroDivisionError: division by zero." in latency_words("{a}", looked)
    (table,) = latency_tables("{a}", {"{a}": 0, "{b}": 1}, looked)
    assert [column.name for column in table.columns] == ["arm", "network", "+ late fusion"]
    assert "Fast" not in table.note


def test_what_fails_is_a_sentence(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "measure_latency", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(gather, "make_gallery", lambda outcome: [][1])
    monkeypatch.setattr(gather, "_reliance", lambda opened, seconds: 1 / 0)
    html, lines = compare(tmp_path, runs)
    assert "of a, &lt;b&gt;@x were not looked at: ZeroDivisionError: division by zero." in html
    assert "ZeroDivisionError" in lines
    assert "The latency of &lt;b&gt;@x was not measured: ZeroDivisionError: division by zero." in html
    assert "No pictures are shown: IndexError: list index out of range." in html
    assert "verdict" in html


def test_a_missing_checkpoint_is_a_sentence_and_needs_no_torch(tmp_path, coco_root, monkeypatch):
    for name, noise in (("a", 3.0), ("b", 1.0)):
        write_run(tmp_path / name, coco_root, seed=0, noise=noise)
    for module in [
        name for name in sys.modules if name.startswith("fusion_det.compare.insight.") and name.endswith(("detectors", "reliance"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    html, _ = compare(tmp_path / "out", f"runs=a={tmp_path}/a; b={tmp_path}/b")
    assert f"were not looked at: its checkpoint {tmp_path}/a/last.pt is not there." in html
    assert not [name for name in sys.modules if name.endswith("insight.detectors")]


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 0, "results": {"k": {}}}', '{"format": 1, "results": {"k": 3}}'])
def test_damaged_or_older_results_are_measured_again(tmp_path, content):
    (tmp_path / "insight").mkdir()
    (tmp_path / "insight" / "x.json").write_text(content)
    kept = Kept(tmp_path, "x")
    assert "k" not in kept
    assert kept.put("k", {"a": (1, 2)}) == {"a": [1, 2]} == Kept(tmp_path, "x")["k"]

"""From what a user types to jobs: all arms are checked before anything starts, and what is the same is trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fusion_det.compare.done import foreign_faults
from fusion_det.compare.plan import Plan, as_text, make_plan
from fusion_det.config.cli import Folders, load_settings
from fusion_det.config.files import write_json
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import FusionDetError

FOLDERS = Folders(default_config_dir(), ())
COMPARISONS = sorted(path.stem for path in (default_config_dir() / "comparison").glob("*.yaml"))


def plan(*words: str) -> Plan:
    return make_plan(load_settings(get_tool("compare"), words, *FOLDERS), FOLDERS)


def faults(*words: str) -> list[str]:
    with pytest.raises(FusionDetError) as error:
        plan(*words)
    assert error.value.exit_code == 2
    return error.value.lines


@pytest.fixture(scope="module")
def typed() -> Plan:
    words = ("arms=neck=fpn fusion=add; neck=fpn fusion=aff", "seeds=3,1", "baseline=aff", "trainer.epochs=2", "data.root=a b's", "name=x")
    return plan(*words)


def test_the_form_of_the_readme(typed):
    assert [arm.name for arm in typed.arms] == ["add", "aff"]
    assert (typed.seeds, typed.baseline, typed.folder) == ((3, 1), "aff", Path("runs/compare/x"))
    assert [job.id for job in typed.jobs] == ["add/seed3", "aff/seed3", "add/seed1", "aff/seed1"]
    words = typed.jobs[1].words
    assert words[:4] == ("neck=fpn", "fusion=aff", "trainer.epochs=2", "data.root=a b's")
    assert words[4:] == ("seed=3", "run_dir=runs/compare/x/runs/aff/seed3", "resume=auto", "logger.progress=false")
    config = load_settings(get_tool("train"), words, *FOLDERS)
    assert (config.seed, config.trainer.epochs, config.data["root"], config.run_dir) == (3, 2, "a b's", str(typed.jobs[1].folder))


def shipped(name: str, arms: int | None = None) -> Plan:
    """The plan of a shipped study with its first ``arms`` arms."""
    words = [f"comparison={name}", *(["data.root=."] if name == "bccd" else [])]
    settings = load_settings(get_tool("compare"), words, *FOLDERS)
    assert isinstance(settings.arms, dict)
    assert len(settings.arms) >= 3
    return make_plan(settings.model_copy(update={"arms": dict(list(settings.arms.items())[:arms])}), FOLDERS)


@pytest.mark.parametrize("name", COMPARISONS)
def test_shipped_studies_are_sound(name):
    assert shipped(name, arms=2).folder.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARISONS)
def test_every_arm_of_shipped_studies_is_sound(name):
    assert shipped(name).jobs


def test_arms_that_differ_after_training_share_it():
    found = plan("arms=late_fusion=nms; late_fusion=wbf tta.flip=true; neck=none", "seeds=0", "neck.channels=32")
    assert [(job.id, job.tool, job.needs) for job in found.jobs] == [
        ("_shared-nms/seed0", "train", ()),
        ("nms/seed0", "evaluate", ("_shared-nms/seed0",)),
        ("wbf-flip/seed0", "evaluate", ("_shared-nms/seed0",)),
        ("none/seed0", "train", ()),
    ]
    words = found.jobs[2].words
    assert words[0] == "checkpoint=runs/compare/study/runs/_shared-nms/seed0/last.pt"
    assert "tta.flip=true" in words
    node = load_settings(get_tool("evaluate"), [*words[1:], f"checkpoint={__file__}"], *FOLDERS).late_fusion
    assert node == found.arms[1].config["late_fusion"]


def test_all_faults_of_all_arms_at_once():
    lines = faults("arms=a: neck=fpm; b: neck=none trainer.epoch=3 tta.flips=1", "baseline=c", "seeds=0,0", "head.num_conv=1", "seed=4")
    assert [line.partition(" -> ")[0] for line in lines] == [
        "command line: seed=4 cannot be given here",
        "seeds: a seed occurs twice: [0, 0]",
        "baseline: no arm 'c'",
        "arm a: neck: no such option 'fpm'",
        "head.num_conv: unknown key (got '1')",
        "arm b: tta.flips: unknown key (got '1')",
        "arm b: trainer.epoch: unknown key (got '3')",
    ]


def test_arms_that_are_the_same_are_refused():
    (line,) = faults("arms=neck=fpn_bn; neck=fpn_bn fusion=add; neck=none")
    assert line.startswith("arms: the arms fpn_bn and fpn_bn-add are the same: their resolved configs do not differ")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "nothing to compare: choose comparison=NAME"),
        (["runs=a=b;c=d", "arms=neck=fpn;neck=none"], "arms and runs exclude each other"),
        (["gt=x.json"], "gt and predictions go together"),
        (["comparison=necks", "budget.pictures=5", "budget.minutes=5"], "budget.pictures and budget.minutes exclude each other"),
        (["comparison=nekcs"], "comparison: no such option 'nekcs' -> did you mean comparison=necks?"),
        (["comparison=necks", "sedes=0"], "sedes: unknown key (got '0') -> did you mean seeds?"),
        (["comparison=necks", "seeds=a"], "seeds"),
        (["comparison=necks", "statistics.confidence=2"], "statistics.confidence"),
    ],
)
def test_faults_of_the_study_itself(words, fault):
    assert any(fault in line for line in faults(*words))


def test_a_folder_of_another_study_is_neither_taken_nor_overwritten(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = typed.jobs[0]
    assert foreign_faults(typed.jobs) == []
    job.folder.mkdir(parents=True)
    same = job.config | {"run_dir": "elsewhere", "trainer": job.config["trainer"] | {"pictures": 0}}
    (job.folder / "config.yaml").write_text(yaml.safe_dump(same))
    assert foreign_faults(typed.jobs) == []
    other = job.config | {"trainer": job.config["trainer"] | {"epochs": 9}}
    (job.folder / "config.yaml").write_text(yaml.safe_dump(other))
    (fault,) = foreign_faults(typed.jobs)
    assert fault.what == "holds a run with trainer.epochs=9, now it is 2"


def test_an_evaluation_with_another_late_fusion_is_foreign(tmp_path):
    found = plan("arms=late_fusion=nms; late_fusion=wbf", "seeds=0", f"folder={tmp_path}")
    job = found.jobs[2]
    job.folder.mkdir(parents=True)
    write_json(job.folder / "results.json", {"finished": True, "late_fusion": job.config["late_fusion"]})
    assert foreign_faults(found.jobs) == []
    write_json(job.folder / "results.json", {"finished": True, "late_fusion": {"_target_": "x"}})
    assert len(foreign_faults(found.jobs)) == 1


def test_nodes_in_hydras_grammar():
    node = {"_target_": "a.B", "x": None, "y": True, "z": [1, 2.5, "it's"], "n": {}}
    assert as_text(node) == "{_target_:'a.B',x:null,y:true,z:[1,2.5,'it\\'s'],n:{}}"

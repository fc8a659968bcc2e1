"""The whole pipeline on small data, in a temporary clone, by DVC's own commands."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from repository import Repository, small_params

CELLS = [f"digits/{fraction}/{method}" for fraction in (100, 50) for method in ("baseline", "gta-0.1")]
FIGURES = ("accuracy", "attention", "curves", "kept", "reliability", "sensitivity")
OF_THIS_RUN = ["cost.csv", "report.html"]
"""What aggregate writes beside its outputs."""
RESULTS = sorted(
    ["attention.md", "comparison.png", "comparison.svg", "confusion.csv", "layers.csv", "long.csv"]
    + ["leaks.csv", "leaks.md", "metrics.json", "segmentation.csv", "segmentation.md"]
    + ["table.csv", "table.md", "table.tex", *OF_THIS_RUN]
    + [f"{name}.{kind}" for name in FIGURES for kind in ("csv", "png", "svg")]
    + [f"{name}/digits.{kind}" for name in ("confusion", "layers", "pictures") for kind in ("png", "svg")]
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("pipeline"))
    ran = made.repro()
    names = ["code", "check", "source", "aggregate"]
    names += [f"{stage}@digits" for stage in ("download", "split", "pack", "leaks")]
    names += [f"{stage}@{cell.replace('/', '-')}" for stage in ("finetune", "evaluate") for cell in CELLS]
    assert sorted(ran) == sorted(names)
    made.run("git", "add", "-A")
    made.run("git", "commit", "-qm", "run")
    return made


def test_it_writes_exactly_these_files(repository: Repository) -> None:
    assert repository.files("results") == RESULTS
    seeds = ["history.csv", "seed0.safetensors", "seed1.safetensors"]
    assert repository.files("runs/finetune") == sorted(f"{cell}/{name}" for cell in CELLS for name in seeds)
    measured = ["classes.csv", "history.csv", "layers.csv", "maps.npz", "predictions.csv", "seeds.csv"]
    measured.append("views.npz")
    assert repository.files("runs/evaluate") == sorted(
        f"{cell}/{name}" for cell in CELLS for name in measured
    )
    assert repository.files("runs/segment") == ["params.checked"]  # nothing is segmented
    assert repository.files("sources") == ["source.safetensors"]
    lists = [name for name in repository.files("data/digits") if name.endswith(".csv")]
    packed = ["pixels/test.csv", "pixels/train.csv"]
    assert lists == ["index.csv", *packed, "test.csv", "train/100.csv", "train/50.csv", "val.csv"]
    assert len(repository.files("data/digits/images")) == len(repository.files("data/digits/masks")) == 70


def test_no_output_depends_on_how_long_it_took(repository: Repository) -> None:
    """The same parameters on another machine: other costs, and the same dvc.lock."""
    cost = pd.read_csv(repository.path / "results/cost.csv")
    assert len(cost) == 4 * 2
    assert (cost["seconds"] > 0).all()
    locked = (repository.path / "dvc.lock").read_text()
    assert not [name for name in OF_THIS_RUN if f"results/{name}" in locked]
    for state in (repository.path / "runs/state").rglob("cost.json"):
        values = json.loads(state.read_text())
        state.write_text(json.dumps(values | {"seconds": values["seconds"] + 1}))
    assert repository.repro("--force", "--single-item", "aggregate") == ["aggregate"]
    slower = pd.read_csv(repository.path / "results/cost.csv")
    assert (slower["seconds"] - cost["seconds"]).tolist() == pytest.approx([1] * 8, abs=1e-3)
    assert (repository.path / "dvc.lock").read_text() == locked
    repository.run("git", "checkout", "-q", "results")


def test_what_it_says_is_consistent(repository: Repository) -> None:
    long = pd.read_csv(repository.path / "results/long.csv")
    assert len(long) == 4 * 2 * 2  # cells, seeds, val and test
    layers = pd.read_csv(repository.path / "results/layers.csv")
    assert len(layers) == (1 + 4) * 4 * 3  # source and cells, layers, heads
    assert (layers.query("method == 'baseline'")["distance"] > 0).all()
    assert set(long["train_images"]) == {20, 30}
    assert set(long.query("split == 'test'")["images"]) == {30}
    share = long["share_box"]
    assert (long["mass_box_source"] > 2 * share).all()  # the demo's source is object-centric
    predictions = pd.read_csv(repository.path / "runs/evaluate/digits/50/gta-0.1/predictions.csv")
    chosen = predictions.query("seed == 1 and split == 'test'")
    row = long.query("fraction == 50 and method == 'gta-0.1' and seed == 1 and split == 'test'")
    assert (chosen["predicted"] == chosen["label"]).mean() == pytest.approx(row["top1"].item(), abs=1e-6)


def test_a_rerun_does_nothing(repository: Repository) -> None:
    assert "up to date" in repository.run("dvc", "repro")
    assert "up to date" in repository.run("dvc", "status")
    assert repository.run("git", "status", "--short") == ""


def test_dvcs_own_commands(repository: Repository) -> None:
    assert "digits" in repository.run("dvc", "metrics", "show")
    assert repository.run("dvc", "metrics", "diff").strip() == ""
    assert json.loads(repository.run("dvc", "params", "diff", "--json")) == {}
    assert "file://" in repository.run("dvc", "plots", "show", "-o", "dvc_plots")
    assert "finetune@digits-50-gta-0.1" in repository.run("dvc", "stage", "list", "--all")


def test_an_experiment_is_run_and_shown(repository: Repository) -> None:
    """Its parameter reaches the cells that read it, and the workspace is git's again afterwards."""
    ran = repository.run("dvc", "exp", "run", "--name", "wider", "-S", "aggregate.dpi=77")
    assert "Running stage 'aggregate'" in ran
    assert "finetune" not in "".join(line for line in ran.splitlines() if line.startswith("Running"))
    shown = repository.run("dvc", "exp", "show", "--csv", "--drop", "deps")
    assert "wider" in shown
    assert "aggregate.dpi" in shown
    assert repository.run("dvc", "params", "diff", "HEAD", "wider").split()[-2:] == ["150", "77"]
    repository.run("git", "checkout", "-q", ".")
    repository.run("dvc", "checkout")


def test_a_set_to_segment_runs_the_stages_of_that_set_alone(repository: Repository, tmp_path: Path) -> None:
    other = repository.copy(tmp_path / "other")
    values = small_params()
    values["download"]["more"] = values["download"]["digits"] | {"train": 1, "test": 1, "seed": 1}
    values["segment"] |= {"on": ["more", "digits"], "images": 8, "image_size": 96}
    other.write_params(values)
    ran = other.repro()
    sets = ["more", "digits"]
    names = [
        "check",
        "aggregate",
        *(f"{stage}@{on}" for stage in ("objects", "segment_source") for on in sets),
    ]
    names += [f"segment@{on}-{cell.replace('/', '-')}" for on in sets for cell in CELLS]
    assert sorted(ran) == sorted(names)
    assert other.repro() == []
    table = pd.read_csv(other.path / "results/segmentation.csv")
    assert table.groupby("on").size().to_dict() == {"digits": 5, "more": 5}
    assert (table["images"] == 8).all()
    assert table["best_head"].between(0.02, 1).all()
    assert (table["best_head"] >= table["chosen_head"]).all()
    figures = [f"pictures/{on}-digits.{kind}" for on in sets for kind in ("png", "svg")]
    assert other.files("results") == sorted([*RESULTS, *figures])
    values["segment"]["on"] = ["digits"]
    other.write_params(values)
    assert sorted(other.repro()) == ["aggregate", "check"]
    assert set(pd.read_csv(other.path / "results/segmentation.csv")["on"]) == {"digits"}


def test_a_bad_parameter_stops_before_anything_runs(tmp_path: Path) -> None:
    values = small_params()
    values["finetune"]["lr"] = "fast"
    repository = Repository(tmp_path, values)
    output = repository.run("dvc", "repro", status=255)
    assert "error: params.yaml: finetune.lr: input should be a valid number, got 'fast'" in output
    assert "Running stage 'download" not in output
    assert not (tmp_path / "data").exists()


def test_pull_and_repro_on_another_machine_compute_nothing(repository: Repository, tmp_path: Path) -> None:
    repository.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    repository.run("dvc", "push")
    repository.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Repository.at(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    clone.run("dvc", "pull")
    assert clone.repro() == []
    assert clone.run("git", "status", "--short") == ""


def test_a_new_weight_a_new_figure_and_a_new_seed_run_what_they_must(repository: Repository) -> None:
    values = small_params()
    values["grid"]["methods"].append("gta-1")
    repository.write_params(values)
    ran = repository.repro()
    new = [f"{stage}@digits-{fraction}-gta-1" for stage in ("finetune", "evaluate") for fraction in (50, 100)]
    assert sorted(ran) == sorted(["check", "aggregate", *new])
    values["aggregate"]["dpi"] += 10
    repository.write_params(values)
    assert sorted(repository.repro()) == ["aggregate", "check"]
    before = (repository.path / "runs/finetune/digits/50/baseline/seed0.safetensors").read_bytes()
    values["grid"]["seeds"] = [0, 1, 2]
    repository.write_params(values)
    output = repository.run("dvc", "repro", "--single-item", "finetune@digits-50-baseline")
    assert output.count("already trained") == 2  # only the third seed was trained
    assert (repository.path / "runs/finetune/digits/50/baseline/seed0.safetensors").read_bytes() == before

"""Parameter files: the committed ones are right, and every mistake is one line with key and value."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from repository import ROOT
from ruamel.yaml import YAML

import stages.check
from gta.errors import InputError
from gta.methods import MIXINGS, parse_method
from gta.params.check import Params, check
from gta.params.section import load, read_params
from gta.params.split import Split

FILES = [ROOT / "params.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_committed_files_are_right(path: Path) -> None:
    params = check(read_params(path))
    used = {*params.grid.datasets, *params.segment.on}
    assert used == set(params.download.root)  # nothing is described and never used


def test_a_power_of_ten_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: 1e-3\n")
    assert read_params(tmp_path / "params.yaml") == {"a": 0.001}


def fields(model: type[BaseModel], found: dict[str, set[str]]) -> None:
    found.setdefault(model.__name__, set()).update(model.model_fields)
    for field in model.model_fields.values():
        for kind in [field.annotation, *get_args(field.annotation)]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                fields(kind, found)


def test_every_field_is_documented_and_read() -> None:
    """A declared field that nothing reads would be a setting without effect."""
    from gta.params.digits import Digits
    from gta.params.download import Archive, Archives, Folder, Hub, Voc

    found: dict[str, set[str]] = {}
    for model in (Params, Archive, Archives, Voc, Folder, Hub, Digits):
        fields(model, found)
    found.pop("Params")
    reads: set[str] = set()
    for path in [*(ROOT / "gta").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        if "params" in path.parts and path.name != "check.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                reads.add(node.attr)
            elif isinstance(node, ast.keyword | ast.arg) and node.arg:
                reads.add(node.arg)  # gta's options go to Guide(**options)
    reads |= {"root", *MIXINGS}  # gta.train takes the section named by the method's mixing
    for name, declared in found.items():
        assert declared <= reads | {"reader"}, f"{name}: never read: {declared - reads}"


def edit(key: str, value: Any) -> dict[str, Any]:
    """The demo's values with one of them changed; `key` is a path; `...` removes."""
    values: dict[str, Any] = copy.deepcopy(read_params(ROOT / "params.yaml"))
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return values


MISTAKES: list[tuple[str, Any, str]] = [
    ("grid.datasets", ["cub"], r"grid\.datasets\.0: expected an entry .*\(digits\), got 'cub'"),
    ("grid.datasets", "digits", r"grid\.datasets: .*list, got 'digits'"),
    ("grid.datasets", ["a b; rm -rf"], r"grid\.datasets\.0: .*pattern.*got 'a b; rm -rf'"),
    ("grid.fractions", [0.15], r"grid\.fractions\.0: .*integer, got 0\.15"),
    ("grid.fractions", [101], r"grid\.fractions\.0: .*less than or equal to 100, got 101"),
    ("grid.fractions", [15, 15], r"grid\.fractions: expected each value once"),
    ("grid.methods", ["gtaa-0.1"], r"grid\.methods\.0: .*one of: gta.*got 'gtaa-0\.1'"),
    ("grid.methods", ["gta"], r"grid\.methods\.0: .*a weight such as 'gta-0\.1'"),
    ("grid.methods", ["gta--1"], r"grid\.methods\.0: .*finite weight >= 0, got '-1'$"),
    ("grid.methods", ["gta-inf"], r"grid\.methods\.0: .*finite weight"),
    ("grid.methods", ["gta-0.1", "gta-0.10"], r"grid\.methods: .*which are one"),
    ("grid.seeds", [], r"grid\.seeds: .*at least 1"),
    ("grid.seed", 1, r"grid\.seed: unknown key; expected one of: datasets, fractions, methods, seeds"),
    ("download.digits.reader", "digit", r"download\.digits\.reader: .*'digits'.*got 'digit'"),
    ("download.digits.train", ..., r"download\.digits\.train: missing"),
    ("download.digits.size", 7, r"download\.digits\.size: .*got 7"),
    ("split.val", 100, r"split\.val: .*less than or equal to 80, got 100"),
    ("split.val", "20", r"split\.val: .*integer, got '20'"),
    ("split.val", 0, r"aggregate\.weight: expected a number.*choices: 0\.01, 0\.1, 1; got null"),
    (
        "aggregate.weight",
        0.5,
        r"aggregate\.weight: expected a weight of grid\.methods \(0\.01, 0\.1, 1\).*0\.5",
    ),
    ("source.image_size", 48.0, r"source\.image_size: .*integer, got 48\.0"),
    ("source.sha256", "abc", r"source\.sha256: .*got 'abc'"),
    ("source.mean", [0.5, 0.5], r"source\.mean: .*3 items.*got \[0\.5, 0\.5\]"),
    ("finetune.optimizer", "adam", r"finetune\.optimizer: .*'adamw' or 'sgd', got 'adam'"),
    ("finetune.lr", 0, r"finetune\.lr: .*greater than 0, got 0"),
    ("finetune.lr", float("nan"), r"finetune\.lr: .*finite"),
    ("finetune.lr", "3e-4", r"finetune\.lr: .*valid number, got '3e-4'"),
    ("finetune.learning_rate", 1e-3, r"finetune\.learning_rate: unknown key; expected one of: epochs, "),
    ("finetune.epochs", True, r"finetune\.epochs: .*integer, got True"),
    ("finetune.batch_size", 100, r"finetune\.batch_size: expected at most .* digits at 15 %.*got 100"),
    ("finetune.crop_scale", [1.0, 0.5], r"crop_scale: expected 0 < smallest <= largest, got \[1\.0, 0\.5\]"),
    ("finetune.processes", 0, r"finetune\.processes: .*greater than or equal to 1, got 0"),
    ("finetune.processes", 33, r"batch_size: expected at least an image for each of 33 processes.*got 32"),
    ("finetune.accumulate", 64, r"batch_size: .* 1 processes times 64 parts, got 32"),
    ("finetune.gta.columns", "cls", r"finetune\.gta\.columns: .*'all' or 'patches', got 'cls'"),
    ("finetune.gta.layers", [], r"finetune\.gta\.layers"),
    ("evaluate", ..., r"params\.yaml: evaluate: missing"),
    ("evaluate.heads", "min", r"evaluate\.heads: .*'mean' or 'max', got 'min'"),
    ("segment.on", ["digits", "digits"], r"segment\.on: expected each value once"),
    ("segment.on", ["voc"], r"segment\.on\.0: expected an entry .*\(digits\), got 'voc'"),
    ("segment.keep", 0, r"segment\.keep: .*greater than 0, got 0"),
    ("segment.images", 0, r"segment\.images: .*greater than or equal to 1, got 0"),
    ("segment.masks", "class", r"segment\.masks: unknown key; expected one of: on, images, seed"),
    ("evaluation", {}, r"params\.yaml: evaluation: unknown key; expected one of: grid, download"),
]


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES)
def test_a_mistake_is_one_line_with_key_and_value(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check(edit(key, value))
    lines = str(caught.value).split("\n")
    assert len(lines) == 1, lines
    assert lines[0].startswith("params.yaml: ")
    assert re.search(message, lines[0]), lines[0]


def test_bss_and_accumulation_exclude_each_other() -> None:
    values = edit("grid.methods", ["baseline", "bss-0.001"])
    values["finetune"]["accumulate"] = 2
    with pytest.raises(InputError, match=r"^params\.yaml: finetune\.accumulate: expected 1 with bss.*got 2$"):
        check(values)
    values["grid"]["methods"] = ["baseline", "bss-0"]  # plain fine-tuning
    check(values)


PHOTOS = {
    "reader": "folder",
    "path": "a",
    "test": None,
    "test_share": 20,
    "seed": 0,
    "masks": None,
    "skip_unreadable": 0,
}
VOC = {"reader": "voc", "images": 3, "masks": "class", "skip_unreadable": 0, "mirrors": []}
VOC |= {"archives": [{"name": "a.tar", "urls": [], "checksum": None, "optional": False}]}


def with_entry(entry: dict[str, Any], **places: list[str]) -> dict[str, Any]:
    """The demo's values with another entry, `other`."""
    values = edit("download.other", entry)
    values["grid"]["datasets"] = places.get("grid", ["digits"])
    values["segment"]["on"] = places.get("on", [])
    return values


def test_only_what_has_masks_can_be_segmented() -> None:
    check(with_entry(VOC, on=["other", "digits"]))
    check(with_entry(PHOTOS | {"masks": "b"}, on=["other"]))
    message = r"segment\.on\.0: expected a data set with masks, got 'other', whose reader 'folder' has none"
    with pytest.raises(InputError, match=message):
        check(with_entry(PHOTOS, on=["other"]))
    counts = {"train": 2, "test": 1, "classes": 2, "skip_unreadable": 0}
    cars = {"reader": "cars", **counts, "mirrors": [], "archives": VOC["archives"]}
    with pytest.raises(InputError, match=r"segment\.on\.1: .* got 'other', whose reader 'cars' has none"):
        check(with_entry(cars, on=["digits", "other"]))


def test_voc_cannot_be_trained_on() -> None:
    with pytest.raises(
        InputError, match=r"grid\.datasets\.1: expected images of one class each, got 'other'"
    ):
        check(with_entry(VOC, grid=["digits", "other"]))


def test_several_mistakes_are_several_lines() -> None:
    values = edit("finetune.lr", -1)
    values["split"]["val"] = 99
    with pytest.raises(InputError) as caught:
        check(values)
    assert len(str(caught.value).split("\n")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "not valid YAML"),
        ("a: 1\na: 2\n", "not valid YAML.*duplicate key"),
        ("- a\n", "expected a mapping of sections, got list"),
        ("", "expected a mapping of sections, got NoneType"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
    ],
)
def test_what_is_no_parameter_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_params(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; copy one from configs/"):
        read_params(tmp_path / "params.yaml")


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("grid: {}\n")
    with pytest.raises(InputError, match=r"split: missing; found grid"):
        load(Split, "split", path=tmp_path / "params.yaml")


STAGE_MISTAKES: list[tuple[str, Any, str]] = [
    ("source.image_size", 50, r"source\.image_size: expected a multiple of the patch size 6, got 50"),
    ("source.model", "demo_vitt", r"source\.model: 'demo_vitt' is not a model of timm; close: demo_vit"),
    ("source.model", "vit_base_patch16_siglip_224", r"source\.model: timm cannot build.*|no \[CLS\] token"),
    ("finetune.gta.layers", [4], r"finetune\.gta\.layers: layers: expected numbers from -4 to 3"),
    ("evaluate.layer", 4, r"evaluate\.layer: layers: expected numbers from -4 to 3"),
    ("segment.image_size", 50, r"segment\.image_size: expected a multiple of the patch size 6, got 50"),
    ("finetune.rand_augment", "augmix-m3", r"finetune\.rand_augment: expected a policy of timm's"),
    ("finetune.epochs", 0, r"finetune\.epochs: .*greater than or equal to 1, got 0"),
]


@pytest.mark.parametrize(("key", "value", "message"), STAGE_MISTAKES)
def test_the_check_stage_prints_one_line_and_leaves_nothing(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(edit(key, value), stream)
    command = [sys.executable, "-m", "stages.check", "--output", "runs/params.checked"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().split("\n")
    assert line.startswith("error: params.yaml: ")
    assert re.search(message, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("path", [ROOT / "params.yaml", ROOT / "configs/methods.yaml"], ids=lambda p: p.name)
def test_the_check_stage_builds_what_the_committed_files_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(path.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check", "--output", "params.checked", "segment/params.checked"])
    stages.check.main()
    for name in ("params.checked", "segment/params.checked"):
        assert (tmp_path / name).read_text() == "params.yaml is consistent\n"


def test_without_validation_every_family_needs_one_weight() -> None:
    values = edit("split.val", 0)
    values["aggregate"]["weight"] = 0.1
    values["grid"]["methods"] = ["baseline", "gta-0.1", "gta-1", "gta-0.1+transmix", "gta-1+transmix"]
    check(values)  # 0.1 says which of both families
    values["grid"]["methods"] += ["l2sp-0.1", "l2sp-1"]
    with pytest.raises(InputError, match=r"one weight of L2-SP, as split\.val is 0 .* got l2sp-0\.1, l2sp-1"):
        check(values)


def test_methods_are_parsed() -> None:
    assert parse_method("baseline").weights == {}
    assert parse_method("gta-0.1").weights == {"gta": 0.1}
    assert parse_method("gta-1e-3").weights == {"gta": 0.001}
    for name in ("gta-1+gta-2", "", "gta-1+", "+", "baseline+gta-1", "gta-nan"):
        with pytest.raises(InputError):
            parse_method(name)

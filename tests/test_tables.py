"""Tables: means and spreads by hand, a choice that no test image can change, exactly the grid's cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy.stats import ttest_1samp, ttest_rel
from study import FILES, TEST, VAL, files_of, grid, write_cells

from gta import choice, evaluated, tables, texts
from gta.errors import InputError
from gta.params.grid import Grid


def choose(folder: Path, of: Grid, given: float | None = None) -> choice.Choices:
    long = evaluated.read_cells(folder, of)
    return choice.choose(long[long["split"] == "val"], of, given)


def measured(folder: Path, of: Grid, given: float | None = None) -> pd.DataFrame:
    long = evaluated.read_cells(folder, of)
    choices = choice.choose(long[long["split"] == "val"], of, given)
    return tables.label(tables.measure(long[long["split"] == "test"]), of, choices)


def test_accuracy_and_paired_difference_by_hand(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    (row,) = tables.comparison(measured(tmp_path, grid())).to_dict("records")
    assert (row["method"], row["weight"], row["seeds"], row["train_images"]) == ("GTA", 0.1, 3, 6)
    assert row["protocol"] == "validation (10 images)"
    numbers = {name: row[name] for name in row if name.endswith(("top1", "std")) or name == "difference"}
    assert numbers == pytest.approx(
        {
            "baseline_top1": 0.6,
            "baseline_top1_std": 0.1,
            "top1": 0.7,
            "top1_std": 0.03**0.5,  # (0.01 + 0.01 + 0.04) / 2
            "difference": 0.1,  # of 0.1, 0, 0.2
            "difference_std": 0.1,
        }
    )


def test_latex_by_hand(tmp_path: Path) -> None:
    of = grid(("baseline", "gta-0.1", "l2sp-1"), datasets=["my_pets"])
    scores = {"baseline": [0.09, 0.1, 0.11], "gta-0.1": [0.5, 0.51, 0.53], "l2sp-1": [0.5, 0.6, 0.4]}
    write_cells(tmp_path, of, scores, scores)
    rows = measured(tmp_path, of)
    compared = tables.comparison(rows)
    latex = texts.accuracy_latex(tables.accuracy(rows), compared, 1)
    assert compared["p_adjusted"].round(3).tolist() == [0.0, 0.022]
    lines = [" ".join(line.split()) for line in latex.splitlines()]
    assert r"\begin{tabular}{lr}" in lines
    assert r"& my\_pets \\" in lines
    assert r"& 15\,\% \\" in lines
    assert r"baseline & 10.0 $\pm$ 1.0 \\" in lines
    assert r"GTA & \textbf{51.3} $\pm$ 1.5$^{*}$ \\" in lines
    assert r"L2-SP & 50.0 $\pm$ 10.0$^{*}$ \\" in lines
    assert r"\toprule" in lines
    assert "over 3 seeds" in latex


def test_attention_by_hand(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    table = tables.attention(measured(tmp_path, grid()))
    assert table[["region", "method", "images"]].to_numpy().tolist() == [
        ["mask", "baseline", 10],
        ["mask", "GTA", 10],
    ]
    first = table.iloc[0]
    assert first[["share", "mass_source", "mass", "mass_std"]].tolist() == pytest.approx(
        [0.25, 0.75, 0.4, 0.1]
    )
    assert first[["kept", "kept_std", "hit", "hit_source"]].tolist() == pytest.approx(
        [0.4 / 0.75, 0.1 / 0.75, 0.5, 1]
    )
    assert table["difference"].tolist() == pytest.approx([float("nan"), 0.1], nan_ok=True)


def test_sensitivity_has_every_weight_once_beside_baseline_and_source(tmp_path: Path) -> None:
    of = grid(["gta-1", "baseline", "gta-0.1"], fractions=(30, 15))
    write_cells(tmp_path, of)
    table = tables.sensitivity(measured(tmp_path, of), "box")  # no box is known: the mask stands in
    columns = [
        "fraction",
        "weight",
        "chosen",
        "top1",
        "baseline_top1",
        "mass",
        "baseline_mass",
        "mass_source",
        "region",
    ]
    expected = [[0.1, True, 0.7, 0.6, 0.7, 0.4, 0.75, "mask"], [1, False, 0.9, 0.6, 0.8, 0.4, 0.75, "mask"]]
    rows = [[fraction, *row] for fraction in (30, 15) for row in expected]
    assert_frame_equal(table[columns], pd.DataFrame(rows, columns=columns), check_dtype=False)


def test_both_regions_are_reported_and_one_is_preferred() -> None:
    regions = pd.DataFrame({"dataset": ["a", "a", "b"], "region": ["mask", "box", "box"]})
    assert tables.preferred(regions, "mask").index.tolist() == [0, 2]
    assert tables.preferred(regions, "box").index.tolist() == [1, 2]


@pytest.mark.parametrize("worst", list(TEST))
def test_no_test_row_changes_the_choice(tmp_path: Path, worst: str) -> None:
    """The chosen weight is the best on validation whatever the test says."""
    write_cells(tmp_path / "a", grid())
    write_cells(tmp_path / "b", grid(), test={**TEST, worst: [0, 0, 0]})
    assert choose(tmp_path / "a", grid()) == choose(tmp_path / "b", grid())
    assert choose(tmp_path / "b", grid())["pets", 15, "GTA"].method == "gta-0.1"


def test_choosing_refuses_test_rows(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    with pytest.raises(ValueError, match=r"expected rows of the split val, got \['test', 'val'\]"):
        choice.choose(evaluated.read_cells(tmp_path, grid()), grid(), None)


def test_a_tie_goes_to_the_smaller_weight(tmp_path: Path) -> None:
    """3 of 9 each; as written, with six digits, the shares of the second add up to more."""
    of = grid(["gta-1", "gta-0.1"])
    write_cells(tmp_path, of, val={"gta-0.1": [1 / 3] * 3, "gta-1": [0, 1 / 3, 2 / 3]}, images=3)
    assert choose(tmp_path, of)["pets", 15, "GTA"].method == "gta-0.1"


def test_each_cell_chooses_its_own_weight(tmp_path: Path) -> None:
    write_cells(tmp_path, grid(fractions=(15,)))
    write_cells(tmp_path, grid(fractions=(100,)), val={**VAL, "gta-1": [0.8, 0.8, 0.8]})
    chosen = choose(tmp_path, grid(fractions=(15, 100)))
    assert {cell: found.method for cell, found in chosen.items()} == {
        ("pets", 15, "GTA"): "gta-0.1",
        ("pets", 100, "GTA"): "gta-1",
    }


def test_without_validation_a_weight_has_to_be_given(tmp_path: Path) -> None:
    write_cells(tmp_path, grid(), val={})
    with pytest.raises(
        InputError, match=r"aggregate\.weight: expected a number, as pets at 15 %.*0\.1, 1; got null"
    ):
        choose(tmp_path, grid())
    assert choose(tmp_path, grid(), 1)["pets", 15, "GTA"] == choice.Choice("gta-1", "given")
    with pytest.raises(
        InputError, match=r"aggregate\.weight: expected a weight of grid\.methods \(0\.1, 1\).*got 0\.3"
    ):
        choose(tmp_path, grid(), 0.3)


def test_a_given_weight_goes_before_validation_and_the_only_one_is_given(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    assert choose(tmp_path, grid(), 1)["pets", 15, "GTA"].protocol == "given"
    one = choose(tmp_path, grid(["baseline", "gta-1"]))
    assert one == {("pets", 15, "GTA"): choice.Choice("gta-1", "given")}
    assert choose(tmp_path, grid(["baseline"])) == {}
    with pytest.raises(InputError, match=r"\(there is none\) or null, got 1"):
        choose(tmp_path, grid(["baseline"]), 1)


def test_between_what_is_missing_and_the_rest_nothing_is_chosen(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    long = evaluated.read_cells(tmp_path, grid())
    val = long[long["split"] == "val"]
    missing = [("pets", 15, "gta-0.1")]
    (found,) = choice.choose(val[val["method"] != "gta-0.1"], grid(), None, missing).values()
    assert found == choice.Choice("gta-1", "validation (10 images), 1 of 2 weights so far")
    assert choice.choose(val, grid(), 0.1, missing) == {}


def test_what_is_shown_is_baseline_and_gta_at_both_ends(tmp_path: Path) -> None:
    of = grid(["l2sp-1", *TEST], fractions=(30, 100, 15), datasets=["pets", "cars"])
    scores = {"l2sp-1": [1.0] * 3}
    write_cells(tmp_path, of, TEST | scores, VAL | scores)
    long = evaluated.read_cells(tmp_path, of)
    choices = choice.choose(long[long["split"] == "val"], of, None)
    shown = choice.shown(long, of, choices)
    assert list(shown) == ["pets", "cars"]
    pairs = [("baseline", "baseline"), ("GTA", "gta-0.1")]
    assert shown["cars"] == [choice.Cell(t, "cars", f, m) for f in (15, 100) for t, m in pairs]
    assert shown["cars"][1].folder(Path("runs")) == Path("runs/cars/15/gta-0.1")
    part = choice.shown(long[(long["fraction"] != 15) & (long["method"] != "baseline")], of, choices)
    assert part["pets"] == [choice.Cell("GTA", "pets", 100, "gta-0.1")]


def test_kept_and_calibration_by_hand(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    kept = tables.kept(measured(tmp_path, grid()), "box")  # no box is known: the mask stands in
    assert kept["method"].tolist() == list(TEST)
    assert kept.iloc[0][["kept", "top1", "top1_std"]].tolist() == pytest.approx([0.4 / 0.75, 0.6, 0.1])
    (plain, guided) = tables.calibration(measured(tmp_path, grid())).to_dict("records")
    assert (plain["method"], guided["name"]) == ("baseline", "gta-0.1")
    assert (guided["ece"], guided["nll"]) == pytest.approx((0.1, 1.5))
    assert list(texts.calibration_rows(pd.DataFrame([guided]), 1)[0].values()) == [
        *("pets", "15 %", "GTA", "0.1", "10.0 ± 0.0", "1.50 ± 0.00")
    ]


def test_a_difference_is_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    path = tmp_path / "pets/15/baseline/seeds.csv"
    rows = pd.read_csv(path)
    rows[rows["seed"] != 0].to_csv(path, index=False)
    long, _ = evaluated.read_partly(tmp_path, grid())
    choices = choice.choose(long[long["split"] == "val"], grid(), None)
    table = tables.label(tables.measure(long[long["split"] == "test"]), grid(), choices)
    (row,) = tables.comparison(table).to_dict("records")
    assert (row["seeds"], row["baseline_seeds"], row["pairs"]) == (3, 2, 2)
    assert row["difference"] == pytest.approx(0.1)  # of 0 and 0.2
    assert row["p"] == pytest.approx(ttest_1samp([0, 0.2], 0).pvalue)
    assert texts.accuracy_rows(pd.DataFrame([row]), 1)[0]["seeds"] == "3, baseline 2, pairs 2"


MORE = [*TEST, "l2sp-0.01", "l2sp-0.1", "gta-0.1+transmix", "probe"]


def write_more(folder: Path) -> Grid:
    """Cells of four families; of L2-SP the second weight is the better one on validation."""
    of = grid(MORE)
    more = dict.fromkeys(MORE[3:], TEST["baseline"])
    val = {**VAL, **more, "l2sp-0.1": [0.9, 0.9, 0.9]}
    write_cells(folder, of, {**TEST, **more, "probe": [0.7, 0.8, 0.9]}, val)
    return of


def test_every_family_is_a_row_with_the_weight_that_validation_chose(tmp_path: Path) -> None:
    table = measured(tmp_path, write_more(tmp_path))
    compared = tables.comparison(table)
    assert compared["method"].tolist() == ["GTA", "L2-SP", "GTA + TransMix", "linear probe"]
    assert compared["name"].tolist() == ["gta-0.1", "l2sp-0.1", "gta-0.1+transmix", "probe"]
    assert compared["protocol"].tolist() == [*["validation (10 images)"] * 2, "given", "given"]
    assert list(tables.metrics(table, "mask")["pets"]["f15"]) == [
        *("baseline", "gta", "l2-sp", "gta+transmix", "linear_probe")
    ]
    assert set(tables.sensitivity(table, "mask")["weight"]) == {0.1, 1}  # GTA alone
    assert [texts.weights(name) for name in compared["name"]] == ["0.1", "0.1", "0.1", "–"]


def test_without_validation_other_families_have_one_weight(tmp_path: Path) -> None:
    of = write_more(tmp_path)
    rows = evaluated.read_cells(tmp_path, of)
    with pytest.raises(
        InputError, match=r"grid\.methods: expected one weight of L2-SP.*l2sp-0\.01, l2sp-0\.1"
    ):
        choice.choose(rows[rows["split"] == "never"], of, 0.1)


def test_the_paired_test_is_scipys_and_is_adjusted_for_the_rows_of_the_table(tmp_path: Path) -> None:
    compared = tables.comparison(measured(tmp_path, write_more(tmp_path)))
    expected = ttest_rel(TEST["gta-0.1"], TEST["baseline"]).pvalue
    p = compared.set_index("method")["p"]
    assert p["GTA"] == pytest.approx(expected)
    assert p.isna().tolist() == [False, True, True, True]  # equal differences say nothing
    assert compared["p_adjusted"].tolist()[0] == pytest.approx(expected)  # one p, nothing to adjust
    three = pd.Series([0.1, 0.1, 0.1])
    many = tables.paired_test(three, pd.Series([0.01, 0.1, 0.05]), pd.Series([3, 3, 1]))
    assert many.isna().tolist() == [False, False, True]
    assert many[0] == pytest.approx(ttest_1samp([0.09, 0.1, 0.11], 0).pvalue)


def test_a_missing_cell_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    write_cells(tmp_path, grid(fractions=(15,)))
    with pytest.raises(InputError, match=r"pets/30/baseline/seeds\.csv: no such file"):
        evaluated.read_cells(tmp_path, grid(fractions=(15, 30)))


def test_stale_cells_beside_the_grid_are_ignored(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    expected = evaluated.read_cells(tmp_path, grid())
    write_cells(tmp_path, grid(["gta-5"], fractions=(15, 40)), {"gta-5": [1, 1, 1]}, {"gta-5": [1, 1, 1]})
    assert_frame_equal(evaluated.read_cells(tmp_path, grid()), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[rows["seed"] != 1], r"expected the val rows of seeds \[0, 1, 2\], found \[0, 2\]"),
        (
            lambda rows: rows[rows["split"] == "val"],
            r"expected the test rows of seeds \[0, 1, 2\], found \[\]",
        ),
        (lambda rows: rows.assign(fraction=30), r"expected the cell \('pets', 15, 'gta-1'\), found.*30"),
        (
            lambda rows: rows.drop(columns=["top1", "hit_box"]),
            "expected the columns top1, hit_box, found dataset",
        ),
        (lambda rows: rows.iloc[:0, :0], "not a table"),
    ],
)
def test_a_file_that_is_not_its_cell_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    write_cells(tmp_path, grid())
    path = tmp_path / "pets/15/gta-1/seeds.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"gta-1/seeds\.csv: .*{message}"):
        evaluated.read_cells(tmp_path, grid())


def test_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    of = grid(seeds=1)
    write_cells(tmp_path, of)
    files = files_of(tmp_path, of)
    row = files["table.md"].decode().splitlines()[-1].split("|")
    assert [cell.strip() for cell in row[1:-1]] == [
        *("pets", "6 (15 %)", "1", "50.0 ± –", "GTA", "0.1", "60.0 ± –", "+10.0 ± –", "–"),
        "validation (10 images)",
    ]
    assert json.loads(files["metrics.json"])["pets"]["f15"]["gta"] == {
        "weight": 0.1,
        "top1": 0.6,
        "difference": 0.1,
        "mass": 0.7,
        "mass_source": 0.75,
    }


@pytest.mark.parametrize("method", ["baseline", "gta-1"])
def test_one_method_only(tmp_path: Path, method: str) -> None:
    of = grid([method])
    write_cells(tmp_path, of, val={})
    files = files_of(tmp_path, of)
    assert sorted(files) == sorted(FILES)
    row = [cell.strip() for cell in files["table.md"].decode().splitlines()[-1].split("|")[4:-1]]
    alone = ["–", "GTA", "1", "90.0 ± 0.0", "–", "–", "given"]
    assert row == (alone if method == "gta-1" else ["60.0 ± 10.0", *["–"] * 6])


def test_percentages() -> None:
    percent = texts.percent
    assert percent(0.12345, 0.0067, 1) == "12.3 ± 0.7"
    assert percent(0.12345, None, 2) == "12.35"
    assert percent(-0.012, 0.01, 1, "+") == "−1.2 ± 1.0"
    assert percent(-0.0001, 0.01, 1, "+") == "+0.0 ± 1.0"
    assert percent(float("nan"), float("nan"), 1) == "–"

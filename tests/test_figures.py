"""Figures: readable files for small and large grids, the same bytes whatever matplotlib's settings."""

from __future__ import annotations

import io
import math
import re
from itertools import pairwise

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from study import SETTINGS

from gta.drawing import thin_out, ticks
from gta.figures import _spots, draw_accuracy, draw_attention, draw_comparison, draw_kept, draw_sensitivity


def accuracy_table(datasets: int, fractions: list[int], methods: list[str]) -> pd.DataFrame:
    cells = [
        (f"set{n}", fraction, method) for n in range(datasets) for fraction in fractions for method in methods
    ]
    table = pd.DataFrame(cells, columns=["dataset", "fraction", "method"])
    return table.assign(seeds=3, top1=0.6, top1_std=0.02)


def weight_table(
    datasets: int, fractions: list[int], weights: list[float], region: str | None
) -> pd.DataFrame:
    cells = [
        (f"set{n}", fraction, weight) for n in range(datasets) for fraction in fractions for weight in weights
    ]
    table = pd.DataFrame(cells, columns=["dataset", "fraction", "weight"])
    table = table.assign(chosen=table["weight"] == weights[0], seeds=3, region=region, mass_source=0.7)
    for name in ("top1", "mass", "baseline_top1", "baseline_mass"):
        table = table.assign(**{name: 0.6, f"{name}_std": 0.02})
    return table


def texts(svg: bytes) -> list[str]:
    """matplotlib draws letters as shapes and leaves each text in a comment."""
    return re.findall(r"<!-- (.*?) -->", svg.decode())


@pytest.mark.parametrize(
    ("datasets", "fractions", "weights"), [(1, [15, 100], [0.01, 0.1, 1]), (5, [15, 100], [0.1, 1])]
)
def test_a_panel_a_cell_with_what_it_shows(datasets: int, fractions: list[int], weights: list[float]) -> None:
    table = weight_table(datasets, fractions, weights, "mask")
    for draw, ending, more in ((draw_sensitivity, "", []), (draw_attention, " (mask)", ["frozen source"])):
        files = draw(table, SETTINGS)
        found = texts(files["svg"])
        titles = [f"set{n}{ending}, {fraction} %" for n in range(datasets) for fraction in fractions]
        assert [text for text in found if text.startswith("set")] == titles
        assert {"GTA", "baseline", "reported λ", "± std, 3 seeds", *more} <= set(found)
        assert found.count("0.1") == len(titles)
        width = Image.open(io.BytesIO(files["png"])).width
        assert width == int(SETTINGS.dpi * SETTINGS.width * 2 / 3)  # two columns


def test_accuracy_has_a_panel_a_data_set_and_a_line_a_method() -> None:
    methods = ["baseline", "GTA", "l2sp-0.01", "l2sp-0.1", "l2sp-1", "l2sp-10"]  # more than there are styles
    table = accuracy_table(5, [15, 30, 100], methods)
    found = texts(draw_accuracy(table, table, SETTINGS)["svg"])
    assert [text for text in found if text.startswith("set")] == [f"set{n}" for n in range(5)]
    assert set(methods) <= set(found)


def test_of_many_methods_the_lines_are_two_and_the_comparison_has_all() -> None:
    methods = ["baseline", "GTA", *(f"method {n}" for n in range(9))]
    table = accuracy_table(2, [15, 100], methods)
    lines = texts(draw_accuracy(table, table, SETTINGS)["svg"])
    assert [name for name in methods if name in lines] == ["baseline", "GTA"]
    compared = table[table["method"] != "baseline"]
    compared = compared.assign(difference=0.01, difference_std=0.02, p_adjusted=[0.01, *[0.5] * 39])
    found = texts(draw_comparison(compared, SETTINGS)["svg"])
    assert [name for name in found if name in methods] == [*methods[1:], *methods[1:], "baseline"]
    assert [name for name in found if name.startswith("set")] == [
        f"set{n}, {fraction} %" for n in range(2) for fraction in (15, 100)
    ]
    nothing = compared.assign(method=None)
    assert "the grid has no method but the baseline" in texts(draw_comparison(nothing, SETTINGS)["svg"])


def test_a_single_seed_and_a_grid_without_gta_or_objects() -> None:
    table = weight_table(1, [15], [math.nan], None).assign(
        seeds=1, top1_std=math.nan, baseline_top1_std=math.nan
    )
    assert texts(draw_sensitivity(table, SETTINGS)["svg"])[-1] == "baseline"  # and no band, no GTA
    assert "no data set of the grid knows where its objects are" in texts(
        draw_attention(table, SETTINGS)["svg"]
    )


def test_accuracy_against_what_is_kept_has_a_dot_a_method_and_its_weight() -> None:
    methods = ["baseline", "gta-0.1", "gta-1", "l2sp-0.01"]
    table = accuracy_table(2, [15, 100], methods).assign(region="mask", kept=0.9, kept_std=0.1)
    table = table.assign(weight=[math.nan, 0.1, 1, math.nan] * 4)
    found = texts(draw_kept(table, SETTINGS)["svg"])
    titles = [f"set{n} (mask), {fraction} %" for n in range(2) for fraction in (15, 100)]
    assert [text for text in found if text.startswith("set")] == titles
    assert found.count("0.1") == 4
    assert {"baseline", "GTA", "L2-SP", "as the frozen source"} <= set(found)
    alone = table.assign(kept_std=math.nan, top1_std=math.nan)
    assert draw_kept(alone, SETTINGS)["svg"] != draw_kept(table, SETTINGS)["svg"]
    assert "no data set of the grid knows" in " ".join(texts(draw_kept(table[:0], SETTINGS)["svg"]))


def test_the_bytes_are_the_same_whatever_the_users_settings() -> None:
    table = accuracy_table(1, [15, 100], ["baseline", "GTA"])
    plain = draw_accuracy(table, table, SETTINGS)
    with matplotlib.rc_context(
        {"font.size": 20, "savefig.dpi": 33, "lines.linewidth": 5, "svg.fonttype": "none"}
    ):
        before = dict(matplotlib.rcParams)
        assert draw_accuracy(table, table, SETTINGS) == plain
        assert dict(matplotlib.rcParams) == before
    assert b"<dc:date>" not in plain["svg"]
    assert "Software" not in Image.open(io.BytesIO(plain["png"])).info


def test_labels_of_x_never_touch() -> None:
    figure = Figure(figsize=(1.2, 1))
    axes = figure.subplots()
    ticks(axes, {float(place): "0.001" for place in range(6)})
    figure.draw_without_rendering()
    thin_out(axes, gap=3)
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_visible()]
    assert 1 < len(boxes) < 6
    assert all(a.x1 + 3 <= b.x0 for a, b in pairwise(boxes))
    assert len(axes.get_xticks()) == 6


def test_weights_stand_on_a_logarithmic_axis_and_zero_a_step_before() -> None:
    assert _spots([0.01, 0.1, 1]) == pytest.approx({0.01: -2, 0.1: -1, 1: 0})
    assert _spots([0, 0.01, 1]) == pytest.approx({0: -4, 0.01: -2, 1: 0})
    assert _spots([0]) == {0: -1}
    assert _spots([]) == {}

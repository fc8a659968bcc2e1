"""Tables of a finished grid as text: Markdown to read, LaTeX to paste into a paper."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd
from tabulate import tabulate

from gta.methods import parse_method
from gta.params.evaluate import LOCALISATION
from gta.tables import KEYS, SURE

ACCURACY = """\
Top-1 in per cent, mean ± sample standard deviation over seeds. The difference to the baseline is taken seed
by seed; p is that of a paired t-test over seeds, adjusted for all rows of this table (Benjamini-Hochberg):
with three seeds, only large and steady differences have a small one. λ, the weight of the penalty, was chosen
by `validation (n images)`: the highest mean accuracy over seeds on n images kept from the training images, so
that no test image had a say; or it was `given`: set in the parameters, or the grid's only one.
"""
ATTENTION = """\
Per cent, means ± sample standard deviations over seeds, on the test images. Mass: the share of the [CLS]
token's attention to patches that lies inside the object. Kept: that over the frozen source's. Peak: how
often the most attended patch is on the object. The strongest patches that hold evaluate.keep of the
attention make a box and a segmentation. CorLoc: how often the box around their largest group has an
intersection over union of 0.5 or more with the object's. Jaccard: mean over images of the segmentation's
index with the object; of the heads together, of the head that is the best on each very image (DINO's
protocol), and of one head that was chosen on the validation images.
"""
LAYERS = """\
The [CLS] token's attention in every block, means over the test images. Entropy: of the attention to
patches, 0 where a head looks at one patch alone, the logarithm of their number where it looks everywhere
alike. Distance: GTA's, between the model's attention logits and the frozen source's. Mass: the share of the
attention to patches that lies on the object.
"""
CURVES = """\
Means over seeds, bands ± one standard deviation. The penalty is shown before its weight. Accuracy is
measured on the augmented training images as they are trained on, and on the validation images where
`finetune.validate_every` asks for it.
"""
RELIABILITY = """\
Test images of all seeds together, in bins of the probability that the predicted class is given; a dot's
area is its bin's share of the images. Below the line a model is more sure than it is right. Calibration
error: the mean distance to the line over images, in per cent, by seed.
"""
CONFUSION = """\
Test images of all seeds together: per cent of a class's images, on the diagonal those that were named
rightly; shades go with the square root, so that rare confusions show. The tables list the most frequent
ones.
"""
COST = """\
Training alone, as this machine ran it, means ± standard deviations over seeds; other work on the machine
counts. Images/s: training images seen over seconds, validation within training included. Source spared: of
how many of them an earlier cell of the sweep had kept the source's attention, in `runs/targets`. Peak memory:
on a GPU of all tensors; on a CPU of the process, in which seeds are trained one after another. `–`: trained
elsewhere, or the state is gone. These numbers differ from run to run and are no output of the pipeline.
"""
NO_OBJECTS = "No data set of the grid knows where its objects are."


def accuracy_markdown(table: pd.DataFrame, decimals: int) -> str:
    """A page: what the table says, and the table."""
    return f"# Test accuracy\n\n{ACCURACY}\n{markdown(accuracy_rows(table, decimals))}"


def accuracy_rows(table: pd.DataFrame, decimals: int) -> list[dict[str, str]]:
    """Column -> cell, of `tables.comparison`."""
    return [
        {
            "data set": row["dataset"],
            "training images": f"{row['train_images']} ({row['fraction']} %)",
            "seeds": _seeds(row),
            "baseline": percent(row["baseline_top1"], row["baseline_top1_std"], decimals),
            "method": row["method"] if pd.notna(row["method"]) else "–",
            "λ": weights(row["name"]),
            "accuracy": percent(row["top1"], row["top1_std"], decimals),
            "difference": percent(row["difference"], row["difference_std"], decimals, "+"),
            "p": f"{row['p_adjusted']:.2g}" if pd.notna(row["p_adjusted"]) else "–",
            "λ chosen by": row["protocol"] if pd.notna(row["protocol"]) else "–",
        }
        for row in table.to_dict("records")
    ]


def _seeds(row: dict[Hashable, Any]) -> str:
    """How many; in an unfinished grid also the baseline's, and the pairs behind the difference."""
    own, plain, pairs = (row["seeds"], row["baseline_seeds"], row["pairs"])
    if pd.isna(own) or pd.isna(plain):
        return f"{plain if pd.isna(own) else own:.0f}"
    same = own == plain == pairs
    return f"{own:.0f}" if same else f"{own:.0f}, baseline {plain:.0f}, pairs {pairs:.0f}"


def calibration_rows(table: pd.DataFrame, decimals: int) -> list[dict[str, str]]:
    """Column -> cell, of `tables.calibration`."""
    return [
        {
            "data set": row["dataset"],
            "training images": f"{row['fraction']} %",
            "method": row["method"],
            "λ": weights(row["name"]),
            "calibration error": percent(row["ece"], row["ece_std"], decimals),
            "cross-entropy (nats)": number(row["nll"], row["nll_std"], 2),
        }
        for row in table.to_dict("records")
    ]


def accuracy_latex(accuracy: pd.DataFrame, compared: pd.DataFrame, decimals: int) -> str:
    """Methods down, data sets and fractions across: mean ± std in per cent, the best of a column in bold, a
    star where `p_adjusted` is below SURE. Needs the package booktabs.

    accuracy, compared: of `tables.accuracy` and `tables.comparison`.
    """
    p = compared.set_index([*KEYS, "method"])["p_adjusted"].to_dict()
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for (dataset, fraction), rows in accuracy.groupby(KEYS, sort=False):
        column = cells.setdefault((_escaped(str(dataset)), rf"{fraction}\,\%"), {})
        shown = (100 * rows["top1"]).round(decimals)
        best = shown.max() if len(rows) > 1 else None
        for value, row in zip(shown, rows.to_dict("records"), strict=True):
            mean = rf"\textbf{{{value:.{decimals}f}}}" if value == best else f"{value:.{decimals}f}"
            spread = "" if math.isnan(row["top1_std"]) else rf" $\pm$ {100 * row['top1_std']:.{decimals}f}"
            star = "$^{*}$" if p.get((dataset, fraction, row["method"]), 1.0) < SURE else ""
            column[_escaped(row["method"])] = mean + spread + star
    frame = pd.DataFrame(cells).fillna("--")
    caption = (
        f"Test accuracy (\\%), mean $\\pm$ standard deviation over {_counts(accuracy)} seeds; "
        f"$^{{*}}$: $p < {SURE}$ against the baseline, paired $t$-test, Benjamini--Hochberg."
    )
    across = "l" + "r" * len(frame.columns)
    latex: str = frame.to_latex(escape=False, multicolumn_format="c", column_format=across, caption=caption)
    return latex


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")


def _counts(accuracy: pd.DataFrame) -> str:
    return " or ".join(str(count) for count in sorted(set(accuracy["seeds"])))


def attention_markdown(table: pd.DataFrame, decimals: int) -> str:
    """A page: what the tables say, and a table a region."""
    found = attention_rows(table, decimals)
    parts = [f"## {title}\n\n{markdown(rows)}" for title, rows in found.items()]
    return f"# Attention on the object\n\n{ATTENTION}\n" + ("\n".join(parts) or NO_OBJECTS + "\n")


def attention_rows(table: pd.DataFrame, decimals: int) -> dict[str, list[dict[str, str]]]:
    """Region, in words -> rows of column -> cell, of `tables.attention`; first of each data set what an even
    spread and the frozen source reach."""
    found: dict[str, list[dict[str, str]]] = {}
    for region, part in table.groupby("region", sort=False):
        rows = found.setdefault(f"The object's {region}", [])
        for dataset, cells in part.groupby("dataset", sort=False):
            first = cells.iloc[0].to_dict()
            even: dict[Any, Any] = {"dataset": dataset, "method": "even spread", "mass": first["share"]}
            source = {name: first[f"{name}_source"] for name in LOCALISATION}
            frozen = {"dataset": dataset, "method": "frozen source", **source}
            rows += [_attention_row(row, decimals) for row in [even, frozen, *cells.to_dict("records")]]
    return found


def _attention_row(row: dict[Any, Any], decimals: int) -> dict[str, str]:
    def cell(name: str, sign: str = "") -> str:
        return percent(row.get(name, math.nan), row.get(f"{name}_std"), decimals, sign)

    return {
        "data set": row["dataset"],
        "training images": f"{row['fraction']} %" if "fraction" in row else "–",
        "method": row["method"],
        "λ": weights(row.get("name", math.nan)),
        "mass": cell("mass"),
        "kept": cell("kept"),
        "peak": cell("hit"),
        "CorLoc": cell("corloc"),
        "Jaccard": cell("jaccard"),
        "best head": cell("jaccard_best"),
        "chosen head": cell("jaccard_chosen"),
        "accuracy over baseline": cell("difference", "+"),
    }


def weights(name: str | float) -> str:
    """The weights of a method of the grid, in the order of its penalties; `–` where there is none."""
    values = parse_method(name).weights.values() if isinstance(name, str) else []
    return ", ".join(f"{weight:g}" for weight in values) or "–"


def percent(mean: float, std: float | None, decimals: int, sign: str = "") -> str:
    """Shares in [0, 1] as `81.2 ± 0.4`; `–` for what is not known, such as the std of one seed."""
    if math.isnan(mean):
        return "–"
    spread = "" if std is None else " ± –" if math.isnan(std) else f" ± {100 * std:.{decimals}f}"
    rounded = round(100 * mean, decimals) + 0.0  # no minus before a zero
    return f"{rounded:{sign}.{decimals}f}{spread}".replace("-", "−")


def number(mean: float, std: float, decimals: int) -> str:
    """What is no share, as `1.34 ± 0.06`; `–` for what is not known, and no spread where that is not."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.{decimals}f}" + ("" if math.isnan(std) else f" ± {std:.{decimals}f}")


def markdown(rows: list[dict[str, str]]) -> str:
    """A GitHub table."""
    return str(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)) + "\n"

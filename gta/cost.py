"""What training has cost: read beside the state that it left, and only where that is the very training."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from gta.choice import Cell
from gta.errors import InputError
from gta.tables import KEYS
from gta.texts import number, percent, weights

MEASURES = ["seconds", "images_per_second", "spared", "memory_gib"]
COLUMNS = [*KEYS, "method", "seed", *MEASURES, "memory_of", "device"]


def cost_table(runs: Path, state: Path, long: pd.DataFrame) -> pd.DataFrame:
    """A row a seed of `long`. Empty where no training of it is known: it was trained on another machine,
    or the state was deleted.

    seconds: in the training loop, validation within it included, over all processes that went on with it;
    images_per_second: training images seen over that; spared: the share of them that the source did not have
    to see, as an earlier cell's did (gta.targets); memory_gib: the peak, `memory_of` the GPU's tensors
    (torch.cuda.max_memory_allocated) or, on a CPU, of the whole process so far (resident set), which may
    have trained other seeds before; of several processes that train together, of the first one.
    """
    rows = []
    test = long.loc[long["split"] == "test", [*KEYS, "method", "seed"]]
    for row in test.to_dict("records"):
        cell = Cell("", row["dataset"], row["fraction"], row["method"])
        history = _texts(cell.folder(runs) / "history.csv")
        own = history[history["seed"] == str(row["seed"])].reset_index(drop=True)
        rows.append(row | _cost(cell.folder(state), row["seed"], own))
    return pd.DataFrame(rows, columns=COLUMNS)


def _cost(folder: Path, seed: int, history: pd.DataFrame) -> dict[str, float | str]:
    """Of the training that has written `history`, such that a state of other weights tells nothing."""
    for path in sorted(folder.glob(f"seed{seed}-*/cost.json")):
        if history.empty or not _texts(path.with_name("history.csv")).equals(history):
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {
                "seconds": found["seconds"],
                "images_per_second": found["images"] / found["seconds"],
                "spared": found["spared"] / found["images"],
                "memory_gib": found["memory_bytes"] / 2**30,
                "memory_of": found["memory_of"],
                "device": found["device"],
            }
        except (json.JSONDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
            raise InputError(f"{path}: expected what `finetune` writes of a training: {error!r}") from None
    return {}


def _texts(path: Path) -> pd.DataFrame:
    """A csv file as it is written, cell by cell; empty where there is none."""
    return pd.read_csv(path, dtype=str) if path.exists() else pd.DataFrame({"seed": []})


def cost_rows(costs: pd.DataFrame, measured: pd.DataFrame, decimals: int) -> list[dict[str, str]]:
    """Column -> cell, a row a reported method: accuracy, and the cost of a seed where it is known.

    costs: of `cost_table`; measured: of `tables.label`.
    """
    known = costs[costs["seconds"].notna()].astype(dict.fromkeys(MEASURES, float))
    groups = known.groupby([*KEYS, "method"], sort=False)
    spent = groups[MEASURES].mean().join(groups[MEASURES].std().add_suffix("_std"))
    spent = spent.join(groups[["memory_of", "device"]].agg(_either))
    spent = spent.join(groups.size().rename("trained"))
    rows = measured[measured["label"].notna()].merge(spent.reset_index(), how="left", on=[*KEYS, "method"])
    return [
        {
            "data set": row["dataset"],
            "training images": f"{row['train_images']} ({row['fraction']} %)",
            "method": row["label"],
            "λ": weights(row["method"]),
            "accuracy": percent(row["top1"], row["top1_std"], decimals),
            "seconds a seed": number(row["seconds"], row["seconds_std"], 1),
            "images/s": number(row["images_per_second"], row["images_per_second_std"], 1),
            "source spared (%)": number(100 * row["spared"], 100 * row["spared_std"], 0),
            "peak memory (GiB)": number(row["memory_gib"], row["memory_gib_std"], 2),
            "of": row["memory_of"] if pd.notna(row["memory_of"]) else "–",
            "on": row["device"] if pd.notna(row["device"]) else "–",
            "seeds known": f"{0 if pd.isna(row['trained']) else row['trained']:.0f} of {row['seeds']}",
        }
        for row in rows.to_dict("records")
    ]


def _either(names: pd.Series) -> str:
    return " or ".join(sorted(set(names)))

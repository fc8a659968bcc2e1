"""Precision and compilation: what is chosen, and that compilation changes results by rounding alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
from tiny import source_file, training

from gta.attention import is_compiled
from gta.precision import can_compile, takes_bf16
from gta.train import train

CPU = torch.device("cpu")


def test_precisions() -> None:
    assert takes_bf16("bf16", CPU)
    assert not takes_bf16("fp32", CPU)
    assert takes_bf16("auto", CPU) == torch.cpu._is_avx512_bf16_supported()


def test_compiled_training_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    source_file(tmp_path, options={"depth": 2})
    histories: list[pd.DataFrame] = []
    for compiled in (False, True):
        run = training(tmp_path, "gta-1+transmix", drop_path=0.0, epochs=2)
        if compiled:
            assert can_compile(CPU)
            run.model.compile(dynamic=False)
        assert is_compiled(run.model) == compiled
        histories.append(train(run, tmp_path / f"{compiled}.pt").history)
    assert histories[0]["gta"].iloc[-1] > 0
    pd.testing.assert_frame_equal(*histories, rtol=1e-4)


def test_without_a_compiler_models_run_as_they_are(tmp_path: Path) -> None:
    script = (
        "import logging, torch; logging.basicConfig(); from gta.precision import can_compile; "
        "print(can_compile(torch.device('cpu')))"
    )
    environment = os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "False\n"
    assert "torch.compile does not work here, models run uncompiled: " in done.stderr

"""Hostile input, and a lack of memory: the tests that hold the cases, run and counted."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tools.campaign.ground import Ground
from tools.campaign.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "hostile: archives": {
        "test_archives": [
            "test_refuses",
            "test_too_many_members",
            "test_nothing_is_overwritten",
            "test_names_that_differ_in_case_alone_are_two_files",
        ],
        "test_datasets": ["test_damaged_archives", "test_the_real_command_on_a_malicious_archive"],
    },
    "hostile: images": {
        "test_hostile": [
            "test_an_unreadable_image_is_refused_or_left_out_by_name",
            "test_more_unreadable_images_than_allowed",
            "test_a_class_of_which_nothing_is_left",
            "test_an_odd_image_is_read_rightly",
            "test_sizes_at_the_edge_give_a_view",
        ],
    },
    "hostile: annotations": {
        "test_hostile": ["test_hostile_annotations"],
        "test_datasets": ["test_faulty_annotations", "test_hub_faults"],
    },
    "hostile: checkpoints": {
        "test_hostile": [
            "test_a_safetensors_header_that_lies",
            "test_a_card_that_is_none",
            "test_twelve_heads_where_six_are_asked_for",
        ],
        "test_models": [
            "test_a_pickle_of_weights_is_read_and_one_of_code_is_not",
            "test_weights_that_do_not_fit_are_refused",
            "test_what_is_no_weights_file_is_refused",
            "test_a_file_without_tensors_by_name_is_refused",
            "test_another_layout_than_said_is_refused",
        ],
    },
    "hostile: parameters": {
        "test_hostile": [
            "test_a_hostile_parameter_file",
            "test_a_hostile_number",
            "test_a_data_sets_name_that_a_shell_would_read",
            "test_a_folder_whose_name_a_shell_would_read_is_read",
            "test_a_method_that_a_shell_would_read",
        ],
        "test_params": [
            "test_a_mistake_is_one_line_with_key_and_value",
            "test_what_is_no_parameter_file_is_refused",
        ],
    },
    "memory: none left": {
        "test_memory": ["test_a_failed_allocation_is_one_line"],
        "test_ddp": ["test_a_lack_of_memory_is_one_line"],
    },
}
"""Row of the table -> file -> tests. Each asserts one clear line that names file or key, a status that is
not 0, and nothing changed outside the project; or that a valid but odd input is read rightly."""


def hostile(_: Ground, count: int, __: random.Random) -> Iterator[Trial]:
    """The first `count` cases of each kind."""
    for kind, files in TESTS.items():
        names = [f"tests/{file}.py::{test}" for file, tests in files.items() for test in tests]
        with TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *names]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode not in (0, 1):  # neither all well nor some failed
                raise RuntimeError(done.stdout + done.stderr)
            cases = ElementTree.parse(report).iter("testcase")
            for case in [case for case in cases if case.find("skipped") is None][:count]:
                failure = case.find("failure")
                fault = "" if failure is None else " ".join(failure.get("message", "").split())[:200]
                yield Trial(kind, case.get("name", ""), unclear=fault)

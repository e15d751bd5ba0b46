# SPDX-License-Identifier: MIT
"""What is printed when a test fails: the journal of the private machine."""

import subprocess

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        journal = subprocess.run(
            ["journalctl", "-b", "-n", "80", "--no-pager", "-o", "short-precise"],
            capture_output=True,
            text=True,
            check=False,
        )
        report.sections.append(("journal", journal.stdout))

# SPDX-License-Identifier: MIT
"""What the integration tests set up and clean up holds here as well; and the table at the end."""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

COLUMNS = {  # what is printed: what is counted in it
    "steering": None,
    "answers": None,
    "slow": None,
    "gens": None,
    "refused": ["refused"],
    "reset": ["reset", "eof"],
    "race": ["keepalive-race"],
    "truncated": ["truncated"],
    "wrong": ["wrong"],
    "status": ["status"],
    "timeout": ["timeout", "client-ports", "errno"],
    "moved": None,
    "misplaced": None,
    "cut": None,
    "gap ms": None,
}
table = []
failed = pytest.StashKey()
daemon_of = pytest.StashKey()


def pytest_configure(config):
    config.addinivalue_line("markers", "fast: of each program one row, for CTest")
    config.addinivalue_line("markers", "timeout: limit of a test in seconds")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.stash[failed] = item.stash.get(failed, False) or report.failed
    daemon = item.stash.get(daemon_of, None)
    if report.failed and daemon:
        for what, text in daemon.tell():
            report.sections.append((f"{what} of handoffd", text))


def pytest_terminal_summary(terminalreporter):
    if not table:
        return
    widths = {name: max(len(name), 6) + 1 for name in COLUMNS}
    width = max(len(name) for name, _ in table)
    terminalreporter.section("hand-overs")
    head = " " * width + "".join(f"{name:>{w}}" for name, w in widths.items())
    terminalreporter.write_line(head)
    for name, row in table:
        cells = "".join(f"{row[column]:>{w}}" for column, w in widths.items())
        terminalreporter.write_line(f"{name:<{width}}{cells}")


def add_row(name, result, **counted):
    row = {
        column: sum(result["failures"].get(c, 0) for c in classes)
        for column, classes in COLUMNS.items()
        if classes
    }
    row["answers"] = result["ok"]
    row["slow"] = result["kinds"]["slow"]["ok"]
    row["gens"] = len(result["generations"])
    row["moved"] = result["moved"]
    row["gap ms"] = round(result["longest_gap"] * 1000)
    row.update(counted)
    table.append((name, row))

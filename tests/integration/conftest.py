# SPDX-License-Identifier: MIT
import os

import harness
import pytest

# Set by CTest; a test that cannot run for want of a right is skipped with its reason.


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: not part of the usual run; chosen with -m slow")
    config.addinivalue_line("markers", "timeout: limit of a test in seconds")
    if not config.getoption("markexpr"):
        config.option.markexpr = "not slow"


def pytest_collection_modifyitems(items):
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(60))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.stash[failed] = item.stash.get(failed, False) or report.failed
    if report.failed:
        for number, daemon in enumerate(item.stash.get(started, [])):
            for what, text in daemon.tell():
                report.sections.append((f"{what} of handoffd {number}", text))


started = pytest.StashKey()
failed = pytest.StashKey()


@pytest.fixture(autouse=True)
def network():
    """Ports never collide, tests may run side by side."""
    harness.new_network()


@pytest.fixture
def daemons(request, network):
    """Makes daemons, and checks at the end of the test that nothing is left of them."""
    made = request.node.stash.setdefault(started, [])

    def make(**options):
        daemon = harness.Daemon(**options)
        made.append(daemon)
        return daemon

    try:
        yield make
        if not request.node.stash.get(failed, False):
            for daemon in made:
                if daemon.process and daemon.process.returncode is None:
                    daemon.stop()
    finally:
        for daemon in made:
            daemon.destroy()


@pytest.fixture
def daemon(daemons):
    return daemons()


@pytest.fixture
def root():
    if os.geteuid() != 0:
        pytest.skip("needs root")

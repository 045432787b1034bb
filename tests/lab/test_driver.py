# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs guest_driver.py in guests with two nodes."""

import sys
from pathlib import Path

import pytest

from mptrace.lab.runner import run_in_guest

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_driver_in_a_guest(kernel: str) -> None:
    """Every check of guest_driver.py holds; its own report is on stdout."""
    checks = Path(__file__).with_name("guest_driver.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)]
    assert run_in_guest(command, kernel=kernel, nodes="2", timeout=900, bring=()) == 0

# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of a workload: JSON and back, nodes filled in, nonsense refused."""

import json
from typing import Any

import pytest

from mptrace.driving.workloads import Explicit, Workload, from_dict, resolve
from mptrace.errors import HostError, UsageError


@pytest.mark.parametrize(
    "workload",
    [
        Workload(),
        Workload(source_nids=(0,), target_nids=(1, 2), pin=0.5, ranges=((1, 2),), duplicates=1),
        Workload(explicit=Explicit(((0, 1), (-1, 0)), pinned=(0,), unchecked=True)),
    ],
)
def test_a_workload_survives_json(workload: Workload) -> None:
    """What a recording keeps is what was run."""
    assert from_dict(json.loads(json.dumps(workload.to_dict()))) == workload


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pagse": 5}, "no option 'pagse'"),
        ({"pages": "5"}, "pages can't be '5'"),
        ({"pages": True}, "pages can't be True"),
        ({"source_nids": 0}, "source_nids can't be 0"),
        ({"explicit": {"pinned": []}}, "entries"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(options: dict[str, Any], message: str) -> None:
    """Unknown names and other types are refused with the name."""
    with pytest.raises(UsageError, match=message):
        from_dict(options)


@pytest.mark.parametrize(
    ("given", "nids", "expected"),
    [
        (((), ()), (0, 1), ((0,), (1,))),
        (((1,), ()), (0, 1), ((1,), (0,))),
        (((), (0,)), (0, 1), ((1,), (0,))),
        (((2,), ()), (0, 2, 5), ((2,), (5,))),
        (((5,), ()), (0, 2, 5), ((5,), (0,))),
        (((0,), (0,)), (0,), ((0,), (0,))),
        (((0,), (1, 0)), (0, 1), ((0,), (1, 0))),
        (((), (1, 0)), (0, 1), ((0,), (1, 0))),
    ],
)
def test_open_nodes_are_filled_in(given: Any, nids: tuple[int, ...], expected: Any) -> None:
    """The source is the first that is no target, the target the next after the source."""
    workload = resolve(Workload(source_nids=given[0], target_nids=given[1]), nids)
    assert (workload.source_nids, workload.target_nids) == expected


def test_another_process_has_no_default_source() -> None:
    """Any node's pages are taken."""
    workload = resolve(Workload(target="pid", pid=5, target_nids=(1,)), (0, 1))
    assert workload.source_nids == ()


def test_one_node_is_a_host_error_with_the_way_out() -> None:
    """It points to the lab."""
    with pytest.raises(HostError) as caught:
        resolve(Workload(), (0,))
    with pytest.raises(HostError):
        resolve(Workload(target_nids=(0,)), (0,))
    assert "mptrace lab" in caught.value.hint


@pytest.mark.parametrize(
    "workload",
    [
        Workload(target_nids=(7,)),
        Workload(source_nids=(7,)),
        Workload(source_nids=(0,), explicit=Explicit(((0, 7),))),
    ],
)
def test_an_unknown_node_names_those_that_exist(workload: Workload) -> None:
    """For source, target and explicit entries."""
    with pytest.raises(UsageError, match="node 7") as caught:
        resolve(workload, (0, 1, 3))
    assert caught.value.hint == "nodes with memory: 0, 1, 3"


def test_unchecked_entries_may_name_any_node() -> None:
    """For provoking ENODEV."""
    workload = Workload(source_nids=(0,), explicit=Explicit(((0, 77),), unchecked=True))
    assert resolve(workload, (0,)).explicit == workload.explicit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "2k"}, "'2k' is not a kind"),
        ({"target": "other"}, "is not a target"),
        ({"pattern": "zigzag"}, "is not a pattern"),
        ({"pages": 0}, "pages must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"bad": -1}, "bad can't be negative"),
        ({"pin": 1.5}, "pin is a fraction"),
        ({"target": "pid"}, "needs a process id"),
        ({"pid": 5}, "needs a process id"),
        ({"ranges": ((0, 1),)}, "need another process"),
        ({"target": "pid", "pid": 5, "holes": 0.1}, "need memory of mptrace's own"),
        ({"source_nids": (0, 1)}, "one source node"),
        ({"explicit": Explicit(())}, "no explicit entries"),
        ({"explicit": Explicit(((509, 1),))}, "there is no page 509: the workload has 509"),
        ({"explicit": Explicit(((0, 1),), pinned=(-1,))}, "there is no page -1"),
    ],
)
def test_contradictions_are_usage_errors(options: dict[str, Any], message: str) -> None:
    """Each with the option it is about."""
    with pytest.raises(UsageError, match=message):
        resolve(Workload(**options), (0, 1))

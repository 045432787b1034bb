# SPDX-License-Identifier: GPL-2.0-or-later
"""What BPF is told to decide by."""

import re

import numpy as np
import pytest

from mptrace.tracing.plan.scope import CONTROL, KINDS, NODE_WORDS, Filters, Scope, node_mask
from mptrace.tracing.program.source import source_of

SOURCE = source_of("move_pages.c")
ALL_NODES = [(1 << 64) - 1] * NODE_WORDS


def test_kinds_have_the_numbers_of_the_bpf_program() -> None:
    """KINDS and SCOPE_* are the same list."""
    numbers = dict(re.findall(r"^#define SCOPE_(\w+)\s+(\d+)", SOURCE, re.MULTILINE))
    assert set(numbers) == {"CALLER", "ALL", "CHOSEN", "USER", "CGROUP"}
    for kind, name in zip(KINDS, ("CALLER", "ALL", "CHOSEN", "USER", "CGROUP"), strict=True):
        assert Scope(kind).control()["scope"] == int(numbers[name])


def test_every_field_is_one_of_the_struct() -> None:
    """Names, types and order, and neither has padding of its own."""
    body = re.search(r"^struct control {(.*?)^}", SOURCE, re.MULTILINE | re.DOTALL)
    assert body
    fields = re.findall(r"^\s+u(\d+) (\w+)(\[NODE_WORDS\])?;", body[1], re.MULTILINE)
    layout = [
        (name, f"u{int(bits) // 8}", (NODE_WORDS,) if words else ()) for bits, name, words in fields
    ]
    assert np.dtype(layout, align=True) == np.dtype(layout) == CONTROL


def test_a_caller_is_all_there_is() -> None:
    """Nothing is traced that has no call; other scopes name no caller."""
    control = Scope("caller", tgids=(23,)).control()
    assert (control["tgid"], control["all"]) == (23, 0)
    control = Scope("pids", tgids=(23, 29)).control()
    assert (control["tgid"], control["all"]) == (0, 1)
    assert Scope("caller").control()["tgid"] == 0


def test_users_and_cgroups() -> None:
    """Their numbers go through, whatever their size."""
    assert Scope("user", uid=65534).control()["uid"] == 65534
    assert Scope("cgroup", cgroup_id=1 << 40).control()["cgroup"] == 1 << 40


def test_without_filters_everything_is_asked_for() -> None:
    """No reason stands for all of them, and so do nodes."""
    control = Scope("all").control()
    assert (control["reasons"], control["nodes"], control["min_ns"], control["failed"]) == (
        *(0, 0, 0, 0),
    )
    assert control["source"].tolist() == control["target"].tolist() == ALL_NODES
    assert control["gate"] == 1


def test_filters_become_masks() -> None:
    """Reasons and nodes as bits, one named twice once; the other end stays open."""
    filters = Filters(reasons=(0, 5, 5), source_nids=(1, 64), min_ns=1009, failed=True)
    control = Scope("all", filters=filters).control()
    assert control["reasons"] == 0b100001
    assert control["source"].tolist() == [2, 1] + [0] * (NODE_WORDS - 2)
    assert control["target"].tolist() == ALL_NODES
    assert (control["nodes"], control["min_ns"], control["failed"]) == (1, 1009, 1)


@pytest.mark.parametrize("nid", [0, 63, 64, 1023])
def test_a_mask_has_the_bit_of_its_node(nid: int) -> None:
    """Of any node that a kernel can have."""
    words = node_mask((nid,))
    assert [word.bit_count() for word in words].count(1) == 1
    assert sum(map(int.bit_count, words)) == 1
    assert words[nid // 64] >> nid % 64 & 1

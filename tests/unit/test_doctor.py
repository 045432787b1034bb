# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict from facts, its rendering, and the command on whatever host this is."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from recorded_facts import PHASES

from mptrace.host.facts import STACK_ARGUMENTS, Access, HostFacts, KernelFacts, Node, Prototype
from mptrace.recording.detail import LEVEL_ALL
from mptrace.reporting.text.doctor import render, to_json
from mptrace.tracing.plan import candidates, doctor
from mptrace.tracing.plan.detail import essential
from mptrace.tracing.plan.doctor import FAIL, OK, WARN, Check, Diagnosis

METHODS = ("fentry", "kprobe", "raw_tracepoint", "tracepoint")
FUNCTIONS = {name: Prototype(tuple("abcdefg"), "int") for name in candidates.candidate_functions()}
KERNEL = KernelFacts(
    release="6.12.95",
    machine="x86_64",
    page_size=4096,
    functions=FUNCTIONS,
    symbols=frozenset(FUNCTIONS),
    traceable=frozenset(FUNCTIONS),
    offsets=dict.fromkeys(candidates.candidate_offsets(), 0),
    sizes={"nodemask_t": 128},
    page_flags={"PG_head": 6},
    tracepoints=frozenset(candidates.candidate_tracepoints()),
    methods=dict.fromkeys((*METHODS, STACK_ARGUMENTS), ""),
)
HOST = HostFacts(
    nodes=(Node(0, (0,), 1 << 30, 1 << 29), Node(1, (1,), 1 << 30, 1 << 29)),
    hypervisor="",
    emulated=False,
    settings={
        "numa_balancing": "0",
        "compaction_proactiveness": "0",
        "thp": "madvise",
        "lockdown": "none",
    },
)
ACCESS = Access(bcc_version="0.26.0", tracefs="/sys/kernel/tracing", allowed_nodes=(0, 1))


def diagnose(
    kernel: KernelFacts = KERNEL,
    host: HostFacts = HOST,
    refused: dict[tuple[str, str], str] | None = None,
    **changes: Any,
) -> Diagnosis:
    """A diagnosis in which all but ``refused`` attaches, with changes to ACCESS."""
    reasons = refused or {}
    settled = doctor.settle(kernel, lambda method, target: reasons.get((method, target), ""))
    return doctor.examine(kernel, host, dataclasses.replace(ACCESS, **changes), settled)


def check(diagnosis: Diagnosis, name: str) -> Check:
    """The one check of this name."""
    (found,) = (c for c in diagnosis.checks if c.name == name)
    return found


def with_settings(**settings: str) -> HostFacts:
    """HOST with other settings."""
    return dataclasses.replace(HOST, settings={**HOST.settings, **settings})


def test_a_host_with_everything_is_ok() -> None:
    """Every check and phase is ok, both verdicts are yes and no guest is offered."""
    diagnosis = diagnose()

    assert {c.state for c in diagnosis.checks} == {OK}
    assert {p.state for p in diagnosis.phases} == {OK}
    assert render(diagnosis, KERNEL).endswith("\ncan trace: yes; can migrate here: yes.")


@pytest.mark.parametrize(
    ("changes", "name", "remedy"),
    [
        ({"missing_capabilities": ("CAP_BPF",)}, "privileges", "sudo"),
        ({"in_user_namespace": True}, "privileges", "container"),
        ({"bcc": "No module named 'bcc'"}, "bcc", "--system-site-packages"),
        ({"btf": "can't read 'vmlinux'"}, "BTF", "CONFIG_DEBUG_INFO_BTF"),
        (
            {"ring_buffer": "creating: EINVAL", "small_ring_buffer": "creating: EINVAL"},
            "ring buffer",
            "BPF_MAP_TYPE_RINGBUF",
        ),
    ],
)
def test_what_tracing_needs(changes: dict[str, Any], name: str, remedy: str) -> None:
    """Each of these alone forbids tracing, not migrating, and names its way out."""
    diagnosis = diagnose(**changes)

    assert not diagnosis.can_trace
    assert diagnosis.can_migrate
    assert [c.name for c in diagnosis.checks if c.state == FAIL] == [name]
    assert remedy in check(diagnosis, name).remedy
    last = " ".join(render(diagnosis, KERNEL).splitlines()[-2:])
    assert f"can trace: no; can migrate here: yes (failed: {name})" in last
    assert "mptrace lab" in last


def without(*methods: str, reason: str = "loading: EPERM") -> KernelFacts:
    """KERNEL on which these methods are refused."""
    return dataclasses.replace(KERNEL, methods={**KERNEL.methods, **dict.fromkeys(methods, reason)})


@pytest.mark.parametrize("method", ["fentry", "kprobe"])
def test_one_method_for_functions_will_do(method: str) -> None:
    """Without fentry, or without kprobes, phases use the other and a warning stays."""
    diagnosis = diagnose(without(method))

    assert diagnosis.can_trace
    assert check(diagnosis, method).state == WARN
    assert method not in {p.method for p in diagnosis.phases}


def test_without_fentry_and_kprobes_nothing_is_traced() -> None:
    """Both fail, essential phases fail, and their one reason is given once."""
    kernel = without("fentry", "kprobe")
    diagnosis = diagnose(kernel)

    assert not diagnosis.can_trace
    assert check(diagnosis, "fentry").state == check(diagnosis, "kprobe").state == FAIL
    failed = {p.phase for p in diagnosis.phases if p.state == FAIL}
    assert failed == essential(LEVEL_ALL)
    assert render(diagnosis, kernel).count("EPERM") == 2


def test_tracepoints_are_not_essential() -> None:
    """Without any tracepoint method the blackout is missing, and tracing still goes."""
    diagnosis = diagnose(without("raw_tracepoint", "tracepoint"))

    assert diagnosis.can_trace
    assert {p.phase for p in diagnosis.phases if p.state == WARN} == {
        "dark",
        "dark_pmd",
        "outcome",
        "fork",
        "end_process",
    }


@pytest.mark.parametrize(
    ("reason", "changes", "settings", "remedy"),
    [
        ("loading: EPERM", {"missing_capabilities": ("CAP_BPF",)}, {}, "see privileges"),
        ("programs load, but may not read kernel memory", {}, {}, "see lockdown"),
        ("loading: EPERM", {}, {"lockdown": "confidentiality"}, "see lockdown"),
        ("programs load, but the kernel has no kprobes", {}, {}, "CONFIG_KPROBE_EVENTS"),
        ("attaching: EACCES", {}, {"perf_event_paranoid": "3"}, "kernel.perf_event_paranoid=2"),
        ("attaching: EACCES", {}, {"perf_event_paranoid": "2"}, "even to root"),
        ("no BTF to find functions in", {"btf": "can't read it"}, {}, "see BTF"),
        ("loading: EPERM", {}, {}, "even to root"),
        ("attaching: ENOTSUPP", {}, {}, "doesn't offer it"),
    ],
)
def test_a_refused_method_has_the_remedy_of_its_cause(
    reason: str, changes: dict[str, Any], settings: dict[str, str], remedy: str
) -> None:
    """Privilege, lockdown, a kernel without kprobes, Debian's perf_event_paranoid, and so on."""
    diagnosis = diagnose(without("kprobe", reason=reason), with_settings(**settings), **changes)

    assert remedy in check(diagnosis, "kprobe").remedy


@pytest.mark.parametrize(("refuses", "other"), [("fentry", "kprobe"), ("kprobe", "fentry")])
def test_a_function_that_refuses_a_method_goes_by_the_other(refuses: str, other: str) -> None:
    """migrate_pages() has 7 arguments, too many for fentry on 6.1: what attaches counts."""
    why = "attaching: ENOTSUPP"
    # the two halves together go as little as either
    refused = {(method, "migrate_pages"): why for method in (refuses, "kprobe+fexit")}
    diagnosis = diagnose(refused=refused)
    (found,) = (p for p in diagnosis.phases if p.phase == "migration")

    assert (found.method, found.attach, found.state) == (other, "migrate_pages", OK)


def test_nothing_is_tried_twice() -> None:
    """Each method and target is attached to once at the most, and only what is planned."""
    tried: list[tuple[str, str]] = []

    def try_attach(method: str, target: str) -> str:
        tried.append((method, target))
        return "attaching: EBUSY"

    settled = doctor.settle(KERNEL, try_attach)

    assert len(tried) == len(set(tried)) > len(PHASES)
    assert not any(phase.method for phase in settled.phases)


def test_an_essential_phase_that_does_not_attach_forbids_tracing() -> None:
    """The methods work, one essential function refuses all of them: its name is given."""
    target = "move_to_new_folio"
    refused = {("fentry", target): "attaching: EBUSY", ("kprobe", target): "attaching: EINVAL"}
    diagnosis = diagnose(refused=refused)
    text = " ".join(render(diagnosis, KERNEL).split())

    assert not diagnosis.can_trace
    assert diagnosis.causes() == ("move",)
    assert "move_to_new_folio by fentry: attaching: EBUSY" in text
    assert "move_to_new_folio by kprobe: attaching: EINVAL" in text


def test_a_memlock_limit_is_a_warning() -> None:
    """A small ring works, a big one doesn't: kernels before 5.11 count it as locked memory."""
    diagnosis = diagnose(ring_buffer="creating: EPERM")

    assert diagnosis.can_trace
    assert check(diagnosis, "ring buffer").remedy == "ulimit -l unlimited"


@pytest.mark.parametrize(
    ("nodes", "allowed", "remedy"),
    [
        ((), (0,), "mptrace lab"),
        (HOST.nodes[:1], (0,), "mptrace lab"),
        ((HOST.nodes[0], Node(1, (1,), 0, 0)), (0, 1), "mptrace lab"),
        (HOST.nodes, (1,), "cpuset.mems"),
    ],
)
def test_two_usable_nodes_with_memory_are_needed(
    nodes: tuple[Node, ...], allowed: tuple[int, ...], remedy: str
) -> None:
    """No NUMA, one node, a memoryless second one, a cpuset of one: tracing yes, moving no."""
    diagnosis = diagnose(host=dataclasses.replace(HOST, nodes=nodes), allowed_nodes=allowed)

    assert diagnosis.can_trace
    assert not diagnosis.can_migrate
    assert remedy in check(diagnosis, "memory nodes").remedy


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [("moving a page: ENOSYS", "CONFIG_MIGRATION"), ("moving a page: EPERM", "seccomp")],
)
def test_move_pages_must_work(reason: str, remedy: str) -> None:
    """A kernel without the call and a filter on it forbid migrating, each with its way out."""
    diagnosis = diagnose(move_pages=reason)

    assert not diagnosis.can_migrate
    assert remedy in check(diagnosis, "move_pages(2)").remedy


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("numa_balancing", "1", "NUMA balancing"),
        ("numa_balancing", "2", "NUMA balancing"),
        ("compaction_proactiveness", "20", "compaction"),
        ("thp", "always", "THP"),
        ("ksm_run", "1", "KSM"),
        ("demotion_enabled", "true", "demotion"),
        ("zone_reclaim_mode", "1", "zone reclaim"),
    ],
)
def test_disturbing_settings_warn_and_forbid_nothing(setting: str, value: str, name: str) -> None:
    """A setting that moves pages by itself is named with its value and how to turn it off."""
    diagnosis = diagnose(host=with_settings(**{setting: value}))

    found = check(diagnosis, name)
    assert found.state == WARN
    assert found.text.startswith(value)
    assert found.remedy
    assert diagnosis.can_trace
    assert diagnosis.can_migrate


def test_harmless_settings_make_no_lines_of_their_own() -> None:
    """KSM, demotion and zone reclaim are mentioned only where they disturb."""
    host = with_settings(ksm_run="0", demotion_enabled="false", zone_reclaim_mode="0")

    names = {c.name for c in diagnose(host=host).checks}
    assert names.isdisjoint({"KSM", "demotion", "zone reclaim"})


def test_lockdown() -> None:
    """Integrity lets BPF read, confidentiality doesn't, and unknown is said to be unknown."""
    unknown = HostFacts(HOST.nodes, "", False, {})
    refused = without(*METHODS, STACK_ARGUMENTS)

    assert check(diagnose(host=with_settings(lockdown="integrity")), "lockdown").state == OK
    locked = diagnose(host=with_settings(lockdown="confidentiality"))
    assert check(locked, "lockdown").state == FAIL
    assert check(diagnose(refused, unknown), "lockdown").state == WARN
    assert "may read kernel memory" in check(diagnose(host=unknown), "lockdown").text
    assert check(diagnose(refused, unknown, has_securityfs=True), "lockdown").state == OK


def test_causes_leave_out_what_follows_from_them() -> None:
    """Without privilege every method fails too; only privileges is named in the verdict."""
    kernel = without(*METHODS)
    reason = "creating: EPERM"
    diagnosis = diagnose(
        kernel,
        missing_capabilities=("CAP_BPF",),
        ring_buffer=reason,
        small_ring_buffer=reason,
    )

    assert diagnosis.causes() == ("privileges",)
    assert "can migrate here: yes (failed: privileges)" in render(diagnosis, kernel)


def test_emulation_is_said() -> None:
    """Under TCG a line says that times are ratios; it forbids nothing."""
    diagnosis = diagnose(host=dataclasses.replace(HOST, hypervisor="TCG", emulated=True))

    assert "ratios" in check(diagnosis, "emulation").text
    assert diagnosis.can_trace


@pytest.mark.parametrize(
    "make",
    [
        diagnose,
        lambda: diagnose(without("fentry", "kprobe", "raw_tracepoint"), bcc="x " * 200),
        lambda: diagnose(dataclasses.replace(KERNEL, functions={}, symbols=frozenset())),
        lambda: diagnose(btf="y" * 70, missing_capabilities=("CAP_BPF", "CAP_PERFMON")),
    ],
)
def test_text_fits_80_columns(make: Callable[[], Diagnosis]) -> None:
    """Good or bad, long reasons or short, no line is longer."""
    lines = render(make(), KERNEL).splitlines()

    assert max(map(len, lines)) <= 80
    assert not any(line != line.rstrip() for line in lines)


def test_every_check_that_is_not_ok_has_a_way_out() -> None:
    """On a host where everything is wrong only emulation has no remedy."""
    diagnosis = diagnose(
        without("fentry", "kprobe", "tracepoint", "raw_tracepoint"),
        HostFacts(
            (),
            "TCG",
            True,
            {"numa_balancing": "1", "compaction_proactiveness": "20", "thp": "always"},
        ),
        bcc="none",
        btf="none",
        tracefs="",
        tracefs_reason="not mounted",
        ring_buffer="creating: EINVAL",
        small_ring_buffer="creating: EINVAL",
        move_pages="asking: ENOSYS",
    )

    assert [c.name for c in diagnosis.checks if c.state != OK and not c.remedy] == ["emulation"]


def test_json_says_what_the_text_says() -> None:
    """The same checks and phases as values, with a schema version."""
    diagnosis = diagnose(without("kprobe"))
    value = json.loads(json.dumps(to_json(diagnosis, KERNEL, HOST)))

    assert value["schema_version"] == 1
    assert value["can_trace"] is True
    assert value["memory_nodes"] == [0, 1]
    assert [c["name"] for c in value["checks"]] == [c.name for c in diagnosis.checks]
    assert [p["phase"] for p in value["phases"]] == list(PHASES)


RUN = "from mptrace.cli import main; main()"


def run_doctor(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", RUN, "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_exit_status_is_its_verdict() -> None:
    """Status 0 where both verdicts are yes, else 1; stderr stays empty; 80 columns."""
    text, as_json = run_doctor(), run_doctor("--json")

    value = json.loads(as_json.stdout)
    expected = 0 if value["can_trace"] and value["can_migrate"] else 1
    assert (text.returncode, as_json.returncode) == (expected, expected)
    assert (text.stderr, as_json.stderr) == ("", "")
    assert max(map(len, text.stdout.splitlines())) <= 80


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop it")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_privilege_the_command_names_what_is_missing() -> None:
    """Without capabilities: status 1, the capabilities by name, and no traceback."""
    done = run_doctor("--json", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))

    assert (done.returncode, done.stderr) == (1, "")
    checks = {c["name"]: c for c in json.loads(done.stdout)["checks"]}
    assert checks["privileges"]["text"] == "missing CAP_BPF, CAP_PERFMON, CAP_SYS_NICE"
    assert checks["fentry"]["remedy"] == "see privileges"

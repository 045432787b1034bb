# SPDX-License-Identifier: GPL-2.0-or-later
"""Which function of the kernel an address is in, by a kallsyms and a list of modules."""

from pathlib import Path

from mptrace.host.kernel_functions import KernelFunction, KernelFunctions

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000100 T migrate_pages
ffffffff81000100 t alias_of_it
ffffffff81000900 D jiffies
ffffffffc0000000 t xfs_first\t[xfs]
ffffffffc0000100 t xfs_last\t[xfs]
ffffffffc0100000 t bpf_prog_2b5e_exit_migration\t[bpf]
"""
MODULES = "xfs 8192 1 - Live 0xffffffffc0000000\n"


def kernel(root: Path, kallsyms: str = KALLSYMS, modules: str = MODULES) -> KernelFunctions:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/kallsyms").write_text(kallsyms)
    (root / "proc/modules").write_text(modules)
    found = KernelFunctions(root)
    found.renew()
    return found


def test_an_address_is_in_the_function_before_it(tmp_path: Path) -> None:
    """Of several names of one place one is taken, always the same; data is no function."""
    known = kernel(tmp_path)
    assert known.at(0xFFFFFFFF81000105) == KernelFunction("alias_of_it", "", 5)
    assert known.at(0xFFFFFFFF81000900) == KernelFunction("alias_of_it", "", 0x800)
    assert known.at(0xFFFFFFFFC0000110) == KernelFunction("xfs_last", "xfs", 0x10)
    assert known.at(0xFFFFFFFFC0100020) == KernelFunction(
        "bpf_prog_2b5e_exit_migration", "bpf", 0x20
    )


def test_what_lies_behind_the_last_function_is_none_of_it(tmp_path: Path) -> None:
    """Behind a module's end there may be one that was loaded since; far behind the kernel, all."""
    known = kernel(tmp_path)
    assert known.at(0xFFFFFFFFC0001FFF) is not None
    assert known.at(0xFFFFFFFFC0002000) is None
    assert known.at(0xFFFFFFFF90000000) is None
    assert known.at(0x401000) is None


def test_a_module_that_came_is_known_after_another_look(tmp_path: Path) -> None:
    """kallsyms is read again where the list of modules is another, and only there."""
    known = kernel(tmp_path)
    line = "ffffffffc0200000 t nfs_go\t[nfs]\n"
    (tmp_path / "proc/kallsyms").write_text(KALLSYMS + line)
    known.renew()
    assert known.at(0xFFFFFFFFC0200004) != KernelFunction("nfs_go", "nfs", 4)
    (tmp_path / "proc/modules").write_text(MODULES + "nfs 4096 0 - Live 0xffffffffc0200000\n")
    known.renew()
    assert known.at(0xFFFFFFFFC0200004) == KernelFunction("nfs_go", "nfs", 4)


def test_hidden_addresses_are_no_functions(tmp_path: Path) -> None:
    """kptr_restrict shows zeros; nobody is named by them."""
    known = kernel(tmp_path, "0000000000000000 T _stext\n0000000000000000 T migrate_pages\n")
    assert not known.are_known
    assert known.at(0xFFFFFFFF81000105) is None

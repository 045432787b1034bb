# SPDX-License-Identifier: GPL-2.0-or-later
"""Struct members and variables of the kernel that the tracing program reads, by their macros.

A kernel that lacks some of a group goes without what the group is for.
"""

#: Which sleeper for a folio's lock is woken (folios: since 5.17).
LOCK_WAITS = {
    "OFF_WAIT_TASK": "wait_queue_entry.private",
    "OFF_WAIT_FLAGS": "wait_queue_entry.flags",
    "OFF_TASK_PID": "task_struct.pid",
    "OFF_QUEUE_WAIT": "wait_page_queue.wait",
    "OFF_QUEUE_FOLIO": "wait_page_queue.folio",
    "OFF_QUEUE_BIT": "wait_page_queue.bit_nr",
    "OFF_KEY_FOLIO": "wait_page_key.folio",
    "OFF_KEY_BIT": "wait_page_key.bit_nr",
}
#: Macro of bpf/move_pages/obstacle.h -> struct member.  Without one of them
#: there is no evidence at all.
EVIDENCE = {
    "OFF_PAGE_MAPPING": "page.mapping",
    "OFF_PAGE_PRIVATE": "page.private",
    "OFF_PAGE_REFCOUNT": "page._refcount",
    "OFF_PAGE_MAPCOUNT": "page._mapcount",
    "OFF_MAPPING_OPS": "address_space.a_ops",
    "OFF_MAPPING_HOST": "address_space.host",
    "OFF_OPS_MIGRATE": "address_space_operations.migrate_folio",
    "OFF_INODE_SB": "inode.i_sb",
    "OFF_INODE_INO": "inode.i_ino",
    "OFF_SB_TYPE": "super_block.s_type",
    "OFF_SB_DEV": "super_block.s_dev",
    "OFF_FSTYPE_NAME": "file_system_type.name",
    "OFF_VMA_START": "vm_area_struct.vm_start",
    "OFF_VMA_END": "vm_area_struct.vm_end",
    "OFF_VMA_FLAGS": "vm_area_struct.vm_flags",
    "OFF_VMA_FILE": "vm_area_struct.vm_file",
    "OFF_FILE_INODE": "file.f_inode",
}
#: Further evidence, each where it can be had; the first member that is there.
EVIDENCE_OPTIONAL = {
    "OFF_TASK_MEMS_ALLOWED": ("task_struct.mems_allowed",),
    "OFF_FOLIO_PINCOUNT": ("folio._pincount",),
    # all mappings of a large folio since 6.9 or so, before that those of it as a whole
    "OFF_FOLIO_MAPCOUNT": (
        "folio._large_mapcount",
        "folio._entire_mapcount",
        "folio._total_mapcount",
    ),
}
#: A walk of x86's page tables: struct members and the kernel's variables.
WALK = {"OFF_VMA_MM": "vm_area_struct.vm_mm", "OFF_MM_PGD": "mm_struct.pgd"}
WALK_VARIABLES = {
    "PAGE_OFFSET_BASE": ("page_offset_base",),
    "PGDIR_SHIFT": ("pgdir_shift",),
}
#: Whose pages they are, which system call it is, who waits: each group where all of it can be had.
INITIATORS = {
    "owner": {
        "OFF_MM_OWNER": "mm_struct.owner",
        "OFF_TASK_TGID": "task_struct.tgid",
        "OFF_VMA_MM": "vm_area_struct.vm_mm",
    },
    "fork": {
        "OFF_TASK_TGID": "task_struct.tgid",
        "OFF_TASK_SIGNAL": "task_struct.signal",
        "OFF_SIGNAL_LIVE": "signal_struct.live",
    },
    "user": {"OFF_TASK_CRED": "task_struct.cred", "OFF_CRED_UID": "cred.uid"},
    "cgroup": {
        "OFF_TASK_CGROUPS": "task_struct.cgroups",
        "OFF_CSS_SET_CGROUP": "css_set.dfl_cgrp",
        "OFF_CGROUP_KN": "cgroup.kn",
        "OFF_KN_ID": "kernfs_node.id",
        "OFF_CGROUP_SELF": "cgroup.self",
        "OFF_CSS_PARENT": "cgroup_subsys_state.parent",
    },
    "syscall": {
        "OFF_TASK_STACK": "task_struct.stack",
        "OFF_TASK_FLAGS": "task_struct.flags",
        "OFF_TASK_INFO": "task_struct.thread_info",
        "OFF_INFO_STATUS": "thread_info.status",
    },
    "lock": LOCK_WAITS,
}
#: Whether a process still runs the program that a stack was taken of.
STACKS = {"OFF_TASK_MM": "task_struct.mm", "OFF_MM_STACK": "mm_struct.start_stack"}
#: Finds the folio that a migration entry stands for.
WAIT_VARIABLES = {"VMEMMAP_BASE": "vmemmap_base"}
#: Without them a zero page is told by the kernel's answer alone.
WALK_OPTIONAL = {
    "ZERO_PFN": ("zero_pfn", "zero_page_pfn"),
    "HUGE_ZERO_PFN": ("huge_zero_pfn",),
}
#: The program reads this much of a struct page at once.
PAGE_IMAGE_BYTES = 64

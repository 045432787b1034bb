# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots a NUMA guest on any machine and runs commands in it.

`kernels` finds or fetches a kernel (through `apt`), `image` turns it into
something that QEMU boots quickly, `topology` describes the guest's nodes,
`guest` is the running machine, `changes` brings files back, `runner` does all
of it for one command.  `agent`, `init` and `stage2` run inside the guest; `wire`
is what both sides speak.
"""

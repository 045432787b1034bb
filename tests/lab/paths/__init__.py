# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way of the kernel to migrate pages, provoked in a guest, with independent counts.

`provoke` and `kernel_paths` make it happen, by programs that aren't ours where one
exists; `holder` is the process whose pages move; `witness` counts without mptrace;
`conduct` runs one path after the other, with `mptrace record -a` around all of them.
All of it runs in the guest: ``python -m paths.conduct``.
"""

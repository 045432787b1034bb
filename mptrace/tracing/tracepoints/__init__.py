# SPDX-License-Identifier: GPL-2.0-or-later
"""A session by tracepoints alone, where the kernel allows neither BPF programs nor kprobes."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""A session with tracepoints alone, for kernels that allow neither BPF programs nor kprobes."""

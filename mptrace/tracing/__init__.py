# SPDX-License-Identifier: GPL-2.0-or-later
"""What measures: the plan, the BPF program, tracepoints alone, counting."""

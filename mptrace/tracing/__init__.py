# SPDX-License-Identifier: GPL-2.0-or-later
"""The measuring side: the probe plan, the BPF program, tracepoints alone, and counting."""

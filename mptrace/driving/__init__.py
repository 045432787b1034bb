# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: workloads, their memory, the process that moves it, and the way back."""

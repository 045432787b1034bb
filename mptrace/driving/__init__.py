# SPDX-License-Identifier: GPL-2.0-or-later
"""The measured side: workloads, their memory, and the process that moves it and puts it back."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests a kernel against its documentation: scenarios are provoked, traced and judged."""

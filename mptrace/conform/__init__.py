# SPDX-License-Identifier: GPL-2.0-or-later
"""Documented behaviour against real: scenarios provoked, traced and judged."""

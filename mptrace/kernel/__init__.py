# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads facts of a kernel and its host below a given root; changes nothing."""

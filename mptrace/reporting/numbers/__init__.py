# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a report, as plain values, a module for each part."""

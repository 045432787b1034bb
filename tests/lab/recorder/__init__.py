# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs for test_record.py: what callers do in a guest, and what is read of it here."""

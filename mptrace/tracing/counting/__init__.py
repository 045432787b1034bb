# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace stat` and `mptrace top`: counts and sums, without a record per page."""

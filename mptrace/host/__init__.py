# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine is and what it allows; only reads, below a given root."""

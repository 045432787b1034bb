# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine is and allows; reads below a given root, changes nothing of it."""

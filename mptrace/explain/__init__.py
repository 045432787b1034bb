# SPDX-License-Identifier: GPL-2.0-or-later
"""Why each page stayed or moved, with the evidence, as values and as words."""

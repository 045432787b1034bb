# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the kernel leaves pages: a table of causes, and the rules that find them in the evidence."""

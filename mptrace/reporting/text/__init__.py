# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers to text: the pieces of the reports and of other output; nothing here prints."""

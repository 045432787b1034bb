# SPDX-License-Identifier: GPL-2.0-or-later
"""One traced session, from the request to the recording."""

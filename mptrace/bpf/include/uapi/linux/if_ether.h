/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: empty; BCC's helpers ask for it by name only. */

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: BCC sizes ring buffers in pages; the plan passes the real size. */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif

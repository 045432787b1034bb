/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: BCC's own copy of the BPF ABI brings what is needed. */
#include <linux/types.h>

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: BCC carries its own copy of the BPF ABI. */
#include <linux/types.h>
#include <bcc/bpf.h>

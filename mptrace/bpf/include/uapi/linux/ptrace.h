/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: the registers that a kprobe is handed on x86-64 (kernel ABI). */
#ifndef MPTRACE_PTRACE_H
#define MPTRACE_PTRACE_H
#include <linux/types.h>

#ifndef __x86_64__
#error "mptrace knows the kprobe registers of x86-64 only"
#endif

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};

#endif

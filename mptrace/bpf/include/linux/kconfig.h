/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: BCC includes this before anything else.  See include/README. */
#ifndef MPTRACE_KCONFIG_H
#define MPTRACE_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in: the tracer passes the real value with -D. */
#ifndef LINUX_VERSION_CODE
#define LINUX_VERSION_CODE 0
#endif
#ifndef KERNEL_VERSION
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#endif

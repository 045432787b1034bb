/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stand-in. */
#include <uapi/linux/ptrace.h>

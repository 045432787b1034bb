/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a handler reads its arguments and its function's return value.
 *
 * The plan says with -DPHASE_METHOD=FENTRY or KPROBE how a phase is attached, with
 * PHASE_EXIT_METHOD how its exit is where that may be another (call, migration);
 * a handler reads its arguments accordingly and calls the one body.
 */
#ifndef MPTRACE_ENTRY_H
#define MPTRACE_ENTRY_H

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define METHOD(phase) CAT(phase, _METHOD)
#define CTX_FENTRY u64
#define CTX_KPROBE struct pt_regs
#define CTX(phase) CAT(CTX_, METHOD(phase)) *ctx
#define ARG_FENTRY(n) ctx[n]
#define ARG_KPROBE(n) CAT(KARG, n)
/* Where the stack was: a function called from within has a lower one. */
#define STACK_FENTRY 0
#define STACK_KPROBE PT_REGS_SP(ctx)
#define STACK(phase) CAT(STACK_, METHOD(phase))
/* Whether a return can be missed: a kretprobe follows only so many at once. */
#define MAY_MISS_FENTRY 0
#define MAY_MISS_KPROBE 1
#define MAY_MISS(phase) CAT(MAY_MISS_, METHOD(phase))
#define CTX_RAW_TRACEPOINT u64
#define ARG_RAW_TRACEPOINT(n) ctx[n]
#define CTX_TRACEPOINT u64
#define ARG_TRACEPOINT(n) ctx[(n) + 1]	/* after the common fields, where all are words */
#define ARG(phase, n) CAT(ARG_, METHOD(phase))(n)
#define RET_FENTRY(nargs) ctx[nargs]
#define RET_KPROBE(nargs) PT_REGS_RC(ctx)
#define RET(phase) CAT(RET_, METHOD(phase))(CAT(phase, _NARGS))
#define KARG0 PT_REGS_PARM1(ctx)
#define KARG1 PT_REGS_PARM2(ctx)
#define KARG2 PT_REGS_PARM3(ctx)
#define KARG3 PT_REGS_PARM4(ctx)
#define KARG4 PT_REGS_PARM5(ctx)
#define KARG5 PT_REGS_PARM6(ctx)

#endif

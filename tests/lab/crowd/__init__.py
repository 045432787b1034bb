# SPDX-License-Identifier: GPL-2.0-or-later
"""Many at once, each with a record of its own, under one `mptrace record -a`.

`stalls`: threads that touch pages while others move them (`touch.c`).  `race`: 32 threads
in move_pages(2) at once while memory is compacted (`race.c`).  `conduct` runs both and
`tracing` the recorder around them.  All of it runs in the guest: ``python -m crowd.conduct``.
"""

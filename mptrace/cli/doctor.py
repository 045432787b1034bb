# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace doctor`: can this host trace and migrate, and what is missing?"""

import json

import click

from mptrace.cli import terminal
from mptrace.errors import EXIT_FAILURE
from mptrace.host import read as facts
from mptrace.reporting.text import doctor as report_doctor
from mptrace.tracing.plan import candidates, doctor


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Check whether this host can trace page migrations.

    Says what is missing, and how to get it. Loads and attaches small programs for
    an instant to find out. The exit status
    is 0 if this host can both trace and migrate, else 1.
    """
    kernel = facts.read_kernel_facts(
        candidates.candidate_functions(),
        candidates.candidate_offsets(),
        candidates.candidate_sizes(),
        candidates.candidate_tracepoints(),
        candidates.candidate_variables(),
    )
    host = facts.read_host_facts()
    settled = doctor.settle(kernel, facts.try_attach)
    diagnosis = doctor.examine(kernel, host, facts.read_access(), settled)
    if as_json:
        click.echo(json.dumps(report_doctor.to_json(diagnosis, kernel, host), indent=2))
    else:
        click.echo(report_doctor.render(diagnosis, kernel, width=terminal.width()))
    if not (diagnosis.can_trace and diagnosis.can_migrate):
        context.exit(EXIT_FAILURE)

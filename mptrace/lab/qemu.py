# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU as the lab starts it: what it needs, its command line, its and the kernel's last words."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import LabError
from .kernels import Kernel
from .topology import Topology

_KERNEL_ARGUMENTS = (
    "panic=-1 nokaslr tsc=reliable no_timer_check mitigations=off cryptomgr.notests "
    "random.trust_cpu=on audit=0 rcupdate.rcu_expedited=1 init_on_alloc=0 nowatchdog "
    "numa_balancing=disable secretmem.enable=1"
)
#: What the guest's kernel is told where instructions are counted, for mptrace in it to say so.
COUNTED = "mptrace.counted=1"
_CONSOLE_LINES = 25

#: The guest's CPU.  Not AVX2: under QEMU 7.2's emulation numpy's AVX2 argsort
#: returns wrong orders (argsort of 12 integers, 20 of 20 times), and gives no error.
CPU = "max,avx2=off"


def command(
    kernel: Kernel,
    topology: Topology,
    directory: Path,
    port: int,
    *,
    threads: str,
    count: bool,
    verbose: bool,
    kernel_arguments: Sequence[str],
    qemu_arguments: Sequence[str],
) -> list[str]:
    """The command line of QEMU for a guest whose initrd and consoles lie in ``directory``.

    ``port`` is the descriptor of the host's end of the way to the agent.
    """
    # the clocks of the guest go by the instructions that it has executed, 1 ns for each,
    # and while all its CPUs idle by the host's clock
    counting = ["-icount", "shift=0,sleep=on"] if count else []
    # util-linux's setpriv: QEMU ends with us even where we are killed outright.
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    # The virtio console costs nothing but starts late in the boot; the serial one doesn't.
    console, serial = "quiet console=hvc0", []
    told = [_KERNEL_ARGUMENTS, *([COUNTED] if count else [])]
    if verbose:
        console = "ignore_loglevel console=ttyS0 console=hvc0"
        serial = ["-serial", f"file:{_quoted(directory / 'serial')}"]
    return [
        *guard,
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-cpu", CPU),
        *("-accel", f"tcg,thread={threads}"),
        *counting,
        *topology.qemu_arguments(),
        *("-kernel", str(kernel.image), "-initrd", str(directory / "initrd")),
        *("-append", " ".join((console, *told, *kernel_arguments))),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"file,id=console,path={_quoted(directory / 'console')}"),
        *("-device", "virtconsole,chardev=console"),
        *("-chardev", f"socket,id=port,fd={port}"),
        *("-device", "virtserialport,chardev=port,name=mptrace.lab"),
        *serial,
        *qemu_arguments,
    ]


def telling(lines: list[str]) -> list[str]:
    """The lines that tell most: from a panic on, else the last."""
    panics = [number for number, line in enumerate(lines) if "Kernel panic" in line]
    start = panics[0] if panics else max(0, len(lines) - _CONSOLE_LINES)
    return lines[start : start + _CONSOLE_LINES]


def check_programs() -> Path:
    """The path of busybox; raises LabError where it or QEMU is missing or of no use."""
    needed = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}
    missing = [package for program, package in needed.items() if shutil.which(program) is None]
    if missing:
        raise LabError(
            f"the lab needs {' and '.join(missing)}", f"apt-get install {' '.join(missing)}"
        )
    busybox = Path(shutil.which("busybox") or "")
    with busybox.open("rb") as file:
        # The name of the dynamic loader stands behind a program's headers.
        if b"/ld-linux" in file.read(4096):
            raise LabError(f"{str(busybox)!r} is not static", "apt-get install busybox-static")
    return busybox


def _quoted(path: Path) -> str:
    """``path`` as the value of a QEMU option: a comma is doubled."""
    return str(path).replace(",", ",,")

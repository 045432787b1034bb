# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes recordings for the tests of the first screen, in a guest with two nodes (one minute).

usage: python tests/unit/recordings/make.py [NAME...], from the root of the checkout.  Replaces the
recordings of these names, of all by default:

idle    everybody, while nothing is migrated
run     `mptrace run` of 61 pages there and back, of which a pipe holds some
stalls  everybody, while migratepages moves pages that a thread touches
lost    everybody, while migratepages moves more pages than a tiny ring has room for
"""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Where all happens in the guest: what is recorded names no place of whoever makes it.
PLACE = Path("/srv/recordings")
KERNEL = "6.12"
#: What happens while each is made; its options of `mptrace record`.
NAMES = ("idle", "run", "stalls", "lost")
PAGES = 211


def mptrace(*arguments):
    """A command line of this checkout's mptrace."""
    return [sys.executable, "-m", "mptrace", *arguments]


@contextmanager
def recorded(name, *options):
    """`mptrace record -a` of this name from when it traces until it ended in order."""
    argv = mptrace("record", "-a", "--tier", "bpf", "--force", "-o", str(PLACE / name), *options)
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if "tracing:" in line:
                break
        yield
        process.send_signal(signal.SIGINT)
        print(process.stderr.read(), file=sys.stderr)
    assert process.returncode == 0, process.returncode


def moved_by_migratepages():
    """A process whose pages a thread touches, and migratepages moves to node 1."""
    toucher = subprocess.Popen(
        [PLACE / "toucher", str(PAGES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = toucher.stdout.readline().strip()
    subprocess.run(["migratepages", pid, "0", "1"], check=True)
    # the recorder asks processes that it met their name while they are there
    time.sleep(2)
    toucher.stdin.close()
    assert toucher.wait() == 0


def make(name):
    """Make one, inside the guest."""
    if name == "run":
        options = ["--pages", "61", "--pin", "0.1", "--repeats", "1", "--no-cost", "--force"]
        subprocess.run(mptrace("run", *options, "-o", str(HERE / "run")), check=True)
    elif name == "idle":
        with recorded(name):
            subprocess.run(["sleep", "2"], check=True)
    elif name == "stalls":
        with recorded(name):
            moved_by_migratepages()
    elif name == "lost":
        with recorded(name, "--buffer", "16k"):
            moved_by_migratepages()


def main():
    """In the guest where the first argument says so, else boot it."""
    if sys.argv[1:2] == ["--in-guest"]:
        # what moves pages here is what is asked to
        for name in ("kernel/numa_balancing", "vm/compaction_proactiveness"):
            Path("/proc/sys", name).write_text("0")
        PLACE.mkdir()
        shutil.copy(HERE / "toucher", PLACE)
        for name in sys.argv[2:]:
            make(name)
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(PLACE / name, HERE / name)
        return
    program = HERE / "toucher"
    build = ["cc", "-O2", "-static", "-pthread", "-o", program, HERE / "toucher.c"]
    subprocess.run(build, check=True)
    here = str(Path(__file__).resolve())
    inside = [sys.executable, here, "--in-guest", *(sys.argv[1:] or NAMES)]
    lab = mptrace("lab", "--kernel", KERNEL, "--timeout", "300", "--bring", str(HERE))
    subprocess.run([*lab, "--", *inside], check=True)
    program.unlink()


if __name__ == "__main__":
    main()

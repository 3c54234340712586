"""Run as a program, PARENT ARGUMENT…: pip, which ends when the process PARENT does, also where that was killed."""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        sys.exit("the parent process has ended")
    runpy.run_module("pip", run_name="__main__", alter_sys=True)

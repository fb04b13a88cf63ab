"""Builds the C core; all else stands in setup.cfg.

Warnings are errors in CI alone: `./dev check` sets XENPV_CFLAGS="-Wall -Wextra -Werror", which build.py adds.
"""

import os
import shutil
import sysconfig
from pathlib import Path

from setuptools import setup

wanted = [os.environ["CC"]] if os.environ.get("CC") else [sysconfig.get_config_var("CC"), "cc"]
compiler = next((command for command in wanted if command and shutil.which(command.split()[0])), None)
if compiler is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
    raise SystemExit("xenpv's core is written in C and needs a C compiler (cc, or what CC names) and Python.h: "
                     "on Debian, run `apt-get install gcc libc6-dev python3-dev`.")
os.environ["CC"] = compiler

setup(cffi_modules=["xenpv/core/build.py:ffi"])

"""A small package with the GNU build system, made on the spot: what `./configure && make` is measured on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

HEADERS: Final = "fcntl.h limits.h locale.h netdb.h poll.h pwd.h sys/epoll.h sys/mman.h sys/socket.h termios.h unistd.h"
FUNCTIONS: Final = "dup3 epoll_create1 fork getline memfd_create mmap nanosleep openat pipe2 poll setlocale strtoull"
MODULES: Final = 12
CONFIGURE: Final = f"""\
AC_INIT([measured], [1.0])
AM_INIT_AUTOMAKE([foreign subdir-objects])
AC_CONFIG_HEADERS([config.h])
AC_PROG_CC
AC_PROG_INSTALL
AC_CHECK_HEADERS([{HEADERS}])
AC_CHECK_FUNCS([{FUNCTIONS}])
AC_CHECK_SIZEOF([long])
AC_C_BIGENDIAN
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
"""
MODULE: Final = """\
#include "config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int part_{n}(int argument)
{{
	char text[64];

	snprintf(text, sizeof text, "%d", argument + {n});
	return atoi(text) + (int)strlen(text);
}}
"""


def can_generate() -> bool:
    """Tell whether the tools are there."""
    return all(shutil.which(tool) for tool in ("autoreconf", "automake", "make", "gcc"))


def generate(folder: Path) -> None:
    """Write the package's sources and run autoreconf once."""
    folder.mkdir()
    numbers = range(MODULES)
    calls = "".join(f"int part_{n}(int);\n" for n in numbers)
    total = " + ".join(f"part_{n}(argc)" for n in numbers)
    (folder / "configure.ac").write_text(CONFIGURE)
    names = " ".join(f"part_{n}.c" for n in numbers)
    (folder / "Makefile.am").write_text(f"bin_PROGRAMS = measured\nmeasured_SOURCES = main.c {names}\n")
    (folder / "main.c").write_text(
        f"{calls}\nint main(int argc, char **argv)\n{{\n\treturn !argv[0] + {total} == 0;\n}}\n"
    )
    for n in numbers:
        (folder / f"part_{n}.c").write_text(MODULE.format(n=n))
    subprocess.run(["autoreconf", "--install"], cwd=folder, check=True, capture_output=True)

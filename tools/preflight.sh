#!/bin/sh
# Looks for what an install needs from the machine, before anything is installed.
#
#   tools/preflight.sh             prints the Python to use; or one sentence with the packages to install, and exits 1
#   tools/preflight.sh --packages  prints the missing Debian packages, one a line (nothing when all is there)
#
# PYTHON=... chooses the interpreter, CC=... the compiler. Reads only; installs nothing.
set -u

cc=${CC:-cc}
lacks=""
packages=""

miss() { # miss WHAT PACKAGE
    lacks="${lacks:+$lacks, }$1"
    packages="${packages:+$packages }$2"
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
makes_venvs() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }
has_header() { printf '#include <%s>\n' "$1" | $cc ${2:+"-I$2"} -E -x c - >/dev/null 2>&1; }

python=""
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    is_new_enough "$candidate" || continue
    [ -n "$python" ] || python=$candidate
    if makes_venvs "$candidate"; then
        python=$candidate
        break
    fi
done

version=3
if [ -z "$python" ]; then
    miss "Python 3.11 or newer${PYTHON:+ (PYTHON=$PYTHON is not)}" "python3 python3-venv"
else
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    makes_venvs "$python" || miss "the venv module of $python" "python$version-venv"
fi

if ! command -v "${cc%% *}" >/dev/null 2>&1; then
    miss "a C compiler ($cc)" gcc
    [ -f /usr/include/gmp.h ] || [ -n "$(find /usr/include -maxdepth 2 -name gmp.h 2>/dev/null)" ] ||
        miss "the GMP headers (gmp.h)" libgmp-dev
else
    has_header limits.h "" && has_header stdlib.h "" || miss "the C library's headers (stdlib.h)" libc6-dev
    has_header gmp.h "" || miss "the GMP headers (gmp.h)" libgmp-dev
    if [ -n "$python" ]; then
        include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
        has_header Python.h "$include" || miss "the headers of $python (Python.h)" "python$version-dev"
    fi
fi

if [ "${1:-}" = --packages ]; then
    [ -z "$packages" ] || printf '%s\n' $packages
elif [ -n "$lacks" ]; then
    echo "This machine lacks $lacks: install with 'apt-get install $packages' (as root), then run make again." >&2
    exit 1
else
    command -v "$python"
fi

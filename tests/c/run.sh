#!/bin/sh
# The core's tests in C, with one sanitizer or none. The last line counts; the exit status says whether all passed.
# usage: run.sh [none|address|undefined|thread] [part of a test's name...]     CC: the compiler, gcc by default
set -eu
kind=${1:-none}
[ $# -eq 0 ] || shift
here=$(cd "$(dirname "$0")" && pwd)
core=$here/../../xenpv/core
cc=${CC:-gcc}

case $kind in
none) sanitize= ;;
address | undefined | thread) sanitize="-fsanitize=$kind -fno-sanitize-recover=all -fno-omit-frame-pointer" ;;
*) echo "usage: run.sh [none|address|undefined|thread] [part of a test's name...]" >&2; exit 2 ;;
esac

build=$(mktemp -d "${TMPDIR:-/tmp}/xenpv-ctests.XXXXXX")
trap 'rm -rf "$build"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo 'int main(void) { return 0; }' >"$build/probe.c"
# shellcheck disable=SC2086
if ! $cc $sanitize -pthread -o "$build/probe" "$build/probe.c" 2>/dev/null || ! "$build/probe" 2>/dev/null; then
    echo "not run: $cc cannot build or run a program with '${sanitize:-no sanitizer}'"
    exit 77
fi

flags="-std=gnu11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -pthread -I$core -I$here $sanitize"
# The thread sanitizer does not model fences, and gcc says so wherever there is one. It guards the data here, not the order.
if [ "$kind" = thread ] && $cc -Werror -Wno-tsan -fsyntax-only "$build/probe.c" 2>/dev/null; then
    flags="$flags -Wno-tsan"
fi

# The emulated Xen is not in play: its files come with their own tests.
for source in "$core"/*.c "$here"/*.c; do
    case ${source##*/} in _core.c | emulated*.c | hypervisor.c) continue ;; esac
    printf '%s\n%s\n' "$source" "$build/$(basename "$source" .c).o"
done | xargs -n 2 -P "$(nproc 2>/dev/null || echo 2)" sh -c '
    cc=$1 flags=$2
    exec $cc $flags -c -o "$4" "$3"' sh "$cc" "$flags"
# test_engines.c answers system calls like another kernel would, measured.c has a clock that tests move, serve.c storage that hangs,
# takes its time, or is a device.
# shellcheck disable=SC2086
$cc $flags -Wl,--wrap=syscall -Wl,--wrap=clock_gettime -Wl,--wrap=pread -Wl,--wrap=ioctl -o "$build/tests" "$build"/*.o
export ASAN_OPTIONS="${ASAN_OPTIONS:-}" TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1}"
"$build/tests" "$@"

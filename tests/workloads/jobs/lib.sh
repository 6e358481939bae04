# sourced by every job: $1 = scratch directory; GATE = launcher prefix (empty: run plain)
set -eu
DATA=$(cd "$(dirname "$0")/../data" && pwd)
D=$1; mkdir -p "$D"; cd "$D"; export HOME=$D/home TMPDIR=$D/tmp; mkdir -p "$HOME" "$TMPDIR"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
g(){ ${GATE-} "$@"; }
eq(){ [ "$1" = "$2" ] || { echo "CHECK FAILED: got '$1' want '$2'" >&2; exit 1; }; }
has(){ grep -q -- "$2" "$1" || { echo "CHECK FAILED: no '$2' in $1" >&2; head -c 400 "$1" >&2; exit 1; }; }
hasnt(){ ! grep -q -- "$2" "$1" || { echo "CHECK FAILED: '$2' in $1" >&2; grep -m3 -- "$2" "$1" >&2; exit 1; }; }
waitport(){ for i in $(seq 150); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return 0; sleep 0.1; done; echo "no port $1" >&2; return 1; }
waitfile(){ for i in $(seq 150); do [ -s "$1" ] && return 0; sleep 0.1; done; echo "no file $1" >&2; return 1; }

#!/bin/sh
# An untrusted script summarises a real file: what it gets, what it does not, what it is refused. Ends 0 if all is so.
set -eu
sandbox=${SANDBOX:-"$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/sandbox"}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

title() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
# expect FILE TEXT: the demo checks itself.
expect() {
    grep -qF -- "$2" "$1" || { echo >&2 "demo: $1 does not hold: $2"; exit 1; }
}

# The real input: a licence's text, where the system has one, or this script.
input=/usr/share/common-licenses/Apache-2.0
[ -r "$input" ] || input=/usr/share/common-licenses/GPL-3
[ -r "$input" ] || input=$sandbox
cat >summary.awk <<'END'
{ for (i = 1; i <= NF; i++) { word = tolower($i); gsub(/[^a-z]/, "", word); if (length(word) > 6) count[word]++ } }
END {
    print NR " lines"
    for (word in count) print count[word], word | "sort -rn | head -3"
    close("sort -rn | head -3")
    print "summary written" >> log_file
}
END
echo 'the password is 12345' >secrets.txt

title "The caller holds more than the script should get: secrets.txt (7), the root folder (8), a pipe (9)"
exec 7<secrets.txt 8</
mkfifo pipe
exec 9<>pipe

title "It grants the text for reading and a log for appending; -v tells what becomes of the rest"
show "sandbox run -v --grant text=file:$input --grant log=file:run.log:append,create -- awk -f summary.awk ..."
code=0
"$sandbox" run -v --status-fd 6 --grant "text=file:$input" --grant log=file:run.log:append,create -- \
    awk -v 'log_file=/dev/fd/{fd:log}' -f summary.awk '/dev/fd/{fd:text}' >out 2>err 6>status || code=$?
cat err out
expect err 'descriptor 7: '
expect err 'secrets.txt (read): closed'
expect err 'descriptor 8: / (directory): closed'
expect err 'descriptor 9: '
expect err "granted as 3 (grant text: file $input)"
expect err 'granted as 4 (grant log: file '
expect out "$(wc -l <"$input") lines"
expect run.log 'summary written'
echo "exit code $code"
[ "$code" = 0 ]

title "How it ended, for programs (--status-fd)"
cat status
expect status '"event":"started"'
expect status '"code":0'

title "The script's own table: 0, 1, 2, the two grants (5 is the folder that ls opens)"
"$sandbox" run --grant "text=file:$input" --grant log=file:run.log:append -- ls /proc/self/fd >table
tr '\n' ' ' <table
[ "$(tr '\n' ' ' <table)" = '0 1 2 3 4 5 ' ]

title "What the caller did not grant is not there, and the rules cannot be undone"
cat >undo.py <<'END'
import fcntl, os

def attempt(words, call, *arguments):
    try:
        call(*arguments)
        print(f"{words:44} allowed")
    except OSError as error:
        print(f"{words:44} {error.strerror}")

attempt("read secrets.txt by its number, 7:", os.read, 7, 100)
attempt("clear close-on-exec of the grant:", fcntl.fcntl, 3, fcntl.F_SETFD, 0)
attempt("put another file on the grant's number:", os.dup2, 0, 3)
attempt("set close-on-exec of the grant:", fcntl.fcntl, 3, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
attempt("read the grant:", os.read, 3, 100)
END
# The interpreter itself: to a script that starts it, the grant would go and no further.
python=$(python3 -c 'import sys; print(sys.executable)')
"$sandbox" run --grant "text=file:$input" -- "$python" undo.py | tee undo
expect undo 'number, 7:           Bad file descriptor'
expect undo "of the grant:            Operation not permitted"
expect undo "grant's number:      Operation not permitted"
expect undo 'set close-on-exec of the grant:              allowed'
expect undo 'read the grant:                              allowed'

title "What a program leaves open does not reach what it starts; what the exec names does"
"$sandbox" run --trace-exec -- bash -c 'exec 7<secrets.txt; cat <(echo hello)' >out 2>err
cat err out
expect err '7 closed -> '
expect err 'secrets.txt'
expect err '63 passed (dev-fd) -> pipe:'
expect out 'hello'

title "The same command outside of a sandbox, surveyed"
"$sandbox" survey -o survey -- bash -c 'exec 7<secrets.txt; cat <(echo hello)' >out
cat survey
expect survey 'of these named by the exec: 1'
expect survey 'bash -> cat: 7 '

title "Under the profile sealed, no program after the first one"
code=0
"$sandbox" run -p sealed -- sh -c 'echo first; exec date' 2>err || code=$?
cat err
echo "exit code $code"
expect err 'Operation not permitted'
[ "$code" = 126 ]

title "A grant that cannot be held: nothing is started"
code=0
"$sandbox" run --grant data=file:/nowhere -- touch started 2>err || code=$?
cat err
echo "exit code $code"
expect err 'sandbox: open: grant data: file /nowhere: No such file or directory'
[ "$code" = 125 ]
[ ! -e started ]

title "All as it should be"

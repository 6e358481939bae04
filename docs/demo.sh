#!/bin/sh
# An untrusted script summarises a real file: what it gets, what it does not, what it is refused. Ends 0 if all is so.
set -eu
sandbox=${SANDBOX:-"$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/sandbox"}
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
# A home folder of the demo's own, with a secret, and a project's folder beside it.
mkdir "$top/home" "$top/project" "$top/project/results"
HOME=$top/home
export HOME
cd "$top/project"

title() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
# expect FILE TEXT: the demo checks itself.
expect() {
    grep -qF -- "$2" "$1" || { echo >&2 "demo: $1 does not hold: $2"; exit 1; }
}
# run ARGUMENT ...: shown, then done; what it says is in `said`, its exit code in $code.
run() {
    words='sandbox run'
    for word; do
        case $word in *[\ \;]*) word="'$word'" ;; esac
        words="$words $word"
    done
    show "$words"
    code=0
    "$sandbox" run "$@" >said 2>&1 || code=$?
    cat said
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
echo 'the key is 67890' >"$HOME/key"

title "Files: the home folder is an empty one, this folder is shown and cannot be written"
run sh -c 'ls -A ~; cat ~/key'
expect said 'key: No such file or directory'
[ "$code" = 1 ]
run sh -c 'head -1 summary.awk >/dev/null && echo read; echo x >results/x'
expect said 'read'
expect said 'cannot create results/x: Read-only file system'
[ ! -e results/x ]
run cat /etc/shadow
expect said '/etc/shadow: Permission denied'

title "What is declared is there: the key for reading, results for writing; a folder whose changes are gone at the end"
run --read "$HOME/key" --write results sh -c 'cat ~/key; cp ~/key results/x; rm ~/key'
expect said 'the key is 67890'
expect said 'cannot remove'
expect results/x 'the key is 67890'
[ -e "$HOME/key" ]
run --private results sh -c 'rm results/x; ls -A results; echo gone'
expect said 'gone'
[ -e results/x ]

title "Network: none, unless a loopback is asked for"
cat >serve.py <<'END'
import socket

server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname())
print("connected to", server.getsockname()[0])
END
run sh -c '/usr/bin/python3 serve.py 2>&1 | tail -1'
expect said 'Error: '
run --net loopback /usr/bin/python3 serve.py
expect said 'connected to 127.0.0.1'

title "Processes: only the sandbox's own; what is left behind ends with it"
run sh -c 'sleep 6543 & echo /proc/[0-9]*; hostname'
expect said '/proc/1 /proc/2 /proc/3'
expect said 'sandbox'
if grep -qsxz 6543 /proc/[0-9]*/cmdline; then
    echo >&2 'demo: a process has stayed behind'
    exit 1
fi

title "Limits: descriptors, and time"
run --limit open_files=64 sh -c 'ulimit -n'
expect said '64'
run --timeout 300ms sleep 60
echo "exit code $code"
[ "$code" = 124 ]

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
# The system's interpreter: an environment elsewhere is not in the view.
"$sandbox" run --grant "text=file:$input" -- /usr/bin/python3 undo.py | tee undo
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

#!/bin/sh
# The main job on real input: an awk script that nobody has read summarises a file, holding that file and nothing else.
# Run by `make demo`; by hand: SANDBOX=/path/to/sandbox sh docs/demo.sh
set -eu
sandbox=${SANDBOX:-sandbox}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
input=/usr/share/common-licenses/GPL-3
[ -r "$input" ] || input=LICENSE
printf 'the caller keeps this open\n' > "$folder/private"
cat > "$folder/summary.awk" <<'AWK'
{ words += NF; for (i = 1; i <= NF; i++) count[tolower($i)]++ }
END { printf "%d lines, %d words, %d times \"the\"\n", NR, words, count["the"] }
AWK

say() { printf '\n== %s\n' "$*"; }
must() { [ "$1" = "$2" ] || { echo "demo: $3: got '$1', expected '$2'" >&2; exit 1; }; }

say "the caller holds descriptors 5, 6 and 7; the script gets its input as a grant, and a log to append to"
"$sandbox" run -v --grant "text=file:$input" --grant "log=file:$folder/log:append,create" --status-fd 9 -- \
	sh -c 'awk -f "$0" <&"$SANDBOX_FD_TEXT"; echo done >&"$SANDBOX_FD_LOG"' "$folder/summary.awk" \
	5< "$folder/private" 6> "$folder/other" 7< / 9> "$folder/status" > "$folder/out"
cat "$folder/out"
must "$(cat "$folder/out")" "$(awk -f "$folder/summary.awk" < "$input")" "the summary"
must "$(cat "$folder/log")" done "the log"

say "what the run reported (--status-fd)"
cat "$folder/status"
grep -q '"event":"exited".*"code":0' "$folder/status"

say "refused: the caller's descriptor 5, and overwriting a granted number"
"$sandbox" run --grant "text=file:$input" -- bash -c 'cat <&5; exec 3<"$0"' "$folder/private" 5< "$folder/private" \
	> "$folder/out" 2> "$folder/err" && { echo "demo: nothing was refused" >&2; exit 1; }
cat "$folder/err"
grep -q 'Bad file descriptor' "$folder/err"
grep -q 'Operation not permitted' "$folder/err"
must "$(cat "$folder/out")" "" "what leaked"

say "a later exec: what the shell opened and forgot is closed, what it names goes along"
"$sandbox" run --trace-exec -- sh -c 'exec 7<"$0"; ls -d / > /dev/null; cat /dev/fd/7' "$folder/private" \
	> "$folder/out" 2> "$folder/err"
cat "$folder/err" "$folder/out"
grep -q '7 closed' "$folder/err"
grep -q '7 passed (dev-fd)' "$folder/err"
must "$(cat "$folder/out")" "the caller keeps this open" "what was named"

say "the exit code is the command's own"
code=0
"$sandbox" run -- sh -c 'exit 42' || code=$?
must "$code" 42 "the exit code"
echo "42"
printf '\ndemo: everything was as expected\n'

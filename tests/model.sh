#!/usr/bin/env bash
# Tries many random lists of operations against the model, and adds what ran to the table in tests/model.md.
#
# tests/model.sh [LISTS [DATABASE]]: so many in all, 10000 unless given, shared by the four properties, or by the two of one database
# (sqlite or postgres). A list takes about half a second of one core, so ten thousand take an hour on two, or several shorter runs:
# each has its own seeds and its own rows.
# Beside other work those on PostgreSQL take ten times as long: `chrt -r 1 tests/model.sh` gives them the processor when they want it.
# SUTLER_MODEL_SEED (see tests/tests/model/main.rs) repeats one property's lists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lists=${1:-10000}
databases=(${2:-sqlite postgres})
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
source=$(git describe --always)
# The table that this writes is no change of what is tried.
git diff --quiet HEAD -- . ':!tests/model.md' || source+=-dirty
# Half of the time of a list is the compiler's to save; what is written need not reach a disk.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_TARGET_DIR=target/model
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
export SUTLER_MODEL_CASES=$(((lists + 2 * ${#databases[@]} - 1) / (2 * ${#databases[@]})))
cargo test -p sutler-tests --locked --test model --no-run

# properties CORE DATABASE: both properties on one database, on a core of their own: a list is a conversation of threads, and
# waking one on another core costs more than what it does there.
properties() {
  local ended=held
  taskset -c "$1" cargo test -p sutler-tests --locked --test model -- --nocapture \
    "whatever_happens_the_rules_hold_on_$2" "job_and_policy_in_either_order_end_alike_on_$2" >"$logs/$2" 2>&1 || ended=FAILED
  printf '%s: %s\n' "$2" "$ended"
  # test NAME ... PROPERTY: CASES cases, SUTLER_MODEL_SEED=SEED
  sed -n 's/^\(.* \.\.\. \)\{0,1\}\(.*\): \([0-9]*\) cases, SUTLER_MODEL_SEED=\([0-9a-f]*\)$/\2|\3|\4/p' "$logs/$2" | sort |
    while IFS='|' read -r property count seed; do
      local name=whatever_happens_the_rules_hold result=$ended
      [ "${property#either}" = "$property" ] || name=job_and_policy_in_either_order_end_alike
      # Of two properties one may have held: those that did not are named at the end.
      if grep -qx "test result: FAILED.*" "$logs/$2" && ! grep -qx "    ${name}_on_$2" "$logs/$2"; then result=held; fi
      printf '| %s | %s | %s | %s | `%s` | %s |\n' "$(date -u +%F)" "$source" "$property" "$count" "$seed" "$result"
    done >"$logs/$2.rows"
  [ "$ended" = held ] || { cat "$logs/$2"; return 1; }
}
cores=$(nproc)
all=held started=()
for database in "${databases[@]}"; do
  core=0
  [ "$database" = sqlite ] || core=$((cores > 1))
  properties "$core" "$database" & started+=($!)
done
for run in "${started[@]}"; do
  wait "$run" || all=FAILED
done
cat "$logs"/*.rows >>tests/model.md
total=$(awk -F'|' '$7 ~ /held/ { n += $5 } END { print n + 0 }' tests/model.md)
sed -i "s/^In all: .*/In all: $total lists in runs in which every rule held./" tests/model.md
[ "$all" = held ]

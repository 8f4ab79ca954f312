#!/usr/bin/env bash
# Tries many random lists of operations against the model, and adds what ran to the table in tests/model.md.
#
# tests/model.sh [LISTS]: so many in all, 10000 unless given, shared by the four properties. A list takes about a second of one
# core, so ten thousand take a night, or several shorter runs: each has its own seeds and its own rows.
# SUTLER_MODEL_SEED (see tests/tests/model/main.rs) repeats one property's lists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lists=${1:-10000}
cases=$(((lists + 3) / 4))
log=$(mktemp)
trap 'rm -f "$log"' EXIT
source=$(git describe --always --dirty)
# Half of the time of a list is the compiler's to save; what is written need not reach a disk.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_TARGET_DIR=target/model
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
ended=held
SUTLER_MODEL_CASES=$cases cargo test -p sutler-tests --locked --test model -- --nocapture whatever_happens job_and_policy 2>&1 |
  tee "$log" || ended=FAILED
# PROPERTY: CASES cases, SUTLER_MODEL_SEED=SEED
sed -n 's/^\(.*\): \([0-9]*\) cases, SUTLER_MODEL_SEED=\([0-9a-f]*\)$/\1|\2|\3/p' "$log" | sort | while IFS='|' read -r property count seed; do
  printf '| %s | %s | %s | %s | `%s` | %s |\n' "$(date -u +%F)" "$source" "$property" "$count" "$seed" "$ended"
done >>tests/model.md
total=$(awk -F'|' '$7 ~ /held/ { n += $5 } END { print n + 0 }' tests/model.md)
sed -i "s/^In all: .*/In all: $total lists in runs in which every rule held./" tests/model.md
[ "$ended" = held ]

#!/usr/bin/env bash
# Tries many random lists of operations against the model, and writes what ran into tests/model.md.
#
# tests/model.sh [LISTS]: so many in all, 10000 unless given, shared by the four properties. A list takes a second or more on two
# idle cores, so ten thousand take a night. SUTLER_MODEL_SEED (see tests/tests/model/main.rs) repeats one property's lists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lists=${1:-10000}
command="cargo test -p sutler-tests --locked --test model -- --nocapture whatever_happens job_and_policy"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS
ended=passed
SUTLER_MODEL_CASES=$(((lists + 3) / 4)) $command 2>&1 | tee "$log" || ended=FAILED
{
  printf '# The last run of the model\n\nMade by `tests/model.sh %s`; see `tests/tests/model/main.rs` for what it does.\n\n' "$lists"
  printf -- '- date: %s UTC, at %s\n' "$(date -u '+%F %H:%M')" "$(git describe --always --dirty)"
  printf -- '- command: `SUTLER_MODEL_CASES=%s %s`\n' "$(((lists + 3) / 4))" "$command"
  sed -n 's/^\(.*\): \([0-9]*\) cases, \(SUTLER_MODEL_SEED=[0-9a-f]*\)$/- \1: \2 lists, `\3`/p' "$log" | sort
  printf -- '- result: %s, in %s s\n' "$ended" "$((SECONDS - started))"
} >tests/model.md
[ "$ended" = passed ]

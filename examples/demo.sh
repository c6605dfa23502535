#!/usr/bin/env bash
# The main job from end to end, on the embedded registry, in a fresh directory of its own: no account, no cluster.
#
#   examples/demo.sh [--engine ENGINE] [COMMAND...]
#
# ENGINE is where the studies run: local, unless said otherwise. COMMAND is how mops-jobs is started: mops-jobs, unless
# said otherwise.
#
# What a script or a pod would report is reported here by hand. The registry is left there, to look at.
set -euo pipefail

engine=local
if [ "${1:-}" = --engine ]; then
  engine=$2
  shift 2
fi
[ $# -gt 0 ] || set -- mops-jobs
command=("$@")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=$(mktemp -d "${TMPDIR:-/tmp}/mops-jobs-demo.XXXXXX")
export MOPS_JOBS_REGISTRY="sqlite://$place/registry.db" MOPS_JOBS_CACHE="$place/cache.db" XDG_STATE_HOME="$place/state"

# Show a command as one would type it, and run it.
mops-jobs() {
  local word shown='$ mops-jobs'
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_@%+=:,./-]*) shown+=" \"$word\"" ;;
      *) shown+=" $word" ;;
    esac
  done
  printf '%s\n' "$shown"
  "${command[@]}" "$@" 2>&1
}
chapter() { printf '\n# %s\n' "$*"; }

chapter "A study of 200 simulations is submitted, runs here, and is followed to its verified end"
cd "$here/seir"
mops-jobs submit study.json --auto --engine "$engine" --job-id seir-1 --owner ana --label exp=7
mops-jobs events seir-1 --follow
mops-jobs wait seir-1 --timeout 5m
mops-jobs list
mops-jobs status seir-1
mops-jobs validate seir-1
mops-jobs results seir-1 --download "$place/results"
mops-jobs results seir-1 --table "$place/results.csv"
mops-jobs results seir-1 --best peak --limit 3

chapter "Some simulations of a second study fail: which, why, what they have in common, and what came out"
mops-jobs submit beds.json --auto --engine "$engine" --job-id beds-1 --owner ana --label exp=7 --wait || printf '(exit code %s: partial)\n' $?
mops-jobs status beds-1
mops-jobs failures beds-1
mops-jobs tasks beds-1 --status failed --limit 5
mops-jobs results beds-1 --table "$place/beds.csv"
head -n 4 "$place/beds.csv"
mops-jobs provenance beds-1

chapter "A script or a pod registers other jobs"
mops-jobs register nightly-1 --owner ana --label exp=7 --total 10
mops-jobs register nightly-2 --owner ana --label exp=7 --total 4
mops-jobs register nightly-3 --owner ben --label exp=8 --total 20
mops-jobs register nightly-4 --owner ben --label exp=8
mops-jobs register nightly-5 --owner ana --label exp=9

chapter "They report their progress and their end"
mops-jobs update nightly-1 running
mops-jobs progress nightly-1 5/10
mops-jobs progress nightly-2 4/4
mops-jobs update nightly-2 succeeded --results results/nightly-2
mops-jobs progress nightly-3 12/20 --failed 1
mops-jobs update nightly-3 failed --error-code OOM --error "task 13 ran out of memory"
mops-jobs cancel nightly-4 --reason "wrong parameters"

chapter "The status of a job that has ended does not change"
mops-jobs update nightly-2 running || printf '(exit code %s: refused)\n' $?

chapter "A local cache mirrors the registry; lists come from it"
mops-jobs sync
mops-jobs list
mops-jobs list --status failed --json
mops-jobs list --label exp=7 -q
mops-jobs status nightly-1

printf '\nThe registry is left in %s. To look at it again:\n\n' "$place"
printf '  export MOPS_JOBS_REGISTRY=%q MOPS_JOBS_CACHE=%q XDG_STATE_HOME=%q\n' "$MOPS_JOBS_REGISTRY" "$MOPS_JOBS_CACHE" "$XDG_STATE_HOME"
printf ' '
printf ' %q' "${command[@]}" list
printf '\n'

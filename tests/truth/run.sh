#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One broker's truth test on a server of its own: run.sh PROGRAM BACKEND [--seconds N] [--seed S]
set -euo pipefail

PROGRAM=truth
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"
[[ $# -ge 2 ]] || die 'run.sh PROGRAM BACKEND [--seconds N] [--seed S]'
program=$1 backend=$2
shift 2

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/penstock-truth-$backend.XXXXXX")
test_pid=''
finish() {
  local status=$?
  trap - EXIT
  if [[ -n $test_pid ]]; then kill -KILL "$test_pid" 2>/dev/null || true; fi
  if [[ $status != 0 ]]; then
    say "failed with $status; the ends of the logs:"
    tail -n 25 "$dir"/*.log >&2 2>/dev/null || true
  fi
  "$root/scripts/services" stop --dir "$dir" --purge >/dev/null 2>&1 || true
  rm -rf "$dir"
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM INT

case $backend in
  kafka)
    # A listener for whoever comes by the wire, who is told the wire's address; and an authorizer that allows what it does not know.
    target=$(free_port)
    wire=$(free_port)
    cat >"$dir/kafka.more" <<PROPERTIES
listeners=PLAINTEXT://127.0.0.1:@port@,WIRE://127.0.0.1:$target,CONTROLLER://127.0.0.1:@controller@
advertised.listeners=PLAINTEXT://127.0.0.1:@port@,WIRE://127.0.0.1:$wire
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,WIRE:PLAINTEXT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
PROPERTIES
    export PENSTOCK_TRUTH_TARGET=$target PENSTOCK_TRUTH_WIRE=$wire
    ;;
  nats)
    echo 'authorization { users = [ {user: admin, password: admin}, {user: app, password: app} ] }' >"$dir/nats.more"
    ;;
esac
"$root/scripts/services" start --dir "$dir" --only "$backend" --kafka real >/dev/null
export PENSTOCK_SERVICES_DIR=$dir
"$program" "$backend" "$@" &
test_pid=$!
status=0
wait "$test_pid" || status=$?
test_pid=''
exit "$status"

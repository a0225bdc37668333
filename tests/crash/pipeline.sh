#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'USAGE'
The order pipeline as five processes on private servers, disturbed while orders flow; then the account, and the Kafka topic read by a
client of its own.

  pipeline.sh kill|stop PIPELINE TOPIC_READER DIR [--orders N] [--times N] [--seed N]

  kill    SIGKILL to a random role, again and again; whoever is gone is started again
  stop    SIGTERM to every role in turn under load: each must leave with 0 within its deadline; then all go on

PENSTOCK_TEST_ORDERS names files of orders to feed as well.
USAGE
}

PROGRAM=pipeline
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"
[[ $# -ge 4 ]] || { usage >&2; exit 2; }
mode=$1 pipeline=$2 reader=$3 dir=$4; shift 4
orders=2000 times=30 seed=$(($(date +%s) % 32768))
while [[ $# -gt 0 ]]; do
  case $1 in
    --orders) orders=$2 ;;
    --times) times=$2 ;;
    --seed) seed=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
say "mode $mode, $orders orders, $times times, seed $seed"
RANDOM=$seed
drain_limit=10 # seconds, the library's own deadline for a drain; what was measured is 0.3
rss_limit=64   # MB, of one role; a sanitizer's shadow and quarantine are not the library's
! grep -q -e __asan_init -e __tsan_init "$pipeline" || rss_limit=0

roles=(api relay dispatcher worker notifier)
declare -A pid=()
services=$dir/servers
logs=$dir/logs
rm -rf "$logs"
mkdir -p "$logs"
finish() {
  local status=$? role
  trap - EXIT
  for role in "${!pid[@]}"; do kill -KILL "${pid[$role]}" 2>/dev/null || true; done
  wait 2>/dev/null || true
  "$root/scripts/services" stop --dir "$services" --purge >&2 || true
  if [[ $status != 0 ]]; then
    say "failed, seed $seed; the ends of the logs:"
    tail -n 25 "$logs"/*.log >&2 || true
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM INT

addresses=$("$root/scripts/services" start --dir "$services" --kafka "${PENSTOCK_SERVICES_KAFKA:-real}")
eval "$addresses"
api=$(free_port) payment=$(free_port) stock=$(free_port)

# Orders of our own making: of every kind the shop knows, some of them cancellations, corrections, guests, and a large one.
perl -e '
  srand(shift); my $n = shift;
  for my $i (1 .. $n) {
    my @lines = map { sprintf q({"sku":"G-%d","description":"thing %d","quantity":%d,"unit_price":"%d.%02d"}), $_, $_, 1 + int rand 9, 1 + int rand 40, int rand 100 }
      1 .. ($i == 7 ? 600 : 1 + int rand 6);
    my ($ref, $kind) = ("T$i", "order");
    if ($i % 20 == 0) { ($ref, $kind) = ("CT$i", "cancellation"); s/"quantity":/"quantity":-/ for @lines }
    elsif ($i % 33 == 0) { s/"unit_price":"[^"]*"/"unit_price":"0"/ for @lines }
    printf qq({"reference":"%s","kind":"%s","customer":%s,"country":"Norway","lines":[%s]}\n), $ref, $kind, $i % 9 ? qq("$i") : "null", join ",", @lines;
  }' "$seed" "$orders" >"$dir/orders.ndjson"

start_role() {
  setsid "$pipeline" --roles "$1$([[ $1 != worker ]] || echo ,providers)" --port "$api" \
    --payment-url "http://127.0.0.1:$payment" --stock-url "http://127.0.0.1:$stock" --payment-failures 0.1 --stock-failures 0.1 \
    --payment-declines 0.02 --payment-reviews 0.01 --stock-shortages 0.01 --seed 5 >>"$logs/$1.log" 2>&1 </dev/null &
  pid[$1]=$!
}
for role in "${roles[@]}"; do start_role "$role"; done

feed() { # FILE NAME
  "$pipeline" --roles none --api-url "http://127.0.0.1:$api" --orders "$1" --rate "$rate" --settle 90 >"$dir/account-$2.txt" 2>>"$logs/feeder.log" </dev/null
}
# The orders come in for a little longer than the disturbance lasts.
rate=$((orders / (times + 10) + 1))
[[ $mode == kill ]] || rate=$((orders / 25 + 1))
feed "$dir/orders.ndjson" made &
pid[feeder]=$!

for ((i = 0; i < 300; ++i)); do
  ! port_answers "$api" || break
  sleep 0.1
done
port_answers "$api" || die 'the API did not come up'
case $mode in
  kill)
    for ((n = 1; n <= times; ++n)); do
      sleep "0.$((RANDOM % 10))"
      sleep 0.5
      role=${roles[RANDOM % ${#roles[@]}]}
      kill -0 "${pid[$role]}" 2>/dev/null || die "$role had ended by itself, before kill $n"
      kill -KILL "${pid[$role]}"
      wait "${pid[$role]}" 2>/dev/null || true
      start_role "$role"
      say "kill $n of $times: $role"
    done
    ;;
  stop)
    sleep 5
    for role in "${roles[@]}"; do
      t0=$(now_ms)
      kill -TERM "${pid[$role]}"
      status=0
      wait "${pid[$role]}" || status=$?
      took=$(($(now_ms) - t0))
      say "$role left with $status after $took ms"
      [[ $status == 0 ]] || die "$role left with $status"
      ((took <= drain_limit * 1000)) || die "$role took $took ms to leave; the limit is $drain_limit s"
      ! grep -q 'did not drain' "$logs/$role.log" || die "$role says it did not drain within its deadline"
      start_role "$role"
    done
    ;;
  *) usage >&2; exit 2 ;;
esac

status=0
wait "${pid[feeder]}" || status=$?
unset 'pid[feeder]'
cat "$dir/account-made.txt"
[[ $status == 0 ]] || die "the account does not balance, or orders could not be sent (exit $status)"
rate=0
for file in ${PENSTOCK_TEST_ORDERS:-}; do
  feed "$file" more || die "the account does not balance after $file"
  cat "$dir/account-more.txt"
done
"$reader" "$PENSTOCK_KAFKA" order-events || die 'the topic is not in order'
for role in "${roles[@]}"; do
  kill -0 "${pid[$role]}" 2>/dev/null || die "$role has ended by itself"
  rss=$(sed -n 's/^VmRSS:\s*\([0-9]*\) kB/\1/p' "/proc/${pid[$role]}/status")
  say "$role: $((rss / 1024)) MB resident"
  ((rss_limit == 0 || rss < rss_limit * 1024)) || die "$role has $((rss / 1024)) MB resident; the limit is $rss_limit MB"
done
say 'it balances, and the topic is in order'

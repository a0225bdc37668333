#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# scripts/services and scripts/setup, as their users meet them. Servers run in a folder of the test's own.
#
#   services.test.sh [NAMES]     default: postgres,nats; "all" adds kafka and rabbitmq
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
. "$root/scripts/lib.sh"
names=${1:-postgres,nats}
[[ $names != all ]] || names=postgres,kafka,rabbitmq,nats
unset PENSTOCK_SERVICES_DIR PENSTOCK_SERVICES_KAFKA

work=$(mktemp -d /var/tmp/penstock-services-test-XXXXXX)
dir=$work/servers
declare -a helpers=()
services() { "$root/scripts/services" "$@" --dir "$dir"; }
finish() {
  local status=$? pid
  trap - EXIT
  for pid in "${helpers[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  services stop --purge >/dev/null 2>&1 || true
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT

cases=0 failures=0
it() { cases=$((cases + 1)); printf '%s\n' "-- $*"; }
fail() { failures=$((failures + 1)); printf '   FAILED: %s\n' "$*"; }
same() { [[ $1 == "$2" ]] || fail "${3:-}: expected '$1', got '$2'"; }
has() { [[ $2 == *"$1"* ]] || fail "expected '$1' in: $2"; }
# run COMMAND...: its output of both kinds in $out, its exit status in $code; nothing may take longer than two minutes.
run() {
  code=0
  if [[ $1 == services ]]; then set -- "$root/scripts/services" "${@:2}" --dir "$dir"; fi
  out=$(timeout 120 "$@" 2>&1) || code=$?
}
field() { sed -n "s/^$1=//p" "$dir/$2.state"; }

# Whoever is in the test's folders or was started with one of them as an argument.
left_over() {
  local p cwd line data
  data=$(sed -n 's/^data=//p' "$dir/postgres.state" 2>/dev/null) || true
  for p in /proc/[0-9]*; do
    [[ ${p#/proc/} != "$$" ]] || continue
    { line=$(tr '\0' ' ' <"$p/cmdline") && cwd=$(readlink "$p/cwd"); } 2>/dev/null || continue
    if [[ $line == *"$dir/"* || $cwd/ == "$dir"/* || -n $data && ($cwd/ == "$data"/* || $line == *"$data"/*) ]]; then echo "${p#/proc/} $line"; fi
  done
}
sql() {
  local programs=(/usr/lib/postgresql/*/bin/psql)
  "${programs[-1]}" -X -q -A -t -d "$PENSTOCK_POSTGRES_URL" -c "$1"
}

run services start --only "$names"

it 'starts, and prints variables and nothing else on stdout'
same 0 "$code" "$out"
printf '%s\n' "$out" | sed 's/^/   /'
exports=$(services env)
while read -r line; do [[ $line =~ ^export\ PENSTOCK_[A-Z_]+=\'[^\']+\'$ ]] || fail "not an export: $line"; done <<<"$exports"
count=${names//[^,]/}
same $((${#count} + 1)) "$(wc -l <<<"$exports")" 'lines of env'
eval "$exports"
same penstock "$(sql 'SELECT current_database()')"
same 'on|UTF8' "$(sql "SELECT current_setting('fsync') || '|' || pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'penstock'")" 'durable, UTF-8'
sql 'CREATE TABLE kept AS SELECT 42 AS answer'

it 'starting again says so and prints the same variables'
same "$exports" "$(services start --only "$names" 2>"$work/messages")"
has 'postgres: already running' "$(<"$work/messages")"

it 'shows one line per server'
run services status
same 0 "$code"
same 4 "$(wc -l <<<"$out")" 'lines of status'
for name in ${names//,/ }; do
  grep -Eq "^$name +running +pid [0-9]+ +port [0-9]+ +/" <<<"$out" || fail "no line of $name: $out"
  port=$(field port "$name")
  ((port > 1024 && port < 32768)) || fail "$name: port $port"
done

it 'status and env of a choice of servers say nothing of the others'
run services status --only nats
same 1 "$(wc -l <<<"$out")" 'lines of status'
has 'nats' "$out"
run services env --only nats
same 0 "$code"
same "$(grep NATS <<<"$exports")" "$out"
run services status --only rabbitmq,nats
same 2 "$(wc -l <<<"$out")" 'lines of status'

it 'a killed server is gone at once, and restart brings it back where it was, with its data'
[[ -n $(left_over) ]] || fail "cannot see the servers' processes"
run services kill "$names"
same 0 "$code" "$out"
for name in ${names//,/ }; do ! port_answers "$(field port "$name")" || fail "$name still answers"; done
same '' "$(left_over)" 'after kill'
run services env
same 1 "$code" 'env of nothing'
run services restart "$names"
same 0 "$code" "$out"
same "$exports" "$(services env)" 'the addresses'
same 42 "$(sql 'SELECT answer FROM kept')" 'the data'

it 'a running server is restarted cleanly'
before=$(field pid postgres)
run services restart postgres
same 0 "$code" "$out"
has 'postgres: stopped' "$out"
[[ $before != "$(field pid postgres)" ]] || fail 'the same process'
same 42 "$(sql 'SELECT answer FROM kept')" 'the data'

it 'pauses and resumes, with every process of the server'
run services pause postgres
for p in $(family "$(field pid postgres)" | cut -d ' ' -f 1); do same T "$(proc_field "$p" 3)" "state of $p"; done
run services status
grep -q '^postgres *paused' <<<"$out" || fail "status: $out"
run services resume postgres
same 42 "$(sql 'SELECT answer FROM kept')" 'after resume'

it 'a server that crashed is recognised, and started again'
kill -KILL "$(field pid nats)"
echo "$(field pid nats) $(field start nats)" | gone_within 5 || fail 'not killed'
run services status
grep -q '^nats *crashed' <<<"$out" || fail "status: $out"
run services start --only nats
same 0 "$code" "$out"
has 'from an earlier start is gone' "$out"

it 'the id of another process, left in the state, harms nobody'
sleep 300 &
helpers+=($!)
services stop --only nats 2>/dev/null
printf 'pid=%s\nstart=1\n' "$!" >>"$dir/nats.state"
run services stop
same 0 "$code" "$out"
alive "$!" "$(proc_start "$!")" || fail 'it ended a process that it had not started'
run services start --only "$names"
same 0 "$code" "$out"
eval "$(services env)"

it 'restart insists on the old port, start takes another'
port=$(field port nats)
run services kill nats
perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, ReuseAddr => 1, LocalAddr => "127.0.0.1", LocalPort => shift) or die; sleep 120' "$port" &
helpers+=($!)
for _ in {1..50}; do if port_answers "$port"; then break; fi; sleep 0.1; done
run services restart nats
same 1 "$code" "$out"
has "port $port is in use by another program" "$out"
run services start --only nats
same 0 "$code" "$out"
[[ $port != "$(field port nats)" ]] || fail 'the taken port'

it 'two starts at once are one start'
run services stop
services start --only "$names" >"$work/first" 2>/dev/null &
first=$!
services start --only "$names" >"$work/second" 2>/dev/null || fail 'the second start'
wait "$first" || fail 'the first start'
same "$(<"$work/first")" "$(<"$work/second")"

it 'stop ends everything, keeps the data, and may be repeated'
epmd=$(field epmd rabbitmq 2>/dev/null || true)
run services stop
same 0 "$code" "$out"
for name in ${names//,/ }; do has "$name: stopped" "$out"; done
same '' "$(left_over)" 'after stop'
[[ -z $epmd ]] || ! port_answers "$epmd" || fail 'epmd still answers'
run services stop
same 0 "$code" "$out"
run services start --only postgres
eval "$(services env)"
same 42 "$(sql 'SELECT answer FROM kept')" 'the data'

it 'purge deletes the data'
data=$(field data postgres)
run services stop --purge
same 0 "$code" "$out"
[[ ! -e $data && ! -e $dir/postgres.state ]] || fail "something is left: $(ls "$dir")"

# What the server says to the first request of every Kafka client, for its supported versions: the request's own number.
kafka_answers() {
  perl -MIO::Socket::INET -e 'alarm 10; $s = IO::Socket::INET->new("127.0.0.1:" . shift) or exit 1;
    print $s pack("NnnNn", 10, 18, 0, 4711, 0xffff); exit(read($s, $_, 8) == 8 && unpack("x4N", $_) == 4711 ? 0 : 1)' "$1"
}
it 'the mock Kafka starts, says what it is, keeps its port over a restart, and stops'
run services start --only kafka --kafka mock
same 0 "$code" "$out"
has 'not real Kafka' "$out"
mock=$(services env --only kafka)
has "PENSTOCK_KAFKA='127.0.0.1:" "$mock"
kafka_answers "$(field port kafka)" || fail 'the mock does not answer'
run services status --only kafka
has 'kafka(mock) running' "$out"
before=$(field pid kafka)
run services restart kafka
same 0 "$code" "$out"
has 'kept nothing' "$out"
same "$mock" "$(services env --only kafka)" 'the address'
[[ $before != "$(field pid kafka)" ]] || fail 'the same process'
kafka_answers "$(field port kafka)" || fail 'the restarted mock does not answer'
port=$(field port kafka)
run services stop --only kafka
same 0 "$code" "$out"
! port_answers "$port" || fail 'the stopped mock answers'
same '' "$(left_over)" 'after stop'
run services env --only kafka
same 1 "$code" 'env of a stopped server'

it 'a missing package is named'
mkdir "$work/bin"
ln -sf /bin/* /usr/bin/* "$work/bin/" 2>/dev/null
for program in nats-server java dpkg-query sudo id; do rm -f "$work/bin/$program"; done
cp "$(command -v id)" "$work/bin/id"
run env PATH="$work/bin" "$root/scripts/services" start --only nats --dir "$dir"
same 1 "$code" "$out"
has 'nats-server: scripts/setup services' "$out"
run env PATH="$work/bin" "$root/scripts/services" start --only kafka --dir "$dir"
same 1 "$code" "$out"
has 'default-jre-headless' "$out"
has '--kafka mock' "$out"

it 'setup without root and sudo prints what to install'
rm "$work/bin/id"
printf '#!/bin/sh\necho 1000\n' >"$work/bin/id"
printf '#!/bin/sh\nexit 1\n' >"$work/bin/dpkg-query"
chmod +x "$work/bin/id" "$work/bin/dpkg-query"
run env PATH="$work/bin" "$root/scripts/setup" services
same 1 "$code" "$out"
has 'apt-get install --no-install-recommends postgresql rabbitmq-server nats-server' "$out"
run env PATH="$work/bin" "$root/scripts/setup" --check ci
same 1 "$code" "$out"
has 'missing: clang' "$out"

it 'mistakes are told'
run services start --only postgres,mysql
same 1 "$code"
has "there is no server 'mysql'" "$out"
run services restart nats
same 1 "$code"
has 'never started' "$out"
run services frobnicate
same 1 "$code"
has "unknown command 'frobnicate'" "$out"
run "$root/scripts/setup" --check everything
same 1 "$code"
has "unknown: 'everything'" "$out"

printf '%d cases, %d failures\n' "$cases" "$failures"
[[ $failures == 0 ]]

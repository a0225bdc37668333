# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the scripts here share; sourced, never run. A bare Debian has none of curl, git, ps, pgrep, ss, lsof and python3, so
# none of them is used: /proc, bash's /dev/tcp and perl (its base is part of every Debian) do their work.

# Messages go to stderr: stdout belongs to what a caller may want to read by program.
say() { printf '%s\n' "${PROGRAM:+$PROGRAM: }$*" >&2; }
die() { say "$*"; exit 1; }

# The folder of the project: the parent of the folder this file is in.
project_root() { (cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P); }

is_root() { [[ $(id -u) == 0 ]]; }

# An ordinary user's PATH lacks the sbin folders, where Debian keeps some servers. A PATH that somebody narrowed stays narrow.
sbin_on_path() {
  case ":$PATH:" in
    *:/usr/sbin:*) ;;
    *:/usr/bin:*) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin ;;
  esac
}

# --- time -------------------------------------------------------------------------------------------------------------------

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
# seconds_since MS: with one decimal.
seconds_since() { local d=$(($(now_ms) - $1)); printf '%d.%d' $((d / 1000)) $((d % 1000 / 100)); }

# --- processes --------------------------------------------------------------------------------------------------------------
# A process is its id and its start time: an id alone may by now belong to somebody else.

# proc_field PID N: field N (3 = state, 4 = parent, 22 = start time) of /proc/PID/stat. The name in field 2 may hold anything.
proc_field() {
  local line
  { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  line=${line##*) }
  # shellcheck disable=SC2086
  set -- "$2" $line
  shift $(($1 - 2))
  printf '%s\n' "$1"
}
proc_start() { proc_field "$1" 22; }

# alive PID START: that very process exists and is no zombie.
alive() {
  [[ ${1:-} =~ ^[0-9]+$ && -n ${2:-} && $(proc_start "$1") == "$2" && $(proc_field "$1" 3) != [ZX] ]]
}

# family PID: "pid start" of PID, its descendants, and of whoever is in the session that PID leads. The caller has made sure
# that PID is alive.
family() {
  perl -e '
    my $root = shift;
    my (%parent, %start, %session);
    for my $dir (glob "/proc/[0-9]*") {
      open my $f, "<", "$dir/stat" or next;
      my $line = <$f> // next;
      my ($pid) = $line =~ /^(\d+)/ or next;
      my @f = split " ", $line =~ s/^.*\) //sr;
      next if $f[0] eq "Z" or $f[0] eq "X";
      ($parent{$pid}, $session{$pid}, $start{$pid}) = @f[1, 3, 19];
    }
    my %in = ($root => 1);
    $in{$_} = 1 for grep { $session{$_} == $root } keys %session;
    for (my $grew = 1; $grew;) {
      $grew = 0;
      for (keys %parent) { if (!$in{$_} && $in{$parent{$_}}) { $in{$_} = 1; $grew = 1 } }
    }
    print "$_ $start{$_}\n" for grep { exists $start{$_} } $root, sort { $a <=> $b } grep { $_ != $root } keys %in;
  ' "$1"
}

# signal_each SIGNAL: reads "pid start" lines and signals those that are still the same process.
signal_each() {
  local pid start
  while read -r pid start; do
    if alive "$pid" "$start"; then kill "-$1" "$pid" 2>/dev/null || true; fi
  done
}

# gone_within SECONDS: reads "pid start" lines; true once none of them is alive.
gone_within() {
  local deadline=$(($(now_ms) + $1 * 1000)) lines pid start
  mapfile -t lines
  while :; do
    for pid in "${lines[@]}"; do
      read -r pid start <<<"$pid"
      if alive "$pid" "$start"; then
        if (($(now_ms) > deadline)); then return 1; fi
        sleep 0.1
        continue 2
      fi
    done
    return 0
  done
}

# --- ports ------------------------------------------------------------------------------------------------------------------

# free_port: one on 127.0.0.1, below the range from which outgoing connections get theirs (32768 and up), and no server's
# default.
free_port() {
  perl -MIO::Socket::INET -e '
    my %default = map { $_ => 1 } 11211, 15672, 15692, 19092, 25672, 27017, 29092;
    for (1 .. 500) {
      my $port = 10240 + int rand 22000;
      next if $default{$port};
      if (IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => $port)) { print "$port\n"; exit }
    }
    exit 1'
}

# port_free PORT: a server could listen there now (connections that are still closing do not count).
port_free() {
  perl -MIO::Socket::INET -e '
    exit !IO::Socket::INET->new(Listen => 1, ReuseAddr => 1, LocalAddr => "127.0.0.1", LocalPort => shift)' "$1"
}

# port_answers PORT: something accepts connections there.
port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# SPDX-License-Identifier: Apache-2.0
# perl guarantees.pl <page> <test source>...: fails unless every test that the page's tables name is in the sources.
use strict;
use warnings;

my ($page, @sources) = @ARGV;
my @tests = ('crash.pipeline_killed', 'crash.pipeline_stopped', 'crash.soak_fixed', 'crash.soak_random', 'crash.truth_kafka',
  'crash.truth_rabbitmq', 'crash.truth_nats', 'unit.canary.Rule23_heap_overflow'); # those of CMake
for my $source (@sources) {
  open my $in, '<', $source or die "$source: $!";
  local $/;
  my $text = <$in>;
  push @tests, "$1.$2" while $text =~ /^(?:TYPED_)?(?:TEST|TEST_F|TEST_P|RC_GTEST_PROP|RC_GTEST_FIXTURE_PROP)\(\s*(\w+),\s*(\w+)/mg;
}
open my $in, '<', $page or die "$page: $!";
my ($named, @missing) = (0);
while (my $line = <$in>) {
  next unless $line =~ /^\|/;
  my $cell = (split /\|/, $line)[-2];
  while ($cell =~ /`([A-Z*][\w*]*(?:\.[\w*]+)?|(?:crash|unit\.canary)\.[\w*]+)`/g) {
    my $name = $1;
    my $pattern = $name =~ /\./ ? $name : "$name.*";
    $pattern = quotemeta $pattern;
    $pattern =~ s/\\\*/.*/g;
    ++$named;
    push @missing, "$page:$.: there is no test '$name'" unless grep { /^$pattern$/ } @tests;
  }
}
die "$page names no test at all\n" unless $named;
print "$_\n" for @missing;
print "$named names, ", scalar @missing, " unknown\n";
exit(@missing ? 1 : 0);

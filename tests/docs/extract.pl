# SPDX-License-Identifier: Apache-2.0
# extract.pl OUT FILE.md…: writes every ```cpp block to OUT/<file>_<line>.cpp and prints their names, one a line.
# A block with includes or a main is a translation unit of its own; any other is a fragment: it becomes the body of a function that has
# what prelude.hpp declares. Files are only rewritten when they change.
use strict;
use warnings;
my $out = shift;
for my $file (@ARGV) {
  open my $in, '<', $file or die "$file: $!\n";
  my ($block, $start);
  while (my $line = <$in>) {
    if (!defined $block) { if ($line =~ /^```cpp\s*$/) { $block = ''; $start = $. } next }
    if ($line !~ /^```\s*$/) { $block .= $line; next }
    (my $name = $file) =~ s{.*/(docs|examples)/}{$1/};
    $name =~ s{^/.*/}{};
    $name =~ s{[^A-Za-z0-9]+}{_}g;
    my $path = "$out/${name}_$start.cpp";
    my $code = $block =~ /^\s*#include|\bint main\(/m
      ? "#line " . ($start + 1) . " \"$file\"\n$block"
      : "#include \"docs/prelude.hpp\"\nnamespace {\n[[maybe_unused]] void fragment() {\n#line " . ($start + 1) . " \"$file\"\n$block}\n}\n";
    my $old = '';
    if (open my $was, '<', $path) { local $/; $old = <$was> // ''; }
    if ($old ne $code) { open my $to, '>', $path or die "$path: $!\n"; print $to $code; close $to }
    print "$path\n";
    undef $block;
  }
  die "$file: the code block in line $start has no end\n" if defined $block;
}

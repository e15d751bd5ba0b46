# SPDX-License-Identifier: MIT
use strict;
use warnings;

sub {
    my %query = map { split /=/, $_, 2 } split /&/, $_[0]{QUERY_STRING};
    my ($nonce, $size) = ($query{n} // '', $query{size} // 0);
    my $hash = 2166136261;

    select undef, undef, undef, $query{sleep} if $query{sleep};
    $hash = (($hash ^ ord $_) * 16777619) & 0xffffffff for split //, $nonce;
    my $body = sprintf "pid=%d generation=%d n=%s\n", $$, $ENV{HANDOFF_GENERATION}, $nonce;
    $body .= substr join('', 'a' .. 'z') x ($size / 26 + 2), $hash % 26, $size;
    return [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $body], [$body]];
};

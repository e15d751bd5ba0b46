<?php
// SPDX-License-Identifier: MIT
$nonce = $_GET['n'] ?? '';
$size = (int)($_GET['size'] ?? 0);
$hash = 2166136261;

usleep((int)(1000000 * ($_GET['sleep'] ?? 0)));
foreach (str_split($nonce) as $c)
	$hash = (($hash ^ ord($c)) * 16777619) & 0xffffffff;
$body = 'pid=' . getmypid() . ' generation=' . getenv('HANDOFF_GENERATION') . " n=$nonce\n"
	. substr(str_repeat('abcdefghijklmnopqrstuvwxyz', intdiv($size, 26) + 2), $hash % 26, $size);
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($body));
echo $body;

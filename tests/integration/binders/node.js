// SPDX-License-Identifier: MIT
// An ordinary server: it binds its port itself and knows nothing of handoffd. With CLUSTER the port is
// bound by the primary process, and the connections are served by two others.
'use strict';
const cluster = require('cluster');
const http = require('http');

function answer(query) {
	const nonce = query.get('n') || '';
	let hash = 2166136261;

	for (let i = 0; i < nonce.length; i++)
		hash = Math.imul(hash ^ nonce.charCodeAt(i), 16777619) >>> 0;
	const size = Number(query.get('size') || 0);
	const start = hash % 26;
	const letters = 'abcdefghijklmnopqrstuvwxyz';
	const pattern = letters.repeat(Math.ceil(size / 26) + 1).slice(start, start + size);
	return `pid=${process.pid} generation=${process.env.HANDOFF_GENERATION} n=${nonce}\n${pattern}`;
}

function serve(request, response) {
	const query = new URL(request.url, 'http://localhost').searchParams;

	setTimeout(() => response.end(answer(query)), 1000 * Number(query.get('sleep') || 0));
}

if (process.env.CLUSTER && cluster.isMaster) {
	cluster.fork();
	cluster.fork();
} else {
	const server = http.createServer(serve);

	server.keepAliveTimeout = 75e3;
	server.listen(isNaN(process.env.PORT) ? process.env.PORT : Number(process.env.PORT));
}

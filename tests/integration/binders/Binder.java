// SPDX-License-Identifier: MIT
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;

public class Binder {
	static void answer(HttpExchange x) throws IOException {
		Map<String, String> q = new HashMap<>();
		String query = x.getRequestURI().getQuery();
		for (String pair : query == null ? new String[0] : query.split("&"))
			q.put(pair.replaceFirst("=.*", ""), pair.replaceFirst("[^=]*=?", ""));
		String nonce = q.getOrDefault("n", "");
		int size = Integer.parseInt(q.getOrDefault("size", "0"));
		int hash = (int) 2166136261L;
		for (byte b : nonce.getBytes())
			hash = (hash ^ b) * 16777619;
		int start = Integer.remainderUnsigned(hash, 26);
		StringBuilder body = new StringBuilder("pid=" + ProcessHandle.current().pid() + " generation="
			+ System.getenv("HANDOFF_GENERATION") + " n=" + nonce + "\n");
		for (int i = 0; i < size; i++)
			body.append((char) ('a' + (start + i) % 26));
		try {
			Thread.sleep((long) (1000 * Double.parseDouble(q.getOrDefault("sleep", "0"))));
		} catch (InterruptedException e) {
			return;
		}
		byte[] bytes = body.toString().getBytes();
		x.sendResponseHeaders(200, bytes.length);
		x.getResponseBody().write(bytes);
		x.close();
	}

	public static void main(String[] args) throws Exception {
		HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(args[0])), 0);
		server.createContext("/", Binder::answer);
		server.setExecutor(Executors.newCachedThreadPool());
		server.start();
	}
}

// SPDX-License-Identifier: MIT
// The oldest way: a ServerSocket, and a thread for each connection.
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.net.Socket;

public class Plain {
	static String value(String query, String key) {
		for (String pair : query.split("&"))
			if (pair.startsWith(key + "="))
				return pair.substring(key.length() + 1);
		return "";
	}

	static byte[] answer(String query) throws InterruptedException {
		String nonce = value(query, "n"), size = value(query, "size"), sleep = value(query, "sleep");
		int hash = (int) 2166136261L;
		for (byte b : nonce.getBytes())
			hash = (hash ^ b) * 16777619;
		int start = Integer.remainderUnsigned(hash, 26);
		StringBuilder body = new StringBuilder("pid=" + ProcessHandle.current().pid() + " generation="
			+ System.getenv("HANDOFF_GENERATION") + " n=" + nonce + "\n");
		for (int i = 0; !size.isEmpty() && i < Integer.parseInt(size); i++)
			body.append((char) ('a' + (start + i) % 26));
		if (!sleep.isEmpty())
			Thread.sleep((long) (1000 * Double.parseDouble(sleep)));
		return ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + body.length() + "\r\n\r\n" + body)
			.getBytes();
	}

	static void serve(Socket connection) {
		try (connection) {
			BufferedReader in = new BufferedReader(new InputStreamReader(connection.getInputStream()));
			String first = in.readLine();
			for (String line = first; line != null && !line.isEmpty();)
				line = in.readLine();
			if (first != null)
				connection.getOutputStream().write(answer(first.replaceFirst("^[^?]*\\??", "").split(" ")[0]));
		} catch (IOException | InterruptedException e) {
			System.err.println(e);
		}
	}

	public static void main(String[] args) throws IOException {
		ServerSocket listener = new ServerSocket(Integer.parseInt(args[0]), 512);
		while (true) {
			Socket connection = listener.accept();
			new Thread(() -> serve(connection)).start();
		}
	}
}

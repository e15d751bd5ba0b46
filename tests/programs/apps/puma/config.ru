# SPDX-License-Identifier: MIT
LETTERS = ('a'..'z').to_a.join.freeze

def answer(nonce, size)
  start = nonce.bytes.reduce(2_166_136_261) { |h, b| ((h ^ b) * 16_777_619) & 0xffffffff } % 26
  pattern = (LETTERS * (size / 26 + 2))[start, size]
  "pid=#{Process.pid} generation=#{ENV['HANDOFF_GENERATION']} n=#{nonce}\n#{pattern}"
end

run(lambda do |env|
  query = env['QUERY_STRING'].split('&').to_h { |pair| pair.split('=', 2) }
  sleep(query['sleep'].to_f) if query['sleep']
  body = answer(query['n'].to_s, query['size'].to_i)
  [200, { 'Content-Type' => 'text/plain', 'Content-Length' => body.bytesize.to_s }, [body]]
end)

-- SPDX-License-Identifier: MIT
local letters = "abcdefghijklmnopqrstuvwxyz"
local generation = os.getenv("HANDOFF_GENERATION")
local stat = io.open("/proc/self/stat")
local pid = stat:read("n")
stat:close()

core.register_service("answer", "http", function(applet)
	local nonce = applet.qs:match("n=([^&]*)") or ""
	local size = tonumber(applet.qs:match("size=(%d+)") or 0)
	local sleep = tonumber(applet.qs:match("sleep=([%d.]+)") or 0)
	local hash = 2166136261

	if sleep > 0 then
		core.msleep(math.floor(sleep * 1000))
	end
	for i = 1, #nonce do
		hash = ((hash ~ nonce:byte(i)) * 16777619) & 0xffffffff
	end
	local body = "pid=" .. pid .. " generation=" .. generation .. " n=" .. nonce .. "\n"
		.. letters:rep(size // 26 + 2):sub(hash % 26 + 1, hash % 26 + size)
	applet:set_status(200)
	applet:add_header("content-length", #body)
	applet:add_header("content-type", "text/plain")
	applet:start_response()
	applet:send(body)
end)

# SPDX-License-Identifier: MIT
bind_to_activated_sockets 'only'
threads 8, 8
workers Integer(ENV.fetch('WEB_CONCURRENCY', 0))
persistent_timeout 75
rackup 'config.ru'

# SPDX-License-Identifier: MIT
# As puma.rb, but puma binds its port itself.
port 8080
threads 8, 8
workers Integer(ENV.fetch('WEB_CONCURRENCY', 0))
persistent_timeout 75
rackup 'config.ru'

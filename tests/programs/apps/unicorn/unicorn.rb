# SPDX-License-Identifier: MIT
worker_processes 4

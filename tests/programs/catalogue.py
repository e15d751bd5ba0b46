# SPDX-License-Identifier: MIT
"""Which servers are replaced under load, and how each is run: the rows of the table."""

import collections.abc
import dataclasses
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
BINDERS = HERE.parent / "integration/binders"
FULL = "HANDOFF_FULL" in os.environ
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOBODY = 65534


# ---- what has to be made from sources, once, in a directory whose files each release gets ----


def go_build(source, to):
    environment = {"HOME": str(to.parent), "CGO_ENABLED": "0", "PATH": PATH}
    command = ["go", "build", "-o", to / "server", source / "server.go"]
    subprocess.run(command, env=environment, check=True, timeout=300)


def javac(source, to):
    source = source if source.is_dir() else BINDERS
    subprocess.run(["javac", "-d", to, *source.glob("*.java")], check=True, timeout=120)


# ---- programs ----


@dataclasses.dataclass(frozen=True)
class Program:
    name: str
    binary: str
    recipe: str = ""  # that of the same name
    app: str = ""  # that of the recipe's name, if there is one
    own: bool = False  # binds its port itself, as the recipe has it
    changes: tuple = ()  # pairs: what is replaced in the recipe, by what
    files: tuple = ()  # further files of a release
    build: collections.abc.Callable | None = None
    variants: tuple = ()  # names; none: all there are
    path: str = "/"  # what the load asks for
    load: tuple = ()  # further options of the load
    unix: bool = True
    environ: tuple = ()
    rates: tuple = (40, 500)  # in CTest, in the whole table
    slow: int = 3
    keepalive: int = 6
    main: str = ""  # the file without which the program cannot start
    prefork: bool = False  # a process serves nobody else while its client is silent
    needs: str = ""  # a file without which it is skipped


def adopt(*changes):
    """A program that would take the sockets if it were told of them."""
    told = 'directory = "/srv/web/current"'
    return (*changes, (told, told + '\n\tsockets = "adopt"'))


FILE = {"load": ("--file",), "slow": 0}  # a file of the release: it cannot be slow
GUNICORN = {"binary": "gunicorn", "recipe": "gunicorn", "app": "gunicorn", "main": "app.py"}
PUMA = {"binary": "puma", "recipe": "puma", "app": "puma", "main": "config.ru"}
JAVA = {"binary": "javac", "own": True, "recipe": "java", "build": javac, "rates": (40, 1000)}
PATTERN = (HERE / "apps/python/pattern.py",)
NODE = {"binary": "node", "own": True, "rates": (100, 1500), "main": "node.js"}
NODE.update(recipe="node-cluster", files=(BINDERS / "node.js",))
NODE_FILE = ('"server.js"', '"node.js"')
NGINX = {"binary": "nginx", "recipe": "nginx", "app": "nginx", "main": "nginx.conf"}
NGINX.update(rates=(100, 3000), load=("--expect-nonce",), unix=False)
NGINX.update(needs="/usr/lib/nginx/modules/ngx_http_echo_module.so")
ONLY_IPV4 = ('"0.0.0.0:8080", "[::]:8080"', '"0.0.0.0:8080"')

PASSED = [
    Program("node", "node", rates=(100, 1500), main="server.js"),
    Program("python", "python3", rates=(100, 300), main="server.py"),
    Program("gunicorn-sync", "gunicorn", app="gunicorn", rates=(40, 40), slow=1, main="app.py", prefork=True),
    Program("gunicorn-gthread", rates=(40, 400), **GUNICORN),
    Program("uvicorn", "uvicorn", variants=("v4",), rates=(40, 500), files=PATTERN, main="app.py"),
    Program(
        *("hypercorn", "hypercorn"),
        variants=("all",),
        app="uvicorn",
        files=PATTERN,
        unix=False,
        rates=(40, 200),
        main="app.py",
    ),
    Program("puma-single", **PUMA),
    Program("puma-cluster", environ=("WEB_CONCURRENCY=2",), **PUMA),
    Program(
        *("unicorn", "unicorn"),
        variants=("v4", "all"),
        files=(HERE / "apps/puma/config.ru",),
        slow=1,
        keepalive=0,
        rates=(40, 300),
        main="unicorn.rb",
        prefork=True,
    ),
    Program(
        *("starlet", "plackup"),
        variants=("v4",),
        slow=1,
        keepalive=0,
        rates=(40, 300),
        main="app.psgi",
        prefork=True,
        needs="/usr/share/perl5/Plack/Handler/Starlet.pm",
    ),
    Program(
        *("uwsgi", "uwsgi"),
        variants=("v4",),
        app="gunicorn",
        slow=1,
        keepalive=0,
        main="app.py",
        prefork=True,
        needs="/usr/lib/uwsgi/plugins/python3_plugin.so",
    ),
    Program(
        *("php-fpm", "php-fpm8.2"),
        variants=("v4", "all"),
        files=(HERE / "apps/php/index.php",),
        slow=1,
        keepalive=0,
        rates=(40, 300),
        main="php-fpm.conf",
        needs="/usr/sbin/nginx",
    ),
    # a process for each request: more than the machine can start only fills the queue
    Program("lighttpd", "lighttpd", path="/answer.pl", rates=(20, 40), main="lighttpd.conf"),
    Program("nginx", **NGINX),
    Program("haproxy", "haproxy", rates=(100, 3000), main="haproxy.cfg"),
]
OWN = [
    Program("node-own", changes=(NODE_FILE, (', "CLUSTER=1"', "")), **NODE),
    Program("node-cluster", changes=(NODE_FILE,), **NODE),
    Program("http-server", "python3", own=True, rates=(40, 500), **FILE),
    Program(
        "gunicorn-own",
        own=True,
        changes=adopt(('"app:app"', '"--bind", "0.0.0.0:8080", "app:app"'), ONLY_IPV4),
        rates=(40, 400),
        **GUNICORN,
    ),
    Program(
        *("uvicorn-own", "uvicorn"),
        own=True,
        recipe="uvicorn",
        changes=(('"--fd", "{fd:http}"', '"--host", "0.0.0.0", "--port", "8080"'),),
        files=PATTERN,
        rates=(40, 500),
        main="app.py",
    ),
    Program("go", "go", own=True, build=go_build, rates=(100, 2000), main="server"),
    Program("java", main="Binder.class", **JAVA),
    Program(
        "java-socket",
        app="java-socket",
        changes=(('"Binder"', '"Plain"'),),
        keepalive=0,
        main="Plain.class",
        **JAVA,
    ),
    Program("webrick", "ruby", own=True, rates=(40, 300), **FILE),
    Program("puma-own", own=True, changes=adopt(('"puma.rb"', '"own.rb"'), ONLY_IPV4), **PUMA),
    Program(
        "puma-cluster-own",
        own=True,
        changes=adopt(('"puma.rb"', '"own.rb"'), ONLY_IPV4),
        environ=("WEB_CONCURRENCY=2",),
        **PUMA,
    ),
    Program("php", "php", own=True, slow=0, keepalive=0, rates=(40, 1500)),
    Program(
        *("lighttpd-own", "lighttpd"),
        own=True,
        recipe="lighttpd",
        changes=adopt(('"lighttpd.conf"', '"own.conf"'), ONLY_IPV4),
        rates=(100, 3000),
        main="own.conf",
        **FILE,
    ),
    Program("nginx-own", own=True, changes=(('dialect   = "nginx"', 'sockets = "adopt"'),), **NGINX),
    Program("nginx-reuseport", own=True, changes=(('dialect   = "nginx"', 'sockets = "adopt"'),), **NGINX),
    Program(
        *("haproxy-own", "haproxy"),
        own=True,
        recipe="haproxy",
        changes=adopt(('"haproxy.cfg"', '"own.cfg"'), ONLY_IPV4),
        rates=(100, 3000),
        main="own.cfg",
    ),
    Program("apache", "apache2", own=True, rates=(100, 2000), main="httpd.conf", **FILE),
    Program("caddy", "caddy", own=True, rates=(100, 2000), main="Caddyfile", **FILE),
    Program("redis", "redis-server", own=True, load=("--redis",), rates=(100, 3000), main="redis.conf"),
]
PROGRAMS = PASSED + OWN


# ---- how each is run ----


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    addresses: tuple = ("127.0.0.1:{port}", "[::1]:{port}", "unix:{run}/web.sock")
    workers: int = 1
    user: int | None = None
    steering: str = ""
    service_user: str = ""  # while handoffd is root
    keep_warm: str = ""
    only: tuple = ()


VARIANTS = [
    Variant("v4", addresses=("127.0.0.1:{port}",)),
    Variant("all"),
    Variant("all-4-workers", workers=4),
    Variant("all-cbpf", steering="cbpf"),
    Variant("all-user", user=NOBODY),
    Variant("all-service-user", service_user="nobody"),
    Variant("all-warm", keep_warm="2s", only=("node", "nginx", "puma-cluster")),
]
OWN_VARIANTS = [
    Variant("adopted"),
    Variant("adopted-cbpf", steering="cbpf", only=("node-own", "java", "nginx-reuseport", "redis")),
    Variant("adopted-user", user=NOBODY, only=("node-cluster", "go", "http-server")),
    Variant("adopted-service-user", service_user="nobody", only=("node-own", "gunicorn-own", "redis")),
]
FAST = ("node", "gunicorn-gthread", "nginx", "puma-single", "node-cluster", "php-fpm")


def variants(program):
    return [
        v
        for v in (OWN_VARIANTS if program.own else VARIANTS)
        if (not v.only or program.name in v.only) and (not program.variants or v.name in program.variants)
    ]

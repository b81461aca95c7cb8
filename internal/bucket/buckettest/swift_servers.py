"""Prepares and serves OpenStack for tests, with Debian's own packages.

swift_servers.py rings DIR HOST PORT PORT PORT         writes rings of one device
swift_servers.py keystone CONF HOST:PORT PASSWORD     fills the database, then serves
swift_servers.py entries DIR CONTAINER                adds the names on stdin to a listing
"""
import os
import sqlite3
import sys


def rings(folder, host, *ports):
    from swift.common.ring import RingBuilder
    for name, port in zip(("account", "container", "object"), ports):
        builder = RingBuilder(0, 1, 0)
        builder.add_dev({
            "id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": "",
            "ip": host, "port": int(port),
            "replication_ip": host, "replication_port": int(port),
        })
        builder.rebalance()
        builder.get_ring().save(os.path.join(folder, name + ".ring.gz"))


def entries(folder, container):
    import glob
    import time
    from swift.container.backend import ContainerBroker
    names = sys.stdin.read().split("\n")
    for path in glob.glob(os.path.join(folder, "containers", "*", "*", "*", "*.db")):
        broker = ContainerBroker(path)
        if broker.get_info()["container"] == container:
            broker.merge_items([{
                "name": name, "created_at": "%016.5f" % time.time(), "size": len(name),
                "content_type": "application/octet-stream", "etag": "d41d8cd98f00b204e9800998ecf8427e",
                "deleted": 0, "storage_policy_index": 0,
            } for name in names])
            return
    sys.exit("no such container")


def fill(conf, address, password):
    import keystone.conf
    from keystone.cmd.bootstrap import Bootstrapper
    from keystone.common import fernet_utils, sql
    from keystone.common.sql import upgrades
    keystone.conf.configure()
    sql.initialize()
    keystone.conf.CONF(project="keystone", args=[], default_config_files=[conf])
    upgrades.offline_sync_database_to_version()
    # One connection may write while another still reads.
    sqlite3.connect(os.path.join(os.path.dirname(conf), "keystone.db")).execute("PRAGMA journal_mode=WAL")
    for group in ("fernet_tokens", "credential"):
        folder = keystone.conf.CONF[group].key_repository
        keys = fernet_utils.FernetUtils(folder, 3, group)
        keys.create_key_directory()
        keys.initialize_key_repository(os.getuid(), os.getgid())
    boot = Bootstrapper()
    boot.admin_username = boot.project_name = boot.admin_role_name = "admin"
    boot.admin_password = password
    boot.service_name, boot.region_id = "keystone", "R1"
    boot.public_url = boot.internal_url = boot.admin_url = "http://%s/v3" % address
    boot.immutable_roles = False
    boot.bootstrap()


def serve(conf, address):
    import socketserver
    import threading
    from wsgiref import simple_server
    from keystone.server.flask import core

    class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
        daemon_threads = True

    class Handler(simple_server.WSGIRequestHandler):
        def log_message(self, *args):
            pass

    host, port = address.rsplit(":", 1)
    sys.argv = ["keystone"]
    app = core.initialize_application("public", config_files=[conf])
    turn = threading.Lock()

    def one_at_a_time(environ, start_response):
        # SQLite has one writer. Connections may wait, idle ones too.
        with turn:
            return app(environ, start_response)

    server = simple_server.make_server(host, int(port), one_at_a_time, Server, Handler)
    server.serve_forever()


def keystone_server(conf, address, password):
    import keystone.server.flask.core  # once for both processes
    sys.argv = ["keystone"]
    child = os.fork()
    if child == 0:
        fill(conf, address, password)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the database could not be filled")
    serve(conf, address)


if __name__ == "__main__":
    {"rings": rings, "keystone": keystone_server, "entries": entries}[sys.argv[1]](*sys.argv[2:])

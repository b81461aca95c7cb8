# Where the credentials of a VM come from: for all buckets with requests that
# are signed.

from configparser import *


def ask(query):
    """Make a request or get a URL of the cloud's metadata service, never through a proxy."""
    return build_opener(ProxyHandler({})).open(query, None, 3).read(99999).decode()


def stored():
    """Return the credentials file, and the environment for what it lacks; names in lower case."""
    known = RawConfigParser(os.environ)
    known.read_string("[default]")
    known.read("/etc/bootwell/credentials")
    return known["default"]

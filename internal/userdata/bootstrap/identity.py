# Where the credentials of a VM come from: for all buckets with requests that
# are signed. Those have their headers in unredirected_hdrs: urllib sends these
# to the bucket, and not on to where the bucket may redirect a request.

from configparser import *


# Refuses a redirect: what the metadata service may know, nobody else may.
class Stay(HTTPRedirectHandler):
    redirect_request = lambda *part: None


def ask(query):
    """Make a request or get a URL of the cloud's metadata service, never through a proxy."""
    return build_opener(ProxyHandler({}), Stay).open(query, None, 3).read(99999).decode()


def stored():
    """Return the credentials file, and the environment for what it lacks; names in lower case."""
    known = RawConfigParser(os.environ)
    known.add_section("default")
    known.read("/etc/bootwell/credentials")
    return known["default"]

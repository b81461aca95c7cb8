# OpenStack Swift with temporary URLs: swift://…?storage=

import hmac


def tempurl(query):
    """Make a request's URL a temporary one. The path that is signed is not percent-encoded."""
    key = stored().get("swift_temp_url_key")
    if not key:
        raise OSError("no credentials; swift_temp_url_key is not in /etc/bootwell/credentials")
    now = "%d" % (time.time() + 600)
    text = "GET\n" + now + "\n" + url2pathname(query.selector)
    query.full_url += "?temp_url_sig=" + hmac.new(key.encode(), text.encode(), "sha256").hexdigest() + "&temp_url_expires=" + now

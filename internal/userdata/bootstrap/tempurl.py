# OpenStack Swift with temporary URLs: swift://…?storage=

import hmac


def tempurl(query):
    """Make a request's URL a temporary one, with the signature that is known or by the key."""
    name = "swift_temp_url_"
    known = stored()
    if name + "key" not in known and name + "sig" not in known:
        known = vendor(known)
    query.full_url += "?"
    if name + "key" in known:
        now = str(int(time()) + 600)
        # The path that is signed is not percent-encoded.
        text = "GET\n" + now + "\n" + url2pathname(query.selector.split("?")[0])
        known = {name + "expires": now, name + "sig": hmac.new(known[name + "key"].encode(), text.encode(), "sha256").hexdigest()}
    for key in "expires", "sig", "prefix":
        if name + key in known:
            query.full_url += "&temp_url_" + key + "=" + known[name + key]

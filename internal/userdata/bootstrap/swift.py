# OpenStack Swift with an application credential: swift://

import json


def vendor(known):
    """Return what the cloud's vendor data has under "bootwell", at any depth, on the config drive or from the metadata service."""
    url = known.get("openstack_metadata_url", "http://169.254.169.254")
    known = {}
    path = "/run/config-2"
    os.system("mkdir -p %s;mount -r LABEL=config-2 %s 2>&-" % (path, path))
    for url in "file://" + path, "file:///mnt/config", url:
        for name in "2", "":
            try:
                json.loads(ask(url + "/openstack/latest/vendor_data%s.json" % name), object_hook=lambda part: known.update(part.get("bootwell", {})) or part)
                why = "absent"
            except Exception as err:
                why = explain(err)
    os.system("umount 2>&- " + path)
    if not known:
        raise OSError("no credentials; bootwell in vendor data: " + why)
    return known


def swift(query, url, region, kind):
    """Point a request to where the catalog says that the objects are, with a token."""
    name = "application_credential"
    known = stored()
    if "os_" + name + "_id" not in known:
        known = vendor(known)
    url = re.sub("(/v3)?/*$", "/v3/auth/tokens", url or known["os_auth_url"])
    say("asking", url)
    body = {"auth": {"identity": {"methods": [name], name: {"id": known["os_" + name + "_id"], "secret": known["os_" + name + "_secret"]}}}}
    reply = urlopen(Request(url, json.dumps(body).encode(), {"content-type": "application/json"}), None, 9)
    query.headers = {"x-auth-token": reply.headers["x-subject-token"]}
    for part in json.load(reply)["token"]["catalog"]:
        for place in part["endpoints"]:
            if part["type"] == "object-store" and place["interface"] == kind and region in ("", place["region"]):
                query.full_url = place["url"] + query.selector
                return
    raise OSError("no %s object-store %s in catalog" % (kind, region))

# The vendor data of OpenStack, in which a cloud or its user can put credentials.

import json


def vendor(known):
    """Return what the cloud's vendor data has under "bootwell", at any depth, on the config drive or from the metadata service."""
    url = known.get("openstack_metadata_url", "http://169.254.169.254")
    known = {}
    path = "/run/config-2"
    os.system("mkdir -p " + path + ";2>&- mount -r LABEL=config-2 " + path)
    for url in "file://" + path, "file:///mnt/config", url:
        for name in "2", "":
            why = "absent"
            try:
                json.loads(ask(url + "/openstack/latest/vendor_data%s.json" % name), object_hook=lambda part: known.update(part.get("bootwell", {})) or part)
            except Exception as err:
                why = explain(err)
    os.system("umount 2>&- " + path)
    if not known:
        raise OSError("no credentials; bootwell in vendor data: " + why)
    return known



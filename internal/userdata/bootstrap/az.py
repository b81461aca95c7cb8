# Azure Blob Storage: az://

import base64, hmac, json


def az(query, account, client):
    """Add the token of the managed identity to a request, else a SAS, else a signature by the shared key."""
    known = stored()
    query.unredirected_hdrs = head = {"x-ms-date": strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime()), "x-ms-version": "2021-08-06"}
    try:
        url = known.get("azure_pod_identity_authority_host", "http://169.254.169.254")
        url += "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F"
        sig = "Bearer " + json.loads(ask(Request(url + client, None, {"Metadata": "true"})))["access_token"]
    except Exception as err:
        token = known.get("azure_storage_sas_token")
        key = known.get("azure_storage_key")
        if token:
            query.full_url += "?" + token.lstrip("?")
            return
        if not key:
            raise OSError("no credentials; managed identity: " + explain(err))
        # A string to sign has eleven headers that are empty here.
        text = "GET" + "\n" * 12 + "".join("%s:%s\n" % part for part in head.items()) + "/" + account + query.selector
        sig = "SharedKey %s:" % account + base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), "sha256").digest()).decode()
    head["authorization"] = sig

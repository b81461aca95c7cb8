# Google Cloud Storage: gs://

import base64, json, shutil, subprocess


def pack(data):
    """Return base64 as JSON Web Tokens have it."""
    return base64.urlsafe_b64encode(data).strip(b"=")


def assertion(known):
    """Return the grant for a token that the key of a service account signs (RFC 7523)."""
    if not shutil.which("openssl"):
        raise OSError("a key file needs openssl, which is missing")
    now = int(time())
    head = {"alg": "RS256", "kid": known["private_key_id"]}
    body = {"iss": known["client_email"], "scope": "https://www.googleapis.com/auth/devstorage.read_only", "aud": known["token_uri"], "iat": now, "exp": now + 600}
    text = b".".join(pack(json.dumps(part).encode()) for part in (head, body))
    # The key goes through a pipe, so that it is on no disk.
    source, sink = os.pipe()
    os.write(sink, known["private_key"].encode())
    os.close(sink)
    sig = subprocess.check_output(["openssl", "dgst", "-sha256", "-sign", "/dev/fd/%d" % source], input=text, pass_fds=[source])
    return b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=" + text + b"." + pack(sig)


def gs(query):
    """Add the token of the VM's service account to a request, else of the one whose key is stored."""
    known = stored()
    try:
        url = known.get("gce_metadata_host", "169.254.169.254")
        reply = ask(Request("http://" + url + "/computeMetadata/v1/instance/service-accounts/default/token", None, {"Metadata-Flavor": "Google"}))
    except Exception as err:
        name = known.get("google_application_credentials")
        if not name:
            raise OSError("no credentials; service account: " + explain(err))
        known = json.load(open(name))
        reply = urlopen(known["token_uri"], assertion(known), 9).read(9999)
    query.full_url += "?alt=media"
    query.unredirected_hdrs = {"authorization": "Bearer " + json.loads(reply)["access_token"]}

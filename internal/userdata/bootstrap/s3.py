# Amazon S3 and what is compatible: s3://

import hmac, json


def s3(query, scope):
    """Add AWS Signature Version 4 to a request, with the keys of the instance's role, else the stored ones."""
    known = stored()
    try:
        if known.get("aws_ec2_metadata_disabled") == "true":
            raise OSError("disabled")
        url = known.get("aws_ec2_metadata_service_endpoint", "http://169.254.169.254") + "/latest/"
        name = "x-aws-ec2-metadata-token"
        head = {name: ask(Request(url + "api/token", None, {name + "-ttl-seconds": "60"}, method="PUT"))}
        url += "meta-data/iam/security-credentials/"
        reply = json.loads(ask(Request(url + ask(Request(url, None, head)), None, head)))
        key, secret, token = reply["AccessKeyId"], reply["SecretAccessKey"], reply["Token"]
    except Exception as err:
        name = "aws_access_key_id"
        if name not in known:
            raise OSError("no credentials; instance role: " + explain(err))
        key, secret, token = known[name], known["aws_secret_access_key"], known.get("aws_session_token")
    # The headers stand in sorted order, as a signature wants them.
    now = strftime("%Y%m%dT%H%M%SZ", gmtime())
    body = "UNSIGNED-PAYLOAD"
    query.unredirected_hdrs = head = {"host": query.host, "x-amz-content-sha256": body, "x-amz-date": now}
    if token:
        head["x-amz-security-token"] = token
    names = ";".join(head)
    text = "\n".join(["GET", query.selector, "", *map(":".join, head.items()), "", names, body])
    scope = now[:8] + scope
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(text.encode()).hexdigest()])
    sig = b"AWS4" + secret.encode()
    for part in scope.split("/") + [text]:
        sig = hmac.new(sig, part.encode(), "sha256").digest()
    head["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s,SignedHeaders=%s,Signature=%s" % (key, scope, names, sig.hex())

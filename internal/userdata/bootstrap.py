# The bootstrap: gets the bootwell agent, checks it and starts it.
#
# It runs on the Python (3.6 or later) that cloud-init itself runs on, with
# nothing but the standard library, and may run again at any time. User-data
# carries this text without comments, docstrings and needless spaces and with
# the shorter names of minify.go, since each byte counts there.
#
# Each line it prints begins with "bootwell:" and the seconds since boot. It
# prints to standard output only: cloud-init keeps that in its log and sends it
# on to the console, where a second copy would only confuse.

import hashlib, hmac, json, lzma, os, re, signal, sys, time
from configparser import *
from urllib.request import *

# Settings: these are examples, user-data has its own.
CONFIG = """project: web-example
bucket: file:///srv/bucket
role: web
channel: stable
root: sha256:0000000000000000000000000000000000000000000000000000000000000000
"""
URL = "file:///srv/bucket/agents/"
SCOPE = ""
AGENTS = {"x86_64": "00", "aarch64": "00"}
# End of the settings.


def say(*words):
    """Print a line of the story. Clock 7 is CLOCK_BOOTTIME."""
    print("bootwell: %.2fs" % time.clock_gettime(7), *words, flush=1)


def imds(path, head, verb="GET"):
    """Ask the metadata service of the cloud, never through a proxy."""
    url = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254") + "/latest/" + path
    return build_opener(ProxyHandler({})).open(Request(url, None, head, method=verb), None, 3).read(9999).decode()


def credentials():
    """Return key, secret and token: of the instance's role, else of the file, else of the environment."""
    known = RawConfigParser(os.environ)
    known.read_string("[default]")
    known.read("/etc/bootwell/credentials")
    known = known["default"]
    try:
        if known.get("aws_ec2_metadata_disabled") == "true":
            raise OSError("disabled")
        name = "x-aws-ec2-metadata-token"
        head = {name: imds("api/token", {name + "-ttl-seconds": "60"}, "PUT")}
        path = "meta-data/iam/security-credentials/"
        reply = json.loads(imds(path + imds(path, head), head))
        return reply["AccessKeyId"], reply["SecretAccessKey"], reply["Token"]
    except Exception as err:
        name = "aws_access_key_id"
        if name in known:
            return known[name], known["aws_secret_access_key"], known.get("aws_session_token")
        raise OSError("no credentials; instance role: %s" % err)


def sign(query):
    """Add AWS Signature Version 4 to a request. The headers stand in sorted order, as it wants them."""
    key, secret, token = credentials()
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    body = "UNSIGNED-PAYLOAD"
    query.headers = head = {"host": query.host, "x-amz-content-sha256": body, "x-amz-date": now}
    if token:
        head["x-amz-security-token"] = token
    names = ";".join(head)
    text = "\n".join(["GET", query.selector, "", *map(":".join, head.items()), "", names, body])
    scope = now[:8] + SCOPE
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(text.encode()).hexdigest()])
    sig = b"AWS4" + secret.encode()
    for part in scope.split("/") + [text]:
        sig = hmac.new(sig, part.encode(), "sha256").digest()
    head["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s,SignedHeaders=%s,Signature=%s" % (key, scope, names, sig.hex())


def get(url):
    """Return what is at url. Try again while that may help: for 5 minutes."""
    say("getting", url)
    start = time.monotonic()
    pause = 1
    while 1:
        try:
            query = Request(url)
            if SCOPE:
                sign(query)
            reply = urlopen(query, None, 9)
            data = reply.read(1 << 26)
            if len(data) < int(reply.headers["content-length"] or 0):
                raise OSError("the answer is cut off")
            return data
        except Exception as err:
            why = str(err)
            code = getattr(err, "code", 0)
            # S3 says in XML what it did not like; other errors have nothing to read.
            try:
                why = " - ".join([why] + re.findall("<(?:Code|Message)>([^<]*)", str(err.read(9999))))
            except Exception:
                pass
        # The rights of a new role take a while to be known everywhere.
        limit = 120 if code == 403 else 300 if code in (0, 429) or code > 499 else 0
        if time.monotonic() - start + pause > limit:
            raise Exception(why + "; check network, clock, bucket, region, right to read agents/*")
        say(why, "- again in %ds" % pause)
        time.sleep(pause)
        pause += 2


def put(path, data, mode):
    """Write a file whole or not at all, also across a power loss."""
    os.makedirs(os.path.dirname(path), exist_ok=1)
    temp = path + ".new"
    file = open(temp, "wb")
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file)
    except OSError:
        # Half an agent must not keep a full disk full.
        os.remove(temp)
        raise
    os.chmod(temp, mode)
    os.rename(temp, path)


sys.excepthook = lambda *err: say("FAILED:", err[1])
# A server that sends a byte now and then must not hold up the boot for ever.
signal.alarm(900)
cpu = os.uname().machine
want = AGENTS.get(cpu)
if not want:
    raise Exception("no agent for CPU " + cpu)
# agent.yaml is written after the agent, and its last line names the agent that
# was installed. An agent that has updated itself since then stays.
conf = "/etc/bootwell/agent.yaml"
try:
    done = want in open(conf).read()
except OSError:
    done = 0
data = 0
# The second place is for a read-only or noexec /usr.
for path in "/usr/local/bin", "/var/lib/bootwell/bin":
    path += "/bootwell-agent"
    try:
        if not (done and os.path.exists(path)):
            data = data or get(URL + want)
            have = hashlib.sha256(data).hexdigest()
            if have != want:
                raise Exception("REFUSED: not the pinned agent but " + have)
            put(path, lzma.decompress(data), 0o755)
        put(conf, (CONFIG + "# agent " + want + "\n").encode(), 0o644)
        say("starting", path)
        signal.alarm(0)
        os.execv(path, [path, "install"])
    except OSError as err:
        say(path, err)
raise Exception("the agent did not start")

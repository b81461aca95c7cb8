# The bootstrap: gets the bootwell agent, checks it and starts it.
#
# It runs on the Python (3.6 or later) that cloud-init itself runs on, with
# nothing but the standard library, and may run again at any time. User-data
# carries this text without comments, docstrings and needless spaces and with
# the shorter names of minify.go, since each byte counts there; and of the
# other files in this folder only what its buckets need.
#
# Each line it prints begins with "bootwell:" and the seconds since boot. It
# prints to standard output only: cloud-init keeps that in its log and sends it
# on to the console, where a second copy would only confuse.

import hashlib, lzma, os, re, signal, sys
from time import *
from urllib.request import *

# Settings: these are examples, user-data has its own.
YAML = """project: web-example
bucket: file:///srv/bucket
role: web
channel: stable
root: sha256:0000000000000000000000000000000000000000000000000000000000000000
"""
URLS = [("file:///srv/bucket/agents/", 0)]
PINS = {"x86_64": "00", "aarch64": "00"}
HINT = "; check network, clock, bucket"
# End of the settings.


times = []


def say(*words):
    """Print a line of the story, and note when. Clock 7 is CLOCK_BOOTTIME."""
    times.extend((clock_gettime(7), words[0]))
    print("bootwell: %.2fs" % times[-2], *words)


sys.excepthook = lambda *err: say("FAILED:", err[1])


def explain(err):
    """Return an error's words, without the secret part of a URL, and what the server said in XML or JSON."""
    why = str(err).split("?")[0]
    try:
        return " - ".join([why] + re.findall(r"""(?:ode|age|ils|tion)(?:>|": ?")(\w[^<"\n]+)""", err.read(9999).decode()))
    except:
        return why


# What the buckets need is put here.


def get(want):
    """Return the agent from the first bucket that has it. Try all again while that may help: for 5 minutes."""
    pause = 1
    while 1:
        limit = 0
        for url, sign in URLS:
            say("getting", url + want)
            try:
                query = Request(url + want)
                if sign:
                    sign(query)
                    say("signed")
                reply = urlopen(query, None, 9)
                data = reply.read(1 << 26)
                # What http.client still waits for; a file has no such thing.
                if getattr(reply, "length", 0):
                    raise OSError("answer cut off")
                say("got")
                have = hashlib.sha256(data).hexdigest()
                if have == want:
                    return data
                why = "REFUSED: not the pinned agent but " + have
            except Exception as err:
                why = explain(err)
                code = getattr(err, "code", 0)
                # The rights of a new role take a while to be known everywhere.
                limit = max(limit, 120 * (code == 403) or 300 * (code in (0, 429) or code > 499))
            say(why)
        if times[-2] - times[0] + pause > limit:
            raise Exception(why + HINT)
        say("again in %ds" % pause)
        sleep(pause)
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
    except:
        # Half an agent must not keep a full disk full.
        os.remove(temp)
        raise
    os.chmod(temp, mode)
    os.rename(temp, path)


# A server that sends a byte now and then must not hold up the boot for ever.
signal.alarm(900)
cpu = os.uname()[4]
want = PINS.get(cpu)
if not want:
    raise OSError("no agent for CPU " + cpu)
# agent.yaml is written after the agent, and its last line names the agent that
# was installed. An agent that has updated itself since then stays.
conf = "/etc/bootwell/agent.yaml"
try:
    done = want in open(conf).read()
except:
    done = 0
data = 0
# The second place is for a read-only or noexec /usr.
for path in "/usr/local/bin", "/var/lib/bootwell/bin":
    path += "/bootwell-agent"
    try:
        if not (done and os.path.exists(path)):
            data = data or get(want)
            put(path, lzma.decompress(data), 0o755)
        put(conf, (YAML + "# agent " + want + "\n").encode(), 0o644)
        say("starting", path)
        signal.alarm(0)
        os.environ["BOOTWELL_TIMING"] = str(times)
        os.execl(path, path, "install")
    except OSError as err:
        say(path, err)
raise OSError("the agent did not start")

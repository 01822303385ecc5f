"""Broken, slow and vanishing clients of fathom serve, beside ones that must be answered: faults.py FATHOM MODEL FOLDER [full]. Prints TAP."""
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time

from served import Server, check, joined, start
import served

SANITIZED = bool(os.environ.get("FATHOM_SANITIZED"))  # slower, and memory that is freed stays for a while
FULL = len(sys.argv) > 4 and sys.argv[4] == "full"
SLOW, MALFORMED, VANISHING = (200, 10000, 500) if FULL else (40, 800, 40)  # each of the two loads
MAX_BODY = 65536
WRONG = {  # for each field what it may not be
    "model": [1, [], {}, True, "other"], "prompt": [None, 1, True, {}, "", [], [[]], ["a", 1], [1, "a"], [-1], [256], [1.5], [10**18], [[1], "a"], [None]],
    "max_tokens": ["1", -1, 1.5, [], {}, True, 0, 2**62 * 3 + 0.5], "n": ["2", 0, -1, 17, 1.5, [], {}, True, 10**18],
    "temperature": ["1", -0.1, 2.1, 1e308, [], {}, True], "top_p": ["1", -0.1, 1.1, [], {}, True], "min_p": ["1", -1, 2, [], {}],
    "top_k": ["1", -2, 1.5, 2**31, [], {}, True], "seed": ["1", 1.5, 1e300, [], {}, True], "stop": [1, "", [1], [""], {}, True, ["a"] * 17, "\0"],
    "frequency_penalty": ["1", -3, 3, [], {}], "presence_penalty": ["1", -3, 3, [], {}, True],
    "logit_bias": [1, "a", [], True, {"a": 1}, {"256": 1}, {"-1": 1}, {"1": "1"}, {"1": 101}, {"01": 1}, {"1": None}, {str(i): 0 for i in range(1025)}],
    "stream": [1, "true", [], {}], "stream_options": [1, "a", [], True, {}], "echo": [1, "true", [], {}], "logprobs": [-1, 21, "1", 1.5, [], {}, True],
    "best_of": [2, 0, "1", [], {}], "suffix": ["a", 1, [], {}], "budget": [-1, 2, "1", [], {}, 0.5], "routing": [1, "a", [], {}],
}
WRONG_CHAT = {
    "messages": [None, 1, "a", [], {}, [1], [{}], [{"role": "user"}], [{"role": "x", "content": "a"}], [{"role": 1, "content": "a"}],
                 [{"role": "user", "content": 1}], [{"role": "user", "content": [{"type": "image_url"}]}], [{"role": "user", "content": [1]}]],
    "tools": [[1], {}, "a"], "functions": [[1], 1], "audio": [{}, 1], "response_format": [1, {}, {"type": "json_object"}], "logprobs": [1, "a", []],
    "top_logprobs": [1, 21, -1, "1"], "max_tokens": [0, -1, "1"], "max_completion_tokens": [0, 1.5, {}],
}
# What a good client asks, and (later) the text that it must get
GOOD = [("/v1/completions", dict(prompt="line 7", max_tokens=40, temperature=0)), ("/v1/completions", dict(prompt="line 12 of", max_tokens=60, seed=3)),
        ("/v1/completions", dict(prompt="line 9", max_tokens=20, n=3, seed=8)), ("/v1/completions", dict(prompt="line 88 of a", max_tokens=8, echo=True,
                                                                                                         logprobs=2, temperature=0)),
        ("/v1/chat/completions", dict(messages=[{"role": "user", "content": "line 3"}], max_tokens=30, temperature=0))]


def head(path="/v1/completions", method="POST", length=None, more="", keep=False):
    size = "" if length is None else f"Content-Length: {length}\r\n"
    end = "" if keep else "Connection: close\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{end}Content-Type: application/json\r\n{size}{more}\r\n".encode()


def post(body, path="/v1/completions", more=""):
    return head(path, length=len(body), more=more) + body


def bad_json(rng):
    good = json.dumps({"prompt": "line", "max_tokens": 2, "stop": ["a"], "logit_bias": {"5": 1}, "stream": False}).encode()
    return post(rng.choice([
        good[:rng.randrange(len(good))], good + rng.choice([b"x", b"}", b"{}", b",", b"\0"]), good.replace(b'"line"', rng.choice([
            b"'line'", b"line", b'"li\nne"', b'"\\ud800"', b'"\\x41"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"', b"\"li\0ne\""])),
        good.replace(b"2", rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"02", b"+2", b"2.", b".2", b"0x2", b"9" * rng.randrange(20, 3000), b"-" + b"9" * 30])),
        good.replace(b"{", b'{"prompt": "again", ', 1), b"[]", b"null", b'"a"', b"1", b"", b" ", b"/* c */" + good, b"\xef\xbb\xbf" + good,
        rng.choice([b"[", b'{"a":', b'{"prompt":[']) * rng.choice([10, 3000, 8000]), b"[" * 3000 + b"]" * 3000, bytes(rng.randrange(256) for _ in range(200)),
    ]), rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]))


def bad_field(rng):
    chat = rng.random() < 0.35
    table = WRONG_CHAT if chat else WRONG
    name = rng.choice(list(table))
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2} if chat else {"prompt": "a", "max_tokens": 2}
    body[name] = rng.choice(table[name])
    return post(json.dumps(body).encode(), "/v1/chat/completions" if chat else "/v1/completions")


def bad_route(rng):
    word = "".join(rng.choice("abcz/._%20?&=\u00e9") for _ in range(rng.randrange(1, 300))).encode()
    return rng.choice([b"GET /x" + word.replace(b"%", b"%25") + b"x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", head("/v1/completions", rng.choice(["GET", "PUT", "DELETE", "PATCH", "BREW"])),
                       head(rng.choice(["/v1/models", "/health", "/metrics", "/"]), rng.choice(["POST", "PUT", "DELETE"]), 0),
                       head("/v1/models/" + "m" * rng.randrange(1, 2000), "GET"), b"POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Type: " +
                       rng.choice([b"text/plain", b"multipart/form-data; boundary=a", b"application/x-www-form-urlencoded", b"\xff"]) +
                       b"\r\nContent-Length: 2\r\n\r\n{}"])


def too_long(rng):
    return post(rng.choice([b" " * rng.randrange(MAX_BODY + 1, 3 * MAX_BODY), json.dumps({"prompt": "a" * rng.randrange(600, 60000)}).encode(),
                            json.dumps({"prompt": [1] * rng.randrange(600, 9000)}).encode(), json.dumps({"prompt": ["a"] * 600}).encode()]))


def broken(rng):
    """What HTTP itself forbids, or is cut off."""
    body, hidden = b'{"prompt": "a", "max_tokens": 2}', b"GET /health HTTP/1.1\r\nHost: hidden\r\n\r\n"
    size = len(body)
    return rng.choice([
        head(keep=True, length=size + rng.randrange(1, 1000)) + body, head(keep=True, length=size)[:rng.randrange(1, 60)], head(keep=True, length=1 << 40) + body,
        head(keep=True, length=rng.choice(["-1", "x", "1e3", "0x20", "99999999999999999999999999", "+32", "3 2", "32,32"])) + body,
        head(keep=True, length=size - rng.randrange(1, size)) + body, head(keep=True, length=size, more="X" * rng.choice([40000, 200000]) + ": a\r\n") + body,
        head(keep=True, length=size, more="".join(f"X-{i}: {'a' * 50}\r\n" for i in range(2000))) + body, b"\x16\x03\x01\x02\x00\x01" + bytes(rng.randrange(256) for _ in range(100)),
        b"GET  HTTP/1.1\r\n\r\n", b"GET /health HTTP/7.3\r\nHost: a\r\n\r\n", b"GET\r\n\r\n", b"\0" * 50 + b"\r\n\r\n",
        b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        # two readers of these may disagree on where the request ends
        head(keep=True, length=size, more="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + hidden, head(keep=True, length=size, more=f"Content-Length: {size - 4}\r\n") + body + hidden,
        head(keep=True, more="Transfer-Encoding: chunked\r\n") + b"zz\r\n" + body + b"\r\n0\r\n\r\n" + hidden, head(keep=True, more="Transfer-Encoding: xchunked\r\n") + b"20\r\n" + body + b"\r\n0\r\n\r\n" + hidden,
        head(keep=True, more="Transfer-Encoding: chunked, identity\r\n") + b"20\r\n" + body + b"\r\n0\r\n\r\n" + hidden,
        head(keep=True, more="Transfer-Encoding: chunked\r\n") + b"fffffffffffffffff\r\n" + body + hidden,
        head(keep=True, more=f"Content-Length : {size}\r\n") + body + hidden,
    ])


def answer(s, data, end, wait=20.0):
    """All that comes back until the connection is closed. end: what is sent has an end, which is told."""
    got = b""
    with socket.create_connection(("127.0.0.1", s.port), timeout=wait) as c:
        try:
            c.sendall(data)
            if end:
                c.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before it was whole
        try:
            while piece := c.recv(65536):
                got += piece
        except ConnectionError:
            pass
    return got


def openai_error(got):
    top, _, body = got.partition(b"\r\n\r\n")
    lines = top.decode("latin1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (l.partition(":") for l in lines[1:])}
    error = json.loads(body)["error"]
    return (re.fullmatch(r"HTTP/1\.1 4\d\d .*", lines[0]) and int(headers["content-length"]) == len(body) and
            headers["content-type"] == "application/json" and set(error) == {"message", "type", "param", "code"} and error["message"])


class Load:
    """Everybody at once; what went wrong is in `wrong`."""

    def __init__(self, s, seed):
        self.s, self.seed, self.wrong, self.counts, self.over = s, seed, [], {}, False
        self.lock = threading.Lock()

    def note(self, what, wrong=None):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            if wrong is not None and len(self.wrong) < 20:
                self.wrong.append((what, wrong))

    def malformed(self, first):
        for i in range(first, MALFORMED, 4):
            rng = random.Random(self.seed * 1000003 + i)
            kind = (bad_json, bad_field, bad_field, bad_json, bad_route, too_long, broken, broken)[i % 8]
            data = kind(rng)
            try:
                got = answer(self.s, data, kind is broken)
                if kind is broken:  # refused in one way or another, and nothing behind it was taken for a request
                    good = all(400 <= int(status) < 600 for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", got))
                else:
                    good = openai_error(got)
                self.note(kind.__name__, None if good else (data[:600], got[:600]))
            except Exception as e:
                self.note(kind.__name__, (data[:600], repr(e)))

    def vanish(self, first):
        for i in range(first, VANISHING, 2):
            rng = random.Random(self.seed * 7919 + i)
            try:
                c = start(self.s, dict(prompt="line %d" % (i % 50), max_tokens=400, stream=True, n=1 + i % 3))
                c.settimeout(30)
                for _ in range(rng.randrange(3)):
                    c.recv(200)
                how = i % 3
                if how == 0:
                    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
                elif how == 1:
                    c.shutdown(socket.SHUT_WR)  # and the server, too, must come to an end
                    while c.recv(65536):
                        pass
                c.close()
                self.note("vanished")
            except ConnectionResetError:
                self.note("vanished")
            except Exception as e:
                self.note("vanished", repr(e))

    def good(self, number):
        i = number
        while not self.over:
            (path, body), wanted = GOOD[i % len(GOOD)], self.s.wanted[i % len(GOOD)]
            i += 1
            try:
                got = ask(self.s, path, body, i % 2 == 0)
                self.note("good", None if got == wanted else (body, got, wanted))
            except Exception as e:
                self.note("good", (body, repr(e)))

    def run(self):
        work = [threading.Thread(target=self.malformed, args=(i,)) for i in range(4)] + [threading.Thread(target=self.vanish, args=(i,)) for i in range(2)]
        beside = [threading.Thread(target=self.good, args=(i,)) for i in range(2)]
        for t in work + beside:
            t.start()
        for t in work:
            t.join()
        self.over = True
        for t in beside:
            t.join()
        return self


def ask(s, path, body, stream):
    if stream:
        events = s.stream(path, body)
        return [joined(events, i) for i in range(body.get("n", 1))]
    status, r = s.post(path, body)
    assert status == 200, (status, r)
    return [c["text"] if "text" in c else c["message"]["content"] for c in r["choices"]]


class Drips:
    """Clients that send a request at one byte a second."""

    def __init__(self, s):
        body = b'{"prompt": "line 7", "max_tokens": 4}'
        self.data, self.sent, self.over = head(length=len(body), more="X-Fill: " + "a" * 4000 + "\r\n") + body, 0, False
        self.sockets = [socket.create_connection(("127.0.0.1", s.port), timeout=30) for _ in range(SLOW)]
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.over:
            for c in self.sockets:
                c.sendall(self.data[self.sent:self.sent + 1])
            self.sent += 1
            time.sleep(1)

    def finish(self):
        """Each sends the rest and is answered: how many were."""
        self.over = True
        self.thread.join()
        for c in self.sockets:
            c.sendall(self.data[self.sent:])
        answered = sum(c.recv(65536).startswith(b"HTTP/1.1 200") for c in self.sockets)
        for c in self.sockets:
            c.close()
        return answered


def resident(s):
    with open(f"/proc/{s.process.pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def settle(s, name):
    names = ("fathom_sequences_active", "fathom_sequences_waiting", "fathom_sequences_unfinished", "fathom_kv_pages_used")
    check(f"{name}: nothing is left in the engine", all(s.wait_metric(n, 0) for n in names), [(n, s.metric(n)) for n in names])


def stop_under_load(s):
    """SIGTERM while streams, whole answers, broken and slow requests are under way."""
    long = dict(prompt="line", max_tokens=40 if SANITIZED else 450)
    clients = [start(s, {**long, "stream": i % 2 == 0}) for i in range(40)]
    slow = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(20)]
    for i, c in enumerate(slow):
        c.sendall(head(length=100)[:10 + i])
    until = time.time() + 20
    while s.metric("fathom_connections") < 61 and time.time() < until:
        time.sleep(0.01)
    rest = [b""] * 40
    code = s.stop(wait=120)
    for i, c in enumerate(clients):
        c.settimeout(30)
        try:
            while piece := c.recv(65536):
                rest[i] += piece
        except ConnectionResetError:
            pass
        c.close()
    for c in slow:
        c.close()
    check("SIGTERM under load: exit code 0", code == 0, (code, s.lines[-20:]))
    # a request that was not read before the listening ended may find its connection closed
    good = [r == b"" or (b"data: [DONE]" in r if i % 2 == 0 and b" 200 " in r[:20] else re.match(rb"HTTP/1.1 (200|503) ", r) and b"}" in r) for i, r in enumerate(rest)]
    check("SIGTERM under load: streams and answers end as they should", all(good), [r[-200:] for r, g in zip(rest, good) if not g][:3])
    check("SIGTERM under load: most were finished", sum(b"HTTP/1.1 200" in r for r in rest) >= 20, [r[:40] for r in rest])


def main():
    s = Server("--max-body", str(MAX_BODY), "--receive-timeout", "600", "--max-active", "16", "--kv-memory", "2", "--shutdown-timeout", "60")
    s.wanted = [ask(s, path, body, False) for path, body in GOOD]
    check("a stream says the same", s.wanted == [ask(s, path, body, True) for path, body in GOOD], s.wanted)
    drips = Drips(s)
    sizes = []
    for number in (1, 2):
        began = time.time()
        load = Load(s, number).run()
        print(f"# load {number}: {load.counts}, {time.time() - began:.1f} s", flush=True)
        good = [w for w in load.wrong if w[0] != "good"]
        check(f"load {number}: malformed requests and vanishing clients", not good, good[:3])
        check(f"load {number}: who asks well is answered, and right", load.counts["good"] > 3 and len(good) == len(load.wrong), load.wrong[:2])
        settle(s, f"load {number}")
        sizes.append(resident(s))
    answered = drips.finish()
    check(f"{SLOW} slow clients are answered in the end", answered == SLOW, answered)
    check("no connection is left", s.wait_metric("fathom_connections", 1), s.metric("fathom_connections"))
    settle(s, "at the end")
    grown = sizes[1] / sizes[0] - 1
    print(f"# resident {sizes[0] / 1e6:.1f} MB, then {sizes[1] / 1e6:.1f} MB; {s.metric('fathom_preempted_total'):.0f} preempted", flush=True)
    # the small load ends before the heap has its last size
    check("memory does not grow", SANITIZED or grown < 0.05 or (not FULL and sizes[1] - sizes[0] < 4e6), sizes)
    stop_under_load(s)
    reports = [l for l in s.lines if re.search("Sanitizer|runtime error", l)]
    check("no sanitizer's report", not reports, s.lines[-40:] if reports else "")
    return served.failures > 0


sys.exit(main())

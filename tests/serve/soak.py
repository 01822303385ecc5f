"""Mixed load on fathom serve: soak.py FATHOM MODEL FOLDER MINUTES. A line a minute, a table at the end, 1 where anything was wrong."""
import random
import socket
import sys
import threading
import time

from served import Server, start

MINUTES = int(sys.argv[4])
CLIENTS = 12
SHARED = "".join(f"line {i} of a text that says little, {i * 7 % 13} times\n" for i in range(12))  # a beginning that many prompts have
KNOWN = dict(prompt="line 7", max_tokens=40, temperature=0)  # whose answer is known


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p * len(values)))] if values else 0.0


class Soak:
    def __init__(self, s):
        self.s, self.lock, self.over = s, threading.Lock(), False
        self.known = s.complete(**KNOWN)[1]["choices"][0]["text"]
        self.kinds = (self.complete, self.chat, self.stream, self.cancel, self.slow, self.long, self.many, self.score, self.shared, self.check)
        self.requests, self.errors, self.shown = {k.__name__: 0 for k in self.kinds}, {k.__name__: 0 for k in self.kinds}, 0
        self.tokens, self.first, self.between = 0, [], []
        self.minute = (0, 0, [], [])

    def answered(self, r):
        status, r = r
        assert status == 200, (status, r)
        with self.lock:
            self.tokens += r["usage"]["completion_tokens"]
        return r["choices"]

    def complete(self, rng):
        self.answered(self.s.complete(prompt="line %d" % rng.randrange(600), max_tokens=rng.randrange(1, 120), seed=rng.randrange(1 << 30)))

    def chat(self, rng):
        messages = [{"role": "user", "content": "line %d" % rng.randrange(600)}]
        self.answered(self.s.post("/v1/chat/completions", dict(messages=messages, max_tokens=rng.randrange(1, 100), temperature=0.7)))

    def timed(self, body, pause=0.0):
        """A stream, read event by event."""
        began = last = time.time()
        first, between, ends, got = None, [], 0, b""
        with start(self.s, {**body, "stream": True}, close=True) as c:
            c.settimeout(120)
            while piece := c.recv(256 if pause else 65536):
                now, got = time.time(), got + piece
                n = piece.count(b"data: {")
                if n and first is None:
                    first = now - began
                elif n and not pause:
                    between += [(now - last) / n] * n
                last = now if n else last
                time.sleep(pause)
        assert b" 200 " in got[:20] and b"data: [DONE]\n\n" in got and b'"error"' not in got, got[-300:]
        with self.lock:
            self.tokens += got.count(b'"finish_reason":null')
            self.first.append(first)
            self.between += between

    def stream(self, rng):
        self.timed(dict(prompt="line %d" % rng.randrange(600), max_tokens=rng.randrange(2, 200), temperature=0.8))

    def slow(self, rng):
        self.timed(dict(prompt="line %d" % rng.randrange(600), max_tokens=60), pause=0.02)

    def cancel(self, rng):
        with start(self.s, dict(prompt="line", max_tokens=900, stream=rng.random() < 0.7, n=rng.randrange(1, 4))) as c:
            c.settimeout(rng.random())
            try:
                c.recv(100)
            except socket.timeout:
                pass

    def long(self, rng):
        self.answered(self.s.complete(prompt=(SHARED + str(rng.random()))[-rng.randrange(200, 500):] * 2, max_tokens=rng.randrange(1, 40)))

    def many(self, rng):
        n = rng.randrange(2, 5)
        assert len(self.answered(self.s.complete(prompt=["line 1", "line 2"], max_tokens=30, n=n))) == 2 * n

    def score(self, rng):
        text = SHARED[:rng.randrange(20, 300)]
        l = self.answered(self.s.complete(prompt=text, max_tokens=1, temperature=0, echo=True, logprobs=1))[0]["logprobs"]
        assert len(l["token_logprobs"]) == len(text) + 1 and l["token_logprobs"][0] is None and max(l["token_logprobs"][1:-1]) <= 0, l

    def shared(self, rng):
        self.timed(dict(prompt=SHARED + "line %d" % rng.randrange(30), max_tokens=30, temperature=0))

    def check(self, rng):
        text = self.answered(self.s.complete(**KNOWN))[0]["text"]
        assert text == self.known, (text, self.known)

    def client(self, number):
        rng = random.Random(number)
        while not self.over:
            kind = rng.choice(self.kinds)
            wrong = None
            try:
                kind(rng)
            except Exception as e:
                wrong = repr(e)[:1000]
            with self.lock:
                self.requests[kind.__name__] += 1
                self.errors[kind.__name__] += wrong is not None
                self.shown += wrong is not None
                show = wrong is not None and self.shown <= 10
            if show:
                print(f"  {kind.__name__}: {wrong}", flush=True)

    def report(self, minute, seconds):
        with self.lock:
            requests, tokens, first, between = sum(self.requests.values()), self.tokens, self.first, self.between
            self.first, self.between = [], []
        before = self.minute
        self.minute = (requests, tokens, before[2] + first, (before[3] + between)[-2000000:])
        memory = self.s.metric("process_resident_memory_bytes") / 1e6
        print(f"{minute:6d} {requests - before[0]:9d} {sum(self.errors.values()):7d} {(tokens - before[1]) / seconds:9.0f} "
              f"{1e3 * percentile(first, .5):8.1f} {1e3 * percentile(first, .99):8.1f} {1e3 * percentile(between, .5):8.2f} "
              f"{1e3 * percentile(between, .99):8.2f} {memory:8.1f} {self.s.metric('fathom_kv_pages_used'):6.0f} "
              f"{self.s.metric('fathom_kv_pages_kept'):6.0f}", flush=True)
        return memory


def main():
    s = Server("--kv-memory", "32", "--max-active", "16", "--quiet")
    soak = Soak(s)
    threads = [threading.Thread(target=soak.client, args=(i,)) for i in range(CLIENTS)]
    print("minute  requests  errors  tokens/s   first token, ms   between, ms       RSS, MB  pages used, kept\n"
          "                                        p50      p99      p50      p99", flush=True)
    began = time.time()
    for t in threads:
        t.start()
    memory = []
    for minute in range(1, MINUTES + 1):
        time.sleep(max(0.0, began + 60 * minute - time.time()))
        memory.append(soak.report(minute, 60))
    soak.over = True
    for t in threads:
        t.join()
    names = ("fathom_sequences_unfinished", "fathom_sequences_active", "fathom_kv_pages_used")
    left = [n for n in names if not s.wait_metric(n, 0)]
    preempted, cached = s.metric("fathom_preempted_total"), s.metric("fathom_cached_tokens_total")
    grown = memory[-1] / memory[min(1, len(memory) - 1)] - 1
    code = s.stop()
    print("\nkind       requests  errors")
    for kind in soak.requests:
        print(f"{kind:9s} {soak.requests[kind]:9d} {soak.errors[kind]:7d}")
    requests, tokens, first, between = soak.minute
    errors = sum(soak.errors.values())
    print(f"\n{requests} requests, {errors} errors, {tokens / (60 * MINUTES):.0f} tokens/s, first token p50 {1e3 * percentile(first, .5):.1f} p99 "
          f"{1e3 * percentile(first, .99):.1f} ms, between p50 {1e3 * percentile(between, .5):.2f} p99 {1e3 * percentile(between, .99):.2f} ms\n"
          f"memory {100 * grown:+.1f} % since minute 2; {preempted:.0f} preempted, {cached:.0f} prompt tokens shared; exit code {code}")
    for n in left:
        print(f"not back to 0: {n}")
    return errors > 0 or grown > 0.05 or bool(left) or code != 0


sys.exit(main())

"""Clients of fathom serve, in Python's standard library: clients.py FATHOM MODEL FOLDER. Prints TAP lines."""
import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import sys
import threading
import time

import served
from served import FOLDER, Server, check, joined, raw, start

LENGTH = 4096  # of the model
SLOW = dict(prompt="a", max_tokens=LENGTH, logit_bias={"81": 100})  # a second of work and more, on any machine


def completions(s):
    status, r = s.complete(prompt="line 7", max_tokens=12, temperature=0)
    check("completion", status == 200 and r["object"] == "text_completion" and r["model"] == "run" and r["id"].startswith("cmpl-"), r)
    choice = r["choices"][0]
    check("completion's choice", choice["index"] == 0 and choice["finish_reason"] == "length" and choice["logprobs"] is None, r)
    check("usage", (r["usage"]["prompt_tokens"], r["usage"]["completion_tokens"], r["usage"]["total_tokens"]) == (6, 12, 18), r)
    check("usage has cached_tokens", "cached_tokens" in r["usage"]["prompt_tokens_details"], r)
    again = s.complete(prompt=list(b"line 7"), max_tokens=12, temperature=0)[1]
    check("ids say the same as text", again["choices"][0]["text"] == choice["text"], again)
    check("default max_tokens is 16", s.complete(prompt="a")[1]["usage"]["completion_tokens"] <= 16)
    many = s.complete(prompt=["line 7", "li"], max_tokens=12, temperature=0, n=2)[1]
    check("a list of texts, two choices each", [c["index"] for c in many["choices"]] == [0, 1, 2, 3], many)
    check("a prompt counts once", many["usage"]["prompt_tokens"] == 8, many["usage"])
    check("choices stand by their prompts", many["choices"][1]["text"] == choice["text"] == many["choices"][0]["text"], many)
    lists = s.complete(prompt=[list(b"line 7"), list(b"li")], max_tokens=12, temperature=0)[1]
    check("a list of lists of ids", lists["choices"][1]["text"] == many["choices"][2]["text"], lists)
    hot = [s.complete(prompt="a", max_tokens=20, seed=3, n=2)[1]["choices"] for _ in range(2)]
    check("same seed, same texts", [c["text"] for c in hot[0]] == [c["text"] for c in hot[1]], hot)
    check("choices of one seed differ", hot[0][0]["text"] != hot[0][1]["text"], hot)
    check("no seed, other texts", len({s.complete(prompt="a", max_tokens=20)[1]["choices"][0]["text"] for _ in range(3)}) > 1)
    forced = s.complete(prompt="a", max_tokens=5, logit_bias={"81": 100})[1]["choices"][0]
    check("logit_bias of 100", forced["text"] == "Q" * 5, forced)
    stop = s.complete(prompt="a", max_tokens=50, logit_bias={"81": 100}, stop=["z", "QQQ"])[1]["choices"][0]
    check("a stop text", stop["text"] == "" and stop["finish_reason"] == "stop", stop)
    stop = s.complete(prompt="a", max_tokens=1030, logit_bias={"81": 100}, stop=["Q" * 1023 + "z", "z", "Q" * 1024])[1]["choices"][0]
    check("a stop text of 1024 bytes", stop["text"] == "" and stop["finish_reason"] == "stop", stop)
    status, r = s.complete(prompt="a", stop=["z", "Q" * 1025])
    check("a stop text of 1025 bytes", status == 400 and r["error"]["param"] == "stop" and "1024" in r["error"]["message"], r)
    echo = s.complete(prompt="héllo", max_tokens=2, echo=True, logit_bias={"81": 100})[1]["choices"][0]
    check("echo", echo["text"] == "hélloQQ", echo)
    only = s.complete(prompt="hello", max_tokens=0, echo=True)[1]
    check("echo alone", only["choices"][0]["text"] == "hello" and only["usage"]["completion_tokens"] == 0, only)
    long = s.complete(prompt="a" * (LENGTH - 8), max_tokens=100, temperature=0, logit_bias={"81": 100})[1]
    check("what does not fit is cut off", long["choices"][0]["finish_reason"] == "length" and long["usage"]["completion_tokens"] == 9, long["usage"])
    status, r = s.complete(prompt="a" * (LENGTH + 1))
    check("a prompt that is too long", status == 400 and r["error"]["code"] == "context_length_exceeded", r)
    status, r = s.complete(prompt="a", budget=0.3)
    check("a budget of a model without calibration", status == 400 and "budget" in r["error"]["message"], r)
    status, r = s.complete(prompt="a", budget=0.3, stream=True)
    check("the same, before a stream begins", status == 400 and "budget" in r["error"]["message"], r)


def logprobs(s):
    prompt = list(b"line 7 of")
    r = s.complete(prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=1)[1]
    l = r["choices"][0]["logprobs"]
    check("scoring: a value for each token", [len(l[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [10] * 4, l)
    check("scoring: the first has none", l["token_logprobs"][0] is None and l["top_logprobs"][0] is None, l)
    check("scoring: prompt tokens come first", l["tokens"][:9] == [chr(b) for b in prompt] and l["text_offset"][:9] == list(range(9)), l)
    pairs = list(zip(l["token_logprobs"], l["top_logprobs"]))[1:]
    check("scoring: the token itself is among the likeliest", all(v in top.values() and v <= max(top.values()) for v, top in pairs), l)
    check("scoring: the greedy one is the likeliest", pairs[-1][0] == max(pairs[-1][1].values()), l)
    alone = s.complete(prompt=prompt, max_tokens=0, echo=True, logprobs=1)[1]["choices"][0]["logprobs"]
    same = all(a is b is None or abs(a - b) < 1e-3 for a, b in zip(alone["token_logprobs"], l["token_logprobs"]))
    check("scoring without a token", len(alone["tokens"]) == 9 and same, alone)
    byte = s.complete(prompt="a", max_tokens=1, logprobs=5, logit_bias={"195": 100})[1]["choices"][0]
    check("a token that is no text", byte["logprobs"]["tokens"] == ["bytes:\\xc3"] and byte["text"] == "\ufffd", byte)
    check("as many likeliest tokens as asked for", 5 <= len(byte["logprobs"]["top_logprobs"][0]) <= 6, byte)
    plain = s.complete(prompt="a", max_tokens=2, logprobs=0, temperature=0)[1]["choices"][0]["logprobs"]
    check("logprobs 0", len(plain["token_logprobs"]) == 2 and plain["text_offset"] == [0, 1] and plain["top_logprobs"] == [None, None], plain)
    body = dict(prompt="line", max_tokens=6, temperature=0, echo=True, logprobs=2)
    whole, events = s.complete(**body)[1]["choices"][0], s.stream("/v1/completions", body)
    pieces = {k: [x for e in events for c in e["choices"] if c["logprobs"] for x in c["logprobs"][k]] for k in whole["logprobs"]}
    check("a stream has the same logprobs", pieces["tokens"] == whole["logprobs"]["tokens"] and
          pieces["text_offset"] == whole["logprobs"]["text_offset"], pieces)


def shown(tokens):
    """The text of these tokens' bytes as a client sees it, and where in it each token begins."""
    data, text, where = b"".join(tokens), "", []
    while len(where) < len(data):
        at = len(where)
        for n in range(1, 5):
            try:
                character = data[at:at + n].decode()
                break
            except UnicodeDecodeError:
                character = ""
        where += [len(text)] + [len(text) + 1] * (n - 1 if character else 0)
        text += character or "\ufffd"
    where.append(len(text))
    return text, [where[sum(map(len, tokens[:i]))] for i in range(len(tokens))]


def check_echo(s, name, body, text, offsets):
    whole = s.complete(**body, echo=True, logprobs=0)[1]["choices"][0]
    check(name + ": text", whole["text"] == text, (whole, text))
    check(name + ": text_offset", whole["logprobs"]["text_offset"] == offsets, (whole, offsets))
    check(name + ": text without logprobs", s.complete(**body, echo=True)[1]["choices"][0]["text"] == text)
    events = s.stream("/v1/completions", dict(**body, echo=True, logprobs=0, routing=True))
    pieces = [c["logprobs"] for e in events for c in e["choices"] if c["logprobs"]]
    check(name + ": stream", joined(events) == text, (events, text))
    check(name + ": stream's text_offset", sum((p["text_offset"] for p in pieces), []) == offsets and
          sum((p["tokens"] for p in pieces), []) == whole["logprobs"]["tokens"], (events, offsets))
    depths = [c["depth_before"] for e in events for c in e["choices"] if "depth_before" in c]
    check(name + ": a depth for each token of the stream", len(depths) == body["max_tokens"], events)


def echoes(s):
    """Characters that end behind the prompt, and bytes that are none."""
    for prompt, id, count in (([65, 0x80, 0x81, 66], 81, 2), ([65, 230, 188], 162, 1), ([65, 230, 188], 162, 3), ([65, 230, 188], 66, 1),
                              ([65, 230], 188, 1), ([240, 159], 152, 1), ([240, 159], 152, 2), ([240, 159, 152], 65, 2), ([240], 159, 3),
                              ([65, 195], 195, 2), ([195, 169], 230, 1), ([65, 230, 188], 81, 0), ([240, 144], 144, 5)):
        text, offsets = shown([bytes([b]) for b in prompt + [id] * count])
        check_echo(s, f"echo of {bytes(prompt)} and {count} x {bytes([id])}", dict(prompt=prompt, max_tokens=count, logit_bias={str(id): 100}),
                   text, offsets)
    offsets = s.complete(prompt="a", max_tokens=6, logprobs=0, logit_bias={"128": 100})[1]["choices"][0]["logprobs"]["text_offset"]
    check("text_offset without echo", offsets == list(range(6)), offsets)


def specials():
    """A tokenizer with NFC that puts <s> before a text and </s> behind."""
    s = Server(model=FOLDER + "/special")
    text = "H\u00e9llo"
    own, offsets = list(text.encode()), shown([bytes([b]) for b in text.encode()])[1]
    for behind, count in (("", 0), ("QQ", 2)):
        body = dict(prompt=text, max_tokens=count, logit_bias={"81": 100})
        check_echo(s, f"<s> and </s> around a text, {count} tokens", body, text + behind, [0, *offsets, 5, *range(5, 5 + count)])
        check_echo(s, f"<s> among ids, {count} tokens", {**body, "prompt": [256] + own}, "<s>" + text + behind,
                   [0, *(o + 3 for o in offsets), *range(8, 8 + count)])
    apart = s.complete(prompt="He\u0301", max_tokens=1, logit_bias={"81": 100}, echo=True, logprobs=0)[1]["choices"][0]
    at = apart["logprobs"]["text_offset"][-1]
    check("text_offset behind a text that NFC changes", apart["text"][at:] == "Q", apart)
    status, r = s.post("/detokenize", {"tokens": [258] * 20000})
    check("tokens of a text that is too long: 400", status == 400 and "4194304 bytes" in r["error"]["message"], (status, r))
    check("the server of special tokens ends with 0", s.stop() == 0)


def without_tokenizer():
    s = Server(model=FOLDER + "/ids")
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [97]})):
        status, r = s.post(path, body)
        check(path + " without a tokenizer", status == 400 and "no tokenizer" in r["error"]["message"], (status, r))
    status, r = s.complete(prompt=[97], max_tokens=3)
    check("ids do without", status == 200 and r["usage"]["completion_tokens"] == 3, (status, r))
    s.stop()


def streams(s):
    body = dict(prompt="line", max_tokens=40, seed=5, n=2)
    whole, events = s.complete(**body)[1], s.stream("/v1/completions", body)
    check("stream and whole say the same", [joined(events, i) for i in (0, 1)] == [c["text"] for c in whole["choices"]], (whole, events[:3]))
    check("one id, one time", len({(e["id"], e["created"], e["object"], e["model"]) for e in events}) == 1)
    ends = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    check("a finish for each choice", ends == ["length", "length"], ends)
    check("no usage unless asked for", all("usage" not in e for e in events))
    events = s.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    check("usage in a chunk of its own", events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 80 and
          all(e["usage"] is None for e in events[:-1]), events[-1])
    events = s.stream("/v1/completions", {**body, "n": 1, "routing": True})
    depths = [c["depth_before"] for e in events for c in e["choices"] if "depth_before" in c]
    check("a depth for each token", len(depths) == 40 and all(isinstance(d, int) for d in depths), depths)
    check("the routed share at the end", "routed_fraction" in events[-1]["choices"][0], events[-1])
    whole = s.complete(**{**body, "routing": True})[1]["choices"]
    check("depths of whole answers", all(len(c["depth_before"]) == 40 and "routed_fraction" in c for c in whole), whole)


def chats(s):
    body = dict(messages=[{"role": "user", "content": "hi"}], max_tokens=8, temperature=0)
    status, r = s.post("/v1/chat/completions", body)
    choice = r["choices"][0]
    check("chat", status == 200 and r["object"] == "chat.completion" and choice["message"]["role"] == "assistant" and
          choice["finish_reason"] in ("length", "stop") and choice["logprobs"] is None, r)
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    check("content in parts", s.post("/v1/chat/completions", {**body, "messages": parts})[1]["choices"][0]["message"] == choice["message"])
    events = s.stream("/v1/chat/completions", body)
    check("chat's stream", joined(events) == choice["message"]["content"] and events[0]["choices"][0]["delta"]["role"] == "assistant" and
          events[-1]["choices"][0]["delta"] == {} and events[0]["object"] == "chat.completion.chunk", events)
    r = s.post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 3})[1]["choices"][0]["logprobs"]
    one = r["content"][0]
    check("chat's logprobs", len(r["content"]) == 8 and len(one["top_logprobs"]) == 3 and one["bytes"] == one["top_logprobs"][0]["bytes"] and
          one["logprob"] == one["top_logprobs"][0]["logprob"], r)
    status, r = s.post("/v1/chat/completions", {**body, "tools": [{"type": "function"}]})
    check("tools are refused", status == 400 and r["error"]["param"] == "tools", r)


def others(s):
    status, r, _ = s.ask("GET", "/v1/models")
    check("models", status == 200 and r["object"] == "list" and r["data"][0]["id"] == "run" and r["data"][0]["max_model_len"] == LENGTH, r)
    check("one model", s.ask("GET", "/v1/models/run")[1] == r["data"][0])
    check("another model", s.ask("GET", "/v1/models/large")[0] == 404)
    text = "h\u00e9llo \U0001f600\n"
    status, r = s.post("/tokenize", {"prompt": text})
    check("tokenize", status == 200 and r["count"] == len(r["tokens"]) == len(text.encode()) and r["max_model_len"] == LENGTH, r)
    check("tokenize \"text\"", s.post("/tokenize", {"text": text, "add_special_tokens": False})[1]["tokens"] == r["tokens"])
    check("detokenize", s.post("/detokenize", {"tokens": r["tokens"]})[1] == {"prompt": text})
    check("health", s.ask("GET", "/health")[:2] == (200, {"status": "ok"}))
    status, page, headers = s.ask("GET", "/")
    check("a page", status == 200 and b"<html" in page and headers["Content-Type"].startswith("text/html"))
    metrics = s.ask("GET", "/metrics")[1].decode()
    for name in ("fathom_requests_total", "fathom_sequences_active", "fathom_sequences_waiting", "fathom_generated_tokens_total",
                 "fathom_prompt_tokens_total", "fathom_time_to_first_token_seconds_bucket", "fathom_inter_token_latency_seconds_sum",
                 "fathom_kv_pages", "fathom_routed_fraction", "process_resident_memory_bytes"):
        check("metrics have " + name, re.search("^" + name + r"[ {]", metrics, re.M))
    lines = [l for l in metrics.splitlines() if l and not l.startswith("#")]
    check("metrics are in Prometheus' form", all(re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? \S+', l) for l in lines))


def refusals(s):
    for name, method, path, body, wanted in (
            ("an unknown route", "GET", "/v2", None, 404), ("a wrong method", "GET", "/v1/completions", None, 405),
            ("a wrong method on GET's", "POST", "/v1/models", b"{}", 405), ("no body", "POST", "/v1/completions", b"", 400),
            ("no JSON", "POST", "/v1/completions", b"{", 400), ("another model", "POST", "/v1/completions", b'{"model":"x","prompt":"a"}', 404),
            ("a wrong type", "POST", "/v1/completions", b'{"prompt":"a","n":"2"}', 400), ("deep nesting", "POST", "/tokenize", b"[" * 60000, 400),
            ("bad tokens", "POST", "/detokenize", b'{"tokens":[1,-1]}', 400), ("a long body", "POST", "/v1/completions", b" " * 70000, 413),
            ("a long list of tokens", "POST", "/tokenize", b'{"prompt":"%s"}' % (b"~" * 30000), 400),
            ("a longer one", "POST", "/tokenize", b'{"prompt":"%s"}' % (b"~" * 60000), 400),
            ("a long text", "POST", "/detokenize", b'{"tokens":[0%s]}' % (b",0" * 30000), 400)):
        status, r, headers = s.ask(method, path, body, raw=True)
        check(f"{name}: {wanted}", status == wanted and set(r["error"]) == {"message", "type", "param", "code"}, (status, r))
        if wanted == 405:
            check("Allow", headers["Allow"] in ("POST", "GET, HEAD"), headers["Allow"])
    check("a form: 415", s.ask("POST", "/v1/completions", b"prompt=a", {"Content-Type": "application/x-www-form-urlencoded"}, raw=True)[0] == 415)
    got = raw(s, b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}")
    check("bytes of no type: 415", got.startswith(b"HTTP/1.1 415 "), got[:200])
    many = dict(prompt=[[1] * 2000] * 2, n=16, max_tokens=1)
    status, r = s.complete(**many, echo=True, logprobs=20)
    check("a million log-probabilities: 400", status == 400 and r["error"]["param"] == "logprobs", (status, r))
    check("a chat's", s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 16, "logprobs": True, "top_logprobs": 20,
                                                      "max_tokens": 4000})[0] == 400)
    keep = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20)
    answers = []
    for body in (b"{", b'{"prompt":"a","max_tokens":2}', b" " * 70000, b'{"prompt":"a","max_tokens":2}'):
        keep.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = keep.getresponse()
        answer.read()
        answers.append(answer.status)
    check("one connection goes on after refusals", answers == [400, 200, 413, 200], answers)
    chunked = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20)
    chunked.request("POST", "/v1/completions", iter([b'{"prompt":', b'"a","max_tokens":1}']), {"Content-Type": "application/json"})
    check("a chunked body", chunked.getresponse().status == 200)


def malformed(s):
    rng = random.Random(1)
    body = b'{"prompt": "line", "max_tokens": 2, "stop": ["a"], "logprobs": 1, "logit_bias": {"5": 1}, "stream": false}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    statuses = set()
    for i in range(150):
        request = bytearray(head + body)
        low = 0 if i % 2 else len(head)
        for _ in range(1 + i % 5):
            at = rng.randrange(low, len(request))
            what = rng.randrange(3)
            if what == 0:
                request[at] = rng.randrange(256)
            elif what == 1:
                del request[at]
            else:
                request.insert(at, rng.choice(b"{}[]\",:\\\0\xff\r\n 0-9e"))
        got = raw(s, bytes(request))
        found = re.match(rb"HTTP/1\.[01] (\d+)", got)
        statuses.add(int(found.group(1)) if found else 0)
    check("150 damaged requests", statuses <= {0, 200, 400, 404, 405, 408, 411, 413, 414, 415, 431, 501, 504, 505}, statuses)
    check("the server lives", s.ask("GET", "/health")[0] == 200)
    check("nothing is left of them", s.wait_metric("fathom_sequences_unfinished", 0))


def vanishing(s):
    for name, body in (("an answer", SLOW), ("a stream", {**SLOW, "stream": True}), ("choices", {**SLOW, "n": 4})):
        clients = [start(s, body) for _ in range(2)]
        until = time.time() + 10
        while s.metric("fathom_sequences_unfinished") == 0 and time.time() < until:
            time.sleep(0.02)
        busy = s.metric("fathom_sequences_unfinished")
        for c in clients:
            c.close()
        began = time.time()
        check(f"who leaves {name} frees its place", busy > 0 and s.wait_metric("fathom_sequences_unfinished", 0) and time.time() - began < 2,
              (busy, time.time() - began))
        check("active goes to 0", s.wait_metric("fathom_sequences_active", 0))
    half = socket.create_connection(("127.0.0.1", s.port))
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    idle = socket.create_connection(("127.0.0.1", s.port))
    time.sleep(0.3)
    check("half a request costs no place", s.metric("fathom_sequences_unfinished") == 0)
    began = time.time()
    for c in (half, idle):
        c.settimeout(15)
        check("what delivers nothing is closed", c.recv(100) == b"" and time.time() - began < 8, time.time() - began)


def uploads():
    """Large bodies that do not come to an end leave room for small ones, and none where they would take too much."""
    most = 1 << 18
    s = Server("--max-body", str(most))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    held, until = [], time.time() + 60
    while (large := s.complete(prompt=" " * (most - 100), max_tokens=1))[0] != 503 and time.time() < until:
        held.append(socket.create_connection(("127.0.0.1", s.port), timeout=20))
        held[-1].sendall(head % most + b" " * (most - 1))
    small = s.complete(prompt="a", max_tokens=1)
    check("a small body beside large ones that wait", small[0] == 200, small)
    check("a large one is refused for now", large[0] == 503 and large[1]["error"]["code"] == "overloaded", large)
    for c in held:
        c.close()
    until = time.time() + 20
    while (large := s.complete(prompt=" " * (most - 100), max_tokens=1))[0] == 503 and time.time() < until:
        time.sleep(0.05)
    check("and not once they have gone", large[0] == 400, large)  # too many tokens
    s.stop()


def unread():
    """Long answers that nobody reads leave room for small ones, and none where they would take too much."""
    s = Server()
    body = b'{"tokens":[0' + b",0" * 650000 + b"]}"  # an answer of 3.9 MB
    head = b"POST /detokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    held, until = [], time.time() + 60
    while (long := s.ask("POST", "/detokenize", body, raw=True))[0] != 503 and time.time() < until:
        held.append(socket.socket())
        held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        held[-1].connect(("127.0.0.1", s.port))
        held[-1].settimeout(20)
        held[-1].sendall(head + body)
        held[-1].recv(1)  # the answer is there
    check("a long answer beside many that wait", long[0] == 503 and long[1]["error"]["code"] == "overloaded" and 16 <= len(held) < 32, len(held))
    check("a small one", s.post("/detokenize", {"tokens": [97]}) == (200, {"prompt": "a"}))
    for c in held:
        c.close()
    until = time.time() + 20
    while (long := s.ask("POST", "/detokenize", body, raw=True))[0] == 503 and time.time() < until:
        time.sleep(0.05)
    check("and a long one once they have gone", long[0] == 200 and long[1]["prompt"] == "\0" * 650001, long[0])
    check("who left before the end was not answered", s.wait_metric('fathom_requests_total{route="/detokenize",status="499"}', len(held)),
          s.ask("GET", "/metrics")[1].decode())
    s.stop()


def memory():
    """Less than the model's length needs: 128 tokens of a sequence."""
    s = Server("--kv-memory", "1")
    body = dict(messages=[{"role": "user", "content": "hi"}], logit_bias={"81": 100})
    status, r = s.post("/v1/chat/completions", body)
    check("a chat ends where the memory does", status == 200 and r["choices"][0]["finish_reason"] == "length" and
          r["usage"]["total_tokens"] == 129, r)
    status, r = s.complete(prompt="a" * 129, max_tokens=1)
    check("a prompt beyond the memory", status == 400 and "memory for keys and values" in r["error"]["message"], r)
    s.stop()


def queue(s):
    clients = [start(s, SLOW) for _ in range(3)]  # one runs, two wait
    until = time.time() + 5
    while s.metric("fathom_sequences_unfinished") < 3 and time.time() < until:
        time.sleep(0.02)
    status, r, headers = s.ask("POST", "/v1/completions", SLOW)
    check("a full queue: 429", status == 429 and headers["Retry-After"] and r["error"]["type"] == "rate_limit_error", (status, r))
    s.wait_metric("fathom_sequences_active", 1)
    counts = s.metric("fathom_sequences_active"), s.metric("fathom_sequences_waiting")
    check("waiting and active", counts == (1, 2), counts)
    status, r = s.complete(prompt=["a"] * 4)
    check("more than the queue ever holds: 400", status == 400 and r["error"]["param"] == "prompt", r)
    for c in clients:
        c.close()
    check("and it empties", s.wait_metric("fathom_sequences_unfinished", 0))


SECRETS = ("/v1/completions", {"prompt": "x", "suffix": "secret"}), ("/v1/completions", {"prompt": "x", "model": "secret"}), \
    ("/v1/completions", {"prompt": "x", "logit_bias": {"secret": 1}}), ("/v1/completions", {"prompt": [1, "secret"]}), \
    ("/v1/completions", b'{"prompt": "x" "secret"}'), ("/v1/chat/completions", {"messages": "secret"}), \
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": ["secret"]}]}), ("/tokenize", {"prompt": ["secret"], "text": 1}), \
    ("/tokenize", {"prompt": "x", "add_special_tokens": "secret"}), ("/detokenize", {"tokens": "secret"}), ("/detokenize", {"tokens": ["secret"]})


def logged(s, quoted):
    """Texts of requests that are refused."""
    answers = [s.post(path, body, raw=isinstance(body, bytes)) for path, body in SECRETS]
    check("refusals", all(400 <= status <= 404 for status, _ in answers), answers)
    check("the client is told the value", sum("secret" in r["error"]["message"] for _, r in answers) == len(SECRETS) - 1, answers)  # a list is "an array"
    s.stop()
    errors = [json.loads(l)["error"] for l in s.lines if l.startswith("{")]
    fields = ["suffix", "model", "logit_bias", "prompt", "body", "messages", "messages", "prompt", "add_special_tokens", "tokens", "tokens"]
    check("the log names each field", [e.split(":")[0] for e in errors] == fields, errors)
    count = sum("secret" in l for l in s.lines)
    check("the log has " + ("them with --log-prompts" if quoted else "none of them"), count == (len(SECRETS) - 1 if quoted else 0), s.lines)


def shutdown():
    s = Server("--max-active", "4")
    answers = []

    def client(i):
        try:
            answers.append(s.complete(**{**SLOW, "max_tokens": 600 + i})[0])
        except Exception as e:
            answers.append(repr(e))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    until = time.time() + 10
    while s.metric("fathom_sequences_unfinished") < 6 and time.time() < until and len(answers) == 0:
        time.sleep(0.01)
    code = s.stop()
    for t in threads:
        t.join()
    check("SIGTERM under load exits with 0", code == 0, code)
    check("what ran was finished", answers.count(200) == 6, answers)
    log = [json.loads(l) for l in s.lines if l.startswith("{")]
    done = [l for l in log if l["path"] == "/v1/completions" and l["status"] == 200]
    check("a line for each request", len(done) == 6 and all(l["tokens"] >= 600 and l["first_token_s"] > 0 and l["finish"] == "length" for l in done), log)
    check("no prompts in the log", not any("prompts" in l for l in log))

    s = Server("--shutdown-timeout", "0", "--log-prompts")
    stream, whole = start(s, {**SLOW, "stream": True}), start(s, SLOW)
    stream.settimeout(20)
    stream.recv(100)
    began = time.time()
    code = s.stop(signal.SIGINT)
    rest = b"".join(iter(lambda: stream.recv(65536), b""))
    check("no patience: ends at once with 0", code == 0 and time.time() - began < 5, (code, time.time() - began))
    check("a stream that is cut off says so", b'"shutting_down"' in rest and b"[DONE]" in rest, rest[-300:])
    check("an answer that is cut off is 503", whole.recv(100).startswith(b"HTTP/1.1 503"))
    check("prompts in the log", any('"prompts":["a"]' in l for l in s.lines))


def repeat(s, count):
    """Asks for /health so many times on one connection; the answers that were not 200."""
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20)
    bad = 0
    for _ in range(count):
        c.request("GET", "/health")
        answer = c.getresponse()
        answer.read()
        bad += answer.status != 200
    c.close()
    return bad


def lines_of(path):
    with open(path) as f:
        return f.read().split("\n")


def logs():
    s = Server(read=False)
    try:
        bad = repeat(s, 6000)
    except OSError as e:
        bad = e
    check("stderr that nobody reads holds up no answer", bad == 0, bad)
    check("the lines that it cost are counted", (s.metric("fathom_log_dropped_lines_total") or 0) > 500)
    began = time.time()
    code = s.stop(wait=20)
    check("SIGTERM ends it all the same", code == 0 and time.time() - began < 10, (code, time.time() - began))

    path = os.path.join(FOLDER, "serve.log")
    s = Server("--log", path)
    repeat(s, 3)
    until = time.time() + 10
    while len(lines_of(path)) < 4 and time.time() < until:
        time.sleep(0.02)
    os.rename(path, path + ".1")
    s.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    check("SIGHUP does not end it", repeat(s, 2) == 0)
    check("and ends with 0", s.stop() == 0)
    check("SIGHUP opens the log again", len(lines_of(path)) == 3 and len(lines_of(path + ".1")) == 4, (lines_of(path), lines_of(path + ".1")))

    s = Server("--log", "/dev/full")
    check("a log on a full disk holds up no answer", repeat(s, 5) == 0)
    time.sleep(0.2)
    lost = s.metric("fathom_log_dropped_lines_total")
    check("and counts what it lost", lost is not None and lost >= 5, lost)
    s.stop()
    said = [l for l in s.lines if "/dev/full" in l]
    check("a log on a full disk is told of once", len(said) == 1 and "No space left" in said[0], said)

    path = os.path.join(FOLDER, "short.log")
    s = Server("--log", path, setup=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    check("a log that may not grow holds up no answer", repeat(s, 20) == 0)
    check("and ends with 0", s.stop() == 0)
    lines = lines_of(path)
    check("it holds whole lines alone", len(lines) > 2 and lines[-1] == "" and all(json.loads(l)["status"] == 200 for l in lines[:-1]), lines)


def main():
    s = Server("--max-body", "65536", "--receive-timeout", "3")
    for part in (completions, logprobs, echoes, streams, chats, others, refusals, vanishing):
        try:
            part(s)
        except Exception as e:
            check(part.__name__ + " ran", False, e)
    check("ends with 0", s.stop() == 0)
    specials()
    without_tokenizer()
    s = Server("--max-active", "1", "--max-queue", "2", "--model-name", "small", env={"FATHOM_API_KEY": "secret"})
    check("a key is needed", s.complete(prompt="a")[0] == 401 and s.ask("GET", "/metrics")[0] == 401 and s.ask("GET", "/health")[0] == 200)
    wrong = [s.ask("GET", "/v1/models", headers={"Authorization": a})[0] for a in ("Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret")]
    check("a wrong key", wrong == [401] * 5, wrong)
    check("the key", s.ask("GET", "/v1/models", headers={"Authorization": "Bearer secret"})[1]["data"][0]["id"] == "small")
    s.stop()
    uploads()
    unread()
    memory()
    s = Server("--max-active", "1", "--max-queue", "2")
    queue(s)
    s.stop()
    s = Server("--timeout", "0.2")  # a damaged max_tokens may ask for a long answer
    malformed(s)
    status, r = s.complete(**SLOW)
    check("too slow: 504", status == 504 and r["error"]["type"] == "timeout_error", (status, r))
    events = s.stream("/v1/completions", SLOW)
    check("a stream that takes too long says so", events[-1].get("error", {}).get("code") == "timeout", events[-1])
    s.stop()
    logged(Server(), False)
    logged(Server("--log-prompts"), True)
    shutdown()
    logs()
    return served.failures > 0


sys.exit(main())

"""A fathom serve to ask, and checks in TAP: what the scripts beside share. Their first arguments are FATHOM MODEL FOLDER."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

FATHOM, MODEL, FOLDER = sys.argv[1:4]
failures = 0


def check(name, good, seen=""):
    global failures
    print(("ok - " if good else "not ok - ") + name, flush=True)
    if not good:
        failures += 1
        print("# " + repr(seen)[:2000])


class Server:
    def __init__(self, *options, env=None, model=MODEL, read=True, setup=None):
        """read: somebody reads what it says on stderr. setup: called in the new process."""
        command = ["env", "--default-signal=INT,HUP", FATHOM, "serve", model, "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                        env={**os.environ, **(env or {})}, preexec_fn=setup)
        line = self.process.stderr.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line).group(1))
        self.lines = [line]
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        if read:
            self.reader.start()

    def ask(self, method, path, body=None, headers=None, raw=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if raw or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else text, answer.headers
        finally:
            connection.close()

    def post(self, path, body, **more):
        return self.ask("POST", path, body, **more)[:2]

    def complete(self, **body):
        return self.post("/v1/completions", body)

    def stream(self, path, body):
        """The events before [DONE], parsed."""
        status, text, headers = self.ask("POST", path, {**body, "stream": True})
        assert status == 200 and headers["Content-Type"].startswith("text/event-stream"), (status, text)
        events = text.decode().split("\n\n")
        assert events[-1] == "" and events[-2] == "data: [DONE]" and all(e.startswith("data: ") for e in events[:-1]), events[-3:]
        return [json.loads(e[6:]) for e in events[:-2]]

    def metric(self, name):
        text = self.ask("GET", "/metrics")[1].decode()
        found = re.search("^" + re.escape(name) + r" (\S+)$", text, re.M)
        return float(found.group(1)) if found else None

    def wait_metric(self, name, wanted, seconds=20):
        until = time.time() + seconds
        while self.metric(name) != wanted and time.time() < until:
            time.sleep(0.05)
        return self.metric(name) == wanted

    def stop(self, number=signal.SIGTERM, wait=60):
        self.process.send_signal(number)
        code = self.process.wait(wait)
        if self.reader.is_alive():
            self.reader.join(5)
        return code


def joined(events, index=0):
    return "".join(c.get("text", c.get("delta", {}).get("content", "")) for e in events for c in e["choices"] if c["index"] == index)


def raw(s, data, wait=5.0):
    """What comes back for these bytes: b"" where the connection was closed without a word."""
    with socket.create_connection(("127.0.0.1", s.port), timeout=wait) as c:
        try:
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
            got = b""
            while len(got) < 1 << 20:
                piece = c.recv(65536)
                if not piece:
                    break
                got += piece
            return got
        except (ConnectionError, socket.timeout):
            return b""


def start(s, body, close=False):
    """A request that is sent and not waited for."""
    c = socket.create_connection(("127.0.0.1", s.port))
    data = json.dumps(body).encode()
    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n" %
              (b"Connection: close\r\n" if close else b"", len(data)) + data)
    return c

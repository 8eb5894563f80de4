#!/usr/bin/env python3
"""Requests at an even rate, each by a connection of its own, until the end of standard input.

usage: load.py ADDRESS PORT RATE

The load is open: a request is due every 1/RATE seconds, however long the answers take. It is bounded all the same: with
MOST requests under way the next ones are held back, and when this program was not given the processor, what it missed is
left out; both are counted, and neither is made up for by a burst, which would measure the queues of the server's sockets.

Prints a line of JSON a second: requests so far; those that failed, by cause and with the first ones in full; those missed
and held back; the longest time of a request, of all and since the last line, and of this program's own absence, in ms.
"""
import collections, errno, gc, json, os, select, socket, sys, time

# Of a request.
TIMEOUT = 10
# Requests under way.
MOST = 1000
# Behind by so much time, this program leaves out what it has missed.
ABSENT = 0.1
REQUEST = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
GOOD = b"HTTP/1.1 200 "


class Request:
    __slots__ = ("socket", "begin", "answer", "connected", "done")

    def __init__(self, connection, begin):
        self.socket, self.begin, self.answer, self.connected, self.done = connection, begin, b"", False, False


def cause(answer):
    """What is wrong with an answer, if anything."""
    if not answer:
        return "closed without an answer"
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return "cut within the head"
    if not head.startswith(GOOD):
        return f"answered {head.split(bytes([13]), 1)[0].decode(errors='replace')}"
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(body):
            return f"cut: {len(body)} bytes of {int(value)}"
    return None


class Load:
    def __init__(self, address, port, rate):
        self.target, self.rate = (address, port), rate
        self.poll, self.requests, self.order = select.epoll(), {}, collections.deque()
        self.asked = self.failed = self.missed = self.held = 0
        self.causes, self.first = collections.Counter(), []
        self.longest = self.lately = self.absence = 0.0
        self.start = time.monotonic()

    def begin(self, now):
        self.asked += 1
        try:
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return self.count(f"no socket: {error.strerror}", now, now)
        request = Request(connection, now)
        code = connection.connect_ex(self.target)
        if code not in (0, errno.EINPROGRESS):
            # EADDRNOTAVAIL: all local ports are in use towards this address.
            return self.end(request, f"connect: {os.strerror(code)}", now)
        self.requests[connection.fileno()] = request
        self.order.append(request)
        self.poll.register(connection, select.EPOLLOUT)

    def end(self, request, why, now):
        request.done = True
        self.requests.pop(request.socket.fileno(), None)
        # Closing takes it out of the poll set.
        request.socket.close()
        self.count(why, request.begin, now)

    def count(self, why, begin, now):
        taken = (now - begin) * 1000
        self.longest, self.lately = max(self.longest, taken), max(self.lately, taken)
        if why:
            self.failed += 1
            self.causes[why] += 1
            if len(self.first) < 20:
                self.first.append(f"{why}, after {taken:.0f} ms, {begin - self.start:.2f} s from the beginning")

    def event(self, descriptor, now):
        request = self.requests.get(descriptor)
        if request is None:
            return
        try:
            if not request.connected:
                code = request.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    return self.end(request, f"connect: {os.strerror(code)}", now)
                # A few bytes into an empty buffer: they go whole.
                request.socket.send(REQUEST)
                request.connected = True
                self.poll.modify(descriptor, select.EPOLLIN)
                return
            while True:
                piece = request.socket.recv(4096)
                if not piece:
                    return self.end(request, cause(request.answer), now)
                request.answer += piece
        except BlockingIOError:
            return
        except OSError as error:
            where = "while the answer was waited for" if request.connected else "while the request was sent"
            self.end(request, f"{error.strerror} {where}", now)

    def expire(self, now):
        while self.order and (self.order[0].done or now - self.order[0].begin > TIMEOUT):
            request = self.order.popleft()
            if not request.done:
                what = "no answer" if request.connected else "no connection"
                self.end(request, f"{what} within {TIMEOUT} s", now)

    def say(self):
        print(json.dumps({
            "asked": self.asked, "failed": self.failed, "causes": self.causes, "reasons": self.first,
            "missed": self.missed, "held": self.held, "seconds": round(time.monotonic() - self.start, 3),
            "longest": round(self.longest, 1), "lately": round(self.lately, 1), "absence": round(self.absence * 1000, 1),
        }), flush=True)
        self.lately = 0.0

    def run(self):
        # Pauses of the collector would be missed requests; nothing here goes in circles.
        gc.disable()
        self.poll.register(sys.stdin, select.EPOLLIN)
        due, said, before, stop = time.monotonic(), time.monotonic(), time.monotonic(), False
        while not stop or self.requests:
            wait = max(0.0, min(due - time.monotonic(), 0.5)) if not stop else 0.1
            for descriptor, _ in self.poll.poll(wait):
                if descriptor == sys.stdin.fileno():
                    if not os.read(descriptor, 4096):
                        stop = True
                        self.poll.unregister(descriptor)
                else:
                    self.event(descriptor, time.monotonic())
            now = time.monotonic()
            self.absence, before = max(self.absence, now - before - wait), now
            self.expire(now)
            if not stop and now - due > ABSENT:
                missed = int((now - due) * self.rate)
                self.missed += missed
                due += missed / self.rate
            while not stop and due <= now:
                due += 1 / self.rate
                if len(self.requests) < MOST:
                    self.begin(now)
                else:
                    self.held += 1
            if now - said >= 1:
                said = now
                self.say()
        self.say()


if __name__ == "__main__":
    Load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])).run()

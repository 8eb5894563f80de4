#!/usr/bin/env python3
"""Requests at an even rate, each by a connection of its own, until the end of standard input.

usage: load.py ADDRESS PORT RATE

Prints a line of JSON a second: requests so far, those that failed, the first reasons, and the longest time in ms.
"""
import asyncio, json, sys, threading, time

TIMEOUT = 10


class Load:
    def __init__(self, address, port, rate):
        self.address, self.port, self.rate = address, port, rate
        self.asked = self.failed = 0
        self.reasons, self.longest, self.under_way = [], 0.0, set()

    async def one(self):
        begin = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = await asyncio.open_connection(self.address, self.port)
                writer.write(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"answered {answer[:40]!r}")
        except (OSError, RuntimeError, TimeoutError) as error:
            self.failed += 1
            if len(self.reasons) < 20:
                self.reasons.append(f"{type(error).__name__}: {error}")
        self.longest = max(self.longest, (time.monotonic() - begin) * 1000)

    def say(self):
        print(json.dumps({"asked": self.asked, "failed": self.failed, "reasons": self.reasons,
                          "longest": round(self.longest, 1)}), flush=True)

    async def run(self):
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end():
            sys.stdin.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=end, daemon=True).start()
        begin, said = time.monotonic(), time.monotonic()
        while not stop.is_set():
            due = int((time.monotonic() - begin) * self.rate)
            if due - self.asked > self.rate / 10:
                # We were not given the processor: what was missed is not made up for by a burst.
                begin += (due - self.asked) / self.rate
                due = self.asked + 1
            while self.asked < due:
                self.asked += 1
                task = asyncio.create_task(self.one())
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)
            if time.monotonic() - said >= 1:
                said = time.monotonic()
                self.say()
            await asyncio.sleep(0.002)
        await asyncio.gather(*self.under_way)
        self.say()


asyncio.run(Load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])).run())

#!/usr/bin/env python3
"""redis-py's Lock. It polls: with its usual pause of 100 ms a handover would take that long, so there is no pause."""

import redis

import contest

LEASE_S = 30


class Locks:
    def __init__(self, options, _rank):
        self.client = redis.Redis(port=options.port)
        self.locks = [self.client.lock(f"py-object-{number}", timeout=LEASE_S, sleep=0)
                      for number in range(options.objects)]

    def acquire(self, number, _shared):
        self.locks[number].acquire()

    def release(self, number, _shared):
        self.locks[number].release()

    def close(self):
        self.client.close()


contest.main(Locks)

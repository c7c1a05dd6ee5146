#!/usr/bin/env python3
"""ZooKeeper's recipes as kazoo has them: Lock, ReadLock and WriteLock, Semaphore, and Election."""

from kazoo.client import KazooClient

import contest


class Recipes:
    def __init__(self, options, rank):
        self.client = KazooClient(hosts=f"127.0.0.1:{options.port}", timeout=30)
        self.client.start(timeout=30)
        self.objects = [self.recipes(options, f"/{options.object}-{number}", str(rank))
                        for number in range(options.objects)]

    def recipes(self, options, path, identifier):
        """What is acquired alone, and what is acquired shared."""
        client = self.client
        if options.object == "rwlock":
            return client.WriteLock(path, identifier), client.ReadLock(path, identifier)
        if options.object == "semaphore":
            semaphore = client.Semaphore(path, identifier, max_leases=options.permits)
            return semaphore, semaphore
        # An election runs its winner's function under this lock, and is nothing else.
        lock = client.Election(path, identifier).lock if options.object == "election" else client.Lock(path, identifier)
        return lock, lock

    def acquire(self, number, shared):
        self.objects[number][shared].acquire()

    def release(self, number, shared):
        self.objects[number][shared].release()

    def close(self):
        self.client.stop()
        self.client.close()


contest.main(Recipes)

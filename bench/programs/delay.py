"""Delays every packet between two network namespaces: delay.py MILLISECONDS NAMESPACE NAMESPACE

Makes a TUN device `delay0` in each, and writes what is read from one to the other after the delay, in order. Prints
`ready`. The devices go when it ends. MTU 1500, as between hosts.
"""
import collections
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000


def device(namespace):
    """A TUN device in the namespace; entering it needs no more than its file."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(there, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", b"delay0", IFF_TUN | IFF_NO_PI))
        subprocess.run(["ip", "link", "set", "delay0", "up"], check=True)
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)
        os.close(there)
    return tun


def main():
    delay = float(sys.argv[1]) / 1000
    ends = [device(namespace) for namespace in sys.argv[2:4]]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    under_way = collections.deque()  # (when, where, packet): the delay is constant, so the order is that of arrival
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, where, packet = under_way.popleft()
            try:
                os.write(where, packet)
            except (BlockingIOError, OSError):
                pass  # as a full queue of a router: lost
        wait = under_way[0][0] - now if under_way else None
        for end in select.select(ends, [], [], wait)[0]:
            try:
                while True:
                    packet = os.read(end, 65536)
                    under_way.append((time.monotonic() + delay, other[end], packet))
            except BlockingIOError:
                pass


main()

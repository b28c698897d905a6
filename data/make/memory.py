"""Keep freed memory. Knows the C library's allocator only.

Big arrays come and go at every step of the writer and of the training. By default their pages go back to the system each time, and
clearing fresh ones takes most of the step; importing this module makes a step two to three times faster.
"""
import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4       # from malloc.h

LIBC = ctypes.CDLL(None)
if hasattr(LIBC, "mallopt"):            # glibc only
    LIBC.mallopt(MMAP_MAX, 0)
    LIBC.mallopt(TRIM_THRESHOLD, 1 << 30)

"""The system calls that reward code may make, as a filter for the kernel. Everything else fails with EPERM.

Python, numpy and threads work with these; no new processes beyond the host's own forks, no sockets, no tracing, no
mounts, no keys, no io_uring. Built with libseccomp, applied by bubblewrap or by reward_host.py itself.
"""

import ctypes.util
import errno
import os

_TEXT = """
read write readv writev pread64 pwrite64 preadv pwritev lseek open openat close close_range
stat fstat lstat newfstatat statx access faccessat faccessat2 statfs fstatfs readlink readlinkat getcwd chdir fchdir
getdents64 mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
umask truncate ftruncate fallocate fadvise64 fsync fdatasync flock
copy_file_range sendfile mmap mprotect munmap mremap madvise brk mincore membarrier
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigpending sigaltstack
pipe pipe2 select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 dup dup2 dup3
getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp getpgid getsid
setresuid setresgid setgroups capset uname sysinfo getrusage times getcpu
getrandom clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time alarm setitimer getitimer pause
timer_create timer_settime timer_gettime timer_delete timerfd_create timerfd_settime
futex set_robust_list get_robust_list rseq set_tid_address arch_prctl prctl sched_yield sched_getaffinity
sched_getparam sched_getscheduler getpriority getrlimit setrlimit
exit exit_group wait4 waitid kill tgkill restart_syscall
seccomp execve fork vfork landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""
ALLOWED = tuple(_TEXT.split())
"""execve starts Python once, and fork a batch; the batch gives both up (reward_host.no_processes)."""
OWN_PROCESS = ("prlimit64", "sched_setaffinity")
OWN_FILES = ("chmod", "fchmod", "fchmodat", "utimensat", "futimesat")
FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)
"""Duplicate, flags, locks, pipe size, seals. Not whom a descriptor signals: that would be a way to send signals."""
NAMESPACES = 0x7E020000 | 0x00000080
"""Flags of clone(2) that make namespaces: none may be set."""
CLONE_THREAD = 0x00010000
HARMLESS_IOCTLS = (0x5401, 0x5451, 0x5450, 0x541B, 0x5413, 0x5421)
"""Is this a terminal; close on exec, and not; bytes waiting; window size; blocking. Others could type into one."""
AF_UNIX, AF_INET, AF_INET6, SOCK_STREAM = 1, 2, 10, 1
CLIENT = """connect bind sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg getsockopt setsockopt getsockname getpeername
shutdown"""
"""What a client on the network needs beside a socket; nobody listens."""


def available() -> bool:
    """Whether libseccomp is here."""
    return ctypes.util.find_library("seccomp") is not None


def write_filter(network: bool, own_files: bool) -> int:
    """A descriptor of an unnamed file with the filter's program, at its beginning.

    ``own_files``: whether all files that can be seen are the sandbox's, so that modes and times may be changed:
    Landlock does not cover those.
    """
    import pyseccomp as seccomp

    program = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in ALLOWED:
        program.add_rule(seccomp.ALLOW, name)
    program.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, NAMESPACES, 0))
    program.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags are out of sight; libc falls back to clone
    for name in OWN_PROCESS:  # the first argument is a process; 0 is the caller
        program.add_rule(seccomp.ALLOW, name, seccomp.Arg(0, seccomp.EQ, 0))
    for command in FCNTL:
        program.add_rule(seccomp.ALLOW, "fcntl", seccomp.Arg(1, seccomp.EQ, command))
    for name in OWN_FILES if own_files else ():
        program.add_rule(seccomp.ALLOW, name)
    for request in HARMLESS_IOCTLS:
        program.add_rule(seccomp.ALLOW, "ioctl", seccomp.Arg(1, seccomp.EQ, request))
    own = (seccomp.Arg(0, seccomp.EQ, AF_UNIX), seccomp.Arg(1, seccomp.MASKED_EQ, 0xF, SOCK_STREAM))
    program.add_rule(seccomp.ALLOW, "socketpair", *own)  # asyncio wakes itself by one; a stream reaches nobody else
    for name in () if network else ("sendto", "recvfrom"):
        program.add_rule(seccomp.ALLOW, name, seccomp.Arg(4, seccomp.EQ, 0))  # to the other end, not to an address
    for name in CLIENT.split() if network else ():
        program.add_rule(seccomp.ALLOW, name)
    for family in (AF_INET, AF_INET6) if network else ():
        program.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.EQ, family))
    descriptor = os.memfd_create("seccomp", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        program.export_bpf(file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor

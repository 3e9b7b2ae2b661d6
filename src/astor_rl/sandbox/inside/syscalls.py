"""System call numbers by architecture: the allow-list of the sandbox.

Each entry is `name:x86_64:aarch64`, from Linux's unistd headers; `-` where an architecture does
not have the call. Everything that isn't named here is refused.
"""

from __future__ import annotations

import platform
from typing import Final

_EVERYWHERE: Final = """
read:0:63 write:1:64 close:3:57 fstat:5:80 newfstatat:262:79 stat:4:- lstat:6:- lseek:8:62
mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69
pwritev:296:70 access:21:- faccessat:269:48 faccessat2:439:439 openat:257:56 open:2:- creat:85:-
getdents64:217:61 fcntl:72:25 dup:32:23 dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59
getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174 geteuid:107:175 getgid:104:176
getegid:108:177 getgroups:115:158 getresuid:118:148 getresgid:120:150 futex:202:98
clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 nanosleep:35:101
gettimeofday:96:169 time:201:- times:100:153 exit:60:93 exit_group:231:94 getrandom:318:278
sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121 sched_getscheduler:145:120
sched_get_priority_max:146:125 sched_get_priority_min:147:126 getpriority:140:141
set_robust_list:273:99 get_robust_list:274:100 set_tid_address:218:96 rseq:334:293
membarrier:324:283 madvise:28:233 mremap:25:216 msync:26:227 mincore:27:232 sigaltstack:131:132
getcwd:79:17 readlink:89:- readlinkat:267:78 poll:7:- ppoll:271:73 select:23:- pselect6:270:72
restart_syscall:219:128 uname:63:160 sysinfo:99:179 getrusage:98:165 setitimer:38:103
getitimer:36:102 alarm:37:- pause:34:- timer_create:222:107 timer_settime:223:110
timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111 timerfd_create:283:85
timerfd_settime:286:86 timerfd_gettime:287:87 signalfd4:289:74 statx:332:291 mkdir:83:-
mkdirat:258:34 unlink:87:- unlinkat:263:35 rmdir:84:- rename:82:- renameat:264:38
renameat2:316:276 link:86:- linkat:265:37 symlink:88:- symlinkat:266:36 truncate:76:45
ftruncate:77:46 fallocate:285:47 fadvise64:221:223 fsync:74:82 fdatasync:75:83 umask:95:166
chdir:80:49 fchdir:81:50 getrlimit:97:163 getpgrp:111:- getpgid:121:155 getsid:124:156
rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 statfs:137:43 fstatfs:138:44
epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22
eventfd:284:- eventfd2:290:19 flock:73:32 chmod:90:- fchmod:91:52 fchmodat:268:53 utimensat:280:88
utime:132:- utimes:235:- copy_file_range:326:285 sendfile:40:71 arch_prctl:158:-
getcpu:309:168 wait4:61:260 waitid:247:95 close_range:436:436
"""

_SERVER_ONLY: Final = """
recvmsg:47:212 sendmsg:46:211 recvfrom:45:207 sendto:44:206 pidfd_open:434:434
pidfd_send_signal:424:424 setrlimit:160:164 prctl:157:167 seccomp:317:277
memfd_create:319:279
"""

_FILTERED: Final = """
clone:56:220 fork:57:- vfork:58:- clone3:435:435 kill:62:129 tkill:200:130 tgkill:234:131
prlimit64:302:261 ioctl:16:29
"""

_SETUP: Final = """
capset:126:91 pivot_root:155:41 mount_setattr:442:442 landlock_create_ruleset:444:444
landlock_add_rule:445:445 landlock_restrict_self:446:446
"""

ARCHITECTURES: Final = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
"""Machine name -> (AUDIT_ARCH constant of seccomp, column of the tables above)."""


def _numbers(table: str, column: int) -> dict[str, int]:
    rows = (entry.split(":") for entry in table.split())
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


MACHINE: Final = platform.machine()
SUPPORTED: Final = MACHINE in ARCHITECTURES
AUDIT_ARCH, _COLUMN = ARCHITECTURES.get(MACHINE, (0, 1))

EVERYWHERE: Final = _numbers(_EVERYWHERE, _COLUMN)
"""What ordinary Python programs need: files, memory, time, threads, waiting."""
SERVER_ONLY: Final = _numbers(_SERVER_ONLY, _COLUMN)
"""What the zygote needs on top; the second filter takes it from the job."""
FILTERED: Final = _numbers(_FILTERED, _COLUMN)
"""Allowed or refused by their arguments."""
SETUP: Final = _numbers(_SETUP, _COLUMN)
"""Called while the jail is built; refused afterwards."""

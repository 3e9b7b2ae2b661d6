"""Builds the zygote's jail, one protection after the other, and says which could not be had.

Order matters: namespaces while we still may; the new root before the uid is dropped (its sources
may be unreadable afterwards); capabilities after the mounts; the parent-death signal after the
credentials (they clear it); Landlock and seccomp last, since they forbid everything above.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from astor_rl.sandbox.inside import kernel, seccomp, syscalls
from astor_rl.sandbox.inside.protocol import WORK

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_TIMEZONES = "/usr/share/zoneinfo"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_NAMESPACES = {
    "mountns": kernel.CLONE_NEWNS,
    "pidns": kernel.CLONE_NEWPID,
    "netns": kernel.CLONE_NEWNET,
    "ipcns": kernel.CLONE_NEWIPC,
    "utsns": kernel.CLONE_NEWUTS,
}


@dataclass
class Jail:
    """What is wanted, and what was had so far.

    Attributes:
        read: directories the job may read (the standard library, site-packages if preloading).
        hide: directories below them that it shall not see, besides every folder of installed
            Python packages under the libraries that is not in `read`.
        scratch: the scratch directory where there is no private root.
        uid: the user and group id to take when started as root.
        scratch_mb: size of the private scratch directory, MiB.
        applied: protections in force.
        missing: protection -> why it could not be had.
    """

    read: Sequence[str]
    hide: Sequence[str]
    scratch: str
    uid: int
    scratch_mb: int
    applied: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    _children: int = -1

    def attempt(self, name: str, action: Callable[[], None]) -> bool:
        """Try one protection and note the result."""
        try:
            action()
        except OSError as error:
            self.missing[name] = error.strerror or str(error)
            return False
        self.applied.append(name)
        return True

    def has(self, name: str) -> bool:
        """Whether a protection is in force."""
        return name in self.applied

    @property
    def work(self) -> str:
        """The job's working directory."""
        return WORK if self.has("root") else self.scratch

    @property
    def _owner(self) -> int:
        return os.getuid() if self.has("userns") or os.geteuid() else self.uid

    # Phase 1, in the launcher: the process that forks afterwards is the first of its pid namespace.

    def leave_namespaces(self) -> None:
        """Fresh mount, pid, net, ipc and uts namespaces, in a user namespace where needed."""
        self._take_privilege()
        for name, flag in _NAMESPACES.items():
            self.attempt(name, lambda flag=flag: kernel.unshare(flag))  # type: ignore[misc]

    def _take_privilege(self) -> None:
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):
                kernel.unshare(kernel.CLONE_NEWUTS)
                return  # real privilege: no user namespace needed
        self.attempt("userns", _enter_user_namespace)

    # Phase 2, in the zygote.

    def close_in(self) -> None:
        """Everything else, to be called when all modules are imported and descriptors are open."""
        _volunteer_for_oom()
        _forget_signals()
        if self.has("mountns"):
            self.attempt("root", self._private_root)
        else:
            self.missing["root"] = "needs a mount namespace"
        if not self.has("root"):
            with contextlib.suppress(OSError):  # a root half built: the pool refuses it anyway
                os.chdir(self.scratch)
        kernel.drop_bounding_set()
        if os.geteuid() == 0 and not self.has("userns"):
            self.attempt("uid", self._drop_uid)
        self.attempt("capabilities", kernel.drop_capabilities)
        self.attempt("pdeathsig", lambda: kernel.die_with_parent(signal.SIGKILL))
        self.attempt("nodump", kernel.forbid_attach)
        if not self.has("pidns"):
            kernel.adopt_orphans()
            self._open_children()
        if self.attempt("no_new_privs", kernel.no_new_privileges):
            self.attempt("landlock", self._landlock)
            self.attempt("seccomp", _seccomp)
        else:
            self.missing["landlock"] = self.missing["seccomp"] = "needs no_new_privs"

    def _private_root(self) -> None:
        """A small tmpfs as root: read-only libraries, four devices, a scratch directory, no /proc.

        As in bubblewrap, the tmpfs goes over /tmp first and the old root is moved below it, so no
        directory has to be made on the host and sources under /tmp stay reachable.
        """
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("tmpfs", "/tmp", "tmpfs", flags, "size=4m,mode=755")
        os.mkdir("/tmp/.old")
        kernel.pivot_root("/tmp", "/tmp/.old")
        os.chdir("/")
        # What is written to a device is no change of the file: only modes and times are.
        for path in dict.fromkeys((*_LIBRARIES, _TIMEZONES, *self.read, *_DEVICES)):
            _bind(path)
        for path in sorted({*self.hide, *_installed_packages(self.read)}):
            if os.path.isdir(path):
                kernel.mount("tmpfs", path, "tmpfs", flags | kernel.MS_RDONLY, "size=4k,mode=555")
        os.mkdir(WORK)
        if not os.path.lexists("/tmp"):
            os.symlink(WORK, "/tmp")
        kernel.mount(
            "tmpfs",
            WORK,
            "tmpfs",
            flags | kernel.MS_NOEXEC,
            f"size={self.scratch_mb}m,nr_inodes=1024,mode=700,uid={self._owner}",
        )
        os.chdir(WORK)
        kernel.unmount("/.old")
        os.rmdir("/.old")
        remount = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
        kernel.mount(None, "/", None, remount | flags)

    def _drop_uid(self) -> None:
        os.seteuid(self.uid)
        # Reversible so far: an interpreter below a private home can't be read by a stranger.
        unreadable = [
            p for p in self.read if not os.access(p, os.R_OK | os.X_OK, effective_ids=True)
        ]
        os.seteuid(0)
        if unreadable:
            raise OSError(13, f"{unreadable[0]} is unreadable without root")
        if not self.has("root"):
            os.chown(self.scratch, self.uid, self.uid)
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)

    def _open_children(self) -> None:
        # Held open: the path can't be opened any more once Landlock is in force.
        with contextlib.suppress(OSError):
            self._children = os.open(
                f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC
            )

    def end_everyone(self) -> None:
        """Kill and reap whatever a job left running."""
        self._kill_children()
        while kernel.reap():
            self._kill_children()

    def _kill_children(self) -> None:
        if self.has("pidns"):
            kernel.kill_all(signal.SIGKILL)
        elif self._children >= 0:
            with contextlib.suppress(ProcessLookupError):
                for pid in os.pread(self._children, 1 << 16, 0).split():
                    os.kill(int(pid), signal.SIGKILL)

    def _landlock(self) -> None:
        kernel.restrict_paths(
            (*_LIBRARIES, _TIMEZONES, *_DEVICES, *self.read), (self.work, "/dev/null")
        )


def _installed_packages(wanted: Sequence[str]) -> list[str]:
    """The host's package folders in the jail's libraries, but for those above or in `wanted`."""
    found: set[str] = set()
    for library in _LIBRARIES:
        for kind in ("dist-packages", "site-packages"):
            found.update(map(os.path.realpath, glob.glob(f"{library}/python*/{kind}")))
    return [
        folder
        for folder in found
        if not any(f"{path}/".startswith(f"{folder}/") for path in wanted)
    ]


def _enter_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _volunteer_for_oom() -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _forget_signals() -> None:
    """Undo what is ignored or blocked since before the exec: a trainer under `nohup`, say."""
    of_python = {signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - of_python:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _bind(path: str) -> None:
    """Show a path of the old root at the same place of the new one, read-only, if it exists."""
    source = "/.old" + path
    if os.path.lexists(path):
        return
    if os.path.islink(source):  # /lib -> usr/lib
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(os.readlink(source), path)
        return
    if not os.path.exists(source):
        return
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w"):
            pass
    kernel.mount(source, path, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.make_read_only(path)


def _seccomp() -> None:
    if not syscalls.SUPPORTED:
        raise OSError(38, f"no system call table for {syscalls.MACHINE}")
    kernel.install_filter(seccomp.server_filter())

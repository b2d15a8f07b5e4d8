"""The systemd units of a hub, as `service install` writes them and deploy/ shows them.

A user's unit has what works without privileges: filters of system calls, no new privileges, private files. The system's
has also what needs a manager that is root: a file system that is read-only but for the home, no devices, no
capabilities, no network but the loopback.
"""

TAG = "# Written by `synapse service install`, which replaces it; take this line away, and it is left alone.\n"
SERVICE = "synapse.service"
SYSTEM_HOME = "/var/lib/synapse"
SYSTEM_USER = "synapse"
PORT = 8876

_SERVICE = """\
Type=notify
NotifyAccess=main
ExecStart={program} hub --home {home}
Restart=on-failure
RestartSec=1
# 71: the address is taken; 75: another hub has this home; 78: a person has to look
RestartPreventExitStatus=71 75 78
WatchdogSec=30
TimeoutStartSec=15min
TimeoutStopSec=10
KillMode=mixed
LimitNOFILE=16384
"""

_HARDENING = """\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_SYSTEM_HARDENING = """\
AmbientCapabilities=
CapabilityBoundingSet=
IPAddressAllow=localhost
IPAddressDeny=any
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
"""


def user_unit(program: str, home: str) -> str:
    """For `systemctl --user`. program, home: as the unit's file writes them (`quoted`)."""
    service = _SERVICE.format(program=program, home=home)
    return (
        f"{TAG}[Unit]\nDescription=Synapse hub\nStartLimitIntervalSec=0\n\n"
        f"[Service]\n{service}{_HARDENING}\n[Install]\nWantedBy=default.target\n"
    )


def system_unit(program: str, home: str = SYSTEM_HOME, user: str = SYSTEM_USER) -> str:
    """For the system's manager; the hub runs as `user`."""
    is_usual = home == SYSTEM_HOME
    place = (
        "StateDirectory=synapse\nStateDirectoryMode=0700\n"
        if is_usual
        else f"ReadWritePaths={home.replace('$$', '$')}\n"
    )
    service = _SERVICE.format(program=program, home=home)
    return (
        f"{TAG}[Unit]\nDescription=Synapse hub\nAfter=network.target\nStartLimitIntervalSec=0\n\n"
        f"[Service]\n{service}User={user}\n{place}{_HARDENING}{_SYSTEM_HARDENING}\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def socket_unit(home: str, *, port: int = PORT, user: str = "") -> str:
    """The doors of the unit of the same name, open also while it restarts. user: whose they are, for a system's."""
    owner = f"SocketUser={user}\n" if user else ""
    return (
        f"{TAG}[Unit]\nDescription=Synapse hub: its doors, open also while it restarts\n\n"
        f"[Socket]\nListenStream=127.0.0.1:{port}\nListenStream={home}/hub.sock\n{owner}"
        "SocketMode=0600\nDirectoryMode=0700\nRemoveOnStop=yes\n\n[Install]\nWantedBy=sockets.target\n"
    )


def quoted(word: str) -> str:
    """A word of a command line as a unit's file writes it. Raises ValueError for what no unit can say."""
    if not word.isprintable():
        raise ValueError(f"{word!a} cannot stand in a unit")
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return text if text == word and not set(word) & set(" '") else f'"{text}"'


_USER = {"program": "%h/.local/bin/synapse", "home": "%h/.local/state/synapse"}


def deployed() -> dict[str, str]:
    """The units in deploy/: their names and texts. `%h` is the home directory of whoever the manager works for."""
    return {
        "synapse.service": user_unit(**_USER),
        "synapse.socket": socket_unit(_USER["home"]),
        "synapse-system.service": system_unit("/usr/local/bin/synapse"),
        "synapse-system.socket": socket_unit(SYSTEM_HOME, user=SYSTEM_USER),
    }

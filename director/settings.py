"""What one member of a proxy group is configured to be; pure values.

Promise: frozen, complete, and checked by ``config`` before anybody sees them. Source: design §8; the reference's settings of
Proxy HA (port redirects, director priority, management IP, virtual IPs, virtual router ID, VRRP interface, LBID).
"""

from __future__ import annotations

from dataclasses import dataclass

#: the reference's, for the virtual router and for the load balancing group
DEFAULT_VRID, DEFAULT_LBID = 51, 51
#: of one that scans only; of the owner of the virtual addresses
SCANNING, OWNER = 0, 255


@dataclass(frozen=True)
class Vrrp:
    """How the directors talk to each other. Times in seconds."""

    interface: str = "eth0"
    vrid: int = DEFAULT_VRID
    version: int = 2
    advert: float = 1.0
    preempt: bool = True
    preempt_delay: float = 0.0
    #: of version 2; on the wire in clear
    password: str = ""
    #: the virtual addresses answer with 00:00:5e:00:01:VRID (a macvlan) instead of the interface's own MAC
    virtual_mac: bool = False
    #: what the checksum of version 3 on IPv4 covers besides the message (``packets.Covers``)
    checksum: str = "pseudo_header"
    #: the priority falls by so much while checks of port redirects fail here; 0: it doesn't
    port_weight: int = 0
    realtime: bool = True

    def __repr__(self) -> str:
        return f"Vrrp({self.interface}, vrid {self.vrid}, version {self.version}, {self.advert:g} s)"  # no password


@dataclass(frozen=True)
class Track:
    """While ``interface`` has no link, the priority is lower by ``weight``; 0: this node is no master."""

    interface: str
    weight: int = 0


@dataclass(frozen=True)
class VirtualIp:
    address: str
    prefix: int
    interface: str
    comment: str = ""
    #: False: held with the others, but not named in adverts (keepalived's virtual_ipaddress_excluded); of either family then
    advertised: bool = True

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True)
class Check:
    """How a port of this node is tried. ``kind``: connect, http, command, none. Times in seconds."""

    kind: str = "connect"
    path: str = "/"
    command: str = ""
    interval: float = 1.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 2


@dataclass(frozen=True)
class Redirect:
    """``protocol`` ``ports`` → ``to``."""

    protocol: str
    ports: tuple[int, ...]
    to: int
    transport: str = "tcp"
    comment: str = ""
    check: Check = Check()
    #: "50000-50999": of the clients' further connections (FTP, passive), which follow the first to its node; "": none
    data_ports: str = ""

    def __str__(self) -> str:
        return f"{self.protocol} {','.join(map(str, self.ports))} → {self.to}"


@dataclass(frozen=True)
class Balance:
    """How clients are spread over the members of one load balancing group."""

    lbid: int = DEFAULT_LBID
    #: where the LBID is from, in words
    lbid_from: str = "the default"
    key_file: str = "/etc/director/lb.key"
    buckets: int = 1024
    #: "address" or "address_port"
    by: str = "address"
    capacity: float = 1.0
    #: what the director takes of its own share, 0.0 to 1.0
    own_share: float = 1.0
    #: seconds between two heartbeats
    heartbeat: float = 0.25
    #: "ports": a failing port is taken away; "whole_node": the node is
    mode: str = "ports"


@dataclass(frozen=True)
class Config:
    priority: int
    management_ip: str
    vrrp: Vrrp
    vips: tuple[VirtualIp, ...]
    peers: tuple[str, ...] = ()
    tracks: tuple[Track, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    balance: Balance = Balance()
    enabled: bool = True

    @property
    def families(self) -> tuple[int, ...]:
        """Of the virtual routers that there are: each advertises addresses of its own family."""
        return tuple(sorted({vip.family for vip in self.vips if vip.advertised}))

    def of_router(self, family: int) -> tuple[VirtualIp, ...]:
        """What the router of the family holds: its own addresses, and those of a family that has no router."""
        families = self.families
        return tuple(vip for vip in self.vips if (vip.family if vip.family in families else min(families)) == family)

"""The director's rules as nftables text, in whose sets and maps ``plane.elements`` goes. Pure.

Promise: ``rules`` names only the three tables that are the director's own, replaces them in one transaction, and says the same
on every member but for its own MACs: who becomes the director has it loaded already. Source: facts/vrrp-and-data-plane.md ("The
ruleset that worked", pitfalls 1 to 6).

What happens to a packet for VIP:port of a redirect:

    netdev, ingress   from another member's MAC: balanced already, passes
                      else bucket = jhash(client) → its owner; another one: out again on the same interface, to that one's MAC,
                      the client's address untouched; the answer goes from the owner straight to the client. Its own: passes
                      UDP: a flow stays with its member while it lasts and that member serves, wherever its bucket moves: the
                      director remembers it (a packet tells no flow's beginning, so nobody can be asked about earlier ones)
    ip/ip6, node      a connection of this node, or a new one: to the proxy's port (redirect)
                      neither (ct invalid): to whoever had the bucket before ("second chance"); nobody had: TCP reset, once
                      it is known who has which bucket, and who lives
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from director.plane import IP, IP6, KNOWN, NETDEV, TABLES, Content, Layout, Segment, Service, commands, elements

GUARD = "inet director_guard"
#: UDP: flows that the director remembers of a redirect; seconds of silence after which it forgets one, as conntrack does
FLOWS, FLOW_ENDS = 65536, 120
_FLOW_HASHES = 2**32 - 1
#: MACs of other members on one interface, at most; the kernel finds one faster in a set that says so
_PEERS = 1024
#: Both MACs of a frame, to and from, written in one go; and the one it came from. Any number of 32 bits is of a bucket's type.
_WAY, _FROM, _NUMBER = "@ll,0,96", "@ll,48,48", "meta length"
#: of nearly all packets the first thing that is asked, and the last
_KNOWN_CONNECTION = "ct state != invalid accept"
#: what an ICMP error quotes of the answer that it is about: the destination, which is the client (bits from its own header)
_QUOTED = {4: "@th,192,32", 6: "@th,256,128"}


def rules(layout: Layout, content: Content) -> str:
    """Everything, in place of what there is."""
    lines = [f"add table {table}\ndelete table {table}" for table in TABLES]
    lines += [f"table {NETDEV} {{", *_netdev(layout), "}"]
    for family, table in ((4, IP), (6, IP6)):
        lines += [f"table {table} {{", *_node(layout, family), "}"]
    lines += commands(elements(layout, content), "add")
    return "\n".join(lines) + "\n"


def guard(layout: Layout) -> str:
    """A table that belongs to this process alone, so that ``nft flush ruleset`` leaves it: while the others are gone, nothing
    of the redirected ports reaches or leaves this node untranslated (either end would answer with a reset), and conntrack
    goes on.
    """
    came = [f"  {_to(seg, service, family)} ct state != untracked drop" for seg, service, family in _every(layout)]
    left = []
    for segment, service, family in _every(layout):
        own = layout.own[segment.interface].addresses.get(family) if segment.interface in layout.own else ""
        if own:
            source = f"{'ip' if family == 4 else 'ip6'} saddr {own}"
            left.append(f"  {source} {service.redirect.transport} sport {service.redirect.to} ct status dnat drop")
    lines = [f"add table {GUARD} {{ flags owner; }}", f"delete table {GUARD}", f"table {GUARD} {{", " flags owner;"]
    lines += [" chain came {", "  type filter hook input priority 300; policy accept;", *came, " }"]
    lines += [" chain left {", "  type filter hook postrouting priority 300; policy accept;", *dict.fromkeys(left), " }", "}"]
    return "\n".join(lines) + "\n"


def _every(layout: Layout) -> list[tuple[Segment, Service, int]]:
    return [(segment, service, family) for segment in layout.segments for family in segment.vips for service in layout.services]


def removal(tables: Sequence[str] = TABLES) -> str:
    return "".join(f"add table {table}\ndelete table {table}\n" for table in tables)


def _netdev(layout: Layout) -> Iterator[str]:
    for segment in layout.segments:
        if segment.interface not in layout.own:
            continue  # the interface is away; loaded again when it is back
        i, own, services = segment.index, layout.own[segment.interface].mac, layout.services
        yield f" set peers_{i} {{ typeof {_FROM}; size {_PEERS}; }}"
        for service in services:
            yield from _maps(layout, segment, service)
        if any(service.redirect.transport == "udp" for service in services):
            yield f" chain out_{i} {{"
            yield f"  ether daddr {own} meta pkttype set host meta mark set 0 accept"
            yield f'  ether saddr set {own} meta mark set 0 fwd to "{segment.interface}"'
            yield " }"
        for service in services:
            for family in segment.vips:
                yield from _spread(layout, segment, service, family)
        for family in segment.vips if services else ():
            yield from _balanced(layout, segment, family)
        yield f" chain ingress_{i} {{"
        yield f'  type filter hook ingress device "{segment.interface}" priority -10; policy accept;'
        for family in segment.vips if services else ():
            yield f"  {_daddr(segment, family)} goto vip{family}_{i}"
        yield " }"


def _balanced(layout: Layout, segment: Segment, family: int) -> Iterator[str]:
    """What is for the VIPs of one family."""
    i = segment.index
    yield from _quoting(layout, segment, family)
    yield f" chain vip{family}_{i} {{"
    yield f"  {_FROM} @peers_{i} accept"
    for service in layout.services:
        yield f"  {service.redirect.transport} dport {service.ports} goto spread{family}_{i}_{service.index}"
    what = "icmp type destination-unreachable" if family == 4 else "icmpv6 type packet-too-big"
    yield f"  {what} goto quoted{family}_{i}"
    yield " }"


def _maps(layout: Layout, segment: Segment, service: Service) -> Iterator[str]:
    name = f"{segment.index}_{service.index}"
    if service.redirect.transport == "tcp":
        yield f" map owner_{name} {{ typeof {_NUMBER} : {_WAY}; size {layout.buckets}; }}"
        return
    yield f" map owner_{name} {{ type mark : mark; size {layout.buckets}; }}"
    yield f" map members_{name} {{ type mark : ether_addr; }}"
    yield f" map flows_{name} {{ type mark : mark; flags dynamic,timeout; timeout {FLOW_ENDS}s; size {FLOWS}; }}"


def _spread(layout: Layout, segment: Segment, service: Service, family: int) -> Iterator[str]:
    i, name = segment.index, f"{segment.index}_{service.index}"
    if service.redirect.transport == "tcp":
        yield f" chain spread{family}_{name} {{"
        yield f"  {_to_other(segment, service, _bucket(layout, service, family))}"
        yield " }"
        return
    # two flows with one hash share a member, no more
    flow = f"jhash {'ip' if family == 4 else 'ip6'} saddr . udp sport mod {_FLOW_HASHES} seed {layout.lbid:#x}"
    yield f" chain keep{family}_{name} {{"
    yield f"  update @flows_{name} {{ {flow} : meta mark }}"  # if there are too many, it isn't remembered
    yield f"  goto out_{i}"
    yield " }"
    yield f" chain spread{family}_{name} {{"
    yield f"  meta mark set {flow}"
    yield f"  meta mark set meta mark map @flows_{name} ether daddr set meta mark map @members_{name} goto keep{family}_{name}"
    yield f"  meta mark set {_bucket(layout, service, family)}"
    yield f"  {_to_member(segment, service)} goto keep{family}_{name}"
    yield "  meta mark set 0"
    yield " }"


def _to_other(segment: Segment, service: Service, bucket: str) -> str:
    """A packet of a TCP redirect, to the owner of its bucket; this node's own pass as they came (they aren't in the map)."""
    return f'{_WAY} set {bucket} map @owner_{segment.index}_{service.index} fwd to "{segment.interface}"'


def _to_member(segment: Segment, service: Service) -> str:
    """To the owner of the bucket in the mark, of a UDP redirect."""
    name = f"{segment.index}_{service.index}"
    return f"meta mark set meta mark map @owner_{name} ether daddr set meta mark map @members_{name}"


def _quoting(layout: Layout, segment: Segment, family: int) -> Iterator[str]:
    """ICMP errors (a path's MTU) concern the node whose answer they quote; by the client's address, of the first redirect."""
    first, bucket = layout.services[0], f"jhash {_QUOTED[family]} mod {layout.buckets} seed {layout.lbid:#x}"
    yield f" chain quoted{family}_{segment.index} {{"
    if first.redirect.transport == "tcp":
        yield f"  {_to_other(segment, first, bucket)}"
    else:
        yield f"  meta mark set {bucket}"
        yield f"  {_to_member(segment, first)} goto out_{segment.index}"
        yield "  meta mark set 0"
    yield " }"


def _node(layout: Layout, family: int) -> Iterator[str]:
    hop = "ip ttl" if family == 4 else "ip6 hoplimit"
    here = [segment for segment in layout.segments if family in segment.vips and segment.interface in layout.own]
    pairs = [(segment, service) for segment in here for service in layout.services]
    tcp = [(segment, service) for segment, service in pairs if service.redirect.transport == "tcp"]
    for segment, service in tcp:
        name = f"{segment.index}_{service.index}"
        address = "ipv4_addr" if family == 4 else "ipv6_addr"
        yield f" map before_{name} {{ type mark : {address}; size {layout.buckets}; }}"
        yield f" chain second_{name} {{"
        yield f"  {hop} < 2 return"  # each hop takes one: nothing goes round for ever
        yield f"  meta mark set {_bucket(layout, service, family)}"
        yield f'  dup to meta mark map @before_{name} device "{segment.interface}" drop'
        yield "  meta mark set 0"
        yield " }"
    yield " chain second {"
    yield "  type filter hook prerouting priority -150; policy accept;"
    yield f"  {_KNOWN_CONNECTION}"
    for segment, service in tcp:
        yield f"  {_to(segment, service, family)} tcp flags & syn == 0 jump second_{segment.index}_{service.index}"
    yield " }"
    yield f" set {KNOWN} {{ type mark; }}"
    yield " chain orphan {"
    yield "  type filter hook prerouting priority -90; policy accept;"
    yield f"  {_KNOWN_CONNECTION}"
    for segment, service in tcp:
        unknown = f"{_to(segment, service, family)} tcp flags & (syn | rst) == 0"
        yield f"  {unknown} meta mark set {service.index} meta mark @{KNOWN} reject with tcp reset"
        yield f"  {unknown} drop"  # this node was just started; it will be repeated
    yield " }"
    for chain, hook in (("redirect_in", "prerouting"), ("redirect_local", "output")):
        yield f" chain {chain} {{"
        yield f"  type nat hook {hook} priority -100; policy accept;"
        for segment, service in pairs:
            yield from (f"  {line}" for line in _redirects(layout, segment, service, family))
        yield " }"


def _redirects(layout: Layout, segment: Segment, service: Service, family: int) -> Iterator[str]:
    """To this node's own address: ``redirect`` alone may choose the VIP itself (IPv6: the latest address), which moves on."""
    redirect = service.redirect
    own = layout.own[segment.interface].addresses.get(family, "") if segment.interface in layout.own else ""
    shown = f"[{own}]" if family == 6 else own
    ports = f"{{ {', '.join(map(str, redirect.ports))} }}"
    target = f"dnat to {shown}:{redirect.to}" if own else f"redirect to :{redirect.to}"
    yield f"{_daddr(segment, family)} {redirect.transport} dport {ports} {target}"
    for data in service.data_ports:
        target = f"dnat to {own}" if own else "redirect"
        yield f"{_daddr(segment, family)} {redirect.transport} dport {{ {data} }} {target}"


def _to(segment: Segment, service: Service, family: int) -> str:
    return f"{_daddr(segment, family)} {service.redirect.transport} dport {service.ports}"


def _daddr(segment: Segment, family: int) -> str:
    return f"{'ip' if family == 4 else 'ip6'} daddr {{ {', '.join(segment.vips[family])} }}"


def _bucket(layout: Layout, service: Service, family: int) -> str:
    """With a seed: else each rule draws one."""
    client = "ip saddr" if family == 4 else "ip6 saddr"
    if layout.by_port(service):
        client += f" . {service.redirect.transport} sport"
    return f"jhash {client} mod {layout.buckets} seed {layout.lbid:#x}"

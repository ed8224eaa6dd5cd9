"""haresources under arbitrary input: nothing but ConfigError ever comes out, and what is accepted says the same again."""

from __future__ import annotations

import contextlib

from hypothesis import example, given
from hypothesis import strategies as st

from heartbeat.haresources import parse, virtual_address
from runtime.errors import ConfigError

addresses = st.ip_addresses().map(str)
words = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["IPaddr", "IPaddr2", "IPv6addr", "web", "::", ":", "/", "24", "eth0", "eth0:1", "\\", "#", "%"])
             | addresses, max_size=8).map("".join),
)  # fmt: skip


@given(st.lists(words, max_size=6).map(" ".join) | st.text())
@example("a IPv6addr::")
@example("a fe80::1%eth0")
@example("a 1.2.3.4/٣")
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(ConfigError):
        for group in parse(text):
            for resource in group.resources:
                virtual_address(resource)


@given(addresses, st.none() | st.integers(0, 32), st.sampled_from(["", "/eth0", "/eth0:1", "/bond0.17"]))
def test_every_address_is_understood_in_every_form(address: str, prefix: int | None, device: str) -> None:
    tail = ("" if prefix is None else f"/{prefix}") + device
    scripts = ["IPv6addr::"] if ":" in address else ["IPaddr::", "IPaddr2::"]
    for form in ("", *scripts):
        (group,) = parse(f"node {form}{address}{tail}")
        found = virtual_address(group.resources[0])
        assert found is not None
        named = device.strip("/").split(":")[0]
        assert (found.address, found.prefix, found.device) == (address, -1 if prefix is None else prefix, named)

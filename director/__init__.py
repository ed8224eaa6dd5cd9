"""The proxy tier's director: who holds the proxy's virtual addresses, and which scanning node serves which client.

Source: design §8; facts/vrrp-and-data-plane.md.
"""

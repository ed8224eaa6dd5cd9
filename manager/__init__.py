"""Which roles run on this device: the Manager's core (design §7; Trustwave SWG 11.8 §2)."""

"""Who gets which configuration, and when: the notifier (design §7; Trustwave SWG 11.8 §2.3)."""

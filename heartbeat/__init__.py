"""Who is active: liveness of the peer and of the ping node, the virtual IP, the epoch (design §4, §5).

Pure: ``model``, ``timing``, ``membership``, ``election``, ``frames``, ``wire``. Everything else is the edge that feeds them.
"""

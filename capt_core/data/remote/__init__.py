"""Images that are not files of this machine: in object stores, behind http(s), in tar shards."""

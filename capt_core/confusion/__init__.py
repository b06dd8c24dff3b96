"""The Confusion Bank, the semantic confusion miner and the sample confusion miner."""
